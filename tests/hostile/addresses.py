"""Addresses that a caller names, whose servers misbehave."""

from functools import partial

from modeling_altclip import addresses_altclip
from modeling_altclip.images_altclip import read_images

from .place import Place, Row


def rows(place: Place) -> list[Row]:
    endless = partial(read_images, [f"{place.bad_url}/endless"])
    return [
        Row("a redirect inwards", partial(_read_from_outside, place), "is redirected to 127.0.0.1"),
        Row("an endless answer", endless, "its file has more than", is_long=True),
        Row("a slow answer (bound: 2 s)", partial(_read_slowly, place), "its file takes more than 2 s"),
    ]


def _read_from_outside(place: Place) -> object:
    """Take `localhost` for a public host, as there is none here."""
    addresses_altclip._is_inside = lambda host: host == "127.0.0.1"
    return read_images([f"{place.bad_url}/redirect"])


def _read_slowly(place: Place) -> object:
    addresses_altclip._LONGEST = 2.0
    return read_images([f"{place.bad_url}/slow"])
