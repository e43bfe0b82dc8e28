"""A callable that adds embeddings to batches of pictures, on one process or on a cluster."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from common.images import decode_image, why_unreadable
from common.models.loading import load_model
from modeling_altclip import embed_images
from modeling_altclip.images_altclip import DeferredImage

DTYPES = {"float16": np.float16, "float32": np.float32}


class EmbedImages:
    """Adds the columns `embedding` and `error` to a batch, which is a table of Arrow.

    `embedding` is a list of fixed size, of unit length. Where a picture cannot be read it is null, and
    `error` says why; elsewhere `error` is null. Rows and other columns stay as they are.

    Args:
        model_name_or_path: the folder or Hub id of a model, as for `load_model`.
        image: the column of pictures: encoded bytes, or `{"bytes", "path"}` as `datasets` stores them.
        dtype: of the embeddings, "float16" or "float32".
        options: of `load_model`, such as `trust_remote_code`.

    Raises:
        InputError: as `load_model`.

    Example:

    ```python
    >>> import pyarrow as pa
    >>> from deploy.embed import EmbedImages

    >>> embed = EmbedImages("outputs/miniature/altclip")
    >>> with open("outputs/miniature/altclip/example.png", "rb") as file:
    ...     batch = pa.table({"id": ["a", "b"], "image": [file.read(), b"no picture"]})
    >>> embed(batch).select(["id", "error"]).to_pylist()
    [{'id': 'a', 'error': None}, {'id': 'b', 'error': 'Pillow knows no such format'}]
    >>> embed(batch)["embedding"].type
    FixedSizeListType(fixed_size_list<item: halffloat>[128])
    ```
    """

    def __init__(self, model_name_or_path: str, *, image: str = "image", dtype: str = "float16", **options):
        self.model, self.processor = load_model(model_name_or_path, **options)
        self.model.to(PartialState().device)
        self.image = image
        self.dtype = dtype

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the same rows with two more columns.

        Raises:
            ValueError: an embedding is not finite.
        """
        readers = [partial(_decode, image) for image in batch[self.image].to_pylist()]
        embeddings, reasons = embed_readable(self.model, self.processor, readers)
        is_broken = np.isin(np.arange(len(readers)), list(reasons))
        column = as_fixed_lists(embeddings, self.dtype, is_broken)
        errors = pa.array([reasons.get(row) for row in range(len(readers))], pa.string())
        return batch.append_column("embedding", column).append_column("error", errors)


def embed_readable(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    readers: Sequence[Callable[[], Image.Image]],
    truncate_dim: int | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Embed a batch of pictures of which any may be broken.

    Args:
        readers: each decodes one picture, or raises any error. Few pictures are decoded at a time.
        truncate_dim: as for `embed_images`.

    Returns:
        Unit embeddings `(pictures, dim)`, float32, zeros for a broken picture; and why it is broken, by its
            number.

    Raises:
        ValueError: an embedding is not finite.
    """
    images = [DeferredImage(partial(_read_or_error, read)) for read in readers]
    # `embed_images` refuses pictures of which none can be read: the last one always can.
    images.append(Image.new("RGB", (32, 32)))
    found = embed_images(
        model,
        processor,
        images,
        batch_size=len(images),
        convert_to_numpy=True,
        truncate_dim=truncate_dim,
        errors="skip",
    )
    embeddings = np.zeros((len(images), found.embeddings.shape[1]), np.float32)
    embeddings[found.names] = found.embeddings
    return embeddings[:-1], {skipped.index: skipped.reason for skipped in found.skipped}


def as_fixed_lists(embeddings: np.ndarray, dtype: str, is_null: np.ndarray | None = None) -> pa.Array:
    """Return embeddings `(rows, dim)` as lists of fixed size, null where `is_null` `(rows,)` says so."""
    values = pa.array(embeddings.astype(DTYPES[dtype]).reshape(-1))
    mask = None if is_null is None else pa.array(is_null)
    return pa.FixedSizeListArray.from_arrays(values, embeddings.shape[1], mask=mask)


def _decode(image: bytes | dict | None) -> Image.Image:
    """Decode a picture as a column of Arrow has it.

    Raises:
        Exception: it cannot be decoded, see `decode_image`.
    """
    if image is None:
        raise ValueError("the row has no picture")
    return decode_image({"bytes": image, "path": None} if isinstance(image, bytes) else image)


def _read_or_error(read: Callable[[], Image.Image]) -> Image.Image | ValueError:
    """Return the picture, or what `embed_images` takes for a broken one."""
    try:
        return read()
    except Exception as error:  # decoders raise whatever they like
        return ValueError(why_unreadable(error))


__all__ = ["DTYPES", "EmbedImages", "as_fixed_lists", "embed_readable"]
