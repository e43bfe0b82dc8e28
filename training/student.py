"""Build the student of stage 1: a new text tower beside a trained image tower, or a finished model."""

from copy import deepcopy

import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor

from common.embedding_cache import CachedColumn
from common.errors import InputError
from common.languages import check_languages
from common.models.kinds import load_config, load_tokenizer, readable
from common.models.loading import load_model, load_processor
from modeling_altclip import AltCLIPConfig, AltCLIPDualEncoderModel, AltCLIPModel, AltCLIPProcessor
from modeling_altclip.checksums_altclip import checked_files
from modeling_altclip.linear_altclip import use_onednn
from modeling_altclip.pooling_altclip import stated_pooling, stated_prompt
from modeling_altclip.reading_altclip import prompted_tokenizer
from modeling_altclip.text_code_altclip import text_auto_map_of
from modeling_altclip.towers_altclip import load_text_config, set_dropout

from .arguments import TeacherLearningArguments, say
from .data.examples import all_texts
from .data.exclusion.rows import exclude_tests
from .data.parallel_text import read_parallel_text
from .data.tower_cache import teacher_embeddings
from .output_folder import record_sources
from .own_text_tower import has_own_tower
from .teachers import join, join_image_encoder, space_of, width_of_targets
from .text_teachers import (
    Teacher,
    describe_image_side,
    has_new_image_projection,
    load_teacher,
    width_of,
    width_of_text_teacher,
)
from .vocabulary import extend_tokenizer


def load_teacher_of_student(arguments: TeacherLearningArguments) -> Teacher:
    """Load the teacher, say where images come from if not from it, and check that the two share a width."""
    if arguments.image_model_name_or_path is not None:
        say(arguments, f"Images: {describe_image_side(arguments)}.")
    teacher = load_teacher(arguments)
    _check_width(arguments, teacher)
    return teacher


def read_training_text(arguments: TeacherLearningArguments) -> Dataset:
    """Read the parallel text of all sources, without the texts of tests, and record where it is from."""
    text = read_parallel_text(
        arguments.dataset, arguments.split, arguments.kinds, arguments.languages_to_read
    )
    say(arguments, text.describe_skipped())
    record_sources(arguments, text.origins)
    return exclude_tests(arguments, text.rows)


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
        config = student_config(arguments)
    has_own = has_own_tower(config)
    # Our own models check their weights by themselves.
    with readable("model_name_or_path", name), checked_files(name, weights=has_own):
        set_dropout(config.text_config, arguments.dropout)
        model = AutoModel.from_pretrained(name, config=config, dtype=torch.float32, trust_remote_code=False)
    if has_own:
        tokenizer = load_processor(name, argument="model_name_or_path").tokenizer
    else:
        tokenizer = load_tokenizer("model_name_or_path", name)
    if arguments.new_pieces:
        n_known = len(tokenizer)
        tokenizer = extend_tokenizer(tokenizer, all_texts(rows, new), arguments.new_pieces)
        # Some encoders have more embeddings than pieces. These are untrained: new pieces shall not be theirs.
        resized = model.text_model if has_own else model  # CLIP and its kin do not find their embeddings
        resized.resize_token_embeddings(n_known)
        resized.resize_token_embeddings(len(tokenizer))
    use_onednn(model)
    return model, tokenizer


def processors_of_student(
    arguments: TeacherLearningArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: BaseImageProcessor,
) -> tuple[ProcessorMixin, ProcessorMixin]:
    """Return the processor that a student is trained with, and the one that is saved with it.

    They are one, except where a model of transformers goes on with its own text tower: of its own class, and
    with a tokenizer that no call has left its padding in, is what is saved.

    Args:
        tokenizer: the student's, from `build_student`.
        image_processor: the teacher's, for a student of our own types.
    """
    if not has_own_tower(model.config):
        processor = AltCLIPProcessor(image_processor, tokenizer)
        return processor, processor
    name = arguments.model_name_or_path
    processor = load_processor(name, argument="model_name_or_path")
    processor.tokenizer = tokenizer
    saved = load_processor(name, argument="model_name_or_path")
    if arguments.new_pieces:
        saved.tokenizer = deepcopy(tokenizer)
    return processor, saved


