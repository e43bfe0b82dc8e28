"""Render the model card. Every number in it comes from a results file."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from benchmarks.results import Result
from common.commands import runnable
from common.errors import InputError
from common.licences import Outcome, combine
from common.markdown import code_block, markdown_text

from .licences import is_hub_id
from .origins import table_of_origins
from .paths import public_command, public_path
from .sections import Section, labels_of_dims, make_sections, make_truncated_sections, table_metric
from .stages import Lineage

_SHOWN = 100  # characters of a name in a message
_TEMPLATE = Path(__file__).parent / "template.md"
# A task of the Hub, and how a page names what was done. The Hub has no task of retrieval of images by texts:
# they are compared by their features.
_TASKS = {
    "retrieval": ("image-feature-extraction", "Image-text retrieval"),
    "mixed_pool": ("image-feature-extraction", "Image-text retrieval"),
    "zero_shot": ("zero-shot-image-classification", "Zero-shot image classification"),
}
# The Hub's names of what is measured.
_METRICS = {"retrieval": "recall", "mixed_pool": "recall", "zero_shot": "accuracy"}


@dataclass(kw_only=True)
class Facts:
    """Facts about a model that a card states beside its results.

    Attributes:
        model_type: that of its configuration.
        lineage: its base models and training data.
        pictures: file names of the plots beside the card.
        matryoshka_dims: the numbers of dimensions that its embeddings were trained to be truncated to.
        trainings: a table in Markdown of how its stages were trained, see `table_of_trainings`.
    """

    model_type: str = "altclip"
    lineage: Lineage = field(default_factory=Lineage)
    pictures: list[str] = field(default_factory=list)
    matryoshka_dims: list[int] = field(default_factory=list)
    trainings: str = ""


def _eval_results(sections: list[Section], label: str) -> list[EvalResult]:
    """Return a stage's results in the form of the Hub's model-index: each task's main metric, per language.

    huggingface_hub identifies entries by dataset, split, configuration and kind of task, but not by name. It
    merges entries that agree in all of these under the first one's name, here and whenever somebody loads and
    saves the card (huggingface_hub#4975). The configuration of these entries is therefore made unique.
    """
    entries = []
    for section in sections:
        for result in section.by_language(label).values():
            entries.append((section, _as_entry(section, result)))

    counts = Counter(entry.unique_identifier for _, entry in entries)
    for section, entry in entries:
        if counts[entry.unique_identifier] > 1:
            entry.dataset_config = f"{section.title}, {entry.dataset_config}"  # "pairs, first 100, en"
    return [entry for _, entry in entries]


def _as_entry(section: Section, result: Result) -> EvalResult:
    """Return a result as an entry of a model-index, named by its metric and the section's variation."""
    metric_name = result.metric
    if section.variation:
        metric_name = f"{result.metric}, {section.variation}"
    metric_args = None
    interval = result.intervals.get(result.metric)
    if interval:
        # The model-index has no field of its own for intervals.
        metric_args = {"confidence_interval_95": [round(bound, 4) for bound in interval]}

    task_type, task_name = _TASKS[result.kind]
    return EvalResult(
        task_type=task_type,
        task_name=task_name,
        dataset_type=public_path(result.dataset),
        dataset_name=result.task,
        dataset_config=result.language,
        dataset_split=result.split,
        dataset_revision=result.revision,
        dataset_args=None if result.limit is None else {"limit": result.limit},
        metric_type=result.metric,
        metric_value=round(result.metrics[result.metric], 4),
        metric_name=metric_name,
        metric_args=metric_args,
    )


def render_card(
    title: str,
    repo: str,
    results: list[Result],
    stages: list[str],
    license: str | None,
    about: str,
    facts: Facts | None = None,
) -> ModelCard:
    """Render the card of the model of the last stage.

    Args:
        title: the model's name.
        repo: a Hub id or a folder to load it from.
        results: of the stages' own weights, as `join_to_weights` returns them; others are left out.
        stages: labels of the stages in training order, the English teacher first, the model last.
        license: an identifier of the Hub. By default it is one that allows no more than the data and models
            that the model was made of, or `other`; and none where nothing is known of these.
        about: a paragraph on what the model is, and is not, for.
        facts: what else is known of it; by default that it is an AltCLIP.

    Raises:
        InputError: two results of the same stage, protocol and items differ; a value is not a fraction; or
            `repo` cannot stand in code.
    """
    check_repo(repo)
    facts = facts or Facts()
    sections = make_sections(results, stages)
    own = []  # the results of the model itself
    for section in sections:
        own += section.by_language(stages[-1]).values()
    truncated = make_truncated_sections(results, stages[-1])
    languages = _distinct([result.language for result in own]) or facts.lineage.languages
    outcome = combine(facts.lineage.origins)
    if license is None and facts.lineage.origins:
        license = outcome.hub_licence
    data = describe_model(facts, languages, repo, license)
    if own:
        data.model_name = title
        data.metrics = _distinct([_METRICS[result.kind] for result in own])
        data.eval_results = _eval_results(sections, stages[-1])

    for section in truncated:
        own += section.results.values()
    versions = [_describe_versions(result) for result in own]
    commands = [runnable(public_command(result.command)) for result in own]
    return ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        text=markdown_text,
        title=title,
        repo=public_path(repo),
        about=about,
        facts=facts,
        stages=stages,
        n_languages=len(languages),
        languages_are="evaluated in" if own else "for",
        origins=table_of_origins(facts.lineage.origins),
        licence=_describe_licence(facts.lineage, outcome),
        sections=[_describe_section(section, stages) for section in sections],
        truncated=[_describe_section(section, labels_of_dims(results)) for section in truncated],
        measured=_describe_weights(sections, stages),
        versions=_distinct(versions),
        commands=code_block(_distinct(commands), "bash"),
    )


