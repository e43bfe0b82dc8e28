"""Know the models that a road names by their configurations, and count their operations; load no weights.

`models.yaml` has those of the recipes of this package. Others are read from a folder or the Hub, where
`config.json` alone is downloaded.
"""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from common.errors import InputError, one_line
from common.files.yaml_files import read_yaml
from modeling_altclip.configuration_altclip_dual_encoder import CONVOLUTIONAL
from modeling_altclip.pooling_altclip import CLASS_TOKENS, NAFLEX, made_up_image
from modeling_altclip.reading_altclip import text_reading

from ..teachers import join

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
    # What lies on this machine counts first, as everywhere in transformers.
    recorded = None if Path(name).exists() else _recorded().get(name)
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
        return join(teacher, read_config(recorded["text_encoder"], argument))
    config = dict(recorded["config"])
    return AutoConfig.for_model(config.pop("model_type"), **config)


def bytes_of_model(name: str) -> int | None:
    """Return the bytes of the weights that are downloaded of a model; None where they are not recorded."""
    recorded = _recorded().get(name)
    return None if recorded is None else recorded["n_bytes"]


def published_parameters(name: str) -> str | None:
    """Say who publishes the number of parameters of a recorded model; None where nobody was found.

    It is the number of `count_parameters`, to the digit.
    """
    return _recorded().get(name, {}).get("source")


def count_parameters(config: PreTrainedConfig) -> tuple[int, int]:
    """Count the parameters of a model, and those of its text tower; of an encoder both are the same."""
    model = _build(config)
    return _count(model), _count(_tower(model, "text_model"))


def text_operations(config: PreTrainedConfig, n_tokens: int) -> int:
    """Count the operations by which a text tower encodes a text of `n_tokens`, in its matrix products.

    A SigLIP pads every text to all of its positions, and reads the padding, so that `n_tokens` changes
    nothing.

    Args:
        config: of a CLIP, SigLIP, AltCLIP or dual encoder, or of a text encoder alone.

    Example:

    ```python
    >>> from training.road.models import read_config, text_operations

    >>> config = read_config("FacebookAI/xlm-roberta-large", "text_encoder_name_or_path")
    >>> text_operations(config, 30) / 30 / 2 / 302e6 # about two for each token and each weight of its layers
    1.004...
    ```
    """
    model = _build(config)
    if text_reading(model).attends_to_padding:
        n_tokens = config.get_text_config().max_position_embeddings
    return _layer_operations(_layers_of(_tower(model, "text_model")), n_tokens)


def image_operations(config: PreTrainedConfig) -> int:
    """Count the operations by which an image tower encodes an image, in its matrix products.

    Args:
        config: of a CLIP, SigLIP, SigLIP 2, AltCLIP or dual encoder, or of a ViT or network of convolutions
            alone.
    """
    tower = getattr(config, "vision_config", config)
    if tower.model_type in CONVOLUTIONAL:
        return _count_operations(_tower(_build(config), "vision_model"), tower)
    layers = _layers_of(_tower(_build(config), "vision_model"))
    if tower.model_type == NAFLEX:
        n_patches = tower.num_patches  # as many as its image processor makes by default
    else:
        n_patches = (tower.image_size // tower.patch_size) ** 2
    # Each patch becomes a token.
    embedding = _MULTIPLY_ADD * n_patches * layers.patch_weights
    return embedding + _layer_operations(layers, n_patches + layers.n_class_tokens)


def _count_operations(encoder: nn.Module, config: PreTrainedConfig) -> int:
    """Count the operations by which a network of convolutions encodes an image, on the meta device."""
    image = {name: values.to("meta") for name, values in made_up_image(config).items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.eval()(**image)
    return counter.get_total_flops()


class _Layers(NamedTuple):
    """What decides how many operations the layers of a tower take.

    - `n_layers`, `width`: how many there are, and how wide the states between them are.
    - `weights`: of all matrices in all layers, by each of which each token is multiplied once: those of
      attention, and two or three (where it is gated, as ModernBERT's) of each MLP.
    - `patch_weights`: of the matrix that makes a token of a patch; none for texts.
    - `n_class_tokens`: tokens beside those of patches: CLIP's class token. SigLIP has none.
    """

    n_layers: int
    width: int
    weights: int
    patch_weights: int
    n_class_tokens: int


def _build(config: PreTrainedConfig) -> nn.Module:
    """Build a model on the meta device: it has shapes alone, and takes neither time nor memory.

    It tells its matrices by itself, whatever its family calls their widths in its configuration.
    """
    return _build_once(config.to_json_string(use_diff=False))


@cache
def _build_once(values: str) -> nn.Module:
    """Build the model of a configuration that is given as JSON, by which it is known again."""
    values = json.loads(values)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        return AutoModel.from_config(config, trust_remote_code=False)


def _tower(model: nn.Module, name: str) -> nn.Module:
    """Return a tower of a model; of an encoder alone, the encoder."""
    return dict(model.named_children()).get(name, model)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _layers_of(tower: nn.Module) -> _Layers:
    """Read the layers of a tower, without its poolers and heads, which see one token."""
    # All of transformers' encoders list their layers, and name the encoder before a decoder (T5, NLLB),
    # through which no text passes.
    layers = next(module for module in tower.modules() if isinstance(module, nn.ModuleList))
    weights = sum(module.weight.numel() for module in layers.modules() if isinstance(module, nn.Linear))
    patches = []
    for name, module in tower.named_modules():
        # NaFlex's image processor cuts patches itself, which a linear layer embeds.
        if isinstance(module, nn.Conv2d) or name.endswith("patch_embedding"):
            patches.append(module)
    class_tokens = [name for name, _ in tower.named_parameters() if name.endswith(CLASS_TOKENS)]
    return _Layers(
        n_layers=len(layers),
        width=tower.config.hidden_size,
        weights=weights,
        patch_weights=sum(module.weight.numel() for module in patches),
        n_class_tokens=len(class_tokens),
    )


def _layer_operations(layers: _Layers, n_tokens: int) -> int:
    """Count the operations of a transformer's layers for one sequence."""
    products = _MULTIPLY_ADD * n_tokens * layers.weights
    # Each token is compared with each other, and takes a mean over their values.
    attention = 2 * _MULTIPLY_ADD * n_tokens**2 * layers.width
    return products + layers.n_layers * attention


__all__ = [
    "bytes_of_model",
    "count_parameters",
    "image_operations",
    "published_parameters",
    "read_config",
    "recorded_models",
    "text_operations",
]
