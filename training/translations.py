"""More languages for captioned images, by a translation model: what parallel pre-training reads, without a
service on the net.

`OUTPUT_DIR/translations/LANGUAGE.jsonl` gets a line a distinct sentence, batch by batch: a run that was
killed goes on where it was, and the file is parallel text for stage 1, too. `OUTPUT_DIR/data` gets its name
when all images and captions are in it.

| a model | is told the languages by | in the recipe |
|---|---|---|
| NLLB, M2M100, mBART-50 | their codes | `model_name_or_path`, and `language_codes` where they differ from ours |
| MADLAD-400, T5 | a prefix of the text | `model_name_or_path` and `prefix`, such as `"<2{language}> "` |
| Marian | being made for the pair | `models`, a model a language |
"""

import json
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

from benchmarks.encoder import hash_weights
from benchmarks.json_files import parse_json
from benchmarks.kinds import TRANSLATOR, check_kind, load_tokenizer, readable
from benchmarks.loading import check_language, load_rows
from benchmarks.recipe import InputError
from modeling_altclip.languages_altclip import canonical
from modeling_altclip.texts_altclip import is_blank, tokenize

from .captions import find_form, named_languages, with_captions, with_image

SHARD_ROWS = 2000  # some 300 MB of COCO's images
CARD = """---
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
    """What is translated, by which model, into which languages."""

    dataset: str = field(
        metadata={"help": "Folder or Hub id of images with captions of any form (`captions.py`)."}
    )
    splits: list[str] = field(metadata={"help": "Splits to translate."})
    target_languages: list[str] = field(metadata={"help": "Language codes to add."})
    output_dir: str = field(metadata={"help": "The dataset to make."})
    source_language: str = field(default="en", metadata={"help": "Language code to translate from."})
    text_column: str | None = field(
        default=None, metadata={"help": "Column of the captions; by default the first of the usual names."}
    )
    split_lines: bool = field(
        default=False,
        metadata={"help": "Lines of a text are captions of their own, as in CLIP-benchmark's tars."},
    )
    captions_per_image: int | None = field(
        default=None, metadata={"help": "Keep a row's first so many in each language; all by default."}
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "One model for all languages."})
    models: dict | str | None = field(
        default=None, metadata={"help": "A model a language instead: {language: folder or Hub id}."}
    )
    language_codes: dict | str | None = field(
        default=None, metadata={"help": "The model's codes where they differ: {hi: hin_Deva}."}
    )
    prefix: str | None = field(
        default=None, metadata={"help": "Put before a text, {language} replaced by the model's code."}
    )
    batch_size: int = field(default=64, metadata={"help": "Sentences translated together."})
    num_beams: int = field(
        default=1, metadata={"help": "1 takes the likeliest word, more search among as many beginnings."}
    )
    max_length: int = field(
        default=128,
        metadata={"help": "Tokens that a sentence is cut at, and the most that a translation gets."},
    )
    dtype: str = field(default="float32", metadata={"help": "float32, or bfloat16 or float16 on a GPU."})

    def __post_init__(self):
        for name in ("models", "language_codes"):
            if isinstance(given := getattr(self, name), str):
                setattr(self, name, parse_json(given, name))
        named_languages(self.target_languages, "--target_languages")
        if (self.model_name_or_path is None) == (self.models is None):
            raise InputError(
                "give model_name_or_path, one model for all languages, or models, {language: model}, and not "
                "both"
            )
        without = [
            language
            for language in self.target_languages
            if self.models is not None and language not in self.models
        ]
        if without:
            raise InputError(
                f"models has none for {' '.join(without)}: add it, or take the language out of "
                "target_languages"
            )
        if self.source_language in self.target_languages:
            raise InputError(
                f"target_languages has {self.source_language}, the language to translate from: take it out"
            )
        for name in ("batch_size", "num_beams", "max_length", "captions_per_image"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise InputError(f"dtype is {self.dtype!r}: choose float32, bfloat16 or float16")

    def code(self, language: str) -> str:
        return (self.language_codes or {}).get(language, language)


def read_split(arguments: TranslationArguments, split: str) -> Dataset:
    """Rows with undecoded `image`, `captions` by language, and whatever other columns there are.

    Raises:
        InputError: as `find_form`; there are no captions to translate; or there are some already in a
            language to add.
    """
    rows = with_image(load_rows(arguments.dataset, split, []), arguments.dataset)
    form = find_form(rows.features, arguments.dataset, arguments.text_column, [arguments.source_language])
    captions = with_captions(rows, form).select_columns(["captions"])
    spoken = list(captions.features["captions"])
    there = [language for language in arguments.target_languages if canonical(language) in spoken]
    arguments.source_language = check_language(
        arguments.source_language, spoken, f"captions of {arguments.dataset!r} have no"
    )
    if there:
        raise InputError(
            f"captions of {arguments.dataset!r} have {' '.join(there)} already: take it out of "
            "target_languages"
        )
    if arguments.split_lines or arguments.captions_per_image:
        captions = captions.map(
            lambda row: {
                "captions": {language: cut(texts, arguments) for language, texts in row["captions"].items()}
            },
            features=Features({"captions": {language: List(Value("string")) for language in spoken}}),
            desc="Cutting captions",
        )
    others = rows.remove_columns(
        [column for column in {form.column, "captions"} if column in rows.column_names]
    )
    return concatenate_datasets([others, captions], axis=1)


def cut(texts: str | list[str] | None, arguments: TranslationArguments) -> list[str]:
    """A row's texts in one language: their lines where `split_lines` asks for them, and no more than
    `captions_per_image`.
    """
    texts = as_list(texts)
    if arguments.split_lines:
        texts = [line.strip() for text in texts for line in (text or "").splitlines() if not is_blank(line)]
    return texts[: arguments.captions_per_image]


def as_list(texts: str | list[str] | None) -> list[str | None]:
    return [texts] if isinstance(texts, str) else texts or []


def distinct_sentences(splits: list[Dataset], language: str) -> list[str]:
    """Each sentence once, the longest first: batches of like length, and one that is too large for memory
    fails at once.
    """
    captions = (
        caption[language] for rows in splits for caption in rows.select_columns(["captions"])["captions"]
    )
    sentences = {text for texts in captions for text in as_list(texts) if text and not is_blank(text)}
    if not sentences:
        raise InputError(f"there is no caption in {language} to translate")
    return sorted(sentences, key=lambda text: (-len(text), text))


@lru_cache(maxsize=1)
def load_translator(name_or_path: str, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """A translation model on the accelerator, if there is one, its tokenizer, and the hash of its weights.

    Raises:
        InputError: it cannot be loaded.
    """
    check_kind("model", name_or_path, TRANSLATOR)
    with readable("model", name_or_path):
        model = AutoModelForSeq2SeqLM.from_pretrained(name_or_path, dtype=getattr(torch, dtype))
    tokenizer = load_tokenizer("model", name_or_path)
    return model.eval().to(PartialState().device), tokenizer, hash_weights(model)


def language_token(tokenizer: PreTrainedTokenizerBase, code: str) -> int:
    """The id of the special token that stands for a language: `hin_Deva` of NLLB, `__hi__` of M2M100, `hi_IN`
    of mBART-50.

    Raises:
        InputError: there is none.
    """
    known = tokenizer.get_added_vocab()
    if code in known:
        return known[code]
    token = tokenizer.convert_tokens_to_ids(
        f"__{code}__"
    )  # M2M100 does not count these among its added tokens
    if token != tokenizer.unk_token_id:
        return token
    codes = sorted(token for token in known if re.match(r"_*[a-z]{2,3}_", token))
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
    """Translate a batch by greedy or beam search."""
    options = {}
    if arguments.prefix is not None:
        prefix = arguments.prefix.replace("{language}", arguments.code(language))
        texts = [prefix + text for text in texts]
    elif arguments.models is None:
        language_token(
            tokenizer, arguments.code(arguments.source_language)
        )  # an unknown code would be taken for an unknown word
        tokenizer.src_lang = arguments.code(arguments.source_language)
        options["forced_bos_token_id"] = language_token(tokenizer, arguments.code(language))
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
    if (
        "forced_bos_token_id" in options
    ):  # M2M100's is no special token to its tokenizer, and would be read as text
        generated = generated.masked_fill(generated == options["forced_bos_token_id"], tokenizer.pad_token_id)
    return [text.strip() for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]


def translate_all(
    sentences: list[str], language: str, arguments: TranslationArguments
) -> tuple[dict[str, str], dict]:
    """Translate what `translations/LANGUAGE.jsonl` does not hold yet.

    Returns:
        `{sentence: translation}`, an empty one where the model gave none; and what made them.

    Raises:
        InputError: what is there was made by another model, or with other settings.
    """
    name = arguments.models[language] if arguments.models else arguments.model_name_or_path
    model, tokenizer, weights = load_translator(name, arguments.dtype)
    made_by = {
        "model": name,
        "weights": weights,
        "from": arguments.code(arguments.source_language),
        "to": arguments.code(language),
    }
    made_by |= {
        setting: getattr(arguments, setting) for setting in ("prefix", "num_beams", "max_length", "dtype")
    }
    path = Path(arguments.output_dir, "translations", f"{language}.jsonl")
    known = read_translations(path, made_by, arguments.source_language, language)
    missing = [sentence for sentence in sentences if sentence not in known]
    with (
        open(path, "a", encoding="utf-8") as file,
        tqdm(total=len(missing), desc=f"Translating to {language}") as bar,
    ):
        for start in range(0, len(missing), arguments.batch_size):
            batch = missing[start : start + arguments.batch_size]
            translated = dict(zip(batch, translate(batch, language, model, tokenizer, arguments)))
            lines = [
                {arguments.source_language: source, language: target} for source, target in translated.items()
            ]
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            file.flush()
            known |= translated
            bar.update(len(batch))
    return {sentence: known[sentence] for sentence in sentences}, made_by


def read_translations(path: Path, made_by: dict, source: str, target: str) -> dict[str, str]:
    """What was translated before, without a last line that a kill cut short."""
    note = path.with_suffix(".made_by.json")
    if not path.exists() or path.stat().st_size == 0:  # a first try that failed binds nobody
        path.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(made_by, indent=1) + "\n", "utf-8")
        return {}
    before = json.loads(note.read_text("utf-8"))
    if before != made_by:
        other = [f"{name} {before[name]!r}" for name in made_by if before[name] != made_by[name]]
        raise InputError(f"{path} was made with {', '.join(other)}: delete it, or give another output_dir")
    whole = path.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    with open(path, "r+b") as file:
        file.truncate(len(whole))
    lines = map(
        json.loads, whole.splitlines()
    )  # bytes: no separator but the line feed, which text has more of
    return {line[source]: line[target] for line in lines}


def with_translations(rows: Dataset, translations: dict[str, dict[str, str]], source: str) -> Dataset:
    """The same rows with captions in the languages of `translations`, None where a translation is empty or
    there was no caption.
    """
    captions = rows.features["captions"]

    def add(row: dict) -> dict:
        own = row["captions"][source]
        for language, of_sentence in translations.items():
            found = [of_sentence.get(text) or None for text in as_list(own)]
            row["captions"][language] = (
                found if isinstance(captions[source], List) else next(iter(found), None)
            )
        return row

    features = Features({"captions": captions | {language: captions[source] for language in translations}})
    translated = rows.select_columns(["captions"]).map(add, features=features, desc="Adding translations")
    return concatenate_datasets([rows.remove_columns("captions"), translated], axis=1)


def check_output(arguments: TranslationArguments) -> None:
    """One finished dataset is not written over."""
    if Path(arguments.output_dir, "data").exists():
        raise InputError(
            f"output_dir {arguments.output_dir} holds a dataset already: delete its folder data, or give "
            "another"
        )


def save(splits: dict[str, Dataset], output_dir: str) -> None:
    """Write the splits as parquet with the images' bytes in it; the folder `data` gets its name when it is
    whole.
    """
    partial = Path(output_dir, "data.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for split, rows in splits.items():
        n_shards = -(-len(rows) // SHARD_ROWS)
        rows = rows.cast_column("image", Image()).with_format("arrow")
        for number in tqdm(range(n_shards), desc=f"Writing {split}", unit="file"):
            shard = rows.shard(n_shards, number).map(
                embed_table_storage, batched=True, batch_size=100, keep_in_memory=True
            )
            shard.to_parquet(partial / f"{split}-{number:05d}-of-{n_shards:05d}.parquet")
    partial.rename(partial.with_suffix(""))


def write_card(
    splits: dict[str, Dataset], translations: dict[str, dict[str, str]], made_by: dict[str, dict], arguments
) -> None:
    """The card: which files are which split, so that nobody takes `translations/` for rows, and what made the
    captions.
    """
    files = "\n".join(f"  - split: {split}\n    path: data/{split}-*" for split in splits)
    lines = []
    for language, of_sentence in translations.items():
        made, empty = made_by[language], Counter(of_sentence.values())[""]
        lines.append(
            f"| {language} | `{made['model']}` | `{made['weights'][:16]}` | {len(of_sentence)} | {empty} |"
        )
    card = CARD.format(
        files=files, dataset=arguments.dataset, source=arguments.source_language, table="\n".join(lines)
    )
    Path(arguments.output_dir, "README.md").write_text(card, "utf-8")


__all__ = [
    "TranslationArguments",
    "check_output",
    "distinct_sentences",
    "read_split",
    "save",
    "translate",
    "translate_all",
    "with_translations",
    "write_card",
]
