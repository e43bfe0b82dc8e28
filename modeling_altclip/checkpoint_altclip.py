"""Checkpoints are read in every spelling that is around, whole or not at all, and written in the one that everybody reads."""

import re
from os import PathLike

import torch
from transformers import AutoConfig, PreTrainedModel

from .configuration_altclip import AltCLIPConfig

# The only weights that may differ in shape from a checkpoint's, where a caller asks for it: they are trained anew.
HEAD = re.compile(r"(?:text_projection|visual_projection|(?:text_model\.)?(?:transformation|pre_LN))\.")


class AltCLIPPreTrainedModel(PreTrainedModel):
    """What all models share: which attention kernels the towers have, and how checkpoints are read and written."""

    config_class = AltCLIPConfig
    base_model_prefix = "altclip"
    input_modalities = ("image", "text")
    # transformers 5.6 and later spell `layer` and `layers` otherwise than the released files do; every spelling is read.
    key_mapping = {
        r"^text_model\.roberta\.encoder\.layers\.": "text_model.roberta.encoder.layer.",
        r"^vision_model\.encoder\.layer\.": "vision_model.encoder.layers.",
    }
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _no_split_modules = ["XLMRobertaEmbeddings", "XLMRobertaLayer", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]
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
        refused = {"missing": sorted(info["missing_keys"]), "left over": sorted(info["unexpected_keys"]), "of another shape": misshaped}
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in refused.items() if names)
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
        """
        for name in self.config.sub_configs:
            getattr(self.config, name).name_or_path = ""  # where a tower was loaded from is a folder of some machine
        if self._auto_class is not None:
            reference = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
            self.config.auto_map = {"AutoModelForZeroShotImageClassification": reference}  # transformers adds AutoModel
        super().save_pretrained(save_directory, is_main_process, state_dict, *args, save_original_format=save_original_format, **kwargs)


def rename_layers(module: AltCLIPPreTrainedModel, state_dict: dict, prefix: str, *_) -> None:
    """Before `load_state_dict`: take transformers' own state dicts too."""
    for old in [name for name in state_dict if name.startswith(prefix)]:
        new = old.removeprefix(prefix)
        for pattern, replacement in module.key_mapping.items():
            new = re.sub(pattern, replacement, new)
        state_dict[prefix + new] = state_dict.pop(old)


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


def load_whole(model_class: type, name_or_path: str, *, unread: tuple[str, ...] = (), **kwargs) -> PreTrainedModel:
    """Load a tower in float32.

    Args:
        unread: prefixes of weights that may be missing, since nobody reads them.

    Raises:
        ValueError: other weights are missing; the message lists them.
    """
    model, info = model_class.from_pretrained(name_or_path, dtype=torch.float32, output_loading_info=True, **kwargs)
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(unread))
    if missing:
        raise ValueError(f"{name_or_path} lacks weights of {type(model).__name__}: {', '.join(missing)}")
    return model


__all__ = ["AltCLIPPreTrainedModel", "check_model_type", "load_whole", "rename_layers"]
