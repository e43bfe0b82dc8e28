"""Translated captions are what the model says, each sentence is asked once, and all else of the dataset stays
as it was.
"""

import json
import shutil
import string
from collections import Counter
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value, load_dataset
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    NllbTokenizer,
)

from common.errors import InputError
from common.files.rows import load_rows
from common.recipe import parse
from modeling_altclip.checksums_altclip import write_checksums
from training.data.parallel_text import load_parallel_text
from training.translation import translating
from training.translation.output import describe
from training.translation.quality import check_translations
from training.translation.rows import distinct_sentences, read_split, save, with_translations
from training.translation.translating import TranslationArguments, language_token, translate_all

from .conftest import ROOT
from .test_checksums import flip
from .test_disk import full_disk
from .test_training_images import encoded

# Our codes -> NLLB's
CODES = {"en": "eng_Latn", "es": "spa_Latn", "ja": "jpn_Jpan"}
SIZES = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
SIZES |= {
    "d_model": 16,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "init_std": 1.0,
}
COLORS = ["red", "green", "blue"]
SETTINGS = {"dataset": "x", "splits": ["train"], "target_languages": ["es"], "output_dir": "y"}
SETTINGS |= {"model_name_or_path": "z"}


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """Save an untrained translation model that spells: its tokens are letters and the languages' codes."""
    folder = tmp_path_factory.mktemp("translator")
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = NllbTokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=list(CODES.values()), src_lang="jpn_Jpan"
    )
    torch.manual_seed(0)
    model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=len(tokenizer), **SIZES))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def made(captions, features, **columns):
    """Return rows of images with captions, and with further columns of numbers."""
    images = [{"bytes": encoded(color), "path": None} for color in COLORS]
    features = Features({"image": Image(), **features, **{name: Value("int64") for name in columns}})
    return Dataset.from_dict({"image": images, **captions, **columns}, features=features)


@pytest.fixture
def dataset(tmp_path):
    """Write three images with captions.

    They are lists of English and a Chinese text, with an empty and a repeated one. A column holds something
    else.
    """
    captions = [
        {"en": ["a dog", "a cat"], "zh": "狗"},
        {"en": ["a dog", ""], "zh": None},
        {"en": [], "zh": "猫"},
    ]
    features = {"captions": {"en": List(Value("string")), "zh": Value("string")}}
    rows = made({"captions": captions}, features, number=[7, 8, 9])
    (tmp_path / "pictures").mkdir()
    rows.to_parquet(tmp_path / "pictures/train.parquet")
    return str(tmp_path / "pictures")


@pytest.fixture
def given(dataset, translator, tmp_path):
    """Return a function that makes arguments by keyword, with some that need not be named.

    Every test loads its model anew, as every run does.
    """
    # The loaded model is cached by its folder, whose files may change between tests.
    translating.load_translator.cache_clear()

    def given(**arguments):
        defaults = {
            "dataset": dataset,
            "splits": ["train"],
            "target_languages": ["es", "ja"],
            "output_dir": str(tmp_path / "out"),
            "model_name_or_path": str(translator),
            "language_codes": CODES,
            "max_length": 40,
        }
        return TranslationArguments(**defaults | arguments)

    return given


