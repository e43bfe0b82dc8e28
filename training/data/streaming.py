"""Stream captioned images from files, for data that is larger than the disk or lies on a remote machine.

Each process reads its own files: process r of W reads files r, r + W, r + 2W, ... of the dataset, and divides
them among its loader workers in the same way. At the end of its files it starts again, so that all processes
take equally many steps even if files differ in number or length.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from datasets import Features, IterableDataset, Value, concatenate_datasets
from PIL import Image as PillowImage
from torch.utils.data import IterableDataset as TorchIterableDataset

from common.errors import InputError
from common.files.image_folders import source_of
from common.files.json_files import parse_json
from common.files.left_out_files import refuse_left_out
from common.files.outside import keep_inside, source_of_builder
from common.files.rows import find_builder, readable_rows
from common.files.tars import of_tars
from common.files.text_files import lines_of
from common.images import path_of
from common.paths import check_folder

from .captions import Form, read_captions, with_image
from .exclusion.stream import StreamExclusion
from .images import read_picture
from .mixtures import take_turns
from .sampling import share_out
from .sources.loading import find_source
from .sources.reading import source_options, with_image_column

# Columns that record where a row comes from, so that bad images can be reported.
_FILE = "__file__"
_ROW = "__row__"


def open_files(  # noqa: PLR0913  (the first two say what, the others which share of it)
    dataset: str,
    split: str,
    process_index: int = 0,
    n_processes: int = 1,
    n_workers: int = 0,
    n_rows: int | None = None,
    *,
    allow_outside: bool = False,
) -> IterableDataset:
    """Open the rows of this process's files as a stream, with undecoded images.

    Each row also has the name of its file and its number in it. To infer the columns, every process reads the
    beginning of one file as well.

    Args:
        n_workers: number of loader workers per process; each reads files of its own.
        n_rows: of all files together, which give equally many, from their beginnings. By default all.
        allow_outside: as for `load_rows`.

    Raises:
        InputError: as `find_builder`; no such dataset or split, no image column, fewer files than readers, or
            fewer rows than files.
    """
    named = find_source(dataset)
    if named is None:
        check_folder("dataset", dataset)
        options = source_of(dataset)
    else:
        options = source_options(named, split, named.config, allow_outside=allow_outside)
        dataset = named.dataset
        split = named.splits[split]
    with readable_rows(dataset, split):
        builder = find_builder(dataset, allow_outside=allow_outside, **options)
        builder = of_tars(builder) or builder
        if Path(dataset).is_dir():
            refuse_left_out(dataset, builder.config.data_files)
        rows = builder.as_streaming_dataset(split=split)
    if not allow_outside:
        rows = keep_inside(rows, source_of_builder(dataset, builder))

    rows = with_image(rows, dataset) if named is None else with_image_column(named, rows)
    n_files = rows.num_shards
    readers_per_process = max(1, n_workers)  # without workers the process itself reads
    n_readers = n_processes * readers_per_process
    if n_files < n_readers:
        raise InputError(
            f"dataset {dataset!r} has {n_files} files to stream in split {split!r}, and {n_processes} "
            f"processes with {readers_per_process} "
            f"readers each want {n_readers}: write it as more parquet or tar files, lower "
            "dataloader_num_workers, or leave out --streaming"
        )

    quotas = [None] * n_files
    if n_rows is not None:
        if n_rows < n_files:
            raise InputError(
                f"dataset {dataset!r} has {n_files} files in split {split!r}, and a stream takes equally "
                f"many rows of each: rows is {n_rows}, give {n_files} at least"
            )
        quotas = share_out(np.ones(n_files), n_rows)
    names = builder.config.data_files[split]
    if len(names) != n_files:  # an imagefolder lists pictures, which are not divided among readers
        names = [dataset] * n_files
    features = Features({**rows.features, _FILE: Value("string"), _ROW: Value("int64")})
    files = []
    # Process 1 of 3 reads the files 1, 4, 7, ...
    for number in range(process_index, n_files, n_processes):
        file = rows.shard(num_shards=n_files, index=number)
        if quotas[number] is not None:
            file = file.take(quotas[number])
        with_origin = partial(_add_origin, file=names[number])
        files.append(file.map(with_origin, with_indices=True, features=features))
    return concatenate_datasets(files)


def _add_origin(row: dict, number: int, file: str) -> dict:
    return {_FILE: file, _ROW: number}


class ExampleStream(TorchIterableDataset):
    """An endless stream of examples, as `CaptionExamples` has them.

    An example is `{"text": "a dog", "row_id": 7, "image": picture}`. Each pass over the files takes one
    caption of a row, so that an image occurs once in a batch and is encoded once. A row's captions take
    turns: pass p of row r takes caption p + r, modulo their number. A batch then has all languages, and after
    as many passes as a row has captions each has been used once. `row_id` is a 63-bit hash of the row's
    English caption, or of its first one if it has no English.

    Rows come in the order of the files. With a `shuffle_buffer` each pass shuffles the files, and draws rows
    from a buffer of that size that is filled from up to ten files. Either way the order depends on the seed
    alone. A run that resumes reads the rows of earlier steps again.

    Args:
        rows: as `open_files` returns them.
        languages: those whose captions are used.
        report: the file that gets one line per row whose image cannot be decoded.
        refuse: raise an `InputError` at a row whose image cannot be decoded.
        exclusion: leaves out rows that are in a test.
    """

    def __init__(  # noqa: PLR0913  (the first four say what, the others how)
        self,
        rows: IterableDataset,
        form: Form,
        languages: list[str],
        report: Path,
        *,
        refuse=False,
        shuffle_buffer: int = 0,
        seed: int = 0,
        exclusion: StreamExclusion | None = None,
    ):
        self.rows = rows
        self.form = form
        self.languages = languages
        self.report = report
        self.refuse = refuse
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.exclusion = exclusion

    def __iter__(self) -> Iterator[dict]:
        lines = lines_of(self.report) if self.report.exists() else []
        # Bad rows that an earlier run or pass has reported already
        self.named = set()
        for number, line in enumerate(lines, start=1):
            bad = parse_json(line, f"{self.report}, line {number},")
            self.named.add((bad["file"], bad["row"]))
        for number in count():
            empty = True
            for row in self.one_pass(number):
                example = self.example(row, number)
                if example is not None:
                    empty = False
                    yield example
            if empty:
                raise InputError(
                    f"none of a reader's files has a caption in {' '.join(self.languages)} beside an image "
                    "that can be decoded: "
                    f"look at --languages and at {self.report}"
                )

    def one_pass(self, number: int) -> IterableDataset:
        if not self.shuffle_buffer:
            return self.rows
        random = np.random.default_rng([self.seed, number])
        return self.rows.shuffle(generator=random, buffer_size=self.shuffle_buffer)

    def example(self, row: dict, number: int) -> dict | None:
        """Return a row's example in a pass; None without a caption in the languages or a readable image."""
        captions = read_captions(row, self.form)
        texts = [text for language in self.languages for text in captions.get(language, [])]
        if not texts or self._has_test_caption(row, captions):
            return None
        image = self.image(row)  # the slow part
        if image is None or self._has_test_picture(row, image):
            return None
        reference = captions.get("en", texts)[0]
        return {
            "text": texts[(row[_ROW] + number) % len(texts)],
            "row_id": stable_hash(reference),
            "image": image,
        }

    def _has_test_caption(self, row: dict, captions: dict[str, list[str]]) -> bool:
        if self.exclusion is None:
            return False
        return self.exclusion.has_captions(captions, row[_FILE], row[_ROW])

    def _has_test_picture(self, row: dict, image: PillowImage.Image) -> bool:
        if self.exclusion is None:
            return False
        return self.exclusion.has_picture(image, row[_FILE], row[_ROW])

    def image(self, row: dict) -> PillowImage.Image | None:
        image, problem = read_picture(row["image"])
        if problem:
            path = path_of(row["image"]) if row["image"] else None
            self.skip({"file": row[_FILE], "row": row[_ROW], "path": path, "problem": problem})
        return image

    def skip(self, bad: dict) -> None:
        """Write a bad row into the report, once; or refuse it.

        Raises:
            InputError: such rows are to be refused.
        """
        if self.refuse:
            raise InputError(
                "image {path} in row {row} of {file} cannot be decoded: {problem}. "
                "Fix it, or leave such rows out by --bad_rows set_aside".format(**bad)
            )
        if (bad["file"], bad["row"]) not in self.named:
            self.named.add((bad["file"], bad["row"]))
            with self.report.open("a", encoding="utf-8") as report:
                report.write(json.dumps(bad, ensure_ascii=False) + "\n")

    def summary(self) -> str:
        return f"a stream of {self.rows.num_shards} files for this process, in {' '.join(self.languages)}"


