"""The tests' Hub answers huggingface_hub's own client as the real one does, failures included."""

import os

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
    hf_hub_download,
    metadata_update,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

WEIGHTS = os.urandom(300_000)
RESULTS = b"- dataset: {id: org/scenes, task_id: default}\n  value: 58.2\n"


@pytest.fixture
def api(hub_server):
    """Return a client, with a repository that has a file of git and one of LFS."""
    api = HfApi()
    api.create_repo("me/clip")
    commit(api, {"config.json": b"{}", "sub/model.safetensors": WEIGHTS})
    return api


def commit(api, files, **given):
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    given = {"commit_message": "Add", "operations": operations} | given
    return api.create_commit("me/clip", **given)


def test_who_asks(api, hub_server):
    assert api.whoami()["name"] == "me"
    assert api.create_repo("clip", exist_ok=True).repo_id == "me/clip"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/clip")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("others/clip")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_wrong").whoami()

    api.create_repo("org/secret", private=True)
    assert api.model_info("org/secret").private
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=False).model_info("org/secret")
    assert not HfApi(token=False).model_info("me/clip").private


def test_a_commit_with_small_and_large_files(api, hub_server):
    info = api.model_info("me/clip", files_metadata=True)
    sizes = {file.rfilename: (file.size, file.lfs is not None) for file in info.siblings}
    assert sizes["config.json"] == (2, False)
    assert sizes["sub/model.safetensors"] == (len(WEIGHTS), True)
    names = [file.path for file in api.list_repo_tree("me/clip", recursive=True)]
    assert names == [".gitattributes", "config.json", "sub", "sub/model.safetensors"]
    assert [file.path for file in api.list_repo_tree("me/clip", "sub")] == ["sub/model.safetensors"]
    (found,) = api.get_paths_info("me/clip", ["sub/model.safetensors", "none"])
    assert found.lfs.size == len(WEIGHTS)
    assert api.file_exists("me/clip", "config.json")
    assert not api.file_exists("me/clip", "other.json")

    before = hub_server.received
    commit(api, {"copy.safetensors": WEIGHTS})
    assert hub_server.received == before  # it has that content
    assert commit(api, {"config.json": b"{}"}).oid == api.model_info("me/clip").sha  # nothing new


def test_downloads_of_revisions(api, hub_server):
    first = api.model_info("me/clip").sha
    commit(api, {"config.json": b'{"new": 1}'})
    path = hf_hub_download("me/clip", "sub/model.safetensors")
    assert open(path, "rb").read() == WEIGHTS
    assert open(hf_hub_download("me/clip", "config.json", revision=first)).read() == "{}"
    assert open(hf_hub_download("me/clip", "config.json")).read() == '{"new": 1}'
    folder = snapshot_download("me/clip", revision=first)
    assert sorted(os.listdir(folder)) == [".gitattributes", "config.json", "sub"]
    assert folder.endswith(first)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/clip", "none.json")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("me/clip", "config.json", revision="none")


def test_branches_and_tags(api):
    first = api.model_info("me/clip").sha
    api.create_branch("me/clip", branch="trial")
    api.create_tag("me/clip", tag="v1")
    on_trial = commit(api, {"config.json": b"[]"}, revision="trial").oid
    refs = api.list_repo_refs("me/clip")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "trial": on_trial}
    assert [tag.name for tag in refs.tags] == ["v1"]
    assert api.model_info("me/clip").sha == first
    assert [made.title for made in api.list_repo_commits("me/clip", revision="trial")] == [
        "Add",
        "Add",
        "initial commit",
    ]
    api.delete_branch("me/clip", branch="trial")
    assert not api.revision_exists("me/clip", "trial")


def test_a_commit_is_refused_if_another_came_before(api, hub_server):
    parent = api.model_info("me/clip").sha
    commit(api, {"a.txt": b"a"}, parent_commit=parent)
    with pytest.raises(HfHubHTTPError, match="412.*\n*.*A commit has happened since") as raised:
        commit(api, {"b.txt": b"b"}, parent_commit=parent)
    assert raised.value.response.status_code == 412
    assert not api.file_exists("me/clip", "b.txt")
    # All lines of a commit or none.
    with pytest.raises(EntryNotFoundError):
        commit(api, {}, operations=[CommitOperationAdd("c", b"c"), CommitOperationDelete("none")])
    assert not api.file_exists("me/clip", "c")


def test_cards_and_results(api, hub_server):
    result = EvalResult("zero-shot-image-classification", "scenes", "scenes", "accuracy", 0.5)
    data = ModelCardData(license="mit", language=["en", "zh"], model_name="clip", eval_results=[result])
    ModelCard(f"---\n{data.to_yaml()}\n---\n# Clip\n").push_to_hub("me/clip")
    commit(api, {".eval_results/scenes.yaml": RESULTS})
    info = api.model_info("me/clip")
    assert info.card_data.license == "mit"
    assert "license:mit" in info.tags
    assert info.model_index[0]["results"][0]["metrics"][0]["value"] == 0.5
    assert info.eval_results is None
    (entry,) = api.model_info("me/clip", expand=["evalResults"]).eval_results
    assert (entry.dataset_id, entry.value) == ("org/scenes", 58.2)

    metadata_update("me/clip", {"license": "apache-2.0"}, overwrite=True)
    assert ModelCard.load("me/clip").data.license == "apache-2.0"


def test_an_upload_that_fails_is_repeated(api, hub_server):
    hub_server.fail("PUT /lfs", 500)
    hub_server.fail("POST .*/batch", "drop")
    commit(api, {"other.safetensors": WEIGHTS[::-1]})
    assert api.file_exists("me/clip", "other.safetensors")
    assert all(failure.times == 0 for failure in hub_server.failures)


def test_a_download_that_breaks_goes_on_where_it_was(api, hub_server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", len(WEIGHTS) // 2)
    hub_server.fail("GET /cdn/", "cut")
    path = hf_hub_download("me/clip", "sub/model.safetensors")
    assert open(path, "rb").read() == WEIGHTS
    assert hub_server.ranges == [f"bytes={len(WEIGHTS) // 2}-"]


def test_an_answer_can_be_lost_after_the_commit(api, hub_server):
    before = api.model_info("me/clip").sha
    hub_server.fail("POST .*/commit/", "lose")
    with pytest.raises(Exception, match="disconnected"):
        commit(api, {"a.txt": b"a"})
    assert api.model_info("me/clip").sha != before
    assert api.file_exists("me/clip", "a.txt")


def test_xet_is_refused_and_the_client_knows_no_other_way(api, hub_server, monkeypatch):
    """Therefore `HF_HUB_DISABLE_XET` is set for uploads of LFS files."""
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    with pytest.raises(Exception, match="404|xet"):
        commit(api, {"other.safetensors": WEIGHTS[::-1]})
    assert not api.file_exists("me/clip", "other.safetensors")


def test_what_it_lacks_is_said(api, capsys):
    with pytest.raises(HfHubHTTPError, match="501"):
        api.get_repo_discussions("me/clip").__next__()
    assert "no answer to GET /api/models/me/clip/discussions" in capsys.readouterr().out
