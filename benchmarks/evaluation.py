"""What both benchmark scripts share: their arguments, and the way from models and tasks to results and a table."""

import json
import logging
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from safetensors import SafetensorError, safe_open
from xxhash import xxh3_128

from modeling_altclip.languages_altclip import is_english, spell

from .classes import languages_of
from .encoder import CachedEncoder
from .loading import (
    check_folder,
    check_language,
    check_model,
    find_language,
    library_of,
    load_model,
    revision_of,
)
from .outcomes import SIX, Outcomes, shorten
from .processes import fix_threads
from .prompts import hash_prompts
from .recipe import InputError
from .results import Result, format_table, model_name, path_of, refuse_another
from .task import Task, describe, load_task
from .uncertainty import check_resamples, intervals

logger = logging.getLogger(__name__)

SHORT = {
    "text_to_image_recall": "T2I R",
    "image_to_text_recall": "I2T R",
    "mean_recall": "mean recall",
    "accuracy": "top-",
}
SHOWN = {
    "retrieval": [*SIX, "mean_recall"],
    "zero_shot": ["accuracy@1", "accuracy@5", "mean_per_class", "map_11_point", "roc_auc"],
}


@dataclass(kw_only=True)
class EvaluationArguments:
    """What to evaluate on what."""

    models: list[str] = field(
        metadata={"help": "Folders or Hub ids, or open_clip:, sentence_transformers: or m_clip: and a name."}
    )
    tasks: list[str] = field(
        metadata={"help": "Names of tasks in benchmarks/tasks, or YAML files of your own."}
    )
    languages: list[str] | None = field(
        default=None, metadata={"help": "Language codes; all that a task has by default."}
    )
    english_only: list[str] = field(
        default_factory=list, metadata={"help": "Those of the models that read English alone."}
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Folder or Hub id to read all tasks from, in place of their own."}
    )
    limit: int | None = field(default=None, metadata={"help": "The first so many images of a task."})
    streaming: bool = field(
        default=False, metadata={"help": "Read rows as they come, without a copy of the dataset on the disk."}
    )
    n_resamples: int = field(
        default=1000, metadata={"help": "Resamples of the items, for the 95 %% intervals."}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Where vectors are kept; below datasets' cache by default."}
    )
    output_dir: str = field(default="outputs/results", metadata={"help": "Where the JSON files go."})
    dry_run: bool = field(
        default=False, metadata={"help": "Say what would be loaded, from where and how large, and stop."}
    )

    def __post_init__(self):
        check_resamples(self.n_resamples)


Ask = Callable[[Task, list[str], Dataset | IterableDataset | None], dict[str, Any]]
"""`(task, languages, rows)` to what is asked in each language, such as class names; without rows, as far as that can be known."""
Score = Callable[[CachedEncoder, torch.Tensor, dict[str, list], Task, dict[str, Any]], dict[str, Outcomes]]
"""`(encoder, image_embeds, columns, task, asked)` to what came of it in each language."""
READ = (
    "config",
    "data_files",
    "layout",
    "columns",
    "where",
    "join_words",
    "merge_captions",
    "class_names",
    "class_subset",
)


def tasks_of(
    arguments: EvaluationArguments, kind: str, class_names: str | None = None
) -> list[tuple[Task, list[str]]]:
    """The tasks, each with its languages: all that it has by default; of those asked for, those it has captions in, and for class
    names every one, since names may come from anywhere.

    Raises:
        InputError: no such task, one of another kind, two of one name, or a language in which none has captions.
    """
    tasks = [load_task(name) for name in arguments.tasks]
    for task in tasks:
        if task.kind != kind:
            raise InputError(
                f"task {task.name!r} is of the kind {task.kind}: run benchmarks/run_{task.kind}.py"
            )
    refuse_equal([task.name for task in tasks], "tasks")
    tasks = [
        task if arguments.dataset is None else replace(task, dataset=arguments.dataset, revision=None)
        for task in tasks
    ]
    if arguments.languages is None:
        return [(task, languages_of(task, class_names)) for task in tasks]
    asked = [spell(language) for language in arguments.languages]
    if kind == "zero_shot":
        return [(task, asked) for task in tasks]
    spoken = list(dict.fromkeys(language for task in tasks for language in task.languages))
    for language in asked:
        if not any(find_language(language, task.languages) for task in tasks):
            check_language(language, spoken)
    chosen = []
    for task in tasks:
        there = [find_language(language, task.languages) for language in asked]
        chosen.append((task, list(dict.fromkeys(language for language in there if language is not None))))
    return [(task, languages) for task, languages in chosen if languages]


