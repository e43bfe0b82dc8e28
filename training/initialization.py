"""Begin a stage with a projection in closed form: `--initialize_projection ridge`.

Stage 1 fits the last layer of a new student's text head to the teacher's targets, stage 2 `visual_projection`
to the embeddings of the captions. The frozen towers run once over some of the training texts, and their
outputs are cached. A run that resumes fits nothing: its checkpoint has the weights.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.embedding_cache import CachedColumn, cached_column
from common.fingerprints import settings, written
from modeling_altclip import AltCLIPDualEncoderModel
from modeling_altclip.embedding import encode_texts
from modeling_altclip.pooling_altclip import first_state

from .alignment import Alignment, ColumnRows, LinearMap, fit_alignment, fit_on_main_process
from .arguments import ContrastiveArguments, StageArguments, TeacherLearningArguments, say
from .data.examples import CaptionExamples, TextOfExamples
from .data.tower_cache import on_device


class _TextHead(NamedTuple):
    """The last layer of a model's text side, and what comes before it.

    Attributes:
        linear: the layer.
        encode: encodes tokens to its inputs `(texts, width)`.
        parts: what these inputs depend on, for the cache's fingerprint.
    """

    linear: nn.Linear
    encode: Callable[..., torch.Tensor]
    parts: dict[str, nn.Module | str]


def _text_head_of(model: PreTrainedModel) -> _TextHead:
    """Return the text head of a student: an AltCLIP's `transformation`, or a dual encoder's last layer.

    Of a head of several layers (`text_head: mlp`) the others count to what comes before it.
    """
    text_model = model.text_model
    if not isinstance(model, AltCLIPDualEncoderModel):

        def encode_altclip(**inputs) -> torch.Tensor:
            states = text_model.roberta(**inputs).last_hidden_state
            return first_state(text_model.pre_LN(states), inputs["attention_mask"])

        encoder = nn.ModuleList([text_model.roberta, text_model.pre_LN])
        return _TextHead(text_model.transformation, encode_altclip, _made_by(encoder, model))

    layers = [model.text_projection]
    if isinstance(model.text_projection, nn.Sequential):
        layers = list(model.text_projection)
    before = nn.Sequential(*layers[:-1])

    def encode(**inputs) -> torch.Tensor:
        return before(text_model(**inputs).pooler_output)

    return _TextHead(layers[-1], encode, _made_by(nn.ModuleList([text_model, before]), model))


def _made_by(encoder: nn.Module, model: PreTrainedModel) -> dict[str, nn.Module | str]:
    return {"weights": encoder, "configuration": settings(model)}


def fit_text_head(  # noqa: PLR0913  (a student, its texts and how many of them)
    arguments: TeacherLearningArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: CaptionExamples,
    max_length: int,
    n_rows: int | None,
    n_folds: int = 5,
) -> Alignment:
    """Fit the last layer of a student's text head to the targets of the examples, and give it to the model.

    Targets are compared by squared distances, whatever the objective of the training; they have unit length
    where the objective leaves lengths free. Texts of one row, which have one target, and rows of equal
    English are in one fold.

    Args:
        examples: in their languages; `inputs` are the teacher's targets.
        max_length: number of tokens at which texts are truncated.
        n_rows: number of examples to fit on; None for all.
        n_folds: as for `fit_alignment`.

    Returns:
        The map, with its held-out error.

    Raises:
        InputError: there are too few examples, or an embedding is not finite.
    """
    head = _text_head_of(model)
    drawn = draw_examples(examples, n_rows, arguments.seed)
    states = _embed_texts(arguments, model, tokenizer, head, TextOfExamples(examples).take(drawn), max_length)
    rows = examples.places[drawn, 0]
    targets = ColumnRows(examples.inputs, rows)
    if arguments.objective != "mse":  # the others compare directions
        targets = ColumnRows(examples.inputs, rows, _to_unit_length)
    alignment = fit_on_main_process(
        lambda: fit_alignment(
            ColumnRows(states, np.arange(len(drawn))),
            targets,
            groups=examples.row_ids[rows],
            n_folds=n_folds,
            intercept=head.linear.bias is not None,
            seed=arguments.seed,
        )
    )
    give_weights(head.linear, alignment.map)
    return alignment


def _to_unit_length(targets: torch.Tensor) -> torch.Tensor:
    return normalize(targets, dim=-1)


def _embed_texts(  # noqa: PLR0913  (a model, its texts and where they are cached)
    arguments: TeacherLearningArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    head: _TextHead,
    texts: pa.Array,
    max_length: int,
) -> CachedColumn:
    """Encode texts to the inputs of a head, as the column `head_input`."""

    def encode(rows: np.ndarray, view: int) -> torch.Tensor:
        chosen = texts.take(pa.array(rows)).to_pylist()
        return encode_texts(model, tokenizer, chosen, head.encode, max_length=max_length)

    made_by = head.parts | {"tokenizer": written(tokenizer), "length": str(max_length)}
    with on_device(model):
        return cached_column(
            "head_input",
            "text",
            texts,
            encode,
            made_by,
            cache_dir=arguments.cache_dir,
            dtype=arguments.cache_dtype,
        )


def draw_examples(examples: CaptionExamples, n_rows: int | None, seed: int) -> np.ndarray:
    """Draw examples evenly over the languages, of a language with few all; return their numbers, sorted.

    Within a language those of heavier rows are likelier to be drawn.

    Args:
        n_rows: how many; None for all.
    """
    if n_rows is None or n_rows >= len(examples):
        return np.arange(len(examples))
    shuffled = _shuffle(examples, seed)
    languages = np.asarray(examples.columns)[examples.places[shuffled, 1]]
    # The turn of each example in its language: languages a b a a have the turns 0 0 1 2, and of all
    # examples those of the lowest turns are drawn.
    turns = np.empty(len(shuffled), int)
    for language in np.unique(languages):
        of_language = np.flatnonzero(languages == language)
        turns[of_language] = np.arange(len(of_language))
    return np.sort(shuffled[np.argsort(turns, kind="stable")[:n_rows]])


def _shuffle(examples: CaptionExamples, seed: int) -> np.ndarray:
    """Return the numbers of the examples in random order, those of heavier rows earlier on average."""
    # The first of several waiting times is that of a row with a probability in proportion to its weight.
    waiting = np.random.default_rng(seed).exponential(size=len(examples))
    if examples.weights is not None:
        with np.errstate(divide="ignore"):  # a weight of 0 comes last
            waiting /= examples.weights
    return np.argsort(waiting, kind="stable")


@torch.no_grad()
def give_weights(layer: nn.Linear, fitted: LinearMap) -> None:
    """Give a layer the weights of a map; a layer without a bias leaves out that of the map."""
    layer.weight.copy_(fitted.weight)
    if layer.bias is not None:
        layer.bias.copy_(fitted.bias)


def initialize_text_head(
    arguments: TeacherLearningArguments,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: CaptionExamples,
    max_length: int,
) -> None:
    """Fit the text head of stage 1 before its first step, if the recipe says so; see `fit_text_head`."""
    if not arguments.fits_projection or _resumes(arguments):
        return
    alignment = fit_text_head(arguments, model, tokenizer, examples, max_length, arguments.initialize_rows)
    say(arguments, f"Initialized the text head: {alignment.describe()}.")


def initialize_image_projection(
    arguments: ContrastiveArguments, model: PreTrainedModel, examples: CaptionExamples
) -> None:
    """Fit `visual_projection` of stage 2 to the captions' embeddings, if the recipe says so.

    Embeddings of captions have unit length. Captions of one image, and of images with equal captions, are in
    one fold.

    Args:
        examples: have the pooled outputs of both towers, see `run` of stage 2.

    Raises:
        InputError: there are too few examples.
    """
    if not arguments.fits_projection or _resumes(arguments):
        return
    drawn = draw_examples(examples, arguments.initialize_rows, arguments.seed)
    rows = examples.places[drawn, 0]

    @torch.no_grad()
    def project(pooled: torch.Tensor) -> torch.Tensor:
        return normalize(model.text_projection(pooled.to(model.device)), dim=-1)

    alignment = fit_on_main_process(
        lambda: fit_alignment(
            ColumnRows(examples.inputs, rows),
            ColumnRows(examples.texts, drawn, project),
            groups=examples.row_ids[rows],
            intercept=model.visual_projection.bias is not None,
            seed=arguments.seed,
        )
    )
    give_weights(model.visual_projection, alignment.map)
    say(arguments, f"Initialized visual_projection: {alignment.describe()}.")


def describe_initialization(arguments: StageArguments) -> str | None:
    """Say what is fitted before the first step, for a dry run; None if nothing is."""
    if not isinstance(arguments, TeacherLearningArguments | ContrastiveArguments):
        return None
    if not arguments.fits_projection:
        return None
    of_texts = isinstance(arguments, TeacherLearningArguments)
    layer = "the last layer of the text head" if of_texts else "visual_projection"
    return (
        f"{layer} by ridge regression on at most {arguments.initialize_rows:,} texts, before the first step"
    )


def _resumes(arguments: StageArguments) -> bool:
    """Return whether the run goes on from a checkpoint; `claim` unsets `resume` where there is none."""
    if arguments.resume:
        say(arguments, "The projection is not initialized: the checkpoint has its weights.")
    return arguments.resume


__all__ = [
    "describe_initialization",
    "draw_examples",
    "fit_text_head",
    "give_weights",
    "initialize_image_projection",
    "initialize_text_head",
]
