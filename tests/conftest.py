"""Fixtures: small untrained models and a small miniature, built on the spot. Nothing is downloaded."""

import gc
import json
import os
import shutil
import subprocess
import sys
from multiprocessing.util import Finalize
from pathlib import Path

import modeling_altclip  # noqa: F401  (its settings have to stand before torch is loaded)

# isort: split
import huggingface_hub
import pytest
import torch
from datasets import load_dataset
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.utils.hub import hf_api

from common.models.loading import load_model
from modeling_altclip import AltCLIPConfig, AltCLIPModel, AltCLIPProcessor
from training.arguments import TeacherLearningArguments
from training.data.examples import CaptionExamples, Collator
from training.data.tower_cache import teacher_embeddings
from training.freezing import freeze_all_but
from training.trainers import TeacherLearningTrainer

from . import FOLDER, IS_FIRST, TEMPORARY
from .fake_hub import PushHub
from .hub_server import TOKEN, HubServer
from .processes import TIMEOUT, run_script

collect_ignore = ["upstream"]  # run by `make test-upstream`, beside transformers' own tests
ROOT = Path(__file__).parent.parent
# Libraries keep these in the temporary folder, and no setting prevents it: torchrun leaves empty folders of
# its logs, multiprocessing removes its own only when Python ends, and torch.compile keeps one of its caches
# there whatever TORCHINDUCTOR_CACHE_DIR says.
OF_LIBRARIES = ["torchelastic_*", "pymp-*", "torchinductor_*"]
# The widths of text tower, head, image tower and projection all differ: 32, 24, 48 and 20.
TEXT = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "type_vocab_size": 1,
    "project_dim": 24,
}
VISION = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,  # 4 x 4 patches of 8 pixels
    "patch_size": 8,
}


# A training with one checkpoint in its midst, and one at its end.
SHORT = {"max_steps": 2, "save_steps": 1, "save_strategy": "steps", "per_device_train_batch_size": 8}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Fail a run that leaves files in the temporary folder: a user's would stay there for ever."""
    if IS_FIRST and left_behind():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    """Print the names of what was left behind."""
    if left_behind():
        terminalreporter.section("left in the temporary folder", red=True)
        terminalreporter.line("\n".join(left_behind()))


def pytest_configure():
    """Remove the folder of this run when Python ends."""
    if IS_FIRST:  # after multiprocessing (priority -100) has removed its own folders
        Finalize(None, shutil.rmtree, args=(FOLDER,), kwargs={"ignore_errors": True}, exitpriority=-200)


def pytest_collection_finish():
    """Exclude the objects made by imports from garbage collection.

    Each training run collects garbage, and a search of all these objects took longer than a small training
    run.
    """
    gc.collect()
    gc.freeze()


def left_behind() -> list[str]:
    """Return the names of files that tests, and the scripts they ran, have left in the temporary folder."""
    return sorted(path.name for path in Path(TEMPORARY).iterdir() if not is_of_library(path))


def is_of_library(path: Path) -> bool:
    return any(path.match(pattern) for pattern in OF_LIBRARIES)


def measured(folder: Path) -> dict[str, dict]:
    """Read all that a run found, by file name, except for the command of the run and the digest with it."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        result = json.loads(path.read_text())
        del result["command"], result["checksums"]["result"]
        found[path.name] = result
    return found


@pytest.fixture(autouse=True)
def denormals():
    """Undo what a stage that runs in this process sets: hypothesis draws denormal numbers."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def config():
    return AltCLIPConfig(text_config=dict(TEXT), vision_config=dict(VISION), projection_dim=20)


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return AltCLIPModel(config).eval()


@pytest.fixture
def ragged_batch():
    """Return six texts of ragged lengths, padded to 12 tokens, and six images."""
    torch.manual_seed(1)
    lengths = torch.tensor([3, 9, 5, 12, 2, 7])
    attention_mask = (torch.arange(12)[None] < lengths[:, None]).long()
    # Token ids below 4 are special tokens of XLM-R; 1 is its padding.
    words = torch.randint(4, 119, (6, 12))
    input_ids = torch.where(attention_mask.bool(), words, 1)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "pixel_values": torch.randn(6, 3, 32, 32),
    }


@pytest.fixture
def tower_folders(tmp_path):
    """Save an untrained CLIP and an untrained XLM-R of different widths; return the two folders."""
    torch.manual_seed(2)
    text = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 90,
        "eos_token_id": 1,
    }
    clip_config = CLIPConfig(text_config=text, vision_config=dict(VISION), projection_dim=20)
    CLIPModel(clip_config).save_pretrained(tmp_path / "clip")

    encoder = {name: value for name, value in TEXT.items() if name != "project_dim"}
    encoder_config = XLMRobertaConfig(**encoder, layer_norm_eps=1e-5)
    XLMRobertaModel(encoder_config).save_pretrained(tmp_path / "text_encoder")

    return tmp_path / "clip", tmp_path / "text_encoder"


@pytest.fixture(scope="session")
def run_python():
    """Return a function that runs `python ...` from the root of the repository.

    The function returns the finished process. Scripts of the repository are forked, once for each of
    `processes`. Code, and a script that needs another folder or other variables, get a new interpreter.
    """

    def run(
        *command: str, cwd: Path = ROOT, processes: int = 1, **environment: str
    ) -> subprocess.CompletedProcess:
        words = [str(part) for part in command[1:]]
        given = {"OMP_NUM_THREADS": "2"} | os.environ | {"PYTHONPATH": str(ROOT)} | environment

        can_be_forked = words[0] != "-c" and cwd == ROOT and environment.keys() <= {"OMP_NUM_THREADS"}
        if can_be_forked:
            return run_script(words, given, processes)

        return subprocess.run(
            [sys.executable, *words], cwd=cwd, env=given, capture_output=True, text=True, timeout=TIMEOUT
        )

    return run


