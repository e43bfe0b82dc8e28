"""The losses of pairs computed from one tile of logits at a time; `losses.py` has the same without tiles.

No tile is kept. Forward computes each once. Backward computes it again, and multiplies its gradients with
both embeddings. Memory that is linear in the batch allows no fewer than these four products, which take
nearly all of the time:

- Products are taken by the faster of the libraries that PyTorch contains.
- Right pairs need no masks: the sum of a text's logits with all its images is its product with their sum.
- One exponential of each logit serves both directions of a contrastive loss; see `_shift`.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from modeling_altclip.linear_altclip import linear

from .positives import Groups, Weights

# Turns a tile of logits, at these rows and columns, into their gradients but for the right pairs; in place.
_Differentiate = Callable[[slice, slice, torch.Tensor], None]


class TiledContrast(torch.autograd.Function):
    """`contrastive_loss` in tiles: a pass for the log-sum-exps of rows and columns, another for gradients."""

    @staticmethod
    def forward(ctx, texts, images, scale, groups: Groups, weights: Weights, tile_size: int) -> torch.Tensor:
        shift = _shift(texts, images, scale)
        of_texts, of_images = _sum_exponentials(texts, images, scale, shift, tile_size)
        ctx.is_shared = _is_complete(of_texts, len(images)) and _is_complete(of_images, len(texts))
        wide = _widest_dtype(texts.device)
        if ctx.is_shared:
            by_text = of_texts.to(wide).log() + shift
            by_image = of_images.to(wide).log() + shift
            saved = (weights.of_texts / of_texts, weights.of_images / of_images, shift)
        else:
            by_text, by_image = _log_sum_exps(texts, images, scale, tile_size)
            saved = (weights.of_texts, weights.of_images, by_text, by_image)

        ctx.tile_size = tile_size
        ctx.save_for_backward(texts, images, scale, *groups, weights.of_positives, *saved)
        of_positives = _sum_positives(texts, images, scale, groups, weights.of_positives)
        by_texts = weights.of_texts.to(wide) @ by_text.to(wide)
        by_images = weights.of_images.to(wide) @ by_image.to(wide)
        return (by_texts + by_images - of_positives).to(texts.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        texts, images, _, of_texts, of_images, of_positives, *saved = ctx.saved_tensors
        groups = Groups(of_texts, of_images)
        softmaxes = _shared_softmaxes if ctx.is_shared else _separate_softmaxes
        differentiate = softmaxes(_buffer(texts, images, ctx.tile_size), *saved)
        of_inputs = _gradients(ctx, gradient, groups, of_positives, differentiate)
        return *of_inputs, None, None, None


class TiledSigmoid(torch.autograd.Function):
    """`sigmoid_loss` in tiles."""

    @staticmethod
    def forward(ctx, texts, images, scale, bias, groups: Groups, tile_size: int) -> torch.Tensor:
        of_all = _zero(texts)
        for _, _, logits in _tiles(texts, images, scale, tile_size):
            of_all += softplus(logits.add_(bias)).sum(dtype=of_all.dtype)

        ctx.tile_size = tile_size
        ctx.save_for_backward(texts, images, scale, bias, *groups)
        of_positives = _sum_positives(texts, images, scale, groups, texts.new_ones(len(texts), 1))
        of_positives += bias * groups.count_positives()
        return ((of_all - of_positives) / len(texts)).to(texts.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        texts, _, _, bias, *groups = ctx.saved_tensors
        groups = Groups(*groups)
        of_bias = _zero(texts)

        def differentiate(rows: slice, columns: slice, logits: torch.Tensor) -> None:
            logits.add_(bias).sigmoid_()
            of_bias.add_(logits.sum(dtype=of_bias.dtype))

        of_pair = gradient / len(texts)
        of_positives = texts.new_ones(len(texts), 1)
        of_inputs = _gradients(ctx, of_pair, groups, of_positives, differentiate)
        of_bias = of_pair * (of_bias - groups.count_positives()).to(of_pair.dtype)
        return *of_inputs, of_bias, None, None


def _gradients(
    ctx, gradient: torch.Tensor, groups: Groups, of_positives: torch.Tensor, differentiate: _Differentiate
):
    """Return the gradients of texts, images and scale; that of a frozen side is None.

    Args:
        ctx: what forward has saved, texts, images and scale first.
        gradient: what the gradients of all logits are multiplied by, a scalar.
        of_positives: `(T, 1)`, what is subtracted from the gradients of a text's logits with its images.
        differentiate: computes the gradients of a tile's logits but for that.
    """
    texts, images, scale, *_ = ctx.saved_tensors
    learns_texts, learns_images = ctx.needs_input_grad[:2]
    of_texts = torch.zeros_like(texts)
    of_images = torch.zeros_like(images) if learns_images else None
    with torch.autocast(texts.device.type, enabled=False):
        _subtract_positives(of_texts, of_images, texts, images, groups, of_positives)
        for rows, columns, logits in _tiles(texts, images, scale, ctx.tile_size):
            differentiate(rows, columns, logits)
            of_texts[rows] += linear(logits, images[columns].T)
            if learns_images:
                of_images[columns] += linear(logits.T, texts[rows].T)
        # Each logit is scale times a cosine. This needs the gradients of texts even where texts are frozen.
        of_scale = gradient * torch.dot(of_texts.flatten(), texts.flatten())

    factor = gradient * scale
    of_texts = of_texts.mul_(factor) if learns_texts else None
    if learns_images:
        of_images.mul_(factor)
    return of_texts, of_images, of_scale


# ---- Tiles ----


def _tiles(
    texts: torch.Tensor, images: torch.Tensor, scale: torch.Tensor, size: int
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yield rows, columns and logits of each tile. The logits may be overwritten."""
    for rows in _parts(len(texts), size):
        scaled = scale * texts[rows]
        for columns in _parts(len(images), size):
            yield rows, columns, linear(scaled, images[columns])


