"""AltCLIP: CLIP's image tower beside a multilingual text tower (Chen et al., ACL Findings 2023, arXiv 2211.06679).

The towers are transformers' `XLMRobertaModel` and `CLIPVisionModel`; what is new is the head that maps a sentence's first
token into the space of CLIP's English text tower (`pre_LN`, then `transformation`). Weight names are those of
transformers' `AltCLIPModel`, in the layout of the released checkpoints (`text_model.roberta.encoder.layer.N`,
`vision_model.encoder.layers.N`), which every transformers release with AltCLIP loads.
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

TEACHERS, TEXT_ENCODERS = (
    ("clip", "altclip"),
    ("xlm-roberta", "roberta", "camembert"),
)  # model types that `from_teacher` joins


@dataclass
class AltCLIPOutput(ModelOutput):
    """What `AltCLIPModel` returns.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, when `return_loss=True`): the contrastive loss within the batch.
        logits_per_image (`torch.FloatTensor` of shape `(images, texts)`): scaled cosines.
        logits_per_text (`torch.FloatTensor` of shape `(texts, images)`): the same, transposed.
        text_embeds (`torch.FloatTensor` of shape `(texts, projection_dim)`): unit vectors.
        image_embeds (`torch.FloatTensor` of shape `(images, projection_dim)`): unit vectors.
        text_model_output, vision_model_output: the towers' own outputs.
    """

    loss: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple:
        """All that is there, the towers' outputs as tuples too, as transformers gives it."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


class AltCLIPTextModel(AltCLIPPreTrainedModel):
    """XLM-R, a layer norm (`pre_LN`) and a linear map (`transformation`) to the teacher's width, in that order (paper 3.1).

    `from_pretrained` takes the checkpoint of a text tower or of a whole AltCLIP. Stable Diffusion's pipelines take the model
    as their `text_encoder`: `last_hidden_state` is what the paper's AltDiffusion draws from (paper 5.4). A saved pipeline names
    transformers' own class, and is loaded without this package. With `normalize_tokens=False` that class would give other
    vectors, so this one is named; to load it, diffusers looks beside it for a class that it knows how to load, `PreTrainedModel`.
    """

    config_class = AltCLIPTextConfig
    base_model_prefix = "roberta"
    input_modalities = ("text",)
    # peft takes the first that matches, transformers all that do.
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
            self.__module__ = (
                self.native_class.__module__
            )  # diffusers asks the instance where to load it from

    @property
    def native_class(self) -> type | None:
        """transformers' own class, where it gives the same vectors."""
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
        """Save the tower alone under the names that transformers 5.6 and later read for it; a whole model needs no such choice.

        Raises:
            ValueError: `normalize_tokens` was changed after the model was made, and a pipeline may name the other class.
        """
        if (self.native_class is None) == ("__module__" in vars(self)):
            given = f"normalize_tokens={self.config.normalize_tokens}"
            raise ValueError(
                f"{given} was set after the model was made, and a pipeline may name the class that does not heed it: "
                f"make the model anew, with from_pretrained(..., {given})"
            )
        if not self.has_adapter:  # adapters alone have their own way
            state_dict = {
                native_name(name): value for name, value in (state_dict or self.state_dict()).items()
            }
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

        `last_hidden_state` is `(texts, tokens, project_dim)`. `pooler_output`, `(texts, project_dim)`, is made of the first
        token that is not padding: the vector that stage 1 compares with the teacher's.
        """
        if (
            inputs_embeds is not None
            and position_ids is None
            and attention_mask is not None
            and attention_mask.ndim == 2
        ):
            # By tokens XLM-R leaves padding out, which embeddings do not tell.
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
        normalized = self.transformation(self.pre_LN(outputs.last_hidden_state))
        return BaseModelOutputWithPooling(
            last_hidden_state=normalized
            if self.config.normalize_tokens
            else self.final_layer_norm(outputs.last_hidden_state),
            pooler_output=first_state(normalized, attention_mask),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @property
    def text_model(self) -> "AltCLIPTextModel":
        """The model itself: with `clip_skip`, diffusers' pipelines look for `text_model.final_layer_norm`."""
        return self

    def final_layer_norm(self, states: torch.Tensor) -> torch.Tensor:
        """Map states of any of XLM-R's layers, `(texts, tokens, hidden_size)`, as `last_hidden_state` is made of the last one's."""
        return self.transformation(self.pre_LN(states) if self.config.normalize_tokens else states)


