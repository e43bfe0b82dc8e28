"""Load and save checkpoints, and adapters for them.

They are loaded in every spelling of the weights' names, whole or not at all, and saved in the one that
everybody reads.
"""

import re
import traceback
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import wraps
from itertools import chain
from os import PathLike
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from .checksums_altclip import PushesChecksums, check_files, checked_files, keep_checksums
from .configuration_altclip import AltCLIPConfig
from .finite_altclip import check_finite, check_small_finite
from .linear_altclip import use_onednn

# The only weights that may differ in shape from a checkpoint's, if a caller asks for it: they are trained
# anew.
_HEAD = re.compile(r"(?:text_projection|visual_projection|(?:text_model\.)?(?:transformation|pre_LN))\.")

# DoRA's magnitudes are saved without the last part of their name, which transformers does not restore.
_MAGNITUDES = WeightRenaming(r"(lora_magnitude_vector\.[^.]+)$", r"\1.weight")
_OF_ANOTHER = "It was trained on another model, or is spelled for one."


class IncompleteCheckpointError(Exception):
    """The error of a pipeline that is given a folder from which our class cannot load a model.

    It is no ValueError on purpose. After a ValueError, an OSError, a TypeError or a RuntimeError,
    transformers' pipelines try the next class, and the last one, transformers' own AltCLIP, fills the weights
    that are missing with random numbers.
    """


def _refused_in_pipelines(from_pretrained: Callable) -> Callable:
    """Make the errors of `from_pretrained` pass through a pipeline's search for a class.

    Outside of pipelines its errors stay as they are. A pipeline tells a class of itself by `_from_pipeline`,
    but an AutoClass drops that, so that the calls on the stack have to say it.
    """

    @wraps(from_pretrained)
    def load(*args, **kwargs):
        try:
            return from_pretrained(*args, **kwargs)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            callers = traceback.walk_stack(None)
            modules = {frame.f_globals.get("__name__") for frame, _ in callers}
            if "transformers.pipelines.base" in modules:
                raise IncompleteCheckpointError(str(error)) from error
            raise

    return load


