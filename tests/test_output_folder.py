"""A run's folder: one run's alone, and with room for what it saves."""

import json
import re
import shutil
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from common.output import is_full
from modeling_altclip.checksums_altclip import write_checksums
from training.arguments import TeacherArguments, TeacherLearningArguments
from training.checkpoints import mark_unfinished
from training.output_folder import (
    changed_settings,
    claim,
    claim_data,
    count_checkpoints,
    has_finished,
    record_finish,
    saving,
)

from .conftest import ROOT

# As if of data.
PRINTS = {"captions in en": "1", "captions in zh": "2", "images": "3"}

# Four steps, with checkpoints 2 and 4.
SMALL = [
    "--max_steps",
    "4",
    "--per_device_train_batch_size",
    "16",
    "--save_strategy",
    "steps",
    "--save_steps",
    "2",
]


@pytest.fixture
def train(run_python, miniature, tmp_path):
    """Train stage 0 for four steps on two threads, with a checkpoint after two; give the finished process."""

    def train(*flags, folder=tmp_path / "out"):
        script, recipe = ROOT / "training/run_stage0.py", ROOT / "training/recipes/miniature/stage0.yaml"
        data = [
            "--model_name_or_path",
            miniature / "clip",
            "--dataset",
            miniature / "dataset",
            "--output_dir",
            folder,
        ]
        return run_python("python", script, recipe, *data, *SMALL, *flags, OMP_NUM_THREADS="2")

    return train


def test_a_step_is_described_and_the_run_recorded(train, tmp_path):
    process = train("--gradient_accumulation_steps", "3", "--save_strategy", "no")
    assert process.returncode == 0, process.stderr
    line = (
        r"1 process x 16 examples x 3 accumulated = 48 examples per step, on cpu with 2 threads per process\."
    )
    assert re.search(line, process.stdout)
    record = json.loads((tmp_path / "out/run.json").read_text("utf-8"))
    assert record["settings"]["examples_per_step"] == 48
    assert record["settings"]["seed"] == 42
    assert record["machine"]["threads"] == 2
    assert record["machine"]["processes"] == 1


def test_checkpoints_of_another_run_are_refused_or_resumed(train, tmp_path):
    assert train().returncode == 0
    again = train()
    assert again.returncode == 1
    assert "holds checkpoints of another run, checkpoint-4 among them: add --resume" in again.stderr
    assert "Traceback" not in again.stderr
    # As if the run had ended after step 2.
    shutil.rmtree(tmp_path / "out/checkpoint-4")
    for changed, message in (
        # The recipe's rate is 0.002.
        (["--learning_rate", "5e-4"], "resume: learning_rate was 0.002 when the run in"),
        (["--per_device_train_batch_size", "8"], "resume: examples_per_step was 16 when the run in"),
    ):
        other = train("--resume", *changed)
        assert other.returncode == 1, other.stderr
        assert message in other.stderr, other.stderr
    begun = json.loads((tmp_path / "out/run.json").read_text("utf-8"))
    assert begun["examples"] > 0
    # Logging and workers change no weights: with these the run may resume.
    assert train("--resume", "--logging_steps", "1", "--dataloader_num_workers", "1").returncode == 0
    resumed = json.loads((tmp_path / "out/run.json").read_text("utf-8"))
    assert resumed == begun | {"resumed_on": [begun["machine"]]}


def test_a_training_that_could_not_save_its_end_is_not_begun(train, tmp_path):
    # Two million checkpoints of AdamW, each three times as large as the weights, are tens of terabytes.
    process = train("--max_steps", "2000000", "--save_steps", "1")
    assert process.returncode == 1
    assert re.search(
        r"has [\d.]+ GB free, and this training saves a model of [\d.]+ MB and 2000000 checkpoints",
        process.stderr,
    )
    assert "save_total_limit 1" in process.stderr
    assert "Traceback" not in process.stderr
    assert not list((tmp_path / "out").glob("checkpoint-*"))


