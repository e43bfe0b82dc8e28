"""AltCLIP's text tower in Stable Diffusion: generation, saving, and training keys and values alone.

Everything is random and tiny.
"""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AltCLIPTextModel as NativeTextModel

from benchmarks.clip_scores import clip_scores
from common.errors import InputError
from common.models.loading import load_model
from modeling_altclip import AltCLIPModel, AltCLIPTextModel, embed_images, embed_texts
from training.arguments import DiffusionArguments
from training.diffusion_scores import PromptScorer
from training.miniature.scenes import read_concepts

from .conftest import ROOT


@pytest.fixture
def altclip(miniature):
    torch.manual_seed(0)
    clip, encoder = str(miniature / "clip"), str(miniature / "text_encoder")
    model = AltCLIPModel.from_teacher(clip, encoder, dropout=0.0).eval()
    # Untrained, this norm would change nothing after XLM-R's own last norm.
    model.text_model.pre_LN.weight.data.uniform_(0.5, 2.0)
    return model


def build(text_encoder, tokenizer):
    """Build a random Stable Diffusion pipeline around a text encoder."""
    torch.manual_seed(1)
    layers = {"block_out_channels": (8, 16), "norm_num_groups": 4}
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text_encoder.config.project_dim,
        attention_head_dim=4,
        **layers,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **layers
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        # diffusers warns of a scheduler with other values, and sets these two itself.
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, prompt):
    """Generate one image, with the same noise at each call."""
    generator = torch.Generator().manual_seed(2)
    return pipeline(prompt, num_inference_steps=3, generator=generator, output_type="np").images[0]


def largest_difference(image, other):
    return np.abs(image - other).max()


@pytest.mark.parametrize("normalize_tokens", [True, False])
def test_equal_vectors_draw_equal_pictures(altclip, processor, tmp_path, normalize_tokens):
    """Give an English name and its Chinese one the same embedding, as if stage 1 were perfect."""
    altclip.save_pretrained(tmp_path / "altclip")
    text_model = AltCLIPTextModel.from_pretrained(tmp_path / "altclip", normalize_tokens=normalize_tokens)
    text_model.eval()
    tokenizer = processor.tokenizer

    # The first concept whose name is one token in both languages: <s>, the token, </s>.
    names = read_concepts()["languages"]
    for english, chinese in zip(names["en"]["names"], names["zh"]["names"]):
        english_ids = tokenizer(english)["input_ids"]
        chinese_ids = tokenizer(chinese)["input_ids"]
        if len(english_ids) == len(chinese_ids) == 3:
            break
    else:
        pytest.fail("no name is one token in both languages")

    pipeline = build(text_model, tokenizer)
    before = draw(pipeline, english)
    assert largest_difference(before, draw(pipeline, chinese)) > 1e-4
    embeddings = text_model.get_input_embeddings().weight.data
    embeddings[chinese_ids[1]] = embeddings[english_ids[1]]
    assert largest_difference(draw(pipeline, chinese), before) < 1e-5
    assert largest_difference(draw(pipeline, english), before) < 1e-5

    # Without the norm the tower is ours alone; with it, the saved pipeline names transformers' class.
    pipeline.save_pretrained(tmp_path / "pipeline")
    library, class_name = json.loads((tmp_path / "pipeline/model_index.json").read_text())["text_encoder"]
    assert library == ("transformers" if normalize_tokens else "modeling_altclip.modeling_altclip")
    assert class_name == "AltCLIPTextModel"
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.text_encoder) is (NativeTextModel if normalize_tokens else AltCLIPTextModel)
    assert largest_difference(draw(loaded, chinese), before) < 1e-5

    # Our class can take its place.
    loaded.text_encoder = AltCLIPTextModel.from_pretrained(tmp_path / "pipeline/text_encoder")
    assert largest_difference(draw(loaded, chinese), before) < 1e-5


def test_a_saved_pipeline_needs_transformers_alone(altclip, processor, run_python, tmp_path):
    build(altclip.text_model, processor.tokenizer).save_pretrained(tmp_path / "pipeline")
    code = """
import sys
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
assert "modeling_altclip" not in sys.modules
print(type(pipeline.text_encoder).__module__, pipeline.text_encoder.config.use_attention_mask)
"""
    without_ours = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    process = run_python("python", "-c", code, tmp_path / "pipeline", cwd=tmp_path, **without_ours)
    said = process.stdout.strip()
    assert said == "transformers.models.altclip.modeling_altclip True", process.stderr[-2000:]


def test_a_tower_that_is_changed_later_is_not_saved(altclip, tmp_path):
    """A pipeline that was built before names the class that always normalizes."""
    altclip.text_model.config.normalize_tokens = False
    with pytest.raises(ValueError, match="normalize_tokens=False was set after the model was made"):
        altclip.text_model.save_pretrained(tmp_path)
    altclip.save_pretrained(tmp_path)  # the whole model belongs to no pipeline


