"""Zero-shot image classification that encodes its labels once.

transformers' pipeline encodes every label again for every image: 64 images and 100 labels make 6,400 texts.
Here they make 100.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.nn.functional import normalize
from transformers import ZeroShotImageClassificationPipeline

from .embedding import encode_texts, mean_of_prompts
from .finite_altclip import check_finite
from .images_altclip import background_of, needed_scaling, read_images
from .modeling_altclip import AltCLIPModel
from .prompts_altclip import fill_template, read_templates
from .texts_altclip import check_texts, text_length
from .threads_altclip import lock_of_threads

_KEPT_LABEL_SETS = 32
_IMAGES_AT_ONCE = 16  # of a list: one by one takes a CPU a third more time (measured)
_KEEPING = lock_of_threads()  # threads may share a pipeline


class AltCLIPZeroShotPipeline(ZeroShotImageClassificationPipeline):
    """AltCLIP's class of `pipeline("zero-shot-image-classification")`; other models get transformers' own.

    Scores equal transformers'. They add up to 1, but for a dual encoder of the sigmoid loss, with a
    `logit_bias`, each is the probability of its label alone, as for SigLIP. Texts are truncated at the
    model's text length. Images may be anything that `read_image` reads, and transparent ones are composited
    on the image processor's background.

    Raises:
        ValueError: a weight of the model is NaN or infinite.

    Example:

    ```python
    >>> from PIL import Image
    >>> from transformers import pipeline
    >>> import modeling_altclip  # the pipeline of AltCLIP is then this class

    >>> classify = pipeline("zero-shot-image-classification", model="outputs/miniature/altclip")
    >>> scores = classify(Image.new("RGB", (64, 64)), ["红苹果", "钥匙"], hypothesis_template="zh")
    >>> sorted(score["label"] for score in scores)
    ['红苹果', '钥匙']
    ```
    """

    def __new__(cls, *args, model=None, **kwargs):
        if model is not None and not isinstance(model, AltCLIPModel):
            return ZeroShotImageClassificationPipeline(*args, model=model, **kwargs)
        return super().__new__(cls)

    def __init__(self, *, hypothesis_template: str | list[str] = "This is a photo of {}.", **kwargs):
        self.hypothesis_template = hypothesis_template
        # The cache of label embeddings, and the state of the weights and modules that it was filled with.
        self.label_embeds = {}
        self.writes = None
        self.sums = None
        super().__init__(**kwargs)
        # Loading looks at small weights alone, and a model may be given that was never loaded.
        check_finite(self.model.named_parameters(), self.model.name_or_path or type(self.model).__name__)

    def __call__(
        self, image, candidate_labels: list[str], hypothesis_template: str | list[str] | None = None, **kwargs
    ):
        """Rank `candidate_labels` for an image, or for each of a list, generator or dataset.

        Args:
            hypothesis_template: a prompt template with `{}` in it; a list of templates, whose embeddings are
                normalised, averaged and normalised again (CLIP, section 3.1.4); or the code of a language
                that has templates in `prompts_altclip.py`.
            top_k: return only the best so many labels.
            tokenizer_kwargs: how prompts are padded and truncated, if not to the longest prompt and at the
                model's text length.
            batch_size: images at once, by default 16 of a list, and one of all else, whose results may be
                waited for.
            num_workers, timeout: as for every pipeline.

        Returns:
            `[{"score": probability, "label": label}, …]`, best first, for each image. A generator or dataset
            is read, and its results returned, one by one.

        Raises:
            ValueError: a label, template or image cannot be used; the message gives the index.
        """
        if not isinstance(candidate_labels, Iterable):
            raise ValueError(f"candidate_labels is {candidate_labels!r}: give a list of names")
        labels = [candidate_labels] if isinstance(candidate_labels, str) else list(candidate_labels)
        check_texts(labels, "candidate_labels")
        if hypothesis_template is None:
            hypothesis_template = self.hypothesis_template
        templates = read_templates(hypothesis_template)

        if isinstance(image, list) and not image:
            raise ValueError("images is empty: give at least one image")
        # Each image travels with its index, which errors name: [a, b] -> [(0, a), (1, b)]
        if isinstance(image, list):
            image = list(enumerate(image))
            kwargs.setdefault("batch_size", self._batch_size or _IMAGES_AT_ONCE)
        elif isinstance(image, Sequence | Iterator) and not isinstance(image, str):
            image = (pair for pair in enumerate(image))  # a column of `datasets`, say

        self.forget_if_changed(thoroughly=True)
        return super().__call__(image, labels, templates=templates, **kwargs)

    def _sanitize_parameters(
        self, candidate_labels=None, templates=None, top_k=None, timeout=None, tokenizer_kwargs=None
    ):
        """Sort the parameters of a call into those of `preprocess`, `_forward` and `postprocess`."""

        def given(**parameters) -> dict:
            return {name: value for name, value in parameters.items() if value is not None}

        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}: ask for one label at least")
        for_images = given(timeout=timeout)
        for_texts = given(
            candidate_labels=candidate_labels, templates=templates, tokenizer_kwargs=tokenizer_kwargs
        )
        for_scores = given(candidate_labels=candidate_labels, top_k=top_k)
        return for_images, for_texts, for_scores

    def preprocess(self, image, timeout: float | None = None) -> dict[str, torch.Tensor]:
        index, image = image if isinstance(image, tuple) else (0, image)
        needed = needed_scaling(self.image_processor, [image])
        images = read_images([image], [index], timeout, background_of(self.image_processor))
        return self.image_processor(images=images, return_tensors="pt", **needed).to(self.dtype)

    def _forward(
        self, model_inputs, candidate_labels, templates, tokenizer_kwargs=None
    ) -> dict[str, torch.Tensor]:
        self.forget_if_changed()
        text_embeds = self.embed_labels(tuple(candidate_labels), templates, tokenizer_kwargs or {})
        image_features = self.model.get_image_features(**model_inputs).pooler_output
        image_embeds = normalize(image_features.float(), dim=-1)
        logits = self.model.logit_scale.exp() * image_embeds @ text_embeds.t()
        if self.model.logit_bias is not None:
            logits = logits + self.model.logit_bias
        return {"logits": logits}

    def postprocess(self, model_outputs, candidate_labels: list[str], top_k: int | None = None) -> list[dict]:
        logits = model_outputs["logits"][0]
        # Weights were finite when the pipeline was built; they may have changed, or overflow in a layer.
        if not logits.isfinite().all():
            raise ValueError(
                "the model's scores are NaN or infinite: its weights are, or its layers overflow in "
                f"{self.model.dtype}. Load an earlier checkpoint, or load it in float32"
            )
        # Scores are those that the model was trained for: labels compete, or each is right or wrong by
        # itself.
        is_sigmoid = self.model.logit_bias is not None
        scores = logits.sigmoid() if is_sigmoid else logits.softmax(dim=-1)
        ranked = sorted(zip(scores.tolist(), candidate_labels), key=lambda pair: -pair[0])
        return [{"score": score, "label": label} for score, label in ranked[:top_k]]

    def embed_labels(
        self, labels: tuple[str, ...], templates: tuple[str, ...], tokenizer_kwargs: dict
    ) -> torch.Tensor:
        """Return one unit embedding for each label `(labels, projection_dim)`, from the cache if it is there.

        The cache is keyed by everything that changes the tokens of the prompts.
        """
        tokenizer = self.tokenizer
        key = (
            labels,
            templates,
            repr(tokenizer_kwargs),
            id(tokenizer),
            len(tokenizer),
            text_length(tokenizer),
        )
        cached = self.label_embeds.get(key)
        if cached is not None:
            return cached

        def forward(**inputs) -> torch.Tensor:
            return self.model.get_text_features(**inputs).pooler_output

        prompts = [fill_template(template, label) for label in labels for template in templates]
        embeddings = encode_texts(self.model, tokenizer, prompts, forward, **tokenizer_kwargs)
        label_embeds = mean_of_prompts(embeddings, len(labels)).to(self.device)
        with _KEEPING:
            if len(self.label_embeds) >= _KEPT_LABEL_SETS:
                oldest = next(iter(self.label_embeds))
                self.label_embeds.pop(oldest)
            self.label_embeds[key] = label_embeds
        return label_embeds

    def forget_if_changed(self, thoroughly: bool = False) -> None:
        """Empty the cache if the model trains, or if any weight or module of the text side has changed.

        Args:
            thoroughly: compare the weights themselves, as every call does. Before a forward it is enough to
                compare cheap marks of a change.
        """
        writes = _writes_to_texts(self.model)
        sums = self.sums
        if thoroughly or writes != self.writes:
            sums = _sums_of_weights(self.model)

        has_changed = (writes, sums) != (self.writes, self.sums)
        if self.model.training or sums is None or has_changed:
            with _KEEPING:
                self.label_embeds.clear()
        self.writes, self.sums = writes, sums


def _writes_to_texts(model: AltCLIPModel) -> list:
    """Collect marks that change with the weights and modules that a text passes.

    They are torch's counts of writes, hooks, and active adapters. A count does not see writes through
    `.data`.
    """
    marks = []
    for module in (*model.text_model.modules(), *model.text_projection.modules()):
        marks.append((id(module), *module._forward_hooks, *module._forward_pre_hooks))
        # Only peft's layers have these two.
        state = vars(module)
        marks.append((repr(state.get("_active_adapter")), state.get("_disable_adapters")))
        for weight in module.parameters(recurse=False):
            # Tensors made in inference mode do not count writes.
            n_writes = 0 if weight.is_inference() else weight._version
            marks.append((weight.data_ptr(), n_writes))
    return marks


def _sums_of_weights(model: AltCLIPModel) -> list[float] | None:
    """Sum every weight that a text passes; return None if they cannot be read because they are on disk.

    Reading them takes one core a tenth of a second for each GB in float32 (measured), little beside an
    image's own cost.
    """
    weights = [*model.text_model.parameters(), *model.text_projection.parameters()]
    if any(weight.is_meta for weight in weights):
        return None
    with torch.no_grad():
        sums = [_uneven_sum(weight).to(model.device) for weight in weights]
        return torch.stack(sums).tolist()


def _uneven_sum(weight: torch.Tensor) -> torch.Tensor:
    """Sum a weight with a factor for each row and column, so that values which swap places change it."""
    if weight.ndim <= 1:
        weight = weight[None]
    matrix = weight.flatten(1)
    n_rows, n_columns = matrix.shape
    row_factors = torch.arange(1, n_rows + 1, device=weight.device).sqrt()
    column_factors = torch.arange(1, n_columns + 1, device=weight.device).sqrt()
    return (matrix @ column_factors.to(weight.dtype)).float() @ row_factors


__all__ = ["AltCLIPZeroShotPipeline"]
