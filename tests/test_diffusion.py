"""AltCLIP's text tower in Stable Diffusion: drawing, saving, and training keys and values alone. Everything is random and tiny."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import AltCLIPTextModel as NativeTextModel

from modeling_altclip import AltCLIPModel, AltCLIPTextModel
from training.miniature.scenes import read_concepts

from .conftest import ROOT


@pytest.fixture
def altclip(miniature):
    torch.manual_seed(0)
    model = AltCLIPModel.from_teacher(
        str(miniature / "clip"), str(miniature / "text_encoder"), dropout=0.0
    ).eval()
    model.text_model.pre_LN.weight.data.uniform_(
        0.5, 2.0
    )  # untrained, it would change nothing after XLM-R's own last norm
    return model


def build(text_encoder, tokenizer):
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
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, prompt):
    return pipeline(
        prompt, num_inference_steps=3, generator=torch.Generator().manual_seed(2), output_type="np"
    ).images[0]


@pytest.mark.parametrize("normalize_tokens", [True, False])
def test_equal_vectors_draw_equal_pictures(altclip, processor, tmp_path, normalize_tokens):
    """A name and its Chinese name, each one token, are given one vector: as if stage 1 had succeeded perfectly."""
    altclip.save_pretrained(tmp_path / "altclip")
    text_model = AltCLIPTextModel.from_pretrained(
        tmp_path / "altclip", normalize_tokens=normalize_tokens
    ).eval()
    tokenizer = processor.tokenizer
    names = read_concepts()["languages"]
    pairs = zip(names["en"]["names"], names["zh"]["names"])
    english, chinese = next(
        pair for pair in pairs if all(len(tokenizer(name)["input_ids"]) == 3 for name in pair)
    )
    pipeline = build(text_model, tokenizer)
    before = draw(pipeline, english)
    assert np.abs(before - draw(pipeline, chinese)).max() > 1e-4
    embeddings = text_model.get_input_embeddings().weight.data
    embeddings[tokenizer(chinese)["input_ids"][1]] = embeddings[tokenizer(english)["input_ids"][1]]
    assert np.abs(draw(pipeline, chinese) - before).max() < 1e-5
    assert np.abs(draw(pipeline, english) - before).max() < 1e-5
    pipeline.save_pretrained(tmp_path / "pipeline")
    named = json.loads((tmp_path / "pipeline/model_index.json").read_text())["text_encoder"]
    assert named == [
        "transformers" if normalize_tokens else "modeling_altclip.modeling_altclip",
        "AltCLIPTextModel",
    ]
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.text_encoder) is (NativeTextModel if normalize_tokens else AltCLIPTextModel)
    assert np.abs(draw(loaded, chinese) - before).max() < 1e-5
    loaded.text_encoder = AltCLIPTextModel.from_pretrained(
        tmp_path / "pipeline/text_encoder"
    )  # ours, where it is wanted
    assert np.abs(draw(loaded, chinese) - before).max() < 1e-5


def test_a_saved_pipeline_needs_transformers_alone(altclip, processor, run, tmp_path):
    build(altclip.text_model, processor.tokenizer).save_pretrained(tmp_path / "pipeline")
    code = """
import sys
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
assert "modeling_altclip" not in sys.modules
print(type(pipeline.text_encoder).__module__, pipeline.text_encoder.config.use_attention_mask)
"""
    process = run(
        "python", "-c", code, tmp_path / "pipeline", cwd=tmp_path, PYTHONPATH="", PYTHONSAFEPATH="1"
    )
    assert process.stdout.strip() == "transformers.models.altclip.modeling_altclip True", process.stderr[
        -2000:
    ]


def test_a_tower_that_is_changed_later_is_not_saved(altclip, tmp_path):
    """A pipeline that was built before names the class that always normalizes."""
    altclip.text_model.config.normalize_tokens = False
    with pytest.raises(ValueError, match="normalize_tokens=False was set after the model was made"):
        altclip.text_model.save_pretrained(tmp_path)
    altclip.save_pretrained(tmp_path)  # all of it is no pipeline's


def test_tokens_with_and_without_the_norm(altclip, processor):
    """Two ways to read the tokens, one pooled vector; padding to 77 changes no word's vector."""
    texts = processor.tokenizer(["ghost and bell"], padding="max_length", max_length=77, return_tensors="pt")
    short = processor.tokenizer(["ghost and bell"], return_tensors="pt")
    text_model, states = altclip.text_model, {}
    with torch.no_grad():
        for normalize_tokens in (True, False):
            text_model.config.normalize_tokens = normalize_tokens
            states[normalize_tokens] = text_model(**texts)
            n_tokens = short["input_ids"].shape[1]
            torch.testing.assert_close(
                states[normalize_tokens].last_hidden_state[:, :n_tokens],
                text_model(**short).last_hidden_state,
            )
        plain = text_model.transformation(text_model.roberta(**texts).last_hidden_state)
    assert states[True].last_hidden_state.shape == (1, 77, text_model.config.project_dim)
    torch.testing.assert_close(states[False].last_hidden_state, plain)
    assert (states[True].last_hidden_state - plain).abs().max() > 1e-2
    torch.testing.assert_close(states[True].pooler_output, states[False].pooler_output)
    assert torch.equal(states[True].pooler_output, states[True].last_hidden_state[:, 0])


def test_only_keys_and_values_learn(altclip, processor, miniature, run, tmp_path):
    altclip.text_model.config.normalize_tokens = True
    altclip.save_pretrained(tmp_path / "altclip")
    processor.save_pretrained(tmp_path / "altclip")
    build(altclip.text_model, processor.tokenizer).save_pretrained(tmp_path / "start")
    process = run(
        *[
            "python",
            ROOT / "training/run_diffusion.py",
            ROOT / "training/recipes/altdiffusion/diffusion.yaml",
        ],
        *["--model_name_or_path", tmp_path / "altclip", "--diffusion_name_or_path", tmp_path / "start"],
        *[
            "--dataset",
            miniature / "dataset",
            "--output_dir",
            tmp_path / "altdiffusion",
            "--languages",
            "en",
            "zh",
            "th",
        ],
        *[
            "--max_steps",
            "10",
            "--warmup_steps",
            "0",
            "--bf16",
            "false",
            "--use_cpu",
            "true",
            "--save_strategy",
            "no",
        ],
    )
    assert process.returncode == 0, process.stderr
    assert "Saved the pipeline to" in process.stdout.splitlines()[-1]
    weights = "unet/diffusion_pytorch_model.safetensors"
    before, after = load_file(tmp_path / "start" / weights), load_file(tmp_path / "altdiffusion" / weights)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in after if ".attn2.to_k." in name or ".attn2.to_v." in name}
    assert moved
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        one, two = load_file(tmp_path / "start" / part), load_file(tmp_path / "altdiffusion" / part)
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "altdiffusion")
    pipeline.set_progress_bar_config(disable=True)
    assert np.isfinite(draw(pipeline, "狗脸")).all()
