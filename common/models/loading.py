"""Load models of any kind from a folder or the Hub, with errors that a user can act on, and save them."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

from modeling_altclip import AltCLIPConfig, AltCLIPDualEncoderConfig, AltCLIPProcessor
from modeling_altclip.checkpoint_altclip import match_modes
from modeling_altclip.checksums_altclip import checked_files, write_checksums
from modeling_altclip.finite_altclip import check_finite
from modeling_altclip.linear_altclip import use_onednn
from modeling_altclip.reading_altclip import canonical_tokenizer, text_reading
from modeling_altclip.tokenizer_files_altclip import remember_files, restore_files

from ..errors import InputError
from ..paths import check_folder
from .adapter import AdaptedModel, AdaptedTokenizer
from .kinds import TWO_TOWERS, Kind, check_end_of_text, check_kind, check_tokenizer, readable
from .libraries import check_library, load_adapted, load_adapted_texts
from .low_rank import base_of, is_low_rank, merge_low_rank


def load_model(
    name_or_path: str,
    *,
    argument: str = "model",
    kind: Kind = TWO_TOWERS,
    attn_implementation: str | None = None,
    canonicalizes: bool = True,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a model in float32 with its processor, as `embed_texts` and `embed_images` take them.

    The tokenizer of a SigLIP canonicalizes texts as the model was trained (`reading_altclip.canonicalize`),
    which the files on the Hub do not state (transformers#43101, NVlabs/RADIO#142).

    Args:
        name_or_path: a folder that `save_pretrained` wrote or a Hub id; the folder of a LoRA, which is merged
            into its base; or a model of another library, as `open_clip:NAME`, `sentence_transformers:NAME` or
            `m_clip:NAME` (see `models.libraries`), which is a small module with the same two methods.
        argument: the option that the model was given with, for messages.
        kind: the kind of model that is needed.
        attn_implementation: transformers' option, for its own models.
        canonicalizes: let the tokenizer of a SigLIP canonicalize texts; false leaves it as it was saved.
        trust_remote_code: run the code that the text encoder of a dual encoder brings, if it brings any.

    Raises:
        InputError: the folder, its configuration, weights or processor are missing in whole or in part; a
            weight is NaN or infinite; the model is of another kind; a LoRA names no base or does not fit it;
            code is not allowed to run; or a library is missing.

    Example:

    ```python
    >>> from benchmarks import load_model

    >>> model, processor = load_model("outputs/miniature/altclip")  # or "BAAI/AltCLIP-m9"
    >>> model.dtype
    torch.float32
    ```
    """
    if library := check_library(name_or_path):
        adapted, processor = load_adapted(library, name_or_path.removeprefix(f"{library}:"), load_model)
        use_onednn(adapted)
        _check_finite(adapted, argument, name_or_path)
        return adapted, processor
    if is_low_rank(name_or_path):
        base = load_model(
            base_of(name_or_path, argument),
            argument=argument,
            kind=kind,
            attn_implementation=attn_implementation,
            canonicalizes=False,
            trust_remote_code=trust_remote_code,
        )
        model, processor = merge_low_rank(name_or_path, *base, argument)
    else:
        config = check_kind(argument, name_or_path, kind, trust_remote_code=trust_remote_code)
        checks_itself = isinstance(config, AltCLIPConfig | AltCLIPDualEncoderConfig)
        with readable(argument, name_or_path), checked_files(name_or_path, weights=not checks_itself):
            model = AutoModel.from_pretrained(
                name_or_path,
                dtype=torch.float32,
                attn_implementation=attn_implementation,
                trust_remote_code=trust_remote_code and checks_itself,
            )
        processor = load_processor(name_or_path, argument=argument)

    use_onednn(model)
    _check_finite(model, argument, name_or_path)
    check_end_of_text(argument, name_or_path, model.config, processor.tokenizer)
    if canonicalizes and text_reading(model).is_canonical:
        processor.tokenizer = canonical_tokenizer(processor.tokenizer)
    return model, processor


