"""Load models of open_clip.

open_clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k      a name and a tag of `open_clip.list_pretrained()`
open_clip:ViT-B-32/model.pt                                a name and a file of weights
open_clip:hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K     a Hub id with an open_clip_config.json
open_clip:outputs/my_model                                 a folder of that form
"""

from importlib.metadata import version
from pathlib import Path

import open_clip
import torch
from open_clip.hf_model import HFTextEncoder
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from xxhash import xxh3_128

from ..errors import InputError
from .adapter import AdaptedImageProcessor, AdaptedModel, AdaptedProcessor, AdaptedTokenizer

# Files of a folder that have its configuration, its tokenizer and the tokenizer's vocabulary.
_SETTINGS = (".json", ".model", ".txt")


class _OpenClipConfig(PreTrainedConfig):
    """A configuration that states its model type alone."""

    model_type = "open_clip"


class _OpenClipModel(AdaptedModel):
    """An open_clip model, whose tokenizers pad texts to its full length."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.config = _OpenClipConfig()
        self.model = model
        # Of open_clip's text towers only this one masks padding. The others attend to it, or have positions
        # for the full length alone.
        text_tower = dict(model.named_children()).get("text")
        self.padding = text_tower.config.pad_token_id if isinstance(text_tower, HFTextEncoder) else None

    def get_text_features(self, input_ids: torch.Tensor) -> BaseModelOutputWithPooling:
        """Return embeddings `(batch, dim)` in `pooler_output`; padding that would be masked is cut off."""
        if self.padding is not None:
            # Drop the columns on the right that are padding in all texts.
            has_words = (input_ids != self.padding).any(dim=0)
            n_tokens = has_words.nonzero().max() + 1
            input_ids = input_ids[:, :n_tokens]
        return BaseModelOutputWithPooling(pooler_output=self.model.encode_text(input_ids))

    def get_image_features(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """Return embeddings `(batch, dim)` in `pooler_output`."""
        return BaseModelOutputWithPooling(pooler_output=self.model.encode_image(pixel_values))


def load(name: str) -> tuple[AdaptedModel, AdaptedProcessor]:
    """Load `NAME/PRETRAINED`, `hf-hub:ID` or a folder, in float32 with its transforms for evaluation.

    Raises:
        InputError: no weights are named.
    """
    if name.startswith("hf-hub:"):
        model_name, pretrained = name, None
    elif Path(name).is_dir():
        model_name, pretrained = f"local-dir:{name}", None
    else:
        model_name, _, pretrained = name.partition("/")
        if not pretrained:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "a file"
            raise InputError(f"it names no weights: add them, as in open_clip:{name}/TAG; there are {tags}")

    model, prepare = open_clip.create_model_from_pretrained(model_name, pretrained, precision="fp32")
    tokenize = open_clip.get_tokenizer(model_name)

    def prepare_texts(texts: list[str]) -> dict:
        return {"input_ids": tokenize(texts)}

    def prepare_images(images: list) -> dict:
        return {"pixel_values": torch.stack([prepare(image) for image in images])}

    tokenizer = AdaptedTokenizer(prepare_texts, tokenize.context_length, _describe(name))
    image_processor = AdaptedImageProcessor(prepare_images)
    return _OpenClipModel(model), AdaptedProcessor(tokenizer, image_processor)


def _describe(name: str) -> str:
    """Return all that an embedding of a text depends on beside the weights.

    The library's version defines the models that it names; a folder has files of its own.
    """
    described = [version("open_clip_torch")]
    folder = Path(name)
    if not folder.is_dir():
        return " ".join([*described, name])
    for path in sorted(folder.rglob("*")):
        if path.suffix in _SETTINGS:
            described.append(f"{path.relative_to(folder)} {xxh3_128(path.read_bytes()).hexdigest()}")
    return " ".join(described)
