"""Kinds of models, by the configuration in a folder or Hub repository.

A model of another kind, or one that cannot be read, raises an `InputError` of one line.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    dynamic_module_utils,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
)

from modeling_altclip import AltCLIPDualEncoderConfig
from modeling_altclip.checksums_altclip import check_files
from modeling_altclip.configuration_altclip_dual_encoder import DUAL_TEACHERS
from modeling_altclip.modeling_altclip import TEACHERS, TEXT_ENCODERS
from modeling_altclip.text_code_altclip import check_allowed, lacks_text_code, with_text_code
from modeling_altclip.tokenizer_files_altclip import remember_files
from modeling_altclip.towers_altclip import load_text_config

from ..commands import command_for
from ..errors import InputError
from ..paths import check_folder

# Errors of transformers for a checkpoint that is damaged, of an unknown kind, or lacks a file.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    RuntimeError,
    EOFError,
    SafetensorError,
    UnpicklingError,
    StrictDataclassError,
)


class Kind(NamedTuple):
    """Kind of model: its name in messages, and a predicate of configurations that are of this kind."""

    name: str
    fits: Callable[[PreTrainedConfig], bool]


def _of_types(name: str, model_types: tuple[str, ...]) -> Kind:
    """Return the kind of models whose `model_type` is one of these."""

    def fits(config: PreTrainedConfig) -> bool:
        return config.model_type in model_types

    return Kind(name, fits)


def _has_two_towers(config: PreTrainedConfig) -> bool:
    """Check that `AutoModel` builds a model that embeds texts and images."""
    # Without such a model `dir(None)` has neither.
    attributes = dir(MODEL_MAPPING.get(type(config), None))
    return "get_text_features" in attributes and "get_image_features" in attributes


def _reads(config: PreTrainedConfig, modality: str) -> bool:
    """Check that `AutoModel` builds an encoder of nothing but `image` or `text`."""
    if type(config) not in MODEL_MAPPING:
        return False
    return MODEL_MAPPING[type(config)].input_modalities in (modality, (modality,))


def _is_text_encoder(config: PreTrainedConfig) -> bool:
    """Check that `AutoModel` builds an encoder of nothing but texts."""
    return _reads(config, "text")


def _has_image_tower(config: PreTrainedConfig) -> bool:
    """Check for an image encoder, or one of its own family beside a text tower, as in CLIP and SigLIP."""
    tower = getattr(config, "vision_config", config)
    if not _reads(tower, "image"):
        return False
    return tower is config or tower.model_type == f"{config.model_type}_vision_model"


def _predicts_masked_tokens(config: PreTrainedConfig) -> bool:
    """Check that transformers has a masked language model of this kind."""
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING


def _translates(config: PreTrainedConfig) -> bool:
    """Check that transformers has a sequence-to-sequence language model of this kind."""
    return type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING


ALTCLIP = _of_types("an AltCLIP, as stage 1 makes it", ("altclip",))
# Models of transformers whose own text tower goes on learning; our two types beside them.
_OWN_TOWERS = ("chinese_clip", "clip", "metaclip_2", "siglip", "siglip2", "vision-text-dual-encoder")
# Those whose text tower ends in the shared space: nothing projects its output.
WITHOUT_TEXT_PROJECTION = ("siglip", "siglip2")
WITH_OWN_TOWER = _of_types("a CLIP, a SigLIP or one of their kin", _OWN_TOWERS)
FINISHED = _of_types(
    "an AltCLIP, as stage 1 makes it, a dual encoder, or a CLIP, SigLIP, SigLIP 2, MetaCLIP 2, Chinese-CLIP "
    "or VisionTextDualEncoder",
    ("altclip", "altclip_dual_encoder", *_OWN_TOWERS),
)
TRAINABLE = _of_types(
    "a CLIP, a SigLIP, an AltCLIP or a dual encoder",
    ("clip", "siglip", "siglip2", "altclip", "altclip_dual_encoder"),
)
DUAL_ENCODER = _of_types("a dual encoder, as stage 1 makes it", ("altclip_dual_encoder",))
# Of these two stage 1 makes an AltCLIP, of the next two any dual encoder.
CLIP_TEACHER = _of_types("a CLIP or an AltCLIP", TEACHERS)
XLM_R = _of_types("an XLM-R, a RoBERTa or a CamemBERT", TEXT_ENCODERS)
TEACHER = _of_types(
    "a CLIP, a SigLIP or another model whose image tower a student can take over", DUAL_TEACHERS
)
TWO_TOWERS = Kind("a model with an image and a text tower, such as a CLIP or an AltCLIP", _has_two_towers)
IMAGE_ENCODER = Kind(
    "an image encoder, such as a ViT, or a CLIP, whose image tower is taken", _has_image_tower
)
IMAGE_SIDE = Kind(
    "a CLIP, a SigLIP or another model whose image tower a student can take over, or an image encoder alone, "
    "such as a ViT",
    lambda config: TEACHER.fits(config) or _reads(config, "image"),
)
TEXT_TOWER = Kind("a text encoder, such as an XLM-R, a BERT or a T5", _is_text_encoder)
TEXT_ENCODER = Kind("a text encoder, such as an XLM-R or a BERT", _is_text_encoder)
MASKED = Kind(
    "a text encoder that was made for masked texts, such as an XLM-R or a BERT", _predicts_masked_tokens
)
TRANSLATOR = Kind("a translation model, such as an NLLB, an M2M100 or a Marian", _translates)


def load_config(name_or_path: str, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Load a model's configuration, by which the model can be built.

    Args:
        trust_remote_code: run the code that the text encoder of a dual encoder brings, if it brings any. No
            other code of a folder is ever run.

    Raises:
        ValueError: the text encoder brings code, and it is not allowed to run, or not in the folder.
    """
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    if isinstance(config, AltCLIPDualEncoderConfig) and lacks_text_code(config):
        check_allowed(config.text_auto_map, trust_remote_code)
        config = with_text_code(config, name_or_path)
    return config


