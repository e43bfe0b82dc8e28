"""Image-text retrieval as an `evaluate` module: `evaluate.load("benchmarks/evaluate_modules/image_text_retrieval")`."""

import evaluate
import torch
from datasets import Features, List, Value

from benchmarks.metrics import retrieval_ranks
from benchmarks.outcomes import RetrievalOutcomes

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


class ImageTextRetrieval(evaluate.Metric):
    """`retrieval_ranks` and `RetrievalOutcomes.metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": List(Value("float32")), "references": Value("int64")})
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation=CITATION, inputs_description=INPUTS, features=features, license="Apache-2.0"
        )

    def _compute(self, predictions: list, references: list, image_embeds: torch.Tensor | list) -> dict[str, float]:
        text_to_image = torch.tensor(references)
        ranks = retrieval_ranks(torch.as_tensor(image_embeds), torch.tensor(predictions), text_to_image)
        return RetrievalOutcomes(*ranks, text_to_image).metrics()
