"""The prompt of each language, as words of a command line give it: `en="a red apple" zh=红苹果`."""

from common.errors import InputError
from modeling_altclip.texts_altclip import is_blank


def read_prompts(words: list[str]) -> dict[str, str]:
    """Read prompts, of which each is a language, an equals sign and a text.

    Returns:
        `{language: prompt}`, in the order given.

    Raises:
        InputError: there are none; one has no language, no text, or the language of another.

    Example:

    ```python
    >>> from deploy.drawing.prompts import read_prompts

    >>> read_prompts(["en=1 + 1 = 2", "zh=红苹果"])
    {'en': '1 + 1 = 2', 'zh': '红苹果'}
    ```
    """
    if not words:
        raise InputError('prompts is empty: give one for each language, such as en="a red apple" zh=红苹果')
    prompts = {}
    for word in words:
        language, equals, text = word.partition("=")
        if not equals or not language.strip():
            raise InputError(f"prompts has {word!r} without a language: write it as LANGUAGE=TEXT")
        language = language.strip()
        if is_blank(text):
            raise InputError(f"prompts has no text for {language}: give words, or leave the language out")
        if language in prompts:
            raise InputError(f"prompts has {language} twice: give one text for each language")
        prompts[language] = text
    return prompts


__all__ = ["read_prompts"]
