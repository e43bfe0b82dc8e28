"""Write small copies of the public corpora, in the layout of their Hub repositories, for tests.

Row `i` is "en 3" in English for i = 3, and "de 3" in German, as in every language. A split other than
`train`, and columns that a source does not name, are there as well. What must not be read is broken.
"""

from pathlib import Path

import yaml
from datasets import Dataset, Features, Image, List, Translation, Value

from .replicas import BROKEN, encoded, write_tar

N = 6
TEXT = Value("string")


def texts_of(language: str) -> list[str]:
    return [f"{language} {number}" for number in range(N)]


def write_source(source, folder: Path, languages: list[str]) -> None:
    """Write a repository in the layout that the source states, with the configurations of some languages."""
    writers = {
        "pairs": write_pairs,
        "translation": write_translations,
        "columns": write_columns,
        "language_column": write_language_column,
        "language_lists": write_language_lists,
        "joined": write_joined,
        "images": write_tars if source.dataset.endswith("-wds") or source.data_files else write_images,
        "image_lists": write_image_lists,
        "addresses": write_addresses,
    }
    writers[source.layout](source, folder, languages)


def write_configs(source, folder: Path, tables: dict[str, tuple[dict, dict]]) -> None:
    """Write parquet files and a card, as `push_to_hub` does: one folder a configuration, or `data`.

    Args:
        tables: `{configuration: (columns, features)}`; those of no language have the configuration "default".
    """
    configs = []
    for config, (columns, features) in tables.items():
        below = "data" if config == "default" else config
        (folder / below).mkdir(parents=True, exist_ok=True)
        files = []
        for name in dict.fromkeys([*source.splits.values(), "held_out"]):
            path = f"{below}/{name}-00000-of-00001.parquet"
            if name == source.splits.get("train", "dev"):
                Dataset.from_dict(columns, Features(features)).to_parquet(folder / path)
            else:
                (folder / path).write_bytes(BROKEN)
            files.append({"split": name, "path": f"{below}/{name}-*"})
        configs.append({"config_name": config, "data_files": files})
    card = {"license": "cc-by-4.0", "configs": configs}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")


def write_pairs(source, folder: Path, languages: list[str]) -> None:
    english, translation = source.columns["english"], source.columns["translation"]
    tables = {}
    for language in languages:
        columns = {english: texts_of("en"), translation: texts_of(language)}
        tables[source.configs[language]] = (columns, {english: TEXT, translation: TEXT})
    write_configs(source, folder, tables)


def write_translations(source, folder: Path, languages: list[str]) -> None:
    column = source.columns["translation"]
    tables = {}
    for language in languages:
        config = source.configs[language]
        keys = config.split("-")
        spoken = {key: language if key != "en" else "en" for key in keys}
        rows = []
        for number in range(N):
            rows.append({key: f"{name} {number}" for key, name in spoken.items()})
        tables[config] = ({column: rows}, {column: Translation(keys)})
    write_configs(source, folder, tables)


def write_columns(source, folder: Path, languages: list[str]) -> None:
    captions = source.columns["captions"]
    columns = {column: texts_of(language) for language, column in captions.items()}
    features = dict.fromkeys(columns, TEXT) | {"id": Value("int64")}
    if source.data_files:
        folder.mkdir(parents=True)
        (path,) = source.data_files.values()
        Dataset.from_dict(columns).to_json(folder / path)
        (folder / "other.jsonl").write_bytes(BROKEN)
        return
    write_configs(source, folder, {"default": (columns | {"id": list(range(N))}, features)})


def write_language_column(source, folder: Path, languages: list[str]) -> None:
    """Write rows whose languages take turns."""
    names = source.columns
    turns = [languages[number % len(languages)] for number in range(N)]
    columns = {
        names["english"]: texts_of("en"),
        names["translation"]: [f"{language} {number}" for number, language in enumerate(turns)],
        names["language"]: [source.codes[language] for language in turns],
    }
    write_configs(source, folder, {"default": (columns, dict.fromkeys(columns, TEXT))})


