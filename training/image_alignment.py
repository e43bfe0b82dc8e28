"""Join a frozen image tower and a frozen sentence encoder by a projection in closed form.

The text projection is an identity, so that texts have the sentence encoder's own embeddings, or whitens them;
and the projection of images, which has a bias, is fitted by ridge regression to unit embeddings of their
captions.
Its penalty, the weight of classes and the scale of logits are those by which images that the map has not seen
find their captions best. The penalty of the least squared error finds fewer: on 288 pictures with captions
and 1,000 classes it shrinks the map so far that recall on other pictures was 24 to 26 %, for 32 %.
"""

import math

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, PreTrainedTokenizerBase

from common.embedding_cache import CachedColumn
from common.errors import InputError
from common.languages import check_languages
from common.models.kinds import load_tokenizer, readable
from common.models.libraries import source_of
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPProcessor
from modeling_altclip.embedding import encode_texts
from modeling_altclip.pooling_altclip import stated_prompt, unread_modules
from modeling_altclip.reading_altclip import prompted_tokenizer
from modeling_altclip.towers_altclip import load_text_config

from .alignment import (
    Alignment,
    ColumnRows,
    LinearMap,
    assign_folds,
    fit_alignment,
    fit_on_main_process,
)
from .arguments import AlignmentArguments, say
from .classifier_rows import ClassRows, load_class_rows
from .data.examples import CaptionExamples
from .data.images import ImageViews
from .data.loading import load_images
from .data.tower_cache import on_device, pooled_images, pooled_texts
from .initialization import draw_examples, give_weights
from .lifecycle import cut_length
from .losses import contrastive_loss
from .whitening import fit_whitening

# Weights of all classes together that are tried, relative to that of all captioned images.
_CLASS_WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
_SAMPLE = 10_000  # pairs whose features give their mean and spread, and whose texts are whitened
_COMPARED = 1_000  # held-out pairs that are compared with one another to find the scale
_SCALES = torch.logspace(0, 2, 41)  # up to CLIP's bound
_COARSELY = slice(None, None, 4)  # of the scales, where maps are compared


def align_images(
    arguments: AlignmentArguments,
) -> tuple[AltCLIPDualEncoderModel, AltCLIPProcessor, Alignment]:
    """Join an image tower and a sentence encoder, and fit the projection of images.

    Returns:
        The model, its processor, and the map with its held-out error.

    Raises:
        InputError: a model or the data cannot be loaded, a sentence encoder does more than to pool the states
            of a transformer, class names do not fit, or there are too few images.
    """
    model, processor = _join_towers(arguments)
    class_rows = load_class_rows(arguments, model)
    examples = _load_examples(arguments)
    stored = {"cache_dir": arguments.cache_dir, "dtype": arguments.cache_dtype}
    images = pooled_images(examples.inputs, model, processor, **stored)
    max_length = processor.tokenizer.model_max_length
    texts = pooled_texts(examples, model, processor.tokenizer, max_length, **stored)
    for column in (images, texts):
        say(arguments, f"Cached {column}")

    drawn = draw_examples(examples, arguments.max_pairs, arguments.seed)
    rows = examples.places[drawn, 0]
    pooled_classes = None
    if class_rows is not None:
        pooled_classes = _pool_class_captions(arguments, class_rows, model, processor)
    if arguments.whiten_texts:
        _whiten(arguments, model, _sample(texts, drawn, arguments.seed), pooled_classes)

    @torch.no_grad()
    def embed(pooled: torch.Tensor) -> torch.Tensor:
        return normalize(model.text_projection(pooled), dim=-1)

    extra = None
    if class_rows is not None:
        extra = _features_of_classes(arguments, class_rows, images, rows), embed(pooled_classes)
    weight = arguments.class_weight
    groups = examples.row_ids[rows]
    inputs = ColumnRows(images, rows)
    targets = ColumnRows(texts, drawn, embed)
    folds = assign_folds(len(rows), groups, arguments.n_folds, arguments.seed)
    held_out = _HeldOut(inputs, targets, groups, folds, arguments.seed)
    alignment = fit_on_main_process(
        lambda: fit_alignment(
            inputs,
            targets,
            groups=groups,
            n_folds=arguments.n_folds,
            extra=extra,
            extra_weights=_CLASS_WEIGHTS if weight is None else (weight,),
            judge=lambda maps: min(held_out.losses(maps, _SCALES[_COARSELY])),
            seed=arguments.seed,
        )
    )
    if extra is not None:
        say(
            arguments,
            f"The {len(class_rows.names)} classes weigh {alignment.extra_weight:g} of all captioned images.",
        )
    give_weights(model.visual_projection, alignment.map)
    losses = held_out.losses(alignment.of_other_folds, _SCALES)
    scale = _SCALES[int(np.argmin(losses))].item()
    say(arguments, f"Logits are cosines times {scale:.1f}, the likeliest for pairs that were held out.")
    model.logit_scale.data.fill_(math.log(scale))
    return model, processor, alignment


