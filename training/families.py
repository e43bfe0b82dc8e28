"""Teach text encoders of three families what English teachers of two kinds know, and test what they lose.

All is made by teacher learning (stage 1) alone. A student in any language is compared with its own teacher in
English, on the same images.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.bootstrap import resampled_differences
from benchmarks.multiple_tests import LowerBounds, lower_bounds
from benchmarks.report.means import share_images
from benchmarks.results import Result, format_table
from common.errors import InputError
from common.extras import of_extra
from common.figures import save_figure

from .experiment import METRICS, ExperimentArguments, result_of, run_once

with of_extra("plots"):
    from matplotlib.figure import Figure

TEACHERS = {"clip": "CLIP-like teacher", "siglip": "SigLIP-like teacher"}


class _Family(NamedTuple):
    """A family of text encoders, one column of the table."""

    name: str
    flags: tuple[str, ...]  # of stage 1


STUDENTS = {
    "xlm_r": _Family("XLM-R", ()),
    "bert": _Family("BERT, mean pooling", ("--text_pooling", "mean")),
    "modernbert": _Family("ModernBERT", ()),
}
_TITLES = {"retrieval": "Retrieval, mean recall", "zero_shot": "Zero-shot classification, top-1"}
_LEVEL = 0.05


@dataclass(kw_only=True)
class FamiliesArguments(ExperimentArguments):
    """Arguments of the comparison of families: teachers, text encoders, data, recipes, tasks and the test."""

    clip_teacher_name_or_path: str = field(metadata={"help": "The CLIP-like teacher, which is trained."})
    siglip_name_or_path: str = field(
        metadata={"help": "An untrained SigLIP, which stage 0 makes the SigLIP-like teacher."}
    )
    xlm_r_name_or_path: str = field(metadata={"help": "An XLM-R that becomes a text tower."})
    bert_name_or_path: str = field(metadata={"help": "A BERT that becomes a text tower."})
    modernbert_name_or_path: str = field(metadata={"help": "A ModernBERT that becomes a text tower."})
    stage0: str = field(metadata={"help": "The recipe of stage 0 with the sigmoid loss."})
    stage1: str = field(metadata={"help": "The recipe of stage 1."})
    margin: float = field(
        default=2.0,
        metadata={"help": "Points that a student has to be shown to lose less than, in each language."},
    )
    n_resamples: int = field(
        default=10_000, metadata={"help": "Resamples of the images, by which differences are tested."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of all trainings."})
    output_dir: str = field(
        default="outputs/families", metadata={"help": "Folder for models, results, table and plot."}
    )

    def __post_init__(self):
        if self.margin <= 0:
            raise InputError(f"margin is {self.margin}: give the points above 0 that may be lost, such as 2")

    def encoder(self, student: str) -> str:
        """Return the text encoder of a family."""
        encoders = {
            "xlm_r": self.xlm_r_name_or_path,
            "bert": self.bert_name_or_path,
            "modernbert": self.modernbert_name_or_path,
        }
        return encoders[student]


def train_teacher(arguments: FamiliesArguments) -> str:
    """Train the SigLIP-like teacher, unless the same command and recipe have made it before.

    Returns:
        Its folder.
    """
    folder = Path(arguments.output_dir, "siglip_teacher")
    flags = ["--model_name_or_path", arguments.siglip_name_or_path, "--dataset", arguments.dataset]
    flags += ["--output_dir", folder, "--seed", arguments.seed]
    run_once(folder, [arguments.stage0], "training/run_stage0.py", arguments.stage0, *flags)
    return str(folder)


def train_student(kind: str, teacher: str, student: str, arguments: FamiliesArguments) -> str:
    """Train one student by stage 1, unless the same command and recipes have made it before.

    Args:
        kind: the kind of the teacher, a key of `TEACHERS`.
        teacher: its folder.
        student: the family, a key of `STUDENTS`.

    Returns:
        The student's folder.
    """
    folder = Path(arguments.output_dir, f"{kind}-{student}")
    flags = ["--teacher_name_or_path", teacher]
    flags += ["--text_encoder_name_or_path", arguments.encoder(student), *STUDENTS[student].flags]
    flags += ["--dataset", arguments.dataset, "--output_dir", folder, "--seed", arguments.seed]
    # A teacher of another recipe of stage 0 has other students.
    recipes = [arguments.stage0, arguments.stage1]
    run_once(folder, recipes, "training/run_stage1.py", arguments.stage1, *flags)
    return str(folder)


@dataclass
class _Gap:
    """How far a student is above its teacher's English in each language, as fractions.

    Attributes:
        teacher, student: keys of `TEACHERS` and `STUDENTS`.
        of_teacher: the teacher's score in English.
        languages: the languages that the student was evaluated in.
        differences: the student's score in each language minus `of_teacher`.
        resampled: float64 `(languages, resamples)`, the differences under other draws of the images; all
            languages have the same draws.
        tested: the outcome of the tests, in the order of `languages`.
    """

    teacher: str
    student: str
    of_teacher: float
    languages: list[str]
    differences: list[float]
    resampled: torch.Tensor
    tested: LowerBounds | None = None

    @property
    def mean(self) -> float:
        return sum(self.differences) / len(self.differences)

    @property
    def interval_of_mean(self) -> tuple[float, float]:
        """Return the 95 % interval of the mean over languages, which share their images."""
        ends = torch.tensor([0.025, 0.975], dtype=self.resampled.dtype)
        low, high = self.resampled.mean(0).quantile(ends).tolist()
        return low, high

    @property
    def worst(self) -> int:
        """Return the place of the language with the largest loss."""
        return self.differences.index(min(self.differences))

    @property
    def n_behind(self) -> int:
        """Count the languages in which the student is not shown to be within the margin."""
        return sum(p > _LEVEL for p in self.tested.p_values)


def measure_gaps(
    results: list[Result], kind: str, folders: dict[str, str], arguments: FamiliesArguments
) -> list[_Gap]:
    """Compare each student with its teacher, and test that it loses less than the margin in each language.

    All languages of all students are one family of tests, corrected by Holm's procedure; see
    `benchmarks.multiple_tests.lower_bounds`.

    Args:
        results: of teachers in English and of students, with their per-item results.
        kind: `retrieval` or `zero_shot`.
        folders: `{"clip": folder of a teacher, "clip-bert": folder of a student, ...}`.

    Raises:
        InputError: a result is missing, or of other images.
    """
    task = {"retrieval": arguments.retrieval, "zero_shot": arguments.zero_shot}[kind]
    of_task = [result for result in results if result.task == task]
    found = []
    for teacher in TEACHERS:
        reference = result_of(of_task, folders[teacher], "en")
        for student in STUDENTS:
            of_student = [result for result in of_task if result.model == folders[f"{teacher}-{student}"]]
            found.append(_compare(teacher, student, reference, of_student, arguments.n_resamples))
    _check_same_languages(found)

    # (tests, resamples), in the order of `found`
    resampled = torch.cat([gap.resampled for gap in found])
    tested = lower_bounds(resampled, -arguments.margin / 100, _LEVEL)
    start = 0
    for gap in found:
        end = start + len(gap.languages)
        gap.tested = LowerBounds(tested.p_values[start:end], tested.bounds[start:end])
        start = end
    return found


def _check_same_languages(found: list[_Gap]) -> None:
    for gap in found:
        if gap.languages != found[0].languages:
            raise InputError(
                f"the student {gap.teacher}-{gap.student} has results in {' '.join(gap.languages)}, and "
                f"another in {' '.join(found[0].languages)}: repeat the command"
            )


def _compare(
    teacher: str, student: str, reference: Result, of_student: list[Result], n_resamples: int
) -> _Gap:
    """Compare a student in each of its languages with its teacher's result in English."""
    metric = METRICS[reference.kind]
    in_english = reference.outcomes()
    differences = []
    resampled = []
    for result in of_student:
        if not share_images([reference, result]):
            raise InputError(
                f"{result.path} is of other images than {reference.path}: delete both and repeat the command"
            )
        differences.append(result.metrics[metric] - reference.metrics[metric])
        of_metrics = resampled_differences(result.outcomes(), in_english, n_resamples)
        resampled.append(of_metrics[metric])
    if not differences:
        raise InputError(f"there is no result of the student {teacher}-{student}: repeat the command")
    languages = [result.language for result in of_student]
    return _Gap(teacher, student, reference.metrics[metric], languages, differences, torch.stack(resampled))


