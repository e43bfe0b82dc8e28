"""Caveats of a report: notes on the items, weights, prompts and class names behind its numbers."""

from ..results import Result
from ..tasks.text_lists import OURS
from .comparison import Comparison
from .formatting import short_names
from .means import MEAN, MEANS, list_refusals


def caveats(comparison: Comparison) -> list[str]:
    """Return notes on the items behind the numbers.

    They name tasks without a mean, models of which different weights were evaluated, models that were
    evaluated with other prompts, and class names that nobody has proofread, and explain the metrics of mixed
    pools.
    """
    names = short_names(comparison.values("model"))
    return [
        *_refused_means(comparison, names),
        *_other_weights(comparison, names),
        *_other_prompts(comparison, names),
        *_unread_class_names(comparison),
        *_explain_pools(comparison),
    ]


def _refused_means(comparison: Comparison, names: dict[str, str]) -> list[str]:
    """Return a note for each task of which some models have no mean over languages."""
    notes = []
    for task, refusals in comparison.refusals.items():
        reasons = {names[model]: reason for model, reason in refusals.items()}
        averaged = [name for model, name in names.items() if (model, task, MEAN) in comparison.results]
        notes += list_refusals(task, reasons, averaged)
    return notes


def _other_weights(comparison: Comparison, names: dict[str, str]) -> list[str]:
    """Return a note for each model whose weights changed between one result and another."""
    notes = []
    for model, name in names.items():
        # {beginning of the weights' hash: {task: [language, ...]}}
        measured: dict[str, dict[str, list[str]]] = {}
        for (of_model, task, language), result in comparison.results.items():
            if of_model == model and language not in MEANS:
                measured.setdefault(result.weights[:8], {}).setdefault(task, []).append(language)
        if len(measured) < 2:
            continue

        each = []
        for weights, languages_of in measured.items():
            tasks = [f"{task} in {' '.join(languages)}" for task, languages in languages_of.items()]
            each.append(f"{weights} ({', '.join(tasks)})")
        notes.append(
            f"{name} was evaluated with different weights, so there is no mean: {'; '.join(each)}. "
            "Evaluate all languages with the same weights."
        )
    return notes


def _other_prompts(comparison: Comparison, names: dict[str, str]) -> list[str]:
    """Return a note for each task whose models were evaluated with different prompts."""
    # {(task, language): {model: hash of its prompts}}
    prompts_of: dict[tuple[str, str], dict[str, str]] = {}
    for (model, task, language), result in comparison.results.items():
        if result.prompts is not None:
            prompts_of.setdefault((task, language), {})[model] = result.prompts

    # Languages in which the same models differ share a note:
    # {(task, the first model, models with other prompts): [language, ...]}
    languages_of: dict[tuple[str, str, str], list[str]] = {}
    for (task, language), prompts in prompts_of.items():
        first, *rest = prompts
        differing = [names[model] for model in rest if prompts[model] != prompts[first]]
        if differing:
            key = (task, names[first], ", ".join(differing))
            languages_of.setdefault(key, []).append(language)

    notes = []
    for (task, first, differing), languages in languages_of.items():
        notes.append(
            f"{task} in {', '.join(languages)}: evaluated with other prompts than {first}: {differing}."
        )
    return notes


def _unread_class_names(comparison: Comparison) -> list[str]:
    """Return a note for each language whose class names come with this package."""
    tasks_of: dict[str, set[str]] = {}
    for (_, task, language), result in comparison.results.items():
        if _is_named_by_us(result):
            tasks_of.setdefault(language, set()).add(task)

    notes = []
    for language, tasks in tasks_of.items():
        where = f"{', '.join(sorted(tasks))} in {language}"
        notes.append(f"{where}: the class names are ours, written by a language model and not proofread.")
    return notes


def _explain_pools(comparison: Comparison) -> list[str]:
    """Return a note for each mixed pool on what its metrics mean."""
    pools = [key[1] for key, result in comparison.results.items() if result.kind == "mixed_pool"]
    notes = []
    for task in dict.fromkeys(pools):
        notes.append(
            f"{task}: 'overtaken' is how often a wrong text in the language is ahead of the right text in "
            "another one. 'Language preference' is the share of the language among the wrong first answers "
            "in it and another one: 50 % is no preference. For images its mean over languages is near 50 % "
            "whatever the model: what one language gains another one loses. No model is marked as the best."
        )
    return notes


def _is_named_by_us(result: Result) -> bool:
    """Check if the class names of a result come with this package."""
    source = result.definition.get("class_names")  # "ours:imagenet", or {"en": "ours:imagenet", ...}
    if isinstance(source, dict):
        source = source.get(result.language)
    return isinstance(source, str) and source.startswith(f"{OURS}:")
