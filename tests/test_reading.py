"""Texts are read as each model was trained: SigLIP's canonical texts, lengths, padding and masks."""

import string
import sys
from unicodedata import normalize

import pytest
import torch
import transformers
from tokenizers.normalizers import NFC, Lowercase, Replace, Sequence, Strip
from transformers import AutoProcessor, AutoTokenizer

from common.fingerprints import prepared_texts
from common.models.loading import load_model, save_model
from modeling_altclip import embed_texts
from modeling_altclip.prompts_altclip import PROMPTS
from modeling_altclip.reading_altclip import TextReading, canonical_tokenizer, canonicalize, text_reading
from modeling_altclip.texts_altclip import text_options

from .conftest import ROOT, VISION
from .environments import build_environment, run_in
from .test_any_model import (
    CHARACTERS,
    ENCODER,
    FAMILIES,
    IMAGES,
    clip_tokenizer,
    gemma_tokenizer,
    image_processor,
    numbered,
    roberta_tokenizer,
    saved,
)
from .test_any_model import siglip as siglip_of_2023  # noqa: F401  (a fixture)

CANONICAL = {
    "A photo of a Dog.": "a photo of a dog",
    "test___test, {}": "test test",
    "don't, don’t, “don‘t”": "dont dont dont",
    "  white\tspace\n\n of\u3000all\xa0kinds \u2028": "white space of all kinds",
    # Σ at the end of a word, within one, alone, before a mark, and after one
    "ΟΔΟΣ ΣΑΣ Σ ΑΣ\u0301 \u02b0Σ": "οδος σας σ ας\u0301 \u02b0σ",
    "İstanbul IŞIK": "i̇stanbul işik",
    "Ｔシャツ、１２３＿！": "tシャツ、123",
    "ﾊﾟﾝ ｱ": "パン ア",
    "ﬁsh ﬅ Ĳ": "fish ſt ij",
    "Việt Nam": "việt nam",
    "한국": "한국",
    "犬。「猫」、«chien» كلب، कुत्ता।": "犬。「猫」、«chien» كلب، कुत्ता।",
    "\ufeffa\x00b\x1fc": "abc",
    "?!": "",
    "": "",
    "a&b<c>": "abc",
    "🙂 Dog-🐶 𝐀": "🙂 dog🐶 𝐀",
}


@pytest.mark.parametrize("text", CANONICAL)
def test_canonical_texts(text):
    assert canonicalize(text) == CANONICAL[text]
    assert canonicalize(canonicalize(text)) == canonicalize(text)


def test_prompts_of_all_languages():
    """Where neither quotes nor widths have to be repaired, the texts are those of a few string methods."""
    without_punctuation = str.maketrans("", "", string.punctuation)
    n_texts = 0
    for templates in PROMPTS.values():
        for text in (*templates, *(template.upper() for template in templates)):
            expected = text.replace("_", " ").translate(without_punctuation).lower()
            assert canonicalize(text) == " ".join(normalize("NFC", expected).split())
            n_texts += 1
    assert n_texts > 100


