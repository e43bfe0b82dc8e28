"""Emoji scenes: 32-pixel pictures of one to three emoji on a coloured ground, captioned in 19 languages.

Scene `i` of a split is a pure function of the split and `i`: its seed decides what is drawn, in which vendor's style,
where, on which ground. A caption joins the emojis' Unicode CLDR names, from left to right, by the language's own list
pattern, so captions are parallel by construction and written by human translators.

What a test asks was never shown in training: the pairs of `test_pairs` and `validation` stand together in no training
scene, and no split but the two `*_unseen_style` ones uses OpenMoji's drawings.
"""

import itertools
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageFilter
from torch.utils.data import Dataset

ASSET = Path(__file__).parent / "asset"
IMAGE_SIZE, SPRITE_SIZE, SHEET_COLUMNS = 32, 32, 10
STYLES = ("noto", "noto-v1", "twemoji", "fluent-emoji-flat", "emojione", "fxemoji")
UNSEEN_STYLE = ("openmoji",)
SIDES = {1: (26, 32), 2: (14, 16), 3: (13, 16)}  # smallest and largest side in pixels, by the number of emoji
TRAIN_MIX = (0.40, 0.50, 0.10)  # share of scenes with one, two and three emoji
N_TEST_PAIRS, N_VALIDATION_PAIRS = 1000, 250
INKED = 0.4  # share of training scenes


class Split(NamedTuple):
    """`seed` parts the splits' random streams; `kind` is "mixed", "pairs" or "concepts"."""

    seed: int
    kind: str
    size: int
    styles: tuple[str, ...] = STYLES


SPLITS = {
    "train": Split(0, "mixed", 40_000),
    "validation": Split(1, "pairs", N_VALIDATION_PAIRS),
    "test_pairs": Split(2, "pairs", N_TEST_PAIRS),
    "test_concepts": Split(3, "concepts", 1400),
    "test_pairs_unseen_style": Split(4, "pairs", N_TEST_PAIRS, UNSEEN_STYLE),
    "test_concepts_unseen_style": Split(5, "concepts", 1400, UNSEEN_STYLE),
}


@cache
def read_concepts() -> dict:
    """Names and list patterns: `{"concepts": [...], "languages": {"en": {"names": [...], "list_pattern": {...}}}}`."""
    return json.loads((ASSET / "concepts.json").read_text("utf-8"))


@cache
def held_out_pairs() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Unordered pairs of concepts kept for `test_pairs` and for `validation`."""
    pairs = list(itertools.combinations(range(len(read_concepts()["concepts"])), 2))
    order = np.random.default_rng(0).permutation(len(pairs))
    test, validation = order[:N_TEST_PAIRS], order[N_TEST_PAIRS : N_TEST_PAIRS + N_VALIDATION_PAIRS]
    return [pairs[i] for i in test], [pairs[i] for i in validation]


def write_caption(concepts: list[int], language: str) -> str:
    """Join the concepts' names in `language` ("red apple and dog face") by its CLDR list pattern; one to three concepts."""
    words = read_concepts()["languages"][language]
    names, pattern = [words["names"][concept] for concept in concepts], words["list_pattern"]
    if len(names) == 1:
        return names[0]
    if len(names) == 2:
        return pattern["2"].format(*names)
    return pattern["start"].format(names[0], pattern["end"].format(*names[1:]))


@cache
def load_sheet(style: str) -> Image.Image:
    return Image.open(ASSET / f"{style}.png").convert("RGBA")


