"""What a model in training is worth: retrieval and classification in every language, on rows that it does not train on."""

import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Image, Value, concatenate_datasets
from transformers import PreTrainedModel, ProcessorMixin

from benchmarks.encoder import Encoder
from benchmarks.loading import find_language, load_rows
from benchmarks.picture_folders import refuse_missing
from benchmarks.prompts import read_lists
from benchmarks.recipe import InputError
from benchmarks.retrieval import evaluate_retrieval
from benchmarks.zero_shot import check_class_names, evaluate_zero_shot

from .arguments import PairArguments, StageArguments
from .captions import find_form, with_captions, with_image
from .data import caption_columns, has_text
from .freezing import IMAGE_PARTS, learns
from .frozen import on_device


class Validation:
    """Scores a model as it trains, and tells where it loses English.

    Memory grows with the images plus the texts, not with their product; a frozen image tower is run once, before the first score.

    Args:
        model: the whole model, AltCLIP or CLIP, whose weights training moves.
        processor: its processor.
        captioned: rows of `image` and `captions`.
        languages: those to score.
        classified: rows of `image` and `label`, with `class_names`, `{language: names}`.
        teacher: the model and its processor that English is held against, as they are now: `model` itself, before it is trained, will do.
        english_tolerance: a mean recall of English that lies lower by more than this share is warned of.
    """

    def __init__(
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
        self.model, self.processor, self.captioned, self.languages = model, processor, captioned, languages
        self.classified, self.class_names = classified, class_names
        self.english_tolerance, self.image_embeds = english_tolerance, {}
        self.teacher = teacher if teacher and "en" in captioned.features["captions"] else None

    def begin(self, accelerator: Accelerator | None = None) -> None:
        """Before training: what the teacher, or the model as it is, reaches in English."""
        if self.teacher is not None:
            with on_device(self.teacher[0]):
                encoder = Encoder(*self.teacher, accelerator=accelerator)
                self.english = mean_recall(
                    encoder, encoder.images(self.captioned["image"]), self.captioned, ["en"]
                )["en"]

    def scores(self, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Fractions: `mean_recall` and `accuracy`, means over languages, and each language's as `mean_recall_zh`.

        `english_lost`, where there is a teacher, is its mean recall in English less the model's, whether that trains on English or not.
        """
        guarded = ["en"] if self.teacher is not None and "en" not in self.languages else []
        encoder = Encoder(self.model, self.processor, accelerator=accelerator)
        recall = mean_recall(
            encoder, self._embed(self.captioned, encoder), self.captioned, self.languages + guarded
        )
        scores = with_mean("mean_recall", {language: recall[language] for language in self.languages})
        if self.classified is not None:
            asked = self.classified["label"][:], self.class_names, dict.fromkeys(self.class_names, ["{}"])
            classes = evaluate_zero_shot(encoder, self._embed(self.classified, encoder), *asked)
            scores |= with_mean(
                "accuracy", {language: found.metrics()["accuracy@1"] for language, found in classes.items()}
            )
        if self.teacher is not None:
            scores["english_lost"] = self.english - recall["en"]
            if scores["english_lost"] > self.english_tolerance:
                warnings.warn(
                    f"English has lost {100 * scores['english_lost']:.1f} points of mean recall against {100 * self.english:.1f}: "
                    "lower learning_rate, or train on more English",
                    stacklevel=2,
                )
        return scores

    def _embed(self, rows: Dataset, encoder: Encoder) -> torch.Tensor:
        key = rows._fingerprint
        if learns(self.model, *IMAGE_PARTS) or key not in self.image_embeds:
            self.image_embeds[key] = encoder.images(rows["image"])
        return self.image_embeds[key]


def mean_recall(
    encoder: Encoder, image_embeds: torch.Tensor, rows: Dataset, languages: list[str]
) -> dict[str, float]:
    found = evaluate_retrieval(encoder, image_embeds, rows["captions"][:], languages)
    return {language: outcomes.metrics()["mean_recall"] for language, outcomes in found.items()}


def with_mean(name: str, scores: dict[str, float]) -> dict[str, float]:
    return {name: sum(scores.values()) / len(scores)} | {
        f"{name}_{language}": score for language, score in scores.items()
    }


def load_captioned(dataset: str, split: str, languages: list[str], text_column: str | None = None) -> Dataset:
    """Rows of `image` and `captions`, `{language: text}`, of captions in any form; the first where a row has several in a language."""
    rows = with_image(load_rows(dataset, split, []), dataset)
    refuse_missing(rows, dataset)
    rows = with_captions(rows, find_form(rows.features, dataset, text_column, languages)).cast_column(
        "image", Image()
    )
    names = list(rows.features["captions"])
    if all(isinstance(feature, Value) for feature in rows.features["captions"].values()):
        return rows
    first = rows.select_columns(["captions"]).map(
        lambda row: {"captions": {name: (row["captions"][name] or [None])[0] for name in names}},
        features=Features({"captions": {name: Value("string") for name in names}}),
    )
    return concatenate_datasets([rows.select_columns(["image"]), first], axis=1)


def load_validation(
    arguments: StageArguments,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    languages: list[str],
    teacher: tuple[PreTrainedModel, ProcessorMixin] | None = None,
) -> Validation | None:
    """The validation that the recipe asks for, or None where it asks for none.

    Raises:
        InputError: a dataset, a split, a column or a class name is missing; or no caption is in a language of the training.
    """
    if arguments.validation_split is None:
        return None
    dataset = arguments.validation_dataset or arguments.dataset
    text_column = arguments.text_column if isinstance(arguments, PairArguments) else None
    captioned = load_captioned(dataset, arguments.validation_split, languages, text_column)
    texts = caption_columns(captioned)
    there = dict.fromkeys(find_language(language, captioned.features["captions"]) for language in languages)
    spoken = [name for name in there if name is not None and has_text(texts.field(name)).any()]
    if not spoken:
        raise InputError(
            f"validation_split {arguments.validation_split!r} of {dataset!r} has no caption in {' '.join(languages)}"
        )
    classified = class_names = None
    if arguments.zero_shot_split is not None:
        named = read_lists(Path(arguments.class_names))
        keys = {language: find_language(language, named) for language in languages}
        class_names = {language: named[key] for language, key in keys.items() if key is not None}
        if not class_names:
            raise InputError(
                f"class_names {arguments.class_names!r} are in {' '.join(named)}, and none in {' '.join(languages)}"
            )
        classified = load_rows(dataset, arguments.zero_shot_split, ["image", "label"])
        refuse_missing(classified.cast_column("image", Image(decode=False)), dataset)
        check_class_names(class_names, max(classified["label"]) + 1)
    return Validation(
        model,
        processor,
        captioned,
        spoken,
        classified=classified,
        class_names=class_names,
        teacher=teacher,
        english_tolerance=arguments.english_tolerance,
    )


__all__ = ["Validation", "load_validation"]
