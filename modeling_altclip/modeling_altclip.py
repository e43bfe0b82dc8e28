"""AltCLIP: CLIP's image tower with a multilingual text tower (Chen et al., ACL 2023, arXiv 2211.06679).

The towers are transformers' `XLMRobertaModel` and `CLIPVisionModel`. New is the head that maps a text's first
token into the space of CLIP's English text tower (`pre_LN`, then `transformation`). The weights have the
names of transformers' `AltCLIPModel`, in the layout of the released checkpoints
(`text_model.roberta.encoder.layer.N`, `vision_model.encoder.layers.N`), which every transformers release with
AltCLIP loads.
"""

from dataclasses import dataclass
from os import PathLike

import torch
from torch import nn
from transformers import AltCLIPConfig as NativeAltCLIPConfig
from transformers import AltCLIPModel as NativeAltCLIPModel
from transformers import AltCLIPTextModel as NativeAltCLIPTextModel
from transformers import CLIPModel, CLIPVisionModel, PreTrainedModel, XLMRobertaModel  # noqa: F401  (see AltCLIPTextModel)
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, can_return_tuple

from .checkpoint_altclip import (
    AltCLIPPreTrainedModel,
    check_model_type,
    load_whole,
    native_name,
    rename_layers,
)
from .configuration_altclip import AltCLIPConfig, AltCLIPTextConfig
from .pooling_altclip import first_state, positions_of

# Model types that `from_teacher` joins.
TEACHERS = ("clip", "altclip")
TEXT_ENCODERS = ("xlm-roberta", "roberta", "camembert")


@dataclass
class AltCLIPOutput(ModelOutput):
    """Output of `AltCLIPModel`.

    Attributes:
        loss (`torch.FloatTensor`): the contrastive loss within the batch, a scalar, with `return_loss=True`;
            of a model with a `logit_bias` the sigmoid loss.
        logits_per_image (`torch.FloatTensor` of shape `(images, texts)`): scaled cosine similarities, plus
            the bias of a model that has one.
        logits_per_text (`torch.FloatTensor` of shape `(texts, images)`): the same, transposed.
        text_embeds (`torch.FloatTensor` of shape `(texts, projection_dim)`): unit-length embeddings.
        image_embeds (`torch.FloatTensor` of shape `(images, projection_dim)`): unit-length embeddings.
        text_model_output, vision_model_output: the towers' own outputs.
        text_features (`torch.FloatTensor` of shape `(texts, projection_dim)`): the embeddings before they are
            scaled to unit length, which stage 1 compares with a teacher's; only of a dual encoder.

    Example:

    ```python
    >>> from transformers import AutoTokenizer
    >>> from modeling_altclip import AltCLIPModel

    >>> model = AltCLIPModel.from_pretrained("outputs/miniature/altclip")
    >>> tokenizer = AutoTokenizer.from_pretrained("outputs/miniature/altclip")
    >>> output = model(**tokenizer("a dog", return_tensors="pt"))
    >>> output.text_embeds.shape, output.image_embeds
    (torch.Size([1, 128]), None)
    ```
    """

    loss: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None
    text_features: torch.FloatTensor | None = None

    def to_tuple(self) -> tuple:
        """Return all values that are not None, the towers' outputs as tuples too, as transformers does."""
        values = []
        for value in self.values():
            values.append(value.to_tuple() if isinstance(value, ModelOutput) else value)
        return tuple(values)


