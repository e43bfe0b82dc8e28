"""Compare what a GPU computes with a reference: embeddings, losses and gradients."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn

from ..losses import contrastive_loss, sigmoid_loss
from ..trainers import TEXTS
from .hardware import synchronize
from .rows import CheckFailed, Measured, relative_difference, within
from .shapes import Shape, build_model, make_embeddings, make_pixels, make_texts

# Bounds of relative differences, of embeddings and of gradients: |a - b| / |b|, as vectors. Sums of float32
# in another order differ by less; bfloat16 has 8 bits, an error of 0.4 % in each product.
_BOUNDS = {"float32": (1e-4, 1e-3), "bfloat16": (2e-2, 5e-2)}
_LOSS_DIM = 256


def compare_kernels(shape: Shape, device: str, *, compiles: bool = False, bf16: bool = False) -> Measured:
    """Compare SDPA, compiled or in bf16 if asked for, with eager attention in float32 on the same device.

    Raises:
        CheckFailed: embeddings or gradients differ by more than their bound.
    """
    reference = _compute(build_model(shape, device, "eager"), shape, device)
    model = build_model(shape, device, "sdpa")
    run = torch.compile(model) if compiles else model
    found = _compute(model, shape, device, run=run, bf16=bf16)
    return _compare(found, reference, _BOUNDS["bfloat16" if bf16 else "float32"])


def compare_with_cpu(shape: Shape, device: str) -> Measured:
    """Compare the device with the CPU, in float32 with eager attention.

    Raises:
        CheckFailed: embeddings or gradients differ by more than their bound.
    """
    reference = _compute(build_model(shape, "cpu", "eager"), shape, "cpu")
    found = _compute(build_model(shape, device, "eager"), shape, device)
    return _compare(found, reference, _BOUNDS["float32"])


def compare_losses(n_pairs: int, device: str) -> Measured:
    """Compare both losses in tiles on the device with the plain formulas on the CPU, value and gradient.

    Raises:
        CheckFailed: a value or a gradient differs by more than its bound.
    """
    differences = {}
    for name, loss in (("contrastive", contrastive_loss), ("sigmoid", _sigmoid_loss)):
        value, gradient = _loss_of(loss, n_pairs, device, tile_size=n_pairs // 3)
        of_reference, gradient_of_reference = _loss_of(loss, n_pairs, "cpu", tile_size=None)
        bound, bound_of_gradient = _BOUNDS["float32"]
        differences[f"{name} losses"] = [relative_difference([value], [of_reference]), bound]
        relative = relative_difference([gradient], [gradient_of_reference])
        differences[f"gradients of the {name} loss"] = [relative, bound_of_gradient]
    return within(differences)


def _sigmoid_loss(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, **kwargs) -> torch.Tensor:
    """Compute SigLIP's loss with the bias that it begins with."""
    return sigmoid_loss(images, texts, scale, torch.tensor(-10.0, device=images.device), **kwargs)


def _loss_of(
    loss: Callable, n_pairs: int, device: str, tile_size: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a loss of random embeddings, and its gradient for the images."""
    embeddings = make_embeddings(2 * n_pairs, _LOSS_DIM).to(device)
    images, texts = embeddings.split(n_pairs)
    images.requires_grad_(True)
    value = loss(images, texts, torch.tensor(20.0, device=device), tile_size=tile_size)
    value.backward()
    return value.detach(), images.grad


def _compute(
    model: nn.Module, shape: Shape, device: str, *, run: nn.Module | None = None, bf16: bool = False
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return a model's embeddings of pairs, and the gradients of all of its weights.

    The loss is the product of the embeddings with random directions: that of pairs would be a small
    difference of large numbers, since a random tower gives all texts nearly one embedding.

    Args:
        run: the model as it is called, if it is compiled.
    """
    run = run or model
    batch = make_texts(shape, shape.pairs)
    inputs = {name: batch[name] for name in TEXTS} | {"pixel_values": make_pixels(shape, shape.pairs)}
    inputs = {name: values.to(device) for name, values in inputs.items()}
    autocast = torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()
    # A GPU would round what convolutions read to TensorFloat-32.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        with autocast:
            outputs = run.eval()(**inputs)
        embeddings = [outputs.image_embeds.float(), outputs.text_embeds.float()]
        directions = make_embeddings(shape.pairs, embeddings[0].shape[1]).to(device)
        sum((values * directions).sum() for values in embeddings).backward()
    synchronize(device)
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    return [values.detach() for values in embeddings], gradients


def _compare(found: tuple, reference: tuple, bounds: tuple[float, float]) -> Measured:
    """Compare embeddings and gradients with those of a reference."""
    if len(found[1]) != len(reference[1]):
        raise CheckFailed(f"{len(found[1])} weights have a gradient, and {len(reference[1])} should")
    embeddings = relative_difference(found[0], reference[0])
    gradients = relative_difference(found[1], reference[1])
    return within({"embeddings": [embeddings, bounds[0]], "gradients": [gradients, bounds[1]]})


__all__ = ["compare_kernels", "compare_losses", "compare_with_cpu"]
