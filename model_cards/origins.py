"""Show what a model was made of as a table: data and models, stage by stage, with their licences."""

from common.markdown import markdown_text
from common.origins import Origin

_MOST_LANGUAGES = 12  # that a cell lists


def table_of_origins(origins: list[Origin]) -> str:
    """Return a table in Markdown with a row for each source of data and each model; empty without any."""
    if not origins:
        return ""
    lines = ["| stage | made of | rows | languages | licence |", "|---|---|---|---|---|"]
    for origin in origins:
        rows = "" if origin.rows is None else f"{origin.rows:,}"
        licence = origin.licence or "not stated"
        if origin.licence and origin.terms is None:
            licence += ", terms not known"
        cells = [origin.stage or "", _describe_name(origin), rows, _describe_languages(origin), licence]
        lines.append(f"| {' | '.join(map(markdown_text, cells))} |")
    return "\n".join(lines)


def _describe_name(origin: Origin) -> str:
    """Return a name for a cell, with the place on the Hub: `talks (org/talks, commit 805090dc)`."""
    name = origin.name
    if origin.role == "model":
        name = f"model {name}"
    details = []
    if origin.dataset not in (None, origin.name):
        details.append(origin.dataset)
    if origin.revision is not None:
        details.append(f"commit {origin.revision[:8]}")
    return f"{name} ({', '.join(details)})" if details else name


def _describe_languages(origin: Origin) -> str:
    """Return the languages for a cell, or their number where there are many."""
    languages = origin.languages or []
    return " ".join(languages) if len(languages) <= _MOST_LANGUAGES else f"{len(languages)} languages"


__all__ = ["table_of_origins"]
