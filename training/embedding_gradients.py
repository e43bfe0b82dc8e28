"""Add up the gradients of embeddings row by row, not table by table.

Every look-up has a gradient of the size of its table: 768 MB for XLM-R's vocabulary at its base size, almost
all of it zeros. A batch in groups of similar length makes one for each group, and one in chunks of the
gradient cache one for each chunk. A sparse gradient holds the rows of the texts alone. Added up over the
step, it is made dense once, for the optimizer, which moves every row.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def gradients_by_row(model: nn.Module) -> Iterator[None]:
    """Compute the gradients of a model's embeddings as sparse ones while it is trained in a single process.

    `.grad` is dense nevertheless, with the values that it would have.
    """
    tables = []
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.requires_grad and not module.sparse:
            tables.append(module)

    hooks = []
    for table in tables:
        table.sparse = True
        hooks.append(table.weight.register_post_accumulate_grad_hook(_make_dense))
    try:
        yield
    finally:
        for table, hook in zip(tables, hooks):
            table.sparse = False
            hook.remove()


def _make_dense(weight: torch.Tensor) -> None:
    # What comes after, from a chunk or a batch before the step, is added to the rows of the dense one.
    if weight.grad.is_sparse:
        weight.grad = weight.grad.to_dense()


__all__ = ["gradients_by_row"]
