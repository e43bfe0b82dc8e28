"""No test in the training set: captions and pictures of tests are found, removed, counted and listed."""

import io
import json
import random
import string
from itertools import islice

import pytest
import yaml
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PillowImage
from scipy.stats import binomtest

from benchmarks.tasks.loading import load_task
from common.errors import InputError
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data.exclusion import CaptionIndex, letters_of, load_task_index
from training.data.exclusion.rows import exclude_tests
from training.data.loading import load_examples, load_images
from training.miniature.scenes import EmojiScenes, read_concepts

from .conftest import ROOT

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


@pytest.mark.parametrize("texts_at_once,pairs_at_once", [(1000, 1000), (3, 1000), (1000, 3)])
def test_the_index_finds_what_comparing_all_with_all_finds(texts_at_once, pairs_at_once, monkeypatch):
    """Also where only a few texts, and a few pairs of them, are compared at a time."""
    monkeypatch.setattr("training.data.exclusion.captions._TEXTS_AT_ONCE", texts_at_once)
    monkeypatch.setattr("training.data.exclusion.captions._PAIRS_AT_ONCE", pairs_at_once)
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
    for match in matches:
        letters = letters_of(tests[match.caption])
        assert best_share(texts[match.text], {letters: cut[letters]}) == pytest.approx(match.share)
    assert {match.kind for match in matches} == {"equal", "similar", "contains"}
    assert 50 < len(expected) < 150


@pytest.mark.parametrize("shift", range(10))
def test_a_text_that_lacks_as_many_rare_shingles_as_it_may_is_found(shift):
    """The last three of the first caption's ten are indexed, since another caption has the others.

    Which of the three comes first depends on their hashes.
    """
    letters = string.ascii_lowercase[shift:] + string.ascii_lowercase[:shift]
    (match,) = CaptionIndex([letters[:13], letters[:10] + letters[22:]]).find([letters[:11]])
    assert match == (0, 0, "similar", 0.8)


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


def test_a_short_caption_is_no_part_of_a_longer_text():
    """The text has 19 of its 20 shingles, all rare ones among them, and six others: 0.73 in common."""
    letters = string.ascii_lowercase
    index = CaptionIndex([letters[:23], "abcdyxzwyx"])
    assert index.find([f"7{letters[1:23]}01234"]) == []


def test_letters_that_fill_a_square_count_twice():
    index = CaptionIndex(["两只大狗", "两只狗", "abcdefg"])
    assert index.n_short == 2
    assert [match.kind for match in index.find(["两只大狗。"])] == ["equal"]


