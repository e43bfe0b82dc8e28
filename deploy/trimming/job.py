"""Trim a model's vocabulary to what a corpus needs, and report what becomes of texts."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from common.arguments import trust_remote_code_field
from common.commands import command_for
from common.errors import InputError
from common.files.whole_files import write_text
from common.fingerprints import hash_weights
from common.markdown import markdown_text
from common.models.kinds import Kind, check_kind
from common.models.libraries import check_library
from common.models.loading import load_model, save_model
from common.models.low_rank import is_low_rank
from common.origins import write_origins
from common.output import bytes_of_weights, check_new_output_dir, saving
from common.paths import check_folder
from model_cards.folder import whole_folder
from model_cards.paths import public_path
from model_cards.stages import origins_of_model
from modeling_altclip import embed_texts

from .corpus import Texts, first_texts, open_corpus, read_batches
from .coverage import Comparison, Coverage, records_of, table_of, total_of
from .pieces import choose_pieces
from .tokenizer_files import TokenizerFiles
from .weights import check_vocabulary, rows_of, tokens_of_config, trim_weights

_REPORT = "trimming"  # .md and .json
_OURS = Kind(
    "an AltCLIP or a dual encoder",
    lambda config: config.model_type in ("altclip", "altclip_dual_encoder"),
)
_N_COMPARED = 64  # texts whose embeddings are compared
_TOLERANCE = 1e-6


@dataclass(kw_only=True)
class TrimArguments:
    """What `altclip trim` needs."""

    model_name_or_path: str = field(
        metadata={"help": "Folder or Hub id of an AltCLIP or a dual encoder, with a Unigram vocabulary."}
    )
    corpus: list[str] = field(
        metadata={
            "help": "Texts that have to be read as before: text files as LANGUAGE=FILE, parquet or jsonl "
            "files, folders or datasets of the Hub with texts by language."
        }
    )
    output_dir: str = field(metadata={"help": "Folder to create."})
    languages: list[str] | None = field(
        default=None, metadata={"help": "Languages of the corpus to keep. By default all of them."}
    )
    split: str = field(default="train", metadata={"help": "Split of the datasets in `corpus`."})
    text_column: str | None = field(
        default=None,
        metadata={"help": "Column of the texts. By default captions, translation, caption or text."},
    )
    most_frequent: int = field(
        default=0,
        metadata={"help": "Keep so many of the vocabulary's most frequent pieces too, of any language."},
    )
    report_corpus: list[str] | None = field(
        default=None,
        metadata={"help": "Other texts, as in `corpus`, for the report alone: how are they read now?"},
    )
    report_split: str = field(
        default="validation", metadata={"help": "Split of the datasets in `report_corpus`."}
    )
    trust_remote_code: bool = trust_remote_code_field()

    def __post_init__(self):
        if self.most_frequent < 0:
            raise InputError(f"most_frequent is {self.most_frequent}: give a number of at least 0")


@dataclass
class _Trimmed:
    """A trimmed model, and what is reported of it.

    Attributes:
        record: numbers before and after, as values of JSON.
        corpus, held_out: how texts are read, by language; `held_out` is empty without a `report_corpus`.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    record: dict
    corpus: dict[str, Coverage]
    held_out: dict[str, Coverage]


def main(arguments: TrimArguments) -> None:
    """Check all that is given, trim the tokenizer and the weights, compare, and only then write the folder.

    Raises:
        InputError: the model or a corpus cannot be used, or the output folder has files.
    """
    dtype = _check_model(arguments)
    corpus = _open(arguments.corpus, arguments.split, arguments.text_column, arguments.languages)
    held_out = []
    if arguments.report_corpus:
        held_out = _open(arguments.report_corpus, arguments.report_split, arguments.text_column)
    trimmed = _trim(arguments, corpus, held_out)
    _convert(trimmed.model, dtype)
    _save(arguments, trimmed)
    _tell(arguments, trimmed)


def _check_model(arguments: TrimArguments) -> torch.dtype:
    """Check the output folder and the kind of the model, and return the type of its weights in the files."""
    check_new_output_dir(arguments.output_dir)
    name = arguments.model_name_or_path
    if library := check_library(name):
        raise InputError(f"model_name_or_path {name!r} is a model of {library}: give {_OURS.name}")
    check_folder("model_name_or_path", name)
    if is_low_rank(name):
        raise InputError(
            f"model_name_or_path {name!r} is a LoRA, whose base has the vocabulary: give the merged model, "
            f"which `{command_for('card')}` writes"
        )
    config = check_kind("model_name_or_path", name, _OURS, trust_remote_code=arguments.trust_remote_code)
    return config.dtype or torch.float32


def _open(
    sources: list[str], split: str, text_column: str | None, languages: list[str] | None = None
) -> list[Texts]:
    """Find the texts of a corpus, and see that there are some before a model is loaded for them."""
    corpus = open_corpus(sources, split, text_column=text_column, languages=languages)
    if not first_texts(corpus, 1):
        raise InputError(f"corpus {' '.join(sources)} has no text: give files or datasets with texts")
    return corpus