@pytest.fixture(scope="session")
def run_under_fsdp2(tmp_path_factory):
    """Return a function that runs `SCRIPT ...` in two processes under FSDP2, as fsdp2.yaml configures it.

    accelerate's launcher turns that file into environment variables. They are recorded once; the processes
    themselves are forked, as those of `run_python`.
    """
    told = tmp_path_factory.mktemp("fsdp2") / "told.json"
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--config_file", ROOT / "training/recipes/accelerate/fsdp2.yaml"]
    launcher += ["--num_processes", "2", "--main_process_port", "0"]
    subprocess.run([*launcher, ROOT / "tests/tell_environment.py", told], check=True)
    variables = {
        name: value
        for name, value in json.loads(told.read_text("utf-8")).items()
        if name.startswith(("ACCELERATE_", "FSDP_"))
    }
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run_under_fsdp2(*command: str) -> subprocess.CompletedProcess:
        words = [str(part) for part in (ROOT / "tests/fsdp_on_cpu.py", *command)]
        return run_script(words, os.environ | variables, processes=2)

    return run_under_fsdp2


@pytest.fixture(scope="session")
def miniature(tmp_path_factory, run_python):
    """Build the miniature's dataset (600 training scenes) and untrained towers; return their folder."""
    folder = tmp_path_factory.mktemp("miniature")
    process = run_python("python", "-m", "training.miniature", "--output_dir", folder, "--train_size", "600")
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture
def processor(miniature):
    """Return the miniature's multilingual tokenizer with an image processor for 32 pixels."""
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return AltCLIPProcessor(image_processor, AutoTokenizer.from_pretrained(miniature / "text_encoder"))


@pytest.fixture
def altclip_folder(miniature, processor, tmp_path):
    """Save an AltCLIP of the miniature's untrained towers, model and processor; return the folder."""
    torch.manual_seed(0)
    model = AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"))
    model.save_pretrained(tmp_path / "altclip")
    processor.save_pretrained(tmp_path / "altclip")
    return tmp_path / "altclip"


@pytest.fixture
def start_flags(miniature, tmp_path):
    """Return the command-line flags that give each stage its starting weights."""
    torch.manual_seed(0)
    clip = miniature / "clip"
    encoder = miniature / "text_encoder"
    start = tmp_path / "start"  # stage 2 starts here, without the training that stage 1 would give it
    AltCLIPModel.from_teacher(str(clip), str(encoder), dropout=0.0).save_pretrained(start)

    image_processor = AutoProcessor.from_pretrained(clip).image_processor
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    AltCLIPProcessor(image_processor, tokenizer).save_pretrained(start)

    return {
        "stage0": ["--model_name_or_path", clip],
        "stage1": ["--teacher_name_or_path", clip, "--text_encoder_name_or_path", encoder],
        "stage2": ["--model_name_or_path", start],
    }


@pytest.fixture
def train_by_one_and_two(miniature, run_python, tmp_path):
    """Return a function that trains stage 1 for three steps in one process, and in two on half batches.

    The function takes flags and returns the weights of both, by name. Steps are of plain SGD in float32.
    """

    def train(*flags: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        command = ["training/run_stage1.py", "training/recipes/miniature/stage1.yaml", *flags]
        command += ["--dataset", miniature / "dataset", "--languages", "en", "zh", "--max_steps", "3"]
        command += ["--optim", "sgd", "--learning_rate", "0.1", "--bf16", "false", "--eval_strategy", "no"]
        for n_processes, batch_size in ((1, 16), (2, 8)):
            given = ["--output_dir", tmp_path / str(n_processes), "--per_device_train_batch_size", batch_size]
            process = run_python("python", *command, *given, processes=n_processes, OMP_NUM_THREADS="1")
            assert process.returncode == 0, process.stderr[-4000:]
        return load_file(tmp_path / "1/model.safetensors"), load_file(tmp_path / "2/model.safetensors")

    return train


@pytest.fixture
def stage1(miniature, tmp_path):
    """Return a function that makes a trainer of stage 1 and its arguments, `SHORT` but for those given."""
    scenes = load_dataset(str(miniature / "dataset"), split="train").select(range(16))
    teacher, teacher_processor = load_model(str(miniature / "clip"))
    targets = teacher_embeddings(
        scenes, teacher, teacher_processor.tokenizer, cache_dir=str(tmp_path / "cache")
    )
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")

    def stage1(**given):
        model = AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"))
        freeze_all_but(model, ["text_model"])
        arguments = TeacherLearningArguments(
            output_dir=str(tmp_path / "out"),
            teacher_name_or_path="",
            text_encoder_name_or_path="",
            dataset="",
            use_cpu=True,
            disable_tqdm=True,
            **SHORT | given,
        )
        trainer = TeacherLearningTrainer(
            model=model,
            args=arguments,
            train_dataset=CaptionExamples(scenes, ["en", "zh"], "target", inputs=targets),
            data_collator=Collator(tokenizer, 77),
            processing_class=AltCLIPProcessor(teacher_processor.image_processor, tokenizer),
        )
        return trainer, arguments

    return stage1


@pytest.fixture
def hub_server(tmp_path, monkeypatch):
    """Start a Hub with the real one's API, which this process's client uses as the user `me`."""
    server = HubServer()
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for client in (hf_api(), huggingface_hub.hf_api.api):
        monkeypatch.setattr(client, "endpoint", server.url)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Start a hub that can be pushed to; `hub.folder / "me/out"` has the files of the repository `out`."""
    server = PushHub(tmp_path / "hub")
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hf_api(), "endpoint", server.url)
    yield server
    server.shutdown()
    server.server_close()
