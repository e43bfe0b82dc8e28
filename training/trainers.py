"""One `transformers.Trainer` per objective. Data, logging, precision, scale and resuming are the Trainer's own."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.nn.functional import normalize
from torch.utils.data import Sampler
from transformers import Trainer

from benchmarks.recipe import InputError
from modeling_altclip import AltCLIPModel

from .gradient_cache import cached_loss
from .health import Watch, check_loss
from .losses import contrastive_loss, distillation_loss, gather_rows
from .sampling import LanguageSampler
from .sharding import make_shardable, set_scalars_apart

TEXTS = ("input_ids", "attention_mask")

MAX_LOGIT_SCALE = math.log(100)  # CLIP's bound: logits are scaled by 100 at most


def freeze_all_but(model: nn.Module, trainable: list[str]) -> None:
    """Let only the parameters learn that lie below one of the names in `trainable`.

    Raises:
        ValueError: a name is no part of the model.
    """
    parts = list(dict(model.named_children())) + [name for name, _ in model.named_parameters()]
    unknown = [name for name in trainable if name not in parts]
    if unknown:
        raise ValueError(
            f"trainable names {', '.join(unknown)}, which the model has not; its parts are {', '.join(dict(model.named_children()))}"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name == part or name.startswith(part + ".") for part in trainable))


def encode_by_length(encode: Callable[..., torch.Tensor], inputs: dict, n_groups: int) -> torch.Tensor:
    """Encode the texts of a batch in groups of like length, each padded to its own longest only, and give them in their order.

    Args:
        encode: `(input_ids, attention_mask) -> (texts, dim)`.
        inputs: `input_ids` and `attention_mask` `(texts, tokens)`, padded on the right.
        n_groups: 1 encodes the batch as it is.
    """
    if n_groups == 1:
        return encode(**{name: inputs[name] for name in TEXTS})
    lengths = inputs["attention_mask"].sum(1)
    order = lengths.argsort(stable=True)
    encoded = []
    for group in order.chunk(n_groups):
        longest = lengths[group[-1]]
        encoded.append(encode(**{name: inputs[name][group, :longest] for name in TEXTS}))
    return torch.cat(encoded).index_select(0, order.argsort())


class AltCLIPTrainer(Trainer):
    """What the stages share: losses are means over the batch, only matrices are decayed, and the log tells of the batches' health."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.watch = Watch()
        if self.is_fsdp_enabled:
            make_shardable(self.model, self.accelerator)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            logs |= self.watch.report(self.state.global_step / max(1, self.state.max_steps))
        check_loss(logs, self.state.global_step)
        super().log(logs, *args, **kwargs)

    @property
    def length_groups(self) -> int:
        """One where there are several processes: DDP talks at every forward, and processes may have unequally many groups."""
        return self.args.length_groups if self.args.world_size == 1 else 1

    # The Trainer divides by the number of accumulation steps; left at None it can take our mean for a sum and not divide.
    loss_is_scaled_for_ga = False

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """In evaluation a batch gives its loss; embeddings are judged by `benchmarks`."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """All but biases, norms, class embedding and temperature; stock rules would decay the last two."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.is_fsdp_enabled:
            set_scalars_apart(optimizer)
        return optimizer


