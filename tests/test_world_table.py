"""The table of many languages: its recipes on small copies of the tasks, its command, and others' numbers."""

import re
import subprocess
from dataclasses import replace
from functools import partial

import pytest
import torch
import yaml
from datasets import Image

from benchmarks import bootstrap, evaluation
from benchmarks.encoder import Encoder
from benchmarks.jobs import report as report_job
from benchmarks.jobs import retrieval as retrieval_job
from benchmarks.jobs.retrieval import RetrievalArguments, RetrievalBenchmark
from benchmarks.outcomes import RetrievalOutcomes
from benchmarks.report import comparison, plots
from benchmarks.report.comparison import Number
from benchmarks.report.means import OwnImagesMean
from benchmarks.report.published import compare_with_published, load_published
from benchmarks.report.selection import ReportArguments
from benchmarks.report.tables import TableArguments
from benchmarks.results import load_results
from benchmarks.tasks.checks import OWN_IMAGES
from benchmarks.tasks.loading import load_task
from common.errors import InputError
from common.images import digest_of, encoded_bytes
from common.recipe import parse

from .conftest import ROOT
from .replicas import N, number_of, write_replica

RECIPES = ROOT / "benchmarks/recipes"
NINE = ["en", "zh", "es", "fr", "ru", "ar", "ja", "ko", "it"]
M9 = "BAAI/AltCLIP-m9"
SIGLIP = "google/siglip-base-patch16-256-multilingual"
# Few of each task's languages, and one of them in no other task.
LANGUAGES = {
    "xm3600": ["bn", "en", "ja"],
    "xm3600-first-caption": ["bn", "en"],
    "xflickrco": ["en", "zh"],
    "wit": ["en", "ja"],
}
CHOICES = {"mvl-sib": ["en", "sw"]}  # a task that the table does not have


