"""What a dual encoder takes over from its towers:

The names of weights in files, and what they ask of devices and checkpointing.
"""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    Aimv2VisionConfig,
    Aimv2VisionModel,
    AutoModel,
    BertConfig,
    BertModel,
    ChineseCLIPVisionConfig,
    CLIPVisionConfig,
    CpmAntConfig,
    CpmAntModel,
    DistilBertConfig,
    DistilBertModel,
    DPRConfig,
    DPRQuestionEncoder,
    ElectraConfig,
    FNetConfig,
    FNetModel,
    GPT2Config,
    IBertConfig,
    MLCDVisionConfig,
    NystromformerConfig,
    SiglipVisionConfig,
    SqueezeBertConfig,
    SqueezeBertModel,
    ViTConfig,
    ViTModel,
    XLMRobertaConfig,
    YosoConfig,
)

from modeling_altclip import (
    AltCLIPConfig,
    AltCLIPDualEncoderConfig,
    AltCLIPDualEncoderModel,
    AltCLIPModel,
    AltCLIPTextConfig,
    AltCLIPTextModel,
)
from modeling_altclip.modeling_altclip_dual_encoder import positions_of
from modeling_altclip.pooling_altclip import check_modality, default_image_pooling, pool
from modeling_altclip.texts_altclip import readable_tokens

from .test_dual_encoder import PICTURE, SMALL, dual_batch, save_tower  # noqa: F401  (fixtures)

PAIRS = [
    ("vit", "xlm-r"),
    ("dinov2", "modernbert"),
    ("clip", "bert"),
    ("swin", "qwen3"),
    ("siglip", "gpt2"),
    ("beit", "clip-text"),
]


def build_dual(save_tower, vision, text):  # noqa: F811
    """Assemble an untrained dual encoder of two towers by name."""
    poolings = {"vision_pooling": "pooler"} if vision == "siglip" else {}
    model = AltCLIPDualEncoderModel.from_towers(
        save_tower(vision), save_tower(text), projection_dim=16, **poolings
    )
    return model.eval()


def assert_same_weights(model, expected):
    assert model.state_dict().keys() == expected.state_dict().keys()
    for name, weight in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def dual_encoder(**config):
    """Return an untrained dual encoder of these configurations."""
    torch.manual_seed(0)
    return AltCLIPDualEncoderModel(AltCLIPDualEncoderConfig(**config)).eval()


def assert_all_that_learns_is_read(tower):
    """Check that every parameter that learns has a gradient: DDP stops at one without."""
    learning = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    assert learning
    for name in learning:
        assert tower.get_parameter(name).grad is not None, name


@pytest.mark.parametrize("vision,text", PAIRS)
def test_files_name_weights_as_each_tower_alone_does(save_tower, tmp_path, vision, text):  # noqa: F811
    model = build_dual(save_tower, vision, text)
    model.save_pretrained(tmp_path / "files")
    model.save_pretrained(tmp_path / "inside", save_original_format=False)
    saved = load_file(tmp_path / "files/model.safetensors")
    inside = load_file(tmp_path / "inside/model.safetensors")
    assert inside.keys() == model.state_dict().keys()

    for name, tower in (("text_model", model.text_model), ("vision_model", model.vision_model)):
        tower.encoder.save_pretrained(tmp_path / name)
        alone = load_file(tmp_path / name / "model.safetensors")
        assert {key for key in saved if key.startswith(f"{name}.")} == {
            f"{name}.encoder.{key}" for key in alone
        }
        for key, weight in alone.items():
            assert torch.equal(saved[f"{name}.encoder.{key}"], weight), key

    # Either is read whole, by from_pretrained and, as trainers do, by load_state_dict; and what is saved next
    # is the same.
    for folder, weights in (("files", saved), ("inside", inside)):
        read = AltCLIPDualEncoderModel.from_pretrained(tmp_path / folder)
        assert_same_weights(read, model)
        read.save_pretrained(tmp_path / "again")
        assert load_file(tmp_path / "again/model.safetensors").keys() == saved.keys()
        fresh = AltCLIPDualEncoderModel(model.config)
        fresh.load_state_dict(dict(weights))
        assert_same_weights(fresh, model)


