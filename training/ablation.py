"""The paper's ablation (Table 4): what English text, its translations and contrastive learning each add."""

from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from matplotlib.figure import Figure

from benchmarks.results import Result, format_table


class Row(NamedTuple):
    """A way to train. `english` and `translations` say what stage 1 reads: where neither, there is no stage 1."""

    name: str
    english: bool
    translations: bool
    contrastive: bool
    paper: tuple[float, float, float, float] | None = None
    """Mean recall on Flickr30k in English and Chinese, top-1 on ImageNet in both: Chen et al. 2023, Table 4, ViT-L/14."""


# The paper's human translations are ours too: the miniature has no machine's, so its rows "MT" and "MT + HT" are one.
ROWS = {
    "en_en": Row("EN-EN", True, False, False, (86.6, 53.9, 53.8, 12.8)),
    "en_xx": Row("EN-XX", False, True, False, (61.9, 85.4, 15.5, 42.5)),
    "both": Row("EN-EN + EN-XX", True, True, False, (88.3, 87.2, 74.7, 58.2)),
    "both_contrastive": Row("EN-EN + EN-XX, contrastive", True, True, True, (90.4, 89.2, 74.5, 59.6)),
    "contrastive": Row("contrastive alone", False, False, True),
}
COLUMNS = {"retrieval": "mean_recall", "zero_shot": "accuracy@1"}
HEADERS = ["retrieval EN", "retrieval others", "zero-shot EN", "zero-shot others"]


def summarise(results: list[Result]) -> dict[str, list[list[float]]]:
    """For each row of the table, four lists of percentages, one figure a seed: retrieval in English, in the other languages'
    mean, and zero-shot classification likewise.

    Args:
        results: of models that are called by row and seed, such as `both-1`.
    """
    summary = {}
    for name in ROWS:
        seeds = sorted({Path(result.model).name for result in results if Path(result.model).name.rpartition("-")[0] == name})
        if seeds:
            summary[name] = [[score(results, seed, task, english) for seed in seeds] for task in COLUMNS for english in (True, False)]
    return summary


def score(results: list[Result], model: str, task: str, english: bool) -> float:
    """One model's figure in percent, in English or in the mean of all other languages."""
    found = [
        result.metrics[COLUMNS[task]]
        for result in results
        if Path(result.model).name == model and result.task == task and (result.language == "en") == english
    ]
    return 100 * mean(found)


def ablation_table(summary: dict[str, list[list[float]]]) -> str:
    """Means over seeds with their standard deviations, and the paper's figures beside them."""
    rows = []
    for name, columns in summary.items():
        ours = [f"{mean(seeds):.1f} ± {stdev(seeds) if len(seeds) > 1 else 0:.1f}" for seeds in columns]
        paper = ROWS[name].paper
        rows.append([ROWS[name].name, *ours, " / ".join(map(str, paper)) if paper else "not in the paper"])
    return format_table(["training", *HEADERS, "paper: Flickr30k EN / CN, ImageNet EN / CN"], rows)


def plot_ablation(summary: dict[str, list[list[float]]], picture: Path) -> None:
    """Bars of the means with a dot for each seed, English beside the other languages; the paper's figures as lines across."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, title, first in zip(figure.subplots(1, 2), ("retrieval, mean recall", "zero-shot, top-1"), (0, 2)):
        for offset, color, label in ((0, "tab:blue", "English"), (1, "tab:orange", "18 other languages, mean")):
            for place, (name, columns) in enumerate(summary.items()):
                seeds, left = columns[first + offset], place + 0.4 * offset - 0.2
                axes.bar(left, mean(seeds), width=0.38, color=color, alpha=0.75, label=None if place else label)
                axes.scatter([left] * len(seeds), seeds, color="black", s=8, zorder=3, label=None if place or offset else "seeds")
                paper = ROWS[name].paper
                if paper:
                    height = paper[first + offset]
                    axes.hlines(
                        height,
                        left - 0.19,
                        left + 0.19,
                        color="black",
                        linestyle=":",
                        label=None if place or offset else "paper, EN and CN",
                    )
        axes.set(title=title, ylabel="%", xticks=range(len(summary)), ylim=(0, 100))
        axes.set_xticklabels([ROWS[name].name.replace(", ", ",\n").replace(" + ", "\n+ ") for name in summary], fontsize=8)
        axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(picture, dpi=110)


__all__ = ["ROWS", "ablation_table", "plot_ablation", "summarise"]
