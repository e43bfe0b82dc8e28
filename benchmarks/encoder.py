"""Encoders of images, texts and class names, as evaluation uses them, with a cache of their embeddings."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from functools import partial
from itertools import islice

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset, Image, IterableDataset
from PIL import Image as PillowImage
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from common.embedding_cache import cached_column
from common.errors import InputError
from common.fingerprints import hash_weights, prepared_images, prepared_texts, settings
from common.images import decode_image, digest_of, encoded_bytes, why_unreadable
from modeling_altclip import embed_images, embed_texts
from modeling_altclip.embedding import mean_of_prompts
from modeling_altclip.images_altclip import DeferredImage, background_of, read_image
from modeling_altclip.prompts_altclip import fill_template
from modeling_altclip.truncation_altclip import truncate

from .tasks.templates import check_templates

WINDOW = 2048  # rows whose encoded images are held at a time
# Images or texts that one process encodes before another gets the next: the work that a kill costs.
PART = 256
CLASSES = 32  # classes in such a part: each has up to 80 prompts
_REMEDY = "evaluate a copy of the dataset without it, with --dataset, or the rows before it, with --limit"


class Encoder:
    """Encodes images, texts and class names as embeddings `(items, dim)`, float32 on the CPU.

    Args:
        normalize: scale embeddings to unit length; otherwise they are as the projections give them.
        accelerator: with several processes, each encodes its share and gets all embeddings.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        normalize: bool = True,
        accelerator: Accelerator | None = None,
    ):
        self.model = model
        self.processor = processor
        self.normalize = normalize
        self.accelerator = accelerator

    def images(self, images: Iterable) -> torch.Tensor:
        return embed_images(
            self.model,
            self.processor,
            images,
            normalize_embeddings=self.normalize,
            accelerator=self.accelerator,
        )

    def texts(self, texts: list[str]) -> torch.Tensor:
        return embed_texts(
            self.model,
            self.processor,
            texts,
            normalize_embeddings=self.normalize,
            accelerator=self.accelerator,
        )

    def classes(self, names: list[str], templates: list[str]) -> torch.Tensor:
        """Encode each class as the mean of its prompts' unit embeddings, normalised again (CLIP 3.1.4).

        Returns:
            Unit embeddings `(classes, dim)`.

        Raises:
            InputError: a template does not have `{}` once, where the name goes, and no other braces.
        """
        check_templates(templates, "templates")
        embeddings = self.texts(_fill_templates(templates, names))
        return mean_of_prompts(embeddings, len(names))


