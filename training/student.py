"""Build the student of stage 1: a new text tower beside the teacher's image tower, or a finished model."""

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from common.embedding_cache import CachedColumn
from common.errors import InputError
from common.languages import check_languages
from common.models.kinds import load_config, load_tokenizer, readable
from common.models.loading import load_model
from modeling_altclip import AltCLIPConfig, AltCLIPDualEncoderModel, AltCLIPModel
from modeling_altclip.pooling_altclip import stated_pooling
from modeling_altclip.reading_altclip import prompted_tokenizer
from modeling_altclip.text_code_altclip import text_auto_map_of
from modeling_altclip.towers_altclip import load_text_config, set_dropout

from .arguments import TeacherLearningArguments
from .data.examples import all_texts
from .data.tower_cache import teacher_embeddings
from .teachers import join, space_of, width_of_targets
from .vocabulary import extend_tokenizer


def build_student(
    arguments: TeacherLearningArguments, rows: Dataset, new: list[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build the whole model whose text tower will learn, and its tokenizer.

    Args:
        rows: parallel text, by which a finished model's tokenizer is extended if `new_pieces` is set. Old
            pieces keep their embeddings; those of new ones start near their mean.
        new: the languages that the model will learn.

    Raises:
        InputError: a model or tokenizer cannot be loaded, or the tokenizer cannot be extended.
    """
    if arguments.model_name_or_path is None:
        return _new_student(arguments)

    # A finished model goes on learning, in float32 and with the dropout of the recipe.
    name = arguments.model_name_or_path
    with readable("model_name_or_path", name):
        config = load_config(name, trust_remote_code=arguments.trust_remote_code)
        set_dropout(config.text_config, arguments.dropout)
        model = AutoModel.from_pretrained(name, config=config, dtype=torch.float32, trust_remote_code=False)
    tokenizer = load_tokenizer("model_name_or_path", name)
    if arguments.new_pieces:
        n_known = len(tokenizer)
        tokenizer = extend_tokenizer(tokenizer, all_texts(rows, new), arguments.new_pieces)
        # Some encoders have more embeddings than pieces. These are untrained: new pieces shall not be theirs.
        model.resize_token_embeddings(n_known)
        model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def _new_student(arguments: TeacherLearningArguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build a new text tower from an encoder, beside the teacher's image tower."""
    teacher = arguments.teacher_name_or_path
    encoder = arguments.text_encoder_name_or_path
    tokenizer = load_tokenizer("text_encoder_name_or_path", encoder)
    config = student_config(arguments)
    with readable("text_encoder_name_or_path", encoder):
        if isinstance(config, AltCLIPConfig):
            model = AltCLIPModel.from_teacher(teacher, encoder, dropout=arguments.dropout)
        else:
            model = AltCLIPDualEncoderModel.from_teacher(
                teacher,
                encoder,
                text_pooling=arguments.text_pooling,
                text_head=config.text_head,
                dropout=arguments.dropout,
                trust_remote_code=arguments.trust_remote_code,
            )
        if arguments.text_prompt is not None:
            tokenizer = prompted_tokenizer(tokenizer, arguments.text_prompt)
    return model, tokenizer


def set_attention(arguments: TeacherLearningArguments, model: PreTrainedModel) -> None:
    """Set the attention kernel that is asked for in both towers, or else the one that transformers chooses.

    An encoder that brings its own code may have one kernel alone, and keeps it unless another is asked for.
    """
    kernel = arguments.attn_implementation
    if kernel is None and text_auto_map_of(model.config.text_config) is None:
        kernel = model.config._attn_implementation
    if kernel is not None:
        model.set_attn_implementation(kernel)


def student_config(arguments: TeacherLearningArguments) -> PreTrainedConfig:
    """Return the configuration of the student: that of the finished model, or of a teacher and an encoder.

    It tells the student's type, and its size; no weights are loaded.

    Raises:
        InputError: a model cannot be loaded, or the teacher has no image tower that can be taken over.
    """
    if arguments.model_name_or_path is not None:
        return load_config(arguments.model_name_or_path, trust_remote_code=arguments.trust_remote_code)
    encoder_name = arguments.text_encoder_name_or_path
    with readable("teacher_name_or_path", arguments.teacher_name_or_path):
        teacher = AutoConfig.from_pretrained(arguments.teacher_name_or_path, trust_remote_code=False)
    with readable("text_encoder_name_or_path", encoder_name):
        return join(
            teacher,
            load_text_config(encoder_name, trust_remote_code=arguments.trust_remote_code),
            text_pooling=arguments.text_pooling,
            text_head=arguments.text_head,
            stated_pooling=stated_pooling(encoder_name),
            dropout=arguments.dropout,
        )


def languages_to_replay(
    arguments: TeacherLearningArguments, available: list[str], new: list[str]
) -> list[str]:
    """Return the languages that a finished model replays, so that it does not forget them.

    By default these are all languages of the text except the `new` ones.

    Args:
        available: the available languages, those of the text.

    Raises:
        InputError: a requested language is not in the text.
    """
    # A model that is made anew has nothing to forget.
    if arguments.model_name_or_path is None:
        return []
    if arguments.replay_languages is None:
        return [language for language in available if language not in new]
    # An empty list asks for none; `check_languages` would take it for all.
    return check_languages(arguments.replay_languages, available) if arguments.replay_languages else []


def embed_targets(
    arguments: TeacherLearningArguments,
    rows: Dataset,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> CachedColumn:
    """Embed the English texts by the teacher, in the space that the student learns in.

    Raises:
        InputError: a finished model has vectors of another width than its teacher's.
    """
    student = student_config(arguments)
    targets = teacher_embeddings(
        rows,
        teacher,
        tokenizer,
        space=space_of(student),
        cache_dir=arguments.cache_dir,
        dtype=arguments.cache_dtype,
    )
    width = targets[[0]]["target"].shape[1]
    needed = width_of_targets(student)
    if width != needed:
        raise InputError(
            f"teacher_name_or_path {arguments.teacher_name_or_path!r} gives targets of {width} values, and "
            f"the student has {needed}: give the teacher that model_name_or_path has learned from"
        )
    return targets


def held_embeddings(
    arguments: TeacherLearningArguments, rows: Dataset, replayed: list[str]
) -> dict[str, CachedColumn]:
    """Embed a finished model's own languages: these are its targets for them while it learns others.

    Regularising towards the English embeddings instead cost up to 1.5 points of recall in an old language,
    measured on the miniature: part of what stage 2 had taught.

    Returns:
        `{language: embeddings}`, by the model as it is before training.
    """
    if not replayed:
        return {}
    model, processor = load_model(
        arguments.model_name_or_path,
        argument="model_name_or_path",
        trust_remote_code=arguments.trust_remote_code,
    )
    cache = {"cache_dir": arguments.cache_dir, "dtype": arguments.cache_dtype}
    space = space_of(model.config)
    held = {}
    for language in replayed:
        held[language] = teacher_embeddings(rows, model, processor.tokenizer, language, space=space, **cache)
    return held
