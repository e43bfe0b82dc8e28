"""Build the miniature's asset: emoji sprites by seven vendors and their names in 19 languages.

Maintainers run this once; users get the committed result. Sprites come from the `@iconify-json/*` packages,
names and list patterns from Unicode CLDR, all from npm at pinned versions::

    pip install "altclip[asset]"
    npm install --prefix build/npm $(python training/miniature/build_asset.py --packages)
    python training/miniature/build_asset.py build/npm

It writes, under `training/miniature/asset/`, one sheet of 32-pixel sprites per drawing style, `concepts.json`
and `ATTRIBUTION.md`. Equal packages give equal bytes.
"""

import argparse
import io
import json
import math
import re
from pathlib import Path

from PIL import Image

_ASSET = Path(__file__).parent / "asset"
_LANGUAGES = "en zh es fr ru ar ja ko it th hi uk tr vi pl nl pt de bn".split()
_STYLES = {
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "twemoji": "1.2.5",
    "fluent-emoji-flat": "1.2.6",
    "emojione": "1.2.3",
    "fxemoji": "1.2.2",
    "openmoji": "1.2.29",
}
_CLDR_PACKAGES = {"cldr-annotations-full": "48.2.0", "cldr-misc-full": "48.2.0"}
_SPRITE_SIZE = 32
_SHEET_COLUMNS = 10

# Things that stay recognisable at 14 pixels, that every style draws alike, and that no two are near twins.
_CONCEPTS = """
red-apple banana lemon pear strawberry cherries grapes watermelon pineapple cookie
mushroom bread hamburger doughnut birthday-cake ice-cream lollipop hot-beverage beer-mug wine-glass
dog-face cat-face pig-face panda rabbit-face koala frog penguin elephant octopus
fish dolphin turtle snail snake rooster lady-beetle honeybee tulip sunflower
cactus palm-tree evergreen-tree maple-leaf automobile bus bicycle tractor helicopter rocket
sailboat anchor balloon guitar snowflake trumpet key umbrella-with-rain-drops light-bulb candle
bell crown top-hat glasses camera soccer-ball trophy rainbow fire ghost
""".split()
# fxemoji names its drawings without hyphens, and these after another edition of Unicode.
_FXEMOJI_NAMES = {
    "dog-face": "dog",
    "cat-face": "cat",
    "pig-face": "pig",
    "rabbit-face": "bunny",
    "panda": "pandaface",
    "evergreen-tree": "evergreen",
}


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def _draw_sprite(icons: dict, name: str) -> Image.Image:
    """Rasterise one icon of an iconify set to an RGBA square of `_SPRITE_SIZE`, keeping its aspect ratio."""
    import resvg_py  # of the extra `asset`: nothing else needs it

    icon = icons["icons"].get(name)
    if not icon:  # the name is an alias of another icon
        parent = icons["aliases"][name]["parent"]
        icon = icons["icons"][parent]
    # An icon's own size goes before the set's, and 16 is iconify's default.
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    left = icon.get("left", 0)
    upper = icon.get("top", 0)
    box = f"{left} {upper} {width} {height}"
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f'<svg {namespaces} viewBox="{box}">{icon["body"]}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=_SPRITE_SIZE * 4, height=_SPRITE_SIZE * 4)
    large = Image.open(io.BytesIO(bytes(png))).convert("RGBA")

    # Crop to what is inked, and centre it: drawings have margins of different widths.
    inked = large.getchannel("A").point(lambda alpha: 255 * (alpha > 16))
    large = large.crop(inked.getbbox())
    large.thumbnail((_SPRITE_SIZE, _SPRITE_SIZE), Image.Resampling.LANCZOS)
    sprite = Image.new("RGBA", (_SPRITE_SIZE, _SPRITE_SIZE))
    left = (_SPRITE_SIZE - large.width) // 2
    upper = (_SPRITE_SIZE - large.height) // 2
    sprite.paste(large, (left, upper))
    return sprite


def _build_sheet(packages: Path, style: str) -> Image.Image:
    """Draw every concept in one style, ten to a row, in the order of `_CONCEPTS`."""
    icons = _read_json(packages / "@iconify-json" / style / "icons.json")
    n_rows = math.ceil(len(_CONCEPTS) / _SHEET_COLUMNS)
    sheet = Image.new("RGBA", (_SHEET_COLUMNS * _SPRITE_SIZE, n_rows * _SPRITE_SIZE))
    for index, concept in enumerate(_CONCEPTS):
        name = concept
        if style == "fxemoji":
            name = _FXEMOJI_NAMES.get(concept, concept.replace("-", ""))
        row, column = divmod(index, _SHEET_COLUMNS)
        sheet.paste(_draw_sprite(icons, name), (column * _SPRITE_SIZE, row * _SPRITE_SIZE))
    return sheet


