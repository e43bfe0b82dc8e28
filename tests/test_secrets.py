"""No secret and no path of this machine leaves with what is saved or pushed."""

import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from common.errors import InputError
from common.models.loading import load_model, save_model
from training.arguments import ContrastiveArguments, DiffusionArguments, TeacherLearningArguments
from training.jobs import stage1
from training.parallel.pretraining import TextPretrainingArguments

TOKEN = "hf_a_token_that_nobody_may_see"


class Hub:
    """The Hub's client, which keeps a copy of what is pushed."""

    def __init__(self, folder):
        self.folder = folder
        self.created = []
        self.pushed = []
        self.tokens = set()

    def create_repo(self, name, token, **_):
        self.created.append(name)
        self.tokens.add(token)
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, repo_id, folder_path, token, ignore_patterns=(), **_):
        self.tokens.add(token)
        ignored = shutil.ignore_patterns(*ignore_patterns)
        shutil.copytree(folder_path, self.folder, ignore=ignored, dirs_exist_ok=True)
        self.pushed.append(sorted(path.name for path in self.folder.iterdir()))
        return SimpleNamespace(done=lambda: True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    return hub


def files_with(text, folder) -> list[str]:
    """Return the names of the files in a folder that hold a text."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                if text.encode() in file.read():
                    found.append(name)
    return found


def push_stage1(miniature, tmp_path, **given):
    """Train stage 1 for two steps with a checkpoint after each, and push it from `out`."""
    (tmp_path / "texts.tsv").write_text("en\tzh\n" + "".join(f"dog {n}\t狗{n}\n" for n in range(8)), "utf-8")
    arguments = TeacherLearningArguments(
        teacher_name_or_path=str(miniature / "clip"),
        text_encoder_name_or_path=str(miniature / "text_encoder"),
        dataset=str(tmp_path / "texts.tsv"),
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=4,
        use_cpu=True,
        disable_tqdm=True,
        push_to_hub=True,
        hub_token=TOKEN,
        **given,
    )
    stage1.main(arguments)


def test_stage_1_pushes_its_folder_and_keeps_the_token_to_itself(miniature, hub, tmp_path):
    push_stage1(miniature, tmp_path)
    assert hub.created == ["out"]
    assert hub.tokens == {TOKEN}
    pushed = os.listdir(hub.folder)
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= set(pushed)
    assert (tmp_path / "out/checkpoint-2/training_args.bin").is_file()
    assert files_with(TOKEN, tmp_path / "out") == []
    for name in ("config.json", "processor_config.json", "tokenizer_config.json", "README.md"):
        assert str(tmp_path) not in (hub.folder / name).read_text("utf-8")
        assert str(miniature) not in (hub.folder / name).read_text("utf-8")


@pytest.mark.parametrize("hub_strategy", ["end", "every_save", "checkpoint"])
def test_files_that_hold_paths_are_not_pushed(miniature, hub, tmp_path, hub_strategy):
    """They are there when the model is pushed, and when each checkpoint is."""
    out = tmp_path / "out"
    out.mkdir()
    for name in ("bad_rows.jsonl", "bad_rows.0.jsonl"):
        (out / name).write_text(f"{tmp_path}\n")
    push_stage1(miniature, tmp_path, hub_strategy=hub_strategy)
    n_pushes = {"end": 1, "every_save": 3, "checkpoint": 5}[hub_strategy]
    assert len(hub.pushed) >= n_pushes
    assert {"run.json", "bad_rows.jsonl", "bad_rows.0.jsonl"} <= set(os.listdir(out))
    for pushed in hub.pushed:
        assert "model.safetensors" in pushed
        assert not [name for name in pushed if name.startswith(("run.", "bad_rows", "checkpoint-"))]
    assert "upload_folder" not in vars(hub)


def test_the_token_is_not_pickled(tmp_path):
    arguments = ContrastiveArguments(
        dataset="a", model_name_or_path="b", output_dir=str(tmp_path), use_cpu=True, hub_token=TOKEN
    )
    torch.save(arguments, tmp_path / "training_args.bin")
    assert files_with(TOKEN, tmp_path) == []
    saved = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert saved.hub_token is None
    assert saved.learning_rate == arguments.learning_rate
    assert arguments.hub_token == TOKEN


def test_a_saved_model_keeps_no_path_of_this_machine(altclip_folder, tmp_path):
    model, processor = load_model(str(altclip_folder))
    save_model(model, processor, tmp_path / "saved")
    assert files_with(str(altclip_folder), tmp_path / "saved") == []


@pytest.mark.parametrize(
    "kind,given",
    [
        (DiffusionArguments, {"model_name_or_path": "a", "diffusion_name_or_path": "b"}),
        (TextPretrainingArguments, {"text_encoder_name_or_path": "a"}),
    ],
)
def test_a_job_that_cannot_push_says_so(kind, given, tmp_path):
    """Refuse it before a repository is made, which would stay empty."""
    with pytest.raises(InputError, match="push_to_hub is True, which .* lacks: leave it out"):
        kind(dataset="a", output_dir=str(tmp_path), use_cpu=True, push_to_hub=True, **given)
