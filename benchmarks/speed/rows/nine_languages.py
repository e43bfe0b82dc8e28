"""Evaluate zero-shot classification and retrieval on one set of images, in nine languages.

Ours encodes the images once, as evaluation does, and each language's classes and captions. CLIP_benchmark
runs both tasks once for each language, as its command does for `--language en ru ...`: every time it decodes
and encodes the images again. Retrieval is its `evaluate`. Of classification its two functions that encode are
called, since its `accuracy` raises a TypeError with NumPy 2.4. The weights are transformers' own AltCLIP
there, and texts are padded to 77 tokens, as by open_clip's tokenizers.

Random weights give nearly equal scores, of which the last bit may decide: results may differ by a few items.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

Repeats = Iterator[Callable[[], dict]]
_KS = (1, 5, 10)
_CAPTIONS = 5  # of an image, in each language
_SLOT = "{}"


def inputs(folder: Path, shape: dict) -> None:
    """Save a model, `images` of 320 x 256, and in each language captions, class names and templates."""
    from benchmarks.speed.inputs import (
        WORDS,
        draw_images,
        draw_texts,
        save_list,
        save_model,
        train_tokenizer,
    )

    captions = {}
    for language in shape["languages"]:
        captions[language] = draw_texts(_CAPTIONS * shape["images"], [language], shape["most_words"])
    classes = {language: WORDS[language][: shape["classes"]] for language in shape["languages"]}
    templates = {}
    for language in shape["languages"]:
        texts = draw_texts(shape["templates"], [language], 4)
        templates[language] = [f"{text} {_SLOT}" for text in texts]
    save_model(folder / "model", train_tokenizer(sum(captions.values(), [])), shape)
    for name, values in {"captions": captions, "classes": classes, "templates": templates}.items():
        save_list(folder / f"{name}.json", values)
    for number, image in enumerate(draw_images(shape["images"], 320, 256)):
        image.save(folder / f"{number:04}.jpg", quality=95)


def ours(folder: Path, shape: dict) -> Repeats:
    import torch

    from benchmarks.encoder import Encoder
    from benchmarks.metrics import class_ranks, retrieval_recall
    from modeling_altclip import AltCLIPModel, AltCLIPProcessor

    model = AltCLIPModel.from_pretrained(folder / "model").to(shape["device"])
    encoder = Encoder(model, AltCLIPProcessor.from_pretrained(folder / "model"))
    data = _Data(folder, shape)
    labels = torch.tensor(data.labels)
    owners = torch.arange(len(data.paths)).repeat_interleave(_CAPTIONS)

    def evaluate(languages: list[str]) -> dict:
        images = encoder.images(data.paths)
        found = {}
        for language in languages:
            classes = encoder.classes(data.classes[language], data.templates[language])
            ranks = class_ranks(images, classes, labels)
            recall = retrieval_recall(images, encoder.texts(data.captions[language]), owners, _KS)
            recalls = [recall[f"text_to_image_recall@{k}"] for k in _KS]
            recalls += [recall[f"image_to_text_recall@{k}"] for k in _KS]
            found[language] = [(ranks == 0).double().mean().item(), *recalls]
        return found

    yield lambda: evaluate(shape["languages"][:1])
    while True:
        yield lambda: evaluate(shape["languages"])


def clip_benchmark(folder: Path, shape: dict) -> Repeats:
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    model = _CLIPLike(folder / "model", shape["device"])
    data = _Data(folder, shape)
    on_device = {"device": shape["device"], "amp": False}

    def evaluate(languages: list[str]) -> dict:
        found = {}
        for language in languages:
            names = data.classes[language]
            # CLIP_benchmark writes {c} where a class name goes.
            slots = [template.replace(_SLOT, "{c}") for template in data.templates[language]]
            labelled = data.loader(model.transform, data.labels, classes=names)
            classifier = zeroshot_classification.zero_shot_classifier(
                model, model.tokenize, names, slots, **on_device
            )
            logits, targets = zeroshot_classification.run_classification(
                model, classifier, labelled, **on_device
            )
            accuracy = (logits.argmax(1) == targets).double().mean().item()
            captioned = data.loader(model.transform, data.captions_of_images(language))
            recall = zeroshot_retrieval.evaluate(
                model, captioned, model.tokenize, recall_k_list=_KS, **on_device
            )
            recalls = [recall[f"image_retrieval_recall@{k}"] for k in _KS]
            recalls += [recall[f"text_retrieval_recall@{k}"] for k in _KS]
            found[language] = [accuracy, *recalls]
        return found

    yield lambda: evaluate(shape["languages"][:1])
    while True:
        yield lambda: evaluate(shape["languages"])


class _Data:
    """What `inputs` has saved."""

    def __init__(self, folder: Path, shape: dict):
        self.paths = sorted(folder.glob("*.jpg"))
        self.labels = [number % shape["classes"] for number in range(len(self.paths))]
        self.captions = json.loads((folder / "captions.json").read_text("utf-8"))
        self.classes = json.loads((folder / "classes.json").read_text("utf-8"))
        self.templates = json.loads((folder / "templates.json").read_text("utf-8"))

    def captions_of_images(self, language: str) -> list[list[str]]:
        captions = self.captions[language]
        return [captions[start : start + _CAPTIONS] for start in range(0, len(captions), _CAPTIONS)]

    def loader(self, transform: Callable, targets: list, classes: list[str] | None = None):
        """Return a loader of images and their targets, as CLIP_benchmark makes them: 64 at a time."""
        import torch
        from PIL import Image

        paths = self.paths

        class Pairs(torch.utils.data.Dataset):
            def __init__(self):
                self.classes = classes

            def __len__(self) -> int:
                return len(paths)

            def __getitem__(self, row: int):
                return transform(Image.open(paths[row])), targets[row]

        def collate(pairs: list[tuple]):
            images, of_images = zip(*pairs)
            return torch.stack(images), list(of_images) if classes is None else torch.tensor(of_images)

        return torch.utils.data.DataLoader(Pairs(), batch_size=64, collate_fn=collate)


class _CLIPLike:
    """Adapter of transformers' AltCLIP to open_clip's interface, which passes token ids without a mask."""

    def __init__(self, folder: Path, device: str):
        from transformers import AltCLIPModel, AltCLIPProcessor

        self.model = AltCLIPModel.from_pretrained(folder).to(device)
        self.processor = AltCLIPProcessor.from_pretrained(folder, backend="pil")

    def transform(self, image):
        return self.processor.image_processor(image, return_tensors="pt")["pixel_values"][0]

    def encode_image(self, pixels):
        return self.model.get_image_features(pixels).pooler_output

    def encode_text(self, tokens):
        mask = (tokens != self.processor.tokenizer.pad_token_id).long()
        return self.model.get_text_features(input_ids=tokens, attention_mask=mask).pooler_output

    def tokenize(self, texts: list[str]):
        options = {"padding": "max_length", "truncation": True, "max_length": 77, "return_tensors": "pt"}
        return self.processor.tokenizer(texts, **options)["input_ids"]
