"""Draw emoji scenes: 32-pixel pictures of one to three emoji on a coloured ground, captioned in 19 languages.

Scene `i` of a split is a pure function of the split and `i`: its seed decides the concepts, the vendor's
style, the places and the ground. A caption joins the emojis' Unicode CLDR names, from left to right, by the
language's own list pattern, so that captions are parallel by construction and written by human translators.

Tests contain nothing that was shown in training: no training scene shows both concepts of a pair of
`test_pairs` or `validation`, and only the two `*_unseen_style` splits use OpenMoji's drawings.
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
IMAGE_SIZE = 32
_SPRITE_SIZE = 32
_SHEET_COLUMNS = 10
STYLES = ("noto", "noto-v1", "twemoji", "fluent-emoji-flat", "emojione", "fxemoji")
UNSEEN_STYLE = ("openmoji",)
# Smallest and largest side of a sprite in pixels, by the number of sprites in a scene.
_SIDES = {1: (26, 32), 2: (14, 16), 3: (13, 16)}
_COUNT_SHARES = (0.48, 0.44, 0.08)  # of training scenes with one, two and three emoji
# Of varied scenes; at 0 the unseen style's zero-shot accuracy was 34 to 39 % instead of 46 %.
_INKED_SHARE = 0.25
_N_TEST_PAIRS = 1000
_N_VALIDATION_PAIRS = 250


class Split(NamedTuple):
    """A split of scenes.

    `content` is "mixed", "concepts", or the name of a list of pairs in `held_out_pairs`. `seed` gives the
    split a random stream of its own.

    `varied` scenes are augmented towards unseen styles: some are redrawn with dark lines, all have their
    colours shifted.
    """

    seed: int
    content: str
    size: int
    styles: tuple[str, ...] = STYLES
    varied: bool = False


SPLITS = {
    "train": Split(0, "mixed", 40_000, varied=True),
    "train_curated": Split(6, "mixed", 12_000),
    "validation": Split(1, "validation pairs", _N_VALIDATION_PAIRS),
    "validation_concepts": Split(7, "concepts", 350),
    "test_pairs": Split(2, "test pairs", _N_TEST_PAIRS),
    "test_concepts": Split(3, "concepts", 1400),
    "test_pairs_unseen_style": Split(4, "test pairs", _N_TEST_PAIRS, UNSEEN_STYLE),
    "test_concepts_unseen_style": Split(5, "concepts", 1400, UNSEEN_STYLE),
}


@cache
def read_concepts() -> dict:
    """Read the concepts, with their names and list patterns in every language.

    Returns:
        `{"concepts": [...], "languages": {"en": {"names": [...], "list_pattern": {...}}}}`.
    """
    return json.loads((ASSET / "concepts.json").read_text("utf-8"))


@cache
def held_out_pairs() -> dict[str, list[tuple[int, int]]]:
    """Return the unordered pairs of concepts kept for "test pairs" and for "validation pairs"."""
    n_concepts = len(read_concepts()["concepts"])
    pairs = list(itertools.combinations(range(n_concepts), 2))
    order = np.random.default_rng(0).permutation(len(pairs))
    shuffled = [pairs[i] for i in order]
    n_held_out = _N_TEST_PAIRS + _N_VALIDATION_PAIRS
    return {
        "test pairs": shuffled[:_N_TEST_PAIRS],
        "validation pairs": shuffled[_N_TEST_PAIRS:n_held_out],
    }


@cache
def _forbidden_pairs() -> frozenset[tuple[int, int]]:
    """Return all held-out pairs: no training scene shows one, not even among three."""
    return frozenset(itertools.chain.from_iterable(held_out_pairs().values()))


def write_caption(concepts: list[int], language: str) -> str:
    """Join the names of one to three concepts by the language's list pattern: "red apple and dog face"."""
    words = read_concepts()["languages"][language]
    names = [words["names"][concept] for concept in concepts]
    pattern = words["list_pattern"]
    if len(names) == 1:
        return names[0]
    if len(names) == 2:
        return pattern["2"].format(*names)
    # English: "{0}, {1}" and "{0}, and {1}" -> "key, bell, and ghost"
    last_two = pattern["end"].format(*names[1:])
    return pattern["start"].format(names[0], last_two)