TOKENIZERS = {
    "gemma": lambda: gemma_tokenizer(transformers.GemmaTokenizer),
    "siglip_2_naflex": lambda: gemma_tokenizer(transformers.Siglip2Tokenizer),
    "xlm_roberta": lambda: roberta_tokenizer(model_max_length=64),
    "clip": lambda: clip_tokenizer(model_max_length=64),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_canonical_tokenizer_reads_canonical_texts(kind, tmp_path):
    own = TOKENIZERS[kind]()
    before = own.backend_tokenizer.to_str()
    canonical = canonical_tokenizer(own)
    canonical.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in CANONICAL:
        ids = own(canonicalize(text))["input_ids"]
        assert canonical(text)["input_ids"] == ids
        assert again(text)["input_ids"] == ids
    assert canonical("A Dog!")["input_ids"] != own("A Dog!")["input_ids"]

    assert own.backend_tokenizer.to_str() == before
    for name in ("model_max_length", "model_input_names", "padding_side", "special_tokens_map"):
        assert getattr(again, name) == getattr(own, name)
    assert canonical_tokenizer(canonical) is canonical
    assert canonical_tokenizer(again) is again


def test_a_tokenizer_with_other_steps_is_not_canonical():
    tokenizer = gemma_tokenizer(transformers.GemmaTokenizer)
    for normalizer in (None, NFC(), Sequence([]), Sequence([Replace(" ", "▁"), Lowercase(), Strip()])):
        tokenizer.backend_tokenizer.normalizer = normalizer
        assert canonical_tokenizer(tokenizer) is not tokenizer
        assert canonical_tokenizer(tokenizer)("A_b!")["input_ids"] == tokenizer("a b")["input_ids"]


SIGLIPS = ["siglip_2", "siglip_2_naflex"]
# Each text is the first one, written in another way.
SAME = ["a dog and a key", "A Dog, and a KEY!", "“a_dog” and\n\na (key)...", "Ａ ｄｏｇ and <a> key"]


@pytest.mark.parametrize("family", SIGLIPS)
def test_case_and_punctuation_do_not_change_a_siglips_target(family, tmp_path):
    saved(family, tmp_path)
    for model, processor in (
        load_model(str(tmp_path)),
        (transformers.AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)),
    ):
        same = embed_texts(model, processor, SAME)
        other = embed_texts(model, processor, ["a dog and a bell"])
        assert (same == same[0]).all()
        assert not torch.allclose(same[0], other[0], atol=1e-3)


def test_the_siglip_of_2023_reads_underscores_as_spaces(siglip_of_2023):  # noqa: F811
    """Its tokenizer canonicalizes by itself, but removes them."""
    pytest.importorskip("google.protobuf")
    model, processor = load_model(str(siglip_of_2023))
    same = embed_texts(model, processor, SAME)
    assert (same == same[0]).all()


def test_a_text_of_megabytes_is_cut_before_it_is_canonicalized(tmp_path, monkeypatch):
    saved("siglip_2", tmp_path)
    model, processor = load_model(str(tmp_path))
    lengths = []

    def counted(text):
        lengths.append(len(text))
        return canonicalize(text)

    monkeypatch.setattr("modeling_altclip.embedding.canonicalize", counted)
    long, short = embed_texts(model, processor, ["A dog, " * 100_000, "A dog, " * 100])
    assert max(lengths) == 4096 * 77
    torch.testing.assert_close(long, short, atol=0, rtol=0)
    processor.tokenizer.truncation_side = "left"
    embed_texts(model, processor, ["A dog, " * 100_000])
    assert max(lengths) == 700_000


def test_a_pipeline_with_the_loaded_tokenizer_reads_canonical_labels(tmp_path):
    saved("siglip_2", tmp_path)
    model, processor = load_model(str(tmp_path))
    parts = {"tokenizer": processor.tokenizer, "image_processor": processor.image_processor}
    classify = transformers.pipeline("zero-shot-image-classification", model=model, **parts)
    first, second, third = classify(IMAGES[0], ["A Dog!", "a_dog", "key"], hypothesis_template="{}")
    scores = {answer["label"]: answer["score"] for answer in (first, second, third)}
    assert scores["A Dog!"] == scores["a_dog"] != scores["key"]


@pytest.mark.parametrize("family", ["clip", "altclip"])
def test_other_models_read_punctuation(family, tmp_path):
    saved(family, tmp_path)
    with_stop, without = embed_texts(*load_model(str(tmp_path)), ["a dog.", "a dog"])
    assert not torch.allclose(with_stop, without, atol=1e-3)


def test_a_mask_of_a_siglips_tokenizer_is_not_used(tmp_path):
    """A tokenizer that states a mask gives the embeddings of one that does not."""
    saved("siglip_2", tmp_path)
    model, processor = load_model(str(tmp_path))
    without = embed_texts(model, processor, ["a dog", "key"])
    processor.tokenizer.model_input_names = ["input_ids", "attention_mask"]
    torch.testing.assert_close(embed_texts(model, processor, ["a dog", "key"]), without, atol=0, rtol=0)


