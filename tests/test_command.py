"""The command `altclip`: it calls what the scripts call, and ends as a shell expects."""

import ast
import json
import re
import shutil
import subprocess
import sys
from importlib import import_module

import altclip.common.errors
import altclip.training.losses
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

import training.losses
from altclip.command import GROUPS, JOBS, main
from benchmarks.jobs.embed import EmbedArguments
from common.commands import _SCRIPTS, command_for, runnable, this_command
from common.errors import InputError
from modeling_altclip import embed_images, embed_texts

from .conftest import ROOT

# A model that version 0.1.0 saved; its embeddings have 8 values.
TINY = str(ROOT / "tests/fixtures/v0.1.0/model")
PATHS = {name: ROOT / script for name, (_, script) in _SCRIPTS.items()} | {
    "card": ROOT / "model_cards/__main__.py"
}


@pytest.fixture
def altclip_main(monkeypatch):
    """Return the command's `main`; it puts the name of the job into `sys.argv`, which is restored."""
    monkeypatch.setattr("sys.argv", ["altclip"])
    return main


def ended(capsys, call, words):
    """Run a command that ends early; return its status and what it wrote to standard error."""
    with pytest.raises(SystemExit) as end:
        call(words)
    printed = capsys.readouterr().err
    if isinstance(end.value.code, str):  # Python prints it and ends with status 1
        return 1, end.value.code
    return end.value.code, printed


@pytest.mark.parametrize("name", PATHS)
def test_a_job_calls_what_its_script_calls(name):
    job = JOBS[name]
    tree = ast.parse(PATHS[name].read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func.id == "launch"]
    (call,) = calls
    assert [argument.value for argument in call.args] == [job.module]
    # A script passes one_process=True or nothing: ["one_process"] * True is ["one_process"].
    assert [keyword.arg for keyword in call.keywords] == ["one_process"] * job.one_process


def test_every_job_says_in_sentences_what_it_does():
    for text in [*GROUPS.values(), *(job.summary for job in JOBS.values())]:
        assert re.fullmatch(r"[A-Z].*\.", text)
    for field in EmbedArguments.__dataclass_fields__.values():
        assert field.metadata["help"].endswith(".")
    for name, job in JOBS.items():
        assert job.recipes is None or (ROOT / job.recipes).is_dir()
        assert len(name.split()) == 1 or name.split()[0] in GROUPS


ANSWERS = """
import sys
from altclip.command import main
for words in (["--help"], ["train", "--help"], ["--version"]):
    try:
        main(words)
    except SystemExit as end:
        assert not end.code
assert not {"torch", "transformers", "modeling_altclip"} & set(sys.modules)
"""


def test_help_and_version_need_no_library():
    """They answer at once, without torch."""
    process = subprocess.run([sys.executable, "-c", ANSWERS], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("usage: altclip ") == 2  # of the two helps
    assert process.stdout.splitlines()[-1].startswith("altclip ")


@pytest.mark.parametrize(
    "words,message",
    [
        ([], "name a job, one of train stage0"),
        (["tain"], "invalid choice: 'tain'"),
        (["train"], "the following arguments are required: JOB"),
        (["train", "stage4"], "'stage4' is no job: choose from stage0, stage1, stage2, text-pre"),
        (["train", "nowhere", "--dry_run"], "or give a folder of recipes that is there"),
        (["train", "no/recipe.yaml"], "name the job before a recipe, one of stage0, stage1,"),
        (["train", "docs", "--step", "stage1"], "unknown flag --step: did you mean --steps?"),
        (["train", "docs", "--num_processes", "0"], "num_processes is 0: give 1 or more"),
        (["train", "docs", "--accelerate_config", "no"], "accelerate_config 'no' is no file"),
        (["embed", TINY, "--image", "x"], "unknown flag --image: did you mean --images?"),
        (["embed", TINY], "missing --output_dir"),
        (["embed", TINY, "--texts", "x", "--output_dir", "x", "--dtype", "half"], "dtype is 'half': choose"),
        (["embed", TINY, "--output_dir", "x"], "give one of them, --images FOLDER or --texts FILE"),
        (["evaluate", "retrieval", "nowhere.yaml"], "recipe 'nowhere.yaml' does not exist"),
        (["report", "--output_dir", "x", "--rows", "nothing"], "rows"),
    ],
)
def test_a_wrong_command_line_ends_with_status_2(altclip_main, capsys, words, message):
    status, printed = ended(capsys, altclip_main, words)
    assert status == 2
    assert message in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    "words,message",
    [
        (["embed", "no/such/model", "--images", ".", "--output_dir", "new"], "'no/such/model' does not"),
        (["embed", TINY, "--images", "no/images", "--output_dir", "new"], "the file does not exist"),
        (["embed", TINY, "--texts", "no.txt", "--output_dir", "new"], "texts 'no.txt' is no file"),
        (["report", "--results", "nowhere", "--output_dir", "new"], "evaluate first, with altclip evaluate"),
        (["train", "."], "folder '.' has no recipe: give a folder of recipes, each named after its job"),
        (["train", "no/folder"], "folder 'no/folder' does not exist"),
    ],
)
def test_bad_input_is_one_line_and_status_1(altclip_main, capsys, tmp_path, monkeypatch, words, message):
    # Without matplotlib the report would end with another error.
    if words[0] == "report":
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    status, printed = ended(capsys, altclip_main, words)
    assert status == 1
    assert printed.startswith(f"altclip {words[0]}: error: ")
    assert message in printed
    assert "\n" not in printed.strip()
    assert not (tmp_path / "new").exists()


