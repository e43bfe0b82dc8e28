"""What stage 1 needs: curves over steps, text and languages, and ablations, all of the first seed.

steps_N         N steps instead of all
random_N        the same with a head that begins at random, not with the one of the ridge regression
pairs_N         about N pairs of texts instead of all, in the steps of `curve_share`
languages_N     the first N of the trained languages, in as many steps
NAME            an ablation, whose flags the recipe states, in as many steps
four_bits       the stage 1 of the table, with the matrices of its text tower rounded to four bits
"""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

from benchmarks.bootstrap import PairedDifference
from benchmarks.results import load_results
from common.errors import InputError
from common.extras import of_extra
from common.figures import save_figure
from common.files.whole_files import write_text
from common.models.loading import load_model, save_model
from model_cards.stages import read_log

from ..data.parallel_text import read_sources
from ..experiment import MADE_BY, make_once, seconds_to_make
from .dictionary import BY_DICTIONARY
from .experiment import (
    LINEAR_HEAD,
    TEACHER,
    TEXT,
    PhotographsArguments,
    Training,
    evaluate_retrieval,
    evaluation_record,
    stage1_arguments,
)
from .scores import Column, Results, Score
from .verdicts import difference_of_means

with of_extra("plots"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FOUR_BITS = "four_bits"
_RANDOM = "steps, head at random"
_OTHERS = "all others of the recipe"
_UNSEEN = "never trained"
# Groups of languages that are drawn: the same at every point.
_COLORS = {"English": "tab:green", _OTHERS: "tab:blue", _UNSEEN: "tab:orange"}
_CLOSE = 1.2  # places of a logarithmic axis whose labels would overlap
_LABEL = 22  # letters of a line
_AT_RANDOM = ["--initialize_projection", "random"]
_BLOCK = 32  # values that share a scale
_LEVELS = 8  # from -8 to 7


class _Point(NamedTuple):
    """A point of a curve: where it is, its model, and the languages that this model was trained in."""

    x: int
    model: str
    trained: list[str]


def curve_trainings(arguments: PhotographsArguments) -> list[Training]:
    """List the trainings of the curves and ablations."""
    trainings = []
    for steps in _numbers_of_steps(arguments):
        trainings.append(_train_for(steps, f"steps_{steps}", [], arguments))
    for steps in _numbers_of_steps(arguments):
        trainings.append(_train_for(steps, f"random_{steps}", _AT_RANDOM, arguments))

    steps = _steps_of_curves(arguments)
    for pairs in _smaller_amounts(arguments):
        flags = ["--dataset", str(_list_of_text(pairs, arguments))]
        trainings.append(_train_for(steps, f"pairs_{pairs}", flags, arguments))
    for number in _smaller_numbers(arguments):
        flags = ["--languages", *arguments.trained[:number]]
        trainings.append(_train_for(steps, f"languages_{number}", flags, arguments))
    for ablation in arguments.ablations:
        name, *flags = shlex.split(ablation)
        trainings.append(_train_for(steps, name, flags, arguments))
    return trainings


def _train_for(steps: int, name: str, flags: list[str], arguments: PhotographsArguments) -> Training:
    """Describe a stage 1 of the first seed that differs in its steps and by flags."""
    flags = ["--seed", str(arguments.seeds[0]), "--max_steps", str(steps), *flags]
    return Training(name, 1, flags, TEACHER, steps / _steps_of_stage1(arguments))


def _steps_of_stage1(arguments: PhotographsArguments) -> int:
    """Return the number of steps in the recipe of stage 1.

    Raises:
        InputError: it counts epochs instead.
    """
    steps = stage1_arguments(arguments, arguments.folder(BY_DICTIONARY)).max_steps
    if steps < 1:
        raise InputError(f"stage1 {arguments.stage1!r} has no max_steps, which the curves need: give it one")
    return steps


def _steps_of_curves(arguments: PhotographsArguments) -> int:
    """Return the steps of the curves over text and languages, and of the ablations."""
    return round(arguments.curve_share * _steps_of_stage1(arguments))


def _base_of_curves(arguments: PhotographsArguments) -> str:
    """Return the name of the model with all text and languages that has been trained for as many steps."""
    if arguments.curve_share == 1:
        return f"stage1-{arguments.seeds[0]}"
    return f"steps_{_steps_of_curves(arguments)}"


def _numbers_of_steps(arguments: PhotographsArguments) -> list[int]:
    """Return the numbers of steps that are fewer than all."""
    n_steps = _steps_of_stage1(arguments)
    return [max(1, round(share * n_steps)) for share in arguments.step_shares]


def _amount_of_text(arguments: PhotographsArguments) -> dict[str, int]:
    """Return the number of `rows` and of `pairs` that stage 1 reads."""
    return json.loads(arguments.folder(BY_DICTIONARY).joinpath(TEXT).read_text("utf-8"))


def _smaller_amounts(arguments: PhotographsArguments) -> list[int]:
    """Return the numbers of pairs to train on that are less than all."""
    total = _amount_of_text(arguments)["pairs"]
    return [pairs for pairs in arguments.pairs if pairs < total]


def _smaller_numbers(arguments: PhotographsArguments) -> list[int]:
    """Return the numbers of languages to train that are less than all."""
    return [number for number in arguments.n_languages if number < len(arguments.trained)]


def _list_of_text(n_pairs: int, arguments: PhotographsArguments) -> Path:
    """Write a list of the text of stage 1 with budgets, and return it.

    A budget is one of rows, which have several languages each. Each source gives the same share of its rows.

    Raises:
        InputError: a source is no folder of parquet, as cleaning writes them, so that its rows are not known.
    """
    dataset = stage1_arguments(arguments, arguments.folder(BY_DICTIONARY)).dataset
    share = n_pairs / _amount_of_text(arguments)["pairs"]
    listed = []
    for source in read_sources(dataset):
        folder = Path(source["data"]).absolute()  # the list lies elsewhere than where the recipe is read from
        n_rows = max(1, round(share * _n_rows(folder, arguments)))
        listed.append(source | {"data": str(folder), "rows": n_rows})
    path = Path(arguments.output_dir, "text_lists", f"pairs_{n_pairs}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"- {json.dumps(source)}\n" for source in listed))
    return path


def _n_rows(folder: Path, arguments: PhotographsArguments) -> int:
    """Count the rows of a folder of parquet, without reading them.

    Raises:
        InputError: it has no parquet.
    """
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise InputError(
            f"stage1 {arguments.stage1!r} reads {str(folder)!r}, and the curve over pairs takes a part of "
            "each source: clean the text, and give the folder of the outcome as dataset"
        )
    return sum(pq.read_metadata(file).num_rows for file in files)


def describe_plan(trainings: list[Training], arguments: PhotographsArguments) -> str:
    """Say how many trainings there are, and how long those that are left will take.

    A training is counted like the first one, its steps by their share; a stage 2 like a stage 1. An
    evaluation is counted like that of the linear head.
    """
    left = [training for training in trainings if not (arguments.folder(training.name) / MADE_BY).exists()]
    sentence = f"{len(trainings)} trainings, {len(left)} of them to do"
    first = arguments.folder(trainings[0].name)
    whole = seconds_to_make(first)
    of_steps = _seconds_of_steps(first)
    of_evaluation = seconds_to_make(evaluation_record(LINEAR_HEAD, arguments.retrieval, arguments))
    if not left or None in (whole, of_steps, of_evaluation):
        return f"{sentence}."
    seconds = 0.0
    for training in left:
        seconds += (whole - of_steps) + training.share * of_steps + of_evaluation
    return (
        f"{sentence}: about {seconds / 3600:.1f} hours with their evaluation, since the first one took "
        f"{whole / 60:.1f} minutes and an evaluation {of_evaluation / 60:.1f}."
    )


def _seconds_of_steps(folder: Path) -> float | None:
    """Return how long the steps of a training took, by its log; None where that has no such entry."""
    for entry in read_log(str(folder)):
        if "train_runtime" in entry:
            return entry["train_runtime"]
    return None


def measure_curves(arguments: PhotographsArguments) -> None:
    """Write `curves.json` and `curves.png`, of what `curve_trainings` lists, which is evaluated."""
    _save_four_bits(arguments)
    evaluate_retrieval(_FOUR_BITS, arguments)
    results = Results(load_results(Path(arguments.output_dir, "results")), arguments)

    curves = {}
    for title, points in _points_of(arguments).items():
        curves[title] = [_measure(point, results, arguments) for point in points]
    ablations = _measure_ablations(results, arguments)
    gains = _measure_gains(results, arguments)
    folder = Path(arguments.output_dir)
    write_text(folder / "curves.json", _to_json(curves, ablations, gains))
    _plot(curves, ablations, _steps_of_curves(arguments), folder / "curves.png")


def _points_of(arguments: PhotographsArguments) -> dict[str, list[_Point]]:
    """List the points of each curve. With all steps, all text or all languages it ends."""
    whole = f"stage1-{arguments.seeds[0]}"
    trained = arguments.trained
    n_steps = _steps_of_stage1(arguments)
    steps = [_Point(number, f"steps_{number}", trained) for number in _numbers_of_steps(arguments)]
    random = [_Point(number, f"random_{number}", trained) for number in _numbers_of_steps(arguments)]
    pairs = [_Point(number, f"pairs_{number}", trained) for number in _smaller_amounts(arguments)]
    languages = []
    for number in _smaller_numbers(arguments):
        languages.append(_Point(number, f"languages_{number}", trained[:number]))
    base = _base_of_curves(arguments)
    return {
        "steps": [*steps, _Point(n_steps, whole, trained)],
        _RANDOM: random,
        "pairs of texts": [*pairs, _Point(_amount_of_text(arguments)["pairs"], base, trained)],
        "trained languages": [*languages, _Point(len(trained), base, trained)],
    }


def _measure(
    point: _Point, results: Results, arguments: PhotographsArguments
) -> tuple[int, dict[str, Score]]:
    """Return where a point is, and the mean recall in some languages.

    `trained` are those that its model was trained in. The other groups are the same for all points: English,
    all others that the experiment trains, and those that it never trains.
    """
    groups = {
        "trained": point.trained,
        "English": arguments.trained[:1],
        _OTHERS: arguments.trained[1:],
        _UNSEEN: arguments.unseen,
    }
    column = Column(point.model, point.model)
    scores = {name: results.score(column, languages) for name, languages in groups.items() if languages}
    return point.x, scores


def _measure_ablations(results: Results, arguments: PhotographsArguments) -> dict[str, PairedDifference]:
    """Compare each ablation with stage 1 of as many steps, in the mean of the trained languages."""
    base = _base_of_curves(arguments)
    bases = {shlex.split(ablation)[0]: base for ablation in arguments.ablations}
    bases[_FOUR_BITS] = f"stage1-{arguments.seeds[0]}"
    differences = {}
    for name, base in bases.items():
        of_languages = (Column(name, name), Column(base, base), arguments.trained)
        differences[name] = difference_of_means(results, *of_languages)
    return differences


def _measure_gains(results: Results, arguments: PhotographsArguments) -> dict[int, PairedDifference]:
    """Compare a head that begins in closed form with one at random, after each number of steps."""
    gains = {}
    for number in _numbers_of_steps(arguments):
        fitted = Column("fitted", f"steps_{number}")
        random = Column("random", f"random_{number}")
        gains[number] = difference_of_means(results, fitted, random, arguments.trained)
    return gains


def _to_json(
    curves: dict[str, list[tuple[int, dict[str, Score]]]],
    ablations: dict[str, PairedDifference],
    gains: dict[int, PairedDifference],
) -> str:
    """Write all figures as fractions."""
    content = {"curves": {}, "ablations": {}, "gains of a head in closed form": {}}
    for number, difference in gains.items():
        content["gains of a head in closed form"][number] = asdict(difference)
    for title, points in curves.items():
        listed = []
        for x, scores in points:
            listed.append({"x": x} | {name: asdict(score) for name, score in scores.items()})
        content["curves"][title] = listed
    for name, difference in ablations.items():
        content["ablations"][name] = asdict(difference)
    return json.dumps(content, indent=1) + "\n"


def _plot(
    curves: dict[str, list[tuple[int, dict[str, Score]]]],
    ablations: dict[str, PairedDifference],
    n_steps: int,
    picture: Path,
) -> None:
    """Draw a panel for each curve, and one of the ablations' differences from stage 1.

    Args:
        n_steps: of the trainings whose text, languages or flags differ.
    """
    figure = Figure(figsize=(10, 7), layout="constrained")
    *panels, last = figure.subplots(2, 2).flat
    drawn = {title: points for title, points in curves.items() if title != _RANDOM}
    for axes, (title, points) in zip(panels, drawn.items()):
        _plot_curve(axes, points)
        label = title if title == "steps" else f"{title}, {n_steps:,} steps"
        axes.set(xlabel=label, ylabel="mean recall in percent", ylim=(0, None))
    at_random = [(x, 100 * scores["trained"].value) for x, scores in curves[_RANDOM]]
    panels[0].plot(*zip(*at_random), "--", color="black", label="trained, head at random")
    _plot_ablations(last, ablations)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=4, title="languages")
    save_figure(figure, picture, dpi=110)


def _plot_curve(axes: Axes, points: list[tuple[int, dict[str, Score]]]) -> None:
    """Draw the mean recall of each group of languages with its interval."""
    for name, color in _COLORS.items():
        shown = [(x, scores[name]) for x, scores in points if name in scores]
        values = [100 * score.value for _, score in shown]
        below = [100 * max(0, score.value - score.low) for _, score in shown]
        above = [100 * max(0, score.high - score.value) for _, score in shown]
        places = [x for x, _ in shown]
        axes.errorbar(places, values, yerr=[below, above], fmt="o-", markersize=4, color=color, label=name)
    axes.set_xscale("log")
    # Of two labels that would overlap, that of the larger place is written.
    places = [x for x, _ in points]
    labels = []
    for place, following in zip(places, [*places[1:], np.inf]):
        labels.append("" if following < _CLOSE * place else f"{place:,}")
    axes.set_xticks(places, labels, minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _plot_ablations(axes: Axes, ablations: dict[str, PairedDifference]) -> None:
    """Draw the difference of each ablation from stage 1 with its interval."""
    for row, difference in enumerate(ablations.values()):
        value = 100 * difference.difference
        ends = [[max(0, value - 100 * difference.low)], [max(0, 100 * difference.high - value)]]
        axes.errorbar([value], [row], xerr=ends, fmt="o", markersize=4, color="tab:blue")
    axes.axvline(0, color="black", linewidth=0.8)
    labels = [fill(name.replace("_", " "), _LABEL) for name in ablations]
    axes.set_yticks(range(len(ablations)), labels)
    axes.set_ylim(len(ablations) - 0.5, -0.5)
    axes.set(xlabel="points above stage 1, mean of trained languages")
    axes.grid(axis="x", alpha=0.3)


def _save_four_bits(arguments: PhotographsArguments) -> None:
    """Save stage 1 with the matrices of its text tower rounded, once."""
    start = arguments.folder(f"stage1-{arguments.seeds[0]}")
    folder = arguments.folder(_FOUR_BITS)

    def save() -> None:
        model, processor = load_model(str(start))
        round_to_four_bits(model.text_model)
        save_model(model, processor, folder)

    make_once(folder, f"{_FOUR_BITS}\n{(start / MADE_BY).read_text('utf-8')}", save)


@torch.no_grad()
def round_to_four_bits(module: nn.Module) -> None:
    """Round the matrices of a module to four bits in place: sixteen multiples of a scale in each block.

    A block is 32 values of a row, and its scale a float16 that takes the value of the largest magnitude to
    -8, as the file of the text encoder has it. Matrices whose rows are no whole number of blocks stay as
    they are.
    """
    for weight in module.parameters():
        if weight.ndim != 2 or weight.shape[1] % _BLOCK:
            continue
        blocks = weight.reshape(-1, _BLOCK)
        places = blocks.abs().argmax(1, keepdim=True)
        scales = (blocks.gather(1, places) / -_LEVELS).half().float()
        # A block of zeros has the scale 0, and stays zero.
        steps = (blocks / scales.where(scales != 0, 1)).round().clamp(-_LEVELS, _LEVELS - 1)
        weight.copy_((steps * scales).reshape(weight.shape))


__all__ = ["curve_trainings", "describe_plan", "measure_curves", "round_to_four_bits"]
