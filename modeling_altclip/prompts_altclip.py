"""Prompt templates for zero-shot classification: three in each of the miniature's 19 languages.

In languages that inflect nouns, the class name is placed after a colon or a dash, so that it may keep the
form it has in a dictionary. Written for this package; not measured on real photographs.
"""

from .languages_altclip import match_language

# Each holds the class name once, at `{}`.
PROMPTS = {
    "en": ("A photo of {}.", "A picture showing {}.", "There is {} in this photo."),
    "zh": ("一张{}的照片。", "一幅{}的图片。", "这张照片里有{}。"),
    "es": ("Una foto de {}.", "Una imagen de {}.", "En esta foto se ve: {}."),
    "fr": ("Une photo : {}.", "Une image qui montre ceci : {}.", "Sur cette photo, on voit : {}."),
    "ru": ("Фотография: {}.", "Изображение: {}.", "На этом фото — {}."),
    "ar": ("صورة {}.", "صورة فوتوغرافية: {}.", "في هذه الصورة: {}."),
    "ja": ("{}の写真。", "{}の画像。", "この写真には{}が写っています。"),
    "ko": ("{} 사진.", "{}의 이미지.", "이 사진에 보이는 것: {}."),
    "it": ("Una foto di {}.", "Un'immagine di {}.", "In questa foto si vede: {}."),
    "th": ("ภาพถ่ายของ{}", "รูปภาพของ{}", "ในภาพนี้มี{}"),
    "hi": ("{} की तस्वीर।", "{} का चित्र।", "इस फ़ोटो में: {}।"),
    "uk": ("Фотографія: {}.", "Зображення: {}.", "На цьому фото — {}."),
    "tr": ("Bir {} fotoğrafı.", "Bir {} resmi.", "Bu fotoğrafta: {}."),
    "vi": ("Một bức ảnh về {}.", "Hình ảnh {}.", "Trong bức ảnh này có {}."),
    "pl": ("Zdjęcie: {}.", "Obraz: {}.", "Na tym zdjęciu: {}."),
    "nl": ("Een foto van {}.", "Een afbeelding van {}.", "Op deze foto staat {}."),
    "pt": ("Uma foto de {}.", "Uma imagem de {}.", "Nesta foto aparece: {}."),
    "de": ("Ein Foto: {}.", "Ein Bild von {}.", "Auf diesem Foto ist zu sehen: {}."),
    "bn": ("{} এর ছবি।", "{} এর একটি আলোকচিত্র।", "এই ছবিতে আছে {}।"),
}
_SLOT = "{}"
_NAMED_SLOT = "{label}"
ONE_SLOT = "has to have {} or {label} once, where the name goes, and no other braces"


def read_templates(hypothesis_template: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Return the prompt templates for one template, a list of them, or a language code such as `zh`.

    Raises:
        ValueError: a template does not have `{}` or `{label}` once and no other braces; there is none; or
            none is in the language, and the message asks which one was meant by `cn` or `chinese`.
    """
    if isinstance(hypothesis_template, str) and "{" not in hypothesis_template:
        try:
            return PROMPTS[match_language(hypothesis_template, PROMPTS)]
        except ValueError as error:
            raise ValueError(
                f"hypothesis_template {hypothesis_template!r} has no {{}} for the label, "
                f"and is no language that has templates: {error}"
            ) from error

    if isinstance(hypothesis_template, str):
        templates = (hypothesis_template,)
    elif isinstance(hypothesis_template, list | tuple):
        templates = tuple(hypothesis_template)
    else:
        raise ValueError(
            f"hypothesis_template is {hypothesis_template!r}: "
            "give a sentence with {} in it, or a list of them"
        )
    if not templates:
        raise ValueError("hypothesis_template is an empty list: give a sentence with {} in it")
    for template in templates:
        if not has_one_slot(template):
            raise ValueError(f"hypothesis_template {template!r} {ONE_SLOT}")
    return templates


def has_one_slot(template: object) -> bool:
    """Check that a template is a text with `{}` or `{label}` once, where the name goes, and no other braces.

    `{0.format}` or `{:>2000000000}` have no meaning, since templates are never formatted.
    """
    if not isinstance(template, str):
        return False
    before, slot, after = template.partition(_slot_of(template))
    rest = before + after
    return bool(slot) and "{" not in rest and "}" not in rest


def fill_template(template: str, name: str) -> str:
    """Replace `{}` or `{label}` by a name."""
    # Nothing is formatted: `{x.__class__}` in a template or a name is plain text.
    return template.replace(_slot_of(template), name)


def _slot_of(template: str) -> str:
    """Return the spelling of a template's slot."""
    return _NAMED_SLOT if _NAMED_SLOT in template else _SLOT


__all__ = ["ONE_SLOT", "PROMPTS", "fill_template", "has_one_slot", "read_templates"]
