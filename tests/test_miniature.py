"""The emoji scenes and the tokenizers that are trained on them."""

import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from transformers import AutoModel, AutoTokenizer, CLIPTokenizer, XLMRobertaTokenizer

from training.miniature import job as drawing
from training.miniature.origins import origins_of_scenes
from training.miniature.scenes import (
    ASSET,
    SPLITS,
    STYLES,
    UNSEEN_STYLE,
    EmojiScenes,
    held_out_pairs,
    ink,
    load_sheet,
    read_concepts,
    write_caption,
)
from training.miniature.vocabulary import train_english_tokenizer, train_multilingual_tokenizer

LANGUAGES = "en zh es fr ru ar ja ko it th hi uk tr vi pl nl pt de bn".split()


def test_asset_is_small_and_credited():
    # bytes: all sprites and names together
    assert sum(path.stat().st_size for path in ASSET.iterdir()) < 2_000_000
    credits = (ASSET / "ATTRIBUTION.md").read_text("utf-8")
    assert all(f"`{style}.png`" in credits for style in STYLES + UNSEEN_STYLE)


@pytest.mark.parametrize("styles", [STYLES, UNSEEN_STYLE])
def test_what_scenes_are_made_of_is_as_credited(styles):
    """Check names and licences by the asset's table, `| file | [name](…) | author | [licence](…) |`."""
    credited = {}
    for line in (ASSET / "ATTRIBUTION.md").read_text("utf-8").splitlines():
        cells = line.split(" | ")
        if len(cells) == 4 and "`" in cells[0]:
            credited[re.findall("`(.*)`", cells[0])[0]] = [
                re.findall(r"\[(.*?)\]", cell)[0] for cell in cells[1::2]
            ]
    files = [*(f"{style}.png" for style in styles), "concepts.json"]
    origins = origins_of_scenes(styles)
    assert [[origin.name, origin.licence] for origin in origins] == [credited[file] for file in files]
    assert origins[-1].languages == LANGUAGES
    terms = (
        {("attribution",), ("attribution", "share-alike")} if styles == UNSEEN_STYLE else {("attribution",)}
    )
    assert {tuple(origin.terms) for origin in origins} == terms


def test_within_a_language_no_two_concepts_share_a_name():
    concepts = read_concepts()
    assert list(concepts["languages"]) == LANGUAGES
    assert len(concepts["concepts"]) == 70
    for language, words in concepts["languages"].items():
        assert len(set(words["names"])) == 70, language
        assert not [name for name in words["names"] if "," in name or "|" in name or not name.strip()], (
            language
        )
    assert concepts["languages"]["hi"]["names"][0] == "लाल सेब"  # CLDR lists four synonyms


def test_captions_follow_the_languages_own_list_pattern():
    # CLDR gives each language a pattern for two, and patterns for the start and the end of longer lists.
    assert write_caption([0, 20], "en") == "red apple and dog face"
    assert write_caption([0, 20, 56], "en") == "red apple, dog face, and key"
    assert write_caption([0, 20], "zh") == "红苹果和狗脸"
    assert write_caption([0], "de") == "roter Apfel"