def _read_names(packages: Path, language: str, characters: list[str]) -> dict:
    """Read the concepts' names and the list pattern of one language from CLDR.

    A name that lists synonyms ("लाल सेब, सेवफल, लाल, फल") gives its first. Two concepts of one name are an
    error.
    """
    path = packages / "cldr-annotations-full/annotations" / language / "annotations.json"
    annotations = _read_json(path)["annotations"]["annotations"]
    names = []
    for character in characters:
        synonyms = re.split(r"\s*[,،、|]\s*", annotations[character]["tts"][0])
        names.append(synonyms[0].strip())
    twins = {name for name in names if names.count(name) > 1}
    if twins:
        raise ValueError(
            f"CLDR gives {sorted(twins)} to several concepts in {language!r}: replace one in _CONCEPTS"
        )

    patterns = _read_json(packages / "cldr-misc-full/main" / language / "listPatterns.json")
    pattern = patterns["main"][language]["listPatterns"]["listPattern-type-standard"]
    # {"2": "{0} and {1}", "start": "{0}, {1}", "middle": "{0}, {1}", "end": "{0}, and {1}"}
    list_pattern = {key: pattern[key] for key in ("2", "start", "middle", "end")}
    return {"names": names, "list_pattern": list_pattern}


def _write_attribution(packages: Path) -> None:
    """Name author, licence and source of every ingredient, as their licences ask."""
    lines = [
        "# Sources of the miniature's asset",
        "",
        "| file | source | author | licence |",
        "|---|---|---|---|",
    ]
    for style, version in _STYLES.items():
        info = _read_json(packages / "@iconify-json" / style / "info.json")
        source = f"[{info['name']}]({info['author']['url']}), npm `@iconify-json/{style}` {version}"
        licence = f"[{info['license']['spdx']}]({info['license']['url']})"
        lines.append(f"| `{style}.png` | {source} | {info['author']['name']} | {licence} |")
    cldr = ", ".join(f"npm `{name}` {version}" for name, version in _CLDR_PACKAGES.items())
    licence = "[Unicode-3.0](https://www.unicode.org/license.txt)"
    lines.append(
        f"| `concepts.json` | [Unicode CLDR](https://cldr.unicode.org), {cldr} | Unicode, Inc. | {licence} |"
    )
    lines += [
        "",
        "Changes: each drawing was cropped to its ink and rasterised to 32 pixels; "
        "of names that list synonyms the first was taken.",
        "",
        "`openmoji.png` stays under CC-BY-SA-4.0. "
        "Copyright © 1991-2026 Unicode, Inc. for names and list patterns.",
        "",
    ]
    (_ASSET / "ATTRIBUTION.md").write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "npm_prefix", type=Path, nargs="?", help="folder that holds node_modules with the packages"
    )
    parser.add_argument(
        "--packages", action="store_true", help="print the npm packages with their versions and stop"
    )
    arguments = parser.parse_args()
    pinned = {f"@iconify-json/{style}": version for style, version in _STYLES.items()} | _CLDR_PACKAGES
    if arguments.packages:
        print(*(f"{name}@{version}" for name, version in pinned.items()))
        return

    packages = arguments.npm_prefix / "node_modules"
    for name, version in pinned.items():
        found = _read_json(packages / name / "package.json")["version"]
        if found != version:
            raise ValueError(f"{name} is {found}, but the asset is made from {version}: install that version")

    _ASSET.mkdir(exist_ok=True)
    for style in _STYLES:
        _build_sheet(packages, style).save(_ASSET / f"{style}.png", optimize=True)

    # {"1f34e": "red-apple", "1f1e6-1f1e8": "flag..."} -> {"red-apple": "🍎"}; emoji of several characters,
    # such as flags, are left out.
    character_of = {}
    for code, name in _read_json(packages / "@iconify-json/noto/chars.json").items():
        if "-" not in code:
            character_of[name] = chr(int(code, 16))
    characters = [character_of[concept] for concept in _CONCEPTS]
    languages = {language: _read_names(packages, language, characters) for language in _LANGUAGES}
    table = {"concepts": _CONCEPTS, "characters": characters, "languages": languages}
    (_ASSET / "concepts.json").write_text(
        json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    _write_attribution(packages)


if __name__ == "__main__":
    main()