class CachedEncoder(Encoder):
    """Encoder that caches embeddings `(items, dim)` by content.

    A second run, another task with the same images and a run that was killed resume from the cache. Several
    processes share the work, and their embeddings do not depend on how many they are, to the bit.

    Args:
        normalize: as for `Encoder`.
        dtype: the type that the model computes in; by default the one that it has.
        cache_dir: a folder that all processes share; one below datasets' own cache by default.
        truncate_dims: the numbers of dimensions for which `truncated` will be called. Everything is encoded
            once for all of them.

    Raises:
        InputError: there is nothing to encode, an image cannot be read, or an embedding is not finite.

    Example:

    ```python
    >>> from benchmarks import CachedEncoder, load_model

    >>> model, processor = load_model("outputs/miniature/altclip")
    >>> encoder = CachedEncoder(model, processor, cache_dir="outputs/cache")
    >>> encoder.classes(["dog", "cat"], templates=["a photo of a {}.", "a drawing of a {}."]).shape
    torch.Size([2, 128])
    ```
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        normalize: bool = True,
        dtype: torch.dtype | None = None,
        cache_dir: str | None = None,
        truncate_dims: Sequence[int] = (),
    ):
        super().__init__(model.to(device=PartialState().device, dtype=dtype), processor, normalize=normalize)
        self.cache_dir = cache_dir
        self.truncate_dims = list(truncate_dims)
        self.truncate_dim: int | None = None
        self.weights = hash_weights(model)
        self.made_by = {"weights": self.weights, "configuration": settings(model)}
        self.prepared = {
            "image": prepared_images(model, processor),
            "text": prepared_texts(model, processor),
        }

    def truncated(self, dim: int | None) -> "CachedEncoder":
        """Return an encoder with the same model and cache, and embeddings of `dim` dimensions.

        Args:
            dim: one of `truncate_dims`, or None for all dimensions.
        """
        encoder = copy(self)
        encoder.truncate_dim = dim
        return encoder

    def finish(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Truncate embeddings `(items, width)` and give them unit length, as far as this encoder does so.

        Raises:
            ValueError: they have fewer dimensions than that.
        """
        # The cache keeps all dimensions and lengths, so that one cache serves all settings.
        embeddings = truncate(embeddings, self.truncate_dim)
        return normalize(embeddings, dim=-1) if self.normalize else embeddings

    def rows(self, rows: Dataset | IterableDataset) -> tuple[torch.Tensor, dict[str, list], list[str]]:
        """Encode the column `image`, of a stream too.

        Returns:
            The embeddings `(rows, dim)`, the other columns, and the XXH3-128 of each image's encoded bytes.

        Raises:
            InputError: there is no row, or an image cannot be read; the message gives its row.
        """
        embeddings = []
        columns = {}
        all_digests = []
        undecoded = rows.cast_column("image", Image(decode=False))
        total = len(rows) if isinstance(rows, Dataset) else None
        is_silent = not PartialState().is_main_process
        with tqdm(total=total, desc="Encoding images", unit="image", disable=is_silent) as bar:
            for start, window in _windows(undecoded):
                images = [row.pop("image") for row in window]
                contents = (_read_bytes(image, row) for row, image in enumerate(images, start))
                digests = [digest_of(content) for content in contents]
                embeddings.append(self._encode_window(images, digests, start))

                all_digests += digests
                for name in window[0]:
                    columns.setdefault(name, []).extend(row[name] for row in window)
                bar.update(len(window))
        return self.finish(torch.cat(embeddings)), columns, all_digests

    def texts(self, texts: list[str]) -> torch.Tensor:
        """Encode texts in parts of similar lengths, which the cache cuts, so that little is padded."""

        def length_and_text(row: int) -> tuple[int, str]:
            return len(texts[row]), texts[row]

        # texts ["ccc", "a", "bb"] -> rows [1, 2, 0], ordered ["a", "bb", "ccc"]
        rows = sorted(range(len(texts)), key=length_and_text)
        ordered = [texts[row] for row in rows]

        def encode(numbers: np.ndarray) -> torch.Tensor:
            part = [ordered[number] for number in numbers]
            return embed_texts(self.model, self.processor, part, normalize_embeddings=False)

        embeddings = self._cached("text_embeds", "text", ordered, encode, self.prepared["text"], PART)
        # The inverse permutation, here [2, 0, 1], restores the order of `texts`.
        inverse = torch.tensor(rows).argsort()
        return self.finish(embeddings[inverse])

    def classes(self, names: list[str], templates: list[str]) -> torch.Tensor:
        """Encode classes as `Encoder.classes` does; all prompts of a class are encoded in one part.

        A truncated class is the mean of its truncated prompts, which the mean of whole ones does not tell:
        the cache holds the means of all `truncate_dims` next to one another.
        """
        check_templates(templates, "templates")

        def encode(numbers: np.ndarray) -> torch.Tensor:
            prompts = _fill_templates(templates, [names[number] for number in numbers])
            embeddings = embed_texts(self.model, self.processor, prompts)
            means = [mean_of_prompts(embeddings, len(numbers))]
            for dim in self.truncate_dims:
                means.append(mean_of_prompts(truncate(embeddings, dim), len(numbers)))
            return torch.cat(means, dim=1)

        prepared = self.prepared["text"] + json.dumps(list(templates), ensure_ascii=False)
        if self.truncate_dims:
            prepared += f"truncated to {self.truncate_dims}"
        joined = self._cached("class_embeds", "class", list(names), encode, prepared, CLASSES)

        # Columns of 512 + 256 + 128 values are the classes of all dimensions, of 256 and of 128.
        width = joined.shape[1] - sum(self.truncate_dims)
        by_dim = joined.split([width, *self.truncate_dims], dim=1)
        number = [None, *self.truncate_dims].index(self.truncate_dim)
        # A copy, whose rows are as those of a cache without other dimensions: results are equal to the bit.
        return by_dim[number].contiguous()

    def _encode_window(self, images: list[dict], digests: list[str], start: int) -> torch.Tensor:
        """Encode undecoded images, of which the first has the row `start`."""

        def encode(numbers: np.ndarray) -> torch.Tensor:
            background = background_of(self.processor.image_processor)
            deferred = []
            for number in numbers:
                read = partial(_open_image, images[number], digests[number], start + number, background)
                deferred.append(DeferredImage(read))
            return embed_images(self.model, self.processor, iter(deferred), normalize_embeddings=False)

        return self._cached("image_embeds", "image", digests, encode, self.prepared["image"], PART)

    def _cached(
        self,
        name: str,
        key: str,
        keys: list[str],
        encode: Callable[[np.ndarray], torch.Tensor],
        prepared: str,
        part_length: int,
    ) -> torch.Tensor:
        """Return the embeddings of `keys`, of which `encode` makes those that the cache lacks."""

        def encode_view(numbers: np.ndarray, view: int) -> torch.Tensor:
            try:
                return encode(numbers)  # of the only view
            except ValueError as error:
                raise InputError(error) from error  # names what cannot be encoded, and why

        column = cached_column(
            name,
            key,
            pa.array(keys, pa.large_string()),
            encode_view,
            self.made_by | {"preparation": prepared},
            cache_dir=self.cache_dir,
            part_length=part_length,
        )
        return torch.from_numpy(column[range(len(keys))][name])


