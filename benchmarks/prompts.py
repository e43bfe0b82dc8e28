"""Prompt templates and class names for zero-shot classification.

They come from this package's own files, from a user's, or from an installed clip-benchmark.

Our templates are written for this package, in 19 languages: `simple` (the three of
`modeling_altclip.PROMPTS`), `full` (those and 21 on distance, light, age and style, for ImageNet-like tasks)
and themes such as `satellite` or `food`, in `prompts/<language>.json`. They are not measured on real
photographs. Nothing of clip-benchmark is imported or copied: its data files are read from where it is
installed. It has ImageNet's 1,000 class names in en, zh, it, ja and ar. `class_names/imagenet.json` adds
Korean names: a language model wrote them from the English names and WordNet's definitions, and no native
speaker has proofread them.
"""

import ast
import hashlib
import importlib.util
import json
import re
import warnings
from collections import defaultdict
from pathlib import Path

from modeling_altclip.languages_altclip import is_english, match_language
from modeling_altclip.prompts_altclip import ONE_SLOT, PROMPTS, has_one_slot
from modeling_altclip.texts_altclip import is_blank

from .json_files import read_json
from .recipe import InputError

SETS = Path(__file__).parent / "prompts"
NAMES = Path(__file__).parent / "class_names"
OURS = "altclip"
# FILE.json, clip_benchmark or altclip, each with an optional key, as in `names.json:signs`.
_SOURCE = re.compile(rf"(.+\.json|clip_benchmark|{OURS})(?::(.+))?")
# clip-benchmark names some files by country: `cn_classnames.json` is in Chinese.
_LANGUAGES_OF_COUNTRIES = {"cn": "zh", "jp": "ja"}
# It keeps Babel-ImageNet, whose classes are a subset in each language, in a file of another form.
_BABEL = "babel_imagenet"
_IMAGENET = 1000  # classes
_INSTALL = {
    "clip_benchmark": "pip install --no-deps clip-benchmark==1.6.2",
    "timm": "pip install --no-deps timm",
}


def load_templates(which: str | list[str], language: str) -> list[str]:
    """Load prompt templates in `language`, each with a slot `{}` for the class name.

    Args:
        which: `simple`, `full` or a theme of ours; the templates themselves, or the only one; `FILE.json`,
            which holds `{language: [template, ...]}`, or `FILE.json:SET` of `{language: {set: [...]}}`, with
            the slot `{}` or, as clip-benchmark writes it, `{c}`; `clip_benchmark` (ImageNet's) or
            `clip_benchmark:DATASET`, where `clip_benchmark:babel_imagenet` has NLLB's translations into 90
            languages.

    Raises:
        InputError: there is no such set, or none in this language; a template has no slot; clip-benchmark is
            not installed.
    """
    if not isinstance(which, str):
        return check_templates(list(which), "templates")
    if "{" in which:
        return check_templates([which], "templates")
    if _SOURCE.fullmatch(which):
        templates, origin = _read_source(which, language, "zeroshot_classification_templates")
        return check_templates(templates, origin, of_file=True)

    try:
        language = match_language(language, PROMPTS)
    except ValueError as error:
        raise InputError(
            f"templates {which!r}: none are written in {language!r}: {error}, or give a JSON file of yours"
        ) from error
    path = SETS / f"{language}.json"
    sets = {"simple": []} | read_lists(path)
    templates = _pick(sets, which, "set of templates", path.name)
    # These two sets begin with the three templates that models use by default.
    return [*PROMPTS[language], *templates] if which in ("simple", "full") else templates


def load_class_names(
    source: str | dict[str, str | list],
    languages: list[str],
    n_classes: int | None = None,
    *,
    dataset_names: list[str] | None = None,
    subset: str | list[int] | None = None,
) -> dict[str, list[str | None]]:
    """Load class names by language, name `i` for label `i`.

    A name is None if the language does not name the class, whose images are then to be left out.

    Args:
        source: `dataset` (English); `FILE.json` with `{language: [name, ...]}` (null for None) or
            Babel-ImageNet's `{language: [indices, names]}`; `FILE.json:KEY` of `{language: {key: [...]}}`;
            `clip_benchmark` (ImageNet's) or `clip_benchmark:DATASET`; `altclip:imagenet` (ours, in Korean);
            or a dict that gives each language one of these, or the names.
        n_classes: number of classes of the dataset; by default the number of names is not checked.
        dataset_names: the dataset's own names, from its `ClassLabel`; underscores are read as spaces.
        subset: the rows of the list that the dataset's labels mean, or `imagenet_a` or `imagenet_r` for their
            200 of ImageNet's 1,000 classes.

    Raises:
        InputError: classes lack a name, or there are more names than classes; a language has no names; a
            package is not installed.
    """
    rows = load_subset(subset) if isinstance(subset, str) else subset
    class_names = {}
    for language in languages:
        given = source
        if isinstance(source, dict):
            given = _pick_language(source, language, "class names in", "class_names")
        names, origin = _read_names(given, language, dataset_names)
        origin = f"class names of {language!r} in {origin}"

        if isinstance(subset, str) and len(names) != _IMAGENET:
            raise InputError(f"{origin}: {len(names)} names, but {subset} is of ImageNet's {_IMAGENET:,}")
        if rows is not None:
            if max(rows) >= len(names):
                raise InputError(f"{origin}: {len(names)} names, but the subset means row {max(rows)}")
            names = [names[row] for row in rows]
        class_names[language] = _check_names(names, n_classes, origin, dataset_names)
    return class_names


