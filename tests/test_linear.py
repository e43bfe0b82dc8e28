"""Linear layers by oneDNN against PyTorch's own: values, gradients, and where PyTorch's own stay."""

import copy
import pickle
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode
from transformers import XLMRobertaConfig, XLMRobertaModel

from modeling_altclip import linear_altclip
from modeling_altclip.linear_altclip import linear, use_onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch was built without oneDNN"
)


@pytest.fixture(autouse=True)
def _onednn_everywhere(monkeypatch):
    """Multiply by oneDNN whatever machine the tests run on."""
    monkeypatch.setattr(linear_altclip, "IS_MKL_SLOW", True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


@pytest.fixture
def calls(monkeypatch):
    """Count the products by oneDNN."""
    made = []
    apply = linear_altclip._OneDNNLinear.apply

    def counting(*tensors):
        made.append(tensors)
        return apply(*tensors)

    monkeypatch.setattr(linear_altclip._OneDNNLinear, "apply", counting)
    return made


def inputs_of(*shape, out=7, bias=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(len(shape))
    input = torch.randn(*shape, generator=generator, dtype=dtype)
    weight = torch.randn(out, shape[-1], generator=generator, dtype=dtype)
    offset = torch.randn(out, generator=generator, dtype=dtype) if bias else None
    return input, weight, offset


def encoder():
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3
    )
    return XLMRobertaModel(config)


# One row, an odd number of them, a batch of sequences, a transposed batch, and one feature.
@pytest.mark.parametrize("shape", [(1, 16), (13, 5), (3, 4, 16), (2, 3, 4, 8), (6, 1)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_values_and_gradients_of_two_orders(shape, bias, transposed, calls):
    input, weight, offset = inputs_of(*shape, bias=bias)
    if transposed and len(shape) > 2:
        input = input.transpose(0, 1)
    parameters = [
        tensor.requires_grad_() for tensor in (input.detach(), weight, offset) if tensor is not None
    ]

    def values(function):
        output = function(*parameters)
        first = torch.autograd.grad(output.pow(3).sum(), parameters, create_graph=True)
        second = torch.autograd.grad(sum(gradient.pow(2).sum() for gradient in first), parameters)
        return [output, *first, *second]

    for ours, theirs in zip(values(linear), values(F.linear), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
    assert calls


@pytest.mark.parametrize("trained", ["input", "weight", "bias"])
def test_only_the_gradients_that_are_needed(trained, calls):
    names = ("input", "weight", "bias")
    tensors = dict(zip(names, inputs_of(3, 4, 16), strict=True))
    tensors[trained].requires_grad_()
    linear(**tensors).sum().backward()
    expected = dict(zip(names, inputs_of(3, 4, 16), strict=True))
    expected[trained].requires_grad_()
    F.linear(**expected).sum().backward()
    for name in names:
        if name == trained:
            torch.testing.assert_close(tensors[name].grad, expected[name].grad)
        else:
            assert tensors[name].grad is None
    # The bias' gradient is a sum.
    assert len(calls) == (1 if trained == "bias" else 2)


def test_few_shapes_reach_onednn(monkeypatch):
    """oneDNN keeps kernels for each shape that it has seen."""
    shapes = set()
    product = torch.ops.mkldnn._linear_pointwise

    class Watched:
        @staticmethod
        def _linear_pointwise(input, weight, *rest):
            shapes.add((input.shape, weight.shape))
            return product(input, weight, *rest)

    monkeypatch.setattr(torch.ops, "mkldnn", Watched)
    layer = nn.Linear(8, 8)
    use_onednn(layer)
    for n_rows in range(1, 1025):
        layer(torch.ones(n_rows, 8, requires_grad=True)).sum().backward()
    # 16 of each length up to 1,024, for the product and two gradients.
    assert len(shapes) <= 3 * 16 * 7


def test_a_step_is_a_sixteenth_of_a_length_at_most():
    for length in range(1, 5000):
        assert linear_altclip._step(length) <= max(1, length / 16)
    # The usual widths of models are multiples of their steps.
    for width in (64, 80, 384, 512, 640, 768, 896, 1024, 1152, 1280, 3072, 4096):
        assert width % linear_altclip._step(width) == 0


# Rows and features that are no multiples of their steps, and few rows after many.
@pytest.mark.parametrize("n_rows", [33, 1089, 67, 2])
@pytest.mark.parametrize("n_features", [33, 130, 48])
def test_lengths_that_are_rounded(n_rows, n_features, calls):
    tensors, expected = inputs_of(n_rows, n_features), inputs_of(n_rows, n_features)
    for tensor in (*tensors, *expected):
        tensor.requires_grad_()
    ours, theirs = linear(*tensors), F.linear(*expected)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ours.pow(2).sum().backward()
    theirs.pow(2).sum().backward()
    for one, other in zip(tensors, expected, strict=True):
        largest = other.grad.abs().max().item()
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5 * largest)


def test_memory_for_rows_is_kept_up_to_a_size(monkeypatch):
    monkeypatch.setattr(linear_altclip, "_kept", linear_altclip._Kept())
    monkeypatch.setattr(linear_altclip, "_MOST_KEPT", 40 * 8)
    sizes = []
    for n_rows in (33, 39, 35, 1000, 33):
        input, weight, bias = inputs_of(n_rows, 8)
        with torch.inference_mode():
            found = linear(input, weight, bias)
        torch.testing.assert_close(found, F.linear(input, weight, bias))
        sizes.append(len(linear_altclip._kept.values))
    assert sizes == [34 * 8, 40 * 8, 40 * 8, 40 * 8, 40 * 8]
    # What was kept in inference mode serves training too.
    linear(*(tensor.requires_grad_() for tensor in inputs_of(35, 8))).sum().backward()


def test_defaults_of_the_caller_do_not_matter(monkeypatch):
    """A model may be built under other defaults, by which new tensors would be of another kind."""
    monkeypatch.setattr(linear_altclip, "_kept", linear_altclip._Kept())
    tensors = inputs_of(35, 8)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            found = linear(*tensors)
    finally:
        torch.set_default_dtype(dtype)
    torch.testing.assert_close(found, F.linear(*tensors))


def test_threads_keep_memory_of_their_own():
    tensors = {n_rows: inputs_of(n_rows, 64) for n_rows in (33, 35, 67, 133)}
    expected = {n_rows: F.linear(*given) for n_rows, given in tensors.items()}

    def repeat(n_rows):
        for _ in range(200):
            torch.testing.assert_close(linear(*tensors[n_rows]), expected[n_rows])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(repeat, tensors))


# Prints by how many MB a process has grown after batches of 300 lengths in random order.
GROWTH = """
import random
import torch
from modeling_altclip import linear_altclip

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

linear_altclip.IS_MKL_SLOW = True
torch.set_num_threads(1)
layers = [(torch.randn(width, 768), torch.randn(width)) for width in (768, 3072)]
before = resident()
random.seed(0)
for n_rows in random.sample(range(1, 1025), 300):
    for weight, bias in layers:
        linear_altclip.linear(torch.randn(n_rows, 768), weight, bias)
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells how much a process holds")
def test_a_process_that_sees_many_shapes_stays_small(run_python, tmp_path):
    script = tmp_path / "growth.py"
    script.write_text(GROWTH)
    process = run_python("python", script)
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) < 250


def test_a_model_keeps_its_weights_and_computes_the_same(calls):
    model, ours = encoder(), encoder()
    use_onednn(ours)
    assert list(ours.state_dict()) == list(model.state_dict())
    ids = torch.randint(2, 50, (3, 9))
    for each in (model, ours):
        each.train()
        torch.manual_seed(1)  # the same dropout
        each(input_ids=ids).last_hidden_state.pow(2).sum().backward()
    assert calls
    for (name, parameter), other in zip(model.named_parameters(), ours.parameters(), strict=True):
        if parameter.grad is not None:
            torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_gradient_checkpointing_recomputes_by_the_same_library(calls):
    plain, checkpointed = encoder().train(), encoder().train()
    use_onednn(plain)
    use_onednn(checkpointed)
    checkpointed.gradient_checkpointing_enable()
    ids = torch.randint(2, 50, (3, 9))
    for each in (plain, checkpointed):
        calls.clear()
        torch.manual_seed(1)
        each(input_ids=ids).last_hidden_state.pow(2).sum().backward()
    products = sum(isinstance(part, nn.Linear) for part in plain.encoder.modules())
    assert len(calls) >= 4 * products  # forward, again, and two gradients
    for (name, parameter), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        if parameter.grad is not None:
            torch.testing.assert_close(other.grad, parameter.grad, msg=name)


def test_nothing_changes_on_other_machines(monkeypatch, calls):
    monkeypatch.setattr(linear_altclip, "IS_MKL_SLOW", False)
    model = encoder()
    use_onednn(model)
    model(input_ids=torch.tensor([[2, 3]]))
    tensors = inputs_of(3, 16)
    assert torch.equal(linear(*tensors), F.linear(*tensors))
    assert not calls


def test_layers_of_a_machine_with_a_gpu_are_left_alone(monkeypatch):
    """`torch.nn.DataParallel` gives each GPU a copy of a layer's attributes, the first one's method too."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    layer = nn.Linear(16, 7)
    use_onednn(layer)
    assert "forward" not in vars(layer._replicate_for_data_parallel())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_stay_with_pytorch(dtype, calls):
    tensors = inputs_of(3, 16, dtype=dtype)
    assert torch.equal(linear(*tensors), F.linear(*tensors))
    assert not calls


def test_autocast_computes_in_its_type(calls):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(*inputs_of(3, 16)).dtype == torch.bfloat16
    assert not calls


def test_no_rows(calls):
    assert linear(*inputs_of(0, 16)).shape == (0, 7)
    assert linear(torch.zeros(2, 0), torch.zeros(7, 0)).shape == (2, 7)
    assert not calls


# Features that are fewer by a multiple of a step would fit after they are rounded.
@pytest.mark.parametrize("n_features", [1, 60, 63, 68])
def test_shapes_that_do_not_fit_are_refused_as_pytorch_does(n_features, calls):
    _, weight, bias = inputs_of(3, 64)
    with pytest.raises(RuntimeError, match=f"cannot be multiplied .3x{n_features} and 64x7"):
        linear(torch.ones(3, n_features), weight, bias)
    assert not calls


def test_a_sparse_input_stays_with_pytorch(calls):
    input, weight, bias = inputs_of(3, 16)
    torch.testing.assert_close(linear(input.to_sparse(), weight, bias), F.linear(input, weight, bias))
    assert not calls


def test_a_quantized_weight_multiplies_in_its_own_way(calls):
    class Quantized(torch.Tensor):
        """A weight of another library, which overrides the product."""

        @classmethod
        def __torch_function__(cls, function, types, arguments=(), options=None):
            return "its own product"

    _, weight, _ = inputs_of(3, 16)
    assert linear(torch.ones(3, 16), weight.as_subclass(Quantized)) == "its own product"
    assert not calls


def test_operations_are_counted_as_pytorchs_own():
    counts = []
    for function in (linear, F.linear):
        # oneDNN would multiply 36 rows in place of 35.
        input, weight, bias = (tensor.requires_grad_() for tensor in inputs_of(5, 7, 16))
        with FlopCounterMode(display=False) as counter:
            function(input, weight, bias).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 3 * 2 * 35 * 16 * 7


# With rows of zeros and without.
@pytest.mark.parametrize("shape", [(35, 16), (32, 16), (5, 7, 16)])
def test_outputs_can_be_changed_in_place(shape, calls):
    gradients = []
    for function in (linear, F.linear):
        input, weight, bias = (tensor.requires_grad_() for tensor in inputs_of(*shape))
        output = function(input, weight, bias)
        output *= 3
        gradients.append(torch.autograd.grad(output.pow(2).sum(), (input, weight, bias)))
    assert calls
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)


def jacobian_by_vmap(function, input):
    return torch.autograd.functional.jacobian(function, input, vectorize=True)


def by_dual_numbers(function, input):
    with forward_ad.dual_level():
        output = function(forward_ad.make_dual(input, torch.ones_like(input)))
        return forward_ad.unpack_dual(output).tangent


@pytest.mark.parametrize(
    "transform",
    [
        lambda function, input: torch.func.vmap(function)(input),
        lambda function, input: torch.func.grad(lambda input: function(input).sum())(input),
        lambda function, input: torch.func.jacfwd(function)(input),
        jacobian_by_vmap,
        by_dual_numbers,
    ],
    ids=["vmap", "grad", "jacfwd", "jacobian by vmap", "dual numbers"],
)
def test_transforms_see_pytorchs_own_operators(transform):
    input, weight, bias = inputs_of(35, 16)
    ours = transform(lambda input: linear(input, weight, bias), input)
    theirs = transform(lambda input: F.linear(input, weight, bias), input)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_layers_of_subclasses_are_left_alone(calls):
    class Scaled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    layer = Scaled(16, 7)
    use_onednn(layer)
    input, _, _ = inputs_of(3, 16)
    assert torch.equal(layer(input), 2 * F.linear(input, layer.weight, layer.bias))
    assert not calls


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_multiplies_by_its_own_weights(copied, calls):
    layer = nn.Linear(16, 7)
    use_onednn(layer)
    other = copied(layer)
    with torch.no_grad():
        layer.weight.zero_()
    input, _, _ = inputs_of(3, 16)
    torch.testing.assert_close(other(input), F.linear(input, other.weight, other.bias))
    assert not torch.equal(other(input), layer(input))
    assert calls


@pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated, and still used
def test_a_model_is_quantized_as_with_pytorchs_own():
    ours, plain = encoder().eval(), encoder().eval()
    use_onednn(ours)
    quantized = [torch.ao.quantization.quantize_dynamic(model, {nn.Linear}) for model in (ours, plain)]
    ids = torch.randint(2, 50, (3, 9))
    ours, plain = (model(input_ids=ids).last_hidden_state for model in quantized)
    assert torch.equal(ours, plain)
    assert str(quantized[0]) == str(quantized[1])
    assert "DynamicQuantizedLinear" in str(quantized[0])


def test_adapters_learn_beside_it(calls):
    peft = pytest.importorskip("peft")
    ours, plain = encoder(), encoder()
    use_onednn(ours)
    ids = torch.randint(2, 50, (3, 9))
    outputs = []
    for model in (ours, plain):
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", lora_dropout=0.0))
        outputs.append(adapted.eval()(input_ids=ids).last_hidden_state)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    assert calls


def test_graphs_name_pytorchs_own_operators(calls):
    layer = nn.Sequential(nn.Linear(16, 7))
    use_onednn(layer)
    input, _, _ = inputs_of(3, 16)
    traced = torch.jit.trace(layer, input, check_trace=False)
    exported = torch.export.export(layer, (input,))
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for graph in (traced, exported.module(), compiled):
        torch.testing.assert_close(graph(input), F.linear(input, layer[0].weight, layer[0].bias))
    assert "mkldnn" not in str(traced.inlined_graph)
    assert "mkldnn" not in str(exported.graph)
    assert not calls


AMD = "vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n"
INTEL = "vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R)\n"


@pytest.mark.parametrize(
    ("information", "capability", "expected"),
    [(AMD, "AVX512", True), (AMD, "AVX2", False), (INTEL, "AVX512", False), ("", "DEFAULT", False)],
)
@pytest.mark.parametrize("system", ["linux", "windows"])
def test_the_processor_decides(information, capability, expected, system, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    if system == "linux":
        file.write_text(information)
    monkeypatch.setattr(linear_altclip, "_CPU_INFO", file)
    monkeypatch.setattr(platform, "processor", lambda: information)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert linear_altclip._is_mkl_slow() is expected


def test_a_pytorch_without_mkl_is_left_alone(tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    file.write_text(AMD)
    monkeypatch.setattr(linear_altclip, "_CPU_INFO", file)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not linear_altclip._is_mkl_slow()
