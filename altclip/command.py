"""The command `altclip`: the jobs that are done from any folder, each by the function that its script calls.

`altclip --help` and completion must be quick, so that torch and transformers are imported by a job alone.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass
from pathlib import Path

from altclip import __version__

_SHELLS = ("bash", "zsh", "tcsh")
# Exit status of a command line or recipe that is refused before the job begins.
_USAGE_ERROR = 2

_HERE = Path(__file__).parent
# The folder that holds `training`: this one in a wheel, the clone otherwise.
_HOME = _HERE if (_HERE / "training").is_dir() else _HERE.parent


@dataclass(frozen=True)
class _Job:
    """A job of the command: a module of `altclip` whose `main` does it, and what `--help` says of it.

    Attributes:
        recipes: folder of the recipes that come with the package, if there are any.
        first: field that a first word fills which is neither a flag nor a recipe.
        second: field that a second such word fills.
        one_process: refuse to be one of several processes.
    """

    module: str
    summary: str
    example: str
    recipes: str | None = None
    first: str | None = None
    second: str | None = None
    one_process: bool = False


GROUPS = {
    "train": "Train a model: a stage of AltCLIP, a text encoder, two encoders, or all recipes of a folder.",
    "evaluate": "Evaluate models in any language, by retrieval or by zero-shot classification.",
}
JOBS = {
    "train stage0": _Job(
        "training.jobs.stage0",
        "Train an English CLIP from captioned images, to be the teacher of stage 1.",
        "RECIPE.yaml --dataset YOUR/IMAGES --output_dir outputs/teacher",
        recipes="training/recipes",
    ),
    "train stage1": _Job(
        "training.jobs.stage1",
        "Teach a multilingual text encoder the text embeddings of a CLIP, from parallel text.",
        "RECIPE.yaml --dataset YOUR/PARALLEL --output_dir outputs/stage1",
        recipes="training/recipes",
    ),
    "train stage2": _Job(
        "training.jobs.stage2",
        "Fine-tune the model of stage 1 on captioned images, with the image tower frozen.",
        "RECIPE.yaml --dataset YOUR/IMAGES --output_dir outputs/stage2",
        recipes="training/recipes",
    ),
    "train text-pretraining": _Job(
        "training.jobs.text_pretraining",
        "Pre-train a text encoder on text alone, by masked tokens, in many languages.",
        "RECIPE.yaml --dataset YOUR/PARALLEL --output_dir outputs/text_encoder",
        recipes="training/recipes",
    ),
    "train parallel": _Job(
        "training.jobs.parallel",
        "Train two encoders on images that have captions in several languages.",
        "RECIPE.yaml --dataset YOUR/IMAGES --output_dir outputs/parallel",
        recipes="training/recipes",
    ),
    "train alignment": _Job(
        "training.jobs.alignment",
        "Fit a projection of images or texts in closed form, between two encoders that stay as they are.",
        "--image_model_name_or_path VIT --teacher_name_or_path SENTENCE_ENCODER --dataset YOUR/IMAGES "
        "--output_dir outputs/aligned",
        recipes="training/recipes",
    ),
    "evaluate retrieval": _Job(
        "benchmarks.jobs.retrieval",
        "Evaluate image-text retrieval of one or more models, on any task and in any of its languages.",
        "--models BAAI/AltCLIP-m9 --tasks xm3600 --output_dir outputs/results",
        recipes="benchmarks/recipes",
    ),
    "evaluate zero-shot": _Job(
        "benchmarks.jobs.zero_shot",
        "Evaluate zero-shot classification of one or more models, in any language with class names.",
        "--models BAAI/AltCLIP-m9 --tasks imagenet --output_dir outputs/results",
        recipes="benchmarks/recipes",
    ),
    "report": _Job(
        "benchmarks.jobs.report",
        "Write a page of tables and plots, with intervals, on results of evaluations.",
        "--results outputs/results --output_dir outputs/report",
        recipes="benchmarks/recipes",
        one_process=True,
    ),
    "card": _Job(
        "model_cards.job",
        "Make a folder that is ready for the Hub: the model, its card with results, and plots.",
        '--title "My CLIP" --repo me/my-clip --stages outputs/stage2 --output_dir outputs/my-clip',
        recipes="training/recipes",
        one_process=True,
    ),
    "push": _Job(
        "deploy.pushing.job",
        "Push a finished model or a data set to the Hub in one commit, after a list of its files.",
        "outputs/my-clip me/my-clip --private",
        first="folder",
        second="repo",
        one_process=True,
    ),
    "embed": _Job(
        "benchmarks.jobs.embed",
        "Embed a folder of images or a file of texts, and save the embeddings.",
        "BAAI/AltCLIP-m9 --images photos --output_dir outputs/photos",
        first="model_name_or_path",
        one_process=True,
    ),
    "trim": _Job(
        "deploy.trimming.job",
        "Trim a model's vocabulary to what a corpus needs, with the same embeddings of its texts.",
        "outputs/my-clip --corpus en=captions.en.txt fr=captions.fr.txt --output_dir outputs/my-clip-trimmed",
        first="model_name_or_path",
        one_process=True,
    ),
    "export": _Job(
        "deploy.onnx.job",
        "Export a model to ONNX for onnxruntime and transformers.js, quantized behind a quality gate.",
        "outputs/my-clip --output_dir outputs/exported --dtypes fp32 int8 --validation_dataset YOUR/IMAGES",
        first="model_name_or_path",
        one_process=True,
    ),
    "index": _Job(
        "deploy.search.index_job",
        "Make an index of a folder or dataset of pictures for search, or bring it up to date.",
        "photos --model_name_or_path BAAI/AltCLIP-m9 --output_dir outputs/index",
        first="source",
        one_process=True,
    ),
    "search": _Job(
        "deploy.search.search_job",
        "Find pictures of an index by a text in any language, by a picture, or by both.",
        'outputs/index "红苹果" --sheet found.png',
        first="index",
        second="text",
        one_process=True,
    ),
    "page": _Job(
        "deploy.page.job",
        "Serve a page to search an index, classify pictures and compare languages, or write it as a Space.",
        'outputs/index --queries "red apple" 红苹果 "تفاح أحمر"',
        first="index",
        one_process=True,
    ),
    "draw": _Job(
        "deploy.drawing.job",
        "Draw pictures by one prompt in many languages, through a diffusion pipeline with our text tower.",
        'outputs/altdiffusion --prompts en="a red apple" zh=红苹果 --output_dir outputs/drawn',
        first="pipeline",
        one_process=True,
    ),
    "check": _Job(
        "benchmarks.jobs.check",
        "Compare saved models, checkpoints, caches and results with their checksums.",
        "outputs/my-clip outputs/stage2",
        first="folders",
        one_process=True,
    ),
    "clean": _Job(
        "training.jobs.clean",
        "Clean parallel text for stage 1: remove what is no translation, and show what and why.",
        "--dataset corpus.tsv --output_dir outputs/cleaned --processes 4",
        recipes="training/recipes",
        first="dataset",
        one_process=True,
    ),
    "translate": _Job(
        "training.jobs.translation",
        "Translate captions, with or without images, into more languages by a translation model.",
        "RECIPE.yaml --dataset cc3m --target_languages de fr --output_dir outputs/translated",
        recipes="training/recipes",
        first="dataset",
        one_process=True,
    ),
    "download": _Job(
        "training.jobs.download",
        "Download pictures from a table of addresses with captions, into tars for stage 2.",
        "laion-coco-nllb --languages en de --rows 100000 --output_dir outputs/pictures",
        first="dataset",
        one_process=True,
    ),
    "verify-sources": _Job(
        "training.jobs.verify_sources",
        "Compare what is unverified about the public corpora with the Hub, or list it.",
        "opus-100 cc3m",
        first="sources",
        one_process=True,
    ),
}

# `altclip train FOLDER`: all recipes of a folder, where `altclip train stage1 RECIPE` is one of them.
_ROAD = "train"
_ROAD_JOB = _Job(
    "training.jobs.road",
    "Do the recipes of a folder in order, each by the job that it is named after, but for what is finished.",
    "training/recipes/miniature",
    recipes="training/recipes",
    first="folder",
    one_process=True,
)

_EPILOG = """\
`altclip JOB --help` lists the flags of a job. All of them can stand in a recipe, a YAML file that comes
first, and those on the command line win. For several GPUs start a training or an evaluation with
accelerate: `accelerate launch --quiet -m altclip train stage2 RECIPE.yaml`.

