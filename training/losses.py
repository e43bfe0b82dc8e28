"""Losses as functions of embeddings, and the gathering of embeddings from every process.

The plain formulas are here; `tiled_losses.py` has the same losses in tiles. `tile_size` and `gather_rows` are
independent switches: each leaves value and gradients as they are. A loss is computed in float32, under
autocast too: bfloat16 would keep three digits of a logit.
"""

import torch
import torch.distributed as dist
from torch.nn.functional import cosine_similarity, mse_loss, softplus

from .positives import Groups, Weights, match, weigh
from .tiled_losses import TiledContrast, TiledSigmoid


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
    groups = match(image_embeds, text_embeds, text_to_image, image_ids, tile_size)
    with torch.autocast(text_embeds.device.type, enabled=False):
        texts = at_least_float32(text_embeds)
        images = at_least_float32(image_embeds)
        scale = at_least_float32(logit_scale.reshape(()))
        weights = weigh(groups, texts.dtype)
        if tile_size is None:
            return _plain_contrast(texts, images, scale, groups, weights)
        return TiledContrast.apply(texts, images, scale, groups, weights, tile_size)


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
    groups = match(image_embeds, text_embeds, text_to_image, image_ids, tile_size)
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
    groups = match(image_embeds, text_embeds, text_to_image, image_ids, tile_size)
    with torch.autocast(text_embeds.device.type, enabled=False):
        texts = at_least_float32(text_embeds)
        images = at_least_float32(image_embeds)
        scale = at_least_float32(logit_scale.reshape(()))
        bias = at_least_float32(logit_bias.reshape(()))
        if tile_size is not None:
            return TiledSigmoid.apply(texts, images, scale, bias, groups, tile_size)

        logits = scale * texts @ images.T + bias
        of_pairs = softplus(logits) - logits * groups.positives()
        return of_pairs.sum() / len(texts)


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Convert to float32; float64 stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _plain_contrast(
    texts: torch.Tensor, images: torch.Tensor, scale: torch.Tensor, groups: Groups, weights: Weights
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
