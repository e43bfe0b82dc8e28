"""`altclip export --layout immich`, read by immich's rules, and `--joint`, both towers in one graph."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from common.errors import InputError
from common.models.loading import load_model
from deploy.onnx import job
from deploy.onnx.immich import check_readable
from deploy.onnx.job import ExportArguments
from deploy.onnx.runtime import OnnxAltCLIP, open_session
from modeling_altclip import embed_images, embed_texts

from .test_onnx_export import (  # noqa: F401  (fixtures)
    TEXTS,
    TINY,
    captioned,
    export,
    exported,
    pictures,
    without_tracing,
)


class Immich:
    """Reads a folder by the rules of immich's `OpenClipTextualEncoder` and `OpenClipVisualEncoder`.

    They are written here anew, from what those two do: one text or picture at a time, texts of int32 padded
    to the context length, the first output of a graph whatever its name, and no knowledge of the model.
    """

    def __init__(self, folder):
        self.textual = open_session(folder / "textual/model.onnx")
        self.visual = open_session(folder / "visual/model.onnx")
        self.preparation = json.loads((folder / "visual/preprocess_cfg.json").read_text())
        context_length = json.loads((folder / "config.json").read_text())["text_cfg"]["context_length"]
        pad_token = json.loads((folder / "textual/tokenizer_config.json").read_text())["pad_token"]
        self.tokenizer = Tokenizer.from_file(str(folder / "textual/tokenizer.json"))
        pad_id = self.tokenizer.token_to_id(pad_token)
        self.tokenizer.enable_padding(length=context_length, pad_token=pad_token, pad_id=pad_id)
        self.tokenizer.enable_truncation(max_length=context_length)

    def embed_text(self, text):
        ids = self.tokenizer.encode(" ".join(text.split())).ids
        return self.textual.run(None, {"text": np.array([ids], np.int32)})[0][0]

    def embed_picture(self, picture):
        size, *_ = self.preparation["size"]
        resample = Image.Resampling[self.preparation["interpolation"].upper()]
        width, height = picture.size
        if width < height:
            picture = picture.resize((size, int((height / width) * size)), resample)
        else:
            picture = picture.resize((int((width / height) * size), size), resample)
        left = int(picture.width / 2 - size / 2)
        upper = int(picture.height / 2 - size / 2)
        picture = picture.crop((left, upper, left + size, upper + size)).convert("RGB")
        pixels = np.asarray(picture, np.float32) / 255
        pixels = (pixels - np.float32(self.preparation["mean"])) / np.float32(self.preparation["std"])
        return self.visual.run(None, {"image": pixels.transpose(2, 0, 1)[None]})[0][0]


@pytest.fixture
def immich_folder(without_tracing, tmp_path):  # noqa: F811
    export(TINY, tmp_path / "immich", dtypes=["fp32"], layout="immich")
    return tmp_path / "immich"


def test_immich_reads_the_folder_as_torch_reads_the_model(immich_folder):
    model, processor = load_model(str(TINY))
    immich = Immich(immich_folder)
    found = np.stack([immich.embed_text(text) for text in TEXTS])
    np.testing.assert_allclose(found, embed_texts(model, processor, TEXTS, convert_to_numpy=True), atol=1e-5)

    # Of shapes for which both cut the same rows and columns out of the middle.
    images = [picture.resize(size) for picture, size in zip(pictures(3), ((32, 32), (64, 32), (24, 48)))]
    found = np.stack([immich.embed_picture(image) for image in images])
    expected = embed_images(model, processor, images, convert_to_numpy=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_folder_of_immich_has_its_files_and_no_others(immich_folder):
    files = {path.relative_to(immich_folder).as_posix() for path in immich_folder.rglob("*.*")}
    assert files == {
        "altclip_export.json",
        "config.json",
        "textual/model.onnx",
        "textual/tokenizer.json",
        "textual/tokenizer_config.json",
        "visual/model.onnx",
        "visual/preprocess_cfg.json",
    }
    inputs = []
    for tower in ("textual", "visual"):
        session = open_session(immich_folder / tower / "model.onnx")
        inputs += [(one.name, one.type) for one in session.get_inputs()]
        assert [one.name for one in session.get_outputs()] == ["embedding"]
    assert inputs == [("text", "tensor(int32)"), ("image", "tensor(float)")]
    assert json.loads((immich_folder / "config.json").read_text())["embed_dim"] == 8


@pytest.mark.parametrize(
    "settings,record,message",
    [
        ({"do_center_crop": False}, {}, "immich resizes pictures by their shortest edge"),
        ({"size": {"height": 8, "width": 8}}, {}, "immich resizes pictures by their shortest edge"),
        ({"size": {"shortest_edge": 9}}, {}, "immich resizes pictures by their shortest edge"),
        ({"do_normalize": False}, {}, "immich resizes pictures by their shortest edge"),
        ({}, {"pad_token": "</s>"}, "the tokenizer pads with '</s>', which is in texts too"),
        ({}, {"truncation_side": "left"}, "the tokenizer truncates on the left, and immich on the right"),
    ],
)
def test_what_immich_would_prepare_otherwise_is_refused(exported, tmp_path, settings, record, message):  # noqa: F811
    folder = exported[0]
    shutil.copy(folder / "tokenizer.json", tmp_path)
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated | settings))
    with pytest.raises(InputError, match=message):
        check_readable(tmp_path, exported[1] | record)


@pytest.mark.parametrize(
    "given,message",
    [
        ({"layout": "open_clip"}, "^layout is 'open_clip': give one of transformers.js immich"),
        ({"layout": "immich"}, "^dtypes is fp32 int8, and a folder of immich has one model"),
        ({"layout": "immich", "dtypes": ["fp32"], "joint": True}, "^joint is given, and immich reads"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        ExportArguments(model_name_or_path="x", output_dir="y", **given)


def test_a_joint_graph_scores_as_the_model(without_tracing, tmp_path):  # noqa: F811
    record = export(TINY, tmp_path / "joint", dtypes=["fp32", "int8"], joint=True)
    model = OnnxAltCLIP.from_folder(tmp_path / "joint")
    texts = ["a dog", "一只狗", "two dogs and a cat"]
    pixels = model.prepare_images(pictures(2))
    cosines = model.embed_images(pictures(2)) @ model.embed_texts(texts).T
    inputs = model._pad(model.tokenize(texts)) | {"pixel_values": pixels}
    for name, tolerance in (("model.onnx", 1e-5), ("model_int8.onnx", 0.1)):
        session = open_session(tmp_path / "joint/onnx" / name)
        by_name = dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs)))
        logits = record["logit_scale"] * cosines
        np.testing.assert_allclose(
            by_name["logits_per_image"], logits, atol=tolerance * record["logit_scale"]
        )
        np.testing.assert_array_equal(by_name["logits_per_text"], by_name["logits_per_image"].T)
        assert by_name["text_embeds"].shape == (3, 8)
        assert by_name["image_embeds"].shape == (2, 8)


def test_a_joint_graph_of_a_sigmoid_model_is_refused():
    with pytest.raises(InputError, match="^joint is given for a model with a logit_bias"):
        job._check_softmax({"logit_bias": -2.0})
