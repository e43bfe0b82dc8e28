"""What `checksums.json` covers, says and refuses: on folders of a few bytes, without a model."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from modeling_altclip import checksums_altclip
from modeling_altclip.checksums_altclip import (
    CHECKSUMS,
    check_files,
    checked_files,
    find_damages,
    has_checksums,
    keep_checksums,
    read_checksums,
    synchronize_folder,
    write_checksums,
)

# Of a checkpoint all files are covered that do not begin with a dot, are no card and no temporary file.
OF_MODEL = ["adapter_config.json", "code.py", "config.json", "model.safetensors", "pytorch_model-1.bin"]
OF_PROCESSOR = ["merges.txt", "tokenizer.json", "vocab.txt"]
OTHERS = ["README.md", "loss.png", "notes.json", "optimizer.pt", ".hidden", "model.safetensors.tmp"]
OTHERS += ["trainer_state.json", "training_args.bin"]  # which a push leaves at home


def fill(folder, names):
    """Write files whose contents are their names; return the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "model", [*OF_MODEL, *OF_PROCESSOR, *OTHERS])


@pytest.fixture
def saved(folder):
    write_checksums(folder)
    return folder


# ---- What is covered ----


def test_the_file_is_written_in_this_form(tmp_path):
    """It is sorted, and readable in an editor; its numbers are those of `wc -c` and `sha256sum`."""
    (tmp_path / "vocab.é").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    write_checksums(tmp_path)
    empty, settings = (hashlib.sha256(content).hexdigest() for content in (b"", b"{}"))
    assert (
        (tmp_path / CHECKSUMS).read_text("utf-8")
        == f"""{{
 "format": 1,
 "algorithm": "sha256",
 "files": {{
  "config.json": {{
   "bytes": 2,
   "digest": "{settings}"
  }},
  "vocab.é": {{
   "bytes": 0,
   "digest": "{empty}"
  }}
 }}
}}
"""
    )
    assert find_damages(tmp_path) == []


def test_of_a_model_the_files_that_are_loaded_are_covered(saved):
    fill(saved, ["part/config.json"])
    (saved / "folder.safetensors").mkdir()
    write_checksums(saved)
    assert list(read_checksums(saved)) == sorted([*OF_MODEL, *OF_PROCESSOR])


@pytest.mark.parametrize("name", ["checkpoint-40", "damaged-checkpoint-40.2"])
def test_of_a_checkpoint_all_files_are_covered(tmp_path, name):
    covered = ["notes.json", "optimizer.pt", "shards/0.distcp", "shards/deep/1.distcp"]
    free = ["README.md", "card/README.md", ".hidden", ".git/config.json", "model.tmp", "shards/.hidden"]
    folder = fill(tmp_path / name, [*covered, *free])
    write_checksums(folder)
    assert list(read_checksums(folder)) == covered


def test_of_a_pipeline_the_named_parts_are_covered(tmp_path):
    covered = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"]
    folder = fill(tmp_path, [*covered, "checkpoint-2/config.json", "unet/deep/config.json", "vae"])
    (folder / "model_index.json").write_text(json.dumps({"unet": 1, "scheduler": 1, "vae": 1}))
    write_checksums(folder)
    assert list(read_checksums(folder)) == covered


@pytest.mark.parametrize("text", ["half of {", "[" * 100_000, '["unet"]'])
def test_a_damaged_list_of_parts_is_itself_a_damage(tmp_path, text):
    folder = fill(tmp_path, ["unet/config.json"])
    (folder / "model_index.json").write_text('{"unet": 1}')
    write_checksums(folder)
    (folder / "model_index.json").write_text(text)
    (damage,) = find_damages(folder)
    assert damage.startswith("model_index.json has ")


# ---- What is found ----


@pytest.mark.parametrize("before,after", [("some words", "more words"), ("more words", "some words")])
def test_other_bytes_are_found(tmp_path, before, after):
    """Also if their digest comes before, or after, the one that is listed."""
    (tmp_path / "config.json").write_text(before)
    write_checksums(tmp_path)
    (tmp_path / "config.json").write_text(after)
    assert find_damages(tmp_path) == ["config.json has other bytes"]


@pytest.mark.parametrize("before,after", [(2000, 1999), (1999, 2000)])
def test_another_length_is_found(tmp_path, before, after):
    (tmp_path / "config.json").write_bytes(bytes(before))
    write_checksums(tmp_path)
    assert find_damages(tmp_path) == []
    (tmp_path / "config.json").write_bytes(bytes(after))
    assert find_damages(tmp_path) == [f"config.json has {after:,} bytes instead of {before:,}"]


