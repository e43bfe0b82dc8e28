"""Build a CLIP of any image encoder and any text encoder, under a model type of its own.

Everything but the towers is `AltCLIPModel`'s. Plain transformers does not know the type, so it never loads
half of it.
"""

import warnings
from inspect import signature
from os import PathLike

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange, WeightRenaming, WeightTransform
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .checkpoint_altclip import rename_weights
from .configuration_altclip_dual_encoder import (
    CONVOLUTIONAL,
    AltCLIPDualEncoderConfig,
    check_widths,
    width_of_states,
)
from .modeling_altclip import AltCLIPModel
from .pooling_altclip import (
    IMAGE_INPUTS,
    POOLED_BY_NORM,
    check_image_encoder,
    check_modality,
    check_states,
    check_text_encoder,
    default_image_pooling,
    default_text_pooling,
    pool,
    positions_of,
    stated_pooling,
    states_in_a_row,
    unread_modules,
)
from .text_code_altclip import HUB_OPTIONS, copy_text_code, text_auto_map_of, with_text_code
from .texts_altclip import positions_before_texts
from .towers_altclip import (
    build_encoder,
    image_encoder_of,
    load_encoder,
    load_teacher,
    load_text_config,
    numbers_of,
    set_dropout,
)

# Attributes that a model of transformers collects from its parts when it is built. Plans are keyed by module
# names.
_SETTINGS_OF_PARTS = (
    "_no_split_modules",
    "_skip_keys_device_placement",
    "_keep_in_fp32_modules",
    "_keep_in_fp32_modules_strict",
)
_PLANS_OF_PARTS = ("_tp_plan", "_ep_plan")
_ALWAYS_POOLED = ("squeezebert", "layoutlm", *CONVOLUTIONAL)  # encoders that fail without their pooler


class _PooledTower(nn.Module):
    """An encoder that pools its last states into one embedding, `pooler_output` `(batch, hidden_size)`.

    The whole model asks only its direct parts for their device map, dtype and parallelism: the tower passes
    on what its encoder states.
    """

    def __init__(self, config: PreTrainedConfig, pooling: str):
        super().__init__()
        self.config = config
        self.pooling = pooling
        self.encoder = _without_idle_parts(build_encoder(config), pooling)
        self.counts_padding = _counts_padding(self.encoder)
        self.positions_before = positions_before_texts(self.encoder)

        self._supports_sdpa = self.encoder._supports_sdpa
        for name in _SETTINGS_OF_PARTS:
            setattr(self, name, getattr(self.encoder, name))
        for name in _PLANS_OF_PARTS:
            plans = getattr(self.encoder, name)
            setattr(self, name, {f"encoder.{part}": plan for part, plan in plans.items()})

    def forward(self, attention_mask: torch.Tensor | None = None, **inputs) -> BaseModelOutputWithPooling:
        """Encode `input_ids` or `pixel_values`, and pool the last states.

        Inputs that are None or False are left out: not every encoder knows them.
        """
        inputs = {name: value for name, value in inputs.items() if value is not None and value is not False}
        if "pixel_values" not in inputs:
            # A forward hands its options, NaFlex's inputs beside the pixels among them, to both towers.
            inputs = {name: value for name, value in inputs.items() if name not in IMAGE_INPUTS}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
            if attention_mask.ndim == 2:
                self._set_positions(inputs, attention_mask)
        outputs = self.encoder(**inputs)

        states = states_in_a_row(outputs.last_hidden_state)
        if self.pooling == "pooler":
            pooled = outputs.pooler_output.flatten(1)  # a ResNet's is a map of one place
        else:
            mask = inputs.get("pixel_attention_mask", attention_mask)
            pooled = pool(states, mask, self.pooling)
        return BaseModelOutputWithPooling(
            last_hidden_state=states,
            pooler_output=pooled,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def train(self, mode: bool = True) -> "_PooledTower":
        """Switch dropout on or off. Batch norms keep the statistics that the encoder was trained with.

        Statistics of a batch would let each image see the others, and change while nothing learns.
        """
        super().train(mode)
        for module in self.encoder.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def _set_positions(self, inputs: dict, attention_mask: torch.Tensor) -> None:
        """Number positions from each text's first token, unless `inputs` has them or the encoder does so."""
        if self.counts_padding:
            first = _first_position(self.encoder).to(attention_mask.device)
            inputs.setdefault("position_ids", positions_of(attention_mask) + first)
        elif self.positions_before > 0 and "inputs_embeds" in inputs:
            # XLM-R finds padding by its token, which embeddings do not show.
            inputs.setdefault("position_ids", positions_of(attention_mask) + self.positions_before)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)


