"""`altclip draw`: prompts in many languages, the same noise for each, the grid, and CLIP scores."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError
from common.models.loading import load_model
from deploy.drawing.grid import draw_grid
from deploy.drawing.job import DrawArguments, main
from deploy.drawing.prompts import read_prompts
from modeling_altclip import AltCLIPModel, embed_images, embed_texts

from .test_diffusion import build


@pytest.fixture
def pipeline(miniature, processor, tmp_path):
    """Return the folder of a random pipeline with our text tower."""
    torch.manual_seed(0)
    model = AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"), dropout=0.0)
    build(model.eval().text_model, processor.tokenizer).save_pretrained(tmp_path / "pipeline")
    return str(tmp_path / "pipeline")


@pytest.fixture
def draw(pipeline, tmp_path):
    """Return a function that draws in a few steps, and returns its folder and its record."""

    def draw(*prompts, name="drawn", **given):
        folder = tmp_path / name
        fixed = {"pictures": 2, "steps": 2, "pipeline": pipeline}
        main(DrawArguments(prompts=list(prompts), output_dir=str(folder), **fixed | given))
        return folder, json.loads((folder / "drawn.json").read_text())

    return draw


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_pictures_of_a_column_differ_by_the_prompt_alone(draw):
    folder, record = draw("en=ghost and bell", "de=ghost and bell", "zh=钥匙")
    for number in (1, 2):
        english = pixels(folder / f"en-{number}.png")
        assert np.array_equal(english, pixels(folder / f"de-{number}.png"))
        assert not np.array_equal(english, pixels(folder / f"zh-{number}.png"))
    assert not np.array_equal(pixels(folder / "en-1.png"), pixels(folder / "en-2.png"))
    assert record["languages"]["zh"] == {"prompt": "钥匙", "files": ["zh-1.png", "zh-2.png"]}

    # The second picture has the noise of the next seed.
    later, _ = draw("en=ghost and bell", name="later", seed=1, pictures=1)
    assert np.array_equal(pixels(later / "en-1.png"), pixels(folder / "en-2.png"))


def test_scores_are_cosines_with_the_english_prompt(draw, altclip_folder, capsys):
    folder, record = draw("zh=钥匙", "en=key", clip_model_name_or_path=str(altclip_folder))
    model, processor = load_model(str(altclip_folder))
    pictures = [Image.open(folder / f"zh-{number}.png") for number in (1, 2)]
    expected = 100 * embed_images(model, processor, pictures) @ embed_texts(model, processor, ["key"])[0]
    found = record["languages"]["zh"]["clip_scores"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-3)
    said = capsys.readouterr().out
    assert f"| zh | 钥匙 | {np.mean(found):.1f} |" in " ".join(said.split()).replace("  ", " ")
    assert f"Next: open {folder}/grid.png" in said


def test_the_grid_has_a_row_for_each_language(tmp_path):
    red, blue = (Image.new("RGB", (64, 64), color) for color in ((255, 0, 0), (0, 0, 255)))
    draw_grid({"en": [red, blue], "zh": [blue, red]}, {"en": 31.5}, tmp_path / "grid.png")
    grid = pixels(tmp_path / "grid.png")
    assert grid.shape == (512, 96 + 512, 3)
    assert grid[128, 96 + 128].tolist() == [255, 0, 0]
    assert grid[128 + 256, 96 + 128].tolist() == [0, 0, 255]
    assert (grid[:256, :96] < 128).any()  # the label


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "prompts is empty"),
        (["a red apple"], "prompts has 'a red apple' without a language: write it as LANGUAGE=TEXT"),
        (["=apple"], "without a language"),
        (["en= "], "prompts has no text for en"),
        (["en=a", "en=b"], "prompts has en twice"),
    ],
)
def test_prompts_that_say_nothing_are_refused(words, message):
    with pytest.raises(InputError, match=message):
        read_prompts(words)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pictures": 0}, "pictures is 0: give a number of at least 1"),
        ({"steps": 0}, "steps is 0"),
        ({"dtype": "int8"}, "dtype is 'int8': choose from float32, bfloat16, float16"),
        ({"prompts": ["zh=钥匙"], "clip_model_name_or_path": "c"}, "prompts has no en"),
    ],
)
def test_arguments_are_checked(given, message):
    with pytest.raises(InputError, match=message):
        DrawArguments(**{"pipeline": "p", "prompts": ["en=a"], "output_dir": "o"} | given)


def test_what_is_no_pipeline_is_refused(draw, tmp_path, altclip_folder):
    with pytest.raises(InputError, match="pipeline .* has no model_index.json"):
        draw("en=key", pipeline=str(altclip_folder))
    with pytest.raises(InputError, match="pipeline"):
        draw("en=key", pipeline=str(tmp_path / "nothing"))
    assert not (tmp_path / "drawn").exists()
