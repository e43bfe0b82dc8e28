"""Arguments of stage 1, teacher learning."""

from dataclasses import dataclass, field

from common.errors import InputError
from common.models.libraries import TEXT_TEACHERS, check_library, library_of
from modeling_altclip.configuration_altclip_dual_encoder import TEXT_HEADS

from ..losses import OBJECTIVES
from .initialization import InitializationArguments
from .low_rank import LowRankArguments
from .stage import ExclusionArguments

_MOST_SCALE = 100  # CLIP's bound


@dataclass(kw_only=True)
class TeacherLearningArguments(LowRankArguments, InitializationArguments, ExclusionArguments):
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
            "help": "Loss between the text embeddings and their targets: mse as in the paper; cosine, "
            "which leaves the norms of the embeddings free; or contrastive, in which each text chooses its "
            "target among those of its batch, and which keeps apart what regression draws to the mean."
        },
    )
    contrast_scale: float = field(
        default=20.0,
        metadata={
            "help": "What objective contrastive multiplies cosines by: 1 / temperature. The default is that "
            "of sentence-transformers' MultipleNegativesRankingLoss."
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
        if not 0 < self.contrast_scale <= _MOST_SCALE:
            raise InputError(
                f"contrast_scale is {self.contrast_scale}: give a number above 0, of {_MOST_SCALE} at most"
            )
        if self.train_sampling_strategy not in ("random", "group_by_length"):
            raise InputError(
                f"train_sampling_strategy is {self.train_sampling_strategy}: choose random or group_by_length"
            )
        self.check_given_models()
        self.check_replay()
        self.check_initialization()
        if self.fits_projection and self.model_name_or_path is not None:
            raise InputError(
                f"initialize_projection is {self.initialize_projection}, and model_name_or_path is a "
                "finished model, whose trained head it would replace: leave it out"
            )
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
