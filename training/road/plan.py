"""Plan a road: what its steps read, download, compute and keep; nothing is read, loaded or downloaded.

The numbers are those that corpora state of themselves, counts of operations and weights by the models'
configurations, and the assumptions of `assumptions.yaml`. They are estimates: none was measured.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import PreTrainedConfig

from benchmarks.evaluation import EvaluationArguments
from benchmarks.tasks.class_names import languages_of
from benchmarks.tasks.loading import load_task
from common.errors import InputError
from common.languages import find_language
from common.licences import Outcome, combine
from common.models.kinds import TEACHER
from common.models.libraries import library_of, source_of
from common.origins import Origin
from model_cards.job import CardArguments
from model_cards.licences import is_hub_id, origin_of_model
from modeling_altclip.configuration_altclip_dual_encoder import width_of_states

from ..arguments import (
    AlignmentArguments,
    ContrastiveArguments,
    PairArguments,
    StageArguments,
    TeacherArguments,
    TeacherLearningArguments,
)
from ..cleaning.arguments import CleaningArguments
from ..download.arguments import DownloadArguments
from ..output_folder import examples_per_step
from ..parallel.pretraining import TextPretrainingArguments
from ..parallel.trainer import ParallelArguments
from ..teachers import join, join_image_encoder, width_of_targets
from ..translation.translating import TranslationArguments
from .amounts import Amount, amount_of
from .assumptions import describe_assumptions, read_assumptions
from .models import (
    bytes_of_model,
    count_parameters,
    image_operations,
    published_parameters,
    read_config,
    recorded_models,
    text_operations,
)
from .steps import JOBS, Step, read_arguments

_FLOAT32 = 4  # bytes
_GB = 1e9
# A training step computes a forward pass, and a backward pass of twice as many operations.
_TRAINED = 3
# Stages that may begin with the model of an earlier one.
_BEGIN_WITH_A_MODEL = (TeacherArguments, TeacherLearningArguments, ContrastiveArguments)
_GPUS = {1: "hours on 1 GPU", 8: "hours on 8 GPUs"}
_LAPTOP = "hours on a laptop"


@dataclass(kw_only=True)
class _StepPlan:
    """What a step does, as far as it is known.

    - `lines`: what is printed of it, as pairs of a name and a value.
    - `amount`: the data that it reads. `n_parameters`: of the model that it trains.
    - `downloads`: `{corpus, model or "pictures": bytes}`. `disk`: bytes that it leaves on the disk.
    - `unknown`: names of corpora and models whose size is not known, so that both are without them.
    - `operations`: the least and the most of a training; None where they are not known, or it is none.
    """

    step: Step
    lines: list[tuple[str, str]] = field(default_factory=list)
    amount: Amount | None = None
    n_parameters: int | None = None
    downloads: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    disk: float = 0
    operations: tuple[float, float] | None = None


@dataclass(kw_only=True)
class _RoadPlan:
    """The plans of a road's steps, and what they are together.

    - `models`: those that go into the outcome.
    - `outcome`: what its licence is, as far as its data and models state theirs.
    """

    steps: list[_StepPlan]
    models: list[str]
    outcome: Outcome

    @property
    def unknown(self) -> list[str]:
        """Return the names of corpora and models whose size is not known, so that sums are without them."""
        names = {}  # as keys, in the order in which they are named
        for plan in self.steps:
            names |= dict.fromkeys(plan.unknown)
        return list(names)

    @property
    def n_bytes(self) -> int:
        """Return what is downloaded in all; a corpus or model that several steps name counts once."""
        downloads = {}
        for plan in self.steps:
            downloads |= plan.downloads
        return sum(downloads.values())

    @property
    def disk(self) -> float:
        """Return the bytes that all steps leave on the disk."""
        return sum(plan.disk for plan in self.steps)

    @property
    def operations(self) -> tuple[float, float] | None:
        """Return the least and the most operations of all trainings; None if those of one are not known."""
        trainings = [plan for plan in self.steps if JOBS[plan.step.job].is_training]
        if not trainings or None in [plan.operations for plan in trainings]:
            return None
        least = sum(plan.operations[0] for plan in trainings)
        most = sum(plan.operations[1] for plan in trainings)
        return least, most


def hours_of(operations: tuple[float, float], n_gpus: int) -> tuple[float, float]:
    """Return the hours in which GPUs do the least operations at best, and the most at worst."""
    assumed = read_assumptions()
    an_hour = 3600 * n_gpus * assumed.operations_a_second
    best = operations[0] / (an_hour * assumed.highest_utilisation)
    return best, operations[1] / (an_hour * assumed.lowest_utilisation)


def laptop_hours_of(operations: tuple[float, float]) -> tuple[float, float]:
    """Return the hours in which a laptop's processor does the least operations at best, the most at worst."""
    assumed = read_assumptions()
    best = operations[0] / (3600 * assumed.most_operations_a_second_of_a_laptop)
    return best, operations[1] / (3600 * assumed.least_operations_a_second_of_a_laptop)


