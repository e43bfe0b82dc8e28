"""From tasks to scores: by hand on a copy of every task, and through the commands on the miniature."""

import dataclasses
import json
import re

import pytest
import torch
from datasets import Dataset, Features, Image, Value, load_dataset

from benchmarks.classes import class_names_of, languages_of
from benchmarks.comparison import Comparison
from benchmarks.encoder import Encoder
from benchmarks.loading import load_captions
from benchmarks.means import SHARED_MEAN
from benchmarks.recipe import InputError
from benchmarks.results import load_results
from benchmarks.retrieval import evaluate_retrieval
from benchmarks.task import all_task_names, load_task
from benchmarks.zero_shot import evaluate_zero_shot
from modeling_altclip import AltCLIPModel

from .conftest import ROOT
from .replicas import CLASSES, NAMES, N, number_of, write_replica

BASIS = torch.eye(N)
TAKEN_FOR = [0, 1, 2, 4, 3, 5]  # images 3 and 4 are taken for each other


class ByHand(Encoder):
    """Knows the copies' images by their shade, and takes two of them for each other. Text `de 3.1` is of image 3, `bee` of class 1."""

    def __init__(self):
        pass

    def images(self, images):
        return torch.stack([BASIS[TAKEN_FOR[number_of(image)]] for image in images])

    def texts(self, texts):
        return torch.stack([BASIS[int(re.search(r"(\d)\.", text).group(1))] for text in texts])

    def classes(self, names, templates):
        """A class is the mean of its images."""
        of_class = [[image for image, own in enumerate(CLASSES) if NAMES[own] == name] for name in names]
        return torch.stack([BASIS[images].mean(0) * len(images) ** 0.5 for images in of_class])