def refuse_equal(names: list[str], what: str) -> None:
    """Results are files of a model's and a task's name."""
    equal = {name for name in names if names.count(name) > 1}
    if equal:
        raise InputError(
            f"{what}: several are called {', '.join(sorted(equal))}, and would overwrite each other's results: run them apart"
        )


def evaluate(
    arguments: EvaluationArguments,
    kind: str,
    ask: Ask,
    score: Score,
    *,
    class_names: str | None = None,
    normalize: bool = True,
    suffix: str = "",
    templates: str | list[str] | None = None,
) -> None:
    """Measure every model on every task, keep the results and show them; or with `dry_run` say what would be measured.

    Args:
        class_names: the user's JSON file, whose languages are then measured.
        suffix: behind a task's name in its results, where it was scored in another way than usual.
        templates: the user's, for the results to name.
    """
    tasks = tasks_of(arguments, kind, class_names)
    check(arguments, tasks, ask, suffix)
    absent = [task for task, _ in tasks if task.to_prepare]
    if arguments.dry_run:
        print(
            "\n\n".join(
                [
                    describe_models(arguments),
                    *(describe(task, languages, class_names) for task, languages in tasks),
                ]
            )
        )
        first = (
            f"prepare {', '.join(task.name for task in absent)}, or leave that out of --tasks; then "
            if absent
            else ""
        )
        print(f"Nothing was loaded. Next: {first}the same command without --dry_run")
        return
    if absent:
        raise InputError(how_to_prepare(absent, arguments.tasks))
    fix_threads()
    PartialState(
        cpu=not torch.accelerator.is_available()
    )  # otherwise it looks for several processes on accelerators alone
    results = []
    try:
        for task, result, outcomes in measure_all(arguments, tasks, ask, score, normalize):
            result.task += suffix
            if class_names:
                result.definition |= {"class_names": class_names, "class_subset": None}
            result.templates = templates or (task.templates if kind == "zero_shot" else None)
            if PartialState().is_main_process:
                result.save(Path(arguments.output_dir), outcomes)
            results.append(result)
    finally:  # what was measured before an error is there, and is shown
        if results and PartialState().is_main_process:
            show(results, arguments)


def check(arguments: EvaluationArguments, tasks: list[tuple[Task, list[str]]], ask: Ask, suffix: str) -> None:
    """Before anything is loaded, all that can be known: told later, it would cost the encoding.

    Raises:
        InputError: two models of one name; a model, a folder or a name of a class that is not there; nothing to measure; or a result of
            something else where one would go.
    """
    refuse_equal([model_name(model) for model in arguments.models], "models")
    unknown = [model for model in arguments.english_only if model not in arguments.models]
    if unknown:
        raise InputError(
            f"english_only names {', '.join(unknown)}, of which there is none among the models: spell it as there"
        )
    if not any(read_by(model, languages, arguments) for model in arguments.models for _, languages in tasks):
        raise InputError(
            f"nothing to measure: {' '.join(arguments.english_only)} read English alone, which was not asked for"
        )
    for task, languages in tasks:
        if not task.to_prepare:
            check_folder("dataset", task.dataset)
        prompts = {
            language: hash_prompts(*asked) for language, asked in ask(task, languages, None).items() if asked
        }
        for model in arguments.models:
            known = {"model": model, "dataset": task.dataset, "split": task.split, "limit": arguments.limit}
            for language in read_by(model, languages, arguments):
                of_language = {"prompts": prompts[language]} if language in prompts else {}
                refuse_another(
                    path_of(Path(arguments.output_dir), model, task.name + suffix, language),
                    known | of_language,
                )
    for model in arguments.models:
        check_model(model)


def read_by(model: str, languages: list[str], arguments: EvaluationArguments) -> list[str]:
    """Those of the languages that a model is measured in."""
    return [language for language in languages if model not in arguments.english_only or is_english(language)]


def how_to_prepare(absent: list[Task], given: list[str]) -> str:
    """What is to be done by hand, of all tasks, and how to do without."""
    names = [task.name for task in absent]
    advice = dict.fromkeys(task.to_prepare for task in absent)  # two tasks may be of one folder
    others = [name for name in given if Path(name).stem not in names]
    return " ".join(
        [*advice, *([f"Or leave out {' '.join(names)}: --tasks {' '.join(others)}"] if others else [])]
    )


