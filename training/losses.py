"""Losses as functions of embeddings, and the gathering of embeddings from every process.

The plain formulas come first; the same losses in tiles, and the gathering, stand below them. `tile_size` and
`gather_rows` are independent switches: each leaves value and gradients as they are. A loss is computed in
float32, under autocast too: bfloat16 would keep three digits of a logit.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn.functional import cosine_similarity, mse_loss, softplus


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error between the student's and the teacher's embeddings (paper 3.1).

    Args:
        student: embeddings `(texts, dim)`, not normalised.
        teacher: the embeddings that they should equal, of the same shape.

    Returns:
        The mean over all texts and dimensions, a scalar.

    Example:

    ```python
    >>> import torch
    >>> from training import distillation_loss

    >>> distillation_loss(student=torch.zeros(2, 4), teacher=torch.full((2, 4), 0.5))
    tensor(0.2500)
    ```
    """
    # A square of more than 256 is infinite in float16.
    return mse_loss(at_least_float32(student), at_least_float32(teacher))


def cosine_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean of one minus the cosine between the student's and the teacher's embeddings.

    Both are `(texts, dim)`; their lengths are left free. The authors' code offers this loss beside the
    squared error; their paper reports the latter alone.
    """
    return 1 - cosine_similarity(at_least_float32(student), at_least_float32(teacher), dim=-1).mean()


REGRESSIONS = {"mse": distillation_loss, "cosine": cosine_loss}  # of a text's embedding on its target
OBJECTIVES = (*REGRESSIONS, "contrastive")  # of teacher learning
PAIR_LOSSES = ("contrastive", "sigmoid")  # of images with texts: `contrastive_loss` and `sigmoid_loss`


def contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    text_to_image: torch.Tensor | None = None,
    image_ids: torch.Tensor | None = None,
    tile_size: int | None = None,
) -> torch.Tensor:
    """Compute CLIP's symmetric cross-entropy (Radford et al. 2021), with every true pair as a positive.

    A text is compared with all images and an image with all texts; where several are right, the target is
    uniform over them. With one text for each image this is

        logits = logit_scale * text_embeds @ image_embeds.T
        labels = torch.arange(len(logits))
        (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2

    Args:
        image_embeds: unit-length embeddings `(I, dim)`.
        text_embeds: unit-length embeddings `(T, dim)`.
        logit_scale: scalar that cosines are multiplied by: the exponential of a model's parameter of this
            name.
        text_to_image: LongTensor `(T,)`, the row of the image each text describes; the diagonal by default.
        image_ids: LongTensor `(I,)`; images of equal id show the same thing, so the texts of one describe the
            others. Else a caption drawn twice into a batch would be pushed away from an image that it
            describes.
        tile_size: compute the logits in tiles of this many rows and columns, again in backward, and keep
            none: memory then grows with the batch and not with its square.

    Returns:
        The mean of the two directions' mean cross-entropies, a scalar. An image that no text describes is
        left out.

    Raises:
        ValueError: without `text_to_image`, the numbers of images and texts differ; or `tile_size` is not
            positive.

    Example:

    ```python
    >>> import torch
    >>> from training import contrastive_loss

    >>> embeds = torch.eye(4)  # of four images, and equal ones of their texts
    >>> contrastive_loss(embeds, embeds, logit_scale=torch.tensor(10.0), tile_size=2)
    tensor(0.0001)
    ```
    """
    groups = _match(image_embeds, text_embeds, text_to_image, image_ids, tile_size)
    with torch.autocast(text_embeds.device.type, enabled=False):
        texts = at_least_float32(text_embeds)
        images = at_least_float32(image_embeds)
        scale = at_least_float32(logit_scale.reshape(()))
        weights = _weigh(groups, texts.dtype)
        if tile_size is None:
            return _plain_contrast(texts, images, scale, groups, weights)
        return _TiledContrast.apply(texts, images, scale, groups, weights, tile_size)


def caption_losses(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    text_to_image: torch.Tensor,
    image_ids: torch.Tensor | None = None,
    tile_size: int | None = None,
) -> torch.Tensor:
    """Compute each caption's cross-entropy of choosing its image, `(T,)`.

    This is one direction of `contrastive_loss`, whose arguments these are. With one image for each caption
    this is

        cross_entropy(logit_scale * text_embeds @ image_embeds.T, text_to_image, reduction="none")

    A caption has as many candidates whether its image comes with one caption or with four, so the mean of
    this loss compares models of one language with models of four. The other direction, of images choosing
    among captions, does not: with four right ones out of 128 its least value is log 4, with one out of 32 it
    is 0. With `tile_size`, that many rows of logits are held at a time, unless gradients are required.
    """
    groups = _match(image_embeds, text_embeds, text_to_image, image_ids, tile_size)
    losses = []
    with torch.autocast(text_embeds.device.type, enabled=False):
        texts = at_least_float32(text_embeds)
        images = at_least_float32(image_embeds)
        scale = at_least_float32(logit_scale.reshape(()))
        for rows in torch.arange(len(texts), device=texts.device).split(tile_size or len(texts)):
            logits = (scale * texts[rows]) @ images.T
            target = groups.positives(rows)
            # Where several images show the same thing, the label's logit is their mean.
            of_label = (logits * target).sum(1) / target.sum(1)
            losses.append(logits.logsumexp(1) - of_label)
    return torch.cat(losses)


def sigmoid_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    *,
    text_to_image: torch.Tensor | None = None,
    image_ids: torch.Tensor | None = None,
    tile_size: int | None = None,
) -> torch.Tensor:
    """Compute SigLIP's loss (Zhai et al. 2023): each pair of a text and an image is right or wrong by itself.

    With `labels` 1 for right pairs and 0 for wrong ones this is

        logits = logit_scale * text_embeds @ image_embeds.T + logit_bias
        binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(text_embeds)

    Args:
        logit_bias: scalar added to every logit; SigLIP begins at -10, with a scale of 10.

    The other arguments and the errors are those of `contrastive_loss`.

    Returns:
        The sum over all pairs divided by the number of texts, a scalar.

    Example:

    ```python
    >>> import torch
    >>> from training import sigmoid_loss

    >>> embeds = torch.eye(4)  # of four images, and equal ones of their texts
    >>> sigmoid_loss(embeds, embeds, logit_scale=torch.tensor(10.0), logit_bias=torch.tensor(-10.0))
    tensor(0.6933)
    ```
    """
    groups = _match(image_embeds, text_embeds, text_to_image, image_ids, tile_size)
    with torch.autocast(text_embeds.device.type, enabled=False):
        texts = at_least_float32(text_embeds)
        images = at_least_float32(image_embeds)
        scale = at_least_float32(logit_scale.reshape(()))
        bias = at_least_float32(logit_bias.reshape(()))
        if tile_size is not None:
            return _TiledSigmoid.apply(texts, images, scale, bias, groups, tile_size)

        logits = scale * texts @ images.T + bias
        of_pairs = softplus(logits) - logits * groups.positives()
        return of_pairs.sum() / len(texts)


def _sum_over_tiles(like: torch.Tensor) -> torch.Tensor:
    """Return a zero `()` to add the sums of all tiles to, on the device of `like`.

    In float32 it would lose digits that the plain formula keeps.
    """
    return torch.zeros((), dtype=_widest_dtype(like.device), device=like.device)


def _widest_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for a device that has none: MPS, the GPU of a Mac."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Convert to float32; float64 stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class _Groups(NamedTuple):
    """A number for each text and each image; a text describes the images of its number."""

    of_texts: torch.Tensor  # (T,)
    of_images: torch.Tensor  # (I,)

    def positives(
        self, rows: slice | torch.Tensor = slice(None), columns: slice = slice(None)
    ) -> torch.Tensor:
        """Return which pairs of the given texts and images are right, `(rows, columns)` of bool."""
        return self.of_texts[rows][:, None] == self.of_images[columns][None]


class _Weights(NamedTuple):
    """The weight of each term of a contrastive loss, so that their sum is the mean of both directions."""

    of_texts: torch.Tensor  # (T,), for a text's log-sum-exp over the images
    of_images: torch.Tensor  # (I,), for an image's over the texts
    of_positives: torch.Tensor  # (T, 1), for a text's logit with each of its images


def _match(image_embeds, text_embeds, text_to_image, image_ids, tile_size) -> _Groups:
    """Check the arguments of a loss and number its positives."""
    if tile_size is not None and tile_size < 1:
        raise ValueError(
            f"tile_size is {tile_size}: give a number of rows, such as 1024, or None for no tiles"
        )
    n_texts = len(text_embeds)
    n_images = len(image_embeds)
    if text_to_image is None:
        if n_texts != n_images:
            raise ValueError(
                f"{n_texts} texts for {n_images} images: pass text_to_image to say which is whose"
            )
        text_to_image = torch.arange(n_texts, device=text_embeds.device)
    elif len(text_to_image) != n_texts:
        raise ValueError(
            f"text_to_image has {len(text_to_image)} rows for {n_texts} texts: give one image row per text"
        )

    if image_ids is None:
        image_ids = torch.arange(n_images, device=image_embeds.device)
    # image_ids [7, 3, 7] -> [1, 0, 1], so that group numbers can be counted with bincount
    _, of_images = image_ids.unique(return_inverse=True)
    return _Groups(of_images[text_to_image], of_images)


def _weigh(groups: _Groups, dtype: torch.dtype) -> _Weights:
    """Return the weights with which `contrastive_loss` adds its terms.

    Three texts, the first two of image 0, the third of image 1 and none of image 2: each text weighs 1/2 x
    1/3, each of the two described images 1/2 x 1/2, and image 2 nothing.
    """
    n_groups = len(groups.of_images)
    texts_of_group = groups.of_texts.bincount(minlength=n_groups)
    images_of_group = groups.of_images.bincount(minlength=n_groups)
    described = texts_of_group[groups.of_images] > 0

    n_texts = len(groups.of_texts)
    per_text = groups.of_texts.new_tensor(0.5 / n_texts, dtype=dtype)
    per_image = 0.5 / described.sum(dtype=dtype)

    # A text's target is uniform over its images, and an image's over its texts.
    from_text = per_text / images_of_group[groups.of_texts]
    from_image = per_image / texts_of_group[groups.of_texts]
    of_positives = from_text + from_image
    return _Weights(per_text.expand(n_texts), described * per_image, of_positives[:, None])


def _plain_contrast(
    texts: torch.Tensor, images: torch.Tensor, scale: torch.Tensor, groups: _Groups, weights: _Weights
) -> torch.Tensor:
    """Compute `contrastive_loss` with all logits in memory.

    A cross-entropy is the log-sum-exp of a row minus the logit of the label, and here both are already
    weighted: rows are texts that choose an image, columns are images that choose a text.
    """
    logits = scale * texts @ images.T
    target = groups.positives() * weights.of_positives
    by_text = weights.of_texts @ logits.logsumexp(1)
    by_image = weights.of_images @ logits.logsumexp(0)
    return by_text + by_image - (logits * target).sum()


def _tiles(n_texts: int, n_images: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of each tile of the logits, row by row."""
    for row in range(0, n_texts, size):
        for column in range(0, n_images, size):
            yield slice(row, row + size), slice(column, column + size)


class _TiledContrast(torch.autograd.Function):
    """`contrastive_loss` in tiles: a pass for the log-sum-exps of rows and columns, another for gradients.

    Every row and column has a running maximum of its own. With one fixed bound, a row of dissimilar pairs
    only would underflow to a sum of zero at a scale of 100.
    """

    @staticmethod
    def forward(
        ctx, texts, images, scale, groups: _Groups, weights: _Weights, tile_size: int
    ) -> torch.Tensor:
        of_texts = _RunningLogSumExp(texts)
        of_images = _RunningLogSumExp(images)
        of_positives = _sum_over_tiles(texts)
        for rows, columns in _tiles(len(texts), len(images), tile_size):
            logits = (scale * texts[rows]) @ images[columns].T
            of_texts.add(rows, logits, dim=1)
            of_images.add(columns, logits, dim=0)
            positives = groups.positives(rows, columns)
            of_positives += (logits * positives * weights.of_positives[rows]).sum()

        by_text = of_texts.result()
        by_image = of_images.result()
        ctx.tile_size = tile_size
        ctx.save_for_backward(texts, images, scale, *groups, *weights, by_text, by_image)
        loss = weights.of_texts @ by_text + weights.of_images @ by_image - of_positives
        return loss.to(texts.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        texts, images, scale, *rest = ctx.saved_tensors
        groups = _Groups(*rest[:2])
        weights = _Weights(*rest[2:5])
        by_text, by_image = rest[5:]

        def of_logits(rows: slice, columns: slice) -> torch.Tensor:
            # exp(logit - logsumexp) is the softmax: over images for a row, over texts for a column.
            logits = (scale * texts[rows]) @ images[columns].T
            of_columns = (logits - by_image[columns]).exp_().mul_(weights.of_images[columns])
            of_rows = logits.sub_(by_text[rows, None]).exp_().mul_(weights.of_texts[rows, None])
            target = groups.positives(rows, columns) * weights.of_positives[rows]
            return of_rows.add_(of_columns).sub_(target)

        of_texts, of_images, of_scale, _ = _gradients(ctx, texts, images, scale, gradient, of_logits)
        return of_texts, of_images, of_scale, None, None, None


class _TiledSigmoid(torch.autograd.Function):
    """`sigmoid_loss` in tiles."""

    @staticmethod
    def forward(ctx, texts, images, scale, bias, groups: _Groups, tile_size: int) -> torch.Tensor:
        total = _sum_over_tiles(texts)
        for rows, columns in _tiles(len(texts), len(images), tile_size):
            logits = (scale * texts[rows]) @ images[columns].T + bias
            total += (softplus(logits) - logits * groups.positives(rows, columns)).sum()
        ctx.tile_size = tile_size
        ctx.save_for_backward(texts, images, scale, bias, *groups)
        return (total / len(texts)).to(texts.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        texts, images, scale, bias, *groups = ctx.saved_tensors
        groups = _Groups(*groups)

        def of_logits(rows: slice, columns: slice) -> torch.Tensor:
            logits = (scale * texts[rows]) @ images[columns].T + bias
            labels = groups.positives(rows, columns).to(logits.dtype)
            return logits.sigmoid_().sub_(labels).div_(len(texts))

        of_inputs = _gradients(ctx, texts, images, scale, gradient, of_logits)
        return *of_inputs, None, None


def _gradients(ctx, texts, images, scale, gradient, of_logits: Callable[[slice, slice], torch.Tensor]):
    """Return the gradients of texts, images, scale and bias, from the logits' gradients tile by tile.

    The gradient of a frozen side is None.
    """
    learns_texts, learns_images = ctx.needs_input_grad[:2]
    of_texts = torch.zeros_like(texts)
    of_images = torch.zeros_like(images) if learns_images else None
    of_bias = _sum_over_tiles(texts)
    with torch.autocast(texts.device.type, enabled=False):
        for rows, columns in _tiles(len(texts), len(images), ctx.tile_size):
            of_tile = of_logits(rows, columns)
            of_bias += of_tile.sum()
            of_texts[rows].addmm_(of_tile, images[columns])
            if learns_images:
                of_images[columns].addmm_(of_tile.T, texts[rows])
        # Each logit is scale times a cosine. This needs the gradients of texts even where texts are frozen.
        of_scale = gradient * torch.dot(of_texts.flatten(), texts.flatten())

    factor = gradient * scale
    of_texts = of_texts.mul_(factor) if learns_texts else None
    if learns_images:
        of_images.mul_(factor)
    of_bias = gradient * of_bias.to(gradient.dtype)
    return of_texts, of_images, of_scale, of_bias


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


class _AllGather(torch.autograd.Function):
    """Rows of all processes in rank order; backward sums their gradients over all processes' losses."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        ctx.count = len(rows)
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # it may be another's too
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.count
        return gradient[start : start + ctx.count]


def gather_unequal(rows: torch.Tensor) -> torch.Tensor:
    """Gather all processes' rows as `gather_rows` does, where processes bring unequally many."""
    if not _has_several_processes():
        return rows
    counts = [torch.empty((), dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(len(rows), device=rows.device))

    # counts 3 and 2: [a b c] and [d e 0] are gathered as [a b c d e 0] -> [a b c d e]
    longest = max(counts)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    parts = gather_rows(padded).split(longest.item())
    return torch.cat([part[:count] for part, count in zip(parts, counts)])


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Gather all processes' rows as `(processes x rows, ...)`, with gradient; one process gets `rows` itself.

    When each process then computes the loss of the whole batch and DDP averages gradients, they equal those
    of one process with that batch.

    Args:
        rows: `(rows, ...)`, equally many in every process.

    Returns:
        The rows of all processes, in the order of their ranks.

    Example:

    ```python
    >>> import torch
    >>> from training import gather_rows

    >>> gather_rows(torch.ones(3, 2)).shape  # in each of two processes: torch.Size([6, 2])
    torch.Size([3, 2])
    ```
    """
    return _AllGather.apply(rows) if _has_several_processes() else rows


def _has_several_processes() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
