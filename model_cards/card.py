"""The model card: every number in it comes from a results file."""

from collections import defaultdict
from pathlib import Path
from statistics import mean

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from benchmarks.results import Result, format_table

TEMPLATE = Path(__file__).parent / "template.md"
TASK_TYPES = {"retrieval": "image-text-retrieval", "zero_shot": "zero-shot-image-classification"}


def score_of(results: list[Result]) -> dict:
    """`{(model name, task, language): metrics}`, the model named by the last part of its path."""
    return {(Path(result.model).name, result.task, result.language): result.metrics for result in results}


def shown(result: Result) -> str:
    """The metric that a card's table shows: how often the first image found is the right one, or what the task is judged by."""
    return "text_to_image_recall@1" if result.kind == "retrieval" else result.metric


def stage_table(results: list[Result], stages: list[str], task: str) -> str:
    """One row per language, one column per stage: what each stage scored, in percent, and the mean over languages."""
    scores = score_of(results)
    (column,) = {shown(result) for result in results if result.task == task}
    languages = list(dict.fromkeys(result.language for result in results if Path(result.model).name == stages[-1]))
    by_stage, rows = defaultdict(list), []
    for language in languages:
        row = [language]
        for stage in stages:
            metrics = scores.get((stage, task, language))
            row.append(metrics[column] if metrics else "")
            by_stage[stage] += [metrics[column]] if metrics else []
        rows.append(row)
    rows.append(["mean", *(mean(by_stage[stage]) for stage in stages)])
    return format_table(["language", *stages], rows)


def eval_results(results: list[Result], model: str) -> list[EvalResult]:
    """The model's results in the form of the Hub's model-index: each task's main metric, per language."""
    entries = []
    for result in results:
        if Path(result.model).name == model:
            entries.append(
                EvalResult(
                    task_type=TASK_TYPES[result.kind],
                    dataset_type=result.dataset,
                    dataset_name=result.task,
                    dataset_config=result.language,
                    dataset_split=result.split,
                    dataset_revision=result.revision,
                    metric_type=result.metric,
                    metric_value=round(result.metrics[result.metric], 4),
                    metric_name=result.metric,
                )
            )
    return entries


def render_card(title: str, repo: str, results: list[Result], stages: list[str], license: str, about: str) -> ModelCard:
    """Render the card of the model of the last stage.

    Args:
        title: what the model is called.
        repo: where it loads from, a Hub id or a folder.
        results: of all stages, read by `benchmarks.results.load_results`.
        stages: model folder names in training order, the English teacher first.
        license: an identifier of the Hub.
        about: a paragraph on what the model is, and is not, for.

    Raises:
        ValueError: there is no result of the last stage.
    """
    own = [result for result in results if Path(result.model).name == stages[-1]]
    if not own:
        raise ValueError(f"no result of {stages[-1]!r}: evaluate it with benchmarks/run_retrieval.py and benchmarks/run_zero_shot.py")
    languages = list(dict.fromkeys(result.language for result in own))
    data = ModelCardData(
        language=languages,
        license=license,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["altclip", "clip", "multilingual", "image-text-retrieval"],
        model_name=title,
        eval_results=eval_results(results, stages[-1]),
    )
    sections = [
        {"title": f"{task}, {metric}, %", "table": stage_table(results, stages, task)}
        for task, metric in dict.fromkeys((result.task, shown(result)) for result in own)
    ]
    commands = list(dict.fromkeys(result.command for result in own))
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        repo=repo,
        about=about,
        sections=sections,
        commands=commands,
        n_languages=len(languages),
        weights=own[0].weights,
        versions=own[0].versions,
    )
