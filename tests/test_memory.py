"""Claims about memory, measured as memory: the largest resident size of a process of its own, above what it held before."""

import functools

import pytest

# The peak of open_clip's ClipLoss (3.3.0) for this batch, above its inputs, forward and backward, on a CPU in float32.
OPEN_CLIP_MB = 4143
# A process inherits how glibc serves large blocks: from its heap, which stays in pieces, once one of such a size was freed. With a
# threshold of its own each tensor is mapped and given back, whatever came before.
MEASURE = """
import ctypes, sys, torch
M_MMAP_THRESHOLD = -3
ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**17)
from torch.nn.functional import normalize
from training.losses import contrastive_loss, sigmoid_loss
loss_name, batch, tile_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) or None

def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(name))

def step(batch, tile_size):
    images, texts = inputs[0][:batch].detach().requires_grad_(), inputs[1][:batch].detach().requires_grad_()
    scale, bias = torch.tensor(20.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    loss = contrastive_loss(images, texts, scale, tile_size=tile_size) if loss_name == "contrastive" else sigmoid_loss(
        images, texts, scale, bias, tile_size=tile_size)
    loss.backward()

torch.manual_seed(0)
inputs = [normalize(torch.randn(batch, 512), dim=-1) for _ in range(2)]
step(64, 32)
with open("/proc/self/clear_refs", "w") as control:
    control.write("5")  # forget the peak so far
before = resident("VmRSS")
step(batch, tile_size)
print(resident("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def peak(run_python, tmp_path_factory):
    """Measure a loss in a process of its own, once for all tests that ask for the same."""
    script = tmp_path_factory.mktemp("memory") / "measure.py"
    script.write_text(MEASURE)

    @functools.cache
    def peak(loss_name, batch, tile_size):
        process = run_python("python", script, loss_name, batch, tile_size)
        assert process.returncode == 0, process.stderr
        return float(process.stdout)

    return peak


@pytest.mark.parametrize("loss_name", ["contrastive", "sigmoid"])
def test_tiles_need_a_25th_of_open_clips_memory(peak, loss_name):
    """67 MB of it are the gradients that are asked for."""
    assert 67 * 0.9 < peak(loss_name, 16384, 1024) <= OPEN_CLIP_MB / 25


def test_memory_grows_with_the_batch_and_without_tiles_with_its_square(peak):
    assert peak("contrastive", 8192, 1024) < 0.75 * peak("contrastive", 16384, 1024)
    assert peak("contrastive", 4096, 0) > 3 * 4096**2 * 4 / 2**20