def _counts_padding(encoder: PreTrainedModel) -> bool:
    """Check that an encoder numbers positions from the left, padding included, as BERT and GPT-2 do.

    XLM-R numbers them without padding, by itself.
    """
    return "position_ids" in signature(encoder.forward).parameters and positions_before_texts(encoder) == 0


def _first_position(encoder: PreTrainedModel) -> torch.Tensor:
    """Return the position `()` of a text's first token: mostly 0, but 2 for Nyströmformer, YOSO and MRA."""
    for name, positions in encoder.named_buffers():
        if name.endswith("position_ids"):
            return positions.flatten()[0]
    return torch.tensor(0)


def _without_idle_parts(encoder: PreTrainedModel, pooling: str) -> PreTrainedModel:
    """Drop or freeze the parts of an encoder that are not used: a parameter without a gradient stops DDP.

    A pooler that is not used (BERT's, ViT's) is dropped. Parts that cannot be dropped are frozen: without the
    pooling `pooler`, the head that SigLIP and AIMv2 pool with, the last norm of CLIP's image tower, or a
    pooler that is always called; and a mask token that no image has (DINOv2's).
    """
    has_pooler = "pooler" in dict(encoder.named_children())
    if pooling != "pooler" and has_pooler and encoder.config.model_type not in _ALWAYS_POOLED:
        encoder.pooler = None

    for name in _idle_parameters(encoder, pooling):
        encoder.get_parameter(name).requires_grad_(False)
    return encoder


def _idle_parameters(encoder: PreTrainedModel, pooling: str) -> list[str]:
    """List the parameters of an encoder that no output depends on, see `_without_idle_parts`."""
    idle_heads = [".head.", ".pooler."]
    if encoder.config.model_type in POOLED_BY_NORM:
        idle_heads.append(".post_layernorm.")
    idle = []
    for name, _ in encoder.named_parameters():
        is_idle_head = pooling != "pooler" and any(part in f".{name}" for part in idle_heads)
        if is_idle_head or name.endswith("mask_token"):
            idle.append(name)
    return idle


