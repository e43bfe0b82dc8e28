"""Evaluation from tasks to scores: by hand on a copy of every task, and by the commands on the miniature."""

import dataclasses
import io
import json
import re

import pytest
import torch
from datasets import Dataset, Features, Image, Value, load_dataset
from PIL import Image as PillowImage
from transformers import AutoTokenizer, CLIPImageProcessor

from benchmarks.choices import evaluate_choices
from benchmarks.encoder import Encoder
from benchmarks.jobs.retrieval import RetrievalBenchmark
from benchmarks.jobs.zero_shot import ZeroShotBenchmark
from benchmarks.mixed_pool import evaluate_mixed_pool
from benchmarks.report.comparison import Comparison
from benchmarks.report.means import SHARED_MEAN
from benchmarks.results import load_results
from benchmarks.retrieval import evaluate_retrieval
from benchmarks.tasks.class_names import class_names_of, languages_of
from benchmarks.tasks.description import describe_task
from benchmarks.tasks.loading import all_task_names, load_task
from benchmarks.tasks.reading import read_rows
from benchmarks.zero_shot import evaluate_zero_shot
from common.errors import InputError
from common.files.rows import load_rows
from modeling_altclip import AltCLIPModel, AltCLIPProcessor

from .conftest import ROOT, measured
from .replicas import CLASSES, NAMES, N, encoded, number_of, write_replica

FEW_ENGLISH = ["--limit", "20", "--languages", "en"]
BASIS = torch.eye(N)  # an embedding for each image of the copies
TAKEN_FOR = [0, 1, 2, 4, 3, 5]  # images 3 and 4 are taken for each other


class ByHand(Encoder):
    """Encoder that knows the copies' images by their shade, and takes two of them for each other.

    The text `de 3.1` belongs to image 3, and `bee` is class 1.
    """

    def __init__(self):
        """Hold no model."""

    def images(self, images):
        return torch.stack([BASIS[TAKEN_FOR[number_of(image)]] for image in images])

    def texts(self, texts):
        numbers = [int(re.search(r"(\d)\.", text).group(1)) for text in texts]  # "de 3.1" -> 3
        return BASIS[numbers]

    def classes(self, names, templates):
        """Return the mean of each class's images, of length 1."""
        embeds = []
        for name in names:
            images = [image for image, own in enumerate(CLASSES) if NAMES[own] == name]
            embeds.append(BASIS[images].mean(0) * len(images) ** 0.5)
        return torch.stack(embeds)


TEMPLATES = {"en": ["{}"]}


