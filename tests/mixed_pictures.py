"""A user's own folder: 100 pictures of many modes and sizes, some of them broken, with captions in four languages."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

LANGUAGES = ("en", "zh", "es", "de")
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16")
SUFFIXES = {"RGB": ".jpg", "CMYK": ".jpg", "I;16": ".png"}
N_PICTURES = 100
N_BROKEN = 4


def write_pictures(folder: Path) -> int:
    """Write the pictures and `metadata.jsonl`; give the number of those that can be read."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    lines = []
    for number in range(N_PICTURES):
        mode = MODES[number % len(MODES)]
        name = f"photo {number:03d} é{SUFFIXES.get(mode, '.png')}"
        if number < N_BROKEN:
            write_broken(folder / name, number)
        else:
            picture(mode, random).save(folder / name)
        captions = {language: f"{language} caption {number}" for language in LANGUAGES}
        captions.pop(LANGUAGES[number % 4] if number % 3 == 0 else None, None)  # a language may be missing
        lines.append(json.dumps({"file_name": name, "captions": captions}, ensure_ascii=False))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return N_PICTURES - N_BROKEN


def picture(mode: str, random: np.random.Generator) -> Image.Image:
    """A picture of random size and colours."""
    width, height = (int(edge) for edge in random.integers(1, 120, 2))
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 2**16, (height, width), dtype=np.uint16))
    colours = Image.fromarray(random.integers(0, 256, (height, width, 4), dtype=np.uint8))
    return colours if mode == "RGBA" else colours.convert("RGB").convert(mode)


def write_broken(path: Path, number: int) -> None:
    """An empty file, a text, half a picture, and a picture of no format that is known."""
    Image.effect_noise((80, 80), 50).convert("RGB").save(path, "png")
    whole = path.read_bytes()
    path.write_bytes([b"", b"not found", whole[: len(whole) // 2], b"\x89PNG" + whole[200:]][number])
