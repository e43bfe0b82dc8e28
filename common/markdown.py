"""Show names and commands in Markdown as what they are: text, whatever characters they have."""

import re

_MARKUP = re.compile(r"([\\`\[\]<>|])")
_FENCE = re.compile(r"`{3,}")


def markdown_text(text: str) -> str:
    """Escape what would be a link, an image, code, HTML, a cell's end or a line of its own.

    "a|b](http://x" -> "a\\|b\\](http://x". Asterisks stay, since tables mark their best numbers with them.
    """
    one_line = "".join(_shown(character) for character in text)
    return _MARKUP.sub(r"\\\1", one_line)


def _shown(character: str) -> str:
    """Return a space for a character that ends a line or cannot be seen."""
    return character if character.isprintable() or character == "\u3000" else " "


def code_block(lines: list[str], language: str) -> str:
    """Return a fenced block of code that no line of it can end."""
    content = "\n".join(" ".join(line.splitlines()) for line in lines)
    longest = max(map(len, _FENCE.findall(content)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{content}\n{fence}"


__all__ = ["code_block", "markdown_text"]
