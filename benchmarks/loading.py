"""Load models and captioned datasets from a local folder or the Hub, with errors that a user can act on."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from zipfile import BadZipFile

import torch
from datasets import Dataset, Image, IterableDataset, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from tokenizers.normalizers import Lowercase, Sequence
from transformers import AutoModel, AutoProcessor, GemmaTokenizer, PreTrainedModel, ProcessorMixin

from modeling_altclip.languages_altclip import match_language

from .endings import files_below
from .json_files import refuse_repeated_keys
from .models.kinds import (
    TWO_TOWERS,
    Kind,
    check_end_of_text,
    check_folder,
    check_kind,
    check_tokenizer,
    readable,
)
from .models.libraries import check_library, load_adapted
from .models.low_rank import base_of, is_low_rank, merge_low_rank
from .picture_folders import source_of
from .recipe import InputError
from .tars import of_tars
from .unread_files import odd_endings, refuse_left_out

# Errors of reading a dataset: of the Hub; of an unknown split or a text that is not UTF-8; of rows that
# cannot be read; of half a zip.
READING = (OSError, ValueError, DatasetGenerationError, BadZipFile)
_WILDCARDS = set("*?[]")
_TEXTS = {".csv", ".json", ".jsonl", ".tsv", ".txt"}
# Of a model's repository the cache holds one of these.
_NAMED_FILES = ("config.json", "modules.json", "open_clip_config.json")


def load_model(
    name_or_path: str,
    *,
    argument: str = "model",
    kind: Kind = TWO_TOWERS,
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a model in float32 with its processor, as `embed_texts` and `embed_images` take them.

    Args:
        name_or_path: a folder that `save_pretrained` wrote or a Hub id; the folder of a LoRA, which is merged
            into its base; or a model of another library, as `open_clip:NAME`, `sentence_transformers:NAME` or
            `m_clip:NAME` (see `models.libraries`), which is a small module with the same two methods.
        argument: the option that the model was given with, for messages.
        kind: the kind of model that is needed.
        attn_implementation: transformers' option, for its own models.

    Raises:
        InputError: the folder, its configuration, weights or processor are missing in whole or in part; the
            model is of another kind; a LoRA names no base or does not fit it; or a library is missing.

    Example:

    ```python
    >>> from benchmarks import load_model

    >>> model, processor = load_model("outputs/miniature/altclip")  # or "BAAI/AltCLIP-m9"
    >>> model.dtype
    torch.float32
    ```
    """
    if library := check_library(name_or_path):
        return load_adapted(library, name_or_path.removeprefix(f"{library}:"), load_model)
    if is_low_rank(name_or_path):
        base = load_model(
            base_of(name_or_path, argument),
            argument=argument,
            kind=kind,
            attn_implementation=attn_implementation,
        )
        return merge_low_rank(name_or_path, *base, argument)

    check_kind(argument, name_or_path, kind)
    with readable(argument, name_or_path):
        model = AutoModel.from_pretrained(
            name_or_path, dtype=torch.float32, attn_implementation=attn_implementation
        )
        processor = AutoProcessor.from_pretrained(name_or_path)
    if not isinstance(processor, ProcessorMixin):
        raise InputError(
            f"{argument} {name_or_path!r} has no processor of texts and images, "
            f"only a {type(processor).__name__}: "
            "save an AltCLIPProcessor(image_processor, tokenizer) there"
        )
    check_tokenizer(argument, name_or_path, processor.tokenizer)
    check_end_of_text(argument, name_or_path, model.config, processor.tokenizer)
    if "siglip" in model.config.model_type and isinstance(processor.tokenizer, GemmaTokenizer):
        _lower_case(processor.tokenizer)
    return model, processor


def save_model(
    model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path, state_dict: dict | None = None
) -> None:
    """Save a model and its processor as one complete folder, with the code of our own classes.

    Args:
        state_dict: weights to save in place of the model's own, which may be sharded.
    """
    # The model first: beside its config.json, the processor's files name no class.
    model.save_pretrained(folder, state_dict=state_dict)
    processor.save_pretrained(folder)


def check_model(name_or_path: str, argument: str = "model") -> None:
    """Check a model to evaluate before anything is loaded; a Hub id is not looked up.

    Args:
        argument: the option that the model was given with, for messages.

    Raises:
        InputError: the folder does not exist, or holds a model of another kind; or the prefix before a colon
            is no library that has an adapter.
    """
    if check_library(name_or_path) is None:
        check_folder(argument, name_or_path)
        if is_low_rank(name_or_path):
            check_model(base_of(name_or_path, argument), argument)
        elif Path(name_or_path).exists():
            check_kind(argument, name_or_path, TWO_TOWERS)


def _lower_case(tokenizer: GemmaTokenizer) -> None:
    """Make a tokenizer lower-case its texts, as SigLIP 2 was trained.

    SigLIP 2's checkpoints of one image size name Gemma's tokenizer, which keeps capitals. Those of any size
    (NaFlex) name one of their own that does not (transformers#43101).
    """
    backend = tokenizer.backend_tokenizer
    backend.normalizer = Sequence([Lowercase(), backend.normalizer])


