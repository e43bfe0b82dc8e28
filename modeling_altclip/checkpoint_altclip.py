"""Checkpoints, and adapters for them, are read in every spelling that is around, whole or not at all, and written in the one that
everybody reads.
"""

import re
from collections.abc import Callable, Iterable
from itertools import chain
from os import PathLike

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from .configuration_altclip import AltCLIPConfig

# The only weights that may differ in shape from a checkpoint's, where a caller asks for it: they are trained anew.
HEAD = re.compile(r"(?:text_projection|visual_projection|(?:text_model\.)?(?:transformation|pre_LN))\.")

# DoRA's are saved without the last part of their name, which transformers does not put back.
MAGNITUDES = WeightRenaming(r"(lora_magnitude_vector\.[^.]+)$", r"\1.weight")
OF_ANOTHER = "It was trained on another model, or is spelled for one."


class AltCLIPPreTrainedModel(PreTrainedModel):
    """What all models share: which attention kernels the towers have, and how checkpoints are read and written."""

    config_class = AltCLIPConfig
    base_model_prefix = "altclip"
    input_modalities = ("image", "text")
    native_class: type | None = None  # transformers' own class of the same weights
    # transformers 5.6 and later spell `layer` and `layers` otherwise than the released files do; every spelling is read.
    key_mapping = {
        r"^text_model\.roberta\.encoder\.layers\.": "text_model.roberta.encoder.layer.",
        r"^vision_model\.encoder\.layer\.": "vision_model.encoder.layers.",
    }
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _no_split_modules = [
        "XLMRobertaEmbeddings",
        "XLMRobertaLayer",
        "CLIPEncoderLayer",
        "CLIPVisionEmbeddings",
    ]
    _keys_to_ignore_on_load_unexpected = [r"position_ids$"]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike,
        *model_args,
        key_mapping: dict[str, str] | None = None,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs,
    ):
        """Load a checkpoint in any of its spellings, whole or not at all; with transformers' own arguments.

        Args:
            ignore_mismatched_sizes: let the head, that is the projections, `transformation` and `pre_LN`, start afresh where its
                shape differs from the checkpoint's. A tower's weights have to fit in any case.

        Raises:
            ValueError: weights are missing, left over or of another shape; the message lists them.
        """
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            key_mapping=cls.key_mapping | (key_mapping or {}),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
        misshaped = [
            f"{name} ({tuple(there)} there, {tuple(here)} here)"
            for name, there, here in sorted(info["mismatched_keys"])
            if not (ignore_mismatched_sizes and HEAD.match(name))
        ]
        listed = listing(info["missing_keys"], info["unexpected_keys"], misshaped)
        if listed:
            raise ValueError(
                f"{pretrained_model_name_or_path} is not a whole checkpoint of {cls.__name__} as its configuration describes it. {listed}. "
                "Get the whole checkpoint, or build a model from CLIP and a text encoder with AltCLIPModel.from_teacher."
            )
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | PathLike,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        *args,
        save_original_format: bool = False,
        **kwargs,
    ) -> None:
        """Save under our own names, with the code that reads them. transformers would else give back the spelling it read, old
        mistakes included.

        The folder serves plain transformers, which does not look at the code, and `trust_remote_code=True`, which runs it.
        Of a model with an adapter, a `PeftModel`'s base model among them, only the adapter is saved, for transformers' own class.
        """
        for name in self.config.sub_configs:
            getattr(
                self.config, name
            ).name_or_path = ""  # where a tower was loaded from is a folder of some machine
        self._hf_peft_config_loaded = self.has_adapter  # a PeftModel does not tell transformers of it
        if self.has_adapter and self.native_class is not None:
            # Only adapters are saved now. They fit transformers' own class, which peft can load without this package.
            named = {
                "base_model_class": self.native_class.__name__,
                "parent_library": self.native_class.__module__,
            }
            for adapter in self.peft_config.values():
                adapter.auto_mapping = named if adapter.task_type is None else None
        if self._auto_class is not None:
            reference = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
            self.config.auto_map = {
                "AutoModelForZeroShotImageClassification": reference
            }  # transformers adds AutoModel
        super().save_pretrained(
            save_directory,
            is_main_process,
            state_dict,
            *args,
            save_original_format=save_original_format,
            **kwargs,
        )

    @property
    def has_adapter(self) -> bool:
        """Whether layers of peft are in this model, put there by transformers or by a `PeftModel`."""
        return bool(getattr(self, "peft_config", None))

    @property
    def _checkpoint_conversion_mapping(self) -> dict[str, str]:
        """Spellings of an adapter's names; `PeftModel.from_pretrained` looks for them here."""
        return self.key_mapping

    def load_adapter(
        self,
        peft_model_id: str | None = None,
        adapter_name: str | None = None,
        *args,
        load_config=None,
        **kwargs,
    ):
        """Load an adapter in any of its spellings, whole or not at all; with transformers' own arguments.

        Raises:
            ValueError: weights are missing, left over or of another shape; the message lists them, and the adapter is taken off.
        """
        known = (
            load_config.weight_mapping
            if load_config
            else get_model_conversion_mapping(self, key_mapping=self.key_mapping)
        )
        kwargs["weight_mapping"] = [*known, MAGNITUDES]
        info = super().load_adapter(peft_model_id, adapter_name, *args, load_config=load_config, **kwargs)
        listed = listing(info.missing_keys, info.unexpected_keys, [name for name, *_ in info.mismatched_keys])
        if listed:
            self.delete_adapter(adapter_name or "default")
            raise ValueError(
                f"{peft_model_id or 'the adapter'} is not a whole adapter of {type(self).__name__}. {listed}. {OF_ANOTHER}"
            )
        return info

    def get_adapter_state_dict(self, *args, **kwargs) -> dict:
        """Give an adapter's weights by the names of transformers' own class, as they are saved."""
        return {
            native_name(name): value
            for name, value in super().get_adapter_state_dict(*args, **kwargs).items()
        }


