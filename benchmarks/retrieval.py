"""Image-text retrieval: find the image that a caption describes, and the captions of an image."""

import torch

from common.errors import InputError
from modeling_altclip.texts_altclip import is_blank

from .encoder import Encoder
from .metrics import DISTANCES, retrieval_ranks
from .outcomes import RetrievalOutcomes


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
        image_embeds: the images' embeddings `(rows, dim)`, made by the same encoder.
        captions: `{language: text}` of each row, with one text, a list of them or none. Rows without a text
            in a language are skipped in that language, with their images.
        distance: `cosine`, or `euclidean` between embeddings that are not normalized, as in the released code
            of Krasner & Lanuzo.
        merge_captions: count equal captions as one text, which is found by any of its images; by default each
            caption has its own image alone.

    Returns:
        `{language: outcomes}`, whose `rows` are the images that have a text.

    Raises:
        InputError: another distance, or no row has a caption in a language.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from benchmarks import CachedEncoder, evaluate_retrieval, load_model

    >>> encoder = CachedEncoder(*load_model("outputs/miniature/altclip"))
    >>> rows = load_dataset("outputs/miniature/dataset", split="validation[:20]")
    >>> image_embeds = encoder.images(rows["image"])
    >>> outcomes = evaluate_retrieval(encoder, image_embeds, rows["captions"], ["en", "zh"])
    >>> outcomes["zh"].metrics()["n"]
    20
    ```
    """
    check_distance(distance)
    outcomes = {}
    for language in languages:
        texts_of_row = [texts_of(caption[language]) for caption in captions]
        described = torch.tensor([row for row, texts in enumerate(texts_of_row) if texts])
        if len(described) == 0:
            raise InputError(f"no row has a caption in {language}: leave it out of languages")

        texts, pairs = _index_texts([texts for texts in texts_of_row if texts], merge_captions)
        text_ranks, image_ranks = retrieval_ranks(
            image_embeds[described], encoder.texts(texts), pairs, distance=distance
        )
        # Without merging a text has one image, and the pairs are in the order of the texts.
        text_to_image = pairs if merge_captions else pairs[:, 1]
        outcomes[language] = RetrievalOutcomes(text_ranks, image_ranks, text_to_image, rows=described)
    return outcomes


def check_distance(distance: str) -> None:
    """Refuse a distance that `retrieval_ranks` does not know.

    Raises:
        InputError: the distance is not one of `DISTANCES`.
    """
    if distance not in DISTANCES:
        raise InputError(f"distance is {distance!r}: choose {' or '.join(DISTANCES)}")


def texts_of(caption: str | list[str] | None) -> list[str]:
    """Return a row's texts in one language, without blank ones."""
    texts = [caption] if isinstance(caption, str) else caption or []
    return [text for text in texts if text and not is_blank(text)]


def _index_texts(texts_of_image: list[list[str]], merge: bool) -> tuple[list[str], torch.Tensor]:
    """List the texts of all images, and pair each with its images.

    `[["a dog", "a pet"], ["a dog"]]` -> texts `["a dog", "a pet", "a dog"]`, pairs `[[0, 0], [1, 0], [2,
    1]]`; with `merge` -> texts `["a dog", "a pet"]`, pairs `[[0, 0], [0, 1], [1, 0]]`.

    Returns:
        The texts, and a LongTensor `(pairs, 2)` with the row of a text and the row of an image, sorted and
        distinct.
    """
    texts: list[str] = []
    pairs: list[tuple[int, int]] = []
    row_of_text: dict[str, int] = {}
    for image, own_texts in enumerate(texts_of_image):
        for text in own_texts:
            if not merge or text not in row_of_text:
                row_of_text[text] = len(texts)
                texts.append(text)
            pairs.append((row_of_text[text], image))
    return texts, torch.tensor(pairs).unique(dim=0)
