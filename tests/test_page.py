"""`altclip page` without Gradio: what the tabs answer, what is refused, and the folder of a Space.

`test_page_in_browser.py` opens the page.
"""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
import yaml
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from transformers import pipeline

from altclip.command import main as altclip
from common.errors import InputError
from common.models.loading import load_model
from deploy.page import job, space
from deploy.page.demo import Demo
from deploy.page.job import PageArguments
from deploy.page.markup import compared, found_pictures, or_problem, preview, ranked_labels
from deploy.search.index import ImageIndex, embed_query
from modeling_altclip import image_files_altclip

from .conftest import ROOT

# Its embeddings have 8 values.
TINY = str(ROOT / "tests/fixtures/v0.1.0/model")
ARABIC = "تفاح أحمر"
HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture(autouse=True)
def words(monkeypatch):
    """Restore `sys.argv`, into which the command puts the name of the job."""
    monkeypatch.setattr("sys.argv", ["altclip"])


@pytest.fixture(autouse=True)
def gradio(monkeypatch):
    """Let a version of Gradio be found, which the tests' own environment need not have."""
    for module in (job, space):
        monkeypatch.setattr(module, "version", lambda name: "6.31.0" if name == "gradio" else version(name))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve pictures of noise, one of them with the name of a tag of HTML."""
    folder = tmp_path_factory.mktemp("page") / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        name = "sub/<b>猫<b>.png" if number == 7 else f"{number}.png"
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def index(photos):
    folder = photos.parent / "index"
    altclip(["index", str(photos), "--model_name_or_path", TINY, "--output_dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def demo(index):
    return Demo(ImageIndex(index), *load_model(TINY))


@pytest.fixture(scope="module")
def picture(photos):
    return (photos / "3.png").read_bytes()


def shown_in(html):
    """Return the descriptions of the pictures in some HTML, in their order."""
    return re.findall(r'alt="([^"]*)"', html)


@pytest.mark.parametrize("text,with_picture", [(ARABIC, False), (" ", True), ("红苹果", True)])
def test_a_search_is_that_of_the_index(demo, picture, photos, text, with_picture):
    found = demo.search(text, picture if with_picture else None, 0.3)
    query = embed_query(
        demo.model,
        demo.processor,
        text=text if text.strip() else None,
        image=str(photos / "3.png") if with_picture else None,
        text_weight=0.3,
    )
    assert found == demo.index.search(query, 10)
    assert len(found) == 10
    if not text.strip():
        assert found[0].id == "3.png"


def test_pictures_are_shown_in_order_with_escaped_names(demo, photos):
    content = (photos / "sub/<b>猫<b>.png").read_bytes()
    found = demo.search("", content)
    html = found_pictures(demo, found)
    assert shown_in(html)[0] == "sub/&lt;b&gt;猫&lt;b&gt;.png"
    assert len(shown_in(html)) == html.count('src="data:image/webp;base64,') == 10
    assert "<b>" not in html


def test_a_picture_that_has_changed_is_not_shown(demo, photos, picture, monkeypatch):
    found = demo.search("", picture)
    images = [dict(image, path=str(photos / "0.png")) for image in demo.pictures.images]
    monkeypatch.setattr(demo, "pictures", type(demo.pictures)(demo.pictures.ids, images))
    html = found_pictures(demo, [found[0]])
    assert "gone or changed" in html
    assert "<img" not in html


def test_bad_pictures_get_a_message(demo, picture, monkeypatch):
    ask = or_problem(lambda content: found_pictures(demo, demo.search("", content)))
    for content in (b"", b"no picture", picture[:60]):
        for answer in (ask(content), or_problem(preview)(demo, content)):
            assert answer.startswith(
                '<p class="problem" role="alert" dir="auto">The picture cannot be read: '
            )
            assert len(answer) < 300
    assert "Pillow knows no such format" in ask(b"no picture")
    monkeypatch.setattr(image_files_altclip, "MAX_PIXELS", 1000)
    assert "its size is 32x32 pixels, more than 1,000" in ask(picture)


def test_a_classification_is_that_of_the_pipeline(demo, picture, photos):
    ranked = demo.classify(picture, f"红苹果\n\n {ARABIC}\n{HOSTILE}\n红苹果", "a photo of {}")
    classify = pipeline("zero-shot-image-classification", model=TINY)
    labels = ["红苹果", ARABIC, HOSTILE]
    expected = classify(str(photos / "3.png"), labels, hypothesis_template="a photo of {}")
    assert [one["label"] for one in ranked] == [one["label"] for one in expected]
    assert [one["score"] for one in ranked] == pytest.approx([one["score"] for one in expected])
    html = ranked_labels(ranked)
    assert f'<th scope="row" dir="auto">{ARABIC}</th>' in html
    assert "<img" not in html


def test_languages_are_compared(demo):
    texts = ["red apple", ARABIC, HOSTILE]
    answers = demo.compare("\n".join(texts))
    assert [answer.text for answer in answers] == texts
    for answer in answers:
        query = embed_query(demo.model, demo.processor, text=answer.text)
        assert answer.found == demo.index.search(query, 5)
    html = compared(demo, answers)
    assert f'<h3 dir="auto">{ARABIC}</h3>' in html
    assert "<img src=x" not in html
    # Frames and the list below are for the pictures that not all texts have.
    first = [set(answer.ids) for answer in answers]
    shared = set.intersection(*first)
    differing = set.union(*first) - shared
    assert f"<p>{len(shared)} of the first 5 pictures are the same for all 3 texts." in html
    assert html.count('<li class="shared">') == 3 * len(shared)
    assert html.count("found by") == len(differing)


@pytest.mark.parametrize(
    "ask,message",
    [
        (lambda demo, picture: demo.search(" \n", None), "write a text, or add a picture"),
        (lambda demo, picture: demo.search("a" * 1001, None), "1,001 characters: write 1,000 at most"),
        (lambda demo, picture: demo.classify(None, "a\nb"), "no picture"),
        (lambda demo, picture: demo.classify(picture, "a\n \na"), "fewer than two labels"),
        (lambda demo, picture: demo.classify(picture, "\n".join(map(str, range(101)))), "write 100 at most"),
        (lambda demo, picture: demo.classify(picture, "a\nb", "{0.x}"), "has to have {} once"),
        (lambda demo, picture: demo.compare("a\n \na"), "fewer than two texts"),
        (lambda demo, picture: demo.compare("\n".join(map(str, range(11)))), "write 10 at most"),
    ],
)
def test_what_cannot_be_answered_is_said(demo, picture, ask, message):
    with pytest.raises(InputError, match=re.escape(message)):
        ask(demo, picture)
    assert message in or_problem(ask)(demo, picture)


@pytest.mark.parametrize(
    "words,message",
    [
        (["--space_dir", "space"], "attribution is missing: give a file"),
        (["--port", "0"], "port is 0"),
        (["--attribution", "nowhere.md"], "attribution 'nowhere.md' cannot be read"),
        (["--model_name_or_path", "open_clip:x"], "the pipeline that classifies has no model of open_clip"),
        (["--model_name_or_path", "nowhere/at/all"], "'nowhere/at/all' does not exist"),
    ],
)
def test_what_cannot_be_served_is_refused(index, words, message, capsys):
    with pytest.raises(SystemExit) as end:
        altclip(["page", str(index), *words])
    assert message in (end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err)


def test_without_gradio_its_extra_is_named(index, monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(job, "version", version)
    with pytest.raises(InputError, match=re.escape('gradio is not installed: pip install "altclip[page]"')):
        job.main(PageArguments(index=str(index)))


@pytest.fixture(params=["folder", "dataset"])
def space_dir(request, photos, index, tmp_path):
    """Write the Space of an index of a folder, or of a dataset."""
    if request.param == "dataset":
        images = [{"bytes": (photos / f"{row}.png").read_bytes(), "path": None} for row in range(6)]
        rows = Dataset.from_dict({"image": images}, Features({"image": ImageFeature()}))
        rows.to_parquet(tmp_path / "dataset/test.parquet")
        words = ["--split", "test", "--model_name_or_path", TINY, "--output_dir", str(tmp_path / "index")]
        altclip(["index", str(tmp_path / "dataset"), *words])
        index = tmp_path / "index"
    (tmp_path / "whose.md").write_text("Drawn by *us*, CC0", "utf-8")
    words = ["--attribution", str(tmp_path / "whose.md"), "--space_dir", str(tmp_path / "space")]
    altclip(["page", str(index), *words, "--title", "Noise: all of it", "--queries", "red apple", ARABIC])
    return tmp_path / "space"


# Answers as the page does, in a process that has nothing but the Space on its path.
ALONE = """
import os, sys
sys.path.insert(0, os.getcwd())
from common.models.loading import load_model
from common.recipe import parse
from deploy.page.demo import Demo
from deploy.page.job import PageArguments
from deploy.search.index import ImageIndex
from deploy.page.markup import found_pictures

