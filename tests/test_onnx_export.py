"""`altclip export`: towers in ONNX that equal torch's, in transformers.js' layout, behind a quality gate."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, BertConfig, CLIPImageProcessor, CLIPModel, ViTConfig

from common.errors import InputError
from common.models.loading import load_model, save_model
from deploy.onnx import folder as export_folder
from deploy.onnx import graphs
from deploy.onnx.examples import examples_of
from deploy.onnx.gate import Validation
from deploy.onnx.job import ExportArguments, main
from deploy.onnx.runtime import RECORD, OnnxAltCLIP
from modeling_altclip import (
    AltCLIPDualEncoderConfig,
    AltCLIPDualEncoderModel,
    AltCLIPProcessor,
    embed_images,
    embed_texts,
)

from .conftest import ROOT

TINY = ROOT / "tests/fixtures/v0.1.0/model"
DTYPES = ["fp32", "fp16", "int8", "q8", "q4"]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXTS = ["a dog", "一只狗", "a", "two dogs and a cat " * 20, "кот", "dog"]
LANGUAGES = ("en", "zh")


def pictures(n_pictures=6):
    generator = np.random.default_rng(0)
    sizes = generator.integers(5, 60, (n_pictures, 2))
    return [Image.fromarray(generator.integers(0, 255, (*size, 3), np.uint8)) for size in sizes]


def export(model, output_dir, **given):
    main(ExportArguments(model_name_or_path=str(model), output_dir=str(output_dir), **given))
    return json.loads((output_dir / RECORD).read_text())


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Write a folder of 12 pictures with captions in two languages."""
    folder = tmp_path_factory.mktemp("captioned")
    lines = []
    for number, picture in enumerate(pictures(12)):
        picture.save(folder / f"{number}.png")
        captions = {language: f"{language} dog {number}" for language in LANGUAGES}
        lines.append(json.dumps({"file_name": f"{number}.png", "captions": captions}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory, captioned):
    """Export the AltCLIP of the fixtures in all formats; return the folder and its record."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    record = export(
        TINY, folder, dtypes=DTYPES, validation_dataset=str(captioned), validation_split="train", max_drop=100
    )
    return folder, record


@pytest.fixture
def without_tracing(monkeypatch, exported):
    """Copy the graphs of `exported`, in place of tracing the same towers once more."""

    def copy(tower, path, *, half=False):
        graphs.save_graph(onnx.load(export_folder.path_of(exported[0], tower.name, "fp32")), path)

    monkeypatch.setattr(export_folder, "write_graph", copy)


def shape_of(value):
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_the_folder_has_the_layout_of_transformers_js(exported):
    folder, record = exported
    suffixes = ("", "_fp16", "_int8", "_quantized", "_q4")
    names = {f"onnx/{tower}{suffix}.onnx" for tower in ("text_model", "vision_model") for suffix in suffixes}
    settings = {"config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", RECORD}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names | settings <= found
    assert not [name for name in found if name.endswith((".py", ".tmp", ".safetensors"))]

    for dtype in DTYPES:
        text = onnx.load(export_folder.path_of(folder, "text_model", dtype)).graph
        shapes = {value.name: shape_of(value) for value in (*text.input, *text.output)}
        tokens = ["batch", "tokens"]
        assert shapes == {"input_ids": tokens, "attention_mask": tokens, "text_embeds": ["batch", 8]}
        vision = onnx.load(export_folder.path_of(folder, "vision_model", dtype)).graph
        shapes = {value.name: shape_of(value) for value in (*vision.input, *vision.output)}
        assert shapes == {"pixel_values": ["batch", 3, 8, 8], "image_embeds": ["batch", 8]}
        types = {value.type.tensor_type.elem_type for value in (*vision.input, *vision.output)}
        assert types == {onnx.TensorProto.FLOAT}

    graph = onnx.load(export_folder.path_of(folder, "text_model", "fp32"))
    assert {one.domain: one.version for one in graph.opset_import}[""] == record["opset"] == 18
    assert "auto_map" not in (folder / "config.json").read_text()
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 16


def test_embeddings_equal_torch_at_every_batch_and_length(exported):
    folder, record = exported
    model, processor = load_model(str(TINY))
    onnx_model = OnnxAltCLIP.from_folder(folder)
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:3], TEXTS * 3):
        expected = embed_texts(model, processor, texts, convert_to_numpy=True)
        assert np.abs(onnx_model.embed_texts(texts, batch_size=4) - expected).max() < 1e-5
    for images in (pictures(1), pictures(9)):
        expected = embed_images(model, processor, images, convert_to_numpy=True)
        assert np.abs(onnx_model.embed_images(images, batch_size=4) - expected).max() < 1e-5
    assert max(record["compared"]["largest_difference"].values()) < 1e-5
    cosines = record["compared"]["smallest_cosine"]
    assert min(cosines["fp16"].values()) > 0.9999
    assert min(cosines["int8"].values()) > 0.99  # of 8 dimensions with random weights


@pytest.fixture(scope="module")
def dual_encoder(tmp_path_factory):
    """Export a dual encoder of BERT, pooled by the mean as mE5 is, and ViT; return both folders."""
    folder = tmp_path_factory.mktemp("dual_encoder")
    torch.manual_seed(0)
    config = AltCLIPDualEncoderConfig(
        text_config=BertConfig(**SIZES, vocab_size=32, max_position_embeddings=30).to_dict(),
        vision_config=ViTConfig(**SIZES, image_size=16, patch_size=8).to_dict(),
        text_pooling="mean",
        vision_pooling="cls",
        projection_dim=20,
        text_head="mlp",
        logit_bias_init_value=-2.0,
    )
    size = {"height": 16, "width": 16}
    image_processor = CLIPImageProcessor(size=size, resample=2, do_center_crop=False, image_std=[0.5] * 3)
    processor = AltCLIPProcessor(image_processor, AutoTokenizer.from_pretrained(TINY))
    save_model(AltCLIPDualEncoderModel(config), processor, folder / "model")
    export(folder / "model", folder / "out", dtypes=["fp32", "int8", "q8", "q4"])
    return folder / "model", folder / "out"


def test_a_dual_encoder_equals_torch(dual_encoder):
    onnx_model = OnnxAltCLIP.from_folder(dual_encoder[1])
    model, processor = load_model(str(dual_encoder[0]))
    for texts in (TEXTS, TEXTS[2:3]):
        expected = embed_texts(model, processor, texts, convert_to_numpy=True)
        assert np.abs(onnx_model.embed_texts(texts) - expected).max() < 1e-5
    expected = embed_images(model, processor, pictures(), convert_to_numpy=True)
    assert np.abs(onnx_model.embed_images(pictures()) - expected).max() < 1e-5


def test_a_model_of_the_sigmoid_loss_scores_each_label_alone(dual_encoder):
    model = OnnxAltCLIP.from_folder(dual_encoder[1])
    scores = model.classify(pictures()[0], ["dog", "cat"])
    similarity = model.embed_images(pictures()[:1]) @ model.embed_texts(["This is a photo of dog."]).T
    logit = model.logit_scale * similarity.item() - 2.0
    by_label = {score["label"]: score["score"] for score in scores}
    assert by_label["dog"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


def test_layers_and_token_embeddings_are_quantized(dual_encoder):
    # A tower has two layers of six linear ones each, and the last of the six narrows.
    in_integers = {"int8": {"MatMulInteger": 10, "MatMulNBits": 2}, "q8": {"MatMulNBits": 12}}
    in_integers["q4"] = in_integers["q8"]
    for dtype, operators in in_integers.items():
        for tower in ("text_model", "vision_model"):
            graph = onnx.load(export_folder.path_of(dual_encoder[1], tower, dtype)).graph
            for operator, least in operators.items():
                count = sum(node.op_type == operator for node in graph.node)
                assert count >= least, (dtype, tower, operator)
        text_model = onnx.load(export_folder.path_of(dual_encoder[1], "text_model", dtype)).graph
        types = {weight.name: weight.data_type for weight in text_model.initializer}
        (tokens,) = [name for name in types if "word_embeddings" in name and not name.endswith("_scales")]
        assert types[tokens] == onnx.TensorProto.INT8, dtype


def test_outliers_are_found_in_captions_and_pictures_of_the_gate(exported, captioned):
    """Each of the 12 pictures has its caption in one language; without a gate examples are our own."""
    own = examples_of(*exported, None)
    taken = examples_of(*exported, Validation.load(str(captioned), "train", list(LANGUAGES)))
    tokens = {}
    for name, examples in (("own", own), ("taken", taken)):
        tokens[name] = [example["input_ids"].tolist() for example in examples["text_model"]]
    expected = [f"{language} dog {number}" for number, language in enumerate(LANGUAGES * 6)]
    assert tokens["taken"] == [[ids] for ids in OnnxAltCLIP.from_folder(exported[0]).tokenize(expected)]
    assert len(taken["vision_model"]) == 12
    assert tokens["own"] and not [ids for ids in tokens["own"] if ids in tokens["taken"]]


def test_the_gate_records_what_it_measured(exported):
    gate = exported[1]["gate"]
    assert (gate["rows"], gate["max_drop"]) == (12, 100)
    assert list(gate["mean_recall"]) == DTYPES
    assert all(set(by_language) == set(LANGUAGES) for by_language in gate["mean_recall"].values())
    # 12 images at random: 1 in 12 first, and 10 in 12 among the first ten.
    assert all(10 < points < 90 for points in gate["mean_recall"]["fp32"].values())


def spoiled(source, target, dtype, examples):
    """Write zeros in place of a graph's matrices: every text gets the same embedding."""
    graph = onnx.load(source)
    for weight in graph.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) == 2:
            zeros = np.zeros(weight.dims, np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(zeros, weight.name))
    onnx.save_model(graph, target)


