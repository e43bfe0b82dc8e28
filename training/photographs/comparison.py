"""Compare the models of the experiment on real pictures: a table by language, verdicts, and a plot."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from benchmarks.results import format_table, load_results
from common.extras import of_extra
from common.figures import save_figure
from common.files.whole_files import write_text

from .dictionary import BY_DICTIONARY, FOUND
from .experiment import PhotographsArguments
from .scores import COLUMNS, Results, Score, score_table
from .verdicts import LEVEL, Verdict, judge

with of_extra("plots"):
    from matplotlib.figure import Figure

_MISSING = "–"
_COLORS = {
    "teacher": "black",
    "before": "tab:gray",
    "dictionary": "tab:olive",
    "linear_head": "tab:cyan",
    "stage1": "tab:blue",
    "stage2": "tab:red",
}


@dataclass
class Comparison:
    """All that is found, as it is written to files.

    Attributes:
        arguments: of the experiment.
        table: `{language or group: {column: score}}`, see `score_table`.
        n_pictures: `{language: pictures with a caption}`.
        verdicts: one for each claim.
        accuracies: `{column: top-1 accuracy}` by the English names of the folders.
        found: `{language: share of the words that its dictionary has}`.
    """

    arguments: PhotographsArguments
    table: dict[str, dict[str, Score]]
    n_pictures: dict[str, int]
    verdicts: list[Verdict]
    accuracies: dict[str, Score]
    found: dict[str, float]

    def to_markdown(self) -> str:
        """Write the verdicts and both tables."""
        parts = ["# Real pictures in many languages", "## What is shown", self._list_verdicts()]
        parts += ["## Retrieval", self._describe_table(), self._format_table()]
        parts += ["## Classification by the names of folders", self._format_accuracies()]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> str:
        """Write all figures, as fractions."""
        verdicts = {}
        for verdict in self.verdicts:
            tests = {name: asdict(test) for name, test in verdict.tests.items()}
            verdicts[verdict.claim] = {"outcome": verdict.outcome, "figures": verdict.figures, "tests": tests}
        table = {}
        for group, columns in self.table.items():
            table[group] = {name: asdict(score) for name, score in columns.items()}
        content = {
            "trained": self.arguments.trained,
            "unseen": self.arguments.unseen,
            "seeds": self.arguments.used_seeds,
            "n_pictures": self.n_pictures,
            "mean_recall": table,
            "accuracy@1": {name: asdict(score) for name, score in self.accuracies.items()},
            "words_found": self.found,
            "verdicts": verdicts,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def _list_verdicts(self) -> str:
        lines = [f"- {verdict.claim}: **{verdict.outcome}**, {verdict.figures}." for verdict in self.verdicts]
        return "\n".join(lines)

    def _describe_table(self) -> str:
        seeds = self.arguments.used_seeds
        of_seeds = "of one seed"
        if len(seeds) > 1:
            of_seeds = f"the mean of {len(seeds)} seeds with their standard deviation"
        shares = self.found.values()
        words = ""
        if self.found:
            words = (
                f" The dictionaries, made of the same parallel text, have {mean(shares):.0%} of the words of "
                f"the captions, from {_least(self.found)} to {_most(self.found)}."
            )
        return (
            "Mean recall in percent (R@1, R@5 and R@10, text to image and image to text), "
            f"{of_seeds}, with its 95 % interval under other draws of the pictures. All columns of a row "
            "are on the pictures that have a caption in its language, n of them: compare columns, not rows. "
            f"Tests are paired, by {self.arguments.n_resamples:,} resamples of the pictures, and those of "
            f"several languages are significant at {LEVEL:.0%} together by Holm's procedure.{words}"
        )

    def _format_table(self) -> str:
        rows = []
        for group, columns in self.table.items():
            is_trained = group in self.arguments.trained
            what = "trained" if is_trained else "never trained"
            n = self.n_pictures.get(group)
            label = f"{group}, {what}" if n else group
            cells = [columns[name].to_cell() if name in columns else _MISSING for name in COLUMNS]
            rows.append([label, n or "", *cells])
        titles = [column.title for column in COLUMNS.values()]
        return format_table(["language", "n", *titles], rows)

    def _format_accuracies(self) -> str:
        rows = [[COLUMNS[name].title, score.to_cell()] for name, score in self.accuracies.items()]
        return format_table(["", "top-1 accuracy by English names"], rows)


def _least(found: dict[str, float]) -> str:
    language = min(found, key=found.get)
    return f"{found[language]:.0%} in {language}"


def _most(found: dict[str, float]) -> str:
    language = max(found, key=found.get)
    return f"{found[language]:.0%} in {language}"


def compare_models(arguments: PhotographsArguments) -> Comparison:
    """Compute all figures from the results of all models.

    Raises:
        InputError: a result is missing, damaged or of other pictures.
    """
    results = Results(load_results(Path(arguments.output_dir, "results")), arguments)
    return Comparison(
        arguments=arguments,
        table=score_table(results),
        n_pictures={language: results.n_pictures(language) for language in arguments.languages},
        verdicts=judge(results),
        # Two columns are the teacher's too, by other captions.
        accuracies={
            name: results.accuracy(column)
            for name, column in COLUMNS.items()
            if name not in ("before", "dictionary")
        },
        found=json.loads(arguments.folder(BY_DICTIONARY).joinpath(FOUND).read_text("utf-8")),
    )


def save_comparison(comparison: Comparison) -> None:
    """Write `photographs.md`, `photographs.json` and `photographs.png` into the output folder."""
    folder = Path(comparison.arguments.output_dir)
    write_text(folder / "photographs.md", comparison.to_markdown())
    write_text(folder / "photographs.json", comparison.to_json())
    plot_comparison(comparison, folder / "photographs.png")


def plot_comparison(comparison: Comparison, picture: Path) -> None:
    """Draw a line for each language, with a dot and an interval for each column."""
    groups = list(comparison.table)
    figure = Figure(figsize=(9, 1.5 + 0.42 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for place, (name, column) in enumerate(COLUMNS.items()):
        # The dots of a language are a little apart, or their intervals would cover one another.
        offset = 0.12 * (place - (len(COLUMNS) - 1) / 2)
        rows = [row for row, group in enumerate(groups) if name in comparison.table[group]]
        scores = [comparison.table[groups[row]][name] for row in rows]
        values = [100 * score.value for score in scores]
        below = [100 * max(0, score.value - score.low) for score in scores]
        above = [100 * max(0, score.high - score.value) for score in scores]
        axes.errorbar(
            values,
            [row + offset for row in rows],
            xerr=[below, above],
            fmt="o",
            markersize=4,
            elinewidth=1,
            color=_COLORS[name],
            label=column.title,
        )
    _label_groups(axes, groups, comparison)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    save_figure(figure, picture, dpi=110)


def _label_groups(axes, groups: list[str], comparison: Comparison) -> None:
    labels = []
    for group in groups:
        n = comparison.n_pictures.get(group)
        labels.append(f"{group} ({n})" if n else group)
    axes.set_yticks(range(len(groups)), labels)
    for group, label in zip(groups, axes.get_yticklabels()):
        if group not in comparison.n_pictures:  # a mean
            label.set_fontweight("bold")
    axes.set_ylim(len(groups) - 0.4, -0.6)  # the first language is at the top
    # A stripe for every other language, since each has several dots.
    for row in range(0, len(groups), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="black", alpha=0.05, linewidth=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("mean recall in percent, with 95 % intervals; behind a language its number of pictures")
    axes.grid(axis="x", alpha=0.3)


__all__ = ["Comparison", "compare_models", "plot_comparison", "save_comparison"]
