"""Read lists of class names and prompt templates: this package's, a user's, or an installed clip-benchmark's.

Nothing of clip-benchmark is imported or copied: its data files are read from where it is installed.
"""

import importlib.util
import json
import re
from pathlib import Path

from common.errors import InputError
from common.files.json_files import read_json
from common.files.text_files import read_text
from modeling_altclip.languages_altclip import check_tag, match_language

SETS = Path(__file__).parent / "prompts"
NAMES = Path(__file__).parent / "class_names"
OURS = "altclip"
# FILE.json, clip_benchmark or altclip, each with an optional key, as in `names.json:signs`.
SOURCE = re.compile(rf"(.+\.json|clip_benchmark|{OURS})(?::(.+))?")
# A string of a JSON text, and the colon behind it where it is a key.
_JSON_STRING = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?')
# clip-benchmark names some files by country: `cn_classnames.json` is in Chinese.
_LANGUAGES_OF_COUNTRIES = {"cn": "zh", "jp": "ja"}
# It keeps Babel-ImageNet, whose classes are a subset in each language, in a file of another form.
_BABEL = "babel_imagenet"
_INSTALL = {
    "clip_benchmark": "pip install --no-deps clip-benchmark==1.6.2",
    "timm": "pip install --no-deps timm",
}


def split_source(source: str) -> tuple[str, str | None]:
    """Split a source into its file or package and its key, or None: `names.json:signs` -> `("names.json",
    "signs")`.

    Anything that is not such a source is returned whole.
    """
    found = SOURCE.fullmatch(source)
    return found.groups() if found else (source, None)


def read_list(source: str, language: str, kind: str) -> tuple[list, str]:
    """Read the list for `language` from `FILE.json[:KEY]`, `clip_benchmark[:KEY]` or `altclip:KEY`.

    Args:
        kind: `classnames` or `zeroshot_classification_templates`, as clip-benchmark's files are called.

    Returns:
        The list, and the name of its file.
    """
    name, key = split_source(source)
    if name == OURS:
        files = {file.stem: file for file in NAMES.glob("*.json")}
        return _read_language(pick(files, key, kind, OURS), None, language)
    if name != "clip_benchmark":
        return _read_language(Path(name), key, language)

    folder = package_folder("clip_benchmark") / "datasets"
    if key != _BABEL:
        path = _clip_benchmark_file(folder, language, kind)
        return pick(read_lists(path), key or "imagenet1k", "dataset", path.name), path.name
    babel = f"{_BABEL}.json" if kind == "classnames" else "nllb_dist13b_prompts.json"
    return _read_language(folder / babel, None, language)


def _clip_benchmark_file(folder: Path, language: str, kind: str) -> Path:
    """Return the path of clip-benchmark's file for a language, such as `cn_classnames.json` for `zh`."""
    codes = {}
    for file in sorted(folder.glob(f"*_{kind}.json")):
        code, _, _ = file.name.partition("_")
        codes[_LANGUAGES_OF_COUNTRIES.get(code, code)] = code
    code = pick_language(codes, language, f"{kind} in", "clip_benchmark")
    return folder / f"{code}_{kind}.json"


def _read_language(path: Path, key: str | None, language: str) -> tuple[list, str]:
    """Read the list under a language, and under a key where the language has several lists."""
    found = pick_language(read_languages(path), language, "language", path.name)
    if isinstance(found, dict):
        return pick(found, key, "key", f"{path.name} in {language!r}"), path.name
    if key is not None:
        raise InputError(f"{path.name} has one list for {language!r}, no {key!r}: leave away ':{key}'")
    return found, path.name


def read_lists(path: Path) -> dict:
    """Read a JSON file of names or templates by language.

    Raises:
        InputError: it does not exist, or does not hold a mapping.
    """
    content = read_json(path, "file")
    if not isinstance(content, dict):
        raise InputError(f"file {str(path)!r} has to be a mapping {{language: [...]}}")
    return content


def read_languages(path: Path) -> dict:
    """Read a JSON file whose keys are languages.

    Raises:
        InputError: as `read_lists`; or a key is no code of a language, which might be a path; the message
            names its line.
    """
    lists = read_lists(path)
    for language in lists:
        try:
            check_tag(language)
        except ValueError as error:
            line = _line_of_key(read_text(path, "file"), language)
            raise InputError(f"file {str(path)!r}, line {line}: {error}") from error
    return lists


def _line_of_key(text: str, key: str) -> int:
    """Return the line of a key of the JSON `text`, however its characters are escaped there."""
    for found in _JSON_STRING.finditer(text):
        is_key = found["colon"] is not None
        if is_key and json.loads(found["string"]) == key:
            return 1 + text.count("\n", 0, found.start())
    raise AssertionError(f"no key {key!r}")


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it or what it imports.

    Raises:
        InputError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise InputError(f"{package} is not installed, of which data files are read: {_INSTALL[package]}")
    return Path(spec.submodule_search_locations[0])


def pick(table: dict, key: str | None, what: str, origin: str):
    if key not in table:
        raise InputError(f"{origin} has no {what} {key!r}: there are {first_of(list(table), 40)}")
    return table[key]


def pick_language(table: dict, language: str, what: str, origin: str):
    """Return the value of the key that matches a language.

    Raises:
        InputError: no key matches; the message suggests the ones that may have been meant.
    """
    try:
        return table[match_language(language, table)]
    except ValueError as error:
        if "did you mean" in str(error) or "it may be" in str(error):
            raise InputError(f"{origin} has no {what} {language!r}: {error}") from error
        return pick(table, language, what, origin)


def first_of(items: list[str], most: int = 10) -> str:
    """List the first items, and the number of the others."""
    listed = ", ".join(items[:most])
    n_more = len(items) - most
    return f"{listed} and {n_more} more" if n_more > 0 else listed
