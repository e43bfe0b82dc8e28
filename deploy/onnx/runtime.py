"""Run an exported model on onnxruntime, tokenizers, numpy and Pillow alone, without torch and transformers.

model = OnnxAltCLIP.from_folder("outputs/exported", dtype="int8")
model.classify("dog.jpg", ["狗", "猫"], template="一张{}的照片。")
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

from .pictures import Preparation

# Endings of files by the number format of the weights, as transformers.js names both.
_SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_int8", "q8": "_quantized", "q4": "_q4"}
TOWERS = ("text_model", "vision_model")
RECORD = "altclip_export.json"
_SLOT = "{}"

_Picture = Image.Image | str | Path


class OnnxAltCLIP:
    """An exported model: embeds texts and images, and classifies images by names in any language.

    Texts are tokenized, truncated and padded, and images prepared, as `embed_texts` and `embed_images` of
    `modeling_altclip` do it. Images are paths or images of PIL. Threads may share the model.

    Attributes:
        logit_scale, logit_bias: what cosine similarities are multiplied with, and what is added then; a model
            of the softmax has no bias.

    Example:

    ```python
    from altclip.deploy.onnx.runtime import OnnxAltCLIP

    model = OnnxAltCLIP.from_folder("outputs/exported", dtype="int8")
    texts = model.embed_texts(["a dog", "一只狗"])
    images = model.embed_images(["dog.jpg"])
    similarities = images @ texts.T
    ```
    """

    def __init__(
        self,
        text_session: onnxruntime.InferenceSession,
        vision_session: onnxruntime.InferenceSession,
        tokenizer: Tokenizer,
        preparation: Preparation,
        record: dict,
    ):
        self._text_session = text_session
        self._vision_session = vision_session
        self._tokenizer = tokenizer
        self._pad_id = tokenizer.token_to_id(record["pad_token"])
        self._prepare = preparation
        self._record = record
        self.logit_scale: float = record["logit_scale"]
        self.logit_bias: float | None = record["logit_bias"]

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        dtype: str = "fp32",
        n_threads: int = 0,
        providers: Sequence[str] | None = None,
    ) -> "OnnxAltCLIP":
        """Load a folder that `altclip export` wrote.

        Args:
            dtype: number format of the weights: one of those that were exported.
            n_threads: threads of one forward; 0 lets onnxruntime take all cores.
            providers: onnxruntime's execution providers, by default the CPU's.

        Raises:
            ValueError: the folder is no exported model, or was not exported in this format.
        """
        folder = Path(folder)
        record = _read_json(folder / RECORD)
        if dtype not in record["dtypes"]:
            raise ValueError(
                f"dtype is {dtype!r}, and {folder} has {', '.join(record['dtypes'])}: choose one of them, or "
                f"export it with --dtypes {dtype}"
            )
        sessions = []
        for tower in TOWERS:
            sessions.append(open_session(path_of(folder, tower, dtype), n_threads, providers))
        return cls(*sessions, load_tokenizer(folder, record), load_preparation(folder), record)

    def embed_texts(
        self, texts: Sequence[str], *, batch_size: int = 256, normalize_embeddings: bool = True
    ) -> np.ndarray:
        """Embed texts, truncated at the model's text length.

        Args:
            normalize_embeddings: scale embeddings to unit length; otherwise they are the projection's
                outputs.

        Returns:
            Embeddings in the order of the texts, float32 `(texts, projection_dim)`.

        Raises:
            ValueError: there is no text, or one is no string or has no token, or its embedding is not finite;
                the message gives its index.
        """
        _check_list(texts, "texts")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"texts[{index}] is {text!r}, not a string: drop it or write it out")
        ids = self.tokenize(texts)

        # Texts of similar length share a batch, so that little is padded.
        by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        embeddings = np.empty((len(ids), self._record["projection_dim"]), np.float32)
        for rows in _batches(by_length, batch_size):
            inputs = self._pad([ids[row] for row in rows])
            embeddings[rows] = self._text_session.run(["text_embeds"], inputs)[0]
        return _finish(embeddings, "texts", normalize_embeddings)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, truncated and not padded.

        Raises:
            ValueError: a text has no token.
        """
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        for index, of_text in enumerate(ids):
            if not of_text:
                raise ValueError(f"texts[{index}] has no token, and so no embedding: drop it")
        return ids

    def _pad(self, ids: list[list[int]]) -> dict[str, np.ndarray]:
        """Return `input_ids` and `attention_mask`, both `(texts, tokens)`, padded on the right."""
        shape = (len(ids), max(map(len, ids)))
        input_ids = np.full(shape, self._pad_id, np.int64)
        attention_mask = np.zeros(shape, np.int64)
        for row, of_text in enumerate(ids):
            input_ids[row, : len(of_text)] = of_text
            attention_mask[row, : len(of_text)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def embed_images(
        self, images: Sequence[_Picture], *, batch_size: int = 64, normalize_embeddings: bool = True
    ) -> np.ndarray:
        """Embed images: paths, or images of PIL; transparent pixels stand on the processor's background.

        Args:
            normalize_embeddings: as for `embed_texts`.

        Returns:
            Embeddings in the order of the images, float32 `(images, projection_dim)`.

        Raises:
            ValueError: there is no image, or one cannot be read, or its embedding is not finite; the message
                gives its index.
        """
        _check_list(images, "images")
        embeddings = np.empty((len(images), self._record["projection_dim"]), np.float32)
        for rows in _batches(range(len(images)), batch_size):
            pixels = self.prepare_images([images[row] for row in rows], names=rows)
            embeddings[rows] = self._vision_session.run(["image_embeds"], {"pixel_values": pixels})[0]
        return _finish(embeddings, "images", normalize_embeddings)

    def prepare_images(self, images: Sequence[_Picture], names: Sequence | None = None) -> np.ndarray:
        """Return the `pixel_values` of images, float32 `(images, 3, height, width)`.

        Args:
            names: names of the images in errors, if not 0, 1, 2.

        Raises:
            ValueError: an image cannot be read; the message gives its name.
        """
        return self._prepare(images, names)

    def classify(
        self,
        images: _Picture | Sequence[_Picture],
        labels: Sequence[str],
        *,
        template: str | Sequence[str] = "This is a photo of {}.",
    ) -> list[dict] | list[list[dict]]:
        """Rank labels for an image, or for each of several, as the zero-shot pipeline does.

        Args:
            template: a prompt template with `{}` in it, or several, whose unit embeddings are averaged and
                scaled to unit length again (CLIP, section 3.1.4).

        Returns:
            `[{"score": probability, "label": label}, ...]`, best first, for each image. Scores add up to 1,
                but those of a model with a `logit_bias` are each label's own probability.

        Raises:
            ValueError: as `embed_images` and `embed_texts`; or a template does not have `{}` once.
        """
        is_one = isinstance(images, _Picture)
        label_embeds = self._embed_labels(labels, [template] if isinstance(template, str) else list(template))
        logits = self.logit_scale * self.embed_images([images] if is_one else images) @ label_embeds.T
        scores = _softmax(logits) if self.logit_bias is None else _sigmoid(logits + self.logit_bias)
        ranked = [_rank(of_image, labels) for of_image in scores.tolist()]
        return ranked[0] if is_one else ranked

    def _embed_labels(self, labels: Sequence[str], templates: list[str]) -> np.ndarray:
        """Return one unit embedding for each label `(labels, projection_dim)`."""
        _check_list(labels, "labels")
        for template in templates:
            if template.count(_SLOT) != 1:
                raise ValueError(f"template {template!r} has to have {{}} once, where the label goes")
        # Nothing is formatted: braces in a label are plain text.
        prompts = [template.replace(_SLOT, label) for label in labels for template in templates]
        by_label = self.embed_texts(prompts).reshape(len(labels), len(templates), -1)
        return _unit(by_label.mean(axis=1))


def path_of(folder: Path, tower: str, dtype: str) -> Path:
    """Return the path of a tower in a format."""
    return folder / "onnx" / f"{tower}{_SUFFIXES[dtype]}.onnx"


def open_session(
    path: Path, n_threads: int = 0, providers: Sequence[str] | None = None
) -> onnxruntime.InferenceSession:
    """Open one tower.

    Args:
        n_threads, providers: as for `OnnxAltCLIP.from_folder`.

    Raises:
        ValueError: the file is not there.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there: export the model again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    return onnxruntime.InferenceSession(path, options, providers=providers or ["CPUExecutionProvider"])


def load_tokenizer(folder: Path, record: dict) -> Tokenizer:
    """Load a tokenizer that truncates texts as the record says, and does not pad them."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(record["text_length"], direction=record["truncation_side"])
    return tokenizer


def load_preparation(folder: Path) -> Preparation:
    """Load the steps of the image processor."""
    return Preparation.from_settings(_read_json(folder / "preprocessor_config.json"))


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path} is not there: give a folder that `altclip export` wrote")
    return json.loads(path.read_text("utf-8"))


