"""Embed texts of mixed length, from the same folder of a model: `embed_texts`, and `encode`.

Both sides get the same list and return unit-length embeddings in its order. `encode` gets its own default of
32 texts in a batch. Equal texts may stand in the list several times (`copies`).
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

Repeats = Iterator[Callable[[], dict]]


def inputs(folder: Path, shape: dict) -> None:
    """Save a model, and texts of up to `most_words` words in `languages`, each `copies` times."""
    from benchmarks.speed.inputs import draw_texts, save_list, save_model, train_tokenizer

    texts = draw_texts(shape["texts"] // shape["copies"], shape["languages"], shape["most_words"])
    save_model(folder / "model", train_tokenizer(texts), shape)
    save_list(folder / "texts.json", texts * shape["copies"])


def ours(folder: Path, shape: dict) -> Repeats:
    from modeling_altclip import AltCLIPModel, AltCLIPProcessor, embed_texts

    model = AltCLIPModel.from_pretrained(folder / "model").to(shape["device"])
    processor = AltCLIPProcessor.from_pretrained(folder / "model")
    texts = json.loads((folder / "texts.json").read_text("utf-8"))
    yield lambda: embed_texts(model, processor, texts[:32])
    while True:
        yield lambda: {"embeddings": embed_texts(model, processor, texts)}


def sentence_transformers(folder: Path, shape: dict) -> Repeats:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder / "model"), device=shape["device"], trust_remote_code=False)
    texts = json.loads((folder / "texts.json").read_text("utf-8"))
    yield lambda: model.encode(texts[:32])
    while True:
        yield lambda: {"embeddings": model.encode(texts, normalize_embeddings=True)}
