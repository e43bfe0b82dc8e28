"""Read an epoch of images and captions as training does without a cache: decode, transform, tokenize, batch.

Ours is `CaptionExamples` of `ImageViews` with `Collator`, as `load_examples` makes them for stages 0 and 2.
The other side is the same dataset with the transform of transformers' image-text examples: `datasets` decodes
and passes images to the processor (`with_transform`). Both are read by a `DataLoader` without worker
processes, as `Trainer` does by default, in order.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

Repeats = Iterator[Callable[[], dict]]


def inputs(folder: Path, shape: dict) -> None:
    """Save a dataset of JPEG images of 640 x 480 with captions, and a processor."""
    from datasets import Dataset, Features, Image, Value
    from transformers import CLIPImageProcessor

    from benchmarks.speed.inputs import draw_images, draw_texts, save_list, train_tokenizer
    from modeling_altclip import AltCLIPProcessor

    texts = draw_texts(shape["images"], ["en"], shape["most_words"])
    AltCLIPProcessor(CLIPImageProcessor(), train_tokenizer(texts)).save_pretrained(folder / "processor")
    encoded = []
    for image in draw_images(shape["images"], 640, 480):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    columns = {"image": encoded, "captions": [{"en": text} for text in texts]}
    features = Features({"image": Image(), "captions": {"en": Value("string")}})
    Dataset.from_dict(columns, features=features).save_to_disk(folder / "rows")
    save_list(folder / "texts.json", texts)


def ours(folder: Path, shape: dict) -> Repeats:
    from datasets import load_from_disk

    from modeling_altclip import AltCLIPProcessor
    from training.data.examples import CaptionExamples, Collator
    from training.data.images import ImageViews

    processor = AltCLIPProcessor.from_pretrained(folder / "processor")
    rows = load_from_disk(folder / "rows")
    collator = Collator(processor.tokenizer, max_length=77, image_processor=processor.image_processor)

    def read(n_rows: int) -> dict:
        part = rows.select(range(n_rows))
        examples = CaptionExamples(part, ["en"], "image", inputs=ImageViews(part, n_views=1))
        return _sums(examples, collator, shape["batch_size"])

    yield lambda: read(shape["batch_size"])
    while True:
        yield lambda: read(len(rows))


def transformers(folder: Path, shape: dict) -> Repeats:
    import torch
    from datasets import load_from_disk
    from transformers import AltCLIPProcessor

    processor = AltCLIPProcessor.from_pretrained(folder / "processor")
    rows = load_from_disk(folder / "rows")

    def transform(batch: dict) -> dict:
        texts = [captions["en"] for captions in batch["captions"]]
        tokens = processor.tokenizer(texts, truncation=True, max_length=77)
        images = [image.convert("RGB") for image in batch["image"]]
        return dict(tokens) | {"pixel_values": processor.image_processor(images)["pixel_values"]}

    def collate(examples: list[dict]) -> dict:
        pixels = [torch.as_tensor(example.pop("pixel_values")) for example in examples]
        texts = processor.tokenizer.pad(examples, return_tensors="pt")
        return dict(texts) | {"pixel_values": torch.stack(pixels)}

    def read(n_rows: int) -> dict:
        return _sums(rows.select(range(n_rows)).with_transform(transform), collate, shape["batch_size"])

    yield lambda: read(shape["batch_size"])
    while True:
        yield lambda: read(len(rows))


def _sums(examples, collate: Callable, batch_size: int) -> dict:
    """Return a sum of each batch's pixels, and the number of its tokens, padding apart."""
    from torch.utils.data import DataLoader

    pixels = []
    n_tokens = []
    for batch in DataLoader(examples, batch_size, collate_fn=collate):
        pixels.append(batch["pixel_values"].double().mean().item())
        n_tokens.append(batch["attention_mask"].sum().item())
    return {"pixels": pixels, "tokens": n_tokens}
