"""Image-text retrieval: find the image a sentence describes among all of them, and the other way round."""

import torch

from .encoder import Encoder
from .metrics import DISTANCES, retrieval_ranks
from .outcomes import RetrievalOutcomes
from .recipe import InputError


def evaluate_retrieval(
    encoder: Encoder, image_embeds: torch.Tensor, captions: list[dict], languages: list[str], *, distance: str = "cosine"
) -> dict[str, RetrievalOutcomes]:
    """Rank all images for every caption and all captions for every image, language by language.

    Args:
        image_embeds: the images' vectors `(rows, dim)`, made by the same encoder.
        captions: a row's `{language: text}`, with one text, a list of them or none. Rows without are left out of that language's
            images too.
        distance: `cosine`, or `euclidean` between vectors as the projections give them, as the released code of Krasner & Lanuzo
            has it.

    Raises:
        InputError: another distance, or no row has a caption in a language.
    """
    if distance not in DISTANCES:
        raise InputError(f"distance is {distance!r}: choose {' or '.join(DISTANCES)}")
    outcomes = {}
    for language in languages:
        texts = [texts_of(caption[language]) for caption in captions]
        described = torch.tensor([row for row, own in enumerate(texts) if own])
        if len(described) == 0:
            raise InputError(f"no row has a caption in {language}: leave it out of languages")
        text_to_image = torch.arange(len(described)).repeat_interleave(torch.tensor([len(own) for own in texts if own]))
        text_embeds = encoder.texts([text for own in texts for text in own])
        ranks = retrieval_ranks(image_embeds[described], text_embeds, text_to_image, distance=distance)
        outcomes[language] = RetrievalOutcomes(*ranks, text_to_image)
    return outcomes


def texts_of(caption: str | list[str] | None) -> list[str]:
    """A row's texts in one language, without empty ones."""
    return [text for text in ([caption] if isinstance(caption, str) else caption or []) if text]
