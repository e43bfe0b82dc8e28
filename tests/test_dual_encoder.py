"""`altclip_dual_encoder`: any image encoder beside any text encoder."""

import json
import re
from pathlib import Path

import pytest
import torch
from accelerate import infer_auto_device_map
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
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
    GPT2Config,
    GPT2Model,
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

from modeling_altclip import (
    AltCLIPDualEncoderConfig,
    AltCLIPDualEncoderModel,
    AltCLIPProcessor,
    embed_images,
    embed_texts,
)
from modeling_altclip.pooling_altclip import pool, stated_pooling, unread_modules

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PICTURE = {"image_size": 32, "patch_size": 8}
VOCABULARY = 4000


def build(name):
    torch.manual_seed(0)
    text, vision = SMALL | {"vocab_size": VOCABULARY}, SMALL | PICTURE
    dino = {name: size for name, size in vision.items() if name != "intermediate_size"}
    ends = {"pad_token_id": 1, "cls_token_id": 0, "sep_token_id": 2, "bos_token_id": 0, "eos_token_id": 2}
    return {
        "vit": lambda: ViTModel(ViTConfig(**vision)),
        "dinov2": lambda: Dinov2Model(Dinov2Config(**dino)),
        "siglip": lambda: SiglipModel(SiglipConfig(text_config=dict(text), vision_config=dict(vision))),
        "clip": lambda: CLIPModel(CLIPConfig(text_config=dict(text), vision_config=dict(vision))),
        "xlm-r": lambda: XLMRobertaModel(XLMRobertaConfig(**text, max_position_embeddings=90)),
        "mE5": lambda: XLMRobertaModel(XLMRobertaConfig(**text, max_position_embeddings=90)),
        "bert": lambda: BertForMaskedLM(BertConfig(**text)),
        "modernbert": lambda: ModernBertModel(ModernBertConfig(**text, **ends)),
        "qwen3": lambda: Qwen3Model(Qwen3Config(**text, num_key_value_heads=2, head_dim=8, pad_token_id=0)),
        "gpt2": lambda: GPT2Model(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4)),
        "clip-text": lambda: CLIPTextModel(CLIPTextConfig(**text)),
        "t5": lambda: T5Model(
            T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
        ),
        "beit": lambda: BeitModel(BeitConfig(**vision)),
        "swin": lambda: SwinModel(
            SwinConfig(
                image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
            )
        ),
        "convnext": lambda: ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])),
        "resnet": lambda: ResNetModel(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
        ),
        "mobilevit": lambda: MobileViTModel(MobileViTConfig(image_size=64)),
        "vit-mae": lambda: ViTMAEModel(ViTMAEConfig(**vision)),
    }[name]()


@pytest.fixture
def towers(tmp_path):
    """Save the named tower, as its authors would, and give the folder."""

    def towers(name):
        build(name).save_pretrained(tmp_path / name)
        if name == "mE5":
            (tmp_path / name / "1_Pooling").mkdir()
            stated = {
                "word_embedding_dimension": 32,
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": True,
            }
            (tmp_path / name / "1_Pooling/config.json").write_text(json.dumps(stated))
        return str(tmp_path / name)

    return towers


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(4, VOCABULARY, (3, 9), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 5:] = 0
    input_ids[1, 5:] = 1
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "pixel_values": torch.randn(3, 3, 32, 32, generator=generator),
    }


def by_hand(tower, pooling, mask=None, **inputs):
    outputs = tower(**inputs) if mask is None else tower(**inputs, attention_mask=mask)
    if pooling == "pooler":
        return outputs.pooler_output
    states = outputs.last_hidden_state
    if pooling == "cls":
        return states[:, 0]
    return torch.stack([state[kept.bool()].mean(0) for state, kept in zip(states, mask)])