# Runs a script whose files may not grow beyond a number of bytes.
# SIGXFSZ is ignored, for the kernel would end the process by it; the write fails with EFBIG instead.
LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_full_disk_leaves_the_last_complete_checkpoint(run_python, train, miniature, tmp_path):
    """A limit on the size of a file stands for the full disk: the optimizer's states do not fit below it."""
    weights = (miniature / "clip/model.safetensors").stat().st_size
    script, recipe = ROOT / "training/run_stage0.py", ROOT / "training/recipes/miniature/stage0.yaml"
    data = [
        "--model_name_or_path",
        miniature / "clip",
        "--dataset",
        miniature / "dataset",
        "--output_dir",
        tmp_path / "out",
    ]
    assert train("--max_steps", "2").returncode == 0
    (tmp_path / "limited.py").write_text(LIMITED)
    # The weights fit below one and a half times their size; AdamW's two states, twice their size, do not.
    process = run_python(
        "python", tmp_path / "limited.py", int(1.5 * weights), script, recipe, *data, *SMALL, "--resume"
    )
    assert process.returncode == 1, process.stderr[-3000:]
    assert re.search(
        r"checkpoint-4 could not be saved to .*: .* It needs [\d.]+ MB, [\d.]+ GB are free", process.stderr
    )
    assert "Traceback" not in process.stderr
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]
    assert train("--resume").returncode == 0


def test_other_errors_are_left_as_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="of another kind"), saving("the model", tmp_path, 1):
        raise RuntimeError("of another kind")
    with (
        pytest.raises(InputError, match=r"the model could not be saved .* No space left"),
        saving("the model", tmp_path, 1),
    ):
        raise OSError(28, "No space left on device")
    assert not is_full(ValueError())
    # torch.save's message of a short write, which has no errno.
    assert is_full(RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file"))


@pytest.mark.parametrize(
    "given,there,expected",
    [
        ({"save_strategy": "no", "max_steps": 10}, 0, 0),
        # At steps 4, 8 and 10, the last; then with one of them already there.
        ({"save_strategy": "steps", "save_steps": 4, "max_steps": 10}, 0, 3),
        ({"save_strategy": "steps", "save_steps": 4, "max_steps": 10}, 1, 2),
        # A share of all steps.
        ({"save_strategy": "steps", "save_steps": 0.25, "max_steps": 100}, 0, 4),
        # The third is written before the first is deleted.
        ({"save_strategy": "steps", "save_steps": 1, "max_steps": 100, "save_total_limit": 2}, 0, 3),
        ({"save_strategy": "epoch", "num_train_epochs": 3}, 0, 3),
    ],
)
def test_checkpoints_that_will_lie_on_the_disk_are_counted(tmp_path, given, there, expected):
    for number in range(there):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}/trainer_state.json").write_text('{"global_step": 2}')
    (tmp_path / "checkpoint-99").mkdir()  # half of one, which a kill left, is none
    arguments = TeacherArguments(
        output_dir=str(tmp_path), dataset="", model_name_or_path="", use_cpu=True, **given
    )
    trainer = SimpleNamespace(args=arguments, train_dataset=range(20))
    assert count_checkpoints(trainer) == expected


@pytest.fixture
def begun(tmp_path):
    """Claim a folder for a run, which saved a checkpoint; return a function that claims it again."""
    (tmp_path / "data").mkdir()
    base = {"dataset": str(tmp_path / "data"), "languages": ["en", "zh"], "objective": "mse"}

    def arguments(**given):
        return TeacherLearningArguments(
            output_dir=str(tmp_path / "out"),
            teacher_name_or_path="",
            text_encoder_name_or_path="",
            use_cpu=True,
            **base | given,
        )

    claim(arguments())
    claim_data(arguments(), 100, PRINTS)
    (tmp_path / "out/checkpoint-2").mkdir()
    (tmp_path / "out/checkpoint-2/trainer_state.json").write_text('{"global_step": 2}')
    return arguments