def hour_lines(operations: tuple[float, float] | None) -> list[tuple[str, str]]:
    """Return a line for each kind of machine, with the hours in which it does these operations."""
    lines = []
    for n_gpus, name in _GPUS.items():
        lines.append((name, say_range(operations and hours_of(operations, n_gpus))))
    lines.append((_LAPTOP, say_range(operations and laptop_hours_of(operations))))
    return lines


def print_plan(road: list[Step], chosen: list[Step]) -> None:
    """Print what the chosen steps of a road do, each and in all, without doing any of it.

    The licence is that of the whole road's outcome.

    Args:
        road: all steps, since a step reads what earlier ones make.

    Raises:
        InputError: as `plan_road`.
    """
    plan = plan_road(road)
    plan = replace(plan, steps=[step_plan for step_plan in plan.steps if step_plan.step in chosen])
    for number, step_plan in enumerate(plan.steps, start=1):
        print(f"{number}. {step_plan.step.job}, {step_plan.step.recipe}")
        _print_lines(step_plan.lines)
    print("In all")
    _print_lines(_describe_road(plan))
    print("Assumed, as are the sizes that corpora state")
    for line in describe_assumptions():
        print(f"  {line}")
    print("Estimates: nothing was read, loaded or trained. Next: the same command without --dry_run.")


def _print_lines(lines: list[tuple[str, str]]) -> None:
    for name, value in lines:
        print(f"  {name:<20}{value}")


def _describe_road(plan: _RoadPlan) -> list[tuple[str, str]]:
    """Return what a whole road needs, as pairs of a name and a value."""
    lines = [("to download", _with_unknown(say_bytes(plan.n_bytes), plan.unknown))]
    lines.append(("on the disk", _with_unknown(say_bytes(plan.disk), plan.unknown)))
    for name, hours in hour_lines(plan.operations):
        lines.append((name, f"{hours}, of trainings alone"))
    lines.append(("licence", plan.outcome.sentence))
    return lines


def _with_unknown(value: str, unknown: list[str]) -> str:
    return f"{value}, without {', '.join(unknown)}, of unknown size" if unknown else value


def say_bytes(n_bytes: float) -> str:
    """Write bytes as `1.7 GB`."""
    return f"{n_bytes / _GB:,.1f} GB"


def say_range(hours: tuple[float, float] | None) -> str:
    """Write the least and the most hours as `3.1 to 17`."""
    if hours is None:
        return "unknown"
    return " to ".join(_say_number(value) for value in hours)


def _say_number(value: float) -> str:
    return f"{value:,.2g}" if value < 10 else f"{value:,.0f}"


def plan_road(steps: list[Step]) -> _RoadPlan:
    """Plan all steps of a road, in their order, each with what the earlier ones make.

    Raises:
        InputError: a recipe is wrong, or names a corpus, a language, a task or a model that does not exist.

    Example:

    ```python
    >>> from training.road.plan import plan_road
    >>> from training.road.steps import read_road

    >>> plan = plan_road(read_road("training/recipes/any_clip"))
    >>> for step_plan in plan.steps[:4]:
    ...     print(step_plan.step.job, step_plan.amount.rows)
    download 150000
    clean 7534319
    stage1 7534319
    stage2 120000
    ```
    """
    road = _Road()
    plans = [road.plan(step) for step in steps]
    return _RoadPlan(
        steps=plans,
        models=list(road.models),
        outcome=combine([*map(origin_of_model, road.models), *road.origins]),
    )