def test_names_in_files_are_others_than_inside(save_tower, tmp_path):  # noqa: F811
    """Guard the test above, which would show nothing else."""
    model = build_dual(save_tower, "vit", "xlm-r")
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert "text_model.encoder.encoder.layer.0.attention.self.query.weight" in saved
    assert saved.keys() != model.state_dict().keys()


def test_a_tower_hands_on_what_its_encoder_asks_for(save_tower):  # noqa: F811
    model = build_dual(save_tower, "vit", "qwen3")
    encoder = AutoModel.from_config(model.config.text_config)
    assert encoder.tp_plan
    assert {f"text_model.encoder.{name}" for name in encoder.tp_plan} <= model.tp_plan.keys()
    assert "past_key_values" in model._skip_keys_device_placement
    assert {"ViTLayer", "Qwen3DecoderLayer"} <= set(model._no_split_modules)


@pytest.mark.parametrize("vision", ["swin", "vit"])
def test_activations_are_checkpointed(save_tower, dual_batch, vision):  # noqa: F811
    """Check Swin, too, whose embeddings give a tuple, which transformers cannot mark."""
    model = build_dual(save_tower, vision, "xlm-r")
    model(**dual_batch, return_loss=True).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}

    model.zero_grad()
    model.gradient_checkpointing_enable()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert model.is_gradient_checkpointing
    model(**dual_batch, return_loss=True).loss.backward()
    model.disable_input_require_grads()
    assert not model._require_grads_hooks
    if vision == "swin":  # Swin drops whole layers at random
        return

    n_compared = 0
    for name, parameter in model.named_parameters():
        if expected[name] is not None:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)
            n_compared += 1
    assert n_compared > 20


TEXT_TOWERS = {
    "bert": BertConfig(vocab_size=99, **SMALL),
    "electra": ElectraConfig(vocab_size=99, embedding_size=16, **SMALL),
    "distilbert": DistilBertConfig(vocab_size=99, dim=32, hidden_dim=48, n_layers=2, n_heads=4),
    "gpt2": GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4),
    "xlm-r": XLMRobertaConfig(vocab_size=99, **SMALL),
}


