"""The paper's ablation (Table 4): what English text, its translations and contrastive learning each add."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from transformers import AutoProcessor, set_seed

from benchmarks.extras import of_extra
from benchmarks.kinds import load_tokenizer
from benchmarks.loading import save_model
from benchmarks.results import Result, format_table
from modeling_altclip import AltCLIPModel, AltCLIPProcessor

from .experiment import run, run_once

with of_extra("plots"):
    from matplotlib.figure import Figure


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


@dataclass(kw_only=True)
class AblationArguments:
    """What is trained, from what, and how often."""

    teacher_name_or_path: str = field(metadata={"help": "The English teacher."})
    text_encoder_name_or_path: str = field(metadata={"help": "The XLM-R that becomes the text tower."})
    dataset: str = field(
        metadata={"help": "Captioned images with class names beside them, such as the miniature's."}
    )
    stage1: str = field(metadata={"help": "Recipe of stage 1."})
    stage2: str = field(metadata={"help": "Recipe of stage 2."})
    retrieval: str = field(metadata={"help": "Retrieval task."})
    zero_shot: str = field(metadata={"help": "Zero-shot task."})
    seeds: list[int] = field(
        default_factory=lambda: [1, 2, 3], metadata={"help": "One model a row and seed."}
    )
    output_dir: str = field(
        default="outputs/ablation", metadata={"help": "Where models, results, table and plot go."}
    )


def train_row(name: str, seed: int, languages: list[str], arguments: AblationArguments) -> str:
    """Train one model, unless its folder says that the same command and recipe have made it, and give its folder."""
    row, folder = ROWS[name], Path(arguments.output_dir, f"{name}-{seed}")
    shared = ["--dataset", arguments.dataset, "--output_dir", folder, "--seed", seed]
    if row.contrastive:
        start = Path(arguments.output_dir, f"both-{seed}" if row.english else f"untrained-{seed}")
        if not row.english:
            save_untrained(start, seed, arguments)
        command = ["training/run_stage2.py", arguments.stage2, "--model_name_or_path", start, *shared]
    else:
        read = [language for language in languages if (row.english if language == "en" else row.translations)]
        towers = ["--teacher_name_or_path", arguments.teacher_name_or_path]
        towers += ["--text_encoder_name_or_path", arguments.text_encoder_name_or_path]
        command = ["training/run_stage1.py", arguments.stage1, *towers, "--languages", *read, *shared]
    run_once(folder, [arguments.stage1, arguments.stage2], *command)
    return str(folder)


def save_untrained(folder: Path, seed: int, arguments: AblationArguments) -> None:
    """The model that stage 1 would begin with."""
    set_seed(seed)
    encoder = arguments.text_encoder_name_or_path
    model = AltCLIPModel.from_teacher(arguments.teacher_name_or_path, encoder, dropout=0.0)
    image_processor = AutoProcessor.from_pretrained(arguments.teacher_name_or_path).image_processor
    save_model(
        model, AltCLIPProcessor(image_processor, load_tokenizer("text_encoder_name_or_path", encoder)), folder
    )


def evaluate(models: list[str], arguments: AblationArguments) -> None:
    shared = [
        "--models",
        *models,
        "--dataset",
        arguments.dataset,
        "--output_dir",
        Path(arguments.output_dir, "results"),
    ]
    run("benchmarks/run_retrieval.py", *shared, "--tasks", arguments.retrieval)
    names = ["--class_names", Path(arguments.dataset, "class_names.json")]
    run("benchmarks/run_zero_shot.py", *shared, "--tasks", arguments.zero_shot, *names)


def summarise(results: list[Result]) -> dict[str, list[list[float]]]:
    """For each row of the table, four lists of percentages, one figure a seed: retrieval in English, in the other languages'
    mean, and zero-shot classification likewise.

    Args:
        results: of models that are called by row and seed, such as `both-1`.
    """
    summary = {}
    for name in ROWS:
        seeds = sorted(
            {
                Path(result.model).name
                for result in results
                if Path(result.model).name.rpartition("-")[0] == name
            }
        )
        if seeds:
            summary[name] = [
                [score(results, seed, kind, english) for seed in seeds]
                for kind in COLUMNS
                for english in (True, False)
            ]
    return summary


def score(results: list[Result], model: str, kind: str, english: bool) -> float:
    """One model's figure in percent, in English or in the mean of all other languages."""
    found = [
        result.metrics[COLUMNS[kind]]
        for result in results
        if Path(result.model).name == model and result.kind == kind and (result.language == "en") == english
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
    for axes, title, first in zip(
        figure.subplots(1, 2), ("retrieval, mean recall", "zero-shot, top-1"), (0, 2)
    ):
        for offset, color, label in ((0, "tab:blue", "English"), (1, "tab:orange", "other languages, mean")):
            for place, (name, columns) in enumerate(summary.items()):
                seeds, left = columns[first + offset], place + 0.4 * offset - 0.2
                axes.bar(
                    left, mean(seeds), width=0.38, color=color, alpha=0.75, label=None if place else label
                )
                axes.scatter(
                    [left] * len(seeds),
                    seeds,
                    color="black",
                    s=8,
                    zorder=3,
                    label=None if place or offset else "seeds",
                )
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
        axes.set_xticklabels(
            [ROWS[name].name.replace(", ", ",\n").replace(" + ", "\n+ ") for name in summary], fontsize=8
        )
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(picture, dpi=110)


__all__ = [
    "ROWS",
    "AblationArguments",
    "ablation_table",
    "evaluate",
    "plot_ablation",
    "summarise",
    "train_row",
]
