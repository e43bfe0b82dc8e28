"""The trainer of stages 0 and 2, contrastive learning."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.nn.functional import embedding, normalize
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback
from transformers.utils import ModelOutput

from common.errors import InputError

from ..data.images import EpochCallback
from ..data.sampling import ShareSampler, language_shares
from ..data.streaming import AnyStream
from ..freezing import eval_frozen_parts, image_side_learns
from ..gradient_cache import cached_loss
from ..held_texts import HeldTexts, moved
from ..logit_bias import check_loss, logit_bias_of
from ..losses import contrastive_loss, gather_rows, sigmoid_loss
from ..matryoshka import matryoshka, record_dims
from ..text_pairs import TextPairs, text_pairs_scale
from .base import AltCLIPTrainer
from .batches import by_length, images_of, split_images

MAX_LOGIT_SCALE = math.log(100)  # CLIP's bound: logits are scaled by 100 at most


def pair_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    **relations,
) -> torch.Tensor:
    """Compute the loss of a model's images and texts: `sigmoid_loss` with a bias, else `contrastive_loss`.

    `relations` are the options of these.
    """
    if bias is None:
        return contrastive_loss(image_embeds, text_embeds, scale, **relations)
    return sigmoid_loss(image_embeds, text_embeds, scale, bias, **relations)


class _BoundedScale(TrainerCallback):
    """Keep the logit scale of a contrastive loss within CLIP's bound.

    It is bounded before the first step, and after each, so that a checkpoint keeps the bound too.
    """

    def __init__(self, trainer: "ContrastiveTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.trainer.bound_scale()

    def on_optimizer_step(self, args, state, control, **kwargs) -> None:
        self.trainer.bound_scale()


class ContrastiveTrainer(AltCLIPTrainer):
    """Trainer of stages 0 and 2, contrastive learning (paper 3.2); the model is a CLIP or AltCLIP.

    With `loss="sigmoid"` it is one with a `logit_bias`: a SigLIP, or a dual encoder after `set_logit_bias`.

    Batches carry what the image processor makes of images (see `Collator`), or `image_embeds` `(images, dim)`
    from a frozen tower, or the pooled outputs of both towers, whose projections alone learn. Rows of equal
    `row_ids` show the same thing and are positives of one another. Negatives come from all processes.
    `tile_size` and `gradient_cache_chunk` bound memory and leave loss and gradients as they are. `args` are
    `TeacherArguments` or `ContrastiveArguments`.

    Raises:
        InputError: the loss, a gradient or a weight is not finite, a disk is full, the weights are sharded
            under ZeRO-3, or the model does not suit the loss (see `logit_bias.check_loss`).

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from benchmarks import load_model
    >>> from training import CaptionExamples, Collator, ContrastiveArguments, ContrastiveTrainer
    >>> from training import freeze_all_but

    >>> name, data = "outputs/miniature/altclip", "outputs/miniature/dataset"
    >>> model, processor = load_model(name)
    >>> rows = load_dataset(data, split="validation")
    >>> arguments = ContrastiveArguments(
    ...     model_name_or_path=name, dataset=data, output_dir="outputs/stage2", max_steps=2
    ... )
    >>> freeze_all_but(model, arguments.trainable)
    >>> trainer = ContrastiveTrainer(
    ...     model=model,
    ...     args=arguments,
    ...     train_dataset=CaptionExamples(rows, ["en", "zh"], "image"),
    ...     data_collator=Collator(processor.tokenizer, 77, processor.image_processor),
    ... )
    >>> trainer.train().global_step
    {'train_runtime': ...}
    2
    ```
    """

    def __init__(self, *args, held: HeldTexts | None = None, text_pairs: TextPairs | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        check_loss(self.model, self.args.loss)
        record_dims(self.model.config, self.args.matryoshka_dims)
        self.held = held
        self.text_pairs = text_pairs
        self.parts_drawn: dict[int, int] = {}  # by step: its batches that have drawn pairs
        self.add_callback(_BoundedScale(self))

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        weights = self.train_dataset.weights
        if weights is None:
            return super()._get_train_sampler(train_dataset)
        # As if all were of one language: a stage 2 draws languages as they are.
        sampler = ShareSampler(*language_shares(np.zeros(len(weights), int), weights), self.args.seed)
        self.add_callback(EpochCallback(sampler))
        return sampler

    def get_train_dataloader(self) -> DataLoader:
        """Return the Trainer's loader, or one of our own for a stream.

        A stream reads its own process's files already. With several processes accelerate would have one read
        them all, or every one read them all and leave out the others' rows: it is told that there is one.
        """
        if not isinstance(self.train_dataset, AnyStream):
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
                "zero_stage is 3, under which logit_scale is empty where the loss reads it, and so is a "
                "logit_bias: take zero2.yaml or fsdp2.yaml"
            )
        return super()._prepare_for_training(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        unwrapped = self.accelerator.unwrap_model(model)
        eval_frozen_parts(unwrapped)
        # What the loss takes besides embeddings: the scale, and the bias of a sigmoid loss.
        scalars = [unwrapped.logit_scale]
        if self.args.loss == "sigmoid":
            scalars.append(logit_bias_of(unwrapped))
        if "text_pooler_output" in inputs:
            return self.loss_of_cached_towers(model, inputs, scalars)
        if self.can_embed_images_alone(unwrapped, inputs):
            # The pixels are let go of: they may take more memory than what is embedded.
            images = {name: inputs.pop(name) for name in images_of(inputs)}
            inputs["image_embeds"] = self.embed_frozen(unwrapped, images)
            del images

        groups, rows = by_length(inputs, self.n_groups(inputs))
        loss = self.loss_of(inputs, groups, rows[inputs["text_rows"]])
        if self.held is not None:
            groups, loss = self.with_held(groups, loss)
        if self.text_pairs is not None:
            groups, loss = self.with_text_pairs(inputs, groups, loss)

        # One method a mode: images are embedded already or go through the model, at once or in chunks.
        embedded = "image_embeds" in inputs
        in_chunks = self.args.gradient_cache_chunk is not None
        if embedded and in_chunks:
            return self.loss_of_texts_in_chunks(model, groups, inputs["image_embeds"], scalars, loss)
        if embedded:
            return self.loss_of_texts(model, groups, inputs["image_embeds"], scalars, loss)
        if in_chunks:
            return self.loss_of_pairs_in_chunks(model, groups, images_of(inputs), scalars, loss)
        return self.loss_of_pairs(model, groups, images_of(inputs), scalars, loss)

    @staticmethod
    def can_embed_images_alone(model: nn.Module, inputs: dict) -> bool:
        """Return whether a frozen image tower can embed the batch's images before its texts are encoded."""
        return "pixel_values" in inputs and not image_side_learns(model)

    def loss_of_cached_towers(self, model, inputs, scalars) -> torch.Tensor:
        """Project the pooled outputs of both towers, which the cache holds, at once or by `cached_loss`."""
        loss = self.loss_of(inputs, [], inputs["text_rows"])

        def project(pooled: dict) -> tuple[torch.Tensor, torch.Tensor]:
            # By two forwards: one of both sides would compute all logits as well, in spite of `tile_size`.
            images = model(image_pooler_output=pooled["image_pooler_output"])
            texts = model(text_pooler_output=pooled["text_pooler_output"])
            return images.image_embeds, texts.text_embeds

        if self.args.gradient_cache_chunk is None:
            return loss(*project(inputs), *scalars)
        n_chunks = self.n_groups(inputs)
        by_side = {}
        for name in ("image_pooler_output", "text_pooler_output"):
            by_side[name] = inputs[name].tensor_split(n_chunks)
        chunks = [dict(zip(by_side, parts)) for parts in zip(*by_side.values())]
        no_sync = partial(self.accelerator.no_sync, model)
        return cached_loss(project, chunks, loss, scalars, no_sync=no_sync)

    def loss_of_texts(self, model, groups, image_embeds, scalars, loss) -> torch.Tensor:
        """Encode only the texts: the cache, or the frozen tower just now, has embedded the images."""
        text_embeds = torch.cat([model(**group).text_embeds for group in groups])
        return loss(image_embeds, text_embeds, *scalars)

    def loss_of_texts_in_chunks(self, model, groups, image_embeds, scalars, loss) -> torch.Tensor:
        """Encode only the texts, a group at a time by `cached_loss`."""

        def encode(group: dict) -> tuple[torch.Tensor]:
            return (model(**group).text_embeds,)

        no_sync = partial(self.accelerator.no_sync, model)
        return cached_loss(encode, groups, partial(loss, image_embeds), scalars, no_sync=no_sync)

    def loss_of_pairs(self, model, groups, images, scalars, loss) -> torch.Tensor:
        """Encode the images with the first group of texts, and the other groups by themselves."""
        image_embeds, text_embeds = self.embeds(model(**groups[0], **images))
        others = [self.embeds(model(**group))[1] for group in groups[1:]]
        return loss(image_embeds, torch.cat([text_embeds, *others]), *scalars)

    def loss_of_pairs_in_chunks(self, model, groups, images, scalars, loss) -> torch.Tensor:
        """Encode a group of texts and as many images at a time by `cached_loss`."""
        n_images = len(images["pixel_values"])

        def encode(chunk: dict) -> tuple[torch.Tensor, torch.Tensor]:
            return self.embeds(model(**chunk))

        def loss_of_each_once(image_embeds, *others):
            # Behind them are those of repeated images, where there are fewer images than groups of texts.
            return loss(image_embeds[:n_images], *others)

        no_sync = partial(self.accelerator.no_sync, model)
        parts = split_images(images, len(groups))
        chunks = [group | part for group, part in zip(groups, parts)]
        return cached_loss(encode, chunks, loss_of_each_once, scalars, no_sync=no_sync)

    def loss_of(self, inputs: dict, groups: list[dict], text_rows: torch.Tensor) -> Callable:
        """Return the batch's loss as a function of image embeddings, text embeddings, scale and any bias.

        Args:
            groups: the texts as they are encoded, if they are; the loss takes their embeddings joined.
            text_rows: which of the texts is a caption's, `(captions,)`.
        """
        row_ids = gather_rows(inputs["row_ids"])
        pairs = partial(pair_loss, image_ids=row_ids, tile_size=self.args.tile_size)
        if self.args.matryoshka_dims is not None:
            pairs = matryoshka(pairs, self.args.matryoshka_dims, self.args.matryoshka_weights)

        def loss(image_embeds, text_embeds, logit_scale, logit_bias=None):
            text_embeds = embedding(text_rows, text_embeds)
            self.watch.see(inputs, groups, text_embeds, image_embeds)
            self.note_scalars(logit_scale, logit_bias)
            image_embeds = gather_rows(image_embeds.float())
            text_embeds = gather_rows(text_embeds.float())
            return pairs(image_embeds, text_embeds, logit_scale.exp(), logit_bias)

        return loss

    def note_scalars(self, logit_scale: torch.Tensor, logit_bias: torch.Tensor | None) -> None:
        """Log the scale and the bias of a sigmoid loss, which show how far it is from where it began."""
        if logit_bias is not None:
            self.watch.note("logit_scale", logit_scale.detach().exp())
            self.watch.note("logit_bias", logit_bias)

    def with_held(self, groups: list[dict], loss: Callable) -> tuple[list[dict], Callable]:
        """Encode some of the held texts behind a batch's own, and add to its loss how far they have moved.

        Returns:
            The groups of all texts, and the loss of their embeddings: the batch's first, then those of the
            held texts.
        """
        texts, before = self.held.draw(
            self.args.train_batch_size, self.state.global_step, self.accelerator.process_index
        )
        before = before.to(self.args.device)
        held_groups, text_rows = self.group_texts(texts, len(groups))
        n_own = sum(len(group["input_ids"]) for group in groups)

        def with_distance(image_embeds, text_embeds, *scalars):
            own = text_embeds[:n_own]
            held = text_embeds[n_own:]
            distance = moved(embedding(text_rows, held), before)
            self.watch.note("held_moved", distance)
            return loss(image_embeds, own, *scalars) + self.args.hold * distance

        return [*groups, *held_groups], with_distance

    def with_text_pairs(
        self, inputs: dict, groups: list[dict], loss: Callable
    ) -> tuple[list[dict], Callable]:
        """Encode translation pairs behind a batch's own texts, and add their contrastive loss to its loss.

        A text chooses its translation among those of all processes, and the reverse. The loss is contrastive
        beside a sigmoid loss too: its bias tells an image's text from others, and by it nearly any two texts
        would be a right pair.

        Returns:
            The groups of all texts, and the loss of their embeddings: first those that `loss` takes, then
            those of the pairs.
        """
        n_pairs = self.args.text_pairs_batch_size
        step = self.state.global_step
        part = self.parts_drawn.get(step, 0)
        self.parts_drawn = {step: part + 1}
        drawn = self.text_pairs.draw(
            n_pairs,
            step,
            part,
            process=self.accelerator.process_index,
            n_processes=self.accelerator.num_processes,
        )
        pair_groups, text_rows = self.group_texts([*drawn.first, *drawn.second], self.n_pair_groups(inputs))
        n_others = sum(len(group["input_ids"]) for group in groups)
        pairs = partial(
            contrastive_loss, image_ids=drawn.ids.to(self.args.device), tile_size=self.args.tile_size
        )
        if self.args.matryoshka_dims is not None:
            pairs = matryoshka(pairs, self.args.matryoshka_dims, self.args.matryoshka_weights)

        def with_pairs(image_embeds, text_embeds, logit_scale, *bias):
            embeds = embedding(text_rows, text_embeds[n_others:]).float()
            first = gather_rows(embeds[:n_pairs])
            second = gather_rows(embeds[n_pairs:])
            of_pairs = pairs(first, second, text_pairs_scale(self.args, logit_scale))
            self.watch.note("text_pairs_loss", of_pairs)
            of_images = loss(image_embeds, text_embeds[:n_others], logit_scale, *bias)
            return of_images + self.args.text_pairs_weight * of_pairs

        return [*groups, *pair_groups], with_pairs

    def n_pair_groups(self, inputs: dict) -> int:
        """Return the number of forwards that translation pairs are encoded in: as a batch's, or of chunks."""
        if self.args.gradient_cache_chunk is None:
            return self.n_groups(inputs)
        return math.ceil(2 * self.args.text_pairs_batch_size / self.args.gradient_cache_chunk)

    def group_texts(self, texts: list[str], n_groups: int) -> tuple[list[dict], torch.Tensor]:
        """Return texts beside a batch as groups to encode, and the row of each in their joined embeddings."""
        encoded = self.data_collator.encode(texts)
        inputs = {name: value.to(self.args.device) for name, value in encoded.items()}
        groups, rows = by_length(inputs, n_groups)
        return groups, rows[inputs["text_rows"]]

    def bound_scale(self) -> None:
        """Bound the scale of a contrastive loss, where it is trained.

        SigLIP's has no bound, and released ones are above CLIP's, such as 112.3 of SO400M at 384 pixels
        (mlfoundations/open_clip#746): with the bound, the first step would change all their scores.
        """
        logit_scale = self.accelerator.unwrap_model(self.model_wrapped).logit_scale
        if logit_scale.requires_grad and self.args.loss == "contrastive":
            self.bound(logit_scale)

    @torch.no_grad()
    def bound(self, logit_scale: torch.Tensor) -> None:
        logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        if self.is_deepspeed_enabled:
            from deepspeed.utils import safe_set_full_fp32_param

            # Or the next step begins from the optimizer's own copy.
            safe_set_full_fp32_param(logit_scale, logit_scale.data)

    def embeds(self, outputs: ModelOutput) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return the embeddings of a forward's images, if it had any, and of its texts."""
        return outputs.image_embeds, outputs.text_embeds

    def n_groups(self, inputs: dict) -> int:
        """Return the number of forwards that a batch is encoded in.

        Without chunks it is one where the images go through the model with the texts.
        """
        if self.args.gradient_cache_chunk is not None:
            return math.ceil(len(inputs["text_rows"]) / self.args.gradient_cache_chunk)
        return self.length_groups if "image_embeds" in inputs else 1

    @torch.no_grad()
    def embed_frozen(self, model: nn.Module, images: dict[str, torch.Tensor]) -> torch.Tensor:
        """Embed images by a frozen tower, once and without a graph: unit vectors `(images, dim)`."""
        n_images = len(images["pixel_values"])
        n_parts = math.ceil(n_images / (self.args.gradient_cache_chunk or n_images))
        parts = split_images(images, n_parts)
        embeddings = torch.cat([model.get_image_features(**part).pooler_output for part in parts])
        return normalize(embeddings.float(), dim=-1)
