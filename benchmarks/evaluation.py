"""What both benchmark scripts share: their arguments, and the way from scores to files and a table."""

import hashlib
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from .results import Result, format_table


@dataclass(kw_only=True)
class EvaluationArguments:
    """What to evaluate on what."""

    models: list[str] = field(metadata={"help": "Folders or Hub ids of the models to compare."})
    dataset: str = field(metadata={"help": "Folder or Hub id of the dataset."})
    splits: list[str] = field(metadata={"help": "Splits to evaluate on."})
    languages: list[str] | None = field(default=None, metadata={"help": "Language codes; all that the data has by default."})
    english_only: list[str] = field(default_factory=list, metadata={"help": "Those of the models that read English alone."})
    output_dir: str = field(default="outputs/results", metadata={"help": "Where the JSON files go."})


def hash_weights(model: PreTrainedModel) -> str:
    """SHA-256 over names and bytes of all parameters, so that a result names the very weights it was measured on."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def recall_columns(metrics: dict[str, float]) -> dict[str, float]:
    """All metrics, under names that fit a table."""
    return {
        name.replace("text_to_image_recall", "T2I R").replace("image_to_text_recall", "I2T R"): value for name, value in metrics.items()
    }


def save_and_show(
    scores: list[tuple[str, str, dict]],
    task: str,
    weights: dict[str, str],
    arguments: EvaluationArguments,
    columns: Callable[[dict], dict] = recall_columns,
) -> None:
    """Write one JSON per (model, split, language) and print the table.

    Args:
        scores: `(model, split, {language: metrics})`.
        weights: each model's hash.
        columns: what the table shows of `metrics`, by column.
    """
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    rows = []
    for model, split, by_language in scores:
        for language, metrics in by_language.items():
            result = Result(model, task, language, metrics, arguments.dataset, split, weights[model], command)
            result.save(Path(arguments.output_dir))
            rows.append({"model": Path(model).name, "split": split, "language": language} | columns(metrics))
    print(format_table(list(rows[0]), [list(row.values()) for row in rows]))
    print(f"Saved {len(rows)} results below {arguments.output_dir}. Next: python -m model_cards --help")
