"""Finish a model: a folder ready for the Hub, with weights, processor, model card and plots."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from datasets import Image as ImageFeature
from PIL import Image
from transformers import PreTrainedModel
from transformers.utils import is_matplotlib_available

from benchmarks.results import Result, load_results
from common.commands import command_for
from common.errors import InputError
from common.files.rows import load_rows
from common.files.whole_files import write_text, written_whole
from common.fingerprints import hash_weights
from common.images import decode_image, why_unreadable
from common.licences import Outcome, combine
from common.models.libraries import check_library
from common.models.loading import check_model, load_model, save_model
from common.origins import write_origins
from common.output import bytes_of_weights, check_output_dir, saving
from modeling_altclip.images_altclip import read_image
from modeling_altclip.truncation_altclip import trained_dims

from .card import Facts, check_repo, render_card
from .draft import draft_card
from .eval_results import write_eval_results
from .folder import CARD, check_output, whole_folder
from .joining import join_to_weights
from .sections import Section, labels_of_dims, make_sections, make_truncated_sections
from .stages import find_lineage, label_stages, read_log
from .trainings import read_training, table_of_trainings


@dataclass(kw_only=True)
class CardArguments:
    """What `python -m model_cards` needs."""

    title: str = field(metadata={"help": "The model's name on its card."})
    repo: str = field(metadata={"help": "Hub id or folder that the card's code loads from."})
    stages: list[str] = field(
        metadata={
            "help": "Folders or Hub ids of the stages in training order: "
            "the English teacher first, if any, the model last."
        }
    )
    output_dir: str = field(metadata={"help": "Folder to create."})
    results: str | None = field(
        default=None,
        metadata={"help": "Folder with the results of all stages. By default the card shows none."},
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Dataset of the example image. By default there is none."}
    )
    example_split: str | None = field(
        default=None, metadata={"help": "Split whose first image is the example."}
    )
    allow_outside_images: bool = field(
        default=False,
        metadata={"help": "Also read an example image that `dataset` names outside of itself."},
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={
            "help": "Run the code that a dual encoder's text encoder brings in the folders of `stages`: read "
            "it first. Without it such a model is refused."
        },
    )
    plot_task: str | None = field(
        default=None, metadata={"help": "Retrieval task whose recall is plotted; the first by default."}
    )
    license: str | None = field(
        default=None,
        metadata={
            "help": "Licence identifier of the Hub. By default one that allows no more than what the model "
            "was made of, as far as that states it, or other."
        },
    )
    about: str = field(default="", metadata={"help": "Paragraph on intended use and limits."})
    base_model: list[str] | None = field(
        default=None,
        metadata={"help": "Hub ids of the base models. By default those that training recorded."},
    )
    draft: str | None = field(
        default=None,
        metadata={
            "help": "The folder of recipes that would train `stages`: write a draft of the card alone, which "
            "says that nothing was trained."
        },
    )
    datasets: list[str] | None = field(
        default=None,
        metadata={"help": "Datasets as NAME or NAME=LICENCE. By default those that training recorded."},
    )


def main(arguments: CardArguments) -> None:
    """Check and load all there is, and only then write the folder.

    Raises:
        InputError: something is missing or does not fit; nothing is written then.
    """
    if arguments.draft is not None:
        return _write_draft(arguments)

    check_repo(arguments.repo)
    stages, labels = arguments.stages, label_stages(arguments.stages)
    trust = arguments.trust_remote_code
    _check_stages(stages, trust)
    check_output(arguments.output_dir, stages)
    example = _load_example(arguments.dataset, arguments.example_split, arguments.allow_outside_images)
    losses = _read_losses(stages, labels)
    lineage = find_lineage(stages, arguments.base_model, arguments.datasets)
    trainings = {label: read_training(stage) for stage, label in zip(stages, labels)}
    measured = _read_results(arguments.results)

    _tell_of_licence(arguments.license, combine(lineage.origins))

    model, processor = load_model(stages[-1], argument="stages", canonicalizes=False, trust_remote_code=trust)
    # Every earlier stage is loaded for its hash, which takes time, and only results need it.
    hashes = _hash_stages(stages, model, trust) if measured else []
    results = join_to_weights(measured, stages, labels, hashes) if measured else []
    sections = make_sections(results, labels)
    truncated = make_truncated_sections(results, labels[-1])
    _tell_what_is_left_out(measured, results, [*sections, *truncated])

    drawings = _choose_drawings(losses, sections, labels, arguments.plot_task)
    facts = Facts(
        model_type=model.config.model_type,
        lineage=lineage,
        pictures=list(drawings),
        matryoshka_dims=_read_dims(model, stages[-1]),
        trainings=table_of_trainings(trainings),
    )
    card = render_card(
        arguments.title, arguments.repo, results, labels, arguments.license, arguments.about, facts
    )
    with (
        saving("the finished model", arguments.output_dir, bytes_of_weights(model)),
        whole_folder(arguments.output_dir) as folder,
    ):
        save_model(model, processor, folder)
        if example is not None:
            with written_whole(folder / "example.png") as file:
                example.save(file, "png")
        for name, draw in drawings.items():
            draw(folder / name)
        write_origins(folder, lineage.origins)
        write_eval_results(folder, [result for result in results if result.model == labels[-1]])
        write_text(folder / CARD, str(card))

    for section in sections:
        print(f"\n{section.title}:\n{section.table(labels)}")
    for section in truncated:
        print(f"\n{section.title}, by dimensions:\n{section.table(labels_of_dims(results))}")
    where = shlex.quote(arguments.output_dir)
    following = f"altclip push {where} YOUR/MODEL"
    print(f"\nSaved the model, its card and plots to {arguments.output_dir}. Next: {following}")


def _write_draft(arguments: CardArguments) -> None:
    """Write the card of a model that is not trained.

    Raises:
        InputError: the output folder has a model; or as `draft_card`.
    """
    folder = Path(arguments.output_dir)
    if (folder / "config.json").exists():
        raise InputError(
            f"output_dir {arguments.output_dir!r} has a model: leave draft out for its card, or give another "
            "folder"
        )
    card = draft_card(
        arguments.title,
        arguments.repo,
        arguments.stages,
        arguments.draft,
        arguments.license,
        arguments.about,
    )
    check_output_dir(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CARD, str(card))
    recipes = shlex.quote(arguments.draft)
    print(f"Saved the draft of a card to {folder / CARD}. Next: {command_for('train')} {recipes} --dry_run")


def _check_stages(stages: list[str], trust_remote_code: bool) -> None:
    """See, before anything is loaded, that each stage is a model of two towers, and that the last can be
    saved.
    """
    if library := check_library(stages[-1]):
        raise InputError(
            f"stages ends with {stages[-1]!r}, and a model of {library} is not saved here: give a model of "
            "transformers"
        )
    for stage in stages:
        check_model(stage, argument="stages", trust_remote_code=trust_remote_code)


def _tell_of_licence(license: str | None, outcome: Outcome) -> None:
    """Print it where the licence of the recipe may allow more than what the model was made of."""
    is_wider = license not in (None, "other", outcome.hub_licence)
    if is_wider and not set(outcome.terms) <= {"attribution"}:
        print(f"The card says license {license}, which the recipe gives. {outcome.sentence}")


def _load_example(dataset: str | None, split: str | None, allow_outside: bool) -> Image.Image | None:
    """Load the first image of a split, for people to try the model on; None where none is asked for."""
    if (dataset is None) != (split is None):
        raise InputError(
            f"dataset is {dataset} and example_split is {split}: give both for an example image, or neither"
        )
    if dataset is None:
        return None
    rows = load_rows(dataset, split, ["image"], allow_outside=allow_outside)
    if len(rows) == 0:
        raise InputError(f"example_split {split!r} of {dataset!r} has no rows: give a split that has images")
    image = rows.select([0]).cast_column("image", ImageFeature(decode=False))[0]["image"]
    try:
        return read_image(decode_image(image))
    except Exception as error:  # decoders raise whatever they like
        raise InputError(
            f"the first image of example_split {split!r} of {dataset!r} cannot be read: "
            f"{why_unreadable(error)}"
        ) from error


def _read_losses(stages: list[str], labels: list[str]) -> dict[str, list[dict]]:
    """Read the logs of those stages that have losses, `{label: log}`."""
    logs = {}
    for stage, label in zip(stages, labels):
        log = read_log(stage)
        # A log may hold evaluations alone, of which there is nothing to draw.
        if any("loss" in entry for entry in log):
            logs[label] = log
    return logs


def _read_results(folder: str | None) -> list[Result]:
    """Read all results; none where no folder is given."""
    if folder is None:
        return []
    if not Path(folder).is_dir():
        raise InputError(
            f"results {folder!r} is no folder: give the output_dir of an evaluation, or leave it out"
        )
    results = load_results(Path(folder))
    if not results:
        print(f"There are no results in {folder}: the card shows none.")
    return results


def _hash_stages(stages: list[str], model: PreTrainedModel, trust_remote_code: bool) -> list[str]:
    """Hash the weights of all stages; `model` is the last, which is loaded already."""
    hashes = []
    for stage in stages[:-1]:
        earlier, _ = load_model(stage, argument="stages", trust_remote_code=trust_remote_code)
        hashes.append(hash_weights(earlier))
    return [*hashes, hash_weights(model)]


def _read_dims(model: PreTrainedModel, stage: str) -> list[int]:
    """Return the numbers of dimensions that a model was trained to be truncated to."""
    try:
        return trained_dims(model.config)
    except ValueError as error:
        raise InputError(f"the model {stage!r}: {error}") from error


def _tell_what_is_left_out(measured: list[Result], results: list[Result], sections: list[Section]) -> None:
    """Print how many results the card does not show, and why."""
    # By weights, and not by names, which may be the same for models of other folders.
    of_stages = {result.weights for result in results}
    others = [result.model_name for result in measured if result.weights not in of_stages]
    if others:
        print(f"Skipped {len(others)} results of other models: {', '.join(dict.fromkeys(others))}.")
    # By the identity of their metrics: duplicates are equal, and only one of them is shown. A result of
    # truncated embeddings is shown as a copy.
    shown = {id(result.metrics) for section in sections for result in section.results.values()}
    left_out = [result for result in results if id(result.metrics) not in shown]
    truncated = [result for result in left_out if result.truncate_dim is not None]
    if truncated:
        print(
            f"Skipped {len(truncated)} results of truncated embeddings: the card shows those of the model "
            "itself, next to its results of whole ones."
        )
    unmatched = [result for result in left_out if result.truncate_dim is None]
    if unmatched:
        print(
            f"Skipped {len(unmatched)} results that are duplicates, or that the model itself has no "
            "counterpart for."
        )


def _choose_drawings(
    losses: dict[str, list[dict]], sections: list[Section], labels: list[str], plot_task: str | None
) -> dict[str, Callable[[Path], None]]:
    """Return what can be drawn, `{file name: function of its path}`; say what cannot."""
    of_retrieval = [section for section in sections if section.first.kind == "retrieval"]
    wanted = [section for section in of_retrieval if plot_task in (None, section.first.task)]
    without = [section for section in wanted if not section.has_intervals(labels[-1])]
    if without:
        print(f"No plot of {without[0].first.task}, whose results have no intervals: evaluate again.")
    wanted = [section for section in wanted if section not in without]
    if plot_task is not None and not (wanted or without):
        print(f"No recall in {plot_task} to plot: the model has no result of retrieval there.")
    if not (losses or wanted):
        return {}
    if not is_matplotlib_available():
        print('No plots without matplotlib: pip install "altclip[plots]".')
        return {}
    # Imported here, since matplotlib is needed for plots alone.
    from .plots import plot_losses, plot_recall

    drawings = {}
    if losses:
        drawings["loss.png"] = partial(plot_losses, losses)
    if wanted:
        drawings["recall.png"] = partial(plot_recall, wanted[0], labels)
    return drawings


__all__ = ["main"]
