"""Teach Stable Diffusion to read AltCLIP's text embeddings (AltDiffusion, paper 5.4).

The UNet's cross-attention reads the text tower's embeddings of all 77 tokens. Only its keys and values learn;
the autoencoder, the text tower and the rest of the UNet stay frozen.
"""

from collections.abc import Callable

import torch
from PIL import Image
from torch import nn
from torch.nn.functional import mse_loss
from transformers import PreTrainedTokenizerBase

from common.errors import InputError
from common.extras import of_extra
from common.models.diffusion import load_diffusion_pipeline
from modeling_altclip import AltCLIPTextModel
from modeling_altclip.texts_altclip import tokenize

from .trainers import AltCLIPTrainer

with of_extra("diffusion"):
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from diffusers.image_processor import VaeImageProcessor

_KEYS_AND_VALUES = (".attn2.to_k.", ".attn2.to_v.")  # of cross-attention; attn1 is self-attention


class DiffusionCollator:
    """Collates examples of `text` and `image`.

    A batch has `input_ids` and `attention_mask` `(examples, max_length)`, and `pixel_values` within [-1, 1].

    Args:
        size: height and width in pixels.
        max_length: number of tokens that every prompt is padded to, as in Stable Diffusion's pipelines.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int, max_length: int):
        self.tokenizer = tokenizer
        self.size = size
        self.max_length = max_length
        self.images = VaeImageProcessor()

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        texts = tokenize(
            self.tokenizer,
            [example["text"] for example in examples],
            padding="max_length",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        images = [example["image"].convert("RGB") for example in examples]
        return {
            "input_ids": texts["input_ids"],
            "attention_mask": texts["attention_mask"],
            "pixel_values": self.images.preprocess(images, height=self.size, width=self.size),
        }


class DiffusionTrainer(AltCLIPTrainer):
    """Trains the UNet of `pipeline` to predict the noise that was added to an image, given its caption."""

    def __init__(self, pipeline: StableDiffusionPipeline, **kwargs):
        super().__init__(model=_keys_and_values_alone(pipeline.unet), **kwargs)
        self.vae = pipeline.vae.requires_grad_(False).eval().to(self.args.device)
        self.text_encoder = pipeline.text_encoder.requires_grad_(False).eval().to(self.args.device)
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # The frozen parts: an image becomes latents, and its caption one embedding per token.
        with torch.no_grad():
            latents = self.vae.encode(inputs["pixel_values"]).latent_dist.sample()
            latents = latents * self.vae.config.scaling_factor
            tokens = self.text_encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state

        # Each image gets noise of its own, at the level of a random step of the diffusion.
        noise = torch.randn_like(latents)
        n_steps = self.scheduler.config.num_train_timesteps
        steps = torch.randint(n_steps, (len(latents),), device=latents.device)
        noisy = self.scheduler.add_noise(latents, noise, steps)

        predicted = model(noisy, steps, tokens).sample
        # The checkpoint says what it predicts: the noise, or the velocity (Salimans & Ho 2022).
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, steps)
        loss = mse_loss(predicted.float(), target.float())
        return (loss, predicted) if return_outputs else loss


def load_pipeline(
    name_or_path: str, text_encoder: AltCLIPTextModel, tokenizer: PreTrainedTokenizerBase
) -> StableDiffusionPipeline:
    """Load Stable Diffusion with another text encoder and tokenizer in place of its own.

    Raises:
        InputError: there is no such pipeline, it is incomplete or damaged, or its cross-attention has another
            width than the text encoder.
    """
    parts = {
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "safety_checker": None,
        "requires_safety_checker": False,
    }
    pipeline = load_diffusion_pipeline("diffusion_name_or_path", name_or_path, **parts)
    expected_width = pipeline.unet.config.cross_attention_dim
    width = text_encoder.config.project_dim
    if expected_width != width:
        raise InputError(
            f"diffusion_name_or_path {name_or_path!r} reads texts of {expected_width} values, "
            f"and model_name_or_path gives {width}: "
            "take an AltCLIP whose teacher is the text encoder of that Stable Diffusion"
        )
    return pipeline


def draw_with(
    pipeline: StableDiffusionPipeline, n_steps: int
) -> Callable[[str, torch.Generator], Image.Image]:
    """Return a function that draws a picture of a prompt in `n_steps` steps, from a generator's noise."""
    pipeline.to(pipeline.unet.device).set_progress_bar_config(disable=True)

    def draw(prompt: str, noise: torch.Generator) -> Image.Image:
        is_training = pipeline.unet.training
        pipeline.unet.eval()
        picture = pipeline(prompt, num_inference_steps=n_steps, generator=noise).images[0]
        pipeline.unet.train(is_training)
        return picture

    return draw


def _keys_and_values_alone(unet: nn.Module) -> nn.Module:
    """Freeze all of a UNet except the keys and values of its cross-attention, and return it."""
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(any(part in name for part in _KEYS_AND_VALUES))
    return unet
