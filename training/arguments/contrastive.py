"""Arguments of stage 2, contrastive learning with a frozen image tower."""

import math
from dataclasses import dataclass, field

from common.errors import InputError

from ..freezing import IMAGE_PARTS
from .initialization import InitializationArguments
from .low_rank import LowRankArguments
from .pairs import PairArguments

# What can learn beside the text tower's updates where these are saved as an adapter.
_IN_ADAPTERS = ("text_model", "text_projection", "visual_projection", "logit_scale", "logit_bias")


@dataclass(kw_only=True)
class ContrastiveArguments(PairArguments, LowRankArguments, InitializationArguments):
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
            "languages of `text_pairs_dataset`. A pair is of any two of them, in a row that has English too."
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
        self.check_initialization()
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

    def check_initialization(self) -> None:
        """Check that an initialization has a projection of images that learns, and both towers' outputs.

        Raises:
            InputError: it has not, or a value is out of range.
        """
        super().check_initialization()
        if not self.fits_projection:
            return
        given = f"initialize_projection is {self.initialize_projection}"
        if "visual_projection" not in self.trainable:
            raise InputError(
                f"{given}, which fits visual_projection, and trainable is {' '.join(self.trainable)}: add "
                "--trainable visual_projection logit_scale, or leave it out for a projection that is trained"
            )
        if not self.cache_towers:
            obstacle = self._why_towers_run() or "cache_towers is false"
            raise InputError(
                f"{given}, which needs the outputs of both towers, and {obstacle}: train projections alone "
                "first, as by --trainable visual_projection logit_scale"
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