@pytest.mark.parametrize("name", all_task_names())
def test_scores_by_hand_on_a_copy_of_every_task(name, tmp_path):
    """Images 3, of class 1, and 4, of class 0, are mistaken; all others are right."""
    task = dataclasses.replace(load_task(name), dataset=str(tmp_path), revision=None)
    if task.layout == "split_per_language":
        task.languages = ["en", "no", "th"]
    if task.layout == "candidates":
        task.languages = ["en", "nqo"]  # two of 205
    write_replica(task, tmp_path)
    rows = read_rows(task, limit=N)
    encoder = ByHand()
    images = encoder.images(rows["image"])

    if task.kind == "mixed_pool":
        found = evaluate_mixed_pool(encoder, images, rows["captions"], task.languages)
        for metrics in [outcomes.metrics() for outcomes in found.values()]:
            # Both mistaken images find wrong texts in all languages alike; texts find their translations.
            assert metrics["image_to_text_overtaken"] == pytest.approx(2 / 6)
            assert metrics["text_to_text_overtaken"] == 0
            assert metrics[task.metric] == metrics["image_to_text_preference"] == 0.5
        return

    if task.layout == "candidates":
        language = task.languages[-1]
        columns = {name: rows[name][:] for name in ("captions", "rivals")}
        found = evaluate_choices(encoder, images, **columns, languages=[language])[language].metrics()
        # Texts of 3 choose among 3, 4, 5 and 0, and take 4; those of 4 have no 3 to choose, and find nothing:
        # all four images are as unlike, and ties count as ahead.
        assert found["accuracy@1"] == pytest.approx(4 / 6)
        assert found["n"] == 18
        return

    if task.kind == "retrieval":
        language = task.languages[-1]
        found = evaluate_retrieval(encoder, images, rows["captions"], [language])[language].metrics()
        assert found["text_to_image_recall@1"] == found["image_to_text_recall@1"] == pytest.approx(4 / 6)
        assert found["n"] == 6
        assert found["text_to_image_recall@10"] == 1
        assert found["n_texts"] in (6, 18)  # one caption an image, or three
        return

    several = "labels" in rows.column_names
    labels = rows["labels" if several else "label"][:]
    if task.metric == "roc_auc":  # two classes: the copy's third is left out
        kept = [row for row, own in enumerate(labels) if own < 2]
        kept_labels = [labels[row] for row in kept]
        names = {"en": NAMES[:2]}
        found = evaluate_zero_shot(encoder, images[kept], kept_labels, names, TEMPLATES, task.metric)
        # Images 2 and 4 look like class 1, and 2 is; of 1, 3 and 5, which look like 0, 3 is 1: two ties count
        # half, two pairs are wrong.
        assert found["en"].metrics()["roc_auc"] == pytest.approx((2 + 0.5 + 0.5 * 2) / 6)
        return

    outcomes = evaluate_zero_shot(encoder, images, labels, {"en": NAMES}, TEMPLATES, task.metric)
    found = outcomes["en"].metrics()
    assert task.metric in found
    assert found["n"] == 6
    if not several:
        assert found["accuracy@1"] == pytest.approx(4 / 6)
        # By class: images 1, 4 and 5, of which 4 is mistaken; 2 and 3, of which 3 is; and 0, which is right.
        assert found["mean_per_class"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_a_language_beyond_those_of_the_templates_is_refused_by_name_or_needs_none():
    """Prompt templates are in 19 languages; captions may be in any."""
    message = (
        "templates 'simple': none are written in 'sw': choose from en zh .*, or give a JSON file of yours"
    )
    with pytest.raises(InputError, match=message):
        ZeroShotBenchmark().prompts(load_task("dollar-street"), ["sw"], None)
    quechua = RetrievalBenchmark(distance="cosine").prompts(load_task("xm3600"), ["quz"], None)
    assert quechua == {"quz": None}
    text = describe_task(load_task("flickr30k-200"), ["quy"])
    assert "quy_Latn.txt" in text


def test_a_language_is_measured_on_the_classes_it_names():
    """Class 1 has no name in a language: its images, 2 and 3, are left out.

    Image 4 is then taken for 3, an image of no class, and ties with all.
    """
    images = ByHand().images(load_copies())
    names = {"en": NAMES, "xx": ["ant", None, "cat"]}
    found = evaluate_zero_shot(ByHand(), images, CLASSES, names, dict.fromkeys(names, ["{}"]))
    assert found["xx"].metrics()["n"] == 4
    assert found["xx"].n_classes == 2
    assert found["xx"].rows.tolist() == [0, 1, 4, 5]
    assert found["en"].rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert found["xx"].labels.tolist() == [1, 0, 0, 0]
    assert found["xx"].ranks.tolist() == [0, 0, 1, 0]

    of_xx = {"xx": names["xx"]}
    with pytest.raises(InputError, match="language 'xx' names none of the classes"):
        evaluate_zero_shot(ByHand(), images[2:4], CLASSES[2:4], of_xx, {"xx": ["{}"]})
    with pytest.raises(InputError, match="language 'en' has 2 class names, but labels go up to 2"):
        evaluate_zero_shot(ByHand(), images, CLASSES, {"en": NAMES[:2]}, TEMPLATES)
    several = [[label] for label in CLASSES]
    message = "language 'xx' has no name for class 1: map_11_point needs them all"
    with pytest.raises(InputError, match=message):
        evaluate_zero_shot(ByHand(), images, several, of_xx, {"xx": ["{}"]}, "map_11_point")


@pytest.mark.parametrize("label", [None, -1])
def test_a_label_that_is_no_class_is_refused(label):
    images = ByHand().images(load_copies())
    one_a_row = [0, 1, label, 0, 0, 0]
    several_a_row = [[0], [1], [0, label], [0], [], [0]]
    for labels in (one_a_row, several_a_row):
        with pytest.raises(InputError, match=f"row 2 has the label {label}, which is no class"):
            evaluate_zero_shot(ByHand(), images, labels, {"en": NAMES}, TEMPLATES)


def test_labels_that_are_all_empty_are_refused():
    images = ByHand().images(load_copies())
    message = "labels of all rows, 0 to 5, are empty: name the column that has classes in columns.labels"
    with pytest.raises(InputError, match=message):
        evaluate_zero_shot(ByHand(), images, [[]] * 6, {"en": NAMES}, TEMPLATES, "map_11_point")


def test_roc_auc_needs_two_classes():
    images = ByHand().images(load_copies())
    message = "roc_auc needs two classes with images of both"
    with pytest.raises(InputError, match=message):  # images of one class
        evaluate_zero_shot(ByHand(), images, [0] * 6, {"en": NAMES[:2]}, TEMPLATES, "roc_auc")
    with pytest.raises(InputError, match=message):  # three classes
        evaluate_zero_shot(ByHand(), images, [0, 1] * 3, {"en": NAMES}, TEMPLATES, "roc_auc")


def load_copies():
    """Return the images of the copies."""
    return [PillowImage.open(io.BytesIO(encoded(number))) for number in range(N)]


def test_names_come_from_where_the_task_says(miniature, tmp_path):
    task = load_task("miniature-concepts")
    given = str(miniature / "dataset/class_names.json")
    rows = load_dataset(str(miniature / "dataset"), split="validation_concepts")

    # From a file that the user names.
    names = class_names_of(task, ["zh"], rows, given)
    # The miniature has 70 concepts, each named in 19 languages.
    assert len(names["zh"]) == 70
    assert names["zh"] == json.loads((miniature / "dataset/class_names.json").read_text())["zh"]
    assert len(languages_of(task, given)) == 19
    assert languages_of(load_task("imagenet")) == ["en", "zh", "it", "ja", "ar", "ko"]
    assert languages_of(load_task("hateful-memes")) == ["en"]
    assert "ja" in languages_of(load_task("xm3600"))

    # From the dataset: of its label, or else of its file classnames.txt.
    (tmp_path / "classnames.txt").write_text("\n".join(NAMES))
    listed = dataclasses.replace(
        task, dataset=str(tmp_path), layout="webdataset", class_names="dataset", n_classes=3
    )
    with_all = dataclasses.replace(listed, n_classes=70)
    assert class_names_of(with_all, ["en"], rows)["en"][0] == "red-apple"
    rows = rows.cast_column("label", Value("int64"))
    assert class_names_of(listed, ["en"], rows) == {"en": NAMES}
    # classnames.txt names three.
    with pytest.raises(InputError, match="67 of 70 classes without a name"):
        class_names_of(with_all, ["en"], rows)


@pytest.fixture(scope="module")
def model(miniature, tmp_path_factory):
    """Save an AltCLIP of the miniature's untrained towers; return its folder."""
    folder = tmp_path_factory.mktemp("evaluated") / "altclip"
    torch.manual_seed(0)
    model = AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"))
    model.save_pretrained(folder)
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    AltCLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


RETRIEVAL_TASK = """\
dataset: {dataset}
kind: retrieval
split: {split}
columns: {{image: image, captions: captions}}
metric: mean_recall
languages: [en, zh, de]
"""
ZERO_SHOT_TASK = """\
dataset: {dataset}
kind: zero_shot
split: validation_concepts
columns: {{image: image, label: label}}
metric: accuracy@1
class_names: {dataset}/class_names.json
"""


@pytest.fixture
def own_tasks(miniature, tmp_path):
    """Write a user's own tasks on the miniature, retrieval (find) and classification (sort)."""
    dataset = miniature / "dataset"
    (tmp_path / "find.yaml").write_text(RETRIEVAL_TASK.format(dataset=dataset, split="validation"))
    (tmp_path / "sort.yaml").write_text(ZERO_SHOT_TASK.format(dataset=dataset))
    return tmp_path


@pytest.fixture
def evaluate(run_python, own_tasks, model):
    """Return a function that evaluates the model with a script; cache and results lie beside the tasks."""

    def evaluate(kind, *flags, cache="cache", output="out", **options):
        command = ["python", ROOT / f"benchmarks/run_{kind}.py", "--models", model]
        command += ["--cache_dir", own_tasks / cache, "--output_dir", own_tasks / output]
        return run_python(*command, *flags, **options)

    return evaluate


def last_line(text):
    return text.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "kind,task,languages", [("retrieval", "find", ["en", "zh"]), ("zero_shot", "sort", ["en", "zh", "th"])]
)
def test_two_processes_write_the_numbers_of_one(evaluate, own_tasks, kind, task, languages):
    flags = ["--tasks", own_tasks / f"{task}.yaml", "--languages", *languages, "--limit", "40"]
    flags += ["--n_resamples", "100"]
    for processes in (1, 2):
        folders = {"cache": f"cache{processes}", "output": f"out{processes}"}
        process = evaluate(kind, *flags, **folders, processes=processes, OMP_NUM_THREADS="1")
        assert process.returncode == 0, process.stderr[-3000:]
        # Of two processes one prints.
        assert process.stdout.count("Saved") == 1

    one = measured(own_tasks / "out1")
    assert one == measured(own_tasks / "out2")
    assert len(one) == len(languages)
    chinese = one[f"{task}.zh.json"]
    for result in one.values():
        assert result["n_rows"] == 40
        assert result["images"] == chinese["images"]
    assert chinese["metrics"]["n"] == 40
    assert (chinese["prompts"] is None) == (kind == "retrieval")


