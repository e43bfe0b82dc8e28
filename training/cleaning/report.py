"""The report of a cleaning: rows in and out, reasons by language and source, examples; the dataset card."""

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from common.files.whole_files import write_text
from common.markdown import markdown_text
from common.origins import write_origins

from ..data.sources.origin import with_rows
from .plan import Plan, source_name
from .tally import KEPT, Tally

_SHOWN = 200  # characters of a text in an example
_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*.parquet
---
# Cleaned parallel text

{rows_kept} rows of `captions`, `{{language: [text]}}`, in {languages}; `row` is a row's number in its source.
{similarity}[report.md](report.md) tells what was removed, and why. Stage 1 reads this folder as `dataset`, or
`sources.yaml`, which also has the sources' kinds and weights.
"""


def add_up(plan: Plan) -> list[Tally]:
    """Return the tally of each source.

    Raises:
        InputError: a tally is damaged.
    """
    tallies = [Tally() for _ in plan.sources]
    for part in plan.parts:
        tallies[part.source].add(Tally.load(plan.tally_path(part.number)))
    return tallies


def total_of(tallies: list[Tally]) -> Tally:
    """Return the tally of all sources."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def write_report(plan: Plan, tallies: list[Tally], folder: Path, *, with_picture: bool) -> None:
    """Write `report.md`, `counts.csv`, the dataset card, `sources.yaml`, and `origins.yaml`.

    Args:
        tallies: one for each source.
        with_picture: show `counts.png` in the report.
    """
    write_text(folder / "counts.csv", _csv_of(plan, tallies))
    write_text(folder / "report.md", "\n".join(_report_lines(plan, tallies, with_picture)) + "\n")
    total = total_of(tallies)
    similarity = ""
    if plan.similarity_weights is not None:
        model = markdown_text(plan.arguments.similarity_model_name_or_path)
        similarity = f"`similarity` is the cosine of each translation and its English, by {model}.\n"
    languages = " ".join(plan.languages)
    card = _CARD.format(rows_kept=total.rows_kept, languages=languages, similarity=similarity)
    write_text(folder / "README.md", card)
    sources = []
    origins = []
    for number, (source, tally) in enumerate(zip(plan.sources, tallies)):
        if tally.rows_kept:
            described = {"data": f"data/{source_name(number)}", "split": "train"}
            if source.kind is not None:
                described["kind"] = source.kind
            if source.weight is not None:
                described["weight"] = source.weight
            sources.append(described)
            for origin in with_rows(source.origins, tally.rows_kept):
                origins.append(replace(origin, part=described["data"]))
    write_origins(folder, origins)
    # Each source is an object of JSON, which is YAML too.
    lines = [f"- {json.dumps(source, ensure_ascii=False)}\n" for source in sources]
    write_text(folder / "sources.yaml", "".join(lines))


def _csv_of(plan: Plan, tallies: list[Tally]) -> str:
    """Return a table of `source,language,outcome,texts`, whose outcome is "kept" or a reason."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["source", "language", "outcome", "texts"])
    for source, tally in zip(plan.sources, tallies):
        for (language, outcome), n_texts in sorted(tally.texts.items()):
            if n_texts:
                writer.writerow([source.data, language, outcome, n_texts])
    return content.getvalue()


def _report_lines(plan: Plan, tallies: list[Tally], with_picture: bool) -> list[str]:
    """Return the lines of the report."""
    total = total_of(tallies)
    n_texts = total.texts.total()
    n_kept = sum(n for (_, outcome), n in total.texts.items() if outcome == KEPT)
    lines = [
        "# Cleaning",
        "",
        f"{total.rows_kept} of {total.rows} rows and {n_kept} of {n_texts} texts are kept. A removed text is "
        "counted under the first reason that applies.",
        "",
    ]
    if with_picture:
        lines += ["![Texts kept and removed, by language](counts.png)", ""]
    lines += _source_lines(plan, tallies)
    lines += _language_lines("Texts by language", total.texts, KEPT)
    for source, tally in zip(plan.sources, tallies):
        if len(plan.sources) > 1:
            lines += _language_lines(f"Texts of {markdown_text(source.data)}", tally.texts, KEPT)
    if total.changes:
        lines += _language_lines("Texts that were changed, by step", total.changes, None)
    lines += _example_lines(total)
    return lines + _setting_lines(plan)


def _source_lines(plan: Plan, tallies: list[Tally]) -> list[str]:
    """Return a table of rows in and out of each source."""
    lines = ["## Rows by source", "", "| source | rows in | rows out |", "|---|---|---|"]
    for source, tally in zip(plan.sources, tallies):
        lines.append(f"| {markdown_text(source.data)} | {tally.rows} | {tally.rows_kept} |")
    return [*lines, ""]


def _language_lines(heading: str, counts: Counter, first: str | None) -> list[str]:
    """Return a table with a row for each language, and a column for each outcome, most frequent first.

    Args:
        counts: `{(language, outcome): texts}`.
        first: the outcome whose column is the first.
    """
    of_outcome = Counter()
    for (_, outcome), n_texts in counts.items():
        of_outcome[outcome] += n_texts
    outcomes = sorted(
        (name for name, n in of_outcome.items() if n), key=lambda name: (-of_outcome[name], name)
    )
    if first in outcomes:
        outcomes.remove(first)
        outcomes.insert(0, first)
    languages = sorted({language for language, _ in counts})
    titles = [markdown_text(outcome) for outcome in outcomes]
    lines = [f"## {heading}", "", f"| language | {' | '.join(titles)} |", "|---" * (len(outcomes) + 1) + "|"]
    for language in languages:
        cells = [str(counts[language, outcome]) for outcome in outcomes]
        lines.append(f"| {markdown_text(language)} | {' | '.join(cells)} |")
    lines.append(f"| all | {' | '.join(str(of_outcome[outcome]) for outcome in outcomes)} |")
    return [*lines, ""]


def _example_lines(total: Tally) -> list[str]:
    """Return a table of examples for each reason and each step that changes texts."""
    lines = ["## Examples", "", "The first ten of each. Long texts are cut.", ""]
    for reason, examples in sorted(total.examples.items()):
        lines += [f"### {markdown_text(reason)}", ""]
        lines += ["| source, row | language | English | text | became, or is like |", "|---|---|---|---|---|"]
        for example in examples:
            place = f"{example['source']}, {example['row']}"
            texts = [example["english"], example["text"], example.get("other")]
            cells = [place, example["language"], *map(_shown, texts)]
            lines.append(f"| {' | '.join(map(markdown_text, cells))} |")
        lines.append("")
    return lines


def _shown(text: str | None) -> str:
    """Return a text for a cell, with what cannot be seen as `\\u200b`."""
    if text is None:
        return ""
    visible = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return visible if len(visible) <= _SHOWN else f"{visible[:_SHOWN]} ..."


def _setting_lines(plan: Plan) -> list[str]:
    """Return the settings as a table; the output does not depend on those that are left out."""
    lines = ["## Settings", "", "| setting | value |", "|---|---|"]
    for name, value in asdict(plan.arguments).items():
        if name not in ("output_dir", "processes"):
            lines.append(f"| {name} | {markdown_text(str(value))} |")
    return lines


__all__ = ["add_up", "total_of", "write_report"]