@pytest.mark.parametrize(
    "vision,text,poolings",
    [
        ("vit", "xlm-r", ("cls", "cls")),
        ("dinov2", "mE5", ("cls", "mean")),
        ("siglip", "bert", ("pooler", "cls")),
        ("clip", "modernbert", ("pooler", "cls")),
    ],
)
def test_any_towers(towers, batch, processor, tmp_path, vision, text, poolings):
    """Assembled, compared with the towers' own outputs, saved, loaded, and used in the pipeline."""
    model = AltCLIPDualEncoderModel.from_towers(towers(vision), towers(text), projection_dim=16).eval()
    assert (model.config.vision_pooling, model.config.text_pooling) == poolings
    source = build(vision)
    image_tower = (source if vision in ("vit", "dinov2") else source.vision_model).eval()
    source = build(text)
    text_tower = (source.bert if text == "bert" else source).eval()
    with torch.no_grad():
        outputs = model(**batch, return_loss=True)
        texts = by_hand(text_tower, poolings[1], batch["attention_mask"], input_ids=batch["input_ids"])
        images = by_hand(image_tower, poolings[0], pixel_values=batch["pixel_values"])
        for embeds, pooled, projection in (
            (outputs.text_embeds, texts, model.text_projection),
            (outputs.image_embeds, images, model.visual_projection),
        ):
            torch.testing.assert_close(
                embeds, torch.nn.functional.normalize(projection(pooled), dim=-1), atol=1e-6, rtol=1e-5
            )

    model.save_pretrained(tmp_path / "model")
    AltCLIPProcessor(processor.image_processor, processor.tokenizer).save_pretrained(tmp_path / "model")
    saved = (tmp_path / "model/config.json").read_text()
    assert str(tmp_path) not in saved
    assert json.loads(saved)["model_type"] == "altclip_dual_encoder"
    for auto in (AutoModel, AutoModelForZeroShotImageClassification):
        loaded = auto.from_pretrained(tmp_path / "model").eval()
        assert type(loaded) is AltCLIPDualEncoderModel
        with torch.no_grad():
            torch.testing.assert_close(
                loaded(**batch).logits_per_image, outputs.logits_per_image, atol=1e-5, rtol=1e-5
            )
    reader = AutoProcessor.from_pretrained(tmp_path / "model")
    assert type(reader) is AltCLIPProcessor
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path / "model"))
    picture, labels = Image.new("RGB", (32, 32), "red"), ["dog face", "key and bell"]
    answer = {entry["label"]: entry["score"] for entry in classify(picture, labels, hypothesis_template="{}")}
    cosines = embed_images(loaded, reader, [picture]) @ embed_texts(loaded, reader, labels).t()
    expected = (loaded.logit_scale.exp() * cosines).softmax(dim=-1)[0].tolist()
    assert [answer[label] for label in labels] == pytest.approx(expected, abs=1e-6)


