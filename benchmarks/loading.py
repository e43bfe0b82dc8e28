"""Models and captioned datasets from a folder here or from the Hub, with errors a user can act on."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from zipfile import BadZipFile

import torch
from datasets import Dataset, IterableDataset, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from tokenizers.normalizers import Lowercase, Sequence
from transformers import AutoModel, AutoProcessor, GemmaTokenizer, PreTrainedModel, ProcessorMixin

from modeling_altclip.languages_altclip import match_language

from .adapters import INSTALL, load_adapted
from .endings import files_below
from .json_files import refuse_repeated_keys
from .kinds import TWO_TOWERS, Kind, check_end_of_text, check_folder, check_kind, check_tokenizer, readable
from .left_out import odd_endings, refuse_left_out
from .low_rank import base_of, is_low_rank, merge_low_rank
from .picture_folders import source_of
from .recipe import InputError
from .tars import of_tars

# Of the Hub, of an unknown split or a text that is not UTF-8, of rows that cannot be read, of half a zip.
READING = (OSError, ValueError, DatasetGenerationError, BadZipFile)
WILDCARDS = set("*?[]")
TEXTS = {".csv", ".json", ".jsonl", ".tsv", ".txt"}
NAMED_FILES = (
    "config.json",
    "modules.json",
    "open_clip_config.json",
)  # of a model's repository there is one of these in the cache


def load_model(
    name_or_path: str,
    *,
    argument: str = "model",
    kind: Kind = TWO_TOWERS,
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a model in float32 with its processor, as `embed_texts` and `embed_images` take them.

    Args:
        name_or_path: a folder that `save_pretrained` wrote or a Hub id; the folder of a LoRA, which is merged into its base; or a
            model of another library, as `open_clip:NAME`, `sentence_transformers:NAME` or `m_clip:NAME` (see `adapters`), which is a
            small module with the same two methods.
        argument: what the model was given as, for messages.
        kind: what it has to be.
        attn_implementation: transformers', for its own models.

    Raises:
        InputError: the folder is missing, or has no configuration, weights or processor, or not all of them; it is of another
            kind; a LoRA names no base or does not fit it; or a library is missing.
    """
    if library := check_library(name_or_path):
        return load_adapted(library, name_or_path.removeprefix(f"{library}:"))
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
            f"{argument} {name_or_path!r} has no processor of texts and images, only a {type(processor).__name__}: "
            "save an AltCLIPProcessor(image_processor, tokenizer) there"
        )
    check_tokenizer(argument, name_or_path, processor.tokenizer)
    check_end_of_text(argument, name_or_path, model.config, processor.tokenizer)
    if "siglip" in model.config.model_type and isinstance(processor.tokenizer, GemmaTokenizer):
        lower_case(processor.tokenizer)
    return model, processor


def save_model(
    model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path, state_dict: dict | None = None
) -> None:
    """Save what `load_model` gives as one whole folder: weights, processor, and of our own classes the code that reads both.

    The model goes first, since the processor's files name no class where they lie beside a `config.json` that tells it. Copying such
    files one by one would leave out the code that they name.

    Args:
        state_dict: weights to save in place of the model's own, as where these are in shares.
    """
    model.save_pretrained(folder, state_dict=state_dict)
    processor.save_pretrained(folder)


def check_model(name_or_path: str, argument: str = "model") -> None:
    """What can be known of a model to evaluate before anything is loaded; of the Hub's, nothing.

    Args:
        argument: what the model was given as, for messages.

    Raises:
        InputError: the folder does not exist, or holds a model of another kind; or what stands before a colon is no library that
            there is an adapter for.
    """
    if check_library(name_or_path) is None:
        check_folder(argument, name_or_path)
        if is_low_rank(name_or_path):
            check_model(base_of(name_or_path, argument), argument)
        elif Path(name_or_path).exists():
            check_kind(argument, name_or_path, TWO_TOWERS)


def check_library(name_or_path: str) -> str | None:
    """The library that a model is of, where it is not transformers; one that there is no adapter for is an `InputError`."""
    library = library_of(name_or_path)
    if library is not None and library not in INSTALL:
        choices = ", ".join(f"{known}:" for known in INSTALL)
        raise InputError(f"model {name_or_path!r} has an unknown prefix: choose from {choices}")
    return library


def library_of(name_or_path: str) -> str | None:
    """The library that a model is of, before the first colon; None of transformers' own, and of a folder, which may lie below C:."""
    library, colon, _ = name_or_path.partition(":")
    return library if colon and len(library) > 1 and not Path(name_or_path).exists() else None


