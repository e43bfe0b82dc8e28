"""CLIP scores of AltDiffusion before and after training, by language.

A pipeline draws a picture for each of some captions, in every language, from the same noise. Each is scored
against the English caption of the same image.
"""

from collections.abc import Callable
from statistics import mean

import torch
from accelerate import PartialState
from datasets import Dataset
from PIL import Image

from benchmarks.clip_scores import clip_scores
from benchmarks.results import format_table
from common.errors import InputError
from common.models.loading import load_model
from modeling_altclip.texts_altclip import is_blank

from .arguments import DiffusionArguments

_MOST_ROWS_READ = 10_000


class PromptScorer:
    """Scores what a pipeline draws of captions, against their English.

    Args:
        rows: with `captions`, of which the first ones that have English and all languages are drawn.
        languages: those of the prompts.

    Raises:
        InputError: the model cannot be loaded, or too few rows have captions in all languages and in English.
    """

    def __init__(self, arguments: DiffusionArguments, rows: Dataset, languages: list[str]):
        self.languages = languages
        self.captions = self._choose(rows, arguments.clip_captions)
        self.seed = arguments.seed
        self.model, self.processor = load_model(
            arguments.clip_model_name_or_path, argument="clip_model_name_or_path"
        )

    def _choose(self, rows: Dataset, n_captions: int) -> list[dict[str, str]]:
        chosen = []
        wanted = dict.fromkeys(["en", *self.languages])
        first_rows = rows.select_columns(["captions"]).select(range(min(len(rows), _MOST_ROWS_READ)))
        for captions in first_rows["captions"]:
            texts = {language: _first_text(captions.get(language)) for language in wanted}
            if all(texts.values()):
                chosen.append(texts)
            if len(chosen) == n_captions:
                return chosen
        raise InputError(
            f"clip_captions is {n_captions}, and of the first {len(first_rows):,} rows {len(chosen)} have "
            f"captions in all of {', '.join(wanted)}: give fewer, or fewer languages"
        )

    def measure(self, draw: Callable[[str, torch.Generator], Image.Image]) -> dict[str, float]:
        """Draw all captions, and return the mean score by language.

        Args:
            draw: draws a picture of a prompt from the noise of a generator.
        """
        english = [texts["en"] for texts in self.captions]
        self.model.to(PartialState().device)
        scores = {}
        for language in self.languages:
            pictures = []
            for number, texts in enumerate(self.captions):
                noise = torch.Generator().manual_seed(self.seed + number)
                pictures.append(draw(texts[language], noise))
            scores[language] = clip_scores(self.model, self.processor, pictures, english).mean().item()
        self.model.to("cpu")  # leaves the device's memory to the training
        return scores


def _first_text(texts: str | list[str] | None) -> str | None:
    """Return the first of the texts that a row has in a language; None for a blank one, or for none."""
    first = texts[0] if isinstance(texts, list) and texts else texts
    return None if not first or is_blank(first) else first


def describe_scores(before: dict[str, float], after: dict[str, float]) -> str:
    """Return a table of the scores by language, before and after."""
    rows = []
    for language, score in before.items():
        rows.append([language, f"{score:.1f}", f"{after[language]:.1f}"])
    rows.append(["mean", f"{mean(before.values()):.1f}", f"{mean(after.values()):.1f}"])
    return format_table(["CLIP score against English", "before", "after"], rows)


__all__ = ["PromptScorer", "describe_scores"]