class _Road:
    """Plans steps one after the other, and knows what the earlier ones make."""

    def __init__(self):
        self.made: dict[Path, Amount] = {}
        self.configs: dict[Path, PreTrainedConfig] = {}
        self.counts: dict[Path, tuple[int, int]] = {}  # of the parameters of `configs`
        self.origins: list[Origin] = []  # of all data
        self.models: dict[str, None] = {}  # as keys, in the order in which they are named

    def plan(self, step: Step) -> _StepPlan:
        """Plan the next step.

        Raises:
            InputError: its recipe is wrong, or names what does not exist.
        """
        planners: dict[type, Callable] = {
            TranslationArguments: self._plan_translation,
            DownloadArguments: self._plan_download,
            CleaningArguments: self._plan_cleaning,
            TextPretrainingArguments: self._plan_text_pretraining,
            TeacherArguments: self._plan_stage0,
            AlignmentArguments: self._plan_alignment,  # before stage 1, whose arguments it has
            TeacherLearningArguments: self._plan_stage1,
            ContrastiveArguments: self._plan_stage2,
            ParallelArguments: self._plan_parallel,
            EvaluationArguments: self._plan_evaluation,
            CardArguments: self._plan_card,
        }
        plan = _StepPlan(step=step)
        arguments = read_arguments(step)
        for kind, planner in planners.items():
            if isinstance(arguments, kind):
                planner(plan, arguments)
                break
        return plan

    # Data

    def _read(self, plan: _StepPlan, dataset: str, languages: list[str] | None, **options) -> Amount:
        """Return the amount of a data set, and note what is downloaded of it."""
        amount = amount_of(dataset, languages, self.made, **options)
        plan.amount = amount
        self.origins += amount.origins
        plan.unknown += amount.unknown
        plan.downloads |= amount.downloads
        plan.lines.append(("data", f"{dataset}: {amount.describe_rows()} rows, {amount.texts:,} texts"))
        if amount.downloads:
            plan.lines.append(("to download", say_bytes(sum(amount.downloads.values()))))
        return amount

    def _plan_translation(self, plan: _StepPlan, arguments: TranslationArguments) -> None:
        amount = self._read(plan, arguments.dataset, [arguments.source_language], pictures=True)
        for name in [arguments.model_name_or_path] if arguments.models is None else arguments.models.values():
            self._use_model(plan, name, "model_name_or_path")
        per_row = arguments.captions_per_image or 1
        n_targets = len(arguments.target_languages)
        n_translations = amount.rows * per_row * n_targets
        at_least = "" if arguments.captions_per_image else ", more where a row has several captions"
        plan.lines.append(("translations", f"{n_translations:,}{at_least}"))
        plan.lines.append(("hours", "not estimated: translation waits for memory, not for operations"))
        plan.disk = 2 * sum(amount.downloads.values())  # as it is, and with translations
        self.made[plan.step.output_dir] = Amount(
            rows=amount.rows,
            texts=amount.rows * per_row * (1 + n_targets),
            pictures=amount.rows,
            languages=(arguments.source_language, *arguments.target_languages),
            origins=amount.origins,
            unknown=amount.unknown,
        )

    def _plan_download(self, plan: _StepPlan, arguments: DownloadArguments) -> None:
        assumed = read_assumptions()
        amount = self._read(
            plan, arguments.dataset, arguments.languages, pictures=True, budget=arguments.rows
        )
        n_pictures = round(amount.rows * assumed.working_addresses)
        n_texts = round(amount.texts * assumed.working_addresses)
        n_bytes = round(n_pictures * assumed.bytes_to_download_a_picture)
        plan.downloads[f"pictures of {arguments.dataset}"] = n_bytes
        plan.disk = n_pictures * assumed.bytes_of_a_picture
        plan.lines.append(("pictures", f"{n_pictures:,}, {say_bytes(n_bytes)} to download"))
        plan.lines.append(("on the disk", say_bytes(plan.disk)))
        self.made[plan.step.output_dir] = Amount(
            rows=n_pictures,
            texts=n_texts,
            pictures=n_pictures,
            languages=tuple(arguments.languages or amount.languages),
            origins=amount.origins,
            unknown=amount.unknown,
        )

    def _plan_cleaning(self, plan: _StepPlan, arguments: CleaningArguments) -> None:
        amount = self._read(plan, arguments.dataset, arguments.languages, kinds=arguments.kinds)
        # The data as Arrow, and what is kept of them.
        plan.disk = 2 * amount.texts * read_assumptions().bytes_of_a_text
        plan.lines.append(("on the disk", say_bytes(plan.disk)))
        plan.lines.append(("rows kept", "at most as many; the report of the cleaning counts them"))
        self.made[plan.step.output_dir] = amount

    # Models

    def _use_model(self, plan: _StepPlan, name: str, argument: str) -> PreTrainedConfig:
        """Return the configuration of a model, and note what is downloaded of it.

        Raises:
            InputError: it is made by no earlier step, and has no configuration.
        """
        made = self.configs.get(Path(name))
        if made is not None:
            return made
        self._check_made(name, argument)
        config = read_config(name, argument)
        self.models[name] = None
        n_bytes = bytes_of_model(name)
        if n_bytes is not None:
            plan.downloads[name] = n_bytes
        elif is_hub_id(name):
            plan.unknown.append(name)
        _name_parameters(plan, name, config)
        return config

    # Trainings

    def _plan_stage0(self, plan: _StepPlan, arguments: TeacherArguments) -> None:
        amount = self._read(plan, arguments.dataset, ["en"], pictures=True)
        config = self._use_model(plan, arguments.model_name_or_path, "model_name_or_path")
        n_examples = _count_examples(plan, arguments, amount.texts)
        if n_examples is not None:
            of_images = _forwards(arguments) * image_operations(config) * n_examples
            least, most = _of_texts(arguments, config)
            n_passes = _forwards(arguments) * n_examples
            _set_operations(plan, of_images + n_passes * least, of_images + n_passes * most)
        self._keep_model(plan, arguments, config, all_learn=True)
        plan.disk += _disk_of_pictures(arguments, amount)

    def _plan_stage1(self, plan: _StepPlan, arguments: TeacherLearningArguments) -> None:
        languages = arguments.languages_to_read
        amount = self._read(plan, arguments.dataset, languages, kinds=arguments.kinds)
        _check_excluded(plan, arguments.exclude_tasks)
        teacher = self._use_teacher(plan, arguments)
        if arguments.model_name_or_path is None:
            config = self._join(plan, arguments, teacher)
            n_targets = amount.rows  # the teacher's embeddings of English
        else:
            config = self._use_model(plan, arguments.model_name_or_path, "model_name_or_path")
            n_targets = amount.texts  # and the model's own of all that is replayed
        n_examples = _count_examples(plan, arguments, amount.texts)
        if n_examples is not None and teacher is not None:
            n_passes = _forwards(arguments) * n_examples
            learned = _of_texts(arguments, config)
            embedded = _of_texts(arguments, teacher)
            _set_operations(
                plan,
                n_passes * learned[0] + n_targets * embedded[0],
                n_passes * learned[1] + n_targets * embedded[1],
            )
        bytes_of_value = _FLOAT32 if arguments.cache_dtype == "float32" else _FLOAT32 / 2
        of_cache = n_targets * width_of_targets(config) * bytes_of_value
        plan.disk += of_cache + amount.texts * read_assumptions().bytes_of_a_text
        plan.lines.append(("cache", f"{n_targets:,} embeddings of the teacher, {say_bytes(of_cache)}"))
        self._keep_model(plan, arguments, config, all_learn=False)

    def _plan_alignment(self, plan: _StepPlan, arguments: AlignmentArguments) -> None:
        of_images = arguments.aligns_images
        languages = arguments.languages
        kinds = {} if of_images else {"kinds": arguments.kinds}
        amount = self._read(plan, arguments.dataset, languages, pictures=of_images, **kinds)
        _check_excluded(plan, arguments.exclude_tasks)
        teacher = self._use_teacher(plan, arguments)
        if of_images:
            image_model = arguments.image_model_name_or_path
            image_side = self._use_model(plan, image_model, "image_model_name_or_path")
            tower = getattr(image_side, "vision_config", image_side)
            config = join_image_encoder(tower, teacher, teacher.hidden_size)
        else:
            config = self._join(plan, arguments, teacher)
        # Each image and text passes its frozen tower once.
        least, most = [amount.texts * operations for operations in _of_texts(arguments, config)]
        images = amount.pictures * image_operations(config) if of_images else 0
        if amount.texts:
            _set_operations(plan, images + least, images + most)
        n_cached = amount.texts + amount.pictures
        of_cache = n_cached * config.text_config.hidden_size * _FLOAT32
        plan.disk += of_cache
        plan.lines.append(("cache", f"{n_cached:,} outputs of towers, {say_bytes(of_cache)}"))
        n_parameters, _ = self.counts[plan.step.output_dir] = count_parameters(config)
        plan.disk += _FLOAT32 * n_parameters
        plan.n_parameters = n_parameters
        plan.lines.append(("parameters", f"{n_parameters:,}, of which one layer is fitted without steps"))
        plan.lines.append(("on the disk", say_bytes(plan.disk)))
        self.configs[plan.step.output_dir] = config

    def _use_teacher(self, plan: _StepPlan, arguments: TeacherLearningArguments) -> PreTrainedConfig | None:
        """Return the configuration of a teacher; None of one that its library alone knows."""
        name = arguments.teacher_name_or_path
        is_known = name in recorded_models()
        if not is_known and library_of(name) == "sentence_transformers":
            name = source_of(name)  # which has the configuration of its transformer
        elif not is_known and arguments.has_text_teacher:
            self.models[name] = None
            plan.unknown.append(name)
            return None
        return self._use_model(plan, name, "teacher_name_or_path")

    def _join(
        self, plan: _StepPlan, arguments: TeacherLearningArguments, teacher: PreTrainedConfig | None
    ) -> PreTrainedConfig:
        """Return the configuration of a new student."""
        encoder = self._use_model(plan, arguments.text_encoder_name_or_path, "text_encoder_name_or_path")
        options = {"text_pooling": arguments.text_pooling, "text_head": arguments.text_head}
        if not arguments.has_text_teacher:
            return join(teacher, encoder, **options)
        image_model = arguments.image_model_name_or_path
        image_side = self._use_model(plan, image_model, "image_model_name_or_path")
        if TEACHER.fits(image_side):
            return join(image_side, encoder, **options, has_text_teacher=True)
        # Nothing but the loaded teacher tells the width of its embeddings, and few parameters depend on it.
        width = width_of_states(image_side)
        plan.lines.append(("projection", f"planned to {width} values, as wide as the image encoder"))
        return join_image_encoder(image_side, encoder, width, **options)

    def _plan_stage2(self, plan: _StepPlan, arguments: ContrastiveArguments) -> None:
        amount = self._read(plan, arguments.dataset, arguments.languages, pictures=True)
        _check_excluded(plan, arguments.exclude_tasks)
        config = self._use_model(plan, arguments.model_name_or_path, "model_name_or_path")
        n_examples = _count_examples(plan, arguments, amount.texts)
        if n_examples is not None:
            # With a cache, each view of an image passes its tower once.
            n_images = n_examples
            if arguments.cache_image_embeds:
                n_images = amount.pictures * arguments.image_views
            if arguments.image_embeds_column is not None:
                n_images = 0  # their vectors are there
            of_images = n_images * image_operations(config)
            least, most = _of_texts(arguments, config)
            n_passes = _forwards(arguments) * n_examples
            if arguments.cache_towers:
                n_passes = amount.texts  # each passes its tower once
            _set_operations(plan, of_images + n_passes * least, of_images + n_passes * most)
        plan.disk += _disk_of_pictures(arguments, amount)
        self._keep_model(plan, arguments, config, all_learn=False)

    def _plan_parallel(self, plan: _StepPlan, arguments: ParallelArguments) -> None:
        amount = self._read(plan, arguments.dataset, arguments.languages, pictures=True)
        _check_excluded(plan, arguments.exclude_tasks)
        images = self._use_model(plan, arguments.image_encoder_name_or_path, "image_encoder_name_or_path")
        texts = self._use_model(plan, arguments.text_encoder_name_or_path, "text_encoder_name_or_path")
        # An example is an image with all of its captions.
        n_examples = _count_examples(plan, arguments, amount.rows)
        if n_examples is not None and amount.rows:
            captions_per_image = amount.texts / amount.rows
            least, most = [captions_per_image * operations for operations in _of_texts(arguments, texts)]
            of_image = image_operations(images)
            n_passes = _forwards(arguments) * n_examples
            _set_operations(plan, n_passes * (of_image + least), n_passes * (of_image + most))
        plan.disk += _disk_of_pictures(arguments, amount)
        n_parameters = count_parameters(images)[0] + count_parameters(texts)[0]
        _keep_weights(plan, arguments, n_parameters, n_parameters)
        self.configs[plan.step.output_dir] = texts

    def _plan_text_pretraining(self, plan: _StepPlan, arguments: TextPretrainingArguments) -> None:
        amount = self._read(plan, arguments.dataset, arguments.languages)
        config = self._use_model(plan, arguments.text_encoder_name_or_path, "text_encoder_name_or_path")
        n_examples = _count_examples(plan, arguments, amount.texts)
        if n_examples is not None:
            least, most = _of_texts(arguments, config)
            n_passes = _forwards(arguments) * n_examples
            _set_operations(plan, n_passes * least, n_passes * most)
        self._keep_model(plan, arguments, config, all_learn=True)

    def _keep_model(
        self, plan: _StepPlan, arguments: StageArguments, config: PreTrainedConfig, *, all_learn: bool
    ) -> None:
        """Note the disk that a model and its checkpoints take, and that later steps may name it."""
        counts = None
        if isinstance(arguments, _BEGIN_WITH_A_MODEL) and arguments.model_name_or_path is not None:
            # It has as many parameters as the model of the earlier stage that it begins with.
            counts = self.counts.get(Path(arguments.model_name_or_path))
        n_all, n_text = counts or count_parameters(config)
        _keep_weights(plan, arguments, n_all, n_all if all_learn else n_text)
        self.configs[plan.step.output_dir] = config
        self.counts[plan.step.output_dir] = (n_all, n_text)

    # What comes after training

    def _plan_evaluation(self, plan: _StepPlan, arguments: EvaluationArguments) -> None:
        for name in arguments.models:
            self._check_made(name, "models")
        tasks = [load_task(name) for name in arguments.tasks]
        available = []
        for task in tasks:
            available += languages_of(task)
        for language in arguments.languages or []:
            if find_language(language, available) is None:
                raise InputError(
                    f"none of the tasks {' '.join(arguments.tasks)} has language {language!r}: they have "
                    f"{' '.join(dict.fromkeys(available))}"
                )
        for task in tasks:
            size = task.size or "size not stated"
            plan.lines.append((task.name, f"{task.total_images or 'some'} images; {size}; {task.licence}"))
            if task.preparation:
                plan.lines.append(("prepare first", f"{task.dataset}: see altclip evaluate --dry_run"))

    def _plan_card(self, plan: _StepPlan, arguments: CardArguments) -> None:
        for name in arguments.stages:
            self._check_made(name, "stages")
        plan.lines.append(("folder", arguments.output_dir))

    def _check_made(self, name: str, argument: str) -> None:
        """Check that a model is made by an earlier step, or may be on the Hub or on this machine.

        Raises:
            InputError: it is not.
        """
        is_known = Path(name) in self.configs or library_of(name) is not None or name in recorded_models()
        if not is_known and not is_hub_id(name) and not Path(name).exists():
            raise InputError(
                f"{argument} {name!r} is no model on the Hub or on this machine, and no earlier step makes it"
            )


