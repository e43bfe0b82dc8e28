"""One `transformers.Trainer` per objective; data, logging, precision and resuming are the Trainer's own."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from huggingface_hub import CommitInfo
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.nn.functional import embedding, normalize
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import ModelOutput

from common.errors import InputError
from modeling_altclip.checkpoint_altclip import match_modes
from modeling_altclip.checksums_altclip import CHECKSUMS, check_files, write_checksums
from modeling_altclip.pooling_altclip import IMAGE_INPUTS
from modeling_altclip.tokenizer_files_altclip import restore_files

from .adapter_output import save_adapter
from .checkpoints import mark_finished, mark_unfinished
from .data.images import EpochCallback
from .data.sampling import ShareSampler, language_shares
from .data.streaming import AnyStream
from .freezing import eval_frozen_parts, image_side_learns
from .gradient_cache import cached_loss
from .held_texts import HeldTexts, moved
from .logit_bias import check_loss, logit_bias_of
from .losses import OBJECTIVES, contrastive_loss, gather_rows, sigmoid_loss
from .matryoshka import matryoshka, record_dims
from .monitoring import FiniteSteps, Watch, check_all_finite, check_scaler
from .output_folder import bytes_of_checkpoint, bytes_of_model, saving, without_local_files
from .own_text_tower import let_encode_texts_alone
from .sharding import make_shardable, set_scalars_apart, whole
from .teachers import space_of
from .text_pairs import TextPairs, text_pairs_scale
from .validation import Validation

TEXTS = ("input_ids", "attention_mask")

MAX_LOGIT_SCALE = math.log(100)  # CLIP's bound: logits are scaled by 100 at most


def by_length(inputs: dict, n_groups: int) -> tuple[list[dict], torch.Tensor]:
    """Split the texts of a batch by length, each group padded to its own longest only (length bucketing).

    A batch is drawn first, at random, and split afterwards: its negatives are of every length.

    Args:
        inputs: `input_ids` and `attention_mask` `(texts, tokens)`, padded on the right.
        n_groups: 1 leaves the batch as it is.

    Returns:
        The groups, always `n_groups`, and the row `(texts,)` of each text in the joined outputs of the
        groups.
    """
    if n_groups == 1:
        n_texts = len(inputs["input_ids"])
        rows = torch.arange(n_texts, device=inputs["input_ids"].device)
        return [{name: inputs[name] for name in TEXTS}], rows

    # lengths [9, 3, 8, 4] -> order [1, 3, 2, 0] -> groups of texts [1, 3] and [2, 0], of 4 and 9 tokens
    lengths = inputs["attention_mask"].sum(1)
    order = lengths.argsort(stable=True)
    groups = []
    for texts in _spread(order, n_groups):
        longest = lengths[texts].max()
        groups.append({name: inputs[name][texts, :longest] for name in TEXTS})

    # Outputs come in the order [1, 3, 2, 0]; its inverse [3, 0, 2, 1] is where texts 0 to 3 are found.
    rows = order.argsort()
    return groups, rows


def images_of(inputs: dict) -> dict[str, torch.Tensor]:
    """Return the inputs of a batch's images, each `(images, ...)`: of most towers `pixel_values` alone."""
    return {name: inputs[name] for name in IMAGE_INPUTS if name in inputs}


def _split_images(images: dict[str, torch.Tensor], n_parts: int) -> list[dict[str, torch.Tensor]]:
    """Split what `images_of` returns into `n_parts`, as `_spread` does: the last image may be repeated."""
    parts = [{} for _ in range(n_parts)]
    for name, values in images.items():
        for part, of_part in zip(parts, _spread(values, n_parts)):
            part[name] = of_part
    return parts


def _spread(rows: torch.Tensor, n_parts: int) -> list[torch.Tensor]:
    """Split `rows` into `n_parts` runs of about equal length.

    With fewer rows than parts, the last row fills the empty ones. Every process must run the model equally
    often, however few distinct texts its share of the batch has.
    """
    return [part if len(part) else rows[-1:] for part in rows.tensor_split(n_parts)]


