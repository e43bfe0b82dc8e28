"""Measure forgetting: the points of mean recall that fine-tuning costs on a guard set of known images."""

import json
from pathlib import Path

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from benchmarks.encoder import Encoder
from common.errors import InputError
from common.files.whole_files import write_text

from .arguments import ContrastiveArguments, say
from .data.examples import caption_columns, has_text
from .data.tower_cache import on_device
from .held_texts import HeldTexts
from .validation import load_evaluated, mean_recall

_RECORD = "kept.json"


class Guard:
    """Images and captions that a model knows, and its mean recall on them before training, by language.

    Args:
        captioned: rows of `image` and `captions`, `{language: text}`.
        languages: those to evaluate.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, captioned: Dataset, languages: list[str]
    ):
        self.captioned = captioned
        self.languages = languages
        self.before = self.scores(model, processor)

    def scores(self, model: PreTrainedModel, processor: ProcessorMixin) -> dict[str, float]:
        """Evaluate the model as it is now: its mean recall in each language, within [0, 1]."""
        with on_device(model):
            encoder = Encoder(model, processor, accelerator=Accelerator())
            image_embeds = encoder.images(self.captioned["image"])
            return mean_recall(encoder, image_embeds, self.captioned, self.languages)


def load_guard(
    arguments: ContrastiveArguments, model: PreTrainedModel, processor: ProcessorMixin
) -> Guard | None:
    """Load the guard set of the recipe in all its languages, and evaluate the model on it.

    Returns:
        None if the recipe has no guard set.

    Raises:
        InputError: it cannot be read, or has no captions.
    """
    if arguments.guard_dataset is None:
        return None
    captioned = load_evaluated(
        arguments.guard_dataset, arguments.guard_split, allow_outside=arguments.allow_outside_images
    )
    texts = caption_columns(captioned)
    # A field for a language may exist without a text in any row, which could not be evaluated.
    languages = [name for name in captioned.features["captions"] if has_text(texts[name].flatten()).any()]
    if not languages:
        raise InputError(
            f"guard_split {arguments.guard_split!r} of {arguments.guard_dataset!r} has no caption in any "
            "language"
        )
    return Guard(model, processor, captioned, languages)


def say_what_was_kept(
    arguments: ContrastiveArguments,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    held: HeldTexts | None,
    guard: Guard | None,
) -> None:
    """Print how much the model has forgotten, and save the figures to `kept.json`.

    The file has `found_again`, the share of watched texts still nearest to their own embeddings, and the mean
    recall on the guard set `before` and `after` training, by language. Without a guard set a line says how to
    give one.
    """
    kept = {}
    if held is not None:
        kept["found_again"] = held.found_again(model, processor)
        share = f"{kept['found_again']:.1%} of {len(held.watched)}"
        say(
            arguments,
            f"{share} held-out texts are still nearest to their own embeddings from before training.",
        )
    if guard is None:
        say(
            arguments,
            "Forgetting was not measured: give images that the model knows with --guard_dataset.",
        )
    else:
        kept["before"] = guard.before
        kept["after"] = guard.scores(model, processor)
        # Points by language: {"en": 1.2, "zh": -0.3}, where a negative loss is a gain.
        lost = {}
        for language in guard.languages:
            lost[language] = 100 * (kept["before"][language] - kept["after"][language])
        mean = sum(lost.values()) / len(lost)
        worst = max(lost, key=lost.get)
        say(
            arguments,
            f"On the guard set, mean recall has lost {mean:.1f} points, "
            f"and {lost[worst]:.1f} at most, in {worst!r}.",
        )
    # Every process takes part in the evaluation; one of them writes the file.
    if arguments.process_index == 0 and kept:
        write_text(Path(arguments.output_dir, _RECORD), json.dumps(kept, indent=1) + "\n")


__all__ = ["Guard", "load_guard", "say_what_was_kept"]