def test_lost_and_new_files_are_found(saved):
    """New code is harmless, and so is what is not covered."""
    (saved / "vocab.txt").unlink()
    (saved / "merges.txt").unlink()
    (saved / "trainer_state.json").unlink()  # is not covered
    fill(saved, ["new.safetensors", "more.py", "other.png", "chat_template.jinja"])
    assert find_damages(saved) == [
        "merges.txt is missing",
        "vocab.txt is missing",
        "chat_template.jinja is not listed",
        "new.safetensors is not listed",
    ]


@pytest.mark.parametrize(
    "part,names",
    [
        ("weights", ["model.safetensors", "pytorch_model-1.bin"]),
        ("settings", ["adapter_config.json", "code.py", "config.json", *OF_PROCESSOR]),
        ("all", sorted([*OF_MODEL, *OF_PROCESSOR, "unet/config.json", "unet/a.safetensors"])),
    ],
)
def test_each_part_has_its_files(saved, part, names):
    """What lies in subfolders belongs to `all` alone: nobody loads it by the name of this folder."""
    fill(saved, ["unet/config.json", "unet/a.safetensors", "model_index.json"])
    (saved / "model_index.json").write_text('{"unet": 1}')
    write_checksums(saved)
    for path in saved.rglob("*.*"):
        if path.name not in (CHECKSUMS, "model_index.json"):
            path.write_text("changed")
    assert [damage.partition(" ")[0] for damage in find_damages(saved, part)] == names


def test_new_weights_are_no_new_settings(saved):
    fill(saved, ["new.safetensors", "chat_template.jinja"])
    assert find_damages(saved, "weights") == ["new.safetensors is not listed"]
    assert find_damages(saved, "settings") == ["chat_template.jinja is not listed"]


def test_damages_are_refused_in_one_line(saved, tmp_path):
    check_files(saved)
    (saved / "config.json").write_text("changed")
    (saved / "vocab.txt").unlink()
    with pytest.raises(ValueError, match="is not as it was saved") as caught:
        check_files(saved)
    assert str(caught.value) == (
        f"{saved} is not as it was saved (checksums.json): config.json has 7 bytes instead of 11; "
        "vocab.txt is missing: get a complete copy, or accept it as it is: altclip check --rewrite "
        f"{saved}"
    )
    check_files(saved, "weights")
    (saved / CHECKSUMS).unlink()
    assert not has_checksums(saved)
    check_files(saved)
    check_files("some/hub-id")


def test_a_block_runs_between_the_check_of_settings_and_of_weights(saved):
    with checked_files(saved):
        pass
    (saved / "model.safetensors").write_text("changed")
    with checked_files(saved, weights=False):
        pass
    ran = []
    with pytest.raises(ValueError, match="model.safetensors has 7 bytes"), checked_files(saved):
        ran.append("block")
        raise KeyError("what damaged weights lead to")
    with pytest.raises(ValueError, match="model.safetensors has 7 bytes"), checked_files(saved):
        pass
    (saved / "config.json").write_text("changed")
    for weights in (False, True):
        with pytest.raises(ValueError, match="config.json has 7 bytes"):
            with checked_files(saved, weights=weights):
                ran.append("not reached")
    assert ran == ["block"]


# ---- Saving again ----


@pytest.mark.parametrize(
    "of_processor,own", [(None, OF_MODEL), (False, OF_MODEL), (True, ["code.py", *OF_PROCESSOR])]
)
def test_a_save_updates_what_it_writes_and_keeps_the_rest(saved, of_processor, own):
    options = {} if of_processor is None else {"of_processor": of_processor}
    before = read_checksums(saved)
    with keep_checksums(folder=saved, **options):
        for name in before:
            (saved / name).write_text("changed")
    others = [name for name in before if name not in own]
    assert [damage.partition(" ")[0] for damage in find_damages(saved)] == others
    assert list(read_checksums(saved)) == list(before)


def test_a_save_into_a_folder_without_checksums_writes_none(folder):
    with keep_checksums(folder):
        pass
    assert not has_checksums(folder)


def test_a_save_into_a_folder_with_damaged_checksums_does_not_begin(saved):
    (saved / CHECKSUMS).write_text("half of {")
    with pytest.raises(ValueError, match="is no JSON"), keep_checksums(saved):
        pytest.fail("the block is reached")


# ---- The checksums themselves ----

ENTRY = {"bytes": 0, "digest": "0" * 64}
GOOD = {"format": 1, "algorithm": "sha256", "files": {"config.json": ENTRY}}


