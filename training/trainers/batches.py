"""Take a batch apart: its texts by length, its images into parts."""

import torch

from modeling_altclip.pooling_altclip import IMAGE_INPUTS

TEXTS = ("input_ids", "attention_mask")


def by_length(inputs: dict, n_groups: int) -> tuple[list[dict], torch.Tensor]:
    """Split the texts of a batch by length, each group padded to its own longest only (length bucketing).

    A batch is drawn first, at random, and split afterwards: its negatives are of every length.

    Args:
        inputs: `input_ids` and `attention_mask` `(texts, tokens)`, padded on the right.
        n_groups: 1 leaves the batch as it is.

    Returns:
        The groups, always `n_groups`, and the row `(texts,)` of each text in the joined outputs of the
        groups.
    """
    if n_groups == 1:
        n_texts = len(inputs["input_ids"])
        rows = torch.arange(n_texts, device=inputs["input_ids"].device)
        return [{name: inputs[name] for name in TEXTS}], rows

    # lengths [9, 3, 8, 4] -> order [1, 3, 2, 0] -> groups of texts [1, 3] and [2, 0], of 4 and 9 tokens
    lengths = inputs["attention_mask"].sum(1)
    order = lengths.argsort(stable=True)
    groups = []
    for texts in _spread(order, n_groups):
        longest = lengths[texts].max()
        groups.append({name: inputs[name][texts, :longest] for name in TEXTS})

    # Outputs come in the order [1, 3, 2, 0]; its inverse [3, 0, 2, 1] is where texts 0 to 3 are found.
    rows = order.argsort()
    return groups, rows


def images_of(inputs: dict) -> dict[str, torch.Tensor]:
    """Return the inputs of a batch's images, each `(images, ...)`: of most towers `pixel_values` alone."""
    return {name: inputs[name] for name in IMAGE_INPUTS if name in inputs}


def split_images(images: dict[str, torch.Tensor], n_parts: int) -> list[dict[str, torch.Tensor]]:
    """Split what `images_of` returns into `n_parts`, as `_spread` does: the last image may be repeated."""
    parts = [{} for _ in range(n_parts)]
    for name, values in images.items():
        for part, of_part in zip(parts, _spread(values, n_parts)):
            part[name] = of_part
    return parts


def _spread(rows: torch.Tensor, n_parts: int) -> list[torch.Tensor]:
    """Split `rows` into `n_parts` runs of about equal length.

    With fewer rows than parts, the last row fills the empty ones. Every process must run the model equally
    often, however few distinct texts its share of the batch has.
    """
    return [part if len(part) else rows[-1:] for part in rows.tensor_split(n_parts)]