def test_texts_that_equal_short_captions_are_found_on_request():
    tests = ["A dog.", "两只狗", "two dogs in the snow", "cat", "!"]
    texts = ["a dog", "a dogs", "cat", "cats", "dog", "?", "TWO dogs in the snow", "两只狗。"]
    index = CaptionIndex(tests, short=True)
    assert index.n_short == 1  # the one without letters
    found = {match.text: (match.caption, match.kind) for match in index.find(texts)}
    assert found == {0: (0, "equal"), 2: (3, "equal"), 6: (2, "equal"), 7: (1, "equal")}
    assert [match.text for match in CaptionIndex(tests).find(texts)] == [6]


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
    others = []
    for _ in range(N_OTHERS):
        others.append({language: made_up(language, draw) for language in LANGUAGES})
    hidden = draw.sample(range(N_OTHERS), len(planted))
    for number, (row, (_, language, text)) in enumerate(zip(hidden, planted)):
        others[row] = others[row] | {language: disguise(text, number)}
    captions = []
    for row in others:
        captions.append({language: [text] for language, text in row.items()})
    rows = Dataset.from_dict(
        {"captions": captions},
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


@pytest.fixture(scope="module")
def test_rows():
    """Return rows of training of which the second is in the task that `one_caption` writes."""
    captions = [{"en": ["a cat sleeps"], "zh": [None]}, {"en": ["A dog runs fast."], "zh": ["狗"]}]
    features = {"captions": {language: List(Value("string")) for language in ("en", "zh")}}
    return Dataset.from_dict({"captions": captions}, Features(features))


test_rows.__test__ = False


@pytest.fixture
def one_caption(tmp_path):
    """Write a task of one picture in two colours with one caption; return its file."""
    picture = PillowImage.new("RGB", (32, 32), "red")
    picture.paste("white", (0, 0, 10, 20))
    write_rows(tmp_path / "data", "test", [{"en": "a dog runs fast"}], [bytes_of(picture)])
    return write_task(tmp_path)


def test_what_is_excluded_is_recorded(one_caption, test_rows, tmp_path, capsys):
    """The tasks by their names, also where they were given twice, and by a path."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text('{"settings": {}, "machine": {}}')
    arguments = stage1("", tmp_path, exclude_tasks=[one_caption, one_caption])
    left = exclude_tests(arguments, test_rows)
    assert left["captions"][:] == [{"en": ["a cat sleeps"], "zh": [None]}]
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record == {"settings": {}, "machine": {}, "excluded": {"tasks": ["mine"], "rows": 1}}
    assert report_of(tmp_path) == [
        {
            "row": 1,
            "task": "mine",
            "item": 0,
            "why": "equal caption",
            "language": "en",
            "text": "A dog runs fast.",
        }
    ]
    assert "Excluded 1 of 2 rows that are in a test, 1 by a caption and 0 by" in capsys.readouterr().out


def test_nothing_is_read_without_tasks(test_rows, tmp_path):
    assert exclude_tests(stage1("", tmp_path), test_rows) is test_rows
    assert not (tmp_path / "out").exists()


def test_data_that_is_a_test_is_refused(one_caption, test_rows, tmp_path):
    with pytest.raises(InputError, match="exclude_tasks: all 1 rows of dataset 'mine.tsv' are in mine, see"):
        exclude_tests(stage1("mine.tsv", tmp_path, exclude_tasks=[one_caption]), test_rows.select([1]))
    assert len(report_of(tmp_path)) == 1


@pytest.mark.parametrize(
    "names,message",
    [
        (["flickr"], "no task 'flickr': did you mean xflickrco, flickr30k"),
        (["all", "xtd"], "exclude_tasks is all xtd: give all alone"),
        (["cifar10"], "exclude_tasks is cifar10, and they have no captions, only pictures"),
        (["flickr30k"], "exclude_tasks: task 'flickr30k' cannot be read: "),
        (["all"], "exclude_tasks is all, and no such data is on this machine"),
    ],
)
def test_tasks_that_cannot_be_looked_for(names, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=message) as raised:
        load_task_index(names, pictures=False)
    assert "\n" not in str(raised.value)


def test_all_takes_what_is_at_hand_and_names_what_cannot_be_read(test_rows, tmp_path, monkeypatch, capsys):
    """A folder with one of the miniature's splits is there, and a broken download of another task."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    half = tmp_path / "hub/datasets--clip-benchmark--wds_flickr30k/snapshots/0"
    half.mkdir(parents=True)
    (half / "README.md").write_text("")
    languages = load_task("miniature-pairs").languages
    features = Features({"image": Image(), "captions": {language: Value("string") for language in languages}})
    captions = {language: f"a dog runs fast in {language}" for language in languages} | {"de": "so"}
    image = {"bytes": bytes_of(PillowImage.new("RGB", (8, 8))), "path": None}
    folder = tmp_path / "outputs/miniature/dataset"
    folder.mkdir(parents=True)
    Dataset.from_dict({"image": [image], "captions": [captions]}, features).to_parquet(folder / "it.parquet")
    split = {"split": "test_pairs", "path": "it.parquet"}
    card = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": [split]}]})
    (folder / "README.md").write_text(f"---\n{card}---\n")

    exclude_tests(stage1("", tmp_path, exclude_tasks=["all"]), test_rows)
    said = capsys.readouterr().out
    assert f"Looking for {len(languages) - 1} captions of miniature-pairs in the training data." in said
    assert "1 captions are too short to look for." in said
    assert "NOT looked for: flickr30k, which cannot be read: dataset" in said
    assert "NOT looked for: miniature-pairs-unseen-style, which cannot be read: dataset" in said


def test_a_stream_leaves_out_the_rows_of_a_test(one_caption, tmp_path):
    """By a caption of a language that is not trained, and by a picture; each is listed once."""
    pytest.importorskip("imagehash")
    scenes = EmojiScenes("train")
    pictures = [bytes_of(scenes[number]["image"]) for number in range(4)]
    test = Dataset.from_parquet(str(tmp_path / "data/test-0.parquet"))[0]["image"]
    pictures[2] = bytes_of(test.resize((64, 64)), "jpeg")
    captions = [{"en": f"caption number {number}", "zh": "一二三"} for number in range(4)]
    captions[1]["en"] = "A dog runs fast"
    data = write_rows(tmp_path / "train", "train", captions, pictures)
    given = {"streaming": True, "max_steps": 1, "cache_image_embeds": False, "exclude_tasks": [one_caption]}

    stream = load_examples(stage2(data, tmp_path, **given), ["zh"])
    rows = list(islice(stream, 6))  # three passes
    assert [row["row_id"] for row in rows] == [row["row_id"] for row in rows[:2]] * 3
    assert len({row["row_id"] for row in rows}) == 2
    by_caption, by_picture = report_lines(tmp_path / "out/excluded.0.jsonl")
    assert (by_caption["row"], by_caption["language"], by_caption["why"]) == (1, "en", "equal caption")
    assert (by_picture["row"], by_picture["task"], by_picture["item"]) == (2, "mine", 0)
    assert by_picture["why"].startswith("similar picture, ")

    # A run that resumes lists nothing twice, and a new one begins with no list.
    list(islice(load_examples(stage2(data, tmp_path, resume=True, **given), ["zh"]), 3))
    assert len(report_lines(tmp_path / "out/excluded.0.jsonl")) == 2
    load_examples(stage2(data, tmp_path, **given), ["zh"])
    assert not (tmp_path / "out/excluded.0.jsonl").exists()


@pytest.mark.parametrize("crop", [0, 0.05, 0.1, 0.15, 0.2])
@pytest.mark.parametrize("is_square", [False, True])
def test_central_crops_of_a_test_are_found(crop, is_square):
    pictures = pytest.importorskip("training.data.exclusion.pictures", exc_type=ImportError)
    noise = PillowImage.frombytes("RGB", (12, 9), random.Random(5).randbytes(12 * 9 * 3))
    whole = noise.resize((240, 180), PillowImage.Resampling.BICUBIC)
    rows = Dataset.from_dict(
        {"image": [{"bytes": bytes_of(whole), "path": None}]}, Features({"image": Image()})
    )
    (of_test,) = pictures.hash_rows(rows, crops=True)
    assert len(of_test) == 8

    kept = whole.crop((30, 0, 210, 180)) if is_square else whole
    left, top = round(kept.width * crop / 2), round(kept.height * crop / 2)
    part = kept.crop((left, top, kept.width - left, kept.height - top))
    assert len(pictures.PictureIndex(of_test).find([pictures.hash_picture(part)])) == 1


def test_pictures_of_one_colour_have_no_hash_and_transparency_is_white():
    pictures = pytest.importorskip("training.data.exclusion.pictures", exc_type=ImportError)
    assert pictures.hash_picture(PillowImage.new("RGB", (20, 30), "red")) is None
    ring = PillowImage.radial_gradient("L").convert("RGBA")
    ring.putalpha(PillowImage.linear_gradient("L"))
    on_white = PillowImage.new("RGBA", ring.size, "white")
    on_white.alpha_composite(ring)
    shown = pictures.hash_picture(on_white.convert("RGB"))
    assert pictures.hash_picture(ring) == shown != pictures.hash_picture(ring.convert("RGB"))


def test_the_nearest_of_several_pictures_is_found(monkeypatch):
    """Also where only a few are compared at a time."""
    pictures = pytest.importorskip("training.data.exclusion.pictures", exc_type=ImportError)
    draw = random.Random(4)
    tests = [draw.randbytes(64) for _ in range(5)]

    def change(hash, n_bits):
        value = int.from_bytes(hash, "big")
        for bit in draw.sample(range(512), n_bits):
            value ^= 1 << bit
        return value.to_bytes(64, "big")

    # One whose 104 bits are all in the first half, and one that differs by all of that half.
    half = 2**104 - 1 << 408
    in_half = (int.from_bytes(tests[4], "big") ^ half).to_bytes(64, "big")
    other_half = bytes(255 - byte for byte in tests[2][:32]) + tests[2][32:]
    hashes = [change(tests[3], 104), draw.randbytes(64), change(tests[1], 105), tests[0], in_half, other_half]
    tests.append(change(tests[0], 9))
    expected = [(0, 3, 104), (3, 0, 0), (4, 4, 104)]
    index = pictures.PictureIndex(tests)
    assert index.find(hashes) == expected
    monkeypatch.setattr(pictures, "_BYTES_AT_ONCE", 100)
    assert index.find(hashes) == expected
    assert index.find([]) == pictures.PictureIndex([]).find(hashes) == []


@pytest.mark.slow
def test_stages_record_what_the_card_states(miniature, one_caption, run_python, tmp_path):
    """The whole way in both stages: from the flag by the record to what the model card says."""
    pytest.importorskip("imagehash")
    recipes = ROOT / "training/recipes/miniature"
    lines = ["en\tzh", "A dog runs fast.\t狗跑得很快"]
    for number, letter in enumerate(string.ascii_letters):
        lines.append(f"a {letter} stands in the garden\t花园里有{number}个东西")
    (tmp_path / "train.tsv").write_text("\n".join(lines), "utf-8")
    short = ["--exclude_tasks", one_caption, "--max_steps", "1", "--per_device_train_batch_size", "8"]
    stage1 = [ROOT / "training/run_stage1.py", recipes / "stage1.yaml", *short]
    stage1 += ["--teacher_name_or_path", miniature / "clip"]
    stage1 += ["--text_encoder_name_or_path", miniature / "text_encoder"]
    stage1 += ["--dataset", tmp_path / "train.tsv", "--output_dir", tmp_path / "stage1"]
    process = run_python("python", *stage1)
    assert process.returncode == 0, process.stderr
    assert "Excluded 1 of 53 rows that are in a test, 1 by a caption and 0 by the picture" in process.stdout

    scenes = EmojiScenes("train")
    pictures = [bytes_of(scenes[number]["image"]) for number in range(24)]
    test = Dataset.from_parquet(str(tmp_path / "data/test-0.parquet"))[0]["image"]
    pictures[5] = bytes_of(test.resize((64, 64)), "jpeg")
    captions = [{"en": f"caption number {number}", "zh": f"字 {number}"} for number in range(24)]
    captions[9]["en"] = "A dog runs fast"
    data = write_rows(tmp_path / "images", "train", captions, pictures)
    stage2 = [ROOT / "training/run_stage2.py", recipes / "stage2.yaml", *short]
    stage2 += ["--model_name_or_path", tmp_path / "stage1", "--languages", "en", "zh"]
    stage2 += ["--dataset", data, "--split", "train", "--output_dir", tmp_path / "stage2"]
    process = run_python("python", *stage2)
    assert process.returncode == 0, process.stderr
    assert "Excluded 2 of 24 rows that are in a test, 1 by a caption and 1 by the picture" in process.stdout

    card = [
        "-m",
        "model_cards",
        "--title",
        "A CLIP",
        "--repo",
        "me/a-clip",
        "--output_dir",
        tmp_path / "card",
    ]
    process = run_python("python", *card, "--stages", tmp_path / "stage1", tmp_path / "stage2")
    assert process.returncode == 0, process.stderr
    sentence = "Rows with captions or images of these tests were removed before training: "
    sentence += "stage1: mine (1 rows); stage2: mine (2 rows)."
    assert sentence in (tmp_path / "card/README.md").read_text("utf-8")
