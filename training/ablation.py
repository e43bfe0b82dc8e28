"""Reproduce the ablation of the paper (Table 4): English text, its translations and contrastive learning."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from transformers import AutoProcessor, set_seed

from benchmarks.results import Result, format_table
from common.extras import of_extra
from common.figures import save_figure
from common.models.kinds import load_tokenizer, readable
from common.models.loading import save_model
from modeling_altclip import AltCLIPModel, AltCLIPProcessor

from .experiment import METRICS, ExperimentArguments, mean_and_deviation, run_once

with of_extra("plots"):
    from matplotlib.figure import Figure


class _Row(NamedTuple):
    """A training variant, one row of the table."""

    name: str
    english: bool  # stage 1 reads English
    translations: bool  # stage 1 reads the other languages; without either there is no stage 1
    contrastive: bool  # stage 2
    # Mean recall on Flickr30k in English and Chinese, top-1 on ImageNet in both: Chen et al. 2023, Table 4,
    # ViT-L/14.
    paper: tuple[float, float, float, float] | None = None


# The miniature has human translations alone, no machine translations: the paper's rows "MT" and "MT + HT" are
# one here.
ROWS = {
    "en_en": _Row("EN-EN", True, False, False, (86.6, 53.9, 53.8, 12.8)),
    "en_xx": _Row("EN-XX", False, True, False, (61.9, 85.4, 15.5, 42.5)),
    "both": _Row("EN-EN + EN-XX", True, True, False, (88.3, 87.2, 74.7, 58.2)),
    "both_contrastive": _Row("EN-EN + EN-XX, contrastive", True, True, True, (90.4, 89.2, 74.5, 59.6)),
    "contrastive": _Row("contrastive alone", False, False, True),
}
_HEADERS = ["retrieval EN", "retrieval others", "zero-shot EN", "zero-shot others"]


@dataclass(kw_only=True)
class AblationArguments(ExperimentArguments):
    """Arguments of the ablation: models, data, recipes, tasks and seeds."""

    teacher_name_or_path: str = field(metadata={"help": "Folder or Hub id of the English teacher."})
    text_encoder_name_or_path: str = field(metadata={"help": "The XLM-R that becomes the text tower."})
    stage1: str = field(metadata={"help": "The recipe of stage 1."})
    stage2: str = field(metadata={"help": "The recipe of stage 2."})
    seeds: list[int] = field(
        default_factory=lambda: [1, 2, 3],
        metadata={"help": "Seeds; one model is trained for each variant and seed."},
    )
    output_dir: str = field(
        default="outputs/ablation", metadata={"help": "Folder for models, results, table and plot."}
    )


def train_row(name: str, seed: int, languages: list[str], arguments: AblationArguments) -> str:
    """Train one model, unless the same command and recipes have made it before, and return its folder."""
    row = ROWS[name]
    folder = Path(arguments.output_dir, f"{name}-{seed}")
    shared = ["--dataset", arguments.dataset, "--output_dir", folder, "--seed", seed]
    if row.contrastive:
        # Stage 2 starts from the variant that read all languages, or from an untrained tower.
        if row.english:
            start = Path(arguments.output_dir, f"both-{seed}")
        else:
            start = Path(arguments.output_dir, f"untrained-{seed}")
            _save_untrained(start, seed, arguments)
        command = ["training/run_stage2.py", arguments.stage2, "--model_name_or_path", start, *shared]
    else:
        read = []
        for language in languages:
            is_read = row.english if language == "en" else row.translations
            if is_read:
                read.append(language)
        towers = ["--teacher_name_or_path", arguments.teacher_name_or_path]
        towers += ["--text_encoder_name_or_path", arguments.text_encoder_name_or_path]
        command = ["training/run_stage1.py", arguments.stage1, *towers, "--languages", *read, *shared]
    run_once(folder, [arguments.stage1, arguments.stage2], *command)
    return str(folder)


def _save_untrained(folder: Path, seed: int, arguments: AblationArguments) -> None:
    """Save the model that stage 1 would start from."""
    set_seed(seed)
    encoder = arguments.text_encoder_name_or_path
    model = AltCLIPModel.from_teacher(arguments.teacher_name_or_path, encoder, dropout=0.0)
    with readable("teacher_name_or_path", arguments.teacher_name_or_path):
        processor = AutoProcessor.from_pretrained(arguments.teacher_name_or_path, trust_remote_code=False)
    tokenizer = load_tokenizer("text_encoder_name_or_path", encoder)
    save_model(model, AltCLIPProcessor(processor.image_processor, tokenizer), folder)


def summarise(results: list[Result]) -> dict[str, list[list[float]]]:
    """Collect the percentages of each row of the table.

    Args:
        results: those of models that are named by variant and seed, such as `both-1`.

    Returns:
        For each variant four lists with one figure per seed: retrieval in English, retrieval as the mean of
            the other languages, and the same of zero-shot classification.
    """
    models = sorted({Path(result.model).name for result in results})
    summary = {}
    for name in ROWS:
        of_row = [model for model in models if model.rpartition("-")[0] == name]
        if not of_row:
            continue
        summary[name] = []
        for kind in METRICS:
            for english in (True, False):
                summary[name].append([_score(results, model, kind, english) for model in of_row])
    return summary


def _score(results: list[Result], model: str, kind: str, english: bool) -> float:
    """Return one model's score in percent, in English or as the mean of all other languages."""
    found = []
    for result in results:
        of_model = Path(result.model).name == model and result.kind == kind
        if of_model and (result.language == "en") == english:
            found.append(result.metrics[METRICS[kind]])
    return 100 * mean(found)