def _name_parameters(plan: _StepPlan, name: str, config: PreTrainedConfig) -> None:
    """Say how many parameters a recorded model has, and who has published the same number."""
    if name not in recorded_models():
        return
    n_parameters, _ = count_parameters(config)
    source = published_parameters(name)
    published = "unverified" if source is None else f"as published: {source}"
    plan.lines.append(("model", f"{name}: {n_parameters:,} parameters, {published}"))


def _check_excluded(plan: _StepPlan, names: list[str] | None) -> None:
    """Check that tasks exist whose rows are removed, and say which."""
    if not names:
        plan.lines.append(("tests excluded", "none"))
        return
    if names != ["all"]:
        for name in names:
            load_task(name)
    plan.lines.append(("tests excluded", " ".join(names)))


def _count_examples(plan: _StepPlan, arguments: StageArguments, n_in_epoch: int) -> int | None:
    """Return the number of examples of a training; None where its epochs have no known number."""
    n_processes = arguments.dry_run_processes or 1
    per_step = examples_per_step(arguments, n_processes)
    n_steps = arguments.max_steps
    if n_steps <= 0:
        if not n_in_epoch:
            plan.lines.append(("steps", f"unknown: {arguments.num_train_epochs:g} epochs of unknown size"))
            return None
        n_steps = math.ceil(n_in_epoch / per_step * arguments.num_train_epochs)
    n_examples = n_steps * per_step
    passes = ""
    if n_in_epoch:
        passes = f", {n_examples / n_in_epoch:.1f} passes"
    plan.lines.append(("steps", f"{n_steps:,} of {per_step:,} examples, {n_examples:,} in all{passes}"))

    least, most = _lengths(arguments)
    plan.lines.append(
        ("tokens", f"{n_examples * least:,.3g} at {least} a text, at most {n_examples * most:,.3g} at {most}")
    )
    return n_examples


