"""Add up the gradients of embeddings row by row, not table by table.

Every look-up has a gradient of the size of its table: 768 MB for XLM-R's vocabulary at its base size, almost
all of it zeros. A batch in groups of similar length makes one for each group, and one in chunks of the
gradient cache one for each chunk. A sparse gradient holds the rows of the texts alone. Added up over the
step, it is written into a dense one for the optimizer, which moves every row. That one is kept from step to
step: to clear the rows of the last step costs less than to fill a new table with zeros.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def gradients_by_row(model: nn.Module) -> Iterator[None]:
    """Compute the gradients of a model's embeddings as sparse ones while it is trained in a single process.

    `.grad` is dense nevertheless, with the values that it would have. Between steps it has to be set to None,
    as `zero_grad()` does.
    """
    tables = []
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.requires_grad:
            # PyTorch has no sparse gradients that are scaled.
            if not module.sparse and not module.scale_grad_by_freq:
                tables.append(module)

    hooks = []
    for table in tables:
        table.sparse = True
        gradient = _RowGradient()
        hooks.append(table.weight.register_hook(gradient.note))
        hooks.append(table.weight.register_post_accumulate_grad_hook(gradient.make_dense))
    try:
        yield
    finally:
        for table in tables:
            table.sparse = False
        for hook in hooks:
            hook.remove()


class _RowGradient:
    """The dense gradient of a table, of which all rows but those that were noted are zero."""

    def __init__(self):
        self.dense: torch.Tensor | None = None
        self.noted: list[torch.Tensor] = []  # rows of all gradients since `dense` was last cleared

    def note(self, gradient: torch.Tensor) -> None:
        """Note the rows of a gradient before it is added to `.grad`."""
        if gradient.is_sparse:
            self.noted.append(gradient._indices()[0])
        else:
            # It also has a gradient of another kind, as a vocabulary that is tied to a head: it is dense, and
            # stays so.
            self.dense = None
            self.noted = []

    def make_dense(self, weight: torch.Tensor) -> None:
        """Replace the first gradient of a step; what comes after is added to the rows of this one."""
        if not weight.grad.is_sparse:
            return
        if self.dense is None:
            self.dense = torch.zeros_like(weight)
        for rows in self.noted:
            self.dense[rows] = 0
        weight.grad = self.dense.add_(weight.grad)
        self.noted = self.noted[-1:]


__all__ = ["gradients_by_row"]
