"""Which checkpoint a run resumes from, and what becomes of the others: on checkpoints of a few bytes."""

import json
import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from common.errors import InputError
from modeling_altclip.checksums_altclip import write_checksums
from training import checkpoints
from training.checkpoints import (
    checkpoint_to_resume,
    finished_checkpoints,
    mark_finished,
    mark_unfinished,
    remove_unfinished,
)

from .newest_checkpoint import newest_undamaged


def write_checkpoint(folder, step, n_processes=1, with_checksums=True, model_type="bert"):
    """Write what a Trainer writes, as small as it gets."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text(json.dumps({"model_type": model_type}))
    (checkpoint / "merges.txt").write_text("")
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    weights = {name: torch.zeros(1) for name in ("first", "second", "third")}
    save_file(weights, checkpoint / "model.safetensors")
    random_states = ["rng_state.pth"]
    if n_processes > 1:
        random_states = [f"rng_state_{rank}.pth" for rank in range(n_processes)]
    for name in ("optimizer.pt", "scheduler.pt", *random_states):
        torch.save({}, checkpoint / name)
    if with_checksums:
        write_checksums(checkpoint)
    return checkpoint


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write the checkpoints 1, 2, 3 and 10 of a run."""
    folder = tmp_path_factory.mktemp("written")
    for step in (10, 1, 3, 2):
        write_checkpoint(folder, step)
    return folder


@pytest.fixture
def run(written, tmp_path):
    """Return a copy of the folder that may be changed."""
    return shutil.copytree(written, tmp_path / "out")


def resume(folder, name=None, n_processes=1, rank=0, model_type="bert"):
    arguments = SimpleNamespace(
        output_dir=str(folder),
        process_index=rank,
        world_size=n_processes,
        resume_from_checkpoint=name,
    )
    model = SimpleNamespace(config=SimpleNamespace(model_type=model_type))
    return checkpoint_to_resume(arguments, model)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def damage(checkpoint, name="optimizer.pt"):
    content = bytearray((checkpoint / name).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / name).write_bytes(content)


def test_the_newest_is_taken_and_all_are_kept(run):
    assert resume(run) == str(run / "checkpoint-10")
    assert names(run) == ["checkpoint-1", "checkpoint-10", "checkpoint-2", "checkpoint-3"]


def test_damaged_ones_are_renamed_and_those_below_are_kept(run):
    damage(run / "checkpoint-10")
    damage(run / "checkpoint-3", "trainer_state.json")
    damage(run / "checkpoint-1")
    with pytest.warns(UserWarning) as caught:
        assert resume(run) == str(run / "checkpoint-2")
    assert names(run) == ["checkpoint-1", "checkpoint-2", "damaged-checkpoint-10", "damaged-checkpoint-3"]
    assert [str(warning.message) for warning in caught] == [
        f"resume: {run}/checkpoint-10 is damaged: optimizer.pt has other bytes: "
        "it is skipped, and kept as damaged-checkpoint-10",
        f"resume: {run}/checkpoint-3 is damaged: trainer_state.json has other bytes: "
        "it is skipped, and kept as damaged-checkpoint-3",
    ]


def test_a_name_that_is_taken_gets_a_number(run):
    for taken in ("damaged-checkpoint-10", "damaged-checkpoint-10.2", "damaged-checkpoint-10.3"):
        (run / taken).mkdir()
    damage(run / "checkpoint-10")
    with pytest.warns(UserWarning, match="kept as damaged-checkpoint-10.4$"):
        resume(run)
    assert (run / "damaged-checkpoint-10.4/optimizer.pt").exists()

    for replaced in ("replaced-checkpoint-3", "replaced-checkpoint-3.2"):
        (run / "checkpoint-3").rename(run / "checkpoint-4")
        resume(run, "checkpoint-2")
        (run / "replaced-checkpoint-4").rename(run / "checkpoint-3")
        resume(run, "checkpoint-2")
        assert (run / replaced).is_dir()
        write_checkpoint(run, 3)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_checkpoint_with_a_readable_state_is_kept_and_one_without_is_removed(run, is_old):
    """A checkpoint of an older version has no checksums, and its state was written last."""
    newest = run / "checkpoint-10"
    if is_old:
        (newest / "checksums.json").unlink()
        (newest / "scheduler.pt").write_bytes(b"half")
        with pytest.warns(UserWarning, match="has no complete scheduler.pt: it is skipped"):
            resume(run)
        assert (run / "damaged-checkpoint-10").is_dir()
    else:
        (newest / "trainer_state.json").write_text("{}")
        write_checksums(newest)
        with pytest.warns(UserWarning, match="has no readable trainer_state.json.*: it is skipped"):
            resume(run)
        (run / "checkpoint-3/checksums.json").unlink()
        (run / "checkpoint-3/trainer_state.json").unlink()
        with pytest.warns(UserWarning, match="has no readable trainer_state.json.*: it is removed"):
            resume(run)
        assert names(run) == ["checkpoint-1", "checkpoint-2", "damaged-checkpoint-10"]


