"""A finished model learns more languages: its tokenizer reads more, and what it could do before stays."""

import re
from collections import Counter
from copy import deepcopy

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, CLIPTokenizer

from common.errors import InputError
from common.models.loading import load_model
from modeling_altclip import AltCLIPModel, AltCLIPProcessor
from training.arguments import TeacherLearningArguments
from training.data.examples import CaptionExamples
from training.data.tower_cache import teacher_embeddings
from training.miniature.scenes import EmojiScenes
from training.miniature.vocabulary import train_multilingual_tokenizer
from training.student import build_student, held_embeddings, languages_to_replay
from training.vocabulary import extend_tokenizer, frequent

from .conftest import ROOT

OLD = ["en", "zh", "ru"]
NEW = ["th", "vi"]
UNKNOWN = 3  # the id of a piece that the tokenizer lacks


@pytest.fixture(scope="module")
def texts():
    scenes = EmojiScenes("validation")
    captions = [scenes[index]["captions"] for index in range(150)]
    by_language = {}
    for language in OLD + NEW:
        by_language[language] = [caption[language] for caption in captions]
    return by_language


@pytest.fixture(scope="module")
def narrow(texts):
    """Train a tokenizer of the old languages alone."""
    return train_multilingual_tokenizer(texts_in(OLD, texts), 460)


def texts_in(languages, texts):
    return [text for language in languages for text in texts[language]]


def ids(tokenizer, texts, languages):
    return [tokenizer(text)["input_ids"] for text in texts_in(languages, texts)]


def count_unknown(tokenizer, texts):
    """Count the unknown pieces in the texts of the new languages."""
    return sum(row.count(UNKNOWN) for row in ids(tokenizer, texts, NEW))


def test_what_could_be_read_is_read_as_before(narrow, texts, tmp_path):
    wide = extend_tokenizer(narrow, texts_in(NEW, texts), 200)
    assert len(narrow) < len(wide) <= len(narrow) + 200
    assert ids(wide, texts, OLD) == ids(narrow, texts, OLD)
    unknown_before = count_unknown(narrow, texts)
    assert unknown_before > 500
    assert count_unknown(wide, texts) < unknown_before / 200  # rare characters alone
    assert wide.mask_token_id == narrow.mask_token_id
    assert wide.unk_token_id == UNKNOWN
    assert wide.pad_token_id == 1

    wide.save_pretrained(tmp_path)
    assert ids(AutoTokenizer.from_pretrained(tmp_path), texts, OLD + NEW) == ids(wide, texts, OLD + NEW)


def test_nothing_is_added_where_everything_is_known(narrow, texts):
    assert extend_tokenizer(narrow, texts["en"], 10) is narrow


def test_too_few_pieces_and_other_tokenizers_are_refused(narrow, texts, miniature):
    message = "new_pieces is 3, but the texts have .* characters that the tokenizer does not know"
    with pytest.raises(InputError, match=message):
        extend_tokenizer(narrow, texts["th"], 3)
    with pytest.raises(InputError, match="tokenizers of XLM-R's kind, not a CLIPTokenizer"):
        extend_tokenizer(CLIPTokenizer.from_pretrained(miniature / "clip"), texts["th"], 100)


def test_tokens_beside_the_pieces_are_no_pieces_to_take(narrow, texts):
    tokenizer = deepcopy(narrow)
    tokenizer.add_tokens(["<lang>"])
    with pytest.raises(InputError, match="tokens beside its pieces, <lang>, whose ids new pieces would take"):
        extend_tokenizer(tokenizer, texts["th"], 200)


def test_what_strays_in_stays_unknown():
    assert frequent(Counter({"a": 9000, "b": 999, "c": 1})) == ["a", "b"]
    assert frequent(Counter({"a": 2, "b": 1})) == ["a", "b"]


@pytest.fixture
def finished(miniature, processor, narrow, tmp_path):
    """Save a model of the old languages; return its folder."""
    torch.manual_seed(0)
    model = AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"))
    model.resize_token_embeddings(len(narrow))
    model.save_pretrained(tmp_path / "finished")
    AltCLIPProcessor(processor.image_processor, narrow).save_pretrained(tmp_path / "finished")
    return tmp_path / "finished"


def add(run_python, miniature, finished, output_dir, *flags):
    """Run three steps that add languages to a finished model."""
    command = ["python", ROOT / "training/run_stage1.py"]
    command += [ROOT / "training/recipes/add_languages_miniature/stage1.yaml"]
    command += ["--model_name_or_path", finished, "--dataset", miniature / "dataset"]
    command += ["--output_dir", output_dir, "--max_steps", "3", "--per_device_train_batch_size", "32"]
    return run_python(*command, *flags)


