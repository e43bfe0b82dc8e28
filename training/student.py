"""What stage 1 trains: a new text tower beside the teacher's image tower, or a finished one that learns more languages."""

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.column_cache import CachedColumn
from benchmarks.loading import check_folder, load_model
from benchmarks.recipe import InputError
from modeling_altclip import AltCLIPConfig, AltCLIPModel

from .arguments import TeacherLearningArguments
from .data import texts_of
from .frozen import teacher_vectors
from .vocabulary import extend_tokenizer


def build_student(arguments: TeacherLearningArguments, rows: Dataset, new: list[str]) -> tuple[AltCLIPModel, PreTrainedTokenizerBase]:
    """The whole model whose text tower is to learn, and its tokenizer.

    Args:
        rows: parallel text, by which a finished model's tokenizer is extended where `new_pieces` asks for it. Old pieces keep their
            embeddings; those of new ones begin near their mean.
        new: the languages that the model is to learn.

    Raises:
        InputError: the finished model is no AltCLIP, or its tokenizer cannot be extended.
    """
    name = arguments.model_name_or_path
    if name is None:
        model = AltCLIPModel.from_teacher(arguments.teacher_name_or_path, arguments.text_encoder_name_or_path, dropout=arguments.dropout)
        return model, AutoTokenizer.from_pretrained(arguments.text_encoder_name_or_path, model_max_length=arguments.max_text_length)
    check_folder("model", name)
    config = AutoConfig.from_pretrained(name)
    if not isinstance(config, AltCLIPConfig):
        raise InputError(f"model_name_or_path {name!r} is a {config.model_type}: give a finished AltCLIP")
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = arguments.dropout
    model = AltCLIPModel.from_pretrained(name, config=config, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(name, model_max_length=arguments.max_text_length)
    if arguments.new_pieces:
        tokenizer = extend_tokenizer(tokenizer, texts_of(rows, new), arguments.new_pieces)
        model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def held_vectors(arguments: TeacherLearningArguments, rows: Dataset, replayed: list[str]) -> dict[str, CachedColumn]:
    """What a finished model makes of its own languages' texts, `{language: vectors}`: what it is held to while it learns others.

    Held to the English vectors instead, an old language gave up what stage 2 had taught it: 1.5 points of recall
    at worst, measured on the miniature.
    """
    if not replayed:
        return {}
    model, processor = load_model(arguments.model_name_or_path)
    cache = {"cache_dir": arguments.cache_dir, "dtype": arguments.cache_dtype}
    return {language: teacher_vectors(rows, model, processor.tokenizer, language, **cache) for language in replayed}
