"""Random models of realistic sizes, and texts and images, as inputs of comparisons."""

import json
import random
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

from common.files.whole_files import write_text
from modeling_altclip import AltCLIPConfig, AltCLIPModel, AltCLIPProcessor

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# Words in Latin, Cyrillic, Greek, Arabic, Devanagari, Thai, Han, kana and Hangul.
WORDS = {
    "en": "red green tall small old wooden dog cat house river tree boat bridge child market lamp".split(),
    "ru": "красный зелёный высокий старый собака кошка дом река дерево лодка мост ребёнок рынок".split(),
    "el": "κόκκινο πράσινο ψηλό παλιό σκύλος γάτα σπίτι ποτάμι δέντρο βάρκα γέφυρα παιδί αγορά".split(),
    "ar": "أحمر أخضر طويل قديم كلب قطة بيت نهر شجرة قارب جسر طفل سوق مصباح".split(),
    "hi": "लाल हरा लंबा पुराना कुत्ता बिल्ली घर नदी पेड़ नाव पुल बच्चा बाज़ार दीपक".split(),
    "th": "แดง เขียว สูง เก่า หมา แมว บ้าน แม่น้ำ ต้นไม้ เรือ สะพาน เด็ก ตลาด".split(),
    "zh": "红色 绿色 高 旧 狗 猫 房子 河 树 船 桥 孩子 市场 灯".split(),
    "ja": "あかい みどり たかい ふるい いぬ ねこ いえ かわ き ふね はし こども いちば ランプ".split(),
    "ko": "빨간 초록 높은 오래된 개 고양이 집 강 나무 배 다리 아이 시장 램프".split(),
}


def train_tokenizer(texts: list[str], vocab_size: int = 8005) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with XLM-R's special tokens, at the ids that XLM-R gives them."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The ids of special tokens are their places in `_SPECIAL`.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    roles = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    tokens = dict(zip(roles, _SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=77, **tokens)


def save_model(folder: Path, tokenizer: PreTrainedTokenizerFast, shape: dict) -> None:
    """Save a random AltCLIP with its processor.

    Args:
        shape: `width` and `layers` of both towers (768 and 12 are XLM-R base with ViT-B/32); `image_layers`
            where the image tower has others; `vocab_size`, 250,002 in XLM-R.
    """
    torch.manual_seed(0)
    tower = {
        "hidden_size": shape["width"],
        "intermediate_size": 4 * shape["width"],
        "num_attention_heads": shape["width"] // 64,
    }
    text = tower | {
        "num_hidden_layers": shape["layers"],
        "vocab_size": shape["vocab_size"],
        "project_dim": 512,
        # Both sides of a training have to find the same loss.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    n_image_layers = shape.get("image_layers", shape["layers"])
    config = AltCLIPConfig(
        text_config=text,
        vision_config=tower | {"num_hidden_layers": n_image_layers, "patch_size": 32},
        projection_dim=512,
    )
    AltCLIPModel(config).save_pretrained(folder)
    AltCLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)


def draw_texts(n_texts: int, languages: list[str], most_words: int) -> list[str]:
    """Draw distinct texts of random words, of 1 to `most_words` words, all numbers of words equally often."""
    draw = random.Random(0)
    return _draw(draw, n_texts, languages, lambda: draw.randint(1, most_words))


def draw_captions(n_texts: int, languages: list[str], lengths: dict) -> list[str]:
    """Draw distinct texts of random words, with as many words as captions have: a few are much longer.

    Args:
        lengths: `log_mean` and `log_deviation` of the number of words, whose logarithm is normal, and what
            it is clipped to, `least` and `most`.
    """
    draw = random.Random(0)

    def length() -> int:
        drawn = round(draw.lognormvariate(lengths["log_mean"], lengths["log_deviation"]))
        return min(max(drawn, lengths["least"]), lengths["most"])

    return _draw(draw, n_texts, languages, length)


def _draw(draw: random.Random, n_texts: int, languages: list[str], length: Callable[[], int]) -> list[str]:
    texts = {}
    for language in cycle(languages):
        words = draw.choices(WORDS[language], k=length())
        # A number makes short texts distinct: there are only so many of one word.
        texts[" ".join([*words, str(len(texts))])] = None
        if len(texts) == n_texts:
            return list(texts)


def draw_images(n_images: int, width: int, height: int) -> Iterator[Image.Image]:
    """Draw smooth random images, which compress as photographs do."""
    draw = np.random.default_rng(0)
    for _ in range(n_images):
        small = draw.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
        noise = draw.integers(-12, 13, smooth.shape)
        yield Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def save_list(path: Path, values: list) -> None:
    write_text(path, json.dumps(values, ensure_ascii=False))
