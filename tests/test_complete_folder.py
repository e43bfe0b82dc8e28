"""A saved folder on machines that have never seen this package: transformers alone, the lowest versions, older ones, other clients."""

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

from benchmarks.loading import load_model, save_model
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
LOWEST = dict(
    line.split("==") for line in (ROOT / "constraints-lowest.txt").read_text("utf-8").split() if "==" in line
)


def image():
    return Image.new("RGB", (40, 30), "red")


# ---- Floors, as they are stated and as they are heeded
# ----------------------------------------------------------------------------


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
    """Whatever is loaded first: each file that `AutoConfig` and `AutoProcessor` are led to looks before it imports anything else."""
    monkeypatch.setattr(transformers, "__version__", "5.20.2")
    references = json.loads((saved / name / file).read_text())["auto_map"]
    reference = references["AutoConfig" if file == "config.json" else "AutoProcessor"]
    said = rf"needs transformers {TRANSFORMERS} or newer, and 5\.20\.2 is installed: upgrade it"
    with pytest.raises(ImportError, match=said) as error:
        get_class_from_dynamic_module(reference, str(saved / name))
    assert "\n" not in str(error.value)


# ---- Environments
# -----------------------------------------------------------------------------------------------------------------

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
    return {"logits": logits.tolist(), "scores": [scores[text] for text in TEXTS], "module": type(model).__module__}


for folder, trust in json.loads(sys.argv[1]):
    try:
        print(json.dumps(load(folder, trust)))
    except ImportError as error:
        print(json.dumps({"error": str(error)}))
""".replace("TEXTS", repr(TEXTS))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The python of an environment with torch, transformers and Pillow, in the versions that everything was tested with."""
    return build_environment(
        tmp_path_factory.mktemp("alone") / "venv", "torch", "transformers", "pillow", upon=None
    )


@pytest.fixture
def load(saved, tmp_path):
    """Load folders in an environment, each in a way of `WAYS`; give what the script says of each."""

    def load(python, ways):
        (tmp_path / "load.py").write_text(LOAD)
        asked = json.dumps([(str(saved / name), trust) for name, trust in ways])
        process = run_in(
            python,
            tmp_path / "load.py",
            asked,
            PYTHONPATH="",
            HF_MODULES_CACHE=str(tmp_path / "modules"),
            cwd=tmp_path,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        return [json.loads(line) for line in process.stdout.splitlines()]

    return load


def check(saved, said, ways):
    """What was said is what the models give here."""
    for (name, trust), one in zip(ways, said, strict=True):
        model = AutoModel.from_pretrained(saved / name).eval()
        inputs = AutoProcessor.from_pretrained(saved / name)(
            text=TEXTS, images=Image.new("RGB", (40, 30), "red"), padding=True, return_tensors="pt"
        )
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
    python = build_environment(
        tmp_path / "venv", *packages, upon=alone, unpinned=(*OF_TRANSFORMERS, "safetensors")
    )
    check(saved, load(python, WAYS), WAYS)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["5.20.2", "5.13.1", "4.57.6"])
def test_older_versions_read_an_altclip_and_refuse_remote_code(saved, alone, load, tmp_path, version):
    python = build_environment(
        tmp_path / "venv", f"transformers=={version}", upon=alone, unpinned=OF_TRANSFORMERS
    )
    check(saved, load(python, WAYS[:1]), WAYS[:1])
    for one in load(python, WAYS[1:]):
        assert one["error"].startswith(
            f"This code of AltCLIP needs transformers {TRANSFORMERS} or newer, and {version} is installed"
        )
        assert "\n" not in one["error"]


CLIENTS = ("sentence-transformers", "mteb", "diffusers")
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
    print(json.dumps({"texts": encoder.encode(COLORS).tolist(), "images": encoder.encode(images).tolist(), "accuracy": accuracy}))
pipeline = StableDiffusionPipeline.from_pretrained(f"{output}/pipeline")
picture = pipeline("dog face", num_inference_steps=3, generator=torch.Generator().manual_seed(2), output_type="np").images[0]
np.save(f"{output}/picture.npy", picture)
""".replace("COLORS", repr(COLORS))


@pytest.mark.slow
def test_other_clients(saved, alone, tmp_path):
    """sentence-transformers and mteb with a folder, diffusers with a pipeline that our text tower was saved in."""
    python = build_environment(tmp_path / "venv", *CLIENTS, upon=alone)
    altclip, processor = load_model(str(saved / "altclip"))
    pipeline = build(altclip.text_model, processor.tokenizer)
    pipeline.save_pretrained(tmp_path / "pipeline")
    (tmp_path / "use.py").write_text(USE)
    words = tmp_path / "use.py", saved, json.dumps(WAYS), tmp_path
    process = run_in(
        python,
        *words,
        PYTHONPATH=str(ROOT / "tests/clients"),
        HF_MODULES_CACHE=str(tmp_path / "modules"),
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    said = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    for (name, _), one in zip(WAYS, said, strict=True):
        model, processor = load_model(str(saved / name))
        texts = embed_texts(model, processor, COLORS)
        images = embed_images(model, processor, [Image.new("RGB", (40, 30), color) for color in COLORS])
        torch.testing.assert_close(normalize(torch.tensor(one["texts"])), texts, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(normalize(torch.tensor(one["images"])), images, atol=1e-4, rtol=1e-4)
        right = (images @ texts.T).argmax(dim=1) == torch.arange(len(COLORS))
        assert one["accuracy"] == pytest.approx(right.float().mean().item())
    assert np.abs(np.load(tmp_path / "picture.npy") - draw(pipeline, "dog face")).max() < 1e-4


# ---- What is saved
# ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(miniature, tmp_path_factory):
    """Folders of an AltCLIP and of a dual encoder, as `save_model` makes them."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    processor = AltCLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), tokenizer
    )
    torch.manual_seed(0)
    altclip = AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"))
    ViTModel(ViTConfig(**SIZE, image_size=32, patch_size=8)).save_pretrained(folder / "vit")
    BertModel(BertConfig(**SIZE, vocab_size=len(tokenizer))).save_pretrained(folder / "bert")
    dual = AltCLIPDualEncoderModel.from_towers(str(folder / "vit"), str(folder / "bert"), projection_dim=16)
    save_model(altclip, processor, folder / "altclip")
    save_model(dual, processor, folder / "dual")
    return folder
