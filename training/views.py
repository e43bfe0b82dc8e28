"""Views of pictures: an epoch shows each as it is, the next a crop of it, in an order that depends on nothing
but the epoch.

That makes an augmented picture something a frozen tower can encode beforehand, and a run something that
resumes exactly.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, Image
from datasets.utils.file_utils import xopen
from PIL.Image import Image as PillowImage
from transformers import TrainerCallback
from xxhash import xxh3_128

SMALLEST_AREA = 0.9  # of a crop, as open_clip's default


class ImageViews:
    """Images of a dataset's rows, in the view of the epoch.

    `views[[5, 0]]` is `{"image": [picture of row 5, of row 0]}`.

    View 0 is the picture. Any other is a square crop of 90 to 100 % of the largest square's area, at a place
    drawn from the picture's digest and the view's number: CLIP's only augmentation is a random square crop
    (Radford et al. 2021, 2.4). None is mirrored: captions tell left from right, and signs are to be read.

    Args:
        rows: have the column `image`.
        n_views: how many there are; epoch e shows view e modulo `n_views`.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from PIL import Image
    >>> from training import ImageViews

    >>> rows = Dataset.from_dict({"image": [Image.new("RGB", (64, 48)), Image.new("RGB", (32, 32))]})
    >>> views = ImageViews(rows, n_views=2)
    >>> [image.size for image in views[[1, 0]]["image"]]
    [(32, 32), (64, 48)]
    ```
    """

    def __init__(self, rows: Dataset, n_views: int):
        self.rows = rows.select_columns(["image"])
        self.n_views = n_views
        self.view = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's view: the views take turns, one per epoch."""
        self.view = epoch % self.n_views

    def __getitem__(self, rows: Sequence[int]) -> dict[str, list[PillowImage]]:
        images = self.rows[rows]["image"]
        if self.view > 0:
            images = [_crop(image, self.digests[row], self.view) for row, image in zip(rows, images)]
        return {"image": images}

    @cached_property
    def digests(self) -> list[str]:
        """XXH3-128 of each picture's encoded bytes, whether they lie in the table or in a file; each process
        reads its share.
        """
        encoded = self.rows.cast_column("image", Image(decode=False)).with_format("arrow")
        state = PartialState()
        share = encoded.shard(state.num_processes, state.process_index, contiguous=True)
        digests = []
        for batch in share.iter(1000):
            digests += [_digest(image) for image in batch["image"]]
        return gather_object(digests)


def _digest(image: pa.StructScalar) -> str:
    """Return the XXH3-128 of one encoded picture, `{"bytes", "path"}`."""
    inside = image["bytes"].as_buffer()
    if inside is not None:
        return xxh3_128(inside).hexdigest()
    with xopen(image["path"].as_py(), "rb") as file:  # which also reads files within a zip
        return xxh3_128(file.read()).hexdigest()


def _crop(image: PillowImage, digest: str, view: int) -> PillowImage:
    """Crop a picture to a view; equal for equal pictures, wherever and in whatever order they are read."""
    random = np.random.default_rng([int(digest, 16), view])
    # The root turns a share of the area into one of the edge.
    share = random.uniform(SMALLEST_AREA, 1) ** 0.5
    side = max(1, round(min(image.size) * share))
    left, top = [int(random.integers(edge - side + 1)) for edge in image.size]
    return image.crop((left, top, left + side, top + side))


class EpochCallback(TrainerCallback):
    """Tells views, or a sampler, of the epoch. accelerate tells neither reliably: no dataset whose sampler
    has a `set_epoch` too, and after a resume with several processes no sampler.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **_):
        self.dataset.set_epoch(int(state.epoch or 0))


__all__ = ["ImageViews", "EpochCallback"]
