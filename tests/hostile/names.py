"""Names of tasks, models, languages and classes, prompt templates, and what pages make of them."""

import csv
import json
from functools import partial
from pathlib import Path

import torch

from benchmarks.jobs.report import main as write_report
from benchmarks.outcomes import RetrievalOutcomes
from benchmarks.report.selection import ReportArguments
from benchmarks.report.tables import TableArguments
from benchmarks.tasks.class_names import load_class_names
from benchmarks.tasks.templates import load_templates
from common.files.names import file_name
from model_cards.card import render_card
from modeling_altclip.prompts_altclip import read_templates
from training.data.captions import load_captioned

from ..test_names import result_of
from .place import Place, Row

PWNED = "/../../../../pwned"


def rows(place: Place) -> list[Row]:
    return [*_results(place), *_languages(place), *_classes(place), *_templates(), *_pages(place)]


def _results(place: Place) -> list[Row]:
    to_root = "../" * 5 + "pwned"
    texts = {PWNED: PWNED, to_root: to_root, "NUL": "a\0b", "5,000 letters": "l" * 5000}
    rows = []
    for part in ("task", "model", "language"):
        for name, text in texts.items():
            result = result_of(**{part: text})
            folder = place.new_folder()
            rows.append(Row(f"{part} {name}", partial(_name_saved, result, folder), "saved as "))
    model = partial(file_name, "x" * 1_000_000)
    return [*rows, Row("model of 1 MB", model, "xxx")]


def _name_saved(result, folder: Path) -> str:
    saved = result.save(folder)
    return f"saved as {saved.relative_to(folder)}"


def _languages(place: Place) -> list[Row]:
    names = place.new_folder() / "names.json"
    names.write_text(json.dumps({"en": ["a"], PWNED: ["a"]}))
    folder = place.new_folder()
    picture = {"image": str(place.canary), "captions": {PWNED: "a dog"}}
    (folder / "train.jsonl").write_text(json.dumps(picture) + "\n")
    message = "is no code of a language"
    return [
        Row(f"class names in {PWNED}", partial(load_class_names, str(names), [PWNED]), message),
        Row(f"captions in {PWNED}", partial(load_captioned, str(folder), "train"), message),
    ]


def _classes(place: Place) -> list[Row]:
    lists = {
        "null for every class": ({"en": [None]}, None, "no class has a name"),
        "a number": ({"en": ["a", 7]}, None, "without a name"),
        "an index out of range": ({"en": ["a", "b"]}, [0, 7], "the subset means row 7"),
        "an index that is NaN": ({"en": [[0, float("nan")], ["a", "b"]]}, None, "NaN"),
    }
    rows = []
    for name, (content, subset, expected) in lists.items():
        file = place.new_folder() / "names.json"
        file.write_text(json.dumps(content))
        read = partial(load_class_names, str(file), ["en"], subset=subset)
        rows.append(Row(f"class names with {name}", read, expected))
    return rows


def _templates() -> list[Row]:
    rows = []
    for template in ("{:>2000000000}", "{0.join.__self__}", "{label.__class__}", "{}{"):
        for read in (read_templates, partial(load_templates, language="en")):
            rows.append(
                Row(f"template {template}", partial(read, template), "has to have {} or {label} once")
            )
    return rows


def _pages(place: Place) -> list[Row]:
    tasks = {
        "a formula": ("=1+1", "'=1+1"),
        "a script": ("<script>alert(1)</script>", "without a script"),
        "1 MB": ("x" * 1_000_000, "without a script"),
    }
    rows = []
    for name, (task, expected) in tasks.items():
        rows.append(Row(f"report of {name}", partial(_report, task, place.new_folder()), expected))
    repo = 'x"); import os; ("'
    card = partial(render_card, "T", repo, [], ["stage"], "mit", "about")
    return [*rows, Row(f"--repo {repo}", card, "is neither a Hub id like 'org/name' nor a folder")]


def _report(task: str, folder: Path) -> str:
    """Write a report; return what its table holds, and whether its page has a script."""
    ranks = torch.arange(20)
    outcomes = RetrievalOutcomes(ranks, ranks, ranks)
    result_of(task=task, metrics=outcomes.metrics() | {"n": 20}).save(folder / "results", outcomes)
    arguments = ReportArguments(results=[str(folder / "results")], output_dir=str(folder / "report"))
    write_report(arguments, TableArguments(title=task[:99]))
    with (folder / "report/numbers.csv").open(newline="", encoding="utf-8") as file:
        cell = next(csv.DictReader(file))["task"]
    page = (folder / "report/index.html").read_text("utf-8")
    scripts = "with a script" if "<script" in page else "without a script"
    return f"{cell[:30]} {scripts}"
