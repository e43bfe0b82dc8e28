"""A saved folder works on machines that have never seen this package.

They have transformers alone, its lowest version, older ones, or other clients.
"""

import configparser
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPImageProcessor,
    ViTConfig,
    ViTModel,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from common.models.loading import load_model, save_model
from modeling_altclip import (
    AltCLIPDualEncoderModel,
    AltCLIPModel,
    AltCLIPProcessor,
    embed_images,
    embed_texts,
)
from modeling_altclip.versions_altclip import TRANSFORMERS

from .conftest import ROOT
from .environments import OF_TRANSFORMERS, build_environment, run_in
from .test_diffusion import build, draw

SIZE = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXTS = ["dog face", "红苹果"]
# What each folder is loaded by: transformers' own classes, where there are any, and ours out of the folder.
WAYS = [("altclip", False), ("altclip", True), ("dual", True)]
# {"transformers": "5.21.0", "torch": ...}
LOWEST = dict(
    line.split("==") for line in (ROOT / "constraints-lowest.txt").read_text("utf-8").split() if "==" in line
)


def image():
    return Image.new("RGB", (40, 30), "red")


# ---- Lowest versions ----


def test_remote_code_states_the_floor_of_the_package():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    assert f"transformers>={TRANSFORMERS}" in config["options"]["install_requires"].split()
    assert LOWEST["transformers"] == f"{TRANSFORMERS}.0"


@pytest.mark.parametrize(
    "name,file",
    [
        ("altclip", "config.json"),
        ("dual", "config.json"),
        ("altclip", "processor_config.json"),
        ("dual", "processor_config.json"),
    ],
)
def test_remote_code_names_the_floor_in_one_line(saved, monkeypatch, name, file):
    """Check each file that `AutoConfig` and `AutoProcessor` load first: it looks before it imports others."""
    # A release of the minor version before the floor.
    monkeypatch.setattr(transformers, "__version__", "5.20.2")
    references = json.loads((saved / name / file).read_text())["auto_map"]
    reference = references["AutoConfig" if file == "config.json" else "AutoProcessor"]
    said = rf"needs transformers {TRANSFORMERS} or newer, and 5\.20\.2 is installed: upgrade it"
    with pytest.raises(ImportError, match=said) as error:
        get_class_from_dynamic_module(reference, str(saved / name))
    assert "\n" not in str(error.value)


# ---- Environments ----

LOAD = """
import importlib.util, json, sys
import torch, transformers
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline

assert importlib.util.find_spec("modeling_altclip") is None and importlib.util.find_spec("benchmarks") is None


def load(folder, trust):
    model = AutoModel.from_pretrained(folder, trust_remote_code=trust).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust)
    image = Image.new("RGB", (40, 30), "red")
    inputs = processor(text=TEXTS, images=image, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits_per_image
    classify = pipeline("zero-shot-image-classification", model=folder, trust_remote_code=trust)
    found = classify(image, candidate_labels=TEXTS, hypothesis_template="{}")
    scores = {one["label"]: one["score"] for one in found}
    module = type(model).__module__
    return {"logits": logits.tolist(), "scores": [scores[text] for text in TEXTS], "module": module}


for folder, trust in json.loads(sys.argv[1]):
    try:
        print(json.dumps(load(folder, trust)))
    except ImportError as error:
        print(json.dumps({"error": str(error)}))
""".replace("TEXTS", repr(TEXTS))  # not by `format`: the script has braces


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Build an environment with torch, transformers and Pillow, in the tested versions; return its python."""
    folder = tmp_path_factory.mktemp("alone") / "venv"
    return build_environment(folder, "torch", "transformers", "pillow", upon=None)


@pytest.fixture
def load(saved, tmp_path):
    """Return a function that loads folders in an environment, each in a way of `WAYS`.

    It returns what the script says of each.
    """

    def load(python, ways):
        script = tmp_path / "load.py"
        script.write_text(LOAD)
        asked = json.dumps([(str(saved / name), trust) for name, trust in ways])
        variables = {"PYTHONPATH": "", "HF_MODULES_CACHE": str(tmp_path / "modules")}
        process = run_in(python, script, asked, cwd=tmp_path, **variables)
        assert process.returncode == 0, process.stderr[-3000:]
        return [json.loads(line) for line in process.stdout.splitlines()]

    return load


def check(saved, said, ways):
    """Check that the script says what the models give here."""
    for (name, trust), one in zip(ways, said, strict=True):
        model = AutoModel.from_pretrained(saved / name).eval()
        processor = AutoProcessor.from_pretrained(saved / name)
        inputs = processor(text=TEXTS, images=image(), padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits_per_image
        torch.testing.assert_close(torch.tensor(one["logits"]), logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(torch.tensor([one["scores"]]), logits.softmax(dim=1), atol=1e-4, rtol=1e-4)
        assert one["module"].startswith("transformers_modules." if trust else "transformers.models.altclip.")


@pytest.mark.slow
def test_transformers_alone(saved, alone, load):
    check(saved, load(alone, WAYS), WAYS)


@pytest.mark.slow
def test_the_lowest_versions(saved, alone, load, tmp_path):
    packages = [f"{name}=={LOWEST[name]}" for name in ("transformers", "huggingface_hub", "safetensors")]
    unpinned = (*OF_TRANSFORMERS, "safetensors")
    python = build_environment(tmp_path / "venv", *packages, upon=alone, unpinned=unpinned)
    check(saved, load(python, WAYS), WAYS)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["5.20.2", "5.13.1", "4.57.6"])
def test_older_versions_read_an_altclip_and_refuse_remote_code(saved, alone, load, tmp_path, version):
    packages = [f"transformers=={version}"]
    python = build_environment(tmp_path / "venv", *packages, upon=alone, unpinned=OF_TRANSFORMERS)
    # transformers' own classes read the folder in every version; the code in the folder refuses old ones.
    native, remote = WAYS[:1], WAYS[1:]
    check(saved, load(python, native), native)
    needed = f"This code of AltCLIP needs transformers {TRANSFORMERS} or newer, and {version} is installed"
    for one in load(python, remote):
        assert one["error"].startswith(needed)
        assert "\n" not in one["error"]


CLIENTS = ["sentence-transformers", "mteb", "diffusers"]
COLORS = ["red", "green", "blue", "yellow"]
USE = """
import importlib.util, json, sys
import numpy as np, torch
from diffusers import StableDiffusionPipeline
from mteb_task import mteb_accuracy
from PIL import Image
from sentence_transformers import SentenceTransformer

