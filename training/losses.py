"""Losses as functions of embeddings, and the gathering that lets them see every process's share of a batch.

`tile_size` and `gather_rows` are independent switches: each leaves value and gradients as they are. A loss is computed in
float32, under autocast too: bfloat16 would keep three digits of a logit.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn.functional import cosine_similarity, mse_loss, softplus


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared error between the student's vectors and the teacher's, both `(texts, dim)`, not normalised (paper 3.1)."""
    return mse_loss(student, teacher)


def cosine_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean of one minus the cosine between the student's vectors and the teacher's, both `(texts, dim)`; lengths are left free.

    The authors' code offers it beside the squared error; their paper reports the latter alone.
    """
    return 1 - cosine_similarity(student, teacher, dim=-1).mean()


OBJECTIVES = {"mse": distillation_loss, "cosine": cosine_loss}  # of teacher learning


def contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    text_to_image: torch.Tensor | None = None,
    image_ids: torch.Tensor | None = None,
    tile_size: int | None = None,
) -> torch.Tensor:
    """CLIP's symmetric cross-entropy, with every true pair of the batch as a positive.

    A text is compared with all images and an image with all texts; where several are right, the target is uniform over them.

    Args:
        image_embeds: unit vectors `(I, dim)`.
        text_embeds: unit vectors `(T, dim)`.
        logit_scale: scalar that cosines are multiplied by: the exponential of a model's parameter of this name.
        text_to_image: LongTensor `(T,)`, the row of the image each text describes; the diagonal by default.
        image_ids: LongTensor `(I,)`; images of equal id show the same thing, so the texts of one describe the others. Else
            a caption drawn twice into a batch would be pushed away from a picture that it describes.
        tile_size: compute the logits in tiles of this many rows and columns, again in backward, and keep none: memory then
            grows with the batch and not with its square.

    Returns:
        The mean of the two directions' mean cross-entropies, a scalar. An image that no text describes has no share in it.

    Raises:
        ValueError: without `text_to_image`, the numbers of images and texts differ; or `tile_size` is not positive.
    """
    text_groups, image_groups = _groups(image_embeds, text_embeds, text_to_image, image_ids, tile_size)
    with torch.autocast(text_embeds.device.type, enabled=False):
        inputs = tuple(map(_full, (text_embeds, image_embeds, logit_scale.reshape(()))))
        shares = _shares(text_groups, image_groups, inputs[0].dtype)
        if tile_size is not None:
            return _TiledContrast.apply(*inputs, text_groups, image_groups, shares, tile_size)
        texts, images, scale = inputs
        logits = scale * texts @ images.T
        wanted = _positives(text_groups, image_groups) * shares.of_positives
        by_text, by_image = shares.of_texts @ logits.logsumexp(1), shares.of_images @ logits.logsumexp(0)
        return by_text + by_image - (logits * wanted).sum()


def caption_losses(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    text_to_image: torch.Tensor,
    image_ids: torch.Tensor | None = None,
    tile_size: int | None = None,
) -> torch.Tensor:
    """Each caption's cross-entropy of choosing its image, `(T,)`: one direction of `contrastive_loss`, whose arguments these are.

    It has as many candidates whether an image comes with one caption or with four, so that its mean compares such models. That of
    images choosing among captions does not: with four right ones out of 128 its least value is log 4, with one out of 32 it is 0.
    With `tile_size`, that many rows of logits are held at a time, unless gradients are asked for.
    """
    text_groups, image_groups = _groups(image_embeds, text_embeds, text_to_image, image_ids, tile_size)
    losses = []
    with torch.autocast(text_embeds.device.type, enabled=False):
        texts, images, scale = map(_full, (text_embeds, image_embeds, logit_scale.reshape(())))
        for rows in torch.arange(len(texts), device=texts.device).split(tile_size or len(texts)):
            logits, wanted = (scale * texts[rows]) @ images.T, _positives(text_groups[rows], image_groups)
            losses.append(logits.logsumexp(1) - (logits * wanted).sum(1) / wanted.sum(1))
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
    """SigLIP's loss (Zhai et al. 2023): each pair of a text and an image by itself is right or wrong.

    Args:
        logit_bias: scalar added to every logit; SigLIP begins at -10, with a scale of 10.

    The other arguments and the errors are those of `contrastive_loss`.

    Returns:
        The sum over all pairs divided by the number of texts, a scalar.
    """
    text_groups, image_groups = _groups(image_embeds, text_embeds, text_to_image, image_ids, tile_size)
    with torch.autocast(text_embeds.device.type, enabled=False):
        inputs = tuple(
            map(_full, (text_embeds, image_embeds, logit_scale.reshape(()), logit_bias.reshape(())))
        )
        if tile_size is not None:
            return _TiledSigmoid.apply(*inputs, text_groups, image_groups, tile_size)
        texts, images, scale, bias = inputs
        logits = scale * texts @ images.T + bias
        return (softplus(logits) - logits * _positives(text_groups, image_groups)).sum() / len(texts)


def _full(values: torch.Tensor) -> torch.Tensor:
    """In float32, or in float64 if it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class _Shares(NamedTuple):
    """What each part weighs in a contrastive loss; together they make both directions' means and their mean."""

    of_texts: torch.Tensor  # (T,), for a text's log-sum-exp over the images
    of_images: torch.Tensor  # (I,), for an image's over the texts
    of_positives: torch.Tensor  # (T, 1), for a text's logit with each of its images