def _lengths(arguments: StageArguments) -> tuple[int, int]:
    """Return the assumed number of tokens of a text, and the most that it may have, as padded."""
    most = arguments.max_text_length
    return min(round(read_assumptions().tokens_per_text), most), most


def _of_texts(arguments: StageArguments, config: PreTrainedConfig) -> tuple[int, int]:
    """Return the operations of one text: of the assumed length, and padded to the maximum length."""
    least, most = _lengths(arguments)
    return text_operations(config, least), text_operations(config, most)


def _forwards(arguments: StageArguments) -> int:
    """Return how many forward passes the operations of a training step are equal to."""
    again = isinstance(arguments, PairArguments) and arguments.gradient_cache_chunk is not None
    return _TRAINED + int(again) + int(arguments.gradient_checkpointing)


def _set_operations(plan: _StepPlan, least: float, most: float) -> None:
    plan.operations = (least, most)
    plan.lines.append(("operations", f"{least:.2g} to {most:.2g}"))
    plan.lines += hour_lines(plan.operations)


def _disk_of_pictures(arguments: StageArguments, amount: Amount) -> float:
    """Return the bytes of pictures as Arrow, in the cache of `datasets`; a stream keeps none."""
    return 0 if arguments.streaming else amount.pictures * read_assumptions().bytes_of_a_picture


def _keep_weights(plan: _StepPlan, arguments: StageArguments, n_parameters: int, n_trained: int) -> None:
    """Note the disk that a model and its checkpoints take, whose optimizer has two states a weight."""
    weights = _FLOAT32 * n_parameters
    checkpoint = weights + 2 * _FLOAT32 * n_trained
    n_checkpoints = 0
    if arguments.save_strategy != "no":
        n_checkpoints = arguments.save_total_limit or 1
    plan.disk += weights + n_checkpoints * checkpoint
    plan.n_parameters = n_parameters
    plan.lines.append(
        ("parameters", f"{n_parameters:,}, {n_trained:,} of them trained; {n_checkpoints} checkpoints kept")
    )
    plan.lines.append(("on the disk", say_bytes(plan.disk)))


__all__ = ["hours_of", "plan_road", "print_plan", "say_bytes", "say_range"]