def by_hand(translator, text, code="spa_Latn", **options):
    """Translate a sentence alone; without a code the tokenizer is left as it is."""
    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    tokenizer = AutoTokenizer.from_pretrained(translator)
    if code:
        tokenizer.src_lang = "eng_Latn"
        options["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(code)
    inputs = tokenizer(text, return_tensors="pt")
    generated = model.generate(**inputs, max_new_tokens=40, do_sample=False, **options)
    return tokenizer.decode(generated[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("beams", [1, 3])
def test_a_sentence_is_translated_as_by_hand(translator, given, beams):
    """Translate in a padded batch, into each language by its own code."""
    sentences = ["a brown dog on the grass", "cat", "a bird"]
    # Sentences of several lengths, so that two of three are padded.
    found = {}
    for language, code in (("es", "spa_Latn"), ("ja", "jpn_Jpan")):
        found[language], _ = translate_all(sentences, language, given(num_beams=beams))
        for sentence in sentences:
            assert found[language][sentence] == by_hand(translator, sentence, code, num_beams=beams)
        assert found[language].keys() == set(sentences)
        assert len(set(found[language].values())) > 1
    # The code decides what is generated.
    assert found["es"]["cat"] != found["ja"]["cat"]


def test_a_prefix_names_the_language(translator, given):
    arguments = given(prefix="to {language} ", language_codes={"es": "spanish"})
    prefixed, _ = translate_all(["cat"], "es", arguments)
    assert prefixed == {"cat": by_hand(translator, "to spanish cat", None)}


def test_a_model_of_one_pair_of_languages_gets_no_code(translator, given):
    arguments = given(model_name_or_path=None, models={"es": str(translator), "ja": "x"}, language_codes=None)
    expected = by_hand(translator, "cat", None)
    assert translate_all(["cat"], "es", arguments)[0] == {"cat": expected}
    assert expected != by_hand(translator, "cat")


def m2m100_tokenizer(folder):
    """Train pieces on a few sentences, and return the tokenizer of M2M100 with them."""
    lines = [f"a {color} {animal}" for color in ("red", "blue", "green") for animal in ("dog", "cat", "bird")]
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "pieces"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    pieces = SentencePieceProcessor(str(folder / "pieces.model"))
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    names += [pieces.id_to_piece(number) for number in range(3, len(pieces))]
    vocabulary = {name: number for number, name in enumerate(names)}
    (folder / "names.json").write_text(json.dumps(vocabulary))
    return M2M100Tokenizer(str(folder / "names.json"), str(folder / "pieces.model"))


def test_m2m100_is_told_by_its_own_tokens(given, tmp_path):
    """Check that they need no entry in language_codes, and do not come out as text.

    They are `__es__` for `es`.
    """
    tokenizer = m2m100_tokenizer(tmp_path)
    config = M2M100Config(vocab_size=tokenizer.get_lang_id("zu") + 9, **SIZES)
    model = M2M100ForConditionalGeneration(config).eval()
    calls = []

    def generate(**options):
        calls.append(options)
        # As M2M100 generates: its start, the language, two pieces and the end.
        return torch.tensor([[2, tokenizer.get_lang_id("es"), 4, 5, 2]])

    model.generate = generate
    found = translating.translate(["a red dog"], "es", model, tokenizer, given(language_codes=None))
    assert found == [tokenizer.decode([4, 5]).strip()]
    assert found[0]
    assert calls[0]["forced_bos_token_id"] == tokenizer.get_lang_id("es")
    assert calls[0]["input_ids"][0, 0] == tokenizer.get_lang_id("en")


def test_each_distinct_sentence_is_translated_once_and_a_killed_run_goes_on(given, monkeypatch):
    # In the order in which they are translated: longest first, and then by the alphabet.
    sentences = ["a dog runs", "a dog sat", "a bird", "a dog", "a cat", "cat"]
    arguments = given(batch_size=2)
    path = Path(arguments.output_dir, "translations/es.jsonl")
    seen = Counter()
    original = translating.translate
    is_killed = True

    def counted(texts, *rest):
        seen.update(texts)
        # In the third batch of two: four sentences are on the disk.
        if len(seen) > 4 and is_killed:
            raise KeyboardInterrupt
        return original(texts, *rest)

    monkeypatch.setattr(translating, "translate", counted)
    with pytest.raises(KeyboardInterrupt):
        translate_all(sentences, "es", arguments)
    with open(path, "a") as file:
        # Half a line, as a kill within a write leaves it.
        file.write('{"en": "a cat", "es": "un')

    seen.clear()
    is_killed = False
    resumed, _ = translate_all(sentences, "es", arguments)
    assert seen == Counter(["a cat", "cat"])
    elsewhere = given(batch_size=2, output_dir=f"{arguments.output_dir}2")
    assert resumed == translate_all(sentences, "es", elsewhere)[0]
    assert [json.loads(line)["en"] for line in path.read_text("utf-8").splitlines()] == sentences

    rows, n_without = load_parallel_text(str(path), "train")
    assert len(rows) == 6
    assert n_without == 0
    assert set(rows.features["captions"]) == {"en", "es"}


def test_a_full_disk_keeps_earlier_batches_and_says_what_is_needed(given, capsys):
    # `capsys` keeps the bars in memory, since the limit holds for every file.
    sentences = ["a dog runs", "a dog sat", "a bird", "cat"]
    whole = given(batch_size=2, output_dir=f"{given().output_dir}2")
    expected, _ = translate_all(sentences, "es", whole)
    complete = Path(whole.output_dir, "translations/es.jsonl").read_bytes()

    arguments = given(batch_size=2)
    translate_all(sentences[:2], "es", arguments)
    message = r"a batch of es.jsonl could not be saved to .*: File too large. It needs \d+ bytes, .* are free"
    with full_disk(len(complete) - 1), pytest.raises(InputError, match=message):
        translate_all(sentences, "es", arguments)
    path = Path(arguments.output_dir, "translations/es.jsonl")
    assert complete.startswith(path.read_bytes())
    assert translate_all(sentences, "es", arguments)[0] == expected
    assert path.read_bytes() == complete


def test_a_full_disk_leaves_no_dataset_of_translations(given, capsys):
    arguments = given()
    rows = with_translations(read_split(arguments, "train"), {"es": {}}, "en")
    message = r"train-00000-of-00001.parquet could not be saved to .* It needs [\d.]+ (kB|bytes), .* are free"
    with full_disk(200), pytest.raises(InputError, match=message):
        save({"train": rows}, arguments.output_dir)
    assert not Path(arguments.output_dir, "data").exists()
    save({"train": rows}, arguments.output_dir)
    assert [path.name for path in Path(arguments.output_dir).iterdir()] == ["data"]
    assert len(load_dataset(arguments.output_dir, split="train")) == len(rows)


def test_other_settings_or_weights_do_not_go_on_from_what_is_there(given, translator, tmp_path):
    translate_all(["cat"], "es", given())
    message = "es.jsonl was made with num_beams 1: delete it, or give another output_dir"
    with pytest.raises(InputError, match=message):
        translate_all(["cat"], "es", given(num_beams=2))

    model = AutoModelForSeq2SeqLM.from_pretrained(translator)
    # Other weights of the same architecture.
    model.lm_head.weight.data[5] += 1
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(translator).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="was made with model .*, weights "):
        translate_all(["cat"], "es", given(model_name_or_path=str(tmp_path / "other")))


def test_all_else_of_the_dataset_stays(dataset, translator, run_python, tmp_path):
    """Run the command: images stay byte for byte, other captions and columns as they are, lists in place.

    No sentence is asked twice.
    """
    command = [ROOT / "training/run_translation.py", "--dataset", dataset, "--splits", "train"]
    command += ["--target_languages", "es", "ja", "--output_dir", tmp_path / "out"]
    command += ["--model_name_or_path", translator, "--language_codes", json.dumps(CODES)]
    command += ["--max_length", "40"]
    process = run_python("python", *command)
    assert process.returncode == 0, process.stderr
    following = "accelerate launch --quiet training/run_parallel.py"
    assert f"Saved 3 rows to {tmp_path}/out. Next: {following}" in process.stdout
    said = {}
    for text in ("a dog", "a cat"):
        said[text] = by_hand(translator, text)
    # An untrained model may say nothing at all, or repeat itself.
    checked = check_translations(said, {}, None, TranslationArguments(**SETTINGS))
    dog, cat = (checked.kept.get(text) for text in said)
    described = f"skipped in es: {describe(checked)}; in ja: "
    assert f"Translated 2 distinct texts; {described}" in process.stdout

    rows = load_rows(str(tmp_path / "out"), "train", []).cast_column("image", Image(decode=False))
    assert [image["bytes"] for image in rows["image"]] == [encoded(color) for color in COLORS]
    # A column that is not about captions.
    assert list(rows["number"]) == [7, 8, 9]
    captions = list(rows["captions"])
    assert [caption["es"] for caption in captions] == [[dog, cat], [dog, None], []]
    assert [caption["en"] for caption in captions] == [["a dog", "a cat"], ["a dog", ""], []]
    assert [caption["zh"] for caption in captions] == [["狗"], [], ["猫"]]

    again = run_python("python", *command)
    assert again.returncode == 1
    assert "holds a dataset already: delete its folder data" in again.stderr


def test_empty_translations_are_missing(given):
    rows = read_split(given(), "train")
    lists = with_translations(rows, {"es": {"a dog": "", "a cat": "gato"}}, "en")
    assert [caption["es"] for caption in lists["captions"]] == [[None, "gato"], [None, None], []]
    one = with_translations(rows, {"en2": {"狗": "dog", "猫": ""}}, "zh")
    assert [caption["en2"] for caption in one["captions"]] == [["dog"], [], [None]]


FORMS = {
    "lines": (
        {"txt": ["a dog\n a cat \n", "a bird", ""]},
        {"txt": Value("string")},
        {"split_lines": True},
        [["a dog", "a cat"], ["a bird"], []],
    ),
    "the first line": (
        {"txt": ["a dog\na cat", "a bird", None]},
        {"txt": Value("string")},
        {"split_lines": True, "captions_per_image": 1},
        [["a dog"], ["a bird"], []],
    ),
    "lists": (
        {"answer": [["a dog", "a cat", "x"], ["a bird"], []]},
        {"answer": List(Value("string"))},
        {"text_column": "answer", "captions_per_image": 2},
        [["a dog", "a cat"], ["a bird"], []],
    ),
}


def by_length_and_alphabet(text):
    return -len(text), text


@pytest.mark.parametrize("columns,features,flags,english", FORMS.values(), ids=FORMS)
def test_captions_of_other_forms_are_read(given, tmp_path, columns, features, flags, english):
    (tmp_path / "forms").mkdir()
    made(columns, features).to_parquet(tmp_path / "forms/train.parquet")
    rows = read_split(given(dataset=str(tmp_path / "forms"), **flags), "train")
    assert rows.column_names == ["image", "captions"]
    assert [caption["en"] for caption in rows["captions"]] == english
    expected = sorted(sum(english, []), key=by_length_and_alphabet)
    assert distinct_sentences([rows, rows], "en", "pictures") == expected


def test_images_in_files_are_written_into_the_dataset(given, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    lines = []
    for color in COLORS:
        (folder / f"{color}.png").write_bytes(encoded(color))
        lines.append(json.dumps({"file_name": f"{color}.png", "caption": f"a {color} sheet"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")

    arguments = given(dataset=str(folder))
    rows = with_translations(read_split(arguments, "train"), {"es": {}}, "en")
    save({"train": rows}, arguments.output_dir)
    for color in COLORS:
        (folder / f"{color}.png").unlink()
    written = load_dataset(arguments.output_dir, split="train").cast_column("image", Image(decode=False))
    assert sorted(image["bytes"] for image in written["image"]) == sorted(map(encoded, COLORS))


@pytest.mark.parametrize(
    "flags,message",
    [
        ({"models": {"es": "x"}}, "give model_name_or_path, one model for all languages, or models"),
        ({"model_name_or_path": None, "models": '{"es": "x"}'}, "models has none for ja"),
        ({"target_languages": ["es", "en"]}, "target_languages has en, the language to translate from"),
        ({"num_beams": 0}, "num_beams is 0: give 1 or more"),
        ({"dtype": "int8"}, "dtype is 'int8': choose float32"),
    ],
)
def test_bad_arguments_are_refused(given, flags, message):
    with pytest.raises(InputError, match=message):
        given(**flags)


def test_captions_that_cannot_be_translated_are_refused(given):
    with pytest.raises(InputError, match="have zh already: take it out of target_languages"):
        read_split(given(target_languages=["es", "zh"]), "train")
    with pytest.raises(InputError, match="have no fr: choose from en zh"):
        read_split(given(source_language="fr"), "train")
    with pytest.raises(InputError, match="dataset 'pictures' has no caption in en to translate: give other"):
        # The third image has no English.
        distinct_sentences([read_split(given(), "train").select([2])], "en", "pictures")


def test_a_language_that_the_model_has_no_token_for_is_refused(given, translator):
    codes = "eng_Latn jpn_Jpan spa_Latn"
    message = f"no token for language 'es': name it by language_codes, as one of {codes}"
    with pytest.raises(InputError, match=message):
        translate_all(["cat"], "es", given(language_codes={"en": "eng_Latn"}))
    # The vocabulary has this letter, but it is no language.
    with pytest.raises(InputError, match="no token for language 'a'"):
        translate_all(["cat"], "es", given(language_codes=CODES | {"es": "a"}))
    with pytest.raises(InputError, match="no token for language 'en'"):
        translate_all(["cat"], "es", given(language_codes={"es": "spa_Latn"}))
    with pytest.raises(InputError, match="model 'no/such/folder' does not exist"):
        translate_all(["cat"], "es", given(model_name_or_path="no/such/folder"))
    assert language_token(AutoTokenizer.from_pretrained(translator), "spa_Latn") == 33


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_a_damaged_record_of_translations_is_one_line(given, tmp_path, content):
    translate_all(["cat"], "es", given())
    record = tmp_path / "out/translations/es.made_by.json"
    record.unlink()
    if content is not None:
        record.write_text(content)
    with pytest.raises(InputError, match="record .*es.made_by.json.* delete .*es.jsonl to begin anew"):
        translate_all(["cat"], "es", given())


@pytest.mark.parametrize(
    "line", ["\0\0", "[]", '{"en": "cat"}', '{"en": "cat", "es": 1}', '{"en": "cat", "fr": ""}']
)
def test_a_damaged_translation_is_named_by_its_line(given, tmp_path, line):
    translate_all(["cat"], "es", given())
    with open(tmp_path / "out/translations/es.jsonl", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match="es.jsonl, line 2"):
        translate_all(["cat"], "es", given())


def test_a_damaged_model_does_not_translate(given, translator, tmp_path):
    folder = tmp_path / "translator"
    shutil.copytree(translator, folder)
    write_checksums(folder)
    flip(folder / "model.safetensors")
    with pytest.raises(InputError, match="model .* model.safetensors has other bytes"):
        translate_all(["cat"], "es", given(model_name_or_path=str(folder)))


def test_the_recipe_parses():
    recipe = ROOT / "training/recipes/parallel_coco/translation.yaml"
    (arguments,) = parse(TranslationArguments, arguments=[str(recipe), "--split_lines", "false"])
    assert arguments.language_codes["hi"] == "hin_Deva"
    assert arguments.code("hi") == "hin_Deva"
    assert not arguments.split_lines
