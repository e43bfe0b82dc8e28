"""Losses as functions of embeddings, and the gathering that lets them see every process's share of a batch."""

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy, mse_loss


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared error between the student's vectors and the teacher's, both `(texts, dim)`, not normalised (paper 3.1)."""
    return mse_loss(student, teacher)


def contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    text_to_image: torch.Tensor | None = None,
    image_ids: torch.Tensor | None = None,
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

    Returns:
        The mean of the two directions' mean cross-entropies, a scalar.

    Raises:
        ValueError: without `text_to_image`, the numbers of images and texts differ.
    """
    if text_to_image is None:
        if len(image_embeds) != len(text_embeds):
            raise ValueError(f"{len(text_embeds)} texts for {len(image_embeds)} images: pass text_to_image to say which is whose")
        text_to_image = torch.arange(len(text_embeds), device=text_embeds.device)
    if image_ids is None:
        image_ids = torch.arange(len(image_embeds), device=image_embeds.device)
    logits = logit_scale * text_embeds @ image_embeds.T  # (T, I)
    positive = (image_ids[text_to_image][:, None] == image_ids[None]).to(logits.dtype)
    text_targets = positive / positive.sum(1, keepdim=True)
    image_targets = positive.T / positive.T.sum(1, keepdim=True)
    return (cross_entropy(logits, text_targets) + cross_entropy(logits.T, image_targets)) / 2


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
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.count
        return gradient[start : start + ctx.count]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """All processes' rows `(processes x rows, ...)`, with gradient; `rows` itself where there is one process.

    Every process must bring equally many. When each then computes the loss of the whole batch and DDP averages gradients,
    they equal those of one process with that batch.
    """
    return _AllGather.apply(rows) if dist.is_initialized() and dist.get_world_size() > 1 else rows
