"""One dataclass of arguments per stage: `transformers.TrainingArguments` and what the stage adds.

The keys of a recipe are these fields, and `--help` prints their texts. Fields of one subject stand together
under a heading: data, model, batch, evaluation.
"""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.trainer_utils import HubStrategy, SaveStrategy

from common.errors import InputError
from common.models.libraries import TEXT_TEACHERS, check_library, library_of, source_of
from common.recipe import did_you_mean
from modeling_altclip.configuration_altclip_dual_encoder import TEXT_HEADS

from .freezing import IMAGE_PARTS
from .losses import OBJECTIVES, PAIR_LOSSES
from .matryoshka import check_matryoshka

_LORA_OUTPUTS = ("merged", "adapter")
# What can learn beside the text tower's updates where these are saved as an adapter.
_IN_ADAPTERS = ("text_model", "text_projection", "visual_projection", "logit_scale", "logit_bias")


@dataclass(kw_only=True)
class StageArguments(TrainingArguments):
    """Arguments of every stage.

    Some defaults differ from those of `TrainingArguments`:

    - All columns are kept, because batches are made of captions.
    - DDP neither searches for parameters without a gradient, since every parameter gets one, nor broadcasts
      buffers at every forward pass, since no buffer changes.
    - Metrics are logged every 10 steps, and NaN losses are shown.
    """

    # Data
    dataset: str = field(
        metadata={
            "help": "Folder or Hub id of the training data, whose column `captions` holds {language: text}; "
            "a public corpus by its name, such as cc3m; or a YAML file that lists several of these."
        }
    )
    split: str = field(default="train", metadata={"help": "Split of `dataset` to train on."})
    languages: list[str] | None = field(
        default=None,
        metadata={"help": "Language codes to train on, such as en zh. By default all languages of the data."},
    )
    allow_outside_images: bool = field(
        default=False,
        metadata={
            "help": "Also read images and files that a dataset names outside of itself: elsewhere on this "
            "machine, or at other addresses. Otherwise such rows are bad rows."
        },
    )

    # Batch
    max_text_length: int = field(
        default=77,
        metadata={
            "help": "Maximum number of tokens of a text. Longer texts are truncated. CLIP and AltCLIP use 77."
        },
    )
    length_groups: int = field(
        default=1,
        metadata={
            "help": "Number of groups of similar length in which the texts of a batch are encoded, to save "
            "padding. The default 1 encodes them together. It has no effect where texts and images go "
            "through the model in one forward, as in a stage 2 that trains the image tower, or where "
            "gradient_cache_chunk is set."
        },
    )

    # Model
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "Attention kernel: eager, sdpa, flash_attention_2 or flex_attention. "
            "By default transformers chooses it."
        },
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={
            "help": "Run the code that a text encoder brings in its folder, with all rights of this process: "
            "read it first. Without it such an encoder, and a model made of it, is refused."
        },
    )

    # Run
    resume: bool = field(
        default=False,
        metadata={
            "help": "Resume from the last complete checkpoint in `output_dir` that is not damaged. Where "
            "there is no checkpoint, the training begins."
        },
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Resume from this checkpoint in `output_dir`, such as `checkpoint-40`. Later ones are "
            "kept as `replaced-checkpoint-N`."
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Train nothing: build the model from its configuration, read a few rows, and print sizes "
            "and memory."
        },
    )
    dry_run_processes: int | None = field(
        default=None,
        metadata={
            "help": "Number of processes that a dry run assumes. By default the number that run the script."
        },
    )

    # Evaluation
    validation_split: str | None = field(
        default=None,
        metadata={
            "help": "Split of images and captions on which retrieval is evaluated in each language, as often "
            "as `eval_strategy` states. By default there is no evaluation."
        },
    )
    validation_dataset: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id that contains the validation split. By default `dataset`."},
    )
    zero_shot_split: str | None = field(
        default=None,
        metadata={
            "help": "Split of images and labels in the validation dataset, on which zero-shot classification "
            "is evaluated. It needs `class_names`. By default classification is not evaluated."
        },
    )
    class_names: str | None = field(
        default=None,
        metadata={
            "help": "JSON file of the class names for `zero_shot_split`: {language: [name of class 0, "
            "name of class 1, ...]}."
        },
    )
    english_tolerance: float = field(
        default=0.03,
        metadata={
            "help": "Print a warning if mean recall in English falls below the teacher's by more than this "
            "fraction. The default 0.03 is 3 points."
        },
    )
    metric_for_best_model: str | None = field(
        default="mean_recall",
        metadata={
            "help": "Metric that chooses the best checkpoint with `load_best_model_at_end`. The default is "
            "mean recall over all languages."
        },
    )

    # Checkpoints. None is for "not given": with load_best_model_at_end, they are saved at every evaluation.
    save_strategy: SaveStrategy | None = field(
        default=None,
        metadata={
            "help": "When checkpoints are saved: no, steps, epoch or best. By default steps, "
            "or the value of `eval_strategy` with `load_best_model_at_end`."
        },
    )
    save_steps: float | None = field(
        default=None,
        metadata={
            "help": "Number of steps between checkpoints. By default 500, "
            "or the value of `eval_steps` with `load_best_model_at_end`."
        },
    )

    # Defaults that differ from those of transformers
    remove_unused_columns: bool = field(
        default=False,
        metadata={"help": "Drop the columns that the model's forward does not take. Keep this false."},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "Let DDP search for parameters that get no gradient. Every parameter gets one."},
    )
    ddp_broadcast_buffers: bool | None = field(
        default=False,
        metadata={"help": "Let DDP send buffers to all processes at every forward. No buffer changes."},
    )
    logging_steps: float = field(
        default=10,
        metadata={"help": "Number of steps between two log entries; below 1, a fraction of all steps."},
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Hide NaN and infinite losses from the log. By default they are shown."},
    )
    # transformers' own flag takes one name only.
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={
            "help": "Trackers that receive the log: tensorboard, trackio, several of them, all or none."
        },
    )

    def __post_init__(self):
        self.resume = self.resume or self.resume_from_checkpoint is not None
        self.use_cpu = self.use_cpu or self.dry_run  # nothing is computed, so bf16 is accepted on any machine
        self.unsupported_precision = self.drop_unsupported_precision()
        # Without `use_cpu`, accelerate joins processes on accelerators only, and each process of torchrun
        # would train alone.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self.saves_where_scored = self.save_where_scored()
        super().__post_init__()
        self.check_trackers()
        if self.deepspeed_plugin is not None and not self.dry_run:
            self.adapt_to_deepspeed()

        if (self.eval_strategy != "no") != (self.validation_split is not None):
            raise InputError(
                f"eval_strategy is {self.eval_strategy.value} and validation_split is "
                f"{self.validation_split}: give both, such as steps and validation, or neither"
            )
        if (self.zero_shot_split is None) != (self.class_names is None):
            raise InputError(
                f"zero_shot_split is {self.zero_shot_split} and class_names is {self.class_names}: "
                "give both or neither"
            )
        if self.zero_shot_split is not None and self.validation_split is None:
            raise InputError(f"zero_shot_split is {self.zero_shot_split} without validation_split: give both")

    @property
    def saves_adapter(self) -> bool:
        """Return whether the folder of the run becomes an adapter: not in a stage that learns all weights."""
        return False

    def models(self) -> list[str]:
        """Return the models that the training starts from or learns from."""
        names = [field.name for field in fields(self) if field.name.endswith("name_or_path")]
        given = [getattr(self, name) for name in names]
        return [source_of(name) for name in given if name is not None]

    def __getstate__(self) -> dict:
        """Return what `training_args.bin` holds, which is in every saved folder: all but the token."""
        return self.__dict__ | {"hub_token": None}

    def save_where_scored(self) -> str | None:
        """Save a checkpoint at every evaluation if the best one is to be kept.

        A `save_strategy` that is given and is not "no" is kept.

        Returns:
            When checkpoints are saved, for a log line; None if nothing was changed.
        """
        # transformers converts strings to its enums only in its own __post_init__, which comes later.
        scored_by = getattr(self.eval_strategy, "value", self.eval_strategy)
        scored_every = self.eval_steps or self.logging_steps  # transformers uses the same fallback
        keeps_best = self.load_best_model_at_end and scored_by != "no"

        if keeps_best and self.save_strategy in (None, "no"):
            self.save_strategy = scored_by
            if scored_by == "steps":
                self.save_steps = scored_every
                return f"every {scored_every:g} steps"
            self.save_steps = 500
            return "every epoch"

        if self.save_steps is None:
            # The Trainer requires that checkpoints are saved at evaluations, to find the best of them.
            both_by_steps = self.save_strategy == scored_by == "steps"
            self.save_steps = scored_every if keeps_best and both_by_steps else 500
        self.save_strategy = self.save_strategy or "steps"
        return None

    def check_trackers(self) -> None:
        """Check that every tracker of `report_to` is one of transformers' and installed.

        Raises:
            InputError: one is not.
        """
        for name in self.report_to:
            if name not in INTEGRATION_TO_CALLBACK:
                close = did_you_mean(name, INTEGRATION_TO_CALLBACK)
                hint = f"choose from {', '.join(INTEGRATION_TO_CALLBACK)}"
                if close:
                    hint = f"did you mean {close}?"
                raise InputError(f"report_to has no tracker {name!r}: {hint}")
            if name not in get_available_reporting_integrations():
                raise InputError(f"report_to is {name}, which is not installed: install it, or take none")

    def drop_unsupported_precision(self) -> str | None:
        """Drop `bf16` and `fp16` without a GPU, and return their names; None if they are kept.

        Recipes set them for a GPU. A recipe for a CPU sets `use_cpu` as well, which keeps bf16. fp16 is
        dropped even so: accelerate would ignore it there, and its scaler with it, without a word.
        """
        if self.dry_run or (self.bf16 and self.fp16):
            return None  # nothing is computed; or transformers refuses the two together
        if self.use_cpu:
            # DeepSpeed would cast all weights to fp16, on a CPU too: `adapt_to_deepspeed` refuses it.
            unsupported = [] if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED") else ["fp16"]
        else:
            unsupported = [] if torch.accelerator.is_available() else ["bf16", "fp16"]
        requested = [name for name in unsupported if getattr(self, name)]
        for name in requested:
            setattr(self, name, False)
        return " and ".join(requested) or None

    def adapt_to_deepspeed(self) -> None:
        """Make DeepSpeed train in bf16 as DDP does, by autocast.

        DeepSpeed's own `bf16` casts all weights and inputs to bf16, including frozen weights and targets.

        Raises:
            InputError: fp16 is set, which would do the same; or validation is set with sharded weights.
        """
        plugin = self.deepspeed_plugin
        if self.mixed_precision == "fp16":
            raise InputError(
                "mixed precision is fp16, and DeepSpeed would cast frozen weights to fp16 as well: take bf16"
            )
        if plugin.zero_stage == 3 and self.validation_split is not None:
            raise InputError(
                f"validation_split is {self.validation_split}, and under ZeRO-3 no process has the weights: "
                "leave it out with eval_strategy, or take zero2.yaml or fsdp2.yaml"
            )
        autocast = {"enabled": self.mixed_precision == "bf16", "dtype": "bfloat16"}
        plugin.deepspeed_config |= {"bf16": {"enabled": False}, "torch_autocast": autocast}
        self.bf16 = False
        self.mixed_precision = "no"


