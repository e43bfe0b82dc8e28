"""What cannot be written is said in one line: before work begins where it can be known, and at any save."""

import errno
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError
from transformers import CLIPModel

from altclip.command import main
from benchmarks.results import Result
from common.embedding_cache import _Form, cached_column, write_part
from common.errors import InputError
from common.models.loading import load_model, save_model
from common.output import check_free, check_not_input, check_output_dir, is_full, why_not_written

from .conftest import ROOT
from .test_output_folder import LIMITED

SIZE = r"[\d.]+ (GB|MB|kB|bytes)"  # as messages give it

# A model that version 0.1.0 saved, and results of it.
TINY = str(ROOT / "tests/fixtures/v0.1.0/model")
RESULTS = str(ROOT / "tests/fixtures/v0.1.0/results")


@pytest.fixture
def blocked(tmp_path):
    """Return folders that cannot be made, with the message for each: a file, and paths below it."""
    file = tmp_path / "file"
    file.write_text("I was here first")
    return {
        file: "is a file: give a folder",
        file / "out": f"lies below '{file}', which is a file",
        file / "a/b": f"lies below '{file}', which is a file",
    }


def test_an_output_folder_is_checked_without_being_made(blocked, tmp_path):
    check_output_dir(tmp_path / "new/one")
    assert not (tmp_path / "new").exists()
    for folder, message in blocked.items():
        with pytest.raises(InputError, match=f"^output_dir '{folder}' {message}"):
            check_output_dir(folder)
    check_output_dir(tmp_path)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize(
    "number,message",
    [
        (errno.EROFS, r"since '{0}' is read-only, another user's or no folder .* \(Read-only file system\)"),
        (errno.EACCES, r"since '{0}' is read-only, another user's or no folder .* \(Permission denied\)"),
        (errno.ENOSPC, rf"{SIZE} are free: Make room, or give a folder on another disk"),
    ],
    ids=["read-only", "another's", "full"],
)
@pytest.mark.parametrize("fails", [(Path, "mkdir"), (tempfile, "TemporaryFile")])
def test_an_output_folder_is_tried(number, message, fails, tmp_path, monkeypatch):
    """As root, every folder can be written to but those of a read-only disk, so that failures are made."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*fails, fail)
    refusal = f"output_dir '{tmp_path}/new/one' cannot be written to, {message}".replace("{0}", str(tmp_path))
    with pytest.raises(InputError, match=refusal):
        check_output_dir(tmp_path / "new/one")
    assert list(tmp_path.iterdir()) == []


# Linux shows itself as files in these; root has all permissions there, and can make nothing.
SHOWN = [folder for folder in ("/proc", "/sys", "/dev/fd", "/dev/pts") if Path(folder).is_dir()]


@pytest.mark.parametrize("folder", SHOWN)
@pytest.mark.parametrize("name", ["", "x", "x/y"])
def test_a_folder_of_no_disk_is_refused(folder, name):
    output_dir = os.path.join(folder, name)
    with pytest.raises(
        InputError, match=f"^output_dir '{output_dir}' cannot be written to, since '{folder}'"
    ):
        check_output_dir(output_dir)


@pytest.mark.parametrize("folder", SHOWN)
def test_a_cache_that_cannot_be_written_is_told_before_anything_is_encoded(folder):
    keys = pa.array(["a", "b"], pa.large_string())
    with pytest.raises(InputError, match=f"^cache_dir '{folder}/target-.*' cannot be written .*'{folder}'"):
        cached_column("target", "text", keys, None, {"model": "m"}, cache_dir=folder)


def test_an_output_folder_is_none_of_the_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    check_not_input(str(tmp_path), {"dataset": "org/name", "teacher": None, "model": str(tmp_path / "a")})
    for same in (str(tmp_path), tmp_path.name, f"{tmp_path}/."):
        with pytest.raises(InputError, match="is dataset as well, whose files would be replaced"):
            check_not_input(str(tmp_path), {"model": "org/name", "dataset": same})


def test_what_is_free_is_compared_with_what_is_needed(tmp_path):
    check_free(tmp_path / "new", 1, "the model")
    with pytest.raises(InputError, match=rf"has {SIZE} free, and the model needs 1000000.00 GB: make room"):
        check_free(tmp_path / "new", 10**15, "the model")


def refused(words, capsys):
    """Run a command of `altclip` that ends early; return its one line."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert isinstance(end.value.code, str)
    assert "Traceback" not in capsys.readouterr().err
    return end.value.code


