"""The quality gate of an export: what quantized towers lose of mean recall, in each language."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, Image
from tqdm.auto import tqdm

from benchmarks.retrieval import evaluate_retrieval, texts_of
from common.errors import InputError
from common.files.image_folders import refuse_missing
from common.files.rows import load_rows
from common.languages import check_languages

from .runtime import OnnxAltCLIP


@dataclass(frozen=True)
class Validation:
    """Images with captions, on which exported models are compared.

    Attributes:
        rows: of `image` and of `captions`, one text or several for each language.
        languages: those that are evaluated.
    """

    rows: Dataset
    languages: list[str]

    @classmethod
    def load(cls, dataset: str, split: str, languages: list[str] | None) -> "Validation":
        """Load a split.

        Args:
            dataset: a folder or Hub id, whose column `captions` holds {language: text or texts}.
            languages: those to evaluate; by default all that have captions.

        Raises:
            InputError: it cannot be loaded, images are missing, or captions in a language.
        """
        rows = load_rows(dataset, split, ["image", "captions"])
        refuse_missing(rows.cast_column("image", Image(decode=False)), dataset)
        features = rows.features["captions"]
        if not isinstance(features, dict):
            raise InputError(
                f"validation_dataset {dataset!r} has no texts by language in its column captions: make it a "
                "dict of {language: text}"
            )
        captions = rows["captions"][:]
        described = []
        for language in check_languages(languages, list(features)):
            if any(texts_of(caption[language]) for caption in captions):
                described.append(language)
        if not described:
            raise InputError(f"validation_split {split!r} of {dataset!r} has no caption: give another split")
        return cls(rows, described)

    def mean_recall(self, folder: Path, dtype: str) -> dict[str, float]:
        """Return the mean recall of an exported model in each language, in points.

        It is the mean over both directions, at 1, 5 and 10.

        Args:
            folder, dtype: as for `OnnxAltCLIP.from_folder`.

        Raises:
            InputError: an image cannot be read, or an embedding is not finite.
        """
        model = OnnxAltCLIP.from_folder(folder, dtype=dtype)
        try:
            image_embeds = torch.from_numpy(model.embed_images(self.rows["image"]))
            found = evaluate_retrieval(_Texts(model), image_embeds, self.rows["captions"][:], self.languages)
        except ValueError as error:
            raise InputError(f"validation_dataset in {dtype}: {error}") from error
        return {language: 100 * outcomes.metrics()["mean_recall"] for language, outcomes in found.items()}


class _Texts:
    """The text side of an exported model, as `evaluate_retrieval` uses an encoder."""

    def __init__(self, model: OnnxAltCLIP):
        self.model = model

    def texts(self, texts: list[str]) -> torch.Tensor:
        return torch.from_numpy(self.model.embed_texts(texts))


def pass_gate(folder: Path, dtypes: Sequence[str], validation: Validation, max_drop: float) -> dict:
    """Compare the mean recall of all formats with that of float32.

    Args:
        folder: the exported model, which has the towers in float32 too.
        max_drop: the most points that a format may lose in a language.

    Returns:
        What the record says of it: `max_drop`, the number of `rows`, and `mean_recall` by format and
            language.

    Raises:
        InputError: a format loses more; the message names the format and the language that loses most.
    """
    reference = validation.mean_recall(folder, "fp32")
    measured = {"fp32": reference}
    others = [dtype for dtype in dtypes if dtype != "fp32"]
    for dtype in tqdm(others, desc="Measuring recall", unit="format"):
        measured[dtype] = validation.mean_recall(folder, dtype)
        drops = {language: reference[language] - points for language, points in measured[dtype].items()}
        worst = max(drops, key=drops.get)
        if drops[worst] > max_drop:
            raise InputError(
                f"{dtype} loses {drops[worst]:.2f} points of mean recall in {worst}, "
                f"{reference[worst]:.2f} in float32 and {measured[dtype][worst]:.2f} after it, where "
                f"max_drop is {max_drop}: leave {dtype} out of dtypes, or allow more. Nothing was written"
            )
    return {"max_drop": max_drop, "rows": len(validation.rows), "mean_recall": measured}


__all__ = ["Validation", "pass_gate"]
