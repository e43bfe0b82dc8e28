"""Reader of images in tars, in webdataset's form: reads or reports what `datasets` would skip or misread.

`datasets` learns the columns from the first five samples of the first tar and makes each ending a column of
its own. If that sample is `a.jpg`, the contents of `b.png` or `c.JPG` are lost silently, and so is a caption
or a language that only later samples have. Here a sample's image is in one column, whatever its ending, and
the columns are those that any sample has. A stream has the columns of the first samples of its first tar, and
refuses a caption that only a later sample has.

All files of a sample have the same name before the first dot, as in webdataset. The text between that dot and
the last is a part of the image's name (`a.b.jpg` with `a.b.txt`), unless the sample has several images
(`a.jpg` and `a.seg.png`): each is then a column.
"""

import json
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from tarfile import TarError

import pyarrow as pa
from datasets import Dataset, DatasetBuilder, Features, Image, IterableDataset, Json, SplitGenerator
from datasets.builder import Key
from datasets.features.features import cast_to_python_objects
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from ..errors import InputError
from .archives import bounded_members
from .json_files import unique_keys
from .zstandard_tars import ZstandardTar, is_zstandard

TEXT_COLUMNS = ("captions", "translation", "caption", "text", "txt")
# The last four cannot be decoded by Pillow: as images they are reported, and not taken for other data.
_ENDINGS = {*WebDataset.IMAGE_EXTENSIONS, "avif", "heic", "heif", "jxl"}
N_SEEN = 100  # samples of a stream's first tar from which its columns are learned
_MOST_KEYS = 1000  # of a dict; keys of larger ones are data and no names of columns
_GZIP = b"\x1f\x8b"  # first bytes of a file
_CHUNK = 2**14  # bytes that are unpacked at a time, to at most 16 MB
_AS_JSON = object()  # type of a field whose values have no Arrow type in common
# `datasets` names the folders in which it caches rows after this hash, so that it does not take the rows of
# another version of this reader. It is the SHA-256 that this file had when the reader last changed: replace
# it by the file's present one with every change that alters the rows.
_READER_HASH = "98f630975dd79aedba2e9a25352018525f7ba3fa434e92e447ac0c28bf9b000a"

# `{field: content}`, with `__key__`, the name before the first dot, and `__url__`, the tar.
_Sample = dict[str, object]


def of_tars(builder: DatasetBuilder) -> "_PictureTars | None":
    """Return a reader for the tars that a builder has found; None if it has found other files."""
    if not isinstance(builder, WebDataset):
        return None
    return _PictureTars(
        dataset_name=builder.dataset_name,
        config_name=builder.config.name,
        description=builder.config.description,  # has the contents of local files, for the cache's key
        hash=_READER_HASH,
        base_path=builder.base_path,
        repo_id=builder.repo_id,
        token=builder.token,
        storage_options=builder.storage_options,
        data_files=builder.config.data_files,
    )


class _PictureTars(WebDataset):
    """`datasets`' reader of webdataset with other columns, and with an error for repeated keys in JSON."""

    DECODERS = WebDataset.DECODERS | dict.fromkeys(
        ("json", "jsn"), partial(json.loads, object_pairs_hook=unique_keys)
    )

    def _split_generators(self, dl_manager) -> list[SplitGenerator]:
        splits = {}  # {split: arguments of `_generate_examples`}
        all_tars = []  # [(path, iterator of its files), ...]
        for split, paths in dl_manager.download(self.config.data_files).items():
            iterators = []
            for path in paths:
                archive = ZstandardTar(path) if is_zstandard(path) else dl_manager.iter_archive(path)
                iterators.append(archive)
            splits[split] = {"tar_paths": paths, "tar_iterators": iterators}
            all_tars += zip(paths, iterators)

        if not self.info.features:
            if dl_manager.is_streaming:
                # No other tar is downloaded to learn the columns of a stream.
                samples = islice(_samples_of(*all_tars[0]), N_SEEN)
            else:
                samples = (sample for tar in all_tars for sample in _samples_of(*tar))
            self.info.features = _learn_features(samples)
        return [SplitGenerator(name=split, gen_kwargs=tars) for split, tars in splits.items()]

    def _generate_examples(self, tar_paths: list[str], tar_iterators: list) -> Iterator[tuple[Key, dict]]:
        for number, (path, iterator) in enumerate(zip(tar_paths, tar_iterators)):
            for row, sample in enumerate(_samples_of(path, iterator)):
                yield Key(number, row), _to_row(sample, self.info.features)


