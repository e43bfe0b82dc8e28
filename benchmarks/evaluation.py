"""Evaluate models on tasks, for retrieval and for classification: arguments, and all steps to results."""

import json
import logging
import math
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from safetensors import SafetensorError, safe_open
from xxhash import xxh3_128

from common.arguments import DTYPES, check_dtype, dtype_field, trust_remote_code_field
from common.commands import command_for, program_for, this_command
from common.errors import InputError
from common.languages import check_language, find_language
from common.models.libraries import library_of
from common.models.loading import check_model, load_model
from common.models.revisions import revision_of
from common.output import check_output_dir
from common.paths import check_folder
from common.processes import fix_threads
from modeling_altclip import embed_texts
from modeling_altclip.languages_altclip import is_english, spell
from modeling_altclip.truncation_altclip import check_dims

from .bootstrap import check_resamples, intervals
from .encoder import CachedEncoder
from .outcomes import SIX, Outcomes, shorten
from .results import Result, format_table, model_name, path_of, refuse_another, truncated_name
from .tasks.checks import OWN_IMAGES
from .tasks.class_names import languages_of
from .tasks.description import describe_task
from .tasks.loading import load_task
from .tasks.reading import read_rows
from .tasks.source import commit_of_dataset
from .tasks.task import Task
from .tasks.templates import hash_prompts

logger = logging.getLogger(__name__)