class EmojiScenes(Dataset):
    """The scenes of one split, given by its name or by a `Split`; each is drawn when it is read.

    An item is `{"image": 32 x 32 RGB PIL image, "concepts": concept ids from left to right, "captions":
    {language: text}}`.

    Raises:
        ValueError: there is no such split.
    """

    def __init__(self, split: str | Split):
        if not isinstance(split, Split) and split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {list(SPLITS)}")
        self.split = split if isinstance(split, Split) else SPLITS[split]

    def __len__(self) -> int:
        return self.split.size

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        random = np.random.default_rng((self.split.seed, index))
        concepts = _choose_concepts(self.split.content, index, random)
        places = _choose_places(len(concepts), random)
        pixels = draw(concepts, places, self.split, random)

        # Concepts are drawn at random places; captions list them in reading order.
        def reading_order(i: int) -> tuple[bool, int]:
            # The left half before the right one, and within a half from top to bottom.
            left, top, _ = places[i]
            in_right_half = left >= IMAGE_SIZE // 2
            return in_right_half, top

        order = sorted(range(len(concepts)), key=reading_order)
        concepts = [concepts[i] for i in order]
        languages = read_concepts()["languages"]
        captions = {language: write_caption(concepts, language) for language in languages}
        return {"image": Image.fromarray(pixels), "concepts": concepts, "captions": captions}


def _choose_concepts(content: str, index: int, random: np.random.Generator) -> list[int]:
    """Choose the concepts of scene `index`.

    The concepts or the held-out pairs take turns; "mixed" draws one to three concepts at random, of which no
    two are a held-out pair.
    """
    n_concepts = len(read_concepts()["concepts"])
    if content == "concepts":
        return [index % n_concepts]
    if content != "mixed":
        return list(held_out_pairs()[content][index])
    # A number below 0.48 gives one concept, one below 0.92 two, any other three.
    bounds = np.cumsum(_COUNT_SHARES)
    count = 1 + int(np.searchsorted(bounds, random.random()))
    # Draw until the concepts differ and no two of them are held out.
    while True:
        concepts = random.integers(n_concepts, size=count).tolist()
        pairs = itertools.combinations(sorted(concepts), 2)
        are_distinct = len(set(concepts)) == count
        if are_distinct and _forbidden_pairs().isdisjoint(pairs):
            return concepts


def _choose_places(count: int, random: np.random.Generator) -> list[tuple[int, int, int]]:
    """Choose left, top and side in pixels: one sprite anywhere, several each in a quarter of the scene."""
    smallest, largest = _SIDES[count]
    sides = random.integers(smallest, largest + 1, count).tolist()
    if count == 1:
        room = IMAGE_SIZE
        quarters = [0]
    else:
        room = IMAGE_SIZE // 2
        quarters = random.permutation(4)[:count].tolist()
    # Quarters are numbered 0 1 above 2 3; a sprite is shifted at random within its own.
    shifts = random.random((count, 2))
    places = []
    for quarter, side, (right, down) in zip(quarters, sides, shifts):
        row, column = divmod(quarter, 2)
        slack = room + 1 - side
        left = room * column + int(right * slack)
        top = room * row + int(down * slack)
        places.append((left, top, side))
    return places


