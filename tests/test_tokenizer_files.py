"""A tokenizer that has not changed is saved in the bytes that it came in; one that has is written anew."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    BertTokenizer,
    EsmTokenizer,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from common.models.kinds import load_tokenizer
from common.models.loading import load_model, save_model
from modeling_altclip import AltCLIPProcessor
from modeling_altclip.checksums_altclip import find_damages
from modeling_altclip.reading_altclip import prompted_tokenizer
from modeling_altclip.tokenizer_files_altclip import remember_files
from training import TeacherLearningArguments
from training.jobs import stage1
from training.vocabulary import train_pieces

from .families import load_tokenizer_of, save_sentence_encoder, save_teacher

QUICK = {
    "max_steps": 1,
    "save_steps": 1,
    "per_device_train_batch_size": 4,
    "use_cpu": True,
    "report_to": [],
}
TEXTS = ["a dog and a key", "Ein rotes, rundes Ding"]
WORDS = "a dog and key red apple ein rotes rundes ding , . the of"


def word_piece(folder):
    letters = sorted(set(WORDS) - {" "})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), *letters]
    tokens += [f"##{letter}" for letter in letters]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    BertTokenizer(vocab=vocab).save_pretrained(folder)
    # Without its last line end, as some are.
    (folder / "vocab.txt").write_text("\n".join(vocab))
    return "bert"


def pieces(folder):
    lines = [" ".join(WORDS.split()[start:]) for start in range(12)] * 3
    scored, charsmap = train_pieces(lines, 60, hard_vocab_limit=False)
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    XLMRobertaTokenizer(vocab=special + scored, _spm_precompiled_charsmap=charsmap).save_pretrained(folder)
    # transformers would read it by protobuf, and does not where there is a tokenizer.json.
    (folder / "sentencepiece.bpe.model").write_bytes(charsmap)
    return "xlm-roberta"


def byte_pairs(folder):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("d", "o"), ("do", "g"), ("a", "n")]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *map("".join, merges)]
    vocab = {token: index for index, token in enumerate(tokens)}
    RobertaTokenizer(vocab=vocab, merges=merges).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab, indent=1))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)))
    return "roberta"


KINDS = {"word pieces": word_piece, "sentence pieces": pieces, "byte pairs": byte_pairs}
FILES = {
    "word pieces": {"tokenizer.json", "vocab.txt"},
    "sentence pieces": {"tokenizer.json", "sentencepiece.bpe.model"},
    "byte pairs": {"tokenizer.json", "vocab.json", "merges.txt"},
}


def spell_anew(path, **changes):
    """Write a `tokenizer.json` in another way than transformers does: indented, and in ASCII."""
    state = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps(dict(reversed(state.items())), indent=7, ensure_ascii=True), "ascii")


@pytest.fixture(params=KINDS)
def source(request, tmp_path):
    """Return the folder of a tokenizer, and the files that it is made of."""
    folder = tmp_path / "source"
    folder.mkdir()
    model_type = KINDS[request.param](folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    spell_anew(folder / "tokenizer.json")
    return folder, FILES[request.param]


@pytest.fixture
def images(processor):
    return processor.image_processor


def save(images, tokenizer, folder):
    """Save a processor with a tokenizer that was called, as a training does."""
    tokenizer(TEXTS, padding="max_length", truncation=True, max_length=4)
    AltCLIPProcessor(images, tokenizer).save_pretrained(folder)


def test_files_are_kept_byte_for_byte(source, images, tmp_path):
    folder, names = source
    tokenizer = load_tokenizer("model", str(folder))
    ids = tokenizer(TEXTS)["input_ids"]
    kept = {name: (folder / name).read_bytes() for name in names}
    shutil.rmtree(folder)  # they are kept, wherever the encoder is now
    save(images, tokenizer, tmp_path / "first")
    assert {name: (tmp_path / "first" / name).read_bytes() for name in names} == kept

    # What is loaded is the same, and keeps its files in its turn.
    loaded = AltCLIPProcessor.from_pretrained(tmp_path / "first")
    assert loaded.tokenizer(TEXTS)["input_ids"] == ids
    save(images, loaded.tokenizer, tmp_path / "second")
    assert {name: (tmp_path / "second" / name).read_bytes() for name in names} == kept
    assert AutoTokenizer.from_pretrained(tmp_path / "second")(TEXTS)["input_ids"] == ids


def test_a_changed_tokenizer_is_written_anew(source, images, tmp_path):
    folder, _ = source
    tokenizer = load_tokenizer("model", str(folder))
    tokenizer.add_tokens(["zebra"])
    prompted = prompted_tokenizer(load_tokenizer("model", str(folder)), "query: ")
    for name, changed in (("added", tokenizer), ("prompted", prompted)):
        ids = changed(["a zebra"])["input_ids"]
        save(images, changed, tmp_path / name)
        assert AltCLIPProcessor.from_pretrained(tmp_path / name).tokenizer(["a zebra"])["input_ids"] == ids
        assert (tmp_path / name / "tokenizer.json").read_bytes() != (folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("source", ["word pieces"], indirect=True)
def test_options_that_change_a_tokenizer_are_not_undone(source, images, tmp_path):
    """Its vocabulary stays, and the case of letters counts."""
    folder, _ = source
    save(images, load_tokenizer("model", str(folder)), tmp_path / "first")
    processor = AltCLIPProcessor.from_pretrained(tmp_path / "first", do_lower_case=False)
    processor.save_pretrained(tmp_path / "second")
    for name, lowers in (("first", True), ("second", False)):
        saved = json.loads((tmp_path / name / "tokenizer.json").read_text("utf-8"))
        assert saved["normalizer"]["lowercase"] is lowers


@pytest.mark.parametrize("called", [{"padding": True}, {"truncation": True, "max_length": 4}])
def test_padding_and_truncation_of_the_source_are_not_handed_on(source, images, tmp_path, called):
    """They would pass for those of the student: transformers takes them for what a tokenizer states."""
    folder, names = source
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer(TEXTS, **called)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    spell_anew(folder / "tokenizer.json", padding=state["padding"], truncation=state["truncation"])
    save(images, load_tokenizer("model", str(folder)), tmp_path / "first")
    saved = json.loads((tmp_path / "first/tokenizer.json").read_text("utf-8"))
    assert (saved["padding"], saved["truncation"]) == (None, None)
    for name in names - {"tokenizer.json"}:
        assert (tmp_path / "first" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("source", ["word pieces", "byte pairs"], indirect=True)
def test_files_without_a_tokenizer_json_are_kept(source, images, tmp_path):
    folder, names = source
    (folder / "tokenizer.json").unlink()
    tokenizer = load_tokenizer("model", str(folder))
    ids = tokenizer(TEXTS)["input_ids"]
    save(images, tokenizer, tmp_path / "first")
    for name in names - {"tokenizer.json"}:
        assert (tmp_path / "first" / name).read_bytes() == (folder / name).read_bytes()
    assert AltCLIPProcessor.from_pretrained(tmp_path / "first").tokenizer(TEXTS)["input_ids"] == ids


def test_a_file_that_lacks_tokens_is_not_kept(source, images, tmp_path):
    """Older folders add tokens in a file of their own, which is not saved."""
    folder, _ = source
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    token = {"content": "zebra", "special": False, "normalized": False, "single_word": False}
    number = str(len(AutoTokenizer.from_pretrained(folder)))
    settings["added_tokens_decoder"] = {number: token | {"lstrip": False, "rstrip": False}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer("model", str(folder))
    assert "zebra" in tokenizer.get_vocab()
    save(images, tokenizer, tmp_path / "first")
    loaded = AltCLIPProcessor.from_pretrained(tmp_path / "first").tokenizer
    assert loaded(["a zebra"])["input_ids"] == tokenizer(["a zebra"])["input_ids"]


def test_a_tokenizer_written_in_python_keeps_its_file(images, tmp_path):
    (tmp_path / "vocab.txt").write_text("<cls>\n<pad>\n<eos>\n<unk>\nL\nA\nG\n<mask>\n")
    tokenizer = EsmTokenizer.from_pretrained(tmp_path)
    assert not tokenizer.is_fast
    remember_files(tokenizer, tmp_path)
    save(images, tokenizer, tmp_path / "first")
    assert (tmp_path / "first/vocab.txt").read_bytes() == (tmp_path / "vocab.txt").read_bytes()
    tokenizer.add_tokens(["V"])
    save(images, tokenizer, tmp_path / "second")
    assert (tmp_path / "second/vocab.txt").read_bytes() != (tmp_path / "vocab.txt").read_bytes()


def test_stage_1_keeps_them_in_checkpoints_too(miniature, tmp_path):
    shutil.copytree(miniature / "text_encoder", tmp_path / "encoder")
    path = tmp_path / "encoder/tokenizer.json"
    spell_anew(path)
    given = QUICK | {
        "teacher_name_or_path": str(miniature / "clip"),
        "text_encoder_name_or_path": str(tmp_path / "encoder"),
        "dataset": str(miniature / "dataset"),
        "languages": ["en", "zh"],
    }
    stage1.main(TeacherLearningArguments(**given, output_dir=str(tmp_path / "kept")))
    for folder in (tmp_path / "kept", tmp_path / "kept/checkpoint-1"):
        assert (folder / "tokenizer.json").read_bytes() == path.read_bytes()
        assert find_damages(folder) == []
    load_model(str(tmp_path / "kept"))
    AutoProcessor.from_pretrained(tmp_path / "kept").save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/tokenizer.json").read_bytes() == path.read_bytes()


def test_a_model_of_transformers_keeps_them_too(miniature, tmp_path):
    """Its own text tower goes on learning; its processor is of transformers, which writes them anew."""
    start = Path(save_teacher("siglip", tmp_path / "siglip", load_tokenizer_of(miniature)))
    path = start / "tokenizer.json"
    spell_anew(path, padding=None, truncation=None)
    given = QUICK | {"dataset": str(miniature / "dataset"), "output_dir": str(tmp_path / "kept")}
    given |= {"model_name_or_path": str(start), "languages": ["zh"], "replay_languages": []}
    stage1.main(TeacherLearningArguments(**given))
    for folder in (tmp_path / "kept", tmp_path / "kept/checkpoint-1"):
        assert (folder / "tokenizer.json").read_bytes() == path.read_bytes()
        assert find_damages(folder) == []

    save_model(*load_model(str(start), canonicalizes=False), tmp_path / "as it was")
    assert (tmp_path / "as it was/tokenizer.json").read_bytes() == path.read_bytes()
    save_model(*load_model(str(start)), tmp_path / "canonical")
    assert (tmp_path / "canonical/tokenizer.json").read_bytes() != path.read_bytes()
    for folder in ("as it was", "canonical"):
        assert find_damages(tmp_path / folder) == []


def test_a_stated_prompt_is_written_into_them(miniature, tmp_path):
    """It is the encoder's own, in its sentence-transformers files, and no option asks for it."""
    name = save_sentence_encoder(tmp_path / "encoder", load_tokenizer_of(miniature), prompt="a dog ")
    encoder = Path(name.partition(":")[2])
    given = QUICK | {"dataset": str(miniature / "dataset"), "output_dir": str(tmp_path / "student")}
    given |= {"teacher_name_or_path": str(miniature / "clip"), "text_encoder_name_or_path": str(encoder)}
    given |= {"text_pooling": "mean", "languages": ["en", "zh"]}
    stage1.main(TeacherLearningArguments(**given))
    saved = AutoProcessor.from_pretrained(tmp_path / "student").tokenizer
    assert saved("a key")["input_ids"] == AutoTokenizer.from_pretrained(encoder)("a dog a key")["input_ids"]
    assert load_model(given["output_dir"])[1].tokenizer("a key")["input_ids"] == saved("a key")["input_ids"]