def revision_of(name_or_path: str) -> str | None:
    """Return the Hub commit that a model was just loaded from; None for a folder.

    A name of several models, `TEXT+IMAGE`, gives their commits joined by `+`.
    """
    commits = [commit_of(part.rpartition(":")[2]) for part in name_or_path.split("+")]
    return "+".join(commit for commit in commits if commit) or None


def commit_of(repository: str) -> str | None:
    """Return the commit at which the cache holds a Hub repository; None if it cannot be one."""
    if Path(repository).exists():
        return None
    try:
        paths = [try_to_load_from_cache(repository, name) for name in _NAMED_FILES]
    except HFValidationError:  # an architecture with a file of weights, as open_clip:NAME/FILE
        return None
    for path in paths:
        if isinstance(path, str):  # else it is not in the cache, or not in the repository
            return Path(path).parent.name
    return None


def load_rows(dataset: str, split: str, columns: list[str], name: str | None = None) -> Dataset:
    """Load one split of a folder or Hub dataset that has all of `columns`.

    Args:
        name: the configuration, if the dataset has several.

    Raises:
        InputError: no such folder, dataset or split, or a column is missing.
    """
    check_folder("dataset", dataset)
    try:
        source = source_of(dataset, name)
        if source["path"] == dataset:
            source["data_files"] = files_of(dataset, name, split)
        rows = open_rows(split, **source)
    except InputError:
        raise
    except READING as error:
        raise InputError(
            f"dataset {dataset!r}, split {split!r} cannot be loaded: {what_is_wrong(dataset, error)}"
        ) from error

    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise InputError(
            f"dataset {dataset!r} has no column {', '.join(missing)}: it has {', '.join(rows.column_names)}"
        )
    return rows


def what_is_wrong(dataset: str, error: Exception) -> str:
    """Describe why a dataset cannot be read; name a file that is not UTF-8, which `datasets` does not do."""
    folder = Path(dataset)
    if folder.is_dir():
        for path in files_below(folder, _TEXTS):
            try:
                for _ in path.open(encoding="utf-8"):
                    pass
            except UnicodeDecodeError as wrong:
                return f"{path} is not UTF-8, {wrong}: save it as UTF-8"
        odd = odd_endings(folder)
        if odd:
            return odd

    said = str(error.__cause__ or error)
    if folder.is_dir() and _WILDCARDS & set(dataset):
        wildcards = " ".join(sorted(_WILDCARDS))
        said += f" (`datasets` takes {wildcards} in a folder's name for wildcards: rename it)"
    return said


def open_rows(split: str, *, streaming: bool = False, **source) -> Dataset | IterableDataset:
    """Open a split as `load_dataset` does, but with the reader of `tars` for tars of images."""
    tars = of_tars(load_dataset_builder(**source))
    if tars is None:
        return load_dataset(**source, split=split, streaming=streaming)
    if streaming:
        return tars.as_streaming_dataset(split=split)
    tars.download_and_prepare()
    return tars.as_dataset(split=split)


def files_of(dataset: str, name: str | None, split: str) -> dict[str, list[str]] | None:
    """List a folder's files of one split for `load_dataset`; None for a Hub dataset, which has a revision.

    Without the list, `datasets` caches a folder with a card under the card alone, and would give old rows
    after the files were written anew. Files of other splits are left out, unless `split` is a slice such as
    `train[:100]`, which only `datasets` can parse.

    Raises:
        InputError: as `refuse_left_out` and `refuse_repeated_keys`.
    """
    if not Path(dataset).is_dir():
        return None
    files = load_dataset_builder(dataset, name).config.data_files
    by_split = {str(name): list(paths) for name, paths in files.items()}
    refuse_left_out(dataset, by_split)
    if split in by_split:
        by_split = {split: by_split[split]}
    refuse_repeated_keys(chain(*by_split.values()))
    return by_split


def rename_image(rows: Dataset | IterableDataset, column: str) -> Dataset | IterableDataset:
    """Return the same rows with the images of `column`, undecoded, in the column `image`."""
    # Before the column is renamed: renaming a stream's column decodes it and encodes it once more.
    rows = rows.cast_column(column, Image(decode=False))
    return rows if column == "image" else rows.rename_column(column, "image")


def check_languages(requested: list[str] | None, available: list[str]) -> list[str]:
    """Return the requested languages, or all available ones, in the spelling under which they are available.

    Args:
        requested: the requested languages, which are deduplicated; None or an empty list for all.
        available: the available languages.

    Raises:
        InputError: one is not available, may be one of several, or is a country's code, say; the message asks
            what was meant.
    """
    if not requested:
        return available
    found = [check_language(language, available) for language in requested]
    return list(dict.fromkeys(found))


def check_language(requested: str, available: Iterable[str], lacking: str = "no text in language") -> str:
    """Return the available language that matches the requested one; see `match_language`.

    Args:
        requested: the requested language.
        available: the available languages.
        lacking: the beginning of the error message.

    Raises:
        InputError: none matches, or several do.
    """
    try:
        return match_language(requested, available)
    except ValueError as error:
        raise InputError(f"{lacking} {requested}: {error}") from error


def find_language(requested: str, available: Iterable[str]) -> str | None:
    """Return the available language that matches the requested one, or None; see `check_language`."""
    try:
        return match_language(requested, available)
    except ValueError:
        return None
