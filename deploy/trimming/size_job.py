"""Show what trimming saves at AltCLIP's full size: XLM-R large and ViT-L/14, with random weights.

The tokenizer is that of XLM-R, or of multilingual E5, whose pieces are the same: a folder with its
`tokenizer.json`, or a Hub id. A model of 3.5 GB is written to `OUTPUT_DIR/full`, and `altclip trim` trims it
to `OUTPUT_DIR/trimmed` and compares the embeddings of both.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import CLIPImageProcessor, XLMRobertaTokenizer

from common.models.kinds import check_tokenizer
from common.models.loading import save_model
from common.output import check_free, check_output_dir, format_bytes
from common.paths import check_folder
from deploy.trimming.corpus import open_corpus
from deploy.trimming.job import TrimArguments
from deploy.trimming.job import main as trim
from modeling_altclip import AltCLIPConfig, AltCLIPModel, AltCLIPProcessor

# BAAI/AltCLIP's configuration, as far as its sizes go.
_TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "project_dim": 768,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
_PROJECTION_DIM = 768
_N_BYTES = 7 * 10**9  # of both models, at most


@dataclass(kw_only=True)
class _SizeArguments:
    """The tokenizer, and what `altclip trim` needs."""

    tokenizer: str = field(metadata={"help": "Folder or Hub id with XLM-R's tokenizer."})
    corpus: list[str] = field(metadata={"help": "As for `altclip trim`."})
    output_dir: str = field(metadata={"help": "Folder to create."})
    languages: list[str] | None = field(default=None, metadata={"help": "As for `altclip trim`."})
    report_corpus: list[str] | None = field(default=None, metadata={"help": "As for `altclip trim`."})


def main(arguments: _SizeArguments) -> None:
    """Write a model with random weights, trim it, and print the sizes of both folders."""
    check_output_dir(arguments.output_dir)
    check_free(arguments.output_dir, _N_BYTES, "the two models")
    # Before 3.5 GB are written for them
    open_corpus(arguments.corpus, "train", languages=arguments.languages)
    full = Path(arguments.output_dir, "full")
    trimmed = Path(arguments.output_dir, "trimmed")
    _write_model(arguments.tokenizer, full)
    trim(
        TrimArguments(
            model_name_or_path=str(full),
            corpus=arguments.corpus,
            languages=arguments.languages,
            report_corpus=arguments.report_corpus,
            output_dir=str(trimmed),
        )
    )
    for folder in (full, trimmed):
        n_bytes = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{folder}: {format_bytes(n_bytes)}")


def _write_model(tokenizer_name: str, folder: Path) -> None:
    """Save a model with random weights. It is gone from memory when the function returns."""
    check_folder("tokenizer", tokenizer_name)
    tokenizer = XLMRobertaTokenizer.from_pretrained(tokenizer_name)
    check_tokenizer("tokenizer", tokenizer_name, tokenizer)
    torch.manual_seed(0)
    config = AltCLIPConfig(
        text_config=_TEXT | {"vocab_size": len(tokenizer)},
        vision_config=_VISION,
        projection_dim=_PROJECTION_DIM,
    )
    save_model(AltCLIPModel(config), AltCLIPProcessor(CLIPImageProcessor(), tokenizer), folder)
