"""All pictures as one: a row for each language, with its mean score where there is one."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from common.files.whole_files import written_whole

_SIZE = 256  # pixels of a picture's square
_MARGIN = 96  # pixels beside a row, for its language and score


def draw_grid(pictures: dict[str, list[Image.Image]], scores: dict[str, float], path: Path) -> None:
    """Save pictures as one PNG.

    Args:
        pictures: `{language: pictures}`, equally many of each language.
        scores: `{language: mean score}`; empty where nothing was scored.
    """
    n_columns = max(len(of_language) for of_language in pictures.values())
    grid = Image.new("RGB", (_MARGIN + _SIZE * n_columns, _SIZE * len(pictures)), "white")
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(20)
    for row, (language, of_language) in enumerate(pictures.items()):
        label = language
        if language in scores:
            label = f"{language}\n{scores[language]:.1f}"
        draw.multiline_text((8, row * _SIZE + _SIZE // 2 - 20), label, "black", font)
        for column, picture in enumerate(of_language):
            square = ImageOps.pad(picture, (_SIZE, _SIZE), color="white")
            grid.paste(square, (_MARGIN + column * _SIZE, row * _SIZE))
    with written_whole(path) as file:
        grid.save(file, format="PNG")


__all__ = ["draw_grid"]