def _new_student(arguments: TeacherLearningArguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build a new text tower from an encoder, beside the image tower of the teacher or of another model."""
    image_model = getattr(arguments, arguments.image_side)
    encoder = arguments.text_encoder_name_or_path
    tokenizer = load_tokenizer("text_encoder_name_or_path", encoder)
    config = student_config(arguments)
    with readable("text_encoder_name_or_path", encoder):
        if isinstance(config, AltCLIPConfig):
            _say_unused_pooling(arguments)
            model = AltCLIPModel.from_teacher(image_model, encoder, dropout=arguments.dropout)
        else:
            options = {
                "text_pooling": arguments.text_pooling,
                "text_head": config.text_head,
                "text_head_norm": config.text_head_norm,
                "dropout": arguments.dropout,
                "trust_remote_code": arguments.trust_remote_code,
            }
            if has_new_image_projection(arguments):
                model = AltCLIPDualEncoderModel.from_towers(
                    image_model, encoder, projection_dim=config.projection_dim, **options
                )
            else:
                model = AltCLIPDualEncoderModel.from_teacher(image_model, encoder, **options)
        prompt = arguments.text_prompt
        if prompt is None:
            prompt = stated_prompt(encoder)
        if prompt:
            say(arguments, f"The tokenizer writes the prompt {prompt!r} before every text.")
            tokenizer = prompted_tokenizer(tokenizer, prompt)
    return model, tokenizer


def _say_unused_pooling(arguments: TeacherLearningArguments) -> None:
    """Print that an AltCLIP pools the first token, where its encoder's files state another pooling."""
    encoder = arguments.text_encoder_name_or_path
    pooling = stated_pooling(encoder)
    if pooling not in (None, "cls"):
        say(
            arguments,
            f"{encoder} states the pooling {pooling}, and an AltCLIP, which plain transformers loads, takes "
            f"the first token: --text_pooling {pooling} makes a dual encoder instead.",
        )


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

    It tells the student's type, and its size; no weights are loaded, but those of a teacher of texts alone
    where nothing else states the width of its embeddings.

    Raises:
        InputError: a model cannot be loaded, or the teacher, or the model for images, has no image tower that
            can be taken over.
    """
    if arguments.model_name_or_path is not None:
        return load_config(arguments.model_name_or_path, trust_remote_code=arguments.trust_remote_code)
    encoder_name = arguments.text_encoder_name_or_path
    with readable("text_encoder_name_or_path", encoder_name):
        encoder = load_text_config(encoder_name, trust_remote_code=arguments.trust_remote_code)
        options = {
            "text_pooling": arguments.text_pooling,
            "text_head": arguments.text_head,
            "text_head_norm": arguments.text_head_norm,
            "stated_pooling": stated_pooling(encoder_name),
            "dropout": arguments.dropout,
        }
    name = getattr(arguments, arguments.image_side)
    with readable(arguments.image_side, name):
        image_side = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if has_new_image_projection(arguments):
        width = width_of_text_teacher(arguments.teacher_name_or_path)
        return join_image_encoder(image_side, encoder, width, **options)
    return join(image_side, encoder, **options, has_text_teacher=arguments.has_text_teacher)


def _check_width(arguments: TeacherLearningArguments, teacher: Teacher) -> None:
    """Check that a teacher of texts alone gives targets as wide as the student's embeddings of images.

    Raises:
        InputError: it does not.
    """
    if not arguments.has_text_teacher:
        return  # the student has the teacher's width, or `embed_targets` compares them
    width = width_of(teacher.model, teacher.processor.tokenizer)
    needed = width_of_targets(student_config(arguments))
    if width == needed:
        return
    image_model = getattr(arguments, arguments.image_side)
    raise InputError(
        f"teacher_name_or_path {arguments.teacher_name_or_path!r} gives embeddings of {width} values, and "
        f"{arguments.image_side} {image_model!r} of {needed}: give two that share one space"
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
    teacher: Teacher,
) -> CachedColumn:
    """Embed the English texts by the teacher, in the space that the student learns in.

    Raises:
        InputError: a finished model has vectors of another width than its teacher's.
    """
    student = student_config(arguments)
    targets = teacher_embeddings(
        rows,
        teacher.model,
        teacher.processor.tokenizer,
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
