"""The report as Markdown beside its pictures, and as one HTML file that holds them."""

import base64
import csv
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from .comparison import Number
from .published import Difference, Published
from .report import GAP, LEGEND, Table, format_half_width, format_value, label, short_names
from .results import Result, format_table

TEMPLATE = "report_page.html"
TOLERANCE = (
    "Within tolerance: the printed number lies in our 95 % interval, widened by the printed number's rounding. The interval is that of "
    "another draw of images; the same weights on the same images should come closer, unless pictures, prompts or captions are prepared "
    "differently. The difference is ours less the paper's, or less the re-evaluation where the paper prints none. A number of other images "
    "than the task has, by their count, is not judged."
)


@dataclass
class Report:
    """All that a report says."""

    title: str
    about: str
    findings: list[tuple[str, str]]
    tables: list[Table]
    notes: list[str]
    pictures: list[tuple[str, str]]
    differences: list[Difference]
    sources: dict[str, str]  # what the tags of `differences` stand for
    results: list[Result]
    names: dict[str, str] = field(init=False)

    def __post_init__(self):
        self.names = short_names(list(dict.fromkeys(result.model for result in self.results)))

    def save(self, folder: Path) -> None:
        """Write `report.md`, `index.html` and `numbers.csv` into the folder that has the pictures."""
        (folder / "report.md").write_text(self.to_markdown(), encoding="utf-8")
        (folder / "index.html").write_text(self.to_html(folder), encoding="utf-8")
        self._save_numbers(folder / "numbers.csv")

    def to_markdown(self) -> str:
        parts = [
            f"# {self.title}",
            self.about,
            "\n".join(f"- **{task}**: {sentences}" for task, sentences in self.findings),
        ]
        for picture, caption in self.pictures:
            parts.append(f"![{caption}]({picture})\n\n*{caption}*")
        parts += ["## Numbers", LEGEND, "\n".join(f"- {note}" for note in self.notes)]
        for table in self.tables:
            parts += [f"### {table.heading}" if table.heading else "", table.to_markdown()]
        if self.differences:
            parts += [
                "## Beside what was printed",
                self.agreement(),
                TOLERANCE,
                format_table(*self.difference_table()),
            ]
            parts.append("\n".join(f"- {line}" for line in self.remarks()))
        parts += ["## Where the numbers come from"]
        parts += [format_table(header, rows) for header, rows in self.provenance()]
        parts.append("\n".join(f"- {line}" for line in self.prompts()))
        parts.append("```bash\n" + "\n".join(self.commands()) + "\n```")
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_html(self, folder: Path) -> str:
        """One file that needs no other: the pictures are in it."""
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            format_value=format_value, format_half_width=format_half_width, shade=shade, gap=GAP
        )
        images = [
            (base64.b64encode((folder / name).read_bytes()).decode(), caption)
            for name, caption in self.pictures
        ]
        legend = LEGEND.replace("**", "")
        return environment.get_template(TEMPLATE).render(
            report=self, images=images, legend=legend, tolerance=TOLERANCE
        )

    def agreement(self) -> str:
        judged = [difference.within for difference in self.differences if difference.within is not None]
        sentence = f"{sum(judged)} of {len(judged)} numbers are within tolerance of what was printed."
        others = len(self.differences) - len(judged)
        return f"{sentence} {others} more could not be judged." if others else sentence

    def remarks(self) -> list[str]:
        """What the tags of the sources stand for, and how a task's images are not those of the paper."""
        splits = {
            one.number.task: " ".join(one.split_differs.split())
            for one in self.differences
            if one.split_differs
        }
        return [f"{tag}: {title}" for tag, title in self.sources.items()] + [
            f"{task}: {words}" for task, words in splits.items()
        ]

    def difference_table(self) -> tuple[list[str], list[list[str]]]:
        rows = []
        for difference in self.differences:
            number, unit = difference.number, 1 if "_rank_" in difference.number.metric else 100
            row = [self.names[number.model], number.task, number.language, label(number.metric, {})]
            row += [_printed(difference.paper, unit), _printed(difference.again, unit)]
            apart = f"{unit * difference.difference:+.1f}".replace("-", "−")
            row += [f"{format_value(number)} {format_half_width(number)}".strip(), apart]
            rows.append([*row, difference.reason or ("yes" if difference.within else "**no**")])
        return [
            "model",
            "task",
            "language",
            "metric",
            "paper",
            "measured again by",
            "ours",
            "difference",
            "within tolerance",
        ], rows

    def provenance(self) -> list[tuple[list[str], list[list[str]]]]:
        """Header and rows of two tables: the data and the models."""
        data, models = {}, {}
        for result in self.results:
            languages, counts = data.setdefault(
                (result.task, result.dataset, result.revision or GAP, result.split), (set(), set())
            )
            languages.add(result.language)
            counts.add(result.metrics["n"])
            versions = ", ".join(f"{package} {version}" for package, version in result.versions.items())
            models.setdefault((result.model, result.weights[:16], versions), None)
        rows = []
        for key, (languages, counts) in data.items():
            few = len(counts) <= 4
            images = (
                " or ".join(f"{n:,}" for n in sorted(counts))
                if few
                else f"{len(counts)} counts, {min(counts):,} to {max(counts):,}"
            )
            rows.append([*key, len(languages), images])
        header = ["task", "dataset", "revision", "split", "languages", "images"]
        return [
            (header, rows),
            (["model", "SHA-256 of its weights", "versions"], [list(key) for key in models]),
        ]

    def prompts(self) -> list[str]:
        """Of each task the hash of class names and templates in each language, and whose it is where models have different ones."""
        found: dict[str, dict[str, dict[str, list[str]]]] = {}
        for result in self.results:
            if result.prompts is not None:
                hashes = found.setdefault(result.task, {}).setdefault(result.language, {})
                hashes.setdefault(result.prompts[:8], []).append(self.names[result.model])
        lines = []
        for task, spoken in found.items():
            each = [
                f"{language} "
                + " or ".join(
                    f"{one} ({', '.join(models)})" if len(hashes) > 1 else one
                    for one, models in hashes.items()
                )
                for language, hashes in spoken.items()
            ]
            lines.append(f"{task}, SHA-256 of class names and templates: {'; '.join(each)}")
        return lines

    def commands(self) -> list[str]:
        return list(dict.fromkeys(f"python benchmarks/{result.command}" for result in self.results))

    def _save_numbers(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(
                [
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
                ]
            )
            for number in (
                number for table in self.tables for _, row in table.rows for number in row if number
            ):
                ends = number.interval or ("", "")
                key = [number.model, number.task, number.language, number.metric]
                writer.writerow(
                    [*key, number.value, *ends, number.n, number.best, number.tied, number.untested]
                )


def shade(number: Number, table: Table) -> str:
    """A cell's background: the bluer the higher among the table's numbers of the same metric."""
    peers = [other.value for _, row in table.rows for other in row if other and other.metric == number.metric]
    low, high = min(peers), max(peers)
    share = (number.value - low) / (high - low) if high > low else 0.5
    return f"rgba(47, 109, 179, {0.04 + 0.24 * share:.2f})"


def _printed(numbers: list[Published], unit: int) -> str:
    """Values with as many digits as their rounding tells, and where they stand."""
    digits = [
        0 if unit * number.rounding >= 0.5 else 1 if unit * number.rounding >= 0.05 - 1e-9 else 2
        for number in numbers
    ]
    return (
        "; ".join(f"{unit * number.value:.{n}f} ({number.where})" for number, n in zip(numbers, digits))
        or GAP
    )
