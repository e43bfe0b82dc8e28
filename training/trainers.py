"""One `transformers.Trainer` per objective. Data, logging, precision, scale and resuming are the Trainer's own."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.nn.functional import embedding, normalize
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback
from transformers.utils import ModelOutput

from benchmarks.recipe import InputError
from modeling_altclip import AltCLIPModel

from .freezing import IMAGE_PARTS, eval_frozen_parts, learns
from .gradient_cache import cached_loss
from .health import Watch, check_loss
from .held_texts import HeldTexts, moved
from .losses import OBJECTIVES, contrastive_loss, gather_rows
from .output_folder import bytes_of_checkpoint, bytes_of_weights, saving
from .sampling import ShareSampler, language_shares
from .sharding import make_shardable, set_scalars_apart
from .streaming import CellStream
from .validation import Validation
from .views import TellEpoch

TEXTS = ("input_ids", "attention_mask")

MAX_LOGIT_SCALE = math.log(100)  # CLIP's bound: logits are scaled by 100 at most


def by_length(inputs: dict, n_groups: int) -> tuple[list[dict], torch.Tensor]:
    """The texts of a batch in groups of like length, each padded to its own longest only.

    A batch is drawn first, at random, and parted afterwards: its negatives are of every length.

    Args:
        inputs: `input_ids` and `attention_mask` `(texts, tokens)`, padded on the right.
        n_groups: 1 leaves the batch as it is.

    Returns:
        The groups, always `n_groups`, and the row `(texts,)` of each text in what the groups give, joined.
    """
    if n_groups == 1:
        return [{name: inputs[name] for name in TEXTS}], torch.arange(
            len(inputs["input_ids"]), device=inputs["input_ids"].device
        )
    lengths = inputs["attention_mask"].sum(1)
    order = lengths.argsort(stable=True)
    groups = [
        {name: inputs[name][rows, : lengths[rows].max()] for name in TEXTS}
        for rows in spread(order, n_groups)
    ]
    return groups, order.argsort()


def spread(rows: torch.Tensor, n_parts: int) -> list[torch.Tensor]:
    """`rows` in `n_parts` runs of about equal length. With fewer rows than parts, the last row fills the empty ones.

    Every process must run the model equally often, however few distinct texts its share of the batch has.
    """
    return [part if len(part) else rows[-1:] for part in rows.tensor_split(n_parts)]


class AltCLIPTrainer(Trainer):
    """What the stages share: losses are means over the batch, only matrices are decayed, and the log tells of the batches' health."""

    def __init__(self, *args, validation: Validation | None = None, **kwargs):
        super().__init__(*args, eval_dataset=validation and validation.captioned, **kwargs)
        self.watch, self.validation = Watch(), validation
        if self.is_fsdp_enabled:
            make_shardable(self.model, self.accelerator)
        if validation is not None:
            validation.begin(self.accelerator)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            logs |= self.watch.report(self.state.global_step / max(1, self.state.max_steps))
        check_loss(logs, self.state.global_step)
        super().log(logs, *args, **kwargs)

    # The Trainer divides by the number of accumulation steps; left at None it can take our mean for a sum and not divide.
    loss_is_scaled_for_ga = False

    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """`Validation.scores`, by any of which the Trainer can choose the best checkpoint; a batch's loss would say little."""
        metrics = {f"{metric_key_prefix}_{name}": score for name, score in self.scores().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def scores(self) -> dict[str, float]:
        return self.validation.scores(self.accelerator)

    def _save_checkpoint(self, model, trial) -> None:
        """As the Trainer's; a full disk ends the run with one line, and leaves no half of a checkpoint."""
        name = f"checkpoint-{self.state.global_step}"
        with saving(name, Path(self.args.output_dir, name), bytes_of_checkpoint(self)):
            super()._save_checkpoint(model, trial)

    def save_model(self, output_dir=None, _internal_call: bool = False) -> None:
        """As the Trainer's; a full disk ends the run with one line."""
        folder = Path(output_dir or self.args.output_dir)
        with saving("the model", folder, bytes_of_weights(self.model)):
            super().save_model(output_dir, _internal_call)

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
        cells, args = self.train_dataset, self.args
        of_like_length = args.train_sampling_strategy == "group_by_length"
        if (
            args.temperature == 1
            and cells.weights is None
            and not args.replay_languages
            and not of_like_length
        ):
            return super()._get_train_sampler(train_dataset)
        names, languages = np.unique(np.asarray(cells.columns)[cells.cells[:, 1]], return_inverse=True)
        replayed = np.flatnonzero(np.isin(names, args.replay_languages or []))
        shares = language_shares(
            languages, cells.weights, temperature=args.temperature, replayed=replayed, replay=args.replay
        )
        lengths = cells.lengths(self.data_collator.tokenizer) if of_like_length else None
        sampler = ShareSampler(*shares, args.seed, lengths, args.train_batch_size * args.world_size)
        self.add_callback(TellEpoch(sampler))
        return sampler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        groups, rows = by_length(inputs, self.args.length_groups)
        vectors = torch.cat([model(**group).pooler_output for group in groups])
        # Neither by brackets nor by index_select: the gradient of the one is summed in any order on a CPU, of the other on a GPU,
        # and equal seeds would give other weights.
        vectors = embedding(rows[inputs["text_rows"]], vectors).float()
        self.watch.see(inputs, groups, vectors, inputs["target"])
        return OBJECTIVES[self.args.objective](vectors, inputs["target"])


class BoundedScale(TrainerCallback):
    """Keep the logit scale within CLIP's bound: before the first step, and after each, so that what is saved keeps it too."""

    def __init__(self, trainer: "ContrastiveTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.trainer.bound_scale()

    def on_optimizer_step(self, args, state, control, **kwargs) -> None:
        self.trainer.bound_scale()


class ContrastiveTrainer(AltCLIPTrainer):
    """Stages 0 and 2. The model is a CLIP or AltCLIP; batches carry `pixel_values`, or `image_embeds` from a frozen tower.

    Rows of equal `row_ids` show the same thing and are positives of one another. Negatives come from all processes.
    `tile_size` and `gradient_cache_chunk` bound memory and leave loss and gradients as they are.
    """

    def __init__(self, *args, held: HeldTexts | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.held = held
        self.add_callback(BoundedScale(self))

    def get_train_dataloader(self) -> DataLoader:
        """As the Trainer's, but a `CellStream` reads its own process's files already. With several processes accelerate would have
        one read them all, or every one read them all and leave out the others' rows: it is told that there is one.
        """
        if not isinstance(self.train_dataset, CellStream):
            return super().get_train_dataloader()
        loader = DataLoader(
            self.train_dataset,
            self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        alone = {"num_processes": 1, "process_index": 0, "dispatch_batches": False}
        return prepare_data_loader(loader, self.args.device, put_on_device=True, **alone)

    def _prepare_for_training(self, *args, **kwargs):
        if self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3:
            raise InputError(
                "zero_stage is 3, under which logit_scale is empty where the loss reads it: take zero2.yaml or fsdp2.yaml"
            )
        model, batches = super()._prepare_for_training(*args, **kwargs)
        for name in (
            "get_image_features",
            "get_text_features",
        ):  # for `embed_frozen` and `Validation`; does nothing to other models
            register_fsdp_forward_method(model, name)
        return model, batches

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        unwrapped = self.accelerator.unwrap_model(model)
        eval_frozen_parts(unwrapped)
        alone = isinstance(
            unwrapped, AltCLIPModel
        )  # which reads texts without images; transformers' CLIP does not
        if alone and "pixel_values" in inputs and not learns(unwrapped, *IMAGE_PARTS):
            inputs["image_embeds"] = self.embed_frozen(unwrapped, inputs.pop("pixel_values"))
        groups, rows = by_length(inputs, self.n_groups(inputs))
        loss = self.loss_of(inputs, groups, rows[inputs["text_rows"]])
        if self.held is not None:
            groups, loss = self.with_held(groups, loss)
        if self.args.gradient_cache_chunk is not None:
            return self.in_chunks(model, unwrapped.logit_scale, groups, inputs, loss)
        if "image_embeds" in inputs:
            text_embeds = torch.cat([model(**group).text_embeds for group in groups])
            return loss(inputs["image_embeds"], text_embeds, unwrapped.logit_scale)
        image_embeds, text_embeds = self.embeds(model(**groups[0], pixel_values=inputs["pixel_values"]))
        others = [self.embeds(model(**group))[1] for group in groups[1:]]
        return loss(image_embeds, torch.cat([text_embeds, *others]), unwrapped.logit_scale)

    def loss_of(self, inputs: dict, groups: list[dict], text_rows: torch.Tensor) -> Callable:
        """The batch's loss as a function of images' vectors, of texts' as `groups` give them, and of the scale.

        Args:
            text_rows: which of the texts is a caption's, `(captions,)`.
        """
        row_ids = gather_rows(inputs["row_ids"])

        def loss(image_embeds, text_embeds, logit_scale):
            text_embeds = embedding(text_rows, text_embeds)
            self.watch.see(inputs, groups, text_embeds, image_embeds)
            image_embeds, text_embeds = gather_rows(image_embeds.float()), gather_rows(text_embeds.float())
            return contrastive_loss(
                image_embeds, text_embeds, logit_scale.exp(), image_ids=row_ids, tile_size=self.args.tile_size
            )

        return loss

    def with_held(self, groups: list[dict], loss: Callable) -> tuple[list[dict], Callable]:
        """Encode some of the held texts behind a batch's own, and add to its loss how far they have moved.

        Returns:
            The groups of all texts, and the loss of their vectors: the batch's first, then those of the held.
        """
        texts, before = self.held.draw(
            self.args.train_batch_size, self.state.global_step, self.accelerator.process_index
        )
        inputs = {
            name: value.to(self.args.device) for name, value in self.data_collator.encode(texts).items()
        }
        held_groups, rows = by_length(inputs, len(groups))
        before = before.to(self.args.device)
        rows, n_own = rows[inputs["text_rows"]], sum(len(group["input_ids"]) for group in groups)

        def with_distance(image_embeds, text_embeds, logit_scale):
            own, held = text_embeds[:n_own], text_embeds[n_own:]
            distance = moved(embedding(rows, held), before)
            self.watch.note("held_moved", distance)
            return loss(image_embeds, own, logit_scale) + self.args.hold * distance

        return [*groups, *held_groups], with_distance

    def bound_scale(self) -> None:
        """Bound the scale, where it is trained."""
        logit_scale = self.accelerator.unwrap_model(self.model_wrapped).logit_scale
        if logit_scale.requires_grad:
            self.bound(logit_scale)

    @torch.no_grad()
    def bound(self, logit_scale: torch.Tensor) -> None:
        logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        if self.is_deepspeed_enabled:
            from deepspeed.utils import safe_set_full_fp32_param

            safe_set_full_fp32_param(
                logit_scale, logit_scale.data
            )  # or the next step begins from the optimizer's own copy

    def embeds(self, outputs: ModelOutput) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The vectors that a loss compares, of a forward's images, if it had any, and texts."""
        return outputs.image_embeds, outputs.text_embeds

    def n_groups(self, inputs: dict) -> int:
        """In how many forwards a batch is encoded; without chunks, one where the images go through the model with the texts."""
        if self.args.gradient_cache_chunk is not None:
            return math.ceil(len(inputs["text_rows"]) / self.args.gradient_cache_chunk)
        return self.args.length_groups if "image_embeds" in inputs else 1

    def in_chunks(
        self, model: nn.Module, logit_scale: torch.Tensor, groups: list[dict], inputs: dict, loss: Callable
    ) -> torch.Tensor:
        """The loss by `cached_loss`: a group of texts and as many images at a time."""
        no_sync = partial(self.accelerator.no_sync, model)
        if "image_embeds" in inputs:
            loss = partial(loss, inputs["image_embeds"])
            return cached_loss(
                lambda chunk: (model(**chunk).text_embeds,), groups, loss, [logit_scale], no_sync=no_sync
            )

        def encode(chunk: dict) -> tuple[torch.Tensor, torch.Tensor]:
            return self.embeds(model(**chunk))

        pixels = inputs["pixel_values"].tensor_split(len(groups))
        chunks = [group | {"pixel_values": part} for group, part in zip(groups, pixels)]
        return cached_loss(encode, chunks, loss, [logit_scale], no_sync=no_sync)

    @torch.no_grad()
    def embed_frozen(self, model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
        """A frozen image tower's unit vectors `(images, dim)`, once and without a graph."""
        parts = pixel_values.split(self.args.gradient_cache_chunk or len(pixel_values))
        return normalize(
            torch.cat([model.get_image_features(part).pooler_output for part in parts]).float(), dim=-1
        )