def _parts(length: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover a length."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _buffer(texts: torch.Tensor, images: torch.Tensor, tile_size: int) -> torch.Tensor:
    """Return memory for the largest tile."""
    return texts.new_empty(min(tile_size, len(texts)) * min(tile_size, len(images)))


def _of_shape(buffer: torch.Tensor, n_rows: int, n_columns: int) -> torch.Tensor:
    """Return the beginning of a buffer as a matrix; the last tiles of a row or column are smaller."""
    return buffer[: n_rows * n_columns].view(n_rows, n_columns)


# ---- Log-sum-exps and softmaxes of rows and columns ----


def _shift(texts: torch.Tensor, images: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return a number to subtract from all logits, so that one exponential serves rows and columns.

    No logit exceeds the scale times the longest embeddings. In float32 the exponential of a number between
    -87 and 88 can be stored. The largest logit is put so high that the weight of a text divided by its sum
    over the images, at least 1 / (2 n) by n exponentials, is still stored: for 16,384 pairs at a scale of 100
    it becomes 66, and a logit of -53 becomes -87.
    """
    n_terms = max(len(texts), len(images))
    highest = -math.log(torch.finfo(texts.dtype).tiny) - 2 * math.log(n_terms) - 2
    bound = scale * texts.norm(dim=1).max() * images.norm(dim=1).max()
    return (bound - highest).clamp(min=0)


def _sum_exponentials(
    texts: torch.Tensor, images: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, tile_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums of the exponentials of all logits less `shift`, by text `(T,)` and by image `(I,)`."""
    of_texts = texts.new_zeros(len(texts))
    of_images = images.new_zeros(len(images))
    for rows, columns, logits in _tiles(texts, images, scale, tile_size):
        exponentials = logits.sub_(shift).exp_()
        of_texts[rows] += exponentials.sum(1)
        of_images[columns] += exponentials.sum(0)
    return of_texts, of_images


def _is_complete(sums: torch.Tensor, n_terms: int) -> bool:
    """Check that what a sum of exponentials lacks is below its own precision. A GPU is waited for.

    Exponentials below the smallest number of the data type are lost. Of 16,384 pairs at a scale of 100, this
    matters to a text whose largest cosine, that with its own image included, is below -0.3.
    """
    numbers = torch.finfo(sums.dtype)
    most_lost = n_terms * numbers.tiny
    return bool((sums > most_lost / numbers.eps).all())


def _shared_softmaxes(
    buffer: torch.Tensor, of_texts: torch.Tensor, of_images: torch.Tensor, shift: torch.Tensor
) -> _Differentiate:
    """Return a function that computes the sum of both weighted softmaxes by one exponential.

    Args:
        buffer: memory for a tile.
        of_texts, of_images: the weight of each text and image, divided by its sum of exponentials.
        shift: what these exponentials are taken against.
    """

    def differentiate(rows: slice, columns: slice, logits: torch.Tensor) -> None:
        factors = _of_shape(buffer, *logits.shape)
        torch.add(of_texts[rows, None], of_images[columns], out=factors)
        logits.sub_(shift).exp_().mul_(factors)

    return differentiate


def _separate_softmaxes(
    buffer: torch.Tensor,
    of_texts: torch.Tensor,
    of_images: torch.Tensor,
    by_text: torch.Tensor,
    by_image: torch.Tensor,
) -> _Differentiate:
    """Return a function that computes the same from the weights and log-sum-exps of texts and images."""

    def differentiate(rows: slice, columns: slice, logits: torch.Tensor) -> None:
        # exp(logit - logsumexp) is the softmax: over images for a row, over texts for a column.
        of_columns = _of_shape(buffer, *logits.shape)
        torch.sub(logits, by_image[columns], out=of_columns).exp_().mul_(of_images[columns])
        logits.sub_(by_text[rows, None]).exp_().mul_(of_texts[rows, None]).add_(of_columns)

    return differentiate


def _log_sum_exps(
    texts: torch.Tensor, images: torch.Tensor, scale: torch.Tensor, tile_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-sum-exps of any logits, by text `(T,)` and by image `(I,)`, by two exponentials each."""
    of_texts = _RunningLogSumExp(texts)
    of_images = _RunningLogSumExp(images)
    for rows, columns, logits in _tiles(texts, images, scale, tile_size):
        of_texts.add(rows, logits, dim=1)
        of_images.add(columns, logits, dim=0)
    return of_texts.result(), of_images.result()


class _RunningLogSumExp:
    """The log of summed exponentials of each row, or column, of a matrix that is seen a tile at a time."""

    def __init__(self, rows: torch.Tensor):
        self.maximum = rows.new_full((len(rows),), -torch.inf)
        self.total = rows.new_zeros(len(rows))  # the sum of exp(logit - maximum)

    def add(self, part: slice, logits: torch.Tensor, dim: int) -> None:
        """Add a tile of logits to the rows, or columns, of `part`; `dim` is the one to sum over."""
        maximum = self.maximum[part]
        total = self.total[part]
        larger = torch.maximum(maximum, logits.amax(dim))
        of_tile = (logits - larger.unsqueeze(dim)).exp_().sum(dim)
        # The sum so far was taken against the old maximum. Both are views, written in place.
        total.mul_((maximum - larger).exp_()).add_(of_tile)
        maximum.copy_(larger)

    def result(self) -> torch.Tensor:
        """Return the log-sum-exps; the sums are overwritten."""
        return self.total.log_().add_(self.maximum)


# ---- Right pairs ----


def _sum_positives(
    texts: torch.Tensor, images: torch.Tensor, scale: torch.Tensor, groups: Groups, weights: torch.Tensor
) -> torch.Tensor:
    """Return the sum of the logits of right pairs, each times the weight of its text, `(T, 1)`."""
    total = _zero(texts)
    for dims in _parts(texts.shape[1], _DIMS_AT_ONCE):
        images_of_group = groups.sum_images(images[:, dims])
        products = texts[:, dims] * images_of_group[groups.of_texts]
        total += products.mul_(weights).sum(dtype=total.dtype)
    return scale * total


def _subtract_positives(
    of_texts: torch.Tensor,
    of_images: torch.Tensor | None,
    texts: torch.Tensor,
    images: torch.Tensor,
    groups: Groups,
    weights: torch.Tensor,
) -> None:
    """Subtract the gradients of `_sum_positives`, but for the scale, from those of texts and images."""
    for dims in _parts(texts.shape[1], _DIMS_AT_ONCE):
        images_of_group = groups.sum_images(images[:, dims])
        of_texts[:, dims] -= images_of_group[groups.of_texts].mul_(weights)
        if of_images is not None:
            texts_of_group = groups.sum_texts(texts[:, dims] * weights)
            of_images[:, dims] -= texts_of_group[groups.of_images]


_DIMS_AT_ONCE = 32  # Sums over a group are taken of so many dimensions, to need less memory than a tile does.


# ---- Precision ----


def _zero(like: torch.Tensor) -> torch.Tensor:
    """Return a zero `()` to add the sums of all tiles to, on the device of `like`.

    In float32 it would lose digits that the plain formula keeps.
    """
    return torch.zeros((), dtype=_widest_dtype(like.device), device=like.device)


def _widest_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for a device that has none: MPS, the GPU of a Mac."""
    return torch.float32 if device.type == "mps" else torch.float64


__all__ = ["TiledContrast", "TiledSigmoid"]
