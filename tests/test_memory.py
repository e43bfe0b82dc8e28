"""Claims about memory: the largest resident size of a process of its own, above what it held before."""

import functools

import pytest

# The peak of open_clip's ClipLoss (3.3.0) for this batch, above its inputs, forward and backward, on a CPU in
# float32.
OPEN_CLIP_MB = 4143
# A process inherits how glibc serves large blocks: from its heap, which stays in pieces, once one of such a
# size was freed. With a threshold of its own each tensor is mapped and given back, whatever came before.
MEASURE = """
import ctypes
import sys

import torch
from torch.nn.functional import normalize

from training.losses import contrastive_loss, sigmoid_loss

M_MMAP_THRESHOLD = -3
ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**17)
loss_name = sys.argv[1]
batch_size = int(sys.argv[2])
tile_size = int(sys.argv[3]) or None

def resident(name):
    with open("/proc/self/status") as status:
        for line in status:  # "VmRSS:     123456 kB"
            if line.startswith(name):
                return int(line.split()[1]) / 1024

def step(batch_size, tile_size):
    images = inputs[0][:batch_size].detach().requires_grad_()
    texts = inputs[1][:batch_size].detach().requires_grad_()
    scale = torch.tensor(20.0, requires_grad=True)
    if loss_name == "contrastive":
        loss = contrastive_loss(images, texts, scale, tile_size=tile_size)
    else:
        bias = torch.tensor(-10.0, requires_grad=True)
        loss = sigmoid_loss(images, texts, scale, bias, tile_size=tile_size)
    loss.backward()

torch.manual_seed(0)
inputs = [normalize(torch.randn(batch_size, 512), dim=-1) for _ in range(2)]
step(64, 32)  # what is set up once is no part of the claim
with open("/proc/self/clear_refs", "w") as control:
    control.write("5")  # forget the peak so far
before = resident("VmRSS")
step(batch_size, tile_size)
print(resident("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def peak_mb(run_python, tmp_path_factory):
    """Return a function that measures a loss in a process of its own, once for all tests that ask for it."""
    script = tmp_path_factory.mktemp("memory") / "measure.py"
    script.write_text(MEASURE)

    @functools.cache
    def peak_mb(loss_name, batch_size, tile_size):
        process = run_python("python", script, loss_name, batch_size, tile_size)
        assert process.returncode == 0, process.stderr
        return float(process.stdout)

    return peak_mb


@pytest.mark.slow
@pytest.mark.parametrize("loss_name", ["contrastive", "sigmoid"])
def test_tiles_need_a_40th_of_open_clips_memory(peak_mb, loss_name):
    """Allow less than open_clip, and ask for more than the 67 MB of the gradients themselves, or nearly."""
    measured = peak_mb(loss_name, 16384, 1024)
    assert measured > 67 * 0.9
    assert measured <= OPEN_CLIP_MB / 40


@pytest.mark.slow
def test_memory_grows_with_the_batch_and_without_tiles_with_its_square(peak_mb):
    assert peak_mb("contrastive", 8192, 1024) < 0.75 * peak_mb("contrastive", 16384, 1024)
    mb_of_one_matrix = 4096**2 * 4 / 2**20  # of logits in float32
    assert peak_mb("contrastive", 4096, 0) > 3 * mb_of_one_matrix
