"""Find the base model of a LoRA, or of another adapter of peft, and merge the adapter into it."""

import json
import os
import warnings
from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from modeling_altclip.checksums_altclip import check_files

from ..errors import InputError
from .kinds import UNREADABLE

_CONFIG = "adapter_config.json"  # what peft calls it


def is_low_rank(name_or_path: str) -> bool:
    """Check that this is the folder of a LoRA."""
    return os.path.isfile(Path(name_or_path, _CONFIG))


def base_of(name_or_path: str, argument: str = "model") -> str:
    """Return the folder or Hub id of the model that a LoRA was trained on.

    Args:
        argument: the option that the LoRA was given with, for messages.

    Raises:
        InputError: its configuration cannot be read, or names no model, or names its own folder.
    """
    try:
        base = json.loads(Path(name_or_path, _CONFIG).read_text("utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:  # no JSON, no UTF-8, or a list
        raise InputError(
            f"{argument} {name_or_path!r} has a {_CONFIG} that cannot be read ({error}): save the LoRA again"
        ) from error
    if not base:
        raise InputError(
            f"{argument} {name_or_path!r} is a LoRA without a base: "
            f"write its base_model_name_or_path into {_CONFIG}"
        )
    if Path(base).resolve() == Path(name_or_path).resolve():
        raise InputError(
            f"{argument} {name_or_path!r} is a LoRA that names itself as its base: "
            "save the two in folders of their own"
        )
    return base


def merge_low_rank(
    name_or_path: str, model: PreTrainedModel, processor: ProcessorMixin, argument: str = "model"
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Merge a LoRA into its base.

    Args:
        name_or_path: folder of the LoRA.
        model: its base, whose weights are changed.
        processor: the base's processor; one in the LoRA's folder replaces it.
        argument: the option that the LoRA was given with, for messages.

    Returns:
        The model, with the names of its weights as before, and the processor.

    Raises:
        InputError: peft is not installed; or weights of the LoRA are missing, damaged or do not fit the base.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise InputError(
            f"{argument} {name_or_path!r} is a LoRA, and peft is not installed: pip install 'altclip[peft]'"
        ) from error
    try:
        with warnings.catch_warnings():
            # peft would only warn of them, and leave them random.
            warnings.filterwarnings("error", "Found missing adapter keys")
            check_files(name_or_path)
            model = PeftModel.from_pretrained(model, name_or_path).merge_and_unload()
        if Path(name_or_path, "processor_config.json").is_file():
            processor = type(processor).from_pretrained(name_or_path, trust_remote_code=False)
    except (*UNREADABLE, UserWarning) as error:
        base = base_of(name_or_path, argument)
        said = " ".join(str(error).split())  # on one line
        raise InputError(f"{argument} {name_or_path!r} does not fit its base {base!r}: {said}") from error
    return model, processor


__all__ = ["base_of", "is_low_rank", "merge_low_rank"]
