"""Train and evaluate what the experiment on real pictures compares, each once for the same recipes.

    teacher         an image classifier aligned with the multilingual text encoder, in closed form, on English
                    captions alone; in other languages it is the student before stage 1
    linear_head     the student's head fitted to the teacher in closed form
    stage1-SEED     teacher learning on parallel text
    stage2-SEED     contrastive learning on captioned pictures, from stage1-SEED
    english_teacher the same classifier aligned with an English sentence encoder: for an ablation of `full`

All are folders of `output_dir`. A folder's `made_by.txt` has the command and the recipes that it was made by,
and those of what it was made from: a model is trained again where any of these has changed, and not
otherwise.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from benchmarks.tasks.loading import load_task
from common.errors import InputError
from common.files.whole_files import write_text
from common.recipe import parse

from ..arguments import TeacherLearningArguments
from ..data.exclusion.rows import exclude_tests
from ..data.parallel_text import read_parallel_text
from ..experiment import MADE_BY, make_once, run_once
from .dictionary import BY_DICTIONARY, FOUND, IN_FOLDERS, build_dictionaries, count_pairs, write_baselines

TEACHER = "teacher"
_ENGLISH_TEACHER = "english_teacher"
LINEAR_HEAD = "linear_head"
TEXT = "text.json"  # how much text stage 1 has


@dataclass(kw_only=True)
class PhotographsArguments:
    """Arguments of the experiment: pictures, recipes, languages, the tests, and the curves of `full`."""

    pictures: str = field(
        metadata={"help": "Folder of the captioned pictures, with the splits train and test."}
    )
    teacher: str = field(metadata={"help": "Recipe of run_alignment.py for the English teacher."})
    linear_head: str = field(metadata={"help": "Recipe of run_alignment.py for the student's linear head."})
    stage1: str = field(metadata={"help": "The recipe of stage 1."})
    stage2: str = field(metadata={"help": "The recipe of stage 2."})
    english_teacher: str | None = field(
        default=None,
        metadata={
            "help": "Recipe of run_alignment.py for a teacher of another text encoder, such as an English "
            "one, which full makes, and an ablation can name: --teacher_name_or_path "
            "OUTPUT_DIR/english_teacher."
        },
    )
    trained: list[str] = field(metadata={"help": "Languages that are trained, English first."})
    unseen: list[str] = field(metadata={"help": "Languages to test that are not trained."})
    retrieval: str = field(default="photographs", metadata={"help": "The retrieval task."})
    english: str = field(
        default="photographs-english",
        metadata={"help": "The task of the English captions of the pictures that a language has."},
    )
    dictionary: str = field(
        default="photographs-dictionary",
        metadata={"help": "The task of captions that a dictionary has translated."},
    )
    folders: str = field(default="photographs-folders", metadata={"help": "The zero-shot task."})
    margin: float = field(
        default=2.0,
        metadata={"help": "Points that stage 1 has to be shown to lose less than, in each language."},
    )
    n_resamples: int = field(
        default=10_000, metadata={"help": "Resamples of the pictures, by which differences are tested."}
    )
    seeds: list[int] = field(
        default_factory=lambda: [1, 2, 3],
        metadata={"help": "Seeds of the trainings; without full the first one alone."},
    )
    full: bool = field(
        default=False, metadata={"help": "Train with all seeds, and for the curves and ablations."}
    )
    step_shares: list[float] = field(
        default_factory=list,
        metadata={"help": "Shares of the steps of stage 1 for the curve over steps, such as 0.5."},
    )
    curve_share: float = field(
        default=1.0,
        metadata={
            "help": "Share of the steps that the other curves and the ablations train for: 1, or one of "
            "`step_shares`, whose model they are compared with."
        },
    )
    pairs: list[int] = field(
        default_factory=list, metadata={"help": "Numbers of pairs of texts for the curve over text."}
    )
    n_languages: list[int] = field(
        default_factory=list,
        metadata={"help": "Numbers of languages, of the first trained ones, for the curve over languages."},
    )
    ablations: list[str] = field(
        default_factory=list,
        metadata={"help": "Ablations: a name and flags of stage 1 each, such as 'capacity --text_head mlp'."},
    )
    output_dir: str = field(
        default="outputs/photographs", metadata={"help": "Folder for models, results, tables and plots."}
    )

    def __post_init__(self):
        if self.margin <= 0:
            raise InputError(f"margin is {self.margin}: give the points above 0 that may be lost, such as 2")
        if not self.trained or self.trained[0] != "en":
            raise InputError(
                f"trained is {' '.join(self.trained) or 'empty'}: begin with en, which the teacher reads"
            )
        both = set(self.trained) & set(self.unseen)
        if both:
            raise InputError(f"unseen has {' '.join(sorted(both))}, which trained has too: leave it out")
        if not self.seeds:
            raise InputError("seeds is empty: give one at least")
        most = max(self.n_languages, default=1)
        if most > len(self.trained):
            raise InputError(f"n_languages has {most}, and trained {len(self.trained)} languages: give fewer")
        if not all(0 < share < 1 for share in self.step_shares):
            raise InputError(f"step_shares has {self.step_shares}: give shares between 0 and 1")
        if self.curve_share not in [*self.step_shares, 1]:
            raise InputError(f"curve_share is {self.curve_share}: give 1, or one of step_shares")

    @property
    def used_seeds(self) -> list[int]:
        """Return the seeds that are trained: all, or without `full` the first one."""
        return self.seeds if self.full else self.seeds[:1]

    @property
    def languages(self) -> list[str]:
        """Return the languages that are compared, the trained ones first."""
        return [*self.trained, *self.unseen]

    def folder(self, name: str) -> Path:
        """Return the folder of a model."""
        return Path(self.output_dir, name)


class Training(NamedTuple):
    """A training of the experiment.

    - `name`: of its folder, by which its results are found.
    - `stage`: 1 or 2.
    - `flags`: those of the script that differ from the recipe's.
    - `start`: the name of the model that it begins with, or learns from.
    - `share`: its steps, as a share of those in its recipe.
    """

    name: str
    stage: int
    flags: list[str]
    start: str
    share: float = 1.0


def align(arguments: PhotographsArguments) -> None:
    """Make the teachers and the student's linear head in closed form, once."""
    _align_teacher(TEACHER, arguments.teacher, arguments)
    if arguments.full and arguments.english_teacher is not None:
        _align_teacher(_ENGLISH_TEACHER, arguments.english_teacher, arguments)

    recipes = [arguments.linear_head, arguments.folder(TEACHER) / MADE_BY]
    folder = arguments.folder(LINEAR_HEAD)
    flags = [*_stage1_flags(arguments), "--output_dir", folder]
    run_once(folder, recipes, "training/run_alignment.py", arguments.linear_head, *flags)