def test_the_images_are_encoded_once_for_all_languages_and_runs(evaluate, own_tasks):
    flags = ["--tasks", own_tasks / "find.yaml"]
    first = evaluate("retrieval", *flags, "--languages", "en", "zh")
    assert first.returncode == 0, first.stderr[-3000:]
    assert "Encoding image_embeds: 100%" in first.stderr

    second = evaluate("retrieval", *flags)
    assert "Encoding image_embeds: 100%" not in second.stderr
    assert "Encoding text_embeds" in second.stderr
    assert "| find | de " in second.stdout
    # The second run takes all languages of the task, of which German alone is new.
    assert len(list((own_tasks / "out").rglob("*.npz"))) == 3


def test_half_precision_is_stated_and_has_embeddings_of_its_own(evaluate, own_tasks):
    flags = ["--tasks", own_tasks / "find.yaml", "--languages", "en", "--limit", "40"]
    for dtype in ("float32", "bfloat16"):
        process = evaluate("retrieval", *flags, "--dtype", dtype, output=dtype)
        assert process.returncode == 0, process.stderr[-3000:]
        # They share a cache, in which the other's embeddings are not found.
        assert "Encoding image_embeds: 100%" in process.stderr
    (whole,) = measured(own_tasks / "float32").values()
    (half,) = measured(own_tasks / "bfloat16").values()
    assert (whole["dtype"], half["dtype"]) == ("float32", "bfloat16")
    assert whole["weights"] != half["weights"]
    assert half["metrics"]["mean_recall"] == pytest.approx(whole["metrics"]["mean_recall"], abs=0.1)


