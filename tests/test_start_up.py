"""A wrong flag is refused, and help printed, before torch is imported; both say what the slow way says."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from altclip import command
from common import flags
from common.command_line import read_command_line
from common.errors import InputError
from common.flags import FLAGS_FILE, tabled_parser
from common.launching import argument_types, flag_parser
from common.recipe import DataclassParser

from .conftest import ROOT
from .write_flags import all_jobs, as_text, launched_by_scripts, make_table

JOBS = all_jobs()
# Their types are of transformers: the table does not judge their values.
OF_TRANSFORMERS = ("debug", "liger_kernel_config", "parallelism_config")
RECIPES = {
    "unknown.yaml": "# a comment\nnothing_of_this_name: 1\n",
    "list.yaml": "output_dir: [a, b]\n",
    "null.yaml": "languages: [en, ~]\n",
    "text.yaml": "max_steps: many\nseed: many\n",
    "broken.yaml": "a: [b\n",
    "no_mapping.yaml": "- a\n",
}


@pytest.fixture(scope="module", autouse=True)
def same_version():
    """Skip where the table holds for another version of transformers: then there is no quick way."""
    if flags.version("transformers") != flags._read_table()["transformers"]:
        pytest.skip("the table of flags is of another version of transformers")


def slow_parser(job):
    return DataclassParser(*argument_types(import_module(job).main))


def test_the_table_is_that_of_the_dataclasses():
    assert FLAGS_FILE.read_text("utf-8") == as_text(make_table()), "run `make flags`"


@pytest.mark.parametrize("job", JOBS)
def test_help_is_that_of_the_dataclasses(job):
    assert tabled_parser(job).format_help() == slow_parser(job).format_help()


def said(parser, words):
    """Return what is said of a command line, or None if it is not refused."""
    try:
        read_command_line(parser, words)
    except InputError as error:
        return str(error)


def wrong_lines(parser):
    """Yield command lines that are refused, of all kinds, and some that are not."""
    yield []
    yield ["word"]
    yield ["nowhere.yaml"]
    yield from ([recipe] for recipe in RECIPES)
    yield ["--no_such_flag"]
    yield ["--seed", "1", "word"]
    yield ["--output-dir=x", "-rate", "2"]
    for action in parser._actions:
        flag = action.option_strings[0]
        if action.dest not in OF_TRANSFORMERS and flag != "-h":
            yield [flag]  # without its value
            yield from ([flag, value] for value in ("wrong", "nan", "1.5", "9" * 30, "--seed"))
            yield [f"{flag}s", "1"]
            yield [flag[:-1]]  # flags are not abbreviated
            yield [flag.replace("_", "-"), "x", "y"]


@pytest.mark.parametrize("job", JOBS)
def test_the_same_is_said_of_a_wrong_command_line(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in RECIPES.items():
        (tmp_path / name).write_text(text, "utf-8")
    slow, quick = slow_parser(job), tabled_parser(job)
    refused = 0
    for words in wrong_lines(slow):
        expected = said(slow, words)
        assert said(quick, words) == expected, words
        refused += expected is not None
    assert refused > 15


def test_what_only_transformers_can_judge_is_left_to_the_dataclasses():
    job = "training.jobs.stage2"
    needed = ["--dataset", "x", "--model_name_or_path", "x"]
    for name in OF_TRANSFORMERS:
        words = [*needed, f"--{name}", "wrong"]
        assert said(tabled_parser(job), words) is None
        assert f"argument --{name}: invalid" in said(slow_parser(job), words)


def test_a_value_is_read_as_the_dataclasses_read_it(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    text = "output_dir: x\ndataset: y\nmodel_name_or_path: z\n"
    text += "learning_rate: 1e-3\nbf16: no\nlanguages: ['no', en]\n"
    recipe.write_text(text, "utf-8")
    words = [str(recipe), "--max-steps", "3", "--no_dataloader_pin_memory", "--streaming"]
    job = "training.jobs.stage2"
    read = read_command_line(tabled_parser(job), words)
    assert read == read_command_line(slow_parser(job), words)
    expected = {"learning_rate": 0.001, "max_steps": 3, "bf16": False, "dataloader_pin_memory": False}
    assert {name: read[name] for name in expected} == expected


def test_without_a_table_the_dataclasses_are_asked(monkeypatch):
    job = "benchmarks.jobs.embed"
    assert isinstance(flag_parser(job), type(tabled_parser(job)))
    assert not isinstance(flag_parser(job), DataclassParser)
    assert tabled_parser("training.jobs.of_nobody") is None
    monkeypatch.setattr(flags, "version", lambda package: "5.99")
    assert tabled_parser(job) is None
    assert isinstance(flag_parser(job), DataclassParser)


# Each command is asked for help and given a wrong flag, as a process of its own would be.
ANSWERS = """
import contextlib, io, json, runpy, sys
from altclip.command import main

def start(words):
    if words[0] == "altclip":
        return main(words[1:])
    sys.argv = words[1:] if words[0] == "-m" else words
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")

for words in json.loads(sys.argv[1]):
    for flag, status in (("--help", 0), ("--no_such_flag", 2 if words[0] == "altclip" else 1)):
        output, error = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
                start([*words, flag])
            code = None
        except SystemExit as end:
            code = end.code or 0
            if isinstance(code, str):  # Python prints it, and ends with status 1
                print(code, file=error)
                code = 1
        output.seek(0)
        line = error.getvalue()
        assert code == status, (words, code, line)
        if status:
            assert line.count("\\n") == 1 and "error: unknown flag --no_such_flag: see --help" in line, line
        else:
            assert "usage: " in output.read(), words
        loaded = {"torch", "transformers", "datasets", "numpy"} & set(sys.modules)
        assert not loaded, (words, loaded)
"""


def commands():
    """Return the words that start each job of `altclip`, each script and each package."""
    found = [["altclip", *name.split()] for name in command.JOBS]
    found.append(["altclip", "train", "docs"])  # a folder of recipes, if it has any
    for script in launched_by_scripts():
        module = script.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
        is_by_path = Path(script).name.startswith("run_")
        found.append([script] if is_by_path else ["-m", module])
    return found


def test_nothing_heavy_is_imported_for_help_and_for_a_wrong_flag():
    found = commands()
    assert len(found) > 50
    words = [sys.executable, "-c", ANSWERS, json.dumps(found)]
    process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_completion_imports_nothing_heavy():
    pytest.importorskip("shtab")
    code = "import sys; from altclip.command import main; main(['--print-completion', 'bash'])"
    code += "; assert not {'torch', 'transformers'} & set(sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "--cache_image_embeds" in process.stdout