class AltCLIPTrainer(Trainer):
    """The base of all stages' trainers.

    Losses are means over the batch, only matrices are decayed, and training health metrics are logged with
    the loss.
    """

    def __init__(self, *args, validation: Validation | None = None, **kwargs):
        captioned = None if validation is None else validation.captioned
        super().__init__(*args, eval_dataset=captioned, **kwargs)
        let_encode_texts_alone(self.model)
        self.watch = Watch()
        self.finite_steps = FiniteSteps(self.args.device)
        self.validation = validation
        if self.is_fsdp_enabled:
            make_shardable(self.model, self.accelerator)
        if validation is not None:
            validation.begin(self.accelerator)

    def _prepare_for_training(self, *args, **kwargs):
        model, batches = super()._prepare_for_training(*args, **kwargs)
        # For `embed_frozen` and `Validation`; does nothing to models that FSDP does not shard.
        for name in ("get_image_features", "get_text_features"):
            register_fsdp_forward_method(model, name)
        self.finite_steps = FiniteSteps(self.args.device)
        # What a checkpoint holds has been loaded now.
        self.check_all_finite("at the beginning")
        return model, batches

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.finite_steps.note("loss", loss, self.state.global_step + 1)
        return loss

    def _get_grad_norm(self, *args, **kwargs) -> torch.Tensor | float | None:
        norm = super()._get_grad_norm(*args, **kwargs)
        # With fp16 the scaler tries scales that are too large, and skips these steps.
        if norm is not None and not self.args.fp16:
            # Under FSDP2 it may be sharded.
            self.finite_steps.note("gradient norm", whole(torch.as_tensor(norm)), self.state.global_step + 1)
        return norm

    def check_all_finite(self, when: str) -> None:
        """Check every weight and every moment of the optimizer; see `monitoring.check_all_finite`."""
        check_all_finite(self.model, self.optimizer, when, self.accelerator)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        # All processes are here: at a log of the loss, and at the last one of a training.
        if "loss" in logs or "train_loss" in logs:
            self.finite_steps.check(self.accelerator)
            check_scaler(self.accelerator)
        if "loss" in logs:
            logs |= self.watch.report(self.state.global_step / max(1, self.state.max_steps))
        if "train_loss" in logs:
            self.check_all_finite("at the end")
        super().log(logs, *args, **kwargs)

    # The Trainer divides by the number of accumulation steps; left at None it can take our mean for a sum and
    # not divide.
    loss_is_scaled_for_ga = False

    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Log `Validation.scores`; the Trainer can choose the best checkpoint by any of them.

        The loss of a batch would say little.
        """
        self.finite_steps.check(self.accelerator)
        metrics = {f"{metric_key_prefix}_{name}": score for name, score in self.scores().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def scores(self) -> dict[str, float]:
        return self.validation.scores(self.accelerator)

    def _save_checkpoint(self, model, trial) -> None:
        """Save a checkpoint, its checksums last, and only then delete older ones.

        A full disk ends the run with one line, and leaves no half of a checkpoint. Weights that are NaN or
        infinite end it as well, and are not saved.
        """
        folder = self._checkpoint_folder()
        limit = self.args.save_total_limit
        self.finite_steps.check(self.accelerator)
        n_bytes = bytes_of_checkpoint(self.model, self.args)
        with saving(folder.name, folder, n_bytes, is_checkpoint=True):
            if self.args.should_save:
                mark_unfinished(folder)
            self.args.save_total_limit = None  # else the Trainer would delete them first
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.save_total_limit = limit
            self.accelerator.wait_for_everyone()  # for the random states, and shards, of all processes
            if self.args.should_save:
                write_checksums(folder)
                mark_finished(folder)
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(self.args.output_dir, limit, best)

    def _save(self, output_dir=None, state_dict=None) -> None:
        """Save the model and its processor, and checksums unless more is to come, as in a checkpoint.

        With `lora_output="adapter"` an adapter takes the place of the model, but for checkpoints.
        """
        folder = Path(output_dir or self.args.output_dir)
        is_checkpoint = folder == self._checkpoint_folder()
        if self.args.saves_adapter and not is_checkpoint:
            if self.args.should_save:
                save_adapter(self.accelerator.unwrap_model(self.model), self.args, folder)
                self.processing_class.save_pretrained(folder)
                torch.save(self.args, folder / TRAINING_ARGS_NAME)
        else:
            super()._save(output_dir, state_dict)
        has_processor = self.processing_class is not None  # which diffusion has not
        if self.args.should_save and has_processor:
            # An `AltCLIPProcessor` does so by itself, and those of transformers write these files anew.
            restore_files(self.processing_class.tokenizer, folder)
        if self.args.should_save and not is_checkpoint:
            write_checksums(folder)

    def _checkpoint_folder(self) -> Path:
        """Return the folder of a checkpoint of this step; an `output_dir` may have such a name, too."""
        return Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint, whose weights the Trainer copies to where checksums may be of other weights."""
        if self.args.should_save:
            Path(self.args.output_dir, CHECKSUMS).unlink(missing_ok=True)
        with without_local_files():
            super()._push_from_checkpoint(checkpoint_folder)

    def push_to_hub(self, *args, **kwargs) -> CommitInfo | None:
        """Push the model without what holds paths of this machine; processes but the first return None."""
        with without_local_files():
            return super().push_to_hub(*args, **kwargs)

    def _load_best_model(self) -> None:
        """Load the best checkpoint, which is refused if it is damaged.

        Raises:
            InputError: a file of it is not as it was saved.
        """
        try:
            check_files(self.state.best_model_checkpoint)
        except ValueError as error:
            raise InputError(f"load_best_model_at_end: {error}") from error
        super()._load_best_model()

    def save_model(self, output_dir=None, _internal_call: bool = False) -> None:
        """Save the model; a full disk ends the run with one line, and so do NaN or infinite weights."""
        folder = Path(output_dir or self.args.output_dir)
        self.check_all_finite(f"before {folder.name} is saved")
        is_checkpoint = folder == self._checkpoint_folder()
        what = "the adapter" if self.args.saves_adapter else "the model"
        n_bytes = bytes_of_model(self.model, self.args)
        with saving(what, folder, n_bytes, is_checkpoint=is_checkpoint):
            super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            match_modes(folder)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of matrices: all but biases, norms, class embedding and temperature.

        Stock rules would decay the last two.
        """
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.is_fsdp_enabled:
            set_scalars_apart(optimizer)
        return optimizer

    def _run_epoch(self, *args, **kwargs) -> None:
        """Train an epoch, and nothing where a run resumes from the checkpoint of its last step.

        The Trainer sees only after a step whether that was the last: it would train one too many, with each
        resume, and save that model.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)


