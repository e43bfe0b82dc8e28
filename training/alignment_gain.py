"""Measure what a head in closed form gains stage 1 in steps, by equal runs with and without it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.bootstrap import PairedDifference, compare
from benchmarks.report.means import MeanOutcomes
from benchmarks.results import Result, format_table, load_results
from common.errors import InputError

from .experiment import METRICS, result_of, run, run_once

WAYS = {"random": "head at random", "ridge": "head in closed form"}


@dataclass(kw_only=True)
class GainArguments:
    """Arguments of the measurement: recipe, models, numbers of steps, the task and the test."""

    stage1: str = field(metadata={"help": "The recipe of stage 1."})
    teacher_name_or_path: str = field(metadata={"help": "The teacher, as in stage 1."})
    text_encoder_name_or_path: str = field(metadata={"help": "The text encoder, as in stage 1."})
    dataset: str = field(metadata={"help": "Images with captions: to learn from, and to test on."})
    retrieval: str = field(metadata={"help": "The retrieval task to test on."})
    languages: list[str] = field(metadata={"help": "Languages to train and to test."})
    steps: list[int] = field(metadata={"help": "Numbers of steps; each is a run with a schedule of its own."})
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "Seeds of the runs."})
    n_resamples: int = field(
        default=10_000, metadata={"help": "Resamples of the images, by which differences are tested."}
    )
    output_dir: str = field(
        default="outputs/alignment_gain", metadata={"help": "Folder for models, results and table."}
    )

    def __post_init__(self):
        if not self.steps or min(self.steps) < 1:
            raise InputError(f"steps has {self.steps}: give numbers of steps from 1, such as 25 100")

    def runs(self) -> Iterator["_Run"]:
        """Yield all runs."""
        for seed in self.seeds:
            for steps in self.steps:
                for way in WAYS:
                    yield _Run(way, steps, seed)


class _Run(NamedTuple):
    way: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.way}-{self.steps}-{self.seed}"


def train_all(arguments: GainArguments) -> None:
    """Train every run that the same command and recipe have not made before."""
    for one in arguments.runs():
        folder = Path(arguments.output_dir, one.name)
        flags = ["--teacher_name_or_path", arguments.teacher_name_or_path]
        flags += ["--text_encoder_name_or_path", arguments.text_encoder_name_or_path]
        flags += ["--dataset", arguments.dataset, "--languages", *arguments.languages]
        flags += ["--initialize_projection", one.way, "--max_steps", one.steps, "--seed", one.seed]
        # Runs of equal steps differ in the beginning of the head alone.
        flags += ["--warmup_steps", one.steps // 10, "--output_dir", folder]
        run_once(folder, [arguments.stage1], "training/run_stage1.py", arguments.stage1, *flags)


def evaluate_all(arguments: GainArguments) -> list[Result]:
    """Evaluate every run on the task, and return the results."""
    results = Path(arguments.output_dir, "results")
    models = [Path(arguments.output_dir, one.name) for one in arguments.runs()]
    flags = ["--models", *models, "--tasks", arguments.retrieval, "--dataset", arguments.dataset]
    flags += ["--languages", *arguments.languages, "--output_dir", results]
    run("benchmarks/run_retrieval.py", *flags)
    return load_results(results)


def measure_gains(results: list[Result], arguments: GainArguments) -> dict[int, dict]:
    """Compare both ways after each number of steps, in the mean over languages and seeds.

    Returns:
        `{steps: {"random": recall, "ridge": recall, "difference": PairedDifference}}`, as fractions.
    """
    gains = {}
    for steps in arguments.steps:
        outcomes = {}
        for way in WAYS:
            parts = []
            for seed in arguments.seeds:
                name = _Run(way, steps, seed).name
                parts += [
                    result_of(results, str(Path(arguments.output_dir, name)), language).outcomes()
                    for language in arguments.languages
                ]
            outcomes[way] = MeanOutcomes(parts)
        metric = METRICS["retrieval"]
        difference = compare(outcomes["ridge"], outcomes["random"], arguments.n_resamples)[metric]
        values = {way: of_way.metrics()[metric] for way, of_way in outcomes.items()}
        gains[steps] = values | {"difference": difference}
    return gains


def gains_table(gains: dict[int, dict]) -> str:
    """Format a row for each number of steps, in percent and points."""
    rows = []
    for steps, values in gains.items():
        difference: PairedDifference = values["difference"]
        shown = f"{100 * difference.difference:+.1f}"
        interval = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
        cells = [f"{100 * values[way]:.1f}" for way in WAYS]
        rows.append([str(steps), *cells, f"{shown} ({interval}), p {difference.p:.2g}"])
    return format_table(["steps", *WAYS.values(), "gain in points"], rows)


__all__ = ["GainArguments", "evaluate_all", "gains_table", "measure_gains", "train_all"]
