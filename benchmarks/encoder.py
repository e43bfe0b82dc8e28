"""A model as evaluation sees it:

What turns images, texts and class names into vectors, and keeps them on disk.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset, Image, IterableDataset
from datasets.utils.file_utils import xopen
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from xxhash import xxh3_128

from modeling_altclip import embed_images, embed_texts
from modeling_altclip.embedding import mean_of_prompts
from modeling_altclip.images_altclip import background_of, read_image
from modeling_altclip.prompts_altclip import fill_template
from modeling_altclip.texts_altclip import text_length

from .adapters import AdaptedImageProcessor, AdaptedTokenizer
from .column_cache import cached_column
from .loading import revision_of
from .prompts import check_templates
from .recipe import InputError

WINDOW = 2048  # rows whose encoded images are held at a time
PART = 256  # images or texts that a process encodes before another gets the next, and that a kill costs
CLASSES = 32  # classes likewise: each has up to 80 prompts
REMEDY = "measure a copy of the dataset without it, with --dataset, or the rows before it, with --limit"
# Keys of a configuration that no embedding depends on.
INCIDENTAL = ("_name_or_path", "architectures", "dtype", "transformers_version")


class Encoder:
    """Images, texts and class names to vectors `(items, dim)`, float32 on the CPU.

    Args:
        normalize: to unit length; otherwise as the projections give them.
        accelerator: with several processes, each encodes its share and gets all vectors.
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
        options = {"normalize_embeddings": self.normalize, "accelerator": self.accelerator}
        return embed_images(self.model, self.processor, images, **options)

    def texts(self, texts: list[str]) -> torch.Tensor:
        return embed_texts(
            self.model,
            self.processor,
            texts,
            normalize_embeddings=self.normalize,
            accelerator=self.accelerator,
        )

    def classes(self, names: list[str], templates: list[str]) -> torch.Tensor:
        """Embed each class as the mean of its prompts' unit embeddings, normalized again (CLIP 3.1.4).

        Raises:
            InputError: a template does not have `{}` once, where the name goes, and no other braces.
        """
        check_templates(templates, "templates")
        return mean_of_prompts(
            self.texts([fill_template(template, name) for name in names for template in templates]),
            len(names),
        )


