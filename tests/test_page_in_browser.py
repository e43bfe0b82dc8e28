"""The Space of the miniature in Chromium, as a visitor uses it: `make test-space`.

Screenshots of each tab, wide and narrow, are left in `outputs/page`.
"""

import os
import shutil
import socket
import subprocess
import sys
from io import BytesIO
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from PIL import Image

from common.models.loading import load_model
from deploy.page.demo import Demo
from deploy.page.job import PageArguments, main
from deploy.search.index import ImageIndex

from .conftest import ROOT
from .test_bounds import header_of_png

MINIATURE = ROOT / "outputs/miniature"
RECIPE = ROOT / "deploy/page/miniature.yaml"
SCREENSHOTS = ROOT / "outputs/page"
CHROMIUM = shutil.which("chromium")

pytest.importorskip("gradio", reason="the extra `page` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
    pytest.mark.skipif(not (MINIATURE / "index/index.json").is_file(), reason="`make space` makes the index"),
]
# "key and lady beetle" in two of the recipe's languages, and the scene of that caption.
SCENE = "150"
CHINESE = "钥匙和瓢虫"
ARABIC = "مفتاح ودعسوقة"
WAIT = 25_000
WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 360, "height": 740}
HOSTILE = "${alert(1)} {{value}} <img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Write the Space, run its `app.py` on a free port, and return the address."""
    folder = tmp_path_factory.mktemp("page")
    recipe = yaml.safe_load(RECIPE.read_text("utf-8"))
    main(PageArguments(**recipe, space_dir=str(folder / "space")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = os.environ | {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "uploaded"),
    }
    command = [sys.executable, "-u", folder / "space/app.py"]
    with open(folder / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        for line in process.stdout:
            if line.startswith("The page is at"):
                break
        else:
            pytest.fail((folder / "log").read_text("utf-8")[-3000:])
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def browser():
    # Chromium refuses its sandbox to root.
    switches = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=switches)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Return a function that opens the page for another visitor, who asks no other machine for anything."""
    contexts = []
    asked = set()

    def visit(size=WIDE):
        context = browser.new_context(viewport=size)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: asked.add(urlsplit(request.url)))
        # Listened to from the start, or a busy machine would be asked for a file before it is.
        page.on("filechooser", lambda chooser: None)
        page.on("dialog", lambda dialog: asked.add(urlsplit("script:" + dialog.message)))
        page.goto(address)
        page.get_by_label("Text in any language").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert {url.hostname for url in asked if url.scheme not in ("data", "blob")} == {"127.0.0.1"}


@pytest.fixture(scope="module")
def demo():
    """Return what answers on the page, to compare with."""
    return Demo(ImageIndex(MINIATURE / "index"), *load_model(str(MINIATURE / "altclip")))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Return the scene as a PNG."""
    # A cache of its own: `datasets` would give the rows of any other folder with this card.
    cache = tmp_path_factory.mktemp("datasets")
    rows = load_dataset(str(MINIATURE / "dataset"), split="test_pairs", cache_dir=str(cache))
    content = BytesIO()
    rows[int(SCENE)]["image"].save(content, "PNG")
    return content.getvalue()


def search(page, text):
    page.get_by_label("Text in any language").fill(text)
    page.keyboard.press("Enter")


def found_on(page):
    """Wait for pictures, and return their names in the order on the page."""
    page.locator(".pictures img").first.wait_for()
    return page.locator(".pictures img").evaluate_all("images => images.map(image => image.alt)")


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def upload(page, name, content):
    """Put a file into the visible tab."""
    file = {"name": name, "mimeType": "image/png", "buffer": content}
    page.get_by_role("tabpanel").locator("input[type=file]").set_input_files(file)


def ids(found):
    return [one.id for one in found]


def test_a_query_in_chinese_finds_the_pictures(visit, demo):
    page = visit()
    search(page, CHINESE)
    found = found_on(page)
    assert found == ids(demo.search(CHINESE, None))
    assert SCENE in found
    assert page.locator(".pictures img").first.evaluate("image => image.naturalWidth") == 32


def test_a_picture_finds_itself_and_is_classified(visit, demo, scene):
    page = visit()
    upload(page, "scene.png", scene)
    page.locator(".preview img").wait_for()
    press(page, "Search")
    assert found_on(page)[0] == SCENE

    open_tab(page, "Classify")
    upload(page, "scene.png", scene)
    page.get_by_label("Labels, one on each line").fill(f"{HOSTILE}\n{ARABIC}\n钥匙")
    press(page, "Classify")
    page.locator(".labels th").first.wait_for()
    expected = demo.classify(scene, f"{HOSTILE}\n{ARABIC}\n钥匙")
    labels = [one["label"] for one in expected]
    assert page.locator(".labels th").all_text_contents() == labels
    scores = [f"{100 * one['score']:.1f} %" for one in expected]
    assert page.locator(".labels td:last-child").all_text_contents() == scores


def test_languages_are_compared_and_read_in_their_direction(visit, demo):
    page = visit()
    open_tab(page, "Compare")
    lines = f"{CHINESE}\n{ARABIC}\n{HOSTILE}"
    page.get_by_label("The same query in several languages").fill(lines)
    press(page, "Compare")
    headings = page.locator(".columns h3")
    headings.first.wait_for()
    assert headings.all_text_contents() == lines.splitlines()
    direction = "headings => headings.map(heading => getComputedStyle(heading).direction)"
    assert headings.evaluate_all(direction) == ["ltr", "rtl", "ltr"]
    answers = demo.compare(lines)
    shown = page.locator(".columns img").evaluate_all("images => images.map(image => image.alt)")
    assert shown == [name for answer in answers for name in answer.ids]
    # Letters of a program find other pictures than the two translations do.
    differing = page.locator(".differing li")
    assert differing.count() > 0
    first = differing.first.inner_text()
    assert "found by" in first
    assert "not by" in first


def place_of_ink(field):
    """Return where in a field its text is, from 0 at the left to 1 at the right."""
    grey = np.asarray(Image.open(BytesIO(field.screenshot())).convert("L"), float)[12:-12, 12:-12]
    ink = np.abs(grey - np.median(grey)) > 60
    columns = np.nonzero(ink.any(axis=0))[0]
    return columns.mean() / grey.shape[1]


def test_what_is_typed_reads_in_its_direction(visit):
    page = visit()
    field = page.get_by_label("Text in any language")
    field.fill(ARABIC)
    field.blur()
    assert place_of_ink(field) > 0.6
    field.fill(CHINESE)
    field.blur()
    assert place_of_ink(field) < 0.4


@pytest.mark.parametrize(
    "content,message",
    [
        (b"no picture", "The picture cannot be read: Pillow knows no such format"),
        (header_of_png(300, 200)[:-100], "The picture cannot be read: "),
        (header_of_png(12_000, 10_000), "its size is 12000x10000 pixels, more than 100,000,000"),
        (header_of_png(50_000, 50_000), "it is too large"),
    ],
)
def test_a_bad_picture_gets_a_message_and_the_page_lives(visit, demo, content, message):
    page = visit()
    upload(page, "picture.png", content)
    problem = page.get_by_role("alert").filter(has_text=message)
    problem.first.wait_for()  # as soon as it is there
    press(page, "Search")
    problem.nth(1).wait_for()  # in place of an answer
    page.get_by_label("Clear").click()
    search(page, CHINESE)
    assert found_on(page) == ids(demo.search(CHINESE, None))


def test_two_visitors_at_once_get_their_own_answers(visit, demo):
    one, other = visit(), visit()
    for text, another in (("key and lady beetle", ARABIC), (CHINESE, "red apple"), (ARABIC, "Kaktus")):
        search(one, text)
        search(other, another)
        for page, wanted in ((one, text), (other, another)):
            names = ids(demo.search(wanted, None))
            page.wait_for_function(
                "names => [...document.querySelectorAll('.pictures img')].map(i => i.alt).join() === names",
                arg=",".join(names),
            )


def reach(page, target, key="Tab"):
    """Press a key until a field or button has the focus."""
    for _ in range(40):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press(key)
    pytest.fail(f"40 times {key} do not reach {target}")


def test_the_keyboard_is_enough(visit, demo):
    page = visit()
    reach(page, page.get_by_label("Text in any language"))
    page.keyboard.type(CHINESE)
    page.keyboard.press("Enter")
    assert found_on(page) == ids(demo.search(CHINESE, None))
    # What has the focus is seen to have it.
    outline = "() => getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"

    reach(page, page.get_by_role("tabpanel").get_by_label("Click to upload or drop files"))
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files([])

    reach(page, page.get_by_role("tab", name="Compare"), "Shift+Tab")
    page.keyboard.press("Enter")
    reach(page, page.get_by_role("button", name="Compare", exact=True))
    page.keyboard.press("Enter")
    page.locator(".columns section").first.wait_for()
    assert page.locator(".columns section").count() == 6


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_window_of_any_width_shows_all(visit, scene, size, request):
    page = visit(size)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def check(name):
        page.wait_for_timeout(500)  # until the page has come to rest, for the screenshot
        page.screenshot(path=SCREENSHOTS / f"{name}-{request.node.callspec.id}.png", full_page=True)
        # Gradio hides what does not fit, without a way to scroll there.
        rights = page.locator("img:visible, button:visible, textarea:visible, td:visible").evaluate_all(
            "elements => elements.map(element => element.getBoundingClientRect().right)"
        )
        assert max(rights) <= size["width"]

    search(page, ARABIC)
    found_on(page)
    check("search")
    open_tab(page, "Classify")
    upload(page, "scene.png", scene)
    page.locator(".preview img:visible").wait_for()
    press(page, "Classify")
    page.locator(".labels th").first.wait_for()
    check("classify")
    open_tab(page, "Compare")
    press(page, "Compare")
    page.locator(".columns img").first.wait_for()
    check("compare")
