"""Text encoders that bring their own code: it runs where it is asked for alone, and travels with the model.

Each file of the encoder's code writes a marker when it runs.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks import load_model
from benchmarks.jobs import embed
from common.errors import InputError
from common.fingerprints import hash_weights, settings
from common.models.kinds import TEXT_TOWER, check_kind
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPProcessor, embed_texts
from modeling_altclip.checksums_altclip import read_checksums, write_checksums
from modeling_altclip.towers_altclip import load_text_config
from training import ContrastiveArguments, TeacherLearningArguments
from training.jobs import stage1, stage2
from training.lifecycle import evaluation_of
from training.model_checks import check_models, check_tokenizers
from training.student import build_student

from .conftest import ROOT
from .custom_encoder import AUTO_MAP, CODE, save_custom_encoder
from .families import (
    QUICK,
    load_tokenizer_of,
    save_image_encoder,
    save_sentence_encoder,
    save_student,
    save_teacher,
)

TEXTS = ["a dog", "a red apple and a key", "scissors"]
REFUSAL = "configuration_pebble.py and modeling_pebble.py, which runs only with trust_remote_code"


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


@pytest.fixture
def encoder(miniature, tmp_path, marker):
    """Return the folder of an encoder whose code has not run."""
    return save_custom_encoder(tmp_path / "encoder", load_tokenizer_of(miniature), marker)


@pytest.fixture
def teacher(miniature, tmp_path):
    return save_teacher("clip", tmp_path / "clip", load_tokenizer_of(miniature))


@pytest.fixture
def dual(teacher, encoder, marker, miniature, tmp_path):
    """Save an untrained dual encoder of the two, and remove the encoder; return the folder and embeddings."""
    model = AltCLIPDualEncoderModel.from_teacher(teacher, str(encoder), trust_remote_code=True).eval()
    processor = AltCLIPProcessor(load_model(teacher)[1].image_processor, load_tokenizer_of(miniature))
    folder = tmp_path / "dual"
    for part in (model, processor):
        part.save_pretrained(folder)
    write_checksums(folder)
    shutil.rmtree(encoder)
    marker.unlink()
    return folder, embed_texts(model, processor, TEXTS)


def reload_code(folder, name="modeling_pebble.py"):
    """Change a file of code by a comment: Python has imported the other one, which would not run again."""
    path = folder / name
    path.write_text(f"{path.read_text()}\n# {folder}\n")


def rewrite(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values))


def test_transformers_has_no_such_type():
    assert "pebble" not in CONFIG_MAPPING


def test_the_folder_is_whole_and_needs_no_other(dual):
    folder, expected = dual
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["text_auto_map"] == AUTO_MAP
    assert "auto_map" not in config["text_config"]
    # Values that are defaults of the encoder's class are there too: they are read without its code.
    wanted = {"model_type": "pebble", "hidden_size": 16, "n_steps": 2, "hidden_dropout_prob": 0.1}
    assert wanted.items() <= config["text_config"].items()
    assert set(CODE) <= read_checksums(folder).keys()

    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model) is AltCLIPDualEncoderModel
    assert type(model.text_model.encoder).__name__ == "PebbleModel"
    found = embed_texts(model, AutoProcessor.from_pretrained(folder), TEXTS)
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    directly = AltCLIPDualEncoderModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float64)
    assert directly.dtype == torch.float64


def test_what_is_saved_again_is_the_same(dual, tmp_path):
    folder, expected = dual
    model, processor = load_model(str(folder), trust_remote_code=True)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "again")
    shutil.rmtree(folder)
    assert (tmp_path / "again" / "layers_pebble.py").is_file()
    again, processor = load_model(str(tmp_path / "again"), trust_remote_code=True)
    assert torch.allclose(embed_texts(again, processor, TEXTS), expected, rtol=0, atol=1e-6)


def test_without_the_flag_nothing_runs(dual, marker):
    folder, _ = dual
    for name in CODE:
        reload_code(folder, name)
    write_checksums(folder)
    config = AutoConfig.from_pretrained(folder)
    assert (config.text_config.model_type, config.text_config.hidden_size) == ("pebble", 16)
    for load in (
        lambda: AutoModel.from_pretrained(folder),
        lambda: AutoModel.from_pretrained(folder, trust_remote_code=False),
        lambda: AltCLIPDualEncoderModel.from_pretrained(folder),
        lambda: AltCLIPDualEncoderModel(config),
        lambda: AutoModel.from_config(config),
    ):
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            load()
    with pytest.raises(InputError, match=f"^model '{folder}' cannot be loaded: .*{REFUSAL}"):
        load_model(str(folder))
    with pytest.raises(Exception, match="trust_remote_code=True"):
        pipeline("zero-shot-image-classification", model=str(folder))
    assert not marker.exists()

    load_model(str(folder), trust_remote_code=True)  # the marker does show what runs
    assert marker.exists()


def test_a_configuration_is_saved_without_its_code(dual, tmp_path, marker):
    folder, _ = dual
    config = AutoConfig.from_pretrained(folder)
    config.save_pretrained(tmp_path / "other")
    assert json.loads((tmp_path / "other/config.json").read_text("utf-8")) == json.loads(
        (folder / "config.json").read_text("utf-8")
    )


def test_damaged_code_does_not_run(dual, marker):
    folder, _ = dual
    reload_code(folder)
    with pytest.raises(ValueError, match="modeling_pebble.py has .* bytes instead of"):
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert not marker.exists()


@pytest.mark.parametrize(
    "reference",
    [
        "../encoder/modeling_pebble.PebbleModel",
        "/etc/modeling.Model",
        "owner/other--modeling.Model",
        "modeling",
        3,
        ["modeling.Model"],
    ],
)
def test_a_saved_folder_names_its_own_files_alone(dual, marker, reference):
    folder, _ = dual
    text_auto_map = reference if isinstance(reference, list) else AUTO_MAP | {"AutoModel": reference}
    rewrite(folder / "config.json", text_auto_map=text_auto_map)
    (folder / "checksums.json").unlink()
    with pytest.raises(ValueError, match="as module.Class in a file of the folder"):
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert not marker.exists()


@pytest.mark.parametrize("known", [False, True])
def test_an_encoder_names_its_own_files_alone(encoder, tmp_path, monkeypatch, marker, known):
    """Another folder is none, be it named as a path or like a repository of the Hub."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    shutil.copytree(encoder, tmp_path / "owner/name")
    where = "owner/name" if known else str(tmp_path / "owner/name")
    auto_map = {name: f"{where}--{reference}" for name, reference in AUTO_MAP.items()}
    rewrite(encoder / "config.json", auto_map=auto_map)
    with pytest.raises(ValueError, match="outside of the encoder's folder"):
        load_text_config(str(encoder), trust_remote_code=True)
    assert not marker.exists()


