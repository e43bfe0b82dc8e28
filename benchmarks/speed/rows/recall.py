"""Compute recall@1, 5 and 10 in both directions, from embeddings that are there already.

Ours is `retrieval_recall`. CLIP_benchmark's side does, by its own functions, what its `evaluate` does once it
has the embeddings, at its default of 64 queries at a time. mteb's side does one direction alone, text to
image: it takes the 1,000 nearest images of each text and computes its metrics from them, so its time stands
against ours for both.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Repeats = Iterator[Callable[[], dict]]
_KS = (1, 5, 10)
# mteb's own defaults.
_NEAREST = 1000
_MTEB_KS = (1, 3, 5, 10, 20, 100, 1000)


def inputs(folder: Path, shape: dict) -> None:
    """Save random unit embeddings of `images`, and of texts that lie near their images.

    About 40 % of 25,000 texts find their image first among 5,000.
    """
    import torch
    from torch.nn.functional import normalize

    generator = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(shape["images"], shape["dim"], generator=generator), dim=-1)
    text_to_image = torch.arange(shape["images"]).repeat_interleave(shape["texts_per_image"])
    noise = torch.randn(len(text_to_image), shape["dim"], generator=generator)
    texts = normalize(0.15 * images[text_to_image] + 0.05 * noise, dim=-1)
    np.savez(folder / "embeddings.npz", images=images, texts=texts, text_to_image=text_to_image)


def ours(folder: Path, shape: dict) -> Repeats:
    from benchmarks.metrics import retrieval_recall

    def recall(images, texts, text_to_image) -> dict:
        found = retrieval_recall(images, texts, text_to_image, _KS)
        recalls = {}
        for direction in ("text_to_image", "image_to_text"):
            recalls[direction] = [found[f"{direction}_recall@{k}"] for k in _KS]
        return recalls

    return _repeats(folder, recall)


def clip_benchmark(folder: Path, shape: dict) -> Repeats:
    import torch
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    def recall(images, texts, text_to_image) -> dict:
        scores = texts @ images.t()
        positive = torch.zeros_like(scores, dtype=torch.bool)
        positive[torch.arange(len(scores)), text_to_image] = True
        directions = {"text_to_image": (scores, positive), "image_to_text": (scores.T, positive.T)}
        recalls = {}
        for direction, (queries, right) in directions.items():
            recalls[direction] = []
            for k in _KS:
                found = batchify(recall_at_k, queries, right, 64, "cpu", k=k)
                # Found at all, as CLIP_benchmark counts it, where an image has several texts.
                recalls[direction].append((found > 0).double().mean().item())
        return recalls

    return _repeats(folder, recall)


def mteb(folder: Path, shape: dict) -> Repeats:
    import torch
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

    def recall(images, texts, text_to_image) -> dict:
        nearest = torch.topk(texts @ images.t(), min(_NEAREST, len(images)), dim=1)
        found = {}
        for text, (scores, rows) in enumerate(zip(nearest.values.tolist(), nearest.indices.tolist())):
            found[str(text)] = {str(row): score for row, score in zip(rows, scores)}
        relevant = {str(text): {str(image): 1} for text, image in enumerate(text_to_image.tolist())}
        metrics = calculate_retrieval_scores(found, relevant, _MTEB_KS)
        return {"text_to_image": [metrics.recall[f"Recall@{k}"] for k in _KS]}

    return _repeats(folder, recall)


def _repeats(folder: Path, recall: Callable) -> Repeats:
    import torch

    with np.load(folder / "embeddings.npz") as arrays:
        images = torch.from_numpy(arrays["images"])
        texts = torch.from_numpy(arrays["texts"])
        owners = torch.from_numpy(arrays["text_to_image"])
    n_texts = int((owners < 64).sum())
    yield lambda: recall(images[:64], texts[:n_texts], owners[:n_texts])
    while True:
        yield lambda: recall(images, texts, owners)
