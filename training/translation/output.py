"""Write what lies next to translated captions, so that the folder says what it is.

- `README.md`, the dataset card: what was translated and by which model, both licences, rows, and counts.
- `origins.yaml`: the source and the models, as every folder of data has it (`common/origins.py`).
- `source.yaml`: the folder as a source, for `--dataset OUTPUT_DIR/source.yaml`.
- `report.md`: the translations that are skipped, by language and reason, with ten examples each.
"""

import json
from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError

from common.files.names import file_name
from common.files.whole_files import write_text
from common.licences import combine, terms_of
from common.markdown import markdown_text
from common.origins import Origin, write_origins
from model_cards.licences import is_hub_id, origin_of_model
from model_cards.paths import public_path

from ..data.parallel_text import read_sources
from ..data.sources.origin import find_origins
from .quality import Checked
from .translating import TranslationArguments

# Splits that a source may have.
_SPLITS = ("train", "validation", "test")
_SHOWN = 200  # characters of a text in an example
_CARD = """---
language: {languages}
license: {license}
tags: [machine-translation]
configs:
- config_name: default
  data_files:
{files}
---
# Captions of {dataset} in {targets}

The texts in {targets} are machine translations of those in {source}. No person has read them.

{outcome}

| made of | | licence | it asks for |
|---|---|---|---|
{origins}

| split | rows |
|---|---|
{splits}

| language | model | weights | distinct texts | kept | skipped |
|---|---|---|---|---|---|
{table}

[report.md](report.md) has examples of what is skipped. `translations/` holds all translations{similarities}.
`source.yaml` names this folder for training, as `--dataset {folder}/source.yaml`.
"""


def find_all_origins(arguments: TranslationArguments, n_rows: int) -> list[Origin]:
    """Return the sources of the captions and the models that translate them, with their licences.

    The card of a model on the Hub is downloaded, where the Hub can be reached.

    Args:
        n_rows: the number of rows of all splits.

    Raises:
        InputError: a card cannot be read, or a source is none.
    """
    origins = []
    sources = read_sources(arguments.dataset)
    for source in sources:
        # Of a list only the budgets of its sources are known.
        n_taken = n_rows if len(sources) == 1 else source.get("rows")
        origins += find_origins(source["data"], arguments.languages, n_taken)
    for name in arguments.all_models:
        origins.append(_origin_of_translator(name, arguments.model_license))
    return origins


def _origin_of_translator(name: str, license: str | None) -> Origin:
    """Return a translation model with the licence that is given, or the one that its card states.

    Raises:
        InputError: the card cannot be read.
    """
    if license is not None:
        return Origin(name=public_path(name), role="model", licence=license, terms=terms_of(license))
    if is_hub_id(name):
        try:
            hf_hub_download(name, "README.md")
        except (OSError, HFValidationError):
            pass  # offline, or without a card: then it is looked up without one, and may be unknown
    return replace(origin_of_model(name), name=public_path(name))


def unknown_licences(origins: list[Origin]) -> str | None:
    """Say in one line which licences are unknown, and what to do; None if all are known."""
    unknown = [origin.name for origin in origins if origin.licence is None]
    if not unknown:
        return None
    return (
        f"The licence of {' and '.join(unknown)} is not known: read what the owners say before you use or "
        "share the output, and name that of a model by --model_license."
    )


def write_record(
    splits: dict[str, Dataset],
    checked: dict[str, Checked],
    origins: list[Origin],
    arguments: TranslationArguments,
) -> None:
    """Write `origins.yaml`, `source.yaml`, `report.md` and the dataset card into the output folder.

    Args:
        splits: rows of the captions with their translations, by split.
        checked: the translations by language.
        origins: as `find_all_origins` returns them.
    """
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_origins(folder, origins)
    source = _source_of(splits, origins, arguments)
    if source is not None:
        # Values of JSON are YAML too.
        lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in source.items()]
        write_text(folder / "source.yaml", "".join(lines))
    write_text(folder / "report.md", "\n".join(_report_lines(checked, arguments)) + "\n")
    write_text(folder / "README.md", _card_of(splits, checked, origins, arguments))