class AltCLIPDualEncoderModel(AltCLIPModel):
    """`AltCLIPModel` with any `AutoModel` as towers, pooled by `config.text_pooling` and `vision_pooling`.

    Methods and shapes are those of `AltCLIPModel`: texts and images become embeddings of `projection_dim`
    dimensions. `from_towers` joins two trained encoders.

    Example:

    ```python
    >>> from modeling_altclip import AltCLIPDualEncoderModel

    >>> model = AltCLIPDualEncoderModel.from_towers(
    ...     "outputs/miniature/clip", "outputs/miniature/text_encoder", projection_dim=64
    ... )
    >>> model.config.vision_pooling, model.config.text_pooling
    ('pooler', 'cls')
    ```
    """

    config_class = AltCLIPDualEncoderConfig
    base_model_prefix = "altclip_dual_encoder"
    native_class = None
    key_mapping = {}
    _no_split_modules = []  # the towers name theirs

    def __init__(self, config: AltCLIPDualEncoderConfig):
        super(AltCLIPModel, self).__init__(config)  # not AltCLIPModel's own, which builds AltCLIP's towers
        self.text_model = _PooledTower(config.text_config, config.text_pooling)
        self.config.text_auto_map = text_auto_map_of(config.text_config)
        self.vision_model = _PooledTower(config.vision_config, config.vision_pooling)
        dim = config.projection_dim
        bias = config.projection_bias
        self.visual_projection = nn.Identity()
        if config.image_projection:
            self.visual_projection = nn.Linear(width_of_states(config.vision_config), dim, bias=bias)
        self.text_projection = _text_projection(config)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.set_logit_bias(config.logit_bias_init_value)
        self.post_init()
        self.register_load_state_dict_pre_hook(rename_tower_weights)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.logit_bias is not None:
            init.constant_(self.logit_bias, self.config.logit_bias_init_value)

    def set_logit_bias(self, value: float | None) -> None:
        """Give the model a `logit_bias` of this value, or with None take it away; it is saved either way.

        A model with a bias is one of the sigmoid loss: `forward` adds it to the logits and returns that loss,
        and the pipeline scores each label by a sigmoid.
        """
        self.config.logit_bias_init_value = value
        bias = None
        if value is not None:
            bias = nn.Parameter(torch.full_like(self.logit_scale, value))
        self.register_parameter("logit_bias", bias)

    def set_attn_implementation(
        self, attn_implementation: str | dict, allow_all_kernels: bool = False
    ) -> None:
        """Set the attention kernel of both towers, see transformers. A network of convolutions has none."""
        has_attention = self.config.vision_config.model_type not in CONVOLUTIONAL
        if not has_attention and isinstance(attn_implementation, str):
            attn_implementation = {
                "": attn_implementation,
                "text_config": attn_implementation,
                "vision_config": "eager",
            }
        super().set_attn_implementation(attn_implementation, allow_all_kernels)

    def idle_parameters(self) -> list[str]:
        """List the parameters that embeddings do not depend on, such as DINOv2's mask token.

        The model is built and loaded with them frozen: they get no gradient, and DDP stops on a parameter
        without one.
        """
        idle = []
        for name, tower in (("text_model", self.text_model), ("vision_model", self.vision_model)):
            idle += [f"{name}.encoder.{one}" for one in _idle_parameters(tower.encoder, tower.pooling)]
        return idle

    def get_image_features(  # noqa: PLR0913  (the inputs of an image tower, by keyword)
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode and project images: `pooler_output` is `(images, projection_dim)`, not normalised.

        The mask and shapes of patches are NaFlex's. sentence-transformers passes on only what is named here.
        """
        return super().get_image_features(
            pixel_values,
            interpolate_pos_encoding,
            pixel_attention_mask=pixel_attention_mask,
            spatial_shapes=spatial_shapes,
            **kwargs,
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike,
        *model_args,
        config: PreTrainedConfig | str | PathLike | None = None,
        trust_remote_code: bool | None = False,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """Load a checkpoint as `AltCLIPModel.from_pretrained` does; idle parameters stay frozen.

        Args:
            trust_remote_code: run the code that the text encoder brings, if it brings any: files in the
                checkpoint's folder that `config.text_auto_map` names.

        Raises:
            ValueError: as there; or the text encoder brings code, and `trust_remote_code` is not set, or the
                code is not in the folder.
            OSError: a file of the code is missing.
        """
        name = pretrained_model_name_or_path
        if trust_remote_code:
            hub_options = {option: kwargs[option] for option in HUB_OPTIONS if option in kwargs}
            subfolder = kwargs.get("subfolder") or ""
            if not isinstance(config, PreTrainedConfig):
                config, unused = cls.config_class.from_pretrained(
                    config or name, return_unused_kwargs=True, **kwargs
                )
                kwargs = unused | hub_options | {"subfolder": subfolder}
            config = with_text_code(config, name, subfolder=subfolder, **hub_options)
        model, info = super().from_pretrained(
            name, *model_args, config=config, output_loading_info=True, **kwargs
        )
        # transformers puts new parameters in the place of those that the model was built with.
        for name in model.idle_parameters():
            model.get_parameter(name).requires_grad_(False)
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | PathLike,
        is_main_process: bool = True,
        *args,
        save_original_format: bool = True,
        **kwargs,
    ) -> None:
        """Save the towers' weights under the names that each tower's own `save_pretrained` gives them.

        They are the names on the Hub, and do not change; the names in the model change with transformers'
        version. Both are read. A tower whose weights transformers fuses (a mixture of experts) keeps the
        names in the model. Code that the text encoder brought is saved too: the folder needs no other.
        """
        self._weight_conversions = None  # else transformers saves the names that it has loaded
        by_hub_names = save_original_format and not _fuses_weights(self)
        if is_main_process:
            copy_text_code(self.config.text_config, save_directory)
        super().save_pretrained(
            save_directory, is_main_process, *args, save_original_format=by_hub_names, **kwargs
        )

    @classmethod
    def from_teacher(
        cls,
        teacher_name_or_path: str,
        text_name_or_path: str,
        *,
        text_pooling: str | None = None,
        text_head: str = "linear",
        text_head_norm: bool = False,
        dropout: float | None = None,
        trust_remote_code: bool = False,
    ) -> "AltCLIPDualEncoderModel":
        """Join a teacher's image tower, its projection, scale and bias with any text encoder.

        The encoder keeps its weights; its head, which leads into the teacher's space, is new and random. A
        CLIP and an XLM-R make an `AltCLIPModel`, which plain transformers loads: see its `from_teacher`.

        Args:
            teacher_name_or_path: a CLIP, SigLIP, SigLIP 2, MetaCLIP 2, Chinese-CLIP, TIPSv2, AltCLIP, dual
                encoder or `VisionTextDualEncoder`.
            text_name_or_path, text_pooling: as for `from_towers`. An encoder that has a decoder as well
                (T5, NLLB) is taken out of its model, and its states averaged.
            text_head, text_head_norm: as in the configuration.
            dropout: the text tower's dropout; by default the encoder's own.
            trust_remote_code: as for `from_towers`; also for the text encoder of the teacher.

        Raises:
            ValueError: a checkpoint is of another kind, or not whole; or the encoder's configuration has no
                dropout of the usual names.
        """
        text_config = load_text_config(text_name_or_path, trust_remote_code=trust_remote_code)
        if dropout is not None:
            set_dropout(text_config, dropout)
        teacher = load_teacher(teacher_name_or_path, trust_remote_code=trust_remote_code)
        text_encoder, text_pooling = _load_text_encoder(text_name_or_path, text_config, text_pooling)
        config = AltCLIPDualEncoderConfig.from_teacher(
            teacher.config,
            text_config,
            text_pooling=text_pooling,
            text_head=text_head,
            text_head_norm=text_head_norm,
        )
        model = cls(config)
        model._take_over(image_encoder_of(teacher), text_encoder)
        if config.image_projection:
            model.visual_projection.load_state_dict(teacher.visual_projection.state_dict())
        numbers = numbers_of(teacher)
        model.logit_scale.data.copy_(numbers["logit_scale"])
        if model.logit_bias is not None:
            model.logit_bias.data.copy_(numbers["logit_bias"])
        return model

    def _take_over(self, image_encoder: PreTrainedModel, text_encoder: PreTrainedModel) -> None:
        """Copy the weights of two encoders into the towers, without the parts that are not used."""
        for tower, encoder in ((self.vision_model, image_encoder), (self.text_model, text_encoder)):
            used = _without_idle_parts(encoder, tower.pooling)
            tower.encoder.load_state_dict(used.state_dict())

    def enable_input_require_grads(self) -> None:
        """Let gradients reach the outputs of the towers' embeddings, as checkpointing and adapters need.

        transformers expects one tensor there, and fails on Swin, whose embeddings return the image's size
        beside it.
        """

        def require_grads(module: nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> None:
            states = output[0] if isinstance(output, tuple) else output
            states.requires_grad_(True)

        self._require_grads_hooks = []
        for tower in (self.text_model, self.vision_model):
            hook = tower.get_input_embeddings().register_forward_hook(require_grads)
            self._require_grads_hooks.append(hook)

    @classmethod
    def from_towers(  # noqa: PLR0913  (two towers and keyword options of the model that they make)
        cls,
        vision_name_or_path: str,
        text_name_or_path: str,
        *,
        projection_dim: int = 512,
        projection_bias: bool = False,
        vision_pooling: str | None = None,
        text_pooling: str | None = None,
        text_head: str = "linear",
        text_head_norm: bool = False,
        dropout: float | None = None,
        trust_remote_code: bool = False,
    ) -> "AltCLIPDualEncoderModel":
        """Build a model from two encoders, which keep their weights; both projections are new and random.

        Args:
            vision_name_or_path: an image encoder (ViT, DINOv2, Swin), or a CLIP or SigLIP, whose image tower
                is taken.
            text_name_or_path: a text encoder (XLM-R, mE5, BERT, ModernBERT, Qwen3, T5, NLLB).
            projection_dim, projection_bias: as in the configuration.
            vision_pooling: by default `pooler` for the image towers of CLIP, its relatives (Chinese-CLIP,
                MLCD), SigLIP and SigLIP 2, `cls` for those with a class token, and else `mean`.
            text_pooling: by default the one in the checkpoint's sentence-transformers files (mE5: the mean);
                without them `last` for encoders that read from left to right, `mean` for those of a model
                that has a decoder as well (T5, NLLB), and else `cls`.
            text_head, text_head_norm: as in the configuration.
            dropout: the text tower's dropout; by default the encoder's own.
            trust_remote_code: run the code that the text encoder brings, if it brings any. It is saved with
                the model.

        Raises:
            ValueError: a checkpoint is not whole, or no tower of tokens or patches, or reads something else;
                a pooling does not suit its tower; the text encoder has no dropout of the usual names; or it
                brings code, and `trust_remote_code` is not set.
        """
        vision_config, text_config = _load_tower_configs(
            vision_name_or_path, text_name_or_path, trust_remote_code=trust_remote_code
        )
        if dropout is not None:
            set_dropout(text_config, dropout)
        image_encoder = load_encoder(vision_name_or_path, vision_config, vision_pooling)
        check_modality(image_encoder, vision_name_or_path, "image")
        text_encoder, text_pooling = _load_text_encoder(text_name_or_path, text_config, text_pooling)
        vision_pooling = vision_pooling or default_image_pooling(image_encoder)
        config = AltCLIPDualEncoderConfig(
            text_config=text_config,
            vision_config=vision_config,
            text_pooling=text_pooling,
            vision_pooling=vision_pooling,
            projection_dim=projection_dim,
            projection_bias=projection_bias,
            text_head=text_head,
            text_head_norm=text_head_norm,
        )
        check_image_encoder(image_encoder, vision_pooling, width_of_states(image_encoder.config))
        model = cls(config)
        model._take_over(image_encoder, text_encoder)
        return model


def _text_projection(config: AltCLIPDualEncoderConfig) -> nn.Module:
    """Build what projects pooled texts into the shared space: one layer, or a few in a row."""
    width = config.text_config.hidden_size
    bias = config.projection_bias
    layers = []
    if config.text_head_norm:
        layers.append(nn.LayerNorm(width))
    if config.text_head == "mlp":
        layers += [nn.Linear(width, width, bias=bias), nn.GELU()]
    layers.append(nn.Linear(width, config.projection_dim, bias=bias))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _load_text_encoder(
    name_or_path: str, config: PreTrainedConfig, pooling: str | None
) -> tuple[PreTrainedModel, str]:
    """Load a text encoder, and choose the pooling that suits it if none is given; warn of what is left out.

    Raises:
        ValueError: it is no text encoder of which states can be pooled, or the pooling does not suit it.
    """
    pooling = pooling or stated_pooling(name_or_path)
    encoder = load_encoder(name_or_path, config, pooling)
    check_modality(encoder, name_or_path, "text")
    check_states(encoder)
    # A default pooling suits its encoder by definition; only a given one has to be checked.
    if pooling is None:
        pooling = "mean" if config.is_encoder_decoder else default_text_pooling(encoder)
    else:
        check_text_encoder(encoder, pooling)
    left_out = ", ".join(unread_modules(name_or_path))
    if left_out:
        warnings.warn(
            f"{name_or_path} has more than an encoder and its pooling; left out of the model: {left_out}",
            stacklevel=3,
        )
    return encoder, pooling


def _tower_conversions(model: PreTrainedModel) -> list[WeightTransform]:
    """List the conversions of the towers' weights that transformers makes between a file and the model."""
    conversions = get_model_conversion_mapping(model, add_legacy=False)
    # A change of prefix belongs to the whole checkpoint that a tower was loaded from, never to ours.
    return [conversion for conversion in conversions if not isinstance(conversion, PrefixChange)]


def _fuses_weights(model: AltCLIPDualEncoderModel) -> bool:
    """Check whether transformers fuses several weights of a file into one, so that renaming is not enough."""
    names = [name for name, _ in model.named_parameters()]
    for conversion in _tower_conversions(model):
        if isinstance(conversion, WeightRenaming):
            continue
        split = conversion.reverse_transform()
        for name in names:
            _, pattern = split.rename_source_key(name)
            if pattern is not None:
                return True
    return False


def rename_tower_weights(model: PreTrainedModel, state_dict: dict, prefix: str, *_) -> None:
    """Rename weights that have the names in files; a hook that runs before `load_state_dict`.

    With it a trainer can resume from a checkpoint.
    """
    renamings = []
    for conversion in _tower_conversions(model):
        if isinstance(conversion, WeightRenaming):
            renamings.append(conversion)

    def new_name(name: str) -> str:
        for renaming in renamings:
            name, _ = renaming.rename_source_key(name)
        return name

    rename_weights(state_dict, prefix, new_name)


def _load_tower_configs(
    vision_name_or_path: str, text_name_or_path: str, *, trust_remote_code: bool
) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    """Load the configurations of an image tower, or of the one in a CLIP or SigLIP, and of a text tower.

    Raises:
        ValueError: one is no tower of tokens or patches.
    """
    vision_config = AutoConfig.from_pretrained(vision_name_or_path, trust_remote_code=False)
    vision_config = getattr(vision_config, "vision_config", vision_config)
    vision_config.name_or_path = ""  # as of the text tower's, see `load_text_config`
    text_config = load_text_config(text_name_or_path, trust_remote_code=trust_remote_code)
    check_widths(text_config, vision_config)
    return vision_config, text_config


__all__ = ["AltCLIPDualEncoderModel"]
