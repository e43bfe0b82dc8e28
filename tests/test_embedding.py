"""embed_texts and embed_images: order, equality with the plain forward, bad input."""

import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PillowImage
from transformers import AutoTokenizer, CLIPImageProcessor

from modeling_altclip import AltCLIPModel, AltCLIPProcessor, embed_images, embed_texts


@pytest.fixture
def processor(miniature):
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return AltCLIPProcessor(image_processor, AutoTokenizer.from_pretrained(miniature / "text_encoder"))


@pytest.fixture
def model(config, processor):
    config.text_config.vocab_size = len(processor.tokenizer)
    torch.manual_seed(0)
    return AltCLIPModel(config)


def test_texts_come_back_in_order(model, processor):
    texts = ["key", "dog face and umbrella with rain drops", "key", "", "狗脸和钥匙", "bell"]
    embeds = embed_texts(model, processor, texts, batch_size=2)
    assert embeds.shape == (6, 20) and embeds.dtype == torch.float32
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(6))
    model.eval()
    for text, embed in zip(texts, embeds):
        plain = model.get_text_features(**processor.tokenizer([text], return_tensors="pt")).pooler_output[0]
        torch.testing.assert_close(embed, plain / plain.norm(), atol=1e-5, rtol=1e-5)


def test_equal_texts_are_encoded_once(model, processor, monkeypatch):
    rows = []
    plain = model.get_text_features
    monkeypatch.setattr(model, "get_text_features", lambda **inputs: rows.append(len(inputs["input_ids"])) or plain(**inputs))
    embed_texts(model, processor, ["key", "bell", "key", "key"])
    assert sum(rows) == 2


def test_images_from_a_list_and_from_a_dataset_column(model, processor):
    images = [PillowImage.new("RGB", (40, 32), color) for color in ("red", "green", "blue")]
    column = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))["image"]
    embeds = embed_images(model, processor, images, batch_size=2)
    torch.testing.assert_close(embeds, embed_images(model, processor, column, batch_size=3), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(3))


def test_the_mode_of_the_model_is_kept(model, processor):
    model.train()
    embed_texts(model, processor, ["key"])
    assert model.training


def test_bad_input_is_named(model, processor):
    with pytest.raises(ValueError, match=r"texts\[1\] is None"):
        embed_texts(model, processor, ["key", None])
    with pytest.raises(ValueError, match="no texts to embed"):
        embed_texts(model, processor, [])
    with pytest.raises(ValueError, match="no images to embed"):
        embed_images(model, processor, [])
