"""One dataclass of arguments per stage: `transformers.TrainingArguments` and what the stage adds. A recipe's keys are these fields."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from benchmarks.recipe import InputError


@dataclass(kw_only=True)
class StageArguments(TrainingArguments):
    """What every stage needs.

    Differs from `TrainingArguments`: all columns are kept, since batches are made of captions; every parameter gets a
    gradient, so DDP need not search for those that do not; logs come every 10 steps; losses may not be NaN in silence.
    """

    dataset: str = field(metadata={"help": "Folder or Hub id; its column `captions` holds {language: text}."})
    split: str = field(default="train", metadata={"help": "The split to train on."})
    languages: list[str] | None = field(default=None, metadata={"help": "Language codes to train on; all that the data speaks by default."})
    max_text_length: int = field(default=77, metadata={"help": "Tokens that a text is cut at (77 in the paper)."})
    length_groups: int = field(
        default=1,
        metadata={"help": "Encode a batch's texts in this many groups of like length; 1 with images or several processes."},
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2 or flex_attention."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in output_dir."})

    dry_run: bool = field(
        default=False, metadata={"help": "Build the model from its configuration, look at a few rows, print sizes and memory, and stop."}
    )
    dry_run_processes: int | None = field(
        default=None, metadata={"help": "Processes that a dry run reckons with; by default those that run it."}
    )

    remove_unused_columns: bool = field(default=False)
    ddp_find_unused_parameters: bool | None = field(default=False)
    logging_steps: float = field(default=10)
    logging_nan_inf_filter: bool = field(default=False)

    def __post_init__(self):
        self.use_cpu = self.use_cpu or self.dry_run  # nothing is computed, so bf16 may be asked for anywhere
        super().__post_init__()


@dataclass(kw_only=True)
class PairArguments(StageArguments):
    """What the two contrastive stages share: what becomes of bad images, and how a batch that is larger than memory is worked off."""

    bad_rows: str = field(default="set_aside", metadata={"help": "set_aside leaves out rows whose image cannot be decoded, error refuses."})

    tile_size: int | None = field(
        default=None, metadata={"help": "Rows and columns of logits held at a time, such as 1024; by default all of them."}
    )
    gradient_cache_chunk: int | None = field(
        default=None, metadata={"help": "Examples whose activations are held at a time; by default the whole batch. Encodes twice."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("tile_size", "gradient_cache_chunk"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give a positive number, or leave it out")


@dataclass(kw_only=True)
class TeacherArguments(PairArguments):
    """Stage 0: an English CLIP, the teacher."""

    model_name_or_path: str = field(metadata={"help": "A `CLIPModel` with its processor; untrained, or to go on from."})


@dataclass(kw_only=True)
class TeacherLearningArguments(StageArguments):
    """Stage 1: the multilingual text tower learns the teacher's vectors. `dataset` may be any parallel text (`parallel_text.py`)."""

    teacher_name_or_path: str = field(metadata={"help": "The `CLIPModel` whose text tower is imitated."})
    text_encoder_name_or_path: str = field(metadata={"help": "The XLM-R that becomes the text tower."})
    kinds: list[str] | None = field(default=None, metadata={"help": "Of the sources that `dataset` lists, only these kinds: human, say."})
    sift: bool = field(default=True, metadata={"help": "Set aside texts that are too long, left in English or repeated."})
    temperature: float = field(
        default=1.0, metadata={"help": "Languages are drawn by size to the power 1 / temperature: 1 as they are, more favours small ones."}
    )
    max_characters: int = field(default=1000, metadata={"help": "Longer texts are set aside."})
    dropout: float = field(default=0.0, metadata={"help": "Of the text tower: 0 in the authors' code, since a regression target is exact."})

    def __post_init__(self):
        super().__post_init__()
        if self.temperature < 1:
            raise InputError(f"temperature is {self.temperature}: 1 takes languages as they are, more favours small ones")


@dataclass(kw_only=True)
class ContrastiveArguments(PairArguments):
    """Stage 2: contrastive learning with a frozen image tower."""

    model_name_or_path: str = field(metadata={"help": "The AltCLIP of stage 1."})
    trainable: list[str] = field(
        default_factory=lambda: ["text_model", "text_projection", "logit_scale"],
        metadata={"help": "Parts of the model that learn; all others are frozen (the paper names the text encoder alone)."},
    )
    cache_image_embeds: bool = field(default=True, metadata={"help": "Run the frozen image tower once, before training."})


@dataclass(kw_only=True)
class DiffusionArguments(StageArguments):
    """AltDiffusion: Stable Diffusion led by an AltCLIP."""

    model_name_or_path: str = field(metadata={"help": "The AltCLIP whose text tower leads."})
    diffusion_name_or_path: str = field(metadata={"help": "A `StableDiffusionPipeline` whose cross-attention has the tower's width."})
