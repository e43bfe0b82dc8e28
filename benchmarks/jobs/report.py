"""Write a report on results that are there: tables with intervals, plots, and what the papers printed."""

import shlex
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from benchmarks.evaluation import Benchmark, EvaluationArguments, evaluate
from benchmarks.report.caveats import caveats
from benchmarks.report.comparison import Comparison
from benchmarks.report.findings import describe_findings
from benchmarks.report.formatting import bounded_name, short_names
from benchmarks.report.page import Report
from benchmarks.report.published import compare_with_published, load_published, load_sources
from benchmarks.report.selection import ReportArguments, count_gaps, select_results
from benchmarks.report.tables import TableArguments, make_tables
from benchmarks.results import Result, load_results
from common.output import check_output_dir


def main(arguments: ReportArguments, table: TableArguments) -> None:
    from benchmarks.report.plots import draw_pictures  # needs the extra `plots`, which --help does without

    folder = Path(arguments.output_dir)
    check_output_dir(folder)
    results, absent = select_results(
        arguments.results or [arguments.output_dir], arguments.models, arguments.tasks, arguments.languages
    )
    results = [_with_bounded_names(result) for result in results]
    comparison = Comparison(results, means="language" in (table.rows, table.columns))
    numbers = comparison.numbers(table.metrics)
    names = short_names(comparison.values("model"))
    notes = [
        f"{names[model]} lacks {n} of {total} numbers."
        for model, (n, total) in count_gaps(comparison, numbers).items()
    ]
    notes += [f"No results at all of {', '.join(absent)}."] if absent else []
    notes += caveats(comparison)
    differences = compare_with_published(numbers, load_published(), table.paper_model)
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(
        title=table.title,
        about=table.about,
        findings=describe_findings(comparison),
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


def _with_bounded_names(result: Result) -> Result:
    """Return a result whose names a page can show."""
    names = {}
    for name in ("model", "task", "language", "dataset", "split"):
        names[name] = bounded_name(getattr(result, name))
    return replace(result, **names)


def evaluate_and_report(arguments: EvaluationArguments, benchmark: Benchmark, table: TableArguments) -> None:
    """Evaluate, and write a report beside the results where the recipe or flags say what it looks like.

    Raises:
        InputError: as `evaluate`; or the extra `plots` is missing, which is said before the evaluation.
    """
    with_report = _is_requested(table) and not arguments.dry_run
    results = evaluate(arguments, benchmark)
    if with_report:
        _report_evaluation(results, arguments, table)


def _is_requested(table: TableArguments) -> bool:
    """Return whether a recipe or flags of an evaluation say what a report of it looks like.

    Raises:
        InputError: the extra `plots` is missing, without which the evaluation would end in an error.
    """
    if table == TableArguments():
        return False
    from benchmarks.report import plots as report_plots  # noqa: F401  (found missing now, not after hours)

    return True


def _report_evaluation(results: list[Result], arguments: EvaluationArguments, table: TableArguments) -> None:
    """Write a report on an evaluation beside its results: on its models, and all tasks that are there.

    A table of a paper may need retrieval and classification: whichever is evaluated last reports on both.
    """
    if not PartialState().is_main_process:
        return
    there = load_results(Path(arguments.output_dir))
    tasks = list(dict.fromkeys(result.task for result in [*results, *there]))
    main(ReportArguments(output_dir=arguments.output_dir, models=arguments.models, tasks=tasks), table)


__all__ = ["evaluate_and_report", "main"]
