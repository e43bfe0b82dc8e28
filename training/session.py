"""How a stage's run begins and ends: seeds, resuming, and the line that says what is where and what to do next."""

from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, Trainer, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils import is_matplotlib_available

from benchmarks.loading import check_languages, load_rows
from benchmarks.picture_folders import say_without_row
from benchmarks.processes import fix_threads
from benchmarks.recipe import InputError
from modeling_altclip.texts_altclip import readable_tokens

from .arguments import PairArguments, StageArguments
from .beginnings import check_models, check_tokenizers
from .captions import find_form, named_languages, with_captions, with_image
from .data import CaptionCells
from .health import FrozenWeights
from .output_folder import check_room, claim, examples_per_step, finished_checkpoints
from .pictures import check_policy, find_without_row, keep_readable, name_without_row
from .streaming import CellStream, open_files
from .views import ImageViews


def begin(arguments: StageArguments) -> None:
    """See that models are of the right kinds, claim the output folder, fix the threads, seed everything, and say what a step is.

    Denormals are flushed: they slowed a step on a CPU from tenths of a second to seconds.
    """
    n_threads = fix_threads()
    check_models(arguments)
    check_tokenizers(arguments)
    claim(arguments)
    torch.set_flush_denormal(True)
    set_seed(arguments.seed)
    say(arguments, describe_step(arguments, n_threads))
    if arguments.unsupported_precision is not None:
        say(
            arguments,
            f"Without a GPU {arguments.unsupported_precision} is left out: this training computes in float32.",
        )
    if arguments.saves_where_scored is not None:
        say(
            arguments,
            f"A checkpoint is saved {arguments.saves_where_scored}, as it is scored, so that the best can be kept.",
        )
    # Or transformers would load every model in ZeRO-3's shares, the teacher too, which runs before DeepSpeed begins.
    unset_hf_deepspeed_config()


def describe_step(arguments: StageArguments, n_threads: int) -> str:
    """Return processes x batch x accumulation = examples a step, and what a process computes on."""
    n_processes = arguments.world_size
    processes = "1 process" if n_processes == 1 else f"{n_processes} processes"
    accumulated = arguments.gradient_accumulation_steps
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    return (
        f"{processes} x {arguments.per_device_train_batch_size} examples x {accumulated} accumulated "
        f"= {examples_per_step(arguments)} examples a step, on {arguments.device.type} with {threads} a process."
    )


def cut_length(arguments: StageArguments, model: PreTrainedModel) -> int:
    """Return the tokens that texts are cut at: `max_text_length`, or what the text tower reads, where that is less; says so."""
    readable = readable_tokens(model)
    if arguments.max_text_length <= readable:
        return arguments.max_text_length
    say(
        arguments,
        f"Texts are cut at {readable} tokens, as many as the text encoder reads, not at {arguments.max_text_length}.",
    )
    return readable


def load_pictures(arguments: PairArguments, languages: list[str] | None) -> Dataset:
    """The captioned images to train on, without those that cannot be decoded; says how many those are and where they stand."""
    rows = with_image(load_rows(arguments.dataset, arguments.split, []), arguments.dataset)
    form = find_form(rows.features, arguments.dataset, arguments.text_column, languages)
    without_row = find_without_row(rows, arguments.dataset)
    if without_row:
        say(arguments, f"{say_without_row(without_row, arguments.dataset)}.")
    with arguments.main_process_first(desc="decoding images"):
        rows = with_captions(rows, form)
        rows, n_bad = keep_readable(rows, arguments.bad_rows, arguments.output_dir, without_row)
    if n_bad:
        say(
            arguments,
            f"Set aside {n_bad} rows with bad images, listed in {arguments.output_dir}/bad_rows.jsonl.",
        )
    return rows


def load_cells(
    arguments: PairArguments, languages: list[str] | None, n_views: int = 1
) -> CaptionCells | CellStream:
    """Captions with their pictures, `n_views` of each, as a stream where the recipe asks for one. Rows of one picture are alike."""
    if arguments.streaming:
        return stream_pictures(arguments, languages)
    rows = load_pictures(arguments, languages)
    views = ImageViews(rows, n_views)
    languages = check_languages(languages, list(rows.features["captions"]))
    return CaptionCells(rows, languages, "image", inputs=views, same=views.digests)