@pytest.mark.parametrize("name", all_task_names())
def test_scores_by_hand_on_a_copy_of_every_task(name, tmp_path):
    """Images 3, of class 1, and 4, of class 0, are mistaken; all others are right."""
    task = dataclasses.replace(load_task(name), dataset=str(tmp_path), revision=None)
    if task.layout == "split_per_language":
        task.languages = ["en", "no", "th"]
    write_replica(task, tmp_path)
    rows, encoder = task.rows(limit=N), ByHand()
    images = encoder.images(rows["image"])
    if task.kind == "retrieval":
        language = task.languages[-1]
        found = evaluate_retrieval(encoder, images, rows["captions"], [language])[language].metrics()
        assert found["text_to_image_recall@1"] == found["image_to_text_recall@1"] == pytest.approx(4 / 6)
        assert found["n"] == 6
        assert found["text_to_image_recall@10"] == 1
        assert found["n_texts"] in (6, 18)
        return
    several = "labels" in rows.column_names
    labels = rows["labels" if several else "label"][:]
    if task.metric == "roc_auc":  # two classes: the copy's third is left out
        kept = [row for row, own in enumerate(labels) if own < 2]
        found = evaluate_zero_shot(
            encoder,
            images[kept],
            [labels[row] for row in kept],
            {"en": NAMES[:2]},
            {"en": ["{}"]},
            task.metric,
        )
        # Images 2 and 4 look like class 1, and 2 is; of 1, 3 and 5, which look like 0, 3 is 1: two ties count
        # half, two pairs are wrong.
        assert found["en"].metrics()["roc_auc"] == pytest.approx((2 + 0.5 + 0.5 * 2) / 6)
        return
    found = evaluate_zero_shot(encoder, images, labels, {"en": NAMES}, {"en": ["{}"]}, task.metric)[
        "en"
    ].metrics()
    assert task.metric in found
    assert found["n"] == 6
    if not several:
        assert found["accuracy@1"] == pytest.approx(4 / 6)
        assert found["mean_per_class"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_a_language_is_measured_on_the_classes_it_names():
    """Without a name for class 1 its images, 2 and 3, are left out, and 4 is taken for an image of nothing, which ties with all."""
    images = ByHand().images(load_copies())
    names = {"en": NAMES, "xx": ["ant", None, "cat"]}
    found = evaluate_zero_shot(ByHand(), images, CLASSES, names, dict.fromkeys(names, ["{}"]))
    assert (found["xx"].metrics()["n"], found["xx"].n_classes) == (4, 2)
    assert (found["xx"].rows.tolist(), found["en"].rows.tolist()) == ([0, 1, 4, 5], [0, 1, 2, 3, 4, 5])
    assert found["xx"].labels.tolist() == [1, 0, 0, 0]
    assert found["xx"].ranks.tolist() == [0, 0, 1, 0]
    with pytest.raises(InputError, match="language 'xx' names none of the classes"):
        evaluate_zero_shot(ByHand(), images[2:4], CLASSES[2:4], {"xx": ["ant", None, "cat"]}, {"xx": ["{}"]})
    with pytest.raises(InputError, match="language 'en' has 2 class names, but labels go up to 2"):
        evaluate_zero_shot(ByHand(), images, CLASSES, {"en": NAMES[:2]}, {"en": ["{}"]})
    with pytest.raises(
        InputError, match="language 'xx' has no name for class 1: map_11_point needs them all"
    ):
        several = [[label] for label in CLASSES]
        evaluate_zero_shot(ByHand(), images, several, {"xx": names["xx"]}, {"xx": ["{}"]}, "map_11_point")


@pytest.mark.parametrize("label", [None, -1])
def test_a_label_that_is_no_class_is_refused(label):
    images = ByHand().images(load_copies())
    for labels in ([0, 1, label, 0, 0, 0], [[0], [1], [0, label], [0], [], [0]]):
        with pytest.raises(InputError, match=f"row 2 has the label {label}, which is no class"):
            evaluate_zero_shot(ByHand(), images, labels, {"en": NAMES}, {"en": ["{}"]})


def test_labels_that_are_all_empty_are_refused():
    with pytest.raises(
        InputError,
        match="labels of all rows, 0 to 5, are empty: name the column that has classes in columns.labels",
    ):
        evaluate_zero_shot(
            ByHand(), ByHand().images(load_copies()), [[]] * 6, {"en": NAMES}, {"en": ["{}"]}, "map_11_point"
        )


def test_roc_auc_needs_two_classes():
    images = ByHand().images(load_copies())
    for labels, names in (([0] * 6, NAMES[:2]), ([0, 1] * 3, NAMES)):
        with pytest.raises(InputError, match="roc_auc needs two classes with images of both"):
            evaluate_zero_shot(ByHand(), images, labels, {"en": names}, {"en": ["{}"]}, "roc_auc")


def load_copies():
    from PIL import Image

    return [Image.new("RGB", (8, 8), (20 * number,) * 3) for number in range(N)]


def test_names_come_from_where_the_task_says(miniature, tmp_path):
    task = load_task("miniature-concepts")
    given = str(miniature / "dataset/class_names.json")
    rows = load_dataset(str(miniature / "dataset"), split="validation_concepts")
    names = class_names_of(task, ["zh"], rows, given)
    assert len(names["zh"]) == 70
    assert names["zh"] == json.loads((miniature / "dataset/class_names.json").read_text())["zh"]
    assert len(languages_of(task, given)) == 19
    assert languages_of(load_task("imagenet")) == [
        "en",
        "zh",
        "it",
        "ja",
        "ar",
        "ko",
    ]
    assert languages_of(load_task("hateful-memes")) == ["en"]
    assert "ja" in languages_of(load_task("xm3600"))
    (tmp_path / "classnames.txt").write_text("\n".join(NAMES))
    listed = dataclasses.replace(
        task, dataset=str(tmp_path), layout="webdataset", class_names="dataset", n_classes=3
    )
    assert (
        class_names_of(dataclasses.replace(listed, n_classes=70), ["en"], rows)["en"][0] == "red-apple"
    )  # the label's own
    rows = rows.cast_column("label", Value("int64"))
    assert class_names_of(listed, ["en"], rows) == {"en": NAMES}
    with pytest.raises(InputError, match="67 of 70 classes without a name"):
        class_names_of(dataclasses.replace(listed, n_classes=70), ["en"], rows)


@pytest.fixture(scope="module")
def model(miniature, tmp_path_factory):
    """A saved AltCLIP of the miniature's untrained towers."""
    from transformers import AutoTokenizer, CLIPImageProcessor

    from modeling_altclip import AltCLIPProcessor

    folder = tmp_path_factory.mktemp("evaluated") / "altclip"
    torch.manual_seed(0)
    AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder")).save_pretrained(
        folder
    )
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    AltCLIPProcessor(
        image_processor, AutoTokenizer.from_pretrained(miniature / "text_encoder")
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def own_tasks(miniature, tmp_path):
    """A user's own tasks on the miniature: a search and a classification."""
    shared = f"dataset: {miniature / 'dataset'}\n"
    (tmp_path / "find.yaml").write_text(
        shared
        + "kind: retrieval\nsplit: validation\ncolumns: {image: image, captions: captions}\nmetric: mean_recall\nlanguages: [en, zh, de]\n"
    )
    (tmp_path / "sort.yaml").write_text(
        shared
        + "kind: zero_shot\nsplit: validation_concepts\ncolumns: {image: image, label: label}\nmetric: accuracy@1\n"
        f"class_names: {miniature / 'dataset/class_names.json'}\n"
    )
    return tmp_path


def measured(folder):
    """All that a run found, by file, but for when and how it was run."""
    found = {path.name: json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))}
    return {
        name: {key: value for key, value in result.items() if key != "command"}
        for name, result in found.items()
    }