@pytest.mark.parametrize(
    "changed",
    [
        {"dataset": "other"},
        {"seed": 1},
        {"data_seed": 7},
        {"languages": ["en"]},
        {"objective": "cosine"},
        {"learning_rate": 1e-3},
        {"learning_rate": 1e-3, "seed": 1, "languages": ["en"]},
    ],
    ids=lambda changed: " ".join(changed),
)
def test_each_setting_that_differs_is_named_and_refused(begun, changed):
    claim(begun(resume=True))
    with pytest.raises(InputError, match="resume: ") as caught:
        claim(begun(resume=True, **changed))
    for name, value in changed.items():
        assert re.search(rf"{name} was .* began, and is {re.escape(repr(value))} now", str(caught.value))
    assert "\n" not in str(caught.value)


def test_what_a_killed_run_began_to_save_is_removed(begun, tmp_path):
    folder = tmp_path / "out"
    mark_unfinished(folder / "checkpoint-2")
    (folder / "checkpoint-4").mkdir()  # of somebody else
    with pytest.warns(UserWarning, match="checkpoint-2 was not saved to its end: it is removed"):
        claim(begun())
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"]


def test_other_data_under_the_same_name_is_refused(begun):
    claim_data(begun(resume=True), 100, PRINTS)
    with pytest.raises(
        InputError, match="the data had 100 examples when the run in .* began, and has 99 now"
    ):
        claim_data(begun(resume=True), 99, PRINTS)
    # What is refused is not recorded.
    claim_data(begun(resume=True), 100, PRINTS)


@pytest.mark.parametrize(
    "now,changed",
    [
        ({"captions in en": "4"}, "captions in en"),
        ({"captions in zh": "4", "images": "5"}, "captions in zh, images"),
        ({"weights of rows": "4"}, "weights of rows"),
    ],
    ids=["a language", "a language and images", "what was not there"],
)
def test_as_many_other_examples_are_refused_by_name(begun, tmp_path, now, changed):
    remedy = f"or delete {tmp_path}/out/run.json to resume all the same"
    with pytest.raises(InputError, match=f"resume: the data has {changed} other than when .*{remedy}"):
        claim_data(begun(resume=True), 100, PRINTS | now)
    lost = {name: value for name, value in PRINTS.items() if name != "images"}
    with pytest.raises(InputError, match="resume: the data has images other than when"):
        claim_data(begun(resume=True), 100, lost)
    (tmp_path / "out/run.json").unlink()
    claim_data(begun(resume=True), 100, PRINTS | now)


def test_a_record_of_an_earlier_version_is_completed(begun, tmp_path):
    record = json.loads((tmp_path / "out/run.json").read_text("utf-8"))
    del record["data"]
    (tmp_path / "out/run.json").write_text(json.dumps(record))
    claim_data(begun(resume=True), 100, PRINTS)
    with pytest.raises(InputError, match="captions in en other than"):
        claim_data(begun(resume=True), 100, PRINTS | {"captions in en": "4"})


def test_a_training_does_not_resume_with_other_captions(train, miniature, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(miniature / "dataset", data)
    assert train("--dataset", data).returncode == 0
    table = pq.read_table(data / "data/train.parquet")
    rows = table.to_pylist()
    rows[-1]["captions"]["en"] = "another picture"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), data / "data/train.parquet")
    process = train("--dataset", data, "--resume")
    assert process.returncode == 1
    line = process.stderr.splitlines()[-1]
    assert "resume: the data has captions in en other than when the run in" in line


def finish_in(folder):
    """Put a model of a few bytes into a folder, as a run does that ends."""
    (folder / "config.json").write_text("{}")
    write_checksums(folder)