def listing(missing: Iterable[str], left_over: Iterable[str], misshaped: Iterable[str] = ()) -> str:
    """Weights that do not fit, by kind, for an error; empty where all fit."""
    refused = {"missing": missing, "left over": left_over, "of another shape": misshaped}
    return "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in refused.items() if names)


def native_name(name: str) -> str:
    """The name of a weight in transformers 5.6 and later, whose text tower has `layers`."""
    return name.replace("roberta.encoder.layer.", "roberta.encoder.layers.")


def rename_weights(state_dict: dict, prefix: str, new_name: Callable[[str], str]) -> None:
    """Rename, in place, the weights below `prefix`; `new_name` gives that of a weight, both without the prefix."""
    for old in [name for name in state_dict if name.startswith(prefix)]:
        new = new_name(old.removeprefix(prefix))
        state_dict[prefix + new] = state_dict.pop(old)


def rename_layers(module: AltCLIPPreTrainedModel, state_dict: dict, prefix: str, *_) -> None:
    """Before `load_state_dict`: take transformers' own state dicts too."""

    def new_name(name: str) -> str:
        for pattern, replacement in module.key_mapping.items():
            name = re.sub(pattern, replacement, name)
        return name

    rename_weights(state_dict, prefix, new_name)
    if module.has_adapter:
        check_adapter(module, {name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)})


def check_adapter(model: AltCLIPPreTrainedModel, given: set[str]) -> None:
    """Before a `PeftModel` hands on an adapter's weights: peft would load those that fit, and leave the others untrained.

    Args:
        given: the names of the weights. Those of a whole model, its own weights among them, are torch's to check.

    Raises:
        ValueError: weights are missing or left over; the message lists them.
    """
    weights = chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    here = {name for name, _ in weights}
    adapter_of = {
        name: adapter for name in here for adapter in model.peft_config if f".{adapter}." in f"{name}."
    }
    if not given or here - adapter_of.keys() <= given:
        return
    ignored = model._keys_to_ignore_on_load_unexpected
    left_over = {name for name in given - here if not any(re.search(pattern, name) for pattern in ignored)}
    # Other kinds of adapters have weights that are not saved.
    loaded = {adapter_of[name] for name in given & adapter_of.keys()}
    missing = {name for name, adapter in adapter_of.items() if adapter in loaded and "lora_" in name} - given
    listed = listing(missing, left_over)
    if listed:
        raise ValueError(
            f"This is not a whole adapter of {type(model).__name__}. {listed}. {OF_ANOTHER} The method load_adapter of a PeftModel "
            "knows other spellings with key_mapping=model.get_base_model().key_mapping. Load the model anew: it is half changed."
        )


def check_model_type(name_or_path: str, model_types: tuple[str, ...]) -> str:
    """Give a checkpoint's model type. One of another kind is refused: transformers would load what fits and leave the rest random.

    Raises:
        ValueError: its model type is none of `model_types`.
    """
    model_type = AutoConfig.from_pretrained(name_or_path).model_type
    if model_type not in model_types:
        raise ValueError(
            f"{name_or_path} is a {model_type!r}, but a {' or '.join(map(repr, model_types))} has to stand here. "
            "AltCLIPDualEncoderModel.from_towers takes towers of any kind."
        )
    return model_type


def load_whole(
    model_class: type, name_or_path: str, *, unread: tuple[str, ...] = (), **kwargs
) -> PreTrainedModel:
    """Load a tower in float32.

    Args:
        unread: prefixes of weights that may be missing, since nobody reads them.

    Raises:
        ValueError: other weights are missing; the message lists them.
    """
    model, info = model_class.from_pretrained(
        name_or_path, dtype=torch.float32, output_loading_info=True, **kwargs
    )
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(unread))
    if missing:
        raise ValueError(f"{name_or_path} lacks weights of {type(model).__name__}: {', '.join(missing)}")
    return model


__all__ = ["AltCLIPPreTrainedModel", "check_model_type", "load_whole", "rename_layers", "rename_weights"]
