"""English-only training beside multilingual, language by language, as Figures 3 and 4 of Krasner & Lanuzo.

from benchmarks.results import load_results
results = load_results(Path("outputs/parallel/results"))
groups = {"English only": ["english-1", "english-2"], "multilingual": ["parallel-1", "parallel-2"]}
scores = scores_of(results, groups, "coco-5k")
plot_accuracy(scores, ["en", "es", "ja", "hi"], Path("accuracy.png"))
plot_ranks(scores, ["en", "es", "ja", "hi"], Path("ranks.png"))
"""

from math import ceil
from pathlib import Path
from statistics import mean

from benchmarks.extras import of_extra
from benchmarks.results import Result

with of_extra("plots"):
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

matplotlib.use("Agg")

COLORS = ("tab:grey", "tab:blue", "tab:orange", "tab:green")
QUESTIONS = {"text_to_image": "the image of a caption", "image_to_text": "a caption of an image"}
DEPTHS = range(1, 11)
Scores = dict[str, dict[str, list[dict[str, float]]]]
"""`{group: {language: [metrics of each seed]}}`"""


def scores_of(results: list[Result], groups: dict[str, list[str]], task: str) -> Scores:
    """Sort results into groups of models that differ in their seed alone.

    Args:
        results: read by `benchmarks.results.load_results`.
        groups: `{label: names of model folders}`.
        task: of retrieval.

    Returns:
        `{label: {language: [metrics of each model]}}`, in the order of the results.

    Raises:
        ValueError: a model has no result of the task.
    """
    scores: Scores = {label: {} for label in groups}
    for label, models in groups.items():
        for model in models:
            found = [result for result in results if (Path(result.model).name, result.task) == (model, task)]
            if not found:
                raise ValueError(
                    f"no result of {model!r} in {task!r}: evaluate it with benchmarks/run_retrieval.py"
                )
            for result in found:
                scores[label].setdefault(result.language, []).append(result.metrics)
    return scores


def plot_accuracy(scores: Scores, seen: list[str], picture: Path, direction: str = "text_to_image") -> None:
    """Draw accuracy at depths 1 to 10 (Figure 3): a panel a language, a bar a group, from the least to the
    best seed a line.

    Args:
        seen: the languages of the multilingual training, which come first.
        direction: `text_to_image` finds images, `image_to_text` captions.
    """
    languages = in_order(scores, seen)
    n_columns = min(4, len(languages))
    n_rows = ceil(len(languages) / n_columns)
    figure = Figure(figsize=(3.2 * n_columns, 2.4 * n_rows + 0.6), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(languages) :]:
        axes.set_axis_off()
    for axes, language in zip(panels, languages):
        for group, (label, by_language) in enumerate(scores.items()):
            seeds = [
                [100 * metrics[f"{direction}_recall@{k}"] for k in DEPTHS]
                for metrics in by_language.get(language, [])
            ]
            if seeds:
                heights = [mean(column) for column in zip(*seeds)]
                around = [[height - min(column) for height, column in zip(heights, zip(*seeds))]]
                around += [[max(column) - height for height, column in zip(heights, zip(*seeds))]]
                axes.bar(
                    places(DEPTHS, group, scores),
                    heights,
                    width(scores),
                    yerr=around,
                    label=label,
                    **bar_style(group),
                )
        axes.set(title=title(language, seen), xticks=DEPTHS)
        axes.grid(axis="y", alpha=0.3)
    figure.supxlabel(f"k: {QUESTIONS[direction]} is among the first k", fontsize=10)
    figure.supylabel("accuracy@k, %", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(scores))
    figure.savefig(picture, dpi=110)


def plot_ranks(scores: Scores, seen: list[str], picture: Path, direction: str = "text_to_image") -> None:
    """Draw how ranks spread (Figure 4): a box a language and group from quartile to quartile with the median
    across, whiskers from the 5th to the 95th percentile. Of several seeds the mean of each of these is drawn;
    ranks count from 0.
    """
    languages = in_order(scores, seen)
    figure = Figure(figsize=(max(6, 0.9 * len(languages)), 4), layout="constrained")
    axes = figure.subplots()
    for group, (label, by_language) in enumerate(scores.items()):
        there = [place for place, language in enumerate(languages) if by_language.get(language)]
        boxes = [box(by_language[languages[place]], direction) for place in there]
        style = {
            "boxprops": {"facecolor": COLORS[group], "alpha": 0.75, "label": label},
            "medianprops": {"color": "black", "linewidth": 2},
        }
        axes.bxp(
            boxes,
            places(there, group, scores),
            widths=0.85 * width(scores),
            showfliers=False,
            patch_artist=True,
            **style,
        )
    # Logarithmic, since ranks of a good model and of a poor one are orders apart; linear below 1, where a
    # logarithm has no 0.
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(bottom=0)
    axes.set(
        ylabel=f"rank of {QUESTIONS[direction]}, from 0",
        xticks=range(len(languages)),
        xlim=(-0.6, len(languages) - 0.4),
    )
    axes.set_xticklabels([title(language, seen).replace(", ", "\n") for language in languages])
    axes.grid(axis="y", alpha=0.3)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(scores))
    figure.savefig(picture, dpi=110)


def box(seeds: list[dict[str, float]], direction: str) -> dict[str, float]:
    """What `Axes.bxp` draws: each percentile's mean over seeds."""
    parts = {"whislo": 5, "q1": 25, "med": 50, "q3": 75, "whishi": 95}
    return {
        part: mean(metrics[f"{direction}_rank_p{percentile}"] for metrics in seeds)
        for part, percentile in parts.items()
    }


def in_order(scores: Scores, seen: list[str]) -> list[str]:
    """All languages that have results: those seen in training first, in their order there."""
    there = list(dict.fromkeys(language for by_language in scores.values() for language in by_language))
    return [language for language in seen if language in there] + [
        language for language in there if language not in seen
    ]


def title(language: str, seen: list[str]) -> str:
    return f"{language}, {'seen' if language in seen else 'unseen'}"


def width(scores: Scores) -> float:
    return 0.8 / len(scores)


def places(centres: list[int] | range, group: int, scores: Scores) -> list[float]:
    """Where a group's bars or boxes stand: side by side around each centre."""
    return [centre + (group - (len(scores) - 1) / 2) * width(scores) for centre in centres]


def bar_style(group: int) -> dict:
    return {"color": COLORS[group], "alpha": 0.75, "error_kw": {"elinewidth": 1}}


__all__ = ["Scores", "plot_accuracy", "plot_ranks", "scores_of"]