def test_tokens_with_and_without_the_norm(altclip, processor):
    """Tokens are read with or without the norm, and the pooled embedding is the same.

    Padding to 77 tokens changes no word's state.
    """
    texts = processor.tokenizer(["ghost and bell"], padding="max_length", max_length=77, return_tensors="pt")
    short = processor.tokenizer(["ghost and bell"], return_tensors="pt")
    n_tokens = short["input_ids"].shape[1]
    text_model = altclip.text_model
    states = {}
    with torch.no_grad():
        for normalize_tokens in (True, False):
            text_model.config.normalize_tokens = normalize_tokens
            states[normalize_tokens] = text_model(**texts)
            words = states[normalize_tokens].last_hidden_state[:, :n_tokens]
            torch.testing.assert_close(words, text_model(**short).last_hidden_state)
        plain = text_model.transformation(text_model.roberta(**texts).last_hidden_state)

    assert states[True].last_hidden_state.shape == (1, 77, text_model.config.project_dim)
    torch.testing.assert_close(states[False].last_hidden_state, plain)
    assert (states[True].last_hidden_state - plain).abs().max() > 1e-2
    torch.testing.assert_close(states[True].pooler_output, states[False].pooler_output)
    assert torch.equal(states[True].pooler_output, states[True].last_hidden_state[:, 0])


def test_only_keys_and_values_learn(altclip, processor, miniature, run_python, tmp_path):
    altclip.text_model.config.normalize_tokens = True
    altclip.save_pretrained(tmp_path / "altclip")
    processor.save_pretrained(tmp_path / "altclip")
    build(altclip.text_model, processor.tokenizer).save_pretrained(tmp_path / "start")

    command = ["python", ROOT / "training/run_diffusion.py"]
    command += [ROOT / "training/recipes/altdiffusion/diffusion.yaml"]
    command += ["--model_name_or_path", tmp_path / "altclip", "--diffusion_name_or_path", tmp_path / "start"]
    command += ["--dataset", miniature / "dataset", "--languages", "en", "zh", "th"]
    command += ["--output_dir", tmp_path / "altdiffusion", "--save_strategy", "no"]
    command += ["--max_steps", "10", "--warmup_steps", "0", "--bf16", "false", "--use_cpu", "true"]
    command += ["--clip_model_name_or_path", tmp_path / "altclip"]
    command += ["--clip_captions", "2", "--clip_steps", "2", "--learning_rate", "0.1"]
    process = run_python(*command)
    assert process.returncode == 0, process.stderr
    scores = json.loads((tmp_path / "altdiffusion/clip_scores.json").read_text())
    assert list(scores) == ["before", "after"]
    assert list(scores["before"]) == list(scores["after"]) == ["en", "zh", "th"]
    assert scores["before"] != scores["after"]
    said = " ".join(process.stdout.split())
    assert f"| zh | {scores['before']['zh']:.1f} | {scores['after']['zh']:.1f} |" in said
    assert "Saved the pipeline to" in process.stdout.splitlines()[-1]

    # attn2 is cross-attention, from image to text.
    weights = "unet/diffusion_pytorch_model.safetensors"
    before = load_file(tmp_path / "start" / weights)
    after = load_file(tmp_path / "altdiffusion" / weights)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in after if ".attn2.to_k." in name or ".attn2.to_v." in name}
    assert moved
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        before = load_file(tmp_path / "start" / part)
        after = load_file(tmp_path / "altdiffusion" / part)
        assert all(torch.equal(value, after[name]) for name, value in before.items())

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "altdiffusion")
    pipeline.set_progress_bar_config(disable=True)
    assert np.isfinite(draw(pipeline, "狗脸")).all()


def test_scores_are_of_the_same_noise_and_of_english(altclip_folder, tmp_path):
    captions = [
        {"en": ["key", "other"], "zh": ["钥匙"]},
        {"en": ["dog"], "zh": [" "]},
        {"en": ["cat"], "zh": ["猫"]},
    ]
    arguments = DiffusionArguments(
        model_name_or_path="a",
        diffusion_name_or_path="d",
        dataset="d",
        output_dir=str(tmp_path),
        clip_model_name_or_path=str(altclip_folder),
        clip_captions=2,
        use_cpu=True,
    )
    rows = Dataset.from_list([{"captions": of_row} for of_row in captions])
    scorer = PromptScorer(arguments, rows, ["en", "zh"])
    drawn = []

    def draw(prompt, noise):
        drawn.append((prompt, noise.initial_seed()))
        pixels = torch.rand(32, 32, 3, generator=noise)
        return Image.fromarray((255 * pixels).byte().numpy())

    scores = scorer.measure(draw)
    seed = arguments.seed
    assert drawn == [("key", seed), ("cat", seed + 1), ("钥匙", seed), ("猫", seed + 1)]
    assert scores["en"] == scores["zh"]  # equal pictures, and both against English

    model, processor = load_model(str(altclip_folder))
    pictures = [draw("", torch.Generator().manual_seed(seed + number)) for number in range(2)]
    expected = clip_scores(model, processor, pictures, ["key", "cat"]).mean().item()
    assert scores["en"] == pytest.approx(expected, abs=1e-3)
    images = embed_images(model, processor, pictures)
    texts = embed_texts(model, processor, ["key", "cat"])
    assert expected == pytest.approx(100 * (images @ texts.T).diag().mean().item(), abs=1e-3)
    with pytest.raises(ValueError, match="2 pictures and 1 texts"):
        clip_scores(model, processor, pictures, ["key"])

    arguments.clip_captions = 3
    with pytest.raises(
        InputError, match="clip_captions is 3, and of the first 3 rows 2 have captions in all"
    ):
        PromptScorer(arguments, rows, ["en", "zh"])