class AltCLIPModel(AltCLIPPreTrainedModel):
    """A CLIP that reads many languages.

    Example:

    ```python
    >>> from transformers import AutoModel, AutoProcessor
    >>> import modeling_altclip  # AutoModel then gives this class; without it, transformers' own loads the same weights

    >>> model = AutoModel.from_pretrained("BAAI/AltCLIP-m9")
    >>> processor = AutoProcessor.from_pretrained("BAAI/AltCLIP-m9")
    >>> modeling_altclip.embed_texts(model, processor, ["a dog", "一只狗"]).shape
    torch.Size([2, 768])
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
        self.post_init()
        self.register_load_state_dict_pre_hook(rename_layers)

    @classmethod
    def from_teacher(
        cls, clip_name_or_path: str, text_encoder_name_or_path: str, *, dropout: float | None = None
    ) -> "AltCLIPModel":
        """Put CLIP's image tower, both projections and logit scale beside a multilingual encoder (paper 3.1 and 4.2).

        The encoder keeps its weights; its head is new and starts random. For towers of other kinds there is
        `AltCLIPDualEncoderModel.from_towers`.

        Args:
            clip_name_or_path: the teacher, a CLIP; or an AltCLIP, to give its image tower another text tower.
            text_encoder_name_or_path: a checkpoint of XLM-R or of its kin (RoBERTa, CamemBERT), with or without a
                language-model head.
            dropout: of the text tower; the encoder's own by default.

        Raises:
            ValueError: a checkpoint is of another kind, or not whole.
        """
        clip_type = check_model_type(clip_name_or_path, TEACHERS)
        check_model_type(text_encoder_name_or_path, TEXT_ENCODERS)
        clip = load_whole(CLIPModel if clip_type == "clip" else cls, clip_name_or_path)
        encoder = load_whole(XLMRobertaModel, text_encoder_name_or_path, add_pooling_layer=False)
        config = AltCLIPConfig.from_teacher(clip.config, encoder.config, dropout=dropout)
        model = cls(config)
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
            init.normal_(self.text_projection.weight, std=self.text_projection.in_features**-0.5 * factor)
            init.normal_(self.visual_projection.weight, std=self.visual_projection.in_features**-0.5 * factor)
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
        """Text tower and projection: `pooler_output` is `(texts, projection_dim)`, not normalised, as in transformers 5."""
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
        """Image tower and projection: `pooler_output` is `(images, projection_dim)`, not normalised, as in transformers 5."""
        outputs = self.vision_model(
            pixel_values=pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            return_dict=True,
            **kwargs,
        )
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> AltCLIPOutput:
        """Compare every text with every image. Without `pixel_values`, or without texts, that side and the logits are None.

        Args:
            input_ids: `(texts, tokens)`.
            pixel_values: `(images, channels, height, width)`.
            attention_mask: `(texts, tokens)`, 1 for words and 0 for padding.
            return_loss: also give the loss within this batch, text `i` describing image `i`. Training across processes
                needs `training.losses.contrastive_loss` instead.

        Raises:
            ValueError: neither side is given, or a loss is asked for and one side is missing.
        """
        missing = [
            name
            for name, given in (("input_ids", input_ids), ("pixel_values", pixel_values))
            if given is None
        ]
        if len(missing) > (0 if return_loss else 1):
            raise ValueError(
                f"{' and '.join(missing)} missing: give texts, images or both, and both for a loss"
            )
        image_embeds = text_embeds = vision_outputs = text_outputs = logits_per_text = loss = None
        if pixel_values is not None:
            vision_outputs = self.vision_model(
                pixel_values=pixel_values,
                interpolate_pos_encoding=interpolate_pos_encoding,
                return_dict=True,
                **kwargs,
            )
            image_embeds = unit(self.visual_projection(vision_outputs.pooler_output))
        if input_ids is not None:
            text_outputs = self.text_model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                position_ids=position_ids,
                return_dict=True,
                **kwargs,
            )
            text_embeds = unit(self.text_projection(text_outputs.pooler_output))
        if image_embeds is not None and text_embeds is not None:
            device = text_embeds.device  # the towers may be on two
            logits_per_text = text_embeds @ image_embeds.t().to(device) * self.logit_scale.exp().to(device)
        if return_loss:
            pairs = torch.arange(len(logits_per_text), device=logits_per_text.device)
            loss = (
                nn.functional.cross_entropy(logits_per_text, pairs)
                + nn.functional.cross_entropy(logits_per_text.t(), pairs)
            ) / 2
        return AltCLIPOutput(
            loss=loss,
            logits_per_image=None if logits_per_text is None else logits_per_text.t(),
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
        )


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1, by transformers' own steps: with them, outputs and gradients equal its AltCLIP's bit for bit."""
    return vectors / vectors.pow(2).sum(dim=-1, keepdim=True).pow(0.5)


__all__ = ["AltCLIPModel", "AltCLIPOutput", "AltCLIPTextModel"]
