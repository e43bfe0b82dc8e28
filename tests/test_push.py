"""`altclip push`: one commit of what others need, nothing that names this machine, and no conflict."""

import json
import shutil
import socket

import pytest
from huggingface_hub import HfApi

from altclip.command import main as altclip
from common.errors import InputError
from common.models.loading import load_model, save_model
from deploy.pushing.files import RECORD, read_contents
from deploy.pushing.job import PushArguments, main
from deploy.pushing.privacy import _PATHS
from modeling_altclip.checksums_altclip import write_checksums

from .conftest import ROOT
from .hub_server import TOKEN

CARD = "---\nlicense: mit\n---\n# A CLIP\n"
CODE = {"auto_map": {"AutoModel": "modeling_mine.Model", "AutoTokenizer": [None, "org/other--fast.Fast"]}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save a small model with its processor, its code and checksums."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_model(*load_model(str(ROOT / "tests/fixtures/v0.1.0/model")), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """Return the folder of a model with a card, a plot, results, and what a training leaves."""
    folder = tmp_path / "my-clip"
    shutil.copytree(saved, folder)
    (folder / "README.md").write_text(CARD)
    (folder / "recall.png").write_bytes(b"\x89PNG\0")
    for name in (".eval_results/a.yaml", "checkpoint-2/model.safetensors", "checkpoint-2/optimizer.pt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("[]")
    for name in ("training_args.bin", "trainer_state.json", "run.json", ".env", "optimizer.bin", "a.tmp"):
        (folder / name).write_text(str(tmp_path))
    return folder


def push(folder, **given):
    main(PushArguments(folder=str(folder), repo="me/clip", **given))


def pushed_files(hub_server, branch="main"):
    return set(hub_server.model("me/clip").branches[branch].files) - {".gitattributes"}


def test_a_dry_run_lists_all_and_connects_to_nothing(folder, hub_server, capsys):
    push(folder, dry_run=True, private=True)
    printed = capsys.readouterr().out
    assert f"-> private model {hub_server.url}/me/clip, main:" in printed
    size = (folder / "config.json").stat().st_size
    assert f"{size / 1000:.2f} kB  config.json" in printed
    assert ".eval_results/a.yaml" in printed
    left_out = "1 hidden, 1 in caches, 2 in checkpoints, 3 with records of a training, 1 with the state of an"
    assert f"Left out 8 files: {left_out} optimizer." in printed
    assert "training_args.bin" not in printed
    assert hub_server.requests == []
    assert not (folder / RECORD).exists()


def test_a_push_is_one_commit_of_what_others_need(folder, hub_server, capsys):
    push(folder)
    repository = hub_server.model("me/clip")
    assert [commit.title for commit in repository.commits.values()] == ["initial commit", "Push my-clip"]
    assert {"README.md", "config.json", "model.safetensors", "recall.png"} <= pushed_files(hub_server)
    assert ".eval_results/a.yaml" in pushed_files(hub_server)
    left = {"training_args.bin", "run.json", ".env", RECORD, "optimizer.bin", "a.tmp"}
    assert not left & pushed_files(hub_server)
    assert not [name for name in pushed_files(hub_server) if "checkpoint-" in name]
    oid = repository.at("main").oid
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f'commit {oid[:8]}. Next: AutoModel.from_pretrained("me/clip", revision="{oid}")')

    # The same once more is no commit.
    push(folder)
    assert repository.at("main").oid == oid
    assert "Nothing has changed since the last push" in capsys.readouterr().out


def test_private_is_kept(folder, hub_server):
    push(folder, private=True)
    assert hub_server.model("me/clip").private
    HfApi().create_repo("me/public")
    with pytest.raises(InputError, match="me/public is there already and public"):
        main(PushArguments(folder=str(folder), repo="me/public", private=True))
    assert len(hub_server.model("me/public").commits) == 1


def test_a_branch_is_made(folder, hub_server):
    push(folder, revision="trial")
    assert pushed_files(hub_server) == set()
    assert "config.json" in pushed_files(hub_server, "trial")


def test_what_was_pushed_and_is_gone_is_deleted(folder, hub_server, capsys):
    push(folder)
    (folder / "recall.png").unlink()
    (folder / "README.md").write_text(CARD + "New.\n")
    push(folder)
    assert "     deleted  recall.png\n" in capsys.readouterr().out
    assert "recall.png" not in pushed_files(hub_server)
    assert hub_server.model("me/clip").file("main", "README.md").content.endswith(b"New.\n")


def test_a_changed_repository_is_refused(folder, hub_server):
    push(folder)
    theirs = hub_server.put("me/clip", {"README.md": b"theirs"}, title="Correct the card")
    (folder / "README.md").write_text(CARD + "New.\n")
    with pytest.raises(InputError, match=f"has changed: .* at {theirs[:8]} now, 'Correct the card' by else"):
        push(folder)
    with pytest.raises(InputError, match="has changed: it was at commit 1234567"):
        push(folder, parent_commit="1234567")
    assert hub_server.model("me/clip").file("main", "README.md").content == b"theirs"
    push(folder, parent_commit=theirs[:8])
    assert hub_server.model("me/clip").file("main", "README.md").content.endswith(b"New.\n")


def test_a_change_during_the_push_is_refused(folder, hub_server):
    HfApi().create_repo("me/clip")
    hub_server.before_commit = lambda: hub_server.put("me/clip", {"theirs.txt": b"1"}, title="Quick")
    with pytest.raises(InputError, match="has changed: .*'Quick' by else. Nothing was replaced"):
        push(folder)
    assert pushed_files(hub_server) == {"theirs.txt"}


def test_a_repository_of_others_files_is_refused(folder, hub_server):
    HfApi().create_repo("me/clip")
    hub_server.put("me/clip", {"model.safetensors": b"theirs"})
    with pytest.raises(
        InputError, match="has 1 files that this folder did not push, model.safetensors among"
    ):
        push(folder)


@pytest.mark.parametrize(
    "request_,how",
    [
        ("POST .*/commit/", 500),
        ("POST .*/commit/", "drop"),
        ("POST .*/commit/", "lose"),
        ("PUT /lfs", "drop"),
        ("GET /api/whoami", "drop"),
    ],
)
def test_a_failure_on_the_way_is_repeated(folder, hub_server, request_, how, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub_server.fail(request_, how)
    push(folder)
    # The first, and one of ours: none is made twice.
    assert len(hub_server.model("me/clip").commits) == 2
    assert "model.safetensors" in pushed_files(hub_server)


def test_a_push_whose_answer_was_lost_is_no_conflict(folder, hub_server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    push(folder)
    (folder / "recall.png").unlink()
    hub_server.fail("POST .*/commit/", "lose")
    push(folder)
    assert len(hub_server.model("me/clip").commits) == 3
    assert hub_server.model("me/clip").at("main").oid in (folder / RECORD).read_text()


def test_a_push_that_broke_is_resumed(folder, hub_server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub_server.fail("POST .*/commit/", 503, times=9)
    with pytest.raises(InputError, match="broke off .*repeat the command, which goes on from"):
        push(folder, retries=1)
    assert pushed_files(hub_server) == set()
    n_bytes = hub_server.received
    assert n_bytes == (folder / "model.safetensors").stat().st_size
    hub_server.failures.clear()
    push(folder)
    assert hub_server.received == n_bytes  # the weights were there already
    assert "model.safetensors" in pushed_files(hub_server)


@pytest.mark.parametrize(
    "text,found",
    [
        ("at /home/someone/data.", "/home/someone/data."),
        ('{"path": "/nfs/team/clips/a"}', "/nfs/team/clips/a"),
        ("file:///Users/me/x", "/Users/me/x"),
        ("C:\\Users\\me", "C:\\Users\\me"),
        ('"C:\\\\Users\\\\me"', "C:\\\\Users\\\\me"),
        ("https://huggingface.co/home/me/clip/x", None),
        ("#!/usr/bin/env python and /dev/shm/x/y", None),
        ("../data/images/a/b, ./tmp/x/y, ~/work/a and outputs/a/b/c", None),
        ("${HOME}/work/x and <folder>/tmp/x and either/or/both/x", None),
        ("s3://bucket/home/me/x", None),
    ],
)
def test_absolute_paths_are_told_from_others(text, found):
    match = _PATHS.search(text)
    assert (match and match[0]) == found


def test_what_is_private_is_refused_with_file_and_line(folder, hub_server, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-7")
    monkeypatch.chdir(folder.parent)
    token = "hf_" + "A1" * 17
    (folder / "vocab.txt").write_text("/var/www/html\n")  # no path, but a piece of text
    (folder / "notes.txt").write_text(f"1\nby me@gpu-7\n{token} and {TOKEN}\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name": f"{folder}/teacher"}))
    write_checksums(folder)
    with pytest.raises(InputError) as raised:
        push(folder)
    said = str(raised.value)
    assert "4 places name what is private" in said
    assert f"config.json, line 1: '{folder}" in said
    assert "notes.txt, line 2: 'gpu-7', the name of this machine" in said
    assert said.count("notes.txt, line 3: 'hf_") == 2
    assert token not in said
    assert TOKEN not in said
    assert hub_server.requests == []


def test_metadata_of_weights_are_searched(folder, hub_server):
    from safetensors.torch import load_file, save_file

    weights = folder / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt", "from": "/home/someone/clip"})
    write_checksums(folder)
    with pytest.raises(InputError, match="model.safetensors, line 1: '/home/someone/clip', an absolute path"):
        push(folder)
    push(folder, allow=["/home/someone/clip"])


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json, and so no model"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has a configuration and no weights"),
        (
            lambda folder: (folder / "config.json").write_text(json.dumps(CODE)),
            "names code in modeling_mine.py",
        ),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/"}'),
            "names the base model '/', a folder of this machine",
        ),
        (
            lambda folder: ((folder / "b.safetensors").write_text("{}"), write_checksums(folder)),
            "is no safetensors file",
        ),
        (lambda folder: (folder / "a").symlink_to(ROOT / "README.md"), "lies outside of the folder"),
        (lambda folder: (folder / "a").symlink_to(ROOT / "docs"), "lies outside of the folder"),
        (lambda folder: (folder / RECORD).write_text("[1]"), "record .* is damaged: remove it"),
    ],
)
def test_an_incomplete_folder_is_refused(folder, hub_server, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message):
        push(folder)
    assert hub_server.requests == []


def test_missing_shards_imports_and_damages_are_refused(folder):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(InputError, match="names model-00002-of-00002.safetensors, which folder"):
        push(folder, dry_run=True)
    index.unlink()

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | CODE))
    (folder / "modeling_mine.py").write_text("from .other_mine import x\n")
    with pytest.raises(InputError, match="other_mine.py"):
        push(folder, dry_run=True)
    (folder / "other_mine.py").write_text("x = 1\n")
    write_checksums(folder)
    push(folder, dry_run=True)

    (folder / "other_mine.py").write_text("x = 2\n")
    with pytest.raises(InputError, match="is not as it was saved, other_mine.py has other bytes"):
        push(folder, dry_run=True)


@pytest.mark.parametrize(
    "given,message",
    [
        ({"repo": "clip"}, "has no owner: give OWNER/NAME, such as me/clip"),
        ({"repo": "a/b/c"}, "is no name on the Hub"),
        ({"repo_type": "space"}, "repo_type is 'space': give model or dataset"),
        ({"retries": -1}, "retries is -1: give 0 or more"),
        ({"parent_commit": "abc"}, "parent_commit 'abc' is too short"),
    ],
)
def test_wrong_arguments(given, message):
    with pytest.raises(InputError, match=message):
        PushArguments(**{"folder": "x", "repo": "me/clip"} | given)


def test_who_may_not_push_is_told_so(folder, hub_server, monkeypatch):
    with pytest.raises(InputError, match="repo 'others/clip' may not be written with this token"):
        main(PushArguments(folder=str(folder), repo="others/clip"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        push(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match="log in by `hf auth login`"):
        push(folder)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "none"))
    with pytest.raises(InputError, match="log in by `hf auth login`"):
        push(folder)


def test_the_command_takes_folder_and_repository_without_flags(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["altclip"])
    altclip(["push", str(folder), "me/clip", "--dry_run"])
    assert "This was a dry run" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        altclip(["push", str(folder)])
    assert end.value.code == 2


def test_the_card_comes_first(folder):
    assert read_contents(folder).files[0].name == "README.md"
