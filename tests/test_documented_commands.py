"""Every command and snippet of the README and the docs, as printed, beside small things of the names in it.

What a command names on the Hub, such as BAAI/AltCLIP-m9, is a folder of that name here. What cannot be had
without a network must be refused in one clear line.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from PIL import Image

from .conftest import ROOT
from .mixed_pictures import write_pictures
from .processes import TIMEOUT

pytestmark = pytest.mark.slow
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Other tests run these; or they take an hour, or need an index of packages, the Hub, a cluster or eight GPUs.
ELSEWHERE = re.compile(
    r"altclip train training/recipes/miniature$|"
    r"make (demo|ablation|families|add-languages|parallel|download-env|gpu-check|install|test|style|docs)|"
    r"make (photographs|space|bench-peers|bench-growth)|python outputs/space|"
    r"altclip page (?!.*--space_dir)|"  # serves until it is ended: tests/test_page_in_browser.py
    r"python -m venv|small/bin|du |"
    r"python examples/|pip|"
    r"hf |git |srun|export|cd |#SBATCH|source |.*(_node 8|--config_file)"
)
# Trainings are as printed but for their length, and do not wait for GPUs that are not here.
SHORT = "--max_steps 2 --save_strategy no --per_device_train_batch_size 4"
# What a command may say where it ends: one line of ours.
REFUSAL = re.compile(r"^[\w.]+( [\w-]+)*: error: \S.{20,}$")


def commands():
    """Return the lines of all blocks of shell, continued lines joined, and the cells of the table of launch
    lines.
    """
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"`((?:accelerate launch|torchrun) [^`]*)`", text)
        for line in lines:
            # "make test   # must pass" -> "make test"
            line = line.partition("   #")[0].strip()
            if line and not line.startswith("#") and not ELSEWHERE.match(line):
                found.append(pytest.param(line, id=f"{page.name}: {line[:90]}"))
    return found


@pytest.fixture(scope="module")
def clone(tmp_path_factory, miniature, run_python):
    """The sources, with what the commands name beside them."""
    clone = tmp_path_factory.mktemp("documented") / "clone"
    shutil.copytree(
        ROOT, clone, ignore=shutil.ignore_patterns(".venv*", ".git", "outputs", "*.egg-info", "__pycache__")
    )
    # The tests that recipes exclude are on the Hub.
    for recipe in (clone / "training/recipes").glob("*/*.yaml"):
        lines = recipe.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith("exclude_tasks:")]
        recipe.write_text("".join(kept), "utf-8")
    (clone / ".venv").mkdir()
    # `make` then installs nothing.
    (clone / ".venv/installed").touch()
    write_pictures(clone / "pictures")
    write_pictures(clone / "YOUR/IMAGES")
    parallel = clone / "YOUR/PARALLEL"
    rows = load_dataset(str(miniature / "dataset"), split="validation").select_columns(["captions"])
    # The docs add Swahili to a model, which the miniature does not have.
    rows = rows.map(lambda row: {"captions": row["captions"] | {"sw": row["captions"]["en"] + " sw"}})
    rows.to_parquet(parallel / "train.parquet")
    return clone


@pytest.fixture(scope="module")
def model(clone, miniature):
    """A small AltCLIP where the one of the Hub would be."""
    import torch
    from transformers import AutoTokenizer, CLIPImageProcessor

    from modeling_altclip import AltCLIPModel, AltCLIPProcessor

    torch.manual_seed(0)
    size = {"height": 32, "width": 32}
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    processor = AltCLIPProcessor(image_processor, AutoTokenizer.from_pretrained(miniature / "text_encoder"))
    small = AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"))
    for name in ("BAAI/AltCLIP-m9", "BAAI/AltCLIP", "outputs/altclip/stage1", "outputs/altclip/stage2"):
        small.save_pretrained(clone / name)
        processor.save_pretrained(clone / name)
    for name, source in (
        ("openai/clip-vit-large-patch14", "clip"),
        ("FacebookAI/xlm-roberta-large", "text_encoder"),
    ):
        shutil.copytree(miniature / source, clone / name)
    return clone / "BAAI/AltCLIP-m9"


@pytest.mark.parametrize("command", commands())
def test_a_command_as_printed(clone, model, command):
    command = command.replace("SCRIPT", "training/run_stage1.py RECIPE.yaml")
    training = re.search(r"training/run_(stage\d|parallel|diffusion)\.py", command)
    if training and "--dry_run" not in command:
        command += f" {SHORT}"
    command = command.replace("--rows 10000000", "--rows 2000")  # it takes an hour
    if command.startswith("make "):
        command += f" BIN={Path(sys.executable).parent}"
    # A page names recipe and data as RECIPE.yaml and YOUR/PARALLEL, for the reader to replace.
    command = command.replace("RECIPE.yaml", "training/recipes/altclip/stage1.yaml --dataset YOUR/PARALLEL")
    environment = os.environ | {"PYTHONPATH": str(clone), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    # Not by a shell, which would be killed at the timeout without what it has started.
    process = subprocess.run(
        shlex.split(command), cwd=clone, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )
    said = process.stderr.strip().splitlines()
    assert "Traceback" not in process.stderr, process.stderr[-3000:]
    if process.returncode:
        assert [line for line in said if REFUSAL.match(line)], (command, said[-5:])


def export_model(folder, miniature):
    """Export the small model that a folder holds, in int8, whatever that costs a model of random weights."""
    pytest.importorskip("onnx")
    words = ["export", "BAAI/AltCLIP-m9", "--output_dir", "outputs/exported", "--dtypes", "int8"]
    words += ["--validation_dataset", str(miniature / "dataset"), "--languages", "en", "--max_drop", "100"]
    command = [sys.executable, "-m", "altclip", *words]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)
    assert process.returncode == 0, process.stderr[-3000:]


LOADED = """
import modeling_altclip
from transformers import AutoModel, AutoProcessor
from modeling_altclip import *
from modeling_altclip.embedding import SkippedImage
model = AutoModel.from_pretrained("BAAI/AltCLIP-m9")
processor = AutoProcessor.from_pretrained("BAAI/AltCLIP-m9")
"""


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text("utf-8")], ids=lambda page: page.name
)
def test_python_as_printed(model, page, tmp_path, miniature):
    """Run all snippets of a page, one after another;

    Where a comment gives a list, compare it with the value.
    """
    (tmp_path / "BAAI").symlink_to(model.parent)
    if page.name == "README.md":
        demo = tmp_path / "outputs/miniature/altclip"
        shutil.copytree(model, demo)
        Image.new("RGB", (60, 40)).save(demo / "example.png")
    if page.name == "export.md":
        Image.new("RGB", (60, 40)).save(tmp_path / "dog.jpg")
        export_model(tmp_path, miniature)
    if page.name == "cleaning.md":
        row = {"captions": {"en": ["a dog"], "fr": ["un chien"]}, "similarity": {"fr": 0.8}}
        Dataset.from_list([row]).to_parquet(tmp_path / "outputs/cleaned/train.parquet")
    snippets = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    # "embeds.shape  # [2, 128]" -> "assert embeds.shape == [2, 128], embeds.shape"
    checked = re.sub(
        r"^(\S.*?)  # (\[.*\])(, .*)?$", r"assert \1 == \2, \1", "\n".join(snippets), flags=re.MULTILINE
    )
    code = ("" if page.name == "README.md" else LOADED) + checked
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert process.returncode == 0, process.stderr[-3000:]
