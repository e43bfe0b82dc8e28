"""Arguments of every stage, and those that several stages share."""

from dataclasses import dataclass, field, fields

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.trainer_utils import SaveStrategy

from common.command_line import did_you_mean
from common.errors import InputError
from common.models.libraries import source_of


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
    length_groups: int | None = field(
        default=None,
        metadata={
            "help": "Number of groups of similar length in which the texts of a batch are encoded, to save "
            "padding; 1 encodes them together. The default is 4, or fewer in a batch of fewer than 16, and 1 "
            "where the model is sharded, or reads all texts padded to one length. It has no effect where "
            "texts and images go through the model in one forward, as in a stage 2 that trains the image "
            "tower, or where gradient_cache_chunk is set."
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

        self.check_evaluation()

    def check_evaluation(self) -> None:
        """Check that what an evaluation during training needs is given together.

        Raises:
            InputError: it is not.
        """
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
    exclude_short_captions: bool = field(
        default=False,
        metadata={
            "help": "Remove also texts that equal a test's caption of fewer than eight letters, such as 'a "
            "dog'. By default these are not looked for, since they are in most data."
        },
    )


@dataclass(kw_only=True)
class FrozenTowerArguments(StageArguments):
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


def say(arguments: StageArguments, message: str) -> None:
    """Print on the main process."""
    if arguments.process_index == 0:
        print(message)
