"""What comes of a check: one row of the table, whether it passed or failed."""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

_MOST_LETTERS = 200  # of the reason of a failure


@dataclass(kw_only=True)
class Measured:
    """What a check has measured; None is what it does not measure, or what cannot be known.

    Attributes:
        per_second: texts of stage 1 or pairs of stage 2, of all processes.
        unit: `texts` or `pairs`.
        peak_bytes: most memory of the GPU that tensors took at once, in one process.
        operations_per_second: floating-point operations of the matrix products that the model needs, of one
            process. What is computed twice to save memory counts once.
        utilisation: `operations_per_second` as a share of the GPU's peak.
        differences: relative differences from the reference with their bounds,
            `{"embeddings": [1e-6, 1e-4]}`.
    """

    per_second: float | None = None
    unit: str | None = None
    peak_bytes: int | None = None
    operations_per_second: float | None = None
    utilisation: float | None = None
    differences: dict[str, list[float]] | None = None


@dataclass(kw_only=True)
class Row(Measured):
    """A row of the table.

    Attributes:
        check: what was done.
        shapes: on which model.
        failure: why it failed, in one line; None if it passed.
    """

    check: str
    shapes: str
    failure: str | None = None


class CheckFailed(Exception):
    """What a check has computed is not what it should be."""


def guarded(check: str, shapes: str, measure: Callable[[], Measured]) -> Row:
    """Do a check, whose failure of any kind becomes a row: no memory, no kernel, a wrong result."""
    try:
        row = Row(check=check, shapes=shapes, **vars(measure()))
    # Kernels and compilers fail with exceptions of every kind, and the next check has to be done anyway.
    except Exception as error:
        row = failed(check, shapes, f"{type(error).__name__}: {error}")
    gc.collect()  # a failed training leaves circles of references that hold the GPU's memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return row


def failed(check: str, shapes: str, reason: str) -> Row:
    """Return the row of a check that failed."""
    return Row(check=check, shapes=shapes, failure=" ".join(reason.split())[:_MOST_LETTERS])


@torch.no_grad()
def relative_difference(found: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """Return |a - b| / |b| of tensors taken together as one vector."""
    distance = 0.0
    size = 0.0
    for of_found, of_reference in zip(found, reference, strict=True):
        of_reference = of_reference.to(of_found.device)
        distance += (of_found - of_reference).square().sum().item()
        size += of_reference.square().sum().item()
    return (distance / size) ** 0.5


def within(differences: dict[str, list[float]]) -> Measured:
    """Return differences that are within their bounds.

    Args:
        differences: `{name: [difference, bound]}`.

    Raises:
        CheckFailed: one exceeds its bound, or is NaN.
    """
    for name, (difference, bound) in differences.items():
        if not difference <= bound:
            raise CheckFailed(f"{name} differ by {difference:.1e}, and {bound:.0e} is allowed")
    return Measured(differences=differences)


__all__ = ["CheckFailed", "Measured", "Row", "failed", "guarded", "relative_difference", "within"]
