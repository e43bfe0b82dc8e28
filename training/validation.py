"""Evaluate a model during training: retrieval and classification in every language, on held-out rows."""

import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import Dataset, Image
from transformers import PreTrainedModel, ProcessorMixin

from benchmarks.encoder import Encoder
from benchmarks.retrieval import evaluate_retrieval
from benchmarks.tasks.text_lists import read_lists
from benchmarks.zero_shot import check_class_names, evaluate_zero_shot
from common.errors import InputError
from common.files.image_folders import refuse_missing
from common.files.rows import load_rows
from common.languages import find_language

from .arguments import PairArguments, StageArguments
from .data.captions import decoded
from .data.examples import caption_columns, has_text
from .data.loading import load_image_rows
from .data.tower_cache import on_device
from .freezing import image_side_learns


class Validation:
    """Evaluates a model as it trains, and warns if it loses English.

    Memory grows with the images plus the texts, not with their product. A frozen image tower runs once, for
    the first evaluation.

    Args:
        model: the whole model, AltCLIP or CLIP, that is trained.
        processor: its processor.
        captioned: rows of `image` and `captions`.
        languages: those to evaluate.
        classified: rows of `image` and `label`, with `class_names`, `{language: names}`.
        teacher: the model whose English recall is the reference, and its processor. It is evaluated once, in
            `begin`, so that `model` itself will do.
        english_tolerance: a mean recall in English that is lower by more than this fraction raises a warning.
    """

    def __init__(  # noqa: PLR0913  (a model, two datasets and a teacher; tests and scripts give them by name)
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        captioned: Dataset,
        languages: list[str],
        *,
        classified: Dataset | None = None,
        class_names: dict[str, list[str]] | None = None,
        teacher: tuple[PreTrainedModel, ProcessorMixin] | None = None,
        english_tolerance: float = 0.03,
    ):
        self.model = model
        self.processor = processor
        self.captioned = captioned
        self.languages = languages
        self.classified = classified
        self.class_names = class_names
        self.english_tolerance = english_tolerance
        has_english = "en" in captioned.features["captions"]
        self.teacher = teacher if has_english else None
        self.image_embeds: dict[str, torch.Tensor] = {}  # by the fingerprint of the rows

    def begin(self, accelerator: Accelerator | None = None) -> None:
        """Measure the teacher's mean recall in English, before training."""
        if self.teacher is None:
            return
        # Until now nothing may have moved the teacher to the device.
        with on_device(self.teacher[0]):
            encoder = Encoder(*self.teacher, accelerator=accelerator)
            image_embeds = encoder.images(self.captioned["image"])
            self.english = mean_recall(encoder, image_embeds, self.captioned, ["en"])["en"]

    def scores(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Evaluate the model as it is now.

        Returns:
            Fractions: `mean_recall` and `accuracy`, means over languages, and each language's as
                `mean_recall_zh`.
            Where there is a teacher, also `english_lost`: its mean recall in English less the model's,
            whether English is trained on or not.
        """
        encoder = Encoder(self.model, self.processor, accelerator=accelerator)
        # English is evaluated for `english_lost`, but counts in the mean only if it is one of the languages.
        evaluated = list(self.languages)
        if self.teacher is not None and "en" not in evaluated:
            evaluated.append("en")
        image_embeds = self._embed(self.captioned, encoder)
        recall = mean_recall(encoder, image_embeds, self.captioned, evaluated)
        scores = _with_mean("mean_recall", {language: recall[language] for language in self.languages})
        if self.classified is not None:
            scores |= _with_mean("accuracy", self._accuracy(encoder))
        if self.teacher is not None:
            scores["english_lost"] = self.english - recall["en"]
            self._warn_of_lost_english(scores["english_lost"])
        return scores

    def _accuracy(self, encoder: Encoder) -> dict[str, float]:
        """Return the zero-shot accuracy of each language, with the class names alone as texts."""
        image_embeds = self._embed(self.classified, encoder)
        labels = self.classified["label"][:]
        templates = dict.fromkeys(self.class_names, ["{}"])
        found = evaluate_zero_shot(encoder, image_embeds, labels, self.class_names, templates)
        return {language: outcomes.metrics()["accuracy@1"] for language, outcomes in found.items()}

    def _warn_of_lost_english(self, lost: float) -> None:
        if lost > self.english_tolerance:
            warnings.warn(
                f"English has lost {100 * lost:.1f} points of mean recall against {100 * self.english:.1f}: "
                "lower learning_rate, or train on more English",
                stacklevel=3,
            )

    def _embed(self, rows: Dataset, encoder: Encoder) -> torch.Tensor:
        """Embed the images of some rows; a frozen tower embeds them only once."""
        key = rows._fingerprint
        if image_side_learns(self.model) or key not in self.image_embeds:
            self.image_embeds[key] = encoder.images(rows["image"])
        return self.image_embeds[key]


def mean_recall(
    encoder: Encoder, image_embeds: torch.Tensor, rows: Dataset, languages: list[str]
) -> dict[str, float]:
    """Return the mean recall of each language: over both directions, at 1, 5 and 10."""
    found = evaluate_retrieval(encoder, image_embeds, rows["captions"][:], languages)
    return {language: outcomes.metrics()["mean_recall"] for language, outcomes in found.items()}


def _with_mean(name: str, scores: dict[str, float]) -> dict[str, float]:
    """Return a metric's mean over languages, and its scores under names such as `accuracy_zh`."""
    named = {name: sum(scores.values()) / len(scores)}
    for language, score in scores.items():
        named[f"{name}_{language}"] = score
    return named


def load_evaluated(
    dataset: str,
    split: str,
    languages: list[str] | None = None,
    text_column: str | None = None,
    *,
    allow_outside: bool = False,
) -> Dataset:
    """Load captioned images to evaluate on, as `load_image_rows`, but of decoded images that all exist.

    Args:
        allow_outside: as for `load_rows`.

    Raises:
        InputError: as `load_image_rows`; or an image is missing, or lies outside of the dataset.
    """
    rows = load_image_rows(dataset, split, languages, text_column, allow_outside=allow_outside)
    refuse_missing(rows, dataset)
    return decoded(rows)


def load_validation(
    arguments: StageArguments,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    languages: list[str],
    teacher: tuple[PreTrainedModel, ProcessorMixin] | None = None,
) -> Validation | None:
    """Load the validation data of the recipe.

    Returns:
        None if the recipe has no `validation_split`.

    Raises:
        InputError: a dataset, a split, a column or a class name is missing; or no caption is in a language of
            the training.
    """
    if arguments.validation_split is None:
        return None
    dataset = arguments.validation_dataset or arguments.dataset
    text_column = arguments.text_column if isinstance(arguments, PairArguments) else None
    allow_outside = arguments.allow_outside_images
    captioned = load_evaluated(
        dataset, arguments.validation_split, languages, text_column, allow_outside=allow_outside
    )
    available = _languages_with_text(captioned, languages)
    if not available:
        raise InputError(
            f"validation_split {arguments.validation_split!r} of {dataset!r} has no caption in "
            f"{' '.join(languages)}"
        )
    # Zero-shot classification is optional; its images come from a split of the same dataset.
    classified = None
    class_names = None
    if arguments.zero_shot_split is not None:
        class_names = _read_class_names(arguments.class_names, languages)
        classified = load_rows(
            dataset, arguments.zero_shot_split, ["image", "label"], allow_outside=allow_outside
        )
        refuse_missing(classified.cast_column("image", Image(decode=False)), dataset)
        check_class_names(class_names, max(classified["label"]) + 1)
    return Validation(
        model,
        processor,
        captioned,
        available,
        classified=classified,
        class_names=class_names,
        teacher=teacher,
        english_tolerance=arguments.english_tolerance,
    )


def _languages_with_text(captioned: Dataset, languages: list[str]) -> list[str]:
    """Return the columns of captions that are in one of the languages and not empty, each once."""
    # Two requested codes may match the same column.
    available = captioned.features["captions"]
    columns = dict.fromkeys(find_language(language, available) for language in languages)
    texts = caption_columns(captioned)
    return [name for name in columns if name is not None and has_text(texts[name].flatten()).any()]


def _read_class_names(path: str, languages: list[str]) -> dict[str, list[str]]:
    """Read the class names of those languages that the file has.

    Raises:
        InputError: it has none of them.
    """
    named = read_lists(Path(path))
    class_names = {}
    for language in languages:
        key = find_language(language, named)
        if key is not None:
            class_names[language] = named[key]
    if not class_names:
        raise InputError(f"class_names {path!r} are in {' '.join(named)}, and none in {' '.join(languages)}")
    return class_names


__all__ = ["Validation", "load_validation"]