def test_a_stream_gives_the_same_numbers(evaluate, own_tasks):
    flags = ["--tasks", own_tasks / "find.yaml", "--languages", "en", "--limit", "40"]
    for streaming in ("false", "true"):
        folders = {"cache": f"cache-{streaming}", "output": streaming}
        process = evaluate("retrieval", *flags, "--streaming", streaming, **folders)
        assert process.returncode == 0, process.stderr[-3000:]
    assert measured(own_tasks / "false") == measured(own_tasks / "true") != {}


def test_languages_of_other_images_have_no_mean(evaluate, run_python, own_tasks, miniature):
    """Of 12 images the first 6 have a caption in English, the last 6 in Chinese: as many, and none in common.

    German has one of images 4 to 8, of which 4 and 5 have an English one too.
    """
    rows = load_rows(str(miniature / "dataset"), "validation", []).select(range(12))
    halves = {"en": range(6), "zh": range(6, 12), "de": range(4, 9)}
    texts = {"en": "a", "zh": "b", "de": "c"}
    captions = []
    for row in range(12):
        captions.append(
            {language: texts[language] if row in halves[language] else None for language in halves}
        )
    features = Features({"image": Image(), "captions": dict.fromkeys(halves, Value("string"))})
    dataset = own_tasks / "halves"
    dataset.mkdir()
    columns = {"image": rows["image"][:], "captions": captions}
    Dataset.from_dict(columns, features=features).to_parquet(dataset / "test.parquet")
    (own_tasks / "halves.yaml").write_text(RETRIEVAL_TASK.format(dataset=dataset, split="test"))

    process = evaluate("retrieval", "--tasks", own_tasks / "halves.yaml")
    assert process.returncode == 0, process.stderr[-3000:]
    out = own_tasks / "out"
    _, english, chinese = measured(out).values()
    assert english["n_rows"] == 12
    assert english["metrics"]["n"] == 6
    assert chinese["metrics"]["n"] == 6
    assert english["images"] != chinese["images"]

    report = ["python", ROOT / "benchmarks/run_report.py", "--results", out, "--output_dir", out]
    process = run_python(*report, "--columns", "language")
    assert process.returncode == 0, process.stderr[-3000:]
    assert re.search(r"\| model +\| de +\| en +\| zh +\|\n", process.stdout)
    assert "halves: no mean over languages, which have no image in common." in process.stdout

    # Where two languages have images in common, their mean is over those: images 4 and 5.
    results = {result.language: result for result in load_results(out)}
    found = Comparison([results["en"], results["de"]], means=True).results
    (shared,) = [result for result in found.values() if result.language == SHARED_MEAN]
    of_english = results["en"].outcomes()
    of_german = results["de"].outcomes()
    assert torch.equal(of_english.digests[4:], of_german.digests[:2])
    assert len(of_english.digests.unique()) == 6
    english_recall = (of_english.image_ranks[4:] < 1).double().mean().item()
    german_recall = (of_german.image_ranks[:2] < 1).double().mean().item()
    by_hand = (english_recall + german_recall) / 2
    assert shared.metrics["image_to_text_recall@1"] == pytest.approx(by_hand)
    assert shared.metrics["n"] == 2


