"""No secret and no path of this machine leaves with what is saved or pushed."""

import os

import pytest
import torch
from transformers.utils.hub import hf_api

from common.errors import InputError
from common.models.loading import load_model, save_model
from model_cards import job as card_job
from model_cards.job import CardArguments
from modeling_altclip.checksums_altclip import CHECKSUMS, find_damages
from training.arguments import ContrastiveArguments, DiffusionArguments, TeacherLearningArguments
from training.jobs import stage1, stage2
from training.parallel.pretraining import TextPretrainingArguments

from .newest_checkpoint import newest_undamaged

TOKEN = "hf_a_token_that_nobody_may_see"


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
        **pushed_run(tmp_path) | given,
    )
    stage1.main(arguments)


def push_stage2(miniature, tmp_path, **given):
    """Train stage 2 in the same way, from a model in `altclip`."""
    arguments = ContrastiveArguments(
        model_name_or_path=str(tmp_path / "altclip"),
        dataset=str(miniature / "dataset"),
        **pushed_run(tmp_path) | given,
    )
    stage2.main(arguments)


def pushed_run(tmp_path) -> dict:
    """Return the arguments of a short run that pushes."""
    return {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 2,
        "save_steps": 1,
        "save_strategy": "steps",
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "disable_tqdm": True,
        "push_to_hub": True,
        "hub_token": TOKEN,
        # Or a push is left out where the one before still runs.
        "hub_always_push": True,
    }


MODEL = {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json", CHECKSUMS}


@pytest.mark.parametrize("push", [push_stage1, push_stage2])
@pytest.mark.parametrize("hub_strategy", ["end", "every_save"])
def test_a_push_holds_no_path_and_no_token(miniature, altclip_folder, hub, tmp_path, push, hub_strategy):
    """Every file of each push is searched. What holds paths is there when it begins, and stays at home."""
    out = tmp_path / "out"
    renamed = out / "damaged-checkpoint-9"
    events = out / "runs/now"
    local = ("bad_rows.jsonl", "bad_rows.0.jsonl", renamed / "optimizer.pt", events / "events.out.tfevents.1")
    for name in local:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"{tmp_path}\n")
    push(miniature, tmp_path, hub_strategy=hub_strategy)

    written = ("run.json", "training_args.bin", "trainer_state.json", "checkpoint-2/training_args.bin")
    assert all((out / name).is_file() for name in written)
    assert files_with(TOKEN, out) == []
    assert hub.tokens == {TOKEN}
    weights = [content for name, content in hub.uploaded if name == "model.safetensors"]
    assert len(weights) >= (1 if hub_strategy == "end" else 3)
    for name, content in hub.uploaded:
        for secret in (tmp_path, miniature, TOKEN):
            assert str(secret).encode() not in content, name
    assert "upload_folder" not in vars(hf_api())

    # The copy of another machine is complete, and its checksums agree.
    copy = hub.folder / "me/out"
    assert set(os.listdir(copy)) >= MODEL
    assert find_damages(copy) == []
    assert load_model(str(copy))


def test_a_pushed_checkpoint_holds_no_path_and_can_be_resumed_from(miniature, hub, tmp_path):
    push_stage1(miniature, tmp_path, hub_strategy="all_checkpoints")
    for name, content in hub.uploaded:
        assert str(tmp_path).encode() not in content, name
    copy = hub.folder / "me/out"
    assert {"optimizer.pt", "trainer_state.json"} <= set(os.listdir(copy / "checkpoint-2"))
    assert not {CHECKSUMS, "unfinished.tmp"} & set(os.listdir(copy / "checkpoint-2"))
    assert newest_undamaged(copy) == copy / "checkpoint-2"


def test_checksums_of_an_earlier_push_do_not_stay(miniature, hub, tmp_path):
    """While a training pushes its checkpoints, the repository has none, or those of its own files."""
    earlier = hub.folder / "me/out" / CHECKSUMS
    earlier.parent.mkdir(parents=True)
    earlier.write_text("{}")
    push_stage1(miniature, tmp_path, hub_strategy="every_save")
    assert hub.deleted == [CHECKSUMS]
    assert find_damages(earlier.parent) == []


def test_the_folder_of_a_card_holds_no_path(miniature, altclip_folder, tmp_path):
    """`hf upload` sends all of it."""
    arguments = CardArguments(
        title="Model",
        repo="me/model",
        stages=[str(altclip_folder)],
        output_dir=str(tmp_path / "finished"),
        dataset=str(miniature / "dataset"),
        example_split="validation",
    )
    card_job.main(arguments)
    assert (tmp_path / "finished/example.png").is_file()
    assert files_with(str(tmp_path), tmp_path / "finished") == []
    assert files_with(str(miniature), tmp_path / "finished") == []


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
    "kind,given,message",
    [
        (
            DiffusionArguments,
            {"model_name_or_path": "a", "diffusion_name_or_path": "b"},
            "push_to_hub is True, which .* lacks: leave it out",
        ),
        # Its checkpoints are no text encoders.
        (
            TextPretrainingArguments,
            {"text_encoder_name_or_path": "a"},
            "hub_strategy is every_save, .* set hub_strategy to end",
        ),
    ],
)
def test_a_job_that_cannot_push_says_so(kind, given, message, tmp_path):
    """Refuse it before a repository is made, which would stay empty."""
    with pytest.raises(InputError, match=message):
        kind(dataset="a", output_dir=str(tmp_path), use_cpu=True, push_to_hub=True, **given)
