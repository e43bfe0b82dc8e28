"""Names are data: they become safe names of files, and text in pages, never paths, markup or code."""

import csv
import json
import re

import pytest
import torch
import yaml

from benchmarks.bootstrap import intervals
from benchmarks.jobs.report import main as write_report
from benchmarks.outcomes import RetrievalOutcomes
from benchmarks.report.selection import ReportArguments
from benchmarks.report.tables import TableArguments
from benchmarks.results import Result, format_table, model_name, path_of
from benchmarks.tasks.class_names import load_class_names
from benchmarks.tasks.loading import FOLDER, load_task
from benchmarks.tasks.templates import load_templates
from benchmarks.tasks.text_lists import SETS
from common.errors import InputError
from common.files.names import file_name, free_path
from common.files.rows import load_rows
from common.markdown import code_block, markdown_text
from common.models.loading import load_model
from common.origins import Origin
from common.output import check_output_dir
from common.paths import check_folder
from model_cards.card import Facts, render_card
from model_cards.draft import draft_card
from model_cards.plots import plot_losses, plot_recall
from model_cards.sections import make_sections
from model_cards.stages import Lineage
from model_cards.trainings import Training, table_of_trainings
from modeling_altclip.languages_altclip import check_tag, name_languages
from modeling_altclip.prompts_altclip import PROMPTS, fill_template, has_one_slot, read_templates

ORDINARY = [
    "flickr30k",
    "miniature-pairs.en",
    "xm3600.zh-Hans",
    "m_clip-org-texts+org-images",
    "任务.zh",
    "my task (old).de",
    "a..b",
    ".hidden",
    "Ünïcode",
    "names-signs",
    "a" * 180,
]
HOSTILE = [
    "/../../../../pwned",
    "..",
    ".",
    "",
    "../pwned",
    "..\\pwned",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "C:\\pwned",
    "a\0b",
    "a\nb",
    "a\x1b[31m",
    "a\u202eb",
    "a\u200bb",
    "\ud800",
    "CON",
    "con.json",
    "nul",
    "LPT1.en",
    "ends.",
    "ends ",
    "a*b",
    "a" * 5000,
    "语" * 100,
    "a~0123456789abcdef",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_names_stay_as_they_are(text):
    assert file_name(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_names_become_one_part_of_a_path(text, tmp_path):
    name = file_name(text)
    path = tmp_path / "inside" / f"{name}.partial.npz"
    path.parent.mkdir()
    path.write_text("content")
    assert list(tmp_path.iterdir()) == [path.parent]
    assert list(path.parent.iterdir()) == [path]
    assert name.isprintable()
    assert len(name.encode()) <= 180
    assert name.partition(".")[0].lower() not in ("con", "nul", "lpt1")


@pytest.mark.parametrize("name", ["a" * 5000, "a" * 5000 + "/b/c", "x\0y"])
def test_a_name_that_no_disk_takes_is_no_folder(name):
    with pytest.raises(InputError, match="model .* does not exist: give a folder that is there"):
        check_folder("model", name)


def test_two_names_never_become_one():
    names = [*ORDINARY, *HOSTILE, "a" * 5001, "a_b", "语" * 101]
    names += [file_name(text) for text in HOSTILE]  # an attacker names a task as another is encoded
    encoded = [file_name(name) for name in names]
    assert len(set(encoded)) == len(set(names))


@pytest.mark.parametrize("part", ["model", "task", "language"])
@pytest.mark.parametrize("text", ["/../../../../pwned", "..", "a\0b", "l" * 5000, "/etc/passwd", "\ud800"])
def test_results_are_written_below_the_output_folder(part, text, tmp_path):
    canary = tmp_path / "pwned.json"
    canary.write_text("untouched")
    output_dir = tmp_path / "one" / "two" / "outputs"
    names = {"model": "org/model", "task": "pairs", "language": "en"} | {part: text}
    result = Result(
        **names,
        kind="retrieval",
        metric="mean_recall",
        metrics={"mean_recall": 0.5, "n": 2},
        dataset="org/pairs",
        split="test",
        weights="0" * 64,
        command="",
    )
    path = path_of(output_dir, names["model"], names["task"], names["language"])
    assert path.parent.parent == output_dir
    if text != "\ud800":  # which JSON in UTF-8 cannot hold
        assert result.save(output_dir) == path
    written = [found for found in tmp_path.rglob("*") if found.is_file()]
    assert set(written) <= {canary, path}
    assert canary.read_text() == "untouched"


def test_folders_of_models_keep_their_names():
    assert model_name("org/model") == "model"
    assert model_name("outputs/miniature/stage2") == "stage2"
    assert model_name("m_clip:org/texts+org/images") == "m_clip-org-texts+org-images"


def test_the_parent_folder_as_a_model_has_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "model" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "model" / "below")
    assert model_name("..") == "model"
    assert model_name(".") == "below"


@pytest.mark.parametrize("code", ["en", "pt_BR", "zh-Hans-CN", "be_x_old", "es-419", "xx", "SIMPLE"])
def test_tags_of_languages_pass(code):
    check_tag(code)


@pytest.mark.parametrize(
    "code", ["", "/../pwned", "en/../..", "a b", "en\0", "en\n", "l" * 5000, "中文", "-en"]
)
def test_what_is_no_tag_of_a_language_is_refused(code):
    with pytest.raises(ValueError, match="is no code of a language") as caught:
        name_languages(["de", code])
    assert len(str(caught.value)) < 300


def test_class_names_of_a_path_are_refused_with_file_and_line(tmp_path):
    file = tmp_path / "names.json"
    file.write_text('{"en": ["/..:", "\\"en\\": b"],\n"\\u002f../../pwned": ["a", "b"]}')
    assert list(json.loads(file.read_text())) == ["en", "/../../pwned"]
    with pytest.raises(
        InputError, match=r"names\.json', line 2: '/\.\./\.\./pwned' is no code of a language"
    ):
        load_class_names(str(file), ["en"])


CLIP_TEMPLATES = [
    "a photo of a {}.",
    "itap of a {}.",
    "a photo of the {label}.",
    "100 % {}",
    "This is a photo of {}.",
    "{}",
    "{label}",
]
ODD_TEMPLATES = [
    "{0}",
    "{0.format}",
    "{0.join.__self__}",
    "{0[0]}",
    "{:>2000000000}",
    "{!r}",
    "{:s}",
    "{name}",
    "{label.__class__}",
    "{label!r}",
    "{label:>9}",
    "{ label }",
    "{}{",
    "{} }",
    "{{}}",
    "{{{}}}",
    "{{label}}",
    "{} and {}",
    "{} and {label}",
    "{label} {label}",
    "{",
    "{}\n{0}",
]


@pytest.mark.parametrize("template", CLIP_TEMPLATES)
def test_templates_with_one_slot_pass_and_are_replaced(template, tmp_path):
    assert read_templates(template) == (template,)
    assert load_templates(template, "en") == [template]
    assert load_templates([template], "en") == [template]
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"en": [template]}))
    assert load_templates(str(file), "en") == [template]
    expected = template.replace("{}", "{label}").split("{label}")
    # A name with braces is text as well.
    assert fill_template(template, "{0} {} {label}") == "{0} {} {label}".join(expected)