def named_classes(names: list[str | None]) -> list[int]:
    """Return the labels that have a name: only their images can be classified, among these classes."""
    return [label for label, name in enumerate(names) if name is not None]


def hash_prompts(templates: list[str], names: list[str | None]) -> str:
    """Return the SHA-256 of the templates and names in their order, which a result stores."""
    content = json.dumps([list(templates), list(names)], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def load_subset(name: str) -> list[int]:
    """Return ImageNet-1k's rows of the 200 classes of `imagenet_a` or `imagenet_r`, in the order of their
    labels.

    They are read from an installed package: from a text file of timm, or else from clip-benchmark's source.

    Raises:
        InputError: there is no such subset, or neither package is installed.
    """
    if name not in ("imagenet_a", "imagenet_r"):
        raise InputError(f"subset {name!r} is neither 'imagenet_a' nor 'imagenet_r': give the list of rows")
    if importlib.util.find_spec("timm"):
        indices = package_folder("timm") / "data" / "_info" / f"{name}_indices.txt"
        return [int(line) for line in indices.read_text("utf-8").split()]

    # clip-benchmark assigns lists of WordNet ids to these two names.
    all_ids, subset_ids = "all_imagenet_wordnet_ids", f"{name}_wnids"
    source = package_folder("clip_benchmark") / "datasets" / "builder.py"
    constants = {}
    module = ast.parse(source.read_text("utf-8"))
    for node in ast.walk(module):
        if isinstance(node, ast.Assign):
            target = getattr(node.targets[0], "id", None)
            if target in (all_ids, subset_ids):
                constants[target] = ast.literal_eval(node.value)
    return [row for row, wnid in enumerate(constants[all_ids]) if wnid in constants[subset_ids]]


def split_source(source: str) -> tuple[str, str | None]:
    """Split a source into its file or package and its key, or None: `names.json:signs` -> `("names.json",
    "signs")`.

    Anything that is not such a source is returned whole.
    """
    found = _SOURCE.fullmatch(source)
    return found.groups() if found else (source, None)


def _read_names(source: str | list, language: str, dataset_names: list[str] | None) -> tuple[list, str]:
    """Read the class names of one language, unchecked, and say where they are from."""
    if isinstance(source, list):
        return source, "class_names"
    if source == "dataset":
        return _read_dataset_names(language, dataset_names), "the dataset"
    if not _SOURCE.fullmatch(source):
        raise InputError(
            f"class_names {source!r} is neither 'dataset', a .json file, 'clip_benchmark' nor "
            "'altclip:imagenet'"
        )
    names, origin = _read_source(source, language, "classnames")
    if isinstance(names, list) and names and isinstance(names[0], list):
        names = _expand_partial(*names)
    return names, origin


def _read_dataset_names(language: str, dataset_names: list[str] | None) -> list[str]:
    if is_english(language) and dataset_names:
        return [name.replace("_", " ") for name in dataset_names]
    # Other languages are refused before any row is read, when it is unknown whether there are English names.
    lack = (
        "does not name its classes"
        if is_english(language)
        else "names its classes in English only, if at all"
    )
    wanted = f"a JSON file with {{{language!r}: [name of class 0, ...]}}"
    raise InputError(f"class names of {language!r}: the dataset {lack}; give class_names {wanted}")


def _expand_partial(indices: list[int], partial: list[str]) -> list[str | None]:
    """Expand Babel-ImageNet's form to all classes: `[1, 3], ["a", "b"]` -> `[None, "a", None, "b", ...]`."""
    names = [None] * _IMAGENET
    for index, name in zip(indices, partial, strict=True):
        names[index] = name
    return names


def _read_source(source: str, language: str, kind: str) -> tuple[list, str]:
    """Read the list for `language` from `FILE.json[:KEY]`, `clip_benchmark[:KEY]` or `altclip:KEY`.

    Args:
        kind: `classnames` or `zeroshot_classification_templates`, as clip-benchmark's files are called.

    Returns:
        The list, and the name of its file.
    """
    name, key = split_source(source)
    if name == OURS:
        files = {file.stem: file for file in NAMES.glob("*.json")}
        return _read_language(_pick(files, key, kind, OURS), None, language)
    if name != "clip_benchmark":
        return _read_language(Path(name), key, language)

    folder = package_folder("clip_benchmark") / "datasets"
    if key != _BABEL:
        path = _clip_benchmark_file(folder, language, kind)
        return _pick(read_lists(path), key or "imagenet1k", "dataset", path.name), path.name
    babel = f"{_BABEL}.json" if kind == "classnames" else "nllb_dist13b_prompts.json"
    return _read_language(folder / babel, None, language)


def _clip_benchmark_file(folder: Path, language: str, kind: str) -> Path:
    """Return the path of clip-benchmark's file for a language, such as `cn_classnames.json` for `zh`."""
    codes = {}
    for file in sorted(folder.glob(f"*_{kind}.json")):
        code, _, _ = file.name.partition("_")
        codes[_LANGUAGES_OF_COUNTRIES.get(code, code)] = code
    code = _pick_language(codes, language, f"{kind} in", "clip_benchmark")
    return folder / f"{code}_{kind}.json"


def _read_language(path: Path, key: str | None, language: str) -> tuple[list, str]:
    """Read the list under a language, and under a key where the language has several lists."""
    found = _pick_language(read_lists(path), language, "language", path.name)
    if isinstance(found, dict):
        return _pick(found, key, "key", f"{path.name} in {language!r}"), path.name
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


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it or what it imports.

    Raises:
        InputError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise InputError(f"{package} is not installed, of which data files are read: {_INSTALL[package]}")
    return Path(spec.submodule_search_locations[0])


def _pick(table: dict, key: str | None, what: str, origin: str):
    if key not in table:
        raise InputError(f"{origin} has no {what} {key!r}: there are {_first_of(list(table), 40)}")
    return table[key]


def _pick_language(table: dict, language: str, what: str, origin: str):
    """Return the value of the key that matches a language.

    Raises:
        InputError: no key matches; the message suggests the ones that may have been meant.
    """
    try:
        return table[match_language(language, table)]
    except ValueError as error:
        if "did you mean" in str(error) or "it may be" in str(error):
            raise InputError(f"{origin} has no {what} {language!r}: {error}") from error
        return _pick(table, language, what, origin)


def check_templates(templates: list[str], origin: str, *, of_file: bool = False) -> list[str]:
    """Check prompt templates, each of which has one slot `{}` and no other braces.

    Args:
        origin: the file or argument that they come from, for messages.
        of_file: accept clip-benchmark's slot `{c}`, too, and return it as `{}`.

    Raises:
        InputError: there is none, or one is of another form.
    """
    if not isinstance(templates, list | tuple):
        raise InputError(f"{origin}: {templates!r} is not a list of prompt templates")
    if not templates:
        raise InputError(f"{origin}: no prompt templates")
    checked = []
    for template in templates:
        plain = template
        if of_file and isinstance(template, str):
            plain = template.replace("{c}", "{}")
        if not has_one_slot(plain):
            raise InputError(f"template {template!r} of {origin} {ONE_SLOT}")
        checked.append(plain)
    return checked


def _check_names(
    names: list, n_classes: int | None, origin: str, dataset_names: list[str] | None
) -> list[str | None]:
    """Check that every class has a name or None, and return the names without surrounding spaces.

    Raises:
        InputError: a class has neither, there are too many names, or all are None.
    """
    if not isinstance(names, list):
        raise InputError(f"{origin}: {names!r} is no list of names")
    names = [name.strip() if isinstance(name, str) else name for name in names]
    if n_classes is None:
        n_classes = len(names)

    missing = []
    for label in range(n_classes):
        if label >= len(names) or not _is_name(names[label]):
            missing.append(label)
    if missing:
        listed = _first_of([_title(label, dataset_names or []) for label in missing])
        raise InputError(
            f"{origin}: {len(missing)} of {n_classes} classes without a name: {listed}. A name is text; null "
            "leaves a class out"
        )
    if len(names) > n_classes:
        surplus = _first_of([repr(name) for name in names[n_classes:]])
        raise InputError(f"{origin}: {len(names)} names for {n_classes} classes; too many: {surplus}")
    if not named_classes(names):
        raise InputError(f"{origin}: no class has a name")

    _warn_of_equal_names(names, origin)
    return names


def _title(label: int, dataset_names: list[str]) -> str:
    """Return a label, with the dataset's own name of the class where it has one: `3 (cat)`."""
    return f"{label} ({dataset_names[label]})" if label < len(dataset_names) else str(label)


def _warn_of_equal_names(names: list[str | None], origin: str) -> None:
    labels = defaultdict(list)
    for label in named_classes(names):
        labels[names[label]].append(label)
    equal = []
    for name, of_name in labels.items():
        if len(of_name) > 1:
            equal.append(f"{name!r} ({', '.join(map(str, of_name))})")
    if equal:
        warnings.warn(
            f"{origin}: {len(equal)} names stand for several classes, which no text tells apart: "
            f"{_first_of(equal)}",
            stacklevel=4,
        )


def _is_name(name: object) -> bool:
    """Check that a name is a text that is not blank, or None, for a class that is left out."""
    return name is None or isinstance(name, str) and not is_blank(name)


def _first_of(items: list[str], most: int = 10) -> str:
    """List the first items, and the number of the others."""
    listed = ", ".join(items[:most])
    n_more = len(items) - most
    return f"{listed} and {n_more} more" if n_more > 0 else listed
