"""Image-text retrieval as an `evaluate` module: `evaluate.load("benchmarks/evaluate_modules/image_text_retrieval")`.

`evaluate` copies this file and nothing beside it, so that it imports none of our packages; its numbers are those of `benchmarks`.
"""

import evaluate
import torch
from datasets import Features, List, Value

DESCRIPTION = """
How well texts find their images among all images, and images their texts, in the space of a CLIP-like model: recall at 1 to 10 in both
directions, the mean recall of the papers (both directions at 1, 5 and 10), and where the right answer stands (percentiles of its rank).
Exact, in memory that does not grow with images x texts. An image is found by the best of its texts; a tie counts against the model.
"""
INPUTS = """
Args:
    predictions: one embedding for each text, unit vectors `(texts, dim)`.
    references: for each text the row of the image that it describes, `(texts,)`. Every image needs a text.
    image_embeds: unit vectors `(images, dim)`.

Returns:
    `text_to_image_recall@1` to `@10`, `image_to_text_recall@1` to `@10` and `mean_recall`, fractions; `text_to_image_rank_p5`, `_p25`,
    `_p50`, `_p75`, `_p95` and those of `image_to_text`, ranks that count from 0; `n` images and `n_texts`.

Examples:
    >>> retrieval = evaluate.load("benchmarks/evaluate_modules/image_text_retrieval")
    >>> retrieval.compute(predictions=[[1.0, 0.0], [0.6, 0.8]], references=[0, 1], image_embeds=[[1.0, 0.0], [0.0, 1.0]])["mean_recall"]
    1.0
"""
CITATION = """
@inproceedings{chen-etal-2023-altclip,
    title = "{AltCLIP}: Altering the Language Encoder in {CLIP} for Extended Language Capabilities",
    author = "Chen, Zhongzhi and Liu, Guang and Zhang, Bo-Wen and Yang, Qinghong and Wu, Ledell",
    booktitle = "Findings of the Association for Computational Linguistics: ACL 2023",
    year = "2023",
    pages = "8666--8682",
}
"""


BLOCK_ROWS = 512
DEPTHS = range(1, 11)
PERCENTS = (5, 25, 50, 75, 95)


class ImageTextRetrieval(evaluate.Metric):
    """Recall, and percentiles of ranks, in both directions."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": List(Value("float32")), "references": Value("int64")})
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=features,
            license="Apache-2.0",
        )

    def _compute(
        self, predictions: list, references: list, image_embeds: torch.Tensor | list
    ) -> dict[str, float]:
        texts, images, text_to_image = (
            torch.tensor(predictions),
            torch.as_tensor(image_embeds),
            torch.tensor(references),
        )
        check(images, texts, text_to_image)
        recalls, spread = {}, {}
        for direction, ranks in zip(
            ("text_to_image", "image_to_text"), both_ranks(images, texts, text_to_image)
        ):
            recalls |= {f"{direction}_recall@{k}": (ranks < k).double().mean().item() for k in DEPTHS}
            spread |= {f"{direction}_rank_p{percent}": percentile(ranks, percent) for percent in PERCENTS}
        six = [
            recalls[f"{direction}_recall@{k}"]
            for direction in ("text_to_image", "image_to_text")
            for k in (1, 5, 10)
        ]
        mean = torch.tensor(six, dtype=torch.double).mean().item()
        return {"n": len(images), "n_texts": len(texts), **recalls, "mean_recall": mean, **spread}


def check(images: torch.Tensor, texts: torch.Tensor, text_to_image: torch.Tensor) -> None:
    """Refuse shapes that disagree, values that are not finite, rows that are no image's, and images without a text."""
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        raise ValueError(
            f"embeddings must be (rows, dim) with one dim, not {tuple(images.shape)} and {tuple(texts.shape)}"
        )
    if not (images.isfinite().all() and texts.isfinite().all()):
        raise ValueError("an embedding is not finite: the model diverged, or half precision overflowed")
    strange = ((text_to_image < 0) | (text_to_image >= len(images))).nonzero()[:, 0].tolist()
    if strange:
        image = text_to_image[strange[0]]
        raise ValueError(
            f"text {strange[0]} is said to describe image {image}, but the images are the rows 0 to {len(images) - 1}"
        )
    alone = (text_to_image.bincount(minlength=len(images)) == 0).nonzero()[:, 0].tolist()
    if alone:
        raise ValueError(
            f"image {alone[0]}, of {len(alone)} like it among {len(images)}, is paired with none: every image needs a text"
        )


def both_ranks(
    images: torch.Tensor, texts: torch.Tensor, text_to_image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many wrong answers score as much as the right one, or more: of each text among images, of each image among texts.

    Equal vectors are multiplied once, and counted as often as they occur: a product may round the scores of equal vectors apart.
    """
    dtype = torch.promote_types(torch.promote_types(images.dtype, texts.dtype), torch.float32)
    images, image_ids, n_equal_images = images.to(dtype).unique(
        dim=0, return_inverse=True, return_counts=True
    )
    texts, text_ids, n_equal_texts = texts.to(dtype).unique(dim=0, return_inverse=True, return_counts=True)
    by_vector = text_ids.argsort(stable=True)
    bounds = torch.searchsorted(
        text_ids[by_vector], torch.arange(0, len(texts) + BLOCK_ROWS, BLOCK_ROWS)
    ).tolist()
    own_ids = image_ids[text_to_image]

    def blocks():
        """Scores of some distinct texts with all distinct images, the first of these texts, and the rows of texts that are equal to one."""
        for number, first in enumerate(range(0, len(texts), BLOCK_ROWS)):
            yield (
                texts[first : first + BLOCK_ROWS] @ images.T,
                first,
                by_vector[bounds[number] : bounds[number + 1]],
            )

    own = torch.empty(len(text_ids), dtype=dtype)
    for scores, first, rows in blocks():
        own[rows] = scores[text_ids[rows] - first, own_ids[rows]]
    # An image is found by the best of its texts. Those of its texts that score so are counted below, and are no rivals.
    best = torch.full((len(image_ids),), -torch.inf, dtype=dtype).scatter_reduce(
        0, text_to_image, own, "amax"
    )
    text_ranks = torch.full((len(text_ids),), -1)  # the right image is counted too
    image_ranks = torch.zeros(len(image_ids), dtype=torch.long).index_add(
        0, text_to_image, -(own == best[text_to_image]).long()
    )
    for scores, first, rows in blocks():
        for some in rows.split(BLOCK_ROWS):
            ahead = scores[text_ids[some] - first] >= own[some, None]
            text_ranks[some] += (ahead * n_equal_images).sum(1)
        n_equal = n_equal_texts[first : first + len(scores), None]
        for some in torch.arange(len(image_ids)).split(BLOCK_ROWS):
            ahead = scores[:, image_ids[some]] >= best[some]
            image_ranks[some] += (ahead * n_equal).sum(0)
    return text_ranks, image_ranks


def percentile(ranks: torch.Tensor, percent: int) -> float:
    """Linear between the two ranks that are nearest."""
    place = torch.tensor((len(ranks) - 1) * percent / 100, dtype=torch.double)
    ordered = ranks.double().sort().values
    return torch.lerp(ordered[int(place.floor())], ordered[int(place.ceil())], place - place.floor()).item()
