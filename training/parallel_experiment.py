"""Krasner & Lanuzo's comparison: English captions alone beside parallel captions, with several seeds, judged on fair curves.

An English-only model of as many images has seen a quarter of the captions that a model of four languages has; one that is
trained four times as long has seen as many captions, and four times as many images. Both are trained.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import AutoModel

from benchmarks.extras import of_extra
from benchmarks.kinds import load_tokenizer
from benchmarks.loading import load_captions
from benchmarks.metrics import retrieval_ranks
from benchmarks.recipe import read_yaml
from benchmarks.results import Result, format_table, load_results
from model_cards.parallel_plots import COLORS, plot_accuracy, plot_ranks, scores_of
from modeling_altclip.embedding import encode_texts

from .experiment import run, run_once

with of_extra("plots"):
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter


class Arm(NamedTuple):
    """A way to train: the languages, whether as many steps as will show as many captions, and whether the text encoder has read before."""

    label: str
    parallel: bool
    longer: bool = False
    pretrained: bool = True


ARMS = {
    "english": Arm("English only, as many images", parallel=False),
    "longer": Arm("English only, as many captions", parallel=False, longer=True),
    "parallel": Arm("parallel captions", parallel=True),
    "english_untrained": Arm("English only, text encoder untrained", parallel=False, pretrained=False),
    "parallel_untrained": Arm("parallel captions, text encoder untrained", parallel=True, pretrained=False),
}
CURVES = ("english", "longer", "parallel")


@dataclass(kw_only=True)
class ParallelExperimentArguments:
    """What is trained, from what, and how often."""

    recipe: str = field(
        metadata={"help": "Of run_parallel.py; its languages are the parallel ones, English among them."}
    )
    text_encoder_name_or_path: str = field(
        metadata={"help": "The text encoder, pre-trained on text in all languages."}
    )
    untrained_text_encoder: str = field(metadata={"help": "The same before that."})
    unseen: list[str] = field(metadata={"help": "Languages to test that no image came with."})
    task: str = field(metadata={"help": "Retrieval task to test on, read from the recipe's dataset."})
    seeds: list[int] = field(
        default_factory=lambda: [1, 2, 3], metadata={"help": "One model an arm and seed."}
    )
    output_dir: str = field(
        default="outputs/parallel", metadata={"help": "Where models, results, tables and figures go."}
    )

    def __post_init__(self):
        self.settings = read_yaml(Path(self.recipe), "recipe")


def train_arm(name: str, seed: int, arguments: ParallelExperimentArguments) -> str:
    """Train one model, unless it is there, and give its folder."""
    arm, settings, folder = ARMS[name], arguments.settings, Path(arguments.output_dir, f"{name}-{seed}")
    factor = len(settings["languages"]) if arm.longer else 1
    flags = ["--languages", *(settings["languages"] if arm.parallel else ["en"])]
    flags += [
        "--text_encoder_name_or_path",
        arguments.text_encoder_name_or_path if arm.pretrained else arguments.untrained_text_encoder,
    ]
    flags += ["--max_steps", factor * settings["max_steps"], "--eval_steps", factor * settings["eval_steps"]]
    run_once(
        folder,
        [arguments.recipe],
        "training/run_parallel.py",
        arguments.recipe,
        *flags,
        "--seed",
        seed,
        "--output_dir",
        folder,
    )
    return str(folder)


def evaluate(models: list[str], arguments: ParallelExperimentArguments) -> list[Result]:
    """Rank images and captions in seen and unseen languages."""
    languages, folder = (
        [*arguments.settings["languages"], *arguments.unseen],
        Path(arguments.output_dir, "results"),
    )
    shared = ["--dataset", arguments.settings["dataset"], "--tasks", arguments.task, "--output_dir", folder]
    run("benchmarks/run_retrieval.py", "--models", *models, *shared, "--languages", *languages)
    return [result for result in load_results(folder) if result.model in models]


def accuracy_table(
    scores: dict, languages: list[str], seen: list[str], metric: str = "text_to_image_recall@1"
) -> str:
    """Means over seeds with their standard deviations, in percent; and the mean of the languages seen and unseen."""
    groups = {
        "seen, mean": seen,
        "unseen, mean": [language for language in languages if language not in seen],
    }
    rows = []
    for label, by_language in scores.items():
        seeds = {
            language: [100 * metrics[metric] for metrics in by_language[language]] for language in languages
        }
        for group, members in groups.items():
            seeds[group] = [mean(column) for column in zip(*(seeds[language] for language in members))]
        rows.append([label, *(spread(values) for values in seeds.values())])
    return format_table(["training", *languages, *groups], rows)


def spread(values: list[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values) if len(values) > 1 else 0:.1f}"


def curve(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A logged figure over the steps: `(steps, values)`."""
    history = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
    return tuple(map(np.array, zip(*((entry["step"], entry[name]) for entry in history if name in entry))))


def translations_found(arguments: ParallelExperimentArguments) -> dict[str, dict[str, float]]:
    """How near the text encoder has brought languages before it saw an image: the share of captions of the validation set whose
    translation is the nearest, by the states of the first token that the models begin with; `{unseen language: {seen: share}}`.
    """
    encoder = AutoModel.from_pretrained(arguments.text_encoder_name_or_path)
    tokenizer = load_tokenizer("text_encoder_name_or_path", arguments.text_encoder_name_or_path)
    captions = load_captions(
        arguments.settings["dataset"], arguments.settings["validation_split"], images=False
    )["captions"]

    def first_states(**inputs) -> torch.Tensor:
        return encoder(**inputs).last_hidden_state[:, 0]

    def encoded(language: str) -> torch.Tensor:
        return normalize(
            encode_texts(encoder, tokenizer, [caption[language] for caption in captions], first_states),
            dim=-1,
        )

    seen = {language: encoded(language) for language in arguments.settings["languages"]}
    rows = torch.arange(len(captions))
    found = {
        language: {
            name: retrieval_ranks(vectors, encoded(language), rows)[0] for name, vectors in seen.items()
        }
        for language in arguments.unseen
    }
    return {
        language: {name: (ranks == 0).double().mean().item() for name, ranks in ranked.items()}
        for language, ranked in found.items()
    }


