"""Name the extra to install when an optional library is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import InputError


class MissingExtra(InputError, ImportError):
    """A library of one of our extras is not installed."""


@contextmanager
def of_extra(extra: str) -> Iterator[None]:
    """Make a failing import name the extra to install.

    Raises:
        MissingExtra: a library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = error.name.partition(".")[0]  # "matplotlib.pyplot" -> "matplotlib"
        raise MissingExtra(f'{library} is not installed: pip install "altclip[{extra}]"') from error


__all__ = ["MissingExtra", "of_extra"]