def test_the_gate_refuses_a_spoiled_model(tmp_path, monkeypatch, without_tracing, captioned):
    monkeypatch.setattr(export_folder, "quantize", spoiled)
    given = {"dtypes": ["int8"], "validation_dataset": str(captioned), "validation_split": "train"}
    with pytest.raises(
        InputError, match=r"int8 loses \d+\.\d\d points of mean recall in (en|zh), .*leave int8"
    ):
        export(TINY, tmp_path / "out", **given)
    assert list(tmp_path.iterdir()) == []
    # With the drop allowed, the same model is written.
    export(TINY, tmp_path / "out", max_drop=100, **given)


def test_without_validation_data_no_gate_is_applied(tmp_path, without_tracing, capsys):
    record = export(TINY, tmp_path / "out", dtypes=["int8"])
    assert "No gate was applied: give --validation_dataset" in capsys.readouterr().out
    assert record["gate"] is None
    # float32 was made for int8 alone.
    assert sorted(path.name for path in (tmp_path / "out/onnx").iterdir()) == [
        "text_model_int8.onnx",
        "vision_model_int8.onnx",
    ]
    OnnxAltCLIP.from_folder(tmp_path / "out", dtype="int8").embed_texts(["a dog"])
    with pytest.raises(ValueError, match="dtype is 'fp32', and .* has int8: choose one of them"):
        OnnxAltCLIP.from_folder(tmp_path / "out")


