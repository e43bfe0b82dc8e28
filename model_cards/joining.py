"""Find the results that belong to a card's stages, by the hashes of their weights."""

from dataclasses import replace

from benchmarks.results import Result, model_name
from common.commands import evaluation_programs
from common.errors import InputError

from .licences import is_hub_id


def join_to_weights(
    results: list[Result], stages: list[str], labels: list[str], weights: list[str]
) -> list[Result]:
    """Return the results that were measured on the stages' weights, each with its stage's label as `model`.

    Results are matched to stages by the hash of their weights, whatever the folder was called when it was
    evaluated. If several stages have the same weights, a result belongs to the one that it names, or to all
    of them.

    Args:
        stages: folders or Hub ids.
        labels: their names on the card.
        weights: their current `hash_weights`.

    Raises:
        InputError: a result names a stage but has other weights; or no result has the last stage's weights.
    """
    joined = []
    for result in results:
        for stage in _stages_of(result, stages, weights):
            joined.append(replace(result, model=labels[stage]))

    if results and not any(result.model == labels[-1] for result in joined):
        raise InputError(
            f"none of the {len(results)} results is of the weights of {labels[-1]} ({weights[-1][:16]}): "
            f"evaluate {stages[-1]} with {evaluation_programs()}, "
            "or leave results out for a card without figures"
        )
    return joined


def _stages_of(result: Result, stages: list[str], weights: list[str]) -> list[int]:
    """Return the indices of the stages that a result was measured on; none if it is of another model."""
    same_weights = []
    same_name = []
    for index, stage in enumerate(stages):
        if weights[index] == result.weights:
            same_weights.append(index)
        if _refers_to(result.model, stage):
            same_name.append(index)
    same_both = [index for index in same_weights if index in same_name]

    # The stage was trained again after it was evaluated, or another model has its name.
    if same_name and not same_both:
        stage = stages[same_name[0]]
        evaluated = result.weights[:16]
        current = weights[same_name[0]][:16]
        raise InputError(
            f"{source_of(result)} is of other weights ({evaluated}) than {stage} has now ({current}): "
            f"evaluate it again with {evaluation_programs()}, or move results of another model to a folder "
            "of their own"
        )
    return same_both or same_weights


def _refers_to(model: str, stage: str) -> bool:
    """Return whether a result's `model` refers to a stage.

    It does if both are the same, or if their last parts are, since a folder may have been moved:
    `old/stage2` refers to `new/stage2`, but `org/clip` does not refer to `me/clip` on the Hub.
    """
    if model == stage:
        return True
    if is_hub_id(model) and is_hub_id(stage):
        return False
    return model_name(model) == model_name(stage)


def source_of(result: Result) -> str:
    """Return where a result comes from, for an error message: its file, or its task and language."""
    if result.path:
        return str(result.path)
    return f"a result of {result.task} in {result.language}"


__all__ = ["join_to_weights", "source_of"]