@pytest.mark.parametrize(
    "text", ["", "half of {", "[" * 100_000, "[]", "null", '{"files": []}', '{"format": 1}']
)
def test_another_form_is_refused(tmp_path, text):
    (tmp_path / CHECKSUMS).write_text(text)
    kind = "has no mapping of files: get" if text[-1:] in ("]", "l", "}") else "is no JSON"
    with pytest.raises(ValueError, match=f"{CHECKSUMS} {kind}"):
        read_checksums(tmp_path)


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"format": 0}, {"algorithm": "md5"}, {"algorithm": "xxh3"}]
)
def test_another_version_is_refused(tmp_path, change):
    content = GOOD | change
    (tmp_path / CHECKSUMS).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has format and algorithm") as caught:
        read_checksums(tmp_path)
    found = (content["format"], content["algorithm"])
    assert f"algorithm {found}, and (1, 'sha256') is read: upgrade altclip, or get" in str(caught.value)


NAMES = ["", ".", "..", "../a", "a/../b", "/a", "./a", "a//b", "a/", "a\\b", "a\0b"]
ENTRIES = [
    None,
    [],
    {"bytes": 0},
    {"digest": "0" * 64},
    ENTRY | {"more": 0},
    ENTRY | {"bytes": -1},
    ENTRY | {"bytes": True},
    ENTRY | {"bytes": 1.0},
    ENTRY | {"bytes": "1"},
    ENTRY | {"digest": 0},
    ENTRY | {"digest": "0" * 63},
    ENTRY | {"digest": "0" * 65},
    ENTRY | {"digest": "A" * 64},
]


@pytest.mark.parametrize(
    "name,entry",
    [*((name, ENTRY) for name in NAMES), *(("config.json", entry) for entry in ENTRIES)],
    ids=repr,
)
def test_a_damaged_entry_is_refused(tmp_path, name, entry):
    (tmp_path / CHECKSUMS).write_text(json.dumps(GOOD | {"files": {"first": ENTRY, name: entry}}))
    with pytest.raises(ValueError, match="has a damaged entry") as caught:
        read_checksums(tmp_path)
    assert f"{CHECKSUMS} has a damaged entry {name!r}: {entry!r}: get a complete copy" in str(caught.value)


def test_what_is_written_is_read(tmp_path):
    files = {"config.json": ENTRY, "unet/config.json": {"bytes": 12, "digest": "0a" * 32}}
    (tmp_path / CHECKSUMS).write_text(json.dumps(GOOD | {"files": files}))
    assert read_checksums(tmp_path) == files


# ---- The disk ----


@pytest.fixture
def opened(monkeypatch):
    """Record with which flags each path is opened from now on."""
    flags_of = {}
    open_ = os.open

    def record(path, flags, *args, **kwargs):
        flags_of[Path(path)] = flags
        return open_(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", record)
    return flags_of


def test_files_and_then_their_folders_are_synchronized(tmp_path, opened):
    folder = fill(tmp_path / "checkpoint-1", ["model.safetensors", "shards/0.distcp"])
    write_checksums(folder)
    written = ["model.safetensors", "shards/0.distcp", "checksums.json.tmp", "shards", ""]
    assert opened == {folder / name: os.O_RDONLY for name in written}
    assert list(opened)[:3] == [folder / name for name in written[:3]]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_that_synchronizes_no_folder_is_left_alone(tmp_path, monkeypatch, code):
    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    synchronize_folder(tmp_path)


def test_other_errors_of_the_disk_are_raised(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="broken"):
        synchronize_folder(tmp_path)


@pytest.mark.parametrize("module,name", [(Path, "write_text"), (os, "replace")])
def test_a_full_disk_leaves_the_checksums_as_they_were(saved, monkeypatch, module, name):
    before = (saved / CHECKSUMS).read_bytes()
    fill(saved, ["new.safetensors"])

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, name, full)
    with pytest.raises(OSError, match="No space left on device"):
        write_checksums(saved)
    assert (saved / CHECKSUMS).read_bytes() == before
    assert not (saved / f"{CHECKSUMS}.tmp").exists()


def test_windows_synchronizes_files_that_are_opened_for_writing_and_no_folder(saved, monkeypatch, opened):
    monkeypatch.setattr(checksums_altclip, "_IS_WINDOWS", True)
    write_checksums(saved)
    assert opened[saved / "model.safetensors"] == os.O_RDWR
    assert saved not in opened


@pytest.mark.parametrize("name,is_windows", [("nt", True), ("posix", False), ("java", False)])
def test_windows_is_known_by_its_name(monkeypatch, name, is_windows):
    """The module looks when it is imported."""
    path = Path(checksums_altclip.__file__)
    code = compile(path.read_text("utf-8"), path.name, "exec")
    module = {"__name__": "imported again"}
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", name)
        exec(code, module)  # noqa: S102  (our own code)
    assert module["_IS_WINDOWS"] is is_windows
