"""See what became of every address: failures by kind, and the tars as training reads them."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from common.errors import InputError
from common.files.rows import open_rows, readable_rows
from common.files.whole_files import write_text, written_whole
from common.markdown import markdown_text
from common.origins import Origin

from ..data.captions import find_form, read_captions, with_image
from .addresses import ADDRESSES, Prepared, shard_path, skipped_lines
from .arguments import DownloadArguments
from .bounded_img2dataset import INSIDE, TOO_LARGE, TOO_SLOW

FAILURES = "failures.jsonl"
_LONGEST_MESSAGE = 300  # characters
# Failures by the message that img2dataset records; the first that matches counts.
_KINDS = (
    (re.escape(INSIDE), "address inside this network"),
    (re.escape(TOO_LARGE), "larger than max_bytes"),
    (re.escape(TOO_SLOW), "slower than max_seconds"),
    (r"disallowed by X-Robots-Tag", "opted out by X-Robots-Tag"),
    (r"Redirection to url .* is not allowed", "redirect to another kind of address"),
    (r"timed out", "no byte within the timeout"),
    (r"redirect.*infinite loop", "redirects without end"),
    (r"Name or service not known|name resolution|No address associated|nodename nor|idna", "unknown host"),
    (r"IncompleteRead", "connection lost midway"),
    (r"CERTIFICATE|SSL|TLS", "no secure connection"),
    (r"refused\]?|reset by peer|closed connection|unreachable|No route", "no connection"),
    (r"image too small", "smaller than min_image_size"),
    (r"aspect ratio too large", "longer than max_aspect_ratio"),
    (r"buf\.empty\(\)", "empty file"),
)
_OF_STATUS = {"failed_to_download": "other failure", "failed_to_resize": "no picture that can be decoded"}
_LOST = "not recorded by img2dataset"

_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: "*.tar"
---
Pictures with captions, downloaded from the addresses of {source}.

{table}

| language | captions |
|---|---|
{languages}

`failures.jsonl` lists the addresses without a picture.

{licence} A picture is its server's: the licence of the table says nothing about it.
"""


@dataclass
class Outcome:
    """Count what became of the addresses.

    Attributes:
        pictures: in the tars.
        captions: of them, by language.
        failures: addresses without a picture, by kind.
    """

    pictures: int = 0
    captions: Counter = field(default_factory=Counter)
    failures: Counter = field(default_factory=Counter)


def kind_of(status: str, message: str) -> str:
    """Return the kind of a failure by what img2dataset records of it: `"HTTP Error 404: Gone"` -> `HTTP 404`.

    Args:
        status: "failed_to_download" or "failed_to_resize".
    """
    for pattern, kind in _KINDS:
        if re.search(pattern, message):
            return kind
    if code := re.match(r"HTTP Error (\d+)", message):
        return f"HTTP {code[1]}"
    return _OF_STATUS[status]


def check(arguments: DownloadArguments, prepared: Prepared) -> Outcome:
    """Read every tar by training's own reader, and list the failures in `failures.jsonl`.

    Returns:
        The counts.

    Raises:
        InputError: a tar does not hold the pictures that img2dataset has recorded; it is then downloaded
            anew by the next run.
    """
    output = Path(arguments.output_dir)
    outcome = Outcome()
    with written_whole(output / FAILURES) as file:
        for line in skipped_lines(output / ADDRESSES):
            file.write(line)
        for number in range(prepared.shards):
            recorded = _read_record(output, number)
            pictures = {row["key"] for row in recorded if row["status"] == "success"}
            _check_tar(output, number, pictures, outcome)
            for failure in _failures(output, number, recorded):
                outcome.failures[failure["kind"]] += 1
                file.write(json.dumps(failure, ensure_ascii=False).encode() + b"\n")
    return outcome


def _read_record(output: Path, number: int) -> list[dict]:
    """Return what img2dataset has recorded of the addresses of one tar."""
    path = output / f"{number:05d}.parquet"
    try:
        return pq.read_table(path, columns=["key", "url", "row", "status", "error_message"]).to_pylist()
    except (OSError, ValueError) as error:
        raise _download_anew(output, number) from error