@pytest.mark.parametrize(
    "kind,task,languages", [("retrieval", "find", ["en", "zh"]), ("zero_shot", "sort", ["en", "zh", "th"])]
)
def test_two_processes_write_the_numbers_of_one(run, own_tasks, model, kind, task, languages):
    for processes in (1, 2):
        flags = [
            "--models",
            model,
            "--tasks",
            own_tasks / f"{task}.yaml",
            "--languages",
            *languages,
            "--limit",
            "40",
        ]
        where = [
            "--cache_dir",
            own_tasks / f"cache{processes}",
            "--output_dir",
            own_tasks / f"out{processes}",
        ]
        script = ["python", ROOT / f"benchmarks/run_{kind}.py", *flags, *where, "--n_resamples", "100"]
        process = run(*script, processes=processes, OMP_NUM_THREADS="1")
        assert process.returncode == 0, process.stderr[-3000:]
        assert process.stdout.count("Saved") == 1
    one, two = (measured(own_tasks / f"out{processes}") for processes in (1, 2))
    assert one == two
    assert len(one) == len(languages)
    assert {(result["n_rows"], result["images"]) for result in one.values()} == {
        (40, one[f"{task}.zh.json"]["images"])
    }
    result = one[f"{task}.zh.json"]
    assert result["metrics"]["n"] == 40
    assert (result["prompts"] is None) == (kind == "retrieval")


def test_the_images_are_encoded_once_for_all_languages_and_runs(run, own_tasks, model):
    flags = [
        "--models",
        model,
        "--tasks",
        own_tasks / "find.yaml",
        "--cache_dir",
        own_tasks / "cache",
        "--output_dir",
        own_tasks / "out",
    ]
    script = ROOT / "benchmarks/run_retrieval.py"
    first = run("python", script, *flags, "--languages", "en", "zh")
    assert first.returncode == 0, first.stderr[-3000:]
    second = run("python", script, *flags)
    encodings = [process.stderr.count("Encoding image_embeds: 100%") > 0 for process in (first, second)]
    assert encodings == [True, False]
    assert "Encoding text_embeds" in second.stderr
    assert "| find | de " in second.stdout
    assert len(list((own_tasks / "out").rglob("*.npz"))) == 3


def test_a_stream_gives_the_same_numbers(run, own_tasks, model):
    for streaming in ("false", "true"):
        where = ["--cache_dir", own_tasks / f"cache-{streaming}", "--output_dir", own_tasks / streaming]
        flags = [
            "--models",
            model,
            "--tasks",
            own_tasks / "find.yaml",
            "--languages",
            "en",
            "--limit",
            "40",
            "--streaming",
            streaming,
        ]
        process = run("python", ROOT / "benchmarks/run_retrieval.py", *flags, *where)
        assert process.returncode == 0, process.stderr[-3000:]
    assert measured(own_tasks / "false") == measured(own_tasks / "true") != {}


