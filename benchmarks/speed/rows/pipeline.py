"""Classify images by `pipeline("zero-shot-image-classification")`, ours and transformers' own.

Both get the same folder, images and labels, called as in the documentation; one peer gets the flag
`batch_size=64`. Each repeat has a pipeline of its own: ours keeps the embeddings of labels.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

Repeats = Iterator[Callable[[], dict]]


def inputs(folder: Path, shape: dict) -> None:
    """Save a model, `images` as PNG files of 320 x 256, and `labels`."""
    from benchmarks.speed.inputs import draw_images, draw_texts, save_list, save_model, train_tokenizer

    labels = draw_texts(shape["labels"], ["en"], 2)
    save_model(folder / "model", train_tokenizer(labels), shape)
    save_list(folder / "labels.json", labels)
    for number, image in enumerate(draw_images(shape["images"], 320, 256)):
        image.save(folder / f"{number:04}.png")


def ours(folder: Path, shape: dict) -> Repeats:
    import modeling_altclip  # noqa: F401  (registers our pipeline)

    return _classify(folder, shape, {})


def transformers(folder: Path, shape: dict) -> Repeats:
    return _classify(folder, shape, {})


def transformers_batched(folder: Path, shape: dict) -> Repeats:
    return _classify(folder, shape, {"batch_size": 64})


def _classify(folder: Path, shape: dict, options: dict) -> Repeats:
    from PIL import Image
    from transformers import pipeline

    task = "zero-shot-image-classification"
    labels = json.loads((folder / "labels.json").read_text("utf-8"))
    images = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]
    first = pipeline(task, model=str(folder / "model"), device=shape["device"])
    parts = {name: getattr(first, name) for name in ("model", "tokenizer", "image_processor")}

    def classify(n_images: int, n_labels: int) -> Callable[[], dict]:
        classifier = pipeline(task, **parts, device=shape["device"])

        def work() -> dict:
            answers = classifier(images[:n_images], candidate_labels=labels[:n_labels], **options)
            return {"scores": [_in_order(answer) for answer in answers]}

        return work

    yield classify(1, 1)
    while True:
        yield classify(len(images), len(labels))


def _in_order(answer: list[dict]) -> list[float]:
    """Return an image's scores in the order of their labels' names; the pipelines sort them by score."""
    return [entry["score"] for entry in sorted(answer, key=lambda entry: entry["label"])]
