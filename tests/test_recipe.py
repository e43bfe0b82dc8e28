"""Recipes and flags, and what is said of bad ones."""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.errors import InputError
from common.files.rows import load_rows
from common.languages import check_languages
from common.launching import launch
from common.models.loading import load_model
from common.models.revisions import revision_of
from common.recipe import parse
from training.arguments import (
    ContrastiveArguments,
    DiffusionArguments,
    TeacherArguments,
    TeacherLearningArguments,
)

from .conftest import ROOT
from .write_flags import launched_by_scripts


@dataclass
class Arguments:
    rate: float = 1.0
    names: list[str] = field(default_factory=list)
    flag: bool = False
    extra: dict | None = None


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_flags_override_the_recipe(tmp_path):
    recipe = write(tmp_path / "r.yaml", "rate: -2.5e-3\nnames: [a, b]\nflag: true\n")
    (arguments,) = parse(Arguments, arguments=[recipe])
    assert arguments == Arguments(rate=-0.0025, names=["a", "b"], flag=True)
    (arguments,) = parse(Arguments, arguments=[recipe, "--rate", "3", "--names", "c"])
    assert arguments == Arguments(rate=3.0, names=["c"], flag=True)


@dataclass
class Written:
    """Fields of every type that a recipe's words may be taken for."""

    languages: list[str] | None = None
    dataset: str = "x"
    shuffle: bool = False
    report: bool | None = None
    n: int = 1


def read(folder, text, kind=Written):
    (arguments,) = parse(kind, arguments=[write(folder / "recipe.yaml", text)])
    return arguments


@pytest.mark.parametrize(
    "text,expected",
    [
        # YAML 1.1 takes no for false, on for true, 012 for ten, 1:30 for ninety and 1e3 for a text.
        ("languages: [no, en]", Written(languages=["no", "en"])),
        ("languages: ['no', on, 'off', y]", Written(languages=["no", "on", "off", "y"])),
        ("dataset: on", Written(dataset="on")),
        ("dataset: true", Written(dataset="true")),
        ("dataset: 1:30", Written(dataset="1:30")),
        ("dataset: 2024-05-01", Written(dataset="2024-05-01")),
        ("dataset: 012", Written(dataset="012")),
        ("dataset: 1.10", Written(dataset="1.10")),
        ("dataset: 12e4567", Written(dataset="12e4567")),  # as a commit may be
        ("shuffle: yes\nreport: no", Written(shuffle=True, report=False)),
        ("shuffle: true\nreport: False", Written(shuffle=True, report=False)),
        ("dataset: ~\nreport:\nn: null", Written()),
        ("n: 1_000", Written(n=1000)),
    ],
)
def test_a_value_means_what_is_written(tmp_path, text, expected):
    assert read(tmp_path, text) == expected


def test_a_rate_may_have_an_exponent_alone(tmp_path):
    assert read(tmp_path, "rate: 1e-3", Arguments).rate == 0.001