@pytest.mark.parametrize("template", ODD_TEMPLATES)
def test_odd_templates_are_refused_and_quoted_at_every_door(template, tmp_path):
    quoted = f"{re.escape(repr(template))}.* has to have {re.escape('{} or {label}')} once"
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"en": [template]}))
    doors = [
        lambda: read_templates(template),
        lambda: read_templates(["{}", template]),
        lambda: load_templates(template, "en"),
        lambda: load_templates(["{}", template], "en"),
        lambda: load_templates(str(file), "en"),
    ]
    for door in doors:
        with pytest.raises((ValueError, InputError), match=quoted):
            door()


def test_our_own_templates_have_one_slot():
    templates = [template for of_language in PROMPTS.values() for template in of_language]
    for file in SETS.glob("*.json"):
        for of_set in json.loads(file.read_text("utf-8")).values():
            templates += of_set
    for file in FOLDER.glob("*.yaml"):
        of_task = yaml.safe_load(file.read_text("utf-8")).get("templates")
        if isinstance(of_task, list):
            templates += of_task
    assert len(templates) > 500
    assert [template for template in templates if not has_one_slot(template)] == []


HOSTILE_NAMES = [
    "a|b",
    "[x](http://host/y)",
    "![x](http://host/y.png)",
    "<script>alert(1)</script>",
    "`code`",
    "a\n# heading",
    "a\n```\nb",
    "\\[x\\](http://host)",
    "=1+1",
    "---",
    "a\n---\nlicense: mit",
    "$\\frac{$",
    '"a": [b',
]