def draw(
    concepts: list[int], places: list[tuple[int, int, int]], split: Split, random: np.random.Generator
) -> np.ndarray:
    """Paint the concepts, each in a style of its own, on a ground that runs from one colour to another.

    Returns:
        Pixels `(32, 32, 3)`, uint8.
    """
    top, bottom = random.uniform(0.15, 1.0, (2, 3)).astype(np.float32)
    # The ground runs 40 % of the way from the colour `top` to `bottom`: one colour per row of pixels.
    ramp = np.linspace(0, 0.4, IMAGE_SIZE, dtype=np.float32)[:, None]
    colours = top + ramp * (bottom - top)  # (32, 3)
    canvas = np.repeat(colours[:, None], IMAGE_SIZE, axis=1)  # (32, 32, 3)

    # A scene that is not varied draws no number here; the order of draws is what makes scenes reproducible.
    inked = split.varied and random.random() < _INKED_SHARE
    styles = random.integers(len(split.styles), size=len(concepts))
    for concept, style, (left, upper, side) in zip(concepts, styles, places):
        sprite = _load_sprite(split.styles[style], concept, side, inked)
        patch = canvas[upper : upper + side, left : left + side]
        # A view of the canvas: alpha compositing, with colours that are premultiplied.
        patch *= 1 - sprite[..., 3:]
        patch += sprite[..., :3]
    if split.varied:
        canvas = _shift_colours(canvas, random)
    return (canvas.clip(0, 1) * 255).round().astype(np.uint8)


@cache
def load_sheet(style: str) -> Image.Image:
    """Open a style's sheet of sprites."""
    return Image.open(ASSET / f"{style}.png").convert("RGBA")


@cache
def _load_sprite(style: str, concept: int, side: int, inked: bool) -> np.ndarray:
    """Scale one drawing to `side` pixels.

    Returns:
        `(side, side, 4)` float32 in 0..1, with colours premultiplied by alpha.
    """
    row, column = divmod(concept, _SHEET_COLUMNS)
    left = column * _SPRITE_SIZE
    upper = row * _SPRITE_SIZE
    box = (left, upper, left + _SPRITE_SIZE, upper + _SPRITE_SIZE)
    sprite = load_sheet(style).crop(box)
    if inked:
        sprite = ink(sprite)
    scaled = sprite.resize((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(scaled, dtype=np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    return pixels


def ink(sprite: Image.Image) -> Image.Image:
    """Flatten a sprite to six colours and draw dark lines around it and where its colours change."""
    # Shrink the drawing by two pixels on each side, which the outline takes.
    side = _SPRITE_SIZE - 4
    small = sprite.resize((side, side), Image.Resampling.LANCZOS)
    inner = Image.new("RGBA", sprite.size)
    inner.paste(small, (2, 2))
    alpha = _threshold(inner.getchannel("A"), 127)

    white = Image.new("RGB", sprite.size, "white")
    opaque = Image.composite(inner.convert("RGB"), white, alpha)
    flat = opaque.quantize(6).convert("RGB")

    # Lines lie where colours change inside the drawing, and in the ring around it.
    around = alpha.filter(ImageFilter.MaxFilter(5))
    changes = flat.filter(ImageFilter.FIND_EDGES).convert("L")
    edges = _threshold(changes, 90)
    inside = ImageChops.multiply(edges, alpha)
    outline = ImageChops.difference(around, alpha)
    lines = ImageChops.lighter(inside, outline)
    flat.putalpha(around)
    flat.paste((20, 20, 20, 255), mask=lines)
    return flat


def _threshold(channel: Image.Image, value: int) -> Image.Image:
    """Return 255 where a channel is above `value`, and 0 elsewhere."""
    return channel.point(lambda pixel: 255 * (pixel > value))


def _shift_colours(canvas: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mix the colour channels a little, and shift contrast and brightness.

    A model then cannot recognise a concept by its colour alone.
    """
    # Each new channel is mostly the old one; columns of `mix` add up to 1, so that grey stays grey.
    mix = np.eye(3) + random.uniform(-0.1, 0.1, (3, 3))
    mix = (mix / mix.sum(0)).astype(np.float32)
    contrast, brightness = random.uniform((0.8, -0.06), (1.2, 0.06))
    canvas = canvas @ mix
    # float32 throughout: a float64 scalar would change the type, and with it the last bits.
    return (canvas - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness)
