"""Zero-shot image classification that encodes its labels once.

transformers' pipeline encodes every label again for every image: 64 images and 100 labels are 6,400 texts. Here they are 100.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import normalize
from transformers import ZeroShotImageClassificationPipeline

from .embedding import encode_texts, mean_of_prompts
from .images_altclip import background_of, needed_scaling, read_images
from .modeling_altclip import AltCLIPModel
from .prompts_altclip import fill_template, read_templates
from .texts_altclip import check_texts, text_length
from .threads_altclip import lock_of_threads

KEPT_LABEL_SETS = 32
KEEPING = lock_of_threads()  # threads may share a pipeline


class AltCLIPZeroShotPipeline(ZeroShotImageClassificationPipeline):
    """What `pipeline("zero-shot-image-classification")` gives for AltCLIP models; other models get transformers' own class.

    Scores equal transformers'. Texts are cut at the model's text length, and images may be whatever
    `read_image` reads, on the image processor's background where they are transparent.
    """

    def __new__(cls, *args, model=None, **kwargs):
        if model is not None and not isinstance(model, AltCLIPModel):
            return ZeroShotImageClassificationPipeline(*args, model=model, **kwargs)
        return super().__new__(cls)

    def __init__(self, *, hypothesis_template: str | list[str] = "This is a photo of {}.", **kwargs):
        self.hypothesis_template = hypothesis_template
        self.label_embeds, self.writes, self.sums = {}, None, None
        super().__init__(**kwargs)

    def __call__(
        self, image, candidate_labels: list[str], hypothesis_template: str | list[str] | None = None, **kwargs
    ):
        """Rank `candidate_labels` for an image, or for each of a list, generator or dataset.

        Args:
            hypothesis_template: a sentence with `{}` in it; a list of sentences, whose vectors are normalised, averaged and
                normalised again (CLIP, section 3.1.4); or the code of a language we have sentences in (`prompts_altclip.py`).
            top_k: give only the best so many labels.
            tokenizer_kwargs: how prompts are padded and cut, where not to the longest and at the model's text length.
            batch_size, num_workers, timeout: as for every pipeline.

        Returns:
            `[{"score": probability, "label": label}, …]`, best first, for each image. A generator or dataset is read, and
            answered, one by one.

        Raises:
            ValueError: a label, template or image cannot be used; the message gives the index.
        """
        labels = [candidate_labels] if isinstance(candidate_labels, str) else list(candidate_labels)
        check_texts(labels, "candidate_labels")
        templates = read_templates(
            self.hypothesis_template if hypothesis_template is None else hypothesis_template
        )
        if isinstance(image, list) and not image:
            raise ValueError("images is empty: give at least one image")
        if isinstance(image, list):
            image = list(enumerate(image))
        elif isinstance(image, Sequence | Iterator) and not isinstance(image, str):
            image = (pair for pair in enumerate(image))  # a column of `datasets`, say
        self.forget_if_changed(thoroughly=True)
        return super().__call__(image, labels, templates=templates, **kwargs)

    def _sanitize_parameters(
        self, candidate_labels=None, templates=None, top_k=None, timeout=None, tokenizer_kwargs=None
    ):
        def given(**parameters) -> dict:
            return {name: value for name, value in parameters.items() if value is not None}

        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}: ask for one label at least")
        texts = given(
            candidate_labels=candidate_labels, templates=templates, tokenizer_kwargs=tokenizer_kwargs
        )
        return given(timeout=timeout), texts, given(candidate_labels=candidate_labels, top_k=top_k)

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
        image_embeds = normalize(self.model.get_image_features(**model_inputs).pooler_output.float(), dim=-1)
        return {"logits": self.model.logit_scale.exp() * image_embeds @ text_embeds.t()}

    def postprocess(self, model_outputs, candidate_labels: list[str], top_k: int | None = None) -> list[dict]:
        scores = model_outputs["logits"][0].softmax(dim=-1).tolist()
        ranked = sorted(zip(scores, candidate_labels), key=lambda pair: -pair[0])
        return [{"score": score, "label": label} for score, label in ranked[:top_k]]

    def embed_labels(
        self, labels: tuple[str, ...], templates: tuple[str, ...], tokenizer_kwargs: dict
    ) -> torch.Tensor:
        """One unit vector a label, shape `(labels, projection_dim)`, kept until something changes that a text passes."""
        tokenizer = self.tokenizer
        key = labels, templates, repr(tokenizer_kwargs), id(tokenizer), len(tokenizer), text_length(tokenizer)
        kept = self.label_embeds.get(key)
        if kept is not None:
            return kept

        def forward(**inputs) -> torch.Tensor:
            return self.model.get_text_features(**inputs).pooler_output

        prompts = [fill_template(template, label) for label in labels for template in templates]
        vectors = encode_texts(self.model, tokenizer, prompts, forward, **tokenizer_kwargs)
        embeds = mean_of_prompts(vectors, len(labels)).to(self.device)
        with KEEPING:
            if len(self.label_embeds) >= KEPT_LABEL_SETS:
                self.label_embeds.pop(next(iter(self.label_embeds)))
            self.label_embeds[key] = embeds
        return embeds

    def forget_if_changed(self, thoroughly: bool = False) -> None:
        """Drop all labels if the model trains, or if anything has changed that a text passes.

        Cheap marks of a change are looked at before every forward, and `thoroughly`, at every call, the weights themselves.
        """
        writes = writes_to_texts(self.model)
        sums = sums_of_weights(self.model) if thoroughly or writes != self.writes else self.sums
        if self.model.training or sums is None or (writes, sums) != (self.writes, self.sums):
            with KEEPING:
                self.label_embeds.clear()
        self.writes, self.sums = writes, sums


def writes_to_texts(model: AltCLIPModel) -> list:
    """Marks that change with the weights and modules that a text passes: torch's counts of writes, hooks, active adapters.

    A count of writes does not see those through `.data`.
    """
    marks = []
    for module in (*model.text_model.modules(), model.text_projection):
        state = vars(module)
        marks.append((id(module), *module._forward_hooks, *module._forward_pre_hooks))
        marks.append(
            (repr(state.get("_active_adapter")), state.get("_disable_adapters"))
        )  # peft's layers have these
        weights = module.parameters(recurse=False)
        marks += [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights]
    return marks


def sums_of_weights(model: AltCLIPModel) -> list[float] | None:
    """A sum of every weight that a text passes; None where they cannot be looked at, being on a disk.

    Reading them takes a core a tenth of a second for each GB in float32 (measured), little beside an image's own cost.
    """
    weights = [*model.text_model.parameters(), *model.text_projection.parameters()]
    if any(weight.is_meta for weight in weights):
        return None
    with torch.no_grad():
        return torch.stack([uneven_sum(weight).to(model.device) for weight in weights]).tolist()


def uneven_sum(weight: torch.Tensor) -> torch.Tensor:
    """A sum in which every row and column has a factor of its own, so that values which change places are seen."""
    weight = weight if weight.ndim > 1 else weight[None]
    rows, columns = (
        torch.arange(1, size + 1, device=weight.device).sqrt() for size in (len(weight), weight[0].numel())
    )
    return (weight.flatten(1) @ columns.to(weight.dtype)).float() @ rows


__all__ = ["AltCLIPZeroShotPipeline"]