arguments, = parse(PageArguments, arguments=["page.yaml"])
index = ImageIndex(arguments.index)
demo = Demo(index, *load_model(index.record.model))
html = found_pictures(demo, demo.search(arguments.queries[1], None))
files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
strangers = [file for file in files if file.startswith(sys.argv[1] + os.sep) and "site-packages" not in file]
print(html.count("<img"), html.count("gone or changed"), strangers)
"""


def test_a_space_needs_nothing_else(space_dir, tmp_path):
    shutil.rmtree(tmp_path / "dataset", ignore_errors=True)
    command = [sys.executable, "-c", ALONE, str(ROOT)]
    process = subprocess.run(command, cwd=space_dir, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    n_pictures = json.loads((space_dir / "index/index.json").read_text("utf-8"))["pictures"]
    assert process.stdout.split(maxsplit=2) == [str(min(n_pictures, 10)), "0", "[]\n"]


def test_a_space_tells_the_hub_what_it_is(space_dir, index, tmp_path):
    _, header, card = (space_dir / "README.md").read_text("utf-8").split("---\n", 2)
    header = yaml.safe_load(header)
    assert header["title"] == "Noise: all of it"
    assert (header["sdk"], header["sdk_version"], header["app_file"]) == ("gradio", "6.31.0", "app.py")
    assert len(header["short_description"]) <= 60
    assert "models" not in header
    assert "ATTRIBUTION.md" in card
    assert (space_dir / "ATTRIBUTION.md").read_text("utf-8") == "Drawn by *us*, CC0"
    assert "Apache License" in (space_dir / "LICENSE").read_text("utf-8")
    pins = (space_dir / "requirements.txt").read_text("utf-8").splitlines()[1:]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in pins)
    # Nothing names this machine.
    for path in space_dir.rglob("*"):
        if path.suffix in (".json", ".yaml", ".md", ".txt") and "modeling_altclip" not in path.parts:
            assert str(tmp_path.parent) not in path.read_text("utf-8"), path
    # A second one does not replace it.
    with pytest.raises(InputError, match="is there already"):
        job.main(PageArguments(index=str(index), attribution="a", space_dir=str(space_dir)))


def test_a_space_names_its_model_on_the_hub():
    header = space._card("Ours", "org/name").split("---\n")[1]
    assert "models:\n- org/name\n" in header
    assert "preload_from_hub:\n- org/name\n" in header


def test_a_space_without_its_pictures_is_not_written(photos, index, tmp_path):
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    shutil.copytree(index, tmp_path / "index")
    altclip(["index", str(copy), "--other_source", "--output_dir", str(tmp_path / "index")])
    (copy / "2.png").unlink()
    (tmp_path / "whose.md").write_text("a", "utf-8")
    words = ["--attribution", str(tmp_path / "whose.md"), "--space_dir", str(tmp_path / "space")]
    with pytest.raises(SystemExit, match="the picture '2.png' of the index is gone"):
        altclip(["page", str(tmp_path / "index"), *words])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "photos", "whose.md"]
