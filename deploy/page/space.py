"""The folder of a Space of Hugging Face: the page with all that it needs, ready to push.

A Space installs `requirements.txt` before its own files are there, so that the package cannot be among them
as a wheel; the few folders of it that the page imports are copied instead.

Its hardware is a CPU: pictures are embedded beforehand, and a text takes a CPU a fraction of a second.
ZeroGPU has torch up to 2.11, and this package needs 2.13.
"""

import shutil
from dataclasses import replace
from importlib.metadata import distribution, version
from pathlib import Path

from datasets import Image
from huggingface_hub import SpaceCardData
from huggingface_hub.utils import yaml_dump

import modeling_altclip
from common.errors import InputError
from common.files.rows import load_rows
from common.files.whole_files import whole_new_folder, write_text
from deploy.pushing.files import read_contents
from deploy.search.index import ImageIndex
from deploy.search.record import write_record

# "deploy.page" in a clone, "altclip.deploy.page" in a wheel.
_PREFIX = __package__.removesuffix("deploy.page")
_SOURCES = Path(__file__).parents[2]
_PACKAGES = ("common", "deploy/embed", "deploy/search", "deploy/page")
_REQUIRED = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "faiss-cpu",
    "huggingface_hub",
    "pillow",
    "psutil",
    "PyYAML",
    "safetensors",
    "sentencepiece",
    "xxhash",
)
_CPU_WHEELS = "--extra-index-url https://download.pytorch.org/whl/cpu"
_PYTHON = "3.12"
_SPLIT = "train"  # a name that `datasets` takes from any file's; not so "test_pairs"

_APP = '''\
"""The page that this Space shows: a Space runs this file, and so can you."""

import os
from pathlib import Path

from {prefix}common.recipe import parse
from {prefix}deploy.page.job import PageArguments, main

os.chdir(Path(__file__).parent)  # `page.yaml` names the other files
main(*parse(PageArguments, arguments=["page.yaml"]))
'''
_CARD = """\
---
{header}
---

# {title}

Search pictures, classify them, and compare languages, with a multilingual CLIP. `python app.py` serves the
page on any machine that has what `requirements.txt` names and Gradio.

## Licences

The code is licensed under Apache-2.0 (`LICENSE`), and the model as {model} says. Whose the pictures are, and
under which licences, is in `ATTRIBUTION.md`, which the page shows too.
"""


def write_space(
    space_dir: str, index: ImageIndex, model: str, *, title: str, settings: dict, attribution: str
) -> None:
    """Write the folder, whole or not at all.

    Args:
        space_dir: a folder that is new or empty.
        model: a folder, which is copied, or a Hub id, which the Space loads.
        settings: what `page.yaml` has beside index, model, title and attribution.
        attribution: whose the pictures are, and under which licences, in Markdown.

    Raises:
        InputError: the pictures of the index are gone.
    """
    with whole_new_folder(space_dir) as folder:
        _copy_package(folder)
        _copy_index(folder, index, _copy_model(folder, model))
        page = {"index": "index", "title": title, "attribution": "ATTRIBUTION.md", **settings}
        write_text(folder / "page.yaml", yaml_dump(page))
        write_text(folder / "ATTRIBUTION.md", attribution)
        write_text(folder / "LICENSE", _licence())
        write_text(folder / "app.py", _APP.format(prefix=_PREFIX))
        write_text(folder / "requirements.txt", _requirements())
        write_text(folder / "README.md", _card(title, model))


def _copy_package(folder: Path) -> None:
    """Copy the packages that the page imports, under the names that they have here."""
    without = shutil.ignore_patterns("__pycache__", "run_*.py")
    shutil.copytree(Path(modeling_altclip.__file__).parent, folder / "modeling_altclip", ignore=without)
    inside = folder / _PREFIX.replace(".", "/")
    for name in _PACKAGES:
        shutil.copytree(_SOURCES / name, inside / name, ignore=without)
    shutil.copy(_SOURCES / "deploy/__init__.py", inside / "deploy/__init__.py")
    if _PREFIX:  # its own would look for the packages that are left out
        write_text(inside / "__init__.py", '"""The parts of altclip that the page needs."""\n')


def _licence() -> str:
    """Return the licence of this package, which copies of it have to have."""
    if _PREFIX:
        return distribution("altclip").read_text("licenses/LICENSE")
    return (_SOURCES / "LICENSE").read_text("utf-8")


def _copy_model(folder: Path, model: str) -> str:
    """Copy a model without the records of its training, and return its name in the Space."""
    if not Path(model).is_dir():
        return model  # on the Hub
    for file in read_contents(Path(model)).files:
        copy = folder / "model" / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file.path, copy)
    return "model"


def _copy_index(folder: Path, index: ImageIndex, model: str) -> None:
    """Copy an index and its pictures, and let it name the copies.

    Raises:
        InputError: a picture is gone.
    """
    source = index.record.opened_source
    if source.split is None:
        pictures = source.open()
        path_of = {name: image["path"] for name, image in zip(pictures.ids, pictures.images)}
        for name in index.rows["id"]:
            if name not in path_of:
                raise InputError(f"the picture {name!r} of the index is gone: index again")
            copy = folder / "pictures" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path_of[name], copy)
    else:
        rows = load_rows(source.path, source.split, ["image"], source.name).select_columns(["image"])
        # A picture is known by the number of its row, and by its bytes, which are written as they are.
        rows = rows.cast_column("image", Image(decode=False))
        rows.to_parquet(folder / "pictures" / f"{_SPLIT}.parquet")
    shutil.copytree(index.folder / index.record.rows, folder / "index" / index.record.rows)
    copied = {"path": "pictures", "split": source.split and _SPLIT, "name": None}
    write_record(folder / "index", replace(index.record, source=copied, model=model))


def _requirements() -> str:
    """Return the versions that run here, without the build that a version may name (2.13.0+cpu)."""
    lines = [_CPU_WHEELS]
    for name in _REQUIRED:
        lines.append(f"{name}=={version(name).partition('+')[0]}")
    return "\n".join(lines) + "\n"


def _card(title: str, model: str) -> str:
    """Return `README.md`, whose header tells the Hub how to run the Space."""
    on_hub = [] if Path(model).is_dir() else [model]
    header = SpaceCardData(
        title=title,
        emoji="🔎",
        colorFrom="blue",
        colorTo="green",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=_PYTHON,
        app_file="app.py",
        suggested_hardware="cpu-basic",
        short_description="Search and classify pictures in many languages",
        license="other",
        models=on_hub or None,
        preload_from_hub=list(on_hub) or None,  # one list twice would be an anchor in YAML
    )
    card = f"[its card](https://huggingface.co/{model})" if on_hub else "its card in `model`"
    return _CARD.format(header=header.to_yaml(), title=title, model=card)


__all__ = ["write_space"]
