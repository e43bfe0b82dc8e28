"""Dry runs: find out what a stage would train, on how much data, and whether it fits into memory.

Configurations and a few rows are enough. The model is built of fake tensors, which have shapes but no
contents, and runs once. The activations that autograd keeps of this forward pass are counted, not modelled:
autocast, attention kernel and towers are those of the training.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from transformers import AutoImageProcessor, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_layers import GradientCheckpointingLayer

from common.models.kinds import load_config, load_tokenizer, readable
from modeling_altclip.configuration_altclip_dual_encoder import width_of_states
from modeling_altclip.pooling_altclip import NAFLEX, check_text_encoder, made_up_image
from modeling_altclip.reading_altclip import text_reading
from modeling_altclip.texts_altclip import readable_tokens, tokenize

from .arguments import (
    ContrastiveArguments,
    LowRankArguments,
    PairArguments,
    StageArguments,
    TeacherLearningArguments,
    say,
)
from .data.preview import first_captions
from .freezing import freeze_all_but, image_side_learns
from .initialization import describe_initialization
from .logit_bias import fit_to_loss
from .low_rank import add_low_rank
from .matryoshka import check_widest
from .model_checks import check_models, check_tokenizers
from .output_folder import check_room_for_model, examples_per_step
from .own_text_tower import fit_trainable, let_encode_texts_alone
from .student import set_attention, student_config
from .teachers import space_of, width_of_targets
from .text_teachers import describe_image_side, parameters_of_text_teacher

_GIB = 2**30  # bytes
_FLOAT32 = 4  # bytes
# Matrices of logits at the peak of `contrastive_loss`: measured 1,272 MB above its gradients for 8,192 pairs.
_LOGITS = 5
# Of these, what backward needs: with `matryoshka_dims` it is kept for each number of dimensions.
_KEPT_LOGITS = 2


class _Memory(NamedTuple):
    """Bytes that one process holds on its device.

    - `buckets`: those of DDP, in which gradients are averaged.
    - `logits`: the similarities of all images and texts, or of a tile of them.
    - `accumulates`: gradients of an earlier part of the batch are there during a forward pass.
    """

    weights: int
    gradients: int
    optimizer: int
    buckets: int
    activations: int
    logits: int
    accumulates: bool

    @property
    def peak(self) -> int:
        """Return the most that is held at a time.

        Gradients appear as activations go, unless some are there already from an earlier part of the batch.
        """
        # Over a step: activations grow in the forward pass, then shrink while gradients grow.
        constant = self.weights + self.optimizer + self.buckets
        passing = self.activations + self.logits
        if self.accumulates:
            return constant + passing + self.gradients
        return constant + max(passing, self.gradients)

    def sharded(self, n_processes: int) -> int:
        """Return the peak under FSDP2, without the one layer whose weights are gathered at a time."""
        shard = (self.weights + self.gradients + self.optimizer) // n_processes
        return shard + self.activations + self.logits


def print_plan(arguments: StageArguments) -> None:
    """Print what a stage would do, and train nothing.

    Raises:
        InputError: data, model or tokenizer are missing or do not fit the stage.
    """
    check_models(arguments)
    check_tokenizers(arguments)
    texts, described = first_captions(arguments)
    argument = _tokenizer_argument(arguments)
    tokenizer = load_tokenizer(argument, getattr(arguments, argument))
    config = _config_of(arguments)
    # Some families look at their first random weights, and fake ones have no values to look at.
    with FakeTensorMode(), no_init_weights():
        model = _untrained(arguments, config)
        _check_pooler(arguments, model)
        reading = text_reading(model)
        longest = min(arguments.max_text_length, readable_tokens(model), reading.length or math.inf)
        encoded = tokenize(tokenizer, texts, truncation=True, max_length=longest)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        if reading.attends_to_padding:
            lengths = [longest] * len(texts)
        # Captions of the first rows show what is likely; texts of the maximum length are the worst case.
        bounds = {"seen": max(lengths), "at most": longest}
        memory = {name: estimate(model, arguments, n_tokens) for name, n_tokens in bounds.items()}

    lines = [
        ("data", f"{arguments.dataset}, split {arguments.split}: {described}"),
        *_teacher_lines(arguments, config),
        *_parameter_lines(model, arguments),
        *_initialization_lines(arguments),
        *_step_lines(arguments, lengths),
        *_memory_lines(memory, bounds, arguments),
    ]
    for name, value in lines:
        say(arguments, f"{name:<22}{value}")
    say(arguments, "Dry run: nothing was trained. Next: the same command without --dry_run.")


def _check_pooler(arguments: StageArguments, model: PreTrainedModel) -> None:
    """Refuse the pooling `pooler` for a text encoder that has none, for which no weights are needed.

    Raises:
        InputError: it has none.
    """
    if _is_new_student(arguments) and arguments.text_pooling == "pooler":
        with readable("text_encoder_name_or_path", arguments.text_encoder_name_or_path):
            check_text_encoder(model.text_model.encoder, "pooler")


def check_room_before_loading(arguments: StageArguments) -> None:
    """Check that the disk has room for the model, before models are loaded and the teacher runs.

    Raises:
        InputError: it has not; the message gives the sizes.
    """
    config = _config_of(arguments)
    # Shapes alone, as `from_pretrained` builds every model: no time, no memory and no random numbers.
    with torch.device("meta"):
        model = _untrained(arguments, config)
    check_room_for_model(arguments, model)


def _config_of(arguments: StageArguments) -> PreTrainedConfig:
    """Return the configuration of the stage's model."""
    if _is_new_student(arguments):
        return student_config(arguments)
    config = load_config(arguments.model_name_or_path, trust_remote_code=arguments.trust_remote_code)
    if isinstance(arguments, TeacherLearningArguments) and arguments.new_pieces:
        # As `build_student` resizes the embeddings, if as many pieces are found as may be added.
        n_known = len(load_tokenizer("model_name_or_path", arguments.model_name_or_path))
        config.text_config.vocab_size = n_known + arguments.new_pieces
    return config


