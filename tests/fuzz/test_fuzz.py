"""Whatever is given to what reads input ends in a value or in a documented error, soon and in little memory.

The quick part draws the same examples in every run. `make soak` draws others, ALTCLIP_FUZZ_EXAMPLES of each
check (2,000 by default): a failure prints the smallest input that shows it.
"""

import gzip
import importlib.util
import json
import math
import os
import random
import resource
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor

from benchmarks import load_outcomes, load_results, load_task, retrieval_recall
from benchmarks.metrics import class_ranks
from benchmarks.report.comparison import Comparison
from benchmarks.report.page import Report
from benchmarks.report.tables import TableArguments, make_tables
from benchmarks.results import Result
from benchmarks.tasks.class_names import load_class_names
from benchmarks.tasks.task import Task
from benchmarks.tasks.templates import load_templates
from common.errors import InputError
from common.files.json_files import parse_json
from common.files.yaml_files import read_as_written, read_yaml
from common.recipe import parse
from training.data.formats.reading import entries_of, find_translations
from training.data.text_tables import rows_of_table
from training.miniature.vocabulary import train_multilingual_tokenizer
from training.vocabulary import extend_tokenizer, train_pieces

from ..conftest import ROOT
from ..test_translation_files import FORMATS

OLD = ROOT / "tests/fixtures/v0.1.0"
QUICK = 40  # examples of each check
LONG = int(os.environ.get("ALTCLIP_FUZZ_EXAMPLES", "2000"))
SLOWEST = 10_000  # milliseconds that one example may take
MOST_MEMORY = 1024**2  # kB that the examples may add to what the process holds

# Letters that mean something to YAML, JSON, tables, templates or paths, and letters of many languages.
LETTERS = st.one_of(
    st.sampled_from(
        list("{}[]:,-?&*!|>'\"%@`#~=<\\/. \n\r\t\0") + ["\u2028", "\ufeff", "\u0301", "😀", "你"]
    ),
    st.characters(),
)
TEXTS = st.one_of(
    st.text(LETTERS, max_size=30), st.sampled_from(["", " ", "no", "en", "zh", "NaN", "a {}", "../x"])
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -1, 0, 2**63, 1e308]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


@dataclass
class Arguments:
    """Fields of every type that a recipe fills."""

    rate: float = 1.0
    n: int = 1
    name: str = "x"
    flag: bool = False
    names: list[str] = field(default_factory=list)
    maybe: int | None = None


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# Pieces of YAML, so that most files are nearly right.
YAML = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "rate: ",
                "n: ",
                "name: ",
                "flag: ",
                "names: ",
                "a",
                "&a ",
                "*a",
                "<<: ",
                "!!int ",
                "!!python/x ",
                "[",
                "]",
            ]
            + [
                "{",
                "}",
                "- ",
                "\n",
                "  ",
                "\t",
                ": ",
                ", ",
                "012",
                "1e3",
                ".inf",
                "no",
                "~",
                "'",
                '"',
                "| ",
                "--- ",
                "%",
            ]
        ),
        TEXTS,
    ),
    max_size=25,
).map("".join)


def check_recipe(text, folder):
    path = folder / "recipe.yaml"
    path.write_bytes(as_bytes(text))
    for read in (read_yaml, read_as_written):
        try:
            read(path, "recipe")
        except InputError as error:
            assert "\n" not in str(error)
    try:
        (arguments,) = parse(Arguments, arguments=[str(path)])
    except InputError:
        return
    assert math.isfinite(arguments.rate)
    assert isinstance(arguments.name, str)


def check_flags(values, folder):
    """Read a recipe of the known flags with values of any type."""
    path = folder / "recipe.yaml"
    path.write_bytes(as_bytes(json.dumps(values)))
    try:
        parse(Arguments, arguments=[str(path)])
    except InputError:
        return


def check_json(text, folder):
    try:
        parse_json(text, "it")
    except InputError:
        return


def check_task(values, folder):
    """Read a good task with values of any type in some of its keys."""
    path = folder / "task.yaml"
    good = {"kind": "zero_shot", "dataset": "x", "split": "test", "metric": "accuracy@1"}
    good |= {"columns": {"image": "image", "label": "label"}, "class_names": "dataset"}
    path.write_bytes(as_bytes(json.dumps(good | values)))
    try:
        load_task(str(path))
    except InputError:
        return