class TeacherLearningTrainer(AltCLIPTrainer):
    """Trainer of stage 1, teacher learning (paper 3.1); only the texts' side of the model learns.

    Batches carry `target`, the teacher's embeddings `(texts, dim)`, see `training.teachers`. `args` are
    `TeacherLearningArguments`.

    Raises:
        InputError: the loss, a gradient or a weight is not finite, or a disk is full.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from benchmarks import load_model
    >>> from training import CaptionExamples, Collator, TeacherLearningArguments, TeacherLearningTrainer
    >>> from training import freeze_all_but, teacher_embeddings

    >>> name, data = "outputs/miniature/altclip", "outputs/miniature/dataset"
    >>> model, processor = load_model(name)
    >>> rows = load_dataset(data, split="validation")
    >>> target = teacher_embeddings(rows, model, processor.tokenizer)  # of the English captions
    >>> freeze_all_but(model, ["text_model"])
    >>> arguments = TeacherLearningArguments(
    ...     model_name_or_path=name, dataset=data, output_dir="outputs/stage1", max_steps=2
    ... )
    >>> trainer = TeacherLearningTrainer(
    ...     model=model,
    ...     args=arguments,
    ...     train_dataset=CaptionExamples(rows, ["en", "zh"], "target", inputs=target),
    ...     data_collator=Collator(processor.tokenizer, max_length=77),
    ... )
    >>> trainer.train().global_step
    {'train_runtime': ...}
    2
    ```
    """

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        examples = self.train_dataset
        args = self.args
        of_like_length = args.train_sampling_strategy == "group_by_length"
        as_they_are = args.temperature == 1 and examples.weights is None and not args.replay_languages
        if as_they_are and not of_like_length:
            return super()._get_train_sampler(train_dataset)

        # An example is a row and a column of captions; the column names the language.
        language_of_example = np.asarray(examples.columns)[examples.places[:, 1]]
        names, languages = np.unique(language_of_example, return_inverse=True)
        replayed = np.flatnonzero(np.isin(names, args.replay_languages or []))
        shares = language_shares(
            languages, examples.weights, temperature=args.temperature, replayed=replayed, replay=args.replay
        )
        lengths = examples.lengths(self.data_collator.tokenizer) if of_like_length else None
        sampler = ShareSampler(*shares, args.seed, lengths, args.train_batch_size * args.world_size)
        self.add_callback(EpochCallback(sampler))
        return sampler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        groups, rows = by_length(inputs, self.args.length_groups)
        space = space_of(self.accelerator.unwrap_model(model).config)
        embeddings = torch.cat([space.of_student(model(**group)) for group in groups])
        # A text that several examples of the batch share is encoded once: `text_rows` points each example to
        # its text. Neither by brackets nor by index_select: the gradient of the one is summed in any order on
        # a CPU, of the other on a GPU, and equal seeds would give other weights.
        embeddings = embedding(rows[inputs["text_rows"]], embeddings).float()
        self.watch.see(inputs, groups, embeddings, inputs["target"])
        return OBJECTIVES[self.args.objective](embeddings, inputs["target"])


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
        parts = _split_images(images, len(groups))
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
        return self.args.length_groups if "image_embeds" in inputs else 1

    @torch.no_grad()
    def embed_frozen(self, model: nn.Module, images: dict[str, torch.Tensor]) -> torch.Tensor:
        """Embed images by a frozen tower, once and without a graph: unit vectors `(images, dim)`."""
        n_images = len(images["pixel_values"])
        n_parts = math.ceil(n_images / (self.args.gradient_cache_chunk or n_images))
        parts = _split_images(images, n_parts)
        embeddings = torch.cat([model.get_image_features(**part).pooler_output for part in parts])
        return normalize(embeddings.float(), dim=-1)
