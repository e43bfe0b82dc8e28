"""Pool an encoder's last hidden states into one embedding, and check which pooling suits an encoder."""

import json
from inspect import signature
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, cached_file

# What image processors return and image towers read. The last two are NaFlex's, whose images have patches of
# their own number: which patches are no padding, and how many there are down and across.
IMAGE_INPUTS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
NAFLEX = "siglip2_vision_model"
# Image towers of CLIP's kind, whose last layer norm is the pooler's alone.
POOLED_BY_NORM = ("clip_vision_model", "chinese_clip_vision_model", "mlcd", "mlcd_vision_model")
# Image towers whose pooler was trained to be compared with texts.
_POOLER_OF_ITS_OWN = (*POOLED_BY_NORM, "siglip_vision_model", NAFLEX)
# Names of the class token among an image encoder's parameters.
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")

# sentence-transformers' names, from before version 5.5 and since.
_POOLING_OF = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean", "lasttoken": "last"}


def pool(states: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Pool states `(batch, tokens, width)` into embeddings `(batch, width)`, without the states of padding.

    Args:
        attention_mask: `(batch, tokens)`, 1 for words and 0 for padding, on either side; None if there is no
            padding.
        pooling: `cls`, the first state; `last`, the last one; `mean`, their mean.
    """
    if pooling == "cls":
        return first_state(states, attention_mask)
    if pooling == "last":
        return _last_state(states, attention_mask)
    if attention_mask is None:
        return states.mean(dim=1)

    # Half precision would overflow in the sum.
    sum_dtype = torch.promote_types(states.dtype, torch.float32)
    weights = attention_mask[..., None].to(states.dtype)
    total = (states * weights).sum(dim=1, dtype=sum_dtype)
    n_words = attention_mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (total / n_words).to(states.dtype)


def states_in_a_row(states: torch.Tensor) -> torch.Tensor:
    """Return states as `(batch, places, width)`, also those of a map `(batch, width, rows, columns)`."""
    return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states


def first_state(states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the state `(batch, width)` of each text's first token, which padding on the left may precede.

    Args:
        attention_mask: as for `pool`. A mask of another shape, such as one for an attention kernel, does not
            show where padding is, and the first column is taken.
    """
    if attention_mask is None or attention_mask.ndim != 2:
        return states[:, 0]
    return _states_at(states, attention_mask.long().argmax(dim=1))


def _last_state(states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the state `(batch, width)` of each text's last token; see `first_state`."""
    if attention_mask is None or attention_mask.ndim != 2:
        return states[:, -1]
    # mask [1 1 0] -> flipped [0 1 1] -> the first 1 is at 1 -> the last token is at 3 - 1 - 1 = 1
    from_the_end = attention_mask.flip(1).long().argmax(dim=1)
    return _states_at(states, states.shape[1] - 1 - from_the_end)


def _states_at(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Select one state of each text `(batch, width)`, at the token index `places` `(batch,)`."""
    rows = places[:, None, None].expand(-1, 1, states.shape[-1])
    return states.gather(1, rows).squeeze(1)


def positions_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """Number the tokens of each text `(texts, tokens)` from its first one, which left padding may precede.

    mask [0 0 1 1 1] -> positions [0 0 0 1 2]
    """
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    first = attention_mask.long().argmax(dim=1, keepdim=True)
    return (places - first).clamp(min=0)


def default_image_pooling(encoder: PreTrainedModel) -> str:
    """Return the default pooling of an image tower: its trained pooler, its class token, else the mean."""
    if encoder.config.model_type in _POOLER_OF_ITS_OWN:
        return "pooler"
    return "cls" if _has_class_token(encoder) else "mean"


def default_text_pooling(encoder: PreTrainedModel) -> str:
    """Return the default pooling of a text tower: the last token if it is causal, else the first (BERT)."""
    return "last" if _reads_from_left_to_right(encoder) else "cls"


def _has_class_token(encoder: nn.Module) -> bool:
    """Check that an image tower puts a class token before the patches."""
    # The token of a pooler, which AIMv2 has, is no part of the embeddings: it precedes no patch.
    endings = tuple(f"embeddings.{token}" for token in CLASS_TOKENS)
    return any(name.endswith(endings) for name, _ in encoder.named_parameters())


@torch.no_grad()
def _reads_from_left_to_right(encoder: PreTrainedModel) -> bool:
    """Check that the first state of a text ignores what follows, as in GPT-2, Qwen or CLIP.

    It is measured: two short texts that share their first token alone get the same first state.
    """
    n_tokens = 8
    # [[5 6 7 ... 12], [5 14 15 ... 20]]
    input_ids = torch.arange(5, 5 + n_tokens).repeat(2, 1)
    input_ids[1, 1:] += n_tokens
    input_ids %= getattr(encoder.config, "vocab_size", 2**31)  # Canine has no vocabulary

    outputs = encoder(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
    first_states = outputs.last_hidden_state[:, 0]
    return torch.allclose(first_states[0], first_states[1], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def check_states(encoder: PreTrainedModel) -> None:
    """Refuse a text encoder whose last states cannot be pooled.

    Raises:
        ValueError: it has no last states, or those of words depend on the padding behind them.
    """
    kind = encoder.config.model_type
    token = torch.zeros(1, 1, dtype=torch.long)
    outputs = encoder(input_ids=token, attention_mask=torch.ones_like(token))
    if outputs.get("last_hidden_state") is None:
        raise ValueError(
            f"a {kind!r} gives no state for each token, and cannot be a text tower: take an XLM-R or a BERT"
        )

    knows_padding = "attention_mask" in signature(encoder.forward).parameters
    if not knows_padding and not _reads_from_left_to_right(encoder):
        raise ValueError(
            f"a {kind!r} has no attention_mask and reads padding as it reads words, so that a text's vector "
            "would depend on the texts beside it: take an XLM-R or a BERT"
        )


def check_text_encoder(encoder: PreTrainedModel, pooling: str) -> None:
    """Refuse a pooling that would give many texts the same embedding.

    Raises:
        ValueError: it is `cls` and the encoder reads from left to right; or `pooler` and the encoder has
            none.
    """
    if pooling == "pooler":
        token = torch.zeros(1, 1, dtype=torch.long)
        outputs = encoder(input_ids=token, attention_mask=torch.ones_like(token))
        _check_pooler(encoder, outputs, "text_pooling")
    if pooling == "cls" and _reads_from_left_to_right(encoder):
        raise ValueError(
            f"text_pooling is 'cls', but a {encoder.config.model_type!r} reads from left to right: "
            "its first state is the same for all texts that begin alike. Choose 'last' or 'mean'."
        )


def _check_pooler(encoder: PreTrainedModel, outputs: ModelOutput, argument: str) -> None:
    """Refuse the pooling `pooler` for an encoder without one.

    Raises:
        ValueError: its outputs hold no `pooler_output`.
    """
    if outputs.get("pooler_output") is None:
        raise ValueError(
            f"{argument} is 'pooler', but a {encoder.config.model_type!r} has no pooler: "
            "choose 'cls', 'last' or 'mean'"
        )


def check_modality(encoder: PreTrainedModel, name_or_path: str, modality: str) -> None:
    """Refuse an encoder that does not read `modality` alone.

    Raises:
        ValueError: it does not read `modality`, or needs other inputs too.
    """
    kind = encoder.config.model_type
    if modality not in encoder.input_modalities:
        raise ValueError(
            f"{name_or_path} is a {kind!r}, which does not read {modality}s, "
            f"and cannot be the tower of {modality}s"
        )

    others = []
    for parameter in signature(encoder.forward).parameters.values():
        is_needed = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if is_needed and parameter.name not in ("input_ids", *IMAGE_INPUTS):
            others.append(parameter.name)
    if others:
        raise ValueError(
            f"{name_or_path} is a {kind!r}, which needs {' and '.join(others)} too, and cannot be a tower"
        )


@torch.no_grad()
def check_image_encoder(encoder: PreTrainedModel, pooling: str, width: int) -> None:
    """Refuse an image tower without one state for each patch or place; try it with one image.

    Args:
        width: that of its states, as its configuration states it.

    Raises:
        ValueError: its states are no patches or map, not as wide as stated, or differ from call to call; or
            the pooling needs a class token or a pooler that it does not have.
    """
    kind = encoder.config.model_type
    if pooling == "cls" and not _has_class_token(encoder):
        raise ValueError(f"vision_pooling is 'cls', but a {kind!r} has no class token: choose 'mean'")

    image = made_up_image(encoder.config)
    outputs = encoder(**image)
    outputs_again = encoder(**image)
    if pooling == "pooler":
        _check_pooler(encoder, outputs, "vision_pooling")

    states = states_in_a_row(outputs.last_hidden_state)
    states_again = states_in_a_row(outputs_again.last_hidden_state)
    if states.ndim != 3:
        raise ValueError(
            f"a {kind!r} gives states of shape {tuple(states.shape)}, not one for each patch or place, "
            "and cannot be an image tower: take a ViT, a DINOv2 or a Swin"
        )
    if states.shape[-1] != width:
        raise ValueError(
            f"a {kind!r} gives states of width {states.shape[-1]}, and its configuration states {width}: "
            "take a ViT, a DINOv2 or a Swin"
        )
    is_same_shape = states.shape == states_again.shape
    if not is_same_shape or not torch.allclose(states, states_again, rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"a {kind!r} gives other states of the same image at each call, "
            "as one that masks patches at random: take a ViT"
        )


def made_up_image(config: PreTrainedConfig, n_patches: int | None = None) -> dict[str, torch.Tensor]:
    """Make the inputs of one image, in the form in which the tower's image processor returns them.

    Args:
        config: of the tower.
        n_patches: how many patches an image of NaFlex has; by default as many as the tower has positions.
    """
    if config.model_type == NAFLEX:
        n_patches = n_patches or config.num_patches
        values = torch.linspace(-1, 1, n_patches * config.num_channels * config.patch_size**2)
        return {
            "pixel_values": values.view(1, n_patches, -1),
            "pixel_attention_mask": torch.ones(1, n_patches, dtype=torch.int32),
            "spatial_shapes": torch.tensor([[1, n_patches]]),
        }

    size = getattr(config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    values = torch.linspace(-1, 1, config.num_channels * height * width)
    return {"pixel_values": values.view(1, -1, height, width)}


def stated_pooling(name_or_path: str) -> str | None:
    """Read the pooling from a checkpoint's sentence-transformers files, in either of their spellings.

    Returns:
        `cls`, `last` or `mean`; None without such files.

    Raises:
        ValueError: the files ask for several poolings, whose embeddings would be concatenated, or for one
            that is not supported.
    """
    modules = _read_json(name_or_path, "modules.json") or []
    folders = [module["path"] for module in modules if module["type"].endswith(".Pooling")]
    if folders:
        settings = [_read_json(name_or_path, f"{folder}/config.json") for folder in folders]
    else:
        # Some checkpoints have the folder, by its usual name, without a list of modules.
        settings = [_read_json(name_or_path, "1_Pooling/config.json")]
        if settings == [None]:
            return None

    names = []
    for one in settings:
        names += _poolings_of(one or {})
    if len(names) > 1 or names[0] not in _POOLING_OF:
        choices = ", ".join(sorted(set(_POOLING_OF.values())))
        raise ValueError(
            f"{name_or_path} asks for the pooling {' and '.join(names)}: give text_pooling one of {choices}"
        )
    return _POOLING_OF[names[0]]


def _poolings_of(settings: dict) -> list[str]:
    """List the poolings that a sentence-transformers module asks for; its default is the mean.

    {"pooling_mode": "cls"} -> ["cls"], {"pooling_mode_cls_token": true} -> ["cls_token"], {} -> ["mean"]
    """
    names = settings.get("pooling_mode")
    if names is None:
        # Before version 5.5: a flag for each pooling.
        prefix = "pooling_mode_"
        flags = [name for name, is_on in settings.items() if name.startswith(prefix) and is_on]
        names = [flag.removeprefix(prefix) for flag in flags]
    if isinstance(names, str):
        names = [names]
    return names or ["mean"]


def stated_prompt(name_or_path: str) -> str | None:
    """Read the prompt that sentence-transformers writes before every text, unless it is told another.

    Returns:
        None if a checkpoint's files name no default prompt. Those that they have for queries or documents
        alone are no default.

    Raises:
        ValueError: the default prompt is not among the prompts.
    """
    settings = _read_json(name_or_path, "config_sentence_transformers.json") or {}
    name = settings.get("default_prompt_name")
    if name is None:
        return None
    prompts = settings.get("prompts") or {}
    if name not in prompts:
        raise ValueError(
            f"{name_or_path} has the default prompt {name!r}, which config_sentence_transformers.json does "
            "not have among its prompts: add it there, or remove default_prompt_name"
        )
    return prompts[name]


def unread_modules(name_or_path: str) -> list[str]:
    """List the steps of a checkpoint's sentence-transformers files that a tower leaves out."""
    modules = _read_json(name_or_path, "modules.json") or []
    # "sentence_transformers.models.Dense" -> "Dense"
    unread = [module["type"].rpartition(".")[2] for module in modules]
    unread = [name for name in unread if name not in ("Transformer", "Pooling", "Normalize")]

    prompt = stated_prompt(name_or_path)
    if prompt is not None:
        unread.append(f"the prompt {prompt!r}")
    settings = _read_json(name_or_path, "config_sentence_transformers.json") or {}
    if settings.get("truncate_dim") is not None:
        unread.append(f"a cut of vectors at {settings['truncate_dim']} values")

    text_settings = _read_json(name_or_path, "sentence_bert_config.json") or {}
    if text_settings.get("do_lower_case"):
        unread.append("small letters for all texts")
    return unread


def _read_json(name_or_path: str, name: str) -> dict | list | None:
    """Read one of a checkpoint's JSON files; return None if it is not there."""
    path = cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False)
    return None if path is None else json.loads(Path(path).read_text("utf-8"))


__all__ = ["CLASS_TOKENS", "IMAGE_INPUTS", "pool"]