def test_a_missing_file_is_named(encoder, dual_arguments):
    (encoder / "modeling_pebble.py").unlink()
    with pytest.raises(InputError, match="text_encoder_name_or_path '.*encoder' .*modeling_pebble.py"):
        stage1.main(TeacherLearningArguments(**dual_arguments, trust_remote_code=True))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("from transformers import BertModel as PebbleModel", "not of its own code"),
        ("from .texts_altclip import PebbleModel", "texts_altclip.py, and files that end with _altclip.py"),
    ],
)
def test_code_that_cannot_travel_is_refused(encoder, code, message):
    (encoder / "modeling_pebble.py").rename(encoder / "texts_altclip.py")
    (encoder / "modeling_pebble.py").write_text(f"{code}\n")
    with pytest.raises(ValueError, match=message):
        load_text_config(str(encoder), trust_remote_code=True)


@pytest.fixture
def dual_arguments(teacher, encoder, miniature, tmp_path):
    """Return the arguments of stage 1."""
    return QUICK | {
        "dataset": str(miniature / "dataset"),
        "output_dir": str(tmp_path / "first"),
        "teacher_name_or_path": teacher,
        "text_encoder_name_or_path": str(encoder),
    }


def test_stage_1_takes_it_with_the_flag_alone(dual_arguments, encoder, marker, tmp_path, capsys):
    message = f"^text_encoder_name_or_path '{encoder}' cannot be loaded: .*{REFUSAL}"
    with pytest.raises(InputError, match=message):
        stage1.main(TeacherLearningArguments(**dual_arguments))
    assert not marker.exists()

    trusting = dual_arguments | {"trust_remote_code": True}
    stage1.main(TeacherLearningArguments(**trusting, dry_run=True))
    assert "parameters" in capsys.readouterr().out
    stage1.main(TeacherLearningArguments(**trusting))
    shutil.rmtree(encoder)
    for folder in ("first", "first/checkpoint-1"):
        assert {name for name in CODE if (tmp_path / folder / name).is_file()} == set(CODE)

    model, processor = load_model(str(tmp_path / "first"), trust_remote_code=True)
    assert model.config.model_type == "altclip_dual_encoder"
    assert model.config.text_config.hidden_dropout_prob == 0
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    given = {"texts": str(tmp_path / "texts.txt"), "output_dir": str(tmp_path / "vectors")}
    given["model_name_or_path"] = str(tmp_path / "first")
    with pytest.raises(InputError, match=REFUSAL):
        embed.main(embed.EmbedArguments(**given))
    embed.main(embed.EmbedArguments(**given, trust_remote_code=True))
    found = torch.as_tensor(np.load(tmp_path / "vectors/embeddings.npy"))
    assert torch.allclose(found, embed_texts(model, processor, TEXTS), rtol=0, atol=1e-5)


