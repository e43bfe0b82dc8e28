"""The pictures that an index is made of: those of a folder, or of a split of a dataset."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import Image
from PIL import Image as PillowImage
from tqdm.auto import tqdm

from common.errors import InputError
from common.files.rows import load_rows
from common.images import decode_image, digest_of, encoded_bytes, why_unreadable
from modeling_altclip.image_files_altclip import find_images


@dataclass(frozen=True)
class Source:
    """Where the pictures lie.

    Attributes:
        path: a folder or a glob, or with `split` a dataset.
        split: of the dataset.
        name: its configuration, if it has several.
    """

    path: str
    split: str | None = None
    name: str | None = None

    def open(self) -> "Pictures":
        """Find the pictures; none is read.

        Raises:
            InputError: there are none.
        """
        if self.split is not None:
            rows = load_rows(self.path, self.split, ["image"], self.name)
            images = rows.cast_column("image", Image(decode=False))["image"]
            return Pictures([str(row) for row in range(len(rows))], images)
        try:
            found = find_images(self.path)
        except ValueError as error:
            raise InputError(f"source {self.path!r}: {error}. For a dataset give --split too") from error
        return Pictures(list(found), [{"bytes": None, "path": path} for path in found.values()])

    def is_at(self, other: "Source") -> bool:
        """Return whether both are the same place, however its path is written."""
        same_part = (self.split, self.name) == (other.split, other.name)
        return same_part and Path(self.path).resolve() == Path(other.path).resolve()


@dataclass(frozen=True)
class Pictures:
    """Pictures, each known by an id.

    Attributes:
        ids: paths below the folder, or numbers of the dataset's rows.
        images: undecoded, `{"bytes", "path"}`.
    """

    ids: list[str]
    images: Sequence[dict]

    def read_digests(self) -> tuple[list[str | None], dict[str, str]]:
        """Read all pictures once.

        Returns:
            The XXH3-128 of each picture's encoded bytes, None if it cannot be read; and why, by its id.
        """
        digests = []
        reasons = {}
        for number, name in enumerate(tqdm(self.ids, desc="Reading pictures", unit="picture")):
            try:
                digests.append(digest_of(self._content(number)))
            except (OSError, ValueError) as error:
                digests.append(None)
                reasons[name] = why_unreadable(error)
        return digests, reasons

    def reader(self, number: int, digest: str) -> Callable[[], PillowImage.Image]:
        """Return a function that decodes a picture, and raises an error if it is no longer as its digest."""
        return partial(self._decode, number, digest)

    def _decode(self, number: int, digest: str) -> PillowImage.Image:
        content = self._content(number)
        if digest_of(content) != digest:
            raise ValueError("it has changed since it was read: index again")
        return decode_image({"bytes": content, "path": None})

    def _content(self, number: int) -> bytes:
        """Return the encoded bytes of a picture.

        Raises:
            OSError: its file cannot be read.
            ValueError: it is too large, or there is none.
        """
        image = self.images[number]
        if image is None:
            raise ValueError("the row has no picture")
        return encoded_bytes(image)


__all__ = ["Pictures", "Source"]