IN_PROCESS = {
    "embed": ["embed", TINY, "--images", ROOT / "docs/figures"],
    "report": ["report", "--results", RESULTS],
    "card": ["card", "--title", "T", "--repo", "me/it", "--stages", TINY, "--results", RESULTS],
    "evaluate retrieval": ["evaluate", "retrieval", "--models", TINY, "--tasks", "xm3600"],
    "evaluate zero-shot": ["evaluate", "zero-shot", "--models", TINY, "--tasks", "cifar10"],
}


@pytest.mark.parametrize("job", IN_PROCESS)
def test_a_file_in_the_way_is_told_before_anything_is_loaded(job, blocked, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["altclip"])
    monkeypatch.setattr("torch.load", None)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    for folder, message in blocked.items():
        line = refused([*IN_PROCESS[job], "--output_dir", folder], capsys)
        assert line.startswith(f"altclip {job}: error: output_dir '{folder}' ")
        assert message in line


@pytest.mark.skipif(not SHOWN, reason="this system has no such folders")
@pytest.mark.parametrize("job", IN_PROCESS)
def test_such_a_folder_is_told_before_anything_is_loaded(job, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["altclip"])
    monkeypatch.setattr("torch.load", None)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    line = refused([*IN_PROCESS[job], "--output_dir", f"{SHOWN[0]}/x"], capsys)
    assert line.startswith(f"altclip {job}: error: output_dir '{SHOWN[0]}/x' cannot be written to, since ")


@pytest.fixture
def scripts(miniature, start_flags):
    """Return the command of each script that writes, without its output folder."""
    clip, encoder = miniature / "clip", miniature / "text_encoder"
    data = ["--dataset", miniature / "dataset"]
    encoders = ["--image_encoder_name_or_path", clip, "--text_encoder_name_or_path", encoder]
    commands = {}
    for stage, flags in start_flags.items():
        recipe = ROOT / f"training/recipes/miniature/{stage}.yaml"
        commands[stage] = [ROOT / f"training/run_{stage}.py", recipe, *flags, *data]
    recipes = ROOT / "training/recipes/parallel"
    commands["parallel"] = [ROOT / "training/run_parallel.py", recipes / "miniature.yaml", *encoders, *data]
    commands["text_pretraining"] = [
        ROOT / "training/run_text_pretraining.py",
        recipes / "text_miniature.yaml",
        *("--text_encoder_name_or_path", encoder),
        *data,
    ]
    on_coco = ROOT / "training/recipes/parallel_coco/translation.yaml"
    commands["translation"] = [ROOT / "training/run_translation.py", on_coco]
    commands["miniature"] = ["-m", "training.miniature"]
    return commands


SCRIPTS = ["stage0", "stage1", "stage2", "parallel", "text_pretraining", "translation", "miniature"]


@pytest.mark.parametrize("job", SCRIPTS)
def test_a_script_also_tells_of_a_file_in_the_way(job, scripts, blocked, run_python):
    folder, message = list(blocked.items())[1]
    process = run_python("python", *scripts[job], "--output_dir", folder)
    assert process.returncode == 1, process.stderr[-2000:]
    assert "Traceback" not in process.stderr
    assert f"error: output_dir '{folder}' {message}" in process.stderr.splitlines()[-1]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_training_does_not_write_into_a_folder_that_it_reads(stage, scripts, run_python):
    given = scripts[stage][3]  # the folder of the first model
    process = run_python("python", *scripts[stage], "--output_dir", given)
    assert process.returncode == 1
    assert "as well, whose files would be replaced: give another folder" in process.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "error,message",
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            "'/a/b' could not be written, since the disk",
        ),
        (OSError("30000 requested and 2484 written"), "a file could not be written, .*30000 requested"),
        (
            RuntimeError("[enforce fail] unexpected pos 576 vs 534\nframe 0"),
            "unexpected pos 576 vs 534. Make",
        ),
        (SafetensorError("Error while serializing: I/O error: File too large"), "File too large. Make room"),
        (FileExistsError(errno.EEXIST, "File exists", "/a"), "'/a' could not .*a file is where a folder"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a"), "a file is where a folder has to be"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/a"), "a folder is where a file has to be"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "this user may not write there"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/a"), "'/a' could not .* its name is too long"),
        (
            OSError(errno.EROFS, "Read-only file system", "/a"),
            "a disk that is read-only: give another folder",
        ),
    ],
)
def test_an_error_of_writing_is_one_line(error, message):
    assert re.search(message, why_not_written(error))
    assert "\n" not in why_not_written(error)


