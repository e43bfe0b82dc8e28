"""Small models and a small miniature, made on the spot; nothing is downloaded."""

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
import pytest
import torch
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from modeling_altclip import AltCLIPConfig, AltCLIPModel, AltCLIPProcessor

from . import FOLDER, IS_FIRST, TEMPORARY
from .processes import run_script

collect_ignore = ["upstream"]  # run by `make test-upstream`, beside transformers' own tests
ROOT = Path(__file__).parent.parent
# What libraries have in the temporary folder, whatever is done: torchrun leaves empty folders of its logs, and multiprocessing
# removes its own only when Python ends.
# torch.compile keeps one of its caches in the temporary folder whatever TORCHINDUCTOR_CACHE_DIR says.
OF_LIBRARIES = ("torchelastic_*", "pymp-*", "torchinductor_*")
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
    "image_size": 32,
    "patch_size": 8,
}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Fail a run that leaves something in the temporary folder: a user's would stay there for ever."""
    if IS_FIRST and left_behind():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if left_behind():
        terminalreporter.section("left in the temporary folder", red=True)
        terminalreporter.line("\n".join(left_behind()))


def pytest_configure():
    if IS_FIRST:  # at the end, when multiprocessing (-100) has removed its own
        Finalize(None, shutil.rmtree, args=(FOLDER,), kwargs={"ignore_errors": True}, exitpriority=-200)


def pytest_collection_finish():
    """Set apart what imports have made. Each training searches all objects for garbage, which took longer than a small one trains."""
    gc.collect()
    gc.freeze()


def left_behind() -> list[str]:
    """Names of what tests, and the scripts that they ran, have left."""
    paths = Path(TEMPORARY).iterdir()
    return sorted(path.name for path in paths if not any(path.match(pattern) for pattern in OF_LIBRARIES))


@pytest.fixture
def config():
    return AltCLIPConfig(text_config=dict(TEXT), vision_config=dict(VISION), projection_dim=20)


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return AltCLIPModel(config).eval()


@pytest.fixture
def batch():
    """Six texts of ragged lengths, padded, and six images."""
    torch.manual_seed(1)
    lengths = torch.tensor([3, 9, 5, 12, 2, 7])
    attention_mask = (torch.arange(12)[None] < lengths[:, None]).long()
    input_ids = torch.where(attention_mask.bool(), torch.randint(4, 119, (6, 12)), 1)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "pixel_values": torch.randn(6, 3, 32, 32),
    }


@pytest.fixture
def towers(tmp_path):
    """Folders of an untrained CLIP and of an untrained XLM-R, of different widths."""
    torch.manual_seed(2)
    text = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 90,
        "eos_token_id": 1,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=dict(VISION), projection_dim=20)).save_pretrained(
        tmp_path / "clip"
    )
    encoder = {name: value for name, value in TEXT.items() if name != "project_dim"}
    XLMRobertaModel(XLMRobertaConfig(**encoder, layer_norm_eps=1e-5)).save_pretrained(
        tmp_path / "text_encoder"
    )
    return tmp_path / "clip", tmp_path / "text_encoder"


@pytest.fixture(scope="session")
def run():
    """Run `python ...` from the root of the repository; give the finished process. Ours are forked, once for each of `processes`;
    code, and a script that wants another folder or other variables, get a new interpreter.
    """

    def run(
        *command: str, cwd: Path = ROOT, processes: int = 1, **environment: str
    ) -> subprocess.CompletedProcess:
        words = [str(part) for part in command[1:]]
        given = {"OMP_NUM_THREADS": "2"} | os.environ | {"PYTHONPATH": str(ROOT)} | environment
        if words[0] != "-c" and cwd == ROOT and environment.keys() <= {"OMP_NUM_THREADS"}:
            return run_script(words, given, processes)
        return subprocess.run(
            [sys.executable, *words], cwd=cwd, env=given, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture(scope="session")
def run_under_fsdp2(tmp_path_factory):
    """Run `SCRIPT ...` in two processes under FSDP2, with all that fsdp2.yaml says; give the finished process.

    accelerate's launcher is asked once what it tells scripts of that file. The processes themselves are forked, as those of `run`.
    """
    told = tmp_path_factory.mktemp("fsdp2") / "told.json"
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        ROOT / "training/recipes/accelerate/fsdp2.yaml",
    ]
    launcher += ["--num_processes", "2", "--main_process_port", "0"]
    subprocess.run([*launcher, ROOT / "tests/tell_environment.py", told], check=True)
    of_accelerate = {
        name: value
        for name, value in json.loads(told.read_text("utf-8")).items()
        if name.startswith(("ACCELERATE_", "FSDP_"))
    }

    def run_under_fsdp2(*command: str) -> subprocess.CompletedProcess:
        words = [str(part) for part in (ROOT / "tests/fsdp_on_cpu.py", *command)]
        return run_script(
            words, os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | of_accelerate, processes=2
        )

    return run_under_fsdp2


@pytest.fixture(scope="session")
def miniature(tmp_path_factory, run):
    """A folder with the miniature's dataset (600 training scenes) and untrained towers."""
    folder = tmp_path_factory.mktemp("miniature")
    process = run("python", "-m", "training.miniature", "--output_dir", folder, "--train_size", "600")
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture
def processor(miniature):
    """The miniature's multilingual tokenizer beside an image processor for 32 pixels."""
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return AltCLIPProcessor(image_processor, AutoTokenizer.from_pretrained(miniature / "text_encoder"))


@pytest.fixture
def folder(miniature, processor, tmp_path):
    """A saved AltCLIP, model and processor, of the miniature's untrained towers."""
    torch.manual_seed(0)
    AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder")).save_pretrained(
        tmp_path / "altclip"
    )
    processor.save_pretrained(tmp_path / "altclip")
    return tmp_path / "altclip"


@pytest.fixture
def beginnings(miniature, tmp_path):
    """What each stage begins with, as flags; and the folder whose weights it goes on from."""
    torch.manual_seed(0)
    start, encoder = tmp_path / "start", miniature / "text_encoder"
    AltCLIPModel.from_teacher(str(miniature / "clip"), str(encoder), dropout=0.0).save_pretrained(start)
    image_processor, tokenizer = (
        AutoProcessor.from_pretrained(miniature / "clip").image_processor,
        AutoTokenizer.from_pretrained(encoder),
    )
    AltCLIPProcessor(image_processor, tokenizer).save_pretrained(start)
    return {
        "stage0": ["--model_name_or_path", miniature / "clip"],
        "stage1": ["--teacher_name_or_path", miniature / "clip", "--text_encoder_name_or_path", encoder],
        "stage2": ["--model_name_or_path", start],
    }
