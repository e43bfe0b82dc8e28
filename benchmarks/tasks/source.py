"""Open what a task names: a split of a folder or Hub dataset, one of its files, its commit on the Hub."""

import os
import re
from functools import cache
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import GatedRepoError
from huggingface_hub.file_download import repo_folder_name

from common.errors import InputError
from common.files.contents import contents_of
from common.files.image_folders import source_of
from common.files.json_files import refuse_repeated_keys
from common.files.left_out_files import refuse_left_out
from common.files.rows import READING, find_builder, open_rows, what_is_wrong
from common.files.tars import name_pictures

from .captions import Rows
from .task import Task


def open_split(task: Task, split: str, streaming: bool = False, columns: list[str] | None = None) -> Rows:
    """Open one split, and nothing of the others, of a folder or from the Hub.

    Args:
        columns: read only these, which only parquet files allow.

    Raises:
        InputError: it cannot be opened.
    """
    opening = {
        "streaming": streaming,
        "allow_outside": task.allow_outside_images,
        "image": task.columns.get("image") or "image",
    }
    try:
        source = source_of(task.dataset, task.config)
        if source["path"] == "imagefolder" and not task.data_files:
            return open_rows(task.dataset, split, **opening, **source)
        options = {
            "path": task.dataset,
            "name": task.config,
            "data_files": _files_of_split(task, split),
            "revision": full_revision(task.dataset, task.revision),
        }
        if Path(task.dataset).is_dir():
            (paths,) = options["data_files"].values()
            listed = [paths] if isinstance(paths, str) else paths
            options["description"] = contents_of(Path(task.dataset, path) for path in listed)
        if columns:
            options["columns"] = columns
        rows = open_rows(task.dataset, split, **opening, **options)
        return name_pictures(rows, task.columns.get("image")) if task.layout == "webdataset" else rows
    except READING as error:
        raise reading_error(task, error, split) from error


def _files_of_split(task: Task, split: str) -> dict[str, str | list[str]]:
    """Return the files of one split, as `{split: files}`.

    Without them `datasets` would prepare all splits, and would read a folder that was rewritten from its
    cache.

    Raises:
        InputError: there is no such split, or as `refuse_left_out` and `refuse_repeated_keys`.
    """
    files = task.data_files
    if not files:
        revision = full_revision(task.dataset, task.revision)
        source = {"path": task.dataset, "name": task.config, "revision": revision}
        builder = find_builder(task.dataset, allow_outside=task.allow_outside_images, **source)
        files = builder.config.data_files
    by_split = {str(name): paths for name, paths in (files or {}).items()}
    if Path(task.dataset).is_dir() and not task.data_files:
        refuse_left_out(task.dataset, by_split)
    if split not in by_split:
        raise InputError(
            f"dataset {task.dataset!r} has no split {split!r}; it has {', '.join(by_split)}: fix `split` of "
            f"{task.file}"
        )
    paths = by_split[split]
    listed = [paths] if isinstance(paths, str) else list(paths)
    refuse_repeated_keys(os.path.join(task.dataset, path) for path in listed)
    return {split: paths if task.data_files else listed}


@cache
def full_revision(dataset: str, revision: str | None) -> str | None:
    """Complete the hash of a commit to all forty digits, which the Hub requires; return other revisions as
    they are.

    Raises:
        InputError: the dataset has no such commit, or several.
    """
    if revision is None or len(revision) == 40 or not re.fullmatch("[0-9a-f]{7,39}", revision):
        return revision
    # The cache knows the commits of data that was read before, without asking the Hub.
    snapshots = Path(HF_HUB_CACHE, repo_folder_name(repo_id=dataset, repo_type="dataset"), "snapshots")
    found = [path.name for path in snapshots.glob(f"{revision}*")]
    if not found:
        commits = HfApi().list_repo_commits(dataset, repo_type="dataset")
        found = [commit.commit_id for commit in commits if commit.commit_id.startswith(revision)]
    if len(found) != 1:
        raise InputError(
            f"dataset {dataset!r} has {len(found)} commits that begin with {revision}: give all digits of "
            "`revision`"
        )
    return found[0]


def commit_of_dataset(task: Task) -> str | None:
    """Return the full hash of the commit that is read now; None for a folder.

    Raises:
        InputError: the Hub does not tell.
    """
    if Path(task.dataset).is_dir():
        return None
    try:
        revision = full_revision(task.dataset, task.revision)
        if revision and len(revision) == 40:
            return revision
        return HfApi().dataset_info(task.dataset, revision=revision).sha  # of a branch, a tag, or the default
    except (OSError, ValueError) as error:
        raise reading_error(task, error) from error


def fetch(task: Task, name: str) -> Path:
    """Return the path of a file of the dataset, downloaded unless the dataset is a folder.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if Path(task.dataset).is_dir():
        path = Path(task.dataset) / name
        if not path.exists():
            raise InputError(f"dataset {task.dataset!r} has no file {name!r}, which {task.file} names")
        return path
    try:
        revision = full_revision(task.dataset, task.revision)
        return Path(hf_hub_download(task.dataset, name, repo_type="dataset", revision=revision))
    except (OSError, ValueError) as error:
        raise reading_error(task, error) from error


def reading_error(task: Task, error: Exception, split: str | None = None) -> InputError:
    """Return an error that says why a dataset cannot be read, and what the user can do about it."""
    if isinstance(error, InputError):
        return error
    # `datasets` raises an error of its own here, without the Hub's as its cause.
    if isinstance(error, GatedRepoError) or "is a gated dataset" in str(error):
        page = f"https://huggingface.co/datasets/{task.dataset}"
        return InputError(
            f"dataset {task.dataset!r} is gated: accept its terms at {page} and log in with `hf auth login`"
        )
    given = {
        "revision": task.revision,
        "config": task.config,
        "data_files": task.data_files,
        "split": split or task.split,
    }
    where = ", ".join(f"{key} {value!r}" for key, value in given.items() if value)
    return InputError(
        f"dataset {task.dataset!r} ({where}: see {task.file}) cannot be loaded: "
        f"{what_is_wrong(task.dataset, error)}"
    )