def translation_table(found: dict[str, dict[str, float]]) -> str:
    seen = list(next(iter(found.values())))
    return format_table(
        ["unseen language", *seen], [[language, *shares.values()] for language, shares in found.items()]
    )


def convergence(arguments: ParallelExperimentArguments) -> dict[str, list[dict[str, float]]]:
    """For each seed of each arm that is compared: the last `loss` of English captions on the validation set, and how many `images`
    and `captions` it took to reach the last loss of the English-only model of as many images, None where it was not reached.
    """
    batch, n_languages = (
        arguments.settings["per_device_train_batch_size"],
        len(arguments.settings["languages"]),
    )
    found = {name: [] for name in CURVES}
    for seed in arguments.seeds:
        goal = curve(Path(arguments.output_dir, f"english-{seed}"), "eval_caption_loss_en")[1][-1]
        for name in CURVES:
            steps, losses = curve(Path(arguments.output_dir, f"{name}-{seed}"), "eval_caption_loss_en")
            reached = steps[losses <= goal]
            images = int(batch * reached[0]) if len(reached) else None
            captions = images and images * (n_languages if ARMS[name].parallel else 1)
            found[name].append({"loss": float(losses[-1]), "images": images, "captions": captions})
    return found


def convergence_table(found: dict[str, list[dict[str, float]]]) -> str:
    rows = []
    for name, seeds in found.items():
        losses = [seed["loss"] for seed in seeds]
        loss = f"{mean(losses):.3f} ± {stdev(losses) if len(losses) > 1 else 0:.3f}"
        when = [
            f"{mean(reached):,.0f}" if len(reached) == len(seeds) else f"{len(reached)} of {len(seeds)} seeds"
            for reached in ([seed[unit] for seed in seeds if seed[unit]] for unit in ("images", "captions"))
        ]
        rows.append([ARMS[name].label, loss, *when])
    return format_table(
        [
            "training",
            "last validation loss of English captions",
            "reached the first row's after images",
            "captions",
        ],
        rows,
    )


def plot_curves(arguments: ParallelExperimentArguments, prefix: str, title: str, picture: Path) -> None:
    """Draw the mean loss of English captions (Figures 1 and 2), over images seen and over captions seen; bands span the seeds."""
    batch, n_languages = (
        arguments.settings["per_device_train_batch_size"],
        len(arguments.settings["languages"]),
    )
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, unit in zip(figure.subplots(1, 2, sharey=True), ("images", "captions")):
        for name, color in zip(CURVES, COLORS):
            per_step = batch * (n_languages if ARMS[name].parallel and unit == "captions" else 1)
            curves = [
                curve(Path(arguments.output_dir, f"{name}-{seed}"), f"{prefix}caption_loss_en")
                for seed in arguments.seeds
            ]
            steps, losses = curves[0][0], np.stack([values for _, values in curves])
            axes.plot(per_step * steps, losses.mean(axis=0), color=color, label=ARMS[name].label)
            axes.fill_between(
                per_step * steps, losses.min(axis=0), losses.max(axis=0), color=color, alpha=0.2, linewidth=0
            )
        axes.set(xlabel=f"{unit} seen", yscale="log", title=title)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3, which="both")
    axes.figure.axes[0].set_ylabel("mean loss of an English caption")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(CURVES))
    figure.savefig(picture, dpi=110)


def report(results: list[Result], arguments: ParallelExperimentArguments) -> str:
    """Draw the paper's four figures and write the tables to `parallel.md`; gives the tables."""
    output_dir, seen = Path(arguments.output_dir), arguments.settings["languages"]
    groups = {arm.label: [f"{name}-{seed}" for seed in arguments.seeds] for name, arm in ARMS.items()}
    languages = [*seen, *arguments.unseen]
    scores = {
        label: {language: by_language[language] for language in languages}
        for label, by_language in scores_of(results, groups, arguments.task).items()
    }
    compared = {ARMS[name].label: scores[ARMS[name].label] for name in CURVES}
    plot_curves(arguments, "", "training", output_dir / "training_loss.png")
    plot_curves(arguments, "eval_", "validation", output_dir / "validation_loss.png")
    plot_accuracy(compared, seen, output_dir / "accuracy.png")
    plot_ranks(compared, seen, output_dir / "ranks.png")
    tables = [
        accuracy_table(scores, languages, seen),
        accuracy_table(scores, languages, seen, "image_to_text_recall@1"),
    ]
    tables += [convergence_table(convergence(arguments)), translation_table(translations_found(arguments))]
    headings = [
        "Text-to-image accuracy@1",
        "Image-to-text accuracy@1",
        "Convergence",
        "Translations found before any image was seen, %",
    ]
    text = "\n\n".join(f"{heading}\n\n{table}" for heading, table in zip(headings, tables, strict=True))
    (output_dir / "parallel.md").write_text(text + "\n", "utf-8")
    return text


__all__ = ["ARMS", "ParallelExperimentArguments", "evaluate", "report", "train_arm"]