def load_processor(name_or_path: str, *, argument: str = "model") -> ProcessorMixin:
    """Load a model's processor as it was saved: of a SigLIP without the steps that `load_model` adds.

    The files of its tokenizer are remembered, as by `load_tokenizer`.

    Args:
        argument: the option that the model was given with, for messages.

    Raises:
        InputError: it is missing, in whole or in part, or damaged.
    """
    with readable(argument, name_or_path), checked_files(name_or_path, weights=False):
        processor = AutoProcessor.from_pretrained(name_or_path, trust_remote_code=False)
    if not isinstance(processor, ProcessorMixin):
        raise InputError(
            f"{argument} {name_or_path!r} has no processor of texts and images, "
            f"only a {type(processor).__name__}: "
            "save an AltCLIPProcessor(image_processor, tokenizer) there"
        )
    check_tokenizer(argument, name_or_path, processor.tokenizer)
    if not isinstance(processor, AltCLIPProcessor):  # which has remembered them
        with readable(argument, name_or_path):
            remember_files(processor.tokenizer, name_or_path)
    # How it was loaded is no part of it, and would be saved with it.
    for name in ("is_local", "local_files_only"):
        processor.tokenizer.init_kwargs.pop(name, None)
    return processor


def load_texts(name_or_path: str, *, argument: str) -> tuple[AdaptedModel, AdaptedTokenizer]:
    """Load a model of another library for its embeddings of texts, in float32; it need not read images.

    Args:
        name_or_path: `sentence_transformers:NAME` or `open_clip:NAME`, as for `load_model`.
        argument: the option that the model was given with, for messages.

    Returns:
        A small module with `get_text_features`, and its tokenizer, as `encode_texts` takes them.

    Raises:
        InputError: a library is missing, or cannot load the model; or a weight is NaN or infinite.
    """
    library = check_library(name_or_path)
    model, tokenizer = load_adapted_texts(argument, library, name_or_path.removeprefix(f"{library}:"))
    use_onednn(model)
    _check_finite(model, argument, name_or_path)
    return model, tokenizer


def _check_finite(model: nn.Module, argument: str, name_or_path: str) -> None:
    """Refuse a model with a NaN or infinite weight, whose every answer would be NaN."""
    try:
        check_finite(model.named_parameters(), f"{argument} {name_or_path!r}")
    except ValueError as error:
        raise InputError(error) from error


def save_model(
    model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path, state_dict: dict | None = None
) -> None:
    """Save a model and its processor as one complete folder, with the code of our own classes and checksums.

    Files of a tokenizer that has not changed since it was loaded are written byte for byte.

    Args:
        state_dict: weights to save in place of the model's own, which may be sharded.
    """
    # The model first: beside its config.json, the processor's files name no class.
    model.save_pretrained(folder, state_dict=state_dict)
    match_modes(folder)
    processor.save_pretrained(folder)
    restore_files(processor.tokenizer, folder)
    write_checksums(folder)


def check_model(name_or_path: str, argument: str = "model", *, trust_remote_code: bool = False) -> None:
    """Check a model to evaluate before anything is loaded; a Hub id is not looked up.

    Args:
        argument: the option that the model was given with, for messages.
        trust_remote_code: as for `load_model`.

    Raises:
        InputError: the folder does not exist, or holds a model of another kind, or code that is not allowed
            to run; or the prefix before a colon is no library that has an adapter.
    """
    if check_library(name_or_path) is None:
        check_folder(argument, name_or_path)
        if is_low_rank(name_or_path):
            base = base_of(name_or_path, argument)
            check_model(base, argument, trust_remote_code=trust_remote_code)
        elif Path(name_or_path).exists():
            check_kind(argument, name_or_path, TWO_TOWERS, trust_remote_code=trust_remote_code)