def test_the_canonical_tokenizer_is_saved_with_the_model(tmp_path):
    """transformers alone reads the saved folder of a SigLIP as it was trained."""
    saved("siglip_2", tmp_path / "hub")
    save_model(*load_model(str(tmp_path / "hub")), tmp_path / "ours")
    plain = AutoProcessor.from_pretrained(tmp_path / "ours").tokenizer
    ids = plain(SAME)["input_ids"]
    assert all(row == ids[0] for row in ids)
    assert AutoProcessor.from_pretrained(tmp_path / "hub").tokenizer(SAME)["input_ids"][1] != ids[0]
    _, processor = load_model(str(tmp_path / "ours"))
    assert processor.tokenizer.backend_tokenizer.to_str() == plain.backend_tokenizer.to_str()


def test_caches_of_texts_that_were_not_canonical_are_not_read(tmp_path):
    saved("siglip_2", tmp_path)
    model, processor = load_model(str(tmp_path))
    raw = AutoProcessor.from_pretrained(tmp_path)
    assert prepared_texts(model, processor) != prepared_texts(model, raw)
    assert repr(text_reading(model)) in prepared_texts(model, raw)


def build_tipsv2():
    """Build a TIPSv2 with a CLIP's image processor: its own needs torchvision."""
    vocab = numbered(["<pad>", "<unk>", "▁", *CHARACTERS])
    tokenizer = transformers.Tipsv2Tokenizer(vocab=vocab, merges=[])
    text = ENCODER | {"vocab_size": len(vocab)}
    config = transformers.Tipsv2Config(text_config=text, vision_config=VISION | ENCODER)
    return transformers.Tipsv2Model(config), transformers.Tipsv2Processor(image_processor(), tokenizer)


@pytest.mark.parametrize("build", [build_tipsv2, FAMILIES["siglip_2_naflex"][0]])
def test_padding_and_length_are_those_of_the_models_own_processor(build):
    """Of transformers' processors these two state how texts are padded and truncated."""
    torch.manual_seed(0)
    model, processor = build()
    texts = ["A Dog", "a photo of a key", "umbrella " * 20]
    inputs = processor(text=[canonicalize(text) for text in texts], return_tensors="pt")
    assert inputs["input_ids"].shape == (3, 64)
    with torch.no_grad():
        expected = model.eval().get_text_features(**inputs).pooler_output
    # TIPSv2 reads capitals as small letters too.
    got = embed_texts(model, processor, texts, normalize_embeddings=False)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


READINGS = {
    "siglip_2": TextReading(is_canonical=True, attends_to_padding=True),
    "siglip_2_naflex": TextReading(is_canonical=True, attends_to_padding=True),
    "chinese_clip": TextReading(length=52),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_tower_alone_reads_as_its_model_does(family):
    build, length, padding = FAMILIES[family]
    model, processor = build()
    expected = READINGS.get(family, TextReading())
    assert text_reading(model) == expected
    options = text_options(processor.tokenizer, model)
    assert (options["max_length"], options["padding"]) == (length, padding)
    assert ("return_attention_mask" in options) == expected.attends_to_padding
    if family in READINGS:
        assert text_reading(model.text_model) == expected


@pytest.mark.slow
def test_the_strings_and_ids_of_open_clip(tmp_path, capsys):
    """Compare with open_clip itself, in an environment that has it."""
    python = build_environment(tmp_path / "venv", "--no-deps", "open_clip_torch", "ftfy", "wcwidth", "babel")
    folder = tmp_path / "tokenizer"
    gemma_tokenizer(transformers.GemmaTokenizer).save_pretrained(folder)
    process = run_in(python, ROOT / "tests/canonical_as_open_clip.py", folder)
    assert process.returncode == 0, process.stderr
    with capsys.disabled():
        sys.stdout.write(process.stdout)
    assert "500 of 500 strings are equal" in process.stdout
    assert "500 of 500 lists of ids are equal" in process.stdout
