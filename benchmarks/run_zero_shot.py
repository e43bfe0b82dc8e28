"""Zero-shot classification of one or more models, on any of the tasks, in any language that class names come in.

python benchmarks/run_zero_shot.py benchmarks/recipes/miniature_zero_shot.yaml
python benchmarks/run_zero_shot.py --models BAAI/AltCLIP --tasks imagenet-1k imagenet-sketch --languages en zh
python benchmarks/run_zero_shot.py --models BAAI/AltCLIP --tasks my/task.yaml --class_names names.json --templates "A photo of {}."
"""

from dataclasses import dataclass, field

from benchmarks.classes import class_names_of
from benchmarks.evaluation import EvaluationArguments, evaluate
from benchmarks.prompts import hash_prompts, load_templates
from benchmarks.recipe import launch
from benchmarks.report import TableArguments
from benchmarks.task import Task
from benchmarks.zero_shot import evaluate_zero_shot


@dataclass(kw_only=True)
class ZeroShotArguments(EvaluationArguments):
    """Classification needs the names of its classes, too."""

    class_names: str | None = field(default=None, metadata={"help": "JSON: {language: [name of class 0, ...]}; the task's by default."})
    templates: list[str] | None = field(default=None, metadata={"help": "A set's name, or prompts with '{}'; a task's own by default."})


def chosen(arguments: ZeroShotArguments, task: Task) -> str | list[str]:
    """A set's name, or sentences: what was asked for, or what the task says."""
    asked = arguments.templates or task.templates
    return asked[0] if len(asked) == 1 and "{" not in asked[0] else asked


def main(arguments: ZeroShotArguments, _: TableArguments) -> None:
    def score(encoder, image_embeds, columns, task, languages, rows):
        templates = {language: load_templates(chosen(arguments, task), language) for language in languages}
        names = class_names_of(task, languages, rows, arguments.class_names)
        labels = columns["labels" if "labels" in columns else "label"]
        found = evaluate_zero_shot(encoder, image_embeds, labels, names, templates, task.metric)
        return found, {language: hash_prompts(templates[language], names[language]) for language in languages}

    evaluate(arguments, "zero_shot", score, class_names=arguments.class_names)


if __name__ == "__main__":
    launch(main, ZeroShotArguments, TableArguments)  # a recipe for a report serves here too
