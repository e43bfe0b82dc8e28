"""A contact sheet: the pictures that a query finds, best first, with rank and score."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from common.files.whole_files import written_whole
from modeling_altclip.images_altclip import read_image

from .index import Found
from .pictures import Pictures

_SIZE = 192  # pixels of a picture's square
_LINE = 22  # pixels of the line below it
_COLUMNS = 5


def draw_sheet(found: list[Found], pictures: Pictures, path: Path) -> list[str]:
    """Save the pictures in rows of five, as PNG. One that is gone or has changed leaves its place grey.

    Args:
        pictures: the source that they were found in.

    Returns:
        The ids of those pictures.
    """
    wanted = {one.id for one in found}
    number_of = {name: number for number, name in enumerate(pictures.ids) if name in wanted}
    n_rows = -(-len(found) // _COLUMNS)
    sheet = Image.new("RGB", (_SIZE * min(_COLUMNS, len(found)), (_SIZE + _LINE) * n_rows), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)

    missing = []
    for place, one in enumerate(found):
        left = _SIZE * (place % _COLUMNS)
        top = (_SIZE + _LINE) * (place // _COLUMNS)
        try:
            picture = read_image(pictures.reader(number_of[one.id], one.digest)())
        except Exception:  # decoders raise whatever they like
            missing.append(one.id)
            picture = Image.new("RGB", (_SIZE, _SIZE), "lightgrey")
        sheet.paste(ImageOps.pad(picture, (_SIZE, _SIZE), color="white"), (left, top))
        draw.text((left + 4, top + _SIZE + 3), f"{place + 1}   {one.score:.3f}", "black", font)
    with written_whole(path) as file:
        sheet.save(file, format="PNG")
    return missing


__all__ = ["draw_sheet"]
