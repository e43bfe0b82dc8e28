"""Compare English captions alone with parallel captions: tables, and the four figures of Krasner & Lanuzo.

python training/run_parallel_experiment.py training/recipes/parallel/experiment_miniature.yaml
"""

from benchmarks.models.kinds import TEXT_ENCODER, check_kind
from benchmarks.recipe import launch
from training.parallel.comparison import ARMS, ParallelExperimentArguments, evaluate, report, train_arm


def main(arguments: ParallelExperimentArguments) -> None:
    for name in ("text_encoder_name_or_path", "untrained_text_encoder"):
        check_kind(name, getattr(arguments, name), TEXT_ENCODER)
    models = [train_arm(arm, seed, arguments) for seed in arguments.seeds for arm in ARMS]
    results = evaluate(models, arguments)
    print(report(results, arguments))
    print(f"Saved the tables to {arguments.output_dir}/parallel.md. Next: look at the four plots next to it.")


if __name__ == "__main__":
    launch(main, ParallelExperimentArguments, one_process=True)