def _trim(arguments: TrimArguments, corpus: list[Texts], held_out: list[Texts]) -> _Trimmed:
    """Trim the tokenizer and then the weights; compare how both read the corpus.

    Raises:
        InputError: the model's tokenizer is of another kind, or does not fit its weights.
    """
    name = arguments.model_name_or_path
    model, processor = load_model(
        name, argument="model_name_or_path", kind=_OURS, trust_remote_code=arguments.trust_remote_code
    )
    old = processor.tokenizer
    check_vocabulary(model, old)
    before = _sizes(model, old)
    new = _trim_tokenizer(model, old, corpus, arguments.most_frequent)

    # Every text of the corpus is compared, not a sample.
    rows = rows_of(old, new)
    comparison = Comparison(old, new, rows)
    covered = comparison.cover(corpus)
    n_changed = total_of(covered).changed
    if n_changed:
        raise RuntimeError(f"{n_changed} texts of the corpus are read as other tokens: please report this")

    texts = first_texts(corpus, _N_COMPARED)
    expected = embed_texts(model, processor, texts)
    trim_weights(model, rows)
    processor.tokenizer = new
    difference = float((embed_texts(model, processor, texts) - expected).abs().max())
    if difference > _TOLERANCE:
        raise RuntimeError(f"embeddings of the corpus differ by {difference}: please report this")
    record = {
        "model": public_path(name),
        "corpus": [public_path(source) for source in arguments.corpus],
        "languages": arguments.languages,
        "most_frequent": arguments.most_frequent,
        "before": before,
        "after": _sizes(model, new),
        "embeddings": {"texts": len(texts), "largest_difference": difference},
    }
    return _Trimmed(model, processor, record, covered, comparison.cover(held_out))


def _trim_tokenizer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: list[Texts], n_most_frequent: int
) -> PreTrainedTokenizerBase:
    """Find the pieces of the corpus, and return the tokenizer without the others."""
    with TemporaryDirectory() as folder:
        files = TokenizerFiles(tokenizer, Path(folder))
        batches = (texts for _, texts in read_batches(corpus, "Finding pieces"))
        used = files.pieces_of(batches) | tokens_of_config(model, tokenizer)
        return files.trim(choose_pieces(files.scores, used, n_most_frequent))


def _convert(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give weights the type that they had in the files, where `load_model` reads all as float32."""
    model.to(dtype)
    for tower in (model.config.text_config, model.config.vision_config):
        tower.dtype = dtype


def _sizes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Return the sizes of a model, and the hash by which results know its weights."""
    return {
        "tokens": len(tokenizer),
        "parameters": model.num_parameters(),
        "text_parameters": sum(parameter.numel() for parameter in model.text_model.parameters()),
        "weights": hash_weights(model),
    }


def _save(arguments: TrimArguments, trimmed: _Trimmed) -> None:
    """Write the folder, with the report and what the model was made of.

    A card and results of the model are not taken over: their numbers belong to other weights.
    """
    n_bytes = bytes_of_weights(trimmed.model)
    with (
        saving("the trimmed model", arguments.output_dir, n_bytes),
        whole_folder(arguments.output_dir) as folder,
    ):
        save_model(trimmed.model, trimmed.processor, folder)
        write_origins(folder, origins_of_model(arguments.model_name_or_path))
        record = trimmed.record | {
            "corpus_coverage": records_of(trimmed.corpus),
            "report_corpus_coverage": records_of(trimmed.held_out),
        }
        write_text(folder / f"{_REPORT}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        write_text(folder / f"{_REPORT}.md", _report(trimmed))


def _report(trimmed: _Trimmed) -> str:
    """Return the report as Markdown."""
    record = trimmed.record
    sizes = ["| | before | after | removed |", "|---|---:|---:|---:|"]
    for title, name in (
        ("tokens", "tokens"),
        ("parameters", "parameters"),
        ("parameters of the text tower", "text_parameters"),
    ):
        before = record["before"][name]
        after = record["after"][name]
        sizes.append(f"| {title} | {before:,} | {after:,} | {1 - after / before:.1%} |")
    embeddings = record["embeddings"]
    parts = [
        "# Trimmed vocabulary",
        f"Made of {markdown_text(record['model'])} by `altclip trim`. Results of that model are of other "
        "weights, and are not those of this one.",
        "\n".join(sizes),
        "## The corpus",
        "Its texts are read as the same tokens as before. Tokens include those before and after a text. "
        f"The embeddings of {embeddings['texts']} texts differ by "
        f"at most {embeddings['largest_difference']:.1e}.",
        table_of(trimmed.corpus),
    ]
    if trimmed.held_out:
        parts += ["## Other texts", table_of(trimmed.held_out)]
    return "\n\n".join(parts) + "\n"


def _tell(arguments: TrimArguments, trimmed: _Trimmed) -> None:
    """Print the report, and what to do next."""
    print(_report(trimmed))
    folder = shlex.quote(arguments.output_dir)
    print(
        f"Saved the trimmed model to {arguments.output_dir}, without card and results, which belong to other "
        f"weights; {_REPORT}.md has this report. Next: {command_for('evaluate retrieval')} --models {folder}"
    )


__all__ = ["TrimArguments", "main"]