_SHORT_NAMES = {
    "text_to_image_recall": "T2I R",
    "image_to_text_recall": "I2T R",
    "mean_recall": "mean recall",
    "image_to_text_": "I2T ",
    "text_to_text_": "T2T ",
    "accuracy": "top-",
}
# Metrics in the table that a script prints.
_SHOWN = {
    "retrieval": [*SIX, "mean_recall"],
    "mixed_pool": [
        "image_to_text_recall@1",
        "image_to_text_overtaken",
        "image_to_text_preference",
        "text_to_text_overtaken",
        "text_to_text_preference",
    ],
    "zero_shot": ["accuracy@1", "accuracy@5", "mean_per_class", "map_11_point", "roc_auc"],
}
# The kind of benchmark that evaluates each kind of tasks.
_BENCHMARKS = {"retrieval": "retrieval", "mixed_pool": "retrieval", "zero_shot": "zero_shot"}
# Fields of a task that say how images and texts are read; a result keeps them.
_DEFINITION = (
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
_INTERVAL_COLUMN = "95 %"


@dataclass(kw_only=True)
class EvaluationArguments:
    """Models to evaluate, on tasks and languages."""

    models: list[str] = field(
        metadata={"help": "Folders or Hub ids, or open_clip:, sentence_transformers: or m_clip: and a name."}
    )
    tasks: list[str] = field(
        metadata={"help": "Names of tasks in benchmarks/tasks, or YAML files of your own."}
    )
    languages: list[str] | None = field(
        default=None, metadata={"help": "Language codes. By default all of each task."}
    )
    english_only: list[str] = field(
        default_factory=list,
        metadata={"help": "Models that are evaluated in English only."},
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Folder or Hub id that replaces each task's own dataset."}
    )
    allow_outside_images: bool = field(
        default=False,
        metadata={"help": "Also read images and files that a dataset names outside of itself."},
    )
    trust_remote_code: bool = trust_remote_code_field()
    dtype: str = dtype_field()
    limit: int | None = field(
        default=None,
        metadata={"help": "Number of images to evaluate per task, the first ones. By default all."},
    )
    streaming: bool = field(
        default=False, metadata={"help": "Stream the rows, without a copy of the dataset on the disk."}
    )
    n_resamples: int = field(
        default=1000, metadata={"help": "Number of bootstrap resamples for the 95 %% intervals."}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder that caches embeddings; below datasets' cache by default."}
    )
    truncate_dims: list[int] | None = field(
        default=None,
        metadata={
            "help": "Numbers of dimensions, such as 256 128, at which embeddings are evaluated as well, "
            "truncated to their first ones."
        },
    )
    output_dir: str = field(default="outputs/results", metadata={"help": "Folder for the JSON files."})
    dry_run: bool = field(
        default=False, metadata={"help": "Print what would be loaded, from where and how large, and stop."}
    )

    def __post_init__(self):
        check_resamples(self.n_resamples)
        check_dtype(self.dtype)
        if self.truncate_dims is not None:
            try:
                check_dims(self.truncate_dims, "truncate_dims")
            except ValueError as error:
                raise InputError(error) from error

    @property
    def dims(self) -> list[int | None]:
        """Return the numbers of dimensions to evaluate; None, which is first, is for all dimensions."""
        return [None, *(self.truncate_dims or [])]


class Prompts(NamedTuple):
    """Prompt templates and class names with which a model is evaluated in one language."""

    templates: list[str]
    class_names: list[str | None]


@dataclass(kw_only=True)
class Benchmark(ABC):
    """A kind of evaluation: what models are asked in each language, and how the answers are scored.

    Attributes:
        kind: the kind of its tasks; those of `retrieval` may also be a `mixed_pool`.
        normalize: give embeddings unit length.
        suffix: behind a task's name in its results, where it is scored in another way than usual.
        class_names: the user's JSON file of class names, whose languages are evaluated; the task's by
            default.
        templates: the user's prompt templates, or the name of their set; the task's by default.
    """

    kind: ClassVar[str]

    normalize: bool = True
    suffix: str = ""
    class_names: str | None = None
    templates: str | list[str] | None = None

    @abstractmethod
    def prompts(
        self, task: Task, languages: list[str], rows: Dataset | IterableDataset | None
    ) -> dict[str, Prompts | None]:
        """Return the prompts in each language, None where the captions are what is asked.

        Without rows, languages whose prompts depend on the dataset are left out.
        """

    @abstractmethod
    def score(
        self,
        encoder: CachedEncoder,
        image_embeds: torch.Tensor,
        columns: dict[str, list],
        task: Task,
        prompts: dict[str, Prompts | None],
    ) -> dict[str, Outcomes]:
        """Return the per-item results in each language.

        Args:
            image_embeds: `(rows, dim)`.
            columns: the other columns of the dataset.
            prompts: as `prompts` gives them.
        """


def tasks_of(
    arguments: EvaluationArguments, kind: str, class_names: str | None = None
) -> list[tuple[Task, list[str]]]:
    """Load the tasks, each with the languages to evaluate.

    By default these are all languages of a task. Of the requested ones they are those in which a retrieval
    task has captions; for classification all of them, since class names may come from anywhere.

    Raises:
        InputError: there is no such task, one is of another kind, two have one name, no task has captions in
            a language, or a mixed pool would have one language.
    """
    tasks = _load_tasks(arguments, kind)
    if arguments.languages is None:
        return [(task, languages_of(task, class_names)) for task in tasks]
    requested = [spell(language) for language in arguments.languages]
    if kind == "zero_shot":
        return [(task, requested) for task in tasks]

    _check_available(requested, tasks)
    chosen = []
    for task in tasks:
        # A task may spell a language in another way than the user; it is evaluated under the task's spelling.
        found = [find_language(language, task.languages) for language in requested]
        languages = list(dict.fromkeys(language for language in found if language is not None))
        if task.kind == "mixed_pool" and len(languages) == 1:
            raise InputError(
                f"languages: of {' '.join(requested)}, task {task.name!r} has {languages[0]} alone, and a "
                "mixed pool needs two or more: name others, or leave the task out"
            )
        if languages:
            chosen.append((task, languages))
    return chosen


def _load_tasks(arguments: EvaluationArguments, kind: str) -> list[Task]:
    """Load the tasks, with the user's dataset in place of their own where one is given."""
    tasks = [
        replace(load_task(name), allow_outside_images=arguments.allow_outside_images)
        for name in arguments.tasks
    ]
    for task in tasks:
        if _BENCHMARKS[task.kind] != kind:
            job = f"evaluate {_BENCHMARKS[task.kind].replace('_', '-')}"
            raise InputError(f"task {task.name!r} is of the kind {task.kind}: run {program_for(job)}")
    _refuse_equal([task.name for task in tasks], "tasks")
    if arguments.dataset is not None:
        tasks = [replace(task, dataset=arguments.dataset, revision=None) for task in tasks]
    return tasks


def _check_available(requested: list[str], tasks: list[Task]) -> None:
    """Check that some task has captions in each requested language."""
    available = []
    for task in tasks:
        available += [language for language in task.languages if language not in available]
    for language in requested:
        if not any(find_language(language, task.languages) for task in tasks):
            check_language(language, available)


def _refuse_equal(names: list[str], what: str) -> None:
    """Refuse equal names: results are stored by the names of model and task."""
    equal = {name for name in names if names.count(name) > 1}
    if equal:
        raise InputError(
            f"{what}: several are called {', '.join(sorted(equal))}, and would overwrite each other's "
            "results: run them apart"
        )


def evaluate(arguments: EvaluationArguments, benchmark: Benchmark) -> list[Result]:
    """Evaluate every model on every task, save the results, print and return them.

    With `dry_run` the plan is printed instead, and there are none.

    Raises:
        InputError: as `tasks_of`; or something that can be checked before loading is wrong, see `_check`.
    """
    tasks = tasks_of(arguments, benchmark.kind, benchmark.class_names)
    _check(arguments, tasks, benchmark)
    absent = [task for task, _ in tasks if task.to_prepare]
    if arguments.dry_run:
        _print_plan(arguments, tasks, absent, benchmark)
        return []
    if absent:
        raise InputError(_explain_preparation(absent, arguments.tasks))

    fix_threads()
    # Without `cpu` it looks for several processes on accelerators alone.
    PartialState(cpu=not torch.accelerator.is_available())
    results = []
    try:
        for result, outcomes in _evaluate_all(arguments, tasks, benchmark):
            if PartialState().is_main_process:
                result.save(Path(arguments.output_dir), outcomes)
            results.append(result)
    finally:  # what was measured before an error is there, and is shown
        if results and PartialState().is_main_process:
            _print_results(results, arguments)
    return results


def _check(arguments: EvaluationArguments, tasks: list[tuple[Task, list[str]]], benchmark: Benchmark) -> None:
    """Check all that can be known before anything is loaded: found later, it would cost the encoding.

    Raises:
        InputError: two models have one name; a model, a folder or a class name is missing; there is nothing
            to measure; or a result of something else is where one would go.
    """
    check_output_dir(arguments.output_dir)
    _refuse_equal([model_name(model) for model in arguments.models], "models")
    unknown = [model for model in arguments.english_only if model not in arguments.models]
    if unknown:
        raise InputError(
            f"english_only names {', '.join(unknown)}, of which there is none among the models: "
            "spell it as there"
        )
    _check_any_work(arguments, tasks)
    for task, languages in tasks:
        if not task.to_prepare:
            check_folder("dataset", task.dataset)
        _check_earlier_results(arguments, task, languages, benchmark)
    for model in arguments.models:
        check_model(model, trust_remote_code=arguments.trust_remote_code)


def _check_any_work(arguments: EvaluationArguments, tasks: list[tuple[Task, list[str]]]) -> None:
    """Check that some model reads a language of some task."""
    for model in arguments.models:
        for task, languages in tasks:
            if _languages_for(model, task, languages, arguments):
                return
    raise InputError(
        f"nothing to evaluate: {' '.join(arguments.english_only)} read English only, "
        "which is not in --languages, or is alone in a mixed pool"
    )


def _check_earlier_results(
    arguments: EvaluationArguments, task: Task, languages: list[str], benchmark: Benchmark
) -> None:
    """Refuse to replace earlier results of other models, data or prompts, as far as these are known."""
    hashes = {}
    for language, prompts in benchmark.prompts(task, languages, None).items():
        if prompts is not None:
            hashes[language] = hash_prompts(*prompts)

    for model in arguments.models:
        known = {
            "model": model,
            "dtype": arguments.dtype,
            "dataset": task.dataset,
            "split": task.split,
            "limit": arguments.limit,
        }
        readable = _languages_for(model, task, languages, arguments)
        if task.kind == "mixed_pool":
            known["pool"] = readable
        for language, dim in product(readable, arguments.dims):
            name = truncated_name(task.name + benchmark.suffix, dim)
            path = path_of(Path(arguments.output_dir), model, name, language)
            of_language = {"prompts": hashes[language]} if language in hashes else {}
            refuse_another(path, known | of_language)


def read_by(model: str, languages: list[str], arguments: EvaluationArguments) -> list[str]:
    """Return those of the languages in which a model is evaluated."""
    if model not in arguments.english_only:
        return list(languages)
    return [language for language in languages if is_english(language)]


def _languages_for(model: str, task: Task, languages: list[str], arguments: EvaluationArguments) -> list[str]:
    """Return the languages of a task in which a model is evaluated: none of a pool of which it reads one."""
    readable = read_by(model, languages, arguments)
    if task.kind == "mixed_pool" and len(readable) < 2:
        return []
    return readable


def _explain_preparation(absent: list[Task], given: list[str]) -> str:
    """Explain what has to be prepared by hand for the absent tasks, and how to do without them."""
    names = [task.name for task in absent]
    advice = list(dict.fromkeys(task.to_prepare for task in absent))  # two tasks may share a folder
    others = [name for name in given if Path(name).stem not in names]
    if others:
        advice.append(f"Or leave out {' '.join(names)}: --tasks {' '.join(others)}")
    return " ".join(advice)


def _print_plan(
    arguments: EvaluationArguments,
    tasks: list[tuple[Task, list[str]]],
    absent: list[Task],
    benchmark: Benchmark,
) -> None:
    """Print what would be loaded, and the next step."""
    parts = [_describe_models(arguments)]
    parts += [describe_task(task, languages, benchmark.class_names) for task, languages in tasks]
    print("\n\n".join(parts))
    first = ""
    if absent:
        names = ", ".join(task.name for task in absent)
        first = f"prepare {names}, or leave that out of --tasks; then "
    print(f"Nothing was loaded. Next: {first}the same command without --dry_run")


def _describe_models(arguments: EvaluationArguments) -> str:
    """Describe each model in a line: its origin, its size if it is a folder, and if it reads only English."""
    lines = ["models"]
    for model in arguments.models:
        facts = [_origin_of(model)]
        files = sorted(Path(model).glob("model.safetensors"))
        files = files or sorted(Path(model).glob("model-*-of-*.safetensors"))
        if files:
            facts.append(f"{sum(map(_count_values, files)):,} parameters")
        if model in arguments.english_only:
            facts.append("English alone")
        lines.append(f"  {model}: {', '.join(facts)}")
    return "\n".join(lines)


def _origin_of(model: str) -> str:
    if Path(model).is_dir():
        return "a folder"
    library = library_of(model)
    return f"with {library}" if library else "from the Hub"


def _count_values(path: Path) -> int:
    """Count the numbers in a safetensors file, by its header.

    Raises:
        InputError: the file is of another form.
    """
    try:
        with safe_open(path, "pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read: {error}. Fetch it again, whole") from error


def _evaluate_all(
    arguments: EvaluationArguments, tasks: list[tuple[Task, list[str]]], benchmark: Benchmark
) -> Iterator[tuple[Result, Outcomes]]:
    """Evaluate every model on every task, one after the other."""
    for name in arguments.models:
        model, processor = load_model(name, trust_remote_code=arguments.trust_remote_code)
        encoder = CachedEncoder(
            model,
            processor,
            dtype=DTYPES[arguments.dtype],
            normalize=benchmark.normalize,
            cache_dir=arguments.cache_dir,
            truncate_dims=arguments.truncate_dims or (),
        )
        _check_widths(name, encoder)
        for task, languages in tasks:
            readable = _languages_for(name, task, languages, arguments)
            if task.kind == "mixed_pool" and not readable:
                logger.warning("%s: skipped for %s, which reads English only", task.name, name)
            # Languages with images of their own share no pass over them.
            groups = [[language] for language in readable] if task.layout in OWN_IMAGES else [readable]
            for group in filter(None, groups):
                yield from _evaluate_task(name, encoder, task, group, benchmark, arguments)


def _check_widths(name: str, encoder: CachedEncoder) -> None:
    """Truncate a model's embedding of one letter before everything else is encoded.

    There is a warning for each number of dimensions that the model was not trained for.

    Raises:
        InputError: the embedding has fewer dimensions than one of `truncate_dims`.
    """
    for dim in encoder.truncate_dims:
        try:
            embed_texts(encoder.model, encoder.processor, ["a"], truncate_dim=dim)
        except ValueError as error:
            raise InputError(f"model {name!r}: {error}") from error


def _evaluate_task(
    name: str,
    encoder: CachedEncoder,
    task: Task,
    languages: list[str],
    benchmark: Benchmark,
    arguments: EvaluationArguments,
) -> list[tuple[Result, Outcomes]]:
    """Evaluate one model on one task, in all languages and dimensions with one pass over the images."""
    rows = read_rows(task, languages, arguments.limit, arguments.streaming)
    prompts = benchmark.prompts(task, languages, rows)
    with _named(task):
        image_embeds, columns, digests = encoder.rows(rows)
    n_repeated = len(digests) - len(set(digests))
    if n_repeated and task.has_captions:
        logger.warning(
            "%s: %s of %s images are duplicates: their texts compete with each other",
            task.name,
            n_repeated,
            len(digests),
        )

    # The same in all languages, and for all numbers of dimensions.
    common = {
        "model": name,
        "kind": task.kind,
        "metric": task.metric,
        "dataset": task.dataset,
        "revision": commit_of_dataset(task),
        "split": task.split,
        "limit": arguments.limit,
        "n_rows": len(digests),
        "definition": _definition_of(task, languages, benchmark),
        "weights": encoder.weights,
        "model_revision": revision_of(name),
        "dtype": arguments.dtype,
        "templates": _templates_of(task, benchmark),
        "command": this_command(),
        "threads": torch.get_num_threads(),
    }
    found = []
    for dim in arguments.dims:
        of_dim = encoder.truncated(dim)
        truncated = image_embeds if dim is None else of_dim.finish(image_embeds)
        with _named(task):
            scored = benchmark.score(of_dim, truncated, columns, task, prompts)
        for language, outcomes in scored.items():
            counted = [digests[row] for row in outcomes.rows.tolist()]
            outcomes = replace(outcomes, digests=shorten(counted))
            result = Result(
                **common,
                task=truncated_name(task.name + benchmark.suffix, dim),
                language=language,
                metrics=outcomes.metrics(),
                intervals=intervals(outcomes, arguments.n_resamples),
                data=hash_data(digests, columns, language),
                images=_hash_json(counted),
                prompts=hash_prompts(*prompts[language]) if prompts[language] else None,
                truncate_dim=dim,
            )
            found.append((result, outcomes))
    return found


@contextmanager
def _named(task: Task) -> Iterator[None]:
    """Name the task and its dataset in an error about their rows."""
    try:
        yield
    except InputError as error:
        raise InputError(f"task {task.name!r} of dataset {task.dataset!r}: {error}") from error


def _definition_of(task: Task, languages: list[str], benchmark: Benchmark) -> dict:
    """Return what a task, or the user in its place, says about how images and texts are read."""
    definition = {name: getattr(task, name) for name in _DEFINITION}
    if task.kind == "mixed_pool":
        definition["pool"] = languages
    if task.first_caption:
        definition["first_caption"] = True
    if benchmark.class_names:
        definition |= {"class_names": benchmark.class_names, "class_subset": None}
    return definition


def _templates_of(task: Task, benchmark: Benchmark) -> str | list[str] | None:
    """Return the prompt templates, or the name of their set; None in retrieval."""
    if benchmark.templates:
        return benchmark.templates
    return task.templates if task.kind == "zero_shot" else None


def hash_data(digests: list[str], columns: dict[str, list], language: str) -> str:
    """Hash the images and one language's captions, or the labels: equal where two models saw the same data.

    Returns:
        XXH3-128, hexadecimal.
    """
    if "captions" in columns:
        answers = [caption[language] for caption in columns["captions"]]
        if "rivals" in columns:
            answers.append([rivals[language] for rivals in columns["rivals"]])
    else:
        answers = list(columns.values())
    return _hash_json([digests, answers])


def _hash_json(values: list) -> str:
    return xxh3_128(json.dumps(values, ensure_ascii=False).encode()).hexdigest()


def _print_results(results: list[Result], arguments: EvaluationArguments) -> None:
    """Print a table of the results, with the interval of each task's main metric, and the next step."""
    rows = [_table_row(result) for result in results]
    header = []
    for row in rows:
        header += [name for name in row if name not in header]
    header.remove(_INTERVAL_COLUMN)
    header.append(_INTERVAL_COLUMN)  # behind the metrics of all kinds
    cells = []
    for row in rows:
        cells.append([row.get(name, "") for name in header])
    print(format_table(header, cells))

    folder = arguments.output_dir
    flags = shlex.join(["--results", folder, "--output_dir", f"{folder}-report"])
    print(f"Saved {len(results)} results below {folder}. Next: {command_for('report')} {flags}")


def _table_row(result: Result) -> dict[str, object]:
    """Return the cells of a result by the names of their columns."""
    row = {
        "model": result.model_name,
        "task": result.task,
        "language": result.language,
        "n": result.metrics["n"],
    }
    for name in [*_SHOWN[result.kind], result.metric]:
        if name in result.metrics:
            row[_shorten_name(name)] = result.metrics[name]
    low, high = result.intervals[result.metric]
    row[_INTERVAL_COLUMN] = f"{_shorten_name(result.metric)} {100 * low:.1f} to {100 * high:.1f}"
    return row


def _shorten_name(metric: str) -> str:
    """Shorten a metric's name for the header of a table: `text_to_image_recall@5` -> `T2I R@5`."""
    for name, short in _SHORT_NAMES.items():
        metric = metric.replace(name, short)
    return metric.replace("top-@", "top-")


__all__ = ["Benchmark", "EvaluationArguments", "Prompts", "evaluate"]
