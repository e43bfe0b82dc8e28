"""Load captioned images to train on, from a dataset or as a stream, without those that cannot be decoded."""

from collections.abc import Callable
from pathlib import Path

from datasets import Dataset, IterableDataset

from common.errors import InputError
from common.files.image_folders import say_without_row
from common.languages import check_languages

from ..arguments import AlignmentArguments, PairArguments, say
from ..output_folder import record_exclusion, record_sources
from .budgets import Budget, take_budget
from .captions import (
    Form,
    by_keys,
    find_form,
    named_languages,
    with_captions,
    with_image,
)
from .examples import CaptionExamples
from .exclusion.rows import exclude_tests, number_rows, open_index
from .exclusion.stream import StreamExclusion
from .images import ImageViews, check_policy, find_without_row, keep_readable, name_without_row
from .mixtures import mix_rows
from .parallel_text import budget_of, open_dataset, read_sources
from .sources.loading import find_source
from .sources.origin import find_origins
from .sources.reading import languages_of_images, read_images, stream_with_captions
from .sources.source import Source
from .streaming import AnyStream, ExampleStream, MixedStream, find_excluded, find_reports, open_files


def load_images(arguments: PairArguments | AlignmentArguments, languages: list[str] | None) -> Dataset:
    """Load the captioned images to train on, without those that cannot be decoded or are in a test.

    Prints how many images are skipped and excluded, and where they are listed.
    """
    # The other processes then read what the first has written to datasets' cache.
    with arguments.main_process_first(desc="reading captions"):
        listed, parts = _load_parts(
            arguments.dataset,
            arguments.split,
            languages,
            arguments.text_column,
            allow_outside=arguments.allow_outside_images,
        )
        rows = mix_rows(parts, listed)
    if arguments.exclude_tasks:
        rows = number_rows(rows)
    without_row = []
    for source, part in zip(listed, parts):
        missed = find_without_row(part, source["data"])
        without_row += missed
        if missed:
            say(arguments, f"{say_without_row(missed, source['data'])}.")
    with arguments.main_process_first(desc="decoding images"):
        rows, n_skipped = keep_readable(rows, arguments.bad_rows, arguments.output_dir, without_row)
    if n_skipped:
        say(arguments, f"Skipped {n_skipped} images, listed in {arguments.output_dir}/bad_rows.jsonl.")
    origins = find_origins(arguments.dataset, list(rows.features["captions"]), len(rows))
    record_sources(arguments, origins)
    return exclude_tests(arguments, rows)


def load_image_rows(
    dataset: str,
    split: str,
    languages: list[str] | None = None,
    text_column: str | None = None,
    *,
    allow_outside: bool = False,
) -> Dataset:
    """Load rows of undecoded `image` and `captions`: a public corpus by its name, any dataset, or a mixture.

    Args:
        dataset: as for stage 2; a `.yaml` file that lists several has the keys of `read_sources`.
        split: of those that state none of their own.
        languages, text_column, allow_outside: as for `load_captioned`.

    Returns:
        The rows, with a column `weight` if one of several sources has one.

    Raises:
        InputError: as `read_sources`, `read_images` or `load_captioned`; a column is named, which a corpus
            names itself; or a source has a `name`.
    """
    listed, parts = _load_parts(dataset, split, languages, text_column, allow_outside=allow_outside)
    return mix_rows(parts, listed)


def _load_parts(
    dataset: str, split: str, languages: list[str] | None, text_column: str | None, *, allow_outside: bool
) -> tuple[list[dict], list[Dataset]]:
    """Load the rows of each source; return the sources, as `read_sources` does, and their rows."""

    def read(data: str, split: str, budget: Budget) -> Dataset:
        outside = {"allow_outside": allow_outside}
        named = find_source(data)
        if named is not None:
            refuse_text_column(named, text_column)
            return read_images(named, languages, split, budget=budget, **outside)
        rows = with_image(open_dataset(data, split, budget.n_rows, **outside), data)
        return with_captions(rows, find_form(rows.features, data, text_column, languages), data)

    return load_parts(dataset, split, read)


def load_parts(
    dataset: str, split: str, read: Callable[[str, str, Budget], Dataset]
) -> tuple[list[dict], list[Dataset]]:
    """Load the rows of each source by `read(data, split, budget)`, and keep as many as its budget allows.

    Args:
        dataset: one source, or a `.yaml` file that lists several.
        split: of those that state none of their own.

    Returns:
        The sources, as `read_sources` returns them, and the rows of each.

    Raises:
        InputError: as `read_sources` or `read`; or a source has a `name`.
    """
    listed = read_sources(dataset)
    parts = []
    for source in listed:
        _check_keys(source, dataset)
        budget = budget_of(source)
        rows = read(source["data"], source.get("split", split), budget)
        parts.append(take_budget(rows, budget))
    return listed, parts


def _check_keys(source: dict, dataset: str) -> None:
    """Check that a source of a list has the keys that captioned images may have.

    Raises:
        InputError: it has a `name`, by which only parallel text has configurations.
    """
    if "name" in source:
        raise InputError(
            f"{dataset!r} gives {source['data']!r} the name {source['name']!r}: for a configuration of "
            "captioned images write a source of your own, with its `config`"
        )


def refuse_text_column(source: Source, text_column: str | None) -> None:
    """Refuse a column of captions for a source, whose file names it.

    Raises:
        InputError: one is given.
    """
    if text_column is not None:
        raise InputError(
            f"text_column is {text_column!r}: source {source.name!r} names its columns itself, leave it out"
        )


