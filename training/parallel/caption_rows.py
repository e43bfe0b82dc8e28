"""Examples of an image with all its captions.

One example is a row in all its languages, so that its image is encoded once.
"""

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from ..data.examples import CaptionExamples, Collator


class CaptionRows(TorchDataset):
    """Rows of `examples` that have a caption.

    An example is `{"texts": ["a dog", "狗"], "languages": [0, 2], "row_id": 7, "image": picture}`. `texts`
    are a row's captions in all its languages, possibly several in one, and `languages` their indices in
    `examples.languages`. The last field has the name of `examples.column`. Rows without a caption in these
    languages are skipped, and `summary` counts them.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from training import CaptionExamples, CaptionRows

    >>> captions = [{"en": "a dog", "zh": "狗"}, {"en": "a cat", "zh": None}]
    >>> rows = Dataset.from_dict({"captions": captions, "target": [[0.0, 1.0], [1.0, 0.0]]})
    >>> examples = CaptionExamples(rows, ["en", "zh"], "target")
    >>> [row["texts"] for row in CaptionRows(examples)]
    [['a dog', '狗'], ['a cat']]
    ```
    """

    def __init__(self, examples: CaptionExamples):
        self.examples = examples
        self.languages = examples.languages
        self.column = examples.column

        # Examples are sorted by row, so that those of one row are one slice of them:
        # examples (0, 0), (0, 2), (3, 1) -> rows [0, 3], captions [[0, 2], [1]]
        self.rows, starts = np.unique(examples.places[:, 0], return_index=True)
        self.captions = np.split(examples.places[:, 1], starts[1:])
        self.weights = None if examples.weights is None else examples.weights[starts]
        self.language_of = np.array([examples.languages.index(language) for language in examples.columns])

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprints(self) -> dict[str, str]:
        """Identify what a training reads, as `CaptionExamples.fingerprints` does."""
        return self.examples.fingerprints()

    def summary(self) -> str:
        n_bare = len(self.examples.row_ids) - len(self)
        return (
            f"{len(self)} images with {len(self.examples)} captions in {' '.join(self.languages)}; "
            f"skipped: {n_bare} without captions"
        )

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """Read a whole batch at once, so that `datasets` decodes its rows together."""
        rows = self.rows[indices].tolist()
        values = self.examples.inputs[rows][self.column]
        examples = []
        for index, row, value in zip(indices, rows, values):
            columns = self.captions[index]
            example = {
                "texts": self.examples.read_texts([row] * len(columns), columns),
                "languages": self.language_of[columns].tolist(),
                "row_id": int(self.examples.row_ids[row]),
                self.column: value,
            }
            examples.append(example)
        return examples


class RowCollator(Collator):
    """A `Collator` of rows with several texts.

    For each caption a batch has `text_rows`, its index among the distinct texts, `text_to_image`, the index
    of the image that it describes, and `languages`, all `(captions,)`. `row_ids` `(images,)` are those of the
    images.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from transformers import AutoProcessor
    >>> from training import CaptionExamples, CaptionRows, RowCollator

    >>> processor = AutoProcessor.from_pretrained("outputs/miniature/altclip")
    >>> dataset = load_dataset("outputs/miniature/dataset", split="validation")
    >>> rows = CaptionRows(CaptionExamples(dataset, ["en", "zh"], "image"))
    >>> collator = RowCollator(processor.tokenizer, max_length=77, image_processor=processor.image_processor)
    >>> collator([rows[0], rows[1]])["text_to_image"]
    tensor([0, 0, 1, 1])
    ```
    """

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        texts = []
        languages = []
        n_texts = []
        for row in rows:
            n_texts.append(len(row["texts"]))
            texts += row.pop("texts")
            languages += row.pop("languages")

        # Two captions of the first image, one of the second: [2, 1] -> [0, 0, 1]
        text_to_image = torch.arange(len(rows)).repeat_interleave(torch.tensor(n_texts))
        batch = self.encode(texts) | self.described(rows)
        return batch | {"text_to_image": text_to_image, "languages": torch.tensor(languages)}


__all__ = ["CaptionRows", "RowCollator"]