def width_of_embeddings(config: PreTrainedConfig) -> int:
    """Return the number of dimensions of the embeddings of a model with two towers."""
    if config.model_type in WITHOUT_TEXT_PROJECTION:
        return config.text_config.projection_size
    return config.projection_dim


def check_kind(
    argument: str, name_or_path: str, kind: Kind, *, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """Load the configuration of a model of the kind that `argument` needs; no weights are loaded.

    Args:
        trust_remote_code: run the code that a text encoder brings, or that of a dual encoder.

    Raises:
        InputError: there is no such model, its configuration cannot be read, it is a model of another kind,
            a small file of it is damaged, or it brings code that is not allowed to run.
    """
    with readable(argument, name_or_path):
        check_files(name_or_path, "settings")
        if kind == TEXT_TOWER:
            config = load_text_config(name_or_path, trust_remote_code=trust_remote_code)
        else:
            config = load_config(name_or_path, trust_remote_code=trust_remote_code)
    if not kind.fits(config):
        # sentence-transformers writes modules.json.
        is_sentence_encoder = os.path.exists(Path(name_or_path, "modules.json"))
        what = "sentence encoder" if is_sentence_encoder else "model"
        raise InputError(
            f"{argument} {name_or_path!r} is a {what} of the type {config.model_type!r}: give {kind.name}"
        )
    return config


def load_tokenizer(argument: str, name_or_path: str, **options) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer with `options` of `AutoTokenizer.from_pretrained`.

    It pads on the right, whatever its files state: plain transformers' AltCLIP, which loads what is trained
    with it, pools the first token even if it is padding. A decoder's (GPT-2) may have no padding token, and
    pads by its end of text, since padding is masked. Its files are remembered: an `AltCLIPProcessor` saves
    them as they were.

    Raises:
        InputError: it cannot be loaded, is not there, or has neither of the two tokens.
    """
    with readable(argument, name_or_path):
        check_files(name_or_path, "settings")
        tokenizer = AutoTokenizer.from_pretrained(
            name_or_path, padding_side="right", trust_remote_code=False, **options
        )
        remember_files(tokenizer, name_or_path)
    check_tokenizer(argument, name_or_path, tokenizer)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(
                f"{argument} {name_or_path!r} has a tokenizer without pad_token and eos_token, "
                "by which short texts of a batch could be padded: set pad_token in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_tokenizer(argument: str, name_or_path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer of special tokens alone, which transformers builds if its files are missing.

    Raises:
        InputError: it has no other tokens.
    """
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(
            f"{argument} {name_or_path!r} has no tokenizer: get its tokenizer.json too, "
            "or save the one it was trained with there"
        )


def check_end_of_text(
    argument: str, name_or_path: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a CLIP that pools another token than its tokenizer writes at the end of a text.

    It would pool the first token, which is the same in every text (mlfoundations/open_clip#1151).

    Raises:
        InputError: the two tokens differ.
    """
    text_config = config.get_text_config()
    if text_config.model_type != "clip_text_model":
        return
    # Configurations from before transformers 4.31 state 2; CLIP then pools the token of the highest id,
    # whatever it is.
    if text_config.eos_token_id in (2, tokenizer.eos_token_id):
        return
    raise InputError(
        f"{argument} {name_or_path!r} looks for token {text_config.eos_token_id} at the end of texts, "
        f"and its tokenizer writes {tokenizer.eos_token_id} there: "
        f"set eos_token_id of its text_config to {tokenizer.eos_token_id}, "
        "or get the tokenizer that it was trained with"
    )


def check_vocabulary(
    argument: str, name_or_path: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for.

    torch would fail on them in the middle of a training.

    Raises:
        InputError: it has more tokens than the model has embeddings.
    """
    n_embeddings = getattr(config.get_text_config(), "vocab_size", None)
    if n_embeddings is None:
        return  # Canine, which hashes characters
    n_tokens = max(tokenizer.get_vocab().values()) + 1
    if n_tokens > n_embeddings:
        raise InputError(
            f"{argument} {name_or_path!r}: its tokenizer, a {type(tokenizer).__name__}, "
            f"has {n_tokens} tokens, "
            f"and the model embeddings of {n_embeddings}: get the tokenizer that it was trained with, "
            f"or call model.resize_token_embeddings({n_tokens}) and save it"
        )


@contextmanager
def unasked() -> Iterator[None]:
    """Refuse the code in a model's folder at once, where transformers asks on the terminal whether to run it.

    A pipe could answer. `trust_remote_code=False` refuses it too, but transformers' `AutoProcessor` does not
    pass that on to the tokenizer of a model whose type it knows.
    """
    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE  # to wait for an answer; at 0 there is no question
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


@contextmanager
def readable(argument: str, name_or_path: str) -> Iterator[None]:
    """Turn errors of loading a model, tokenizer or processor into an `InputError` that names the argument."""
    _check_model_folder(argument, name_or_path)
    try:
        with unasked():
            yield
    except InputError:
        raise
    except UNREADABLE as error:
        # On one line; some errors have no text.
        message = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{argument} {name_or_path!r} cannot be loaded: {message}") from error


def _check_model_folder(argument: str, name_or_path: str) -> None:
    """Check, without loading anything, that a local path is a folder with a model's configuration.

    Raises:
        InputError: it is not.
    """
    check_folder(argument, name_or_path)
    path = Path(name_or_path)
    if path.is_file():
        raise InputError(f"{argument} {name_or_path!r} is a file: give the folder of the model")
    if (path / "adapter_config.json").is_file() and not (path / "config.json").exists():
        raise InputError(
            f"{argument} {name_or_path!r} is a LoRA or another adapter, and a whole model has to stand here: "
            f"merge it into its base first, as {command_for('card')} does"
        )
    if path.is_dir() and not (path / "config.json").exists():
        holds = "it is empty"
        names = sorted(entry.name for entry in path.iterdir())
        if names:
            rest = " ..." if len(names) > 5 else ""
            holds = f"it holds {', '.join(names[:5])}{rest}"
        raise InputError(
            f"{argument} {name_or_path!r} has no config.json, so it is no model's folder: {holds}"
        )
