"""Compute the contrastive loss and its gradients, from embeddings that are there already.

Ours is `contrastive_loss`, as it comes or with `tile_size`. open_clip's is `ClipLoss`; sentence-transformers'
the loss stage of `CachedMultipleNegativesRankingLoss` in both directions, whose scale is a constant. It would
normalize embeddings that are of unit length already, and takes their products instead.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Repeats = Iterator[Callable[[], dict]]
_SCALE = 20.0


def inputs(folder: Path, shape: dict) -> None:
    """Save two times `batch_size` random unit embeddings of `dim` values."""
    generator = np.random.default_rng(0)
    embeddings = generator.standard_normal((2, shape["batch_size"], shape["dim"]), dtype=np.float32)
    np.save(folder / "embeddings.npy", embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True))


def ours(folder: Path, shape: dict) -> Repeats:
    import torch

    from training.losses import contrastive_loss

    def work(images, texts) -> dict:
        scale = torch.tensor(_SCALE, device=shape["device"])
        loss = contrastive_loss(images, texts, scale, tile_size=shape["tile_size"])
        loss.backward()
        return _found(loss, images, texts)

    return _repeats(folder, shape, work)


def open_clip(folder: Path, shape: dict) -> Repeats:
    import torch
    from open_clip.loss import ClipLoss

    def work(images, texts) -> dict:
        loss = ClipLoss()(images, texts, torch.tensor(_SCALE, device=shape["device"]))
        loss.backward()
        return _found(loss, images, texts)

    return _repeats(folder, shape, work)


def sentence_transformers(folder: Path, shape: dict) -> Repeats:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss
    from sentence_transformers.util import dot_score

    function = CachedMultipleNegativesRankingLoss(
        SentenceTransformer(modules=[torch.nn.Identity()], device=shape["device"], trust_remote_code=False),
        scale=_SCALE,
        similarity_fct=dot_score,
        mini_batch_size=1024,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )

    def work(images, texts) -> dict:
        # With gradients it goes back by itself, chunk by chunk.
        loss = function.calculate_loss([[images], [texts]], with_backward=True)
        return _found(loss, images, texts)

    return _repeats(folder, shape, work)


def _repeats(folder: Path, shape: dict, work: Callable) -> Repeats:
    import torch

    embeddings = torch.from_numpy(np.load(folder / "embeddings.npy")).to(shape["device"])

    def leaves(n_pairs: int) -> list:
        return [part[:n_pairs].clone().requires_grad_() for part in embeddings]

    def of(n_pairs: int) -> Callable[[], dict]:
        images, texts = leaves(n_pairs)
        return lambda: work(images, texts)

    yield of(64)
    while True:
        yield of(shape["batch_size"])


def _found(loss, images, texts) -> dict:
    """Return the loss, and gradients that are scaled up: those of a mean are small.

    They are scaled in place: copies would count as memory of the loss.
    """
    n_pairs = len(images)
    gradients = {"image_gradients": images.grad.mul_(n_pairs), "text_gradients": texts.grad.mul_(n_pairs)}
    return {"loss": loss.detach().cpu().numpy()} | {name: part.cpu() for name, part in gradients.items()}
