"""Where the right answer stands: accuracy at depths to ten, and ranks, per language (Krasner & Lanuzo, Figures 3 and 4)."""

import torch
from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin

from modeling_altclip import embed_images, embed_texts

from .metrics import DISTANCES, retrieval_ranks
from .recipe import InputError

DEPTHS = range(1, 11)
PERCENTILES = (5, 25, 50, 75, 95)
DIRECTIONS = {"text_to_image": "T2I", "image_to_text": "I2T"}


def evaluate_ranking(
    model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset, languages: list[str], *, distance: str = "cosine"
) -> dict[str, dict[str, float]]:
    """Rank all images for every caption and all captions for every image; the images are embedded once for all languages.

    Args:
        rows: of `image` and `captions`, with a text, several or none in a language. Rows without are left out of that language's
            images too.
        distance: `cosine`, or `euclidean` between vectors as the projections give them, as the paper's released code has it.

    Returns:
        `{language: metrics}`. The metrics are `n`, the number of images, `n_texts`, and for either direction the fractions
        `text_to_image_accuracy@1` to `@10` and `text_to_image_rank_p5`, `_p25`, `_p50`, `_p75` and `_p95`, percentiles of ranks
        that count from 0, as the paper's do.

    Raises:
        InputError: another distance, or no row has a caption in a language.
    """
    if distance not in DISTANCES:
        raise InputError(f"distance is {distance!r}: choose {' or '.join(DISTANCES)}")
    unit = distance == "cosine"
    image_embeds = embed_images(model, processor, rows["image"], show_progress=True, normalize_embeddings=unit)
    scores = {}
    for language in languages:
        texts = [texts_of(caption[language]) for caption in rows["captions"]]
        described = torch.tensor([row for row, own in enumerate(texts) if own])
        if len(described) == 0:
            raise InputError(f"no row has a caption in {language}: leave it out of languages")
        text_to_image = torch.arange(len(described)).repeat_interleave(torch.tensor([len(own) for own in texts if own]))
        text_embeds = embed_texts(model, processor, [text for own in texts for text in own], normalize_embeddings=unit)
        ranks = retrieval_ranks(image_embeds[described], text_embeds, text_to_image, distance=distance)
        scores[language] = {"n": len(described), "n_texts": len(text_embeds)}
        for direction, of_direction in zip(DIRECTIONS, ranks):
            scores[language] |= summarise(of_direction, direction)
    return scores


def texts_of(caption: str | list[str] | None) -> list[str]:
    """A row's texts in one language, without empty ones."""
    return [text for text in ([caption] if isinstance(caption, str) else caption or []) if text]


def summarise(ranks: torch.Tensor, direction: str) -> dict[str, float]:
    """Accuracies and percentiles of 0-based `ranks` `(queries,)`, a percentile between two ranks being taken linearly."""
    accuracy = {f"{direction}_accuracy@{k}": (ranks < k).double().mean().item() for k in DEPTHS}
    values = ranks.double().quantile(torch.tensor(PERCENTILES, dtype=torch.double) / 100).tolist()
    return accuracy | {f"{direction}_rank_p{percentile}": value for percentile, value in zip(PERCENTILES, values)}


def ranking_columns(metrics: dict[str, float]) -> dict[str, float | str]:
    """What a table shows: `n`, three accuracies, and the median rank with its quartiles, of either direction."""
    columns = {"n": metrics["n"]}
    for direction, short in DIRECTIONS.items():
        columns |= {f"{short} A@{k}": metrics[f"{direction}_accuracy@{k}"] for k in (1, 5, 10)}
        low, median, high = (f"{metrics[f'{direction}_rank_p{percentile}']:g}" for percentile in (25, 50, 75))
        columns[f"{short} rank (quartiles)"] = f"{median} ({low} to {high})"
    return columns
