"""Arguments of alignment in closed form."""

from dataclasses import dataclass, field

from common.errors import InputError
from common.models.libraries import check_library

from .teacher_learning import TeacherLearningArguments

# Those of stage 1 that a fit without steps does not have, with what they are when they are left out.
_OF_STEPS = {
    "model_name_or_path": None,
    "new_pieces": 0,
    "replay_languages": None,
    "initialize_projection": "random",
    "lora_rank": None,
    "validation_split": None,
    "zero_shot_split": None,
}
_LIBRARIES_OF_TEXT_TOWERS = (None, "sentence_transformers")


@dataclass(kw_only=True)
class AlignmentArguments(TeacherLearningArguments):
    """Alignment in closed form: a projection that is fitted by ridge regression, without a training step.

    With `text_encoder_name_or_path` the last layer of a student's text head is fitted to the teacher's
    embeddings of English, in all languages of parallel text: a stage 1 whose encoder stays as it is. Without
    it the projection of a frozen image tower is fitted to a frozen sentence encoder, the teacher, on
    captioned images. Arguments of steps, such as `learning_rate`, have no effect.

    Raises:
        InputError: a value is out of range, or two arguments exclude each other.

    Example:

    ```python
    >>> from training import AlignmentArguments

    >>> arguments = AlignmentArguments(
    ...     image_model_name_or_path="outputs/vit",
    ...     teacher_name_or_path="outputs/sentence_encoder",
    ...     dataset="outputs/miniature/dataset",
    ...     output_dir="outputs/aligned",
    ... )
    >>> arguments.aligns_images, arguments.languages
    (True, ['en'])
    ```
    """

    # Model
    teacher_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Of texts: the model whose embeddings of English are the targets, as in stage 1. Of "
            "images: folder or Hub id of the sentence encoder that becomes the text tower, such as an "
            "all-MiniLM-L6-v2, also as sentence_transformers:NAME."
        },
    )
    image_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the image encoder, or classifier of images, whose projection is "
            "fitted; or of a CLIP, whose image tower is taken. With text_encoder_name_or_path as in stage 1."
        },
    )
    text_encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the text encoder whose head is fitted, as in stage 1. Without it "
            "the projection of image_model_name_or_path is fitted."
        },
    )
    whiten_texts: bool = field(
        default=False,
        metadata={
            "help": "Of images: let the text projection whiten the sentence encoder's embeddings, by the "
            "captions and class names, instead of leaving them as they are. On real pictures this raised "
            "recall by a third in English, and by half in other languages."
        },
    )

    # Data
    dataset: str = field(
        metadata={
            "help": "Of texts: parallel text in any form that stage 1 reads. Of images: images with captions "
            "in any form that stage 2 reads."
        }
    )
    text_column: str | None = field(
        default=None,
        metadata={"help": "Column of the captions. By default the first column with a usual name."},
    )
    bad_rows: str = field(
        default="set_aside",
        metadata={
            "help": "What happens to rows whose image cannot be decoded: set_aside skips and lists them, "
            "error stops the script."
        },
    )
    max_pairs: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of pairs to fit on, drawn evenly over the languages by `seed`. By "
            "default all."
        },
    )
    n_folds: int = field(
        default=5,
        metadata={
            "help": "Number of folds of the cross-validation that chooses the penalty. Pairs of one image or "
            "of equal English are in one fold."
        },
    )

    # Classes
    class_names: str | None = field(
        default=None,
        metadata={
            "help": "JSON file with a list of the class names of a classifier, in the order of its outputs. "
            "Each row of its weights then is one more image, with its name as caption. By default the names "
            "that its configuration has, if any."
        },
    )
    class_template: str = field(
        default="A {name}.", metadata={"help": "Caption of a class, in which {name} is replaced by its name."}
    )
    class_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of all classes together, relative to that of all captioned images; 0 leaves them "
            "out. By default it is chosen from 0, 0.1, 0.3, 1, 3 and 10 by cross-validation."
        },
    )

    def __post_init__(self):
        for name, left_out in _OF_STEPS.items():
            if getattr(self, name) != left_out:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}, and alignment fits one layer without steps: leave "
                    "it out, or give it to the stage that goes on with the model"
                )
        if self.aligns_images and self.languages is None:
            self.languages = ["en"]
        super().__post_init__()
        if self.max_pairs is not None and self.max_pairs < self.n_folds:
            raise InputError(f"max_pairs is {self.max_pairs}: give at least one for each of n_folds, or more")
        if self.n_folds < 2:
            raise InputError(f"n_folds is {self.n_folds}: give 2 or more")
        if self.whiten_texts and not self.aligns_images:
            raise InputError(
                "whiten_texts is true, and text_encoder_name_or_path fits a text head to the teacher's "
                "embeddings as they are: leave it out, and give it where the teacher's images are aligned"
            )
        self.check_classes()

    @property
    def aligns_images(self) -> bool:
        """Return whether the projection of images is fitted, and not a text head."""
        return self.text_encoder_name_or_path is None

    def check_given_models(self) -> None:
        """Check which models are given.

        Raises:
            InputError: one is missing, or the sentence encoder is of a library that has no such.
        """
        if not self.aligns_images:
            super().check_given_models()
            return
        for name, what in (
            ("image_model_name_or_path", "the image encoder whose projection is fitted"),
            ("teacher_name_or_path", "the sentence encoder that becomes the text tower"),
        ):
            if getattr(self, name) is None:
                raise InputError(
                    f"{name} is missing: give {what}; or give text_encoder_name_or_path to fit its head"
                )
        if check_library(self.teacher_name_or_path) not in _LIBRARIES_OF_TEXT_TOWERS:
            raise InputError(
                f"teacher_name_or_path is {self.teacher_name_or_path!r}, whose texts no tower of "
                "transformers encodes: give the folder or Hub id of a sentence encoder"
            )

    def check_evaluation(self) -> None:
        """Do not look for what goes with `class_names`: here they are those of the classifier."""

    def check_classes(self) -> None:
        """Check the caption and the weight of classes.

        Raises:
            InputError: a value is out of range, or there is no image tower to have classes.
        """
        if self.class_names is not None and not self.aligns_images:
            raise InputError(
                f"class_names is {self.class_names!r}, and text_encoder_name_or_path fits a text head, which "
                "no classifier helps: leave out one of the two"
            )
        if "{name}" not in self.class_template:
            raise InputError(
                f"class_template is {self.class_template!r} without {{name}}: give one such as 'A {{name}}.'"
            )
        if self.class_weight is not None and not 0 <= self.class_weight < float("inf"):
            raise InputError(f"class_weight is {self.class_weight}: give a number from 0, or leave it out")
