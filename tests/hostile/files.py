"""YAML, JSON, tables and files of results."""

import gzip
import json
import re
import shutil
import struct
import tarfile
import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import load_outcomes, load_results
from common.errors import InputError
from common.files import archives
from common.files.json_files import read_json
from common.files.rows import load_rows
from common.recipe import parse
from training.arguments import ContrastiveArguments
from training.cleaning.arguments import CleaningArguments
from training.data.parallel_text import load_parallel_text
from training.jobs import clean
from training.translation.rows import read_split
from training.translation.translating import TranslationArguments

from ..test_result_files import OLD, VALUES, WHOLE
from ..test_translation_files import HOSTILE
from ..test_yaml_files import BOMB
from .place import Place, Row


def rows(place: Place) -> list[Row]:
    makers = (_recipes, _json, _results, _archives, _translations, _cleaning)
    return [row for maker in makers for row in maker(place)]


def _recipes(place: Place) -> list[Row]:
    code = f"dataset: !!python/object/apply:pathlib.Path.touch {place.root}/pwned"
    recipes = {
        "!!python": (code, "is not read here"),
        "anchors that explode": (BOMB, "more than 50,000 values"),
        "a key given twice": ("seed: 1\nseed: 2", "is given twice"),
        "a number of 5,000 digits": ("seed: " + "9" * 5000, "is too large"),
        "a rate of NaN": ("learning_rate: .nan", "invalid float value"),
        "itself": ("dataset: &x [*x]", "stands within what it repeats"),
        "100,000 brackets": ("[" * 100_000, "nested more than 50 deep"),
        "a tab": ("seed: 1\n\tdataset: 2", "cannot start any token"),
        "a key that is a number": ("1: 2", "is no text"),
        "NUL": ("dataset: \0", "is not allowed"),
        "no for a flag": ("dataset: a\nmodel_name_or_path: b\nuse_cpu: no", "'no'"),
    }
    rows = []
    for name, (text, expected) in recipes.items():
        path = place.new_folder() / "recipe.yaml"
        path.write_text(text)
        read = partial(parse, ContrastiveArguments, arguments=[str(path)])
        rows.append(Row(f"recipe with {name}", read, expected))
    return rows


def _json(place: Place) -> list[Row]:
    texts = {
        "100,000 brackets": ("[" * 100_000, "is nested too deeply"),
        "a key given twice": ('{"en": 1, "en": 2}', "is given twice"),
        "NaN": ("[NaN]", "NaN"),
        "NUL": ("\0", "is no JSON"),
    }
    rows = []
    for name, (text, expected) in texts.items():
        path = place.new_folder() / "a.json"
        path.write_text(text)
        rows.append(Row(f"JSON with {name}", partial(read_json, path, "file"), expected))
    return rows


def _results(place: Place) -> list[Row]:
    copy = place.new_folder() / "results"
    shutil.copytree(OLD, copy)
    objects = place.new_folder() / "a.npz"
    np.savez(objects, **WHOLE | {"ranks": np.array([{}] * 6, dtype=object)})
    return [
        Row("results with fields of other types", partial(_read_changed, copy), "refused 2"),
        Row("outcomes of pickled objects", partial(load_outcomes, objects), "is no array of object"),
        Row("outcomes that state 10^13 numbers", partial(load_outcomes, _huge(place)), "is no array of"),
    ]


def _read_changed(results: Path) -> str:
    """Read a result with each field in turn of each other type; count those that are refused."""
    path = next(results.rglob("*pairs.en.json"))
    good = json.loads(path.read_text("utf-8"))
    n_refused = 0
    for field in good:
        for value in VALUES:
            path.write_text(json.dumps(good | {field: value}), "utf-8")
            try:
                load_results(results)
            except InputError:
                n_refused += 1
    return f"refused {n_refused} of {len(good) * len(VALUES)}"


def _huge(place: Place) -> Path:
    path = place.new_folder() / "a.npz"
    np.savez(path, **WHOLE)
    header = str({"descr": "<i8", "fortran_order": False, "shape": (10**13,)}).encode()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rows.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header)
    return path


ZEROS = 2**26  # bytes


