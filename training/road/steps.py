"""Read a road: a folder of recipes, each named after the job that it is for.

    my_road/
      clean.yaml           altclip clean my_road/clean.yaml
      stage1.yaml          accelerate launch -m altclip train stage1 my_road/stage1.yaml
      stage2.yaml
      parallel_text.yaml   a list of sources, which `clean.yaml` names: no step

The order of the steps is that of `JOBS`, in which data flow.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

from common.command_line import did_you_mean
from common.errors import InputError
from common.files.yaml_files import read_as_written, read_yaml
from common.recipe import parse
from modeling_altclip.checksums_altclip import CHECKSUMS

_ENDINGS = (".yaml", ".yml")
# "" in a clone, "altclip." in a wheel, where all packages lie inside `altclip`.
_PREFIX = __name__.removesuffix("training.road.steps")


@dataclass(frozen=True)
class Job:
    """A job that a step of a road does.

    Attributes:
        module: the module whose `main` does it; for a training, from its types come the arguments.
        command: how it is started behind `altclip`.
        is_training: it is launched by accelerate, resumes from checkpoints, and saves a model with a record.
        finished_by: what lies in the output folder once all is done. The job refuses a folder that has it.
        makes: pattern of the files in the output folder by which the job's outcome is known.
        is_cheap: it makes a page or numbers from what is there, and is repeated where a setting has changed.
    """

    module: str
    command: str
    is_training: bool = False
    finished_by: str | None = None
    makes: str = "*"
    is_cheap: bool = False


_MODEL = CHECKSUMS  # which has a digest of each file that matters
_RESULTS = "**/*.json"

JOBS = {
    "translation": Job("training.jobs.translation", "translate", finished_by="data", makes="data/**/*"),
    "download": Job("training.jobs.download", "download", makes="*.tar"),
    "clean": Job("training.jobs.clean", "clean", finished_by="data", makes="data/**/*"),
    "text_pretraining": Job(
        "training.jobs.text_pretraining", "train text-pretraining", is_training=True, makes=_MODEL
    ),
    "stage0": Job("training.jobs.stage0", "train stage0", is_training=True, makes=_MODEL),
    "alignment": Job("training.jobs.alignment", "train alignment", is_training=True, makes=_MODEL),
    "stage1": Job("training.jobs.stage1", "train stage1", is_training=True, makes=_MODEL),
    "stage2": Job("training.jobs.stage2", "train stage2", is_training=True, makes=_MODEL),
    "parallel": Job("training.jobs.parallel", "train parallel", is_training=True, makes=_MODEL),
    "retrieval": Job("benchmarks.jobs.retrieval", "evaluate retrieval", is_cheap=True, makes=_RESULTS),
    "zero_shot": Job("benchmarks.jobs.zero_shot", "evaluate zero-shot", is_cheap=True, makes=_RESULTS),
    "card": Job("model_cards.job", "card", is_cheap=True),
    "report": Job("benchmarks.jobs.report", "report", is_cheap=True),
}


@dataclass(frozen=True)
class Step:
    """A step of a road.

    Attributes:
        job: a key of `JOBS`.
        recipe: its file.
        settings: the recipe as it is written: `{"max_steps": "800", "languages": ["en", "zh"]}`.
        lines: the line of each setting in the recipe, counted from 1.
        output_dir: the folder that it writes.
    """

    job: str
    recipe: Path
    settings: dict[str, str | list | dict | None]
    lines: dict[str, int]
    output_dir: Path

    @property
    def module(self) -> str:
        """Return the module whose `main` does the step, as it is imported."""
        return _PREFIX + JOBS[self.job].module

    @property
    def words(self) -> list[str]:
        """Return what follows `python` on the command line that does the step, up to the recipe."""
        return ["-m", "altclip", *JOBS[self.job].command.split(), str(self.recipe)]


def read_road(folder: str | Path) -> list[Step]:
    """Read the recipes of a folder as steps, in the order in which they are done.

    A file that is a list is a list of sources, and no step. Other files and subfolders are left alone.

    Raises:
        InputError: it is no folder, or has no recipe; a recipe is named after no job, cannot be read or names
            no output_dir; a list of sources is named after a job; or two recipes have the same name, or one
            output_dir that they would both replace.

    Example:
        >>> for step in read_road("training/recipes/add_languages"):
        ...     print(step.job, step.output_dir)
        stage1 outputs/more_languages/stage1
        retrieval outputs/more_languages/results
        zero_shot outputs/more_languages/results
        card outputs/more_languages/model
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist: give a folder of recipes, {_named_stems()}")
    steps = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in _ENDINGS or not path.is_file():
            continue
        if isinstance(read_yaml(path, "recipe"), list):
            _check_is_list(path)
            continue
        if path.stem in steps:
            raise InputError(f"{steps[path.stem].recipe} and {path} are for the same job: keep one of them")
        steps[path.stem] = _read_step(path)
    if not steps:
        raise InputError(f"folder {str(folder)!r} has no recipe: give a folder of recipes, {_named_stems()}")
    road = [steps[job] for job in JOBS if job in steps]
    _check_folders(road)
    return road


