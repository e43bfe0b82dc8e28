"""Begin, train and end a stage's run: seeds, the training itself, and the line that says what to do next."""

import json
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, ProcessorMixin, Trainer, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.utils import is_matplotlib_available

from common.commands import command_for
from common.errors import InputError
from common.processes import fix_threads
from modeling_altclip.reading_altclip import canonical_tokenizer, text_reading
from modeling_altclip.texts_altclip import readable_tokens, text_options

from .arguments import LowRankArguments, PairArguments, StageArguments, say
from .checkpoints import checkpoint_to_resume
from .data.examples import Collator
from .data.streaming import AnyStream, find_excluded, find_reports
from .model_checks import check_models, check_tokenizers
from .monitoring import FrozenWeights
from .output_folder import check_room, claim, claim_data, examples_per_step, record_finish, saving

if TYPE_CHECKING:  # an extra
    from peft.tuners.lora import LoraModel


def begin(arguments: StageArguments, *, has_steps: bool = True) -> None:
    """Check the models, claim the output folder, fix threads and seeds, and print what a step is, if any."""
    n_threads = fix_threads()
    check_models(arguments)
    check_tokenizers(arguments)
    claim(arguments)
    # Denormals slowed a step on a CPU from tenths of a second to seconds.
    torch.set_flush_denormal(True)
    set_seed(arguments.seed)
    if has_steps:
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

    It is the maximum of the text tower, or what it was trained with where that is known, if that is less.
    """
    trained = text_reading(model).length or math.inf
    readable = min(readable_tokens(model), trained)
    if arguments.max_text_length <= readable:
        return arguments.max_text_length
    why = "the length of its training" if trained == readable else "the maximum of the text encoder"
    say(
        arguments,
        f"Texts are truncated at {readable} tokens, {why}, instead of {arguments.max_text_length}.",
    )
    return readable


def collator_of(arguments: StageArguments, model: PreTrainedModel, processor: ProcessorMixin) -> Collator:
    """Return the collator of texts, and any images, which gives the model texts as it reads them.

    It pads and truncates them, and canonicalizes those of a SigLIP whatever the processor's tokenizer does.

    Raises:
        InputError: the model reads texts that are all padded to one length, as SigLIP does, and
            `max_text_length` is less.
    """
    max_length = cut_length(arguments, model)
    read_as = text_options(processor.tokenizer, model)
    tokenizer = processor.tokenizer
    if text_reading(model).is_canonical:
        tokenizer = canonical_tokenizer(tokenizer)
    if read_as["padding"] == "max_length" and max_length != read_as["max_length"]:
        raise InputError(
            f"max_text_length is {max_length}, and the model was made for texts that are padded to "
            f"{read_as['max_length']} tokens: leave it out"
        )
    return Collator(tokenizer, max_length, processor.image_processor, padding=read_as["padding"])


def train(trainer: Trainer, arguments: StageArguments) -> None:
    """Train, from the last checkpoint where `resume` is set, and keep the loss curve in `trainer_state.json`.

    Raises:
        InputError: `resume` finds no undamaged checkpoint, or one of another kind of model, or other data; or
            the disk has no room for what is to be saved.
    """
    check_room(trainer)
    if not isinstance(trainer.train_dataset, AnyStream):
        claim_data(arguments, len(trainer.train_dataset), trainer.train_dataset.fingerprints())
    checkpoint = checkpoint_to_resume(arguments, trainer.model) if arguments.resume else None
    say(arguments, f"Training on {trainer.train_dataset.summary()}.")
    frozen = FrozenWeights(trainer.model)
    trainer.train(resume_from_checkpoint=checkpoint)
    frozen.check()
    n_bytes = len(json.dumps(trainer.state.log_history))
    with saving("the log of the training", Path(arguments.output_dir), n_bytes):
        trainer.save_state()
    _plot(arguments)
    if isinstance(trainer.train_dataset, AnyStream):
        trainer.accelerator.wait_for_everyone()  # for their reports
        _say_skipped(arguments)


def _say_skipped(arguments: PairArguments) -> None:
    """Print how many images of a stream all processes have skipped, and how many rows were excluded."""
    n_skipped = 0
    for report in find_reports(arguments.output_dir):
        n_skipped += len(report.read_text("utf-8").splitlines())
    message = f"Skipped {n_skipped} images"
    if n_skipped:
        message += f", listed in {arguments.output_dir}/bad_rows.*.jsonl."
    say(arguments, message)
    if arguments.exclude_tasks:
        n_excluded = 0
        for report in find_excluded(arguments.output_dir):
            n_excluded += len(report.read_text("utf-8").splitlines())
        say(
            arguments,
            f"Excluded {n_excluded} rows that are in a test, listed in "
            f"{arguments.output_dir}/excluded.*.jsonl.",
        )


def _plot(arguments: StageArguments) -> None:
    """Plot the run's curves if matplotlib, which is optional, is installed; else print how to install it."""
    if not is_matplotlib_available():
        say(arguments, 'No plots without matplotlib: pip install "altclip[plots]".')
    elif arguments.process_index == 0:
        from model_cards.plots import plot_training

        plot_training(Path(arguments.output_dir), Path(arguments.output_dir, "training.png"))


def save_learned(trainer: Trainer, updates: "LoraModel | None", arguments: LowRankArguments) -> None:
    """Save the model, into which any low-rank updates are merged, or these as an adapter.

    Args:
        updates: those of `add_low_rank`.
    """
    if updates is not None and not arguments.saves_adapter:
        updates.merge_and_unload()  # the model that is saved is like any other
    trainer.save_model()


def finish(arguments: StageArguments, what: str, following: str) -> None:
    """Record that the run has finished, and print on the main process what was saved and what comes next.

    An adapter is evaluated, and no stage begins with it.
    """
    if arguments.saves_adapter:
        what = f"an adapter of {arguments.model_name_or_path}"
        following = evaluation_of(arguments)
    record_finish(arguments)
    where = arguments.output_dir
    if arguments.push_to_hub:
        where += f", and pushed it to the Hub as {arguments.hub_model_id or Path(where).absolute().name}"
    say(arguments, f"Saved {what} to {where}. Next: {following}")


def evaluation_of(arguments: StageArguments) -> str:
    """Return the command that evaluates what a run has saved."""
    evaluate = f"{command_for('evaluate retrieval')} --tasks my/task.yaml --models"
    flag = " --trust_remote_code" if arguments.trust_remote_code else ""
    return f"{evaluate} {shlex.quote(arguments.output_dir)}{flag}"
