"""Pictures in tars, as webdataset has them: what `datasets` would leave out of them, or take for other
things, is read or told.

`datasets` learns the columns from the first five samples of the first tar and takes each ending for a column
of its own: where that sample is `a.jpg`, all that stands in `b.png` or `c.JPG` is lost without a word, and so
is a caption, or a language, that only later samples have. Here a sample's picture is in one column, whatever
its ending, and columns are those that any sample has; of a stream those of the first samples of its first
tar, and a caption that only another one has is refused.

All names of a sample are equal before the first dot, as everywhere. What stands between that dot and the last
is a part of the picture's name (`a.b.jpg` with `a.b.txt`), unless the sample has several pictures (`a.jpg`
and `a.seg.png`): each is a column then.
"""

import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice, starmap
from pathlib import Path
from tarfile import TarError

import pyarrow as pa
from datasets import Dataset, DatasetBuilder, Features, Image, IterableDataset, Json, SplitGenerator
from datasets.builder import Key
from datasets.features.features import cast_to_python_objects
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from .json_files import unique_keys
from .recipe import InputError

TEXT_COLUMNS = ("captions", "translation", "caption", "text", "txt")
ENDINGS = {
    *WebDataset.IMAGE_EXTENSIONS,
    "avif",
    "heic",
    "heif",
    "jxl",
}  # what Pillow cannot decode is named as a bad picture
N_SEEN = 100  # samples of a stream's first tar that tell its columns
MOST_KEYS = 1000  # of a dict; with more they are no names of columns
AS_JSON = object()  # a field whose values have no type in common

Sample = dict[str, object]
"""`{field: content}`, with `__key__`, the name before the first dot, and `__url__`, the tar."""


def of_tars(builder: DatasetBuilder) -> "PictureTars | None":
    """Return the reader of the tars that a builder has found; None where it has found other files."""
    if not isinstance(builder, WebDataset):
        return None
    return PictureTars(
        dataset_name=builder.dataset_name,
        config_name=builder.config.name,
        hash=hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        base_path=builder.base_path,
        repo_id=builder.repo_id,
        token=builder.token,
        storage_options=builder.storage_options,
        data_files=builder.config.data_files,
    )


class PictureTars(WebDataset):
    """`datasets`' own reader of webdataset, with columns of its own, and an error where an object of JSON has
    a key twice.
    """

    DECODERS = WebDataset.DECODERS | dict.fromkeys(
        ("json", "jsn"), partial(json.loads, object_pairs_hook=unique_keys)
    )

    def _split_generators(self, dl_manager) -> list[SplitGenerator]:
        files = dl_manager.download(self.config.data_files)
        tars = {
            split: {"tar_paths": paths, "tar_iterators": list(map(dl_manager.iter_archive, paths))}
            for split, paths in files.items()
        }
        if not self.info.features:
            every = [tar for of_split in tars.values() for tar in zip(*of_split.values())]
            some = islice(samples_of(*every[0]), N_SEEN)  # of a stream no other tar is fetched for it
            self.info.features = learn_features(
                some if dl_manager.is_streaming else chain(*starmap(samples_of, every))
            )
        return [SplitGenerator(name=split, gen_kwargs=of_split) for split, of_split in tars.items()]

    def _generate_examples(self, tar_paths: list[str], tar_iterators: list) -> Iterator[tuple[Key, dict]]:
        for number, (path, iterator) in enumerate(zip(tar_paths, tar_iterators)):
            for row, sample in enumerate(samples_of(path, iterator)):
                yield Key(number, row), to_row(sample, self.info.features)


def samples_of(path: str, iterator: Iterable[tuple]) -> Iterator[Sample]:
    """Read the samples of one tar, as their names define them.

    Raises:
        InputError: a file cannot be read, or files of a sample have names that mean the same.
    """
    found, last = PictureTars._get_pipeline_from_tar(path, iterator), None
    while True:
        try:
            sample = next(found)
        except StopIteration:
            warn_of_half(path)
            return
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: the sample behind {last!r} is not UTF-8, {error}: save it as UTF-8"
            ) from error
        except (ValueError, EOFError, TarError, zlib.error) as error:  # of JSON that is none, of half a tar
            raise InputError(
                f"{path}: the sample behind {last!r} cannot be read, {error}: mend it"
            ) from error
        last = sample["__key__"]
        yield from split_sample(sample)


def warn_of_half(path: str) -> None:
    """Warn of a tar here that does not end in two empty blocks, as whole ones do:

    Python reads what there is without a word.
    """
    if not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        file.seek(257)
        is_plain = file.read(5) == b"ustar"
        file.seek(max(0, os.path.getsize(path) - 1024))
        if is_plain and file.read().strip(b"\0"):
            warnings.warn(
                f"{path} does not end as tars do: if it was cut short, its last samples are missing",
                stacklevel=2,
            )


def split_sample(sample: Sample) -> list[Sample]:
    """Split a sample of `datasets` into those that it is made of.

    `datasets` ends a key at the first dot, so that `a.1.jpg` and `a.2.jpg` are one sample there.
    """
    fields = [name for name in sample if not name.startswith("__")]
    pictures = [name for name in fields if is_picture(name)]
    stems = [stem_of(name) for name in pictures]
    beside = {stem: [] for stem in stems}
    for name in fields:
        if stem_of(name) in beside:
            beside[stem_of(name)].append(name)
    others = [name for name in fields if stem_of(name) not in beside]
    all_described = all(len(names) > 1 for names in beside.values())
    if len(pictures) == 1:
        return [part_of(sample, fields, stems[0])]
    if len(beside) == len(pictures) > 1 and not others and (all_described or "" not in beside):
        return [part_of(sample, names, stem) for stem, names in beside.items()]
    return [part_of(sample, fields, "")]