@dataclass(kw_only=True)
class ExclusionArguments(StageArguments):
    """Arguments of the stages whose data is searched for tests."""

    # Data
    exclude_tasks: list[str] | None = field(
        default=None,
        metadata={
            "help": "Tasks of benchmarks/tasks, or YAML files of your own, whose captions and pictures are "
            "removed from the training data, such as flickr30k xm3600; all takes those whose data is on this "
            "machine. By default none."
        },
    )


@dataclass(kw_only=True)
class PairArguments(ExclusionArguments):
    """Arguments of the contrastive stages: reading images with captions, and batches larger than memory."""

    # Data
    dataset: str = field(
        metadata={
            "help": "Folder or Hub id of images with captions: parquet, imagefolder or webdataset; a public "
            "corpus by its name; or a YAML file that lists several. `training/data/captions.py` shows the "
            "forms that captions may have."
        }
    )
    text_column: str | None = field(
        default=None,
        metadata={"help": "Column of the captions. By default the first column with a usual name."},
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the files while training. Each process reads its own files."},
    )
    shuffle_buffer: int = field(
        default=0,
        metadata={
            "help": "Number of streamed rows from which the next row is sampled. "
            "The default 0 keeps the order of the files."
        },
    )
    bad_rows: str = field(
        default="set_aside",
        metadata={
            "help": "What happens to rows whose image cannot be decoded, or which have no vector in "
            "image_embeds_column: set_aside skips and lists them, error stops the script."
        },
    )

    # Loss
    loss: str = field(
        default="contrastive",
        metadata={
            "help": "Loss of images and texts: contrastive as in CLIP and the paper, or sigmoid as in "
            "SigLIP, in which each pair is right or wrong by itself. sigmoid trains a model with a "
            "logit_bias: a SigLIP, or a dual encoder, which gets one if it has none."
        },
    )
    matryoshka_dims: list[int] | None = field(
        default=None,
        metadata={
            "help": "Numbers of dimensions, such as 768 512 256 128. The loss is summed over embeddings "
            "truncated to each, so that they can be truncated to these later. The full number must be one of "
            "them. By default embeddings are trained as a whole."
        },
    )
    matryoshka_weights: list[float] | None = field(
        default=None,
        metadata={"help": "Weight of the loss for each of `matryoshka_dims`, in their order. By default 1."},
    )

    # Batch
    tile_size: int | None = field(
        default=None,
        metadata={
            "help": "Number of rows and columns of logits that are in memory at a time, such as 1024. "
            "This does not change the loss. By default all logits are computed at once."
        },
    )
    gradient_cache_chunk: int | None = field(
        default=None,
        metadata={
            "help": "Number of examples whose activations are in memory at a time (gradient caching). "
            "This does not change the gradients, but encodes everything twice. By default the whole batch."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.loss not in PAIR_LOSSES:
            raise InputError(f"loss is {self.loss!r}: choose {' or '.join(PAIR_LOSSES)}")
        check_matryoshka(self.matryoshka_dims, self.matryoshka_weights)
        for name in ("tile_size", "gradient_cache_chunk"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give a positive number, or leave it out")
        if self.train_sampling_strategy in ("group_by_length", "batch_rebalance"):
            raise InputError(
                f"train_sampling_strategy is {self.train_sampling_strategy}: negatives would be of one "
                "length. Leave it out; length_groups saves the padding of batches that are drawn at random"
            )
        if self.gradient_cache_chunk is not None and self.deepspeed_plugin is not None:
            raise InputError(
                f"gradient_cache_chunk is {self.gradient_cache_chunk}, and DeepSpeed takes a weight's "
                "gradient once a step, not once a chunk: leave it out, or take ddp.yaml or fsdp2.yaml"
            )
        if self.shuffle_buffer < 0:
            raise InputError(
                f"shuffle_buffer is {self.shuffle_buffer}: give the number of rows, or 0 for none"
            )
        if self.streaming and self.max_steps < 1:
            raise InputError(
                f"max_steps is {self.max_steps}, and a stream has no end: "
                "give the number of steps, as --max_steps 1000"
            )


@dataclass(kw_only=True)
class _FrozenTowerArguments(StageArguments):
    """Arguments of the stages with a frozen tower: where and how its embeddings are cached."""

    # Data
    cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the cached embeddings of frozen towers. All machines must share it. "
            "By default a folder in the cache of `datasets`."
        },
    )
    cache_dtype: str = field(
        default="float32",
        metadata={
            "help": "Data type of the cached embeddings: float32, or float16 or bfloat16, which need "
            "half the space."
        },
    )


@dataclass(kw_only=True)
class LowRankArguments(StageArguments):
    """Arguments of the stages whose text tower can learn by low-rank updates (LoRA)."""

    # Model
    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "Rank of the updates that the text tower's linear layers learn (LoRA), such as 16. Its "
            "own weights are frozen, and the updates are merged into them when the model is saved. By "
            "default all its weights are trained."
        },
    )
    lora_alpha: float | None = field(
        default=None,
        metadata={
            "help": "The updates are multiplied by this and divided by `lora_rank`. By default twice it."
        },
    )
    lora_output: str = field(
        default="merged",
        metadata={
            "help": "What is saved: merged, the whole model with the updates in its weights; or adapter, the "
            "updates and what else learned, as an adapter of peft on `model_name_or_path`."
        },
    )

    @property
    def saves_adapter(self) -> bool:
        """Return whether the folder of the run becomes an adapter, and no whole model."""
        return self.lora_output == "adapter"

    def check_low_rank(self) -> None:
        """Check rank, scale and output of low-rank updates, and set the scale's default.

        Raises:
            InputError: one is out of range, scale or output is given alone, weights are sharded, or an
                adapter could not be loaded where it is pushed to.
        """
        if self.lora_output not in _LORA_OUTPUTS:
            raise InputError(f"lora_output is {self.lora_output!r}: choose {' or '.join(_LORA_OUTPUTS)}")
        if self.lora_rank is None:
            if self.saves_adapter:
                raise InputError("lora_output is adapter without lora_rank: give both, or neither")
            if self.lora_alpha is not None:
                raise InputError(f"lora_alpha is {self.lora_alpha} without lora_rank: give both, or neither")
            return
        if self.lora_rank < 1:
            raise InputError(
                f"lora_rank is {self.lora_rank}: give a whole number from 1, or leave it out to train all "
                "weights"
            )
        if self.lora_alpha is None:
            self.lora_alpha = 2.0 * self.lora_rank
        if not 0 < self.lora_alpha < math.inf:
            raise InputError(f"lora_alpha is {self.lora_alpha}: give a positive number, or leave it out")
        is_sharded = self.deepspeed_plugin is not None or parse_flag_from_env("ACCELERATE_USE_FSDP")
        if self.fsdp or is_sharded:
            raise InputError(
                f"lora_rank is {self.lora_rank}, which FSDP and DeepSpeed do not train here: take ddp.yaml"
            )
        if self.saves_adapter and self.push_to_hub:
            self._check_pushed_adapter()

    def _check_pushed_adapter(self) -> None:
        """Check an adapter that is pushed: its base is on the Hub as well, and checkpoints stay here.

        Raises:
            InputError: the base is a folder of this machine, or checkpoints would be pushed to the place of
                the adapter.
        """
        if Path(self.model_name_or_path).exists():
            raise InputError(
                f"push_to_hub is true, and the adapter's base is {self.model_name_or_path!r}, a folder of "
                "this machine: push that first, and give its Hub id as model_name_or_path"
            )
        if self.hub_strategy != HubStrategy.END:
            raise InputError(
                f"hub_strategy is {self.hub_strategy.value}, and lora_output is adapter: checkpoints, which "
                "hold whole models, would be pushed to the place of the adapter: set hub_strategy to end"
            )


