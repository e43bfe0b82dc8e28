"""Find the licences that models and data sets state, in their cards or in the table of `licences.yaml`."""

from functools import cache
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from common.errors import InputError
from common.files.outside import read_card
from common.files.yaml_files import read_yaml
from common.licences import terms_of
from common.origins import Origin
from common.typed import fits, shorten

_KNOWN = Path(__file__).parent / "licences.yaml"


def is_hub_id(name: str) -> bool:
    """Return whether a name is a Hub id and not a local folder."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def find_licence(name: str, kind: str = "dataset") -> str | None:
    """Return the licence in the card of a data set or a model, in its folder or in the Hub's cache.

    Args:
        name: a folder, or a Hub id; nothing is downloaded.
        kind: `dataset` or `model`.

    Returns:
        Its identifiers, with commas between them; None if there is no card, or none in it.

    Raises:
        InputError: the card cannot be read, or its licence is no text.
    """
    card = Path(name, "README.md")
    if is_hub_id(name):
        cached = try_to_load_from_cache(name, "README.md", repo_type=kind)
        if isinstance(cached, str):  # neither None nor the sentinel for "the Hub has no such file"
            card = Path(cached)
    if not card.is_file():
        return None
    origin = f"README.md of {kind} {name!r}"
    licence = read_card(card, origin).license
    if not fits(licence, str | list[str] | None):
        raise InputError(
            f"{origin} has the license {shorten(licence)}: give a text, in quotes, or a list of texts"
        )
    return ", ".join(licence) if isinstance(licence, list) else licence


def origin_of_model(name: str) -> Origin:
    """Return a model of the Hub with its licence, from its card in the Hub's cache or from our table.

    The licence is None where neither states one.

    Raises:
        InputError: as `find_licence`.

    Example:

    ```python
    >>> from model_cards.licences import origin_of_model

    >>> origin_of_model("facebook/nllb-200-distilled-600M").terms
    ['attribution', 'non-commercial']
    ```
    """
    licence = find_licence(name, "model")
    if licence is not None:
        return Origin(name=name, role="model", licence=licence, terms=terms_of(licence))
    known = _known_licences().get(name, {})
    terms = known.get("terms", terms_of(known.get("licence")))
    return Origin(name=name, role="model", licence=known.get("licence"), terms=terms)


@cache
def _known_licences() -> dict[str, dict]:
    """Read the table of licences of models."""
    return read_yaml(_KNOWN, "licences")


__all__ = ["find_licence", "is_hub_id", "origin_of_model"]
