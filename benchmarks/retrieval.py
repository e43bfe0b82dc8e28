"""Image-text retrieval: find the image a sentence describes among all of them, and the other way round."""

import torch

from modeling_altclip.texts_altclip import is_blank

from .encoder import Encoder
from .metrics import DISTANCES, retrieval_ranks
from .outcomes import RetrievalOutcomes
from .recipe import InputError


def evaluate_retrieval(
    encoder: Encoder,
    image_embeds: torch.Tensor,
    captions: list[dict],
    languages: list[str],
    *,
    distance: str = "cosine",
    merge_captions: bool = False,
) -> dict[str, RetrievalOutcomes]:
    """Rank all images for every caption and all captions for every image, language by language.

    Args:
        image_embeds: the images' vectors `(rows, dim)`, made by the same encoder.
        captions: a row's `{language: text}`, with one text, a list of them or none. Rows without are left out of that language's
            images too.
        distance: `cosine`, or `euclidean` between vectors as the projections give them, as the released code of Krasner & Lanuzo
            has it.
        merge_captions: equal captions are one text, which is found by any of its images; otherwise each has its own alone.

    Raises:
        InputError: another distance, or no row has a caption in a language.
    """
    check_distance(distance)
    outcomes = {}
    for language in languages:
        texts = [texts_of(caption[language]) for caption in captions]
        described = torch.tensor([row for row, own in enumerate(texts) if own])
        if len(described) == 0:
            raise InputError(f"no row has a caption in {language}: leave it out of languages")
        pairs = [(text, row) for row, own in enumerate(own for own in texts if own) for text in own]
        asked = (
            list(dict.fromkeys(text for text, _ in pairs)) if merge_captions else [text for text, _ in pairs]
        )
        row_of_text = {text: row for row, text in enumerate(asked)}
        text_rows = (
            torch.tensor([row_of_text[text] for text, _ in pairs])
            if merge_captions
            else torch.arange(len(pairs))
        )
        pairs = torch.stack([text_rows, torch.tensor([row for _, row in pairs])], dim=1)
        ranks = retrieval_ranks(
            image_embeds[described], encoder.texts(asked), pairs.unique(dim=0), distance=distance
        )
        outcomes[language] = RetrievalOutcomes(
            *ranks, pairs.unique(dim=0) if merge_captions else pairs[:, 1], rows=described
        )
    return outcomes


def check_distance(distance: str) -> None:
    if distance not in DISTANCES:
        raise InputError(f"distance is {distance!r}: choose {' or '.join(DISTANCES)}")


def texts_of(caption: str | list[str] | None) -> list[str]:
    """A row's texts in one language, without blank ones."""
    texts = [caption] if isinstance(caption, str) else caption or []
    return [text for text in texts if text and not is_blank(text)]
