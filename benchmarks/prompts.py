"""Sentences and class names for zero-shot classification, from our own files, from a user's, or from an
installed clip-benchmark.

Our sentences are written for this package, in 19 languages: `simple` (the three of
`modeling_altclip.PROMPTS`), `full` (those and 21 on distance, light, age and manner of drawing, for
ImageNet-like tasks) and themes such as `satellite` or `food`, in `prompts/<language>.json`. They are not
measured on real photographs. Nothing of clip-benchmark is imported or copied: its data files are read where
they lie. ImageNet's 1,000 classes, which it has in en, zh, it, ja and ar, have Korean names of ours,
`class_names/imagenet.json`: a language model wrote them from the English and from WordNet's definitions, and
no native speaker has proofread them.
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
SOURCE = re.compile(rf"(.+\.json|clip_benchmark|{OURS})(?::(.+))?")
# clip-benchmark names these files by country, and keeps Babel-ImageNet, which is partial, in files of another
# form.
COUNTRIES = {"zh": "cn", "ja": "jp"}
BABEL = "babel_imagenet"
IMAGENET = 1000
INSTALL = {
    "clip_benchmark": "pip install --no-deps clip-benchmark==1.6.2",
    "timm": "pip install --no-deps timm",
}


def load_templates(which: str | list[str], language: str) -> list[str]:
    """Load the prompt templates of a language, each with a slot `{}` for the class name.

    Args:
        which: `simple`, `full` or a theme of ours; the sentences themselves, or the only one; `FILE.json`,
            which holds `{language: [sentence, ...]}`, or `FILE.json:SET` of `{language: {set: [...]}}`, with
            `{}` or, as clip-benchmark writes it, `{c}`; `clip_benchmark` (ImageNet's) or
            `clip_benchmark:DATASET`, where `clip_benchmark:babel_imagenet` has NLLB's translations into 90
            languages.

    Raises:
        InputError: there is no such set, or none in this language; a sentence has no slot; clip-benchmark is
            not installed.
    """
    if not isinstance(which, str) or "{" in which:
        return check_templates([which] if isinstance(which, str) else list(which), "templates")
    if SOURCE.fullmatch(which):
        return check_templates(
            *read_source(which, language, "zeroshot_classification_templates"), of_file=True
        )
    try:
        language = match_language(language, PROMPTS)
    except ValueError as error:
        raise InputError(
            f"templates {which!r}: none are written in {language!r}: {error}, or give a JSON file of yours"
        ) from error
    path = SETS / f"{language}.json"
    sets = {"simple": []} | read_lists(path)
    chosen = pick(sets, which, "set of templates", path.name)
    return [*PROMPTS[language], *chosen] if which in ("simple", "full") else chosen


def load_class_names(
    source: str | dict[str, str | list],
    languages: list[str],
    n_classes: int | None = None,
    *,
    dataset_names: list[str] | None = None,
    subset: str | list[int] | None = None,
) -> dict[str, list[str | None]]:
    """Load class names by language: name `i` for label `i`.

    A class that the language does not name is None, and its images are left out.

    Args:
        source: `dataset` (English), `FILE.json` with `{language: [name, ...]}` (null for None) or
            Babel-ImageNet's `{language: [indices, names]}`, `FILE.json:KEY` of `{language: {key: [...]}}`,
            `clip_benchmark` (ImageNet's) or `clip_benchmark:DATASET`, `altclip:imagenet` (ours, in Korean);
            or a dict that gives each language one of these, or the names.
        n_classes: how many classes the dataset has; by default not checked.
        dataset_names: the dataset's own, of its `ClassLabel`; underscores are read as spaces.
        subset: the rows of the list that the dataset's labels mean, or `imagenet_a` or `imagenet_r`, for
            their 200 of ImageNet's 1,000.

    Raises:
        InputError: classes without a name, or more names than classes: a list of them; no names in a
            language; not installed.
    """
    rows = load_subset(subset) if isinstance(subset, str) else subset
    class_names = {}
    for language in languages:
        given = (
            pick_language(source, language, "class names in", "class_names")
            if isinstance(source, dict)
            else source
        )
        names, origin = read_names(given, language, dataset_names)
        if isinstance(subset, str) and len(names) != IMAGENET:
            raise InputError(
                f"class names of {language!r} in {origin}: {len(names)} names, but {subset} is of ImageNet's "
                f"{IMAGENET:,}"
            )
        if rows is not None and max(rows) >= len(names):
            raise InputError(
                f"class names of {language!r} in {origin}: {len(names)} names, but the subset means row "
                f"{max(rows)}"
            )
        names = names if rows is None else [names[row] for row in rows]
        class_names[language] = check_names(
            names, n_classes, f"class names of {language!r} in {origin}", dataset_names
        )
    return class_names


def named_classes(names: list[str | None]) -> list[int]:
    """Return the labels that have a name: only their images can be classified."""
    return [label for label, name in enumerate(names) if name is not None]


def hash_prompts(templates: list[str], names: list[str | None]) -> str:
    """Compute the SHA-256 of prompt templates and class names, in order, so that a result identifies its
    prompts.
    """
    return hashlib.sha256(json.dumps([list(templates), list(names)], ensure_ascii=False).encode()).hexdigest()


def load_subset(name: str) -> list[int]:
    """Return ImageNet-1k's rows of the classes of `imagenet_a` or `imagenet_r`, in the order of their labels.

    They are read from an installed package.

    timm lists them in a text file; clip-benchmark in its source, as WordNet ids.
    """
    if name not in ("imagenet_a", "imagenet_r"):
        raise InputError(f"subset {name!r} is neither 'imagenet_a' nor 'imagenet_r': give the list of rows")
    if importlib.util.find_spec("timm"):
        indices = package_folder("timm") / "data" / "_info" / f"{name}_indices.txt"
        return [int(line) for line in indices.read_text("utf-8").split()]
    constants = {}
    for node in ast.walk(
        ast.parse((package_folder("clip_benchmark") / "datasets" / "builder.py").read_text("utf-8"))
    ):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in (
            "all_imagenet_wordnet_ids",
            f"{name}_wnids",
        ):
            constants[node.targets[0].id] = ast.literal_eval(node.value)
    return [
        row
        for row, wnid in enumerate(constants["all_imagenet_wordnet_ids"])
        if wnid in constants[f"{name}_wnids"]
    ]


def split_source(source: str) -> tuple[str, str | None]:
    """Split a source into its file or package and the key behind its colon; any other text is returned whole.

    Otherwise all of it, as it stands.
    """
    found = SOURCE.fullmatch(source)
    return found.groups() if found else (source, None)


def read_names(source: str | list, language: str, dataset_names: list[str] | None) -> tuple[list, str]:
    """Return class names as they are in their source, and the name of the source."""
    if isinstance(source, list):
        return source, "class_names"
    if source == "dataset":
        if not is_english(language) or not dataset_names:
            # Names in other languages are asked for before any row was read, and it is known whether there
            # are English ones.
            lack = (
                "does not name its classes"
                if is_english(language)
                else "names its classes in English only, if at all"
            )
            wanted = f"a JSON file with {{{language!r}: [name of class 0, ...]}}"
            raise InputError(f"class names of {language!r}: the dataset {lack}; give class_names {wanted}")
        return [name.replace("_", " ") for name in dataset_names], "the dataset"
    if not SOURCE.fullmatch(source):
        raise InputError(
            f"class_names {source!r} is neither 'dataset', a .json file, 'clip_benchmark' nor "
            "'altclip:imagenet'"
        )
    names, origin = read_source(source, language, "classnames")
    if isinstance(names, list) and names and isinstance(names[0], list):
        indices, partial = names
        names = [None] * IMAGENET
        for index, name in zip(indices, partial, strict=True):
            names[index] = name
    return names, origin


def read_source(source: str, language: str, kind: str) -> tuple[list, str]:
    """Read the list for a language from `FILE.json[:KEY]`, `clip_benchmark[:KEY]` or `altclip:KEY`.

    Args:
        kind: `classnames` or `zeroshot_classification_templates`, as clip-benchmark names its files.

    Returns:
        The list, and the name of its file.
    """
    name, key = split_source(source)
    if name == "clip_benchmark":
        return _read_clip_benchmark(key or "imagenet1k", language, kind)
    if name == OURS:
        files = {file.stem: file for file in NAMES.glob("*.json")}
        return _read_by_language(pick(files, key, kind, OURS), None, language)
    return _read_by_language(Path(name), key, language)


def _read_clip_benchmark(key: str, language: str, kind: str) -> tuple[list, str]:
    """Read a list of the installed clip-benchmark, whose files are of a language each, but for those of
    Babel-ImageNet.
    """
    folder = package_folder("clip_benchmark") / "datasets"
    if key == BABEL:
        file = f"{BABEL}.json" if kind == "classnames" else "nllb_dist13b_prompts.json"
        return _read_by_language(folder / file, None, language)

    # Its files are named after languages, but for some that are named after countries: cn_classnames.json is
    # Chinese.
    language_of = {country: code for code, country in COUNTRIES.items()}
    codes = {}
    for file in sorted(folder.glob(f"*_{kind}.json")):
        code = file.name.partition("_")[0]
        codes[language_of.get(code, code)] = code
    code = pick_language(codes, language, f"{kind} in", "clip_benchmark")
    path = folder / f"{code}_{kind}.json"
    return pick(read_lists(path), key, "dataset", path.name), path.name


def _read_by_language(path: Path, key: str | None, language: str) -> tuple[list, str]:
    """Read the list for a language from a file `{language: [...]}` or `{language: {key: [...]}}`."""
    found = pick_language(read_lists(path), language, "language", path.name)
    if isinstance(found, dict):
        return pick(found, key, "key", f"{path.name} in {language!r}"), path.name
    if key is not None:
        raise InputError(f"{path.name} has one list for {language!r}, no {key!r}: leave away ':{key}'")
    return found, path.name


def read_lists(path: Path) -> dict:
    """Read a JSON file of class names or prompt templates, by language."""
    content = read_json(path, "file")
    if not isinstance(content, dict):
        raise InputError(f"file {str(path)!r} has to be a mapping {{language: [...]}}")
    return content


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Asked for by its top-level name, it is not imported, nor is what it imports.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise InputError(f"{package} is not installed, of which data files are read: {INSTALL[package]}")
    return Path(spec.submodule_search_locations[0])


def pick(table: dict, key: str | None, what: str, origin: str):
    if key not in table:
        raise InputError(f"{origin} has no {what} {key!r}: there are {some(list(table), 40)}")
    return table[key]


def pick_language(table: dict, language: str, what: str, origin: str):
    """Return the value of the key that is the language; the error suggests one that may have been meant."""
    try:
        return table[match_language(language, table)]
    except ValueError as error:
        if "did you mean" in str(error) or "it may be" in str(error):
            raise InputError(f"{origin} has no {what} {language!r}: {error}") from error
        return pick(table, language, what, origin)


def check_templates(templates: list[str], origin: str, *, of_file: bool = False) -> list[str]:
    """Return the prompt templates, each with one slot `{}` and no other braces.

    In a file the slot may be `{c}`, as clip-benchmark writes it.

    Raises:
        InputError: there is none, or one is of another form.
    """
    if not isinstance(templates, list | tuple):
        raise InputError(f"{origin}: {templates!r} is no list of sentences")
    if not templates:
        raise InputError(f"{origin}: no sentences")
    read = []
    for template in templates:
        plain = template.replace("{c}", "{}") if of_file and isinstance(template, str) else template
        if not has_one_slot(plain):
            raise InputError(f"template {template!r} of {origin} {ONE_SLOT}")
        read.append(plain)
    return read


def check_names(
    names: list, n_classes: int | None, origin: str, dataset_names: list[str] | None
) -> list[str | None]:
    """Return names without surrounding spaces, one for every class.

    Equal names are warned of: no text tells such classes apart.
    """
    if not isinstance(names, list):
        raise InputError(f"{origin}: {names!r} is no list of names")
    n_classes = len(names) if n_classes is None else n_classes
    names = [name.strip() if isinstance(name, str) else name for name in names]
    titles = [f"{label} ({title})" for label, title in enumerate(dataset_names or [])]
    missing = [label for label in range(n_classes) if label >= len(names) or not is_name(names[label])]
    if missing:
        listed = some([titles[label] if label < len(titles) else str(label) for label in missing])
        raise InputError(
            f"{origin}: {len(missing)} of {n_classes} classes without a name: {listed}. A name is text; null "
            "leaves a class out"
        )
    if len(names) > n_classes:
        raise InputError(
            f"{origin}: {len(names)} names for {n_classes} classes; too many: "
            f"{some([repr(n) for n in names[n_classes:]])}"
        )
    labels = defaultdict(list)
    for label in named_classes(names):
        labels[names[label]].append(label)
    if not labels:
        raise InputError(f"{origin}: no class has a name")
    equal = [f"{name!r} ({', '.join(map(str, rows))})" for name, rows in labels.items() if len(rows) > 1]
    if equal:
        warnings.warn(
            f"{origin}: {len(equal)} names stand for several classes, which no text tells apart: "
            f"{some(equal)}",
            stacklevel=3,
        )
    return names


def is_name(name: object) -> bool:
    """Return whether a name is a text that is not blank, or None for a class that is left out."""
    return name is None or isinstance(name, str) and not is_blank(name)


def some(items: list[str], most: int = 10) -> str:
    """Format the first of some values, and how many more there are."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
