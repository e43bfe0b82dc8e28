"""Arguments of the stages that learn from images with captions; of these, stage 0."""

from dataclasses import dataclass, field

from common.errors import InputError

from ..losses import PAIR_LOSSES
from ..matryoshka import check_matryoshka
from .stage import ExclusionArguments


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
