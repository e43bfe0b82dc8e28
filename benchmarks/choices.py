"""Choice of the image that a text describes, among a few: mteb's tasks of reranking."""

import torch

from common.errors import InputError

from .encoder import Encoder
from .metrics import ranks_in_scores
from .outcomes import ClassOutcomes


def evaluate_choices(
    encoder: Encoder,
    image_embeds: torch.Tensor,
    captions: list[dict],
    rivals: list[dict],
    languages: list[str],
) -> dict[str, ClassOutcomes]:
    """Rank for every text its image and the other images that it chooses among, language by language.

    Ties are ranked pessimistically, as in retrieval.

    Args:
        image_embeds: the images' unit embeddings `(rows, dim)`, made by the same encoder.
        captions: `{language: [text, ...]}` of each row.
        rivals: `{language: [rows, ...]}` of each row: for each of its texts the rows of the other images,
            equally many for all texts of a language.

    Returns:
        `{language: outcomes}`. A unit is a text, and its row in `rows` is that of its image.

    Raises:
        InputError: no row has a text in a language.

    Example:

    ```python
    >>> import torch
    >>> from benchmarks.choices import evaluate_choices
    >>> from benchmarks.encoder import Encoder

    >>> class Fixed(Encoder):  # embeds each text as the image of its number
    ...     def __init__(self):
    ...         pass
    ...     def texts(self, texts):
    ...         return torch.eye(3)[[int(text) for text in texts]]
    >>> # The text of image 0 chooses among it and image 1; so does a text of image 1, which looks like 2
    >>> captions = [{"en": ["0"]}, {"en": ["2"]}, {"en": []}]
    >>> rivals = [{"en": [[1]]}, {"en": [[0]]}, {"en": []}]
    >>> outcomes = evaluate_choices(Fixed(), torch.eye(3), captions, rivals, ["en"])
    >>> outcomes["en"].metrics()["accuracy@1"]
    0.5
    ```
    """
    outcomes = {}
    for language in languages:
        texts: list[str] = []
        own: list[int] = []  # the row of each text's image
        others: list[list[int]] = []
        for row, of_row in enumerate(captions):
            texts += of_row[language]
            own += [row] * len(of_row[language])
            others += rivals[row][language]
        if not texts:
            raise InputError(f"no row has a caption in {language}: leave it out of languages")

        # A text may come several times, with other images to choose from.
        distinct = list(dict.fromkeys(texts))
        place_of = {text: place for place, text in enumerate(distinct)}
        text_embeds = encoder.texts(distinct)[[place_of[text] for text in texts]]

        rows = torch.tensor(own)
        candidates = torch.cat([rows[:, None], torch.tensor(others)], dim=1)  # the own image first
        scores = (text_embeds[:, None] * image_embeds[candidates]).sum(-1)  # (texts, candidates)
        first = torch.zeros(len(texts), dtype=torch.long)
        ranks = ranks_in_scores(scores, first)
        outcomes[language] = ClassOutcomes(ranks, first, n_classes=candidates.shape[1], rows=rows)
    return outcomes


__all__ = ["evaluate_choices"]
