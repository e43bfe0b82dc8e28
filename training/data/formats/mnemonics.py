"""Remove the marks of mnemonics, the letters that open a menu, from the texts of programs.

GTK marks the letter by `_` and Qt by `&`. Languages without letters add one:

    _File, E_xit, Te&xt, 文件(_F)  ->  File, Exit, Text, 文件
"""

import re

_MARK = re.compile(
    r"""
      \s?\([_&][^\W_]\)                      # 文件(_F)
    | (?<![\w&])(?!&\w+;)[_&](?=[^\W_])      # _File and &File, but not &amp; and __init__
    | (?<=[^\W_])&(?=[^\W\dA-Z_])            # Te&xt, but not AT&T
    | (?<=[^\W_])_(?=[^\W_])                 # E_xit
    """,
    re.VERBOSE,
)
_IDENTIFIER = re.compile(r"\w+[^\W_]_[^\W_]\w*|[^\W_]_\w+")


def without_mnemonics(text: str, translation: str) -> tuple[str, str]:
    """Return a text and its translation without their marks of mnemonics.

    A text of two marks is no item of a menu, and is left as it is. So are both texts where one mark may be
    part of a name of the program, as in "the key default_width": they have that word in common, or only one
    of them is marked inside a word.
    """
    marks = _MARK.findall(text)
    marks_of_translation = _MARK.findall(translation)
    if max(len(marks), len(marks_of_translation)) != 1:
        return text, translation
    names = set(_IDENTIFIER.findall(text))
    names_of_translation = set(_IDENTIFIER.findall(translation))
    has_other_mark = len(marks) == len(marks_of_translation)
    if names & names_of_translation or (names | names_of_translation) and not has_other_mark:
        return text, translation
    return _MARK.sub("", text), _MARK.sub("", translation)


__all__ = ["without_mnemonics"]