def part_of(sample: Sample, fields: list[str], stem: str) -> Sample:
    """Return some fields of a sample, in lower case, without the `stem` that is a part of its key."""
    part: Sample = {}
    for name in fields:
        short = (name.rpartition(".")[2] if stem_of(name) == stem else name).lower()
        if short in part:
            raise InputError(
                f"{sample['__url__']}: the sample {sample['__key__']!r} has {short!r} twice: rename one of "
                f"{' and '.join(fields)}"
            )
        content = sample[name]
        content = content.removeprefix("\ufeff") if isinstance(content, str) else content  # a byte order mark
        part[short] = (
            {"path": f"{sample['__key__']}.{name}", "bytes": content} if is_picture(name) else content
        )
    key = f"{sample['__key__']}.{stem}" if stem else sample["__key__"]
    return part | {"__key__": key, "__url__": sample["__url__"]}


def stem_of(field: str) -> str:
    return field.rpartition(".")[0]


def is_picture(field: str) -> bool:
    return field.rpartition(".")[2].lower() in ENDINGS


def pictures_of(sample: Sample) -> list[str]:
    return [name for name in sample if is_picture(name)]


def learn_features(samples: Iterable[Sample]) -> Features:
    """Return the columns that samples have together.

    Their images are one column, named by the first one's file extension, unless a sample has two.

    Raises:
        InputError: there is none, or the files of one do not stand together.
    """
    kinds, pictures, with_picture, several = {}, {}, {}, False
    for sample in samples:
        own, name = pictures_of(sample), (sample["__url__"], sample["__key__"])
        pictures |= dict.fromkeys(own)
        several |= len(own) > 1
        if name in with_picture and not (own and with_picture[name]):
            raise InputError(
                f"{name[0]}: files of {name[1]!r} do not stand together: write the tar in the order of names"
            )
        with_picture[name] = bool(own)
        kinds = merge(kinds, kind_of({name: content for name, content in sample.items() if name not in own}))
    if not kinds:
        raise InputError("the tars hold no file that has a name and an ending")
    columns = list(pictures) if several else list(pictures)[:1]
    return Features({name: Image() for name in columns} | (to_feature(kinds) or {}))


def kind_of(content: object) -> object:
    """Return the Arrow type of a value; for a dictionary one for each key."""
    if isinstance(content, dict):
        return {key: kind_of(value) for key, value in content.items()}
    try:
        return pa.array([cast_to_python_objects(content, only_1d_for_numpy=True)]).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return AS_JSON


def merge(one: object, other: object) -> object:
    """Return the type that holds values of both types."""
    if isinstance(one, dict) and isinstance(other, dict):
        both = {key: merge(one[key], other[key]) for key in one if key in other}
        together = one | other | both
        return together if len(together) <= MOST_KEYS else AS_JSON
    if one == other or other == pa.null():
        return one
    if one == pa.null():
        return other
    if isinstance(one, pa.DataType) and isinstance(other, pa.DataType):
        try:
            schemas = [pa.schema([("value", kind)]) for kind in (one, other)]
            return pa.unify_schemas(schemas, promote_options="permissive").field("value").type
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return AS_JSON
    return AS_JSON


def to_feature(kind: object):
    """Return the type as `datasets` has it; a dictionary of which no sample has a key becomes null."""
    if kind is AS_JSON:
        return Json()
    if isinstance(kind, dict):
        features = {key: to_feature(value) for key, value in kind.items()}
        return {key: feature for key, feature in features.items() if feature is not None} or None
    return Features.from_arrow_schema(pa.schema([("value", kind)]))["value"]


def to_row(sample: Sample, features: Features) -> dict:
    """Return a row with all columns.

    Raises:
        InputError: the sample has a second picture, or a caption or a language, that those which told the
            columns have not.
    """
    pictures = pictures_of(sample)
    columns = [name for name, feature in features.items() if isinstance(feature, Image)]
    if len(columns) == 1 and len(pictures) == 1:
        sample = {columns[0]: sample[pictures[0]]} | {
            name: content for name, content in sample.items() if name not in pictures
        }
    missed = [name for name in pictures_of(sample) if name not in columns] + missed_texts(sample, features)
    if missed:
        raise InputError(
            f"{sample['__url__']}: the sample {sample['__key__']!r} has {', '.join(missed)}, which none of "
            "the first tar's "
            f"first {N_SEEN} has: put one that has it there, or leave out --streaming"
        )
    return {name: sample.get(name) for name in features}


def missed_texts(sample: Sample, features: Features) -> list[str]:
    """List names of captions, and of their languages, that have no place in the columns."""
    missed = []
    for name in ("json", *TEXT_COLUMNS):
        content, feature = sample.get(name), features.get(name)
        if content is not None and feature is None:
            missed.append(name)
        elif isinstance(content, dict) and isinstance(feature, dict):
            languages = (
                [] if name == "json" else [f"{name} in {key}" for key in content if key not in feature]
            )
            missed += missed_texts(content, feature) if name == "json" else languages
    return missed


def name_pictures(rows: Dataset | IterableDataset, column: str | None) -> Dataset | IterableDataset:
    """Rename the column of images of tars to the file extension that a task names, which may differ from the
    first image's.
    """
    pictures = [name for name, kind in rows.features.items() if isinstance(kind, Image)]
    if column is None or column in rows.features or len(pictures) != 1 or not is_picture(column):
        return rows
    # Renaming a stream's column decodes it and encodes it once more, unless it is undecoded.
    return rows.cast_column(pictures[0], Image(decode=False)).rename_column(pictures[0], column)


__all__ = ["TEXT_COLUMNS", "PictureTars", "name_pictures", "of_tars"]
