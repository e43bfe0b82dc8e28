"""Load captioned images to train on, from a dataset or as a stream, without those that cannot be decoded."""

from pathlib import Path

from datasets import Dataset

from common.errors import InputError
from common.files.image_folders import say_without_row
from common.languages import check_languages

from ..arguments import PairArguments, say
from ..output_folder import record_exclusion, record_sources
from .captions import by_keys, find_form, load_captioned, named_languages
from .examples import CaptionExamples
from .exclusion.rows import exclude_tests, number_rows, open_index
from .exclusion.stream import StreamExclusion
from .images import ImageViews, check_policy, find_without_row, keep_readable, name_without_row
from .sources.loading import find_source
from .sources.origin import find_origins
from .sources.reading import languages_of_images, read_images, stream_with_captions
from .sources.source import Source
from .streaming import ExampleStream, find_excluded, find_reports, open_files


def load_images(arguments: PairArguments, languages: list[str] | None) -> Dataset:
    """Load the captioned images to train on, without those that cannot be decoded or are in a test.

    Prints how many images are skipped and excluded, and where they are listed.
    """
    # The other processes then read what the first has written to datasets' cache.
    with arguments.main_process_first(desc="reading captions"):
        rows = load_image_rows(
            arguments.dataset,
            arguments.split,
            languages,
            arguments.text_column,
            allow_outside=arguments.allow_outside_images,
        )
    if arguments.exclude_tasks:
        rows = number_rows(rows)
    without_row = find_without_row(rows, arguments.dataset)
    if without_row:
        say(arguments, f"{say_without_row(without_row, arguments.dataset)}.")
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
    """Load rows of undecoded `image` and `captions` from a public corpus by its name, or from any dataset.

    Args:
        languages, text_column, allow_outside: as for `load_captioned`.

    Raises:
        InputError: as `read_images` or `load_captioned`; or a column is named, which a corpus names itself.
    """
    source = find_source(dataset)
    if source is None:
        return load_captioned(dataset, split, languages, text_column, allow_outside=allow_outside)
    refuse_text_column(source, text_column)
    return read_images(source, languages, split, allow_outside=allow_outside)


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
) -> CaptionExamples | ExampleStream:
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


def stream_images(arguments: PairArguments, languages: list[str] | None) -> ExampleStream:
    """Stream the captioned images of this process's files; see `streaming.py`.

    Every process lists bad images in a file of its own, `bad_rows.R.jsonl` for process R; a run that resumes
    adds to it.

    Raises:
        InputError: as `open_files` and `find_form`; or `languages` are neither given nor known from the
            columns.
    """
    check_policy(arguments.bad_rows)
    source = find_source(arguments.dataset)
    wanted = None
    if source is not None:
        refuse_text_column(source, arguments.text_column)
        wanted = languages_of_images(source, languages)
    rows = open_files(
        arguments.dataset,
        arguments.split,
        arguments.process_index,
        arguments.world_size,
        arguments.dataloader_num_workers,
        allow_outside=arguments.allow_outside_images,
    )
    if source is None:
        form = find_form(rows.features, arguments.dataset, arguments.text_column, languages)
    else:
        rows = stream_with_captions(source, rows, wanted)
        form = by_keys("captions", wanted, arguments.dataset)
    if not (languages or form.available):
        raise InputError(
            f"column {form.column!r} of {arguments.dataset!r} states its languages row by row: "
            "give those to train on with --languages"
        )
    # Where the columns do not tell the languages, those of --languages are taken as available.
    available = form.available or list(named_languages(languages, "--languages").values())
    languages = check_languages(languages, available)

    _clear_reports(arguments)
    report = Path(arguments.output_dir, f"bad_rows.{arguments.process_index}.jsonl")
    if not arguments.resume:
        first = report if arguments.process_index == 0 else None
        without_row = name_without_row(
            arguments.dataset,
            arguments.split,
            arguments.bad_rows,
            first,
            allow_outside=arguments.allow_outside_images,
        )
        if without_row:
            say(arguments, f"{say_without_row(without_row, arguments.dataset)}.")

    record_sources(arguments, find_origins(arguments.dataset, languages))
    options = {"shuffle_buffer": arguments.shuffle_buffer, "seed": arguments.seed}
    if arguments.exclude_tasks:
        index = open_index(arguments, pictures=True)
        record_exclusion(arguments, index.tasks, None)
        excluded = Path(arguments.output_dir, f"excluded.{arguments.process_index}.jsonl")
        options["exclusion"] = StreamExclusion(index, excluded)
    return ExampleStream(rows, form, languages, report, refuse=arguments.bad_rows == "error", **options)


def _clear_reports(arguments: PairArguments) -> None:
    """Make the output folder and, unless the run resumes, remove reports of an earlier run from it."""
    with arguments.main_process_first(desc="clearing reports"):
        Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
        if arguments.local_process_index == 0 and not arguments.resume:
            for report in find_reports(arguments.output_dir) + find_excluded(arguments.output_dir):
                report.unlink(missing_ok=True)  # another machine may be quicker


__all__ = ["load_examples", "load_image_rows", "load_images", "refuse_text_column", "stream_images"]