def _untrained(arguments: StageArguments, config: PreTrainedConfig) -> PreTrainedModel:
    """Build the stage's model by its configuration, without loading weights, and freeze what it freezes."""
    if _is_new_student(arguments):
        model = AutoModel.from_config(config, trust_remote_code=False)
        set_attention(arguments, model)
    else:
        model = AutoModel.from_config(
            config, attn_implementation=arguments.attn_implementation, trust_remote_code=False
        )

    let_encode_texts_alone(model)
    if isinstance(arguments, PairArguments):
        check_widest(arguments.matryoshka_dims, model.config)
        fit_to_loss(model, arguments.loss)
    if isinstance(arguments, TeacherLearningArguments):
        freeze_all_but(model, space_of(model.config).parts, arguments.freeze)
        _add_low_rank(arguments, model)
    elif isinstance(arguments, ContrastiveArguments):
        fit_trainable(arguments, model)
        freeze_all_but(model, arguments.trainable, arguments.freeze)
        _add_low_rank(arguments, model)
    return model


def _add_low_rank(arguments: LowRankArguments, model: nn.Module) -> None:
    """Add low-rank updates, if any, with weights that are as fake, or on `meta`, as the model's own."""
    # peft moves new weights to the device of their layer, which fake ones cannot be.
    with unset_fake_temporarily():
        updates = add_low_rank(arguments, model)
    if updates is None:
        return
    for part in model.text_model.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            if not isinstance(value, FakeTensor) and not value.is_meta:
                part.register_parameter(name, nn.Parameter(torch.empty(value.shape)))


def _is_new_student(arguments: StageArguments) -> bool:
    """Return whether stage 1 makes a new text tower from an encoder, and does not extend a finished model."""
    return isinstance(arguments, TeacherLearningArguments) and arguments.model_name_or_path is None


def _tokenizer_argument(arguments: StageArguments) -> str:
    """Return the argument that names the model whose tokenizer is used."""
    return "text_encoder_name_or_path" if _is_new_student(arguments) else "model_name_or_path"


def _images_live(arguments: StageArguments) -> bool:
    """Return whether images go through the model at every step.

    Otherwise the stage has none, or embeds them before training.
    """
    if isinstance(arguments, TeacherLearningArguments):
        return False
    return not getattr(arguments, "cache_image_embeds", False)