def load_examples(
    arguments: PairArguments, languages: list[str] | None, n_views: int = 1
) -> CaptionExamples | AnyStream:
    """Load captions with their images, `n_views` of each; as a stream where `streaming` is set.

    Rows of one picture count as alike.
    """
    if arguments.streaming:
        return stream_images(arguments, languages)
    rows = load_images(arguments, languages)
    views = ImageViews(rows, n_views)
    languages = check_languages(languages, list(rows.features["captions"]))
    examples = CaptionExamples(rows, languages, "image", inputs=views, same=views.digests)
    examples.check_any(arguments.dataset)
    return examples


def stream_images(arguments: PairArguments, languages: list[str] | None) -> AnyStream:
    """Stream the captioned images of this process's files; see `streaming.py`.

    Every process lists bad images in a file of its own, `bad_rows.R.jsonl` for process R; a run that resumes
    adds to it.

    Raises:
        InputError: as `read_sources`, `open_files` and `find_form`; `languages` are neither given nor known
            from the columns; or a mixture has a temperature, or a source without a number of rows.
    """
    check_policy(arguments.bad_rows)
    listed = read_sources(arguments.dataset)
    is_mixture = listed != [{"data": arguments.dataset}]
    opened = [_open_stream(arguments, source, languages) for source in listed]
    # Where the columns do not tell the languages, those of --languages are taken as available.
    available = {}
    for _, form in opened:
        available |= dict.fromkeys(form.available or named_languages(languages, "--languages").values())
    languages = check_languages(languages, list(available))
    shares = [_share_of(source, arguments.dataset) for source in listed] if is_mixture else None

    _clear_reports(arguments)
    report = Path(arguments.output_dir, f"bad_rows.{arguments.process_index}.jsonl")
    if not arguments.resume:
        for source in listed:
            _report_without_row(arguments, source, report)

    record_sources(arguments, find_origins(arguments.dataset, languages))
    options = {"shuffle_buffer": arguments.shuffle_buffer, "seed": arguments.seed}
    if arguments.exclude_tasks:
        index = open_index(arguments, pictures=True)
        record_exclusion(arguments, index.tasks, None)
        excluded = Path(arguments.output_dir, f"excluded.{arguments.process_index}.jsonl")
        options["exclusion"] = StreamExclusion(index, excluded)
    streams = []
    for rows, form in opened:
        refuse = arguments.bad_rows == "error"
        streams.append(ExampleStream(rows, form, languages, report, refuse=refuse, **options))
    return MixedStream(streams, shares) if is_mixture else streams[0]


def _open_stream(
    arguments: PairArguments, source: dict, languages: list[str] | None
) -> tuple[IterableDataset, Form]:
    """Open this process's files of one source, and find the form of its captions.

    Raises:
        InputError: as `stream_images`.
    """
    data = source["data"]
    _check_keys(source, arguments.dataset)
    named = find_source(data)
    wanted = None
    if named is not None:
        refuse_text_column(named, arguments.text_column)
        wanted = languages_of_images(named, languages)
    rows = open_files(
        data,
        source.get("split", arguments.split),
        arguments.process_index,
        arguments.world_size,
        arguments.dataloader_num_workers,
        source.get("rows"),
        allow_outside=arguments.allow_outside_images,
    )
    if named is None:
        form = find_form(rows.features, data, arguments.text_column, languages)
    else:
        rows = stream_with_captions(named, rows, wanted)
        form = by_keys("captions", wanted, data)
    if not (languages or form.available):
        raise InputError(
            f"column {form.column!r} of {data!r} states its languages row by row: "
            "give those to train on with --languages"
        )
    return rows, form


def _share_of(source: dict, dataset: str) -> float:
    """Return the share of a source in a streamed mixture: its weight times its number of rows.

    Raises:
        InputError: nothing tells the number of rows; or there is a temperature, for which all rows would have
            to be read first.
    """
    if "temperature" in source:
        raise InputError(
            f"temperature of {source['data']!r} in {dataset!r}: a stream takes rows as they come, leave it "
            "or --streaming out"
        )
    named = find_source(source["data"])
    stated = [] if named is None or named.n_rows is None else [named.n_rows]
    numbers = stated + ([source["rows"]] if "rows" in source else [])
    if not numbers:
        raise InputError(
            f"{source['data']!r} in {dataset!r} does not tell its number of rows, by which sources share a "
            "stream: add `rows`, how many of it to read"
        )
    return source.get("weight", 1) * min(numbers)


def _report_without_row(arguments: PairArguments, source: dict, report: Path) -> None:
    """Print, and list in the report of the first process, the pictures of a source that no row names."""
    without_row = name_without_row(
        source["data"],
        source.get("split", arguments.split),
        arguments.bad_rows,
        report if arguments.process_index == 0 else None,
        allow_outside=arguments.allow_outside_images,
    )
    if without_row:
        say(arguments, f"{say_without_row(without_row, source['data'])}.")


def _clear_reports(arguments: PairArguments) -> None:
    """Make the output folder and, unless the run resumes, remove reports of an earlier run from it."""
    with arguments.main_process_first(desc="clearing reports"):
        Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
        if arguments.local_process_index == 0 and not arguments.resume:
            for report in find_reports(arguments.output_dir) + find_excluded(arguments.output_dir):
                report.unlink(missing_ok=True)  # another machine may be quicker


__all__ = ["load_examples", "load_image_rows", "load_images", "refuse_text_column", "stream_images"]
