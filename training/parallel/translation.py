"""Translate the captions of images into more languages, by a translation model.

Parallel pre-training reads the result. No online service is involved.

`OUTPUT_DIR/translations/LANGUAGE.jsonl` gets one line per distinct sentence, written batch by batch: a run
that was killed resumes where it stopped, and the file also serves stage 1 as parallel text. `OUTPUT_DIR/data`
gets its name when all images and captions are in it.

| model | how it is given the languages | in the recipe |
|---|---|---|
| NLLB, M2M100, mBART-50 | by their codes | `model_name_or_path`, and `language_codes` where codes differ |
| MADLAD-400, T5 | by a prefix of the text | `model_name_or_path` and `prefix`, such as `"<2{language}> "` |
| Marian | it is made for one pair | `models`, one model per language |
"""

import json
import math
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset, Features, Image, List, Value, concatenate_datasets
from datasets.table import embed_table_storage
from tqdm.auto import tqdm
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from common.errors import InputError
from common.files.json_files import parse_json, read_json
from common.files.names import file_name
from common.files.rows import load_rows
from common.files.whole_files import write_text
from common.fingerprints import hash_weights
from common.languages import check_language
from common.models.kinds import TRANSLATOR, check_kind, load_tokenizer, readable
from common.output import check_not_input, check_output_dir, saving
from common.typed import fits
from modeling_altclip.checksums_altclip import checked_files
from modeling_altclip.finite_altclip import check_finite
from modeling_altclip.languages_altclip import canonical
from modeling_altclip.texts_altclip import is_blank, tokenize

from ..data.captions import find_form, named_languages, with_captions, with_image

_SHARD_ROWS = 2000  # some 300 MB of COCO's images
_CARD = """---
configs:
- config_name: default
  data_files:
{files}
---
Captions of `{dataset}` in {source}, translated by machine:

| language | model | weights | distinct sentences | without a translation |
|---|---|---|---|---|
{table}

`translations/` holds the sentences themselves, as parallel text.
"""