def describe_models(arguments: EvaluationArguments) -> str:
    """A line for each model: where it is from, its size where a folder tells, and whether it reads English alone."""
    lines = ["models"]
    for model in arguments.models:
        library = library_of(model)
        files = sorted(Path(model).glob("model.safetensors")) or sorted(
            Path(model).glob("model-*-of-*.safetensors")
        )
        known = ["a folder" if Path(model).is_dir() else f"with {library}" if library else "from the Hub"]
        known += [f"{sum(map(count_values, files)):,} parameters"] if files else []
        known += ["English alone"] if model in arguments.english_only else []
        lines.append(f"  {model}: {', '.join(known)}")
    return "\n".join(lines)


def count_values(path: Path) -> int:
    """How many numbers a safetensors file holds, by its header; a file of another form is an `InputError`."""
    try:
        with safe_open(path, "pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read: {error}. Fetch it again, whole") from error


def measure_all(
    arguments: EvaluationArguments,
    tasks: list[tuple[Task, list[str]]],
    ask: Ask,
    score: Score,
    normalize: bool,
) -> Iterator[tuple[Task, Result, Outcomes]]:
    """Every model on every task, one after the other."""
    for name in arguments.models:
        model, processor = load_model(name)
        encoder = CachedEncoder(model, processor, normalize=normalize, cache_dir=arguments.cache_dir)
        for task, languages in tasks:
            if spoken := read_by(name, languages, arguments):
                for result, outcomes in measure(name, encoder, task, spoken, ask, score, arguments):
                    yield task, result, outcomes


def measure(
    name: str,
    encoder: CachedEncoder,
    task: Task,
    languages: list[str],
    ask: Ask,
    score: Score,
    arguments: EvaluationArguments,
) -> list[tuple[Result, Outcomes]]:
    """One model on one task, in all languages with one pass over the images."""
    rows = task.rows(languages, arguments.limit, arguments.streaming)
    asked = ask(task, languages, rows)
    image_embeds, columns, digests = encoder.rows(rows)
    repeated = len(digests) - len(set(digests))
    if repeated and task.kind == "retrieval":
        logger.warning(
            "%s: %s of %s images stand there twice: their texts compete", task.name, repeated, len(digests)
        )
    revision, model_revision = task.commit(), revision_of(name)
    found = []
    for language, outcomes in score(encoder, image_embeds, columns, task, asked).items():
        counted = [digests[row] for row in outcomes.rows.tolist()]
        outcomes = replace(outcomes, digests=shorten(counted))
        result = Result(
            model=name,
            task=task.name,
            kind=task.kind,
            language=language,
            metric=task.metric,
            metrics=outcomes.metrics(),
            intervals=intervals(outcomes, arguments.n_resamples),
            dataset=task.dataset,
            revision=revision,
            split=task.split,
            limit=arguments.limit,
            data=hash_data(digests, columns, language),
            n_rows=len(digests),
            images=hash_json(counted),
            definition={name: getattr(task, name) for name in READ},
            weights=encoder.weights,
            model_revision=model_revision,
            prompts=hash_prompts(*asked[language]) if asked[language] else None,
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            threads=torch.get_num_threads(),
        )
        found.append((result, outcomes))
    return found


def hash_data(digests: list[str], columns: dict[str, list], language: str) -> str:
    """XXH3-128 of the images and of one language's captions, or of the labels: equal where two models were asked about the same."""
    answers = (
        [caption[language] for caption in columns["captions"]]
        if "captions" in columns
        else list(columns.values())
    )
    return hash_json([digests, answers])


def hash_json(values: list) -> str:
    return xxh3_128(json.dumps(values, ensure_ascii=False).encode()).hexdigest()


def show(results: list[Result], arguments: EvaluationArguments) -> None:
    """A table a kind of metrics: the main one with its interval."""
    rows = []
    for result in results:
        row = {
            "model": result.model_name,
            "task": result.task,
            "language": result.language,
            "n": result.metrics["n"],
        }
        row |= {
            short(name): result.metrics[name]
            for name in [*SHOWN[result.kind], result.metric]
            if name in result.metrics
        }
        low, high = (f"{100 * bound:.1f}" for bound in result.intervals[result.metric])
        rows.append(row | {"95 %": f"{short(result.metric)} {low} to {high}"})
    header = list(dict.fromkeys(name for row in rows for name in row if name != "95 %")) + ["95 %"]
    print(format_table(header, [[row.get(name, "") for name in header] for row in rows]))
    where = arguments.output_dir
    report = shlex.join(
        ["python", "benchmarks/run_report.py", "--results", where, "--output_dir", f"{where}-report"]
    )
    print(f"Saved {len(results)} results below {where}. Next: {report}")


def short(metric: str) -> str:
    """A metric's name as a table has room for it."""
    for name, brief in SHORT.items():
        metric = metric.replace(name, brief)
    return metric.replace("top-@", "top-")


__all__ = ["EvaluationArguments", "evaluate"]
