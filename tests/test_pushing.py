"""What is pushed into a repository with checksums leaves them true, and nothing else accepted."""

import os
import shutil

import pytest
import torch

from common.models.loading import load_model, save_model
from modeling_altclip import checksums_altclip
from modeling_altclip.checksums_altclip import (
    CHECKSUMS,
    find_damages,
    pushed_checksums,
    read_checksums,
    write_checksums,
)

from .conftest import ROOT
from .test_checksum_files import fill
from .test_checksums import flip


@pytest.fixture
def saved(tmp_path):
    """Save a model and its processor with checksums; return the folder."""
    folder = tmp_path / "saved"
    save_model(*load_model(str(ROOT / "tests/fixtures/v0.1.0/model")), folder)
    return folder


def change(folder):
    """Load a model and its processor from a folder, and change a value in a file of each."""
    model, processor = load_model(str(folder))
    with torch.no_grad():
        model.logit_scale.add_(0.5)
    processor.tokenizer.model_max_length = 20
    return model, processor


@pytest.fixture
def repository(saved, hub):
    """Put the saved folder on the hub, with a file of its own; return the folder that shows what is there."""
    repository = hub.folder / "me/model"
    shutil.copytree(saved, repository)
    (repository / "notes.txt").write_text("notes")
    return repository


@pytest.mark.parametrize("parts", [("model",), ("processor",), ("model", "processor")])
def test_a_push_into_a_repository_keeps_its_checksums_true(saved, repository, parts):
    model, processor = change(saved)
    before = read_checksums(repository)
    for part in parts:
        {"model": model, "processor": processor}[part].push_to_hub("me/model", token="hf_none")
    assert find_damages(repository) == []
    assert (load_model(str(repository))[0].logit_scale == model.logit_scale) == ("model" in parts)
    assert read_checksums(repository) != before
    # Of the folder that the model was loaded from, nothing has changed.
    assert read_checksums(saved) == before


def test_a_push_does_not_accept_what_it_has_not_uploaded(saved, repository):
    model, _ = change(saved)
    flip(repository / "tokenizer.json")
    model.push_to_hub("me/model", token="hf_none")
    assert find_damages(repository) == ["tokenizer.json has other bytes"]


@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_save_that_pushes_keeps_both_true(saved, repository, tmp_path, has_checksums):
    """The folder has another processor than the repository, which gets the model alone."""
    model, processor = change(saved)
    folder = tmp_path / "mine"
    processor.save_pretrained(folder)
    if has_checksums:
        write_checksums(folder)
    model.save_pretrained(folder, push_to_hub=True, repo_id="me/model", token="hf_none")
    assert (folder / CHECKSUMS).exists() == has_checksums
    if has_checksums:
        assert find_damages(folder) == []
    assert find_damages(repository) == []
    assert load_model(str(repository))[0].logit_scale == model.logit_scale


def test_a_repository_without_checksums_stays_without(saved, repository, hub):
    model, _ = change(saved)
    (repository / CHECKSUMS).unlink()
    model.push_to_hub("me/model", token="hf_none")
    assert CHECKSUMS not in [name for name, _ in hub.uploaded]
    assert load_model(str(repository))[0].logit_scale == model.logit_scale


def test_a_new_branch_begins_with_the_checksums_of_the_main_one(saved, repository, hub):
    model, _ = change(saved)
    model.push_to_hub("me/model", token="hf_none", revision="trial")
    assert hub.branches == ["main", "trial"]
    assert find_damages(repository) == []


def test_damaged_checksums_of_a_repository_are_named_and_nothing_is_pushed(saved, repository, hub):
    model, _ = change(saved)
    (repository / CHECKSUMS).write_text("{")
    with pytest.raises(ValueError, match="repo_id 'me/model' has a checksums.json that cannot be read: dele"):
        model.push_to_hub("me/model", token="hf_none")
    assert hub.uploaded == []


def test_checksums_change_for_what_is_pushed_alone(tmp_path, monkeypatch):
    """A file that has the time of before, or an earlier one, is not pushed, and neither is a subfolder."""
    pushed = ["config.json", "vocab.txt"]
    folder = fill(tmp_path / "mine", ["merges.txt", "model.safetensors", "part/config.json", *pushed])
    (folder / "model_index.json").write_text('{"part": 1}')
    times = {"config.json": 99, "model.safetensors": 100, "merges.txt": 101, "model_index.json": 200}
    for name in [*times, *pushed]:
        os.utime(folder / name, (100, 100))
    theirs = fill(tmp_path / "theirs", ["config.json", "model.safetensors", "tokenizer.json"])
    (theirs / "config.json").write_text("another")
    write_checksums(theirs)
    earlier = read_checksums(theirs)

    monkeypatch.setattr(checksums_altclip, "_download_checksums", lambda *_: earlier)
    with pushed_checksums(folder, "me/model", times, token=None, revision=None):
        during = read_checksums(folder)
    assert not (folder / CHECKSUMS).exists()
    assert during.keys() == {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt"}
    changed = {name for name in during if during[name] != earlier.get(name)}
    assert changed == set(pushed)