def test_weights_of_more_than_2_gb_lie_beside_the_graph(tmp_path, monkeypatch, without_tracing, exported):
    monkeypatch.setattr(graphs, "_LARGEST_FILE", 0)
    export(TINY, tmp_path / "out", dtypes=["fp32"])
    names = ["text_model.onnx", "vision_model.onnx"]
    files = sorted(path.name for path in (tmp_path / "out/onnx").iterdir())
    assert files == sorted([*names, *(f"{name}_data" for name in names)])
    settings = json.loads((tmp_path / "out/config.json").read_text())
    assert settings["transformers.js_config"]["use_external_data_format"] == dict.fromkeys(names, 1)
    embeddings = OnnxAltCLIP.from_folder(tmp_path / "out").embed_texts(TEXTS)
    np.testing.assert_array_equal(embeddings, OnnxAltCLIP.from_folder(exported[0]).embed_texts(TEXTS))


@pytest.mark.parametrize(
    "given,message",
    [
        ({"dtypes": ["int4"]}, "dtypes is int4: give some of fp32 fp16"),
        ({"dtypes": ["int8", "int8"]}, "dtypes is int8 int8: .* each once"),
        ({"max_drop": -1.0}, "max_drop is -1.0: give a number of points"),
        ({"languages": ["en"]}, "languages is en, which the gate alone reads: give a validation_dataset"),
    ],
)
def test_arguments_are_refused(given, message, tmp_path):
    with pytest.raises(InputError, match=message):
        ExportArguments(model_name_or_path=str(TINY), output_dir=str(tmp_path / "out"), **given)


def test_input_is_refused_before_anything_is_written(tmp_path, tower_folders, captioned):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(InputError, match="output_dir .* is there already"):
        export(TINY, tmp_path / "full")

    clip = CLIPModel.from_pretrained(tower_folders[0])
    clip.config.text_config.eos_token_id = 2  # that of the tokenizer
    clip.save_pretrained(tower_folders[0])
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    AltCLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(tower_folders[0])
    with pytest.raises(InputError, match="is a CLIPModel: give an AltCLIPModel"):
        export(tower_folders[0], tmp_path / "out")

    given = {"validation_dataset": str(captioned), "validation_split": "train"}
    with pytest.raises(InputError, match="fr"):
        export(TINY, tmp_path / "out", languages=["fr"], **given)
    assert not (tmp_path / "out").exists()


def test_an_image_processor_of_other_steps_is_refused(tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model/processor_config.json").unlink()
    path = tmp_path / "model/preprocessor_config.json"
    settings = json.loads(path.read_text())
    settings |= {"image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True}
    settings |= {"size": {"height": 8, "width": 8}}
    path.write_text(json.dumps(settings))
    with pytest.raises(InputError, match="prepares images otherwise than by resizing"):
        export(tmp_path / "model", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
