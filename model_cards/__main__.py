"""Finish a model: a folder ready for the Hub, with weights, processor, model card and plots; and the table of all stages.

python -m model_cards model_cards/recipes/miniature.yaml
"""

import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.kinds import TWO_TOWERS, check_folder, check_kind
from benchmarks.loading import load_model, load_rows
from benchmarks.recipe import InputError, launch
from benchmarks.results import load_results

from .card import render_card, stage_table


@dataclass(kw_only=True)
class CardArguments:
    """What `python -m model_cards` needs."""

    title: str = field(metadata={"help": "The model's name on its card."})
    repo: str = field(metadata={"help": "Where it loads from: the Hub id it is to get, or the folder."})
    stages: list[str] = field(metadata={"help": "Folders of the stages in training order, the English teacher first, the model last."})
    results: str = field(metadata={"help": "Folder with the results of all stages."})
    output_dir: str = field(metadata={"help": "The folder to make."})
    dataset: str = field(metadata={"help": "Dataset with the example image."})
    example_split: str = field(metadata={"help": "Its first image becomes the example."})
    plot_task: str = field(metadata={"help": "Retrieval task whose recall is plotted."})
    license: str = field(default="apache-2.0", metadata={"help": "Licence identifier of the Hub."})
    about: str = field(default="", metadata={"help": "A paragraph on what the model is, and is not, for."})


def main(arguments: CardArguments) -> None:
    from .plots import plot_losses, plot_recall  # needs the extra `plots`, which --help does without

    check_folder("results", arguments.results)
    for stage in arguments.stages:
        check_folder("stages", stage)
        if not Path(stage, "trainer_state.json").is_file():
            raise InputError(f"stages has {stage!r}, which holds no trainer_state.json: give folders that training scripts wrote")
    check_kind("stages", arguments.stages[-1], TWO_TOWERS)
    folders, output_dir = [Path(stage) for stage in arguments.stages], Path(arguments.output_dir)
    stages, results = [folder.name for folder in folders], load_results(Path(arguments.results))
    model, _ = load_model(arguments.stages[-1])
    example = load_rows(arguments.dataset, arguments.example_split, ["image"])[0]["image"]

    model.save_pretrained(output_dir)
    for path in folders[-1].glob("*.json"):
        if path.name.startswith(("tokenizer", "processor")):
            shutil.copy(path, output_dir)
    example.save(output_dir / "example.png")
    plot_losses(folders, output_dir / "loss.png")
    plot_recall(results, stages, arguments.plot_task, output_dir / "recall.png")
    render_card(arguments.title, arguments.repo, results, stages, arguments.license, arguments.about).save(output_dir / "README.md")

    for task in dict.fromkeys(result.task for result in results):
        print(f"\n{task}:\n{stage_table(results, stages, task)}")
    print(f"\nSaved the model, its card and plots to {output_dir}. Next: hf upload YOUR/MODEL {shlex.quote(str(output_dir))}")


if __name__ == "__main__":
    launch(main, CardArguments)