def test_languages_of_other_images_have_no_mean(run, own_tasks, model, miniature):
    """Of 12 images the first 6 have a caption in English alone, the last 6 in Chinese: equally many, and not one in common. German has
    one of images 4 to 8, of which 4 and 5 are English too.
    """
    rows = load_captions(str(miniature / "dataset"), "validation").select(range(12))
    halves = {"en": range(6), "zh": range(6, 12), "de": range(4, 9)}
    captions = [
        {one: text if row in halves[one] else None for one, text in zip(halves, "abc")} for row in range(12)
    ]
    features = Features({"image": Image(), "captions": dict.fromkeys(halves, Value("string"))})
    (own_tasks / "halves").mkdir()
    Dataset.from_dict({"image": rows["image"][:], "captions": captions}, features=features).to_parquet(
        own_tasks / "halves/test.parquet"
    )
    task = "kind: retrieval\nsplit: test\ncolumns: {image: image, captions: captions}\nmetric: mean_recall\nlanguages: [en, zh, de]\n"
    (own_tasks / "halves.yaml").write_text(f"dataset: {own_tasks / 'halves'}\n{task}")
    out = own_tasks / "out"
    flags = [
        "--models",
        model,
        "--tasks",
        own_tasks / "halves.yaml",
        "--cache_dir",
        own_tasks / "cache",
        "--output_dir",
        out,
    ]
    process = run("python", ROOT / "benchmarks/run_retrieval.py", *flags)
    assert process.returncode == 0, process.stderr[-3000:]
    _, english, chinese = measured(out).values()
    assert (english["n_rows"], english["metrics"]["n"], chinese["metrics"]["n"]) == (12, 6, 6)
    assert english["images"] != chinese["images"]
    process = run(
        "python",
        ROOT / "benchmarks/run_report.py",
        "--results",
        out,
        "--output_dir",
        out,
        "--columns",
        "language",
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert re.search(r"\| model +\| de +\| en +\| zh +\|\n", process.stdout)
    assert "halves: no mean over languages, which have no image in common." in process.stdout

    results = {result.language: result for result in load_results(out)}
    found = Comparison([results["en"], results["de"]], means=True).results
    (shared,) = [result for result in found.values() if result.language == SHARED_MEAN]
    of_english, of_german = results["en"].outcomes(), results["de"].outcomes()
    assert torch.equal(of_english.digests[4:], of_german.digests[:2])
    assert len(of_english.digests.unique()) == 6
    by_hand = [
        (of_english.image_ranks[4:] < 1).double().mean(),
        (of_german.image_ranks[:2] < 1).double().mean(),
    ]
    assert shared.metrics["image_to_text_recall@1"] == pytest.approx(sum(by_hand).item() / 2)
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
        ("zero_shot", ["--tasks", "sort.yaml", "--languages", "xx"], "'xx'"),
        (
            "zero_shot",
            ["--tasks", "sort.yaml", "--templates", "no slot", "{}"],
            "'no slot' of templates has to have {} once",
        ),
    ],
)
def test_bad_input_ends_with_one_clear_line(run, own_tasks, model, script, flags, message):
    flags = [own_tasks / flag if flag.endswith(".yaml") else flag for flag in flags]
    where = ["--cache_dir", own_tasks / "cache", "--output_dir", own_tasks / "out", "--limit", "20"]
    process = run("python", ROOT / f"benchmarks/run_{script}.py", "--models", model, *where, *flags)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert message in process.stderr.strip().splitlines()[-1]


