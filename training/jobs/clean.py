"""Clean parallel text for stage 1, and report what is removed and why."""

import shlex
import shutil
from pathlib import Path

from common.commands import command_for
from common.errors import InputError
from common.output import check_not_input, check_output_dir
from training.cleaning.arguments import CleaningArguments
from training.cleaning.checking import check_part, open_checked
from training.cleaning.checks import RowChecker
from training.cleaning.duplicates import count_shares, find_candidates
from training.cleaning.finishing import finish_part
from training.cleaning.minhash import BANDS
from training.cleaning.plan import Plan, begin_or_resume, read_plan
from training.cleaning.report import add_up, total_of, write_report
from training.cleaning.similarity import measure_part
from training.cleaning.workers import Workers
from training.data.parallel_text import describe_skipped
from training.text_similarity import TextEncoder, load_text_encoder


def main(arguments: CleaningArguments) -> None:
    """Clean the texts, and write them with the report.

    `OUTPUT_DIR/.cleaning` holds what is not complete yet; `OUTPUT_DIR/data` gets its name when all is.

    Raises:
        InputError: the data cannot be read, a setting is wrong, nothing is left, or the folder holds a
            dataset or cannot be written.
    """
    from training.cleaning.figure import draw_counts  # needs the extra `plots`, which --help does without

    folder = Path(arguments.output_dir)
    check_output_dir(folder)
    check_not_input(arguments.output_dir, {"dataset": arguments.dataset})
    if (folder / "data").exists():
        # A run that was killed after its last step may have left it.
        shutil.rmtree(folder / ".cleaning", ignore_errors=True)
        raise InputError(
            f"output_dir {arguments.output_dir!r} holds a dataset already: delete its folder data, or give "
            "another"
        )
    plan = read_plan(arguments, folder / ".cleaning")
    for source in plan.sources:
        if source.not_ready:
            print(f"{source.data}: {describe_skipped(source.not_ready)}")
    encoder = None
    if arguments.similarity_model_name_or_path is not None:
        encoder = load_text_encoder(
            arguments.similarity_model_name_or_path,
            "similarity_model_name_or_path",
            arguments.similarity_prefix,
        )
        plan.similarity_weights = encoder.weights
    RowChecker(arguments, plan.languages)  # what it refuses, it refuses before work begins
    if begin_or_resume(plan):
        print(f"Resuming with what {plan.folder} holds.")
    seconds_of = _clean(plan, encoder)

    tallies = add_up(plan)
    total = total_of(tallies)
    draw_counts(total, folder / "counts.png")
    write_report(plan, tallies, folder, with_picture=True)
    if total.rows_kept == 0:
        raise InputError(
            f"nothing of dataset {arguments.dataset!r} is left: {folder / 'report.md'} tells why; then "
            f"delete {str(plan.folder)!r}"
        )
    (plan.folder / "data").rename(folder / "data")
    shutil.rmtree(plan.folder)
    seconds = sum(seconds_of.values())
    passes = ", ".join(f"{name} {taken:.1f}" for name, taken in seconds_of.items())
    print(
        f"Cleaned {total.rows} rows in {seconds:.1f} s, {total.rows / seconds:.0f} a second. Seconds of each "
        f"pass: {passes}."
    )
    print(
        f"Saved {total.rows_kept} rows to {folder}; see {folder / 'report.md'}. "
        f"Next: {command_for('train stage1')} RECIPE.yaml "
        f"--dataset {shlex.quote(str(folder / 'sources.yaml'))}"
    )


def _clean(plan: Plan, encoder: TextEncoder | None) -> dict[str, float]:
    """Do the passes, each when the one before is complete.

    Args:
        encoder: compares translations with their English.

    Returns:
        the seconds of each, by its name.
    """
    numbers = range(len(plan.parts))
    seconds_of = {}
    with Workers(plan.arguments.processes) as workers:
        tasks = [(plan, number) for number in numbers]
        seconds_of["checking"] = workers.run(check_part, tasks, "Checking rows")

        n_shares = 0
        if plan.arguments.near_duplicates:
            n_pairs = sum(len(open_checked(plan.checked_path(number))) for number in numbers)
            n_shares = count_shares(n_pairs)
            tasks = []
            for band in range(BANDS):
                tasks += [(plan, n_shares, band, share) for share in range(n_shares)]
            seconds_of["near-duplicates"] = workers.run(find_candidates, tasks, "Finding near-duplicates")

        if encoder is not None:
            with Workers(1) as this_process:
                tasks = [(plan, encoder, number) for number in numbers]
                seconds_of["similarity"] = this_process.run(measure_part, tasks, "Comparing translations")

        tasks = [(plan, n_shares, number) for number in numbers]
        seconds_of["writing"] = workers.run(finish_part, tasks, "Writing rows")
    return seconds_of


__all__ = ["main"]
