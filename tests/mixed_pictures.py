"""Write a user's own folder: 100 pictures of many modes, some broken, and captions in four languages."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

LANGUAGES = ["en", "zh", "es", "de"]
MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"]
# JPEG has neither alpha nor palettes nor 16 bits; all other modes are saved as PNG.
SUFFIXES = {"RGB": ".jpg", "CMYK": ".jpg", "I;16": ".png"}
N_PICTURES = 100
N_BROKEN = 4


def write_pictures(folder: Path) -> int:
    """Write the pictures and `metadata.jsonl`; return the number of pictures that can be read."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    lines = []
    for number in range(N_PICTURES):
        mode = MODES[number % len(MODES)]
        suffix = SUFFIXES.get(mode, ".png")
        # File names with spaces and a letter outside ASCII, as users have them.
        name = f"photo {number:03d} é{suffix}"
        if number < N_BROKEN:
            write_broken(folder / name, number)
        else:
            picture(mode, random).save(folder / name)

        captions = {language: f"{language} caption {number}" for language in LANGUAGES}
        if number % 3 == 0:  # every third picture lacks a language
            del captions[LANGUAGES[number % 4]]
        lines.append(json.dumps({"file_name": name, "captions": captions}, ensure_ascii=False))

    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    # Other files that lie in a user's folder, and that no reader takes for pictures.
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return N_PICTURES - N_BROKEN


def picture(mode: str, random: np.random.Generator) -> Image.Image:
    """Draw a picture of random size and colours."""
    width, height = map(int, random.integers(1, 120, 2))
    if mode == "I;16":
        shades = random.integers(0, 2**16, (height, width), dtype=np.uint16)
        return Image.fromarray(shades)

    colours = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
    image = Image.fromarray(colours)
    if mode == "RGBA":
        return image
    return image.convert("RGB").convert(mode)


def write_broken(path: Path, number: int) -> None:
    """Write an empty file, a text, half a picture, or a picture whose header is damaged."""
    Image.effect_noise((80, 80), 50).convert("RGB").save(path, "png")
    whole = path.read_bytes()
    contents = [
        b"",
        b"not found",
        whole[: len(whole) // 2],
        b"\x89PNG" + whole[200:],
    ]
    path.write_bytes(contents[number])
