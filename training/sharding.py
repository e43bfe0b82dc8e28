"""Adapt a model and its optimizer to FSDP2, beyond accelerate's configuration.

The configuration is `recipes/accelerate/fsdp2.yaml`. Each layer of a tower is one unit: its weights are
sharded over the processes and gathered while it computes.
"""

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import ChineseCLIPModel, CLIPModel, MetaClip2Model, VisionTextDualEncoderModel

# Models of transformers that return no input embeddings; their text towers do.
_WITHOUT_INPUT_EMBEDDINGS = (ChineseCLIPModel, CLIPModel, MetaClip2Model, VisionTextDualEncoderModel)


def make_shardable(model: nn.Module, accelerator: Accelerator) -> None:
    """Prepare a model for accelerate's FSDP2: name its layers, and exclude scalars from sharding.

    Layers are found in the model, since `_no_split_modules`, which accelerate would use, also names layers
    that a tower lacks. torch cannot shard scalars, such as the temperature and the bias of the logits. Every
    process computes the loss of all pairs, so that each has their full gradients and takes the same step
    without gathering.
    """
    plugin = accelerator.state.fsdp_plugin
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = layer_classes(model)

    # accelerate does not move ignored modules to the device.
    scalars = [value for value in model.parameters(recurse=False) if _is_scalar(value)]
    for value in scalars:
        value.data = value.data.to(accelerator.device)
    plugin.ignored_modules = [nn.ParameterList(scalars)]

    if isinstance(model, _WITHOUT_INPUT_EMBEDDINGS):  # which accelerate needs
        model.get_input_embeddings = model.text_model.get_input_embeddings


def layer_classes(model: nn.Module) -> list[str]:
    """Return the class names of the towers' layers, which are the modules in a `ModuleList`."""
    names = set()
    for part in model.modules():
        if isinstance(part, nn.ModuleList):
            names |= {type(layer).__name__ for layer in part}
    return sorted(names)  # a set of strings has another order in each process


def set_scalars_apart(optimizer: torch.optim.Optimizer) -> None:
    """Move scalars to parameter groups of their own.

    A fused step takes sharded tensors or whole ones, but not both in one group.
    """
    for group in list(optimizer.param_groups):
        scalars = [value for value in group["params"] if _is_scalar(value)]
        if scalars:
            group["params"] = [value for value in group["params"] if not _is_scalar(value)]
            optimizer.add_param_group({**group, "params": scalars})


def _is_scalar(value: torch.Tensor) -> bool:
    """Check for a scale or a bias of logits: `()` in CLIP, and `(1,)` in SigLIP."""
    return value.numel() == 1


def whole(value: torch.Tensor) -> torch.Tensor:
    """Gather a sharded tensor into a plain one; every process has to call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a sharded tensor, or all of a plain one, without a graph."""
    value = value.detach()
    return value.to_local() if isinstance(value, DTensor) else value


__all__ = ["layer_classes", "local", "make_shardable", "set_scalars_apart", "whole"]
