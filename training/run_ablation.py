"""The paper's ablation on the miniature: five ways to train, with several seeds each; table and plot.

python training/run_ablation.py training/recipes/ablation/miniature.yaml
"""

from pathlib import Path

from benchmarks.loading import check_folder
from benchmarks.recipe import launch
from benchmarks.results import load_results
from benchmarks.task import load_task
from training.ablation import ROWS, AblationArguments, ablation_table, evaluate, plot_ablation, summarise, train_row


def main(arguments: AblationArguments) -> None:
    for what in ("teacher_name_or_path", "text_encoder_name_or_path", "dataset"):
        check_folder(what, getattr(arguments, what))
    languages = load_task(arguments.retrieval).languages
    models = [train_row(row, seed, languages, arguments) for seed in arguments.seeds for row in ROWS]
    evaluate(models, arguments)
    output_dir = Path(arguments.output_dir)
    summary = summarise([result for result in load_results(output_dir / "results") if result.model in models])
    table = ablation_table(summary)
    (output_dir / "ablation.md").write_text(table + "\n", "utf-8")
    plot_ablation(summary, output_dir / "ablation.png")
    print(f"{table}\nSaved the table to {output_dir}/ablation.md. Next: look at {output_dir}/ablation.png.")


if __name__ == "__main__":
    launch(main, AblationArguments)
