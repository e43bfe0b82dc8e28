"""Read EfficientNet-lite2 into transformers' EfficientNet, which computes the same.

The lite variants differ from EfficientNet in three ways, all of which its configuration and weights can say:

- They have no squeeze-and-excitation. Its gates are held open here: the weights before the sigmoid are 0 and
  the biases 30, and the sigmoid of 30 is 1 in float32.
- They have ReLU6 in place of Swish.
- Their first and last convolution are not widened, nor their first and last stage deepened.

Convolutions are padded as TensorFlow does it: at the right and the bottom alone where a map of even size is
halved, and on all sides where its size is odd.
"""

from pathlib import Path

import torch
from PIL import Image
from transformers import EfficientNetConfig, EfficientNetForImageClassification, EfficientNetImageProcessor

_SIZE = 260  # pixels
_STAGES = {
    "in_channels": [32, 16, 24, 48, 88, 120, 208],
    "out_channels": [16, 24, 48, 88, 120, 208, 352],
    "kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "strides": [1, 2, 2, 2, 1, 2, 1],
    "expand_ratios": [1, 6, 6, 6, 6, 6, 6],
    "num_block_repeats": [1, 3, 3, 4, 4, 5, 1],
}
# Maps are 260, 130, 65, 33, 17, 9 pixels wide: these blocks halve one of 65, of 33 and of 17.
_HALVE_ODD = [4, 7, 15]
_OPEN = 30.0
_CHANNELS = 1280  # of the last map
# What the checkpoint calls the parts of a block, and transformers' names of them.
_PARTS = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
_OUTSIDE_OF_BLOCKS = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}


def read_classifier(path: Path, class_names: list[str]) -> EfficientNetForImageClassification:
    """Read a checkpoint of EfficientNet-lite2.

    Args:
        class_names: the names of its classes, in their order.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    return classifier_of(checkpoint, class_names)


def classifier_of(
    checkpoint: dict[str, torch.Tensor], class_names: list[str]
) -> EfficientNetForImageClassification:
    """Return the model of transformers that computes what EfficientNet-lite2 does with these weights."""
    config = EfficientNetConfig(
        **_STAGES,
        image_size=_SIZE,
        width_coefficient=1.0,  # all widths and depths are written out
        depth_coefficient=1.0,
        depthwise_padding=_HALVE_ODD,
        squeeze_expansion_ratio=0.0,  # one channel, the fewest
        hidden_act="relu6",
        hidden_dim=_CHANNELS,
        dropout_rate=0.3,
        drop_connect_rate=0.2,
        batch_norm_momentum=0.01,  # in torch's sense; transformers' default is TensorFlow's
        id2label=dict(enumerate(class_names)),
        label2id={name: number for number, name in enumerate(class_names)},
    )
    model = EfficientNetForImageClassification(config)
    weights = _open_gates(model)
    for name, value in checkpoint.items():
        weights[_name_in_transformers(name)] = value
    model.load_state_dict(weights)
    return model.eval()


def _open_gates(model: EfficientNetForImageClassification) -> dict[str, torch.Tensor]:
    """Return weights of squeeze-and-excitation that let all through."""
    weights = {}
    for name, value in model.state_dict().items():
        if ".squeeze_excite." in name:
            is_last_bias = name.endswith("expand.bias")
            weights[name] = torch.full_like(value, _OPEN if is_last_bias else 0.0)
    return weights


def _name_in_transformers(name: str) -> str:
    """Return the name of a weight: `_blocks.3._bn0.bias` -> `efficientnet.encoder.blocks.3.expansion...`."""
    if not name.startswith("_blocks."):
        part, _, kind = name.partition(".")
        return f"{_OUTSIDE_OF_BLOCKS[part]}.{kind}"
    _, block, part, kind = name.split(".")
    return f"efficientnet.encoder.blocks.{block}.{_PARTS[part]}.{kind}"


def image_processor() -> EfficientNetImageProcessor:
    """Return the image processor of EfficientNet-lite2: 260 pixels, of values (x - 127) / 128."""
    return EfficientNetImageProcessor(
        size={"height": _SIZE, "width": _SIZE},
        resample=Image.Resampling.BICUBIC,
        do_center_crop=False,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
        include_top=False,  # would divide by the deviation once more
    )


__all__ = ["classifier_of", "image_processor", "read_classifier"]
