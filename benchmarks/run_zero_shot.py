"""Zero-shot classification of one or more models, on any of the tasks, in any language that class names come in.

python benchmarks/run_zero_shot.py benchmarks/recipes/miniature_zero_shot.yaml
python benchmarks/run_zero_shot.py --models BAAI/AltCLIP --tasks imagenet imagenet-sketch --languages en zh
python benchmarks/run_zero_shot.py --models BAAI/AltCLIP --tasks my/task.yaml --class_names names.json --templates "A photo of {}."
"""

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.classes import class_names_of
from benchmarks.evaluation import EvaluationArguments, evaluate
from benchmarks.prompts import load_templates, split_source
from benchmarks.recipe import launch
from benchmarks.report import TableArguments
from benchmarks.zero_shot import evaluate_zero_shot


@dataclass(kw_only=True)
class ZeroShotArguments(EvaluationArguments):
    """Classification needs the names of its classes, too."""

    class_names: str | None = field(
        default=None, metadata={"help": "JSON: {language: [name of class 0, ...]}; the task's by default."}
    )
    templates: list[str] | None = field(
        default=None, metadata={"help": "A set's name, or prompts with '{}'; a task's own by default."}
    )


def main(arguments: ZeroShotArguments, _: TableArguments) -> None:
    chosen = arguments.templates and one_set(arguments.templates)

    def ask(task, languages, rows):
        templates = {language: load_templates(chosen or task.templates, language) for language in languages}
        names = class_names_of(task, languages, rows, arguments.class_names)
        return {language: (templates[language], names[language]) for language in names}

    def score(encoder, image_embeds, columns, task, asked):
        templates, names = ({language: pair[place] for language, pair in asked.items()} for place in (0, 1))
        labels = columns["labels" if "labels" in columns else "label"]
        return evaluate_zero_shot(encoder, image_embeds, labels, names, templates, task.metric)

    suffix = suffix_of(chosen) if chosen else ""
    evaluate(
        arguments, "zero_shot", ask, score, class_names=arguments.class_names, suffix=suffix, templates=chosen
    )


def one_set(templates: list[str]) -> str | list[str]:
    """A set's name, or sentences."""
    return templates[0] if len(templates) == 1 and "{" not in templates[0] else templates


def suffix_of(templates: str | list[str]) -> str:
    """What a task's name has behind it, in the names of files and in tables: of a file its stem, no path."""
    if not isinstance(templates, str):
        return "-own-templates"
    name, key = split_source(templates)
    return f"-{Path(name).stem}" + (f"-{key}" if key else "")


if __name__ == "__main__":
    launch(main, ZeroShotArguments, TableArguments)  # a recipe for a report serves here too
