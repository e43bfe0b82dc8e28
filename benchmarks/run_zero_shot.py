"""Zero-shot classification of one or more models in any language that the class names come in.

    python benchmarks/run_zero_shot.py benchmarks/recipes/miniature_zero_shot.yaml
    python benchmarks/run_zero_shot.py --models BAAI/AltCLIP --dataset my/images --splits test --class_names names.json \\
        --templates "a photo of {}." --languages en
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.evaluation import EvaluationArguments, hash_weights, save_and_show
from benchmarks.loading import check_folder, check_languages, load_model, load_rows
from benchmarks.recipe import launch
from benchmarks.zero_shot import evaluate_zero_shot


@dataclass(kw_only=True)
class ZeroShotArguments(EvaluationArguments):
    """Classification needs the names of its classes, too."""

    class_names: str = field(metadata={"help": "JSON file: {language: [name of class 0, name of class 1, ...]}."})
    templates: list[str] = field(default_factory=lambda: ["{}"], metadata={"help": "Prompts, '{}' where the name goes."})


def main(arguments: ZeroShotArguments) -> None:
    splits = {split: load_rows(arguments.dataset, split, ["image", "label"]) for split in arguments.splits}
    check_folder("class_names file", arguments.class_names)
    names = json.loads(Path(arguments.class_names).read_text("utf-8"))
    languages = check_languages(arguments.languages, list(names))
    scores, weights = [], {}
    for model_name in arguments.models:
        model, processor = load_model(model_name)
        weights[model_name] = hash_weights(model)
        spoken = {language: names[language] for language in (["en"] if model_name in arguments.english_only else languages)}
        for split, rows in splits.items():
            scores.append((model_name, split, evaluate_zero_shot(model, processor, rows, spoken, arguments.templates)))
    save_and_show(scores, "zero_shot", weights, arguments)


if __name__ == "__main__":
    launch(main, ZeroShotArguments)
