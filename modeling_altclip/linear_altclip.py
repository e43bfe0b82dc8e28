"""Multiply matrices by oneDNN where PyTorch's own choice is slow: in float32 on AMD's processors.

PyTorch gives products of float32 to Intel's MKL, which leaves AVX-512 unused on processors that are not
Intel's. oneDNN, which PyTorch contains too, uses it: on one core of an EPYC of the fifth generation it
computes about 230 GFLOP a second in place of 105. With AVX2 alone the two are alike. The results differ by
rounding, as those of any two libraries do.
"""

import math
import platform
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import pad
from torch.utils.flop_counter import flop_registry, register_flop_formula

_CPU_INFO = Path("/proc/cpuinfo")


def _is_mkl_slow() -> bool:
    """Return whether this machine multiplies faster by oneDNN than by MKL: AMD's processors with AVX-512."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    # Linux names the vendor in a file, Windows at the end of the processor's name.
    processor = _CPU_INFO.read_text() if _CPU_INFO.exists() else platform.processor()
    return "AuthenticAMD" in processor and torch.backends.cpu.get_cpu_capability() == "AVX512"


IS_MKL_SLOW = _is_mkl_slow()


def _product(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute `input @ weight.T + bias` by oneDNN, without a gradient; `input` is `(rows, in_features)`."""
    n_rows, n_features = input.shape
    more_rows = _round_up(n_rows) - n_rows
    more_features = _round_up(n_features) - n_features
    if more_rows or more_features:
        input = pad(input, (0, more_features, 0, more_rows))
    if more_features:
        weight = pad(weight, (0, more_features))
    # The operator that torch.compile chooses for linear layers; "none" is for no activation after it.
    output = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return output[:n_rows]


def _round_up(length: int) -> int:
    """Return a length of at least this one, of 16 between two powers of 2: 17, 18 to 32, 34, 36 to 64, 68.

    oneDNN compiles kernels for each shape and keeps those of 1,024 shapes, half a megabyte each, which also
    keep the memory between them from being given back. Texts come in all shapes: after 1,500 batches of up to
    1,024 tokens three layers held 1,390 MB, and hold 255 by this. It computes 2 % more on average.
    """
    step = max(1, 2 ** ((length - 1).bit_length() - 5))
    return math.ceil(length / step) * step


class _OneDNNLinear(torch.autograd.Function):
    """Compute `input @ weight.T + bias` by oneDNN, and its gradients too, of any order.

    `input` is `(rows, in_features)`.
    """

    @staticmethod
    def forward(ctx, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(input, weight)
        return _product(input, weight, bias)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad
        of_input = of_weight = of_bias = None
        if needs_input:
            of_input = _OneDNNLinear.apply(gradient, weight.t(), None)
        if needs_weight:
            of_weight = _OneDNNLinear.apply(gradient.t(), input.t(), None)
        if needs_bias:
            of_bias = gradient.sum(0)
        return of_input, of_weight, of_bias


def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute `input @ weight.T + bias`, as `torch.nn.functional.linear` does, by the faster library.

    Args:
        input: `(..., in_features)`.
        weight: `(out_features, in_features)`.
        bias: `(out_features,)`.

    Returns:
        `(..., out_features)`.
    """
    if _is_for_onednn(input, weight):
        rows = input.reshape(-1, input.shape[-1])
        return _OneDNNLinear.apply(rows, weight, bias).view(*input.shape[:-1], -1)
    return F.linear(input, weight, bias)


def _is_for_onednn(input: torch.Tensor, weight: torch.Tensor) -> bool:
    if not IS_MKL_SLOW or torch.is_autocast_enabled("cpu"):
        return False
    # A compiled or exported graph names PyTorch's own operators, and its compiler chooses a library.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    for tensor in (input, weight):
        # Quantized and sharded tensors are subclasses, which multiply in their own way.
        is_plain = type(tensor) in (torch.Tensor, nn.Parameter)
        if not is_plain or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            return False
    return input.numel() > 0


def _count_operations(input_shape: list[int], weight_shape: list[int], *_, **__) -> int:
    """Count a product's operations for PyTorch's `FlopCounterMode`, as it counts its own products."""
    return 2 * math.prod(input_shape[:-1]) * math.prod(weight_shape)


if torch.backends.mkldnn.is_available():
    _PRODUCT = torch.ops.mkldnn._linear_pointwise
    # The copy of this file in a model's folder may have been imported as well.
    if _PRODUCT not in flop_registry:
        register_flop_formula(_PRODUCT)(_count_operations)


def _forward(layer: nn.Linear, input: torch.Tensor) -> torch.Tensor:
    return linear(input, layer.weight, layer.bias)


def use_onednn(model: nn.Module) -> None:
    """Make all linear layers of a model multiply by oneDNN where that is faster, in place.

    Nothing changes on other machines. The weights and their names stay as they are, and so does the layers'
    type: `torch.ao.quantization` passes over any other.
    """
    if not IS_MKL_SLOW:
        return
    for module in model.modules():
        # Not a subclass: it computes something else.
        if type(module) is nn.Linear:
            module.forward = partial(_forward, module)  # can be pickled


__all__ = ["IS_MKL_SLOW", "linear", "use_onednn"]