def write_language_lists(source, folder: Path, languages: list[str]) -> None:
    names = source.columns
    lists = []
    for number in range(N):
        lists.append([[source.codes[language], f"{language} {number}"] for language in languages])
    columns = {
        "id": [str(number) for number in range(N)],
        names["url"]: [f"https://example.org/{number}.jpg" for number in range(N)],
        names["english"]: texts_of("en"),
        names["translations"]: lists,
    }
    features = dict.fromkeys(columns, TEXT) | {names["translations"]: List(List(TEXT))}
    write_configs(source, folder, {"default": (columns, features)})


def write_joined(source, folder: Path, languages: list[str]) -> None:
    """Write the rows of each language in an order of its own."""
    tables = {}
    for shift, language in enumerate(["en", *languages]):
        order = [(number + shift) % N for number in range(N)]
        columns = {
            source.columns["id"]: order,
            source.columns["text"]: [f"{language} {number}" for number in order],
        }
        features = {source.columns["id"]: Value("int64"), source.columns["text"]: TEXT}
        tables[source.configs[language]] = (columns, features)
    write_configs(source, folder, tables)


def write_images(source, folder: Path, languages: list[str]) -> None:
    images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in range(N)]
    columns = {source.columns["image"]: images}
    features = {source.columns["image"]: Image()}
    for language, column in source.columns["captions"].items():
        outer, _, field = column.partition(".")
        if field:  # the texts of an image are in lists beside their ids
            columns[outer] = [
                {"id": [number], field: [text]} for number, text in enumerate(texts_of(language))
            ]
            features[outer] = {"id": List(Value("int64")), field: List(TEXT)}
        else:
            columns[column] = texts_of(language)
            features[column] = TEXT
    write_configs(source, folder, {source.config or "default": (columns, features)})


def write_image_lists(source, folder: Path, languages: list[str]) -> None:
    """Write rows with lists of languages and texts: one text is missing, and the last code is not named."""
    outer, _, of_codes = source.columns["language"].partition(".")
    of_texts = source.columns["captions"].partition(".")[2]
    names = source.languages
    codes = [source.codes[name] for name in (names[0], names[1], names[-1])] + ["xx-unnamed"]
    lists = []
    for number in range(N):
        texts = [f"{names[0]} {number}", None, f"{names[-1]} {number}", "of no language"]
        lists.append({of_codes: codes, "page_title": ["title"] * 4, of_texts: texts})
    images = [{"bytes": encoded(number), "path": None} for number in range(N)]
    fields = {of_codes: List(TEXT), "page_title": List(TEXT), of_texts: List(TEXT)}
    columns = {source.columns["image"]: images, outer: lists}
    write_configs(source, folder, {"default": (columns, {source.columns["image"]: Image(), outer: fields})})


def write_tars(source, folder: Path, languages: list[str]) -> None:
    """Write two tars of the training split, each image with its text and metadata."""
    extension = source.columns["image"]
    ((language, column),) = source.columns["captions"].items()
    for shard in range(2):
        members = {}
        for number in range(3 * shard, 3 * shard + 3):
            key = f"{number:09d}"
            members[f"{key}.{extension}"] = encoded(number, extension)
            members[f"{key}.{column}"] = f"{language} {number}".encode()
            members[f"{key}.json"] = b'{"width": 8}'
        name = f"{source.name}-train-{shard:04d}.tar"
        if source.data_files:
            name = source.data_files["train"].replace("*", f"{shard:05d}")
        write_tar(folder / name, members)
    for split, pattern in (source.data_files or {}).items():
        if split != "train":
            path = folder / pattern.replace("*", "00000")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(BROKEN)
    (folder / "README.md").write_text("---\nlicense: other\n---\n")


def write_addresses(source, folder: Path, languages: list[str]) -> None:
    captions = source.columns["captions"]
    text = captions if isinstance(captions, str) else next(iter(captions.values()))
    columns = {source.columns["url"]: ["https://example.org/0.jpg"], text: ["a dog"]}
    if "language" in source.columns:
        columns[source.columns["language"]] = ["en"]
    write_configs(source, folder, {"default": (columns, dict.fromkeys(columns, TEXT))})