def result_of(**given) -> Result:
    values = {
        "model": "org/model",
        "task": "pairs",
        "kind": "retrieval",
        "language": "en",
        "metric": "mean_recall",
        "metrics": {"mean_recall": 0.5, "text_to_image_recall@1": 0.25, "n": 4},
        "dataset": "org/pairs",
        "split": "test",
        "weights": "0" * 64,
        "command": "evaluate",
        "versions": {"torch": "2.13.0"},
    }
    return Result(**(values | given))


def unescaped(markdown: str) -> str:
    """Return Markdown without the characters that a backslash makes text."""
    return re.sub(r"\\[\\`\[\]<>|]", "", markdown)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_are_text_in_markdown(name):
    shown = markdown_text(name)
    assert "\n" not in shown
    assert not set(unescaped(shown)) & set("`[]<>|\\")
    assert re.sub(r"\\(.)", r"\1", shown).split() == name.split()  # nothing of it is lost
    assert len(format_table(["name"], [[name]]).splitlines()) == 3


@pytest.mark.parametrize(
    "name", ["miniature-pairs", "org/my_model-v1.0", "xm3600, first 100", "R&D (old)", "任务"]
)
def test_ordinary_names_are_shown_as_they_are(name):
    assert markdown_text(name) == name


@pytest.mark.parametrize("lines", [["a", "b"], ["```"], ["a\n```\nb"], ["`````` x"]])
def test_no_line_ends_a_block_of_code(lines):
    first, *content, last = code_block(lines, "bash").splitlines()
    assert first == f"{last}bash"
    assert len(content) == len(lines)
    assert not any(last in line for line in content)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_card_shows_hostile_names_as_text(name):
    origins = [Origin(name=name, licence=name, stage=name, dataset=name, revision=name, languages=[name])]
    lineage = Lineage(origins=origins, base_model=["org/base"], languages=["en"])
    results = [result_of(model="stage", task=name, versions={"torch": name}, command=name, weights=name)]
    card = render_card(name, "me/T", results, ["stage"], name, "about", Facts(lineage=lineage))
    front = yaml.safe_load(card.content.split("\n---\n")[0].removeprefix("---\n"))
    assert front["license"] == name
    assert front["model-index"][0]["name"] == name
    body = unescaped(card.text.split("## Citation")[0])
    links = re.findall(r"\]\(([^)]*)\)", body.partition("Evaluation commands")[0])
    assert links == ["https://arxiv.org/abs/2211.06679"]  # the one that the template writes
    assert "<script" not in body.partition("Evaluation commands")[0]
    assert not re.search(r"^# heading", card.text, re.MULTILINE)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_settings_and_drafts_show_hostile_names_as_text(name, tmp_path):
    settings = {"output_dir": "outputs/stage", "dataset": name, "optim": name, "trainable": [name]}
    settings |= {"model_name_or_path": name, "max_steps": 2, "languages": ["en"]}
    training = Training(settings=settings, machine={"versions": {"torch": name, "transformers": name}})
    training.machine |= {"processes": name, "device": name, "threads": name}
    table = table_of_trainings({name: training})
    # A header, a rule, and data, steps, trained, optimizer, machine and versions.
    assert len(table.splitlines()) == 8
    assert not set(unescaped(table)) & set("`[]<>\\")

    (tmp_path / "stage.yaml").write_text(json.dumps(settings))  # JSON is YAML
    card = draft_card(name, "me/T", ["outputs/stage"], str(tmp_path), name, name)
    front = yaml.safe_load(card.content.split("\n---\n")[0].removeprefix("---\n"))
    assert "base_model" not in front  # no name on the Hub
    assert front["license"] == name
    assert "](" not in unescaped(card.text)
    assert "<script" not in unescaped(card.text)
    assert not re.search(r"^# heading", card.text, re.MULTILINE)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_plot_shows_hostile_names_as_text(name, tmp_path):
    outcomes = RetrievalOutcomes(torch.arange(4), torch.arange(4), torch.arange(4))
    given = {"task": name, "metrics": outcomes.metrics(), "intervals": intervals(outcomes, 40)}
    results = [result_of(model=stage, language="en", **given) for stage in ("teacher", "before", name)]
    (section,) = make_sections(results, ["teacher", "before", name])
    plot_recall(section, ["teacher", "before", name], tmp_path / "recall.png")
    plot_losses({name: [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]}, tmp_path / "loss.png")
    assert {path.name for path in tmp_path.iterdir()} == {"recall.png", "loss.png"}