def test_the_mark_of_an_unfinished_checkpoint(run):
    new = run / "deep/checkpoint-11"
    mark_unfinished(new)  # makes its folder
    assert names(new) == ["unfinished.tmp"]
    mark_finished(new)
    assert names(new) == []

    mark_unfinished(run / "checkpoint-10")
    with pytest.warns(UserWarning, match="checkpoint-10 was not saved to its end: it is removed"):
        assert resume(run) == str(run / "checkpoint-3")
    mark_unfinished(run / "checkpoint-2")
    with pytest.warns(UserWarning, match="checkpoint-2 was not saved to its end: it is removed") as caught:
        remove_unfinished(run)
    assert caught[0].filename == __file__
    assert names(run) == ["checkpoint-1", "checkpoint-3", "deep"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        remove_unfinished(run)


def test_checkpoints_are_listed_in_order_and_nothing_else_is_one(run, tmp_path):
    (run / "checkpoint-3/trainer_state.json").write_text("half of {")
    (run / "checkpoint-2/trainer_state.json").write_bytes(b"\xff")
    for name in ("checkpoint-12.tmp", "checkpoint-run", "damaged-checkpoint-11"):
        (run / name).mkdir()
        (run / name / "trainer_state.json").write_text('{"global_step": 12}')
    (run / "checkpoint-13").write_text("a file")
    assert finished_checkpoints(run) == [run / "checkpoint-1", run / "checkpoint-10"]
    assert finished_checkpoints(tmp_path / "nowhere") == []


@pytest.mark.parametrize("by_path", [False, True])
def test_a_named_checkpoint_replaces_the_newer_ones_alone(run, by_path):
    # A command line gives a text that equals the folder's name, and is another object.
    name = str(run / "checkpoint-2") if by_path else "".join(["checkpoint", "-2"])
    assert resume(run, name) == str(run / "checkpoint-2")
    assert names(run) == [
        "checkpoint-1",
        "checkpoint-2",
        "replaced-checkpoint-10",
        "replaced-checkpoint-3",
    ]


@pytest.mark.parametrize("name", ["checkpoint-0", "checkpoint-9"])
@pytest.mark.parametrize("by_path", [False, True])
def test_a_name_of_no_checkpoint_is_refused(run, name, by_path):
    given = str(run / name) if by_path else name
    with pytest.raises(InputError) as caught:
        resume(run, given)
    assert str(caught.value) == (
        f"resume_from_checkpoint {given!r} is no checkpoint of output_dir {str(run)!r}: it holds "
        "checkpoint-1, checkpoint-2, checkpoint-3, checkpoint-10"
    )


def test_a_run_with_nothing_to_resume_from_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="is no checkpoint of output_dir .*: it holds none$"):
        resume(tmp_path / "nowhere", "checkpoint-1")
    with pytest.raises(InputError, match="nowhere holds no complete checkpoint: delete what"):
        resume(tmp_path / "nowhere")
    damage(run / "checkpoint-2")
    with pytest.raises(InputError, match="checkpoint-2 is damaged: optimizer.* bytes: name an earlier one$"):
        resume(run, "checkpoint-2")


@pytest.mark.parametrize("name", [None, "checkpoint-3"])
@pytest.mark.parametrize("n_saved,n_resuming", [(1, 2), (2, 1), (3, 2), (2, 3)])
def test_another_number_of_processes_is_refused(tmp_path, name, n_saved, n_resuming):
    write_checkpoint(tmp_path, 3, n_saved)
    message = f"checkpoint-3 was saved by {n_saved} processes, and {n_resuming} would resume: start {n_saved}"
    with pytest.raises(InputError, match=message):
        resume(tmp_path, name, n_resuming)
    assert resume(tmp_path, name, n_saved) == str(tmp_path / "checkpoint-3")


def test_only_the_main_process_looks(run, monkeypatch):
    """The others get what it has chosen, or its refusal, and rename nothing."""
    damage(run / "checkpoint-10")
    before = names(run)
    chosen = [str(run / "checkpoint-3"), None]
    monkeypatch.setattr(checkpoints, "broadcast_object_list", lambda _: chosen)
    assert resume(run, rank=1) == chosen[0]
    chosen = [None, "no checkpoint at all"]
    with pytest.raises(InputError, match="no checkpoint at all"):
        resume(run, rank=1)
    assert names(run) == before