@pytest.mark.parametrize(
    "script,flags,message",
    [
        (
            "retrieval",
            ["--tasks", "miniature-concepts"],
            "task 'miniature-concepts' is of the kind zero_shot: run benchmarks/run_zero_shot.py",
        ),
        ("retrieval", ["--tasks", "flickr30"], "no task 'flickr30': did you mean flickr30k"),
        (
            "retrieval",
            ["--tasks", "flickr30k", "multi30k", "--languages", "xx"],
            "no text in language xx: choose from en ",
        ),
        ("retrieval", ["--tasks", "find.yaml", "--distance", "angle"], "distance is 'angle'"),
        ("retrieval", ["--tasks", "find.yaml", "--n_resamples", "3"], "n_resamples is 3"),
        ("retrieval", ["--tasks", "find.yaml", "--dtype", "half"], "dtype is 'half': choose from float32, b"),
        ("zero_shot", ["--tasks", "sort.yaml", "--languages", "xx"], "'xx'"),
        (
            "zero_shot",
            ["--tasks", "sort.yaml", "--templates", "no slot", "{}"],
            "'no slot' of templates has to have {} or {label} once",
        ),
    ],
)
def test_bad_input_ends_with_one_clear_line(evaluate, own_tasks, script, flags, message):
    flags = [own_tasks / flag if flag.endswith(".yaml") else flag for flag in flags]
    process = evaluate(script, "--limit", "20", *flags)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert message in last_line(process.stderr)


