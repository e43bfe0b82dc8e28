"""Prompt templates for zero-shot classification.

Ours are written for this package, in 19 languages: `simple` (the three of `modeling_altclip.PROMPTS`), `full`
(those and 21 on distance, light, age and style, for ImageNet-like tasks) and themes such as `satellite` or
`food`, in `prompts/<language>.json`. They are not evaluated on real photographs.
"""

import hashlib
import json

from common.errors import InputError
from modeling_altclip.languages_altclip import match_language
from modeling_altclip.prompts_altclip import ONE_SLOT, PROMPTS, has_one_slot

from .text_lists import SETS, SOURCE, pick, read_list, read_lists


def load_templates(which: str | list[str], language: str) -> list[str]:
    """Load prompt templates in `language`, each with a slot `{}` or `{label}` for the class name.

    Args:
        which: `simple`, `full` or a theme of ours; the templates themselves, or the only one; `FILE.json`,
            which holds `{language: [template, ...]}`, or `FILE.json:SET` of `{language: {set: [...]}}`, with
            the slot `{}` or, as clip-benchmark writes it, `{c}`; `clip_benchmark` (ImageNet's) or
            `clip_benchmark:DATASET`, where `clip_benchmark:babel_imagenet` has NLLB's translations into 90
            languages.

    Raises:
        InputError: there is no such set, or none in this language; a template has no slot; clip-benchmark is
            not installed.
    """
    if not isinstance(which, str):
        return check_templates(list(which), "templates")
    if "{" in which:
        return check_templates([which], "templates")
    if SOURCE.fullmatch(which):
        templates, origin = read_list(which, language, "zeroshot_classification_templates")
        return check_templates(templates, origin, of_file=True)

    try:
        language = match_language(language, PROMPTS)
    except ValueError as error:
        raise InputError(
            f"templates {which!r}: none are written in {language!r}: {error}, or give a JSON file of yours"
        ) from error
    path = SETS / f"{language}.json"
    sets = {"simple": []} | read_lists(path)
    templates = pick(sets, which, "set of templates", path.name)
    # These two sets begin with the three templates that models use by default.
    return [*PROMPTS[language], *templates] if which in ("simple", "full") else templates


def check_templates(templates: list[str], origin: str, *, of_file: bool = False) -> list[str]:
    """Check prompt templates, each of which has one slot `{}` or `{label}` and no other braces.

    Args:
        origin: the file or argument that they come from, for messages.
        of_file: accept clip-benchmark's slot `{c}`, too, and return it as `{}`.

    Raises:
        InputError: there is none, or one is of another form.
    """
    if not isinstance(templates, list | tuple):
        raise InputError(f"{origin}: {templates!r} is not a list of prompt templates")
    if not templates:
        raise InputError(f"{origin}: no prompt templates")
    checked = []
    for template in templates:
        plain = template
        if of_file and isinstance(template, str):
            plain = template.replace("{c}", "{}")
        if not has_one_slot(plain):
            raise InputError(f"template {template!r} of {origin} {ONE_SLOT}")
        checked.append(plain)
    return checked


def hash_prompts(templates: list[str], names: list[str | None]) -> str:
    """Return the SHA-256 of the templates and names in their order, which a result stores."""
    content = json.dumps([list(templates), list(names)], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()