def _check_tar(output: Path, number: int, pictures: set[str], outcome: Outcome) -> None:
    """Count the pictures and captions of one tar; a tar without any is removed, since a stream needs one.

    Args:
        pictures: keys of the pictures that it has to hold.

    Raises:
        InputError: it holds others.
    """
    path = output / f"{number:05d}.tar"
    if not pictures:
        path.unlink(missing_ok=True)
        return
    if not path.is_file():
        raise _download_anew(output, number)
    found = Counter()
    captions = Counter()
    try:
        for key, of_picture in _read_tar(path):
            found[key] += 1
            captions.update({language: len(texts) for language, texts in of_picture.items()})
    except InputError as error:
        raise _download_anew(output, number) from error
    if found != Counter(pictures):
        raise _download_anew(output, number)
    outcome.pictures += len(found)
    outcome.captions += captions


def _read_tar(path: Path) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yield the key and the captions of each picture of a tar, as a stream of stage 2 reads them."""
    source = {"path": "webdataset", "data_files": {"train": [str(path)]}}
    with readable_rows(str(path), "train"):
        rows = with_image(open_rows(str(path.parent), "train", streaming=True, **source), str(path))
        form = find_form(rows.features, str(path))
        for row in rows:
            yield row["__key__"], read_captions(row, form)


def _download_anew(output: Path, number: int) -> InputError:
    """Let the next run download a tar once more; return the error that says so."""
    (output / f"{number:05d}_stats.json").unlink(missing_ok=True)
    return InputError(
        f"{output / f'{number:05d}.tar'} does not hold the pictures that img2dataset has recorded: repeat "
        "the command, which downloads them anew"
    )


def _failures(output: Path, number: int, recorded: list[dict]) -> Iterator[dict]:
    """Yield the addresses of one tar without a picture, with the kind of the failure."""
    known = set()
    for row in recorded:
        known.add(row["row"])
        if row["status"] == "success":
            continue
        message = " ".join((row["error_message"] or "").split())
        kind = kind_of(row["status"], message)
        yield {"row": row["row"], "url": row["url"], "kind": kind, "message": message[:_LONGEST_MESSAGE]}
    # img2dataset prints an error of its own code, and leaves the address out of its record.
    asked = pq.read_table(shard_path(output / ADDRESSES, number), columns=["url", "row"])
    for row in asked.to_pylist():
        if row["row"] not in known:
            yield {"row": row["row"], "url": row["url"], "kind": _LOST, "message": ""}


def as_table(outcome: Outcome, prepared: Prepared) -> str:
    """Return the counts as a table of Markdown: the addresses, then the rows that are none."""
    lines = ["| outcome | addresses | share |", "|---|---|---|"]
    counts = [("picture", outcome.pictures), *outcome.failures.most_common()]
    for name, count in counts:
        lines.append(f"| {name} | {count:,} | {count / prepared.addresses:.1%} |")
    lines.append(f"| all | {prepared.addresses:,} | 100.0% |")
    lines += ["", "| rows of the table | |", "|---|---|"]
    lines.append(f"| all | {prepared.rows:,} |")
    lines.append(f"| address of an earlier row, captions added to it | {prepared.repeated:,} |")
    for reason, count in prepared.skipped.items():
        lines.append(f"| skipped: {reason} | {count:,} |")
    return "\n".join(lines)


def write_card(arguments: DownloadArguments, outcome: Outcome, table: str, origins: list[Origin]) -> None:
    """Write the card of the dataset, which names the tars: what else lies there is not taken for rows.

    Args:
        origins: what the table is made of.
    """
    languages = [f"| {language} | {count:,} |" for language, count in sorted(outcome.captions.items())]
    source = markdown_text(Path(arguments.dataset).name)
    licence = markdown_text(licence_of(origins))
    card = _CARD.format(source=source, table=table, languages="\n".join(languages), licence=licence)
    write_text(Path(arguments.output_dir, "README.md"), card)


def licence_of(origins: list[Origin]) -> str:
    """Return a sentence on the licence of the table: `Licence of laion-coco-nllb: CC-BY-NC-4.0.`"""
    licences = [f"{origin.name}: {origin.licence or 'not known'}" for origin in origins]
    return f"Licence of {'; '.join(licences)}."


__all__ = ["FAILURES", "Outcome", "as_table", "check", "kind_of", "licence_of", "write_card"]
