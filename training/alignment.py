"""Fit a linear map from one embedding space to another in closed form, by ridge regression.

The map minimises the weighted squared error of all pairs plus a penalty on its weights, and both depend on
the pairs by sums of products alone (Gram matrices). So all pairs are read once, in slices:

1. Each group of pairs is assigned to a fold, and the sums of each fold are added up in float64.
2. For each fold, the sums of the others give the maps of every penalty by one eigendecomposition, and the
   sums of the fold give their held-out errors. No pair is read again.
3. The penalty of the least held-out error is taken, or the best one by another measure, and the sums of all
   pairs give the map.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from common.embedding_cache import CachedColumn
from common.errors import InputError

# By default, penalties relative to the mean eigenvalue of the inputs' Gram matrix.
_RELATIVE_PENALTIES = tuple(10.0**exponent for exponent in range(-7, 3))
_SLICE_ROWS = 8192


class Rows(Protocol):
    """What is sliced like an array of rows `(rows, width)`, and need not be in memory."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, part: slice) -> np.ndarray | torch.Tensor:
        """Return consecutive rows."""


class ColumnRows:
    """Some rows of a cached column, read in slices.

    Args:
        rows: numbers of the column's rows `(rows,)`, in the order in which they are read.
        change: changes what is read `(slice, width)`, such as by a projection.
    """

    def __init__(
        self,
        column: CachedColumn,
        rows: np.ndarray,
        change: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.column = column
        self.rows = rows
        self.change = change

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> torch.Tensor:
        values = torch.from_numpy(self.column[self.rows[part]][self.column.name])
        return values if self.change is None else self.change(values)


class LinearMap(NamedTuple):
    """A linear map, with the weights of an `nn.Linear`.

    - `weight`: `(outputs, inputs)`, float64.
    - `bias`: `(outputs,)`, float64; zero where no intercept was fitted.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, inputs: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Map inputs `(rows, inputs)` to `(rows, outputs)`, in float64."""
        return torch.as_tensor(inputs).double() @ self.weight.T + self.bias


class Alignment(NamedTuple):
    """A fitted map, and how it was chosen.

    - `map`: of all pairs.
    - `penalty`: the chosen penalty, in the units of scikit-learn's `alpha`.
    - `extra_weight`: the chosen weight of the extra pairs.
    - `errors`: held-out error of each `(extra_weight, penalty)`: the weighted mean of squared distances.
    - `error_of_mean`: that of predicting the mean of the other folds' targets, whatever the input.
    - `folds`: the fold of each pair `(pairs,)`.
    - `of_other_folds`: by fold, the map that was fitted without it, by the chosen penalty.
    """

    map: LinearMap
    penalty: float
    extra_weight: float
    errors: dict[tuple[float, float], float]
    error_of_mean: float
    folds: np.ndarray
    of_other_folds: list[LinearMap]

    @property
    def error(self) -> float:
        """Return the held-out error of the chosen penalty."""
        return self.errors[self.extra_weight, self.penalty]

    @property
    def explained(self) -> float:
        """Return the share of the held-out variance that the map explains, R²: at most 1."""
        return 1 - self.error / self.error_of_mean

    def describe(self) -> str:
        """Say what was fitted and how well, in one sentence."""
        return (
            f"{len(self.folds):,} pairs, penalty {self.penalty:.3g} of {len(self.errors)} that were tried; "
            f"held-out squared error {self.error:.4g}, and {self.error_of_mean:.4g} by their mean alone "
            f"(R² {self.explained:.3f})"
        )


@dataclass
class _Sums:
    """Weighted sums over pairs, which are all that ridge regression needs of them; sums of parts add up."""

    weight: float
    inputs: torch.Tensor  # (inputs,)
    targets: torch.Tensor  # (outputs,)
    squares: float  # of all targets
    gram: torch.Tensor  # (inputs, inputs)
    cross: torch.Tensor  # (inputs, outputs)

    @classmethod
    def empty(cls, n_inputs: int, n_outputs: int) -> "_Sums":
        zeros = {"dtype": torch.float64}
        return cls(
            weight=0.0,
            inputs=torch.zeros(n_inputs, **zeros),
            targets=torch.zeros(n_outputs, **zeros),
            squares=0.0,
            gram=torch.zeros(n_inputs, n_inputs, **zeros),
            cross=torch.zeros(n_inputs, n_outputs, **zeros),
        )

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> None:
        """Add pairs `(rows, inputs)`, `(rows, outputs)`, each with its weight `(rows,)`; all float64."""
        weighted = inputs * weights[:, None]
        self.weight += weights.sum().item()
        self.inputs += weighted.sum(0)
        self.targets += weights @ targets
        self.squares += (weights @ targets.square()).sum().item()
        self.gram.addmm_(weighted.T, inputs)
        self.cross.addmm_(weighted.T, targets)

    def plus(self, other: "_Sums", factor: float = 1.0) -> "_Sums":
        """Return these sums plus `factor` times the others."""
        total = {name: value + factor * getattr(other, name) for name, value in vars(self).items()}
        return replace(self, **total)

    def about(self, inputs: torch.Tensor, targets: torch.Tensor) -> "_Sums":
        """Return the sums of the same pairs, with these `(inputs,)` and `(outputs,)` subtracted from each."""
        moved = self.inputs - self.weight * inputs
        return replace(
            self,
            inputs=moved,
            targets=self.targets - self.weight * targets,
            squares=self.squares
            - 2 * (targets @ self.targets).item()
            + self.weight * (targets @ targets).item(),
            gram=self.gram - torch.outer(inputs, self.inputs) - torch.outer(moved, inputs),
            cross=self.cross - torch.outer(inputs, self.targets) - torch.outer(moved, targets),
        )


class _Solver:
    """The ridge regressions of some pairs for every penalty, from one eigendecomposition.

    Args:
        sums: those of the pairs.
        origin: what was subtracted from the inputs when they were added up `(inputs,)`.
    """

    def __init__(self, sums: _Sums, origin: torch.Tensor, *, intercept: bool):
        self.origin = origin
        self.mean_input = torch.zeros_like(sums.inputs)
        self.mean_target = torch.zeros_like(sums.targets)
        if intercept:
            self.mean_input = sums.inputs / sums.weight
            self.mean_target = sums.targets / sums.weight
        centred = sums.about(self.mean_input, self.mean_target)
        # By numpy: for 512 inputs torch took nine times as long on a CPU.
        eigenvalues, vectors = np.linalg.eigh(centred.gram.numpy())
        self.eigenvalues = torch.from_numpy(eigenvalues).clamp(min=0)
        self.vectors = torch.from_numpy(vectors)
        self.rotated = self.vectors.T @ centred.cross

    def _inverse(self, penalty: float) -> torch.Tensor:
        """Return 1 / (eigenvalue + penalty) `(inputs,)`, and 0 for directions that no input has."""
        damped = self.eigenvalues + penalty
        smallest = damped.max() * len(damped) * torch.finfo(torch.float64).eps
        return torch.where(damped > smallest, 1 / damped.clamp(min=smallest), 0)

    def solve(self, penalty: float) -> LinearMap:
        """Return the map for a penalty."""
        weight = (self.vectors @ (self._inverse(penalty)[:, None] * self.rotated)).T.contiguous()
        return LinearMap(weight, self.mean_target - weight @ (self.mean_input + self.origin))

    def errors(self, held: _Sums, penalties: Sequence[float]) -> list[float]:
        """Return the weighted sum of squared distances of other pairs, by penalty."""
        held = held.about(self.mean_input, self.mean_target)
        # In the basis of eigenvectors the map is D P with the diagonal D = 1 / (eigenvalues + penalty), and
        # sum |y - x D P|² = sum |y|² - 2 sum (D P * x'y) + d' (x'x * P P') d
        products = (self.rotated * (self.vectors.T @ held.cross)).sum(1)
        quadratic = (self.vectors.T @ held.gram @ self.vectors) * (self.rotated @ self.rotated.T)
        errors = []
        for penalty in penalties:
            inverse = self._inverse(penalty)
            error = held.squares - 2 * inverse @ products + inverse @ quadratic @ inverse
            errors.append(max(0.0, error.item()))
        return errors


def fit_alignment(  # noqa: PLR0913  (two matrices and options by keyword)
    inputs: Rows,
    targets: Rows,
    *,
    weights: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    penalties: Sequence[float] | None = None,
    n_folds: int = 5,
    intercept: bool = True,
    extra: tuple[Rows, Rows] | None = None,
    extra_weights: Sequence[float] = (1.0,),
    judge: Callable[[list[LinearMap]], float] | None = None,
    seed: int = 0,
) -> Alignment:
    """Fit the linear map from inputs to targets, by ridge regression with a penalty by cross-validation.

    For one penalty it is scikit-learn's `Ridge(alpha=penalty)` with `sample_weight=weights`. The penalty of
    the least held-out squared error is chosen, or the one that `judge` finds best; with one penalty, that
    error is measured all the same.

    Args:
        inputs: `(pairs, inputs)`, arrays or what is sliced like them.
        targets: `(pairs, outputs)`.
        weights: `(pairs,)`, from 0; by default all pairs weigh 1.
        groups: `(pairs,)`; pairs of one group, such as those of equal captions, are in one fold. By default
            each pair is its own group.
        penalties: from 0, in the units of scikit-learn's `alpha`. By default ten powers of ten, from 1e-7 to
            100 times the mean eigenvalue of the inputs' Gram matrix.
        intercept: also fit a bias, which is not penalized. Without it no mean is subtracted from anything.
        extra: more inputs and targets, which every fold learns from and none is tested on.
        extra_weights: weights of all extra pairs together, relative to all other pairs together. The one of
            the least held-out error is chosen, together with the penalty.
        judge: returns how far the maps that were fitted without each fold are from what is wanted; the least
            is best. `assign_folds` tells the fold of each pair.
        seed: of the assignment of groups to folds.

    Raises:
        InputError: there are no pairs, or fewer groups than folds; lengths or widths differ; a value is NaN
            or infinite; or a weight, penalty or number of folds is out of range.

    Example:

    ```python
    >>> import numpy as np
    >>> from training import fit_alignment

    >>> inputs = np.random.default_rng(0).normal(size=(100, 3))
    >>> targets = inputs @ [[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]] + [0.0, 5.0]
    >>> alignment = fit_alignment(inputs, targets)
    >>> alignment.map.weight.shape, round(alignment.explained, 3)
    (torch.Size([2, 3]), 1.0)
    ```
    """
    _check_settings(n_folds, penalties, extra_weights)
    weights = _check_weights(weights, len(inputs))
    folds = assign_folds(len(inputs), groups, n_folds, seed)
    parts, origin = _add_up(inputs, targets, weights, folds, n_folds, moves=intercept)
    for number, part in enumerate(parts):
        if part.weight == 0:
            raise InputError(
                f"weights of all pairs in fold {number} are 0: give fewer folds, or more pairs with a weight"
            )
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    more = _Sums.empty(len(total.inputs), len(total.targets))
    if extra is None:
        extra_weights = (0.0,)
    else:
        of_extra = np.ones(len(extra[0]))
        (more,), _ = _add_up(*extra, of_extra, np.zeros(len(of_extra), int), 1, origin=origin)

    if penalties is None:
        penalties = [_scale(total, intercept) * penalty for penalty in _RELATIVE_PENALTIES]
    choice = _choose(parts, total, more, origin, list(penalties), list(extra_weights), intercept, judge)
    everything = total.plus(more, _factor(choice.extra_weight, total, more))
    return Alignment(
        map=_Solver(everything, origin, intercept=intercept).solve(choice.penalty),
        penalty=choice.penalty,
        extra_weight=choice.extra_weight,
        errors=choice.errors,
        error_of_mean=_error_of_mean(parts, total),
        folds=folds,
        of_other_folds=[solver.solve(choice.penalty) for solver in choice.solvers],
    )


def _scale(sums: _Sums, intercept: bool) -> float:
    """Return the mean eigenvalue of the inputs' Gram matrix, about their mean where there is an intercept."""
    squares = sums.gram.trace().item()
    if intercept:
        squares -= (sums.inputs @ sums.inputs).item() / sums.weight
    # Inputs that are all equal have no scale.
    return max(squares, 0.0) / len(sums.inputs) or 1.0


def _error_of_mean(parts: list[_Sums], total: _Sums) -> float:
    """Return the held-out error of predicting the mean target of the other folds."""
    error = 0.0
    for part in parts:
        others = total.plus(part, -1.0)
        error += part.about(torch.zeros_like(part.inputs), others.targets / others.weight).squares
    return error / total.weight


def _factor(extra_weight: float, total: _Sums, more: _Sums) -> float:
    """Return what extra pairs are multiplied by, so that together they weigh `extra_weight` of all others.

    10 extra pairs beside 1,000 get 100 each by a weight of 1.
    """
    return extra_weight * total.weight / more.weight if more.weight else 0.0


@dataclass
class _Choice:
    """The weight of the extra pairs and the penalty that are chosen, and the errors of all.

    Attributes:
        solvers: by fold, that of the other folds' pairs by the chosen weight.
    """

    extra_weight: float
    penalty: float
    errors: dict[tuple[float, float], float]
    solvers: list[_Solver]


def _choose(  # noqa: PLR0913  (the sums, and what is chosen from)
    parts: list[_Sums],
    total: _Sums,
    more: _Sums,
    origin: torch.Tensor,
    penalties: list[float],
    extra_weights: list[float],
    intercept: bool,
    judge: Callable[[list[LinearMap]], float] | None,
) -> _Choice:
    """Choose the weight of the extra pairs and the penalty of the least held-out error, or by `judge`."""
    errors = {}
    least = np.inf
    choice = None
    for extra_weight in extra_weights:
        factor = _factor(extra_weight, total, more)
        solvers = []
        sums = np.zeros(len(penalties))
        for part in parts:
            others = total.plus(part, -1.0).plus(more, factor)
            solvers.append(_Solver(others, origin, intercept=intercept))
            sums += solvers[-1].errors(part, penalties)
        for penalty, error in zip(penalties, (sums / total.weight).tolist()):
            errors[extra_weight, penalty] = error
            badness = error
            if judge is not None:
                badness = judge([solver.solve(penalty) for solver in solvers])
            if badness < least:
                least = badness
                choice = _Choice(extra_weight, penalty, errors, solvers)
    return choice


def fit_on_main_process(fit: Callable[[], Alignment]) -> Alignment:
    """Fit on the main process, and hand the result to all: they would round otherwise on other machines.

    Args:
        fit: is called without arguments, on the main process alone.

    Raises:
        InputError: `fit` has raised it. Every process raises it.
    """
    outcome = [None, None]
    if PartialState().is_main_process:
        try:
            outcome[0] = fit()
        except InputError as error:
            outcome[1] = str(error)
    alignment, refusal = broadcast_object_list(outcome)
    if refusal is not None:
        raise InputError(refusal)
    return alignment


def assign_folds(n_pairs: int, groups: np.ndarray | None, n_folds: int, seed: int) -> np.ndarray:
    """Assign each pair to a fold `(pairs,)`, all pairs of a group to one, so that folds are about as large.

    The largest groups come first, groups of one size in random order, each to the fold that has fewest pairs.

    Raises:
        InputError: there are fewer groups than folds, or another number of groups than of pairs.
    """
    if groups is None:
        groups = np.arange(n_pairs)
    if len(groups) != n_pairs:
        raise InputError(f"groups has {len(groups)} values for {n_pairs} pairs: give one a pair")
    _, group_of_pair, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < n_folds:
        raise InputError(
            f"n_folds is {n_folds}, and {n_pairs} pairs have {len(sizes)} groups that differ: give more "
            "data, or fewer folds"
        )
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    ordered = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    fold_of_group = np.empty(len(sizes), int)
    smallest = [(0, fold) for fold in range(n_folds)]
    for group in ordered.tolist():
        n_in_fold, fold = smallest[0]
        fold_of_group[group] = fold
        heapq.heapreplace(smallest, (n_in_fold + int(sizes[group]), fold))
    return fold_of_group[group_of_pair]


def _add_up(  # noqa: PLR0913  (the pairs, and how they are added)
    inputs: Rows,
    targets: Rows,
    weights: np.ndarray,
    folds: np.ndarray,
    n_folds: int,
    *,
    moves: bool = False,
    origin: torch.Tensor | None = None,
) -> tuple[list[_Sums], torch.Tensor]:
    """Add up the pairs of each fold, slice by slice, in float64.

    Args:
        moves: subtract the mean of the first slice from all inputs, or products of large means would hide
            how inputs differ.
        origin: what is subtracted from all inputs instead.

    Returns:
        The sums of each fold, and what was subtracted `(inputs,)`.

    Raises:
        InputError: there are no pairs, lengths differ, or a value is not finite.
    """
    n_pairs = len(inputs)
    if n_pairs == 0 or n_pairs != len(targets):
        raise InputError(
            f"there are {n_pairs} inputs and {len(targets)} targets: give as many of both, one at least"
        )
    parts = []
    for start in range(0, n_pairs, _SLICE_ROWS):
        part = slice(start, start + _SLICE_ROWS)
        some_inputs = _as_finite(inputs[part], "inputs", start)
        some_targets = _as_finite(targets[part], "targets", start)
        if origin is None:
            origin = some_inputs.mean(0) if moves else torch.zeros(some_inputs.shape[1], dtype=torch.float64)
        if not parts:
            widths = (some_inputs.shape[1], some_targets.shape[1])
            parts = [_Sums.empty(*widths) for _ in range(n_folds)]
        some_inputs -= origin
        some_weights = torch.from_numpy(weights[part])
        for fold in range(n_folds):
            in_fold = torch.from_numpy(np.flatnonzero(folds[part] == fold))
            parts[fold].add(some_inputs[in_fold], some_targets[in_fold], some_weights[in_fold])
    return parts, origin


def _as_finite(values: np.ndarray | torch.Tensor, name: str, start: int) -> torch.Tensor:
    """Return a copy of rows as float64.

    Raises:
        InputError: they are no matrix, or a value is NaN or infinite.
    """
    values = torch.as_tensor(values).detach().to("cpu", torch.float64, copy=True)
    if values.ndim != 2:
        raise InputError(f"{name} have the shape {tuple(values.shape)}: give rows of numbers, (pairs, width)")
    bad = (~values.isfinite()).any(1).nonzero().flatten()
    if len(bad):
        raise InputError(
            f"{name} have NaN or infinite values, row {start + bad[0].item()} first: leave such rows out"
        )
    return values


def _check_weights(weights: np.ndarray | None, n_pairs: int) -> np.ndarray:
    """Return the weight of each pair, float64 `(pairs,)`.

    Raises:
        InputError: there is another number of them, or one is below 0 or not finite.
    """
    if weights is None:
        return np.ones(n_pairs)
    weights = np.asarray(weights, np.float64)
    if weights.shape != (n_pairs,):
        raise InputError(
            f"weights have the shape {weights.shape} for {n_pairs} pairs: give one number a pair"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError("weights have values below 0, NaN or infinity: give numbers from 0")
    return weights


def _check_settings(n_folds: int, penalties: Sequence[float] | None, extra_weights: Sequence[float]) -> None:
    """Check the number of folds, and what is chosen from.

    Raises:
        InputError: one is out of range.
    """
    if n_folds < 2:
        raise InputError(f"n_folds is {n_folds}: give 2 or more, or no error could be held out")
    for name, values in (("penalties", penalties), ("extra_weights", extra_weights)):
        if values is None:
            continue
        if len(values) == 0 or not all(np.isfinite(value) and value >= 0 for value in values):
            raise InputError(f"{name} are {list(values)}: give one or more numbers from 0")


__all__ = [
    "Alignment",
    "ColumnRows",
    "LinearMap",
    "Rows",
    "assign_folds",
    "fit_alignment",
    "fit_on_main_process",
]
