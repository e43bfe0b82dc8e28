"""Measure what a head in closed form gains stage 1 in steps, on held-out images, by a paired test."""

from pathlib import Path

from common.files.whole_files import write_text
from common.output import check_output_dir
from training.alignment_gain import GainArguments, evaluate_all, gains_table, measure_gains, train_all


def main(arguments: GainArguments) -> None:
    check_output_dir(arguments.output_dir)
    train_all(arguments)
    results = evaluate_all(arguments)
    table = gains_table(measure_gains(results, arguments))
    path = Path(arguments.output_dir, "gains.md")
    write_text(path, table + "\n")
    print(table)
    print(f"Saved the table to {path}. Next: set initialize_projection of your recipe by it.")
