"""Compare English captions alone with parallel captions: tables, and the four figures of Krasner & Lanuzo."""

from common.models.kinds import TEXT_ENCODER, check_kind
from common.output import check_output_dir
from training.parallel.comparison import (
    ARMS,
    ParallelExperimentArguments,
    evaluate_languages,
    train_arm,
    write_report,
)


def main(arguments: ParallelExperimentArguments) -> None:
    check_output_dir(arguments.output_dir)
    for name in ("text_encoder_name_or_path", "untrained_text_encoder"):
        check_kind(name, getattr(arguments, name), TEXT_ENCODER)
    models = [train_arm(arm, seed, arguments) for seed in arguments.seeds for arm in ARMS]
    results = evaluate_languages(models, arguments)
    print(write_report(results, arguments))
    print(f"Saved the tables to {arguments.output_dir}/parallel.md. Next: look at the four plots next to it.")