def choose_steps(steps: list[Step], jobs: list[str] | None) -> list[Step]:
    """Return those steps of a road that are for the given jobs, by default all.

    Raises:
        InputError: the road has no step for one of them.
    """
    if not jobs:
        return steps
    available = [step.job for step in steps]
    for job in jobs:
        if job not in available:
            raise InputError(f"steps has {job!r}, and the road has {' '.join(available)}: choose from these")
    return [step for step in steps if step.job in jobs]


def read_arguments(step: Step):
    """Read a step's recipe as its job does, into the first dataclass of its arguments.

    Raises:
        InputError: the recipe is wrong.
    """
    main = import_module(step.module).main
    types = [hint for name, hint in get_type_hints(main).items() if name != "return"]
    return parse(*types, arguments=[str(step.recipe)])[0]


def _check_is_list(path: Path) -> None:
    """Check that a list of sources has a name of its own, so that no step is left out because of it.

    Raises:
        InputError: it is named after a job.
    """
    if path.stem in JOBS:
        raise InputError(
            f"{str(path)!r} is a list of sources, and is named after a job: rename it, and name it as the "
            f"dataset of a recipe {path.name}"
        )


def _read_step(path: Path) -> Step:
    """Read a recipe as a step.

    Raises:
        InputError: as `read_road`.
    """
    if path.stem not in JOBS:
        close = did_you_mean(path.stem, JOBS)
        hint = f"did you mean {close}{path.suffix}?" if close else f"rename it after one of {', '.join(JOBS)}"
        raise InputError(f"recipe {str(path)!r} is named after no job: {hint}")
    written = read_as_written(path, "recipe")
    settings = {name: entry.value for name, entry in written.items()}
    output_dir = settings.get("output_dir")
    if not isinstance(output_dir, str) or not output_dir.strip():
        raise InputError(f"recipe {str(path)!r} has no output_dir, by which its step is known: add one")
    lines = {name: entry.line for name, entry in written.items()}
    return Step(path.stem, path, settings, lines, Path(output_dir))


def _named_stems() -> str:
    """Say how recipes are named, for messages."""
    return f"each named after its job: {', '.join(JOBS)}"


def _check_folders(steps: list[Step]) -> None:
    """Refuse two steps that write the same folder, except evaluations, whose results lie next to each other.

    Raises:
        InputError: two do.
    """
    writers = {}
    for step in steps:
        other = writers.setdefault(step.output_dir.resolve(), step)
        both_cheap = JOBS[step.job].is_cheap and JOBS[other.job].is_cheap
        if other is not step and not both_cheap:
            raise InputError(
                f"recipes {str(other.recipe)!r} and {str(step.recipe)!r} have the same output_dir "
                f"{str(step.output_dir)!r}: give each one of its own"
            )


__all__ = ["JOBS", "Job", "Step", "choose_steps", "read_arguments", "read_road"]
