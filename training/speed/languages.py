"""Compute loss and gradients for images with captions in four languages, both towers trained.

Ours encodes each image once and the captions of all languages together, as `ParallelTrainer` does, and takes
`caption_losses`. The other side is the plain loop over transformers' own AltCLIP, one language at a time: the
images are encoded for each language again. Losses and gradients of the logit scale are equal.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Repeats = Iterator[Callable[[], dict]]
_LENGTH_GROUPS = 4  # the default of `length_groups`


def inputs(folder: Path, shape: dict) -> None:
    """Save a model, pixels of `images`, and a caption of each in each language."""
    from benchmarks.speed.inputs import draw_texts, save_list, save_model, train_tokenizer

    captions = [draw_texts(shape["images"], [name], shape["most_words"]) for name in shape["languages"]]
    save_model(folder / "model", train_tokenizer(sum(captions, [])), shape)
    save_list(folder / "captions.json", captions)
    size = (shape["images"], 3, 224, 224)
    np.save(folder / "pixels.npy", np.random.default_rng(0).standard_normal(size, dtype=np.float32))


def ours(folder: Path, shape: dict) -> Repeats:
    import torch
    from torch.nn.functional import normalize

    from modeling_altclip import AltCLIPModel
    from training.data.examples import Collator
    from training.losses import caption_losses
    from training.trainers import by_length

    model, tokenizer, pixels, captions = _read(folder, AltCLIPModel)
    collator = Collator(tokenizer, max_length=77)

    def step(languages: list[list[str]]) -> dict:
        batch = collator.encode(sum(languages, []))
        groups, rows = by_length(batch, _LENGTH_GROUPS)
        distinct = torch.cat([model.get_text_features(**group).pooler_output for group in groups])
        texts = normalize(distinct[rows[batch["text_rows"]]], dim=-1)
        images = normalize(model.get_image_features(pixels).pooler_output, dim=-1)
        owners = torch.arange(len(pixels)).repeat(len(languages))
        losses = caption_losses(images, texts, model.logit_scale.exp(), text_to_image=owners)
        losses.mean().backward()
        return _found(losses.mean(), model)

    return _repeats(model, captions, step)


def transformers(folder: Path, shape: dict) -> Repeats:
    import torch
    from torch.nn.functional import cross_entropy, normalize
    from transformers import AltCLIPModel

    model, tokenizer, pixels, captions = _read(folder, AltCLIPModel)

    def step(languages: list[list[str]]) -> dict:
        total = 0.0
        for texts in languages:
            encoded = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
            of_texts = normalize(model.get_text_features(**encoded).pooler_output, dim=-1)
            images = normalize(model.get_image_features(pixels).pooler_output, dim=-1)
            logits = model.logit_scale.exp() * of_texts @ images.T
            loss = cross_entropy(logits, torch.arange(len(logits))) / len(languages)
            loss.backward()
            total += loss
        return _found(total, model)

    return _repeats(model, captions, step)


def _read(folder: Path, model_class: type) -> tuple:
    import torch
    from transformers import AutoTokenizer

    model = model_class.from_pretrained(folder / "model").train()
    captions = json.loads((folder / "captions.json").read_text("utf-8"))
    pixels = torch.from_numpy(np.load(folder / "pixels.npy"))
    return model, AutoTokenizer.from_pretrained(folder / "model", trust_remote_code=False), pixels, captions


def _repeats(model, captions: list[list[str]], step: Callable) -> Repeats:
    def of(n_languages: int) -> Callable[[], dict]:
        model.zero_grad(set_to_none=True)
        return lambda: step(captions[:n_languages])

    yield of(1)
    while True:
        yield of(len(captions))


def _found(loss, model) -> dict:
    return {"loss": loss.detach().numpy(), "scale_gradient": model.logit_scale.grad.numpy()}