def _has_image_vectors(arguments: StageArguments) -> bool:
    """Return whether the dataset has ready vectors in place of images."""
    return isinstance(arguments, ContrastiveArguments) and arguments.image_embeds_column is not None


def _caches_towers(arguments: StageArguments) -> bool:
    """Return whether both towers run once, before training."""
    return isinstance(arguments, ContrastiveArguments) and arguments.cache_towers


def estimate(model: nn.Module, arguments: StageArguments, n_tokens: int) -> _Memory:
    """Estimate the memory of a step in which every text has `n_tokens`.

    Weights, gradients and AdamW's two states are float32, under autocast too.
    """
    n_processes = _n_processes(arguments)
    n_rows = arguments.per_device_train_batch_size
    accumulates = arguments.gradient_accumulation_steps > 1
    n_pair_texts = 2 * _n_text_pairs(arguments)
    side = 0  # of the square matrix of logits, or of a tile of it
    side_of_text_pairs = 0
    n_matrices = _LOGITS
    if isinstance(arguments, PairArguments):
        n_pairs = n_rows * n_processes  # negatives come from all processes
        side = min(arguments.tile_size or n_pairs, n_pairs)
        n_text_pairs = _n_text_pairs(arguments) * n_processes
        side_of_text_pairs = min(arguments.tile_size or n_text_pairs, n_text_pairs)
        if arguments.matryoshka_dims and arguments.tile_size is None:
            n_matrices += _KEPT_LOGITS * (len(arguments.matryoshka_dims) - 1)
        chunk = arguments.gradient_cache_chunk
        if chunk is not None and (chunk < n_rows or n_pair_texts):
            # A forward pass has the activations of one chunk; gradients of earlier chunks are there already.
            n_rows = min(chunk, max(n_rows, n_pair_texts))
            n_pair_texts = 0
            accumulates = True

    n_trainable_bytes = _FLOAT32 * _n_trainable(model)
    optimizer_states = 2 if "adam" in arguments.optim else 0
    return _Memory(
        weights=sum(value.nbytes for value in model.parameters()),
        gradients=n_trainable_bytes,
        optimizer=optimizer_states * n_trainable_bytes,
        buckets=n_trainable_bytes if n_processes > 1 else 0,
        activations=_activations(model, arguments, n_rows, n_tokens, n_pair_texts),
        # An upper bound with translation pairs, whose loss does not peak when that of images does.
        logits=n_matrices * _FLOAT32 * (side**2 + side_of_text_pairs**2),
        accumulates=accumulates,
    )


def _activations(
    model: nn.Module, arguments: StageArguments, n_rows: int, n_tokens: int, n_more_texts: int
) -> int:
    """Count the bytes that autograd keeps of one forward pass, apart from weights.

    Call it, and build `model`, under a `FakeTensorMode`. With gradient checkpointing each layer keeps only
    its input; in the backward pass one layer at a time is computed again and keeps the rest.
    """
    batches = _fake_batches(model, arguments, n_rows, n_tokens)
    if n_more_texts:
        batches.append(_fake_texts(n_more_texts, n_tokens))
    kept = _KeptTensors(model)
    hooks = []
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            hooks.append(layer.register_forward_pre_hook(kept.enter_layer))
            hooks.append(layer.register_forward_hook(kept.leave_layer))

    dtype = torch.float16 if arguments.fp16 else torch.bfloat16
    autocast = torch.autocast("cpu", dtype, enabled=arguments.fp16 or arguments.bf16)
    with autocast, torch.autograd.graph.saved_tensors_hooks(kept.keep, kept.give_back):
        for batch in batches:
            model.train()(**batch)
    for hook in hooks:
        hook.remove()

    if not arguments.gradient_checkpointing:
        return kept.n_bytes()
    outside_layers = kept.n_bytes() - sum(kept.of_layers)
    # No layer runs where both towers are cached.
    return outside_layers + sum(kept.inputs) + max(kept.of_layers, default=0)