The exit status is 0 if the job is done, 1 if it ended with an error, and 2 if the command line or the
recipe is wrong, so that nothing has begun.

Completion of jobs and flags, here for bash: `altclip --print-completion bash > ~/.altclip-completion`,
and `source ~/.altclip-completion` in your ~/.bashrc.
"""


def main(words: list[str] | None = None) -> None:
    """Run a command line, by default this process's own; a failure ends in `SystemExit`."""
    words = sys.argv[1:] if words is None else words
    name = _job_of(words)
    if name is not None:
        return _run_job(name, JOBS[name], words[len(name.split()) :])
    if words[0:1] == [_ROAD] and _is_folder(words[1:2]):
        return _run_job(_ROAD, _ROAD_JOB, words[1:])

    # No job: argparse prints help or the version, or refuses the words with exit status 2.
    _refuse_unnamed(words)
    parser = _build_parser()
    given = parser.parse_args(words)
    if given.print_completion is None:
        parser.error(f"name a job, one of {', '.join(JOBS)}")
    print(_completion(given.print_completion))


def _is_folder(words: list[str]) -> bool:
    """Return whether a word names a folder, and no job or recipe: one that is here, or another path."""
    names = [word for word in words if not word.startswith("-") and not word.endswith((".yaml", ".yml"))]
    return any("/" in name or Path(name).is_dir() for name in names)


