"""Similarity of texts and their translations, by a text encoder that knows both languages.

| encoder | given as | pooled by |
|---|---|---|
| AltCLIP, a dual encoder, any CLIP | folder or Hub id | the model itself |
| sentence encoders, such as LaBSE and E5 | `sentence_transformers:NAME` | their own modules |
| other text encoders of transformers | folder or Hub id | the mean over tokens, or as their files state |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from torch.nn.functional import normalize
from transformers import AutoModel, PreTrainedModel

from common.errors import InputError, one_line
from common.extras import of_extra
from common.fingerprints import hash_weights
from common.models.kinds import TEXT_ENCODER, TWO_TOWERS, Kind, check_kind, load_tokenizer, readable, unasked
from common.models.libraries import library_of
from common.models.loading import load_model
from modeling_altclip.checksums_altclip import checked_files
from modeling_altclip.embedding import embed_texts, encode_texts
from modeling_altclip.finite_altclip import check_finite
from modeling_altclip.pooling_altclip import check_states, pool, stated_pooling, unread_modules
from modeling_altclip.texts_altclip import ENCODER_LENGTH, check_texts, readable_tokens

_LIBRARY = "sentence_transformers"
_ANY = Kind(
    f"a text encoder, such as an XLM-R, an AltCLIP or another model of texts and images, or {_LIBRARY}:NAME",
    lambda config: TEXT_ENCODER.fits(config) or TWO_TOWERS.fits(config),
)
_WINDOW = 64  # batches whose embeddings are held at once


@dataclass(frozen=True)
class TextEncoder:
    """Embeds texts of any language, as `load_text_encoder` loads it.

    Attributes:
        name: the folder or Hub id.
        weights: hash of its weights, by which results name it.
        embed: returns embeddings `(texts, dim)`, float32 on the CPU, of texts and a batch size.
    """

    name: str
    weights: str
    embed: Callable[[list[str], int], torch.Tensor]


def load_text_encoder(name_or_path: str, argument: str = "model", prefix: str = "") -> TextEncoder:
    """Load an encoder of texts, on the accelerator where there is one.

    Args:
        name_or_path: see the table above.
        argument: the option that it was given with, for messages.
        prefix: put before each text; multilingual E5 was trained with "query: ".

    Raises:
        InputError: it cannot be loaded, encodes no texts, or has a weight that is NaN or infinite; or it has
            steps behind its pooling that only its own library runs.
        MissingExtra: it is one of sentence-transformers, which is not installed.

    Example:

    ```python
    >>> from training import load_text_encoder, text_similarities

    >>> # Or "sentence_transformers:sentence-transformers/LaBSE"
    >>> encoder = load_text_encoder("outputs/miniature/altclip")
    >>> similarities = text_similarities(encoder, ["a dog", "a cat"], ["ein Hund", "a cat"])
    >>> similarities.dtype, similarities.shape, round(float(similarities[1]), 4)
    (dtype('float32'), (2,), 1.0)
    ```
    """
    if library_of(name_or_path) == _LIBRARY:
        model, embed = _load_sentence_encoder(name_or_path, argument)
    elif library_of(name_or_path) is not None:
        raise InputError(f"{argument} {name_or_path!r} has an unknown prefix: give {_LIBRARY}:NAME, or none")
    elif TWO_TOWERS.fits(check_kind(argument, name_or_path, _ANY)):
        model, embed = _load_two_towers(name_or_path, argument)
    else:
        model, embed = _load_encoder(name_or_path, argument)
    model.eval().to(PartialState().device)

    def embed_prefixed(texts: list[str], batch_size: int) -> torch.Tensor:
        return embed([prefix + text for text in texts], batch_size)

    return TextEncoder(name_or_path, hash_weights(model), embed_prefixed)


def _load_two_towers(name_or_path: str, argument: str) -> tuple[PreTrainedModel, Callable]:
    """Load a model of texts and images, whose embeddings of texts are taken.

    Raises:
        InputError: as `load_model`.
    """
    model, processor = load_model(name_or_path, argument=argument)

    def embed(texts: list[str], batch_size: int) -> torch.Tensor:
        return embed_texts(model, processor, texts, batch_size=batch_size)

    return model, embed


def _load_encoder(name_or_path: str, argument: str) -> tuple[PreTrainedModel, Callable]:
    """Load a text encoder of transformers, which is pooled as its files state, or by the mean.

    Raises:
        InputError: it cannot be loaded, or its files have more steps than an encoder and its pooling.
    """
    with readable(argument, name_or_path), checked_files(name_or_path):
        left_out = unread_modules(name_or_path)
        if left_out:
            raise InputError(
                f"{argument} {name_or_path!r} has more than an encoder and its pooling, "
                f"{', '.join(left_out)}: give {_LIBRARY}:{name_or_path}, which runs all of it"
            )
        pooling = stated_pooling(name_or_path) or "mean"
        model = AutoModel.from_pretrained(name_or_path, dtype=torch.float32, trust_remote_code=False)
        check_finite(model.named_parameters(), "it")
        check_states(model)
    tokenizer = load_tokenizer(argument, name_or_path)
    # Sentences of a corpus are longer than the captions that a CLIP reads.
    max_length = min(ENCODER_LENGTH, readable_tokens(model), tokenizer.model_max_length)

    def forward(attention_mask: torch.Tensor, **inputs) -> torch.Tensor:
        states = model(attention_mask=attention_mask, **inputs).last_hidden_state
        return pool(states, attention_mask, pooling)

    def embed(texts: list[str], batch_size: int) -> torch.Tensor:
        return encode_texts(model, tokenizer, texts, forward, batch_size=batch_size, max_length=max_length)

    return model, embed


def _load_sentence_encoder(name_or_path: str, argument: str) -> tuple[torch.nn.Module, Callable]:
    """Load a model of sentence-transformers with all its modules, such as LaBSE's dense layer.

    Raises:
        InputError: it cannot be loaded.
        MissingExtra: sentence-transformers is not installed.
    """
    with of_extra("sentence-transformers"):
        from sentence_transformers import SentenceTransformer

    name = name_or_path.removeprefix(f"{_LIBRARY}:")
    try:
        with unasked():
            model = SentenceTransformer(name, device="cpu", trust_remote_code=False).float()
        check_finite(model.named_parameters(), "it")
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{argument} {name_or_path!r} cannot be loaded: {one_line(error)}") from error

    def embed(texts: list[str], batch_size: int) -> torch.Tensor:
        embeddings = model.encode(
            texts, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False
        )
        return embeddings.float().cpu()

    return model, embed


def text_similarities(
    encoder: TextEncoder, texts: Sequence[str], counterparts: Sequence[str], batch_size: int = 64
) -> np.ndarray:
    """Return the cosine similarity of each text and its counterpart, mostly a translation.

    Distinct texts are encoded once within 64 batches, in batches of similar length, so that any number of
    texts takes the memory of 64 batches. Equal calls return equal bytes on one machine. The same pair in
    another call differs by rounding alone, some 1e-6, since sums of floats depend on the batch's shape.

    Args:
        encoder: as `load_text_encoder` returns it.
        texts, counterparts: equally many; the order of the two does not matter.
        batch_size: number of texts encoded together.

    Returns:
        Similarities within -1 and 1, float32, shape `(len(texts),)`.

    Raises:
        InputError: the numbers of texts differ; one is no string; or an embedding is NaN or infinite.

    Example:

    ```python
    >>> from training import load_text_encoder, text_similarities

    >>> encoder = load_text_encoder("outputs/miniature/altclip")
    >>> text_similarities(encoder, ["a dog", "a cat"], ["ein Hund", "eine Katze"]).shape
    (2,)
    ```
    """
    if len(texts) != len(counterparts):
        raise InputError(
            f"there are {len(texts)} texts and {len(counterparts)} counterparts: give one for each"
        )
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give 1 or more")
    similarities = np.empty(len(texts), np.float32)
    n_rows = batch_size * _WINDOW // 2
    for start in range(0, len(texts), n_rows):
        rows = slice(start, start + n_rows)
        similarities[rows] = _similarities_of(encoder, texts[rows], counterparts[rows], batch_size)
    return similarities


def _similarities_of(
    encoder: TextEncoder, texts: Sequence[str], counterparts: Sequence[str], batch_size: int
) -> np.ndarray:
    """Return the similarities of one window, see `text_similarities`."""
    both = [*texts, *counterparts]
    try:
        check_texts(both, "texts")
        # A text that occurs twice has one embedding, whichever batch it would have been in.
        row_of = {text: row for row, text in enumerate(dict.fromkeys(both))}
        embeddings = encoder.embed(list(row_of), batch_size)
    except ValueError as error:
        raise InputError(f"texts cannot be compared by {encoder.name!r}: {error}") from error
    if not embeddings.isfinite().all():
        raise InputError(
            f"model {encoder.name!r} gives embeddings of texts that are NaN or infinite: give another model"
        )
    embeddings = normalize(embeddings, dim=-1)
    firsts = embeddings[[row_of[text] for text in texts]]
    seconds = embeddings[[row_of[text] for text in counterparts]]
    return (firsts * seconds).sum(dim=-1).clamp(-1, 1).numpy()


__all__ = ["TextEncoder", "load_text_encoder", "text_similarities"]
