"""Write a report on results that are there: tables with intervals, plots, and what the papers printed."""

import shlex
from pathlib import Path

from benchmarks.comparison import Comparison
from benchmarks.published import compare_with_published, load_published, load_sources
from benchmarks.report import (
    ReportArguments,
    TableArguments,
    caveats,
    count_gaps,
    describe,
    make_tables,
    select_results,
    short_names,
)
from benchmarks.report_page import Report


def main(arguments: ReportArguments, table: TableArguments) -> None:
    from benchmarks.report_plots import draw_pictures  # needs the extra `plots`, which --help does without

    folder = Path(arguments.output_dir)
    results, absent = select_results(
        arguments.results or [arguments.output_dir], arguments.models, arguments.tasks, arguments.languages
    )
    comparison = Comparison(results, means="language" in (table.rows, table.columns))
    numbers = comparison.numbers(table.metrics)
    names = short_names(comparison.values("model"))
    notes = [
        f"{names[model]} lacks {n} of {total} numbers."
        for model, (n, total) in count_gaps(comparison, numbers).items()
    ]
    notes += [f"No results at all of {', '.join(absent)}."] if absent else []
    notes += caveats(comparison)
    differences = compare_with_published(numbers, load_published(), arguments.paper_model)
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(
        title=table.title,
        about=table.about,
        findings=describe(comparison),
        tables=make_tables(comparison, numbers, table),
        notes=notes,
        pictures=draw_pictures(comparison, comparison.numbers() if table.metrics else numbers, folder),
        differences=differences,
        sources=load_sources(differences),
        results=results,
    )
    report.save(folder)
    for one in report.tables:
        print(f"\n{one.heading}\n{one.to_markdown()}")
    print("\n" + "\n".join([*notes, *([report.agreement()] if differences else [])]))
    page = shlex.quote(str(folder / "index.html"))
    print(f"Saved the report of {len(results)} results. Next: open {page}")


__all__ = ["main"]
