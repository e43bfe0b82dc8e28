"""Commit files into a repository of the Hub, all or none, and replace nothing that others have put there."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # of the client's HTTP library, whichever it is
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import sha

from common.errors import InputError, one_line

from .files import Contents, PushedFile
from .record import Pushed

# A new repository has it before anything is pushed.
_OF_HUB = ".gitattributes"
_LONGEST_WAIT = 60  # seconds
_TRY_LATER = (408, 429)
_CONFLICT = 412
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Target:
    """Where a folder is pushed: a repository, its kind (`model` or `dataset`) and its branch."""

    repo: str
    repo_type: str
    revision: str

    @property
    def address(self) -> str:
        prefix = constants.REPO_TYPES_URL_PREFIXES.get(self.repo_type, "")
        return f"{constants.ENDPOINT}/{prefix}{self.repo}"

    @property
    def where(self) -> str:
        """Name the branch of the repository in the record of pushes."""
        return f"{self.address}@{self.revision}"


@dataclass(frozen=True)
class _State:
    """A repository as it is: its last commit, and each file with its hash, SHA-256 for large files."""

    commit: str
    files: dict[str, str]


class Repository:
    """A repository that is pushed to; it is made if it is not there.

    Args:
        target: where it is.
        private: nobody else may read it.
        retries: how often a request is repeated that fails on the way, or in the Hub.

    Raises:
        InputError: there is no token, or one that may not write there; the repository is public and `private`
            is set; or the Hub cannot be reached.
    """

    def __init__(self, target: Target, *, private: bool, retries: int):
        self.target = target
        self.retries = retries
        self.hub = HfApi()
        self._given = {"repo_id": target.repo, "repo_type": target.repo_type}
        self._ask(self.hub.whoami)
        self._ask(partial(self.hub.create_repo, **self._given, private=private or None, exist_ok=True))
        self._check_private(private)
        if target.revision != constants.DEFAULT_REVISION:
            branch = partial(self.hub.create_branch, **self._given, branch=target.revision, exist_ok=True)
            self._ask(branch)

    def _check_private(self, private: bool) -> None:
        """Check before anything leaves that a repository that was there is as private as it shall be."""
        info = self._ask(partial(self.hub.repo_info, **self._given))
        if private and not info.private:
            raise InputError(
                f"private is set, and {self.target.repo} is there already and public: make it private in its "
                "settings, or push to another repository"
            )

    def push(
        self, contents: Contents, message: str, *, last: Pushed | None, parent_commit: str | None
    ) -> Pushed:
        """Commit the files, and delete those of the last push that are gone.

        Large files are uploaded first, and those that are there already are not sent again. So a push that
        broke is resumed by repeating it.

        Args:
            last: the last push from this folder; None if there was none.
            parent_commit: the commit that the repository has to be at, in place of the last push's.

        Raises:
            InputError: the repository has changed since then, or has files that this folder did not push; or
                the Hub refuses the files or cannot be reached.
        """
        pushed = sorted(contents.names)
        state = self._read_state()
        outdated = sorted((set(last.files if last else []) - contents.names) & state.files.keys())
        if _is_as_pushed(state, contents, outdated):
            return Pushed(state.commit, pushed)  # also where only the answer to an earlier push was lost
        self._check_unchanged(state, last, parent_commit)
        for attempt in range(self.retries + 1):
            try:
                return Pushed(self._commit(contents, outdated, message, state.commit), pushed)
            except (HTTPError, RuntimeError, ValueError) as error:
                # The failure may have come after the commit, whose answer was lost.
                now = self._read_state()
                if _is_as_pushed(now, contents, outdated):
                    return Pushed(now.commit, pushed)
                if _status_of(error) == _CONFLICT:
                    raise self._conflict(now, state.commit) from error
                if not _is_transient(error) or attempt == self.retries:
                    raise _explain(error, self.target) from error
                _wait(attempt, error)
        raise AssertionError("the last attempt returns or raises")

    def _commit(self, contents: Contents, outdated: list[str], message: str, parent: str) -> str:
        """Upload what is missing, and commit all in one; return the new commit."""
        operations = [CommitOperationAdd(file.name, file.path) for file in contents.files]
        operations += [CommitOperationDelete(name, is_folder=False) for name in outdated]
        commit = self.hub.create_commit(
            **self._given,
            operations=operations,
            commit_message=message,
            revision=self.target.revision,
            parent_commit=parent,
        )
        return commit.oid

    def _read_state(self) -> _State:
        """Ask what the repository has now."""
        info = self._ask(partial(self.hub.repo_info, **self._given, revision=self.target.revision))
        tree = partial(self.hub.list_repo_tree, **self._given, revision=info.sha, recursive=True)
        files = {}
        for found in self._ask(lambda: list(tree())):
            if isinstance(found, RepoFile):
                files[found.path] = found.lfs.sha256 if found.lfs else found.blob_id
        return _State(info.sha, files)

    def _check_unchanged(self, state: _State, last: Pushed | None, parent_commit: str | None) -> None:
        """Refuse to replace what this folder has not pushed.

        Raises:
            InputError: the repository is at another commit than expected.
        """
        if parent_commit is not None:
            if not state.commit.startswith(parent_commit):
                raise self._conflict(state, parent_commit)
        elif last is not None:
            if state.commit != last.commit:
                raise self._conflict(state, last.commit)
        elif others := sorted(state.files.keys() - {_OF_HUB}):
            raise InputError(
                f"{self.target.repo} has {len(others)} files that this folder did not push, {others[0]} "
                f"among them: push to another repository, or look at {self.target.address} and give "
                f"--parent_commit {state.commit[:8]} to replace those of the same names"
            )

    def _conflict(self, state: _State, expected: str) -> InputError:
        """Describe who changed the repository since a commit, and what to do."""
        commits = self._ask(partial(self.hub.list_repo_commits, **self._given, revision=self.target.revision))
        newest = commits[0]
        authors = ", ".join(newest.authors) or "somebody"
        return InputError(
            f"{self.target.repo} has changed: it was at commit {expected[:8]}, and is at {state.commit[:8]} "
            f"now, {newest.title!r} by {authors}. Nothing was replaced. Look at {self.target.address}, and "
            f"give --parent_commit {state.commit[:8]} to push over it"
        )

    def _ask(self, request: Callable[[], _Answer]) -> _Answer:
        """Ask the Hub, again after failures on the way.

        Raises:
            InputError: it refuses, or cannot be reached.
        """
        for attempt in range(self.retries + 1):
            try:
                return request()
            except (HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, ValueError) as error:
                if not _is_transient(error) or attempt == self.retries:
                    raise _explain(error, self.target) from error
                _wait(attempt, error)
        raise AssertionError("the last attempt returns or raises")


def _is_as_pushed(state: _State, contents: Contents, outdated: list[str]) -> bool:
    """Check whether the repository has all files, with the same bytes, and none that are outdated."""
    if not contents.names <= state.files.keys() or state.files.keys() & set(outdated):
        return False  # without hashing any
    return all(_has(state.files[file.name], file) for file in contents.files)


def _has(digest: str, file: PushedFile) -> bool:
    """Compare a file with the hash that the repository has: SHA-256, or git's for small files."""
    with open(file.path, "rb") as stream:
        if len(digest) == 64:
            return sha.sha_fileobj(stream).hex() == digest
        return sha.git_hash(stream.read()) == digest


