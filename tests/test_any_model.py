"""Embeddings of transformers' families are those of each model's own forward, whatever the batch size."""

import json
import string

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from PIL import Image
from transformers.utils import is_protobuf_available

from common.errors import InputError
from common.fingerprints import hash_weights
from common.models.loading import load_model
from common.models.revisions import revision_of
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
# Capitals, which some tokenizers lower; a text twice; a single character; and one of more than 77 tokens.
TEXTS = ["A Dog", "key", "a photo of a Red Apple and a dog face.", "key", "x", "umbrella " * 20, "Bell, fish"]
ENCODER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
# Sizes are (height, width): wide, high, the model's own, and nearly three times as high as wide.
NOISE = np.random.default_rng(0)
IMAGES = [
    Image.fromarray(NOISE.integers(0, 255, (*size, 3), dtype=np.uint8))
    for size in ((32, 48), (60, 40), (32, 32), (90, 33))
]


def numbered(pieces):
    """Return a vocabulary, {piece: id}."""
    return {piece: number for number, piece in enumerate(pieces)}


def clip_tokenizer(**kwargs):
    pieces = list(CHARACTERS)
    pieces += [character + "</w>" for character in CHARACTERS]  # at the end of a word
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab=numbered(pieces), merges=[], **kwargs)


def roberta_tokenizer(**kwargs):
    # (piece, log probability)
    pieces = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(character, -2.0) for character in "▁" + CHARACTERS]
    pieces += [("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=pieces, **kwargs)


def bert_tokenizer(**kwargs):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS]
    pieces += ["##" + character for character in CHARACTERS]  # within a word
    return transformers.BertTokenizer(vocab=numbered(pieces), **kwargs)


def gemma_tokenizer(kind, **kwargs):
    """Build a tokenizer as both forms of SigLIP 2 were saved: padded on the right, no mask, no length."""
    vocab = numbered(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *CHARACTERS])
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
        # The tokenizer has 100 pieces, and 512 tokens take 514 positions, as in XLM-R.
        text_config=TEXT | {"vocab_size": 200, "max_position_embeddings": 514},
        vision_config=dict(VISION),
        projection_dim=20,
    )
    processor = transformers.AltCLIPProcessor(image_processor(), roberta_tokenizer(model_max_length=512))
    return transformers.AltCLIPModel(config), processor


def build_clip():
    tokenizer = clip_tokenizer(model_max_length=77)
    text = ENCODER | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = transformers.CLIPConfig(text_config=text, vision_config=dict(VISION), projection_dim=20)
    processor = transformers.CLIPProcessor(image_processor(), tokenizer)
    return transformers.CLIPModel(config), processor


def build_metaclip_2():
    # 2 is </s> and 1 <pad> in `roberta_tokenizer`.
    text = ENCODER | {"vocab_size": 200, "eos_token_id": 2, "pad_token_id": 1}
    config = transformers.MetaClip2Config(text_config=text, vision_config=dict(VISION), projection_dim=20)
    processor = transformers.CLIPProcessor(image_processor(), roberta_tokenizer())
    return transformers.MetaClip2Model(config), processor


def build_chinese_clip():
    config = transformers.ChineseCLIPConfig(
        text_config=ENCODER | {"vocab_size": 250}, vision_config=dict(VISION), projection_dim=20
    )
    images = image_processor(transformers.ChineseCLIPImageProcessor)
    processor = transformers.ChineseCLIPProcessor(images, bert_tokenizer())
    return transformers.ChineseCLIPModel(config), processor


def build_siglip_2():
    """Build the form of one image size: SigLIP's model with Gemma's tokenizer."""
    config = transformers.SiglipConfig(
        text_config=ENCODER | {"vocab_size": 200}, vision_config=VISION | ENCODER
    )
    images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.SiglipProcessor(images, gemma_tokenizer(transformers.GemmaTokenizer))
    return transformers.SiglipModel(config), processor


def build_siglip_2_naflex():
    """Build the form of any image size: its inputs are patches, their number and a mask."""
    vision = ENCODER | {"patch_size": 8, "num_patches": 16}
    config = transformers.Siglip2Config(text_config=ENCODER | {"vocab_size": 200}, vision_config=vision)
    images = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    processor = transformers.Siglip2Processor(images, gemma_tokenizer(transformers.Siglip2Tokenizer))
    return transformers.Siglip2Model(config), processor


