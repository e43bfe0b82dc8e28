"""The error that a user can fix."""


class InputError(ValueError):
    """An error that the user can fix. Scripts print its message alone and exit with status 1."""


__all__ = ["InputError"]
