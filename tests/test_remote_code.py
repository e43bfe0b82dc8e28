"""No job runs the code of a model's folder: transformers' question whether to do so is never asked.

transformers asks on the terminal where `trust_remote_code` is not given, and `yes | run_retrieval.py` would
answer. Here every question is answered by yes, and the code of each folder writes a file.
"""

import ast
import json
import shutil
import subprocess
import sys

import pytest
from transformers import AutoModelForSeq2SeqLM  # noqa: F401  (loaded before `input` is replaced)

from common.errors import InputError
from common.models import kinds
from common.models.loading import check_model, load_model
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPModel
from training.parallel.pretraining import load_for_masking
from training.translation.translating import load_translator

from .conftest import ROOT

CODE = """
from pathlib import Path

Path({canary!r}).write_text("the code ran")


class Evil:
    def __getattr__(self, name):
        return self

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        return cls()

    @classmethod
    def register_for_auto_class(cls, *args):
        pass
"""
AUTO = ["AutoConfig", "AutoModel", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM", "AutoProcessor"]
AUTO += ["AutoImageProcessor", "AutoTokenizer"]
AUTO_MAP = dict.fromkeys(AUTO, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """Answer every question by yes; see that no code ran."""
    monkeypatch.setattr("builtins.input", lambda *_: "yes")
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()


@pytest.fixture
def folder(tmp_path, canary):
    """Return the folder of a model with code of its own everywhere, and of no type that transformers has."""
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(CODE.format(canary=str(canary)))
    config = {"model_type": "evil", "auto_map": AUTO_MAP, "architectures": ["Evil"], "modelBase": str(folder)}
    config |= {"transformerDimensions": 8, "numDims": 8}
    for name in ("config", "tokenizer_config", "processor_config", "preprocessor_config"):
        (folder / f"{name}.json").write_text(json.dumps(config))
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    return str(folder)


LOADERS = {
    "load_model": load_model,
    "check_model": check_model,
    "check_kind": lambda folder: kinds.check_kind("model", folder, kinds.TWO_TOWERS),
    "load_tokenizer": lambda folder: kinds.load_tokenizer("model", folder),
    "masked": load_for_masking,
    "translator": lambda folder: load_translator(folder, "float32"),
    "towers": lambda folder: AltCLIPDualEncoderModel.from_towers(folder, folder),
    "teacher": lambda folder: AltCLIPModel.from_teacher(folder, folder),
    "sentence_transformers": lambda folder: load_model(f"sentence_transformers:{folder}"),
    "m_clip": lambda folder: load_model(f"m_clip:{folder}+{folder}"),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_a_folder_with_code_is_refused(folder, loader):
    with pytest.raises(ValueError):
        LOADERS[loader](folder)


@pytest.mark.parametrize("file", ["processor_config", "tokenizer_config", "config"])
def test_code_in_one_file_of_a_good_folder_is_not_run(altclip_folder, tmp_path, folder, file):
    """Refuse it, or load our own classes in its place."""
    good = tmp_path / "good"
    shutil.copytree(altclip_folder, good)
    shutil.copy(f"{folder}/evil.py", good)
    path = good / f"{file}.json"
    settings = json.loads(path.read_text("utf-8")) | {"auto_map": AUTO_MAP}
    for name in ("processor_class", "tokenizer_class", "image_processor_type"):
        if name in settings:
            settings[name] = "Evil"
    path.write_text(json.dumps(settings))
    try:
        load_model(str(good))
    except InputError as error:
        assert "\n" not in str(error)


def test_a_pipe_of_yes_does_not_answer(folder, canary, tmp_path):
    """Run the script that did, which exits in one line."""
    command = [sys.executable, str(ROOT / "benchmarks/run_retrieval.py"), "--models", folder]
    command += ["--tasks", "miniature-pairs", "--output_dir", str(tmp_path / "results")]
    run = subprocess.run(command, input="yes\n" * 100, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "Do you wish to run the custom code" not in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    assert "trust_remote_code" in run.stderr.splitlines()[-1]


def _loads_by_name(call: ast.Call) -> bool:
    """Check for `AutoX.from_pretrained(...)`, `AutoX.from_config(...)` and `SentenceTransformer(...)`."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "SentenceTransformer"
    if not isinstance(function, ast.Attribute) or function.attr not in ("from_pretrained", "from_config"):
        return False
    return isinstance(function.value, ast.Name) and function.value.id.startswith("Auto")


def test_every_loader_by_name_says_that_it_trusts_no_code():
    silent = []
    n_loaders = 0
    for room in ("benchmarks", "common", "deploy", "model_cards", "modeling_altclip", "training"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and _loads_by_name(node):
                    n_loaders += 1
                    if "trust_remote_code" not in [keyword.arg for keyword in node.keywords]:
                        silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert n_loaders > 15
    assert silent == []
