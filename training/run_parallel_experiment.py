"""English captions alone beside parallel captions, with several seeds: tables, and the four figures of Krasner & Lanuzo.

python training/run_parallel_experiment.py training/recipes/parallel/experiment_miniature.yaml
"""

from benchmarks.kinds import TEXT_ENCODER, check_kind
from benchmarks.recipe import launch
from training.parallel_experiment import ARMS, ParallelExperimentArguments, evaluate, report, train_arm


def main(arguments: ParallelExperimentArguments) -> None:
    for what in ("text_encoder_name_or_path", "untrained_text_encoder"):
        check_kind(what, getattr(arguments, what), TEXT_ENCODER)
    models = [train_arm(name, seed, arguments) for seed in arguments.seeds for name in ARMS]
    print(report(evaluate(models, arguments), arguments))
    print(
        f"Saved the tables to {arguments.output_dir}/parallel.md. Next: look at the four pictures beside it."
    )


if __name__ == "__main__":
    launch(main, ParallelExperimentArguments, one_process=True)
