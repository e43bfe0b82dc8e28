"""What kind of model a folder or Hub repository holds, by its configuration alone, and errors in one line where it is another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
)

import modeling_altclip  # noqa: F401  (transformers then knows our configurations)
from modeling_altclip.modeling_altclip import TEACHERS, TEXT_ENCODERS

from .recipe import InputError

# What transformers raises of a checkpoint that is damaged, of an unknown kind, or lacks a file.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ImportError,
    RuntimeError,
    EOFError,
    SafetensorError,
    UnpicklingError,
    StrictDataclassError,
)


class Kind(NamedTuple):
    """A kind of model: what it is called in messages, and whether a configuration is of one."""

    name: str
    fits: Callable[[PreTrainedConfig], bool]


def of_types(name: str, model_types: tuple[str, ...]) -> Kind:
    """The kind of models whose `model_type` is one of these."""
    return Kind(name, lambda config: config.model_type in model_types)


def has_two_towers(config: PreTrainedConfig) -> bool:
    """Whether `AutoModel` builds a model that gives vectors of texts and of images."""
    built = dir(MODEL_MAPPING.get(type(config), None))
    return "get_text_features" in built and "get_image_features" in built


def reads(config: PreTrainedConfig, modality: str) -> bool:
    """Whether `AutoModel` builds an encoder of nothing but `image` or `text`."""
    if type(config) not in MODEL_MAPPING:
        return False
    return MODEL_MAPPING[type(config)].input_modalities in (modality, (modality,))


def has_image_tower(config: PreTrainedConfig) -> bool:
    """Whether it is an image encoder, or has one of its own family beside a text tower, as CLIP and SigLIP have."""
    tower = getattr(config, "vision_config", config)
    return reads(tower, "image") and (
        tower is config or tower.model_type == f"{config.model_type}_vision_model"
    )


ALTCLIP = of_types("an AltCLIP, as stage 1 makes it", ("altclip",))
OURS = of_types("an AltCLIP, as stage 1 makes it, or a dual encoder", ("altclip", "altclip_dual_encoder"))
TRAINABLE = of_types("a CLIP, an AltCLIP or a dual encoder", ("clip", "altclip", "altclip_dual_encoder"))
TEACHER = of_types("a CLIP or an AltCLIP", TEACHERS)
TEXT_TOWER = of_types("an XLM-R, a RoBERTa or a CamemBERT", TEXT_ENCODERS)
TWO_TOWERS = Kind("a model with an image and a text tower, such as a CLIP or an AltCLIP", has_two_towers)
IMAGE_ENCODER = Kind(
    "an image encoder, such as a ViT, or a CLIP, whose image tower is taken", has_image_tower
)
TEXT_ENCODER = Kind("a text encoder, such as an XLM-R or a BERT", lambda config: reads(config, "text"))
MASKED = Kind(
    "a text encoder that was made for masked texts, such as an XLM-R or a BERT",
    lambda config: type(config) in MODEL_FOR_MASKED_LM_MAPPING,
)
TRANSLATOR = Kind(
    "a translation model, such as an NLLB, an M2M100 or a Marian",
    lambda config: type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)


def check_kind(argument: str, name_or_path: str, kind: Kind) -> PreTrainedConfig:
    """The configuration of a model of the kind that `argument` needs; no weights are loaded.

    Raises:
        InputError: there is no such model, its configuration cannot be read, or it is a model of another kind.
    """
    with readable(argument, name_or_path):
        config = AutoConfig.from_pretrained(name_or_path)
    if not kind.fits(config):
        what = (
            "sentence encoder of the type"
            if Path(name_or_path, "modules.json").exists()
            else "model of the type"
        )
        raise InputError(f"{argument} {name_or_path!r} is a {what} {config.model_type!r}: give {kind.name}")
    return config


def load_tokenizer(argument: str, name_or_path: str, **options) -> PreTrainedTokenizerBase:
    """A model's tokenizer, with `options` of `AutoTokenizer.from_pretrained`; it pads on the right, whatever its files say.

    Plain transformers' AltCLIP, which reads what is trained with it, pools whatever stands first.

    Raises:
        InputError: it cannot be loaded, or is not there.
    """
    with readable(argument, name_or_path):
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, padding_side="right", **options)
    check_tokenizer(argument, name_or_path, tokenizer)
    return tokenizer


def check_tokenizer(argument: str, name_or_path: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer of special tokens alone: where its files are missing, transformers makes one that knows no word."""
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise InputError(
            f"{argument} {name_or_path!r} has no tokenizer: get its tokenizer.json too, or save the one it was trained with there"
        )


def check_end_of_text(
    argument: str, name_or_path: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a CLIP that looks for another token at a text's end than its tokenizer writes there.

    It would pool the first token, which is the same in every text (mlfoundations/open_clip#1151). Configurations from before
    transformers 4.31 state 2 as the end of texts, and CLIP then pools the token of the highest id, whatever that is.
    """
    text_config = config.get_text_config()
    if text_config.model_type != "clip_text_model" or text_config.eos_token_id in (2, tokenizer.eos_token_id):
        return
    raise InputError(
        f"{argument} {name_or_path!r} looks for token {text_config.eos_token_id} at the end of texts, and its tokenizer writes "
        f"{tokenizer.eos_token_id} there: set eos_token_id of its text_config to {tokenizer.eos_token_id}, or get the tokenizer "
        "that it was trained with"
    )


def check_vocabulary(
    argument: str, name_or_path: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding of, on which torch would end in the middle of a training."""
    n_embeddings = getattr(
        config.get_text_config(), "vocab_size", None
    )  # Canine, which hashes characters, states none
    if n_embeddings is None:
        return
    n_tokens = max(tokenizer.get_vocab().values()) + 1
    if n_tokens > n_embeddings:
        raise InputError(
            f"{argument} {name_or_path!r}: its tokenizer, a {type(tokenizer).__name__}, has {n_tokens} tokens, and the model embeddings of "
            f"{n_embeddings}: get the tokenizer that it was trained with, or call model.resize_token_embeddings({n_tokens}) and save it"
        )


@contextmanager
def readable(argument: str, name_or_path: str) -> Iterator[None]:
    """Let what is wrong with a model, or with its tokenizer or processor, be an `InputError` that names the argument."""
    check_model_folder(argument, name_or_path)
    try:
        yield
    except InputError:
        raise
    except UNREADABLE as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{argument} {name_or_path!r} cannot be loaded: {said}") from error


def check_model_folder(argument: str, name_or_path: str) -> None:
    """What a folder shows without being read: that it is one, and holds a model's configuration."""
    check_folder(argument, name_or_path)
    path = Path(name_or_path)
    if path.is_file():
        raise InputError(f"{argument} {name_or_path!r} is a file: give the folder of the model")
    if path.is_dir() and not (path / "config.json").exists():
        there = sorted(entry.name for entry in path.iterdir())
        holds = f"it holds {', '.join(there[:5])}{' ...' * (len(there) > 5)}" if there else "it is empty"
        raise InputError(
            f"{argument} {name_or_path!r} has no config.json, so it is no model's folder: {holds}"
        )


def check_folder(what: str, name_or_path: str) -> None:
    """Tell a mistyped folder from a Hub id: more than one slash, or a first part that is a folder here, means a path."""
    path = Path(name_or_path)
    looks_local = path.is_absolute() or len(path.parts) != 2 or Path(path.parts[0]).is_dir()
    if looks_local and not path.exists():
        raise InputError(
            f"{what} {name_or_path!r} does not exist: give a folder that is there, or a Hub id like 'org/name'"
        )
