"""Texts on their way to embeddings: padding on either side, positions that encoders do not read, odd
tokenizers, and threads.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from threading import Barrier, Event
from unicodedata import category

import pyarrow as pa
import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import normalize
from transformers import (
    BertConfig,
    BertJapaneseTokenizer,
    CamembertConfig,
    CanineConfig,
    CanineTokenizer,
    MPNetConfig,
    RobertaConfig,
    ViTConfig,
    XLMRobertaConfig,
    XLMRobertaXLConfig,
    XmodConfig,
)

from benchmarks.encoder import CachedEncoder
from common.errors import InputError
from common.fingerprints import written
from common.models.loading import load_model
from modeling_altclip import (
    AltCLIPDualEncoderConfig,
    AltCLIPDualEncoderModel,
    AltCLIPModel,
    AltCLIPProcessor,
    AltCLIPZeroShotPipeline,
    embed_texts,
)
from modeling_altclip.texts_altclip import is_blank, readable_tokens
from training.data.examples import Collator, has_text
from training.data.tower_cache import check_distinct

ENCODER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
# Of unequal lengths, the longest in the middle.
TEXTS = ["dog face", "dog face and key and red apple and bell and fish", "key"]
LONG = "dog face and key " * 40


@pytest.fixture
def model(miniature):
    torch.manual_seed(0)
    return AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder")).eval()


JAPANESE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "犬", "猫"]


@pytest.fixture
def classify(model, processor):
    """Return the zero-shot pipeline of the model."""
    return AltCLIPZeroShotPipeline(
        model=model, tokenizer=processor.tokenizer, image_processor=processor.image_processor
    )


def dual_encoder(text_config):
    """Return an untrained dual encoder with this text tower."""
    torch.manual_seed(0)
    vision = ViTConfig(image_size=32, patch_size=8, **ENCODER)
    config = AltCLIPDualEncoderConfig(text_config=text_config, vision_config=vision, projection_dim=16)
    return AltCLIPDualEncoderModel(config).eval()


def one_by_one(model, processor, texts):
    """Return the embeddings of texts that are encoded alone, without padding."""
    return torch.cat([embed_texts(model, processor, [text]) for text in texts])


@pytest.mark.parametrize("text_tower", ["altclip", "bert"])
def test_a_tokenizer_that_pads_on_the_left_changes_nothing(model, processor, text_tower):
    """Check BERT, too: it counts positions from the left, padding included, so texts have to be padded on the
    right.
    """
    if text_tower == "bert":
        model = dual_encoder(BertConfig(vocab_size=len(processor.tokenizer), **ENCODER))
    expected = one_by_one(model, processor, TEXTS)
    processor.tokenizer.padding_side = "left"
    torch.testing.assert_close(embed_texts(model, processor, TEXTS), expected, atol=1e-5, rtol=1e-4)
    # Padding on the right leaves the first column full.
    batch = Collator(processor.tokenizer, 77).encode(TEXTS)
    assert batch["attention_mask"][:, 0].all()


def test_the_text_tower_pools_the_first_token_behind_padding_on_the_left(model, processor):
    expected = one_by_one(model, processor, TEXTS)
    inputs = processor(text=TEXTS, padding_side="left", return_tensors="pt")
    assert not inputs["attention_mask"][0, 0]
    with torch.no_grad():
        pooled = model.get_text_features(**inputs).pooler_output
    torch.testing.assert_close(normalize(pooled, dim=-1), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "config_class",
    [
        RobertaConfig,
        CamembertConfig,
        XLMRobertaConfig,
        XLMRobertaXLConfig,
        XmodConfig,
        MPNetConfig,
        BertConfig,
    ],
)
def test_texts_are_cut_at_what_an_encoder_reads(processor, config_class):
    """Check encoders that number positions in two ways.

    All but BERT number them from the one behind their padding's, and read two tokens fewer than they have
    positions.
    """
    positions = 40
    config = config_class(
        vocab_size=len(processor.tokenizer), max_position_embeddings=positions, pad_token_id=1, **ENCODER
    )
    if config_class is XmodConfig:
        config.default_language = config.languages[0]
    model = dual_encoder(config)
    assert readable_tokens(model) == (positions if config_class is BertConfig else positions - 2)

    beside_a_long_text = embed_texts(model, processor, [LONG, *TEXTS])[1:]
    expected = embed_texts(model, processor, TEXTS)
    torch.testing.assert_close(beside_a_long_text, expected, atol=1e-5, rtol=1e-4)

    processor.tokenizer.model_max_length = positions  # a tokenizer that states the configuration's number
    inputs = processor(text=[LONG], return_tensors="pt")
    with torch.no_grad():
        assert model.get_text_features(**inputs).pooler_output.isfinite().all()


def test_a_text_tower_of_77_positions_is_not_overrun(processor):
    config = XLMRobertaConfig(
        vocab_size=len(processor.tokenizer), max_position_embeddings=77, pad_token_id=1, **ENCODER
    )
    assert processor.tokenizer.model_max_length == 77
    assert embed_texts(dual_encoder(config), processor, [LONG]).isfinite().all()


def japanese_tokenizer(folder, vocabulary=JAPANESE):
    """Return a tokenizer that is written in Python, with its vocabulary in a folder."""
    folder.mkdir(exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(vocabulary), "utf-8")
    return BertJapaneseTokenizer(str(path), word_tokenizer_type="basic", subword_tokenizer_type="character")


@pytest.mark.parametrize("name", ["Japanese BERT", "Canine"])
def test_tokenizers_written_in_python_work(processor, tmp_path, name):
    if name == "Canine":
        tokenizer = CanineTokenizer(model_max_length=77)
        config = CanineConfig(**ENCODER)
    else:
        tokenizer = japanese_tokenizer(tmp_path / "ja")
        config = BertConfig(vocab_size=20, **ENCODER)
    assert not tokenizer.is_fast

    model = dual_encoder(config)
    processor = AltCLIPProcessor(processor.image_processor, tokenizer)
    encoder = CachedEncoder(model, processor, cache_dir=str(tmp_path / "cache"))
    # The last one is truncated.
    texts = ["犬", "猫犬", "犬" * 200]
    expected = embed_texts(model, processor, texts)
    torch.testing.assert_close(encoder.texts(texts), expected, atol=1e-5, rtol=1e-4)


def test_tokenizers_written_in_python_are_told_apart(tmp_path):
    tokenizer = japanese_tokenizer(tmp_path / "one")
    described = written(tokenizer)
    assert described == written(japanese_tokenizer(tmp_path / "elsewhere"))
    # A call leaves its lengths in the tokenizer, and makes it no other one.
    tokenizer(["犬"], padding="max_length", max_length=9)
    assert described == written(tokenizer)

    swapped = [*JAPANESE[:-2], "猫", "犬"]
    assert described != written(japanese_tokenizer(tmp_path / "one", swapped))


@pytest.mark.parametrize("half", ["cut \ud83d", "\ude00 cut"])
def test_half_of_a_character_is_refused_by_its_index(model, processor, classify, half):
    texts = ["dog face", half]
    with pytest.raises(ValueError, match=r"texts\[1\] is .* is half of a character"):
        embed_texts(model, processor, texts)
    with pytest.raises(ValueError, match=r"text\[1\] is .* is half of a character"):
        processor(text=texts, return_tensors="pt")
    with pytest.raises(ValueError, match=r"candidate_labels\[1\] is .* is half of a character"):
        classify(Image.new("RGB", (40, 40)), texts)
    with pytest.raises(ValueError, match=r"text_pair\[1\] is .* is half of a character"):
        processor(text=["key", "bell"], text_pair=texts)

    # The two halves of U+1F600, which UTF-16 writes as a pair.
    whole = "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")
    assert len(embed_texts(model, processor, [whole])) == 1


def without_special_tokens(tokenizer):
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A", pair="$A $B", special_tokens=[]
    )


def test_a_text_longer_than_a_model_reads_is_refused_by_its_index(model, classify):
    model.config.text_config.max_position_embeddings = 40
    with pytest.raises(ValueError, match=r"texts\[1\] has 60 tokens, but the model reads \d+ at most"):
        classify(Image.new("RGB", (40, 40)), ["key", LONG], tokenizer_kwargs={"max_length": 60})


def test_tokens_that_a_model_cannot_read_are_refused_by_their_index(model, processor):
    """Refuse them before torch says "index out of range in self", or makes an embedding of padding that
    depends on the batch.
    """
    # The new token's id is the size of the vocabulary, for which the model has no row.
    processor.tokenizer.add_tokens(["zebra"])
    message = r"texts\[2\] has the token \d+, but the model's vocabulary ends before \d+: take the tokenizer"
    with pytest.raises(ValueError, match=message):
        embed_texts(model, processor, iter(["key", "dog face", "zebra"]))

    without_special_tokens(processor.tokenizer)
    for texts in ([""], [*TEXTS, ""]):
        with pytest.raises(ValueError, match=rf"texts\[{len(texts) - 1}\] has no token, and so no vector"):
            embed_texts(model, processor, texts)


def test_a_fork_leaves_no_lock_behind(processor):
    """Fork workers as a data loader does, while a thread of this process has texts cut."""
    ended = Event()

    def work():
        while not ended.is_set():
            processor(text=TEXTS)

    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(work)
        workers = [get_context("fork").Process(target=processor, kwargs={"text": TEXTS}) for _ in range(5)]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                # Seconds. A worker that inherited a held lock would wait for ever.
                worker.join(20)
            assert [worker.exitcode for worker in workers] == [0] * len(workers)
        finally:
            ended.set()
            for worker in workers:
                worker.kill()
        busy.result()


def clip_that_looks_for(end, miniature, tmp_path):
    """Copy a CLIP, and set the token that its configuration gives as the end of texts; return its folder."""
    shutil.copytree(miniature / "clip", tmp_path / "clip")
    path = tmp_path / "clip/config.json"
    config = json.loads(path.read_text("utf-8"))
    config["text_config"]["eos_token_id"] = end
    path.write_text(json.dumps(config), "utf-8")
    return str(tmp_path / "clip")


# The end of texts in CLIP's own vocabulary, which the miniature's does not have, and none at all.
@pytest.mark.parametrize("end", [49407, None])
def test_a_teacher_that_looks_for_another_end_of_texts_is_refused(miniature, tmp_path, end):
    """Refuse it because it would pool the first token of every text."""
    folder = clip_that_looks_for(end, miniature, tmp_path)
    message = f"looks for token {end} at the end of texts, and its tokenizer writes"
    with pytest.raises(InputError, match=message):
        load_model(folder)


def test_a_teacher_that_gives_all_texts_one_vector_is_refused():
    check_distinct(torch.tensor([[1.0, 2.0], [1.0, 2.5]]))
    check_distinct(torch.tensor([[1.0, 2.0]]))
    with pytest.raises(InputError, match="the teacher gives 3 texts one embedding"):
        check_distinct(torch.ones(3, 2))


def test_a_teacher_that_pools_the_right_token_is_loaded(miniature, tmp_path):
    """Load the tokenizer's own end of texts, and 2.

    2 stands in configurations of old, by which CLIP pools the highest id.
    """
    load_model(str(miniature / "clip"))
    load_model(clip_that_looks_for(2, miniature, tmp_path))


def in_threads(calls):
    """Run each call in a thread of its own, all begun together; return their results."""
    ready = Barrier(len(calls))

    def run(call):
        ready.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_threads_share_a_model_and_a_processor(model, processor):
    """Cut texts at lengths of their own in some threads, through the same tokenizer, and embed in others.

    To embed, the model is put into eval mode and back.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            # A forward in training mode would show.
            module.p = 0.5
    long = [f"{LONG} {text}" for text in TEXTS]
    expected = embed_texts(model, processor, long)
    collator = Collator(processor.tokenizer, 10)

    def largest_error():
        errors = [(embed_texts(model, processor, long) - expected).abs().max().item() for _ in range(20)]
        return max(errors)

    def lengths_of_processor():
        lengths = set()
        for _ in range(100):
            inputs = processor(text=long, max_length=6, return_tensors="pt")
            lengths.add(inputs["input_ids"].shape[1])
        return lengths

    def lengths_of_collator():
        return {collator.encode(long)["input_ids"].shape[1] for _ in range(100)}

    # Three threads of each kind, in turn: results 0, 3 and 6 are errors, and so on.
    results = in_threads([largest_error, lengths_of_processor, lengths_of_collator] * 3)
    assert max(results[0::3]) < 1e-5
    assert results[1::3] == [{6}] * 3
    assert results[2::3] == [{10}] * 3
    assert all(module.training for module in model.modules())