@pytest.mark.parametrize(
    "name,pooling", [(name, "last" if name == "gpt2" else "cls") for name in TEXT_TOWERS]
)
def test_padding_on_the_left_moves_no_position(name, pooling):
    """Check BERT and GPT-2, which count positions from the left, padding included.

    Padding on the right changes nothing, to the bit.
    """
    model = dual_encoder(
        text_config=TEXT_TOWERS[name],
        vision_config=ViTConfig(**SMALL, **PICTURE),
        text_pooling=pooling,
        projection_dim=16,
    )
    tower = model.text_model
    ids = torch.tensor([[5, 10, 11, 6]])
    mask = torch.ones_like(ids)
    padding = torch.ones(1, 3, dtype=torch.long)
    left = {"input_ids": torch.cat([padding, ids], 1), "attention_mask": torch.cat([0 * padding, mask], 1)}
    right = {"input_ids": torch.cat([ids, padding], 1), "attention_mask": torch.cat([mask, 0 * padding], 1)}
    with torch.no_grad():
        expected = tower(input_ids=ids, attention_mask=mask).pooler_output
        on_left = tower(**left).pooler_output
        on_right = tower(**right).last_hidden_state
        of_encoder = tower.encoder(**right).last_hidden_state
    torch.testing.assert_close(on_left, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(on_right, of_encoder)


@pytest.mark.parametrize("text_config", [NystromformerConfig, YosoConfig, IBertConfig, BertConfig])
def test_a_tower_numbers_positions_as_its_encoder_does(text_config):
    """Check Nyströmformer and YOSO, which begin with 2, and I-BERT, which begins behind its padding's."""
    model = dual_encoder(
        text_config=text_config(vocab_size=99, **SMALL), vision_config=ViTConfig(**SMALL, **PICTURE)
    )
    tower = model.text_model
    inputs = {"input_ids": torch.arange(10, 20)[None], "attention_mask": torch.ones(1, 10, dtype=torch.long)}
    with torch.no_grad():
        assert torch.equal(tower(**inputs).last_hidden_state, tower.encoder(**inputs).last_hidden_state)


def test_i_bert_reads_fewer_tokens_than_it_has_positions():
    encoder = AutoModel.from_config(IBertConfig(vocab_size=99, max_position_embeddings=64, **SMALL))
    assert readable_tokens(encoder) == 62


CPM_ANT = {"dim_head": 8, "dim_ff": 48, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}


@pytest.mark.parametrize(
    "encoder_class,config,reason",
    [
        (FNetModel, FNetConfig(vocab_size=99, **SMALL), "a 'fnet' has no attention_mask and reads padding"),
        (
            CpmAntModel,
            CpmAntConfig(vocab_size=99, **CPM_ANT),
            "a 'cpmant' has no attention_mask and reads padding",
        ),
        (DPRQuestionEncoder, DPRConfig(vocab_size=99, **SMALL), "a 'dpr' gives no state for each token"),
    ],
)
def test_text_encoders_whose_states_cannot_be_pooled_are_refused(
    save_tower,  # noqa: F811
    tmp_path,
    encoder_class,
    config,
    reason,
):
    folder = saved(encoder_class(config), tmp_path / "text")
    with pytest.raises(ValueError, match=reason):
        AltCLIPDualEncoderModel.from_towers(save_tower("vit"), folder)


def test_a_pooler_that_is_always_called_stays_and_does_not_learn(save_tower, tmp_path):  # noqa: F811
    """Check SqueezeBERT, which cannot do without its pooler; what nobody reads would stop DDP."""
    config = SqueezeBertConfig(vocab_size=99, embedding_size=32, **SMALL)
    folder = saved(SqueezeBertModel(config), tmp_path / "text")
    model = AltCLIPDualEncoderModel.from_towers(save_tower("vit"), folder)
    ids = torch.arange(10, 20)[None]
    embeds = model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids)).pooler_output
    embeds.sum().backward()
    assert_all_that_learns_is_read(model.text_model)
    for name, parameter in model.text_model.named_parameters():
        if "pooler" in name:
            assert not parameter.requires_grad, name