@pytest.fixture
def beside_sentences(dual_arguments, miniature, tmp_path):
    """Return the arguments of stage 1 with a teacher of texts alone, beside the image side of a CLIP."""
    name = save_sentence_encoder(tmp_path / "sentences", load_tokenizer_of(miniature))
    images = dual_arguments["teacher_name_or_path"]
    return dual_arguments | {"teacher_name_or_path": name, "image_model_name_or_path": images}


@pytest.mark.parametrize("has_projection", [True, False], ids=["CLIP", "ViT"])
def test_a_teacher_of_texts_alone_teaches_it(has_projection, beside_sentences, marker, tmp_path):
    if not has_projection:
        beside_sentences["image_model_name_or_path"] = save_image_encoder(tmp_path / "vit")
    arguments = TeacherLearningArguments(**beside_sentences)
    with pytest.raises(InputError, match=f"^text_encoder_name_or_path .*{REFUSAL}"):
        check_models(arguments)
    assert not marker.exists()

    arguments = TeacherLearningArguments(**beside_sentences, text_head_norm=True, trust_remote_code=True)
    check_models(arguments)
    check_tokenizers(arguments)
    model, _ = build_student(arguments, None, [])
    assert model.config.text_auto_map == AUTO_MAP
    assert model.config.text_config.hidden_dropout_prob == 0
    assert type(model.text_projection[0]).__name__ == "LayerNorm"
    model.save_pretrained(tmp_path / "student")
    again = AutoModel.from_pretrained(tmp_path / "student", trust_remote_code=True)
    assert torch.equal(again.text_projection[1].weight, model.text_projection[1].weight)


def test_an_image_model_runs_no_code(beside_sentences, dual, marker, miniature, tmp_path):
    """Its text tower is not needed."""
    images, _ = dual
    student = save_student("bert", tmp_path / "bert", load_tokenizer_of(miniature))
    given = {"image_model_name_or_path": str(images), "text_encoder_name_or_path": student}
    with pytest.raises(InputError, match=f"^image_model_name_or_path '{images}' has a text encoder that br"):
        stage1.main(TeacherLearningArguments(**beside_sentences | given, trust_remote_code=True))
    assert not marker.exists()


def test_idle_parameters_stay_frozen_with_the_flag(teacher, encoder, tmp_path):
    made = AltCLIPDualEncoderModel.from_towers(
        teacher, str(encoder), vision_pooling="mean", trust_remote_code=True
    )
    made.save_pretrained(tmp_path / "made")
    model, info = AutoModel.from_pretrained(
        tmp_path / "made", trust_remote_code=True, output_loading_info=True
    )
    assert not info["missing_keys"]
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    layer = "vision_model.encoder.post_layernorm"
    assert frozen == model.idle_parameters() == [f"{layer}.weight", f"{layer}.bias"]


