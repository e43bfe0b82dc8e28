"""Zero-shot image classification that encodes its labels once.

transformers' pipeline encodes every label again for every image: 64 images and 100 labels are 6,400 texts. Here they are 100.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import normalize
from transformers import ZeroShotImageClassificationPipeline

from .embedding import encode_texts
from .modeling_altclip import AltCLIPModel
from .processing_altclip import check_texts, read_image
from .prompts_altclip import read_templates

KEPT_LABEL_SETS = 32


class AltCLIPZeroShotPipeline(ZeroShotImageClassificationPipeline):
    """What `pipeline("zero-shot-image-classification")` gives for AltCLIP models; other models get transformers' own class.

    Scores equal transformers'. Texts are cut at the model's text length, and images may be whatever `read_image` reads.
    """

    def __new__(cls, *args, model=None, **kwargs):
        if model is not None and not isinstance(model, AltCLIPModel):
            return ZeroShotImageClassificationPipeline(*args, model=model, **kwargs)
        return super().__new__(cls)

    def __init__(self, *, hypothesis_template: str | list[str] = "This is a photo of {}.", **kwargs):
        self.hypothesis_template = hypothesis_template
        self.label_embeds, self.label_weights = {}, None
        super().__init__(**kwargs)

    def __call__(self, image, candidate_labels: list[str], hypothesis_template: str | list[str] | None = None, **kwargs):
        """Rank `candidate_labels` for an image, or for each of a list, generator or dataset.

        Args:
            hypothesis_template: a sentence with `{}` in it; a list of sentences, whose vectors are normalised, averaged and
                normalised again (CLIP, section 3.1.4); or the code of a language we have sentences in (`prompts_altclip.py`).
            top_k: give only the best so many labels.
            batch_size, num_workers, timeout: as for every pipeline.

        Returns:
            `[{"score": probability, "label": label}, …]`, best first, for each image. A generator or dataset is read, and
            answered, one by one.
        """
        labels = [candidate_labels] if isinstance(candidate_labels, str) else list(candidate_labels)
        templates = read_templates(self.hypothesis_template if hypothesis_template is None else hypothesis_template)
        text_embeds = self.embed_labels(labels, templates)
        if isinstance(image, Sequence) and not isinstance(image, str | list):
            image = (one for one in image)  # a column of `datasets`
        if isinstance(image, list) and not image:
            raise ValueError("images is empty: give at least one image")
        return super().__call__(image, labels, text_embeds=text_embeds, **kwargs)

    def _sanitize_parameters(self, candidate_labels=None, text_embeds=None, top_k=None, timeout=None):
        def given(**parameters) -> dict:
            return {name: value for name, value in parameters.items() if value is not None}

        return given(timeout=timeout), given(text_embeds=text_embeds), given(candidate_labels=candidate_labels, top_k=top_k)

    def embed_labels(self, labels: list[str], templates: tuple[str, ...]) -> torch.Tensor:
        """One unit vector a label, shape `(labels, projection_dim)`, kept until the text tower changes."""
        check_texts(labels, "candidate_labels")
        weights = None if self.model.training else weights_of_texts(self.model)
        if weights is None or weights != self.label_weights:
            self.label_embeds.clear()
        self.label_weights = weights
        key = (tuple(labels), templates, id(self.tokenizer))
        if key not in self.label_embeds:
            if len(self.label_embeds) == KEPT_LABEL_SETS:
                self.label_embeds.pop(next(iter(self.label_embeds)))
            prompts = [template.format(label) for label in labels for template in templates]
            self.label_embeds[key] = self._embed_prompts(prompts, len(templates))
        return self.label_embeds[key]

    def _embed_prompts(self, prompts: list[str], n_templates: int) -> torch.Tensor:
        def forward(**inputs) -> torch.Tensor:
            return self.model.get_text_features(**inputs).pooler_output

        vectors = normalize(encode_texts(self.model, self.tokenizer, prompts, forward), dim=-1)
        return normalize(vectors.view(-1, n_templates, vectors.shape[-1]).mean(dim=1), dim=-1).to(self.device)

    def preprocess(self, image, timeout: float | None = None) -> dict[str, torch.Tensor]:
        return self.image_processor(images=[read_image(image, timeout)], return_tensors="pt").to(self.dtype)

    def _forward(self, model_inputs, text_embeds: torch.Tensor) -> dict[str, torch.Tensor]:
        image_embeds = normalize(self.model.get_image_features(**model_inputs).pooler_output.float(), dim=-1)
        return {"logits": self.model.logit_scale.exp() * image_embeds @ text_embeds.t()}

    def postprocess(self, model_outputs, candidate_labels: list[str], top_k: int | None = None) -> list[dict]:
        scores = model_outputs["logits"][0].softmax(dim=-1).tolist()
        ranked = sorted(zip(scores, candidate_labels), key=lambda pair: -pair[0])
        return [{"score": score, "label": label} for score, label in ranked[:top_k]]


def weights_of_texts(model: AltCLIPModel) -> tuple | None:
    """A value that changes with any weight that a text passes; None where they cannot be looked at (offloaded to a disk).

    torch counts the writes to a tensor, but not those through `.data`: their sums are looked at beside the counts. Reading
    all weights takes 7 ms of one core per 80 MB (measured), a small part of an image's own cost.
    """
    parameters = [*model.text_model.parameters(), *model.text_projection.parameters()]
    if any(parameter.is_meta for parameter in parameters):
        return None
    with torch.no_grad():
        sums = torch.stack([ramp_sum(parameter).to(model.device) for parameter in parameters]).tolist()
    return *sums, *((parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version) for parameter in parameters)


def ramp_sum(values: torch.Tensor) -> torch.Tensor:
    """A sum in which every row has a weight of its own, so that rows that change places are seen."""
    rows = values.flatten(1).sum(dim=1, dtype=torch.float32) if values.dim() > 1 else values.float()
    return rows @ torch.linspace(1, 2, len(rows), device=values.device)


__all__ = ["AltCLIPZeroShotPipeline"]
