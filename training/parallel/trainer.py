"""Parallel multilingual pre-training (Krasner & Lanuzo): images with captions in several languages at once.

There are two settings. `paper` follows the paper: cosine similarities, cross-entropy in both directions, all
captions of an image as positives. `released` follows the authors' code: dot products times a linear
temperature that starts at 1, and cross-entropy over images only; its models are compared by Euclidean
distance. These errors of the code are not repeated:

- It masks token 0, XLM-R's `<s>`, whose embedding it then uses, and attends to padding. Here the mask is the
  tokenizer's.
- It logs the mean cross-entropy divided by the number of captions, 32 in English alone and 128 in four
  languages, so that the second curve is lower by construction. Here `caption_loss` is the mean over captions,
  each of which has the same number of candidates.
- From the first validation of an epoch to its end it trains in eval mode, without dropout. Here only a frozen
  encoder is in eval mode.
- It keeps only the last caption of an image. Here all captions of the data count.
- If a picture occurs twice in a batch, it counts the other's captions as negatives. Here rows of one picture,
  or with equal English captions, are positives of one another.

Its learning rate decays once per epoch; here it decays with every step.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn.functional import embedding
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.utils import ModelOutput

from common.errors import InputError
from modeling_altclip import AltCLIPDualEncoderModel

from ..arguments import PairArguments
from ..data.examples import CaptionExamples
from ..logit_bias import fit_to_loss
from ..losses import caption_losses, gather_rows, gather_unequal
from ..trainers import TEXTS, ContrastiveTrainer, images_of, pair_loss
from .caption_rows import CaptionRows

_SETTINGS = ("paper", "released")
ENCODERS = ("text_model", "vision_model")
_LEAST_TEMPERATURE = 1e-3  # below zero, a linear one would push right pairs apart


@dataclass(kw_only=True)
class ParallelArguments(PairArguments):
    """Parallel multilingual pre-training: two encoders, and images with captions in several languages.

    Raises:
        InputError: a value is out of range, or two arguments exclude each other.

    Example:

    ```python
    >>> from training import ParallelArguments

    >>> arguments = ParallelArguments(
    ...     image_encoder_name_or_path="outputs/miniature/clip",
    ...     text_encoder_name_or_path="outputs/miniature/text_encoder",
    ...     dataset="outputs/miniature/dataset",
    ...     output_dir="outputs/parallel",
    ... )
    >>> arguments.setting
    'paper'
    ```
    """

    image_encoder_name_or_path: str = field(
        metadata={"help": "An image encoder, or a CLIP whose image tower is used."}
    )
    text_encoder_name_or_path: str = field(metadata={"help": "A text encoder for these languages."})
    projection_dim: int = field(
        default=512, metadata={"help": "Dimension of the embeddings, the output of the interface layers."}
    )
    image_pooling: str | None = field(
        default=None,
        metadata={"help": "Pooling of the image encoder: cls, mean or pooler; by default its own."},
    )
    text_pooling: str | None = field(
        default=None,
        metadata={"help": "Pooling of the text encoder: cls, mean or pooler; by default its own."},
    )
    freeze_epochs: float = field(
        default=0.5,
        metadata={"help": "Number of epochs, possibly a fraction, in which only the interface layers learn."},
    )
    setting: str = field(
        default="paper",
        metadata={"help": "Loss: paper (cosines, both directions) or released (the authors' code)."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.setting not in _SETTINGS:
            raise InputError(f"setting is {self.setting!r}: choose {' or '.join(_SETTINGS)}")
        if self.freeze_epochs < 0:
            raise InputError(f"freeze_epochs is {self.freeze_epochs}: give a number of epochs, or 0 for none")
        for name in ("dry_run", "streaming", "matryoshka_dims", "trust_remote_code"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is {getattr(self, name)}, which parallel training lacks: leave it out"
                )
        if self.setting == "released" and self.loss == "sigmoid":
            raise InputError(
                "loss is sigmoid and setting is released, whose loss is the authors' own: take setting paper"
            )
        if self.setting == "released" and self.tile_size is not None:
            raise InputError(
                f"tile_size is {self.tile_size}, and the released loss has no tiles: leave it out"
            )

        # Parameters of a frozen encoder get no gradient; DDP has to look for these at every step.
        self.ddp_find_unused_parameters = self.freeze_epochs > 0
        needs_one_forward = self.ddp_find_unused_parameters and self.world_size > 1
        if self.length_groups is None and needs_one_forward:
            self.length_groups = 1
        several_forwards = self.length_groups != 1 or self.gradient_cache_chunk is not None
        if several_forwards and needs_one_forward:
            raise InputError(
                "length_groups and gradient_cache_chunk run the model several times a step, which DDP cannot "
                "follow while encoders are frozen: leave them out, or set freeze_epochs to 0"
            )


def build_dual_encoder(arguments: ParallelArguments) -> AltCLIPDualEncoderModel:
    """Load both encoders and give each a new interface layer, biases included."""
    model = AltCLIPDualEncoderModel.from_towers(
        arguments.image_encoder_name_or_path,
        arguments.text_encoder_name_or_path,
        projection_dim=arguments.projection_dim,
        projection_bias=True,
        vision_pooling=arguments.image_pooling,
        text_pooling=arguments.text_pooling,
    )
    fit_to_loss(model, arguments.loss)
    if arguments.setting == "released":
        model.logit_scale.data.fill_(1.0)  # the temperature itself until `ParallelTrainer.settle`
    model.set_attn_implementation(arguments.attn_implementation or model.config._attn_implementation)
    return model


class FreezeEncoders(TrainerCallback):
    """Freezes both encoders for the first `epochs` of training.

    Interface layers and scale learn from the first step. The epoch is read from the state that a checkpoint
    saves, so that a resumed run unfreezes at the same step.
    """

    def __init__(self, model: AltCLIPDualEncoderModel, epochs: float):
        self.epochs = epochs
        self.learning = []
        for part in ENCODERS:
            parameters = model.get_submodule(part).parameters()
            self.learning += [parameter for parameter in parameters if parameter.requires_grad]

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        for parameter in self.learning:
            parameter.requires_grad_(state.epoch >= self.epochs)


class ParallelTrainer(ContrastiveTrainer):
    """Encodes each image once, and compares it with its captions in all languages.

    Batches are those of `RowCollator`. It logs `caption_loss`, the mean cross-entropy of choosing a caption's
    image, over all captions and in each language, such as `caption_loss_en`. These compare models of
    different numbers of languages. An evaluation adds them for the validation set, in batches of as many
    images.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from transformers import AutoProcessor
    >>> from modeling_altclip import AltCLIPDualEncoderModel
    >>> from training import CaptionExamples, CaptionRows, ParallelArguments, ParallelTrainer, RowCollator

    >>> image_encoder, text_encoder = "outputs/miniature/clip", "outputs/miniature/text_encoder"
    >>> model = AltCLIPDualEncoderModel.from_towers(image_encoder, text_encoder)
    >>> processor = AutoProcessor.from_pretrained("outputs/miniature/altclip")
    >>> rows = load_dataset("outputs/miniature/dataset", split="validation")
    >>> arguments = ParallelArguments(
    ...     image_encoder_name_or_path=image_encoder,
    ...     text_encoder_name_or_path=text_encoder,
    ...     dataset="outputs/miniature/dataset",
    ...     output_dir="outputs/parallel",
    ...     max_steps=2,
    ... )
    >>> trainer = ParallelTrainer(
    ...     model=model,
    ...     args=arguments,
    ...     train_dataset=CaptionRows(CaptionExamples(rows, ["en", "zh"], "image")),
    ...     data_collator=RowCollator(processor.tokenizer, 77, processor.image_processor),
    ... )
    >>> trainer.train().global_step
    {'train_runtime': ...}
    2
    ```
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled and self.args.freeze_epochs > 0:
            raise InputError(
                f"freeze_epochs is {self.args.freeze_epochs}, and FSDP2 goes on to train what it was given: "
                "set it to 0, or take ddp.yaml"
            )
        self.released = self.args.setting == "released"
        # Languages and losses of the captions of each batch since the last log.
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def loss_of(self, inputs: dict, groups: list[dict], text_rows: torch.Tensor) -> Callable:
        # `text_to_image` counts images of this process's batch. In the gathered batch those of earlier
        # processes come first: with 2 images each, [0, 0, 1] of process 1 becomes [2, 2, 3]. All processes
        # have equally many images, but different numbers of captions.
        text_to_image = inputs["text_to_image"]
        row_ids = inputs["row_ids"]
        first_image = self.accelerator.process_index * len(row_ids)
        relations = {
            "text_to_image": gather_unequal(text_to_image + first_image),
            "image_ids": gather_rows(row_ids),
            "tile_size": self.args.tile_size,
        }
        languages = gather_unequal(inputs["languages"])

        def loss(image_embeds, text_embeds, logit_scale, logit_bias=None):
            text_embeds = embedding(text_rows, text_embeds)
            of_captions = inputs | {"row_ids": row_ids[text_to_image]}
            self.watch.see(of_captions, groups, text_embeds, image_embeds.index_select(0, text_to_image))
            self.note_scalars(logit_scale, logit_bias)

            image_embeds = gather_rows(image_embeds.float())
            text_embeds = gather_unequal(text_embeds.float())
            scale = self.scale(logit_scale)
            # In the setting "released" these losses are what learns; in "paper" they are only logged. A bias
            # would change none of them: every candidate of a caption has the same.
            with torch.set_grad_enabled(self.released and torch.is_grad_enabled()):
                losses = caption_losses(image_embeds, text_embeds, scale, **relations)
            self.seen.append((languages, losses.detach()))
            if self.released:
                return losses.mean()
            return pair_loss(image_embeds, text_embeds, scale, logit_bias, **relations)

        return loss

    def embeds(self, outputs: ModelOutput) -> tuple[torch.Tensor | None, torch.Tensor]:
        if not self.released:
            return super().embeds(outputs)
        # The authors' code compares embeddings as the interface layers give them, not normalised.
        image_embeds = None
        if outputs.vision_model_output is not None:
            image_embeds = self.model.visual_projection(outputs.vision_model_output.pooler_output)
        text_embeds = self.model.text_projection(outputs.text_model_output.pooler_output)
        return image_embeds, text_embeds

    @torch.no_grad()
    def bound(self, logit_scale: torch.Tensor) -> None:
        if self.released:
            logit_scale.clamp_(min=_LEAST_TEMPERATURE)
        else:
            super().bound(logit_scale)

    def n_groups(self, inputs: dict) -> int:
        if self.args.gradient_cache_chunk is not None:
            return super().n_groups(inputs)
        # A dual encoder encodes texts without images, so that length groups do not repeat the image tower.
        return self.length_groups

    def scale(self, logit_scale: torch.Tensor) -> torch.Tensor:
        return logit_scale if self.released else logit_scale.exp()

    @torch.no_grad()
    def settle(self) -> None:
        """Replace the scale by its logarithm, as every model stores it; call it once, after training."""
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
        """Compute the losses of `by_language` on the validation set; every process evaluates all of it.

        Batches are as large as those of all processes together in training, so that a caption has the same
        number of candidates.
        """
        batch_size = self.args.per_device_train_batch_size * self.args.world_size
        rows = CaptionRows(CaptionExamples(self.validation.captioned, self.validation.languages, "image"))
        seen = []
        self.model.eval()
        # The last batch is dropped where it is smaller: its captions would have fewer candidates.
        for inputs in DataLoader(rows, batch_size, collate_fn=self.data_collator, drop_last=True):
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                texts = {name: inputs[name] for name in TEXTS}
                outputs = self.model(**texts, **images_of(inputs))
                image_embeds, text_embeds = self.embeds(outputs)
            losses = caption_losses(
                image_embeds,
                text_embeds[inputs["text_rows"]],
                self.scale(self.model.logit_scale),
                text_to_image=inputs["text_to_image"],
                image_ids=inputs["row_ids"],
            )
            seen.append((inputs["languages"], losses))
        return by_language(seen, rows.languages) if seen else {}


def by_language(seen: list[tuple[torch.Tensor, torch.Tensor]], names: list[str]) -> dict[str, float]:
    """Return the mean of captions' losses as `caption_loss`, and that of each language as `caption_loss_en`.

    Args:
        seen: pairs of the captions' languages, as indices of `names`, and their losses, both `(captions,)`.
    """
    languages, losses = (torch.cat(parts) for parts in zip(*seen))
    means = {"caption_loss": losses.mean().item()}
    for number in languages.unique().tolist():
        means[f"caption_loss_{names[number]}"] = losses[languages == number].mean().item()
    return means


__all__ = ["FreezeEncoders", "ParallelArguments", "ParallelTrainer", "build_dual_encoder"]
