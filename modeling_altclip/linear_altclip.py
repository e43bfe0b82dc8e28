"""Multiply matrices by oneDNN where PyTorch's own choice is slow: in float32 on AMD's processors.

PyTorch gives products of float32 to Intel's MKL, which leaves AVX-512 unused on processors that are not
Intel's. oneDNN, which PyTorch contains too, uses it: on one core of an EPYC of the fifth generation it
computes about 230 GFLOP a second in place of 105. With AVX2 alone the two are alike. The results differ by
rounding, as those of any two libraries do.
"""

import platform
import threading
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_CPU_INFO = Path("/proc/cpuinfo")


def _is_mkl_slow() -> bool:
    """Return whether this machine multiplies faster by oneDNN than by MKL: AMD's processors with AVX-512."""
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    if not has_both or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    # Linux names the vendor in a file, Windows at the end of the processor's name.
    if not _CPU_INFO.exists():
        return "AuthenticAMD" in platform.processor()
    with _CPU_INFO.open() as information:
        of_first_core = information.read(1000)
    return "AuthenticAMD" in of_first_core


IS_MKL_SLOW = _is_mkl_slow()


# ---- Products of few shapes ----
#
# oneDNN compiles kernels for each shape, and keeps those of 1,024 shapes, half a megabyte each. They also
# keep the memory between them from being given back. Texts come in all shapes: after 1,500 batches of up to
# 1,024 tokens, three layers held 1,390 MB. In 16 lengths between two powers of 2 they hold 255 MB.


def _product(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute `input @ weight.T + bias` by oneDNN, without a gradient; `input` is `(rows, in_features)`."""
    n_rows, n_features = input.shape
    # Rows are rounded up, by zeros; features down, and the rest is added.
    rows = n_rows + -n_rows % _step(n_rows)
    features = n_features - n_features % _step(n_features)

    of_few = input[:, :features]
    if rows > n_rows:
        of_few = _with_rows(of_few, rows)
    # The operator that torch.compile chooses for linear layers; "none" is for no activation after it.
    output = torch.ops.mkldnn._linear_pointwise(of_few, weight[:, :features], bias, "none", [], "")
    output.resize_(n_rows, len(weight))  # not a view, which could not be changed in place afterwards
    if features < n_features:
        output.addmm_(input[:, features:], weight[:, features:].t())
    return output


def _step(length: int) -> int:
    """Return 1 for lengths up to 32, 2 up to 64, 4 up to 128: a sixteenth of the power of 2 below at most."""
    return max(1, 2 ** ((length - 1).bit_length() - 5))


class _Kept(threading.local):
    """Memory that each thread keeps for the rows of its products: fresh memory costs more than the copy."""

    values = torch.empty(0)


_MOST_KEPT = 2**24  # values: 64 MB
_kept = _Kept()


def _with_rows(input: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Return the input with rows of zeros after its own, valid until this thread asks again."""
    n_values = n_rows * input.shape[1]
    values = _kept.values
    if n_values > len(values):
        with torch.inference_mode(False):  # or it could not be written to outside of this mode
            values = input.new_empty(n_values)
        if n_values <= _MOST_KEPT:
            _kept.values = values
    longer = values[:n_values].view(n_rows, -1)
    longer[: len(input)] = input
    longer[len(input) :] = 0
    return longer


# ---- The linear layer ----


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
        # The gradients may be watched though the values were not, or be many: `is_grads_batched` of
        # `torch.autograd.grad`, as for a whole Jacobian.
        are_many = torch._C._functorch.is_legacy_batchedtensor(gradient)
        multiply = F.linear if are_many or _are_operators_watched() else _OneDNNLinear.apply
        if needs_input:
            of_input = multiply(gradient, weight.t(), None)
        if needs_weight:
            of_weight = multiply(gradient.t(), input.t(), None)
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
        return _OneDNNLinear.apply(rows, weight, bias).view(*input.shape[:-1], len(weight))
    return F.linear(input, weight, bias)


def _are_operators_watched() -> bool:
    """Return whether something follows the operators that knows no more than PyTorch's own ones."""
    return (
        # A graph; its compiler chooses a library.
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        # `FlopCounterMode` and its like
        or is_in_torch_dispatch_mode()
        # `torch.func.vmap` and its like
        or torch._C._are_functorch_transforms_active()
        # Derivatives in forward mode
        or forward_ad._current_level >= 0
    )


def _is_for_onednn(input: torch.Tensor, weight: torch.Tensor) -> bool:
    if not IS_MKL_SLOW or torch.is_autocast_enabled("cpu") or _are_operators_watched():
        return False
    for tensor in (input, weight):
        # Quantized and sharded tensors are subclasses, which multiply in their own way.
        is_plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout == torch.strided
        if not is_plain or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            return False
    # Shapes that do not fit go to PyTorch, which says what is wrong with them.
    return input.numel() > 0 and input.shape[-1:] == weight.shape[1:]


def _forward(layer: nn.Linear, input: torch.Tensor) -> torch.Tensor:
    return linear(input, layer.weight, layer.bias)


def use_onednn(model: nn.Module) -> None:
    """Make all linear layers of a model multiply by oneDNN where that is faster, in place.

    Nothing changes on other machines, nor on one with a GPU: `torch.nn.DataParallel`, by which `Trainer` uses
    several, copies a layer without its method. The weights and their names stay as they are, and so does the
    layers' type: `torch.ao.quantization` passes over any other.
    """
    if not IS_MKL_SLOW or torch.accelerator.is_available():
        return
    for module in model.modules():
        # Not a subclass: it computes something else.
        if type(module) is nn.Linear:
            module.forward = partial(_forward, module)  # can be pickled


__all__ = ["IS_MKL_SLOW", "linear", "use_onednn"]