def test_an_adapter_of_it_is_saved_and_loaded(dual, miniature, marker, tmp_path):
    folder, before = dual
    given = QUICK | {"languages": ["zh"], "replay_languages": [], "max_steps": 1, "learning_rate": 0.01}
    given |= {"model_name_or_path": str(folder), "dataset": str(miniature / "dataset")}
    given |= {"output_dir": str(tmp_path / "adapter"), "lora_rank": 4, "lora_output": "adapter"}
    with pytest.raises(InputError, match=REFUSAL):
        stage1.main(TeacherLearningArguments(**given))
    stage1.main(TeacherLearningArguments(**given, trust_remote_code=True))
    # The code is the base's.
    for name in CODE:
        assert not (tmp_path / "adapter" / name).exists()

    with pytest.raises(InputError, match=REFUSAL):
        load_model(given["output_dir"])
    model, processor = load_model(given["output_dir"], trust_remote_code=True)
    assert type(model.text_model.encoder).__name__ == "PebbleModel"
    after = embed_texts(model, processor, TEXTS)
    assert after.isfinite().all()
    assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.slow
def test_both_stages_and_more_languages(dual_arguments, encoder, miniature, tmp_path):
    trusting = {"trust_remote_code": True}
    stage1.main(TeacherLearningArguments(**dual_arguments, **trusting))
    stage1.main(TeacherLearningArguments(**dual_arguments, **trusting, resume_from_checkpoint="checkpoint-1"))
    shutil.rmtree(encoder)

    given = QUICK | {"dataset": str(miniature / "dataset"), "model_name_or_path": str(tmp_path / "first")}
    for stage, arguments_class in ((stage2, ContrastiveArguments), (stage1, TeacherLearningArguments)):
        output_dir = str(tmp_path / stage.__name__)
        with pytest.raises(InputError, match=f"^(model|teacher)_name_or_path .*{REFUSAL}"):
            stage.main(arguments_class(**given, output_dir=output_dir))
        stage.main(arguments_class(**given, output_dir=output_dir, **trusting, dry_run=True))
        stage.main(arguments_class(**given, output_dir=output_dir, **trusting))
        model, processor = load_model(output_dir, trust_remote_code=True)
        assert embed_texts(model, processor, TEXTS).isfinite().all()

    # Its image tower is taken over by the next student, whose own text encoder is of transformers.
    student = save_student("bert", tmp_path / "bert", load_tokenizer_of(miniature))
    given = dual_arguments | {"teacher_name_or_path": output_dir, "text_encoder_name_or_path": student}
    given["output_dir"] = str(tmp_path / "third")
    stage1.main(TeacherLearningArguments(**given, **trusting))
    assert "text_auto_map" not in json.loads((tmp_path / "third/config.json").read_text("utf-8"))


REMOTE = """
import pathlib, sys, torch
from transformers import AutoModel, AutoProcessor, pipeline
folder, found, marker, *texts = sys.argv[1:]
try:
    AutoModel.from_pretrained(folder, trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code=True" in str(error)
assert not pathlib.Path(marker).exists()
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(text=texts, padding=True, return_tensors="pt")
with torch.no_grad():
    features = model.get_text_features(**inputs).pooler_output
assert "modeling_altclip" not in sys.modules
assert pathlib.Path(marker).exists()
torch.save(torch.nn.functional.normalize(features, dim=-1), found)
model.save_pretrained(folder + "-again")
processor.save_pretrained(folder + "-again")
pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True)
"""