@cache
def load_sprite(style: str, concept: int, side: int, inked: bool) -> np.ndarray:
    """One drawing scaled to `side` pixels: (side, side, 4) float32 in 0..1, colours premultiplied by alpha.

    `inked` redraws it in few flat colours with dark lines, a training augmentation towards styles that draw so.
    """
    row, column = divmod(concept, SHEET_COLUMNS)
    box = (column * SPRITE_SIZE, row * SPRITE_SIZE, (column + 1) * SPRITE_SIZE, (row + 1) * SPRITE_SIZE)
    sprite = load_sheet(style).crop(box)
    sprite = ink(sprite) if inked else sprite
    sprite = sprite.resize((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(sprite, dtype=np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    return pixels


def ink(sprite: Image.Image) -> Image.Image:
    """Flatten a sprite to six colours and draw dark lines around it and where its colours change."""
    inner = Image.new("RGBA", sprite.size)
    inner.paste(sprite.resize((SPRITE_SIZE - 4, SPRITE_SIZE - 4), Image.Resampling.LANCZOS), (2, 2))
    alpha = inner.getchannel("A").point(lambda value: 255 * (value > 127))
    flat = Image.composite(inner.convert("RGB"), Image.new("RGB", sprite.size, "white"), alpha).quantize(6).convert("RGB")
    around = alpha.filter(ImageFilter.MaxFilter(5))
    edges = flat.filter(ImageFilter.FIND_EDGES).convert("L").point(lambda value: 255 * (value > 90))
    lines = ImageChops.lighter(ImageChops.multiply(edges, alpha), ImageChops.difference(around, alpha))
    flat.putalpha(around)
    flat.paste((20, 20, 20, 255), mask=lines)
    return flat


class EmojiScenes(Dataset):
    """The scenes of one split, each drawn when it is asked for.

    An item is `{"image": 32 x 32 RGB PIL image, "concepts": concept ids from left to right, "captions": {language: text}}`.
    """

    def __init__(self, split: str):
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {list(SPLITS)}")
        self.split = SPLITS[split]
        self.jitter = split == "train"

    def __len__(self) -> int:
        return self.split.size

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        random = np.random.default_rng((self.split.seed, index))
        concepts = self.choose_concepts(index, random)
        pixels, order = self.draw(concepts, random)
        concepts = [concepts[i] for i in order]
        captions = {language: write_caption(concepts, language) for language in read_concepts()["languages"]}
        return {"image": Image.fromarray(pixels), "concepts": concepts, "captions": captions}

    def choose_concepts(self, index: int, random: np.random.Generator) -> list[int]:
        if self.split.kind == "concepts":
            return [index % len(read_concepts()["concepts"])]
        test, validation = held_out_pairs()
        if self.split.kind == "pairs":
            return list((validation if self.split.seed == 1 else test)[index])
        n, held_out = 1 + int(np.searchsorted(np.cumsum(TRAIN_MIX), random.random())), held_out_set()
        while True:
            concepts = random.integers(0, len(read_concepts()["concepts"]), n).tolist()
            pairs = list(itertools.combinations(sorted(concepts), 2))
            if len(set(concepts)) == n and held_out.isdisjoint(pairs):
                return concepts

    def draw(self, concepts: list[int], random: np.random.Generator) -> tuple[np.ndarray, list[int]]:
        """Paint the concepts on a ground that runs from one colour to another, and tell their order from left to right."""
        top, bottom = random.uniform(0.15, 1.0, (2, 3)).astype(np.float32)
        ramp = np.linspace(0, 0.4, IMAGE_SIZE, dtype=np.float32)[:, None]
        canvas = np.repeat((top + ramp * (bottom - top))[:, None], IMAGE_SIZE, axis=1)
        inked = self.jitter and random.random() < INKED
        places = place(len(concepts), random)
        styles = random.integers(len(self.split.styles), size=len(concepts))
        for concept, style, (x, y, side) in zip(concepts, styles, places):
            sprite = load_sprite(self.split.styles[style], concept, side, inked)
            patch = canvas[y : y + side, x : x + side]
            patch *= 1 - sprite[..., 3:]
            patch += sprite[..., :3]
        if self.jitter:
            canvas = jitter_colours(canvas, random)
        order = sorted(range(len(concepts)), key=lambda i: (places[i][0] >= IMAGE_SIZE // 2, places[i][1]))
        return (canvas.clip(0, 1) * 255).round().astype(np.uint8), order


@cache
def held_out_set() -> frozenset:
    return frozenset(itertools.chain(*held_out_pairs()))


def place(n: int, random: np.random.Generator) -> list[tuple[int, int, int]]:
    """Left, top and side in pixels of `n` squares: one anywhere, two or three each in a quarter of its own."""
    smallest, largest = SIDES[n]
    sides = random.integers(smallest, largest + 1, n).tolist()
    if n == 1:
        x, y = random.integers(0, IMAGE_SIZE + 1 - sides[0], 2).tolist()
        return [(x, y, sides[0])]
    half, slack = IMAGE_SIZE // 2, random.random((n, 2))
    quarters = random.permutation(4)[:n].tolist()
    return [
        (half * (quarter % 2) + int(u * (half + 1 - side)), half * (quarter // 2) + int(v * (half + 1 - side)), side)
        for quarter, side, (u, v) in zip(quarters, sides, slack)
    ]


def jitter_colours(canvas: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mix the colour channels, and shift contrast and brightness: colour alone is not to give a concept away."""
    mix = np.eye(3) + random.uniform(-MIX, MIX, (3, 3))
    contrast, brightness = random.uniform((0.8, -0.06), (1.2, 0.06))
    canvas = canvas @ (mix / mix.sum(0)).astype(np.float32)
    return (canvas - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness)


MIX = 0.3
