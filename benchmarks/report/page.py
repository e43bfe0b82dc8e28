"""Pages of a report: Markdown beside its pictures, and one HTML file that contains them."""

import base64
import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from common.commands import runnable
from common.files.whole_files import write_text
from common.markdown import code_block, markdown_text

from ..results import Result, format_table
from .comparison import Number, is_rank
from .formatting import GAP, format_half_width, format_value, label, short_names
from .published import Published, PublishedGap
from .tables import LEGEND, Table

_TEMPLATE = "page.html"
_TOLERANCE = (
    "Within tolerance: the published number lies in our 95 % interval, widened by its rounding. The interval "
    "is for another sample of images; the same weights on the same images should be closer, unless images, "
    "prompts or captions are prepared differently. The difference is ours minus the paper's, or minus the "
    "re-evaluation if the paper has none. A number for another set of images, judged by their count, is not "
    "compared."
)
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
_CSV_COLUMNS = (
    "model",
    "task",
    "language",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "best",
    "tied",
    "untested",
)


@dataclass
class Report:
    """Contents of a report, and the files it is written to."""

    title: str
    about: str
    findings: list[tuple[str, str]]
    tables: list[Table]
    notes: list[str]
    pictures: list[tuple[str, str]]
    differences: list[PublishedGap]
    sources: dict[str, str]  # what the tags of `differences` stand for
    results: list[Result]
    names: dict[str, str] = field(init=False)

    def __post_init__(self):
        self.names = short_names(list(dict.fromkeys(result.model for result in self.results)))

    def save(self, folder: Path) -> None:
        """Write `report.md`, `index.html` and `numbers.csv` into the folder that has the pictures."""
        write_text(folder / "report.md", self.to_markdown())
        write_text(folder / "index.html", self.to_html(folder))
        self._save_numbers(folder / "numbers.csv")

    def to_markdown(self) -> str:
        """Return the text of `report.md`, which shows the pictures beside it."""
        # Paragraphs; empty ones are left out at the end.
        parts = [f"# {markdown_text(self.title)}", self.about]
        if self.findings:
            parts.append("## Findings")
        for task, sentences in self.findings:
            parts += [f"### {markdown_text(task)}", markdown_text(sentences)]
        for picture, caption in self.pictures:
            text = markdown_text(caption)
            parts.append(f"![{text}]({picture})\n\n*{text}*")

        parts += ["## Numbers", LEGEND, _bullets(self.notes)]
        for table in self.tables:
            parts.append(f"### {markdown_text(table.heading)}" if table.heading else "")
            parts.append(table.to_markdown())

        if self.differences:
            header, rows = self.difference_table()
            parts += [
                "## Comparison with published numbers",
                f"**{self.agreement()}**",
                _TOLERANCE,
                format_table(header, rows),
                _bullets(self.remarks()),
            ]

        parts.append("## Sources of the numbers")
        for header, rows in self.provenance():
            parts.append(format_table(header, rows))
        parts.append(_bullets(self.prompts()))
        parts.append(code_block(self.commands(), "bash"))
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_html(self, folder: Path) -> str:
        """Return one page that needs no other file: the pictures are in it.

        Args:
            folder: where the pictures are.
        """
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            format_value=format_value, format_half_width=format_half_width, shade=_shade, gap=GAP
        )
        images = []  # [(PNG file in base64, caption), ...]
        for name, caption in self.pictures:
            picture = base64.b64encode((folder / name).read_bytes()).decode()
            images.append((picture, caption))
        legend = LEGEND.replace("**", "")  # Markdown's bold
        return environment.get_template(_TEMPLATE).render(
            report=self, images=images, legend=legend, tolerance=_TOLERANCE
        )

    def agreement(self) -> str:
        """Count the numbers that are within tolerance of the published ones, in a sentence."""
        judged = [difference.within for difference in self.differences if difference.within is not None]
        sentence = f"{sum(judged)} of {len(judged)} numbers are within tolerance of the published ones."
        n_others = len(self.differences) - len(judged)
        if n_others:
            sentence += f" {n_others} more could not be judged."
        return sentence

    def remarks(self) -> list[str]:
        """Explain the tags of the sources, and how a task's images differ from those of the paper."""
        remarks = [f"{tag}: {title}" for tag, title in self.sources.items()]
        splits = {}  # {task: text}, each task once
        for difference in self.differences:
            if difference.split_differs:
                # On one line; a text in YAML may have several.
                splits[difference.number.task] = " ".join(difference.split_differs.split())
        remarks += [f"{task}: {text}" for task, text in splits.items()]
        return remarks

    def difference_table(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows of the table that compares our numbers with published ones."""
        header = [
            "model",
            "task",
            "language",
            "metric",
            "paper",
            "re-evaluated by",
            "ours",
            "difference",
            "within tolerance",
        ]
        return header, [self._difference_row(difference) for difference in self.differences]

    def provenance(self) -> list[tuple[list[str], list[list[str]]]]:
        """Return header and rows of two tables: the data and the models."""
        return [self._data_table(), self._model_table()]

    def prompts(self) -> list[str]:
        """List for each task the hash of class names and templates in each language.

        Where models have different ones, their names follow: `en 3f2a90cd (ours) or 77b0e1aa (theirs)`.
        """
        # {task: {language: {hash: [model, ...]}}}
        found: dict[str, dict[str, dict[str, list[str]]]] = {}
        for result in self.results:
            if result.prompts is None:  # of a retrieval task
                continue
            by_language = found.setdefault(result.task, {})
            by_hash = by_language.setdefault(result.language, {})
            by_hash.setdefault(result.prompts[:8], []).append(self.names[result.model])

        lines = []
        for task, by_language in found.items():
            languages = [f"{language} {_list_hashes(by_hash)}" for language, by_hash in by_language.items()]
            lines.append(f"{task}, SHA-256 of class names and templates: {'; '.join(languages)}")
        return lines

    def commands(self) -> list[str]:
        """Return the commands that made the results, each once."""
        return list(dict.fromkeys(runnable(result.command) for result in self.results))

    def _difference_row(self, difference: PublishedGap) -> list[str]:
        number = difference.number
        unit = 1 if is_rank(number.metric) else 100
        verdict = "yes" if difference.within else "**no**"
        score = f"{format_value(number)} {format_half_width(number)}"
        language = number.language
        if number.languages:
            language = f"mean of {len(number.languages)}"
        return [
            self.names[number.model],
            number.task,
            language,
            label(number.metric, {}),
            _list_published(difference.paper, unit),
            _list_published(difference.again, unit),
            score.strip(),  # a number may have no interval
            f"{unit * difference.difference:+.1f}".replace("-", "−"),  # the typographic minus
            difference.reason or verdict,
        ]

    def _data_table(self) -> tuple[list[str], list[list[str]]]:
        # {(task, dataset, revision, split): [result, ...]}
        by_data: dict[tuple[str, ...], list[Result]] = {}
        for result in self.results:
            key = (result.task, result.dataset, result.revision or GAP, result.split)
            by_data.setdefault(key, []).append(result)

        rows = []
        for key, results in by_data.items():
            languages = {result.language for result in results}
            # Languages may have different numbers of images.
            counts = sorted({result.metrics["n"] for result in results})
            rows.append([*key, len(languages), _list_counts(counts)])
        return ["task", "dataset", "revision", "split", "languages", "images"], rows

    def _model_table(self) -> tuple[list[str], list[list[str]]]:
        rows = []
        for result in self.results:
            versions = ", ".join(f"{package} {version}" for package, version in result.versions.items())
            row = [result.model, result.weights[:16], versions]
            if row not in rows:
                rows.append(row)
        return ["model", "SHA-256 of its weights", "versions"], rows

    def _save_numbers(self, path: Path) -> None:
        """Write the numbers of all tables, one a row."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(_CSV_COLUMNS)
        for table in self.tables:
            for number in _numbers_of(table):
                low, high = number.interval or ("", "")
                names = [number.model, number.task, number.language, number.metric]
                key = [_inert(name) for name in names]
                marks = [number.best, number.tied, number.untested]
                writer.writerow([*key, number.value, low, high, number.n, *marks])
        write_text(path, text.getvalue())


def _inert(name: str) -> str:
    """Put an apostrophe before a name that a spreadsheet would calculate as a formula: "=1+1" -> "'=1+1"."""
    return f"'{name}" if name.startswith(_FORMULAS) else name


def _numbers_of(table: Table) -> Iterator[Number]:
    """Yield a table's numbers row by row, without gaps."""
    for _, row in table.rows:
        for number in row:
            if number is not None:
                yield number


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def _shade(number: Number, table: Table) -> str:
    """Return a cell's background: the bluer, the higher among the table's numbers of the same metric."""
    peers = [other.value for other in _numbers_of(table) if other.metric == number.metric]
    low = min(peers)
    high = max(peers)
    share = 0.5
    if high > low:
        share = (number.value - low) / (high - low)
    return f"rgba(47, 109, 179, {0.04 + 0.24 * share:.2f})"


def _list_hashes(models_of_hash: dict[str, list[str]]) -> str:
    """List the hashes of one language, with the models of each where there are several.

    {"3f2a90cd": ["ours"], "77b0e1aa": ["theirs"]} -> 3f2a90cd (ours) or 77b0e1aa (theirs)
    """
    if len(models_of_hash) == 1:
        return next(iter(models_of_hash))
    return " or ".join(f"{one} ({', '.join(models)})" for one, models in models_of_hash.items())


def _list_counts(counts: list[int]) -> str:
    """List counts, or of more than four their number and range: `[990, 1000]` -> `990 or 1,000`."""
    if len(counts) <= 4:
        return " or ".join(f"{n:,}" for n in counts)
    return f"{len(counts)} counts, {counts[0]:,} to {counts[-1]:,}"


def _list_published(numbers: list[Published], unit: int) -> str:
    """List published numbers with the digits that were printed, and where: `72.4 (altclip, Table 2)`."""
    if not numbers:
        return GAP
    entries = []
    for number in numbers:
        n_digits = _digits(unit * number.rounding)
        entries.append(f"{unit * number.value:.{n_digits}f} ({number.where})")
    return "; ".join(entries)


def _digits(rounding: float) -> int:
    """Return how many decimals were printed, by the largest error of rounding: 0.5 -> 0, 0.05 -> 1."""
    if rounding >= 0.5:
        return 0
    if rounding >= 0.05 - 1e-9:  # 100 * 0.0005 may lie just below 0.05
        return 1
    return 2
