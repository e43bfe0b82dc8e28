"""How an encoder's last states become one vector, and which of the ways suits an encoder."""

import json
from inspect import signature
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, cached_file

# Image towers of CLIP's kind, whose last layer norm is the pooler's alone.
POOLED_BY_NORM = ("clip_vision_model", "chinese_clip_vision_model", "mlcd", "mlcd_vision_model")
# Image towers whose pooler was trained, and holds what is to be compared with texts.
POOLER_OF_ITS_OWN = (*POOLED_BY_NORM, "siglip_vision_model")
CLASS_TOKENS = (
    "cls_token",
    "class_token",
    "class_embedding",
)  # what the embeddings of image encoders call it

# sentence-transformers' names, from before version 5.5 and since.
POOLING_OF = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean", "lasttoken": "last"}


def pool(states: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Make vectors `(batch, width)` of states `(batch, tokens, width)`, padding left out.

    Args:
        attention_mask: `(batch, tokens)`, 1 for words and 0 for padding, on either side; None where there is no padding.
        pooling: `cls`, the first state; `last`, the last one; `mean`, their mean.
    """
    if pooling == "cls":
        return first_state(states, attention_mask)
    if pooling == "last":
        return last_state(states, attention_mask)
    if attention_mask is None:
        return states.mean(dim=1)
    weights = attention_mask[..., None].to(states.dtype)
    total = (states * weights).sum(
        dim=1, dtype=torch.promote_types(states.dtype, torch.float32)
    )  # half precision would overflow
    return (total / attention_mask.sum(dim=1, keepdim=True).clamp(min=1)).to(states.dtype)


def first_state(states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The state `(batch, width)` of each first token that is not padding, which may stand on the left.

    Args:
        attention_mask: as for `pool`; of any other shape, as attention kernels take them, it does not tell of padding.
    """
    if attention_mask is None or attention_mask.ndim != 2:
        return states[:, 0]
    return states_at(states, attention_mask.long().argmax(dim=1))


def last_state(states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The same of each last token."""
    if attention_mask is None or attention_mask.ndim != 2:
        return states[:, -1]
    from_the_end = attention_mask.flip(1).long().argmax(dim=1)
    return states_at(states, states.shape[1] - 1 - from_the_end)


def states_at(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """One state `(batch, width)` of each text: that of the token at its place `(batch,)`."""
    rows = places[:, None, None].expand(-1, 1, states.shape[-1])
    return states.gather(1, rows).squeeze(1)


def positions_of(attention_mask: torch.Tensor) -> torch.Tensor:
    """Number the positions of tokens `(texts, tokens)` from each text's first one, which padding on the left may precede."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    first = attention_mask.long().argmax(dim=1, keepdim=True)
    return (places - first).clamp(min=0)


def default_image_pooling(encoder: PreTrainedModel) -> str:
    """The pooling of an image tower that nobody has stated one for: a pooler of its own, its class token, or else the mean."""
    if encoder.config.model_type in POOLER_OF_ITS_OWN:
        return "pooler"
    return "cls" if has_class_token(encoder) else "mean"


def default_text_pooling(encoder: PreTrainedModel) -> str:
    """Likewise of a text tower: the last token where it reads from left to right, and else the first, as in XLM-R and BERT."""
    return "last" if reads_from_left_to_right(encoder) else "cls"


def has_class_token(encoder: nn.Module) -> bool:
    """Whether an image tower puts a token of its own before the patches."""
    # That of a pooler, as AIMv2 has one, stands before no patch.
    return any(
        name.endswith(f"embeddings.{token}")
        for name, _ in encoder.named_parameters()
        for token in CLASS_TOKENS
    )


@torch.no_grad()
def reads_from_left_to_right(encoder: PreTrainedModel) -> bool:
    """Whether the first state of a text knows nothing of what follows, as in GPT-2, Qwen or CLIP: looked at with two short texts."""
    n_tokens = 8
    begun_alike = torch.arange(5, 5 + n_tokens).repeat(2, 1)
    begun_alike[1, 1:] += n_tokens
    begun_alike %= getattr(encoder.config, "vocab_size", 2**31)  # Canine has none
    states = encoder(input_ids=begun_alike, attention_mask=torch.ones_like(begun_alike)).last_hidden_state[
        :, 0
    ]
    return torch.allclose(states[0], states[1], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def check_states(encoder: PreTrainedModel) -> None:
    """Refuse a text encoder whose last states cannot be pooled: there are none, or those of words depend on the padding behind them.

    Raises:
        ValueError: it is one of these.
    """
    kind = encoder.config.model_type
    token = torch.zeros(1, 1, dtype=torch.long)
    if encoder(input_ids=token, attention_mask=torch.ones_like(token)).get("last_hidden_state") is None:
        raise ValueError(
            f"a {kind!r} gives no state for each token, and cannot be a text tower: take an XLM-R or a BERT"
        )
    if "attention_mask" not in signature(encoder.forward).parameters and not reads_from_left_to_right(
        encoder
    ):
        raise ValueError(
            f"a {kind!r} has no attention_mask and reads padding as it reads words, so that a text's vector would depend on the texts "
            "beside it: take an XLM-R or a BERT"
        )


def check_text_encoder(encoder: PreTrainedModel, pooling: str) -> None:
    """Refuse a pooling that would give many texts one vector.

    Raises:
        ValueError: it is the first token's, of an encoder that reads from left to right; or a pooler's that there is not.
    """
    if pooling == "pooler":
        token = torch.zeros(1, 1, dtype=torch.long)
        check_pooler(encoder, encoder(input_ids=token, attention_mask=torch.ones_like(token)), "text_pooling")
    if pooling == "cls" and reads_from_left_to_right(encoder):
        raise ValueError(
            f"text_pooling is 'cls', but a {encoder.config.model_type!r} reads from left to right: its first state is the same for all "
            "texts that begin alike. Choose 'last' or 'mean'."
        )


def check_pooler(encoder: PreTrainedModel, outputs: ModelOutput, argument: str) -> None:
    """Refuse the pooling `pooler` for an encoder without one.

    Raises:
        ValueError: its outputs hold no `pooler_output`.
    """
    if outputs.get("pooler_output") is None:
        raise ValueError(
            f"{argument} is 'pooler', but a {encoder.config.model_type!r} has no pooler: choose 'cls', 'last' or 'mean'"
        )


def check_modality(encoder: PreTrainedModel, name_or_path: str, modality: str) -> None:
    """Refuse an encoder that reads something else, or more, than one tower is given.

    Raises:
        ValueError: it does not read `modality`, or needs more inputs than that.
    """
    kind = encoder.config.model_type
    if modality not in encoder.input_modalities:
        raise ValueError(
            f"{name_or_path} is a {kind!r}, which does not read {modality}s, and cannot be the tower of {modality}s"
        )
    inputs = signature(encoder.forward).parameters.values()
    needed = [
        one.name for one in inputs if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    others = [name for name in needed if name not in ("input_ids", "pixel_values")]
    if others:
        raise ValueError(
            f"{name_or_path} is a {kind!r}, which needs {' and '.join(others)} too, and cannot be a tower"
        )


@torch.no_grad()
def check_image_encoder(encoder: PreTrainedModel, pooling: str) -> None:
    """Refuse an image tower that has no states of patches, or other states at each call; looked at with one image.

    Raises:
        ValueError: it is one of these, or the pooling is that of a class token, and there is none.
    """
    kind = encoder.config.model_type
    if pooling == "cls" and not has_class_token(encoder):
        raise ValueError(f"vision_pooling is 'cls', but a {kind!r} has no class token: choose 'mean'")
    size = getattr(encoder.config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.linspace(-1, 1, encoder.config.num_channels * height * width).view(1, -1, height, width)
    outputs = [encoder(pixel_values=pixels) for _ in range(2)]
    if pooling == "pooler":
        check_pooler(encoder, outputs[0], "vision_pooling")
    once, again = (output.last_hidden_state for output in outputs)
    if once.ndim != 3:
        raise ValueError(
            f"a {kind!r} gives a map of shape {tuple(once.shape)}, not one state for each patch, and cannot be an image tower: "
            "take a ViT, a DINOv2 or a Swin"
        )
    if once.shape != again.shape or not torch.allclose(once, again, rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"a {kind!r} gives other states of the same image at each call, as one that masks patches at random: take a ViT"
        )


def stated_pooling(name_or_path: str) -> str | None:
    """The pooling that a checkpoint's sentence-transformers files ask for, in either of their spellings; None without such files.

    Raises:
        ValueError: they ask for several poolings, whose vectors would be joined, or for one that there is not here.
    """
    modules = read_json(name_or_path, "modules.json") or []
    folders = [module["path"] for module in modules if module["type"].endswith(".Pooling")]
    stated = [read_json(name_or_path, f"{folder}/config.json") for folder in folders or ["1_Pooling"]]
    if not folders and stated == [None]:
        return None
    names = [name for one in stated for name in poolings_of(one or {})]
    if len(names) > 1 or names[0] not in POOLING_OF:
        choices = ", ".join(sorted(set(POOLING_OF.values())))
        raise ValueError(
            f"{name_or_path} asks for the pooling {' and '.join(names)}: give text_pooling one of {choices}"
        )
    return POOLING_OF[names[0]]


def poolings_of(stated: dict) -> list[str]:
    """The poolings that the settings of one of sentence-transformers' modules ask for; the mean, as its own default, if none."""
    named = stated.get("pooling_mode")
    if named is None:
        named = [
            name.removeprefix("pooling_mode_")
            for name, is_on in stated.items()
            if name.startswith("pooling_mode_") and is_on
        ]
    names = [named] if isinstance(named, str) else named
    return names or ["mean"]


def unread_modules(name_or_path: str) -> list[str]:
    """What a checkpoint's sentence-transformers files do to texts or vectors beside pooling, and a tower leaves out."""
    modules = read_json(name_or_path, "modules.json") or []
    unread = [module["type"].rpartition(".")[2] for module in modules]
    unread = [name for name in unread if name not in ("Transformer", "Pooling", "Normalize")]
    settings = read_json(name_or_path, "config_sentence_transformers.json") or {}
    prompt = settings.get("default_prompt_name")
    if prompt is not None:
        unread.append(f"the prompt {(settings.get('prompts') or {}).get(prompt, prompt)!r}")
    if settings.get("truncate_dim") is not None:
        unread.append(f"a cut of vectors at {settings['truncate_dim']} values")
    if (read_json(name_or_path, "sentence_bert_config.json") or {}).get("do_lower_case"):
        unread.append("small letters for all texts")
    return unread


def read_json(name_or_path: str, name: str) -> dict | list | None:
    """The contents of one of a checkpoint's files; None where there is none."""
    path = cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False)
    return None if path is None else json.loads(Path(path).read_text("utf-8"))


__all__ = ["pool"]