def test_what_is_missing_is_told_before_anything_is_loaded(run_python, own_tasks, miniature):
    """Name a model that does not exist: it would be the first error if it were loaded."""
    sort = own_tasks / "sort.yaml"
    errors = [
        (["--languages", "en", "xx"], "'xx'"),
        (["--templates", "nosuch"], "no set of templates 'nosuch'"),
        ([sort], "tasks: several are called sort"),
        (["--english_only", "other"], "english_only names other"),
        (["--dataset", "no/such/folder"], "dataset 'no/such/folder' does not exist"),
    ]
    command = ["python", ROOT / "benchmarks/run_zero_shot.py", "--models", "no/such/model", "--tasks", sort]
    for flags, message in errors:
        process = run_python(*command, *flags)
        assert process.returncode == 1, process.stderr
        assert message in last_line(process.stderr), process.stderr


@pytest.mark.parametrize("dry", [["--dry_run"], []])
def test_what_is_missing_is_told_before_the_first_model(run_python, own_tasks, model, dry):
    find = own_tasks / "find.yaml"
    nowhere = own_tasks / "nowhere.yaml"
    nowhere.write_text(find.read_text().replace("dataset: ", "dataset: /no/such"))
    unknown_prefix = "model 'openclip:ViT' has an unknown prefix: choose from open_clip:"
    errors = [
        # further models, flags after --tasks find.yaml, message
        (["outputs/no/such"], [], "model 'outputs/no/such' does not exist"),
        (["openclip:ViT"], [], unknown_prefix),
        ([], [nowhere], "dataset '/no/such"),
        ([], ["--distance", "angle"], "distance is 'angle'"),
        ([], ["--n_resamples", "3"], "n_resamples is 3"),
    ]
    where = ["--cache_dir", own_tasks / "cache", "--output_dir", own_tasks / "out"]
    for models, flags, message in errors:
        command = ["python", ROOT / "benchmarks/run_retrieval.py", "--models", model, *models]
        process = run_python(*command, "--tasks", find, *flags, *where, *dry)
        assert process.returncode == 1, process.stderr
        assert message in last_line(process.stderr), process.stderr
    assert not (own_tasks / "cache").exists()


def test_all_folders_that_are_to_be_prepared_are_told_at_once(evaluate, own_tasks):
    """They are named before the first model is loaded; a dry run names them too, and goes on."""
    flags = ["--tasks", own_tasks / "find.yaml", "xtd", "coco-cn-5k"]
    process = evaluate("retrieval", *flags)
    error = last_line(process.stderr)
    assert process.returncode == 1
    assert not (own_tasks / "cache").exists()
    assert "dataset 'data/xtd' does not exist. Clone " in error
    assert "dataset 'data/coco-cn' does not exist. Put " in error
    assert error.endswith(f"Or leave out xtd coco-cn-5k: --tasks {own_tasks / 'find.yaml'}")

    process = evaluate("retrieval", *flags, "--dry_run")
    assert process.returncode == 0
    assert last_line(process.stdout) == (
        "Nothing was loaded. Next: prepare xtd, coco-cn-5k, or leave that out of --tasks; "
        "then the same command without --dry_run"
    )


def test_other_sentences_have_results_of_their_own(evaluate, own_tasks, miniature):
    names = own_tasks / "names.json"
    names.write_bytes((miniature / "dataset/class_names.json").read_bytes())
    for templates in ([], ["--templates", "full"], ["--templates", "a {}.", "--class_names", names]):
        process = evaluate("zero_shot", "--tasks", own_tasks / "sort.yaml", *FEW_ENGLISH, *templates)
        assert process.returncode == 0, process.stderr[-3000:]
    found = measured(own_tasks / "out")
    assert list(found) == ["sort-full.en.json", "sort-own-templates.en.json", "sort.en.json"]
    assert [result["templates"] for result in found.values()] == ["full", ["a {}."], "simple"]
    assert len({result["prompts"] for result in found.values()}) == 3
    assert len({result["data"] for result in found.values()}) == 1
    of_task = str(miniature / "dataset/class_names.json")
    sources = [result["definition"]["class_names"] for result in found.values()]
    assert sources == [of_task, str(names), of_task]


