"""No test in the training set: captions and pictures of tests are found, removed, counted and listed."""

import io
import json
import random
import string

import pytest
import yaml
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PillowImage
from scipy.stats import binomtest

from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data.loading import load_images
from training.exclusion import CaptionIndex, letters_of
from training.exclusion.rows import exclude_tests
from training.miniature.scenes import EmojiScenes, read_concepts

LANGUAGES = ["en", "zh", "es", "ru", "hi"]
N_PER_LANGUAGE = 40
N_PICTURES = 50
N_OTHERS = 1500


@pytest.mark.parametrize(
    "one,other",
    [
        ("Two dogs, in the SNOW!", "two dogs in the snow"),
        ("Straße am Fluß", "STRASSE AM FLUSS"),
        ("ﬁne Ｔwo １２", "fine two 12"),  # a ligature, and letters as wide as Chinese ones
        ("café", "cafe\N{COMBINING ACUTE ACCENT}"),
        ("两只狗，在雪地里。", "两只狗 在雪地里"),
        ("e\N{COMBINING ACUTE ACCENT}", "É"),
        ("\N{GREEK SMALL LETTER IOTA WITH DIALYTIKA AND TONOS}", "ΐ".upper()),  # three characters
        ("don’t", "don't"),
    ],
)
def test_spellings_that_are_the_same(one, other):
    assert letters_of(one) == letters_of(other) != ""


@pytest.mark.parametrize(
    "one,other", [("पानी", "पनी"), ("ปลา", "ปล"), ("über", "uber"), ("bus 12", "bus 13"), ("كَتَبَ", "كُتِبَ")]
)
def test_spellings_that_differ(one, other):
    """Vowel signs are no alphanumeric characters, and tell words apart."""
    assert letters_of(one) != letters_of(other)


def shingles_of(text):
    letters = letters_of(text)
    return {letters[start : start + 4] for start in range(len(letters) - 3)}


def best_share(text, tests):
    """Return the share of shingles by which a text is in the tests, comparing all; 0 if it is not.

    Args:
        tests: `{letters: shingles}`.
    """
    best = 0.0
    own = shingles_of(text)
    for letters, asked in tests.items():
        if len(letters) < 8:
            continue
        if letters_of(text) == letters:
            return 1.0
        common = len(own & asked)
        jaccard = common / len(own | asked)
        contained = common / len(asked)
        if jaccard >= 0.8:
            best = max(best, jaccard)
        elif contained >= 0.9 and len(asked) >= 25:
            best = max(best, contained)
    return best


def test_the_index_finds_what_comparing_all_with_all_finds():
    draw = random.Random(0)
    words = []
    for noun in ("dog", "house", "woman", "standing"):
        words += [f"{noun}{number}" for number in range(12)]

    def sentence():
        return draw.choices(words, k=draw.randint(1, 13))

    tests = [sentence() for _ in range(100)]
    texts = []
    for _ in range(200):
        text = list(draw.choice(tests))
        change = draw.randrange(5)
        if change == 0:
            text = sentence()
        elif change == 1:
            text[draw.randrange(len(text))] = draw.choice(words)
        elif change == 2:
            text += sentence()
        elif change == 3:
            text = text[:-1]
        texts.append(" ".join(text))
    tests = [" ".join(test) for test in tests]

    cut = {letters_of(test): shingles_of(test) for test in tests}
    shares = {number: best_share(text, cut) for number, text in enumerate(texts)}
    expected = {number: share for number, share in shares.items() if share > 0}
    matches = CaptionIndex(tests).find(texts)
    assert {match.text: match.share for match in matches} == pytest.approx(expected)
    assert {match.kind for match in matches} == {"equal", "similar", "contains"}
    assert 50 < len(expected) < 150


def test_the_number_of_a_match_is_that_of_the_captions_as_they_were_given():
    tests = [
        "a dog",
        "three boats in the harbour",
        "Two dogs play in the snow",
        "three boats in the harbour!",
    ]
    index = CaptionIndex(tests)
    assert (index.n_captions, index.n_short) == (4, 1)
    texts = ["", "two dogs play in the snows", "a dog", "Three boats in the harbour"]
    assert [(match.text, match.caption, match.kind) for match in index.find(texts)] == [
        (1, 2, "similar"),
        (3, 1, "equal"),
    ]


@pytest.mark.parametrize(
    "test,text",
    [
        ("a dog", "a dog"),  # everybody's
        ("两只狗", "两只狗"),
        ("a black dog", "a black dot"),
        ("a man in a red shirt", "a man in a red skirt"),
        ("two dogs play in the snow", "two cats play in the snow"),
        (
            "a man on a horse",
            "a photograph of a man on a horse that was taken long ago",
        ),  # too short to be part
        ("两只狗在雪地里玩耍", "两只猫在雪地里玩耍"),
    ],
)
def test_captions_that_are_others(test, text):
    assert CaptionIndex([test]).find([text]) == []