class AltCLIPPreTrainedModel(PushesChecksums, PreTrainedModel):
    """Base class of all models: the towers' attention kernels, and how checkpoints are loaded and saved."""

    config_class = AltCLIPConfig
    base_model_prefix = "altclip"
    input_modalities = ("image", "text")
    native_class: type | None = None  # transformers' own class of the same weights
    # transformers 5.6 and later swap `layer` and `layers` of the released files; every spelling is read.
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

    def post_init(self) -> None:
        """Finish a model when all its parts are built: transformers' own steps, and the faster products."""
        super().post_init()
        use_onednn(self)

    @classmethod
    @_refused_in_pipelines
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike,
        *model_args,
        key_mapping: dict[str, str] | None = None,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        verify_weights: bool = True,
        **kwargs,
    ):
        """Load a checkpoint in any of its spellings, whole or not at all; takes transformers' own arguments.

        Args:
            ignore_mismatched_sizes: initialise the head (the projections, `transformation` and `pre_LN`) anew
                if its shape differs from the checkpoint's. A tower's weights have to fit in any case.
            verify_weights: compare the weights of a folder with its `checksums.json`, if it has one: about
                0.7 s for each GB. The small files are always compared.

        Raises:
            ValueError: weights are missing, left over or of another shape, or files are damaged; the message
                lists them. Or a bias, a norm or the logit scale is NaN or infinite.
            IncompleteCheckpointError: the same, or any other reason, when a pipeline loads the model.
        """
        checked = nullcontext()
        if pretrained_model_name_or_path is not None:  # else the weights are given
            folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
            checked = checked_files(folder, weights=verify_weights)
        with checked:
            # Mismatched shapes are always let through here, so that the error below can list them all.
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                key_mapping=cls.key_mapping | (key_mapping or {}),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs,
            )
        misshaped = []
        for name, there, here in sorted(info["mismatched_keys"]):
            is_trained_anew = ignore_mismatched_sizes and _HEAD.match(name)
            if not is_trained_anew:
                misshaped.append(f"{name} ({tuple(there)} there, {tuple(here)} here)")
        listed = _listing(info["missing_keys"], info["unexpected_keys"], misshaped)
        if listed:
            raise ValueError(
                f"{pretrained_model_name_or_path} is not a whole checkpoint of {cls.__name__} "
                f"as its configuration describes it. {listed}. Get the whole checkpoint, "
                "or build a model from CLIP and a text encoder with AltCLIPModel.from_teacher."
            )
        check_small_finite(model.named_parameters(), str(pretrained_model_name_or_path))
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
        """Save under our own names, with the code that reads them.

        transformers alone would save the spelling that it has loaded, old mistakes included. The folder
        serves plain transformers, which does not look at the code, and `trust_remote_code=True`, which runs
        it. If the model has an adapter, or is the base model of a `PeftModel`, only the adapter is saved, for
        transformers' own class.

        Raises:
            ValueError: a weight is NaN or infinite; nothing is written then.
        """
        weights = self.named_parameters() if state_dict is None else state_dict.items()
        check_finite(weights, f"This {type(self).__name__}, which is not saved,")
        for name in self.config.sub_configs:
            tower_config = getattr(self.config, name)
            tower_config.name_or_path = ""  # the tower was loaded from a folder of some machine

        self._hf_peft_config_loaded = (
            self.has_adapter
        )  # a PeftModel does not tell transformers of its adapters
        if self.has_adapter and self.native_class is not None:
            self._name_native_class()

        if self._auto_class is not None:
            module = type(self).__module__.split(".")[-1]
            reference = f"{module}.{type(self).__name__}"
            # transformers adds the entry of AutoModel.
            self.config.auto_map = {"AutoModelForZeroShotImageClassification": reference}
        with keep_checksums(save_directory) if is_main_process else nullcontext():
            super().save_pretrained(
                save_directory,
                is_main_process,
                state_dict,
                *args,
                save_original_format=save_original_format,
                **kwargs,
            )
        if is_main_process:
            match_modes(save_directory)

    def _name_native_class(self) -> None:
        """Name transformers' own class in the adapters' settings: peft can load it without this package."""
        native = {
            "base_model_class": self.native_class.__name__,
            "parent_library": self.native_class.__module__,
        }
        for adapter in self.peft_config.values():
            # With a task type peft chooses the class by itself.
            adapter.auto_mapping = native if adapter.task_type is None else None

    @property
    def has_adapter(self) -> bool:
        """Return True if transformers or a `PeftModel` has put peft's layers into this model."""
        return bool(getattr(self, "peft_config", None))

    @property
    def _checkpoint_conversion_mapping(self) -> dict[str, str]:
        """Return the spellings of an adapter's names, where `PeftModel.from_pretrained` looks for them."""
        return self.key_mapping

    def load_adapter(
        self,
        peft_model_id: str | None = None,
        adapter_name: str | None = None,
        *args,
        load_config=None,
        **kwargs,
    ):
        """Load an adapter in any of its spellings, whole or not at all; takes transformers' own arguments.

        Raises:
            ValueError: weights are missing, left over or of another shape, and the message lists them; or a
                weight is NaN or infinite. The adapter is removed again. Or a file of its folder is damaged.
        """
        if peft_model_id is not None:
            folder = Path(peft_model_id, kwargs.get("subfolder") or "")
            check_files(folder, "settings")
            check_files(folder, "weights")
        if load_config:
            known = load_config.weight_mapping
        else:
            known = get_model_conversion_mapping(self, key_mapping=self.key_mapping)
        kwargs["weight_mapping"] = [*known, _MAGNITUDES]
        info = super().load_adapter(peft_model_id, adapter_name, *args, load_config=load_config, **kwargs)

        adapter = adapter_name or "default"
        source = str(peft_model_id or "the adapter")
        misshaped = [name for name, *_ in info.mismatched_keys]
        listed = _listing(info.missing_keys, info.unexpected_keys, misshaped)
        weights = [(name, value) for name, value in self.named_parameters() if f".{adapter}." in f"{name}."]
        try:
            if listed:
                raise ValueError(
                    f"{source} is not a whole adapter of {type(self).__name__}. {listed}. {_OF_ANOTHER}"
                )
            check_finite(weights, source)
        except ValueError:
            self.delete_adapter(adapter)
            raise
        return info

    def get_adapter_state_dict(self, *args, **kwargs) -> dict:
        """Return an adapter's weights by their names in transformers' own class, as they are saved."""
        state_dict = super().get_adapter_state_dict(*args, **kwargs)
        return {native_name(name): value for name, value in state_dict.items()}


def _listing(missing: Iterable[str], left_over: Iterable[str], misshaped: Iterable[str] = ()) -> str:
    """List the weights that do not fit, by kind, for an error; return "" if all fit.

    _listing(["a", "b"], ["c"]) -> "missing: a, b; left over: c"
    """
    refused = {"missing": missing, "left over": left_over, "of another shape": misshaped}
    return "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in refused.items() if names)


def native_name(name: str) -> str:
    """Return the name of a weight in transformers 5.6 and later, whose text tower has `layers`."""
    return name.replace("roberta.encoder.layer.", "roberta.encoder.layers.")


