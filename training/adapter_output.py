"""Save what a model has learned by LoRA as an adapter of peft, apart from the model that it was trained on.

The folder names that model, its base, as it was given. Beside the low-rank updates it holds what learned in
full: modules, such as a head, as peft's `modules_to_save`; and the scale and bias of the logits, which are in
no module of their own, under their names in the base, as peft saves the biases and embeddings of a base.
Whatever loads the updates by `PeftModel.from_pretrained` loads these with them.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from common.errors import InputError
from modeling_altclip.checkpoint_altclip import native_name
from modeling_altclip.truncation_altclip import trained_dims

from .arguments import ContrastiveArguments, LowRankArguments
from .own_text_tower import has_own_tower

_PREFIX = "base_model.model."  # peft's, before the names of the base
_WEIGHTS = "adapter_model.safetensors"  # peft's, too
_MERGED = "leave out lora_output to save the merged model"


def check_base(arguments: LowRankArguments, config: PreTrainedConfig) -> None:
    """Check that the training changes nothing of its base's configuration, which an adapter leaves as it is.

    Args:
        arguments: those of a training that saves an adapter.
        config: that of the base.

    Raises:
        InputError: the loss adds a bias to the logits; or the dimensions differ that embeddings may be
            truncated to.
    """
    if not isinstance(arguments, ContrastiveArguments):
        return  # stage 1 has no such settings
    is_dual = config.model_type == "altclip_dual_encoder"
    if arguments.loss == "sigmoid" and is_dual and config.logit_bias_init_value is None:
        raise InputError(
            "lora_output is adapter, and loss is sigmoid, which gives the model a logit_bias that its base "
            f"has not: {_MERGED}, or give the base a bias first (set_logit_bias)"
        )
    try:
        before = trained_dims(config)
    except ValueError as error:
        raise InputError(f"model_name_or_path: {error}") from error
    now = sorted(arguments.matryoshka_dims or [], reverse=True)
    if before != now:
        raise InputError(
            f"lora_output is adapter, and matryoshka_dims is {_listed(now)}, where the configuration of the "
            f"base, which an adapter leaves as it is, states {_listed(before)}: {_MERGED}, or give the same"
        )


def _listed(dims: list[int]) -> str:
    return " ".join(map(str, dims)) or "none"


def save_adapter(model: PreTrainedModel, arguments: LowRankArguments, folder: Path) -> None:
    """Save the updates of a model, and what else of it learned, as an adapter: its settings and weights.

    Args:
        model: with the updates of `add_low_rank`, which are not merged.
    """
    from peft import LoraConfig  # an extra, by which the updates have been made

    layers = []
    modules = []
    weights = {}
    for name, value in _learned(model).items():
        module = name.rpartition(".")[0]
        if ".lora_A." in name:
            layers.append(name.partition(".lora_A.")[0])
        elif ".lora_B." not in name and module:  # neither scale nor bias
            modules.append(module)
        # The updates are those of the adapter "default", a name that files leave out.
        saved = re.sub(r"(\.lora_[AB])\.default\.", r"\1.", name)
        weights[_PREFIX + native_name(saved)] = value.detach().cpu().contiguous()

    folder.mkdir(parents=True, exist_ok=True)
    LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        target_modules=_pattern_of(layers),
        modules_to_save=sorted(set(modules)) or None,
        base_model_name_or_path=arguments.model_name_or_path,
        auto_mapping=_class_of(model),
        inference_mode=True,
    ).save_pretrained(str(folder))
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})


def bytes_of_adapter(model: nn.Module) -> int:
    """Return the size of an adapter's weights: those of a model that learn."""
    return sum(value.nbytes for value in _learned(model).values())


def _learned(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a model that learn, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _pattern_of(layers: list[str]) -> str:
    r"""Return a regular expression that matches the full names of these layers, and no others of their model.

    It does not say in which of its towers' layers they lie:
    `text_model.roberta.encoder.layer.0.attention.self.query` ->
    `text_model\.roberta\.encoder\.layers?\.\d+\.attention\.self\.query`
    """
    patterns = set()
    for name in layers:
        pattern = re.sub(r"\.\d+(?=\.|$)", lambda _: r".\d+", name).replace(".", r"\.")
        # transformers' own class of an AltCLIP has `layers`, ours `layer`.
        patterns.add(pattern.replace(r"roberta\.encoder\.layer\.", r"roberta\.encoder\.layers?\."))
    return "|".join(sorted(patterns))


def _class_of(model: PreTrainedModel) -> dict[str, str]:
    """Name the class of the base for `AutoPeftModel`: transformers' own, where it has one."""
    named = type(model)
    if not has_own_tower(model.config) and model.native_class is not None:
        named = model.native_class
    return {"base_model_class": named.__name__, "parent_library": named.__module__}


__all__ = ["bytes_of_adapter", "check_base", "save_adapter"]