def stream_pictures(arguments: PairArguments, languages: list[str] | None) -> CellStream:
    """The captioned images of this process's files, as they come; see `streaming.py`.

    Every process names bad images in a file of its own, `bad_rows.R.jsonl` for process R; a run that resumes adds to it.

    Raises:
        InputError: as `open_files` and `find_form`; or `languages` are neither given nor told by the columns.
    """
    check_policy(arguments.bad_rows)
    processes = arguments.process_index, arguments.world_size, arguments.dataloader_num_workers
    rows = open_files(arguments.dataset, arguments.split, *processes)
    form = find_form(rows.features, arguments.dataset, arguments.text_column, languages)
    if not (languages or form.spoken):
        raise InputError(
            f"column {form.column!r} of {arguments.dataset!r} tells its languages row by row: name those to train on by --languages"
        )
    languages = check_languages(
        languages, form.spoken or list(named_languages(languages, "--languages").values())
    )
    with arguments.main_process_first(desc="clearing reports"):
        Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
        if arguments.local_process_index == 0 and not arguments.resume:
            for report in reports(arguments):
                report.unlink(missing_ok=True)  # another machine may be quicker
    report = Path(arguments.output_dir, f"bad_rows.{arguments.process_index}.jsonl")
    if not arguments.resume:
        first = report if arguments.process_index == 0 else None
        without_row = name_without_row(arguments.dataset, arguments.split, arguments.bad_rows, first)
        if without_row:
            say(arguments, f"{say_without_row(without_row, arguments.dataset)}.")
    shuffling = {"shuffle_buffer": arguments.shuffle_buffer, "seed": arguments.seed}
    return CellStream(rows, form, languages, report, refuse=arguments.bad_rows == "error", **shuffling)


def reports(arguments: PairArguments) -> list[Path]:
    """The files in which processes name the bad images of a stream."""
    return sorted(Path(arguments.output_dir).glob("bad_rows.*.jsonl"))


def train(trainer: Trainer, arguments: StageArguments, whole_model: nn.Module | None = None) -> None:
    """Train, from the last checkpoint where `resume` asks for it, and keep the loss curve in `trainer_state.json`.

    Args:
        whole_model: what is saved at the end, where that is more than the trainer's model.

    Raises:
        InputError: `resume` finds no checkpoint, or the disk has no room for what is to be saved.
    """
    check_room(trainer, trainer.model if whole_model is None else whole_model)
    checkpoint = None
    if arguments.resume:
        checkpoint = last_whole_checkpoint(arguments.output_dir, arguments.world_size)
        if checkpoint is None:
            raise InputError(
                f"resume: {arguments.output_dir} holds no whole checkpoint: set save_steps, or train without --resume"
            )
    say(arguments, f"Training on {trainer.train_dataset.summary()}.")
    frozen = FrozenWeights(trainer.model)
    trainer.train(resume_from_checkpoint=checkpoint)
    frozen.check()
    trainer.save_state()
    plot(arguments)
    if isinstance(trainer.train_dataset, CellStream):
        trainer.accelerator.wait_for_everyone()
        n_bad = sum(len(report.read_text("utf-8").splitlines()) for report in reports(arguments))
        say(
            arguments,
            f"Set aside {n_bad} rows with bad images"
            + f", listed in {arguments.output_dir}/bad_rows.*.jsonl." * bool(n_bad),
        )


def plot(arguments: StageArguments) -> None:
    """Draw the run's curves where matplotlib is installed; it is no dependency, so say so where it is not."""
    if not is_matplotlib_available():
        say(arguments, 'No plots without matplotlib: pip install "altclip[plots]".')
    elif arguments.process_index == 0:
        from model_cards.plots import plot_training

        plot_training(Path(arguments.output_dir), Path(arguments.output_dir, "training.png"))


def say(arguments: StageArguments, message: str) -> None:
    """Print on the main process."""
    if arguments.process_index == 0:
        print(message)


def last_whole_checkpoint(output_dir: str, n_processes: int = 1) -> str | None:
    """The newest checkpoint that was written to its end; a run that is killed while it writes one leaves half of it.

    The Trainer writes `trainer_state.json` last, and every process its own random numbers.
    """
    numbers = (
        ["rng_state.pth"] if n_processes == 1 else [f"rng_state_{rank}.pth" for rank in range(n_processes)]
    )
    for folder in reversed(finished_checkpoints(Path(output_dir))):
        if all((folder / name).exists() for name in numbers):
            return str(folder)
    return None


def finish(arguments: StageArguments, what: str, following: str) -> None:
    """Say on the main process what was saved and which command comes next."""
    say(arguments, f"Saved {what} to {arguments.output_dir}. Next: {following}")