@pytest.mark.parametrize("name", ["bert", "xlm-r", "altclip"])
def test_padding_of_embeddings_moves_no_position(name):
    """Give embeddings, which do not tell the padding that XLM-R leaves out by its token.

    Padding on the right changes nothing, to the bit.
    """
    torch.manual_seed(0)
    if name == "altclip":
        config = AltCLIPTextConfig(vocab_size=99, project_dim=16, max_position_embeddings=40, **SMALL)
        tower = AltCLIPTextModel(config).eval()
        encoder = tower.roberta
    else:
        model = dual_encoder(
            text_config=TEXT_TOWERS[name], vision_config=ViTConfig(**SMALL, **PICTURE), text_pooling="mean"
        )
        tower = model.text_model
        encoder = tower.encoder
    ids = torch.tensor([[5, 10, 11, 6]])
    mask = torch.ones_like(ids)
    padding = torch.ones(1, 3, dtype=torch.long)
    right = torch.cat([mask, 0 * padding], 1)  # [[1, 1, 1, 1, 0, 0, 0]]

    def embedded(*parts):
        return encoder.get_input_embeddings()(torch.cat(parts, 1))

    with torch.no_grad():
        expected = tower(input_ids=ids, attention_mask=mask).pooler_output
        on_left = tower(inputs_embeds=embedded(padding, ids), attention_mask=right.flip(1)).pooler_output
        on_right = tower(inputs_embeds=embedded(ids, padding), attention_mask=right)
        of_encoder = encoder(inputs_embeds=embedded(ids, padding), attention_mask=right).last_hidden_state
    torch.testing.assert_close(on_left, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(on_right.pooler_output, expected, atol=1e-5, rtol=1e-4)
    if name != "altclip":
        assert torch.equal(on_right.last_hidden_state, of_encoder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_mean_of_many_states_does_not_overflow(dtype):
    # The sum, 90,000, is beyond float16's largest number, 65,504.
    states = torch.full((1, 100, 4), 1000.0, dtype=dtype)
    mask = torch.ones(1, 100, dtype=torch.long)
    mask[0, 90:] = 0
    assert torch.equal(pool(states, mask, "mean"), states[:, 0])


def test_a_logit_scale_may_be_a_whole_number():
    """Take one as JSON may have it."""
    config = AltCLIPConfig(
        text_config={"vocab_size": 99, **SMALL}, vision_config=SMALL | PICTURE, logit_scale_init_value=3
    )
    assert AltCLIPModel(config).logit_scale.item() == 3


@pytest.mark.parametrize(
    "vision_config", [CLIPVisionConfig, ChineseCLIPVisionConfig, MLCDVisionConfig, SiglipVisionConfig]
)
@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_all_that_learns_in_an_image_tower_of_clips_kind_is_read(vision_config, pooling):
    """Check the layer norm behind CLIP's class token, which is its pooler's."""
    vision = vision_config(**SMALL, **PICTURE)
    assert default_image_pooling(AutoModel.from_config(vision)) == "pooler"
    text = BertConfig(vocab_size=99, **SMALL)
    model = dual_encoder(text_config=text, vision_config=vision, vision_pooling=pooling)
    model.get_image_features(torch.randn(2, 3, 32, 32)).pooler_output.square().sum().backward()
    assert_all_that_learns_is_read(model.vision_model)


def test_positions_are_numbered_from_the_first_token():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert positions_of(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


def saved(model, folder):
    """Save a model; return its folder."""
    model.save_pretrained(folder)
    return str(folder)


def test_a_class_token_of_a_pooler_is_none_of_the_patches(save_tower, tmp_path):  # noqa: F811
    """Check AIMv2, which pools with a token of its own and has none before its patches.

    Where that head is not asked for, it does not stop DDP.
    """
    torch.manual_seed(0)
    folder = saved(Aimv2VisionModel(Aimv2VisionConfig(**SMALL, **PICTURE)), tmp_path / "aimv2")
    model = AltCLIPDualEncoderModel.from_towers(folder, save_tower("xlm-r"))
    assert model.config.vision_pooling == "mean"
    model.get_image_features(torch.randn(2, 3, 32, 32)).pooler_output.sum().backward()
    assert_all_that_learns_is_read(model.vision_model)
    message = "vision_pooling is 'cls', but a 'aimv2_vision_model' has no class token"
    with pytest.raises(ValueError, match=message):
        AltCLIPDualEncoderModel.from_towers(folder, save_tower("xlm-r"), vision_pooling="cls")


class ViTWithGrid(ViTModel):
    def forward(self, pixel_values, grid):
        """Take the input `grid`, which no image processor of a ViT makes."""


def test_towers_that_read_something_else_are_refused(save_tower, tmp_path):  # noqa: F811
    vit = save_tower("vit")
    bert = saved(BertModel(BertConfig(vocab_size=12, **SMALL)), tmp_path / "few")
    distil = saved(DistilBertModel(TEXT_TOWERS["distilbert"]), tmp_path / "distil")

    message = "is a 'vit', which does not read texts, and cannot be the tower of texts"
    with pytest.raises(ValueError, match=message):
        AltCLIPDualEncoderModel.from_towers(vit, vit)
    with pytest.raises(ValueError, match="is a 'bert', which does not read images"):
        AltCLIPDualEncoderModel.from_towers(bert, bert)
    with pytest.raises(ValueError, match="needs grid too, and cannot be a tower"):
        check_modality(ViTWithGrid(ViTConfig(image_size=16, patch_size=8, **SMALL)), vit, "image")
    with pytest.raises(ValueError, match="text_pooling is 'pooler', but a 'distilbert' has no pooler"):
        AltCLIPDualEncoderModel.from_towers(vit, distil, text_pooling="pooler")
    # A vocabulary of twelve is enough.
    assert AltCLIPDualEncoderModel.from_towers(vit, bert).config.text_pooling == "cls"