def check_names(values, folder):
    path = folder / "names.json"
    path.write_bytes(as_bytes(json.dumps(values)))
    for load in (lambda: load_class_names(str(path), ["en"]), lambda: load_templates(str(path), "en")):
        try:
            load()
        except InputError:
            continue


def check_result(change, folder):
    """Read a good result with other values in some fields, and show it where it is accepted."""
    path = folder / "tiny" / "pairs.en.json"
    path.parent.mkdir(exist_ok=True)
    good = json.loads((OLD / "results/tiny/miniature-pairs.en.json").read_text("utf-8"))
    path.write_bytes(as_bytes(json.dumps(good | change)))
    path.with_suffix(".npz").write_bytes((OLD / "results/tiny/miniature-pairs.en.npz").read_bytes())
    try:
        results = load_results(folder)
        comparison = Comparison(results, means=False)
        tables = make_tables(comparison, comparison.numbers(), TableArguments())
    except InputError:
        return
    report = Report("title", "about", [], tables, [], [], [], {}, results)
    assert report.to_markdown()
    assert report.to_html(folder)


def check_outcomes(seed, folder):
    """Damage a file of outcomes in one place, or cut it."""
    generator = random.Random(seed)
    task = generator.choice(["pairs", "concepts"])
    content = bytearray((OLD / f"results/tiny/miniature-{task}.en.npz").read_bytes())
    for _ in range(generator.randint(1, 3)):
        content[generator.randrange(len(content))] = generator.randrange(256)
    if generator.random() < 0.2:
        content = content[: generator.randrange(len(content))]
    (folder / "a.npz").write_bytes(content)
    try:
        load_outcomes(folder / "a.npz").metrics()
    except InputError:
        return


def check_table(given, folder):
    suffix, content = given
    path = folder / f"table{suffix}"
    path.write_bytes(content)
    try:
        list(rows_of_table(str(path)))
    except InputError:
        return


def check_translations(given, folder):
    """Read a good file of translations in which a few places have other texts."""
    name, changes, is_compressed = given
    content = FORMATS[name][0]
    for place, text in changes:
        start = place % len(content)
        content = content[:start] + text + content[start + len(text) :]
    path = folder / name
    path.write_bytes(as_bytes(content))
    if is_compressed:
        path.unlink()
        path = folder / f"{name}.gz"
        path.write_bytes(gzip.compress(as_bytes(content))[: -1 - changes[0][0] % 20])
    try:
        for entry in entries_of(find_translations(str(path))):
            assert bool(entry.texts) != bool(entry.skipped)
    except InputError as error:
        assert "\n" not in str(error)
    path.unlink()


def check_vocabulary(given, folder):
    texts, n_pieces = given
    try:
        extend_tokenizer(_tokenizer(), texts, n_pieces)
    except InputError as error:
        assert "\n" not in str(error)
    try:
        train_pieces(texts, n_pieces)
    except InputError:
        return


def check_metrics(given, folder):
    try:
        class_ranks(*given)
    except (ValueError, TypeError) as error:
        assert str(error)
    try:
        retrieval_recall(*given)
    except (ValueError, TypeError) as error:
        assert str(error)


def check_processor(given, folder):
    try:
        _processor()(**given)
    except (ValueError, TypeError) as error:
        assert str(error)


_loaded = {}


def _processor():
    if "processor" not in _loaded:
        _loaded["processor"] = AutoProcessor.from_pretrained(OLD / "model")
    return _loaded["processor"]


def _tokenizer():
    if "tokenizer" not in _loaded:
        _loaded["tokenizer"] = train_multilingual_tokenizer(["a dog", "a cat and a dog", "no text"] * 5, 18)
    return _loaded["tokenizer"]


def some_of(kind: type) -> st.SearchStrategy:
    """Draw values of any type for up to three fields of a dataclass."""
    names = [of_kind.name for of_kind in fields(kind)]
    return st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=3)