def _archives(place: Place) -> list[Row]:
    # gzip reads files that are put one behind another. This line has 1.3 GB, in a file of 1.3 MB.
    spaces = place.new_folder() / "a.jsonl.gz"
    line = gzip.compress(b'{"en": "a", "zh": "b"}')
    spaces.write_bytes(line + gzip.compress(b" " * ZEROS, 1) * 20)
    read_line = partial(load_parallel_text, str(spaces), "train")

    tar = place.new_folder() / "train.tar.gz"
    with tarfile.open(tar, "w:gz", compresslevel=1) as archive:
        for name, size in (("a.txt", 1), ("a.png", ZEROS), ("b.txt", 1), ("b.png", ZEROS)):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, BytesIO(b"a" * size))

    parts = place.new_folder()
    content = gzip.decompress(tar.read_bytes())
    end = 3 * 512 + ZEROS  # of the first sample: two headers, a text and an image
    (parts / "train.tar.gz").write_bytes(gzip.compress(content[:end], 1) + gzip.compress(content[end:], 1))
    read_parts = partial(load_rows, str(parts), "train", [])

    folder = place.new_folder()
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.png", bytes(ZEROS))
    texts = place.new_folder()
    with zipfile.ZipFile(texts / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.tsv", b"en\tzh\n" + b" " * ZEROS)
    (texts / "a.jsonl.zst").write_bytes(pa.compress(b" " * ZEROS, "zstd", asbytes=True))
    return [
        Row(
            "zip with a table of 64 MB (bound: 16 MB)", partial(_read_bounded, texts / "a.zip"), "unpacks to"
        ),
        Row("jsonl.zst of 64 MB (bound: 16 MB)", partial(_read_bounded, texts / "a.jsonl.zst"), "unpacks to"),
        Row("zip of 64 MB of zeros (bound: 16 MB)", partial(_load_bounded, folder), "unpacks to"),
        Row("tar.gz of 64 MB images (bound: 16 MB)", partial(_load_bounded, tar.parent), "unpacks to"),
        Row("tar.gz of two parts", read_parts, "is compressed in several parts"),
        Row("jsonl.gz with a line of 1.3 GB", read_line, "unpacks to more than", is_long=True),
    ]


def _read_bounded(path: Path) -> object:
    archives._HARMLESS = 2**24
    return load_parallel_text(str(path), "train")


def _load_bounded(folder: Path) -> object:
    archives._HARMLESS = 2**24
    return load_rows(str(folder), "train", [])


def _translations(place: Place) -> list[Row]:
    rows = []
    for name, (text, expected) in HOSTILE.items():
        path = place.new_folder() / "a.tmx"
        path.write_text(text, "utf-8")
        rows.append(Row(f"TMX with {name}", partial(load_parallel_text, str(path), "train"), expected))

    half = place.new_folder() / "a.tmx.gz"
    half.write_bytes(gzip.compress(b"<tmx><body>" * 1000)[:-20])
    rows.append(Row("half of a tmx.gz", partial(load_parallel_text, str(half), "train"), "is it whole"))
    packed = place.new_folder() / "a.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.tmx", bytes(ZEROS))
    rows.append(Row("zip of 64 MB of TMX (bound: 16 MB)", partial(_read_bounded, packed), "unpacks to"))
    lines = place.new_folder() / "a.txt.gz"
    lines.write_bytes(gzip.compress(bytes(ZEROS)))
    rows.append(
        Row("captions in a txt.gz of 64 MB (bound: 16 MB)", partial(_read_captions, lines), "unpacks to")
    )
    return rows


def _read_bounded(path: Path) -> object:
    archives._HARMLESS = 2**24
    return load_parallel_text(str(path), "train")


def _read_captions(path: Path) -> object:
    archives._HARMLESS = 2**24
    arguments = TranslationArguments(
        dataset=str(path),
        splits=["train"],
        target_languages=["de"],
        output_dir="unused",
        model_name_or_path="a/b",
    )
    return read_split(arguments, "train")


def _cleaning(place: Place) -> list[Row]:
    units = {
        "a word": "a",
        "combining marks": "\u0301",
        "entities": "&lt;",
        "tags without an end": "<a",
        "signs of placeholders": "%0",
        "an address without an end": "a.",
        "invisible characters": "\u200b",
    }
    tables = {}
    for name, unit in units.items():
        text = unit * (10**7 // len(unit.encode()))
        table = f"en\tfr\n{text}@\tun chien\na dog\tun chien\n"
        tables[f"10 MB of {name}"] = (table.encode(), "kept 1 of 2")
    tables |= {
        "NUL": (b"en\tfr\na\0dog\tun chien\n", "kept 1 of 1"),
        "half of a surrogate pair": (b"en\tfr\na dog\tun \xed\xa0\x80\n", "is not UTF-8"),
        "a million columns": (
            b"\t".join(b"c%d" % number for number in range(10**6)) + b"\n",
            "1,000,000 columns",
        ),
    }
    rows = []
    for name, (content, expected) in tables.items():
        path = place.new_folder() / "a.tsv"
        path.write_bytes(content)
        is_long = name.startswith("10 MB")
        rows.append(Row(f"cleaning of {name}", partial(_clean, path), expected, is_long))
    path = place.new_folder() / "a.jsonl"
    path.write_text('{"en": "a dog", "fr": "un chien\\ud800"}\n')
    rows.append(Row("cleaning of a lone surrogate", partial(_clean, path), "surrogate pair"))
    return rows


def _clean(path: Path) -> str:
    arguments = CleaningArguments(dataset=str(path), output_dir=str(path.parent / "out"))
    clean.main(arguments)
    page = (path.parent / "out/report.md").read_text("utf-8")
    n_kept, n_rows = re.search(r"(\d+) of (\d+) rows", page).groups()
    return f"kept {n_kept} of {n_rows}"