def _fake_batches(
    model: nn.Module, arguments: StageArguments, n_rows: int, n_tokens: int
) -> list[dict[str, torch.Tensor]]:
    """Build a batch of the right shapes, as the inputs of each forward pass of a step.

    It has images where they go through a tower that learns. Where both towers are cached, texts and images
    are the towers' outputs, and each of them has a pass.
    """
    texts = _fake_texts(n_rows, n_tokens)
    if _caches_towers(arguments):
        image_width = width_of_states(model.config.vision_config)
        with torch.no_grad():
            return [
                {"text_pooler_output": model.text_model(**texts).pooler_output},
                {"image_pooler_output": torch.zeros(n_rows, image_width)},
            ]
    if _images_live(arguments) and image_side_learns(model):
        return [texts | _fake_images(model, arguments, n_rows)]
    return [texts]


def _fake_texts(n_texts: int, n_tokens: int) -> dict[str, torch.Tensor]:
    texts = {}
    for name in ("input_ids", "attention_mask"):
        texts[name] = torch.ones(n_texts, n_tokens, dtype=torch.long)
    return texts


def _fake_images(
    model: nn.Module, arguments: StageArguments, n_rows: int
) -> dict[str, torch.Tensor | np.ndarray]:
    """Build images of the right shapes; those of NaFlex have as many patches as its image processor makes."""
    config = model.config.vision_config
    with unset_fake_temporarily():
        n_patches = _n_patches(arguments) if config.model_type == NAFLEX else None
        image = made_up_image(config, n_patches)
        shapes = image.pop("spatial_shapes", None)
    images = {name: torch.zeros(n_rows, *value.shape[1:], dtype=value.dtype) for name, value in image.items()}
    if shapes is not None:
        # The tower reads their values, which fake tensors have not.
        images["spatial_shapes"] = np.array(shapes.tolist() * n_rows)
    return images


def _n_patches(arguments: StageArguments) -> int:
    """Return to how many patches the image processor of NaFlex pads every image."""
    with readable("model_name_or_path", arguments.model_name_or_path):
        processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path, trust_remote_code=False)
    return processor.max_num_patches


class _KeptTensors:
    """Counts the tensors that autograd keeps for backward: all, and those of each checkpointed layer."""

    def __init__(self, model: nn.Module):
        self.weights = {value.untyped_storage()._cdata for value in model.parameters()}
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.before: list[int] = []  # bytes kept when a layer was entered
        self.of_layers: list[int] = []  # bytes that each layer keeps
        self.inputs: list[int] = []  # bytes of each layer's input

    def n_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())

    def keep(self, value: torch.Tensor) -> torch.Tensor:
        """Count a tensor, once however often it is kept; views of one tensor share its storage."""
        storage = value.untyped_storage()
        if storage._cdata not in self.weights:
            # The storage itself is kept, so that no other takes its address.
            self.storages[storage._cdata] = storage
        return value

    @staticmethod
    def give_back(value: torch.Tensor) -> torch.Tensor:
        """Return a kept tensor to autograd, unchanged: the second of the two hooks."""
        return value

    def enter_layer(self, layer: nn.Module, inputs: tuple) -> None:
        self.before.append(self.n_bytes())
        self.inputs.append(inputs[0].nbytes)

    def leave_layer(self, layer: nn.Module, inputs: tuple, output) -> None:
        self.of_layers.append(self.n_bytes() - self.before.pop())


def _n_text_pairs(arguments: StageArguments) -> int:
    """Return the number of translation pairs in a batch of a process, 0 where none are trained."""
    if isinstance(arguments, ContrastiveArguments) and arguments.text_pairs_weight > 0:
        return arguments.text_pairs_batch_size
    return 0


def _n_processes(arguments: StageArguments) -> int:
    return arguments.dry_run_processes or arguments.world_size