def _join_towers(arguments: AlignmentArguments) -> tuple[AltCLIPDualEncoderModel, AltCLIPProcessor]:
    """Join an image tower and a sentence encoder, whose embeddings are the shared space.

    Raises:
        InputError: one cannot be loaded, or the sentence encoder has layers behind its transformer.
    """
    image_model = arguments.image_model_name_or_path
    teacher = source_of(arguments.teacher_name_or_path)
    prompt = arguments.text_prompt
    with readable("teacher_name_or_path", teacher):
        _check_modules(teacher)
        width = load_text_config(teacher, trust_remote_code=arguments.trust_remote_code).hidden_size
        if prompt is None:
            prompt = stated_prompt(teacher)
    with readable("image_model_name_or_path", image_model):
        image_processor = AutoImageProcessor.from_pretrained(image_model, trust_remote_code=False)
        model = AltCLIPDualEncoderModel.from_towers(
            image_model,
            teacher,
            projection_dim=width,
            projection_bias=True,
            text_pooling=arguments.text_pooling,
            trust_remote_code=arguments.trust_remote_code,
        ).eval()
    torch.nn.init.eye_(model.text_projection.weight)
    torch.nn.init.zeros_(model.text_projection.bias)
    return model, AltCLIPProcessor(image_processor, _load_tokenizer(arguments, model, teacher, prompt))


def _load_tokenizer(
    arguments: AlignmentArguments, model: AltCLIPDualEncoderModel, teacher: str, prompt: str | None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a sentence encoder, which writes its prompt before every text."""
    tokenizer = load_tokenizer("teacher_name_or_path", teacher)
    if prompt:
        say(arguments, f"The tokenizer writes the prompt {prompt!r} before every text.")
        with readable("teacher_name_or_path", teacher):
            tokenizer = prompted_tokenizer(tokenizer, prompt)
    tokenizer.model_max_length = cut_length(arguments, model)
    return tokenizer


def _check_modules(teacher: str) -> None:
    """Refuse a sentence encoder that does more than to pool and normalize: its texts would get other vectors.

    Raises:
        InputError: it does.
    """
    prompt = stated_prompt(teacher)
    others = [name for name in unread_modules(teacher) if name != f"the prompt {prompt!r}"]
    if others:
        raise InputError(
            f"teacher_name_or_path {teacher!r} has more than a transformer and its pooling: "
            f"{', '.join(others)}. Give a sentence encoder without, such as an all-MiniLM-L6-v2"
        )


def _load_examples(arguments: AlignmentArguments) -> CaptionExamples:
    """Load the captioned images as examples, without those of tests, and record where they are from."""
    rows = load_images(arguments, arguments.languages)
    views = ImageViews(rows, n_views=1)
    languages = check_languages(arguments.languages, list(rows.features["captions"]))
    examples = CaptionExamples(rows, languages, "image", inputs=views, same=views.digests)
    examples.check_any(arguments.dataset)
    return examples


def _sample(column: CachedColumn, rows: np.ndarray, seed: int) -> torch.Tensor:
    """Read some of the rows of a column `(at most 10,000, width)`."""
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:_SAMPLE])
    return torch.from_numpy(column[chosen][column.name])


def _pool_class_captions(
    arguments: AlignmentArguments,
    class_rows: ClassRows,
    model: AltCLIPDualEncoderModel,
    processor: AltCLIPProcessor,
) -> torch.Tensor:
    """Return the text tower's pooled outputs of the classes' captions `(classes, width)`."""
    captions = [arguments.class_template.replace("{name}", name) for name in class_rows.names]

    def pool(**inputs) -> torch.Tensor:
        return model.text_model(**inputs).pooler_output

    with on_device(model):
        return encode_texts(model, processor.tokenizer, captions, pool)


def _whiten(
    arguments: AlignmentArguments,
    model: AltCLIPDualEncoderModel,
    pooled_captions: torch.Tensor,
    pooled_classes: torch.Tensor | None,
) -> None:
    """Make the text projection whiten what the text tower pools of captions and classes."""
    pooled = pooled_captions
    if pooled_classes is not None:
        pooled = torch.cat([pooled_captions, pooled_classes])
    give_weights(model.text_projection, fit_whitening(pooled))
    say(arguments, f"The text projection whitens, by the embeddings of {len(pooled):,} texts.")


def _features_of_classes(
    arguments: AlignmentArguments, class_rows: ClassRows, images: CachedColumn, rows: np.ndarray
) -> torch.Tensor:
    """Return the classes as features of images `(classes, width)`."""
    features = _sample(images, rows, arguments.seed)
    mean = features.mean(0)
    spread = (features - mean).square().sum(1).mean().sqrt().item()
    return class_rows.as_features(mean, spread)


class _HeldOut:
    """Pairs of images and captions, each to be mapped by the map that was fitted without its fold.

    Their likelihood is that of CLIP's loss among up to 1,000 pairs; with fewer or more candidates it would be
    another.

    Args:
        groups: `(pairs,)`; pairs of one group are right for one another.
        folds: `(pairs,)`.
    """

    def __init__(
        self, inputs: ColumnRows, targets: ColumnRows, groups: np.ndarray, folds: np.ndarray, seed: int
    ):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(groups))[:_COMPARED])
        self.inputs = ColumnRows(inputs.column, inputs.rows[chosen], inputs.change)[:]
        self.targets = ColumnRows(targets.column, targets.rows[chosen], targets.change)[:].double()
        self.image_ids = torch.from_numpy(groups[chosen])
        self.folds = torch.from_numpy(folds[chosen])

    def losses(self, maps: list[LinearMap], scales: torch.Tensor) -> list[float]:
        """Compute the loss by each scale of the cosines `(scales,)`.

        Args:
            maps: by fold, the one that was fitted without it.
        """
        mapped = torch.empty_like(self.targets)
        for fold, fitted in enumerate(maps):
            in_fold = self.folds == fold
            mapped[in_fold] = fitted(self.inputs[in_fold])
        mapped = normalize(mapped, dim=-1)
        losses = [contrastive_loss(mapped, self.targets, scale, image_ids=self.image_ids) for scale in scales]
        return torch.stack(losses).tolist()


__all__ = ["align_images"]