def test_a_file_of_templates_is_named_by_its_stem(evaluate, own_tasks):
    (own_tasks / "mine.json").write_text('{"en": {"short": ["a {}."]}}')
    flags = ["--tasks", own_tasks / "sort.yaml", *FEW_ENGLISH, "--templates", f"{own_tasks}/mine.json:short"]
    process = evaluate("zero_shot", *flags)
    assert process.returncode == 0, process.stderr[-3000:]
    saved = [str(path.relative_to(own_tasks)) for path in own_tasks.rglob("out/**/*.json")]
    assert saved == ["out/altclip/sort-mine-short.en.json"]
    assert str(own_tasks) not in process.stdout.split("Saved")[0]


def test_a_result_of_something_else_is_kept(evaluate, own_tasks, miniature):
    """An error says so before anything is encoded, so that the cache stays as it is."""
    in_order = json.loads((miniature / "dataset/class_names.json").read_text())["en"]
    reversed_names = own_tasks / "names.json"
    reversed_names.write_text(json.dumps({"en": in_order[::-1]}))
    flags = ["--tasks", own_tasks / "sort.yaml", "--languages", "en"]
    for _ in ("once", "twice"):  # the same again is no error
        process = evaluate("zero_shot", *flags, "--limit", "20")
        assert process.returncode == 0, process.stderr[-3000:]
    before = measured(own_tasks / "out")

    other_names = ["--limit", "20", "--class_names", reversed_names]
    errors = [
        (["--limit", "20", "--dtype", "bfloat16"], "sort.en.json is a result of dtype 'float32', not of"),
        (["--limit", "10"], "sort.en.json is a result of limit 20, not of 10: give another output_dir"),
        (other_names, "sort.en.json is a result of other templates or class names"),
        (["--limit", "20", "--dataset", miniature], "sort.en.json is a result of dataset"),
    ]
    for others, message in errors:
        process = evaluate("zero_shot", *flags, *others, cache="other_cache")
        assert process.returncode == 1, process.stderr
        assert message in last_line(process.stderr), process.stderr
    assert measured(own_tasks / "out") == before
    assert not (own_tasks / "other_cache").exists()


def test_an_error_leaves_the_table_of_what_was_measured(evaluate, own_tasks):
    """A split can only be looked up when its task's turn comes."""
    find = own_tasks / "find.yaml"
    broken = own_tasks / "broken.yaml"
    broken.write_text(find.read_text().replace("split: validation", "split: nosuch"))
    process = evaluate("retrieval", "--tasks", find, broken, *FEW_ENGLISH)
    assert process.returncode == 1
    assert "has no split 'nosuch'" in last_line(process.stderr)
    assert "| altclip | find | en " in process.stdout
    assert "Saved 1 results" in process.stdout


def test_equal_images_are_warned_of_without_a_line_of_code(evaluate, own_tasks, miniature):
    rows = load_dataset(str(miniature / "dataset"), split="validation").select([0, 1, 2, 0])
    twice = own_tasks / "twice"
    twice.mkdir()
    rows.to_parquet(twice / "validation.parquet")
    flags = ["--tasks", own_tasks / "find.yaml", "--languages", "en", "--dataset", twice]
    process = evaluate("retrieval", *flags)
    assert process.returncode == 0, process.stderr[-3000:]
    assert (
        "find: 1 of 4 images are duplicates: their texts compete with each other"
        in process.stderr.splitlines()
    )
    assert "measure(" not in process.stderr
    assert "Warning" not in process.stderr


