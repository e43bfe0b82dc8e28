"""Prepare a table of addresses for img2dataset: each distinct one once, with the captions of all its rows.

    url              text       language          url              captions                            row
    http://a/1.jpg   a dog      en           ->   http://a/1.jpg   en "a dog", de "ein Hund"           0
    http://a/2.jpg   un chat    fr                http://a/2.jpg   fr "un chat"                        1
    http://a/1.jpg   ein Hund   de

`OUTPUT_DIR/addresses/` gets one parquet file for each tar. `settings.json`, written last, says what the
files were made from, so that a run that resumes asks for the same addresses in the same tars.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets
from transformers.image_utils import httpx  # the client that transformers reads addresses with
from xxhash import xxh3_64_intdigest

from common.errors import InputError
from common.files.contents import contents_of
from common.files.endings import suffix_of
from common.files.json_files import read_json, refuse_repeated_keys
from common.files.rows import load_rows, open_rows, readable_rows
from common.files.table_cells import read_texts
from common.files.whole_files import written_whole
from common.paths import check_folder
from modeling_altclip.languages_altclip import canonical

from ..data.captions import Form, find_form, read_captions
from ..data.parallel_text import BUILDERS
from ..data.sources.loading import find_source
from ..data.text_tables import TABLES, read_table, tables_in
from .arguments import DownloadArguments
from .corpora import open_corpus

ADDRESSES = "addresses"
_SETTINGS = "settings.json"
_SKIPPED = "skipped.jsonl"
# Arguments that may differ between a run and the one that resumes it.
_WITHOUT_EFFECT = {"output_dir", "processes", "threads", "timeout", "retries", "environment"}

_NO_ADDRESS = "no valid address"
_NOT_WEB = "address of another kind than http(s)"
_WITH_USER = "address with a user or password"
_NO_CAPTION = "no caption"

_SCHEMA = pa.schema(
    {
        "url": pa.string(),
        "captions": pa.list_(pa.struct({"language": pa.string(), "text": pa.string()})),
        "row": pa.int64(),
    }
)


@dataclass(frozen=True)
class Prepared:
    """Count what became of the rows of a table.

    Attributes:
        rows: of the table.
        addresses: distinct ones that are to be downloaded.
        shards: number of tars that they are divided into.
        repeated: rows whose address an earlier row has, and whose captions were added to those.
        skipped: rows without an address or a caption, by reason.
    """

    rows: int
    addresses: int
    shards: int
    repeated: int
    skipped: dict[str, int]


class _Row(NamedTuple):
    """A row of the table: its address in the form that servers expect, and its captions by language.

    `problem` says why it is skipped, if it is.
    """

    url: str
    captions: dict[str, list[str]]
    problem: str | None


class _Table(NamedTuple):
    """The rows of a table, and how to read them; `form` is None where `columns` name the captions."""

    rows: Dataset
    url_column: str
    form: Form | None
    columns: dict[str, str]
    languages: list[str] | None

    def read(self, row: dict) -> _Row:
        """Read one row.

        Raises:
            InputError: its captions are no texts, or do not say their languages.
        """
        url, problem = to_web_address(row[self.url_column])
        captions = self._captions(row)
        if self.languages:
            captions = {language: captions[language] for language in self.languages if language in captions}
        if problem is None and not captions:
            problem = _NO_CAPTION
        return _Row(url, captions, problem)

    def _captions(self, row: dict) -> dict[str, list[str]]:
        if self.form is not None:
            return read_captions(row, self.form)
        captions = {}
        for language, column in self.columns.items():
            texts = read_texts(row[column], column)
            if texts:
                captions[canonical(language)] = texts
        return captions


class _Groups(NamedTuple):
    """Rows of the table by address: group g has the rows `order[starts[g]:ends[g]]`."""

    order: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def rows_of(self, groups: range) -> list[np.ndarray]:
        """Return the rows of some groups."""
        return [self.order[self.starts[group] : self.ends[group]] for group in groups]


def to_web_address(cell: object) -> tuple[str, str | None]:
    """Return an address with its letters encoded for the web, and what is wrong with it, if anything.

    "HTTP://例え.jp/猫 1.jpg#top" -> ("http://xn--r8jz45g.jp/%E7%8C%AB%201.jpg", None)
    """
    text = cell.strip() if isinstance(cell, str) else ""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):  # too long, no host name, half a pair of surrogates
        return text, _NO_ADDRESS
    if not url.scheme:
        return text, _NO_ADDRESS
    if url.scheme not in ("http", "https"):
        return text, _NOT_WEB
    if not url.host:
        return text, _NO_ADDRESS
    if url.userinfo:
        # No server of pictures asks for it, and readers disagree which part of it is the host.
        return text, _WITH_USER
    return str(url).partition("#")[0], None


def prepare(arguments: DownloadArguments) -> Prepared:
    """Write the addresses to download into the output folder, unless an earlier run has done so.

    Returns:
        The counts of the table's rows.

    Raises:
        InputError: the table cannot be read or has no address; the output folder holds other files; or an
            earlier run there had another table or other settings.
    """
    folder = Path(arguments.output_dir, ADDRESSES)
    table = _open(arguments)
    hashes, digest, skipped = _scan(table)
    settings = {name: value for name, value in asdict(arguments).items() if name not in _WITHOUT_EFFECT}
    settings["dataset"] = digest  # by what it says, not by where it lies
    if (folder / _SETTINGS).is_file():
        return _read_earlier(folder / _SETTINGS, settings)

    _refuse_other_files(Path(arguments.output_dir))
    groups = _group(hashes)
    if len(groups.starts) == 0:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in skipped.items())
        raise InputError(f"dataset {arguments.dataset!r} has no row to download: {reasons or 'it is empty'}")
    folder.mkdir(parents=True, exist_ok=True)
    _write_skipped(table, hashes, folder / _SKIPPED)
    n_shards = _write_shards(table, groups, folder, arguments.shard_size)

    n_addresses = len(groups.starts)
    n_repeated = len(groups.order) - n_addresses
    prepared = Prepared(len(hashes), n_addresses, n_shards, n_repeated, dict(skipped))
    record = {"settings": settings, "prepared": asdict(prepared)}
    with written_whole(folder / _SETTINGS) as file:
        file.write(json.dumps(record, ensure_ascii=False, indent=1).encode())
    return prepared


def _open(arguments: DownloadArguments) -> _Table:
    """Open the table, and find its columns.

    Raises:
        InputError: it cannot be read, or lacks a column.
    """
    source = find_source(arguments.dataset)
    if source is not None:
        rows, arguments = open_corpus(source, arguments)
    else:
        rows = _load(arguments)
        if arguments.rows is not None:
            rows = rows.select(range(min(arguments.rows, len(rows))))
    columns = arguments.caption_columns or {}
    named = [arguments.url_column, *columns.values()]
    if arguments.language_column:
        named.append(arguments.language_column)
    missing = [column for column in named if column not in rows.column_names]
    if missing:
        raise InputError(
            f"dataset {arguments.dataset!r} has no column {', '.join(missing)}: it has "
            f"{', '.join(rows.column_names)}; name them by --url_column, --text_column, --language_column "
            "or --caption_columns"
        )
    if columns:
        rows = rows.select_columns(list(dict.fromkeys(named)))
        return _Table(rows, arguments.url_column, None, columns, arguments.languages)

    if arguments.language_column not in (None, "language"):
        if "language" in rows.column_names:
            rows = rows.remove_columns("language")
        rows = rows.rename_column(arguments.language_column, "language")
    form = find_form(rows.features, arguments.dataset, arguments.text_column, arguments.languages)
    used = {arguments.url_column, form.column, "language", "json"}
    rows = rows.select_columns([column for column in rows.column_names if column in used])
    return _Table(rows, arguments.url_column, form, {}, arguments.languages)


def _load(arguments: DownloadArguments) -> Dataset:
    """Load the rows of a file, a folder or a dataset on the Hub."""
    dataset = arguments.dataset
    suffix = suffix_of(dataset)
    if suffix in (*TABLES, *BUILDERS):
        check_folder("dataset", str(Path(dataset).absolute()))
    if suffix in TABLES:
        return read_table(dataset)
    if suffix in BUILDERS:
        refuse_repeated_keys([dataset])
        # The contents are part of the key of `datasets`' cache: a file that has changed is read anew.
        source = {"path": BUILDERS[suffix], "data_files": dataset, "description": contents_of([dataset])}
        with readable_rows(dataset, "train"):
            return open_rows(dataset, "train", **source)
    if tables := tables_in(dataset, None, arguments.split):
        return concatenate_datasets([read_table(table) for table in tables])
    return load_rows(dataset, arguments.split, [])


def _scan(table: _Table) -> tuple[np.ndarray, str, Counter]:
    """Read all rows once.

    Returns:
        For each row the hash of its address, 0 where the row is skipped; a digest of the table; and the
        number of skipped rows by reason.
    """
    hashes = np.zeros(len(table.rows), np.uint64)
    digest = hashlib.sha256()
    skipped = Counter()
    for number, row in enumerate(table.rows):
        read = table.read(row)
        digest.update(repr(read).encode("utf-8", "surrogatepass"))
        if read.problem:
            skipped[read.problem] += 1
        else:
            # 64 bits: of ten million addresses two share a hash with a chance of 1 to 370,000.
            hashes[number] = max(1, xxh3_64_intdigest(read.url.encode()))
    return hashes, digest.hexdigest(), skipped


def _group(hashes: np.ndarray) -> _Groups:
    """Group the rows of each distinct address, in the order of their first rows.

    hashes 7 4 7 0 4 -> rows [0, 2], [1, 4]; 0 is no address
    """
    order = np.argsort(hashes, kind="stable")  # 3 | 1 4 | 0 2
    order = order[hashes[order] != 0]  # 1 4 | 0 2
    is_start = np.ones(len(order), bool)
    is_start[1:] = np.diff(hashes[order]) != 0
    starts = np.flatnonzero(is_start)
    ends = np.append(starts[1:], len(order))
    # The sort is stable, so that a group begins with its first row.
    by_first_row = np.argsort(order[starts])
    return _Groups(order, starts[by_first_row], ends[by_first_row])


def _write_skipped(table: _Table, hashes: np.ndarray, path: Path) -> None:
    """Write a line of JSON for each row that is not downloaded."""
    with written_whole(path) as file:
        for number in np.flatnonzero(hashes == 0):
            read = table.read(table.rows[int(number)])
            line = {"row": int(number), "url": read.url, "kind": read.problem, "message": ""}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _write_shards(table: _Table, groups: _Groups, folder: Path, shard_size: int) -> int:
    """Write one parquet file for each tar; return their number."""
    n_groups = len(groups.starts)
    starts = range(0, n_groups, shard_size)
    for number, start in enumerate(starts):
        of_shard = groups.rows_of(range(start, min(start + shard_size, n_groups)))
        columns = {"url": [], "captions": [], "row": []}
        for rows, read in zip(of_shard, _merged(table, of_shard)):
            columns["url"].append(read.url)
            columns["captions"].append(_as_list(read.captions))
            columns["row"].append(int(rows[0]))
        with written_whole(shard_path(folder, number)) as file:
            pq.write_table(pa.table(columns, _SCHEMA), file)
    return len(starts)


def shard_path(folder: Path, number: int) -> Path:
    """Return the file of the addresses of one tar; img2dataset numbers tars in the order of these names."""
    return folder / f"{number:07d}.parquet"


def _merged(table: _Table, groups: list[np.ndarray]) -> Iterator[_Row]:
    """Yield one row for each address, with the captions of all of its rows, each text once."""
    # All rows of the shard are read together: picking single ones from a table is slow.
    chosen = table.rows.select(np.concatenate(groups))
    rows = iter(chosen)
    for group in groups:
        first = table.read(next(rows))
        captions = {language: dict.fromkeys(texts) for language, texts in first.captions.items()}
        for _ in group[1:]:
            for language, texts in table.read(next(rows)).captions.items():
                captions.setdefault(language, {}).update(dict.fromkeys(texts))
        as_lists = {language: list(texts) for language, texts in captions.items()}
        yield first._replace(captions=as_lists)


def _as_list(captions: dict[str, list[str]]) -> list[dict[str, str]]:
    """Return captions in a form that has the same fields in every row, whichever languages a row has.

    {"en": ["a dog"]} -> [{"language": "en", "text": "a dog"}]

    A stream takes the fields from the first rows, and would refuse a language that only later rows have.
    """
    pairs = []
    for language, texts in captions.items():
        pairs += [{"language": language, "text": text} for text in texts]
    return pairs


def _read_earlier(path: Path, settings: dict) -> Prepared:
    """Return the counts of the run that is resumed.

    Raises:
        InputError: it had other settings or another table.
    """
    record = read_json(path, "record of the addresses")
    for name, value in json.loads(json.dumps(settings)).items():
        before = record["settings"].get(name, value)
        if before == value:
            continue
        if name == "dataset":
            raise InputError(
                "dataset: its rows are not those with which the download began in this output_dir: give the "
                "same, or another output_dir"
            )
        raise InputError(
            f"{name} was {before!r} when the download began in this output_dir, and is {value!r} now: give "
            "the same, or another output_dir"
        )
    return Prepared(**record["prepared"])


def _refuse_other_files(output_dir: Path) -> None:
    """Refuse a folder with files that no download has written.

    Raises:
        InputError: there is one.
    """
    for path in output_dir.iterdir():
        if path.name != ADDRESSES and not path.name.startswith("."):
            raise InputError(
                f"output_dir {str(output_dir)!r} holds {path.name} already, and no download that could be "
                "resumed: give another folder"
            )


def skipped_lines(folder: Path) -> Iterator[bytes]:
    """Yield the lines of JSON of the rows that are not downloaded."""
    with (folder / _SKIPPED).open("rb") as file:
        yield from file


__all__ = [
    "ADDRESSES",
    "Prepared",
    "prepare",
    "shard_path",
    "skipped_lines",
    "to_web_address",
]
