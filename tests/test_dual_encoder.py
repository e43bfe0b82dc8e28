"""`altclip_dual_encoder` joins any image encoder with any text encoder."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from accelerate import infer_auto_device_map
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    BeitConfig,
    BeitModel,
    BertConfig,
    BertForMaskedLM,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    EfficientNetConfig,
    EfficientNetModel,
    GPT2Config,
    GPT2Model,
    LayoutLMConfig,
    LayoutLMModel,
    MobileViTConfig,
    MobileViTModel,
    ModernBertConfig,
    ModernBertModel,
    Qwen3Config,
    Qwen3Model,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
    SqueezeBertConfig,
    SqueezeBertModel,
    SwinConfig,
    SwinModel,
    T5Config,
    T5Model,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
    XLMRobertaConfig,
    XLMRobertaModel,
    pipeline,
)

from common.errors import InputError
from modeling_altclip import (
    AltCLIPDualEncoderConfig,
    AltCLIPDualEncoderModel,
    AltCLIPProcessor,
    embed_images,
    embed_texts,
)
from modeling_altclip.pooling_altclip import pool, stated_pooling, unread_modules
from training import ContrastiveArguments, freeze_all_but
from training.low_rank import add_low_rank

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PICTURE = {"image_size": 32, "patch_size": 8}
# Embeddings for all tokens of the miniature's tokenizer, which has about 2,500.
VOCABULARY = 4000


TEXT = {**SMALL, "vocab_size": VOCABULARY}
VISION = {**SMALL, **PICTURE}
DINO = {name: size for name, size in VISION.items() if name != "intermediate_size"}
ENDS = {"pad_token_id": 1, "cls_token_id": 0, "sep_token_id": 2, "bos_token_id": 0, "eos_token_id": 2}
HEADS = {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
SWIN = {"patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
LAYERS = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
EFFICIENTNET = {
    "image_size": 32,
    "in_channels": [32, 16],
    "out_channels": [16, 24],
    "kernel_sizes": [3, 3],
    "strides": [1, 2],
    "num_block_repeats": [1, 1],
    "expand_ratios": [1, 6],
    "depthwise_padding": [],
    "width_coefficient": 0.05,
    "hidden_dim": 64,  # 1,280 times the coefficient
    "dropout_rate": 0.0,
    "drop_connect_rate": 0.0,
    "initializer_range": 0.7,  # by the default of 0.02 all states would be 1e-22
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4}

T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}

BOTH = {"text_config": TEXT, "vision_config": VISION}
# Towers by name: the class of the model, that of its configuration, and sizes.
TOWERS = {
    "vit": (ViTModel, ViTConfig, VISION),
    "dinov2": (Dinov2Model, Dinov2Config, DINO),
    "siglip": (SiglipModel, SiglipConfig, BOTH),
    "clip": (CLIPModel, CLIPConfig, BOTH),
    "xlm-r": (XLMRobertaModel, XLMRobertaConfig, {**TEXT, "max_position_embeddings": 90}),
    "mE5": (XLMRobertaModel, XLMRobertaConfig, {**TEXT, "max_position_embeddings": 90}),
    # Saved with its head, which a tower has to leave out.
    "bert": (BertForMaskedLM, BertConfig, TEXT),
    "modernbert": (ModernBertModel, ModernBertConfig, {**TEXT, **ENDS}),
    # These three read from left to right.
    "qwen3": (Qwen3Model, Qwen3Config, {**TEXT, **HEADS}),
    "gpt2": (GPT2Model, GPT2Config, GPT2),
    "clip-text": (CLIPTextModel, CLIPTextConfig, TEXT),
    # Their poolers are always called.
    "layoutlm": (LayoutLMModel, LayoutLMConfig, TEXT),
    "squeezebert": (SqueezeBertModel, SqueezeBertConfig, {**TEXT, "embedding_size": 32}),
    # An encoder with a decoder, which is refused.
    "t5": (T5Model, T5Config, T5),
    "beit": (BeitModel, BeitConfig, VISION),
    # Without a class token.
    "swin": (SwinModel, SwinConfig, {**SWIN, "image_size": 32}),
    # These give a map.
    "efficientnet": (EfficientNetModel, EfficientNetConfig, EFFICIENTNET),
    "resnet": (ResNetModel, ResNetConfig, {**LAYERS, "embedding_size": 8}),
    # Kinds whose width is not known, and one that gives other states at each call: they are refused.
    "convnext": (ConvNextModel, ConvNextConfig, LAYERS),
    "mobilevit": (MobileViTModel, MobileViTConfig, {"image_size": 64}),
    "vit-mae": (ViTMAEModel, ViTMAEConfig, VISION),
}


def build(name):
    """Build a small tower with random weights, the same at each call."""
    torch.manual_seed(0)
    model_class, config_class, sizes = TOWERS[name]
    return model_class(config_class(**copy.deepcopy(sizes)))  # configurations keep what they are given


@pytest.fixture
def save_tower(tmp_path):
    """Return a function that saves the named tower, as its authors would, and returns the folder."""

    def save_tower(name):
        folder = tmp_path / name
        build(name).save_pretrained(folder)
        if name == "mE5":  # a model of sentence-transformers states its pooling
            (folder / "1_Pooling").mkdir()
            stated = {
                "word_embedding_dimension": 32,
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": True,
            }
            (folder / "1_Pooling/config.json").write_text(json.dumps(stated))
        return str(folder)

    return save_tower


@pytest.fixture
def dual_batch():
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(4, VOCABULARY, (3, 9), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 5:] = 0  # the second text is shorter
    input_ids[1, 5:] = 1
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "pixel_values": torch.randn(3, 3, 32, 32, generator=generator),
    }


def by_hand(tower, pooling, mask=None, **inputs):
    """Pool the outputs of a tower without our code."""
    outputs = tower(**inputs) if mask is None else tower(**inputs, attention_mask=mask)
    if pooling == "pooler":
        return outputs.pooler_output
    states = outputs.last_hidden_state
    if pooling == "cls":
        return states[:, 0]
    if states.ndim == 4:
        return states.mean((2, 3))  # of a map
    return torch.stack([state[kept.bool()].mean(0) for state, kept in zip(states, mask)])


@pytest.mark.parametrize(
    "vision,text,poolings",
    [
        ("vit", "xlm-r", ("cls", "cls")),
        ("dinov2", "mE5", ("cls", "mean")),
        ("siglip", "bert", ("pooler", "cls")),
        ("clip", "modernbert", ("pooler", "cls")),
        ("resnet", "bert", ("mean", "cls")),
        ("efficientnet", "bert", ("mean", "cls")),
    ],
)
def test_any_towers(save_tower, dual_batch, processor, tmp_path, vision, text, poolings):
    """Assemble two towers, compare with their own outputs, save, load, and use the model in the pipeline."""
    model = AltCLIPDualEncoderModel.from_towers(
        save_tower(vision), save_tower(text), projection_dim=16
    ).eval()
    assert (model.config.vision_pooling, model.config.text_pooling) == poolings

    # The towers by themselves: of models of two towers, the image tower; of BERT with a head, the encoder.
    image_tower = build(vision).eval()
    if vision in ("siglip", "clip"):
        image_tower = image_tower.vision_model
    text_tower = build(text).eval()
    if text == "bert":
        text_tower = text_tower.bert
    vision_pooling, text_pooling = poolings
    with torch.no_grad():
        outputs = model(**dual_batch, return_loss=True)
        texts = by_hand(
            text_tower, text_pooling, dual_batch["attention_mask"], input_ids=dual_batch["input_ids"]
        )
        images = by_hand(image_tower, vision_pooling, pixel_values=dual_batch["pixel_values"])
        expected_texts = normalize(model.text_projection(texts), dim=-1)
        expected_images = normalize(model.visual_projection(images), dim=-1)
    torch.testing.assert_close(outputs.text_embeds, expected_texts, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(outputs.image_embeds, expected_images, atol=1e-6, rtol=1e-5)

    model.save_pretrained(tmp_path / "model")
    AltCLIPProcessor(processor.image_processor, processor.tokenizer).save_pretrained(tmp_path / "model")
    saved = (tmp_path / "model/config.json").read_text()
    assert str(tmp_path) not in saved
    assert json.loads(saved)["model_type"] == "altclip_dual_encoder"
    for auto in (AutoModel, AutoModelForZeroShotImageClassification):
        loaded = auto.from_pretrained(tmp_path / "model").eval()
        assert type(loaded) is AltCLIPDualEncoderModel
        with torch.no_grad():
            logits = loaded(**dual_batch).logits_per_image
        torch.testing.assert_close(logits, outputs.logits_per_image, atol=1e-5, rtol=1e-5)

    # The pipeline's scores are the softmax of the scaled cosines.
    reader = AutoProcessor.from_pretrained(tmp_path / "model")
    assert type(reader) is AltCLIPProcessor
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path / "model"))
    picture = Image.new("RGB", (32, 32), "red")
    labels = ["dog face", "key and bell"]
    answer = {entry["label"]: entry["score"] for entry in classify(picture, labels, hypothesis_template="{}")}
    cosines = embed_images(loaded, reader, [picture]) @ embed_texts(loaded, reader, labels).t()
    expected = (loaded.logit_scale.exp() * cosines).softmax(dim=-1)[0].tolist()
    assert [answer[label] for label in labels] == pytest.approx(expected, abs=1e-6)


def test_the_mean_leaves_padding_out(save_tower, dual_batch):
    model = AltCLIPDualEncoderModel.from_towers(
        save_tower("vit"), save_tower("mE5"), projection_dim=16
    ).eval()
    ids = dual_batch["input_ids"]
    mask = dual_batch["attention_mask"]
    short_ids = ids[1:2, :5]  # the second text without its padding
    short_mask = mask[1:2, :5]
    with torch.no_grad():
        padded = model.get_text_features(ids, mask).pooler_output[1]
        alone = model.get_text_features(short_ids, short_mask).pooler_output[0]
        without_mask = model.get_text_features(short_ids).pooler_output[0]
    torch.testing.assert_close(padded, alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(without_mask, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("vision,text", [("vit", "bert"), ("dinov2", "modernbert")])
def test_every_parameter_learns_and_attention_reaches_both_towers(save_tower, dual_batch, vision, text):
    """A pooler that nobody reads would have no gradient, and stop distributed training."""
    model = AltCLIPDualEncoderModel.from_towers(save_tower(vision), save_tower(text), projection_dim=16)
    model.set_attn_implementation("eager")
    encoders = model.text_model.encoder, model.vision_model.encoder
    assert {encoder.config._attn_implementation for encoder in encoders} == {"eager"}
    model(**dual_batch, return_loss=True).loss.backward()
    frozen = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
        else:
            frozen.append(name)
    # Dinov2 fills masked patches with it in its own pretraining, and nowhere else.
    assert frozen == (["vision_model.encoder.embeddings.mask_token"] if vision == "dinov2" else [])
    model.resize_token_embeddings(VOCABULARY + 8)
    assert model.get_input_embeddings().num_embeddings == VOCABULARY + 8
    assert model.config.text_config.vocab_size == VOCABULARY + 8


@pytest.mark.parametrize(
    "image,text,idle",
    [
        (("dinov2", "cls"), ("bert", "cls"), ["vision_model.encoder.embeddings.mask_token"]),
        (("clip", "mean"), ("bert", "cls"), "vision_model.encoder.post_layernorm."),
        (("clip", "pooler"), ("bert", "cls"), []),
        (("siglip", "mean"), ("bert", "cls"), "vision_model.encoder.head."),
        (("siglip", "pooler"), ("bert", "mean"), []),
        (("vit", "mean"), ("layoutlm", "cls"), "text_model.encoder.pooler."),
        (("resnet", "mean"), ("bert", "cls"), []),
    ],
)
def test_idle_parameters_stay_frozen(save_tower, dual_batch, tmp_path, image, text, idle):
    """They get no gradient, whichever parts are trained, and with LoRA."""
    model = AltCLIPDualEncoderModel.from_towers(
        save_tower(image[0]),
        save_tower(text[0]),
        projection_dim=16,
        vision_pooling=image[1],
        text_pooling=text[1],
    )
    names = [name for name, _ in model.named_parameters()]
    if isinstance(idle, str):
        idle = [name for name in names if name.startswith(idle)]
        assert idle
    assert model.idle_parameters() == idle
    model.save_pretrained(tmp_path / "model")
    for one in (model, AutoModel.from_pretrained(tmp_path / "model")):
        assert [name for name, value in one.named_parameters() if not value.requires_grad] == idle

    parts = ["text_model", "vision_model", "text_projection", "visual_projection", "logit_scale"]
    freeze_all_but(model, ["logit_scale"])
    freeze_all_but(model, parts)
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == idle
    for name in idle:
        with pytest.raises(InputError, match=f"trainable names {name}, which no embedding of this model"):
            freeze_all_but(model, [name])

    arguments = ContrastiveArguments(
        model_name_or_path="model",
        dataset="data",
        output_dir="out",
        use_cpu=True,
        trainable=parts,
        cache_image_embeds=False,
        lora_rank=2,
    )
    for rank in (None, 2):
        arguments.lora_rank = rank
        add_low_rank(arguments, model)
        model(**dual_batch, return_loss=True).loss.backward()
        for name, value in model.named_parameters():
            assert (value.grad is not None) == value.requires_grad, name
        model.zero_grad()


@pytest.mark.parametrize("name", ["resnet", "efficientnet"])
def test_batch_norms_keep_the_statistics_that_they_were_trained_with(name, save_tower, dual_batch):
    """Else each image would see the others of its batch, and a frozen tower would change."""
    model = AltCLIPDualEncoderModel.from_towers(save_tower(name), save_tower("bert"), projection_dim=16)
    model.train()
    assert model.text_model.encoder.training
    statistics = {name: values.clone() for name, values in model.vision_model.named_buffers()}
    assert any(name.endswith("running_mean") for name in statistics)
    images = dual_batch["pixel_values"]
    together = model.get_image_features(images).pooler_output
    alone = torch.cat([model.get_image_features(image[None]).pooler_output for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    together.sum().backward()
    norms = [
        weights for name, weights in model.vision_model.named_parameters() if "norm" in name or "bn" in name
    ]
    assert norms
    assert all(weights.grad is not None for weights in norms)
    for name, values in model.vision_model.named_buffers():
        assert torch.equal(values, statistics[name]), name


def test_a_tower_of_convolutions_has_no_updates(save_tower):
    towers = (save_tower("vit"), save_tower("squeezebert"))
    model = AltCLIPDualEncoderModel.from_towers(*towers, projection_dim=16, text_pooling="cls")
    arguments = ContrastiveArguments(
        model_name_or_path="model", dataset="data", output_dir="out", use_cpu=True, lora_rank=2
    )
    with pytest.raises(InputError, match="^lora_rank is 2, and peft can update no layer of this text tower"):
        add_low_rank(arguments, model)


def test_layers_stay_whole_on_one_device(save_tower):
    model = AltCLIPDualEncoderModel.from_towers(save_tower("vit"), save_tower("bert"), projection_dim=16)
    assert {"ViTLayer", "BertLayer"} <= set(model._no_split_modules)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    for share in (0.7, 0.8, 0.9):
        memory = {0: int(size * share), "cpu": size}  # not all of the model has room on device 0
        device_map = infer_auto_device_map(model, memory, no_split_module_classes=model._no_split_modules)
        assert not [name for name in device_map if re.search(r"layers?\.\d+\.", name)], device_map


BY_DEFAULT = ("pooling_mode_cls_token", "pooling_mode_mean_tokens")


@pytest.mark.parametrize(
    "stated,expected",
    [
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({**dict.fromkeys(BY_DEFAULT, False), "pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
        ({"word_embedding_dimension": 32}, "mean"),
        (None, None),
    ],
)
def test_pooling_that_a_checkpoint_states(tmp_path, stated, expected):
    (tmp_path / "1_Pooling").mkdir()
    if stated is not None:
        (tmp_path / "1_Pooling/config.json").write_text(json.dumps(stated))
    assert stated_pooling(str(tmp_path)) == expected


@pytest.mark.parametrize(
    "stated,named",
    [
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len_tokens"),
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls_token and mean_tokens"),
        ({"pooling_mode": ["cls", "mean"]}, "cls and mean"),
        ({"pooling_mode": "max"}, "max"),
    ],
)
def test_poolings_that_there_are_not_are_refused(tmp_path, stated, named):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(stated))
    message = f"asks for the pooling {named}: give text_pooling one of cls, last, mean"
    with pytest.raises(ValueError, match=message):
        stated_pooling(str(tmp_path))


def test_the_rest_of_sentence_transformers_files_is_heeded(save_tower, tmp_path):
    """Read the pooling from the folder that modules.json names, and warn of what is left out.

    A dense layer, a prompt, a cut and lower case change embeddings, and our model has none of them.
    """
    folder = Path(save_tower("xlm-r"))
    (folder / "pool").mkdir()
    mean = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "pool/config.json").write_text(json.dumps(mean))
    kinds = {"": "Transformer", "pool": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    settings = folder / "config_sentence_transformers.json"
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query", "truncate_dim": 16}
    settings.write_text(json.dumps(prompts))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    message = (
        "left out of the model: Dense, the prompt 'query: ', a cut of vectors at 16 values, small letters"
    )
    with pytest.warns(UserWarning, match=message):
        model = AltCLIPDualEncoderModel.from_towers(save_tower("vit"), str(folder))
    assert model.config.text_pooling == "mean"

    # A prompt whose text is missing is an error.
    for without in ({"prompts": {}}, {}):
        settings.write_text(json.dumps(without | {"default_prompt_name": "query"}))
        with pytest.raises(ValueError, match="has the default prompt 'query', which .* does not have"):
            unread_modules(str(folder))

    # A pooling that is listed and not described is the default one; two are an error.
    (folder / "pool/config.json").unlink()
    assert stated_pooling(str(folder)) == "mean"
    (folder / "modules.json").write_text(json.dumps([*modules, modules[1]]))
    with pytest.raises(ValueError, match="asks for the pooling mean and mean"):
        stated_pooling(str(folder))


@pytest.mark.parametrize("text", ["qwen3", "gpt2", "clip-text"])
def test_encoders_that_read_from_left_to_right_are_pooled_by_their_last_token(save_tower, text):
    """Their first state is the same for all texts that begin alike. Padding may be on either side."""
    model = AltCLIPDualEncoderModel.from_towers(save_tower("vit"), save_tower(text), projection_dim=16).eval()
    assert model.config.text_pooling == "last"
    # Both begin with token 5: pooled by their first state, they would be equal.
    ids = torch.tensor([[5, 20, 21, 22, 23], [5, 30, 31, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.no_grad():
        vectors = model.get_text_features(ids, mask).pooler_output
        alone = model.get_text_features(ids[1:, :3], mask[1:, :3]).pooler_output
        states = model.text_model.encoder(input_ids=ids[1:, :3]).last_hidden_state
        expected = model.text_projection(states[:, -1])
    assert (vectors[0] - vectors[1]).abs().max() > 1e-4
    torch.testing.assert_close(vectors[1:], alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(alone, expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="text_pooling is 'cls', but a .* reads from left to right"):
        AltCLIPDualEncoderModel.from_towers(save_tower("vit"), save_tower(text), text_pooling="cls")


@pytest.mark.parametrize("pooling", ["cls", "last", "mean"])
def test_padding_on_the_left_is_left_out(pooling):
    states = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    pooled = pool(states, mask, pooling)
    torch.testing.assert_close(pooled[:1], pool(states[:1, 2:], None, pooling))
    torch.testing.assert_close(pooled[1:], pool(states[1:, :3], None, pooling))


@pytest.mark.parametrize(
    "vision,pooling",
    [("swin", "mean"), ("vit", "cls"), ("dinov2", "cls"), ("beit", "cls"), ("clip", "pooler")],
)
def test_image_towers_without_a_class_token_are_pooled_by_the_mean(save_tower, vision, pooling):
    model = AltCLIPDualEncoderModel.from_towers(save_tower(vision), save_tower("bert"))
    assert model.config.vision_pooling == pooling
    assert model.get_image_features(torch.zeros(2, 3, 32, 32)).pooler_output.shape == (2, 512)


@pytest.mark.parametrize(
    "vision,pooling,message",
    [
        ("swin", "cls", "vision_pooling is 'cls', but a 'swin' has no class token: choose 'mean'"),
        ("convnext", None, "a 'convnext' states no hidden_size"),
        ("resnet", "cls", "vision_pooling is 'cls', but a 'resnet' has no class token: choose 'mean'"),
        ("mobilevit", None, "a 'mobilevit' .*cannot be a(n image)? tower"),
        ("vit-mae", None, "gives other states of the same image at each call"),
    ],
)
def test_image_towers_that_are_none_are_refused(save_tower, vision, pooling, message):
    with pytest.raises(ValueError, match=message):
        AltCLIPDualEncoderModel.from_towers(save_tower(vision), save_tower("bert"), vision_pooling=pooling)


def test_an_encoder_with_a_decoder_is_no_image_tower():
    with pytest.raises(ValueError, match="a 't5' is an encoder with a decoder, and cannot be an image tower"):
        AltCLIPDualEncoderConfig(text_config=BertConfig(**TEXT), vision_config=T5Config(**T5))


def test_the_adapter_of_a_peft_model_is_saved_alone(save_tower, dual_batch, tmp_path):
    """No other class has these towers, so that the files name ours."""
    whole = AltCLIPDualEncoderModel.from_towers(save_tower("clip"), save_tower("xlm-r"), projection_dim=16)
    whole.save_pretrained(tmp_path / "base")
    model = AltCLIPDualEncoderModel.from_pretrained(tmp_path / "base")
    # By default a LoRA's second factor is zero, and it would change nothing.
    settings = LoraConfig(target_modules=["query", "q_proj"], r=2, init_lora_weights=False)
    adapted = get_peft_model(model, settings).eval()
    adapted.get_base_model().save_pretrained(tmp_path / "adapter")
    saved = [path.name for path in (tmp_path / "adapter").glob("*.safetensors")]
    assert saved == ["adapter_model.safetensors"]

    base = AltCLIPDualEncoderModel.from_pretrained(tmp_path / "base")
    loaded = AltCLIPDualEncoderModel.from_pretrained(tmp_path / "base").eval()
    loaded.load_adapter(tmp_path / "adapter")
    wrapped = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        expected = adapted(**dual_batch).logits_per_image
        torch.testing.assert_close(loaded(**dual_batch).logits_per_image, expected)
        torch.testing.assert_close(wrapped(**dual_batch).logits_per_image, expected)


def test_the_mean_of_nothing_is_zero(save_tower, dual_batch):
    model = AltCLIPDualEncoderModel.from_towers(
        save_tower("vit"), save_tower("mE5"), projection_dim=16
    ).eval()
    all_masked = torch.zeros_like(dual_batch["attention_mask"])
    with torch.no_grad():
        # A sum of nothing divided by a count of 0 would be no number.
        embeds = model.get_text_features(dual_batch["input_ids"], all_masked).pooler_output
    assert embeds.isfinite().all()


def test_an_odd_pooling_is_refused(save_tower):
    with pytest.raises(ValueError, match="text_pooling is 'max': choose from cls, last, mean, pooler"):
        AltCLIPDualEncoderModel.from_towers(save_tower("vit"), save_tower("xlm-r"), text_pooling="max")
    with pytest.raises(ValueError, match="vision_pooling is 'first'"):
        AltCLIPDualEncoderConfig(vision_pooling="first")


def test_half_a_tower_is_refused(save_tower, tmp_path):
    model = build("vit")
    state = model.state_dict()
    name = next(name for name in state if name.endswith("fc1.weight"))
    del state[name]
    model.save_pretrained(tmp_path / "half", state_dict=state)
    with pytest.raises(ValueError, match=f"lacks weights of ViTModel: {name}"):
        AltCLIPDualEncoderModel.from_towers(str(tmp_path / "half"), save_tower("bert"))


def test_plain_transformers_does_not_half_load_it(save_tower, tmp_path, run_python):
    AltCLIPDualEncoderModel.from_towers(save_tower("vit"), save_tower("bert")).save_pretrained(
        tmp_path / "model"
    )
    code = "import sys; from transformers import AutoModel; "
    code += "AutoModel.from_pretrained(sys.argv[1], trust_remote_code=False)"
    process = run_python(
        "python", "-c", code, tmp_path / "model", cwd=tmp_path, PYTHONPATH="", PYTHONSAFEPATH="1"
    )
    assert process.returncode != 0
    assert "trust_remote_code=True" in process.stderr

    trusting = code.replace("False", "True") + "; print('read')"
    modules = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    process = run_python("python", "-c", trusting, tmp_path / "model", cwd=tmp_path, **modules)
    assert process.stdout.strip() == "read", process.stderr
