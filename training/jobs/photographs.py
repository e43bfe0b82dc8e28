"""Real pictures in many languages: teacher, students, baselines, tests, a plot and a page of pictures."""

from benchmarks.multiple_tests import check_resamples_for
from common.output import check_output_dir
from common.paths import check_folder
from training.photographs.comparison import compare_models, save_comparison
from training.photographs.curves import curve_trainings, describe_plan, measure_curves
from training.photographs.experiment import (
    PhotographsArguments,
    align,
    evaluate_baselines,
    evaluate_retrieval,
    evaluate_students,
    table_trainings,
    train,
    translate_test,
)
from training.photographs.page import save_page


def main(arguments: PhotographsArguments) -> None:
    check_output_dir(arguments.output_dir)
    check_folder("pictures", arguments.pictures)
    check_resamples_for(len(arguments.languages), arguments.n_resamples)
    align(arguments)
    translate_test(arguments)
    evaluate_baselines(arguments)

    of_table = table_trainings(arguments)
    of_curves = curve_trainings(arguments) if arguments.full else []
    train(of_table[0], arguments)  # how long it takes tells how long the others will
    print(describe_plan([*of_table, *of_curves], arguments), flush=True)
    for training in of_table:
        train(training, arguments)
    evaluate_students([training.name for training in of_table], arguments)

    comparison = compare_models(arguments)
    save_comparison(comparison)
    page = save_page(arguments)
    if arguments.full:
        for training in of_curves:
            train(training, arguments)
            evaluate_retrieval(training.name, arguments)
        measure_curves(arguments)
    print(comparison.to_markdown())
    print(
        f"Saved the table to {arguments.output_dir}/photographs.md, the page to {page} and the model to "
        f"{arguments.folder(f'stage2-{arguments.seeds[0]}')}. Next: open the page, then "
        "python -m model_cards training/recipes/photographs/card.yaml"
    )