def _status_of(error: BaseException) -> int | None:
    """Return the status of the Hub's answer, None where it is no answer or there was none."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _is_transient(error: BaseException) -> bool:
    """Check whether the same request may succeed a moment later."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return _is_transient(error.__cause__)  # the client wraps what went wrong in an upload
    status = _status_of(error)
    if status is not None:
        return status in _TRY_LATER or status >= 500
    return isinstance(error, HTTPError)


def _wait(attempt: int, error: BaseException) -> None:
    """Wait longer after each failure: 1, 2, 4 ... seconds."""
    seconds = min(2**attempt, _LONGEST_WAIT)
    print(f"{one_line(error)}: trying again in {seconds} s")
    time.sleep(seconds)


def _explain(error: BaseException, target: Target) -> InputError:
    """Say in one line what the Hub refused, and what to do."""
    status = _status_of(error)
    if isinstance(error, OfflineModeIsEnabled):
        return InputError("HF_HUB_OFFLINE is set, so that nothing can be pushed: unset it, or add --dry_run")
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return InputError(
            "the Hub knows no user by the token that is given, or there is none: log in by `hf auth login`, "
            "or set HF_TOKEN to a token that may write"
        )
    if status == 403:
        return InputError(
            f"repo {target.repo!r} may not be written with this token: give a repository of your own, or a "
            f"token with the right to write ({one_line(error)})"
        )
    if _is_transient(error):
        return InputError(
            f"the push to {target.repo} broke off ({one_line(error)}): repeat the command, which goes on "
            "from the files that were uploaded"
        )
    return InputError(f"the Hub refuses the push to {target.repo}: {one_line(error)}")


__all__ = ["Repository", "Target"]