def test_where_nothing_is_to_be_resumed_a_run_begins_and_says_so(begun, tmp_path, capsys):
    """A run that was killed before its first checkpoint left a record alone, maybe of other settings."""
    shutil.rmtree(tmp_path / "out/checkpoint-2")
    for folder in (tmp_path / "out", tmp_path / "nowhere"):
        arguments = begun(resume=True, seed=7)
        arguments.output_dir = str(folder)
        claim(arguments)
        assert not arguments.resume
        said = f"{folder} holds no checkpoint to resume from: the training begins at its first step.\n"
        assert capsys.readouterr().out == said
        record = json.loads((folder / "run.json").read_text("utf-8"))
        assert record["settings"]["seed"] == 7
        assert "data" not in record
    # One that is named is missed all the same, by `checkpoint_to_resume`.
    arguments = begun(resume_from_checkpoint="checkpoint-2")
    arguments.output_dir = str(tmp_path / "another")
    claim(arguments)
    assert arguments.resume


def test_a_run_is_finished_when_its_whole_model_is_saved(begun, tmp_path):
    folder = tmp_path / "out"
    assert not has_finished(folder)
    finish_in(folder)
    assert not has_finished(folder)  # the model may be an earlier run's
    record_finish(begun())
    assert has_finished(folder)
    (folder / "config.json").write_text("[]")
    assert not has_finished(folder)
    (folder / "config.json").write_text("{}")
    (folder / "checksums.json").write_text("{")
    assert not has_finished(folder)
    finish_in(folder)
    claim(begun(resume=True))
    assert not has_finished(folder)

    # An earlier version did not say that it had finished.
    record = json.loads((folder / "run.json").read_text("utf-8"))
    del record["finished"]
    (folder / "run.json").write_text(json.dumps(record))
    assert has_finished(folder)
    (folder / "run.json").unlink()
    assert not has_finished(folder)
    record_finish(begun())  # of code of the user's own, which claimed no folder
    assert not (folder / "run.json").exists()


def test_a_finished_model_is_not_trained_anew_by_resume(begun, tmp_path):
    folder = tmp_path / "out"
    shutil.rmtree(folder / "checkpoint-2")
    finish_in(folder)
    record_finish(begun())
    with pytest.raises(InputError, match="resume: .* holds a finished model and no checkpoint: leave out"):
        claim(begun(resume=True))
    assert has_finished(folder)
    (folder / "config.json").write_text("[]")  # damaged, and without a checkpoint of no use
    claim(begun(resume=True))


def test_a_finished_run_is_compared_as_one_that_resumes(begun, tmp_path):
    state = {"max_steps": 40, "num_train_epochs": 2}
    (tmp_path / "out/trainer_state.json").write_text(json.dumps(state))
    same = {"num_train_epochs": 2, "logging_steps": 7, "bf16": True}
    assert changed_settings(begun(**same)) == {}
    assert changed_settings(begun(max_steps=40)) == {}
    assert changed_settings(begun(max_steps=50)) == {"max_steps": (40, 50)}
    assert changed_settings(begun(num_train_epochs=3)) == {"num_train_epochs": (2, 3)}
    changed = begun(num_train_epochs=2, learning_rate=1e-3, languages=["en"])
    assert changed_settings(changed) == {"learning_rate": (5e-5, 1e-3), "languages": (["en", "zh"], ["en"])}

    # Eight processes of 8 examples are as one of 64.
    record = json.loads((tmp_path / "out/run.json").read_text("utf-8"))
    record["machine"]["processes"] = 8
    record["settings"]["examples_per_step"] = 64
    (tmp_path / "out/run.json").write_text(json.dumps(record))
    assert changed_settings(begun(num_train_epochs=2)) == {}
    (tmp_path / "out/run.json").unlink()
    assert changed_settings(begun(max_steps=50)) == {}


def test_damaged_checksums_are_told_before_the_training(begun, tmp_path):
    """Its model could not be saved among them at the end."""
    (tmp_path / "out/checksums.json").write_text("{")
    with pytest.raises(
        InputError, match="output_dir: .*checksums.json is no JSON .* altclip check --rewrite"
    ):
        claim(begun(resume=True))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"settings": []}', '{"settings": {}, "data": [1]}']
)
def test_a_damaged_record_is_refused_in_one_line(begun, tmp_path, text):
    (tmp_path / "out/run.json").write_text(text)
    with pytest.raises(InputError, match="run.json, the record of the run's settings, is damaged: remove it"):
        claim(begun(resume=True))
