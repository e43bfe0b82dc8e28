"""Begin and end a stage's run: seeds, data, resuming, and the line that says what to do next."""

from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoConfig, PreTrainedModel, Trainer, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils import is_matplotlib_available

from benchmarks.loading import check_languages
from benchmarks.picture_folders import say_without_row
from benchmarks.processes import fix_threads
from benchmarks.recipe import InputError
from modeling_altclip.texts_altclip import readable_tokens

from .arguments import PairArguments, StageArguments
from .data.captions import find_form, load_captioned, named_languages
from .data.examples import CaptionCells
from .data.pictures import check_policy, find_without_row, keep_readable, name_without_row
from .data.streaming import CellStream, open_files
from .model_checks import check_models, check_tokenizers
from .monitoring import FrozenWeights
from .output_folder import check_room, claim, examples_per_step, finished_checkpoints
from .views import ImageViews


def begin(arguments: StageArguments) -> None:
    """Check the models, claim the output folder, fix threads and seeds, and print what a step is."""
    n_threads = fix_threads()
    check_models(arguments)
    check_tokenizers(arguments)
    claim(arguments)
    # Denormals slowed a step on a CPU from tenths of a second to seconds.
    torch.set_flush_denormal(True)
    set_seed(arguments.seed)
    say(arguments, _describe_step(arguments, n_threads))
    if arguments.unsupported_precision is not None:
        say(
            arguments,
            f"{arguments.unsupported_precision} needs a GPU and is disabled: "
            "this training computes in float32.",
        )
    if arguments.saves_where_scored is not None:
        say(
            arguments,
            f"A checkpoint is saved {arguments.saves_where_scored}, at each evaluation, "
            "so that the best one can be kept.",
        )
    # Or transformers would shard every model by ZeRO-3, the teacher too, which runs before DeepSpeed begins.
    unset_hf_deepspeed_config()


def _describe_step(arguments: StageArguments, n_threads: int) -> str:
    """Return processes x batch x accumulation = examples per step, and what a process computes on."""
    n_processes = arguments.world_size
    processes = "1 process" if n_processes == 1 else f"{n_processes} processes"
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    accumulated = arguments.gradient_accumulation_steps
    return (
        f"{processes} x {arguments.per_device_train_batch_size} examples x {accumulated} accumulated "
        f"= {examples_per_step(arguments)} examples per step, "
        f"on {arguments.device.type} with {threads} per process."
    )


def cut_length(arguments: StageArguments, model: PreTrainedModel) -> int:
    """Return the number of tokens at which texts are truncated, and print it if it is not `max_text_length`.

    It is the maximum of the text tower, if that is less.
    """
    readable = readable_tokens(model)
    if arguments.max_text_length <= readable:
        return arguments.max_text_length
    say(
        arguments,
        f"Texts are truncated at {readable} tokens, the maximum of the text encoder, "
        f"instead of {arguments.max_text_length}.",
    )
    return readable


def load_pictures(arguments: PairArguments, languages: list[str] | None) -> Dataset:
    """Load the captioned images to train on, and skip those that cannot be decoded.

    Prints how many are skipped, and where they are listed.
    """
    # The other processes then read what the first has written to datasets' cache.
    with arguments.main_process_first(desc="reading captions"):
        rows = load_captioned(arguments.dataset, arguments.split, languages, arguments.text_column)
    without_row = find_without_row(rows, arguments.dataset)
    if without_row:
        say(arguments, f"{say_without_row(without_row, arguments.dataset)}.")
    with arguments.main_process_first(desc="decoding images"):
        rows, n_bad = keep_readable(rows, arguments.bad_rows, arguments.output_dir, without_row)
    if n_bad:
        say(
            arguments,
            f"Skipped {n_bad} rows with bad images, listed in {arguments.output_dir}/bad_rows.jsonl.",
        )
    return rows


def load_cells(
    arguments: PairArguments, languages: list[str] | None, n_views: int = 1
) -> CaptionCells | CellStream:
    """Load captions with their images, `n_views` of each; as a stream where `streaming` is set.

    Rows of one picture count as alike.
    """
    if arguments.streaming:
        return stream_pictures(arguments, languages)
    rows = load_pictures(arguments, languages)
    views = ImageViews(rows, n_views)
    languages = check_languages(languages, list(rows.features["captions"]))
    return CaptionCells(rows, languages, "image", inputs=views, same=views.digests)


