"""The paper's ablation on the miniature: five ways to train, with several seeds each; table and plot.

python training/run_ablation.py training/recipes/ablation/miniature.yaml
"""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoProcessor, AutoTokenizer, set_seed

from benchmarks.loading import check_folder, load_captions
from benchmarks.recipe import InputError, launch
from benchmarks.results import load_results
from modeling_altclip import AltCLIPModel, AltCLIPProcessor
from training.ablation import ROWS, ablation_table, plot_ablation, summarise


@dataclass(kw_only=True)
class AblationArguments:
    """What is trained, from what, and how often."""

    teacher_name_or_path: str = field(metadata={"help": "The English teacher."})
    text_encoder_name_or_path: str = field(metadata={"help": "The XLM-R that becomes the text tower."})
    dataset: str = field(metadata={"help": "Captioned images with class names beside them, such as the miniature's."})
    stage1: str = field(metadata={"help": "Recipe of stage 1."})
    stage2: str = field(metadata={"help": "Recipe of stage 2."})
    retrieval: str = field(metadata={"help": "Split to search."})
    zero_shot: str = field(metadata={"help": "Split to classify."})
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "One model a row and seed."})
    output_dir: str = field(default="outputs/ablation", metadata={"help": "Where models, results, table and plot go."})


def main(arguments: AblationArguments) -> None:
    for what in ("teacher_name_or_path", "text_encoder_name_or_path", "dataset"):
        check_folder(what, getattr(arguments, what))
    languages = list(load_captions(arguments.dataset, arguments.retrieval, images=False).features["captions"])
    models = [train_row(row, seed, languages, arguments) for seed in arguments.seeds for row in ROWS]
    evaluate(models, arguments)
    summary, output_dir = summarise(load_results(Path(arguments.output_dir, "results"))), Path(arguments.output_dir)
    table = ablation_table(summary)
    (output_dir / "ablation.md").write_text(table + "\n", "utf-8")
    plot_ablation(summary, output_dir / "ablation.png")
    print(f"{table}\nSaved the table to {output_dir}/ablation.md. Next: look at {output_dir}/ablation.png.")


def train_row(name: str, seed: int, languages: list[str], arguments: AblationArguments) -> str:
    """Train one model, unless its folder is there already, and give its folder."""
    row, folder = ROWS[name], Path(arguments.output_dir, f"{name}-{seed}")
    if (folder / "config.json").exists():
        return str(folder)
    shared = ["--dataset", arguments.dataset, "--output_dir", folder, "--seed", seed]
    if not row.contrastive:
        read = [language for language in languages if (row.english if language == "en" else row.translations)]
        towers = ["--teacher_name_or_path", arguments.teacher_name_or_path]
        towers += ["--text_encoder_name_or_path", arguments.text_encoder_name_or_path]
        run("training/run_stage1.py", arguments.stage1, *towers, "--languages", *read, *shared)
        return str(folder)
    start = Path(arguments.output_dir, f"both-{seed}")
    if not row.english:
        start = Path(arguments.output_dir, "start", f"{name}-{seed}")
        save_untrained(start, seed, arguments)
    run("training/run_stage2.py", arguments.stage2, "--model_name_or_path", start, *shared)
    return str(folder)


def save_untrained(folder: Path, seed: int, arguments: AblationArguments) -> None:
    """The model that stage 1 would begin with."""
    set_seed(seed)
    encoder = arguments.text_encoder_name_or_path
    AltCLIPModel.from_teacher(arguments.teacher_name_or_path, encoder, dropout=0.0).save_pretrained(folder)
    image_processor = AutoProcessor.from_pretrained(arguments.teacher_name_or_path).image_processor
    AltCLIPProcessor(image_processor, AutoTokenizer.from_pretrained(encoder)).save_pretrained(folder)


def evaluate(models: list[str], arguments: AblationArguments) -> None:
    shared = ["--models", *models, "--dataset", arguments.dataset, "--output_dir", Path(arguments.output_dir, "results")]
    run("benchmarks/run_retrieval.py", *shared, "--splits", arguments.retrieval)
    names = ["--class_names", Path(arguments.dataset, "class_names.json")]
    run("benchmarks/run_zero_shot.py", *shared, "--splits", arguments.zero_shot, *names)


def run(script: str, *flags) -> None:
    """Run another script; what it says goes through."""
    process = subprocess.run([sys.executable, Path(__file__).parent.parent / script, *map(str, flags)])
    if process.returncode:
        raise InputError(f"{script} ended with status {process.returncode}: see above")


if __name__ == "__main__":
    launch(main, AblationArguments)