def test_the_mean_leaves_padding_out(towers, batch):
    model = AltCLIPDualEncoderModel.from_towers(towers("vit"), towers("mE5"), projection_dim=16).eval()
    with torch.no_grad():
        padded = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output[1]
        alone = model.get_text_features(
            batch["input_ids"][1:2, :5], batch["attention_mask"][1:2, :5]
        ).pooler_output[0]
        without_mask = model.get_text_features(batch["input_ids"][1:2, :5]).pooler_output[0]
    torch.testing.assert_close(padded, alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(without_mask, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("vision,text", [("vit", "bert"), ("dinov2", "modernbert")])
def test_every_parameter_learns_and_attention_reaches_both_towers(towers, batch, vision, text):
    """A pooler that nobody reads would have no gradient, and stop distributed training."""
    model = AltCLIPDualEncoderModel.from_towers(towers(vision), towers(text), projection_dim=16)
    model.set_attn_implementation("eager")
    encoders = model.text_model.encoder, model.vision_model.encoder
    assert {encoder.config._attn_implementation for encoder in encoders} == {"eager"}
    model(**batch, return_loss=True).loss.backward()
    assert [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ] == []
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == (["vision_model.encoder.embeddings.mask_token"] if vision == "dinov2" else [])
    model.resize_token_embeddings(VOCABULARY + 8)
    assert (
        model.get_input_embeddings().num_embeddings == VOCABULARY + 8 == model.config.text_config.vocab_size
    )


def test_layers_stay_whole_on_one_device(towers):
    model = AltCLIPDualEncoderModel.from_towers(towers("vit"), towers("bert"), projection_dim=16)
    assert {"ViTLayer", "BertLayer"} <= set(model._no_split_modules)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    for share in (0.7, 0.8, 0.9):
        device_map = infer_auto_device_map(
            model, {0: int(size * share), "cpu": size}, no_split_module_classes=model._no_split_modules
        )
        assert not [name for name in device_map if re.search(r"layers?\.\d+\.", name)], device_map


@pytest.mark.parametrize(
    "stated,expected",
    [
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        (
            {
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": False,
                "pooling_mode_lasttoken": True,
            },
            "last",
        ),
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
    with pytest.raises(
        ValueError, match=f"asks for the pooling {named}: give text_pooling one of cls, last, mean"
    ):
        stated_pooling(str(tmp_path))


def test_the_rest_of_sentence_transformers_files_is_heeded(towers, tmp_path):
    """Its pooling may lie elsewhere; a dense layer and a prompt, without which vectors are others, are named when they are left out."""
    folder = Path(towers("xlm-r"))
    (folder / "pool").mkdir()
    (folder / "pool/config.json").write_text(
        json.dumps({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})
    )
    kinds = {"": "Transformer", "pool": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query", "truncate_dim": 16}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    with pytest.warns(
        UserWarning,
        match="left out: Dense, the prompt 'query: ', a cut of vectors at 16 values, small letters",
    ):
        model = AltCLIPDualEncoderModel.from_towers(towers("vit"), str(folder))
    assert model.config.text_pooling == "mean"
    for without in ({"prompts": {}}, {}):
        (folder / "config_sentence_transformers.json").write_text(
            json.dumps(without | {"default_prompt_name": "query"})
        )
        assert "the prompt 'query'" in unread_modules(str(folder))
    (folder / "pool/config.json").unlink()
    assert stated_pooling(str(folder)) == "mean"  # asked for, and not described
    (folder / "modules.json").write_text(json.dumps([*modules, modules[1]]))
    with pytest.raises(ValueError, match="asks for the pooling mean and mean"):
        stated_pooling(str(folder))


@pytest.mark.parametrize("text", ["qwen3", "gpt2", "clip-text"])
def test_encoders_that_read_from_left_to_right_are_pooled_by_their_last_token(towers, text):
    """Their first state is one for all texts that begin alike. Padding may stand on either side."""
    model = AltCLIPDualEncoderModel.from_towers(towers("vit"), towers(text), projection_dim=16).eval()
    assert model.config.text_pooling == "last"
    ids = torch.tensor([[5, 20, 21, 22, 23], [5, 30, 31, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.no_grad():
        vectors = model.get_text_features(ids, mask).pooler_output
        alone = model.get_text_features(ids[1:, :3], mask[1:, :3]).pooler_output
        expected = model.text_projection(
            model.text_model.encoder(input_ids=ids[1:, :3]).last_hidden_state[:, -1]
        )
    assert (vectors[0] - vectors[1]).abs().max() > 1e-4
    torch.testing.assert_close(vectors[1:], alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(alone, expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="text_pooling is 'cls', but a .* reads from left to right"):
        AltCLIPDualEncoderModel.from_towers(towers("vit"), towers(text), text_pooling="cls")


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
def test_image_towers_without_a_class_token_are_pooled_by_the_mean(towers, vision, pooling):
    model = AltCLIPDualEncoderModel.from_towers(towers(vision), towers("bert"))
    assert model.config.vision_pooling == pooling
    assert model.get_image_features(torch.zeros(2, 3, 32, 32)).pooler_output.shape == (2, 512)


@pytest.mark.parametrize(
    "vision,pooling,message",
    [
        ("swin", "cls", "vision_pooling is 'cls', but a 'swin' has no class token: choose 'mean'"),
        ("convnext", None, "a 'convnext' states no hidden_size"),
        ("resnet", None, "a 'resnet' states no hidden_size"),
        ("mobilevit", None, "a 'mobilevit' .*cannot be a(n image)? tower"),
        ("vit-mae", None, "gives other states of the same image at each call"),
    ],
)
def test_image_towers_that_are_none_are_refused(towers, vision, pooling, message):
    with pytest.raises(ValueError, match=message):
        AltCLIPDualEncoderModel.from_towers(towers(vision), towers("bert"), vision_pooling=pooling)


def test_an_encoder_with_a_decoder_is_no_text_tower(towers):
    with pytest.raises(ValueError, match="a 't5' is an encoder with a decoder, and cannot be a tower"):
        AltCLIPDualEncoderModel.from_towers(towers("vit"), towers("t5"))


def test_a_teacher_is_not_for_these_towers(towers):
    with pytest.raises(NotImplementedError, match="from_towers"):
        AltCLIPDualEncoderModel.from_teacher(towers("clip"), towers("xlm-r"))


def test_the_adapter_of_a_peft_model_is_saved_alone(towers, batch, tmp_path):
    """No other class has these towers, so that the files name ours."""
    AltCLIPDualEncoderModel.from_towers(towers("clip"), towers("xlm-r"), projection_dim=16).save_pretrained(
        tmp_path / "base"
    )
    model = AltCLIPDualEncoderModel.from_pretrained(tmp_path / "base")
    settings = LoraConfig(target_modules=["query", "q_proj"], r=2, init_lora_weights=False)
    adapted = get_peft_model(model, settings).eval()
    adapted.get_base_model().save_pretrained(tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").glob("*.safetensors")} == {
        "adapter_model.safetensors"
    }

    base = AltCLIPDualEncoderModel.from_pretrained(tmp_path / "base")
    loaded = AltCLIPDualEncoderModel.from_pretrained(tmp_path / "base").eval()
    loaded.load_adapter(tmp_path / "adapter")
    wrapped = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        expected = adapted(**batch).logits_per_image
        torch.testing.assert_close(loaded(**batch).logits_per_image, expected)
        torch.testing.assert_close(wrapped(**batch).logits_per_image, expected)


def test_the_mean_of_nothing_is_zero(towers, batch):
    model = AltCLIPDualEncoderModel.from_towers(towers("vit"), towers("mE5"), projection_dim=16).eval()
    with torch.no_grad():
        embeds = model.get_text_features(
            batch["input_ids"], torch.zeros_like(batch["attention_mask"])
        ).pooler_output
    assert embeds.isfinite().all()


def test_an_odd_pooling_is_refused(towers):
    with pytest.raises(ValueError, match="text_pooling is 'max': choose from cls, last, mean, pooler"):
        AltCLIPDualEncoderModel.from_towers(towers("vit"), towers("xlm-r"), text_pooling="max")
    with pytest.raises(ValueError, match="vision_pooling is 'first'"):
        AltCLIPDualEncoderConfig(vision_pooling="first")


def test_half_a_tower_is_refused(towers, tmp_path):
    model = build("vit")
    state = model.state_dict()
    name = next(name for name in state if name.endswith("fc1.weight"))
    del state[name]
    model.save_pretrained(tmp_path / "half", state_dict=state)
    with pytest.raises(ValueError, match=f"lacks weights of ViTModel: {name}"):
        AltCLIPDualEncoderModel.from_towers(str(tmp_path / "half"), towers("bert"))


def test_plain_transformers_does_not_half_load_it(towers, tmp_path, run):
    AltCLIPDualEncoderModel.from_towers(towers("vit"), towers("bert")).save_pretrained(tmp_path / "model")
    code = "import sys; from transformers import AutoModel; AutoModel.from_pretrained(sys.argv[1], trust_remote_code=False)"
    process = run("python", "-c", code, tmp_path / "model", cwd=tmp_path, PYTHONPATH="", PYTHONSAFEPATH="1")
    assert process.returncode != 0
    assert "trust_remote_code=True" in process.stderr
    trusting = code.replace("False", "True") + "; print('read')"
    modules = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    process = run("python", "-c", trusting, tmp_path / "model", cwd=tmp_path, **modules)
    assert process.stdout.strip() == "read", process.stderr
