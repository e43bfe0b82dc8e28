"""No input takes unbounded work: texts are cut before they are tokenized, images bounded before decoding."""

import random
from contextlib import contextmanager

import pytest
from PIL import Image
from transformers import BertTokenizer, CLIPImageProcessor

from benchmarks.encoder import Encoder
from common.models.adapter import AdaptedTokenizer
from modeling_altclip import AltCLIPModel, AltCLIPProcessor, AltCLIPZeroShotPipeline, embed_texts
from modeling_altclip.texts_altclip import cut_texts, tokenize
from training.data.examples import Collator
from training.miniature.scenes import read_concepts
from training.miniature.vocabulary import train_english_tokenizer, train_multilingual_tokenizer
from training.parallel.pretraining import MaskingCollator

MEGABYTES = 3_000_000  # characters
WORDS = "the quick brown fox jumps over a lazy dog 敏捷的棕色狐狸跳过懒狗 ภาพถ่ายของสุนัข кошка собака".split()
ALPHABETS = {
    "words": [*(f"{word} " for word in WORDS), "x", "\n", "."],
    "one word": list("abcdefghijklmnopqrstuvwxyzäß"),
    "one word of another script": list("敏捷的棕色狐狸跳过懒狗人大小中上下天"),
    "spaces": [" ", "  " * 50, "\t", "\u3000", "a", "dog"],
    "without width": ["\u200b", "\u200d" * 20, "\ufeff", "a", "dog", " "],
    "combining": ["e\u0301", "a\u0308\u0301", "o", "n\u0303", " "],
    "unknown": list("𝔘𝔫𝔨𓀀𓀁𒀀🜁🜂"),
    "unknown words": ["𓀀𓀁 ", "𒀀𒀀𒀀 ", "dog "],
}


@pytest.fixture(scope="module")
def tokenizers():
    sample = [" ".join(WORDS), "".join(ALPHABETS["one word"])]
    for words in read_concepts()["languages"].values():
        sample += words["names"]
    pieces = sorted({character for text in sample for character in text} - {" "})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *(f"##{piece}" for piece in pieces)]
    return {
        "unigram": train_multilingual_tokenizer(sample, 1500),
        "bpe": train_english_tokenizer(sample, 1500),
        "wordpiece": BertTokenizer(
            vocab={token: number for number, token in enumerate(vocabulary)}, model_max_length=77
        ),
    }


def long_text(alphabet: str, n_characters: int, seed: int) -> str:
    """Return a text of at least so many random pieces of an alphabet."""
    drawn = random.Random(f"{alphabet} {seed}")
    pieces = []
    length = 0
    while length < n_characters:
        piece = drawn.choice(ALPHABETS[alphabet])
        pieces.append(piece)
        length += len(piece)
    return "".join(pieces)


@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("alphabet", list(ALPHABETS))
def test_the_kept_tokens_are_those_of_the_uncut_text(tokenizers, kind, side, alphabet):
    tokenizer = tokenizers[kind]
    tokenizer.truncation_side = side
    for seed in range(3):
        text = long_text(alphabet, 8_000, seed)
        for max_length in (16, 77):
            options = {"truncation": True, "max_length": max_length}
            expected = tokenizer(text, **options)["input_ids"]
            assert tokenize(tokenizer, text, **options)["input_ids"] == expected
            assert tokenize(tokenizer, [text, "dog"], **options)["input_ids"][0] == expected


@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece"])
def test_long_texts_are_cut_and_others_are_not(tokenizers, kind):
    tokenizer = tokenizers[kind]
    tokenizer.truncation_side = "right"
    long = "dog " * 10_000
    (short, cut) = cut_texts(tokenizer, ["x" * 64 * 77, long], 77)
    assert short == "x" * 64 * 77
    assert len(cut) <= 64 * 77
    assert long.startswith(cut)
    assert cut.endswith("dog")  # no word is cut in two
    assert cut_texts(tokenizer, long, None) == long