@pytest.mark.parametrize(
    "tests,texts", [([], ["a dog in the snow"]), (["a dog in the snow"], []), ([""], [""])]
)
def test_nothing_is_found_where_nothing_is(tests, texts):
    assert CaptionIndex(tests).find(texts) == []


def test_half_a_pair_of_surrogates_is_a_text_too():
    assert len(CaptionIndex(["broken \ud83d text"]).find(["broken \ud83d text", "broken \ud83e tent"])) == 1


def made_up(language, draw):
    """Make a caption up of three to five names of things."""
    names = read_concepts()["languages"][language]["names"]
    return " ".join(draw.sample(names, draw.randint(3, 5)))


def disguise(text, number):
    """Return a caption as another corpus may have it."""
    wide = text.translate({ord(letter): ord(letter) + 0xFEE0 for letter in string.ascii_letters})
    changed = [
        text,
        text.upper(),
        f"{text} !",
        text.replace(" ", ", "),
        f"«{text}»",
        text.replace(" ", "  "),
        wide,
        f"{text}.." if len(letters_of(text)) < 30 else f"{text} 12",
    ]
    return changed[number % len(changed)]


def bytes_of(picture, form="png", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def another_file(picture, number):
    """Return the bytes of a picture as another dataset may have it: re-encoded and resized."""
    factor = [1, 1, 1.5, 2, 0.75][number % 5]
    side = round(picture.width * factor)
    resized = picture.resize((side, side), PillowImage.Resampling.BICUBIC)
    if number % 5 == 4:
        return bytes_of(resized)
    return bytes_of(resized, "jpeg", quality=[50, 75, 95][number % 3])


def write_rows(folder, split, captions, pictures=None):
    """Write a parquet file of captions, `[{language: text}]`, and of pictures' bytes where there are any."""
    of_languages = {language: List(Value("string")) for language in LANGUAGES}
    features = {"captions": of_languages}
    lists = []
    for row in captions:
        lists.append({language: [row[language]] if language in row else [] for language in LANGUAGES})
    columns = {"captions": lists}
    if pictures is not None:
        features["image"] = Image()
        columns["image"] = [{"bytes": content, "path": None} for content in pictures]
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, Features(features)).to_parquet(folder / f"{split}-0.parquet")
    return folder


def write_task(folder, **keys):
    """Write a task's file beside its dataset, and return the file."""
    task = {
        "kind": "retrieval",
        "dataset": "data",
        "split": "test",
        "columns": {"image": "image", "captions": "captions"},
        "metric": "mean_recall",
        "languages": LANGUAGES,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(task | keys))
    return str(path)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Write a task of fifty pictures with four captions each, in five languages; return its file."""
    folder = tmp_path_factory.mktemp("task")
    draw = random.Random(1)
    captions = []
    for number in range(N_PICTURES):
        left_out = LANGUAGES[number % len(LANGUAGES)]
        chosen = [language for language in LANGUAGES if language != left_out]
        captions.append({language: made_up(language, draw) for language in chosen})
    scenes = EmojiScenes("test_pairs")
    pictures = [bytes_of(scenes[number]["image"]) for number in range(N_PICTURES)]
    write_rows(folder / "data", "test", captions, pictures)
    return write_task(folder)


def test_captions_of(task):
    """Return `(number of the row, language, caption)` of the task's two hundred captions."""
    captions = []
    data = task.replace("mine.yaml", "data/test-0.parquet")
    for number, row in enumerate(Dataset.from_parquet(data)["captions"]):
        for language, texts in row.items():
            captions += [(number, language, text) for text in texts]
    return captions


test_captions_of.__test__ = False


def stage1(dataset, tmp_path, **given):
    return TeacherLearningArguments(
        teacher_name_or_path="",
        text_encoder_name_or_path="",
        dataset=str(dataset),
        output_dir=str(tmp_path / "out"),
        **given,
    )


def stage2(dataset, tmp_path, **given):
    return ContrastiveArguments(
        model_name_or_path="", dataset=str(dataset), output_dir=str(tmp_path / "out"), **given
    )


def report_lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def report_of(tmp_path):
    return report_lines(tmp_path / "out/excluded.jsonl")


def assert_rare(n_false, n_rows, most):
    """Assert that the 95 % interval of the share of false removals ends below `most`."""
    interval = binomtest(n_false, n_rows).proportion_ci(0.95, "exact")
    assert interval.high < most, (n_false, n_rows)