def rename_weights(state_dict: dict, prefix: str, new_name: Callable[[str], str]) -> None:
    """Rename the weights below `prefix` in place.

    Args:
        new_name: maps the old name of a weight to the new one, both without the prefix.
    """
    for old in [name for name in state_dict if name.startswith(prefix)]:
        new = new_name(old.removeprefix(prefix))
        state_dict[prefix + new] = state_dict.pop(old)


def rename_layers(module: AltCLIPPreTrainedModel, state_dict: dict, prefix: str, *_) -> None:
    """Rename the weights of transformers' own state dicts; a hook that runs before `load_state_dict`."""

    def new_name(name: str) -> str:
        for pattern, replacement in module.key_mapping.items():
            name = re.sub(pattern, replacement, name)
        return name

    rename_weights(state_dict, prefix, new_name)
    if module.has_adapter:
        given = {
            name.removeprefix(prefix): state_dict[name] for name in state_dict if name.startswith(prefix)
        }
        _check_adapter(module, set(given))
        check_finite(given.items(), "This adapter")


def _check_adapter(model: AltCLIPPreTrainedModel, given: set[str]) -> None:
    """Refuse an adapter's weights that are not whole, before a `PeftModel` loads them.

    peft would load those that fit, and leave the others untrained.

    Args:
        given: names of the weights. Those of a whole model, with its own weights, are left for torch to
            check.

    Raises:
        ValueError: weights are missing or left over; the message lists them.
    """
    parameters = model.named_parameters(remove_duplicate=False)
    buffers = model.named_buffers(remove_duplicate=False)
    here = {name for name, _ in chain(parameters, buffers)}

    # {weight of an adapter: name of the adapter}; "….lora_A.default.weight" -> "default"
    adapter_of = {}
    for name in here:
        for adapter in model.peft_config:
            if f".{adapter}." in f"{name}.":
                adapter_of[name] = adapter

    own_weights = here - adapter_of.keys()
    if not given or own_weights <= given:
        return

    def is_ignored(name: str) -> bool:
        return any(re.search(pattern, name) for pattern in model._keys_to_ignore_on_load_unexpected)

    left_over = {name for name in given - here if not is_ignored(name)}
    # Only LoRA's weights are known to be all saved: other kinds of adapters have weights that are not.
    loaded = {adapter_of[name] for name in given & adapter_of.keys()}
    needed = {name for name, adapter in adapter_of.items() if adapter in loaded and "lora_" in name}
    listed = _listing(needed - given, left_over)
    if listed:
        raise ValueError(
            f"This is not a whole adapter of {type(model).__name__}. {listed}. {_OF_ANOTHER} "
            "The method load_adapter of a PeftModel knows other spellings "
            "with key_mapping=model.get_base_model().key_mapping. Load the model anew: it is half changed."
        )


def match_modes(folder: str | PathLike) -> None:
    """Let those read the weights below a folder who may read the configuration next to them.

    safetensors writes files for their owner alone, whatever the umask; a user's other processes and a server
    of another user could not read the model.
    """
    for weights in Path(folder).rglob("*.safetensors"):
        for neighbour in sorted(weights.parent.glob("*config.json")):
            weights.chmod(neighbour.stat().st_mode)


def check_model_type(name_or_path: str, model_types: tuple[str, ...]) -> str:
    """Return a checkpoint's model type, or refuse it.

    transformers would load the weights of another kind that fit, and leave the rest random.

    Raises:
        ValueError: its model type is none of `model_types`, or a small file of it is damaged.
    """
    check_files(name_or_path, "settings")
    model_type = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False).model_type
    if model_type not in model_types:
        choices = " or ".join(repr(choice) for choice in model_types)
        raise ValueError(
            f"{name_or_path} is a {model_type!r}, but a {choices} has to stand here. "
            "AltCLIPDualEncoderModel.from_towers takes towers of any kind."
        )
    return model_type


def load_whole(
    model_class: type, name_or_path: str, *, unread: tuple[str, ...] = (), **kwargs
) -> PreTrainedModel:
    """Load a tower in float32.

    Args:
        unread: prefixes of weights that may be missing, since they are not used.

    Raises:
        ValueError: other weights are missing, or a weight is NaN or infinite; the message lists them. Or a
            file is damaged.
    """
    checks_itself = issubclass(model_class, AltCLIPPreTrainedModel)
    with checked_files(name_or_path, weights=not checks_itself):
        model, info = model_class.from_pretrained(
            name_or_path, dtype=torch.float32, output_loading_info=True, **kwargs
        )
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(unread))
    if missing:
        raise ValueError(f"{name_or_path} lacks weights of {type(model).__name__}: {', '.join(missing)}")
    check_finite(model.named_parameters(), name_or_path)
    return model


__all__ = [
    "AltCLIPPreTrainedModel",
    "IncompleteCheckpointError",
    "check_model_type",
    "load_whole",
    "match_modes",
    "rename_layers",
    "rename_weights",
]