def _source_of(
    splits: dict[str, Dataset], origins: list[Origin], arguments: TranslationArguments
) -> dict | None:
    """Return the keys of `source.yaml`; None if no split has a name that those of sources have."""
    known = {split: split for split in _SPLITS if split in splits}
    if not known:
        return None
    rows = next(iter(splits.values()))
    columns = {"captions": {language: f"captions.{language}" for language in rows.features["captions"]}}
    layout = "columns"
    if "image" in rows.column_names:
        columns["image"] = "image"
        layout = "images"
    outcome = combine(origins)
    source = {
        "layout": layout,
        "dataset": ".",
        "splits": known,
        "columns": columns,
        "kind": "machine",
        "n_rows": len(splits[next(iter(known))]),
        "licence": "; ".join(origin.label for origin in origins),
        "notes": f"Texts in {' '.join(arguments.target_languages)} are machine translations of those in "
        f"{arguments.source_language}. {outcome.sentence}",
    }
    if not outcome.unknown:
        source["terms"] = outcome.terms
    return source


def _report_lines(checked: dict[str, Checked], arguments: TranslationArguments) -> list[str]:
    """Return the lines of `report.md`."""
    source = arguments.source_language
    lines = ["# Translations", "", "| language | outcome | texts |", "|---|---|---|"]
    for language, translations in checked.items():
        lines.append(f"| {language} | kept | {len(translations.kept)} |")
        for reason, count in sorted(translations.counts.items()):
            lines.append(f"| {language} | {reason} | {count} |")
    for language, translations in checked.items():
        for reason, examples in sorted(translations.examples.items()):
            lines += ["", f"## {language}: {reason}", "", f"| {source} | {language} |", "|---|---|"]
            for sentence, translation in examples:
                lines.append(f"| {_shown(sentence)} | {_shown(translation)} |")
    return lines


def _shown(text: str) -> str:
    """Return a text for a cell of a table, cut where it is long."""
    return markdown_text(text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ...")


def _card_of(
    splits: dict[str, Dataset],
    checked: dict[str, Checked],
    origins: list[Origin],
    arguments: TranslationArguments,
) -> str:
    """Return the dataset card.

    It lists the files of the splits, so that `datasets` does not take `translations/` for rows.
    """
    files = "\n".join(f"  - split: {split}\n    path: data/{file_name(split)}-*" for split in splits)
    of_origins = []
    for origin in origins:
        terms = "not known" if origin.terms is None else ", ".join(origin.terms) or "nothing"
        licence = markdown_text(origin.licence or "not stated")
        of_origins.append(f"| {markdown_text(origin.name)} | {origin.role} | {licence} | {terms} |")
    of_languages = []
    for language, translations in checked.items():
        made = translations.made_by
        name = markdown_text(public_path(made["model"]))
        counts = f"{translations.n_sentences} | {len(translations.kept)} | {describe(translations)}"
        of_languages.append(f"| {language} | {name} | `{made['weights'][:16]}` | {counts} |")
    outcome = combine(origins)
    captions = next(iter(splits.values())).features["captions"]
    has_similarities = arguments.similarity_model_name_or_path is not None
    return _CARD.format(
        languages=json.dumps(list(captions)),
        license=outcome.hub_licence,
        files=files,
        dataset=markdown_text(public_path(arguments.dataset)),
        source=arguments.source_language,
        targets=", ".join(arguments.target_languages),
        outcome=markdown_text(" ".join(filter(None, [outcome.sentence, unknown_licences(origins)]))),
        origins="\n".join(of_origins),
        splits="\n".join(f"| {split} | {len(rows)} |" for split, rows in splits.items()),
        table="\n".join(of_languages),
        similarities=", and their similarities to the texts" if has_similarities else "",
        folder=Path(arguments.output_dir).name,
    )


def describe(translations: Checked) -> str:
    """Count the skipped translations of a language by reason: "3 empty, 1 repetition", or "none"."""
    counts = [f"{count} {reason}" for reason, count in sorted(translations.counts.items())]
    return ", ".join(counts) or "none"


__all__ = ["describe", "find_all_origins", "unknown_licences", "write_record"]