def test_what_is_missing_is_told_before_anything_is_loaded(run, own_tasks, miniature):
    """Models that are not there would be told first otherwise."""
    for flags, message in (
        (["--tasks", own_tasks / "sort.yaml", "--languages", "en", "xx"], "'xx'"),
        (["--tasks", own_tasks / "sort.yaml", "--templates", "nosuch"], "no set of templates 'nosuch'"),
        (["--tasks", own_tasks / "sort.yaml", own_tasks / "sort.yaml"], "tasks: several are called sort"),
        (["--tasks", own_tasks / "sort.yaml", "--english_only", "other"], "english_only names other"),
        (
            ["--tasks", own_tasks / "sort.yaml", "--dataset", "no/such/folder"],
            "dataset 'no/such/folder' does not exist",
        ),
    ):
        process = run("python", ROOT / "benchmarks/run_zero_shot.py", "--models", "no/such/model", *flags)
        assert process.returncode == 1, process.stderr
        assert message in process.stderr.strip().splitlines()[-1], process.stderr


@pytest.mark.parametrize("dry", [["--dry_run"], []])
def test_what_is_missing_is_told_before_the_first_model(run, own_tasks, model, dry):
    find, where = (
        own_tasks / "find.yaml",
        ["--cache_dir", own_tasks / "cache", "--output_dir", own_tasks / "out"],
    )
    (own_tasks / "nowhere.yaml").write_text(find.read_text().replace("dataset: ", "dataset: /no/such"))
    for models, flags, message in (
        ([model, "outputs/no/such"], ["--tasks", find], "model 'outputs/no/such' does not exist"),
        (
            [model, "openclip:ViT"],
            ["--tasks", find],
            "model 'openclip:ViT' has an unknown prefix: choose from open_clip:",
        ),
        ([model], ["--tasks", find, own_tasks / "nowhere.yaml"], "dataset '/no/such"),
        ([model], ["--tasks", find, "--distance", "angle"], "distance is 'angle'"),
        ([model], ["--tasks", find, "--n_resamples", "3"], "n_resamples is 3"),
    ):
        process = run(
            "python", ROOT / "benchmarks/run_retrieval.py", "--models", *models, *flags, *where, *dry
        )
        assert process.returncode == 1, process.stderr
        assert message in process.stderr.strip().splitlines()[-1], process.stderr
    assert not (own_tasks / "cache").exists()


def test_all_folders_that_are_to_be_prepared_are_told_at_once(run, own_tasks, model):
    """Before the first model; a dry run says so, and goes on."""
    where = ["--cache_dir", own_tasks / "cache", "--output_dir", own_tasks / "out"]
    flags = ["--models", model, "--tasks", own_tasks / "find.yaml", "xtd", "coco-cn-5k", *where]
    process = run("python", ROOT / "benchmarks/run_retrieval.py", *flags)
    error = process.stderr.strip().splitlines()[-1]
    assert process.returncode == 1
    assert not (own_tasks / "cache").exists()
    assert "dataset 'data/xtd' does not exist. Clone " in error
    assert "dataset 'data/coco-cn' does not exist. Put " in error
    assert error.endswith(f"Or leave out xtd coco-cn-5k: --tasks {own_tasks / 'find.yaml'}")
    process = run("python", ROOT / "benchmarks/run_retrieval.py", *flags, "--dry_run")
    assert process.returncode == 0
    assert process.stdout.strip().splitlines()[-1] == (
        "Nothing was loaded. Next: prepare xtd, coco-cn-5k, or leave that out of --tasks; then the same command without --dry_run"
    )


def test_other_sentences_have_results_of_their_own(run, own_tasks, model, miniature):
    names = own_tasks / "names.json"
    names.write_bytes((miniature / "dataset/class_names.json").read_bytes())
    where = [
        "--cache_dir",
        own_tasks / "cache",
        "--output_dir",
        own_tasks / "out",
        "--limit",
        "20",
        "--languages",
        "en",
    ]
    for templates in ([], ["--templates", "full"], ["--templates", "a {}.", "--class_names", names]):
        flags = ["--models", model, "--tasks", own_tasks / "sort.yaml", *where, *templates]
        process = run("python", ROOT / "benchmarks/run_zero_shot.py", *flags)
        assert process.returncode == 0, process.stderr[-3000:]
    found = measured(own_tasks / "out")
    assert list(found) == ["sort-full.en.json", "sort-own-templates.en.json", "sort.en.json"]
    assert [result["templates"] for result in found.values()] == ["full", ["a {}."], "simple"]
    assert len({result["prompts"] for result in found.values()}) == 3
    assert len({result["data"] for result in found.values()}) == 1
    of_task = str(miniature / "dataset/class_names.json")
    assert [result["definition"]["class_names"] for result in found.values()] == [
        of_task,
        str(names),
        of_task,
    ]


