"""Build the miniature's asset: emoji sprites by seven vendors and their names in 19 languages.

Maintainers run this once; users get the committed result. Sprites come from the `@iconify-json/*` packages, names and
list patterns from Unicode CLDR, all from npm at pinned versions::

    pip install "altclip[asset]"
    npm install --prefix build/npm $(python training/miniature/build_asset.py --packages)
    python training/miniature/build_asset.py build/npm

It writes, under `training/miniature/asset/`, one sheet of 32-pixel sprites per drawing style, `concepts.json` and
`ATTRIBUTION.md`. Equal packages give equal bytes.
"""

import argparse
import io
import json
import math
import re
from pathlib import Path

from PIL import Image

ASSET = Path(__file__).parent / "asset"
LANGUAGES = "en zh es fr ru ar ja ko it th hi uk tr vi pl nl pt de bn".split()
STYLES = {
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "twemoji": "1.2.5",
    "fluent-emoji-flat": "1.2.6",
    "emojione": "1.2.3",
    "fxemoji": "1.2.2",
    "openmoji": "1.2.29",
}
CLDR_PACKAGES = {"cldr-annotations-full": "48.2.0", "cldr-misc-full": "48.2.0"}
SPRITE_SIZE, SHEET_COLUMNS = 32, 10

# Things that stay recognisable at 14 pixels, that every style draws alike, and that no two are near twins.
CONCEPTS = """
red-apple banana lemon pear strawberry cherries grapes watermelon pineapple cookie
mushroom bread hamburger doughnut birthday-cake ice-cream lollipop hot-beverage beer-mug wine-glass
dog-face cat-face pig-face panda rabbit-face koala frog penguin elephant octopus
fish dolphin turtle snail snake rooster lady-beetle honeybee tulip sunflower
cactus palm-tree evergreen-tree maple-leaf automobile bus bicycle tractor helicopter rocket
sailboat anchor balloon guitar snowflake trumpet key umbrella-with-rain-drops light-bulb candle
bell crown top-hat glasses camera soccer-ball trophy rainbow fire ghost
""".split()
# fxemoji names its drawings without hyphens, and these after another edition of Unicode.
FXEMOJI_NAMES = {
    "dog-face": "dog",
    "cat-face": "cat",
    "pig-face": "pig",
    "rabbit-face": "bunny",
    "panda": "pandaface",
    "evergreen-tree": "evergreen",
}