def _align_teacher(name: str, recipe: str, arguments: PhotographsArguments) -> None:
    folder = arguments.folder(name)
    flags = ["--dataset", arguments.pictures, "--output_dir", folder]
    run_once(folder, [recipe], "training/run_alignment.py", recipe, *flags)


def table_trainings(arguments: PhotographsArguments) -> list[Training]:
    """List the trainings that the table and its verdicts are of, seed by seed, in their order."""
    trainings = []
    for seed in arguments.used_seeds:
        flags = ["--seed", str(seed)]
        trainings.append(Training(f"stage1-{seed}", 1, flags, TEACHER))
        trainings.append(Training(f"stage2-{seed}", 2, flags, f"stage1-{seed}"))
        if arguments.full:
            # What parallel captions add to those in English: the same pictures and steps.
            flags = [*flags, "--languages", "en"]
            trainings.append(Training(f"stage2_english-{seed}", 2, flags, f"stage1-{seed}"))
    return trainings


def train(training: Training, arguments: PhotographsArguments) -> None:
    """Train a model, unless the same command and recipes have made it before."""
    folder = arguments.folder(training.name)
    start = arguments.folder(training.start)
    if training.stage == 1:
        recipe = arguments.stage1
        flags = _stage1_flags(arguments)
    else:
        recipe = arguments.stage2
        flags = ["--model_name_or_path", start, "--dataset", arguments.pictures]
        flags += ["--languages", *arguments.trained]
    # Of equal flags the last one counts.
    flags += [*training.flags, "--output_dir", folder]
    script = f"training/run_stage{training.stage}.py"
    run_once(folder, [recipe, start / MADE_BY], script, recipe, *flags)


def _stage1_flags(arguments: PhotographsArguments) -> list[str]:
    return ["--teacher_name_or_path", str(arguments.folder(TEACHER)), "--languages", *arguments.trained]


def stage1_arguments(
    arguments: PhotographsArguments, output_dir: Path, *flags: str
) -> TeacherLearningArguments:
    """Read the arguments that stage 1 is run with, for what is done without it.

    Args:
        output_dir: in place of that of its training.
    """
    words = [arguments.stage1, *_stage1_flags(arguments), *flags, "--output_dir", str(output_dir)]
    (given,) = parse(TeacherLearningArguments, arguments=words)
    return given