def test_a_file_of_templates_is_named_by_its_stem(run, own_tasks, model):
    (own_tasks / "mine.json").write_text('{"en": {"short": ["a {}."]}}')
    where = [
        "--cache_dir",
        own_tasks / "cache",
        "--output_dir",
        own_tasks / "out",
        "--limit",
        "20",
        "--languages",
        "en",
    ]
    flags = [
        "--models",
        model,
        "--tasks",
        own_tasks / "sort.yaml",
        *where,
        "--templates",
        f"{own_tasks / 'mine.json'}:short",
    ]
    process = run("python", ROOT / "benchmarks/run_zero_shot.py", *flags)
    assert process.returncode == 0, process.stderr[-3000:]
    assert [str(path.relative_to(own_tasks)) for path in own_tasks.rglob("out/**/*.json")] == [
        "out/altclip/sort-mine-short.en.json"
    ]
    assert str(own_tasks) not in process.stdout.split("Saved")[0]


def test_a_result_of_something_else_is_kept(run, own_tasks, model, miniature):
    """And told of before anything is encoded, so that the cache stays as it is."""
    names = own_tasks / "names.json"
    names.write_text(
        json.dumps({"en": json.loads((miniature / "dataset/class_names.json").read_text())["en"][::-1]})
    )
    flags = [
        "--models",
        model,
        "--tasks",
        own_tasks / "sort.yaml",
        "--languages",
        "en",
        "--output_dir",
        own_tasks / "out",
    ]
    script = ["python", ROOT / "benchmarks/run_zero_shot.py", *flags]
    for _ in ("once", "twice"):
        process = run(*script, "--limit", "20", "--cache_dir", own_tasks / "cache")
        assert process.returncode == 0, process.stderr[-3000:]
    before = measured(own_tasks / "out")
    for others, message in (
        (["--limit", "10"], "sort.en.json is a result of limit 20, not of 10: give another output_dir"),
        (
            ["--limit", "20", "--class_names", names],
            "sort.en.json is a result of other templates or class names",
        ),
        (["--limit", "20", "--dataset", miniature], "sort.en.json is a result of dataset"),
    ):
        process = run(*script, *others, "--cache_dir", own_tasks / "other_cache")
        assert process.returncode == 1, process.stderr
        assert message in process.stderr.strip().splitlines()[-1], process.stderr
    assert measured(own_tasks / "out") == before
    assert not (own_tasks / "other_cache").exists()


def test_an_error_leaves_the_table_of_what_was_measured(run, own_tasks, model):
    """A split can only be looked up when its task's turn comes."""
    (own_tasks / "broken.yaml").write_text(
        (own_tasks / "find.yaml").read_text().replace("split: validation", "split: nosuch")
    )
    where = [
        "--cache_dir",
        own_tasks / "cache",
        "--output_dir",
        own_tasks / "out",
        "--limit",
        "20",
        "--languages",
        "en",
    ]
    flags = ["--models", model, "--tasks", own_tasks / "find.yaml", own_tasks / "broken.yaml", *where]
    process = run("python", ROOT / "benchmarks/run_retrieval.py", *flags)
    assert process.returncode == 1
    assert "has no split 'nosuch'" in process.stderr.strip().splitlines()[-1]
    assert "| altclip | find | en " in process.stdout
    assert "Saved 1 results" in process.stdout