class CachedEncoder(Encoder):
    """An encoder that keeps what it encoded, by content: a second run, another task with the same images, or
    one that was killed goes on where it stood. Several processes share the work, and what they get does not
    depend on how many they are, to the bit.

    Args:
        cache_dir: a folder that all processes share; one below datasets' own cache by default.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        normalize: bool = True,
        cache_dir: str | None = None,
    ):
        super().__init__(model.to(PartialState().device), processor, normalize=normalize)
        self.cache_dir, self.weights = cache_dir, hash_weights(model)
        self.made_by = {"weights": self.weights, "configuration": settings(model)}
        self.prepared = {"image": prepared_images(model, processor), "text": prepared_texts(model, processor)}

    def rows(self, rows: Dataset | IterableDataset) -> tuple[torch.Tensor, dict[str, list], list[str]]:
        """Encode the column `image`, of a stream too.

        Returns:
            The vectors, the other columns, and the XXH3-128 of each image's encoded bytes.

        Raises:
            InputError: there is no row, or an image cannot be read; the message gives its row.
        """
        total = len(rows) if isinstance(rows, Dataset) else None
        vectors = []
        columns = {}
        all_digests = []
        with tqdm(
            total=total, desc="Encoding images", unit="image", disable=not PartialState().is_main_process
        ) as bar:
            for start, window in windows(rows.cast_column("image", Image(decode=False))):
                images = [row.pop("image") for row in window]
                digests = [
                    xxh3_128(encoded(image, row)).hexdigest() for row, image in enumerate(images, start)
                ]
                all_digests += digests
                vectors.append(self._window(images, digests, start))
                for name in window[0]:
                    columns.setdefault(name, []).extend(row[name] for row in window)
                bar.update(len(window))
        return (
            normalize(torch.cat(vectors), dim=-1) if self.normalize else torch.cat(vectors),
            columns,
            all_digests,
        )

    def texts(self, texts: list[str]) -> torch.Tensor:
        """In parts of texts of like length, as the cache cuts them."""
        rows = sorted(range(len(texts)), key=lambda row: (len(texts[row]), texts[row]))
        ordered = [texts[row] for row in rows]

        def encode(numbers: np.ndarray) -> torch.Tensor:
            return embed_texts(
                self.model,
                self.processor,
                [ordered[number] for number in numbers],
                normalize_embeddings=False,
            )

        vectors = self._kept("text_embeds", "text", ordered, encode, self.prepared["text"], PART)
        vectors = vectors[torch.tensor(rows).argsort()]
        return normalize(vectors, dim=-1) if self.normalize else vectors

    def classes(self, names: list[str], templates: list[str]) -> torch.Tensor:
        check_templates(templates, "templates")

        def encode(numbers: np.ndarray) -> torch.Tensor:
            prompts = [fill_template(template, names[number]) for number in numbers for template in templates]
            return mean_of_prompts(embed_texts(self.model, self.processor, prompts), len(numbers))

        prepared = self.prepared["text"] + json.dumps(list(templates), ensure_ascii=False)
        return self._kept("class_embeds", "class", list(names), encode, prepared, CLASSES)

    def _window(self, images: list[dict], digests: list[str], start: int) -> torch.Tensor:
        def encode(numbers: np.ndarray) -> torch.Tensor:
            background = background_of(self.processor.image_processor)
            read = (open_image(images[row], digests[row], start + row, background) for row in numbers)
            return embed_images(self.model, self.processor, read, normalize_embeddings=False)

        return self._kept("image_embeds", "image", digests, encode, self.prepared["image"], PART)

    def _kept(
        self, name: str, key: str, keys: list[str], encode, prepared: str, part_length: int
    ) -> torch.Tensor:
        column = cached_column(
            name,
            key,
            pa.array(keys, pa.large_string()),
            lambda numbers, _: encode(numbers),
            self.made_by | {"preparation": prepared},
            cache_dir=self.cache_dir,
            part_length=part_length,
        )
        return torch.from_numpy(column[range(len(keys))][name])


def windows(rows: Iterable[dict]) -> Iterator[tuple[int, list[dict]]]:
    """Yield `(number of the first row, rows)`, as many rows at a time as are held."""
    iterator, start = iter(rows), 0
    while window := list(islice(iterator, WINDOW)):
        yield start, window
        start += len(window)
    if start == 0:
        raise InputError("the task has no rows: look at its split, and at limit")


def encoded(image: dict | None, row: int) -> bytes:
    """Return the encoded bytes of an image, from the row or from its file."""
    if image is None:
        raise InputError(f"row {row} has no image: {REMEDY}")
    if image["bytes"] is not None:
        return image["bytes"]
    try:
        with xopen(image["path"], "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(
            f"the image of row {row} cannot be read: {error}. Put it there, or {REMEDY}"
        ) from error


def open_image(image: dict, digest: str, row: int, background: Sequence[int] | None) -> PillowImage.Image:
    """Open an image in RGB.

    One that cannot be read is an `InputError` that names its row, and its file or the XXH3-128 of its bytes.
    """
    try:
        return read_image(Image().decode_example(image), background=background)
    except Exception as error:  # decoders raise whatever they like
        reason = (
            "Pillow knows no such format" if isinstance(error, UnidentifiedImageError) else error
        )  # which would name an address
        raise InputError(
            f"the image of row {row} ({image['path'] or f'XXH3-128 {digest}'}) cannot be read: {reason}. "
            f"Mend it, or {REMEDY}"
        ) from error


def hash_weights(model: torch.nn.Module) -> str:
    """Compute the SHA-256 of the names and bytes of all parameters and persistent buffers.

    A result names by it the very weights that it was measured on.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def settings(tower: PreTrainedModel) -> str:
    """Write a configuration as text, for a fingerprint: weights do not tell of an activation function."""
    return json.dumps(
        {name: value for name, value in tower.config.to_dict().items() if name not in INCIDENTAL},
        sort_keys=True,
    )


def prepared_images(model: PreTrainedModel, processor: ProcessorMixin) -> str:
    """Describe as text how images become pixels, for a fingerprint, the background of transparent ones
    included.
    """
    prepare = processor.image_processor
    on = f" on {background_of(prepare)}"
    if isinstance(prepare, AdaptedImageProcessor):
        return adapted(model) + on
    return f"{type(prepare).__name__} {prepare.to_json_string()}{on}"


def prepared_texts(model: PreTrainedModel, processor: ProcessorMixin) -> str:
    """Describe as text how texts become tokens, for a fingerprint."""
    return (
        adapted(model) if isinstance(processor.tokenizer, AdaptedTokenizer) else written(processor.tokenizer)
    )


def adapted(model: PreTrainedModel) -> str:
    """Describe another library's model as far as its weights do not.

    The library, and the settings in its folder or the commit.
    """
    name = model.config.name_or_path
    known = [
        name,
        version("open_clip_torch" if "open_clip:" in name else "sentence-transformers"),
        str(revision_of(name)),
    ]
    for folder in (Path(part.rpartition(":")[2]) for part in name.split("+")):
        known += [
            f"{path.name} {path.read_text('utf-8')}"
            for path in sorted(folder.rglob("*.json"))
            if folder.is_dir()
        ]
    return xxh3_128("\n".join(known).encode()).hexdigest()


def written(tokenizer: PreTrainedTokenizerBase) -> str:
    """Write a tokenizer as text, for a fingerprint: without the padding and truncation of its last call, with
    its maximum length.
    """
    if tokenizer.is_fast:
        described = json.loads(tokenizer.backend_tokenizer.to_str())
    else:
        described = {"class": type(tokenizer).__name__, "files": saved_files(tokenizer)}
    return json.dumps(
        described | {"padding": None, "truncation": None, "max_length": text_length(tokenizer)},
        sort_keys=True,
    )


def saved_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return the XXH3-128 of each file that a tokenizer written in Python saves.

    It has no other whole description.
    """
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.name: xxh3_128(path.read_bytes()).hexdigest() for path in files}


__all__ = ["CachedEncoder", "Encoder", "hash_weights", "prepared_images", "settings", "written"]
