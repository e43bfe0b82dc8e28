"""The model card: every number in it comes from a results file."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from benchmarks.commands import runnable
from benchmarks.results import Result

from .figures import Section, make_sections, shown, stage_of
from .paths import public_command, public_path
from .stages import Origin

TEMPLATE = Path(__file__).parent / "template.md"
TASK_TYPES = {"retrieval": "image-text-retrieval", "zero_shot": "zero-shot-image-classification"}


@dataclass(kw_only=True)
class Facts:
    """What a card says of a model beside its figures.

    `model_type` is its configuration's, `origin` what it came of, `pictures` the names of the plots that lie
    beside the card.
    """

    model_type: str = "altclip"
    origin: Origin = field(default_factory=Origin)
    pictures: list[str] = field(default_factory=list)


def eval_results(sections: list[Section], label: str) -> list[EvalResult]:
    """Return a stage's results in the form of the Hub's model-index: each task's main metric, per language.

    huggingface_hub tells entries apart by dataset, split, configuration and kind of task, and not by name:
    those that share all of these would be one, under the first one's name, whenever it writes a card, here or
    at anybody's who loads this one and saves it. The configuration of such entries therefore says more than
    their language.
    """
    entries = [
        (section, as_entry(section, result)) for section in sections for result in section.of(label).values()
    ]
    counts = Counter(entry.unique_identifier for _, entry in entries)
    for section, entry in entries:
        if counts[entry.unique_identifier] > 1:
            entry.dataset_config = f"{section.title}, {entry.dataset_config}"
    return [entry for _, entry in entries]


def as_entry(section: Section, result: Result) -> EvalResult:
    """Return a result as an entry of a model-index, which says with its metric how it differs from others of
    its task.
    """
    interval = result.intervals.get(result.metric)
    return EvalResult(
        task_type=TASK_TYPES[result.kind],
        dataset_type=public_path(result.dataset),
        dataset_name=result.task,
        dataset_config=result.language,
        dataset_split=result.split,
        dataset_revision=result.revision,
        dataset_args=None if result.limit is None else {"limit": result.limit},
        metric_type=result.metric,
        metric_value=round(result.metrics[result.metric], 4),
        metric_name=f"{result.metric}, {section.variation}" if section.variation else result.metric,
        metric_args=interval and {"confidence_interval_95": [round(bound, 4) for bound in interval]},
    )


def render_card(
    title: str,
    repo: str,
    results: list[Result],
    stages: list[str],
    license: str,
    about: str,
    facts: Facts | None = None,
) -> ModelCard:
    """Render the card of the model of the last stage.

    Args:
        title: what the model is called.
        repo: where it loads from, a Hub id or a folder.
        results: of the stages' own weights, as `join_to_weights` gives them; those of no stage are left out.
        stages: what the stages are called, in training order, the English teacher first, the model last.
        license: an identifier of the Hub.
        about: a paragraph on what the model is, and is not, for.
        facts: what else is known of it; by default that it is an AltCLIP.

    Raises:
        InputError: two results are of the same stage, asked alike of the same items, and differ.
    """
    facts = facts or Facts()
    origin = facts.origin
    sections = make_sections(results, stages)
    own = [result for section in sections for result in section.of(stages[-1]).values()]
    languages = list(dict.fromkeys(result.language for result in own)) or origin.languages
    licences = {dataset: licence for dataset, licence in origin.datasets.items() if licence}
    data = ModelCardData(
        base_model=origin.base_model or None,
        datasets=origin.hub_datasets or None,
        dataset_licenses=licences or None,
        # The Hub knows languages by ISO 639's codes alone.
        language=list(dict.fromkeys(language.partition("-")[0] for language in languages)) or None,
        license=license,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=_tags(facts, languages),
        model_name=title if own else None,
        eval_results=eval_results(sections, stages[-1]) or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        repo=public_path(repo),
        about=about,
        facts=facts,
        stages=stages,
        n_languages=len(languages),
        sections=[_describe_section(section, stages) for section in sections],
        measured=describe_weights(sections, stages),
        versions=_distinct([_describe_versions(result) for result in own]),
        commands=_distinct([runnable(public_command(result.command)) for result in own]),
    )


def _tags(facts: Facts, languages: list[str]) -> list[str]:
    """Return the tags by which the Hub finds the model."""
    tags = ["clip", "image-text-retrieval"]
    if facts.model_type.startswith("altclip"):
        tags.append("altclip")
    if len(languages) > 1:
        tags.append("multilingual")
    return tags


def _describe_section(section: Section, stages: list[str]) -> dict[str, str]:
    """Return what the template shows of a section."""
    return {
        "title": f"{section.title}, {shown(section.first)}, %",
        "table": f"{section.table(stages)}\n\n{section.remark()}".rstrip(),
    }


def _describe_versions(result: Result) -> str:
    """Return the libraries' versions that a result was made with, `torch 2.13.0, transformers 5.23.0`."""
    return ", ".join(f"{name} {version}" for name, version in result.versions.items())


def _distinct(texts: list[str]) -> list[str]:
    """Deduplicate texts, in order."""
    return list(dict.fromkeys(texts))


def describe_weights(sections: list[Section], stages: list[str]) -> list[str]:
    """Return a line for each set of weights whose figures are shown: its stage, its hash, and its commit on
    the Hub.
    """
    lines = []
    for result in (result for section in sections for result in section.results.values()):
        commit = f", commit `{result.model_revision[:8]}`" if result.model_revision else ""
        lines.append((stage_of(result, stages), f"weights `{result.weights[:16]}`{commit}"))
    in_order = sorted(dict.fromkeys(lines), key=lambda line: stages.index(line[0]))
    return [f"{label}: {weights}" for label, weights in in_order]


__all__ = ["Facts", "eval_results", "render_card"]