@pytest.mark.parametrize("first", [" " * 30_000, "\u200b" * 30_000, "𓀀" * 30_000])
def test_what_has_no_tokens_pushes_no_word_out(tokenizers, first):
    tokenizer = tokenizers["unigram"]
    tokenizer.truncation_side = "right"
    options = {"truncation": True, "max_length": 77}
    text = f"{first} dog"
    assert tokenize(tokenizer, text, **options)["input_ids"] == tokenizer(text, **options)["input_ids"]


@contextmanager
def texts_read(tokenizer):
    """Yield a list that gets every text that a tokenizer is given."""
    read = []

    class Recording(type(tokenizer)):
        def __call__(self, text, *pairs, **options):
            for given in (text, *pairs, options.get("text_pair") or []):
                read.extend([given] if isinstance(given, str) else given)
            return super().__call__(text, *pairs, **options)

    own_class = tokenizer.__class__
    tokenizer.__class__ = Recording
    yield read
    tokenizer.__class__ = own_class


@pytest.mark.parametrize(
    "text", ["x" * MEGABYTES, "𓀀" * MEGABYTES, " " * MEGABYTES, "dog " * (MEGABYTES // 4)]
)
def test_little_of_a_text_of_megabytes_is_tokenized(tokenizers, text):
    tokenizer = tokenizers["unigram"]
    with texts_read(tokenizer) as read:
        tokenize(tokenizer, text, truncation=True, max_length=77)
    assert 0 < sum(map(len, read)) < 3 * 4096 * 77


WORD = "dog" * (MEGABYTES // 3)
DOORS = {
    "processor": lambda processor, model: processor(text=[WORD, "cat"]),
    "processor, one text": lambda processor, model: processor(text=WORD, return_tensors="pt"),
    "processor, padded by number": lambda processor, model: processor(text=[WORD], padding="max_length"),
    "processor, pairs": lambda processor, model: processor(
        text=["cat"], text_pair=[WORD], return_tensors="pt"
    ),
    "embed_texts": lambda processor, model: embed_texts(model, processor, ["cat", WORD]),
    "pipeline": lambda processor, model: AltCLIPZeroShotPipeline(
        model=model, tokenizer=processor.tokenizer, image_processor=processor.image_processor
    )(Image.new("RGB", (8, 8)), [WORD, "cat"]),
    "encoder": lambda processor, model: Encoder(model, processor).classes([WORD, "cat"], ["a {}"]),
    "training": lambda processor, model: Collator(processor.tokenizer, 77).encode([WORD, "cat"]),
    "masked training": lambda processor, model: MaskingCollator(processor.tokenizer, 77, 0.5)(
        [{"texts": [WORD, WORD], "seed": 0}]
    ),
}


@pytest.fixture
def processor(tokenizers):
    size = {"height": 32, "width": 32}
    return AltCLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tokenizers["unigram"])


@pytest.mark.parametrize("door", list(DOORS))
def test_every_door_cuts_texts_first(processor, config, door):
    config.text_config.vocab_size = len(processor.tokenizer)
    model = AltCLIPModel(config).eval()
    with texts_read(processor.tokenizer) as read:
        DOORS[door](processor, model)
    assert any("dogdog" in text for text in read)
    assert max(map(len, read)) <= 64 * 77


def test_texts_that_are_not_truncated_are_not_cut(processor):
    text = "dog " * 2000
    ids = processor(text=text, truncation=False)["input_ids"]
    assert len(ids) >= 2000
    options = {"truncation": True, "max_length": 8, "return_overflowing_tokens": True}
    parts = tokenize(processor.tokenizer, text, **options)["input_ids"]
    assert sum(map(len, parts)) >= 2000


def test_texts_of_other_libraries_are_cut():
    given = []
    tokenizer = AdaptedTokenizer(lambda texts: given.extend(texts) or {}, model_max_length=77)
    tokenizer([WORD, "cat"])
    assert given == [WORD[: 64 * 77], "cat"]
