"""Compare English captions alone with parallel captions (Krasner & Lanuzo), on fair curves.

After as many images an English-only model has seen a quarter of the captions that a model of four languages
has. Trained four times as long it has seen as many captions, but four times as many images. Both are trained.
"""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import AutoModel

from benchmarks.metrics import retrieval_ranks
from benchmarks.results import Result, format_table, load_results
from common.extras import of_extra
from common.figures import save_figure
from common.files.whole_files import write_text
from common.files.yaml_files import read_yaml
from common.models.kinds import load_tokenizer, readable
from model_cards.stages import read_log
from modeling_altclip.checkpoint_altclip import load_whole
from modeling_altclip.embedding import encode_texts
from training.parallel.figures import COLORS, plot_accuracy, plot_ranks, scores_of

from ..data.captions import load_captioned
from ..experiment import mean_and_deviation, run, run_once

with of_extra("plots"):
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter


class _Arm(NamedTuple):
    """A training variant."""

    label: str
    parallel: bool  # captions in all languages, not in English alone
    longer: bool = False  # for as many steps as it takes to see as many captions
    pretrained: bool = True  # the text encoder has read text before


ARMS = {
    "english": _Arm("English only, as many images", parallel=False),
    "longer": _Arm("English only, as many captions", parallel=False, longer=True),
    "parallel": _Arm("parallel captions", parallel=True),
    "english_untrained": _Arm("English only, text encoder untrained", parallel=False, pretrained=False),
    "parallel_untrained": _Arm("parallel captions, text encoder untrained", parallel=True, pretrained=False),
}
CURVES = ("english", "longer", "parallel")


@dataclass(kw_only=True)
class ParallelExperimentArguments:
    """Arguments of the comparison: the recipe, the text encoders and the seeds."""

    recipe: str = field(
        metadata={
            "help": "Recipe of run_parallel.py. Its languages, including English, are the parallel ones."
        }
    )
    text_encoder_name_or_path: str = field(
        metadata={"help": "The text encoder, pre-trained on text in all languages."}
    )
    untrained_text_encoder: str = field(metadata={"help": "The same text encoder before it was pre-trained."})
    unseen: list[str] = field(metadata={"help": "Languages to test that had no images in training."})
    task: str = field(metadata={"help": "Retrieval task to test on, read from the recipe's dataset."})
    seeds: list[int] = field(
        default_factory=lambda: [1, 2, 3],
        metadata={"help": "Seeds; one model is trained for each variant and seed."},
    )
    output_dir: str = field(
        default="outputs/parallel", metadata={"help": "Folder for models, results, tables and figures."}
    )

    def __post_init__(self):
        self.settings = read_yaml(Path(self.recipe), "recipe")


def train_arm(name: str, seed: int, arguments: ParallelExperimentArguments) -> str:
    """Train one model, unless the same command has made it before, and return its folder."""
    arm = ARMS[name]
    settings = arguments.settings
    folder = Path(arguments.output_dir, f"{name}-{seed}")

    languages = settings["languages"] if arm.parallel else ["en"]
    encoder = arguments.text_encoder_name_or_path if arm.pretrained else arguments.untrained_text_encoder
    # With one language instead of four it takes four times the steps to see as many captions.
    factor = len(settings["languages"]) if arm.longer else 1
    flags = ["--languages", *languages]
    flags += ["--text_encoder_name_or_path", encoder]
    flags += ["--max_steps", factor * settings["max_steps"]]
    flags += ["--eval_steps", factor * settings["eval_steps"]]
    flags += ["--seed", seed, "--output_dir", folder]
    run_once(folder, [arguments.recipe], "training/run_parallel.py", arguments.recipe, *flags)
    return str(folder)


def evaluate_languages(models: list[str], arguments: ParallelExperimentArguments) -> list[Result]:
    """Evaluate retrieval in seen and unseen languages, and return the results of `models`."""
    languages = [*arguments.settings["languages"], *arguments.unseen]
    folder = Path(arguments.output_dir, "results")
    shared = ["--dataset", arguments.settings["dataset"], "--tasks", arguments.task, "--output_dir", folder]
    run("benchmarks/run_retrieval.py", "--models", *models, *shared, "--languages", *languages)
    return [result for result in load_results(folder) if result.model in models]


