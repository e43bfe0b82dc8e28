"""transformers' own families through `load_model`: vectors are those of each model's own forward, whatever the batches."""

import json
import string

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from PIL import Image
from transformers.utils import is_protobuf_available

from benchmarks.encoder import hash_weights
from benchmarks.loading import load_model, revision_of
from benchmarks.recipe import InputError
from modeling_altclip import (
    AltCLIPDualEncoderConfig,
    AltCLIPDualEncoderModel,
    AltCLIPModel,
    embed_images,
    embed_texts,
)
from modeling_altclip.texts_altclip import text_length

from .conftest import TEXT, VISION

CHARACTERS = string.ascii_letters + string.digits + string.punctuation
TEXTS = ["A Dog", "key", "a photo of a Red Apple and a dog face.", "key", "x", "umbrella " * 20, "Bell, fish"]
ENCODER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
NOISE = np.random.default_rng(0)
IMAGES = [
    Image.fromarray(NOISE.integers(0, 255, (*size, 3), dtype=np.uint8))
    for size in ((32, 48), (60, 40), (32, 32), (90, 33))
]


def clip_tokenizer(**kwargs):
    pieces = [
        *CHARACTERS,
        *(character + "</w>" for character in CHARACTERS),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return transformers.CLIPTokenizer(
        vocab={piece: row for row, piece in enumerate(pieces)}, merges=[], **kwargs
    )


def roberta_tokenizer(**kwargs):
    pieces = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")] + [
        (character, -2.0) for character in "▁" + CHARACTERS
    ]
    return transformers.XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)], **kwargs)


def bert_tokenizer(**kwargs):
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *CHARACTERS,
        *("##" + character for character in CHARACTERS),
    ]
    return transformers.BertTokenizer(vocab={piece: row for row, piece in enumerate(pieces)}, **kwargs)


def gemma_tokenizer(kind, **kwargs):
    """As both forms of SigLIP 2 were saved: padded on the right, without a mask, and with no length."""
    vocab = {
        piece: row
        for row, piece in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *CHARACTERS])
    }
    settings = {
        "padding_side": "right",
        "add_bos_token": False,
        "add_eos_token": True,
        "model_input_names": ["input_ids"],
    }
    return kind(vocab=vocab, merges=[], **settings, **kwargs)


def image_processor(kind=transformers.CLIPImageProcessor):
    return kind(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def build_altclip():
    config = transformers.AltCLIPConfig(
        text_config=TEXT | {"vocab_size": 200, "max_position_embeddings": 514},
        vision_config=dict(VISION),
        projection_dim=20,
    )
    return transformers.AltCLIPModel(config), transformers.AltCLIPProcessor(
        image_processor(), roberta_tokenizer(model_max_length=512)
    )


def build_clip():
    tokenizer = clip_tokenizer(model_max_length=77)
    text = ENCODER | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = transformers.CLIPConfig(text_config=text, vision_config=dict(VISION), projection_dim=20)
    return transformers.CLIPModel(config), transformers.CLIPProcessor(image_processor(), tokenizer)


def build_metaclip_2():
    text = ENCODER | {"vocab_size": 200, "eos_token_id": 2, "pad_token_id": 1}
    config = transformers.MetaClip2Config(text_config=text, vision_config=dict(VISION), projection_dim=20)
    return transformers.MetaClip2Model(config), transformers.CLIPProcessor(
        image_processor(), roberta_tokenizer()
    )


def build_chinese_clip():
    config = transformers.ChineseCLIPConfig(
        text_config=ENCODER | {"vocab_size": 250}, vision_config=dict(VISION), projection_dim=20
    )
    kind = transformers.ChineseCLIPImageProcessor
    return transformers.ChineseCLIPModel(config), transformers.ChineseCLIPProcessor(
        image_processor(kind), bert_tokenizer()
    )


def build_siglip_2():
    """Of one image size: SigLIP's model, Gemma's tokenizer."""
    config = transformers.SiglipConfig(
        text_config=ENCODER | {"vocab_size": 200}, vision_config=VISION | ENCODER
    )
    images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    return transformers.SiglipModel(config), transformers.SiglipProcessor(
        images, gemma_tokenizer(transformers.GemmaTokenizer)
    )


def build_siglip_2_naflex():
    """Of any image size: patches, their number and a mask."""
    vision = ENCODER | {"patch_size": 8, "num_patches": 16}
    config = transformers.Siglip2Config(text_config=ENCODER | {"vocab_size": 200}, vision_config=vision)
    images = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    return transformers.Siglip2Model(config), transformers.Siglip2Processor(
        images, gemma_tokenizer(transformers.Siglip2Tokenizer)
    )


def build_vision_text_dual_encoder():
    """As clip-italian: the image tower of a CLIP beside a BERT."""
    text, vision = transformers.BertConfig(**ENCODER, vocab_size=250), transformers.CLIPVisionConfig(**VISION)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, text, projection_dim=20
    )
    images = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.VisionTextDualEncoderProcessor(images, bert_tokenizer(model_max_length=512))
    return transformers.VisionTextDualEncoderModel(config), processor


def build_altclip_dual_encoder():
    text, vision = transformers.BertConfig(**ENCODER, vocab_size=250), transformers.ViTConfig(**VISION)
    model = AltCLIPDualEncoderModel(
        AltCLIPDualEncoderConfig(
            text_config=text, vision_config=vision, text_pooling="mean", projection_dim=20
        )
    )
    return model, transformers.AltCLIPProcessor(image_processor(), bert_tokenizer(model_max_length=77))