def test_a_finished_model_learns_more(miniature, run_python, finished, tmp_path):
    flags = ["--languages", *NEW, "--replay_languages", *OLD, "--new_pieces", "400"]
    process = add(run_python, miniature, finished, tmp_path / "more", *flags)
    assert process.returncode == 0, process.stderr[-3000:]
    before, _ = load_model(str(finished))
    after, processor = load_model(str(tmp_path / "more"))

    n_old = before.config.text_config.vocab_size
    n_new = after.config.text_config.vocab_size
    assert n_new == len(processor.tokenizer) > n_old
    assert UNKNOWN not in processor.tokenizer("ลูกโป่ง")["input_ids"]
    assert "Training on 3000 examples from 600 rows" in process.stdout  # in five languages

    old = before.state_dict()
    new = after.state_dict()
    moved = {name for name, value in old.items() if not torch.equal(new[name], value)}  # or of another shape
    assert moved
    assert all(name.startswith("text_model.") for name in moved)
    embeddings = "text_model.roberta.embeddings.word_embeddings.weight"
    assert (new[embeddings][:n_old] - old[embeddings]).abs().max() < 0.02  # three steps from where they were
    assert after.config.text_config.hidden_dropout_prob == 0


def test_new_pieces_do_not_begin_as_embeddings_that_no_piece_had(finished, texts, tmp_path):
    """mE5-small has 35 embeddings more than pieces."""
    model = AltCLIPModel.from_pretrained(finished)
    n_known = model.config.text_config.vocab_size
    model.resize_token_embeddings(n_known + 30)
    model.get_input_embeddings().weight.data[n_known:] = 100.0
    model.save_pretrained(finished)
    arguments = TeacherLearningArguments(
        output_dir=str(tmp_path / "more"),
        dataset="",
        languages=["th"],
        new_pieces=200,
        model_name_or_path=str(finished),
        use_cpu=True,
    )
    rows = Dataset.from_dict({"captions": [{"th": text} for text in texts["th"]]})
    student, tokenizer = build_student(arguments, rows, ["th"])
    embeddings = student.get_input_embeddings().weight
    assert len(embeddings) == len(tokenizer) > n_known + 30
    assert embeddings.abs().max() < 1
    assert torch.equal(embeddings[:n_known], model.get_input_embeddings().weight[:n_known])


def test_by_default_a_model_is_its_own_teacher_and_keeps_all_that_the_text_has_beside(finished, tmp_path):
    given = {"output_dir": str(tmp_path), "dataset": "", "languages": ["th"], "use_cpu": True}
    arguments = TeacherLearningArguments(model_name_or_path=str(finished), **given)
    assert arguments.teacher_name_or_path == str(finished)

    # All other languages of the text, those given, or an error where one is missing.
    assert languages_to_replay(arguments, ["en", "th", "zh"], ["th"]) == ["en", "zh"]
    arguments.replay_languages = []
    assert languages_to_replay(arguments, ["en", "th", "zh"], ["th"]) == []
    arguments.replay_languages = ["ru"]
    with pytest.raises(InputError, match="'ru'|ru"):
        languages_to_replay(arguments, ["en", "th", "zh"], ["th"])

    with pytest.raises(InputError, match="teacher_name_or_path is missing: give the CLIP"):
        TeacherLearningArguments(text_encoder_name_or_path="x", **given)


def test_old_languages_are_held_to_what_they_were(finished, tmp_path):
    """Check the target of each example.

    In a new language, it is the teacher's embedding of the English text of its row; in an old one, the
    finished model's own embedding of the same text.
    """
    captions = [
        {"en": "key", "zh": "钥匙", "th": "กุญแจ"},
        {"en": "bell", "zh": None, "th": "กระดิ่ง"},
        {"en": "key", "zh": "钥", "th": "ลูกกุญแจ"},
    ]
    rows = Dataset.from_dict({"captions": captions})
    arguments = TeacherLearningArguments(
        output_dir=str(tmp_path),
        dataset="",
        languages=["th"],
        replay_languages=["en", "zh"],
        cache_dir=str(tmp_path),
        teacher_name_or_path=str(finished),
        model_name_or_path=str(finished),
        use_cpu=True,
    )
    model, processor = load_model(str(finished))
    english = teacher_embeddings(rows, model, processor.tokenizer, cache_dir=str(tmp_path))
    held = held_embeddings(arguments, rows, ["en", "zh"])
    cells = CaptionExamples(rows, ["th", "en", "zh"], "target", inputs=english, held=held)
    examples = cells.__getitems__(list(range(len(cells))))
    learned = {cell["text"]: torch.from_numpy(cell["target"]) for cell in examples}

    # Each text, and the text whose embedding it learns.
    taught_by = {
        "key": "key",
        "bell": "bell",
        "钥匙": "钥匙",
        "钥": "钥",
        "กุญแจ": "key",
        "กระดิ่ง": "bell",
        "ลูกกุญแจ": "key",
    }
    assert set(learned) == set(taught_by)
    assert len(cells) == 8
    with torch.no_grad():
        for text, source in taught_by.items():
            vector = model.text_model(**processor.tokenizer(source, return_tensors="pt")).pooler_output[0]
            torch.testing.assert_close(learned[text], vector, atol=1e-5, rtol=1e-5)
    assert held_embeddings(arguments, rows, []) == {}


def test_what_is_no_altclip_is_refused(miniature, run_python, tmp_path):
    process = add(run_python, miniature, miniature / "text_encoder", tmp_path / "more", "--languages", "th")
    assert process.returncode == 1
    last_line = process.stderr.strip().splitlines()[-1]
    assert re.search("error: model_name_or_path .* is a model of the type 'xlm-roberta': give an", last_line)
