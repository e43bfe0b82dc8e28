"""One dataclass of arguments per stage: `transformers.TrainingArguments` and what the stage adds.

A recipe's keys are these fields.
"""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.trainer_utils import SaveStrategy

from benchmarks.recipe import InputError, did_you_mean

from .losses import OBJECTIVES


@dataclass(kw_only=True)
class StageArguments(TrainingArguments):
    """Arguments of every stage.

    They differ from `TrainingArguments`: all columns are kept, since batches are made of captions; every
    parameter gets a gradient and no buffer changes, so DDP need neither search for those that get none nor
    send buffers at every forward; logs come every 10 steps; NaN losses are not hidden.
    """

    # Data
    dataset: str = field(
        metadata={
            "help": "Folder or Hub id of the training data; its column `captions` holds {language: text}."
        }
    )
    split: str = field(default="train", metadata={"help": "The split to train on."})
    languages: list[str] | None = field(
        default=None, metadata={"help": "Language codes to train on; all languages of the data by default."}
    )

    # Texts and the run
    max_text_length: int = field(
        default=77, metadata={"help": "Number of tokens that a text is cut at (77 in the paper)."}
    )
    length_groups: int = field(
        default=1,
        metadata={
            "help": "Encode a batch's texts in this many groups of similar length; "
            "always 1 where a stage trains images with them."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention kernel: eager, sdpa, flash_attention_2 or flex_attention."}
    )
    resume: bool = field(default=False, metadata={"help": "Resume from the last checkpoint in output_dir."})

    # Dry runs
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Build the model from its configuration, look at a few rows, print sizes and memory, "
            "and stop."
        },
    )
    dry_run_processes: int | None = field(
        default=None,
        metadata={"help": "Number of processes that a dry run assumes; by default those that run it."},
    )

    # Validation
    validation_split: str | None = field(
        default=None,
        metadata={
            "help": "Split of images and captions on which recall is evaluated in each language, "
            "as often as eval_strategy says."
        },
    )
    validation_dataset: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id that has the validation split; `dataset` by default."},
    )
    zero_shot_split: str | None = field(
        default=None,
        metadata={
            "help": "Split of images and labels in the validation dataset, for zero-shot classification."
        },
    )
    class_names: str | None = field(
        default=None,
        metadata={"help": "JSON file of class names: {language: [name of class 0, name of class 1, ...]}."},
    )
    english_tolerance: float = field(
        default=0.03,
        metadata={"help": "Warn if mean recall in English falls by more than this below the teacher's."},
    )
    metric_for_best_model: str | None = field(default="mean_recall")

    # Checkpoints. None is for "not given": with load_best_model_at_end, they are saved when they are scored.
    save_strategy: SaveStrategy | None = field(
        default=None,
        metadata={
            "help": "When checkpoints are saved: no, steps, epoch or best. By default steps, "
            "or with load_best_model_at_end as eval_strategy."
        },
    )
    save_steps: float | None = field(
        default=None,
        metadata={
            "help": "Number of steps between checkpoints. By default 500, "
            "or with load_best_model_at_end as eval_steps."
        },
    )

    # Other defaults than transformers'
    remove_unused_columns: bool = field(default=False)
    ddp_find_unused_parameters: bool | None = field(default=False)
    ddp_broadcast_buffers: bool | None = field(default=False)
    logging_steps: float = field(default=10)
    logging_nan_inf_filter: bool = field(default=False)
    # transformers' own flag takes one name only.
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Trackers that get the log: tensorboard, trackio, several of them, all or none."},
    )

    def __post_init__(self):
        self.use_cpu = self.use_cpu or self.dry_run  # nothing is computed, so bf16 may be set anywhere
        self.unsupported_precision = self.drop_unsupported_precision()
        # Without it accelerate looks for other processes on accelerators alone: each of torchrun's would
        # train by itself.
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
            raise InputError(
                f"zero_shot_split is {self.zero_shot_split} without validation_split: give that as well"
            )

    def save_where_scored(self) -> str | None:
        """Save a checkpoint at every evaluation, where the best one is to be kept.

        A `save_strategy` that is given, and is not "no", is left as it is.

        Returns:
            When checkpoints are saved, to be printed; None where it is as given.
        """
        # transformers converts strings to its enums only in its own __post_init__, which comes later.
        scored_by = getattr(self.eval_strategy, "value", self.eval_strategy)
        scored_every = self.eval_steps or self.logging_steps  # as transformers takes it
        keeps_best = self.load_best_model_at_end and scored_by != "no"

        if keeps_best and self.save_strategy in (None, "no"):
            self.save_strategy = scored_by
            if scored_by == "steps":
                self.save_steps = scored_every
                return f"every {scored_every:g} steps"
            self.save_steps = 500
            return "every epoch"

        if self.save_steps is None:
            # The Trainer refuses to keep the best of checkpoints that are saved between evaluations.
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
                raise InputError(f"report_to knows no {name!r}: {hint}")
            if name not in get_available_reporting_integrations():
                raise InputError(f"report_to is {name}, which is not installed: install it, or take none")

    def drop_unsupported_precision(self) -> str | None:
        """Drop `bf16` and `fp16` without a GPU, and return which; None where they are kept.

        Recipes set them for a GPU. A recipe that is meant for a CPU sets `use_cpu` as well.
        """
        if self.use_cpu or torch.accelerator.is_available():
            return None
        requested = [name for name in ("bf16", "fp16") if getattr(self, name)]
        for name in requested:
            setattr(self, name, False)
        return " and ".join(requested) or None

    def adapt_to_deepspeed(self) -> None:
        """Make DeepSpeed train in bf16 as DDP does, by autocast.

        DeepSpeed's own `bf16` turns all weights and inputs into bf16, frozen weights and targets, too.

        Raises:
            InputError: fp16 is set, which would do the same; or validation, with sharded weights.
        """
        plugin = self.deepspeed_plugin
        if self.mixed_precision == "fp16":
            raise InputError(
                "mixed precision is fp16, and DeepSpeed would turn frozen weights into fp16 as well: "
                "take bf16"
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
class PairArguments(StageArguments):
    """Arguments of the contrastive stages: reading images with captions, and batches larger than memory."""

    # Data
    dataset: str = field(
        metadata={
            "help": "Folder or Hub id of images with captions: parquet, imagefolder or webdataset "
            "(`captions.py`)."
        }
    )
    text_column: str | None = field(
        default=None,
        metadata={"help": "Column of the captions; by default the first column with a usual name."},
    )
    streaming: bool = field(
        default=False, metadata={"help": "Stream the files, each process its own (`streaming.py`)."}
    )
    shuffle_buffer: int = field(
        default=0,
        metadata={
            "help": "Number of streamed rows that the next is drawn from; 0 keeps the order of the files."
        },
    )
    bad_rows: str = field(
        default="set_aside",
        metadata={"help": "Rows whose image cannot be decoded: set_aside skips and lists them, error stops."},
    )

    # Memory
    tile_size: int | None = field(
        default=None,
        metadata={
            "help": "Number of rows and columns of logits held at a time, such as 1024; by default all."
        },
    )
    gradient_cache_chunk: int | None = field(
        default=None,
        metadata={
            "help": "Number of examples whose activations are held at a time; by default the whole batch. "
            "Everything is encoded twice."
        },
    )

    def __post_init__(self):
        super().__post_init__()
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
class FrozenTowerArguments(StageArguments):
    """Arguments of the stages with a frozen tower: where and how its embeddings are cached."""

    cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the cached embeddings of frozen towers, shared by all machines; "
            "by default below datasets' own cache."
        },
    )
    cache_dtype: str = field(
        default="float32",
        metadata={
            "help": "Type of the cached embeddings: float32, or float16 or bfloat16 for half the space."
        },
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

    model_name_or_path: str = field(
        metadata={"help": "A `CLIPModel` with its processor, untrained or trained."}
    )


@dataclass(kw_only=True)
class TeacherLearningArguments(FrozenTowerArguments):
    """Stage 1: the multilingual text tower learns the teacher's embeddings.

    `dataset` may be any parallel text (`parallel_text.py`). To add languages to a finished model, it is
    `model_name_or_path`, and teacher too unless another is named.

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

    # Models
    teacher_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "The `CLIPModel` whose text tower is imitated; model_name_or_path by default, "
            "where that is given."
        },
    )
    text_encoder_name_or_path: str | None = field(
        default=None, metadata={"help": "The XLM-R that becomes the text tower."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "In place of text_encoder_name_or_path: a finished AltCLIP, whose text tower learns "
            "more languages."
        },
    )
    new_pieces: int = field(
        default=0,
        metadata={
            "help": "Most pieces to add to the finished model's tokenizer, for characters that it lacks."
        },
    )

    # Data
    replay_languages: list[str] | None = field(
        default=None,
        metadata={
            "help": "Languages that the finished model knows already and is to keep, held to the embeddings "
            "that it gives them; by default all that the text has beside `languages`, and [] for none."
        },
    )
    replay: float = field(
        default=0.2, metadata={"help": "Share of replay_languages among the examples drawn."}
    )
    kinds: list[str] | None = field(
        default=None,
        metadata={"help": "Kinds of sources, such as human, that are read of those that `dataset` lists."},
    )
    sift: bool = field(
        default=True, metadata={"help": "Skip texts that are too long, left in English or repeated."}
    )
    temperature: float = field(
        default=1.0,
        metadata={
            "help": "Languages are drawn by size to the power 1 / temperature: 1 as they are, "
            "more favours small ones."
        },
    )
    max_characters: int = field(
        default=1000, metadata={"help": "Most characters of a text; longer texts are skipped."}
    )

    # Loss
    objective: str = field(
        default="mse",
        metadata={"help": "mse as in the paper, or cosine, which leaves the lengths of embeddings free."},
    )
    dropout: float = field(
        default=0.0,
        metadata={
            "help": "Dropout of the text tower: 0 in the authors' code, since a regression target is exact."
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
        if self.temperature < 1:
            raise InputError(
                f"temperature is {self.temperature}: 1 takes languages as they are, more favours small ones"
            )

    def check_given_models(self) -> None:
        """Check which models are given; a finished model is its own teacher unless another is given.

        Raises:
            InputError: models are missing, or one is given that does not go with another.
        """
        if (self.text_encoder_name_or_path is None) == (self.model_name_or_path is None):
            raise InputError(
                "give text_encoder_name_or_path, or model_name_or_path to go on from a finished model, "
                "and not both"
            )
        if self.teacher_name_or_path is None:
            self.teacher_name_or_path = self.model_name_or_path
        if self.teacher_name_or_path is None:
            raise InputError(
                "teacher_name_or_path is missing: give the CLIP whose text tower is to be imitated"
            )
        if self.new_pieces and self.model_name_or_path is None:
            raise InputError(
                f"new_pieces is {self.new_pieces} without model_name_or_path: "
                "a new tower takes its encoder's tokenizer as it is"
            )

    def check_replay(self) -> None:
        """Check the languages that a finished model is to keep.

        Raises:
            InputError: there is no finished model, the share is none, or a language is replayed and learned
                at once.
        """
        if not self.replay_languages:
            return
        if self.model_name_or_path is None:
            raise InputError(
                f"replay_languages are {' '.join(self.replay_languages)} without model_name_or_path, "
                "the model that knows them"
            )
        if not 0 < self.replay < 1:
            raise InputError(f"replay is {self.replay}: give a share between 0 and 1, or no replay_languages")
        twice = sorted(set(self.replay_languages) & set(self.languages or []))
        if self.languages is None or twice:
            raise InputError(
                "replay_languages need languages beside them that are others; "
                f"both name {' '.join(twice) or 'all'}"
            )


@dataclass(kw_only=True)
class ContrastiveArguments(PairArguments, FrozenTowerArguments):
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

    # Models
    model_name_or_path: str = field(metadata={"help": "The AltCLIP of stage 1."})
    teacher_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Model that English is compared with in validation; model_name_or_path by default."
        },
    )
    trainable: list[str] = field(
        default_factory=lambda: ["text_model", "text_projection", "logit_scale"],
        metadata={
            "help": "Parts of the model that learn; all others are frozen "
            "(the paper names the text encoder alone)."
        },
    )

    # Images
    cache_image_embeds: bool = field(
        default=True, metadata={"help": "Run the frozen image tower once, before training."}
    )
    image_views: int = field(
        default=1,
        metadata={"help": "Number of views of an image, one an epoch in turn: itself, then random crops."},
    )

    # Forgetting
    hold: float = field(
        default=0.0,
        metadata={
            "help": "Weight of a loss that holds texts to the embeddings that the model gave them before, "
            "so that it forgets less."
        },
    )
    hold_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Parallel text that is held, in all its languages; by default the captions themselves."
        },
    )
    hold_split: str = field(default="train", metadata={"help": "The split of hold_dataset."})
    guard_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Images and captions that the model knows: "
            "the points of recall that it loses on them are printed at the end."
        },
    )
    guard_split: str = field(default="test", metadata={"help": "The split of guard_dataset."})

    def __post_init__(self):
        super().__post_init__()
        self.check_hold()
        if self.streaming and self.cache_image_embeds:
            raise InputError(
                "cache_image_embeds is true, and streamed images are encoded as they come: "
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
        learning = [name for name in self.trainable if name.startswith(("vision_model", "visual_projection"))]
        if self.cache_image_embeds and learning:
            raise InputError(
                f"trainable names {learning[0]}, whose vectors are cached: set cache_image_embeds to false"
            )
        if self.image_views > 1 and self.dataloader_persistent_workers:
            raise InputError(
                "image_views above 1 needs workers that begin anew with each epoch: "
                "leave out dataloader_persistent_workers"
            )

    def check_hold(self) -> None:
        """Check the weight of held texts, and that there are texts to hold.

        Raises:
            InputError: the weight is negative, or texts are given without a weight or the reverse.
        """
        if self.hold < 0:
            raise InputError(
                f"hold is {self.hold}: 0 holds no texts, "
                "and 100 is what the recipe for one's own pictures takes"
            )
        if self.hold_dataset is not None and self.hold == 0:
            raise InputError(
                f"hold_dataset is {self.hold_dataset!r} and hold is 0: give its weight too, as --hold 100"
            )
        if self.streaming and self.hold and self.hold_dataset is None:
            raise InputError(
                f"hold is {self.hold}, and the captions of a stream are not known beforehand: "
                "name texts by hold_dataset"
            )


@dataclass(kw_only=True)
class DiffusionArguments(StageArguments):
    """AltDiffusion: Stable Diffusion led by an AltCLIP."""

    model_name_or_path: str = field(metadata={"help": "The AltCLIP whose text tower leads Stable Diffusion."})
    diffusion_name_or_path: str = field(
        metadata={"help": "A `StableDiffusionPipeline` whose cross-attention has the tower's width."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("dry_run", "validation_split"):
            if getattr(self, name):
                raise InputError(f"{name} is {getattr(self, name)}, and diffusion knows none: leave it out")
