r"""Measure how many steps of stage 1 a head in closed form saves, by equal runs with and without it.

python training/run_alignment_gain.py --teacher_name_or_path outputs/miniature/teacher \
    --text_encoder_name_or_path outputs/miniature/text_encoder --dataset outputs/miniature/dataset

Both runs of a seed have the same steps on the same texts in the same order. Printed are their losses, each
the mean over the steps since the one before, and the step at which the run with the fitted head has reached
the last loss of the other. They are losses of texts that are learned from, of which an epoch sees each once.
"""

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.results import format_table
from common.recipe import launch
from training.arguments import TeacherLearningArguments
from training.jobs import stage1


@dataclass(kw_only=True)
class _GainArguments:
    """What to train."""

    teacher_name_or_path: str = field(metadata={"help": "The teacher, as in stage 1."})
    text_encoder_name_or_path: str = field(metadata={"help": "The text encoder, as in stage 1."})
    dataset: str = field(metadata={"help": "Parallel text, as in stage 1."})
    languages: list[str] | None = field(default=None, metadata={"help": "Languages, as in stage 1."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of both runs."})
    batch_size: int = field(default=64, metadata={"help": "Number of texts in a batch."})
    max_steps: int = field(default=200, metadata={"help": "Number of steps of each run."})
    every: int = field(default=20, metadata={"help": "Number of steps between two losses."})
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the pairs of runs."}
    )


def main(arguments: _GainArguments) -> None:
    """Run each seed both ways, and print the losses and the step at which they are equal."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            plain = _train(arguments, seed, "random", Path(folder, f"plain-{seed}"))
            fitted = _train(arguments, seed, "ridge", Path(folder, f"fitted-{seed}"))
            rows = [[str(step), f"{plain[step]:.4g}", f"{fitted[step]:.4g}"] for step in plain]
            print(format_table([f"seed {seed}, step", "random head", "fitted head"], rows))
            print(_describe_gain(plain, fitted))


def _train(arguments: _GainArguments, seed: int, way: str, folder: Path) -> dict[int, float]:
    """Run stage 1, and return its losses by step."""
    stage1.main(
        TeacherLearningArguments(
            teacher_name_or_path=arguments.teacher_name_or_path,
            text_encoder_name_or_path=arguments.text_encoder_name_or_path,
            dataset=arguments.dataset,
            languages=arguments.languages,
            learning_rate=arguments.learning_rate,
            per_device_train_batch_size=arguments.batch_size,
            max_steps=arguments.max_steps,
            logging_steps=arguments.every,
            save_strategy="no",
            seed=seed,
            initialize_projection=way,
            cache_dir=str(folder.parent / "cache"),
            output_dir=str(folder),
            disable_tqdm=True,
        )
    )
    log = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
    return {entry["step"]: entry["loss"] for entry in log if "loss" in entry}


def _describe_gain(plain: dict[int, float], fitted: dict[int, float]) -> str:
    """Say when the run with the fitted head has reached the last loss of the other."""
    last = max(plain)
    reached = [step for step, loss in fitted.items() if loss <= plain[last]]
    if not reached:
        return f"The fitted head has not reached the loss {plain[last]:.4g} of the random one at step {last}."
    return (
        f"The fitted head has the loss {plain[last]:.4g} at step {reached[0]}, the random one at step {last}."
    )


if __name__ == "__main__":
    launch(main, _GainArguments, one_process=True)