class MixedStream(TorchIterableDataset):
    """An endless stream of the examples of several streams, which take turns by their shares.

    The turns depend on the shares alone, and are the same in every process and run; see `take_turns`.

    Args:
        streams: of the same languages.
        shares: the share of each in all examples, in any unit.
    """

    def __init__(self, streams: list[ExampleStream], shares: list[float]):
        self.streams = streams
        self.shares = shares
        self.languages = streams[0].languages

    def __iter__(self) -> Iterator[dict]:
        iterators = [iter(stream) for stream in self.streams]
        for number in take_turns(self.shares):
            yield next(iterators[number])

    def summary(self) -> str:
        total = sum(self.shares)
        n_files = sum(stream.rows.num_shards for stream in self.streams)
        percents = " ".join(f"{share / total:.0%}" for share in self.shares)
        return (
            f"a stream of {n_files} files for this process, from {len(self.streams)} sources with {percents} "
            f"of the examples, in {' '.join(self.languages)}"
        )


AnyStream = ExampleStream | MixedStream


def find_reports(output_dir: str) -> list[Path]:
    """Return the files in which the processes of a run list the bad images of a stream."""
    return sorted(Path(output_dir).glob("bad_rows.*.jsonl"))


def find_excluded(output_dir: str) -> list[Path]:
    """Return the files in which the processes of a run list the rows of a stream that are in a test."""
    return sorted(Path(output_dir).glob("excluded.*.jsonl"))


def stable_hash(text: str) -> int:
    """Return a hash of 63 bits, the same on every machine and in every run; Python's own differs."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


__all__ = ["AnyStream", "ExampleStream", "MixedStream", "find_excluded", "find_reports", "open_files"]
