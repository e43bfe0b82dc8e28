"""A file that is written whole is the old one or the new one, and nothing else is left in its folder."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from threading import Barrier, Thread

import numpy as np
import pytest

from common.files.whole_files import write_text, written_whole
from common.processes import host
from modeling_altclip.checksums_altclip import find_damages, write_checksums

from .conftest import ROOT
from .test_disk import full_disk


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.json"
    with written_whole(path) as file:
        file.write(b"new")
        assert names(tmp_path) != ["a.json"]
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.json"]


def test_an_error_leaves_the_older_file(tmp_path):
    write_text(tmp_path / "a.json", "old\n")
    with pytest.raises(OSError, match="no space"), written_whole(tmp_path / "a.json") as file:
        file.write(b"half of the n")
        raise OSError("no space")
    assert (tmp_path / "a.json").read_bytes() == b"old\n"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("n_written", [0, 60_000])
def test_a_full_disk_says_how_much_was_to_be_written(tmp_path, n_written, monkeypatch):
    """Of 100,000 bytes a disk may take none or some: they are needed all the same."""
    usage = shutil.disk_usage(tmp_path)._replace(free=20_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    write_text(tmp_path / "a.json", "old\n")
    with full_disk(n_written), pytest.raises(OSError) as caught, written_whole(tmp_path / "a.json") as file:
        for _ in range(10):
            file.write(b"x" * 10_000)
    needed = {0: "10.00 kB", 60_000: "70.00 kB"}[n_written]
    assert caught.value.strerror == f"File too large. It needs at least {needed}, 20.00 kB are free"
    assert caught.value.filename == str(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == b"old\n"
    assert names(tmp_path) == ["a.json"]


def test_what_numpy_writes_past_the_file_is_counted_too(tmp_path):
    """It hands the descriptor to C, and says how many values it wrote."""
    with (
        full_disk(5_000),
        pytest.raises(OSError, match=r"requested .* It needs at least 5.00 kB, .* are free"),
        written_whole(tmp_path / "a.npy") as file,
    ):
        np.save(file, np.zeros(10_000))
    assert names(tmp_path) == []


def test_it_has_the_mode_of_its_neighbours(tmp_path):
    before = os.umask(0o027)
    try:
        (tmp_path / "neighbour").write_bytes(b"")
        write_text(tmp_path / "a.json", "")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("neighbour", "a.json")]
    assert modes == [0o640, 0o640]


def test_the_longest_name_is_written(tmp_path):
    write_text(tmp_path / ("x" * 255), "text")
    assert (tmp_path / ("x" * 255)).read_text() == "text"


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    """With one temporary name for all, one renames the other's half, or finds its own gone."""
    path = tmp_path / "a.json"
    contents = [letter * 10_000 for letter in "abcd"]
    at_once = Barrier(len(contents))
    errors = []

    def write(content):
        try:
            at_once.wait()
            for _ in range(20):
                with written_whole(path) as file:
                    for start in range(0, len(content), 1000):
                        file.write(content[start : start + 1000].encode())
        except OSError as error:
            errors.append(error)

    threads = [Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert path.read_text() in contents
    assert names(tmp_path) == ["a.json"]


KILLED = """
import os, signal, sys
from common.files.whole_files import written_whole
with written_whole(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_IN_FOLDER = """
import os, signal, sys
from model_cards.folder import whole_folder
with whole_folder(sys.argv[1]) as folder:
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_IN_CHECK = """
import os, signal, sys, tempfile
from common.output import check_output_dir
tempfile.TemporaryFile = lambda **_: os.kill(os.getpid(), signal.SIGKILL)
check_output_dir(sys.argv[1] + "-new")
"""


@pytest.mark.parametrize("code", [KILLED, KILLED_IN_FOLDER, KILLED_IN_CHECK])
def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path, code):
    write_text(tmp_path / "a.json", "old")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, "-c", code, tmp_path / "a.json"], env=environment)
    assert process.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    assert (tmp_path / "a.json").read_text() == "old"
    write_text(tmp_path / "b.json", "")
    assert names(tmp_path) == ["a.json", "b.json"]


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    kept = [
        f".{host()}.{os.getpid()}.{'0' * 32}.tmp",  # of a process that lives
        f".elsewhere.1.{'1' * 32}.tmp",  # of another machine, where it may live
        ".mine.tmp",
        "mine.tmp",
    ]
    old = f".elsewhere.1.{'2' * 32}.tmp"
    for name in [*kept, old]:
        (tmp_path / name).write_bytes(b"")
    # Of a finished folder, as earlier versions named it.
    old_folder = f".altclip.elsewhere-4026532281.1.{'3' * 32}.tmp"
    (tmp_path / old_folder).mkdir()
    (tmp_path / old_folder / "half").touch()
    for name in (old, old_folder):
        os.utime(tmp_path / name, (0, time.time() - 2 * 24 * 60 * 60))
    write_text(tmp_path / "a", "")
    assert names(tmp_path) == sorted([*kept, "a"])


@pytest.fixture
def refuse_folders(monkeypatch):
    """Return a function that lets folders be synchronized with an error from now on."""
    original = os.fsync

    def refuse_folders(number):
        def synchronize(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            original(descriptor)

        monkeypatch.setattr(os, "fsync", synchronize)

    return refuse_folders


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_disk_that_synchronizes_no_folders_is_written_to(tmp_path, refuse_folders, number):
    (tmp_path / "config.json").write_text("{}")
    refuse_folders(number)
    write_text(tmp_path / "a", "text")
    write_checksums(tmp_path)
    assert find_damages(tmp_path) == []
    assert names(tmp_path) == ["a", "checksums.json", "config.json"]


def test_a_disk_that_fails_to_synchronize_a_folder_is_an_error(tmp_path, refuse_folders):
    refuse_folders(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_text(tmp_path / "a", "text")


def test_file_and_folder_are_on_the_disk_before_the_end(tmp_path, monkeypatch):
    synced = []
    original = os.fsync

    def record(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_text(tmp_path / "a", "text")
    assert synced[0].endswith(".tmp")
    assert synced[1:] == [tmp_path.name]