def _groups(
    image_embeds, text_embeds, text_to_image, image_ids, tile_size
) -> tuple[torch.Tensor, torch.Tensor]:
    """A number for each text `(T,)` and each image `(I,)`; a text describes the images of its number."""
    n_texts, n_images = len(text_embeds), len(image_embeds)
    if tile_size is not None and tile_size < 1:
        raise ValueError(
            f"tile_size is {tile_size}: give a number of rows, such as 1024, or None for no tiles"
        )
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
    _, groups = image_ids.unique(return_inverse=True)
    return groups[text_to_image], groups


def _shares(text_groups: torch.Tensor, image_groups: torch.Tensor, dtype: torch.dtype) -> _Shares:
    n_groups = len(image_groups)
    texts_of_group, images_of_group = (
        text_groups.bincount(minlength=n_groups),
        image_groups.bincount(minlength=n_groups),
    )
    described = texts_of_group[image_groups] > 0
    per_text, per_image = (
        text_groups.new_tensor(0.5 / len(text_groups), dtype=dtype),
        0.5 / described.sum(dtype=dtype),
    )
    of_positives = per_text / images_of_group[text_groups] + per_image / texts_of_group[text_groups]
    return _Shares(per_text.expand(len(text_groups)), described * per_image, of_positives[:, None])


def _positives(text_groups: torch.Tensor, image_groups: torch.Tensor) -> torch.Tensor:
    return text_groups[:, None] == image_groups[None]


def _tiles(n_texts: int, n_images: int, size: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, n_texts, size):
        for column in range(0, n_images, size):
            yield slice(row, row + size), slice(column, column + size)


