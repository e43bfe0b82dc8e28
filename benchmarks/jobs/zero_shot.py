"""Evaluate zero-shot classification of models, on any of the tasks, in any language that has class names."""

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.evaluation import Benchmark, EvaluationArguments, Prompts
from benchmarks.jobs.report import evaluate_and_report
from benchmarks.report.tables import TableArguments
from benchmarks.tasks.class_names import class_names_of
from benchmarks.tasks.templates import load_templates
from benchmarks.tasks.text_lists import split_source
from benchmarks.zero_shot import evaluate_zero_shot


@dataclass(kw_only=True)
class ZeroShotArguments(EvaluationArguments):
    """Models to evaluate, and the class names and prompt templates of the classes."""

    class_names: str | None = field(
        default=None, metadata={"help": "JSON: {language: [name of class 0, ...]}; the task's by default."}
    )
    templates: list[str] | None = field(
        default=None,
        metadata={
            "help": "Name of a set of prompt templates, or templates with '{}'; the task's by default."
        },
    )


@dataclass(kw_only=True)
class ZeroShotBenchmark(Benchmark):
    """Classification by class names in prompt templates."""

    kind = "zero_shot"

    def prompts(self, task, languages, rows):
        templates = {}
        for language in languages:
            templates[language] = load_templates(self.templates or task.templates, language)
        names_of = class_names_of(task, languages, rows, self.class_names)
        return {language: Prompts(templates[language], names) for language, names in names_of.items()}

    def score(self, encoder, image_embeds, columns, task, prompts):
        labels = columns["labels" if "labels" in columns else "label"]
        class_names = {language: of_language.class_names for language, of_language in prompts.items()}
        templates = {language: of_language.templates for language, of_language in prompts.items()}
        return evaluate_zero_shot(encoder, image_embeds, labels, class_names, templates, task.metric)


def main(arguments: ZeroShotArguments, table: TableArguments) -> None:
    templates = _set_or_templates(arguments.templates) if arguments.templates else None
    benchmark = ZeroShotBenchmark(
        class_names=arguments.class_names,
        templates=templates,
        suffix=_suffix_of(templates) if templates else "",
    )
    evaluate_and_report(arguments, benchmark, table)


def _set_or_templates(words: list[str]) -> str | list[str]:
    """Return the name of a set of prompt templates, or the templates: `["simple"]` -> `"simple"`."""
    return words[0] if len(words) == 1 and "{" not in words[0] else words


def _suffix_of(templates: str | list[str]) -> str:
    """Return what follows a task's name in files and tables: `my/prompts.json:short` -> `-prompts-short`."""
    if not isinstance(templates, str):
        return "-own-templates"
    name, key = split_source(templates)
    suffix = f"-{Path(name).stem}"
    return f"{suffix}-{key}" if key else suffix


__all__ = ["main"]
