"""Images with all their captions: one example is a row, in however many languages it has, so that its image is encoded once."""

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from .data import CaptionCells, Collator


class CaptionRows(TorchDataset):
    """The rows of `cells` that have any, as `{"texts", "languages", "row_id", column: the row's value in it}`.

    `texts` are a row's captions in all languages that it has, several in one language among them, and `languages` their places in
    `cells.languages`. A row without any of these languages is left out, and `summary` counts it.
    """

    def __init__(self, cells: CaptionCells):
        self.cells, self.languages, self.column = cells, cells.languages, cells.column
        self.rows, starts = np.unique(cells.cells[:, 0], return_index=True)
        self.captions = np.split(cells.cells[:, 1], starts[1:])
        self.language_of = np.array([cells.languages.index(language) for language in cells.columns])

    def __len__(self) -> int:
        return len(self.rows)

    def summary(self) -> str:
        n_bare = len(self.cells.row_ids) - len(self)
        return f"{len(self)} images with {len(self.cells)} captions in {' '.join(self.languages)}; set aside: {n_bare} without any"

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        rows, cells = self.rows[indices].tolist(), self.cells
        return [
            {
                "texts": [cells.texts[column][row].as_py() for column in self.captions[index]],
                "languages": self.language_of[self.captions[index]].tolist(),
                "row_id": int(cells.row_ids[row]),
                self.column: value,
            }
            for index, row, value in zip(indices, rows, cells.inputs[rows][self.column])
        ]


class RowCollator(Collator):
    """As `Collator`, of rows with several texts.

    `text_rows` `(captions,)` says which of the distinct texts is a caption's, `text_to_image` `(captions,)` which image of the batch
    it describes, `languages` `(captions,)` its language; `row_ids` `(images,)` are the images'.
    """

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        captions = [row.pop("texts") for row in rows]
        languages = [language for row in rows for language in row.pop("languages")]
        owners = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(texts) for texts in captions]))
        batch = self.encode([text for texts in captions for text in texts]) | self.described(rows)
        return batch | {"text_to_image": owners, "languages": torch.tensor(languages)}


__all__ = ["CaptionRows", "RowCollator"]