def _check_list(items: Sequence, name: str) -> None:
    if isinstance(items, str | Path | Image.Image):
        raise ValueError(f"{name} is a single {type(items).__name__}: put it into a list")
    if len(items) == 0:
        raise ValueError(f"{name} is empty: give at least one")


def _batches(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    if size < 1:
        raise ValueError(f"batch_size is {size}: give a number of at least 1")
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])


def _finish(embeddings: np.ndarray, name: str, normalize: bool) -> np.ndarray:
    """Refuse embeddings that are not finite, and scale them to unit length.

    Raises:
        ValueError: a value is NaN or infinite; the message gives the index of the first item.
    """
    is_finite = np.isfinite(embeddings).all(axis=1)
    if not is_finite.all():
        raise ValueError(f"the embedding of {name}[{is_finite.argmin()}] is not finite: take another dtype")
    return _unit(embeddings) if normalize else embeddings


def _unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True).clip(1e-12)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def _rank(scores: list[float], labels: Sequence[str]) -> list[dict]:
    ranked = sorted(zip(scores, labels), key=lambda pair: -pair[0])
    return [{"score": score, "label": label} for score, label in ranked]


__all__ = [
    "RECORD",
    "TOWERS",
    "OnnxAltCLIP",
    "load_preparation",
    "load_tokenizer",
    "open_session",
    "path_of",
]