class _TiledContrast(torch.autograd.Function):
    """`contrastive_loss` in tiles: one pass for the log-sum-exps of rows and columns, and one for all gradients.

    Every row and column has a running maximum of its own. With one fixed bound, a row of dissimilar pairs only would
    underflow to a sum of zero at a scale of 100.
    """

    @staticmethod
    def forward(
        ctx, texts, images, scale, text_groups, image_groups, shares: _Shares, tile_size: int
    ) -> torch.Tensor:
        by_text, by_image = _RunningLogSumExp(texts), _RunningLogSumExp(images)
        wanted = torch.zeros((), dtype=torch.float64, device=texts.device)
        for rows, columns in _tiles(len(texts), len(images), tile_size):
            logits = (scale * texts[rows]) @ images[columns].T
            by_text.add(rows, logits, dim=1)
            by_image.add(columns, logits, dim=0)
            positive = _positives(text_groups[rows], image_groups[columns])
            wanted += (logits * positive * shares.of_positives[rows]).sum()
        by_text, by_image = by_text.result(), by_image.result()
        ctx.tile_size = tile_size
        ctx.save_for_backward(texts, images, scale, text_groups, image_groups, *shares, by_text, by_image)
        return (shares.of_texts @ by_text + shares.of_images @ by_image - wanted).to(texts.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        (
            texts,
            images,
            scale,
            text_groups,
            image_groups,
            of_texts,
            of_images,
            of_positives,
            by_text,
            by_image,
        ) = ctx.saved_tensors

        def of_logits(rows: slice, columns: slice) -> torch.Tensor:
            logits = (scale * texts[rows]) @ images[columns].T
            of_columns = (logits - by_image[columns]).exp_().mul_(of_images[columns])
            of_rows = logits.sub_(by_text[rows, None]).exp_().mul_(of_texts[rows, None])
            positive = _positives(text_groups[rows], image_groups[columns])
            return of_rows.add_(of_columns).sub_(positive * of_positives[rows])

        return *_gradients(ctx, texts, images, scale, gradient, of_logits)[:3], None, None, None, None


class _TiledSigmoid(torch.autograd.Function):
    """`sigmoid_loss` in tiles."""

    @staticmethod
    def forward(ctx, texts, images, scale, bias, text_groups, image_groups, tile_size: int) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64, device=texts.device)
        for rows, columns in _tiles(len(texts), len(images), tile_size):
            logits = (scale * texts[rows]) @ images[columns].T + bias
            total += (softplus(logits) - logits * _positives(text_groups[rows], image_groups[columns])).sum()
        ctx.tile_size = tile_size
        ctx.save_for_backward(texts, images, scale, bias, text_groups, image_groups)
        return (total / len(texts)).to(texts.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        texts, images, scale, bias, text_groups, image_groups = ctx.saved_tensors

        def of_logits(rows: slice, columns: slice) -> torch.Tensor:
            logits = (scale * texts[rows]) @ images[columns].T + bias
            positive = _positives(text_groups[rows], image_groups[columns])
            return logits.sigmoid_().sub_(positive.to(logits.dtype)).div_(len(texts))

        return *_gradients(ctx, texts, images, scale, gradient, of_logits), None, None, None


def _gradients(ctx, texts, images, scale, gradient, of_logits: Callable[[slice, slice], torch.Tensor]):
    """Gradients of texts, images, scale and bias, tile by tile from those of the logits. A frozen side's is not computed."""
    learns_texts, learns_images = ctx.needs_input_grad[:2]
    of_texts = torch.zeros_like(texts)
    of_images = torch.zeros_like(images) if learns_images else None
    of_bias = torch.zeros((), dtype=torch.float64, device=texts.device)
    with torch.autocast(texts.device.type, enabled=False):
        for rows, columns in _tiles(len(texts), len(images), ctx.tile_size):
            of_tile = of_logits(rows, columns)
            of_bias += of_tile.sum()
            of_texts[rows].addmm_(of_tile, images[columns])
            if learns_images:
                of_images[columns].addmm_(of_tile.T, texts[rows])
        of_scale = gradient * torch.dot(
            of_texts.flatten(), texts.flatten()
        )  # each logit is scale times a cosine
    factor = gradient * scale
    return (
        of_texts.mul_(factor) if learns_texts else None,
        of_images.mul_(factor) if learns_images else None,
        of_scale,
        gradient * of_bias.to(gradient.dtype),
    )


class _RunningLogSumExp:
    """The log of summed exponentials of each row, or column, of a matrix that is seen a tile at a time."""

    def __init__(self, rows: torch.Tensor):
        self.maximum = rows.new_full((len(rows),), -torch.inf)
        self.total = rows.new_zeros(len(rows))

    def add(self, part: slice, logits: torch.Tensor, dim: int) -> None:
        maximum, total = self.maximum[part], self.total[part]
        larger = torch.maximum(maximum, logits.amax(dim))
        total.mul_((maximum - larger).exp_()).add_((logits - larger.unsqueeze(dim)).exp_().sum(dim))
        maximum.copy_(larger)

    def result(self) -> torch.Tensor:
        return self.total.log_().add_(self.maximum)


class _AllGather(torch.autograd.Function):
    """Rows of all processes in rank order; backward sums what every process's loss asks of these rows."""

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
    """`gather_rows` of processes that bring unequally many rows."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    counts = [torch.empty((), dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(len(rows), device=rows.device))
    longest = max(counts)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    return torch.cat([part[:count] for part, count in zip(gather_rows(padded).split(longest.item()), counts)])


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """All processes' rows `(processes x rows, ...)`, with gradient; `rows` itself where there is one process.

    Every process must bring equally many. When each then computes the loss of the whole batch and DDP averages gradients,
    they equal those of one process with that batch.
    """
    return _AllGather.apply(rows) if dist.is_initialized() and dist.get_world_size() > 1 else rows