class AltCLIPTextModel(AltCLIPPreTrainedModel):
    """XLM-R, a layer norm (`pre_LN`) and a linear map (`transformation`) to the teacher's width (paper 3.1).

    `from_pretrained` loads the checkpoint of a text tower or of a whole AltCLIP. Stable Diffusion's pipelines
    take the model as their `text_encoder`: the paper's AltDiffusion is conditioned on `last_hidden_state`
    (paper 5.4). A saved pipeline names transformers' own class, and loads without this package. With
    `normalize_tokens=False` that class would give other embeddings, so this one is named; to load it,
    diffusers looks in its module for a class that it can load, `PreTrainedModel`.

    Example:

    ```python
    >>> from transformers import AutoTokenizer
    >>> from modeling_altclip import AltCLIPTextModel

    >>> tokenizer = AutoTokenizer.from_pretrained("outputs/miniature/altclip")
    >>> model = AltCLIPTextModel.from_pretrained("outputs/miniature/altclip")
    >>> inputs = tokenizer(["a dog", "一只狗"], padding=True, return_tensors="pt")
    >>> model(**inputs).pooler_output.shape
    torch.Size([2, 128])
    ```
    """

    config_class = AltCLIPTextConfig
    base_model_prefix = "roberta"
    input_modalities = ("text",)
    # Spellings of whole models and of transformers 5.6. peft applies the first that matches, transformers
    # all.
    key_mapping = {
        r"^(?:text_model\.)?roberta\.encoder\.layers\.": "roberta.encoder.layer.",
        r"^text_model\.": "",
    }
    _keys_to_ignore_on_load_unexpected = [
        r"position_ids$",
        r"^vision_model\.",
        r"^(?:text|visual)_projection\.",
        r"^logit_scale$",
    ]

    def __init__(self, config: AltCLIPTextConfig):
        super().__init__(config)
        self.roberta = XLMRobertaModel(config, add_pooling_layer=False)
        self.transformation = nn.Linear(config.hidden_size, config.project_dim)
        self.pre_LN = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()
        self.register_load_state_dict_pre_hook(rename_layers)
        if self.native_class is not None:
            # diffusers asks the instance which module to load it from.
            self.__module__ = self.native_class.__module__

    @property
    def native_class(self) -> type | None:
        """Return transformers' own class if it gives the same embeddings, else None."""
        return NativeAltCLIPTextModel if self.config.normalize_tokens else None

    def get_input_embeddings(self) -> nn.Module:
        return self.roberta.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.roberta.set_input_embeddings(value)

    def save_pretrained(
        self,
        save_directory: str | PathLike,
        is_main_process: bool = True,
        state_dict: dict | None = None,
        *args,
        **kwargs,
    ) -> None:
        """Save the tower alone under the names that transformers 5.6 and later read for it.

        A whole model needs no choice: every version reads its names.

        Raises:
            ValueError: `normalize_tokens` was changed after the model was built, and a pipeline may name the
                other class.
        """
        names_native_class = "__module__" in vars(self)
        if names_native_class != (self.native_class is not None):
            given = f"normalize_tokens={self.config.normalize_tokens}"
            raise ValueError(
                f"{given} was set after the model was made, "
                "and a pipeline may name the class that does not heed it: "
                f"make the model anew, with from_pretrained(..., {given})"
            )
        if not self.has_adapter:  # adapters are renamed in get_adapter_state_dict
            weights = state_dict or self.state_dict()
            state_dict = {native_name(name): value for name, value in weights.items()}
        super().save_pretrained(save_directory, is_main_process, state_dict, *args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode `input_ids` of shape `(texts, tokens)`; pass `attention_mask` whenever there is padding.

        `last_hidden_state` is `(texts, tokens, project_dim)`. `pooler_output`, `(texts, project_dim)`, is the
        state of the first token that is not padding: the embedding that stage 1 compares with the teacher's.
        """
        needs_positions = inputs_embeds is not None and position_ids is None
        if needs_positions and attention_mask is not None and attention_mask.ndim == 2:
            # XLM-R finds padding by its token, which embeddings do not show.
            position_ids = positions_of(attention_mask) + self.config.pad_token_id + 1
        outputs = self.roberta(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        # The pooled token always passes `pre_LN`, the others only with `normalize_tokens`.
        normalized = self.transformation(self.pre_LN(outputs.last_hidden_state))
        token_states = normalized
        if not self.config.normalize_tokens:
            token_states = self.final_layer_norm(outputs.last_hidden_state)
        return BaseModelOutputWithPooling(
            last_hidden_state=token_states,
            pooler_output=first_state(normalized, attention_mask),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @property
    def text_model(self) -> "AltCLIPTextModel":
        """Return the model itself: with `clip_skip`, diffusers looks for `text_model.final_layer_norm`."""
        return self

    def final_layer_norm(self, states: torch.Tensor) -> torch.Tensor:
        """Map the states of any of XLM-R's layers as `last_hidden_state` maps those of the last layer.

        Args:
            states: `(texts, tokens, hidden_size)`.
        """
        if self.config.normalize_tokens:
            states = self.pre_LN(states)
        return self.transformation(states)


class AltCLIPModel(AltCLIPPreTrainedModel):
    """A CLIP that reads many languages (Chen et al. 2023, arXiv 2211.06679).

    If this package is imported, `AutoModel` gives this class for AltCLIP's checkpoints. Without it,
    transformers' own class loads the same weights.

    Example:

    ```python
    >>> from PIL import Image
    >>> from transformers import AutoProcessor
    >>> from modeling_altclip import AltCLIPModel

    >>> model = AltCLIPModel.from_pretrained("outputs/miniature/altclip")  # or "BAAI/AltCLIP-m9"
    >>> processor = AutoProcessor.from_pretrained("outputs/miniature/altclip")
    >>> image = Image.new("RGB", (64, 64))
    >>> inputs = processor(text=["a dog", "一只狗"], images=image, return_tensors="pt")
    >>> model(**inputs).logits_per_image.shape
    torch.Size([1, 2])
    ```
    """

    native_class = NativeAltCLIPModel

    def __init__(self, config: AltCLIPConfig | NativeAltCLIPConfig):
        if type(config) is NativeAltCLIPConfig:
            config = AltCLIPConfig.from_native(config)
        super().__init__(config)
        self.text_model = AltCLIPTextModel._from_config(config.text_config)
        self.vision_model = CLIPVisionModel._from_config(config.vision_config)
        self.visual_projection = nn.Linear(
            config.vision_config.hidden_size, config.projection_dim, bias=False
        )
        self.text_projection = nn.Linear(config.text_config.project_dim, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        # A dual encoder may have one. AltCLIP has none: plain transformers would not load it.
        self.register_parameter("logit_bias", None)
        self.post_init()
        self.register_load_state_dict_pre_hook(rename_layers)

    @classmethod
    def from_teacher(
        cls, clip_name_or_path: str, text_encoder_name_or_path: str, *, dropout: float | None = None
    ) -> "AltCLIPModel":
        """Join CLIP's image tower, projections and logit scale with a multilingual encoder (paper 3.1, 4.2).

        The encoder keeps its weights; its head is new and random. For towers of other kinds there is
        `AltCLIPDualEncoderModel.from_towers`.

        Args:
            clip_name_or_path: the teacher, a CLIP; or an AltCLIP, to give its image tower another text tower.
            text_encoder_name_or_path: a checkpoint of XLM-R or of a relative (RoBERTa, CamemBERT), with or
                without a language-model head.
            dropout: the text tower's dropout; by default the encoder's own.

        Raises:
            ValueError: a checkpoint is of another kind, or not whole.
        """
        clip_type = check_model_type(clip_name_or_path, TEACHERS)
        check_model_type(text_encoder_name_or_path, TEXT_ENCODERS)
        clip = load_whole(CLIPModel if clip_type == "clip" else cls, clip_name_or_path)
        encoder = load_whole(XLMRobertaModel, text_encoder_name_or_path, add_pooling_layer=False)

        model = cls(AltCLIPConfig.from_teacher(clip.config, encoder.config, dropout=dropout))
        model.text_model.roberta.load_state_dict(encoder.state_dict())
        model.vision_model.load_state_dict(clip.vision_model.state_dict())
        model.visual_projection.load_state_dict(clip.visual_projection.state_dict())
        model.text_projection.load_state_dict(clip.text_projection.state_dict())
        model.logit_scale.data.copy_(clip.logit_scale)
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            factor = self.config.initializer_factor
            # A dual encoder may have several layers here, or none.
            for layer in (*self.text_projection.modules(), *self.visual_projection.modules()):
                if isinstance(layer, nn.Linear):
                    init.normal_(layer.weight, std=layer.in_features**-0.5 * factor)
            init.constant_(self.logit_scale, self.config.logit_scale_init_value)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode and project texts: `pooler_output` is `(texts, projection_dim)`, not normalised."""
        outputs = self.text_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            return_dict=True,
            **kwargs,
        )
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor | None = None, interpolate_pos_encoding: bool = False, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Encode and project images: `pooler_output` is `(images, projection_dim)`, not normalised."""
        outputs = self.vision_model(
            pixel_values=pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            return_dict=True,
            **kwargs,
        )
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def forward(  # noqa: PLR0913  (the inputs of both towers, by keyword)
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        *,
        text_pooler_output: torch.Tensor | None = None,
        image_pooler_output: torch.Tensor | None = None,
        **kwargs,
    ) -> AltCLIPOutput:
        """Compare every text with every image; without texts or images, that side and the logits are None.

        A side may be given as the pooled output of its tower, which then is only projected: a frozen tower
        has to run once for all steps of a training.

        Args:
            input_ids: `(texts, tokens)`.
            pixel_values: `(images, channels, height, width)`.
            attention_mask: `(texts, tokens)`, 1 for words and 0 for padding.
            return_loss: also return the loss within this batch, where text `i` describes image `i` (across
                processes, train with `training.losses.contrastive_loss`, or `sigmoid_loss` for a model with
                a `logit_bias`).
            text_pooler_output: `text_model(...).pooler_output` of the texts `(texts, width)`, in place of
                `input_ids`.
            image_pooler_output: `vision_model(...).pooler_output` of the images `(images, width)`, in place
                of `pixel_values`.

        Raises:
            ValueError: both sides are missing, or one of them with `return_loss`; or one is given twice.
        """
        texts = {"input_ids": input_ids, "text_pooler_output": text_pooler_output}
        images = {"pixel_values": pixel_values, "image_pooler_output": image_pooler_output}
        _check_sides(texts, images, return_loss)
        image_embeds = text_embeds = text_features = vision_outputs = text_outputs = None
        logits_per_text = logits_per_image = loss = None
        if pixel_values is not None:
            vision_outputs = self.vision_model(
                pixel_values=pixel_values,
                interpolate_pos_encoding=interpolate_pos_encoding,
                return_dict=True,
                **kwargs,
            )
            image_pooler_output = vision_outputs.pooler_output
        if image_pooler_output is not None:
            image_embeds = _unit(self.visual_projection(image_pooler_output))
        if input_ids is not None:
            text_outputs = self.text_model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                position_ids=position_ids,
                return_dict=True,
                **kwargs,
            )
            text_pooler_output = text_outputs.pooler_output
        if text_pooler_output is not None:
            text_features = self.text_projection(text_pooler_output)
            text_embeds = _unit(text_features)
        if image_embeds is not None and text_embeds is not None:
            logits_per_text = self._compare(text_embeds, image_embeds)
            logits_per_image = logits_per_text.t()
        if return_loss:
            of_logits = _contrastive_loss if self.logit_bias is None else _sigmoid_loss
            loss = of_logits(logits_per_text)
        return AltCLIPOutput(
            loss=loss,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
            # transformers' AltCLIP has no such output.
            text_features=text_features if self.native_class is None else None,
        )

    def _compare(self, text_embeds: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """Return the logits `(texts, images)` of unit embeddings."""
        device = text_embeds.device  # the towers may be on two
        scale = self.logit_scale.exp().to(device)
        logits = text_embeds @ image_embeds.t().to(device) * scale
        return logits if self.logit_bias is None else logits + self.logit_bias.to(device)


def _check_sides(
    texts: dict[str, torch.Tensor | None], images: dict[str, torch.Tensor | None], return_loss: bool | None
) -> None:
    """Refuse a forward without texts and images, or without one of them if it has to return the loss.

    Args:
        texts, images: the forms in which a side may be given, by name, the usual one first; None where it is
            not.

    Raises:
        ValueError: too little is given, and the message names what is missing; or a side is given in two
            forms.
    """
    missing = []
    for side in (texts, images):
        given = [name for name, value in side.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given: give one of them")
        if not given:
            missing.append(next(iter(side)))
    n_allowed = 0 if return_loss else 1
    if len(missing) > n_allowed:
        raise ValueError(f"{' and '.join(missing)} missing: give texts, images or both, and both for a loss")


def _contrastive_loss(logits_per_text: torch.Tensor) -> torch.Tensor:
    """Average the cross-entropy over rows and columns of `(texts, images)`; the pairs are on the diagonal."""
    pairs = torch.arange(len(logits_per_text), device=logits_per_text.device)
    text_loss = nn.functional.cross_entropy(logits_per_text, pairs)
    image_loss = nn.functional.cross_entropy(logits_per_text.t(), pairs)
    return (text_loss + image_loss) / 2


def _sigmoid_loss(logits_per_text: torch.Tensor) -> torch.Tensor:
    """Return SigLIP's loss of `(texts, images)`: the sum over all pairs, divided by the number of texts.

    Each pair is right or wrong by itself; right ones are on the diagonal (Zhai et al. 2023, arXiv
    2303.15343).
    """
    labels = torch.eye(len(logits_per_text), dtype=logits_per_text.dtype, device=logits_per_text.device)
    of_pairs = nn.functional.binary_cross_entropy_with_logits(logits_per_text, labels, reduction="sum")
    return of_pairs / len(logits_per_text)


def _unit(embeddings: torch.Tensor) -> torch.Tensor:
    """Scale embeddings to length 1.

    The steps are transformers' own: with them, outputs and gradients equal its AltCLIP's bit for bit.
    """
    if embeddings.dtype == torch.float16 and not torch.is_autocast_enabled():
        # The square of more than 256 is infinite in float16, and the embedding would become zeros. Autocast
        # takes squares in float32 by itself.
        return _unit(embeddings.float()).half()
    return embeddings / embeddings.pow(2).sum(dim=-1, keepdim=True).pow(0.5)


__all__ = ["AltCLIPModel", "AltCLIPOutput", "AltCLIPTextModel"]