class Known(Encoder):
    """Encoder that knows images by their shade.

    As AltCLIP-m9 it takes image 3 for 4 in all but nine languages.
    """

    def __init__(self, model, *_, **__):
        self.mistaken = model == M9
        self.truncate_dims = ()
        self.weights = ("a" if self.mistaken else "b") * 64

    def truncated(self, dim):
        return self

    def rows(self, rows):
        undecoded = rows.cast_column("image", Image(decode=False))["image"]
        digests = [digest_of(encoded_bytes(image)) for image in undecoded]
        numbers = [number_of(image) for image in rows["image"]]
        columns = {name: rows[name][:] for name in rows.column_names if name != "image"}
        return torch.eye(N)[numbers], columns, digests

    def texts(self, texts):
        embeds = []
        for text in texts:
            language, number = re.fullmatch(r"([\w-]+) (\d)\.\d", text).groups()  # "de 3.1" -> de, 3
            is_taken_for_another = self.mistaken and language not in NINE and number == "3"
            embeds.append(torch.eye(N)[4 if is_taken_for_another else int(number)])
        return torch.stack(embeds)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Evaluate two models on copies of the tasks by the two recipes; return the folder they wrote to."""
    tmp_path = tmp_path_factory.mktemp("world")
    paths = []
    for name, languages in (LANGUAGES | CHOICES).items():
        task = load_task(name)
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        small = replace(task, dataset=str(folder), languages=languages)
        write_replica(small, folder)
        own = yaml.safe_load((ROOT / f"benchmarks/tasks/{name}.yaml").read_text())
        own |= {"dataset": str(folder), "languages": languages, "n_texts": {}}
        del own["revision"], own["n_images"]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(own))
        paths.append(str(tmp_path / f"{name}.yaml"))

    flags = ["--tasks", *paths, "--models", M9, SIGLIP, "--n_resamples", "40"]
    recipe = [str(RECIPES / "world_table.yaml"), *flags]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        patched.setattr(evaluation, "load_model", lambda name, **_: (name, None))
        patched.setattr(evaluation, "CachedEncoder", Known)
        patched.setattr(plots, "draw_pictures", lambda *_: [])
        # A thousand resamples of six images say no more.
        patched.setattr(comparison, "compare", partial(bootstrap.compare, n_resamples=40))
        patched.setattr(comparison, "intervals", partial(bootstrap.intervals, n_resamples=40))
        retrieval_job.main(*parse(RetrievalArguments, TableArguments, arguments=recipe))
        for report in ("world_table_report.yaml", "world_table_nine_report.yaml"):
            arguments = [str(RECIPES / report), "--models", SIGLIP, M9]
            report_job.main(*parse(ReportArguments, TableArguments, arguments=arguments))
    return tmp_path / "outputs"


def cells(report, heading) -> dict[str, list[str]]:
    """Return the rows of the table under a heading: `{"bn": ["83.3 ±...", ...]}`."""
    _, _, rest = report.partition(f"### {heading}\n\n")
    rows = {}
    for line in rest.partition("\n\n")[0].splitlines()[2:]:
        name, *values = [cell.strip() for cell in line.strip("|").split("|")]
        rows[name] = values
    return rows


def test_two_models_on_copies_of_the_tasks(table):
    report = (table / "world_table_report/report.md").read_text()
    assert "| language | siglip-base-patch16-256-multilingual | AltCLIP-m9" in report
    for task, languages in LANGUAGES.items():
        for metric in ("T2I R@1", "I2T R@1"):
            rows = cells(report, f"{task}, {metric}")
            assert list(rows) == [*languages, "mean"], (task, metric)
            assert all("±" in one for one in rows["mean"])

    # Of six images one is mistaken in Bengali, by all of its texts, and none in the two other languages.
    rows = cells(report, "xm3600, T2I R@1")
    assert rows["bn"][0] == "**100.0** ±0.0"
    assert rows["bn"][1].startswith("83.3 ±")
    assert rows["mean"][1].startswith("94.4 ±")  # (83.3 + 2 * 100) / 3
    # WIT's languages have images of their own, which does not keep their mean away.
    assert cells(report, "wit, T2I R@1")["mean"][0] == "**100.0** ±0.0"

    # What others published stands next to it, and is not judged by six images.
    assert "| AltCLIP-m9 " in report.partition("## Comparison with published numbers")[2]
    for source in ("1.25 (BAB, XM3600)", "20.75 (BAB, XM3600)", "(MTR, WITT2IRetrieval)", "(OCL, docs/"):
        assert source in report, source
    assert "n 6 of 3,600" in report
    # immich's mean of three recalls by text is held against the same of ours.
    (immich,) = [line for line in report.splitlines() if "69.38 (IMM, recall)" in line]
    cells_of_immich = [cell.strip() for cell in immich.split("|")]
    assert cells_of_immich[2:5] == ["xm3600-first-caption", "en", "T2I mean recall"]
    assert cells_of_immich[-4:-1] == ["100.0", "+30.6", "ours has no interval"]
    assert "n 6 of 685" in report
    assert "MTR: mteb's results, embeddings-benchmark/results at f4cc6c8" in report

    nine = (table / "world_table_nine_report/report.md").read_text()
    rows = cells(nine, "xm3600, T2I R@1")
    assert list(rows) == ["en", "ja", "mean"]
    assert rows["mean"][0] == "**100.0** ±0.0"


def test_each_language_of_own_images_has_a_result_of_its_own(table):
    """Another language in the same run does not change what a result says of its data."""
    of_wit = [result for result in load_results(table / "world_table") if result.task == "wit"]
    assert {result.language for result in of_wit} == {"en", "ja"}
    assert {result.n_rows for result in of_wit} == {N}
    assert {result.definition["layout"] for result in of_wit} == {"split_with_images"}
    by_first = [one for one in load_results(table / "world_table") if one.task == "xm3600-first-caption"]
    assert all(result.metrics["n_texts"] == N for result in by_first)
    assert all(result.definition["first_caption"] for result in by_first)
    by_all = [result for result in load_results(table / "world_table") if result.task == "xm3600"]
    assert all(result.metrics["n_texts"] == 3 * N for result in by_all)
    assert not any("first_caption" in result.definition for result in by_all)


def test_texts_that_choose_among_images_have_results_too(table):
    found = {}
    for result in load_results(table / "world_table"):
        if result.task == "mvl-sib":
            found[result.model, result.language] = result
    assert found.keys() == {(model, language) for model in (M9, SIGLIP) for language in ("en", "sw")}
    assert found[M9, "en"].metrics["accuracy@1"] == 1
    # In Swahili the three texts of image 3 are taken for those of 4, which is among its candidates.
    assert found[M9, "sw"].metrics["accuracy@1"] == pytest.approx(15 / 18)
    assert found[M9, "sw"].metrics["n"] == 18
    assert found[M9, "sw"].n_rows == N
    # Both languages have the same images in one order, so that they have a mean over all of them.
    assert len({result.images for result in found.values()}) == 1


def test_what_a_choice_is_among_is_a_part_of_its_data():
    columns = {"captions": [{"en": ["a"]}], "rivals": [{"en": [[1, 2, 3]]}]}
    others = columns | {"rivals": [{"en": [[1, 2, 4]]}]}
    assert evaluation.hash_data(["0"], columns, "en") != evaluation.hash_data(["0"], others, "en")
    benchmark = RetrievalBenchmark(distance="euclidean")
    with pytest.raises(
        InputError, match="distance is 'euclidean': texts choose among images by cosine alone"
    ):
        benchmark.score(None, None, columns, load_task("mvl-sib"), {"en": None})


def outcomes(text_ranks, n_images) -> RetrievalOutcomes:
    """Return outcomes of images with one text each; image ranks are those of the texts."""
    ranks = torch.tensor(text_ranks)
    return RetrievalOutcomes(ranks, ranks, torch.arange(n_images))


def test_the_mean_over_languages_of_own_images():
    """It is the mean of the languages, whatever their numbers of images; an image is paired with itself."""
    english = outcomes([0] * 30 + [1] * 10, 40)
    korean = outcomes([0] * 5 + [1] * 5, 10)
    mean = OwnImagesMean([english, korean])
    assert mean.n_units == 50
    assert mean.is_whole
    assert mean.metrics()["text_to_image_recall@1"] == pytest.approx((0.75 + 0.5) / 2)
    assert mean.metrics()["n"] == 50

    better = OwnImagesMean([english, outcomes([0] * 10, 10)])
    differs = mean.differing(better)["text_to_image_recall@1"]
    assert differs.tolist() == [False] * 45 + [True] * 5
    # A resample without any Korean image says nothing of the mean.
    weights = torch.ones(2, 50)
    weights[1, 40:] = 0
    found = mean.score(weights)["text_to_image_recall@1"]
    assert found[0] == pytest.approx(0.625)
    assert found[1].isnan()


def test_published_means_are_those_of_the_published_languages():
    """A wrong digit, or a wrong language, would move the mean of the numbers by language."""
    published = load_published()
    by_language = {}
    for one in published:
        by_language[one.source, one.model, one.task, one.metric, one.language] = one.value
    checked = 0
    for one in published:
        key = (one.source, one.model, one.task, one.metric)
        values = [by_language.get((*key, language)) for language in one.mean_over]
        if values and None not in values:
            assert sum(values) / len(values) == pytest.approx(one.value, abs=1e-4 + 1e-9), key
            checked += 1
    # Of seven models in two directions over 36, nine and eight languages, of mteb's three models in one over
    # 36, nine, eight and 11, and of open_clip's seven in two over 36 and nine.
    assert checked == 7 * 2 * 3 + 3 * 4 + 7 * 2 * 2
    means = {}
    for one in published:
        if one.mean_over:
            means[one.model, one.task, one.metric, len(one.mean_over), one.source] = round(100 * one.value, 1)
    t2i = "text_to_image_recall@1"
    assert means[M9, "xm3600", t2i, 36, "BAB"] == 21.6
    assert means[M9, "xm3600", t2i, 9, "BAB"] == 51.6
    assert means[SIGLIP, "xm3600", t2i, 36, "MTR"] == 44.2
    assert means["Haon-Chen/e5-omni-7B", "wit", t2i, 11, "MTR"] == 51.4
    assert means["nllb-clip-large-siglip/mrl", "xm3600-first-caption", t2i, 36, "OCL"] == 60.8
    assert means["visheratin/mexma-siglip2", "xm3600", "image_to_text_recall@1", 36, "MEX"] == 60.0


def test_a_mean_is_compared_with_one_over_the_same_languages():
    published = load_published()
    all_36 = tuple(load_task("xm3600").languages)
    metric = "text_to_image_recall@1"
    over = {"languages": all_36, "interval": (0.20, 0.23)}
    ours = Number(model=M9, task="xm3600", language="mean", metric=metric, value=0.21, n=3600, **over)
    (found,) = compare_with_published([ours], published)
    assert found.again[0].where == "BAB, XM3600, averaged by us"
    assert found.within
    assert found.difference == pytest.approx(0.21 - 0.2165)
    (of_nine,) = compare_with_published([replace(ours, languages=tuple(NINE))], published)
    assert of_nine.again[0].where == "BAB, XM3600, averaged by us over nine"
    assert compare_with_published([replace(ours, languages=all_36[1:])], published) == []
    (few,) = compare_with_published([replace(ours, n=100)], published)
    assert few.reason == "n 100 of 3,600"

    wit = load_task("wit")
    assert wit.layout in OWN_IMAGES
    of_wit = replace(ours, model=SIGLIP, task="wit", languages=tuple(wit.languages), n=wit.total_images)
    (found,) = compare_with_published([of_wit], published)
    assert found.within is False
    assert found.again[0].where == "MTR, WITT2IRetrieval, averaged by us"
    english = replace(of_wit, language="en", languages=(), n=685)
    (found,) = compare_with_published([english, replace(english, n=600)], published)[:1]
    assert found.reason == ""


@pytest.mark.parametrize("flags", ["", "--dry_run"])
def test_make_evaluates_and_reports_in_one_command(flags):
    command = ["make", "--no-print-directory", "--dry-run", "world-table"]
    variables = [f"MODELS={M9} outputs/mine", f"FLAGS={flags}"]
    process = subprocess.run([*command, *variables], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.strip() for line in process.stdout.splitlines() if "benchmarks/run_" in line]
    models = f"--models {M9} outputs/mine"
    assert lines[0].endswith(f"run_retrieval.py benchmarks/recipes/world_table.yaml {models} {flags}".strip())
    # A dry run leaves nothing to report on.
    reports = "" if flags else "world_table_report world_table_nine_report world_table_pool_report"
    assert lines[1].startswith(f"set -e; for report in {reports};")
    assert lines[1].endswith(f"run_report.py benchmarks/recipes/$report.yaml {models}; done")


def test_a_dry_run_prints_what_would_be_loaded(capsys):
    recipe = [str(RECIPES / "world_table.yaml"), "--dry_run"]
    retrieval_job.main(*parse(RetrievalArguments, TableArguments, arguments=recipe))
    out = capsys.readouterr().out
    for part in (
        f"  {M9}: from the Hub",
        "open_clip:nllb-clip-large-siglip/mrl: with open_clip",
        "mteb/wit @ 91ac153f1371a98b209ed763205e25e115ecd06e",
        "mteb:       XFlickr30kCoT2IRetrieval, XFlickr30kCoI2TRetrieval",
        "by the first caption of each image",
        "Nothing was loaded.",
    ):
        assert part in out, part
