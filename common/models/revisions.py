"""Find the commits on the Hub that models were loaded from."""

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

# Of a model's repository the cache holds one of these.
_NAMED_FILES = ("config.json", "modules.json", "open_clip_config.json")


def revision_of(name_or_path: str) -> str | None:
    """Return the Hub commit that a model was just loaded from; None for a folder.

    A name of several models, `TEXT+IMAGE`, gives their commits joined by `+`.
    """
    commits = [_commit_of(part.rpartition(":")[2]) for part in name_or_path.split("+")]
    return "+".join(commit for commit in commits if commit) or None


def _commit_of(repository: str) -> str | None:
    """Return the commit at which the cache holds a Hub repository; None if it cannot be one."""
    if Path(repository).exists():
        return None
    try:
        paths = [try_to_load_from_cache(repository, name) for name in _NAMED_FILES]
    except HFValidationError:  # an architecture with a file of weights, as open_clip:NAME/FILE
        return None
    for path in paths:
        if isinstance(path, str):  # else it is not in the cache, or not in the repository
            return Path(path).parent.name
    return None
