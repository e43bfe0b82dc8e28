"""The paper's ablation on the miniature: five ways to train, with several seeds each; table and plot."""

from pathlib import Path

from benchmarks.results import load_results
from benchmarks.tasks.loading import load_task
from common.files.whole_files import write_text
from common.models.kinds import CLIP_TEACHER, XLM_R, check_kind
from common.output import check_output_dir
from common.paths import check_folder
from training.ablation import (
    ROWS,
    AblationArguments,
    ablation_table,
    plot_ablation,
    summarise,
    train_row,
)
from training.experiment import evaluate_models


def main(arguments: AblationArguments) -> None:
    check_output_dir(arguments.output_dir)
    check_kind("teacher_name_or_path", arguments.teacher_name_or_path, CLIP_TEACHER)
    check_kind("text_encoder_name_or_path", arguments.text_encoder_name_or_path, XLM_R)
    check_folder("dataset", arguments.dataset)
    languages = load_task(arguments.retrieval).languages

    # In the order of ROWS: the contrastive rows go on from models of earlier rows of the same seed.
    models = [train_row(row, seed, languages, arguments) for seed in arguments.seeds for row in ROWS]
    evaluate_models(models, arguments)

    output_dir = Path(arguments.output_dir)
    results = load_results(output_dir / "results")
    summary = summarise([result for result in results if result.model in models])
    table = ablation_table(summary)
    write_text(output_dir / "ablation.md", table + "\n")
    plot_ablation(summary, output_dir / "ablation.png")
    print(f"{table}\nSaved the table to {output_dir}/ablation.md. Next: look at {output_dir}/ablation.png.")