def stream_pictures(arguments: PairArguments, languages: list[str] | None) -> CellStream:
    """Stream the captioned images of this process's files; see `streaming.py`.

    Every process lists bad images in a file of its own, `bad_rows.R.jsonl` for process R; a run that resumes
    adds to it.

    Raises:
        InputError: as `open_files` and `find_form`; or `languages` are neither given nor known from the
            columns.
    """
    check_policy(arguments.bad_rows)
    rows = open_files(
        arguments.dataset,
        arguments.split,
        arguments.process_index,
        arguments.world_size,
        arguments.dataloader_num_workers,
    )
    form = find_form(rows.features, arguments.dataset, arguments.text_column, languages)
    if not (languages or form.available):
        raise InputError(
            f"column {form.column!r} of {arguments.dataset!r} states its languages row by row: "
            "give those to train on with --languages"
        )
    # Where the columns do not tell the languages, those of --languages are taken as available.
    available = form.available or list(named_languages(languages, "--languages").values())
    languages = check_languages(languages, available)

    _clear_reports(arguments)
    report = Path(arguments.output_dir, f"bad_rows.{arguments.process_index}.jsonl")
    if not arguments.resume:
        first = report if arguments.process_index == 0 else None
        without_row = name_without_row(arguments.dataset, arguments.split, arguments.bad_rows, first)
        if without_row:
            say(arguments, f"{say_without_row(without_row, arguments.dataset)}.")

    shuffling = {"shuffle_buffer": arguments.shuffle_buffer, "seed": arguments.seed}
    return CellStream(rows, form, languages, report, refuse=arguments.bad_rows == "error", **shuffling)


def _clear_reports(arguments: PairArguments) -> None:
    """Make the output folder and, unless the run resumes, remove reports of an earlier run from it."""
    with arguments.main_process_first(desc="clearing reports"):
        Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
        if arguments.local_process_index == 0 and not arguments.resume:
            for report in _find_reports(arguments):
                report.unlink(missing_ok=True)  # another machine may be quicker


def _find_reports(arguments: PairArguments) -> list[Path]:
    """Return the files in which processes list the bad images of a stream."""
    return sorted(Path(arguments.output_dir).glob("bad_rows.*.jsonl"))


def train(trainer: Trainer, arguments: StageArguments) -> None:
    """Train, from the last checkpoint where `resume` is set, and keep the loss curve in `trainer_state.json`.

    Raises:
        InputError: `resume` finds no checkpoint, or one of another kind of model; or the disk has no room for
            what is to be saved.
    """
    check_room(trainer)
    checkpoint = None
    if arguments.resume:
        checkpoint = last_whole_checkpoint(arguments.output_dir, arguments.world_size)
        if checkpoint is None:
            raise InputError(
                f"resume: {arguments.output_dir} holds no complete checkpoint: "
                "set save_steps, or train without --resume"
            )
        _check_checkpoint(checkpoint, trainer.model)
    say(arguments, f"Training on {trainer.train_dataset.summary()}.")
    frozen = FrozenWeights(trainer.model)
    trainer.train(resume_from_checkpoint=checkpoint)
    frozen.check()
    trainer.save_state()
    _plot(arguments)
    if isinstance(trainer.train_dataset, CellStream):
        trainer.accelerator.wait_for_everyone()  # for their reports
        _say_bad_rows(arguments)


def _check_checkpoint(checkpoint: str, model: PreTrainedModel) -> None:
    """Refuse a checkpoint of another kind of model: stage 1 once saved the text tower alone."""
    saved = AutoConfig.from_pretrained(checkpoint).model_type
    if saved != model.config.model_type:
        raise InputError(
            f"resume: {checkpoint} holds a {saved}, and this run trains a {model.config.model_type} "
            "(before version 0.2 stage 1 saved its text tower alone): train anew in another output_dir"
        )


def _say_bad_rows(arguments: StageArguments) -> None:
    """Print how many rows of a stream all processes have skipped."""
    n_bad = 0
    for report in _find_reports(arguments):
        n_bad += len(report.read_text("utf-8").splitlines())
    message = f"Skipped {n_bad} rows with bad images"
    if n_bad:
        message += f", listed in {arguments.output_dir}/bad_rows.*.jsonl."
    say(arguments, message)


def _plot(arguments: StageArguments) -> None:
    """Plot the run's curves if matplotlib, which is optional, is installed; else print how to install it."""
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
    """Return the newest checkpoint that was written to its end; a run that is killed may leave half of one.

    The Trainer writes `trainer_state.json` last, and every process its own random numbers.
    """
    random_states = ["rng_state.pth"]
    if n_processes > 1:
        random_states = [f"rng_state_{rank}.pth" for rank in range(n_processes)]
    for folder in reversed(finished_checkpoints(Path(output_dir))):
        if all((folder / name).exists() for name in random_states):
            return str(folder)
    return None


def finish(arguments: StageArguments, what: str, following: str) -> None:
    """Print on the main process what was saved and which command comes next."""
    say(arguments, f"Saved {what} to {arguments.output_dir}. Next: {following}")