def accuracy_table(
    scores: dict, languages: list[str], seen: list[str], metric: str = "text_to_image_recall@1"
) -> str:
    """Format means over seeds with their standard deviations, in percent.

    The last two columns are the means of the seen and of the unseen languages.

    Args:
        scores: `{label: {language: [metrics of each seed]}}`.
    """
    groups = {
        "seen, mean": seen,
        "unseen, mean": [language for language in languages if language not in seen],
    }
    rows = []
    for label, by_language in scores.items():
        # columns: {"en": [percent of each seed], ..., "seen, mean": [percent of each seed], ...}
        columns = {}
        for language in languages:
            columns[language] = [100 * metrics[metric] for metrics in by_language[language]]
        for group, members in groups.items():
            # Two languages of three seeds: [[70, 71, 72], [50, 51, 52]] -> [60, 61, 62]
            of_seeds = zip(*[columns[language] for language in members])
            columns[group] = [mean(of_languages) for of_languages in of_seeds]
        rows.append([label, *map(mean_and_deviation, columns.values())])
    return format_table(["training", *languages, *groups], rows)


def _read_curve(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a logged metric of a training, as steps and values, both `(entries,)`."""
    entries = [entry for entry in read_log(str(folder)) if name in entry]
    steps = np.array([entry["step"] for entry in entries])
    values = np.array([entry[name] for entry in entries])
    return steps, values


def _captions_per_image(name: str, arguments: ParallelExperimentArguments) -> int:
    return len(arguments.settings["languages"]) if ARMS[name].parallel else 1


def translations_found(arguments: ParallelExperimentArguments) -> dict[str, dict[str, float]]:
    """Measure how well the text encoder aligns languages before it has seen an image.

    Returns:
        `{unseen language: {seen language: share}}`, the share of captions of the validation set whose nearest
            neighbour is their translation, by the states of the first token of the pre-trained encoder.

    Raises:
        InputError: the encoder lacks weights, or is damaged.
    """
    name = arguments.text_encoder_name_or_path
    with readable("text_encoder_name_or_path", name):
        # The pooler is not read: the states of the first token are.
        encoder = load_whole(AutoModel, name, unread=("pooler.",), trust_remote_code=False)
    tokenizer = load_tokenizer("text_encoder_name_or_path", name)
    settings = arguments.settings
    captions = load_captioned(settings["dataset"], settings["validation_split"])["captions"][:]

    def first_states(**inputs) -> torch.Tensor:
        return encoder(**inputs).last_hidden_state[:, 0]

    def embed(language: str) -> torch.Tensor:
        texts = [caption[language][0] for caption in captions]
        return normalize(encode_texts(encoder, tokenizer, texts, first_states), dim=-1)

    seen = {language: embed(language) for language in settings["languages"]}
    translation_of_row = torch.arange(len(captions))
    found = {}
    for language in arguments.unseen:
        unseen = embed(language)
        found[language] = {}
        # Each unseen caption ranks the captions of a seen language; rank 0 is its own translation.
        for name, embeddings in seen.items():
            ranks = retrieval_ranks(embeddings, unseen, translation_of_row)[0]
            found[language][name] = (ranks == 0).double().mean().item()
    return found


def translation_table(found: dict[str, dict[str, float]]) -> str:
    """Format `translations_found` as a table: one row per unseen language, one column per seen one."""
    seen = list(next(iter(found.values())))
    rows = [[language, *shares.values()] for language, shares in found.items()]
    return format_table(["unseen language", *seen], rows)


def convergence(arguments: ParallelExperimentArguments) -> dict[str, list[dict[str, float]]]:
    """Compare how fast the arms of `CURVES` converge on English captions of the validation set.

    Returns:
        For each arm and seed the last `loss`, and the numbers of `images` and `captions` after which the last
            loss of the arm "english" was reached; None if it was not reached.
    """
    batch = arguments.settings["per_device_train_batch_size"]
    output_dir = Path(arguments.output_dir)
    metric = "eval_caption_loss_en"
    found = {name: [] for name in CURVES}
    for seed in arguments.seeds:
        _, losses = _read_curve(output_dir / f"english-{seed}", metric)
        goal = losses[-1]
        for name in CURVES:
            steps, losses = _read_curve(output_dir / f"{name}-{seed}", metric)
            reached = steps[losses <= goal]  # the first of them is the step that counts
            images = None
            captions = None
            if len(reached):
                images = int(batch * reached[0])
                captions = images * _captions_per_image(name, arguments)
            found[name].append({"loss": float(losses[-1]), "images": images, "captions": captions})
    return found


def convergence_table(found: dict[str, list[dict[str, float]]]) -> str:
    """Format `convergence` as a table: one row per arm, with means over its seeds."""
    rows = []
    for name, seeds in found.items():
        loss = mean_and_deviation([seed["loss"] for seed in seeds], digits=3)
        row = [ARMS[name].label, loss]
        for unit in ("images", "captions"):
            reached = [seed[unit] for seed in seeds if seed[unit]]
            # A mean over some of the seeds would flatter the arm.
            if len(reached) == len(seeds):
                row.append(f"{mean(reached):,.0f}")
            else:
                row.append(f"{len(reached)} of {len(seeds)} seeds")
        rows.append(row)
    columns = [
        "training",
        "last validation loss of English captions",
        "reached the first row's after images",
        "captions",
    ]
    return format_table(columns, rows)


def _plot_curves(arguments: ParallelExperimentArguments, prefix: str, title: str, picture: Path) -> None:
    """Draw the mean loss of English captions over images seen and over captions seen (Figures 1 and 2).

    Bands span the seeds.
    """
    batch = arguments.settings["per_device_train_batch_size"]
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, unit in zip(figure.subplots(1, 2, sharey=True), ("images", "captions")):
        for name, color in zip(CURVES, COLORS):
            curves = []
            for seed in arguments.seeds:
                folder = Path(arguments.output_dir, f"{name}-{seed}")
                curves.append(_read_curve(folder, f"{prefix}caption_loss_en"))
            losses = np.stack([values for _, values in curves])  # (seeds, entries)
            steps = curves[0][0]  # all seeds are logged at the same steps
            seen = batch * steps
            if unit == "captions":
                seen = _captions_per_image(name, arguments) * seen
            axes.plot(seen, losses.mean(axis=0), color=color, label=ARMS[name].label)
            axes.fill_between(
                seen, losses.min(axis=0), losses.max(axis=0), color=color, alpha=0.2, linewidth=0
            )
        axes.set(xlabel=f"{unit} seen", yscale="log", title=title)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3, which="both")
    axes.figure.axes[0].set_ylabel("mean loss of an English caption")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(CURVES))
    save_figure(figure, picture, dpi=110)


def write_report(results: list[Result], arguments: ParallelExperimentArguments) -> str:
    """Draw the paper's four figures, write the tables to `parallel.md`, and return the tables."""
    output_dir = Path(arguments.output_dir)
    seen = arguments.settings["languages"]
    languages = [*seen, *arguments.unseen]
    groups = {}
    for name, arm in ARMS.items():
        groups[arm.label] = [f"{name}-{seed}" for seed in arguments.seeds]
    scores = {}
    for label, by_language in scores_of(results, groups, arguments.task).items():
        scores[label] = {language: by_language[language] for language in languages}
    compared = {ARMS[name].label: scores[ARMS[name].label] for name in CURVES}

    _plot_curves(arguments, "", "training", output_dir / "training_loss.png")
    _plot_curves(arguments, "eval_", "validation", output_dir / "validation_loss.png")
    plot_accuracy(compared, seen, output_dir / "accuracy.png")
    plot_ranks(compared, seen, output_dir / "ranks.png")

    found = translations_found(arguments)
    tables = {
        "Text-to-image accuracy@1": accuracy_table(scores, languages, seen),
        "Image-to-text accuracy@1": accuracy_table(scores, languages, seen, "image_to_text_recall@1"),
        "Convergence": convergence_table(convergence(arguments)),
        "Translations found before any image was seen, %": translation_table(found),
    }
    text = "\n\n".join(f"{heading}\n\n{table}" for heading, table in tables.items())
    write_text(output_dir / "parallel.md", text + "\n")
    return text


__all__ = ["ARMS", "ParallelExperimentArguments", "evaluate_languages", "write_report", "train_arm"]
