"""Run mteb on a task that lies in memory.

Nothing of ours is imported, so that this runs where our package is not installed.
"""

import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from PIL import Image
from sentence_transformers import SentenceTransformer


class InMemory(AbsTaskZeroShotClassification):
    """Zero-shot classification of pictures by the `names` of what they show."""

    metadata = TaskMetadata(
        name="InMemory",
        description="Pictures and their names.",
        reference="https://example.org",
        dataset={"path": "in/memory", "revision": "1"},
        type="ZeroShotClassification",
        category="i2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="accuracy",
        date=("2024-01-01", "2024-01-02"),
        domains=["Web"],
        task_subtypes=["Object recognition"],
        license="apache-2.0",
        annotations_creators="derived",
        dialect=[],
        modalities=["text", "image"],
        sample_creation="created",
        bibtex_citation="",
    )

    def __init__(self, images: list[Image.Image], labels: list[int], names: list[str]):
        super().__init__()
        self.images = images
        self.labels = labels
        self.names = names

    def load_data(self, **_):
        rows = Dataset.from_dict({"image": self.images, "label": self.labels})
        self.dataset = DatasetDict({"test": rows})
        self.data_loaded = True

    def get_candidate_labels(self):
        return self.names


def mteb_accuracy(
    encoder: SentenceTransformer, images: list[Image.Image], labels: list[int], names: list[str]
) -> float:
    """Return the accuracy that mteb reports for a model: the share of images closest to their own name."""
    wrapper = SentenceTransformerEncoderWrapper(encoder)
    wrapper.mteb_model_meta = wrapper.mteb_model_meta.model_copy(update={"modalities": ["text", "image"]})
    task = InMemory(images, labels, names)
    result = mteb.evaluate(wrapper, task, cache=None, encode_kwargs={"batch_size": 8})
    return result.task_results[0].get_score()
