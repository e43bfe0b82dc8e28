"""The examples, run on small untrained models: what they print, what they save, and that they stay short."""

import re

import pytest
import torch
from datasets import load_dataset
from PIL import Image
from safetensors.torch import load_file

from modeling_altclip import AltCLIPModel

from .conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def lines_of(process):
    assert process.returncode == 0, process.stderr
    return process.stdout.strip().splitlines()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_fits_a_screen(path):
    assert len(path.read_text("utf-8").splitlines()) < 60


def test_there_are_examples():
    assert [path.name for path in EXAMPLES] == [
        "classify.py",
        "evaluate_any_model.py",
        "search.py",
        "train_in_python.py",
    ]


def test_search(run_python, altclip_folder, miniature, tmp_path):
    dataset = miniature / "dataset"
    flags = ["--model", altclip_folder, "--images", dataset, "--top", "3", "--output", tmp_path / "found.png"]
    *found, last = lines_of(run_python("python", "examples/search.py", "개와 사과", *flags))
    assert last == f"Saved the 3 best of 1000 images, best first, to {tmp_path / 'found.png'}."

    captions = load_dataset(str(dataset), split="test_pairs")["captions"]
    scores = []
    for line in found:
        score, row, caption = re.fullmatch(r"(-?[\d.]+)  image (\d+)  (.+)", line).groups()
        assert caption == captions[int(row)]["en"]
        scores.append(float(score))
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    # Three images of 192 pixels, side by side.
    assert Image.open(tmp_path / "found.png").size == (3 * 192, 192)


def test_classify(run_python, altclip_folder, tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.png")
    labels = ["红苹果", "钥匙", "狗脸"]
    command = [
        "python",
        "examples/classify.py",
        tmp_path / "red.png",
        "--labels",
        *labels,
        "--model",
        altclip_folder,
    ]
    as_they_are = lines_of(run_python(*command))
    in_templates = lines_of(run_python(*command, "--language", "zh"))
    # The same names have other scores in the prompt templates of Chinese.
    assert as_they_are != in_templates
    for lines in (as_they_are, in_templates):
        assert sorted(line.split("  ")[1] for line in lines) == sorted(labels)


def test_train_in_python(run_python, altclip_folder, miniature, tmp_path):
    flags = ["--model", altclip_folder, "--dataset", miniature / "dataset", "--max_steps", "2"]
    process = run_python(
        "python", "examples/train_in_python.py", *flags, "--output_dir", tmp_path / "trained"
    )
    assert lines_of(process)[-1].endswith(f"Saved the model to {tmp_path / 'trained'}.")
    before = AltCLIPModel.from_pretrained(altclip_folder).state_dict()
    after = load_file(tmp_path / "trained/model.safetensors")
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    # What stage 2 trains by default; the image tower and its projection are frozen.
    assert moved == {"text_model", "text_projection", "logit_scale"}


def test_evaluate_any_model(run_python, altclip_folder, miniature):
    models = ["--models", altclip_folder, miniature / "clip"]
    flags = ["--dataset", miniature / "dataset", "--languages", "en", "ar"]
    lines = lines_of(run_python("python", "examples/evaluate_any_model.py", *models, *flags))
    scored = [line for line in lines if "mean recall" in line]
    assert len(scored) == 4  # two models in two languages
    for line in scored:
        score, low, high = (float(value) for value in re.findall(r"([\d.]+)%", line.replace("95 %", "")))
        assert low <= score <= high