@pytest.mark.slow
def test_remote_code_loads_it_too(dual, tmp_path, marker, run_python):
    folder, expected = dual
    environment = {
        "PYTHONPATH": "",
        "PYTHONSAFEPATH": "1",
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
    }
    found = tmp_path / "found.pt"
    words = (folder, found, marker, *TEXTS)
    process = run_python("python", "-c", REMOTE, *words, cwd=tmp_path, **environment)
    assert process.returncode == 0, process.stderr[-3000:]
    assert torch.allclose(torch.load(found), expected, rtol=0, atol=1e-6)

    # What remote code has saved is as whole as what it has loaded.
    shutil.rmtree(folder)
    model, processor = load_model(f"{folder}-again", trust_remote_code=True)
    assert torch.allclose(embed_texts(model, processor, TEXTS), expected, rtol=0, atol=1e-6)


def test_a_known_type_with_code_is_loaded_as_that_without_the_flag(miniature, tmp_path, marker, encoder):
    """Folders of BERTs may keep an `auto_map` that nobody needs."""
    folder = Path(save_student("bert", tmp_path / "bert", load_tokenizer_of(miniature)))
    rewrite(folder / "config.json", auto_map=AUTO_MAP)
    for name in CODE:
        shutil.copy(encoder / name, folder)
    assert check_kind("text_encoder_name_or_path", str(folder), TEXT_TOWER).model_type == "bert"
    assert not marker.exists()


def test_other_code_makes_other_caches(encoder, teacher, tmp_path):
    """Weights and configuration are the same, and what they compute is not."""
    other = Path(shutil.copytree(encoder, tmp_path / "other"))
    layers = other / "layers_pebble.py"
    layers.write_text(layers.read_text("utf-8").replace("torch.tanh", "torch.sin"), "utf-8")

    weights = set()
    described = set()
    of_towers = set()
    for folder in (encoder, other):
        torch.manual_seed(0)
        model = AltCLIPDualEncoderModel.from_teacher(teacher, str(folder), trust_remote_code=True)
        weights.add(hash_weights(model))
        described.add(settings(model))
        of_towers.add(settings(model.text_model))
    assert len(weights) == 1
    assert len(described) == len(of_towers) == 2


def test_the_command_of_an_evaluation_has_the_flag(dual_arguments):
    allowed = TeacherLearningArguments(**dual_arguments | {"trust_remote_code": True})
    assert evaluation_of(allowed).endswith(" --trust_remote_code")
    refused = TeacherLearningArguments(**dual_arguments | {"trust_remote_code": False})
    assert "trust_remote_code" not in evaluation_of(refused)


def test_code_in_a_repository_of_the_hub_travels_too(encoder, teacher, tmp_path):
    """As gte-multilingual's code, which is in a repository of its own. It is in the cache."""
    cache = Path(HF_HUB_CACHE, "models--owner--code")
    snapshot = cache / "snapshots" / ("a1" * 20)
    snapshot.mkdir(parents=True)
    for name in CODE:
        (encoder / name).rename(snapshot / name)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(snapshot.name)
    auto_map = {name: f"owner/code--{reference}" for name, reference in AUTO_MAP.items()}
    rewrite(encoder / "config.json", auto_map=auto_map)
    try:
        model = AltCLIPDualEncoderModel.from_teacher(teacher, str(encoder), trust_remote_code=True)
    finally:
        shutil.rmtree(cache)
    model.save_pretrained(tmp_path / "dual")
    config = json.loads((tmp_path / "dual/config.json").read_text("utf-8"))
    assert config["text_auto_map"] == AUTO_MAP
    for name in CODE:
        assert (tmp_path / "dual" / name).is_file()
    AutoModel.from_pretrained(tmp_path / "dual", trust_remote_code=True)


def test_the_page_of_encoders_tells_what_transformers_knows():
    """See docs/choosing.md: the rows of its table are natively known, brought along, and no encoder."""
    page = (ROOT / "docs/choosing.md").read_text("utf-8")
    rows = page.partition("### Encoders that bring their own code")[2].partition("\n\n")[2].splitlines()[2:5]
    native, brought, refused = [re.findall(r"`([^`]+)`", row.split("|")[2]) for row in rows]
    assert len(native) > 10
    assert set(native) <= set(CONFIG_MAPPING)
    # A type comes before the model that is an example of it.
    assert brought[0] not in CONFIG_MAPPING
    assert refused[0] not in CONFIG_MAPPING