@dataclass(kw_only=True)
class TeacherArguments(PairArguments):
    """Stage 0: an English CLIP, the teacher.

    Raises:
        InputError: a value is out of range, or two arguments exclude each other.

    Example:

    ```python
    >>> from training import TeacherArguments

    >>> arguments = TeacherArguments(
    ...     model_name_or_path="outputs/miniature/clip",
    ...     dataset="outputs/miniature/dataset",
    ...     output_dir="outputs/teacher",
    ...     max_steps=100,
    ... )
    >>> arguments.max_text_length
    77
    ```
    """

    # Model
    model_name_or_path: str = field(
        metadata={
            "help": "Folder or Hub id of a `CLIPModel`, or with `loss: sigmoid` of a `SiglipModel`, with its "
            "processor, with random or trained weights."
        }
    )


@dataclass(kw_only=True)
class TeacherLearningArguments(LowRankArguments, _FrozenTowerArguments, ExclusionArguments):
    """Stage 1: the multilingual text tower learns the teacher's embeddings.

    `dataset` may be any parallel text (`parallel_text.py`). To add languages to a finished model, give it as
    `model_name_or_path`; it is also the teacher unless another one is given.

    Raises:
        InputError: a value is out of range, or two arguments exclude each other.

    Example:

    ```python
    >>> from training import TeacherLearningArguments

    >>> arguments = TeacherLearningArguments(
    ...     teacher_name_or_path="outputs/miniature/teacher",
    ...     text_encoder_name_or_path="outputs/miniature/text_encoder",
    ...     dataset="outputs/miniature/dataset",
    ...     output_dir="outputs/stage1",
    ... )
    >>> arguments.objective
    'mse'
    ```
    """

    # Model
    teacher_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the model whose text embeddings are the targets, and whose image "
            "tower the student has: a CLIP, SigLIP, SigLIP 2, MetaCLIP 2, Chinese-CLIP, TIPSv2, AltCLIP or "
            "VisionTextDualEncoder. Or a model of another library, sentence_transformers:NAME or "
            "open_clip:NAME/TAG, which gives the targets alone: see `image_model_name_or_path`. By default "
            "`model_name_or_path`."
        },
    )
    image_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the model whose image tower the student has, where the teacher is "
            "one of another library: a CLIP, SigLIP or other dual model whose image embeddings are in the "
            "space of the teacher's texts, of which projection, scale and bias are taken over too; or an "
            "image encoder alone, such as a ViT or DINOv2, whose projection is new and left to stage 2."
        },
    )
    text_encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the text encoder that becomes the new text tower, such as an XLM-R, "
            "mE5, ModernBERT, T5, NLLB or Qwen3. A CLIP and an XLM-R make an AltCLIP, all others a dual "
            "encoder. Give either this or `model_name_or_path`."
        },
    )
    text_pooling: str | None = field(
        default=None,
        metadata={
            "help": "How a dual encoder's text tower pools its states: cls, mean, last or pooler. By default "
            "as the encoder's sentence-transformers files state, or as suits its kind. With a CLIP and an "
            "XLM-R it makes a dual encoder of them."
        },
    )
    text_head: str | None = field(
        default=None,
        metadata={
            "help": "Head of a dual encoder's text tower: linear, the default, or mlp. With a CLIP and an "
            "XLM-R it makes a dual encoder of them."
        },
    )
    text_head_norm: bool = field(
        default=False,
        metadata={
            "help": "Normalize the pooled text before the head of a dual encoder (layer norm), as AltCLIP's "
            "pre_LN does."
        },
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a finished AltCLIP or dual encoder whose text tower learns more "
            "languages; or of a CLIP, SigLIP, SigLIP 2, MetaCLIP 2, Chinese-CLIP or VisionTextDualEncoder, "
            "which stays what it is. Give either this or `text_encoder_name_or_path`."
        },
    )
    text_prompt: str | None = field(
        default=None,
        metadata={
            "help": "Prompt that the tokenizer of a new text tower writes before every text, such as "
            "'query: ' for an mE5. By default the one that the encoder's sentence-transformers files state "
            "for every text; '' for none."
        },
    )
    new_pieces: int = field(
        default=0,
        metadata={
            "help": "Maximum number of pieces to add to the tokenizer of `model_name_or_path`, for "
            "characters that it cannot read. The default 0 leaves the tokenizer as it is."
        },
    )

    # Data
    dataset: str = field(
        metadata={
            "help": "Parallel text: a public corpus by its name, such as opus-100; a .tsv, .csv, .jsonl or "
            ".parquet file with one column per language, a pair of Moses files, a folder or Hub id with a "
            "column of {language: text}, or a YAML file that lists several of these."
        }
    )
    replay_languages: list[str] | None = field(
        default=None,
        metadata={
            "help": "Languages that the finished model must not forget. Their targets are its own embeddings "
            "of their texts before training. By default all languages of the text that are not in "
            "`languages`; an empty list in a recipe, [], replays none."
        },
    )
    replay: float = field(
        default=0.2,
        metadata={"help": "Fraction of the sampled examples that are in `replay_languages`, from 0 to 1."},
    )
    kinds: list[str] | None = field(
        default=None,
        metadata={
            "help": "Kinds of sources to read, such as human, if `dataset` is a YAML file that lists "
            "several. By default all sources are read."
        },
    )
    sift: bool = field(
        default=True,
        metadata={"help": "Skip texts that are too long, left in English or repeated."},
    )
    temperature: float = field(
        default=1.0,
        metadata={
            "help": "Temperature of language sampling: a language with n texts has the weight "
            "n^(1 / temperature). The default 1 samples in proportion to the data; a higher value samples "
            "small languages more often."
        },
    )
    max_characters: int = field(
        default=1000,
        metadata={"help": "Maximum number of characters of a text. `sift` skips longer texts."},
    )

    # Loss
    objective: str = field(
        default="mse",
        metadata={
            "help": "Loss between the text embeddings and their targets: mse as in the paper, or cosine, "
            "which leaves the norms of the embeddings free."
        },
    )
    dropout: float = field(
        default=0.0,
        metadata={
            "help": "Dropout probability of the text tower. The default 0 is that of the authors' code, "
            "since the targets of a regression are exact."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective is {self.objective!r}: choose {' or '.join(OBJECTIVES)}")
        if self.train_sampling_strategy not in ("random", "group_by_length"):
            raise InputError(
                f"train_sampling_strategy is {self.train_sampling_strategy}: choose random or group_by_length"
            )
        self.check_given_models()
        self.check_replay()
        self.check_low_rank()
        if self.lora_rank is not None and self.new_pieces:
            raise InputError(
                f"new_pieces is {self.new_pieces}, whose embeddings would not learn with lora_rank: "
                "leave out one of the two"
            )
        if self.saves_adapter and self.model_name_or_path is None:
            raise InputError(
                "lora_output is adapter, and the model is a new one of two others, so that there is no base "
                "that an adapter could name: leave it out, and give the finished model to the next training "
                "as model_name_or_path"
            )
        if self.temperature < 1:
            raise InputError(
                f"temperature is {self.temperature}: 1 takes languages as they are, more favours small ones"
            )

    @property
    def languages_to_read(self) -> list[str] | None:
        """Return the languages to train on and to replay, of which corpora are read; None for all."""
        if self.languages is None:
            return None
        return [*self.languages, *(self.replay_languages or [])]

    def check_given_models(self) -> None:
        """Check which models are given; a finished model is its own teacher unless another is given.

        Raises:
            InputError: models are missing, or one is given that does not go with another.
        """
        if (self.text_encoder_name_or_path is None) == (self.model_name_or_path is None):
            raise InputError(
                "give text_encoder_name_or_path, or model_name_or_path to continue from a finished model, "
                "and not both"
            )
        if self.teacher_name_or_path is None:
            self.teacher_name_or_path = self.model_name_or_path
        if self.teacher_name_or_path is None:
            raise InputError(
                "teacher_name_or_path is missing: give the CLIP whose text embeddings are the targets"
            )
        self.check_image_model()
        of_new_tower = ("text_pooling", "text_head", "text_head_norm", "text_prompt")
        given = [name for name in of_new_tower if getattr(self, name)]
        if self.model_name_or_path is not None and given:
            raise InputError(
                f"{' and '.join(given)} is of a new text tower, and model_name_or_path is a finished model, "
                "which has its own: leave it out"
            )
        if self.text_head not in (None, *TEXT_HEADS):
            raise InputError(f"text_head is {self.text_head!r}: choose {' or '.join(TEXT_HEADS)}")
        if self.new_pieces and self.model_name_or_path is None:
            raise InputError(
                f"new_pieces is {self.new_pieces} without model_name_or_path: "
                "a new text tower uses its encoder's tokenizer unchanged"
            )

    @property
    def has_text_teacher(self) -> bool:
        """Return whether the teacher is a model of another library, which gives targets alone."""
        return library_of(self.teacher_name_or_path) is not None

    @property
    def image_side(self) -> str:
        """Return the argument that names the model whose image side the student has."""
        if self.model_name_or_path is not None:
            return "model_name_or_path"
        return "image_model_name_or_path" if self.has_text_teacher else "teacher_name_or_path"

    def check_image_model(self) -> None:
        """Check that a new student has exactly one image tower: the teacher's, or another model's.

        Raises:
            InputError: it has none or two, or the teacher's library has no models that teach texts.
        """
        teacher = self.teacher_name_or_path
        image_model = self.image_model_name_or_path
        library = check_library(teacher)
        if library is not None and library not in TEXT_TEACHERS:
            raise InputError(
                f"teacher_name_or_path is {teacher!r}, of a library whose models do not teach texts alone: "
                f"choose from {', '.join(f'{name}:' for name in TEXT_TEACHERS)}"
            )
        if image_model is None and library is not None and self.model_name_or_path is None:
            raise InputError(
                f"image_model_name_or_path is missing: the teacher {teacher!r} gives embeddings of texts "
                "alone. Give a model whose image embeddings are in their space, such as the transformers "
                "port of the same weights, or an image encoder alone"
            )
        if image_model is not None and self.model_name_or_path is not None:
            raise InputError(
                f"image_model_name_or_path is {image_model!r}, and model_name_or_path is a finished model, "
                "which has its own image tower: leave it out"
            )
        if image_model is not None and library is None:
            raise InputError(
                f"image_model_name_or_path is {image_model!r}, and the student has the image tower of its "
                f"teacher {teacher!r}: leave it out"
            )

    def check_replay(self) -> None:
        """Check the languages that are replayed.

        Raises:
            InputError: there is no finished model, the share is none, or a language is replayed and learned
                at once.
        """
        if not self.replay_languages:
            return
        if self.model_name_or_path is None:
            raise InputError(
                f"replay_languages are {' '.join(self.replay_languages)} without model_name_or_path: "
                "give the finished model that knows them"
            )
        if not 0 < self.replay < 1:
            raise InputError(f"replay is {self.replay}: give a share between 0 and 1, or no replay_languages")
        twice = sorted(set(self.replay_languages) & set(self.languages or []))
        if self.languages is None or twice:
            raise InputError(
                "languages and replay_languages must be given and must not overlap; "
                f"both name {' '.join(twice) or 'all'}"
            )


@dataclass(kw_only=True)
class ContrastiveArguments(PairArguments, LowRankArguments, _FrozenTowerArguments):
    """Stage 2: contrastive learning with a frozen image tower.

    Raises:
        InputError: a value is out of range, or two arguments exclude each other.

    Example:

    ```python
    >>> from training import ContrastiveArguments

    >>> arguments = ContrastiveArguments(
    ...     model_name_or_path="outputs/miniature/altclip",
    ...     dataset="outputs/miniature/dataset",
    ...     output_dir="outputs/stage2",
    ... )
    >>> arguments.trainable
    ['text_model', 'text_projection', 'logit_scale']
    ```
    """

    # Model
    model_name_or_path: str = field(
        metadata={
            "help": "Folder or Hub id of the AltCLIP to train, usually the output of stage 1; or of a CLIP, "
            "SigLIP, SigLIP 2, MetaCLIP 2, Chinese-CLIP or VisionTextDualEncoder, which stays what it is."
        }
    )
    teacher_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the model that validation compares English with. "
            "By default `model_name_or_path`, as it is before training."
        },
    )
    trainable: list[str] | None = field(
        default=None,
        metadata={
            "help": "Parts of the model that are trained. All others are frozen. "
            "By default text_model, text_projection and logit_scale, and with the loss sigmoid logit_bias; a "
            "SigLIP has no text_projection. The paper trains the text encoder alone, which is text_model."
        },
    )

    # Data
    image_embeds_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of ready image vectors, lists of floats in the space of the model's embeddings, "
            "of their width. They stand for the images, which the dataset need not have, and no image tower "
            "runs. By default images are read."
        },
    )
    cache_image_embeds: bool = field(
        default=True,
        metadata={"help": "Run the frozen image tower once before training, and cache its embeddings."},
    )
    cache_towers: bool | None = field(
        default=None,
        metadata={
            "help": "Run both towers once before training, and cache their outputs, so that a step computes "
            "projections alone. By default true if no part of a tower is trained, and `streaming`, `hold`, "
            "`text_pairs_weight` and `cache_image_embeds` need no tower either."
        },
    )
    image_views: int = field(
        default=1,
        metadata={
            "help": "Number of views of each image, one per epoch in turn: the image itself, then random "
            "crops. The default 1 uses no crops."
        },
    )

    # Translation pairs
    text_pairs_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of a contrastive loss of sentences and their translations, as in MURAL, which is "
            "added to the loss of images and texts, so that languages with few captions learn from parallel "
            "text. The default 0 leaves it out; 1 weighs both losses alike."
        },
    )
    text_pairs_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Parallel text whose translations `text_pairs_weight` trains, in any form that stage 1 "
            "reads."
        },
    )
    text_pairs_split: str = field(
        default="train", metadata={"help": "Split of `text_pairs_dataset` to read."}
    )
    text_pairs_languages: list[str] | None = field(
        default=None,
        metadata={
            "help": "Language codes of the translation pairs, which need not have captions. By default all "
            "languages of `text_pairs_dataset`. A pair is of any two of them."
        },
    )
    text_pairs_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Number of translation pairs in a batch of a process. By default "
            "`per_device_train_batch_size`. A step encodes twice as many more texts."
        },
    )
    text_pairs_temperature: float | None = field(
        default=None,
        metadata={
            "help": "Temperature of the loss of translation pairs, such as 0.05. By default that with which "
            "the model compares images and texts, which the pairs do not train."
        },
    )

    # Forgetting
    hold: float = field(
        default=0.0,
        metadata={
            "help": "Weight of a loss that keeps text embeddings close to those before training, "
            "so that the model forgets less. The default 0 leaves it out; 100 suits a few hundred images."
        },
    )
    hold_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Parallel text whose embeddings `hold` keeps, in all its languages. "
            "By default the captions themselves."
        },
    )
    hold_split: str = field(default="train", metadata={"help": "Split of `hold_dataset` to read."})
    guard_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of images and captions that the model already knows. The points of "
            "recall that training costs on them are printed at the end. By default forgetting is not "
            "measured."
        },
    )
    guard_split: str = field(default="test", metadata={"help": "Split of `guard_dataset` to read."})

    def __post_init__(self):
        super().__post_init__()
        self.trains_default_parts = self.trainable is None
        if self.trains_default_parts:
            self.trainable = ["text_model", "text_projection", "logit_scale"]
            if self.loss == "sigmoid":
                self.trainable.append("logit_bias")
        self.check_low_rank()
        if self.lora_rank is not None and "text_model" not in self.trainable:
            raise InputError(
                f"lora_rank is {self.lora_rank}, and trainable is {' '.join(self.trainable)}: "
                "add text_model, which is what learns by it"
            )
        whole = [name for name in self.trainable if name not in _IN_ADAPTERS]
        if self.saves_adapter and whole:
            raise InputError(
                f"lora_output is adapter, and trainable names {whole[0]}, which learns in full: "
                f"give none but {' '.join(_IN_ADAPTERS)}, or leave out lora_output"
            )
        self.check_hold()
        self.check_text_pairs()
        if self.streaming and self.cache_image_embeds:
            raise InputError(
                "cache_image_embeds is true, and streamed images are encoded during training: "
                "add --cache_image_embeds false"
            )
        if self.streaming and self.image_views > 1:
            raise InputError(
                f"image_views is {self.image_views}, and a stream shows images as they are: leave it out"
            )
        if self.image_views < 1:
            raise InputError(
                f"image_views is {self.image_views}: 1 shows images as they are, more adds crops"
            )
        self.check_image_embeds_column()
        self.decide_on_towers()
        learning = [name for name in self.trainable if name.startswith(("vision_model", "visual_projection"))]
        if self.cache_image_embeds and learning and not self.cache_towers:
            raise InputError(
                f"trainable names {learning[0]}, whose embeddings are cached: set cache_image_embeds to false"
            )
        if self.image_views > 1 and self.dataloader_persistent_workers:
            raise InputError(
                "image_views above 1 needs dataloader workers that restart in each epoch: "
                "leave out dataloader_persistent_workers"
            )

    def models(self) -> list[str]:
        """Return the model that the training starts from; validation alone compares with the teacher."""
        return [self.model_name_or_path]

    def check_image_embeds_column(self) -> None:
        """Check that nothing is asked for beside ready image vectors that needs images.

        Raises:
            InputError: something is.
        """
        if self.image_embeds_column is None:
            return
        given = f"image_embeds_column is {self.image_embeds_column!r}"
        if self.streaming:
            raise InputError(f"{given}, and streaming is true, which reads images: leave out one of the two")
        if not self.cache_image_embeds:
            raise InputError(
                f"{given}, and cache_image_embeds is false, by which images are encoded in each step: leave "
                "out one of the two"
            )
        if self.image_views > 1:
            raise InputError(
                f"{given}, and image_views is {self.image_views}: vectors have no crops, leave it out"
            )
        for name in self.trainable:
            if name.startswith(IMAGE_PARTS):
                raise InputError(
                    f"{given}, and trainable names {name}, which no image passes: leave out one of the two"
                )

    def decide_on_towers(self) -> None:
        """Decide whether both towers are cached, where `cache_towers` does not say.

        Raises:
            InputError: it is true, and a tower has to run in each step.
        """
        obstacle = self._why_towers_run()
        if self.cache_towers is None:
            self.cache_towers = obstacle is None
        if self.cache_towers and obstacle is not None:
            raise InputError(f"cache_towers is true, and {obstacle}: leave it out, or set it to false")

    def _why_towers_run(self) -> str | None:
        """Return why a tower has to run in each step; None if none has to."""
        learning = [name for name in self.trainable if name.startswith(("text_model", "vision_model"))]
        if learning:
            return f"trainable names {learning[0]}, whose outputs change with each step"
        if self.image_embeds_column is not None:
            return "image_embeds_column is given, whose vectors pass no tower"
        if self.streaming:
            return "streaming is true, by which images and texts are not known beforehand"
        if not self.cache_image_embeds:
            return "cache_image_embeds is false, by which images are encoded in each step"
        if self.hold > 0:
            return f"hold is {self.hold}, whose texts are encoded in each step"
        if self.text_pairs_weight > 0:
            return f"text_pairs_weight is {self.text_pairs_weight}, whose texts are encoded in each step"
        return None

    def check_hold(self) -> None:
        """Check the weight of `hold`, and that there are texts for it.

        Raises:
            InputError: the weight is negative, or texts are given without a weight or the reverse.
        """
        if self.hold < 0:
            raise InputError(f"hold is {self.hold}: give 0 to leave it out, or a positive weight such as 100")
        if self.hold_dataset is not None and self.hold == 0:
            raise InputError(
                f"hold_dataset is {self.hold_dataset!r} and hold is 0: give its weight too, as --hold 100"
            )
        if self.streaming and self.hold and self.hold_dataset is None:
            raise InputError(
                f"hold is {self.hold}, and the captions of a stream are not known beforehand: "
                "give hold_dataset"
            )

    def check_text_pairs(self) -> None:
        """Check the arguments of the translation pairs, and set the default of `text_pairs_batch_size`.

        Raises:
            InputError: a value is out of range, the weight is given without texts or the reverse, or nothing
                that reads texts learns.
        """
        weight = self.text_pairs_weight
        if not 0 <= weight < math.inf:
            raise InputError(
                f"text_pairs_weight is {weight}: give 0 to leave the translation pairs out, or a positive "
                "weight such as 1"
            )
        if (weight > 0) != (self.text_pairs_dataset is not None):
            raise InputError(
                f"text_pairs_weight is {weight} and text_pairs_dataset is {self.text_pairs_dataset}: give "
                "both, or neither"
            )
        if self.text_pairs_temperature is not None and not 0 < self.text_pairs_temperature < math.inf:
            raise InputError(
                f"text_pairs_temperature is {self.text_pairs_temperature}: give a positive number, such as "
                "0.05, or leave it out for the model's own"
            )
        if weight == 0:
            return
        if not any(name.startswith(("text_model", "text_projection")) for name in self.trainable):
            raise InputError(
                f"text_pairs_weight is {weight}, and trainable is {' '.join(self.trainable)}, of which none "
                "reads texts: add text_model or text_projection, or leave the pairs out"
            )
        if self.text_pairs_batch_size is None:
            self.text_pairs_batch_size = self.per_device_train_batch_size
        if self.text_pairs_batch_size < 2:
            raise InputError(
                f"text_pairs_batch_size is {self.text_pairs_batch_size}, and a sentence chooses its "
                "translation among those of its batch: give 2 or more"
            )


@dataclass(kw_only=True)
class DiffusionArguments(StageArguments):
    """AltDiffusion: Stable Diffusion conditioned on an AltCLIP."""

    # Model
    model_name_or_path: str = field(
        metadata={"help": "Folder or Hub id of the AltCLIP whose text tower conditions Stable Diffusion."}
    )
    diffusion_name_or_path: str = field(
        metadata={
            "help": "Folder or Hub id of a `StableDiffusionPipeline` whose cross-attention has the width of "
            "the text tower."
        }
    )

    def __post_init__(self):
        super().__post_init__()
        # The Trainer would push its own model, and no pipeline.
        for name in ("dry_run", "validation_split", "push_to_hub", "trust_remote_code"):
            if getattr(self, name):
                raise InputError(
                    f"{name} is {getattr(self, name)}, which diffusion training lacks: leave it out"
                )


def say(arguments: StageArguments, message: str) -> None:
    """Print on the main process."""
    if arguments.process_index == 0:
        print(message)
