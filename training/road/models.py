"""Know the models that a road names by their configurations, and count their operations; load no weights.

`models.yaml` has those of the recipes of this package. Others are read from a folder or the Hub, where
`config.json` alone is downloaded.
"""

from functools import cache
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from common.errors import InputError, one_line
from common.files.yaml_files import read_yaml
from modeling_altclip import AltCLIPConfig

_FILE = Path(__file__).with_name("models.yaml")
# A multiplication and an addition count as two operations.
_MULTIPLY_ADD = 2


@cache
def _recorded() -> dict[str, dict]:
    return read_yaml(_FILE, "models")


def recorded_models() -> list[str]:
    """Return the names of the models whose configurations come with this package."""
    return list(_recorded())


def read_config(name: str, argument: str) -> PreTrainedConfig:
    """Read the configuration of a model: a recorded one, or that of a folder or the Hub.

    Args:
        argument: the argument that names it, for messages.

    Raises:
        InputError: there is none.
    """
    recorded = _recorded().get(name)
    if recorded is None:
        try:
            return AutoConfig.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{argument} {name!r} has no configuration here or on the Hub, {one_line(error)}: name a "
                "folder or Hub id of a model"
            ) from error
    if "teacher" in recorded:
        teacher = read_config(recorded["teacher"], argument)
        return AltCLIPConfig.from_teacher(teacher, read_config(recorded["text_encoder"], argument))
    config = dict(recorded["config"])
    return AutoConfig.for_model(config.pop("model_type"), **config)


def bytes_of_model(name: str) -> int | None:
    """Return the bytes of the weights that are downloaded of a model; None where they are not recorded."""
    recorded = _recorded().get(name)
    return None if recorded is None else recorded["n_bytes"]


def count_parameters(config: PreTrainedConfig) -> tuple[int, int]:
    """Count the parameters of a model, and those of its text tower; of an encoder both are the same."""
    # Shapes alone: no time and no memory.
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=False)
    n_all = sum(value.numel() for value in model.parameters())
    towers = dict(model.named_children())
    if "text_model" not in towers:
        return n_all, n_all
    return n_all, sum(value.numel() for value in towers["text_model"].parameters())


def text_operations(config: PreTrainedConfig, n_tokens: int) -> int:
    """Count the operations by which a text tower encodes a text of `n_tokens`, in its matrix products.

    Args:
        config: of a CLIP, AltCLIP or dual encoder, or of a text encoder alone.

    Example:

    ```python
    >>> from training.road.models import read_config, text_operations

    >>> config = read_config("FacebookAI/xlm-roberta-large", "text_encoder_name_or_path")
    >>> text_operations(config, 30) / 30 / 2 / 302e6 # about two for each token and each weight of its layers
    1.004...
    ```
    """
    tower = getattr(config, "text_config", config)
    return _layer_operations(tower, n_tokens)


def image_operations(config: PreTrainedConfig) -> int:
    """Count the operations by which an image tower encodes an image, in its matrix products.

    Args:
        config: of a CLIP, AltCLIP or dual encoder, or of a ViT alone.
    """
    tower = getattr(config, "vision_config", config)
    n_patches = (tower.image_size // tower.patch_size) ** 2
    # Each patch of 3 colours becomes a token, and one token stands for the whole.
    embedding = _MULTIPLY_ADD * n_patches * 3 * tower.patch_size**2 * tower.hidden_size
    return embedding + _layer_operations(tower, n_patches + 1)


def _layer_operations(tower: PreTrainedConfig, n_tokens: int) -> int:
    """Count the operations of a transformer's layers for one sequence."""
    width = tower.hidden_size
    # Queries, keys, values and output are of width x width, and the two layers of the MLP of width x inner.
    weights = 4 * width**2 + 2 * width * tower.intermediate_size
    products = _MULTIPLY_ADD * n_tokens * weights
    # Each token is compared with each other, and takes a mean over their values.
    attention = 2 * _MULTIPLY_ADD * n_tokens**2 * width
    return tower.num_hidden_layers * (products + attention)


__all__ = [
    "bytes_of_model",
    "count_parameters",
    "image_operations",
    "read_config",
    "recorded_models",
    "text_operations",
]