def _read_stage1_text(arguments: PhotographsArguments) -> Dataset:
    """Read the parallel text that stage 1 learns from, without the texts of its tests.

    Returns:
        Rows of `captions`, `{language: [text, ...]}`.
    """
    # Its list of excluded texts would be taken for a part of the dataset in BY_DICTIONARY.
    given = stage1_arguments(arguments, arguments.folder("text_of_dictionaries"))
    text = read_parallel_text(given.dataset, given.split, given.kinds, given.languages_to_read)
    return exclude_tests(given, text.rows)


def translate_test(arguments: PhotographsArguments) -> None:
    """Write the test's captions in the English of a dictionary, which stage 1's text makes, once."""

    def write() -> None:
        rows = _read_stage1_text(arguments)
        dictionaries = build_dictionaries(rows, arguments.trained)
        languages = load_task(arguments.english).languages
        write_baselines(arguments.pictures, dictionaries, languages, arguments.output_dir)
        counts = {"rows": len(rows), "pairs": count_pairs(rows, arguments.trained)}
        write_text(arguments.folder(BY_DICTIONARY) / TEXT, json.dumps(counts) + "\n")

    task = _read(load_task(arguments.english).file)
    made_by = [arguments.pictures, *arguments.trained, _read(arguments.stage1), task]
    make_once(arguments.folder(BY_DICTIONARY), "\n".join(made_by), write)


def evaluate_baselines(arguments: PhotographsArguments) -> None:
    """Evaluate what is not trained in steps: the teachers and the linear head.

    The teacher reads each language's captions, and English: that of the pictures that a language has, and
    that of the dictionaries.
    """
    evaluate_students([TEACHER, LINEAR_HEAD], arguments)
    by_dictionary = arguments.folder(BY_DICTIONARY)
    _retrieve(TEACHER, arguments.english, by_dictionary, arguments, "--languages", *arguments.languages)
    foreign = [language for language in arguments.trained if language != "en"]
    if foreign:
        _retrieve(TEACHER, arguments.dictionary, by_dictionary, arguments, "--languages", *foreign)
    if arguments.full and arguments.english_teacher is not None:
        _retrieve(_ENGLISH_TEACHER, arguments.retrieval, arguments.pictures, arguments, "--languages", "en")
        _classify(_ENGLISH_TEACHER, arguments)


def evaluate_students(names: Iterable[str], arguments: PhotographsArguments) -> None:
    """Evaluate students by retrieval in all languages that are compared, and as classifiers."""
    for name in names:
        evaluate_retrieval(name, arguments)
        _classify(name, arguments)


def evaluate_retrieval(name: str, arguments: PhotographsArguments) -> None:
    """Evaluate a student by retrieval alone, in all languages that are compared."""
    languages = ["--languages", *arguments.languages]
    _retrieve(name, arguments.retrieval, arguments.pictures, arguments, *languages)


def _retrieve(
    name: str, task: str, dataset: str | Path, arguments: PhotographsArguments, *flags: str
) -> None:
    _evaluate(name, task, dataset, "benchmarks/run_retrieval.py", arguments, *flags)


def _classify(name: str, arguments: PhotographsArguments) -> None:
    dataset = arguments.folder(IN_FOLDERS)
    flags = ["--class_names", str(dataset / "class_names.json")]
    _evaluate(name, arguments.folders, dataset, "benchmarks/run_zero_shot.py", arguments, *flags)


def _evaluate(  # noqa: PLR0913
    name: str, task: str, dataset: str | Path, script: str, arguments: PhotographsArguments, *flags: str
) -> None:
    """Evaluate a model on a task, unless it has been; the results lie in `results`."""
    model = arguments.folder(name)
    loaded = load_task(task)
    record = evaluation_record(name, task, arguments)
    shared = ["--models", model, "--tasks", task, "--dataset", dataset]
    shared += ["--cache_dir", Path(arguments.output_dir, "cache")]
    shared += ["--output_dir", Path(arguments.output_dir, "results")]
    made_from = [model / MADE_BY, loaded.file]
    if dataset != arguments.pictures:  # what `translate_test` wrote
        made_from.append(arguments.folder(BY_DICTIONARY) / FOUND)
    run_once(record, made_from, script, *shared, *flags)


def evaluation_record(name: str, task: str, arguments: PhotographsArguments) -> Path:
    """Return the folder that remembers the evaluation of a model on a task."""
    return Path(arguments.output_dir, "evaluated", f"{name}-{load_task(task).name}")


def _read(path: str | Path) -> str:
    return Path(path).read_text("utf-8")


__all__ = [
    "LINEAR_HEAD",
    "TEACHER",
    "TEXT",
    "PhotographsArguments",
    "Training",
    "align",
    "evaluate_baselines",
    "evaluate_retrieval",
    "evaluate_students",
    "evaluation_record",
    "stage1_arguments",
    "table_trainings",
    "train",
    "translate_test",
]