def lower_case(tokenizer: GemmaTokenizer) -> None:
    """SigLIP 2 was trained on small letters. Its checkpoints of one image size name Gemma's tokenizer, which keeps capitals.

    Those of any size (NaFlex) name one of their own that does not (transformers#43101).
    """
    backend = tokenizer.backend_tokenizer
    backend.normalizer = Sequence([Lowercase(), backend.normalizer])


def revision_of(name_or_path: str) -> str | None:
    """The Hub commit that a model was just loaded from; joined by `+` where its name is of several, and None for a folder."""
    commits = [commit_of(part.rpartition(":")[2]) for part in name_or_path.split("+")]
    return "+".join(commit for commit in commits if commit) or None


def commit_of(repository: str) -> str | None:
    """The commit at which the cache holds a Hub repository; None of what cannot be one."""
    if Path(repository).exists():
        return None
    try:
        paths = [try_to_load_from_cache(repository, name) for name in NAMED_FILES]
    except HFValidationError:  # an architecture with a file of weights, as open_clip:NAME/FILE
        return None
    return next((Path(path).parent.name for path in paths if isinstance(path, str)), None)


def load_rows(dataset: str, split: str, columns: list[str], name: str | None = None) -> Dataset:
    """Load one split of a folder or Hub dataset that has all of `columns`; `name` is the configuration, where it has several.

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
    """Say what is wrong with a dataset that cannot be read; a folder's text that is not UTF-8 is named, which `datasets` does not do."""
    for path in files_below(Path(dataset), TEXTS) if Path(dataset).is_dir() else []:
        try:
            for _ in path.open(encoding="utf-8"):
                pass
        except UnicodeDecodeError as wrong:
            return f"{path} is not UTF-8, {wrong}: save it as UTF-8"
    odd = odd_endings(Path(dataset)) if Path(dataset).is_dir() else None
    if odd:
        return odd
    wildcards = (
        f" (`datasets` takes {' '.join(sorted(WILDCARDS))} in a folder's name for wildcards: rename it)"
    )
    return f"{error.__cause__ or error}{wildcards if Path(dataset).is_dir() and WILDCARDS & set(dataset) else ''}"


def open_rows(split: str, *, streaming: bool = False, **source) -> Dataset | IterableDataset:
    """What `load_dataset` gives, where tars of pictures are read as `tars` has it."""
    tars = of_tars(load_dataset_builder(**source))
    if tars is None:
        return load_dataset(**source, split=split, streaming=streaming)
    if streaming:
        return tars.as_streaming_dataset(split=split)
    tars.download_and_prepare()
    return tars.as_dataset(split=split)


def files_of(dataset: str, name: str | None, split: str) -> dict[str, list[str]] | None:
    """A folder's files of one split, for `load_dataset` to look at; None for a Hub dataset, which has a revision.

    A folder with a card is otherwise kept under the card alone: rows that were written anew would be read as they were before.
    The other splits are left where they lie, unless `split` is a slice such as `train[:100]`, which only `datasets` can read.

    Raises:
        InputError: as `refuse_left_out` and `refuse_repeated_keys`.
    """
    if not Path(dataset).is_dir():
        return None
    files = load_dataset_builder(dataset, name).config.data_files
    by_split = {str(name): list(paths) for name, paths in files.items()}
    refuse_left_out(dataset, by_split)
    by_split = {split: by_split[split]} if split in by_split else by_split
    refuse_repeated_keys(chain(*by_split.values()))
    return by_split


def load_captions(dataset: str, split: str, *, images: bool = True) -> Dataset:
    """Load a split whose column `captions` holds `{language: text}`, beside `image` unless `images` is False.

    Raises:
        InputError: as `load_rows`, or `captions` is of another form.
    """
    rows = load_rows(dataset, split, ["captions", "image"] if images else ["captions"])
    if not isinstance(rows.features["captions"], dict):
        raise InputError(
            f"column 'captions' of {dataset!r} must hold {{language: text}}, not {rows.features['captions']}"
        )
    return rows


def check_languages(asked: list[str] | None, spoken: list[str]) -> list[str]:
    """Give the languages `asked` for, or all that are `spoken`, each in the spelling it is spoken under.

    Raises:
        InputError: one is not spoken, may be one of several, or is a country's code, say; the message asks what was meant.
    """
    if not asked:
        return spoken
    return list(dict.fromkeys(check_language(language, spoken) for language in asked))


def check_language(asked: str, spoken: Iterable[str], lacking: str = "no text in language") -> str:
    """The one that is `spoken` of what `match_language` takes for the language asked for; none is an `InputError`."""
    try:
        return match_language(asked, spoken)
    except ValueError as error:
        raise InputError(f"{lacking} {asked}: {error}") from error


def find_language(asked: str, spoken: Iterable[str]) -> str | None:
    """The same, but None where there is none."""
    try:
        return match_language(asked, spoken)
    except ValueError:
        return None