class TeacherLearningTrainer(AltCLIPTrainer):
    """Stage 1. The model is an `AltCLIPTextModel`; batches carry `target`, the teacher's vectors `(texts, project_dim)`."""

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        if self.args.temperature == 1:
            return super()._get_train_sampler(train_dataset)
        return LanguageSampler(self.train_dataset.cells[:, 1], self.args.temperature, self.args.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        vectors = encode_by_length(lambda **texts: model(**texts).pooler_output, inputs, self.length_groups)
        vectors = vectors.index_select(0, inputs["text_rows"]).float()
        if model.training:
            self.watch.see(inputs, vectors, inputs["target"])
        loss = distillation_loss(vectors, inputs["target"])
        return (loss, vectors) if return_outputs else loss


class ContrastiveTrainer(AltCLIPTrainer):
    """Stages 0 and 2. The model is a CLIP or AltCLIP; batches carry `pixel_values`, or `image_embeds` from a frozen tower.

    Rows of equal `row_ids` show the same thing and are positives of one another. Negatives come from all processes.
    `tile_size` and `gradient_cache_chunk` bound memory and leave loss and gradients as they are.
    """

    def _prepare_for_training(self, *args, **kwargs):
        if self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3:
            raise InputError("zero_stage is 3, under which logit_scale is empty where the loss reads it: take zero2.yaml or fsdp2.yaml")
        model, batches = super()._prepare_for_training(*args, **kwargs)
        register_fsdp_forward_method(model, "get_image_features")  # for `embed_frozen`; does nothing to other models
        return model, batches

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        unwrapped = self.accelerator.unwrap_model(model)
        if unwrapped.logit_scale.requires_grad:
            with torch.no_grad():
                unwrapped.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        eval_frozen_parts(unwrapped)
        alone = isinstance(unwrapped, AltCLIPModel)  # which reads texts without images; transformers' CLIP does not
        if alone and "pixel_values" in inputs and not learns(unwrapped, "vision_model", "visual_projection"):
            inputs["image_embeds"] = self.embed_frozen(unwrapped, inputs.pop("pixel_values"))
        row_ids = gather_rows(inputs["row_ids"])

        def loss(image_embeds, text_embeds, logit_scale, text_rows=inputs["text_rows"]):
            # Not by brackets: on a CPU their backward adds up in any order, and equal seeds would give other weights.
            text_embeds = text_embeds.index_select(0, text_rows)
            if model.training:
                self.watch.see(inputs, text_embeds, image_embeds)
            image_embeds, text_embeds = gather_rows(image_embeds.float()), gather_rows(text_embeds.float())
            return contrastive_loss(image_embeds, text_embeds, logit_scale.exp(), image_ids=row_ids, tile_size=self.args.tile_size)

        if self.args.gradient_cache_chunk is not None and torch.is_grad_enabled():
            return self.in_chunks(model, unwrapped.logit_scale, inputs, loss)
        if "image_embeds" in inputs:
            image_embeds = inputs["image_embeds"]
            text_embeds = encode_by_length(lambda **texts: model(**texts).text_embeds, inputs, self.length_groups)
        else:
            outputs = model(**{name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")})
            image_embeds, text_embeds = outputs.image_embeds, outputs.text_embeds
        value = loss(image_embeds, text_embeds, unwrapped.logit_scale)
        return (value, (image_embeds, text_embeds)) if return_outputs else value

    def in_chunks(self, model: nn.Module, logit_scale: torch.Tensor, inputs: dict, loss: Callable) -> torch.Tensor:
        """The loss by `cached_loss`: texts of like length in a chunk, and as many images as it has cells."""
        n_chunks = math.ceil(len(inputs["text_rows"]) / self.args.gradient_cache_chunk)
        lengths = inputs["attention_mask"].sum(1)
        order = lengths.argsort(stable=True)
        texts = [{name: inputs[name][rows, : lengths[rows].max()] for name in TEXTS} for rows in spread(order, n_chunks)]
        text_rows = order.argsort()[inputs["text_rows"]]
        no_sync = partial(self.accelerator.no_sync, model)
        if "image_embeds" in inputs:
            loss = partial(loss, inputs["image_embeds"], text_rows=text_rows)
            return cached_loss(lambda chunk: (model(**chunk).text_embeds,), texts, loss, [logit_scale], no_sync=no_sync)

        def encode(chunk: dict) -> tuple[torch.Tensor, torch.Tensor]:
            outputs = model(**chunk)
            return outputs.image_embeds, outputs.text_embeds

        chunks = [part | {"pixel_values": pixels} for part, pixels in zip(texts, inputs["pixel_values"].tensor_split(n_chunks))]
        return cached_loss(encode, chunks, partial(loss, text_rows=text_rows), [logit_scale], no_sync=no_sync)

    @torch.no_grad()
    def embed_frozen(self, model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
        """A frozen image tower's unit vectors `(images, dim)`, once and without a graph."""
        parts = pixel_values.split(self.args.gradient_cache_chunk or len(pixel_values))
        return normalize(torch.cat([model.get_image_features(part).pooler_output for part in parts]).float(), dim=-1)


def learns(model: nn.Module, *parts: str) -> bool:
    """Whether any parameter below one of the named parts is trained."""
    return any(parameter.requires_grad for part in parts for parameter in model.get_submodule(part).parameters())


def eval_frozen_parts(model: nn.Module) -> None:
    """Put parts of which nothing is trained into eval mode: the Trainer puts the whole model into training mode at each step."""
    for name, part in model.named_children():
        if not learns(model, name):
            part.eval()


def spread(rows: torch.Tensor, n_parts: int) -> list[torch.Tensor]:
    """`rows` in `n_parts` runs of about equal length. With fewer rows than parts, the last row fills the empty ones.

    Every process must run the model equally often, however few distinct texts its share of the batch has.
    """
    return [part if len(part) else rows[-1:] for part in rows.tensor_split(n_parts)]
