"""Say beforehand what the licence of a training's outcome is, from its data and the models it starts with."""

from common.licences import Outcome, combine
from model_cards.licences import origin_of_model

from .parallel_text import read_sources
from .sources.origin import origins_of_listed


def outcome_of(
    datasets: list[str], models: list[str] | None = None, languages: list[str] | None = None
) -> Outcome:
    """Combine the licences of data sets and models, as far as they state them; nothing is downloaded.

    Args:
        datasets: names of public corpora, lists of sources, Hub ids, folders or files.
        models: Hub ids of the models that are trained, learned from, or that translate.

    Raises:
        InputError: as `origins_of_listed`, or a list of sources cannot be read.

    Example:

    ```python
    >>> from training.data.terms import outcome_of

    >>> outcome = outcome_of(["laion-coco-nllb", "opus-100"], ["FacebookAI/xlm-roberta-large"])
    >>> outcome.terms, outcome.unknown, outcome.hub_licence
    (['attribution', 'non-commercial'], ['opus-100 (unknown (card))'], 'other')
    ```
    """
    parts = [origin_of_model(name) for name in models or []]
    for dataset in datasets:
        for source in read_sources(dataset):
            parts += origins_of_listed(source, languages)
    return combine(parts)


__all__ = ["outcome_of"]