def _n_parameters(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def _n_trainable(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


# The lines of the plan, as pairs of a name and a value


def _teacher_lines(arguments: StageArguments, config: PreTrainedConfig) -> list[tuple[str, str]]:
    """Say how large a teacher of texts alone is, and what it has to give."""
    if not isinstance(arguments, TeacherLearningArguments) or not arguments.has_text_teacher:
        return []
    n_parameters = parameters_of_text_teacher(arguments.teacher_name_or_path)
    size = "of a size that its library knows" if n_parameters is None else f"{n_parameters:,} parameters"
    needed = f"has to give {width_of_targets(config)} values a text"
    lines = [("teacher", f"{arguments.teacher_name_or_path}, {size}; {needed}")]
    if arguments.image_model_name_or_path is not None:
        lines.append(("images", describe_image_side(arguments)))
    return lines


def _initialization_lines(arguments: StageArguments) -> list[tuple[str, str]]:
    """Say what is fitted before the first step, if anything is."""
    described = describe_initialization(arguments)
    return [] if described is None else [("initialization", described)]


def _parameter_lines(model: PreTrainedModel, arguments: StageArguments) -> list[tuple[str, str]]:
    towers = []
    for name, part in model.named_children():
        towers.append(f"{name} {_n_parameters(part):,}")
    n_all = _n_parameters(model)
    n_trainable = _n_trainable(model)
    trainable = f"{n_trainable:,}, {100 * n_trainable / n_all:.1f} %"
    if isinstance(arguments, TeacherLearningArguments) and arguments.new_pieces:
        trainable += f", if {arguments.new_pieces:,} pieces are added"
    return [("parameters", f"{n_all:,}: {', '.join(towers)}"), ("trainable", trainable)]


def _step_lines(arguments: StageArguments, lengths: list[int]) -> list[tuple[str, str]]:
    n_processes = _n_processes(arguments)
    per_device = arguments.per_device_train_batch_size
    accumulated = arguments.gradient_accumulation_steps
    n_examples = examples_per_step(arguments, n_processes)
    factors = f"{per_device} x {accumulated} accumulated x {n_processes} processes"

    mean = sum(lengths) / len(lengths)
    # The tokens of a step are extrapolated from the mean length of the few texts that were read.
    most = n_examples * arguments.max_text_length
    likely = round(n_examples * mean)
    tokens = f"{likely:,} at the {mean:.1f} a text of {len(lengths)} seen, at most {most:,}"

    if _caches_towers(arguments):
        tokens = "0, as texts are embedded once before training"

    images = "0"
    if not isinstance(arguments, TeacherLearningArguments):
        images = f"{n_examples:,}"
        if _has_image_vectors(arguments):
            images += f", as vectors of the column {arguments.image_embeds_column}"
        elif not _images_live(arguments):
            images += ", as embeddings computed once before training"

    lines = [
        ("examples per step", f"{n_examples:,}: {factors}"),
        ("tokens per step", tokens),
        ("images per step", images),
    ]
    n_text_pairs = _n_text_pairs(arguments) * accumulated * n_processes
    if n_text_pairs:
        most = 2 * n_text_pairs * arguments.max_text_length
        more = f"{n_text_pairs:,}, which are {2 * n_text_pairs:,} more texts of at most {most:,} tokens"
        lines.append(("text pairs per step", more))

    training = f"{arguments.num_train_epochs:g} epochs"
    n_steps = arguments.max_steps
    if n_steps > 0:
        training = f"{n_steps:,} steps, {n_steps * n_examples:,} examples"
    return [*lines, ("training", training)]


def _to_gib(n_bytes: int) -> str:
    return f"{n_bytes / _GIB:.2f}"


def _memory_lines(
    memory: dict[str, _Memory], bounds: dict[str, int], arguments: StageArguments
) -> list[tuple[str, str]]:
    worst = memory["at most"]
    fixed = []
    for name in ("weights", "gradients", "optimizer", "buckets", "logits"):
        fixed.append(f"{name} {_to_gib(getattr(worst, name))}")
    passing = []
    peaks = []
    for name, n_tokens in bounds.items():
        passing.append(f"{_to_gib(memory[name].activations)} at {n_tokens} tokens")
        peaks.append(f"{_to_gib(memory[name].peak)} at {n_tokens} tokens")

    lines = [
        ("memory, GiB", ", ".join(fixed)),
        ("activations, GiB", ", ".join(passing)),
        ("peak a process, GiB", ", ".join(peaks)),
    ]
    n_processes = _n_processes(arguments)
    if n_processes > 1:
        lines.append(("under FSDP2, GiB", _to_gib(worst.sharded(n_processes))))
    return lines


__all__ = ["check_room_before_loading", "estimate", "print_plan"]
