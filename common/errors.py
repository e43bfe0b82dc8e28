"""The error that a user can fix, and others in one line."""

_LONGEST = 1000  # characters of a message; `datasets` quotes whole cards in some


class InputError(ValueError):
    """An error that the user can fix. Scripts print its message alone and exit with status 1."""


def one_line(error: Exception) -> str:
    """Return what an error says in one line, cut where it is very long."""
    said = " ".join(str(error).split())
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."


__all__ = ["InputError", "one_line"]
