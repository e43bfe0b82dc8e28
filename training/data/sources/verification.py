"""Compare what a source states and nobody has verified with its repository on the Hub."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from datasets import get_dataset_config_names
from huggingface_hub import HfApi, hf_hub_download, metadata_load
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.image_utils import httpx  # the client that huggingface_hub asks the Hub with

from benchmarks.tasks.checks import named_columns
from common.errors import InputError, one_line
from common.files.rows import READING, find_builder, open_rows

from .reading import value_at
from .source import Source

# Errors of asking the Hub, and of reading what it gives.
_NO_ANSWER = (*READING, httpx.TransportError)
_N_ROWS = 200  # read of a source, to see its columns and codes of languages
_ROUNDING = 0.1  # share by which stated bytes may differ
_SHOWN = 12  # names that a table lists


@dataclass(frozen=True)
class Finding:
    """What the Hub says about one field of a source.

    - `stated`: the value in the source's file. `found`: that on the Hub, or why it is not known.
    - `verdict`: `as stated`, `differs`, or `not told`, of what only a reader of the card can judge.
    """

    source: str
    field: str
    stated: str
    found: str
    verdict: Literal["as stated", "differs", "not told"]


def check_network() -> None:
    """Check that the Hub answers.

    Raises:
        InputError: it does not.
    """
    try:
        # Any answer will do, an error too.
        HfApi().dataset_info("altclip/no-such-dataset")
    except HfHubHTTPError:
        return
    except (OSError, httpx.TransportError) as error:
        raise InputError(
            f"the Hub cannot be reached, {one_line(error)}: sources are verified with a network; --list_only "
            "true lists without one what is unverified"
        ) from error


def verify_source(source: Source) -> list[Finding]:
    """Compare the unverified fields of a source with its repository.

    Returns:
        A finding for each of them; for `dataset` or `revision` alone if there is no such one.
    """
    repository = _Repository(source)
    try:
        _ = repository.info
    except GatedRepoError:
        return [_find_gated(source, field) for field in source.unverified]
    except RevisionNotFoundError:
        return [_make_finding(source, "revision", "no such commit", False)]
    except RepositoryNotFoundError:
        return [_make_finding(source, "dataset", "no such repository, or a private one", False)]
    except _NO_ANSWER as error:
        return [_make_finding(source, "dataset", one_line(error), None)]

    checks: dict[str, Callable[[], tuple[str, bool | None]]] = {
        "revision": repository.compare_revision,
        "splits": repository.compare_splits,
        "configs": repository.compare_configs,
        "columns": repository.compare_columns,
        "data_files": repository.compare_columns,
        "codes": repository.compare_codes,
        "n_rows": repository.compare_rows,
        "n_bytes": repository.compare_bytes,
        "licence": repository.compare_licence,
        "gated": repository.compare_gated,
    }
    findings = []
    for field in source.unverified:
        if field not in checks:
            findings.append(_make_finding(source, field, "read the card", None))
            continue
        try:
            found, agrees = checks[field]()
        except _NO_ANSWER as error:
            found, agrees = one_line(error), None
        findings.append(_make_finding(source, field, found, agrees))
    return findings


def _find_gated(source: Source, field: str) -> Finding:
    """Return the finding of one field of a gated repository, which shows nothing else."""
    if field == "gated":
        return _make_finding(source, field, "True", source.gated)
    return _make_finding(source, field, "gated: accept its terms and log in", None)


def _make_finding(source: Source, field: str, found: str, agrees: bool | None) -> Finding:
    verdicts = {True: "as stated", False: "differs", None: "not told"}
    return Finding(source.name, field, state(source, field), found, verdicts[agrees])


def state(source: Source, field: str) -> str:
    """Return a field's value in short: `{"de": "en-de", ...}` -> `en-de en-fr ... (99)`."""
    value = getattr(source, field)
    if isinstance(value, dict):
        names = []
        for item in value.values():
            names += [str(name) for name in named_columns(item)]
        return _list_some(names)
    if isinstance(value, list):
        return _list_some(value)
    return "not known" if value is None else str(value)


def _list_some(names: list[str]) -> str:
    """List names, with their number where there are many."""
    listed = " ".join(names[:_SHOWN])
    return listed if len(names) <= _SHOWN else f"{listed} ... ({len(names)})"


