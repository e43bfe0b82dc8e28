"""What both benchmark scripts share: their arguments, and the way from models and tasks to results and a table."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset

from .classes import languages_of
from .encoder import CachedEncoder
from .loading import check_languages, load_model, revision_of
from .recipe import InputError
from .results import Result, format_table
from .task import Task, describe, load_task
from .uncertainty import intervals

SHORT = {"text_to_image_recall": "T2I R", "image_to_text_recall": "I2T R", "mean_recall": "mean recall", "accuracy": "top-"}
SHOWN = {
    "retrieval": [f"{direction}_recall@{k}" for direction in ("text_to_image", "image_to_text") for k in (1, 5, 10)] + ["mean_recall"],
    "zero_shot": ["accuracy@1", "accuracy@5", "mean_per_class", "map_11_point", "roc_auc"],
}


@dataclass(kw_only=True)
class EvaluationArguments:
    """What to evaluate on what."""

    models: list[str] = field(metadata={"help": "Folders or Hub ids, or open_clip:, sentence_transformers: or m_clip: and a name."})
    tasks: list[str] = field(metadata={"help": "Names of tasks in benchmarks/tasks, or YAML files of your own."})
    languages: list[str] | None = field(default=None, metadata={"help": "Language codes; all that a task has by default."})
    english_only: list[str] = field(default_factory=list, metadata={"help": "Those of the models that read English alone."})
    dataset: str | None = field(default=None, metadata={"help": "Folder or Hub id to read all tasks from, in place of their own."})
    limit: int | None = field(default=None, metadata={"help": "The first so many images of a task."})
    streaming: bool = field(default=False, metadata={"help": "Read rows as they come, without a copy of the dataset on the disk."})
    n_resamples: int = field(default=1000, metadata={"help": "Resamples of the items, for the 95 % intervals."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where vectors are kept; below datasets' cache by default."})
    output_dir: str = field(default="outputs/results", metadata={"help": "Where the JSON files go."})
    dry_run: bool = field(default=False, metadata={"help": "Say what would be loaded, from where and how large, and stop."})


Score = Callable[[CachedEncoder, torch.Tensor, dict[str, list], Task, list[str], Dataset | IterableDataset], tuple[dict, dict]]
"""`(encoder, image_embeds, columns, task, languages, rows)` to `({language: outcomes}, {language: hash of what was asked})`."""


def tasks_of(arguments: EvaluationArguments, kind: str, class_names: str | None = None) -> list[tuple[Task, list[str]]]:
    """The tasks, each with its languages: all that it has by default; of those asked for, those it has captions in, and for class
    names every one, since names may come from anywhere.

    Raises:
        InputError: no such task, one of another kind, or a language in which none has captions.
    """
    tasks = [load_task(name) for name in arguments.tasks]
    for task in tasks:
        if task.kind != kind:
            raise InputError(f"task {task.name!r} is of the kind {task.kind}: run benchmarks/run_{task.kind}.py")
    tasks = [task if arguments.dataset is None else replace(task, dataset=arguments.dataset, revision=None) for task in tasks]
    if arguments.languages is None or kind == "zero_shot":
        return [(task, arguments.languages or languages_of(task, class_names)) for task in tasks]
    spoken = list(dict.fromkeys(language for task in tasks for language in task.languages))
    asked = check_languages(arguments.languages, spoken)
    asked = [(task, [language for language in asked if language in task.languages]) for task in tasks]
    return [(task, languages) for task, languages in asked if languages]


def evaluate(
    arguments: EvaluationArguments, kind: str, score: Score, *, class_names: str | None = None, normalize: bool = True, suffix: str = ""
) -> None:
    """Measure every model on every task, keep the results and show them; or with `dry_run` say what would be measured.

    Args:
        class_names: the user's JSON file, whose languages are then measured.
        suffix: behind a task's name in its results, where it was scored in another way than usual.
    """
    tasks = tasks_of(arguments, kind, class_names)
    if arguments.dry_run:
        print("\n\n".join(describe(task, languages) for task, languages in tasks))
        print("Nothing was loaded. Next: the same command without --dry_run")
        return
    PartialState(cpu=not torch.accelerator.is_available())  # otherwise it looks for several processes on accelerators alone
    results = []
    for name in arguments.models:
        model, processor = load_model(name)
        encoder = CachedEncoder(model, processor, normalize=normalize, cache_dir=arguments.cache_dir)
        for task, languages in tasks:
            spoken = [language for language in languages if name not in arguments.english_only or language == "en"]
            if spoken:
                results += measure(name, encoder, task, spoken, score, arguments, suffix)
    if PartialState().is_main_process:
        show(results, arguments)


def measure(
    name: str, encoder: CachedEncoder, task: Task, languages: list[str], score: Score, arguments: EvaluationArguments, suffix: str
) -> list[Result]:
    """One model on one task, in all languages with one pass over the images."""
    rows = task.rows(languages, arguments.limit, arguments.streaming)
    image_embeds, columns, data = encoder.rows(rows)
    outcomes, prompts = score(encoder, image_embeds, columns, task, languages, rows)
    results = []
    for language, outcome in outcomes.items():
        result = Result(
            model=name,
            task=task.name + suffix,
            kind=task.kind,
            language=language,
            metric=task.metric,
            metrics=outcome.metrics(),
            intervals=intervals(outcome, arguments.n_resamples),
            dataset=task.dataset,
            revision=task.commit(),
            split=task.split,
            data=data,
            weights=encoder.weights,
            model_revision=revision_of(name),
            prompts=prompts[language],
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        )
        if PartialState().is_main_process:
            result.save(Path(arguments.output_dir), outcome)
        results.append(result)
    return results


def show(results: list[Result], arguments: EvaluationArguments) -> None:
    """A table a kind of metrics: the main one with its interval."""
    rows = []
    for result in results:
        row = {"model": result.model_name, "task": result.task, "language": result.language, "n": result.metrics["n"]}
        row |= {short(name): result.metrics[name] for name in SHOWN[result.kind] if name in result.metrics}
        low, high = (f"{100 * bound:.1f}" for bound in result.intervals[result.metric])
        rows.append(row | {"95 %": f"{short(result.metric)} {low} to {high}"})
    header = list(dict.fromkeys(name for row in rows for name in row if name != "95 %")) + ["95 %"]
    print(format_table(header, [[row.get(name, "") for name in header] for row in rows]))
    where = arguments.output_dir
    print(f"Saved {len(results)} results below {where}. Next: python benchmarks/run_report.py --results {where}")


def short(metric: str) -> str:
    """A metric's name as a table has room for it."""
    for name, brief in SHORT.items():
        metric = metric.replace(name, brief)
    return metric.replace("top-@", "top-")


__all__ = ["EvaluationArguments", "evaluate"]
