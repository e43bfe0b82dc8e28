"""embed_texts and embed_images: order, equality with the plain forward, bad input."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PillowImage
from transformers import SiglipConfig, SiglipModel

from modeling_altclip import AltCLIPModel, embed_images, embed_texts


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


def test_the_mode_of_every_module_is_kept(model, processor):
    """A frozen tower in a model that trains stays in eval mode."""
    model.train()
    model.vision_model.eval()
    before = {name: module.training for name, module in model.named_modules()}
    embed_texts(model, processor, ["key"])
    assert {name: module.training for name, module in model.named_modules()} == before and len(set(before.values())) == 2


def test_siglip_is_padded_as_it_was_trained(processor):
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 5000}
    siglip = SiglipModel(SiglipConfig(text_config=text, vision_config={"image_size": 32, "patch_size": 8} | text)).eval()
    processor.tokenizer.model_max_length = 64
    texts = processor.tokenizer(["key"], padding="max_length", max_length=64, return_tensors="pt")
    with torch.no_grad():
        expected = torch.nn.functional.normalize(siglip.get_text_features(**texts).pooler_output, dim=-1)
    torch.testing.assert_close(embed_texts(siglip, processor, ["key", "dog face and umbrella"])[:1], expected, atol=1e-5, rtol=1e-5)


def test_generators_are_read_a_window_at_a_time(model, processor):
    """64 batches are held, no more; the result is that of the list, whatever the windows."""
    texts = [f"key {number % 7} bell " * (number % 5 + 1) for number in range(700)]
    ahead = []

    def stream():
        for number, text in enumerate(texts):
            ahead.append(number)
            yield text

    seen = []
    plain = model.get_text_features
    model.get_text_features = lambda **inputs: seen.append(len(ahead)) or plain(**inputs)
    streamed = embed_texts(model, processor, stream(), batch_size=2)
    assert seen[0] == 128 and seen[-1] == 700
    torch.testing.assert_close(streamed, embed_texts(model, processor, texts), atol=1e-5, rtol=1e-5)


def test_images_from_a_generator_of_paths(model, processor, tmp_path):
    read = []
    for number, color in enumerate(("red", "green", "blue")):
        PillowImage.new("RGB", (32, 32), color).save(tmp_path / f"{number}.png")

    def stream():
        for number in range(3):
            read.append(number)
            yield tmp_path / f"{number}.png"

    embeds = embed_images(model, processor, stream(), batch_size=1, convert_to_numpy=True)
    expected = embed_images(model, processor, [PillowImage.open(path) for path in sorted(tmp_path.glob("*.png"))])
    assert isinstance(embeds, np.ndarray) and np.allclose(embeds, expected, atol=1e-6) and read == [0, 1, 2]


def test_half_precision_models_give_float32(model, processor):
    embeds = embed_texts(model.bfloat16(), processor, ["key", "bell"])
    assert embeds.dtype == torch.float32
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(2))


def test_the_tqdm_bar_ends_at_the_number_of_texts(model, processor, capsys):
    embed_texts(model, processor, ["key", "bell", "key"] * 5, batch_size=2, show_progress=True)
    assert "15/15" in capsys.readouterr().err


def test_bad_input_is_named(model, processor):
    with pytest.raises(ValueError, match=r"texts\[1\] is None"):
        embed_texts(model, processor, ["key", None])
    with pytest.raises(ValueError, match=r"texts\[130\] is 7"):
        embed_texts(model, processor, (7 if number == 130 else "key" for number in range(200)), batch_size=1)
    with pytest.raises(ValueError, match=r"images\[2\] cannot be read: it is a NoneType"):
        embed_images(model, processor, iter([PillowImage.new("RGB", (32, 32))] * 2 + [None]), batch_size=1)
    with pytest.raises(ValueError, match="texts is a single str: put it into a list"):
        embed_texts(model, processor, "key")
    with pytest.raises(ValueError, match="images is a single Image: put it into a list"):
        embed_images(model, processor, PillowImage.new("RGB", (32, 32)))
    with pytest.raises(ValueError, match="no texts to embed"):
        embed_texts(model, processor, [])
    with pytest.raises(ValueError, match="no texts to embed"):
        embed_texts(model, processor, iter([]))
    with pytest.raises(ValueError, match="no images to embed"):
        embed_images(model, processor, [])
