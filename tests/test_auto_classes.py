"""One saved folder works with plain transformers, with our package and with `trust_remote_code=True`.

Models of other types are left alone.
"""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    BertConfig,
    CLIPConfig,
    CLIPModel,
)

from modeling_altclip import AltCLIPConfig, AltCLIPModel, AltCLIPProcessor

# `how` is "plain", without trust_remote_code; "remote", with it; or "resave", which also saves the model.
SCRIPT = """
import json, sys, torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor
from transformers import pipeline
folder, how = sys.argv[1:]
trust = {} if how == "plain" else {"trust_remote_code": True}
autos = (AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor)
loaded = [auto.from_pretrained(folder, **trust) for auto in autos]
model, processor = loaded[1].eval(), loaded[3]
image = Image.new("RGB", (32, 32), "red")
inputs = processor(text=["dog face", "红苹果"], images=image, padding=True, return_tensors="pt")
classify = pipeline("zero-shot-image-classification", model=folder, **trust)
with torch.no_grad():
    logits = model(**inputs).logits_per_image
modules = [type(one).__module__ for one in (*loaded, classify.model)]
if how == "resave":
    model.save_pretrained(folder + "/again")
    processor.save_pretrained(folder + "/again")
print(json.dumps({"modules": modules, "ours": "modeling_altclip" in sys.modules, "logits": logits.tolist()}))
"""


@pytest.fixture
def elsewhere(tmp_path, run_python):
    """Return a function that runs the script in an empty folder, where the package cannot be imported."""

    def elsewhere(folder, how):
        (tmp_path / "script.py").write_text(SCRIPT)
        # PYTHONSAFEPATH keeps the script's folder off sys.path; HF_MODULES_CACHE is where remote code goes.
        modules = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
        process = run_python("python", tmp_path / "script.py", folder, how, cwd=tmp_path, **modules)
        assert process.returncode == 0, process.stderr[-3000:]
        return json.loads(process.stdout.strip().splitlines()[-1])

    return elsewhere


def is_plain(said):
    """Check that every class was transformers' own."""
    native = all(module.startswith("transformers.models.altclip.") for module in said["modules"])
    return native and not said["ours"]


def expected_logits(folder):
    model = AltCLIPModel.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    image = Image.new("RGB", (32, 32), "red")
    inputs = processor(text=["dog face", "红苹果"], images=image, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits_per_image


def test_our_package(altclip_folder):
    expected = {
        AutoConfig: AltCLIPConfig,
        AutoModel: AltCLIPModel,
        AutoModelForZeroShotImageClassification: AltCLIPModel,
        AutoProcessor: AltCLIPProcessor,
    }
    # Registered classes win over the code in the folder, whatever is answered; None would ask on a terminal.
    for trust in (None, False, True):
        found = {
            auto: type(auto.from_pretrained(altclip_folder, trust_remote_code=trust)) for auto in expected
        }
        assert found == expected


def test_plain_transformers_takes_its_own_classes_without_asking(altclip_folder, elsewhere):
    said = elsewhere(altclip_folder, "plain")
    assert is_plain(said)
    torch.testing.assert_close(
        torch.tensor(said["logits"]), expected_logits(altclip_folder), atol=1e-5, rtol=0
    )


@pytest.mark.slow
def test_remote_code_is_ours_and_is_saved_again(altclip_folder, elsewhere):
    said = elsewhere(altclip_folder, "resave")
    assert all(module.startswith("transformers_modules.") for module in said["modules"])
    assert not said["ours"]
    # Configuration, model, zero-shot model, processor, and the model of the pipeline.
    assert [module.rsplit(".", 1)[1] for module in said["modules"]] == [
        "configuration_altclip",
        "modeling_altclip",
        "modeling_altclip",
        "processing_altclip",
        "modeling_altclip",
    ]
    torch.testing.assert_close(
        torch.tensor(said["logits"]), expected_logits(altclip_folder), atol=1e-5, rtol=0
    )

    # What remote code has saved is read again by both.
    shutil.move(altclip_folder / "again", altclip_folder.parent / "again")
    assert elsewhere(altclip_folder.parent / "again", "remote")["logits"] == said["logits"]
    assert is_plain(elsewhere(altclip_folder.parent / "again", "plain"))


def test_files_say_nothing_that_native_would_not_read(altclip_folder):
    config = json.loads((altclip_folder / "config.json").read_text())
    assert config["model_type"] == "altclip"
    assert not {"is_decoder", "add_cross_attention", "use_attention_mask"} & config["text_config"].keys()
    # The modules that remote code imports are copied, and no module of embedding or of training.
    assert {path.name for path in altclip_folder.glob("*.py")} == {
        "addresses_altclip.py",
        "checkpoint_altclip.py",
        "checksums_altclip.py",
        "configuration_altclip.py",
        "finite_altclip.py",
        "image_files_altclip.py",
        "images_altclip.py",
        "linear_altclip.py",
        "modeling_altclip.py",
        "pooling_altclip.py",
        "processing_altclip.py",
        "reading_altclip.py",
        "texts_altclip.py",
        "threads_altclip.py",
        "tokenizer_files_altclip.py",
        "versions_altclip.py",
    }


def test_other_model_types_are_left_alone(tmp_path):
    text = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    vision = text | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is CLIPModel
    bert = AutoModel.from_config(BertConfig(num_hidden_layers=1, hidden_size=12, num_attention_heads=1))
    assert bert.config.model_type == "bert"

    # In a new interpreter: importing the package adds its own model types, and no pipeline task.
    # `_extra_content` holds what was registered, apart from the classes of transformers itself.
    code = """
from transformers.models.auto import configuration_auto, modeling_auto as models, processing_auto
from transformers.pipelines import PIPELINE_REGISTRY
def state():
    mappings = [
        models.MODEL_MAPPING,
        models.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING,
        processing_auto.PROCESSOR_MAPPING,
    ]
    added = [sorted(mapping._extra_content, key=str) for mapping in mappings]
    configs = sorted(configuration_auto.CONFIG_MAPPING._extra_content)
    tasks = {name: sorted(task) for name, task in PIPELINE_REGISTRY.supported_tasks.items()}
    return added, configs, tasks
before = state()
import modeling_altclip
after = state()
assert before[:2] == ([[], [], []], []) and before[2] == after[2]
names = {config.model_type for added in after[0] for config in added} | set(after[1])
assert names == {"altclip", "altclip_dual_encoder"}, names
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_is_light():
    """Importing needs what transformers' own AltCLIP and its pipelines need, and no heavy package beside."""
    heavy = ["datasets", "evaluate", "diffusers", "peft", "sentence_transformers"]
    heavy += ["mteb", "matplotlib", "pandas", "sklearn", "torchvision"]
    code = f"import sys, modeling_altclip; print([name for name in {heavy} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert process.stdout.strip() == "[]"