def _fill_templates(templates: list[str], names: list[str]) -> list[str]:
    """Return the prompts of all classes, those of one class in a row."""
    return [fill_template(template, name) for name in names for template in templates]


def _windows(rows: Iterable[dict]) -> Iterator[tuple[int, list[dict]]]:
    """Yield `(number of the first row, rows)`, `WINDOW` rows at a time.

    Raises:
        InputError: there is no row.
    """
    iterator = iter(rows)
    start = 0
    while window := list(islice(iterator, WINDOW)):
        yield start, window
        start += len(window)
    if start == 0:
        raise InputError("the task has no rows: look at its split, and at limit")


def _read_bytes(image: dict | None, row: int) -> bytes:
    """Return the encoded bytes of an image.

    Raises:
        InputError: there is no image, or its file cannot be read; the message gives its row.
    """
    if image is None:
        raise InputError(f"row {row} has no image: {_REMEDY}")
    try:
        return encoded_bytes(image)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the image of row {row} cannot be read: {error}. Put it there, or {_REMEDY}"
        ) from error


def _open_image(image: dict, digest: str, row: int, background: Sequence[int] | None) -> PillowImage.Image:
    """Decode an image to RGB.

    Raises:
        InputError: it cannot be decoded; the message gives its row, and its file or the XXH3-128 of its
            bytes.
    """
    try:
        return read_image(decode_image(image), background=background)
    except Exception as error:  # decoders raise whatever they like
        origin = image["path"] or f"XXH3-128 {digest}"
        raise InputError(
            f"the image of row {row} ({origin}) cannot be read: {why_unreadable(error)}. Fix it, or {_REMEDY}"
        ) from error


__all__ = ["CachedEncoder", "Encoder"]