def test_what_is_drawn_and_whole_is_not_drawn_again(miniature, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "miniature"
    shutil.copytree(miniature, folder)
    drawn = []
    monkeypatch.setattr(drawing, "_draw", drawn.append)

    def draw(**settings):
        """Return whether the command would draw."""
        drawn.clear()
        drawing.main(drawing._MiniatureArguments(output_dir=str(folder), **{"train_size": 600} | settings))
        return bool(drawn)

    assert not draw()
    assert (
        capsys.readouterr().out == f"{folder} holds this miniature, finished and whole: nothing is drawn.\n"
    )
    (folder / "mine.txt").write_text("of the user")
    assert not draw()
    names = folder / "dataset/names.jsonl"
    before = names.read_bytes()
    names.write_bytes(before[:-1])
    assert draw()
    assert draw(seed=7)
    assert draw(train_size=None)
    # A drawing that was killed has no record.
    (folder / "drawn.json").unlink()
    names.write_bytes(before)
    assert draw()
    assert not draw()


def test_a_scene_is_a_function_of_its_index():
    one, other = EmojiScenes("train"), EmojiScenes("train")
    # Scenes read before must not matter.
    one[5]
    # The last of 40,000 scenes too.
    for index in (0, 7, 39_999):
        assert np.array_equal(np.asarray(one[index]["image"]), np.asarray(other[index]["image"]))
        assert one[index]["captions"] == other[index]["captions"]
    assert not np.array_equal(np.asarray(one[0]["image"]), np.asarray(one[1]["image"]))
    with pytest.raises(IndexError, match="scene 40000 of 40000"):
        one[40_000]
    with pytest.raises(ValueError, match="split 'dev' is not one of"):
        EmojiScenes("dev")


def test_tests_ask_for_what_training_never_showed():
    test, validation = map(set, held_out_pairs().values())
    assert len(test) == 1000
    assert len(validation) == 250
    assert not test & validation
    # The first 2,000 scenes of each split that is trained on.
    seen = set()
    for split, index in itertools.product(("train", "train_curated"), range(2000)):
        seen |= set(itertools.combinations(sorted(EmojiScenes(split)[index]["concepts"]), 2))
    # Training may show 1,165 pairs, 70 x 69 / 2 less the 1,250 held out: so few scenes show half of them.
    assert len(seen) > 500
    assert not seen & (test | validation)
    for split, expected in (
        ("test_pairs", test),
        ("test_pairs_unseen_style", test),
        ("validation", validation),
    ):
        scenes = EmojiScenes(split)
        assert {tuple(sorted(scenes[index]["concepts"])) for index in range(len(scenes))} == expected
    assert UNSEEN_STYLE[0] not in STYLES
    assert {split.styles for name, split in SPLITS.items() if not name.endswith("unseen_style")} == {STYLES}
    # 1,400 scenes of 70 concepts.
    counts = np.bincount([EmojiScenes("test_concepts")[index]["concepts"][0] for index in range(1400)])
    assert (counts == 20).all()


def test_inked_sprites_stay_inside_and_get_dark_lines():
    # The first sprite, a red apple.
    sprite = load_sheet("noto").crop((0, 0, 32, 32))
    inked = np.asarray(ink(sprite)).astype(int)
    # Lines are drawn in (20, 20, 20).
    dark = (inked[..., :3].max(-1) < 60) & (inked[..., 3] > 0)
    assert 0.05 < dark.mean() < 0.6
    # The outline has room: corners stay transparent.
    assert (inked[0, 0, 3], inked[31, 31, 3]) == (0, 0)


def test_multilingual_tokenizer_is_xlm_rs(miniature):
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    assert isinstance(tokenizer, XLMRobertaTokenizer)
    assert len(tokenizer) == 2502
    # XLM-R's special tokens at XLM-R's ids.
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 2501]) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert (
        tokenizer("ＤＯＧ ﬁsh")["input_ids"] == tokenizer("DOG fish")["input_ids"]
    )  # the NFKC table is there
    ids = tokenizer("red apple and dog face")["input_ids"]
    assert ids[0] == 0
    assert ids[-1] == 2
    # Nothing is unknown.
    assert 3 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "red apple and dog face"
    assert tokenizer.model_max_length == 77


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_other_encoders_read_with_the_xlm_rs_tokenizer(miniature, kind):
    model = AutoModel.from_pretrained(miniature / kind)
    assert model.config.model_type == kind
    tokenizer = miniature / kind / "tokenizer.json"
    assert tokenizer.read_bytes() == (miniature / "text_encoder/tokenizer.json").read_bytes()
    assert model.config.vocab_size == 2502
    assert model.config.pad_token_id == 1
    if kind == "modernbert":
        special = ("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id")
        assert [getattr(model.config, name) for name in special] == [0, 0, 2, 2]
    assert json.loads((miniature / "drawn.json").read_text())["files"].keys() >= {f"{kind}/model.safetensors"}


