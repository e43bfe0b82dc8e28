"""Train stage 2 with a frozen image tower, in steps of equal batches.

Ours is `ContrastiveTrainer` with its defaults and the image tower's embeddings, which are computed once
before. Both peers run the image tower in each step. One is transformers' `Trainer` with transformers' own
AltCLIP and loss, which pads texts to the longest in the batch. The other does what open_clip's training does
in a step with `--lock-image`: texts padded to 77 tokens, `ClipLoss`, AdamW; the towers are the same, since
weights of open_clip's own would be others.

An epoch is one batch of all pairs, so that its loss does not depend on their order, and the weights hardly
move. Dropout is off.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Repeats = Iterator[Callable[[], dict]]
_LEARNING_RATE = 1e-7


def inputs(folder: Path, shape: dict) -> None:
    """Save a model, `pairs` of texts and pixels, and the embeddings of the images."""
    import torch

    from benchmarks.speed.inputs import draw_captions, save_list, save_model, train_tokenizer
    from modeling_altclip import AltCLIPModel

    texts = draw_captions(shape["pairs"], ["en"], shape["words"])
    save_model(folder / "model", train_tokenizer(texts), shape)
    save_list(folder / "texts.json", texts)
    pixels = torch.randn(shape["pairs"], 3, 224, 224, generator=torch.Generator().manual_seed(0))
    np.save(folder / "pixels.npy", pixels.numpy())
    model = AltCLIPModel.from_pretrained(folder / "model")
    with torch.inference_mode():
        embeddings = torch.nn.functional.normalize(model.get_image_features(pixels).pooler_output, dim=-1)
    np.save(folder / "embeddings.npy", embeddings.numpy())


def ours(folder: Path, shape: dict) -> Repeats:
    from datasets import Dataset

    from modeling_altclip import AltCLIPModel, AltCLIPProcessor
    from training.arguments import ContrastiveArguments
    from training.data.examples import CaptionExamples, Collator
    from training.freezing import freeze_all_but
    from training.trainers import ContrastiveTrainer

    tokenizer = AltCLIPProcessor.from_pretrained(folder / "model").tokenizer
    captions = [{"en": text} for text in _read_texts(folder)]
    rows = Dataset.from_dict({"captions": captions, "image_embeds": np.load(folder / "embeddings.npy")})

    def train(n_steps: int) -> Callable[[], dict]:
        arguments = ContrastiveArguments(
            model_name_or_path=str(folder / "model"),
            dataset="",
            output_dir=str(folder / "ours"),
            **_options(shape, n_steps),
        )
        model = AltCLIPModel.from_pretrained(folder / "model")
        freeze_all_but(model, arguments.trainable)
        trainer = ContrastiveTrainer(
            model=model,
            args=arguments,
            train_dataset=CaptionExamples(rows, ["en"], "image_embeds"),
            data_collator=Collator(tokenizer, max_length=77),
        )
        return lambda: {"loss": [trainer.train().training_loss]}

    yield train(1)
    while True:
        yield train(shape["steps"])


def transformers(folder: Path, shape: dict) -> Repeats:
    import torch
    from transformers import AltCLIPModel, AutoTokenizer, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(folder / "model", trust_remote_code=False)
    pixels = torch.from_numpy(np.load(folder / "pixels.npy"))
    pairs = list(zip(_read_texts(folder), pixels))

    def collate(pairs: list[tuple]) -> dict:
        texts, images = zip(*pairs)
        encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=77, return_tensors="pt")
        return dict(encoded) | {"pixel_values": torch.stack(images), "return_loss": True}

    def train(n_steps: int) -> Callable[[], dict]:
        arguments = TrainingArguments(
            output_dir=str(folder / "theirs"), remove_unused_columns=False, **_options(shape, n_steps)
        )
        model = AltCLIPModel.from_pretrained(folder / "model")
        _lock_image(model)
        trainer = Trainer(model=model, args=arguments, train_dataset=pairs, data_collator=collate)
        return lambda: {"loss": [trainer.train().training_loss]}

    yield train(1)
    while True:
        yield train(shape["steps"])


def open_clip(folder: Path, shape: dict) -> Repeats:
    import torch
    from open_clip.loss import ClipLoss
    from transformers import AltCLIPModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model", trust_remote_code=False)
    texts = _read_texts(folder)
    pixels = torch.from_numpy(np.load(folder / "pixels.npy"))
    normalize = torch.nn.functional.normalize

    def train(n_steps: int) -> Callable[[], dict]:
        model = AltCLIPModel.from_pretrained(folder / "model").train()
        _lock_image(model)
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=_LEARNING_RATE)
        loss_of = ClipLoss()

        def work() -> dict:
            losses = []
            for _ in range(n_steps):
                padding = {"padding": "max_length", "truncation": True, "max_length": 77}
                encoded = tokenizer(texts, **padding, return_tensors="pt")
                optimizer.zero_grad()
                images = normalize(model.get_image_features(pixels).pooler_output, dim=-1)
                embeddings = normalize(model.get_text_features(**encoded).pooler_output, dim=-1)
                loss = loss_of(images, embeddings, model.logit_scale.exp())
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            return {"loss": [np.mean(losses)]}

        return work

    yield train(1)
    while True:
        yield train(shape["steps"])


def _options(shape: dict, n_steps: int) -> dict:
    return {
        "per_device_train_batch_size": shape["pairs"],
        "max_steps": n_steps,
        "learning_rate": _LEARNING_RATE,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _lock_image(model) -> None:
    """Freeze what our stage 2 freezes: the image tower with its projection."""
    model.vision_model.requires_grad_(False)
    model.visual_projection.requires_grad_(False)


def _read_texts(folder: Path) -> list[str]:
    return json.loads((folder / "texts.json").read_text("utf-8"))