@pytest.mark.parametrize(
    "text,message",
    [
        ("languages: [en, ~]", r"line 1: languages is \['en', None\]: leave out what is null, or quote it"),
        ("n: 1\nlanguages: [en, --n]", "line 2: languages has '--n', which is a flag: give it a line"),
        ("languages: [[en]]", "line 1, column 13: a list may not have lists or mappings in it here"),
        ("n: " + "9" * 5000, r"argument --n: 9{20} is too large: give a smaller number \(recipe"),
        ("n: yes", r"argument --n: invalid int value: 'yes' \(recipe '.*recipe.yaml', line 1\)"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        read(tmp_path, text)


@pytest.mark.parametrize("number", ["nan", "'inf'", "'-1e999'"])
def test_a_rate_is_finite(tmp_path, number):
    with pytest.raises(
        InputError, match=r"--rate: .* is not finite: give a finite number \(recipe '.*line 2"
    ):
        read(tmp_path, f"\nrate: {number}", Arguments)
    with pytest.raises(InputError, match=r"--rate: .* is not finite: give a finite number$"):
        parse(Arguments, arguments=[f"--rate={number.strip(chr(39))}"])


def test_only_what_the_recipe_gave_is_said_to_be_its(tmp_path):
    path = write(tmp_path / "recipe.yaml", "rate: 1\n")
    with pytest.raises(InputError, match="invalid float value: 'high'$"):
        parse(Arguments, arguments=[path, "--rate", "high"])


@pytest.mark.parametrize(
    "text,message",
    [
        ("rat: 1\n", "unknown key 'rat': did you mean 'rate'"),
        ("zzz: 1\n", "unknown key 'zzz'"),
        ("- 1\n", "must be a mapping"),
    ],
)
def test_a_bad_recipe_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        parse(Arguments, arguments=[write(tmp_path / "r.yaml", text)])


@pytest.mark.parametrize(
    "content,message",
    [
        (b"rate: 1\nnames: [a\nflag: true\n", "recipe '.*' is no YAML, line 3, column 5: "),
        (
            b"rate: 1\n  flag: 2\n",
            "recipe '.*' is no YAML, line 2, column 7: mapping values are not allowed here",
        ),
        (
            # A tag by which an unsafe loader would run code.
            b"rate: !!python/object:os.x 1\n",
            "recipe '.*' is no YAML, line 1, column 7: the tag tag:yaml.org,2002:python/object:os.x is not",
        ),
        (b"rate: \x01\n", "recipe '.*' is no YAML, line 1: character 0x1 is not allowed: delete it"),
        # "names: [" has 8 bytes; UTF-16 begins with a byte order mark that UTF-8 does not have.
        ("names: [\u4f60]\n".encode("gbk"), "recipe '.*' is not UTF-8, at byte 8: save it as UTF-8"),
        ("rate: 1\n".encode("utf-16"), "recipe '.*' is not UTF-8, at byte 0"),
        (b"", "recipe '.*' must be a mapping of flags to values"),
        (b"- {data: a.tsv}\n", "recipe '.*' must be a mapping .*, and is a list: give a list of sources as"),
        (b"1: 2\n", "recipe '.*' is no YAML, line 1, column 1: the key 1 is no text: quote it"),
        (b"rate: [1, 2]\n", "recipe '.*', line 1: rate is a list of 2: give one value"),
        (b"rate: many\n", "argument --rate: invalid float value: 'many'"),
        (b"flag: perhaps\n", "argument --flag: Truthy value expected: got perhaps"),
        (b"names: []\n", "argument --names: expected at least one argument"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(InputError, match=f"^{message}[^\n]*$"):
        parse(Arguments, arguments=[str(tmp_path / "r.yaml")])


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "r.yaml").write_bytes("rate: 2\n".encode("utf-8-sig"))
    assert parse(Arguments, arguments=[str(tmp_path / "r.yaml")])[0].rate == 2


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(InputError, match="recipe 'nowhere.yaml' does not exist"):
        parse(Arguments, arguments=["nowhere.yaml"])
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InputError, match="recipe '.*folder.yaml' is a folder"):
        parse(Arguments, arguments=[str(tmp_path / "folder.yaml")])
    with pytest.raises(InputError, match="argument 'recipe' is no recipe: give a file RECIPE.yaml, or flags"):
        parse(Arguments, arguments=["recipe", "--rate", "1"])


@dataclass
class Required:
    source_language: str
    rate: float = 1.0

    def __post_init__(self):
        if self.rate < 0:
            # In two lines, as messages of libraries may be: a script prints one.
            raise ValueError("rate is negative,\nwhich it may not be")


@pytest.mark.parametrize(
    "flags,message",
    [
        ("--rat 2", "unknown flag --rat: did you mean --rate?"),
        ("--source_langauge en", "unknown flag --source_langauge: did you mean --source_language?"),
        # argparse takes hyphens for underscores.
        ("--source-langage=en", "unknown flag --source-langage: did you mean --source_language?"),
        (
            "--source_lang en",
            "unknown flag --source_lang: did you mean --source_language?",
        ),  # argparse would guess
        ("--zzz 2", "unknown flag --zzz: see --help"),
        ("--rate 2", "missing --source_language: give them as flags"),
        ("--source_language en --rate", "argument --rate: expected one argument"),
        ("--source_language en --rate high", "argument --rate: invalid float value: 'high'"),
        ("--source_language en more", "argument 'more' belongs to no flag"),
        ("--source_language en -rate 2", "argument '-rate' belongs to no flag"),
        ("--source_language en --rate -2", "rate is negative"),
    ],
)
def test_a_bad_flag_is_refused(flags, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse(Required, arguments=flags.split())


# -0 is a negative number and no flag; a word with a space is a value, whatever it contains.
def test_both_spellings_of_a_flag_are_taken():
    assert parse(Required, arguments=["--source-language=en", "--rate", "-0"])[0] == Required("en", -0.0)
    assert parse(Arguments, arguments=["--names", "{} and --flag", "--flag"])[0] == Arguments(
        names=["{} and --flag"], flag=True
    )


@pytest.mark.parametrize("value", ["--lr_scheduler_type", "--optim", "--save_strategy", "--report_to_nobody"])
def test_values_that_transformers_refuses_are_one_line(value, tmp_path):
    recipe = str(ROOT / "training/recipes/miniature/stage2.yaml")
    with pytest.raises(InputError, match=f"{value}"):
        parse(ContrastiveArguments, arguments=[recipe, "--output_dir", str(tmp_path), value, "nonsense"])


@pytest.mark.parametrize(
    "names,message",
    [
        ("tensorbord", "report_to has no tracker 'tensorbord': did you mean tensorboard?"),
        ("none wandb", "report_to has no tracker 'none': choose from"),
        ("neptune", "report_to is neptune, which is not installed"),
    ],
)
def test_a_tracker_that_cannot_be_had_is_refused(names, message, tmp_path):
    recipe = str(ROOT / "training/recipes/miniature/stage2.yaml")
    flags = ["--output_dir", str(tmp_path), "--report_to", *names.split()]
    with pytest.raises(InputError, match=re.escape(message)):
        parse(ContrastiveArguments, arguments=[recipe, *flags])


@pytest.fixture
def launch_main(monkeypatch):
    """Return a function that launches a `main` as a job's, and takes what `launch` takes."""

    def run(main, **options):
        monkeypatch.setitem(sys.modules, "altclip.training.jobs.of_test", SimpleNamespace(main=main))
        launch("training.jobs.of_test", **options)

    return run


def do_nothing(arguments: Required):
    pass


def test_launch_prints_one_line(monkeypatch, launch_main):
    # As `python -m training` has it: the program is the package.
    monkeypatch.setattr(
        "sys.argv", ["/somewhere/training/__main__.py", "--source_language", "en", "--rate", "-1"]
    )
    with pytest.raises(SystemExit) as ended:
        launch_main(do_nothing)
    # Python prints it behind all else, and ends with status 1.
    assert ended.value.code == "training: error: rate is negative, which it may not be"


def test_what_is_refused_before_a_job_begins_has_a_status_of_its_own(monkeypatch, launch_main):
    def fail(arguments: Arguments):
        raise InputError("it cannot be done")

    monkeypatch.setattr("sys.argv", ["script.py"])
    for main, status in ((do_nothing, 2), (fail, "script.py: error: it cannot be done")):
        with pytest.raises(SystemExit) as ended:
            launch_main(main, refused=2)
        assert ended.value.code == status


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_a_script_of_one_process_refuses_to_be_one_of_several(monkeypatch, launch_main, variable):
    """Each would do the whole work, and write the same files."""
    monkeypatch.setattr("sys.argv", ["script.py", "--rate", "3"])
    done = []

    def main(arguments: Arguments):
        done.append(arguments)

    # torchrun and mpirun each say how many processes they start.
    monkeypatch.setenv(variable, "1")
    launch_main(main, one_process=True)
    monkeypatch.setenv(variable, "2")
    with pytest.raises(SystemExit) as ended:
        launch_main(main, one_process=True)
    assert "2 processes were started, and this script runs in one" in ended.value.code
    launch_main(main)
    assert len(done) == 2


def test_every_script_says_how_many_processes_it_has():
    """A stage's arguments and an evaluation's join their processes (test_reproducibility.py,
    test_encoder.py), and so does the check of a GPU; no other script does.
    """
    joined = set()
    for script in launched_by_scripts():
        if "one_process=True" not in (ROOT / script).read_text("utf-8"):
            joined.add(Path(script).name)
    stages = {
        f"run_{name}.py"
        for name in ("alignment", "stage0", "stage1", "stage2", "parallel", "diffusion", "text_pretraining")
    }
    # The check of a GPU starts itself in two processes.
    assert joined == stages | {"run_retrieval.py", "run_zero_shot.py", "__main__.py"}


def test_help_still_helps(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(ContrastiveArguments, arguments=["-h"])
    assert ended.value.code == 0
    assert "--cache_image_embeds" in capsys.readouterr().out


STAGES = {
    "stage0": TeacherArguments,
    "stage1": TeacherLearningArguments,
    "stage2": ContrastiveArguments,
    "diffusion": DiffusionArguments,
}


RECIPES = sorted(path for path in (ROOT / "training/recipes").rglob("*.yaml") if path.stem in STAGES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_parses(recipe, tmp_path):
    (arguments,) = parse(
        STAGES[recipe.stem], arguments=[str(recipe), "--output_dir", str(tmp_path), "--bf16", "false"]
    )
    assert arguments.learning_rate > 0
    assert arguments.dataset


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="model 'no/such/folder' does not exist: give a folder"):
        load_model("no/such/folder")
    with pytest.raises(InputError, match="dataset 'no/such/folder' does not exist"):
        load_rows("no/such/folder", "train", [])


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_working_directory(name):
    with pytest.raises(InputError, match=f"dataset is '{name}': give a folder, or a Hub id"):
        load_rows(name, "train", [])
    with pytest.raises(InputError, match=f"model is '{name}': give a folder, or a Hub id"):
        load_model(name)


def test_what_is_no_repository_has_no_commit():
    # Files of weights that a user has trained.
    assert [revision_of(f"open_clip:ViT-B-32/{path}") for path in ("outputs/x/model.pt", "/x.pt")] == [
        None,
        None,
    ]


def test_a_model_folder_without_weights_is_named(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="cannot be loaded.*model.safetensors"):
        load_model(str(tmp_path))


def test_a_dataset_of_another_form_is_named(miniature):
    dataset = str(miniature / "dataset")
    with pytest.raises(InputError, match="split 'dev' cannot be loaded.*dev"):
        load_rows(dataset, "dev", [])
    with pytest.raises(InputError, match="has no column sound: it has image, captions, label"):
        load_rows(dataset, "validation", ["image", "sound"])


def test_an_unknown_language_is_named():
    with pytest.raises(InputError, match="no text in language xx: choose from en zh"):
        check_languages(["en", "xx"], ["en", "zh"])
    assert check_languages(None, ["en", "zh"]) == ["en", "zh"]


def test_a_script_leaves_its_group_of_processes(monkeypatch, launch_main):
    """Leave it because Python may end before the threads of a group do.

    A process was aborted then, after all was saved.
    """

    def main(arguments: Arguments):
        # A group of one process, without a port.
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )

    monkeypatch.setattr("sys.argv", ["script.py", "--rate", "3"])
    launch_main(main)
    assert not torch.distributed.is_initialized()