def test_planted_captions_are_found_in_five_languages(task, tmp_path, capsys):
    planted = test_captions_of(task)
    assert len(planted) == 200
    draw = random.Random(2)
    others = [{language: made_up(language, draw) for language in LANGUAGES} for _ in range(N_OTHERS)]
    hidden = draw.sample(range(N_OTHERS), len(planted))
    for number, (row, (_, language, text)) in enumerate(zip(hidden, planted)):
        others[row] = others[row] | {language: disguise(text, number)}
    rows = Dataset.from_dict(
        {"captions": [{language: [text] for language, text in row.items()} for row in others]},
        Features({"captions": {language: List(Value("string")) for language in LANGUAGES}}),
    )

    left = exclude_tests(stage1("", tmp_path, exclude_tasks=[task]), rows)
    report = report_of(tmp_path)
    found = {line["row"]: line for line in report}
    assert len(left) == len(rows) - len(report) == len(rows) - len(found)
    assert list(found) == sorted(found)
    # Of each planted caption the report names the item and the language.
    right = 0
    for row, (item, language, _) in zip(hidden, planted):
        line = found.get(row, {})
        right += (line.get("task"), line.get("item"), line.get("language")) == ("mine", item, language)
    assert right >= 0.99 * len(planted)
    assert_rare(len(set(found) - set(hidden)), N_OTHERS - len(planted), 0.005)
    assert set(left["captions"][0]) == set(LANGUAGES)

    said = capsys.readouterr().out
    assert "Looking for 200 captions of mine in the training data." in said
    assert f"Excluded {len(found)} of {len(rows)} rows that are in a test, {len(found)} by a caption" in said


def test_planted_pictures_are_found(task, tmp_path, capsys):
    pytest.importorskip("imagehash")
    scenes = EmojiScenes("test_pairs")
    others = EmojiScenes("train")
    n_others = 400
    pictures = [bytes_of(others[number]["image"]) for number in range(n_others)]
    hidden = random.Random(3).sample(range(n_others), N_PICTURES)
    for number, row in enumerate(hidden):
        pictures[row] = another_file(scenes[number]["image"], number)
    pictures[7 if 7 not in hidden else 8] = b"no picture"  # which makes row numbers differ from places
    captions = [{"en": f"caption {number}"} for number in range(n_others)]
    data = write_rows(tmp_path / "data", "train", captions, pictures)

    left = load_images(stage2(data, tmp_path, exclude_tasks=[task]), ["en"])
    found = {line["row"]: line for line in report_of(tmp_path)}
    right = sum(found.get(row, {}).get("item") == item for item, row in enumerate(hidden))
    assert right >= 0.99 * N_PICTURES
    assert all(line["why"].startswith("similar picture, ") for line in found.values())
    assert_rare(len(set(found) - set(hidden)), n_others - N_PICTURES, 0.012)
    assert len(left) == n_others - 1 - len(found)
    assert left.column_names == ["image", "captions"]
    kept = [captions["en"][0] for captions in left["captions"]]
    assert not {f"caption {row}" for row in found} & set(kept)
    assert "Looking for 200 captions and 50 pictures of mine" in capsys.readouterr().out


def test_pictures_of_one_colour_have_no_hash_and_transparency_is_white():
    pictures = pytest.importorskip("training.exclusion.pictures", exc_type=ImportError)
    assert pictures.hash_picture(PillowImage.new("RGB", (20, 30), "red")) is None
    ring = PillowImage.radial_gradient("L").convert("RGBA")
    ring.putalpha(PillowImage.linear_gradient("L"))
    on_white = PillowImage.new("RGBA", ring.size, "white")
    on_white.alpha_composite(ring)
    shown = pictures.hash_picture(on_white.convert("RGB"))
    assert pictures.hash_picture(ring) == shown != pictures.hash_picture(ring.convert("RGB"))


def test_the_nearest_of_several_pictures_is_found(monkeypatch):
    """Also where only a few are compared at a time."""
    pictures = pytest.importorskip("training.exclusion.pictures", exc_type=ImportError)
    draw = random.Random(4)
    tests = [draw.randbytes(64) for _ in range(5)]

    def change(hash, n_bits):
        value = int.from_bytes(hash, "big")
        for bit in draw.sample(range(512), n_bits):
            value ^= 1 << bit
        return value.to_bytes(64, "big")

    hashes = [change(tests[3], 104), draw.randbytes(64), change(tests[1], 105), tests[0]]
    expected = [(0, 3, 104), (3, 0, 0)]
    index = pictures.PictureIndex(tests)
    assert index.find(hashes) == expected
    monkeypatch.setattr(pictures, "_BYTES_AT_ONCE", 700)
    assert index.find(hashes) == expected
    assert index.find([]) == pictures.PictureIndex([]).find(hashes) == []