def test_the_statuses_of_a_process(run_python):
    assert run_python("python", "-m", "altclip", "embed", TINY).returncode == 2
    # docs/figures has images, so that the model is the only thing wrong.
    words = ["embed", "no/such/model", "--images", "docs/figures", "--output_dir", "new"]
    process = run_python("python", "-m", "altclip", *words)
    assert process.returncode == 1
    assert "altclip embed: error: " in process.stderr
    assert "Traceback" not in process.stderr


def test_images_are_embedded_in_the_order_of_their_names(altclip_main, capsys, tmp_path):
    pictures = tmp_path / "pictures"
    (pictures / "sub").mkdir(parents=True)
    for name, colour in (("b.png", "red"), ("a.png", "blue"), ("sub/c.jpg", "green")):
        Image.new("RGB", (40, 30), colour).save(pictures / name)
    for name in ("broken.png", "worse.png"):
        (pictures / name).write_bytes(b"no image")
    output = tmp_path / "new/embedded"
    altclip_main(["embed", TINY, "--images", str(pictures), "--output_dir", str(output)])

    printed = capsys.readouterr().out.splitlines()
    assert printed[-2] == "Skipped 2 of 5, 2 x cannot identify image file: see skipped.jsonl."
    assert printed[-1].startswith(f"Saved 3 embeddings of 8 dimensions to {output}; ")
    assert f"Next: altclip embed {TINY} --texts TEXTS.txt --output_dir OTHER" in printed[-1]
    embeddings = np.load(output / "embeddings.npy")
    assert embeddings.dtype == np.float32
    items = [json.loads(line) for line in (output / "items.jsonl").read_text("utf-8").splitlines()]
    assert items == [{"image": "a.png"}, {"image": "b.png"}, {"image": "sub/c.jpg"}]
    skipped = [json.loads(line) for line in (output / "skipped.jsonl").read_text("utf-8").splitlines()]
    assert [row["image"] for row in skipped] == ["broken.png", "worse.png"]

    model, processor = AutoModel.from_pretrained(TINY), AutoProcessor.from_pretrained(TINY)
    paths = [str(pictures / item["image"]) for item in items]
    expected = embed_images(model, processor, paths, convert_to_numpy=True)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_half_precision_moves_embeddings_little(altclip_main, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("a dog\na cat\n", "utf-8")
    embedded = {}
    for dtype in ("float32", "bfloat16"):
        altclip_main(
            ["embed", TINY, "--texts", str(texts), "--dtype", dtype, "--output_dir", str(tmp_path / dtype)]
        )
        embedded[dtype] = np.load(tmp_path / dtype / "embeddings.npy")
        assert embedded[dtype].dtype == np.float32
    cosines = (embedded["float32"] * embedded["bfloat16"]).sum(axis=1)
    assert (cosines > 0.99).all()
    assert (embedded["float32"] != embedded["bfloat16"]).any()


def test_lines_are_embedded_and_blank_ones_skipped(altclip_main, capsys, tmp_path):
    texts = tmp_path / "texts.txt"
    # A byte order mark, line ends of Windows, a blank line, and U+2028, at which `str.splitlines` would cut.
    texts.write_bytes("\ufeffa dog\r\n\r\ncat\u2028 and dog\na dog".encode())
    output = tmp_path / "embedded"
    altclip_main(["embed", TINY, "--texts", str(texts), "--output_dir", str(output)])
    assert "Skipped 1 of 4, 1 x the line is blank" in capsys.readouterr().out
    lines = (output / "items.jsonl").read_text("utf-8").removesuffix("\n").split("\n")
    items = [json.loads(line)["text"] for line in lines]
    assert items == ["a dog", "cat\u2028 and dog", "a dog"]  # lines end with a line feed alone
    skipped = json.loads((output / "skipped.jsonl").read_text("utf-8"))
    assert skipped == {"line": 2, "reason": "the line is blank"}

    model, processor = AutoModel.from_pretrained(TINY), AutoProcessor.from_pretrained(TINY)
    expected = embed_texts(model, processor, items)
    torch.testing.assert_close(torch.from_numpy(np.load(output / "embeddings.npy")), expected)

    before = (output / "embeddings.npy").read_bytes()
    status, printed = ended(
        capsys, altclip_main, ["embed", TINY, "--texts", str(texts), "--output_dir", str(output)]
    )
    assert status == 1
    assert "is there already: give a new folder" in printed
    assert (output / "embeddings.npy").read_bytes() == before


def test_a_recipe_may_stand_first(altclip_main, capsys, tmp_path):
    recipe = tmp_path / "embed.yaml"
    (tmp_path / "texts.txt").write_text("a dog\n", "utf-8")
    # JSON is YAML too.
    recipe.write_text(
        json.dumps({"model_name_or_path": TINY, "texts": str(tmp_path / "texts.txt"), "output_dir": "unused"})
    )
    altclip_main(["embed", str(recipe), "--output_dir", str(tmp_path / "embedded")])
    assert np.load(tmp_path / "embedded/embeddings.npy").shape == (1, 8)


def test_commands_are_spelled_as_the_user_started(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/clone/benchmarks/run_retrieval.py", "--models", "my model"])
    assert command_for("report") == "python benchmarks/run_report.py"
    assert command_for("embed") == "altclip embed"
    assert this_command() == "run_retrieval.py --models 'my model'"
    assert runnable(this_command()) == "python benchmarks/run_retrieval.py --models 'my model'"
    monkeypatch.setattr("sys.argv", ["altclip evaluate retrieval", "--models", "my model"])
    assert command_for("report") == "altclip report"
    assert runnable(this_command()) == "altclip evaluate retrieval --models 'my model'"


def test_completion_is_a_script_of_the_shell(altclip_main, capsys, tmp_path):
    pytest.importorskip("shtab")
    altclip_main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    for word in ("stage2", "zero-shot", "--cache_image_embeds", "--images"):
        assert word in script
    if shutil.which("bash") is None:
        return
    (tmp_path / "completion.bash").write_text(script, "utf-8")
    # bash sets COMP_WORDS to the words so far and COMP_CWORD to the one to complete, and reads COMPREPLY.
    ask = "source completion.bash; COMP_WORDS=({}); COMP_CWORD={}; _shtab_altclip; echo ${{COMPREPLY[@]}}"
    for words, place, expected in (("altclip trai", 1, "train"), ("altclip embed --te", 2, "--texts")):
        command = ["bash", "-c", ask.format(words, place)]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert process.stdout.split() == [expected], process.stderr


def test_in_a_clone_the_names_of_the_wheel_are_the_same_modules():
    assert altclip.training.losses is training.losses
    assert training.losses.__spec__.name == "training.losses"
    assert altclip.common.errors.InputError is InputError
    with pytest.raises(ImportError, match="training.nothing"):
        import_module("altclip.training.nothing")


def test_a_folder_that_hides_the_clones_is_named(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training/__init__.py").touch()
    # With `-c` the current folder comes first on sys.path, and its `training` before that of the clone.
    code = f"import sys; sys.path.append({str(ROOT)!r}); import altclip.training"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": ""}
    )
    assert process.returncode == 1
    assert f"{tmp_path / 'training'}" in process.stderr
    assert "hides it" in process.stderr