@dataclass(kw_only=True)
class TranslationArguments:
    """Arguments of a translation: the captions, the models and the languages."""

    dataset: str = field(
        metadata={"help": "Folder or Hub id of images with captions of any form (`captions.py`)."}
    )
    splits: list[str] = field(metadata={"help": "Splits to translate."})
    target_languages: list[str] = field(metadata={"help": "Language codes to add."})
    output_dir: str = field(metadata={"help": "Folder of the dataset to make."})
    source_language: str = field(default="en", metadata={"help": "Language code to translate from."})
    text_column: str | None = field(
        default=None, metadata={"help": "Column of the captions; by default the first of the usual names."}
    )
    allow_outside_images: bool = field(
        default=False,
        metadata={"help": "Also read images and files that the dataset names outside of itself."},
    )
    split_lines: bool = field(
        default=False,
        metadata={"help": "Take each line of a text as a caption of its own, as in CLIP-benchmark's tars."},
    )
    captions_per_image: int | None = field(
        default=None, metadata={"help": "Number of captions to keep per row and language; all by default."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "One translation model for all languages."}
    )
    models: dict | str | None = field(
        default=None, metadata={"help": "One model per language instead: {language: folder or Hub id}."}
    )
    language_codes: dict | str | None = field(
        default=None, metadata={"help": "The model's own language codes, if they differ: {hi: hin_Deva}."}
    )
    prefix: str | None = field(
        default=None,
        metadata={"help": "Prefix of each text, with {language} replaced by the model's code."},
    )
    batch_size: int = field(default=64, metadata={"help": "Number of sentences translated together."})
    num_beams: int = field(
        default=1, metadata={"help": "Number of beams of the beam search; 1 is greedy search."}
    )
    max_length: int = field(
        default=128,
        metadata={"help": "Number of tokens at which a sentence is cut, and at which a translation ends."},
    )
    dtype: str = field(
        default="float32", metadata={"help": "Data type: float32, or bfloat16 or float16 on a GPU."}
    )

    def __post_init__(self):
        # On the command line dictionaries are JSON.
        for name in ("models", "language_codes"):
            if isinstance(given := getattr(self, name), str):
                setattr(self, name, parse_json(given, name))
        named_languages(self.target_languages, "--target_languages")
        self._check_models()
        if self.source_language in self.target_languages:
            raise InputError(
                f"target_languages has {self.source_language}, the language to translate from: take it out"
            )
        for name in ("batch_size", "num_beams", "max_length", "captions_per_image"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: give 1 or more")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise InputError(f"dtype is {self.dtype!r}: choose float32, bfloat16 or float16")

    def _check_models(self) -> None:
        """Check that every target language has exactly one model."""
        if (self.model_name_or_path is None) == (self.models is None):
            raise InputError(
                "give model_name_or_path, one model for all languages, or models, {language: model}, and not "
                "both"
            )
        if self.models is None:
            return
        without = [language for language in self.target_languages if language not in self.models]
        if without:
            raise InputError(
                f"models has none for {' '.join(without)}: add it, or take the language out of "
                "target_languages"
            )

    def code(self, language: str) -> str:
        """Return the model's own code of a language: `hi` -> `hin_Deva`."""
        return (self.language_codes or {}).get(language, language)


def read_split(arguments: TranslationArguments, split: str) -> Dataset:
    """Read a split as rows of undecoded `image`, `captions` by language, and all other columns.

    It replaces `arguments.source_language` by the name that the captions have for it.

    Raises:
        InputError: as `find_form`; there are no captions to translate; or captions in a target language
            exist already.
    """
    rows = load_rows(arguments.dataset, split, [], allow_outside=arguments.allow_outside_images)
    rows = with_image(rows, arguments.dataset)
    form = find_form(rows.features, arguments.dataset, arguments.text_column, [arguments.source_language])
    captions = with_captions(rows, form, arguments.dataset).select_columns(["captions"])

    available = list(captions.features["captions"])
    existing = [language for language in arguments.target_languages if canonical(language) in available]
    # `en` may stand for `en-GB`, if the captions have no other English.
    arguments.source_language = check_language(
        arguments.source_language, available, f"captions of {arguments.dataset!r} have no"
    )
    if existing:
        raise InputError(
            f"captions of {arguments.dataset!r} have {' '.join(existing)} already: take it out of "
            "target_languages"
        )

    if arguments.split_lines or arguments.captions_per_image:

        def cut_row(row: dict) -> dict:
            cut = {language: _cut(texts, arguments) for language, texts in row["captions"].items()}
            return {"captions": cut}

        features = Features({"captions": {language: List(Value("string")) for language in available}})
        captions = captions.map(cut_row, features=features, desc="Cutting captions")

    of_captions = sorted({form.column, "captions"} & set(rows.column_names))
    return concatenate_datasets([rows.remove_columns(of_captions), captions], axis=1)


def _cut(texts: list[str], arguments: TranslationArguments) -> list[str]:
    """Return a row's texts in one language, split into lines and limited as the arguments say.

    With `split_lines`: `"a dog\\n a cat \\n"` -> `["a dog", "a cat"]`.
    """
    if arguments.split_lines:
        lines = []
        for text in texts:
            lines += [line.strip() for line in (text or "").splitlines() if not is_blank(line)]
        texts = lines
    return texts[: arguments.captions_per_image]


def distinct_sentences(splits: list[Dataset], language: str, dataset: str) -> list[str]:
    """Return each distinct sentence once, the longest first.

    Batches then hold texts of similar length, and the first one is the largest: if the memory is too small,
    the run fails at once.

    Raises:
        InputError: there is no sentence in the language.
    """
    sentences = set()
    for rows in splits:
        for captions in rows.select_columns(["captions"])["captions"]:
            for text in captions[language]:
                if text and not is_blank(text):
                    sentences.add(text)
    if not sentences:
        raise InputError(
            f"dataset {dataset!r} has no caption in {language} to translate: give other splits, or another "
            "source_language"
        )
    # Equal lengths in alphabetical order: a set has another order in each run.
    return sorted(sentences, key=lambda text: (-len(text), text))


@lru_cache(maxsize=1)
def load_translator(name_or_path: str, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Load a translation model, on the accelerator where there is one.

    Returns:
        The model, its tokenizer, and the hash of its weights.

    Raises:
        InputError: it cannot be loaded, is damaged, or has a weight that is NaN or infinite.
    """
    check_kind("model", name_or_path, TRANSLATOR)
    with readable("model", name_or_path), checked_files(name_or_path):
        model = AutoModelForSeq2SeqLM.from_pretrained(
            name_or_path, dtype=getattr(torch, dtype), trust_remote_code=False
        )
        check_finite(model.named_parameters(), "it")
    tokenizer = load_tokenizer("model", name_or_path)
    return model.eval().to(PartialState().device), tokenizer, hash_weights(model)


def language_token(tokenizer: PreTrainedTokenizerBase, code: str) -> int:
    """Return the id of the special token of a language.

    It is `hin_Deva` in NLLB, `__hi__` in M2M100 and `hi_IN` in mBART-50.

    Raises:
        InputError: there is none.
    """
    added_tokens = tokenizer.get_added_vocab()
    if code in added_tokens:
        return added_tokens[code]
    # M2M100 does not count its language tokens among its added ones.
    token = tokenizer.convert_tokens_to_ids(f"__{code}__")
    if token != tokenizer.unk_token_id:
        return token
    codes = sorted(token for token in added_tokens if re.match(r"_*[a-z]{2,3}_", token))
    raise InputError(
        f"the model has no token for language {code!r}: name it by language_codes, as one of "
        f"{' '.join(codes[:8])} ..., or give a prefix, "
        "or models where each is made for one language"
    )


def translate(
    texts: list[str],
    language: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TranslationArguments,
) -> list[str]:
    """Translate a batch by greedy or beam search.

    Raises:
        InputError: as `language_token`.
    """
    options = {}
    forced_token = None  # the language token that each translation begins with
    if arguments.prefix is not None:
        prefix = arguments.prefix.replace("{language}", arguments.code(language))
        texts = [prefix + text for text in texts]
    elif arguments.models is None:
        source_code = arguments.code(arguments.source_language)
        language_token(tokenizer, source_code)  # the tokenizer would take an unknown code for an unknown word
        tokenizer.src_lang = source_code
        forced_token = language_token(tokenizer, arguments.code(language))
        options["forced_bos_token_id"] = forced_token

    limits = {"padding": True, "truncation": True, "max_length": arguments.max_length}
    inputs = tokenize(tokenizer, texts, return_tensors="pt", **limits).to(model.device)
    with torch.inference_mode():
        generated = model.generate(
            **inputs,
            num_beams=arguments.num_beams,
            do_sample=False,
            max_new_tokens=arguments.max_length,
            max_length=None,
            **options,
        )
    if forced_token is not None:
        # To its tokenizer M2M100's language token is not a special one, and would be decoded as text.
        generated = generated.masked_fill(generated == forced_token, tokenizer.pad_token_id)
    return [text.strip() for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]


def translate_all(
    sentences: list[str], language: str, arguments: TranslationArguments
) -> tuple[dict[str, str], dict]:
    """Translate the sentences that `translations/LANGUAGE.jsonl` does not hold yet.

    Returns:
        `{sentence: translation}`, with an empty translation where the model gave none; and the model and
        settings that made them.

    Raises:
        InputError: the file was made by another model, or with other settings.
    """
    name = arguments.models[language] if arguments.models else arguments.model_name_or_path
    model, tokenizer, weights = load_translator(name, arguments.dtype)
    made_by = {
        "model": name,
        "weights": weights,
        "from": arguments.code(arguments.source_language),
        "to": arguments.code(language),
    }
    for setting in ("prefix", "num_beams", "max_length", "dtype"):
        made_by[setting] = getattr(arguments, setting)

    path = Path(arguments.output_dir, "translations", f"{file_name(language)}.jsonl")
    known = _read_translations(path, made_by, arguments.source_language, language)
    missing = [sentence for sentence in sentences if sentence not in known]
    with tqdm(total=len(missing), desc=f"Translating to {language}") as bar:
        for start in range(0, len(missing), arguments.batch_size):
            batch = missing[start : start + arguments.batch_size]
            translated = dict(zip(batch, translate(batch, language, model, tokenizer, arguments)))
            lines = []
            for source, target in translated.items():
                line = {arguments.source_language: source, language: target}
                lines.append(json.dumps(line, ensure_ascii=False) + "\n")
            text = "".join(lines)
            with (
                saving(f"a batch of {path.name}", path.parent, len(text.encode())),
                open(path, "a", encoding="utf-8") as file,
            ):
                file.write(text)
                # A run that is killed, or a power cut, loses at most one batch.
                file.flush()
                os.fsync(file.fileno())
            known |= translated
            bar.update(len(batch))
    return {sentence: known[sentence] for sentence in sentences}, made_by


def _read_translations(path: Path, made_by: dict, source: str, target: str) -> dict[str, str]:
    """Read earlier translations, without a last line that a killed run left incomplete.

    Raises:
        InputError: they were made by another model, or with other settings; or a file is damaged.
    """
    record = path.with_suffix(".made_by.json")
    # An empty file is of a first run that failed: the next one may have other settings.
    if not path.exists() or path.stat().st_size == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps(made_by, indent=1) + "\n")
        return {}

    before = _read_record(record, path)
    if before != made_by:
        other = [f"{name} {before.get(name)!r}" for name in made_by if before.get(name) != made_by[name]]
        raise InputError(f"{path} was made with {', '.join(other)}: delete it, or give another output_dir")

    # Remove the incomplete line from the file as well, since new lines are appended.
    complete = path.read_bytes()
    complete = complete[: complete.rfind(b"\n") + 1]
    with open(path, "r+b") as file:
        file.truncate(len(complete))
    known = {}
    # Bytes split at line ends alone; text would also split at separators inside a sentence, such as U+2028.
    for number, line in enumerate(complete.splitlines(), start=1):
        pair = parse_json(line, f"{path}, line {number},")
        if not fits(pair, dict[str, str]) or pair.keys() != {source, target}:
            raise InputError(
                f"{path}, line {number} is no text in {source!r} with its translation: delete the line"
            )
        known[pair[source]] = pair[target]
    return known


def _read_record(record: Path, path: Path) -> dict:
    """Read what the translations in `path` were made by.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        before = read_json(record, "record")
    except InputError as error:
        raise InputError(f"{error}. Or delete {path} to translate anew") from error
    if not isinstance(before, dict):
        raise InputError(f"record {str(record)!r} is no mapping of settings: delete {path} to translate anew")
    return before


def with_translations(rows: Dataset, translations: dict[str, dict[str, str]], source: str) -> Dataset:
    """Return the same rows with captions in the languages of `translations` as well.

    A caption is None where its translation is empty: `["perro", None]` of two captions.
    """
    captions = rows.features["captions"]

    def add(row: dict) -> dict:
        sentences = row["captions"][source]
        for language, of_sentence in translations.items():
            row["captions"][language] = [of_sentence.get(sentence) or None for sentence in sentences]
        return row

    added = {language: captions[source] for language in translations}
    features = Features({"captions": captions | added})
    translated = rows.select_columns(["captions"]).map(add, features=features, desc="Adding translations")
    return concatenate_datasets([rows.remove_columns("captions"), translated], axis=1)


def refuse_written(arguments: TranslationArguments) -> None:
    """Check that the output folder can be written, and that no dataset would be overwritten.

    Raises:
        InputError: the output folder cannot be written, holds a dataset, or is the one that is translated.
    """
    check_output_dir(arguments.output_dir)
    check_not_input(arguments.output_dir, {"dataset": arguments.dataset})
    if Path(arguments.output_dir, "data").exists():
        raise InputError(
            f"output_dir {arguments.output_dir} holds a dataset already: delete its folder data, or give "
            "another"
        )


def save(splits: dict[str, Dataset], output_dir: str) -> None:
    """Write the splits as parquet files that contain the images' bytes.

    The folder `data` gets its name when it is complete.
    """
    partial = Path(output_dir, "data.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for split, rows in splits.items():
        name = file_name(split)
        n_shards = math.ceil(len(rows) / _SHARD_ROWS)
        rows = rows.cast_column("image", Image()).with_format("arrow")
        for number in tqdm(range(n_shards), desc=f"Writing {split}", unit="file"):
            # Images that lie in files of their own are read into the table here.
            shard = rows.shard(n_shards, number).map(
                embed_table_storage, batched=True, batch_size=100, keep_in_memory=True
            )
            path = partial / f"{name}-{number:05d}-of-{n_shards:05d}.parquet"
            with saving(path.name, partial, shard.data.nbytes):
                shard.to_parquet(path)
    partial.rename(partial.with_suffix(""))


def write_card(
    splits: dict[str, Dataset], translations: dict[str, dict[str, str]], made_by: dict[str, dict], arguments
) -> None:
    """Write the dataset card: the files of each split, and the models that made the captions.

    The files are listed so that `datasets` does not take `translations/` for rows.
    """
    files = "\n".join(f"  - split: {split}\n    path: data/{file_name(split)}-*" for split in splits)
    lines = []
    for language, of_sentence in translations.items():
        made = made_by[language]
        n_empty = Counter(of_sentence.values())[""]
        lines.append(
            f"| {language} | `{made['model']}` | `{made['weights'][:16]}` | {len(of_sentence)} | {n_empty} |"
        )
    card = _CARD.format(
        files=files, dataset=arguments.dataset, source=arguments.source_language, table="\n".join(lines)
    )
    write_text(Path(arguments.output_dir, "README.md"), card)


__all__ = [
    "TranslationArguments",
    "refuse_written",
    "distinct_sentences",
    "read_split",
    "save",
    "translate",
    "translate_all",
    "with_translations",
    "write_card",
]
