"""Translate captions into more languages, by a translation model. No online service is involved.

`OUTPUT_DIR/translations/LANGUAGE.jsonl` gets one line per distinct sentence, written batch by batch: a run
that was killed resumes where it stopped. Beside it lies the similarity of each sentence and its translation
where a text encoder measures it (`quality.py`). `OUTPUT_DIR/data` gets its name when all captions
are in it, with their images if there are any (`rows.py`).

| model | how it is given the languages | in the recipe |
|---|---|---|
| NLLB, M2M100, mBART-50 | by their codes | `model_name_or_path`, and `language_codes` where codes differ |
| MADLAD-400, T5 | by a prefix of the text | `model_name_or_path` and `prefix`, such as `"<2{language}> "` |
| Marian | it is made for one pair | `models`, one model per language |
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from common.errors import InputError
from common.files.json_files import parse_json
from common.files.names import file_name
from common.fingerprints import hash_weights
from common.models.kinds import TRANSLATOR, check_kind, load_tokenizer, readable
from modeling_altclip.checksums_altclip import checked_files
from modeling_altclip.finite_altclip import check_finite
from modeling_altclip.texts_altclip import tokenize

from ..data.captions import named_languages
from .sentence_files import SentenceFile


@dataclass(kw_only=True)
class TranslationArguments:
    """Arguments of a translation: the captions, the models and the languages."""

    dataset: str = field(
        metadata={
            "help": "Captions with or without images: a public corpus by its name, a folder or Hub id of any "
            "form (`captions.py`), or a file or list of parallel text; a .txt file has a caption a line."
        }
    )
    splits: list[str] = field(metadata={"help": "Splits to translate."})
    languages: list[str] | None = field(
        default=None,
        metadata={"help": "Languages of public corpora to read beside source_language; by default all."},
    )
    rows: int | None = field(
        default=None,
        metadata={
            "help": "Number of rows to take of each split, and to download of one on the Hub; all by default."
        },
    )
    keep_images: bool = field(
        default=True, metadata={"help": "Write images too; false writes parallel text for stage 1."}
    )
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

    model_license: str | None = field(
        default=None,
        metadata={
            "help": "Licence of the translation models, such as CC-BY-4.0; by default that of their cards."
        },
    )
    similarity_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Text encoder that compares translations with their texts: a folder, a Hub id, or "
            "sentence_transformers:NAME, such as sentence_transformers:sentence-transformers/LaBSE."
        },
    )
    similarity_prefix: str = field(
        default="",
        metadata={"help": "Text that the encoder reads before each text, such as 'query: ' for E5."},
    )
    least_similarity: float | None = field(
        default=None, metadata={"help": "Skip translations of a lower similarity, -1 to 1; by default none."}
    )
    skip_copied: bool = field(
        default=True, metadata={"help": "Skip translations that are equal to the text in source_language."}
    )
    skip_repetition: bool = field(
        default=True,
        metadata={
            "help": "Skip translations in which a piece comes four times in a row, if the text does not."
        },
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
        for name in ("batch_size", "num_beams", "max_length", "captions_per_image", "rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: give 1 or more")
        if self.least_similarity is not None:
            if self.similarity_model_name_or_path is None:
                raise InputError(
                    f"least_similarity is {self.least_similarity}: give similarity_model_name_or_path too"
                )
            if not -1 <= self.least_similarity <= 1:
                raise InputError(f"least_similarity is {self.least_similarity}: give a number from -1 to 1")
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

    @property
    def all_models(self) -> list[str]:
        """Return the distinct models of the target languages."""
        if self.models is None:
            return [self.model_name_or_path]
        return list(dict.fromkeys(self.models[language] for language in self.target_languages))

    def code(self, language: str) -> str:
        """Return the model's own code of a language: `hi` -> `hin_Deva`."""
        return (self.language_codes or {}).get(language, language)


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

    file = SentenceFile(
        path=Path(arguments.output_dir, "translations", f"{file_name(language)}.jsonl"),
        made_by=made_by,
        sentence=arguments.source_language,
        value=language,
        kind=str,
        what="translation",
    )

    def translate_batch(batch: list[str]) -> list[str]:
        return translate(batch, language, model, tokenizer, arguments)

    translations = file.fill(sentences, arguments.batch_size, translate_batch, f"Translating to {language}")
    return translations, made_by


__all__ = ["TranslationArguments", "language_token", "load_translator", "translate", "translate_all"]