def _refuse_unnamed(words: list[str]) -> None:
    """Refuse what follows `train` and is neither a job nor a folder, which argparse would take for a job.

    Raises:
        SystemExit: with exit status 2.
    """
    if words[0:1] != [_ROAD] or not words[1:] or words[1].startswith("-"):
        return
    stages = [name.removeprefix(f"{_ROAD} ") for name in JOBS if name.startswith(f"{_ROAD} ")]
    if words[1].endswith((".yaml", ".yml")):
        remedy = f"name the job before a recipe, one of {', '.join(stages)}"
    else:
        remedy = f"choose from {', '.join(stages)}, or give a folder of recipes that is there"
    print(f"altclip {_ROAD}: error: {words[1]!r} is no job: {remedy}", file=sys.stderr)
    sys.exit(_USAGE_ERROR)


def _run_job(name: str, job: _Job, words: list[str]) -> None:
    """Run a job by the function that its script calls, and in the same way, by `launch`.

    Args:
        name: what is written before the words, such as `train stage1`.
        words: what follows it on the command line.
    """
    from altclip.common.launching import launch

    if job.first and words and not words[0].startswith("-") and not words[0].endswith((".yaml", ".yml")):
        first, *rest = words
        if job.second and rest and not rest[0].startswith("-"):
            rest = [f"--{job.second}", *rest]
        words = [f"--{job.first}", first, *rest]
    # The name that errors, usage and saved results show for the program.
    sys.argv = [f"altclip {name}", *words]
    if "--help" in words or "-h" in words:
        print(_describe(name, job))
    launch(job.module, one_process=job.one_process, refused=_USAGE_ERROR)


def _job_of(words: list[str]) -> str | None:
    """Return the job that the first words name: `["train", "stage1", "--lr", "1"]` -> `"train stage1"`."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in JOBS:
            return name
    return None


def _describe(name: str, job: _Job) -> str:
    """Return what stands before the flags of a job in its help."""
    paragraphs = [job.summary, f"Example: altclip {name} {job.example}"]
    if job.recipes:
        paragraphs.append(_of_recipes(job.recipes))
    return "\n\n".join(paragraphs) + "\n"


def _of_recipes(folder: str) -> str:
    """Say where recipes are, and how they are used outside of a clone."""
    return (
        f"Recipes that come with the package are in\n{_HOME / folder}\n"
        "They name data and models by paths below the folder that you are in. Copy one and write your own\n"
        "paths in it, or give them as flags."
    )


def _build_parser(with_flags: bool = False) -> ArgumentParser:
    """Build the parser of groups and jobs; that of each job's flags is `common.launching`'s.

    Args:
        with_flags: add the flags, for completion.
    """
    as_written = {"formatter_class": RawDescriptionHelpFormatter}  # keeps line breaks
    description = "AltCLIP: train, evaluate and publish multilingual CLIPs."
    parser = ArgumentParser("altclip", description=description, epilog=_EPILOG, **as_written)
    parser.add_argument(
        "--version", action="version", version=f"altclip {__version__}", help="Print the version and exit."
    )
    parser.add_argument(
        "--print-completion", choices=_SHELLS, help="Print a script that completes commands in this shell."
    )
    parsers = {"": parser.add_subparsers(title="jobs", metavar="JOB")}
    for group, summary in GROUPS.items():
        folders = {job.recipes: None for name, job in JOBS.items() if name.startswith(f"{group} ")}
        paragraphs = [_of_recipes(folder) for folder in folders]
        if group == _ROAD:
            paragraphs.insert(
                0, f"With a folder as JOB: {_ROAD_JOB.summary}\n  altclip train {_ROAD_JOB.example}\n"
            )
        epilog = "\n".join(paragraphs)
        child = parsers[""].add_parser(group, help=summary, description=summary, epilog=epilog, **as_written)
        parsers[group] = child.add_subparsers(title="jobs", metavar="JOB", required=True)
    for name, job in JOBS.items():
        group, _, last = name.rpartition(" ")
        child = parsers[group].add_parser(last, help=job.summary, add_help=with_flags)
        if with_flags:
            _add_flags(child, job)
    return parser


def _add_flags(parser: ArgumentParser, job: _Job) -> None:
    """Add the flags of a job to its parser, whose values are completed as names of files."""
    import shtab

    from altclip.common.launching import flag_parser

    parser.add_argument("first", nargs="?", help="A recipe.").complete = shtab.FILE
    for action in flag_parser(job.module)._actions:
        if action.dest == "help":  # the parser has its own
            continue
        # A default may be any object, which completion does not need.
        action.help = str(action.help or "").partition(". ")[0]
        if action.choices is None and action.type is str:
            action.complete = shtab.FILE
        parser._add_action(action)


def _completion(shell: str) -> str:
    """Return the script by which a shell completes jobs, flags and names of files."""
    import shtab

    return shtab.complete(_build_parser(with_flags=True), shell)


__all__ = ["GROUPS", "JOBS", "main"]