def test_threads_share_a_pipeline(classify):
    """Ask for more sets of labels than the pipeline keeps, so that some are dropped while others are made."""
    picture = Image.new("RGB", (40, 40), "red")

    def work():
        scores = []
        for number in range(40):
            answer = classify(picture, [f"dog face {number}", f"key {number}", "bell"])
            scores.append([entry["score"] for entry in answer])
        return torch.tensor(scores)

    expected = work()
    for scores in in_threads([work] * 4):
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "text", ["", " \t\n", "\u3000\xa0", "\u200b", "\ufeff", "\u200e \u200f", "\xad", "\x00"]
)
def test_what_shows_nothing_is_blank(text):
    assert is_blank(text)
    assert not is_blank(f"{text}狗{text}")


def test_rows_are_blank_as_texts_are():
    """Compare for every character that both know.

    Arrow's tables of Unicode are newer than those of some Pythons.
    """
    characters = [chr(code) for code in range(0x20000) if not 0xD800 <= code < 0xE000]
    there = has_text(pa.array([*characters, None, "a\u200b"], pa.large_string()))
    # One says what shows something, the other what does not: equal values contradict each other.
    differ = [character for character, has in zip(characters, there) if has == is_blank(character)]
    assert all(category(character) == "Cn" for character in differ)
    assert len(differ) < 100
    assert there[-2:].tolist() == [False, True]