def build_vision_text_dual_encoder():
    """Build a model as clip-italian: the image tower of a CLIP with a BERT."""
    text = transformers.BertConfig(**ENCODER, vocab_size=250)
    vision = transformers.CLIPVisionConfig(**VISION)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, text, projection_dim=20
    )
    images = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.VisionTextDualEncoderProcessor(images, bert_tokenizer(model_max_length=512))
    return transformers.VisionTextDualEncoderModel(config), processor


def build_altclip_dual_encoder():
    config = AltCLIPDualEncoderConfig(
        text_config=transformers.BertConfig(**ENCODER, vocab_size=250),
        vision_config=transformers.ViTConfig(**VISION),
        text_pooling="mean",
        projection_dim=20,
    )
    processor = transformers.AltCLIPProcessor(image_processor(), bert_tokenizer(model_max_length=77))
    return AltCLIPDualEncoderModel(config), processor


# With the length that texts had in training, and the padding: to the longest text (True), or always to the
# full length, which the model then sees.
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
    """Save a family's untrained model, in eval mode, and its processor in `folder`; return both."""
    torch.manual_seed(0)
    build, _, _ = FAMILIES[family]
    model, processor = build()
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
    text_embeds = []
    image_embeds = []
    for number, text in enumerate(TEXTS):
        # `load_model` canonicalizes texts for SigLIP; here it is done by hand.
        if "siglip" in family:
            text = text.lower().replace(".", "").replace(",", "")
        inputs = own_processor.tokenizer(
            [text], padding=padding, truncation=True, max_length=length, return_tensors="pt"
        )
        pixels = own_processor.image_processor(images=[IMAGES[number % 4]], return_tensors="pt")
        with torch.no_grad():
            outputs = own_model(**inputs, **pixels)
        text_embeds.append(outputs.text_embeds[0])
        image_embeds.append(outputs.image_embeds[0])
    text_embeds = torch.stack(text_embeds)
    image_embeds = torch.stack(image_embeds[:4])

    # All differ clearly, so that a mistake shows. TEXTS[3] is TEXTS[1] again.
    assert torch.pdist(text_embeds[[0, 1, 2, 4, 5, 6]]).min() > 1e-2
    assert torch.pdist(image_embeds).min() > 1e-2

    model, processor = load_model(str(tmp_path))
    for batch_size in (1, 3, 100):
        texts = embed_texts(model, processor, TEXTS, batch_size=batch_size)
        torch.testing.assert_close(texts, text_embeds, atol=1e-5, rtol=1e-4)
        images = embed_images(model, processor, IMAGES, batch_size=batch_size)
        torch.testing.assert_close(images, image_embeds, atol=1e-5, rtol=1e-4)
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
    """Save a SigLIP as `google/siglip-base-patch16-224` of 2023, with a tokenizer of sentencepiece."""
    model, processor = build_siglip_2()
    model.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    with open(tmp_path / "spiece.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 20),
            model_writer=file,
            vocab_size=36,
            bos_id=-1,  # texts begin without a token of their own
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
    """Texts are read in lower case and without punctuation."""
    pytest.importorskip("google.protobuf")
    model, processor = load_model(str(siglip))
    ids = sentencepiece.SentencePieceProcessor(model_file=str(siglip / "spiece.model")).encode("a dog")
    padded = torch.ones(1, 64, dtype=torch.long)  # 1 is the end of a text and the padding
    padded[0, : len(ids)] = torch.tensor(ids)
    with torch.no_grad():
        expected = model.eval().get_text_features(input_ids=padded).pooler_output

    texts = ["A dog!", "a photo of a Red Apple and a dog face."]
    got = embed_texts(model, processor, texts, normalize_embeddings=False)
    torch.testing.assert_close(got[:1], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(is_protobuf_available(), reason="protobuf is installed")
def test_what_a_tokenizer_lacks_is_named(siglip):
    with pytest.raises(InputError, match="(?s)cannot be loaded.*protobuf"):
        load_model(str(siglip))


def test_the_revision_is_that_of_the_cache(tmp_path, monkeypatch):
    """Lay out a cache as `huggingface_hub` does; a folder has no revision."""
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
    both = f"{commits['org/text']}+{commits['org/clip']}"
    assert revision_of("sentence_transformers:org/text+org/clip") == both
    assert revision_of("m_clip:org/text+open_clip:hf-hub:org/clip") == both
    assert revision_of("org/other") is None
    assert revision_of(str(tmp_path)) is None