def test_equal_images_are_warned_of_without_a_line_of_code(run, own_tasks, model, miniature):
    rows = load_dataset(str(miniature / "dataset"), split="validation").select([0, 1, 2, 0])
    (own_tasks / "twice").mkdir()
    rows.to_parquet(own_tasks / "twice/validation.parquet")
    where = [
        "--cache_dir",
        own_tasks / "cache",
        "--output_dir",
        own_tasks / "out",
        "--languages",
        "en",
        "--dataset",
        own_tasks / "twice",
    ]
    process = run(
        "python",
        ROOT / "benchmarks/run_retrieval.py",
        "--models",
        model,
        "--tasks",
        own_tasks / "find.yaml",
        *where,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "find: 1 of 4 images stand there twice: their texts compete" in process.stderr.splitlines()
    assert "measure(" not in process.stderr
    assert "Warning" not in process.stderr


def test_the_tables_have_the_metric_of_the_task(run, own_tasks, model):
    task = own_tasks / "both.yaml"
    task.write_text((own_tasks / "sort.yaml").read_text().replace("accuracy@1", "mean_top1_top5"))
    where = [
        "--cache_dir",
        own_tasks / "cache",
        "--output_dir",
        own_tasks / "out",
        "--limit",
        "20",
        "--languages",
        "en",
    ]
    process = run("python", ROOT / "benchmarks/run_zero_shot.py", "--models", model, "--tasks", task, *where)
    assert process.returncode == 0, process.stderr[-3000:]
    assert [cell.strip() for cell in process.stdout.splitlines()[0].split("|")[5:-1]] == [
        "top-1",
        "top-5",
        "mean_per_class",
        "mean_top1_top5",
        "95 %",
    ]


def test_english_alone_asked_for_other_languages_is_an_error(run, own_tasks, model):
    flags = [
        "--models",
        model,
        "--english_only",
        model,
        "--tasks",
        own_tasks / "find.yaml",
        "--languages",
        "zh",
    ]
    process = run("python", ROOT / "benchmarks/run_retrieval.py", *flags, "--output_dir", own_tasks / "out")
    assert process.returncode == 1
    assert "nothing to measure" in process.stderr.strip().splitlines()[-1]


def test_a_dry_run_loads_nothing(run):
    flags = [
        "--models",
        "no/such",
        "--tasks",
        "imagenet-a",
        "imagenet",
        "--languages",
        "en",
        "zh",
        "ko",
        "--dry_run",
    ]
    process = run("python", ROOT / "benchmarks/run_zero_shot.py", *flags)
    assert process.returncode == 0, process.stderr
    assert "clip-benchmark/wds_imagenet-a" in process.stdout
    assert "50,000 images" in process.stdout
    assert (
        process.stdout.count("clip_benchmark in en zh, altclip:imagenet in ko")
        == process.stdout.count("class_names.ko")
        == 2
    )
    assert process.stdout.splitlines()[:2] == ["models", "  no/such: from the Hub"]
    assert (
        process.stdout.strip().splitlines()[-1]
        == "Nothing was loaded. Next: the same command without --dry_run"
    )


def test_a_dry_run_names_the_models(run, own_tasks, model):
    """With the parameters that are on the disk, of one file or of several."""
    loaded = AltCLIPModel.from_pretrained(model)
    loaded.save_pretrained(own_tasks / "sharded", max_shard_size="1MB")
    flags = [
        "--models",
        model,
        own_tasks / "sharded",
        "open_clip:ViT-B-32/x",
        "org/name",
        "--english_only",
        "org/name",
        "--dry_run",
    ]
    flags += ["--tasks", own_tasks / "find.yaml", "--output_dir", own_tasks / "out"]
    process = run("python", ROOT / "benchmarks/run_retrieval.py", *flags)
    assert process.returncode == 0, process.stderr
    size = f"a folder, {loaded.num_parameters():,} parameters"
    assert len(list((own_tasks / "sharded").glob("*.safetensors"))) > 1
    assert process.stdout.splitlines()[:5] == [
        "models",
        f"  {model}: {size}",
        f"  {own_tasks / 'sharded'}: {size}",
        "  open_clip:ViT-B-32/x: with open_clip",
        "  org/name: from the Hub, English alone",
    ]
    (own_tasks / "sharded/model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    process = run("python", ROOT / "benchmarks/run_retrieval.py", *flags)
    assert process.returncode == 1
    assert "model.safetensors cannot be read" in process.stderr.strip().splitlines()[-1]