def test_the_tables_have_the_metric_of_the_task(evaluate, own_tasks):
    task = own_tasks / "both.yaml"
    task.write_text((own_tasks / "sort.yaml").read_text().replace("accuracy@1", "mean_top1_top5"))
    process = evaluate("zero_shot", "--tasks", task, *FEW_ENGLISH)
    assert process.returncode == 0, process.stderr[-3000:]
    header = process.stdout.splitlines()[0]
    columns = [cell.strip() for cell in header.split("|")]
    assert columns[5:-1] == ["top-1", "top-5", "mean_per_class", "mean_top1_top5", "95 %"]


def test_english_alone_asked_for_other_languages_is_an_error(evaluate, own_tasks, model):
    flags = ["--english_only", model, "--tasks", own_tasks / "find.yaml", "--languages", "zh"]
    process = evaluate("retrieval", *flags)
    assert process.returncode == 1
    assert "nothing to evaluate" in last_line(process.stderr)


def test_a_dry_run_loads_nothing(run_python):
    command = ["python", ROOT / "benchmarks/run_zero_shot.py", "--models", "no/such", "--dry_run"]
    command += ["--tasks", "imagenet-a", "imagenet", "--languages", "en", "zh", "ko"]
    process = run_python(*command)
    assert process.returncode == 0, process.stderr
    assert "clip-benchmark/wds_imagenet-a" in process.stdout
    assert "50,000 images" in process.stdout
    # Once for each of the two tasks.
    assert process.stdout.count("clip_benchmark in en zh, altclip:imagenet in ko") == 2
    assert process.stdout.count("class_names.ko") == 2
    assert process.stdout.splitlines()[:2] == ["models", "  no/such: from the Hub"]
    assert last_line(process.stdout) == "Nothing was loaded. Next: the same command without --dry_run"


def test_a_dry_run_names_the_models(run_python, own_tasks, model):
    """Count the parameters that are on the disk, in one file or in several."""
    loaded = AltCLIPModel.from_pretrained(model)
    sharded = own_tasks / "sharded"
    loaded.save_pretrained(sharded, max_shard_size="1MB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    command = ["python", ROOT / "benchmarks/run_retrieval.py", "--dry_run"]
    command += ["--models", model, sharded, "open_clip:ViT-B-32/x", "org/name", "--english_only", "org/name"]
    command += ["--tasks", own_tasks / "find.yaml", "--output_dir", own_tasks / "out"]

    process = run_python(*command)
    assert process.returncode == 0, process.stderr
    size = f"a folder, {loaded.num_parameters():,} parameters"
    assert process.stdout.splitlines()[:5] == [
        "models",
        f"  {model}: {size}",
        f"  {sharded}: {size}",
        "  open_clip:ViT-B-32/x: with open_clip",
        "  org/name: from the Hub, English alone",
    ]

    # A file that git did not fetch.
    (sharded / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    process = run_python(*command)
    assert process.returncode == 1
    assert "model.safetensors cannot be read" in last_line(process.stderr)


def test_an_evaluation_whose_recipe_names_a_table_writes_the_report(evaluate, own_tasks):
    """Retrieval first, and then classification: the second report has both tasks, the evaluated one first."""
    table = ["--languages", "en", "--title", "Both kinds", "--rows", "task", "--columns", "model"]
    for kind, task in (("retrieval", "find"), ("zero_shot", "sort")):
        process = evaluate(kind, "--tasks", own_tasks / f"{task}.yaml", *table)
        assert process.returncode == 0, process.stderr[-3000:]
    page = own_tasks / "out/index.html"
    assert last_line(process.stdout) == f"Saved the report of 2 results. Next: open {page}"
    report = (own_tasks / "out/report.md").read_text("utf-8")
    assert report.startswith("# Both kinds\n")
    assert report.index("| sort") < report.index("| find")


def test_an_evaluation_without_a_table_and_a_dry_run_write_no_report(evaluate, own_tasks):
    command = ["retrieval", "--tasks", own_tasks / "find.yaml", "--languages", "en"]
    assert evaluate(*command).returncode == 0
    assert evaluate(*command, "--title", "A table", "--dry_run").returncode == 0
    assert (own_tasks / "out").is_dir()
    assert not (own_tasks / "out/index.html").exists()