def families_report(by_kind: dict[str, list[_Gap]], arguments: FamiliesArguments) -> str:
    """Write for each kind of task the table of 2 x 3, the verdict, and all differences in Markdown."""
    parts = []
    for kind, found in by_kind.items():
        parts += [f"## {_TITLES[kind]}", _table(found), _verdict(found, arguments), _all_differences(found)]
    return "\n\n".join(parts)


def _table(found: list[_Gap]) -> str:
    """Format a row for each teacher and a column for each family."""
    rows = []
    for teacher, name in TEACHERS.items():
        of_teacher = [gap for gap in found if gap.teacher == teacher]
        rows.append([name, of_teacher[0].of_teacher, *map(_cell, of_teacher)])
    return format_table(["", "in English", *(family.name for family in STUDENTS.values())], rows)


def _cell(gap: _Gap) -> str:
    """Write the mean with its interval, and the worst language with its lower bound.

    `-0.1 (-0.6 to +0.4), worst vi -0.9 (above -1.6)`
    """
    low, high = gap.interval_of_mean
    mean = f"{_points(gap.mean)} ({_points(low)} to {_points(high)})"
    worst = gap.worst
    loss = _points(gap.differences[worst])
    bound = _points(gap.tested.bounds[worst])
    return f"{mean}, worst {gap.languages[worst]} {loss} (above {bound})"