def check_repo(repo: str) -> None:
    """Refuse what is neither a Hub id nor a folder that can stand between the quotes of the card's code.

    Raises:
        InputError: it is no Hub id, and has quotes, backslashes, backticks or characters that cannot be seen.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        if not repo or not repo.isprintable() or set(repo) & set("\"'\\`"):
            raise InputError(
                f"repo {repo[:_SHOWN]!r} is neither a Hub id like 'org/name' nor a folder whose name "
                "can stand in the card's code: give one without quotes, backslashes and line breaks"
            ) from error


def describe_model(facts: Facts, languages: list[str], repo: str, license: str | None) -> ModelCardData:
    """Return the card's metadata without results."""
    origins = [origin for origin in facts.lineage.origins if origin.role == "data"]
    licences = {origin.dataset or origin.name: origin.licence for origin in origins if origin.licence}
    of_other = {}
    if license == "other":
        # The Hub asks for a name of such a licence, and for a page that tells it.
        of_other["license_name"] = "terms-of-its-sources"
        if is_hub_id(repo):
            of_other["license_link"] = f"https://huggingface.co/{repo}#licence"
    iso_codes = _distinct([language.partition("-")[0] for language in languages])  # "zh-Hans" -> "zh"
    return ModelCardData(
        base_model=facts.lineage.base_model or None,
        # Where it is not stated, the Hub takes a model of two bases for a merge of their weights.
        base_model_relation="finetune" if facts.lineage.base_model else None,
        datasets=_distinct([origin.dataset for origin in origins if origin.dataset]) or None,
        dataset_licenses=licences or None,
        language=iso_codes or None,  # the Hub knows languages only by their ISO 639 codes
        license=license,
        **of_other,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=_tags(facts, languages),
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
    """Return the heading and the table that the template shows of a section."""
    metric = table_metric(section.first)
    table = section.table(stages)
    remark = section.remark()
    if remark:
        table += f"\n\n{remark}"
    return {"title": markdown_text(f"{section.title}, {metric}, %"), "table": table}


def _describe_licence(lineage: Lineage, outcome: Outcome) -> str:
    """Return what may be done with the model as far as its sources state it; nothing where none is known."""
    if not lineage.origins:
        return ""
    return markdown_text(outcome.sentence)


def _describe_versions(result: Result) -> str:
    """Return the versions of the libraries behind a result: `torch 2.13.0, transformers 5.23.0`."""
    packages = [f"{name} {version}" for name, version in result.versions.items()]
    return markdown_text(", ".join(packages))


def _code(hash_of: str) -> str:
    """Return a hash as code, which nothing in it can end."""
    return f"`{markdown_text(hash_of).replace('`', '')}`"


def _distinct(texts: list[str]) -> list[str]:
    """Deduplicate texts, in order."""
    return list(dict.fromkeys(texts))


def _describe_weights(sections: list[Section], stages: list[str]) -> list[str]:
    """Return a line for each set of weights with results: its stage, its hash, and its commit on the Hub."""
    lines = []
    for stage in stages:
        for section in sections:
            for result in section.by_language(stage).values():
                line = f"{markdown_text(stage)}: weights {_code(result.weights[:16])}"
                if result.model_revision:
                    line += f", commit {_code(result.model_revision[:8])}"
                lines.append(line)
    return _distinct(lines)


__all__ = ["Facts", "check_repo", "describe_model", "render_card"]
