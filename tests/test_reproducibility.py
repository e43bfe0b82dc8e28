"""What makes results repeatable stands before torch is loaded, in every script and in the library."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from common.processes import warn_if_launched_alone
from modeling_altclip.linear_altclip import linear

from .conftest import ROOT
from .processes import TIMEOUT

# Those that measure speed run one thread beside another library's, and promise no bits.
SPEED = [
    "run_parallel_cost.py",
    "run_projection_cost.py",
]
FOUND = [*sorted((ROOT / "training").glob("run_*.py")), *sorted((ROOT / "benchmarks").glob("run_*.py"))]
SCRIPTS = [path for path in FOUND if path.name not in SPEED]
# Tells what is set when torch begins to load.
WATCH = """
import importlib.metadata, os, runpy, sys
from importlib.abc import MetaPathFinder

# Under another version of transformers scripts are not told of wrong flags before torch is loaded.
importlib.metadata.version = lambda name: "0"

class Watch(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            print("torch finds", os.environ.get("MKL_CBWR"), os.environ.get("GOMP_SPINCOUNT"))
            raise SystemExit

sys.meta_path.insert(0, Watch())
sys.argv = sys.argv[1:]
if sys.argv[0].endswith(".py"):
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def environment_without(*names):
    """Return this process's environment variables without some, and with the path of our packages."""
    environment = {name: value for name, value in os.environ.items() if name not in names}
    return environment | {"PYTHONPATH": str(ROOT)}


def found_by_torch(*words, **given):
    """Return what is set when torch begins to load."""
    # This process has set them itself, and what is set is left as it is.
    environment = environment_without("MKL_CBWR", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY") | given
    process = subprocess.run(
        [sys.executable, "-c", WATCH, *words], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def launched(launcher, *script):
    """Run a script by a launcher to its end, whatever that is."""
    words = [Path(sys.executable).parent / launcher[0], *launcher[1:], *script]
    # As in a terminal, where nothing says that there are several processes.
    environment = environment_without("MASTER_ADDR", "WORLD_SIZE", "RANK")
    return subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(
    torch.accelerator.is_available(), reason="accelerate starts several processes where it finds several GPUs"
)
@pytest.mark.slow
def test_a_launcher_that_starts_fewer_processes_than_asked_is_warned_of():
    launcher = ["accelerate", "launch", "--quiet", "--num_processes", "2"]
    process = launched(launcher, ROOT / "training/run_stage1.py", "none.yaml")
    assert "recipe 'none.yaml' does not exist" in process.stderr
    assert "accelerate was asked for several processes and started one" in process.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_repeatable_before_it_loads_torch(script):
    # AUTO: MKL chooses kernels by shapes alone. 2000: waiting threads spin shortly, and sleep then.
    assert found_by_torch(str(script)) == "torch finds AUTO 2000"


@pytest.mark.parametrize(
    "launcher",
    [["accelerate", "launch", "--quiet", "--num_processes", "1"], ["torchrun", "--nproc_per_node", "2"]],
    ids=" ".join,
)
def test_a_launcher_that_starts_as_many_is_not_warned_of(launcher, tmp_path, monkeypatch):
    """Look at nothing but what it tells each of its processes."""
    process = launched(launcher, ROOT / "tests/tell_environment.py", tmp_path / "told.json")
    assert process.returncode == 0, process.stderr
    monkeypatch.setattr(os, "environ", json.loads((tmp_path / "told.json").read_text("utf-8")))
    with warnings.catch_warnings(action="error"):
        warn_if_launched_alone()


PACKAGES = ["modeling_altclip", "common.models", "benchmarks", "training.public", "training.miniature"]
PACKAGES += ["model_cards", "deploy.embed", "deploy.pushing", "deploy.search", "deploy.trimming"]


@pytest.mark.parametrize("module", PACKAGES)
def test_every_package_is_repeatable_before_it_loads_torch(module):
    assert found_by_torch(module) == "torch finds AUTO 2000"


def test_what_the_user_sets_is_left():
    both = found_by_torch("modeling_altclip", MKL_CBWR="COMPATIBLE", GOMP_SPINCOUNT="7")
    assert both == "torch finds COMPATIBLE 7"
    # Who says how threads wait also says how long they spin.
    assert found_by_torch("modeling_altclip", OMP_WAIT_POLICY="PASSIVE") == "torch finds AUTO None"


def placed(values, offset):
    """Copy the values to a buffer that begins `offset` floats behind a cache line."""
    buffer = torch.empty(values.numel() + 64)
    # A cache line has 64 bytes, a float 4.
    first = (64 - buffer.data_ptr() % 64) % 64 // 4 + offset
    return buffer[first : first + values.numel()].view(values.shape).copy_(values)


def products(rows, weight):
    """Yield the products of a linear layer, of a vector and of a batch."""
    yield torch.nn.functional.linear(rows, weight, weight[:, 0])
    yield linear(rows, weight, weight[:, 0])
    yield rows @ weight[0]
    yield torch.bmm(rows[None], weight.t()[None])


@pytest.mark.parametrize("n_rows", [1, 3, 16, 33])
# Of these only 128 is a multiple of a vector register's 16 floats.
@pytest.mark.parametrize("width", [20, 128, 513])
def test_products_do_not_depend_on_where_a_buffer_lies(n_rows, width):
    """Compare the bits, which depend on it on some AMD processors without MKL_CBWR.

    The tests' own process has set it before it loads torch.
    """
    torch.manual_seed(0)
    rows = torch.randn(n_rows, width)
    weight = torch.randn(96, width)
    expected = list(products(placed(rows, 0), placed(weight, 0)))
    # Offsets of 4, 12, 16 and 32 bytes: none is aligned as the buffers above are.
    for offset in (1, 3, 4, 8):
        found = products(placed(rows, offset), placed(weight, 5))
        for one, right in zip(found, expected, strict=True):
            assert torch.equal(one, right), offset


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stage", ["stage0", "stage1", "stage2"])
def test_equal_seeds_give_equal_bytes_on_a_gpu(miniature, start_flags, tmp_path, stage):
    """Train in large batches, so that texts are there more than twice: sums of two do not depend on their
    order.
    """
    command = [sys.executable, ROOT / f"training/run_{stage}.py"]
    command += [ROOT / f"training/recipes/miniature/{stage}.yaml", *start_flags[stage]]
    command += ["--dataset", miniature / "dataset", "--split", "train", "--max_steps", "10"]
    command += ["--use_cpu", "false", "--per_device_train_batch_size", "512"]
    weights = []
    for name in ("first", "second"):
        words = [*command, "--output_dir", tmp_path / name]
        process = subprocess.run([*map(str, words)], cwd=ROOT, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr[-3000:]
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


# Prints which of how many processes a stage takes itself for.
TELL_PLACE = """
import sys
from pathlib import Path
from training.arguments import TeacherLearningArguments

given = TeacherLearningArguments(
    teacher_name_or_path="", text_encoder_name_or_path="", dataset="", output_dir=sys.argv[1]
)
Path(given.output_dir, f"process-{given.process_index}").write_text(f"of {given.world_size}")
"""


@pytest.mark.skipif(torch.accelerator.is_available(), reason="without a GPU alone")
@pytest.mark.slow
def test_processes_on_a_cpu_find_one_another_without_a_flag(tmp_path):
    """Start them as the documented `torchrun --nproc_per_node 2` does.

    Each took itself for the only one, and both wrote the model.
    """
    script = tmp_path / "tell.py"
    script.write_text(TELL_PLACE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.run(
        [*command, script, tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    # Files, since two processes may write into one line of standard output.
    told = {path.name: path.read_text() for path in tmp_path.glob("process-*")}
    assert told == {"process-0": "of 2", "process-1": "of 2"}
