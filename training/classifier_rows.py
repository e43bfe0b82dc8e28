"""The classes of a classifier of images as captioned images: each row of its weights, with its class name.

A classifier is a linear layer on the features of its tower. The row of a class is the direction in which
images of the class lie, so that it stands for a picture of it: what the classifier has learned from its own
data helps to align it.
"""

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from common.errors import InputError
from common.files.json_files import read_json
from common.models.kinds import readable
from modeling_altclip.pooling_altclip import made_up_image

from .arguments import AlignmentArguments, say

# What transformers calls classes that nobody has named.
_UNNAMED = re.compile(r"LABEL_\d+")


class ClassRows(NamedTuple):
    """The classes of a classifier.

    - `names`: one a class.
    - `weight`: the rows of the classifier `(classes, width)`.
    """

    names: list[str]
    weight: torch.Tensor

    def as_features(self, mean: torch.Tensor, spread: float) -> torch.Tensor:
        """Return what features of images `(classes, width)` would be that show nothing but their class.

        A row that is added to all rows changes no probability, so that their mean says nothing, and neither
        does their common length: the rows take the mean and the spread of features.

        Args:
            mean: of the features `(width,)`.
            spread: the root of their mean squared distance from it.
        """
        centred = self.weight - self.weight.mean(0)
        return mean + centred * (spread / centred.square().sum(1).mean().sqrt())


def load_class_rows(arguments: AlignmentArguments, model: PreTrainedModel) -> ClassRows | None:
    """Load the classes of `image_model_name_or_path`, if it is a classifier whose classes have names.

    Args:
        model: has its image tower.

    Returns:
        None for an encoder without a classifier, classes without names, or a `class_weight` of 0.

    Raises:
        InputError: names are given, and it is no classifier, has another number of classes, or is no linear
            layer on what its tower returns.
    """
    name_or_path = arguments.image_model_name_or_path
    with readable("image_model_name_or_path", name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    architectures = config.architectures or []
    is_classifier = any(name.endswith("ForImageClassification") for name in architectures)
    is_asked_for = arguments.class_names is not None
    if arguments.class_weight == 0:
        return None
    if not is_classifier:
        if is_asked_for:
            raise InputError(
                f"class_names is {arguments.class_names!r}, and image_model_name_or_path {name_or_path!r} is "
                "no classifier: leave it out, or give the classifier"
            )
        return None

    names = _names_of(arguments, config.id2label)
    if names is None:
        say(arguments, "The classes of the classifier have no names, and are left out: give class_names.")
        return None
    with readable("image_model_name_or_path", name_or_path):
        classifier = AutoModelForImageClassification.from_pretrained(
            name_or_path, dtype=torch.float32, trust_remote_code=False
        ).eval()
    head = dict(classifier.named_children()).get("classifier")
    if not _is_on_pooled_features(classifier, head, model):
        reason = "the classifier is no single linear layer on what the image tower returns"
        if is_asked_for:
            raise InputError(f"class_names is {arguments.class_names!r}, and {reason}: leave it out")
        say(arguments, f"Its classes are left out: {reason}.")
        return None
    if len(names) != len(head.weight):
        raise InputError(
            f"class_names has {len(names)} names, and image_model_name_or_path {name_or_path!r} has "
            f"{len(head.weight)} classes: give one name a class, in the order of its outputs"
        )
    return ClassRows(names, head.weight.detach())


def _names_of(arguments: AlignmentArguments, id2label: dict[int, str]) -> list[str] | None:
    """Return the given class names, or those of the configuration; None if these are numbers alone.

    Of several names, as in ImageNet's "tench, Tinca tinca", the first is taken.

    Raises:
        InputError: the file is no list of names.
    """
    if arguments.class_names is None:
        names = [str(id2label[number]) for number in sorted(id2label)]
        if all(_UNNAMED.fullmatch(name) for name in names):
            return None
        return [name.split(",")[0].strip() for name in names]
    names = read_json(Path(arguments.class_names), "class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(
            f"class_names {arguments.class_names!r} is no list of names: give one such as "
            '["tench", "goldfish"], in the order of the outputs'
        )
    return names


@torch.no_grad()
def _is_on_pooled_features(
    classifier: PreTrainedModel, head: nn.Module | None, model: PreTrainedModel
) -> bool:
    """Check that a classifier is a linear layer on what a model's image tower returns; try it with one image.

    DINOv2's takes the mean of the patches too, and SigLIP's another pooling than its tower.
    """
    if not isinstance(head, nn.Linear):
        return False
    image = made_up_image(classifier.config)
    pooled = model.vision_model(**image).pooler_output
    if pooled.shape[-1] != head.in_features:
        return False
    return torch.allclose(head(pooled), classifier(**image).logits, rtol=1e-4, atol=1e-4)


__all__ = ["ClassRows", "load_class_rows"]