# How each was trained to read a text: its length, and whether it sees the padding.
FAMILIES = {
    "altclip": (build_altclip, 77, True),
    "clip": (build_clip, 77, True),
    "metaclip_2": (build_metaclip_2, 77, True),
    "chinese_clip": (build_chinese_clip, 52, True),
    "siglip_2": (build_siglip_2, 64, "max_length"),
    "siglip_2_naflex": (build_siglip_2_naflex, 64, "max_length"),
    "vision_text_dual_encoder": (build_vision_text_dual_encoder, 77, True),
    "altclip_dual_encoder": (build_altclip_dual_encoder, 77, True),
}


def saved(family, folder):
    """A family's untrained model, in eval mode, and its processor; both lie in `folder` too."""
    torch.manual_seed(0)
    model, processor = FAMILIES[family][0]()
    with torch.no_grad():  # transformers begins so evenly that all texts are alike
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval(), processor


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_the_models_own_forward(family, tmp_path):
    own_model, own_processor = saved(family, tmp_path)
    _, length, padding = FAMILIES[family]
    text_embeds, image_embeds = [], []
    for number, text in enumerate(TEXTS):
        text = text.lower() if "siglip" in family else text
        inputs = own_processor.tokenizer(
            [text], padding=padding, truncation=True, max_length=length, return_tensors="pt"
        )
        pixels = own_processor.image_processor(images=[IMAGES[number % 4]], return_tensors="pt")
        with torch.no_grad():
            outputs = own_model(**inputs, **pixels)
        text_embeds.append(outputs.text_embeds[0])
        image_embeds.append(outputs.image_embeds[0])
    text_embeds, image_embeds = torch.stack(text_embeds), torch.stack(image_embeds[:4])
    assert min(torch.pdist(text_embeds[[0, 1, 2, 4, 5, 6]]).min(), torch.pdist(image_embeds).min()) > 1e-2

    model, processor = load_model(str(tmp_path))
    for batch_size in (1, 3, 100):
        torch.testing.assert_close(
            embed_texts(model, processor, TEXTS, batch_size=batch_size), text_embeds, atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            embed_images(model, processor, IMAGES, batch_size=batch_size), image_embeds, atol=1e-5, rtol=1e-4
        )
    assert text_length(processor.tokenizer, model) == length


def test_our_altclip_in_its_own_files(tmp_path):
    saved("altclip", tmp_path / "native")
    native, processor = load_model(str(tmp_path / "native"))
    assert isinstance(native, AltCLIPModel)
    native.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    ours, processor = load_model(str(tmp_path / "ours"))
    torch.testing.assert_close(embed_texts(ours, processor, TEXTS), embed_texts(native, processor, TEXTS))
    torch.testing.assert_close(embed_images(ours, processor, IMAGES), embed_images(native, processor, IMAGES))
    assert hash_weights(ours) == hash_weights(native)


@pytest.fixture
def siglip(tmp_path):
    """A folder of the SigLIP of 2023, whose tokenizer is sentencepiece's own, as `google/siglip-base-patch16-224` has it."""
    model, processor = build_siglip_2()
    model.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    sentences, pieces = iter(TEXTS * 20), tmp_path / "spiece.model"
    with open(pieces, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=file,
            vocab_size=36,
            bos_id=-1,
            eos_id=1,
            unk_id=2,
            pad_id=0,
            minloglevel=2,
        )
    stated = {
        "tokenizer_class": "SiglipTokenizer",
        "model_max_length": 64,
        "model_input_names": ["input_ids"],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    return tmp_path


def test_the_siglip_of_2023(siglip):
    """It reads small letters and no punctuation."""
    pytest.importorskip("google.protobuf")
    model, processor = load_model(str(siglip))
    ids = sentencepiece.SentencePieceProcessor(model_file=str(siglip / "spiece.model")).encode("a dog")
    with torch.no_grad():
        expected = (
            model.eval()
            .get_text_features(input_ids=torch.tensor([[*ids, *[1] * (64 - len(ids))]]))
            .pooler_output
        )
    got = embed_texts(
        model, processor, ["A dog!", "a photo of a Red Apple and a dog face."], normalize_embeddings=False
    )
    torch.testing.assert_close(got[:1], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(is_protobuf_available(), reason="protobuf is installed")
def test_what_a_tokenizer_lacks_is_named(siglip):
    with pytest.raises(InputError, match="(?s)cannot be loaded.*protobuf"):
        load_model(str(siglip))


def test_the_revision_is_that_of_the_cache(tmp_path, monkeypatch):
    """The cache as `huggingface_hub` lays it out; a folder has no revision."""
    commits = {"org/clip": "1" * 40, "org/text": "2" * 40}
    for repository, commit in commits.items():
        stored = tmp_path / ("models--" + repository.replace("/", "--"))
        (stored / "refs").mkdir(parents=True)
        (stored / "refs" / "main").write_text(commit)
        (stored / "snapshots" / commit).mkdir(parents=True)
    saved("clip", tmp_path / "models--org--clip" / "snapshots" / commits["org/clip"])
    (tmp_path / "models--org--text" / "snapshots" / commits["org/text"] / "modules.json").write_text("[]")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    load_model("org/clip")
    assert revision_of("org/clip") == commits["org/clip"]
    assert revision_of("sentence_transformers:org/text+org/clip") == "+".join(
        [commits["org/text"], commits["org/clip"]]
    )
    assert revision_of("m_clip:org/text+open_clip:hf-hub:org/clip") == "+".join(
        [commits["org/text"], commits["org/clip"]]
    )
    assert revision_of("org/other") is None
    assert revision_of(str(tmp_path)) is None
