"""Parallel multilingual pre-training (Krasner & Lanuzo): an image and its captions in several languages at one step.

Two settings. `paper` is what the paper says: cosines, cross-entropy in both directions, all captions of an image right. `released` is
what the authors' code computes: raw dot products times a linear temperature that begins at 1, and captions choosing images only;
its models are compared by Euclidean distance. What it does wrong is not repeated:

- It masks token 0, XLM-R's `<s>`, whose vector it then takes, and attends to padding. Here the mask is the tokenizer's.
- It logs the mean cross-entropy divided by the number of captions, 32 in English alone and 128 in four languages, so that the
  second curve lies lower by construction. Here `caption_loss` is the mean over captions, each of which has as many candidates.
- From the first validation of an epoch to its end it trains in eval mode, without dropout. Here only a frozen encoder is in eval mode.
- It keeps one caption of an image, the last. Here all count that the data has.
- Of a picture that stands twice in a batch it counts the other's captions as wrong. Here rows of one picture, or of equal captions
  in English, are right for one another.

Its learning rate falls once an epoch; here with every step.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn.functional import embedding
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.utils import ModelOutput

from benchmarks.recipe import InputError
from modeling_altclip import AltCLIPDualEncoderModel

from .arguments import PairArguments
from .caption_rows import CaptionRows
from .data import CaptionCells
from .losses import caption_losses, contrastive_loss, gather_rows, gather_unequal
from .trainers import TEXTS, ContrastiveTrainer

SETTINGS = ("paper", "released")
ENCODERS = ("text_model", "vision_model")
LEAST_TEMPERATURE = 1e-3  # below zero, a linear one would push right pairs apart


@dataclass(kw_only=True)
class ParallelArguments(PairArguments):
    """Parallel multilingual pre-training: two encoders, and images with captions in several languages at once."""

    image_encoder_name_or_path: str = field(
        metadata={"help": "An image encoder, or a CLIP whose image tower is taken."}
    )
    text_encoder_name_or_path: str = field(metadata={"help": "A text encoder that reads the languages."})
    projection_dim: int = field(
        default=512, metadata={"help": "Width of the space that the interface layers lead to."}
    )
    image_pooling: str | None = field(
        default=None, metadata={"help": "cls, mean or pooler; by default what the encoder was made for."}
    )
    text_pooling: str | None = field(default=None, metadata={"help": "As image_pooling."})
    freeze_epochs: float = field(
        default=0.5, metadata={"help": "Epochs, parts of one too, in which the interface layers learn alone."}
    )
    setting: str = field(
        default="paper",
        metadata={"help": "paper (cosines, both directions) or released (as the authors' code)."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.setting not in SETTINGS:
            raise InputError(f"setting is {self.setting!r}: choose {' or '.join(SETTINGS)}")
        if self.freeze_epochs < 0:
            raise InputError(f"freeze_epochs is {self.freeze_epochs}: give a number of epochs, or 0 for none")
        for name in ("dry_run", "streaming"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is {getattr(self, name)}, and parallel training knows none: leave it out"
                )
        if self.setting == "released" and self.tile_size is not None:
            raise InputError(
                f"tile_size is {self.tile_size}, and the released loss has no tiles: leave it out"
            )
        self.ddp_find_unused_parameters = self.freeze_epochs > 0
        often = self.length_groups > 1 or self.gradient_cache_chunk is not None
        if often and self.ddp_find_unused_parameters and self.world_size > 1:
            raise InputError(
                "length_groups and gradient_cache_chunk run the model several times a step, which DDP cannot follow while encoders are "
                "frozen: leave them out, or set freeze_epochs to 0"
            )


def build_dual_encoder(arguments: ParallelArguments) -> AltCLIPDualEncoderModel:
    """Both encoders with a new interface layer each, biases included."""
    model = AltCLIPDualEncoderModel.from_towers(
        arguments.image_encoder_name_or_path,
        arguments.text_encoder_name_or_path,
        projection_dim=arguments.projection_dim,
        projection_bias=True,
        vision_pooling=arguments.image_pooling,
        text_pooling=arguments.text_pooling,
    )
    if arguments.setting == "released":
        model.logit_scale.data.fill_(1.0)  # the temperature itself until `ParallelTrainer.settle`
    model.set_attn_implementation(arguments.attn_implementation or model.config._attn_implementation)
    return model


class FreezeEncoders(TrainerCallback):
    """Freezes both encoders for the first `epochs` of training; interface layers and scale learn from the first step.

    The step is told by the state that a checkpoint keeps, so that a run which resumes thaws at the same one.
    """

    def __init__(self, model: AltCLIPDualEncoderModel, epochs: float):
        self.epochs = epochs
        self.learning = [
            value
            for part in ENCODERS
            for value in model.get_submodule(part).parameters()
            if value.requires_grad
        ]

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        for parameter in self.learning:
            parameter.requires_grad_(state.epoch >= self.epochs)


class ParallelTrainer(ContrastiveTrainer):
    """Batches are of `RowCollator`: each image is encoded once, and compared with its captions in all languages.

    Logs `caption_loss`, the mean over captions of choosing the image, and that of each language, such as `caption_loss_en`; these
    compare models of unequally many languages. An evaluation adds them for the validation set, in batches of as many images.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled and self.args.freeze_epochs > 0:
            raise InputError(
                f"freeze_epochs is {self.args.freeze_epochs}, and FSDP2 goes on to train what it was given: set it to 0, or take ddp.yaml"
            )
        self.released = self.args.setting == "released"
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss_of(self, inputs: dict, groups: list[dict], text_rows: torch.Tensor) -> Callable:
        owners, ids = inputs["text_to_image"], inputs["row_ids"]
        first = self.accelerator.process_index * len(ids)
        whose = {
            "text_to_image": gather_unequal(owners + first),
            "image_ids": gather_rows(ids),
            "tile_size": self.args.tile_size,
        }
        languages = gather_unequal(inputs["languages"])

        def loss(image_embeds, text_embeds, logit_scale):
            text_embeds = embedding(text_rows, text_embeds)
            self.watch.see(
                inputs | {"row_ids": ids[owners]}, groups, text_embeds, image_embeds.index_select(0, owners)
            )
            image_embeds, text_embeds = gather_rows(image_embeds.float()), gather_unequal(text_embeds.float())
            scale = self.scale(logit_scale)
            with torch.set_grad_enabled(self.released and torch.is_grad_enabled()):
                of_captions = caption_losses(image_embeds, text_embeds, scale, **whose)
            self.seen.append((languages, of_captions.detach()))
            return (
                of_captions.mean()
                if self.released
                else contrastive_loss(image_embeds, text_embeds, scale, **whose)
            )

        return loss

    def embeds(self, outputs: ModelOutput) -> tuple[torch.Tensor | None, torch.Tensor]:
        if not self.released:
            return super().embeds(outputs)
        images, texts = outputs.vision_model_output, outputs.text_model_output
        return images and self.model.visual_projection(images.pooler_output), self.model.text_projection(
            texts.pooler_output
        )

    @torch.no_grad()
    def bound(self, logit_scale: torch.Tensor) -> None:
        logit_scale.clamp_(min=LEAST_TEMPERATURE) if self.released else super().bound(logit_scale)

    def n_groups(self, inputs: dict) -> int:
        return (
            super().n_groups(inputs)
            if self.args.gradient_cache_chunk is not None
            else self.args.length_groups
        )

    def scale(self, logit_scale: torch.Tensor) -> torch.Tensor:
        return logit_scale if self.released else logit_scale.exp()

    @torch.no_grad()
    def settle(self) -> None:
        """After training: the scale as every model keeps it, by its log."""
        if self.released:
            self.model.logit_scale.log_()

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs and self.seen:
            logs |= by_language(self.seen, self.train_dataset.languages)
            self.seen.clear()
        super().log(logs, *args, **kwargs)

    def scores(self) -> dict[str, float]:
        return super().scores() | self.validation_losses()

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """`by_language` of the validation set, in batches as large as those of all processes in training, so that a caption has as many
        candidates. Every process looks at all of it.
        """
        batch_size = self.args.per_device_train_batch_size * self.args.world_size
        rows = CaptionRows(CaptionCells(self.validation.captioned, self.validation.languages, "image"))
        seen = []
        self.model.eval()
        for inputs in DataLoader(rows, batch_size, collate_fn=self.data_collator, drop_last=True):
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                outputs = self.model(**{name: inputs[name] for name in (*TEXTS, "pixel_values")})
                images, texts = self.embeds(outputs)
            whose = {"text_to_image": inputs["text_to_image"], "image_ids": inputs["row_ids"]}
            losses = caption_losses(
                images, texts[inputs["text_rows"]], self.scale(self.model.logit_scale), **whose
            )
            seen.append((inputs["languages"], losses))
        return by_language(seen, rows.languages) if seen else {}


def by_language(seen: list[tuple[torch.Tensor, torch.Tensor]], names: list[str]) -> dict[str, float]:
    """The mean of captions' losses as `caption_loss`, and that of each language as `caption_loss_en`.

    Args:
        seen: pairs of the captions' languages, as places in `names`, and their losses, both `(captions,)`.
    """
    languages, losses = (torch.cat(parts) for parts in zip(*seen))
    means = {"caption_loss": losses.mean().item()}
    return means | {
        f"caption_loss_{names[number]}": losses[languages == number].mean().item()
        for number in languages.unique().tolist()
    }


__all__ = ["FreezeEncoders", "ParallelArguments", "ParallelTrainer", "build_dual_encoder"]