def _points(fraction: float) -> str:
    """Write a difference of fractions in points with its sign: -0.0123 -> "-1.2"."""
    return f"{100 * fraction:+.1f}"


def _verdict(found: list[_Gap], arguments: FamiliesArguments) -> str:
    n_tests = sum(len(gap.languages) for gap in found)
    n_within = n_tests - sum(gap.n_behind for gap in found)
    n_resamples = f"{arguments.n_resamples:,}"
    return (
        "Points above the teacher's own English: the mean over languages with its 95 % interval, and the "
        "worst language with its lower bound. Shown to be less than "
        f"{arguments.margin:g} points behind the teacher: {n_within} of {n_tests} (paired bootstrap of "
        f"{n_resamples} resamples, one-sided, {_LEVEL:.0%} for all tests together by Holm's procedure)."
    )


def _all_differences(found: list[_Gap]) -> str:
    """Format a row for each language: each student's difference and lower bound."""
    header = ["language", *(f"{gap.teacher}-{gap.student}" for gap in found)]
    rows = []
    for place, language in enumerate(found[0].languages):
        row = [language]
        for gap in found:
            bound = _points(gap.tested.bounds[place])
            row.append(f"{_points(gap.differences[place])} (above {bound})")
        rows.append(row)
    return format_table(header, rows)


def plot_families(by_kind: dict[str, list[_Gap]], picture: Path, arguments: FamiliesArguments) -> None:
    """Draw each student's difference in each language down to its lower bound, a panel for each teacher.

    Lines show the teacher's English and the margin.
    """
    figure = Figure(figsize=(12, 3.5 * len(by_kind)), layout="constrained")
    panels = figure.subplots(len(by_kind), len(TEACHERS), squeeze=False, sharey=True)
    for row, (kind, found) in zip(panels, by_kind.items()):
        for axes, (teacher, name) in zip(row, TEACHERS.items()):
            of_teacher = [gap for gap in found if gap.teacher == teacher]
            for place, gap in enumerate(of_teacher):
                _plot_student(axes, gap, offset=0.25 * (place - 1))
            axes.axhline(0, color="black", linewidth=0.8, label="the teacher in English")
            axes.axhline(-arguments.margin, color="tab:red", linestyle=":", label="the margin")
            axes.set(title=f"{_TITLES[kind]}: {name}", ylabel="points")
            axes.set_xticks(range(len(of_teacher[0].languages)), of_teacher[0].languages)
            axes.grid(axis="y", alpha=0.3)
    # All panels have the same entries. Outside of them it covers no dot.
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    save_figure(figure, picture, dpi=110)


def _plot_student(axes, gap: _Gap, *, offset: float) -> None:
    """Draw a dot for each language, and a line from it down to the lower bound."""
    differences = 100 * torch.tensor(gap.differences)
    bounds = 100 * torch.tensor(gap.tested.bounds)
    down = (differences - bounds).clamp(min=0)
    places = torch.arange(len(differences)) + offset
    lengths = torch.stack([down, torch.zeros_like(down)])
    axes.errorbar(places, differences, yerr=lengths, fmt="o", markersize=3, label=STUDENTS[gap.student].name)


__all__ = [
    "STUDENTS",
    "TEACHERS",
    "FamiliesArguments",
    "families_report",
    "measure_gaps",
    "plot_families",
    "train_student",
    "train_teacher",
]