assert importlib.util.find_spec("modeling_altclip") is None and importlib.util.find_spec("benchmarks") is None
saved, ways, output = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
images = [Image.new("RGB", (40, 30), color) for color in COLORS]
for name, trust in ways:
    encoder = SentenceTransformer(f"{saved}/{name}", trust_remote_code=trust)
    accuracy = mteb_accuracy(encoder, images, list(range(len(COLORS))), COLORS)
    texts, pictures = encoder.encode(COLORS).tolist(), encoder.encode(images).tolist()
    print(json.dumps({"texts": texts, "images": pictures, "accuracy": accuracy}))
pipeline = StableDiffusionPipeline.from_pretrained(f"{output}/pipeline")
generator = torch.Generator().manual_seed(2)
picture = pipeline("dog face", num_inference_steps=3, generator=generator, output_type="np").images[0]
np.save(f"{output}/picture.npy", picture)
""".replace("COLORS", repr(COLORS))


@pytest.mark.slow
def test_other_clients(saved, alone, tmp_path):
    """Use a folder in sentence-transformers and mteb, and in diffusers a pipeline with our text tower."""
    python = build_environment(tmp_path / "venv", *CLIENTS, upon=alone)
    altclip, processor = load_model(str(saved / "altclip"))
    pipeline = build(altclip.text_model, processor.tokenizer)
    pipeline.save_pretrained(tmp_path / "pipeline")

    script = tmp_path / "use.py"
    script.write_text(USE)
    variables = {"PYTHONPATH": str(ROOT / "tests/clients"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    process = run_in(python, script, saved, json.dumps(WAYS), tmp_path, cwd=tmp_path, **variables)
    assert process.returncode == 0, process.stderr[-3000:]

    # mteb prints lines of its own.
    said = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    for (name, _), one in zip(WAYS, said, strict=True):
        model, processor = load_model(str(saved / name))
        texts = embed_texts(model, processor, COLORS)
        images = embed_images(model, processor, [Image.new("RGB", (40, 30), color) for color in COLORS])
        torch.testing.assert_close(normalize(torch.tensor(one["texts"])), texts, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(normalize(torch.tensor(one["images"])), images, atol=1e-4, rtol=1e-4)
        right = (images @ texts.T).argmax(dim=1) == torch.arange(len(COLORS))
        assert one["accuracy"] == pytest.approx(right.float().mean().item())

    picture = np.load(tmp_path / "picture.npy")
    # The script has the seed and the number of steps of `draw`.
    assert np.abs(picture - draw(pipeline, "dog face")).max() < 1e-4


# ---- The saved folders ----


@pytest.fixture(scope="module")
def saved(miniature, tmp_path_factory):
    """Save an AltCLIP and a dual encoder with `save_model`; return the folder of both."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = AltCLIPProcessor(image_processor, tokenizer)

    torch.manual_seed(0)
    altclip = AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"))
    ViTModel(ViTConfig(**SIZE, image_size=32, patch_size=8)).save_pretrained(folder / "vit")
    BertModel(BertConfig(**SIZE, vocab_size=len(tokenizer))).save_pretrained(folder / "bert")
    dual = AltCLIPDualEncoderModel.from_towers(str(folder / "vit"), str(folder / "bert"), projection_dim=16)
    save_model(altclip, processor, folder / "altclip")
    save_model(dual, processor, folder / "dual")
    return folder