def _samples_of(path: str, iterator: Iterable[tuple]) -> Iterator[_Sample]:
    """Yield the samples of one tar, as the names of its files group them.

    Raises:
        InputError: a file cannot be read, two files of a sample have names that mean the same, or the tar is
            compressed in several parts.
    """
    found = _PictureTars._get_pipeline_from_tar(path, bounded_members(iterator, path))
    last = None
    while True:  # instead of a `for` loop, so that only errors of reading are caught
        try:
            sample = next(found)
        except StopIteration:
            _refuse_parts(path)
            _warn_of_half(path)
            return
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: the sample behind {last!r} is not UTF-8, {error}: save it as UTF-8"
            ) from error
        except (ValueError, EOFError, TarError, zlib.error) as error:  # not JSON, half a tar
            raise InputError(f"{path}: the sample behind {last!r} cannot be read, {error}: fix it") from error
        last = sample["__key__"]
        yield from _split_sample(sample)


def _refuse_parts(path: str) -> None:
    """Refuse a local tar that is compressed by gzip in several parts, as `cat a.gz b.gz` writes them.

    Python's reader of tars stops at the end of the first part and does not complain; of other compressions it
    raises an error.

    Raises:
        InputError: it is.
    """
    if not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        if file.read(len(_GZIP)) != _GZIP:
            return
        file.seek(0)
        part = zlib.decompressobj(wbits=31)  # of gzip
        while not part.eof and (chunk := file.read(_CHUNK)):
            part.decompress(chunk)
        rest = part.unused_data + file.read(_CHUNK)
    if rest.strip(b"\0"):  # zeros are padding
        raise InputError(
            f"{path} is compressed in several parts, of which only the first would be read: unpack it, and "
            "compress the tar in one"
        )


def _warn_of_half(path: str) -> None:
    """Warn of a local tar without the two empty blocks that end a complete one.

    Python reads the samples that are there and does not complain.
    """
    if not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        file.seek(257)  # of the magic word in a header; compressed tars have others
        is_plain = file.read(5) == b"ustar"
        file.seek(max(0, os.path.getsize(path) - 1024))
        end = file.read()
    if is_plain and end.strip(b"\0"):
        warnings.warn(
            f"{path} does not end as tars do: if it was cut short, its last samples are missing",
            stacklevel=2,
        )


def _split_sample(sample: _Sample) -> list[_Sample]:
    """Return the samples that `datasets` has merged into one, since it ends a key at the first dot.

    a.1.jpg a.1.txt a.2.jpg a.2.txt -> a.1 (jpg, txt), a.2 (jpg, txt)
    a.b.jpg a.b.txt                 -> a.b (jpg, txt)
    a.jpg a.seg.png a.txt           -> a (jpg, seg.png, txt)
    """
    fields = [name for name in sample if not name.startswith("__")]
    pictures = [name for name in fields if _is_picture(name)]
    # {"1": ["1.jpg", "1.txt"], "2": ["2.jpg", "2.txt"]}
    by_stem = {}
    for picture in pictures:
        stem = _stem_of(picture)
        by_stem[stem] = [name for name in fields if _stem_of(name) == stem]

    if len(pictures) == 1:
        return [_part_of(sample, fields, _stem_of(pictures[0]))]
    # Several pictures are samples of their own if each has its own stem, and all fields belong to one of
    # them; a picture without a stem, `a.jpg`, has to have a description as the others have.
    have_own_stems = len(pictures) > 1 and len(by_stem) == len(pictures)
    has_others = any(_stem_of(name) not in by_stem for name in fields)
    all_described = all(len(names) > 1 for names in by_stem.values())
    all_have_stems = "" not in by_stem
    if have_own_stems and not has_others and (all_described or all_have_stems):
        return [_part_of(sample, names, stem) for stem, names in by_stem.items()]
    return [_part_of(sample, fields, "")]


def _part_of(sample: _Sample, fields: list[str], stem: str) -> _Sample:
    """Return a sample of some fields, with lower-case names and without the `stem`, which joins its key.

    Fields 1.JPG and 1.txt of the sample "a", stem "1" -> jpg and txt of the sample "a.1"

    Raises:
        InputError: two fields have the same name then.
    """
    part: _Sample = {}
    for name in fields:
        short = name.rpartition(".")[2] if _stem_of(name) == stem else name
        short = short.lower()
        if short in part:
            raise InputError(
                f"{sample['__url__']}: the sample {sample['__key__']!r} has {short!r} twice: rename one of "
                f"{' and '.join(fields)}"
            )
        content = sample[name]
        if isinstance(content, str):
            content = content.removeprefix("\ufeff")  # a byte order mark
        if _is_picture(name):
            content = {"path": f"{sample['__key__']}.{name}", "bytes": content}
        part[short] = content
    key = f"{sample['__key__']}.{stem}" if stem else sample["__key__"]
    return part | {"__key__": key, "__url__": sample["__url__"]}


def _stem_of(field: str) -> str:
    """Return a field's name before its ending: `seg.png` -> `seg`, `png` -> "" ."""
    return field.rpartition(".")[0]


def _is_picture(field: str) -> bool:
    return field.rpartition(".")[2].lower() in _ENDINGS


def _pictures_of(sample: _Sample) -> list[str]:
    """Return the names of a sample's fields that are images."""
    return [name for name in sample if _is_picture(name)]