class _Repository:
    """A source's repository on the Hub. Each `compare_*` returns what is found, and whether it is as stated.

    The answer is None where that cannot be told.
    """

    def __init__(self, source: Source):
        self.source = source

    @cached_property
    def info(self):
        return HfApi().dataset_info(self.source.dataset, revision=self.source.revision)

    @cached_property
    def configs(self) -> list[str]:
        return get_dataset_config_names(self.source.dataset, revision=self.source.revision)

    @cached_property
    def card(self) -> dict:
        """The metadata of the card; empty where there is none."""
        try:
            path = hf_hub_download(
                self.source.dataset, "README.md", repo_type="dataset", revision=self.source.revision
            )
        except EntryNotFoundError:
            return {}
        return metadata_load(path) or {}

    @cached_property
    def options(self) -> dict:
        """Arguments of `open_rows`, with the first configuration that the source and the Hub both have."""
        shared = [name for name in self.source.configs.values() if name in self.configs]
        options = {"path": self.source.dataset, "revision": self.source.revision}
        if self.source.data_files is not None:
            options["data_files"] = self.source.data_files
        return options | {"name": shared[0] if shared else self.source.config}

    @cached_property
    def builder(self):
        return find_builder(self.source.dataset, **self.options)

    @cached_property
    def rows(self) -> list[dict]:
        """The first rows, of undecoded images."""
        split = next(iter(self.source.splits.values()))
        stream = open_rows(self.source.dataset, split, streaming=True, **self.options)
        return list(stream.take(_N_ROWS))

    def compare_revision(self) -> tuple[str, bool | None]:
        return self.info.sha, self.source.revision == self.info.sha

    def compare_splits(self) -> tuple[str, bool | None]:
        available = [str(name) for name in self.builder.config.data_files]
        return _list_some(available), set(self.source.splits.values()) <= set(available)

    def compare_configs(self) -> tuple[str, bool | None]:
        missing = [name for name in self.source.configs.values() if name not in self.configs]
        found = f"lacks {_list_some(missing)}; " if missing else ""
        return f"{found}it has {_list_some(self.configs)}", not missing

    def compare_columns(self) -> tuple[str, bool | None]:
        columns = []
        for named in self.source.columns.values():
            columns += named_columns(named)
        available = list(self.rows[0])
        missing = []
        for column in columns:
            # A field of a column, `annotations.caption`, is looked for in the first row.
            outer, _, field = column.partition(".")
            is_there = column in available or field in (self.rows[0].get(outer) or {})
            if not is_there:
                missing.append(column)
        found = f"lacks {_list_some(missing)}; " if missing else ""
        return f"{found}it has {_list_some(available)}", not missing

    def compare_codes(self) -> tuple[str, bool | None]:
        """Compare codes with the first rows, which may lack a language that others have."""
        found = {}  # as keys, in the order of the rows
        for row in self.rows:
            if self.source.layout == "language_column":
                found[row[self.source.columns["language"]]] = None
            elif self.source.layout == "image_lists":
                found |= dict.fromkeys(value_at(row, self.source.columns["language"]) or [])
            else:
                found |= dict.fromkeys(code for code, _ in row[self.source.columns["translations"]])
        unseen = [code for code in self.source.codes.values() if code not in found]
        if not unseen:
            return _list_some(list(found)), True
        return f"first rows lack {_list_some(unseen)}; they have {_list_some(list(found))}", None

    def compare_rows(self) -> tuple[str, bool | None]:
        split = next(iter(self.source.splits.values()))
        splits = self.builder.info.splits or {}
        if split not in splits or not splits[split].num_examples:
            return "the card does not say", None
        n_rows = splits[split].num_examples
        return str(n_rows), n_rows == self.source.n_rows

    def compare_bytes(self) -> tuple[str, bool | None]:
        """Compare the bytes of all files; stated ones are rounded."""
        files = (
            HfApi()
            .dataset_info(self.source.dataset, revision=self.source.revision, files_metadata=True)
            .siblings
        )
        n_bytes = sum(file.size or 0 for file in files or [])
        if not n_bytes:
            return "the Hub does not say", None
        return str(n_bytes), abs(n_bytes / self.source.n_bytes - 1) < _ROUNDING

    def compare_licence(self) -> tuple[str, bool | None]:
        stated = (self.source.licence or "").lower()
        licences = named_columns(self.card.get("license") or [])
        if not licences:
            return "the card states none", None
        found = " ".join(licences)
        return found, True if found.lower() in stated else None

    def compare_gated(self) -> tuple[str, bool | None]:
        gated = bool(self.info.gated)
        return str(gated), gated == self.source.gated


__all__ = ["Finding", "check_network", "state", "verify_source"]