def test_multilingual_tokenizer_segments_as_sentencepiece_does(monkeypatch):
    """Same training, read back through sentencepiece itself: ids are shifted by one, as in XLM-R."""
    import sentencepiece

    # The trained model does not leave the function, and so is caught where it is made.
    models = []
    plain = sentencepiece.SentencePieceProcessor
    monkeypatch.setattr(
        sentencepiece,
        "SentencePieceProcessor",
        lambda model_proto: models.append(plain(model_proto=model_proto)) or models[0],
    )
    texts = [write_caption([i, (i * 7 + 3) % 70], language) for i in range(70) for language in LANGUAGES]
    tokenizer = train_multilingual_tokenizer(texts, 1500)
    # Spaces that are merged; characters that NFKC replaces ("A1fi", full-width kana); one that no piece has.
    for text in [*texts[:200], "  double  spaces ", "Ａ①ﬁ", "emoji 🍎", "ｶﾅ"]:
        # SentencePiece has <unk> at 0 and pieces from 3 on, XLM-R <unk> at 3 and pieces from 4 on.
        expected = [3 if piece == 0 else piece + 1 for piece in models[0].encode(text)]
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected, text


def test_english_tokenizer_is_clips(miniature):
    tokenizer = AutoTokenizer.from_pretrained(miniature / "clip")
    assert isinstance(tokenizer, CLIPTokenizer)
    assert tokenizer.eos_token_id not in (
        2,
        None,
    )  # CLIP with eos 2 pools at the highest id instead of the end
    # CLIP pools at the first end of text, so that there must be one, at the end.
    ids = tokenizer("A DOG face!")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id


def hashes_of_tokenizers():
    scenes = EmojiScenes("train")
    texts = [scenes[index]["captions"][language] for index in range(300) for language in ("en", "de")]
    tokenizers = train_english_tokenizer(texts[::2], 400), train_multilingual_tokenizer(texts, 200)
    return [
        hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest() for tokenizer in tokenizers
    ]


@pytest.mark.slow
def test_tokenizers_are_the_same_in_every_process(run_python):
    """Hash tables are seeded per process, here and in two others; ids must not depend on them."""
    expected = hashes_of_tokenizers()
    for _ in range(2):
        process = run_python(
            "python",
            "-c",
            "from tests.test_miniature import hashes_of_tokenizers; print(*hashes_of_tokenizers())",
        )
        assert process.stdout.split() == expected, process.stderr


def test_dataset_is_an_ordinary_folder(miniature):
    from datasets import load_dataset

    # Read as any user of `datasets` would read it.
    rows = load_dataset(str(miniature / "dataset"), split="test_concepts")
    assert rows[3]["image"].size == (32, 32)
    assert rows[3]["label"] == 3
    names = json.loads((miniature / "dataset/class_names.json").read_text("utf-8"))
    assert rows[3]["captions"]["zh"] == names["zh"][3]
    assert set(load_dataset(str(miniature / "dataset"))) == set(SPLITS)


# None in `sys.modules` makes an import fail as if the library were not installed.
WITHOUT_THEM = """
import sys

sys.modules["google.protobuf"] = None
sys.modules["torchvision"] = None
from training.miniature.vocabulary import train_english_tokenizer, train_multilingual_tokenizer

texts = [letter * length for letter in "abcdefgh" for length in range(1, 9)]
print(len(train_multilingual_tokenizer(texts, 20)))
"""


def test_works_without_protobuf_and_torchvision():
    process = subprocess.run([sys.executable, "-c", WITHOUT_THEM], capture_output=True, text=True)
    # SentencePiece counts <unk>, <s> and </s> among the 20; XLM-R's tokenizer adds <pad> and <mask>.
    assert process.stdout.strip() == "22", process.stderr