def _learn_features(samples: Iterable[_Sample]) -> Features:
    """Return the columns of all samples.

    Their images are one column, named by the first one's ending, unless a sample has two.

    Raises:
        InputError: there is no sample, or the files of one are not next to each other.
    """
    kinds = {}
    pictures = {}  # an ordered set: the keys matter
    has_picture = {}  # by tar and key
    has_several = False
    for sample in samples:
        own = _pictures_of(sample)
        pictures |= dict.fromkeys(own)
        has_several = has_several or len(own) > 1

        # Files of a sample that are apart in the tar come as two samples of one key.
        tar = sample["__url__"]
        key = sample["__key__"]
        if (tar, key) in has_picture and not (own and has_picture[tar, key]):
            raise InputError(
                f"{tar}: files of {key!r} do not stand together: write the tar in the order of names"
            )
        has_picture[tar, key] = bool(own)

        others = {name: content for name, content in sample.items() if name not in own}
        kinds = _merge(kinds, _kind_of(others))

    if not kinds:
        raise InputError("the tars hold no file that has a name and an ending")
    columns = list(pictures) if has_several else list(pictures)[:1]
    images = {name: Image() for name in columns}
    return Features(images | (_to_feature(kinds) or {}))


def _kind_of(content: object) -> object:
    """Return the Arrow type of a value; of a dict, the type under each key."""
    if isinstance(content, dict):
        return {key: _kind_of(value) for key, value in content.items()}
    try:
        return pa.array([cast_to_python_objects(content, only_1d_for_numpy=True)]).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return _AS_JSON


def _merge(one: object, other: object) -> object:
    """Return the type of values of both types.

    int64, float64                    -> float64
    {"en": string}, {"zh": string}    -> {"en": string, "zh": string}
    string, {"en": string}            -> _AS_JSON
    """
    if isinstance(one, dict) and isinstance(other, dict):
        both = {key: _merge(one[key], other[key]) for key in one if key in other}
        together = one | other | both
        return together if len(together) <= _MOST_KEYS else _AS_JSON
    if one == other or other == pa.null():
        return one
    if one == pa.null():
        return other
    if isinstance(one, pa.DataType) and isinstance(other, pa.DataType):
        try:
            schemas = [pa.schema([("value", kind)]) for kind in (one, other)]
            return pa.unify_schemas(schemas, promote_options="permissive").field("value").type
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return _AS_JSON
    return _AS_JSON


def _to_feature(kind: object):
    """Return the feature of a type in `datasets`; None for a dict that is empty in all samples."""
    if kind is _AS_JSON:
        return Json()
    if isinstance(kind, dict):
        features = {key: _to_feature(value) for key, value in kind.items()}
        return {key: feature for key, feature in features.items() if feature is not None} or None
    return Features.from_arrow_schema(pa.schema([("value", kind)]))["value"]


def _to_row(sample: _Sample, features: Features) -> dict:
    """Return a row with all columns.

    Raises:
        InputError: the sample has a second image, or a caption or a language, for which there is no column.
    """
    pictures = _pictures_of(sample)
    columns = [name for name, feature in features.items() if isinstance(feature, Image)]
    if len(columns) == 1 and len(pictures) == 1:
        # The only image is in the only column for images, whatever the ending of each.
        column = columns[0]
        picture = pictures[0]
        others = {name: content for name, content in sample.items() if name != picture}
        sample = {column: sample[picture]} | others
        pictures = columns

    missed = [name for name in pictures if name not in columns]
    missed += _missed_texts(sample, features)
    if missed:
        raise InputError(
            f"{sample['__url__']}: the sample {sample['__key__']!r} has {', '.join(missed)}, which none of "
            f"the first tar's first {N_SEEN} has: put one that has it there, or leave out --streaming"
        )
    return {name: sample.get(name) for name in features}


def _missed_texts(sample: _Sample, features: Features) -> list[str]:
    """Return the names of captions, and of their languages, for which there is no column."""
    missed = []
    for name in ("json", *TEXT_COLUMNS):
        content = sample.get(name)
        feature = features.get(name)
        if content is not None and feature is None:
            missed.append(name)
        elif isinstance(content, dict) and isinstance(feature, dict):
            if name == "json":
                missed += _missed_texts(content, feature)  # its keys are columns of captions in their turn
            else:
                missed += [f"{name} in {key}" for key in content if key not in feature]
    return missed


def name_pictures(rows: Dataset | IterableDataset, column: str | None) -> Dataset | IterableDataset:
    """Rename the column of images to the ending by which a task names it, if the first image has another."""
    pictures = [name for name, kind in rows.features.items() if isinstance(kind, Image)]
    if column is None or column in rows.features or len(pictures) != 1 or not _is_picture(column):
        return rows
    # Renaming a stream's column decodes it and encodes it once more, unless it is undecoded.
    undecoded = rows.cast_column(pictures[0], Image(decode=False))
    return undecoded.rename_column(pictures[0], column)


__all__ = ["TEXT_COLUMNS", "name_pictures", "of_tars"]