@pytest.mark.parametrize("saved,trained", [("bert", "xlm-roberta"), ("xlm-roberta", "bert")])
def test_a_checkpoint_of_another_kind_of_model_is_refused(tmp_path, saved, trained):
    checkpoint = write_checkpoint(tmp_path, 1, model_type=saved)
    with pytest.raises(InputError) as caught:
        resume(tmp_path, model_type=trained)
    assert str(caught.value) == (
        f"resume: {checkpoint} holds a {saved}, and this run trains a {trained} (stage 1 once saved its text "
        "tower alone): train anew in another output_dir"
    )


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 1)
    settings = {"model_type": "bert", "auto_map": {"AutoConfig": "other.OtherConfig"}}
    (checkpoint / "config.json").write_text(json.dumps(settings))
    (checkpoint / "other.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    write_checksums(checkpoint)
    assert resume(tmp_path) == str(checkpoint)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_not_finite_are_passed_over(run):
    newest = run / "checkpoint-10"
    weights = {name: torch.full((1,), torch.nan) for name in ("first", "second", "third")}
    save_file(weights, newest / "model.safetensors")
    write_checksums(newest)
    with pytest.warns(UserWarning, match="has weights that are NaN or infinite, first first: it is skipped"):
        assert resume(run) == str(run / "checkpoint-3")


def test_checksums_that_cannot_be_read_are_a_damage(run):
    (run / "checkpoint-10/checksums.json").write_text("half of {")
    with pytest.warns(UserWarning, match="checkpoint-10 is damaged: .*checksums.json is no JSON"):
        assert resume(run) == str(run / "checkpoint-3")


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "{}", '{"global_step": true}', None])
def test_a_state_that_cannot_be_read(run, text):
    state = run / "checkpoint-10/trainer_state.json"
    state.unlink()
    if text is not None:
        state.write_text(text)
    write_checksums(state.parent)
    assert newest_undamaged(run) == run / "checkpoint-3"


# ---- Checkpoints of older versions, without checksums ----


@pytest.mark.parametrize("n_processes", [1, 2, 3])
def test_a_complete_one_is_taken(tmp_path, n_processes):
    checkpoint = write_checkpoint(tmp_path, 1, n_processes, with_checksums=False)
    assert newest_undamaged(tmp_path, n_processes) == checkpoint
    assert newest_undamaged(tmp_path, n_processes + 1) is None


@pytest.mark.parametrize(
    "name,missing",
    [
        ("optimizer.pt", "optimizer.pt"),
        ("scheduler.pt", "scheduler.pt"),
        ("rng_state.pth", "rng_state.pth"),
        ("model.safetensors", "weights"),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"half"])
def test_a_file_that_is_missing_or_not_complete_is_named(tmp_path, name, missing, content):
    checkpoint = write_checkpoint(tmp_path, 1, with_checksums=False)
    (checkpoint / name).unlink()
    if content is not None:
        (checkpoint / name).write_bytes(content)
        missing = name
    with pytest.raises(InputError, match=f"checkpoint-1 has no complete {missing}: delete what is there"):
        resume(tmp_path)


def test_all_files_that_are_missing_or_not_complete_are_named(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 1, with_checksums=False)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (checkpoint / name).unlink()
    (checkpoint / "training_args.bin").write_bytes(b"half")
    (checkpoint / "model.safetensors").write_bytes(b"half")
    listed = "scheduler.pt, optimizer.pt, rng_state.pth, model.safetensors, training_args.bin"
    with pytest.raises(InputError, match=f"has no complete {listed}: delete what is there"):
        resume(tmp_path)


def test_weights_and_optimizer_may_have_other_names(tmp_path):
    """FSDP writes an optimizer.bin; runs that save shards write folders, which are not looked into."""
    checkpoint = write_checkpoint(tmp_path, 1, with_checksums=False)
    (checkpoint / "optimizer.pt").rename(checkpoint / "optimizer.bin")
    (checkpoint / "model.safetensors").unlink()
    torch.save({}, checkpoint / "pytorch_model.bin")
    assert newest_undamaged(tmp_path) == checkpoint

    for name in ("optimizer.bin", "pytorch_model.bin", "scheduler.pt"):
        (checkpoint / name).unlink()
    assert newest_undamaged(tmp_path) is None
    (checkpoint / "pytorch_model_fsdp_0").mkdir()
    assert newest_undamaged(tmp_path) == checkpoint
    (checkpoint / "rng_state.pth").unlink()
    assert newest_undamaged(tmp_path) is None


def test_a_folder_in_the_place_of_weights_is_not_complete(tmp_path):
    checkpoint = write_checkpoint(tmp_path, 1, with_checksums=False)
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors").mkdir()
    with pytest.raises(InputError, match="has no complete model.safetensors: delete what is there"):
        resume(tmp_path)