@pytest.mark.parametrize("repo", ["org/name", "name", "outputs/miniature/altclip", "my models/a b", "../up"])
def test_hub_ids_and_folders_stand_in_the_code_of_a_card(repo):
    assert f'model="{repo}"' in render_card("T", repo, [], ["stage"], "mit", "about").content


@pytest.mark.parametrize("repo", ['x"); import os; ("', "x\n```\n# y", "a`b", "a\\", "", "a'b", "\ud800"])
def test_a_repo_that_would_leave_the_code_of_a_card_is_refused(repo):
    with pytest.raises(InputError, match="is neither a Hub id like 'org/name' nor a folder"):
        render_card("T", repo, [], ["stage"], "mit", "about")


@pytest.mark.parametrize(
    "task", [*HOSTILE_NAMES, "+1", "-1", "@a", "\ta", "$\\frac{$", "$a$", "x" * 1_000_000]
)
def test_a_report_shows_hostile_names_as_text(task, tmp_path):
    results = tmp_path / "results"
    for language in ("en", "de"):
        for model in ("org/one", "org/two"):
            ranks = torch.arange(20) % len(model + language)
            outcomes = RetrievalOutcomes(ranks, ranks, torch.arange(20))
            weights = model[-3:] * 20
            given = {"model": model, "task": task, "language": language, "weights": weights, "command": task}
            result_of(**given, metrics=outcomes.metrics() | {"n": 20}).save(results, outcomes)
    folder = tmp_path / "report"
    arguments = ReportArguments(results=[str(results)], output_dir=str(folder))
    write_report(arguments, TableArguments(title=task[:99]))

    markdown = (folder / "report.md").read_text("utf-8").partition("bash\n")[0]
    links = re.findall(r"\]\(([^)]*)\)", unescaped(markdown))
    assert set(links) == {"languages.png", "heat_map.png", "recall.png"}
    assert "<script" not in unescaped(markdown)
    page = (folder / "index.html").read_text("utf-8")
    assert "<script" not in page
    with (folder / "numbers.csv").open(newline="", encoding="utf-8") as file:
        cells = [row["task"] for row in csv.DictReader(file)]
    assert cells
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
    if task.isprintable() and len(task) < 100:
        assert {cell.removeprefix("'") for cell in cells} == {task}


TOO_LONG = ["x" * 5000, "x/" * 3000, "/" + "x" * 300]


@pytest.mark.parametrize("name", TOO_LONG)
def test_a_name_that_no_file_can_have_is_refused_as_one_that_is_not_there(tmp_path, name):
    """The system answers with an error of its own where it is asked whether such a file exists."""
    with pytest.raises(InputError, match="dataset '.*' does not exist"):
        load_rows(name, "train", [])
    with pytest.raises(InputError, match="model '.*' does not exist"):
        load_model(name)
    columns = {"image": "image", "label": "label"}
    given = {
        "kind": "zero_shot",
        "dataset": name,
        "split": "test",
        "columns": columns,
        "metric": "accuracy@1",
    }
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps(given | {"class_names": f"{name}.json", "templates": f"{name}.json"}))
    task = load_task(str(file))
    assert (task.dataset, task.class_names) == (name, f"{name}.json")
    with pytest.raises(InputError, match="file '.*' does not exist"):
        load_class_names(task.class_names, ["en"])


@pytest.mark.parametrize("name", ["", " ", "a\0b", *TOO_LONG[:1], "new/" + "x" * 300])
def test_a_name_that_no_folder_can_have_is_refused_before_any_work(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="output_dir .*: (give the name of a folder|shorten it)"):
        check_output_dir(name)
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_taken_gets_the_first_free_number(tmp_path):
    path = tmp_path / "stage2.replaced"
    assert free_path(path) == path
    path.mkdir()
    (tmp_path / "stage2.replaced.3").mkdir()
    assert free_path(path) == tmp_path / "stage2.replaced.2"
    (tmp_path / "stage2.replaced.2").write_text("a file")
    assert free_path(path) == tmp_path / "stage2.replaced.4"