def ablation_table(summary: dict[str, list[list[float]]]) -> str:
    """Format means over seeds with their standard deviations, and the paper's figures beside them."""
    rows = []
    for name, columns in summary.items():
        row = ROWS[name]
        paper = " / ".join(map(str, row.paper)) if row.paper else "not in the paper"
        rows.append([row.name, *map(mean_and_deviation, columns), paper])
    return format_table(["training", *_HEADERS, "paper: Flickr30k EN / CN, ImageNet EN / CN"], rows)


def plot_ablation(summary: dict[str, list[list[float]]], picture: Path) -> None:
    """Draw bars of the means with a dot for each seed, English beside the other languages.

    The paper's figures are lines across the bars.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    # A summary's columns 0 and 1 are retrieval in English and elsewhere, 2 and 3 zero-shot classification.
    panels = [("retrieval, mean recall", 0), ("zero-shot, top-1", 2)]
    for axes, (title, first_column) in zip(figure.subplots(1, 2), panels):
        _plot_bars(axes, summary, first_column, offset=0, color="tab:blue", label="English")
        _plot_bars(axes, summary, first_column, offset=1, color="tab:orange", label="other languages, mean")
        axes.set(title=title, ylabel="%", xticks=range(len(summary)), ylim=(0, 100))
        # Break the labels, which would overlap: "EN-EN + EN-XX, contrastive" takes three lines.
        labels = []
        for name in summary:
            labels.append(ROWS[name].name.replace(", ", ",\n").replace(" + ", "\n+ "))
        axes.set_xticklabels(labels, fontsize=8)
        axes.grid(axis="y", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, picture, dpi=110)


def _plot_bars(axes, summary: dict, first_column: int, *, offset: int, color: str, label: str) -> None:
    """Draw one bar per variant: the left one of each pair, `offset` 0, or the right one, `offset` 1."""
    for place, (name, columns) in enumerate(summary.items()):
        seeds = columns[first_column + offset]
        x = place + 0.4 * offset - 0.2
        # The legend gets one entry per kind: matplotlib omits artists without a label.
        first_of_color = place == 0
        first_of_all = first_of_color and offset == 0
        axes.bar(
            x,
            mean(seeds),
            width=0.38,
            color=color,
            alpha=0.75,
            label=label if first_of_color else None,
        )
        axes.scatter(
            [x] * len(seeds),
            seeds,
            color="black",
            s=8,
            zorder=3,
            label="seeds" if first_of_all else None,
        )
        paper = ROWS[name].paper
        if paper:
            axes.hlines(
                paper[first_column + offset],
                x - 0.19,
                x + 0.19,
                color="black",
                linestyle=":",
                label="paper, EN and CN" if first_of_all else None,
            )


__all__ = [
    "ROWS",
    "AblationArguments",
    "ablation_table",
    "plot_ablation",
    "summarise",
    "train_row",
]
