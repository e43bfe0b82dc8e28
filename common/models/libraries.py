"""Load models of other libraries, named as `LIBRARY:NAME`."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from ..errors import InputError
from .adapter import AdaptedModel, AdaptedProcessor, AdaptedTokenizer
from .kinds import unasked

# Commands that install what each library needs, for messages.
_INSTALL = {
    "open_clip": 'pip install "altclip[open-clip]", and the torchvision that pairs with your torch',
    "sentence_transformers": 'pip install "altclip[sentence-transformers]"',
    "m_clip": "pip install sentencepiece protobuf",
}
# Those whose models can teach stage 1 by their embeddings of texts alone.
TEXT_TEACHERS = ("sentence_transformers", "open_clip")


def load_adapted(
    library: str, name: str, load_model: Callable[[str], tuple]
) -> tuple[AdaptedModel, AdaptedProcessor]:
    """Load `name` with the adapter of a library, which is imported only then.

    Args:
        library: the prefix of a model of another library, such as `open_clip`.
        load_model: loads the model of images that M-CLIP's text towers need beside them.

    Raises:
        InputError: the library is not installed, or cannot load the model.
    """
    with _loadable("model", library, name):
        model, processor = _load_adapted(library, name, load_model)
    model.config.name_or_path = f"{library}:{name}"
    return model, processor


def load_adapted_texts(argument: str, library: str, name: str) -> tuple[AdaptedModel, AdaptedTokenizer]:
    """Load `name` with the adapter of a library for texts alone: the model need not read images.

    Args:
        argument: the option that the model was given with, for messages.
        library: one of `TEXT_TEACHERS`.

    Raises:
        InputError: as `load_adapted`.
    """
    with _loadable(argument, library, name):
        if library == "sentence_transformers":
            from .from_sentence_transformers import load_texts

            model, tokenizer = load_texts(name)
        else:
            from . import from_open_clip

            model, processor = from_open_clip.load(name)
            tokenizer = processor.tokenizer
    model.config.name_or_path = f"{library}:{name}"
    return model, tokenizer


@contextmanager
def _loadable(argument: str, library: str, name: str) -> Iterator[None]:
    """Turn errors of a library into an `InputError` that names the model."""
    try:
        with unasked():
            yield
    except ImportError as error:
        raise InputError(
            f"{argument} '{library}:{name}' needs more than is installed ({error}): {_INSTALL[library]}"
        ) from error
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        raise InputError(f"{argument} '{library}:{name}' cannot be loaded: {error}") from error


def _load_adapted(
    library: str, name: str, load_model: Callable[[str], tuple]
) -> tuple[AdaptedModel, AdaptedProcessor]:
    if library == "open_clip":
        from .from_open_clip import load

        return load(name)
    if library == "sentence_transformers":
        from .from_sentence_transformers import load

        return load(name)
    from .from_m_clip import load

    return load(name, load_model)


def check_library(name_or_path: str) -> str | None:
    """Return the library of a model, or None for transformers.

    Raises:
        InputError: there is no adapter for the library.
    """
    library = library_of(name_or_path)
    if library is not None and library not in _INSTALL:
        choices = ", ".join(f"{known}:" for known in _INSTALL)
        raise InputError(f"model {name_or_path!r} has an unknown prefix: choose from {choices}")
    return library


def source_of(name_or_path: str) -> str:
    """Return the folder or Hub id that a model is read from, without the library before it.

    A name of open_clip's own list, `open_clip:NAME/TAG`, is neither, and returned as it is.

    "sentence_transformers:intfloat/multilingual-e5-small" -> "intfloat/multilingual-e5-small"
    """
    library = library_of(name_or_path)
    if library is None:
        return name_or_path
    source = name_or_path.removeprefix(f"{library}:").removeprefix("hf-hub:")
    is_named_by_library = library == "open_clip" and "hf-hub:" not in name_or_path
    return name_or_path if is_named_by_library and not os.path.exists(source) else source


def library_of(name_or_path: str) -> str | None:
    """Return the library before the first colon; None without one, and for a folder, even below C:.

    "open_clip:ViT-B-32/openai" -> "open_clip"
    """
    library, colon, _ = name_or_path.partition(":")
    is_prefix = colon and len(library) > 1 and not os.path.exists(name_or_path)
    return library if is_prefix else None