def test_other_errors_keep_their_traceback():
    for error in (ValueError("a"), FileNotFoundError(errno.ENOENT, "No such file", "/a"), KeyError("x")):
        assert why_not_written(error) is None
        assert not is_full(error)


@contextmanager
def full_disk(limit):
    """Let no file grow beyond `limit` bytes, which stands for a full disk.

    Python ignores the signal that the kernel sends, so that the write fails with EFBIG.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder):
    """Return the bytes of all files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_full_disk_while_a_card_is_made_leaves_the_earlier_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["altclip"])
    folder = tmp_path / "finished"
    command = [*IN_PROCESS["card"], "--output_dir", folder]
    main([str(word) for word in command])
    before = contents(folder)
    size = (folder / "model.safetensors").stat().st_size
    with full_disk(size // 2):
        line = refused(command, capsys)
    assert line.startswith("altclip card: error: the finished model could not be saved to ")
    assert re.search(rf"It needs {SIZE}, {SIZE} are free", line)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["finished"]
    main([str(word) for word in command])
    assert contents(folder) == before


def test_a_full_disk_while_embeddings_are_saved_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["altclip"])
    texts = tmp_path / "texts.txt"
    # 20,000 embeddings of 8 floats are 640 KB, and their texts less.
    texts.write_text("\n".join(f"{number}" for number in range(20_000)))
    words = ["embed", TINY, "--texts", texts, "--batch_size", "5000", "--output_dir", tmp_path / "out"]
    with full_disk(600_000):
        line = refused(words, capsys)
    assert "the embeddings could not be saved to" in line
    assert re.search(rf"It needs 640.00 kB, {SIZE} are free", line)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_an_earlier_result(tmp_path):
    given = {"model": "m", "task": "t", "kind": "retrieval", "language": "en", "metric": "r"}
    given |= {"dataset": "d", "split": "s", "command": "c"}
    earlier = Result(**given, metrics={"r": 0.5, "n": 1}, weights="1")
    path = earlier.save(tmp_path)
    before = path.read_bytes()
    with full_disk(100), pytest.raises(OSError) as caught:
        Result(**given, metrics={"r": 0.6, "n": 1}, weights="2").save(tmp_path)
    assert is_full(caught.value)
    line = why_not_written(caught.value)
    assert line.startswith(f"'{path}' could not be written, since the disk is full or a limit is reached: ")
    needed = re.search(rf"File too large. It needs at least (\d+) bytes, {SIZE} are free. Make room", line)
    assert int(needed[1]) == len(before)
    assert path.read_bytes() == before
    later = Result(**given, metrics={"r": 0.7, "n": 1}, weights="3")
    later.save(tmp_path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert json.loads(path.read_text("utf-8"))["metrics"] == {"r": 0.7, "n": 1}


def test_a_full_disk_leaves_the_parts_of_a_cache_and_nothing_else(tmp_path):
    folder = tmp_path / "cache/text-0/data"
    folder.mkdir(parents=True)
    embeddings = torch.ones(2048, 64)
    form = _Form("text", "key", "float32", 1, 2048)
    keys = {"key": np.arange(2048).astype(str)}
    write_part(folder / "part-00000.arrow", keys, embeddings, form, 2)
    before = contents(tmp_path)
    message = (
        r"cache_dir: .*part-00001.arrow of 0.5 MB cannot be written: File too large. It needs at least 5"
    )
    with full_disk(100_000), pytest.raises(InputError, match=message):
        write_part(folder / "part-00001.arrow", keys, embeddings, form, 2)
    assert contents(tmp_path) == before


def test_a_cache_that_does_not_fit_is_told_of_at_its_first_part(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    encoded = []

    def encode(rows, view):
        encoded.append(len(rows))
        return torch.ones(len(rows), 8)

    keys = pa.array([str(number) for number in range(100)], pa.large_string())
    given = {"cache_dir": str(tmp_path), "part_length": 10}
    # 100 embeddings of 8 floats are 3,200 bytes.
    with pytest.raises(
        InputError, match="^cache_dir .* has 1.00 kB free, and the cache of target needs 3.20 kB"
    ):
        cached_column("target", "text", keys, encode, {"model": "m"}, **given)
    assert encoded == [10]
    # 30 are 960 bytes.
    assert len(cached_column("target", "text", keys[:30], encode, {"model": "m"}, **given)) == 30


@pytest.mark.parametrize("job", ["stage0", "text_pretraining"])
def test_a_full_disk_at_the_end_is_one_line_and_leaves_no_half_of_a_model(job, scripts, run_python, tmp_path):
    short = ["--max_steps", "2", "--per_device_train_batch_size", "8", "--save_strategy", "no"]
    (tmp_path / "limited.py").write_text(LIMITED)
    command = [*scripts[job], *short, "--output_dir"]
    # The first run fills the cache of `datasets`.
    assert run_python("python", *command, tmp_path / "first").returncode == 0
    process = run_python("python", tmp_path / "limited.py", 600_000, *command, tmp_path / "out")
    assert process.returncode == 1, process.stderr[-2000:]
    assert "Traceback" not in process.stderr
    last = process.stderr.splitlines()[-1]
    assert "could not be saved to" in last
    assert re.search(rf"It needs {SIZE}, {SIZE} are free", last)
    names = {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert not names & {".safetensors", ".tmp", ".partial", ".pt"}
    assert run_python("python", *command, tmp_path / "out").returncode == 0
    assert contents(tmp_path / "out").keys() == contents(tmp_path / "first").keys()


def modes_below(folder):
    """Return the modes of all files below a folder, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in paths}


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_saved_weights_have_the_mode_of_their_neighbours(umask, altclip_folder, miniature, tmp_path):
    model, processor = load_model(str(altclip_folder))
    clip = CLIPModel.from_pretrained(miniature / "clip")
    before = os.umask(umask)
    try:
        model.save_pretrained(tmp_path / "ours", max_shard_size="1MB")
        save_model(model, processor, tmp_path / "complete")
        save_model(clip, processor, tmp_path / "clip")
    finally:
        os.umask(before)
    for name in ("ours", "complete", "clip"):
        assert set(modes_below(tmp_path / name).values()) == {0o666 & ~umask}, name


def test_all_files_of_a_training_have_one_mode(scripts, run_python, tmp_path):
    short = ["--max_steps", "2", "--per_device_train_batch_size", "8"]
    short += ["--save_strategy", "steps", "--save_steps", "1"]
    process = run_python("python", *scripts["stage0"], "--output_dir", tmp_path / "out", *short)
    assert process.returncode == 0, process.stderr[-2000:]
    modes = modes_below(tmp_path / "out")
    assert "checkpoint-1/optimizer.pt" in modes
    (tmp_path / "plain").write_text("a file as everybody writes it")
    assert set(modes.values()) == {stat.S_IMODE((tmp_path / "plain").stat().st_mode)}, modes


def test_a_model_that_does_not_fit_is_told_of_before_the_teacher_runs(scripts, run_python, tmp_path):
    code = "import shutil, sys; free = shutil._ntuple_diskusage(10**12, 10**12, 1_000_000)\n"
    code += "shutil.disk_usage = lambda path: free\n"
    code += "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')\n"
    (tmp_path / "small.py").write_text(code)
    for stage in ("stage1", "stage2"):
        cache = ["--cache_dir", tmp_path / "cache"]
        command = [*scripts[stage], "--output_dir", tmp_path / stage, *cache]
        process = run_python("python", tmp_path / "small.py", *command)
        assert process.returncode == 1, process.stderr[-2000:]
        line = process.stderr.splitlines()[-1]
        assert re.search(
            r"has 1.00 MB free, and the model that this training saves.* needs [\d.]+ MB", line
        ), line
        assert not (tmp_path / "cache").exists()


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 256 KB, which only root can; give its folder and a function that makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a disk; limits on the size of files stand for it above")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_or_read_only_is_one_line(small_disk, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["altclip"])
    folder, make_read_only = small_disk
    texts = tmp_path / "texts.txt"
    # 10,000 embeddings of 8 floats are 320 KB.
    texts.write_text("\n".join(f"{number}" for number in range(10_000)))
    words = ["embed", TINY, "--texts", texts, "--batch_size", "5000", "--output_dir", folder / "out"]
    assert re.search(rf" written. It needs 320.00 kB, {SIZE} are free", refused(words, capsys))
    assert list(folder.iterdir()) == []
    make_read_only()
    assert f"cannot be written to, since '{folder}' is read-only" in refused(words, capsys)
    for job in IN_PROCESS:
        assert "is read-only" in refused([*IN_PROCESS[job], "--output_dir", folder / "new"], capsys)