TENSORS = st.one_of(
    st.builds(torch.randn, st.integers(0, 4), st.integers(0, 4)),
    st.builds(torch.randn, st.integers(0, 4)),
    st.builds(lambda n, value: torch.full((n, 3), value), st.integers(1, 4), st.floats(width=32)),
    st.builds(lambda n: torch.arange(n), st.integers(0, 5)),
    st.builds(lambda n: torch.zeros(n, 3, dtype=torch.complex64), st.integers(1, 3)),
    st.builds(lambda n: torch.zeros(n, 3, device="meta"), st.integers(1, 3)),
    st.builds(lambda n: np.zeros((n, 3)), st.integers(0, 4)),
    st.lists(st.integers(-2, 5), max_size=4).map(torch.tensor),
    SCALARS,
)
PICTURES = st.one_of(
    st.builds(
        lambda mode, size: Image.new(mode, size),
        st.sampled_from(["RGB", "L", "P", "RGBA", "I;16", "1", "F"]),
        st.tuples(st.integers(0, 9), st.integers(0, 9)),
    ),
    st.builds(
        lambda shape, dtype: np.zeros(shape, dtype),
        st.lists(st.integers(0, 5), max_size=4),
        st.sampled_from(["uint8", "float32", "int64", "bool", "complex64"]),
    ),
    TENSORS,
    st.binary(max_size=20),
)
ONE_OR_SEVERAL_TEXTS = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), VALUES)
# The smallest vocabulary, of short texts: SentencePiece needs seconds for long ones.
VOCABULARIES = st.tuples(st.lists(TEXTS, max_size=4), st.integers(-1, 27))
# Without polib, catalogues of gettext are left out.
TRANSLATIONS = [name for name in FORMATS if importlib.util.find_spec("polib") or not name.endswith(".po")]
CHANGES = st.tuples(
    st.integers(0, 5000),
    st.one_of(TEXTS, st.sampled_from(["<", "&a;", "<!--", "]]>", "\\", 'msgid "', '"\n'])),
)
CHECKS = {
    "recipe": (YAML, check_recipe),
    "flags": (some_of(Arguments), check_flags),
    "json": (st.one_of(YAML, st.binary(max_size=60), VALUES.map(json.dumps)), check_json),
    "task": (some_of(Task), check_task),
    "names": (st.one_of(VALUES, st.dictionaries(st.just("en"), VALUES, min_size=1)), check_names),
    "result": (some_of(Result), check_result),
    "outcomes": (st.integers(0, 2**32), check_outcomes),
    "table": (
        st.tuples(st.sampled_from([".tsv", ".csv"]), st.one_of(YAML.map(as_bytes), st.binary(max_size=60))),
        check_table,
    ),
    "translations": (
        st.tuples(st.sampled_from(TRANSLATIONS), st.lists(CHANGES, min_size=1, max_size=4), st.booleans()),
        check_translations,
    ),
    "vocabulary": (VOCABULARIES, check_vocabulary),
    "metrics": (st.tuples(TENSORS, TENSORS, TENSORS), check_metrics),
    "processor": (
        st.fixed_dictionaries(
            {},
            optional={
                "text": ONE_OR_SEVERAL_TEXTS,
                "images": st.one_of(PICTURES, st.lists(PICTURES, max_size=3)),
            },
        ),
        check_processor,
    ),
}


def check_of(name: str, folder: Path, n_examples: int = QUICK, *, derandomize: bool = True) -> Callable:
    """Return one of the checks as a test of hypothesis, which draws its examples."""
    strategy, check = CHECKS[name]

    @settings(
        max_examples=n_examples,
        derandomize=derandomize,
        deadline=SLOWEST,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def check_one(value):
        check(value, folder)

    return check_one


def fuzz(name: str, n_examples: int, folder: Path, *, derandomize: bool) -> None:
    """Draw examples and check each; the error of the smallest that fails is raised."""
    # The peak so far is that of the tests that this process ran before.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_of(name, folder, n_examples, derandomize=derandomize)()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHECKS)
def test_examples_end_in_a_value_or_a_documented_error(name, tmp_path):
    fuzz(name, QUICK, tmp_path, derandomize=True)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHECKS)
def test_many_examples_end_in_a_value_or_a_documented_error(name, tmp_path):
    fuzz(name, LONG, tmp_path, derandomize=False)