def draw_sprite(icons: dict, name: str) -> Image.Image:
    """Rasterise one icon of an iconify set to an RGBA square of `SPRITE_SIZE`, keeping its aspect ratio."""
    import resvg_py  # of the extra `asset`: nothing else needs it

    icon = icons["icons"].get(name) or icons["icons"][icons["aliases"][name]["parent"]]
    size = {side: icon.get(side, icons.get(side, 16)) for side in ("width", "height")}
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {size['width']} {size['height']}"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">{icon["body"]}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE_SIZE * 4, height=SPRITE_SIZE * 4)
    large = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    large = large.crop(large.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox())
    large.thumbnail((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)
    sprite = Image.new("RGBA", (SPRITE_SIZE, SPRITE_SIZE))
    sprite.paste(large, ((SPRITE_SIZE - large.width) // 2, (SPRITE_SIZE - large.height) // 2))
    return sprite


def build_sheet(packages: Path, style: str) -> Image.Image:
    """Draw every concept in one style, ten to a row, in the order of `CONCEPTS`."""
    icons = json.loads((packages / "@iconify-json" / style / "icons.json").read_text("utf-8"))
    sheet = Image.new(
        "RGBA", (SHEET_COLUMNS * SPRITE_SIZE, math.ceil(len(CONCEPTS) / SHEET_COLUMNS) * SPRITE_SIZE)
    )
    for index, concept in enumerate(CONCEPTS):
        name = FXEMOJI_NAMES.get(concept, concept.replace("-", "")) if style == "fxemoji" else concept
        row, column = divmod(index, SHEET_COLUMNS)
        sheet.paste(draw_sprite(icons, name), (column * SPRITE_SIZE, row * SPRITE_SIZE))
    return sheet


def read_names(packages: Path, language: str, characters: list[str]) -> dict:
    """Read the concepts' names and the list pattern of one language from CLDR.

    A name that lists synonyms ("लाल सेब, सेवफल, लाल, फल") gives its first. Two concepts of one name are an error.
    """
    annotations = json.loads(
        (packages / "cldr-annotations-full/annotations" / language / "annotations.json").read_text("utf-8")
    )
    annotations = annotations["annotations"]["annotations"]
    names = [
        re.split(r"\s*[,،、|]\s*", annotations[character]["tts"][0])[0].strip() for character in characters
    ]
    twins = {name for name in names if names.count(name) > 1}
    if twins:
        raise ValueError(
            f"CLDR gives {sorted(twins)} to several concepts in {language!r}: replace one in CONCEPTS"
        )
    patterns = json.loads(
        (packages / "cldr-misc-full/main" / language / "listPatterns.json").read_text("utf-8")
    )
    pattern = patterns["main"][language]["listPatterns"]["listPattern-type-standard"]
    return {"names": names, "list_pattern": {key: pattern[key] for key in ("2", "start", "middle", "end")}}


def write_attribution(packages: Path) -> None:
    """Name author, licence and source of every ingredient, as their licences ask."""
    lines = [
        "# Sources of the miniature's asset",
        "",
        "| file | source | author | licence |",
        "|---|---|---|---|",
    ]
    for style, version in STYLES.items():
        info = json.loads((packages / "@iconify-json" / style / "info.json").read_text("utf-8"))
        source = f"[{info['name']}]({info['author']['url']}), npm `@iconify-json/{style}` {version}"
        licence = f"[{info['license']['spdx']}]({info['license']['url']})"
        lines.append(f"| `{style}.png` | {source} | {info['author']['name']} | {licence} |")
    cldr = ", ".join(f"npm `{name}` {version}" for name, version in CLDR_PACKAGES.items())
    licence = "[Unicode-3.0](https://www.unicode.org/license.txt)"
    lines.append(
        f"| `concepts.json` | [Unicode CLDR](https://cldr.unicode.org), {cldr} | Unicode, Inc. | {licence} |"
    )
    lines += [
        "",
        "Changes: each drawing was cropped to its ink and rasterised to 32 pixels; of names that list synonyms the first was taken.",
        "",
    ]
    lines += [
        "`openmoji.png` stays under CC-BY-SA-4.0. Copyright © 1991-2026 Unicode, Inc. for names and list patterns.",
        "",
    ]
    (ASSET / "ATTRIBUTION.md").write_text("\n".join(lines), encoding="utf-8")


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
    pinned = {f"@iconify-json/{style}": version for style, version in STYLES.items()} | CLDR_PACKAGES
    if arguments.packages:
        print(*(f"{name}@{version}" for name, version in pinned.items()))
        return
    packages = arguments.npm_prefix / "node_modules"
    for name, version in pinned.items():
        found = json.loads((packages / name / "package.json").read_text("utf-8"))["version"]
        if found != version:
            raise ValueError(f"{name} is {found}, but the asset is made from {version}: install that version")

    ASSET.mkdir(exist_ok=True)
    for style in STYLES:
        build_sheet(packages, style).save(ASSET / f"{style}.png", optimize=True)
    character_of = json.loads((packages / "@iconify-json/noto/chars.json").read_text("utf-8"))
    character_of = {name: chr(int(code, 16)) for code, name in character_of.items() if "-" not in code}
    characters = [character_of[concept] for concept in CONCEPTS]
    languages = {language: read_names(packages, language, characters) for language in LANGUAGES}
    table = {"concepts": CONCEPTS, "characters": characters, "languages": languages}
    (ASSET / "concepts.json").write_text(
        json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    write_attribution(packages)


if __name__ == "__main__":
    main()
