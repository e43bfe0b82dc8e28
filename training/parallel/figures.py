"""English-only training beside multilingual, language by language, as Figures 3 and 4 of Krasner & Lanuzo.

from benchmarks.results import load_results
results = load_results(Path("outputs/parallel/results"))
groups = {"English only": ["english-1", "english-2"], "multilingual": ["parallel-1", "parallel-2"]}
scores = scores_of(results, groups, "coco-5k")
plot_accuracy(scores, ["en", "es", "ja", "hi"], Path("accuracy.png"))
plot_ranks(scores, ["en", "es", "ja", "hi"], Path("ranks.png"))
"""

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import mean

from benchmarks.outcomes import DEPTHS
from benchmarks.results import Result
from common.extras import of_extra
from common.figures import save_figure

with of_extra("plots"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

matplotlib.use("Agg")

COLORS = ("tab:grey", "tab:blue", "tab:orange", "tab:green")
_QUESTIONS = {"text_to_image": "the image of a caption", "image_to_text": "a caption of an image"}
# What `Axes.bxp` calls the parts of a box: the whiskers' ends, the quartiles and the median.
_PERCENTILES = {"whislo": 5, "q1": 25, "med": 50, "q3": 75, "whishi": 95}

Scores = dict[str, dict[str, list[dict[str, float]]]]
"""`{group: {language: [metrics of each seed]}}`"""


@dataclass(frozen=True)
class _Slot:
    """The place of one of `n_groups` bars or boxes that stand side by side around a common centre.

    Of two groups, each 0.4 wide, the first is drawn at `centre - 0.2` and the second at `centre + 0.2`.
    """

    group: int
    n_groups: int

    @property
    def color(self) -> str:
        return COLORS[self.group]

    @property
    def width(self) -> float:
        return 0.8 / self.n_groups  # a gap of 0.2 to the next centre's

    def positions(self, centres: list[int] | range) -> list[float]:
        """Return where the group is drawn."""
        middle = (self.n_groups - 1) / 2
        offset = (self.group - middle) * self.width
        return [centre + offset for centre in centres]


def scores_of(results: list[Result], groups: dict[str, list[str]], task: str) -> Scores:
    """Sort results into groups of models that differ only in their seed.

    Args:
        results: read by `benchmarks.results.load_results`.
        groups: `{label: names of model folders}`.
        task: a retrieval task.

    Returns:
        `{label: {language: [metrics of each model]}}`, in the order of the results.

    Raises:
        ValueError: a model has no result of the task.
    """
    of_task = [result for result in results if result.task == task]
    scores: Scores = {label: {} for label in groups}
    for label, models in groups.items():
        for model in models:
            found = [result for result in of_task if Path(result.model).name == model]
            if not found:
                raise ValueError(
                    f"no result of {model!r} in {task!r}: evaluate it with benchmarks/run_retrieval.py"
                )
            for result in found:
                scores[label].setdefault(result.language, []).append(result.metrics)
    return scores


def plot_accuracy(scores: Scores, seen: list[str], picture: Path, direction: str = "text_to_image") -> None:
    """Draw accuracy at depths 1 to 10 (Figure 3): a panel per language, a bar per group.

    A bar's height is the mean over seeds; its error bar reaches from the worst seed to the best.

    Args:
        seen: languages of the multilingual training. They come first.
        direction: `text_to_image` searches images, `image_to_text` captions.
    """
    languages = _order_languages(scores, seen)
    n_columns = min(4, len(languages))
    n_rows = ceil(len(languages) / n_columns)
    width = 3.2 * n_columns
    height = 2.4 * n_rows + 0.6  # for the legend
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.subplots(n_rows, n_columns, sharex=True, sharey=True)
    panels = figure.axes

    for axes, language in zip(panels, languages):
        for group, (label, by_language) in enumerate(scores.items()):
            slot = _Slot(group, len(scores))
            seeds = by_language.get(language)
            if seeds:
                _draw_bars(axes, slot, seeds, direction, label)
        axes.set(title=_title(language, seen), xticks=DEPTHS)
        axes.grid(axis="y", alpha=0.3)
    for axes in panels[len(languages) :]:  # the rest of the last row
        axes.set_axis_off()

    figure.supxlabel(f"k: {_QUESTIONS[direction]} is among the first k", fontsize=10)
    figure.supylabel("accuracy@k, %", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(scores))
    save_figure(figure, picture, dpi=110)


def _draw_bars(axes: Axes, slot: _Slot, seeds: list[dict[str, float]], direction: str, label: str) -> None:
    """Draw a group's bar at each depth, with an error bar from the worst seed to the best."""
    heights = []
    below = []
    above = []
    for depth in DEPTHS:
        metric = f"{direction}_recall@{depth}"
        accuracies = [100 * metrics[metric] for metrics in seeds]
        height = mean(accuracies)
        heights.append(height)
        below.append(height - min(accuracies))
        above.append(max(accuracies) - height)

    axes.bar(
        slot.positions(DEPTHS),
        heights,
        slot.width,
        yerr=[below, above],
        color=slot.color,
        label=label,
        alpha=0.75,
        error_kw={"elinewidth": 1},
    )


def plot_ranks(scores: Scores, seen: list[str], picture: Path, direction: str = "text_to_image") -> None:
    """Draw the distribution of ranks (Figure 4), which count from 0: a box per language and group.

    A box reaches from quartile to quartile, its whiskers from the 5th to the 95th percentile, and a line
    marks the median. With several seeds each of these is the mean over seeds.

    Args:
        seen: languages of the multilingual training. They come first.
        direction: `text_to_image` searches images, `image_to_text` captions.
    """
    languages = _order_languages(scores, seen)
    width = max(6, 0.9 * len(languages))
    figure = Figure(figsize=(width, 4), layout="constrained")
    axes = figure.subplots()

    for group, (label, by_language) in enumerate(scores.items()):
        slot = _Slot(group, len(scores))
        centres = [centre for centre, language in enumerate(languages) if by_language.get(language)]
        seeds_by_box = [by_language[languages[centre]] for centre in centres]
        boxes = [_box(seeds, direction) for seeds in seeds_by_box]
        axes.bxp(
            boxes,
            slot.positions(centres),
            widths=0.85 * slot.width,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": slot.color, "alpha": 0.75, "label": label},
            medianprops={"color": "black", "linewidth": 2},
        )

    # Logarithmic, since ranks of a good model and of a poor one are orders apart; linear below 1, where a
    # logarithm has no 0.
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(bottom=0)
    axes.set(
        ylabel=f"rank of {_QUESTIONS[direction]}, from 0",
        xticks=range(len(languages)),
        xlim=(-0.6, len(languages) - 0.4),
    )
    titles = [_title(language, seen) for language in languages]
    axes.set_xticklabels([title.replace(", ", "\n") for title in titles])
    axes.grid(axis="y", alpha=0.3)

    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles))  # each box of a group has its label, and the legend wants one
    figure.legend(by_label.values(), by_label.keys(), loc="outside upper center", ncols=len(scores))
    save_figure(figure, picture, dpi=110)


def _box(seeds: list[dict[str, float]], direction: str) -> dict[str, float]:
    """Return the statistics of a box for `Axes.bxp`: the mean over seeds of each percentile."""
    statistics = {}
    for part, percentile in _PERCENTILES.items():
        metric = f"{direction}_rank_p{percentile}"
        statistics[part] = mean(metrics[metric] for metrics in seeds)
    return statistics


def _order_languages(scores: Scores, seen: list[str]) -> list[str]:
    """Return all languages that have results: first those seen in training, in the order of `seen`."""
    measured: dict[str, None] = {}
    for by_language in scores.values():
        measured |= dict.fromkeys(by_language)
    in_training = [language for language in seen if language in measured]
    unseen = [language for language in measured if language not in seen]
    return in_training + unseen


def _title(language: str, seen: list[str]) -> str:
    if language in seen:
        return f"{language}, seen"
    return f"{language}, unseen"


__all__ = ["Scores", "plot_accuracy", "plot_ranks", "scores_of"]
