"""The runtime of exported models: no torch, the processor's pixels and tokens, the pipeline's scores."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, SiglipImageProcessor, ViTImageProcessor, pipeline

from common.models.loading import load_model
from deploy.onnx import latency_job
from deploy.onnx import pictures as onnx_pictures
from deploy.onnx.pictures import Preparation, read_picture
from deploy.onnx.runtime import OnnxAltCLIP
from modeling_altclip.images_altclip import read_image

from .conftest import ROOT
from .test_onnx_export import TEXTS, TINY, captioned, exported, pictures  # noqa: F401  (fixtures)

WITHOUT_TORCH = """
import json, sys
from altclip.deploy.onnx.runtime import OnnxAltCLIP

model = OnnxAltCLIP.from_folder(sys.argv[1], n_threads=1)
texts = model.embed_texts(json.loads(sys.argv[2])).tolist()
print(json.dumps({"texts": texts, "scores": model.classify(sys.argv[3], ["a", "dog"])}))
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"torch", "transformers", "modeling_altclip", "common", "datasets", "onnx"}, loaded
"""


@pytest.fixture
def model(exported):  # noqa: F811
    return OnnxAltCLIP.from_folder(exported[0])


def test_neither_torch_nor_transformers_is_imported(exported, model, tmp_path):  # noqa: F811
    path = tmp_path / "picture.png"
    pictures(1)[0].save(path)
    command = [sys.executable, "-c", WITHOUT_TORCH, exported[0], json.dumps(TEXTS), path]
    (tmp_path / "temporary").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment["TMPDIR"] = str(tmp_path / "temporary")
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    # onnxruntime's telemetry would have left a file of its session.
    assert list((tmp_path / "temporary").iterdir()) == []
    found = json.loads(process.stdout)
    np.testing.assert_allclose(found["texts"], model.embed_texts(TEXTS), atol=1e-6)
    assert [score["label"] for score in found["scores"]] == [
        score["label"] for score in model.classify(path, ["a", "dog"])
    ]


def drawn():
    """Return pictures of every mode that PIL reads as 8 bits, by name."""
    rgb = pictures(3)[1].resize((40, 28))
    see_through = rgb.copy()
    see_through.putalpha(rgb.convert("L"))
    keyed = rgb.convert("P")
    keyed.info["transparency"] = 3
    made = {mode: rgb.convert(mode) for mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV")}
    made |= {mode: see_through.convert(mode) for mode in ("RGBA", "LA", "RGBa")}
    made["La"] = see_through.convert("LA").convert("La")
    made["keyed"] = keyed
    turned = rgb.copy()
    turned.getexif()[0x0112] = 6  # turn by 90 degrees to see it upright
    return made | {"turned": turned}


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30), None])
def test_pictures_are_read_as_by_the_model(background):
    for name, picture in drawn().items():
        expected = np.asarray(read_image(picture.copy(), background=background))
        found = np.asarray(read_picture(picture.copy(), background))
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessor(),
        CLIPImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 33, "width": 26}),
        CLIPImageProcessor(do_resize=False, crop_size={"height": 30, "width": 31}),
        ViTImageProcessor(),
        SiglipImageProcessor(size={"height": 48, "width": 32}),
    ],
    ids=["clip", "crop larger than the picture", "no resize", "vit", "siglip"],
)
def test_pixels_equal_the_processors(processor):
    prepare = Preparation.from_settings(json.loads(processor.to_json_string()))
    several = [*pictures(8), Image.new("RGB", (500, 333), "teal"), Image.new("RGB", (33, 33), "red")]
    for picture in several:
        expected = processor(images=[picture], return_tensors="np")["pixel_values"]
        found = prepare([picture])
        assert (found.shape, found.dtype) == (expected.shape, np.float32)
        assert np.abs(found - expected).max() < 1e-5


def test_scores_equal_the_pipelines(model):
    torch_model, processor = load_model(str(TINY))
    classify = pipeline(
        "zero-shot-image-classification",
        model=torch_model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
    )
    templates = ["a photo of {}", "dog {}"]
    labels = ["dog", "cat", "{}"]  # braces in a label are text
    expected = classify(pictures(3), labels, hypothesis_template=templates)
    found = model.classify(pictures(3), labels, template=templates)
    for of_image, of_pipeline in zip(found, expected):
        scores = {score["label"]: score["score"] for score in of_pipeline}
        assert {score["label"]: score["score"] for score in of_image} == pytest.approx(scores, abs=1e-5)
    one = model.classify(pictures(1)[0], labels, template=templates)
    assert sum(score["score"] for score in one) == pytest.approx(1)


def test_what_cannot_be_embedded_is_refused(model, monkeypatch, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    grey = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    for images, message in (
        ([], "images is empty"),
        (pictures(1)[0], "images is a single Image: put it into a list"),
        ([*pictures(2), tmp_path / "broken.png"], r"images\[2\] cannot be read: cannot identify"),
        ([*pictures(1), 7], r"images\[1\] cannot be read: it is a int: give a path"),
        ([grey], r"images\[0\] cannot be read: it has greys of 16 bits"),
        ([Image.new("RGB", (1, 900))], r"images\[0\] cannot be read: its size is 1x900"),
    ):
        with pytest.raises(ValueError, match=message):
            model.embed_images(images)
    monkeypatch.setattr(onnx_pictures, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="more than 100: shrink it"):
        model.embed_images([Image.new("RGB", (11, 10))])

    for texts, message in (
        ([], "texts is empty"),
        ("a dog", "texts is a single str: put it into a list"),
        (["a dog", 3], r"texts\[1\] is 3, not a string"),
    ):
        with pytest.raises(ValueError, match=message):
            model.embed_texts(texts)
    with pytest.raises(ValueError, match="has to have {} once"):
        model.classify(pictures(1), ["dog"], template="a photo")


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="altclip_export.json is not there: give a folder that `altclip export`"
    ):
        OnnxAltCLIP.from_folder(tmp_path)


def test_latency_is_compared_in_four_ways(capsys):
    latency_job.main(latency_job._LatencyArguments(tokens=4, layers=1, repeats=1))
    processor, header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["tower", "transformers", "ours"]
    for row, name in zip(rows, ("text_model", "vision_model"), strict=True):
        assert row.startswith(name)
        assert row.count(" ms") == 4
        assert sum(cell.endswith("x") for cell in row.split()) == 3  # gains
