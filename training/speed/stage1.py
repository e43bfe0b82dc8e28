"""Train an epoch of stage 1: a text tower learns a teacher's embeddings of parallel text, by their squares.

Ours is `TeacherLearningTrainer` with its defaults, the peer `SentenceTransformerTrainer` with `MSELoss`, as
in sentence-transformers' example `make_multilingual.py`. Student, teacher, pairs, texts in a batch and
optimizer (AdamW) are the same. With `first` the teacher embeds the English texts as well, as in the first
epoch; otherwise its embeddings are there, as in later ones.

Batches are drawn in other orders, so the mean loss of the epoch is compared, at a learning rate at which the
weights hardly move. Dropout is off.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Repeats = Iterator[Callable[[], dict]]
_OPTIONS = {
    "num_train_epochs": 1,
    "learning_rate": 1e-7,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
}


def inputs(folder: Path, shape: dict) -> None:
    """Save a student, which differs from its teacher, and `pairs` of texts with the teacher's embeddings."""
    import torch

    from benchmarks.speed.inputs import draw_captions, save_list, save_model, train_tokenizer
    from modeling_altclip import AltCLIPModel

    english = draw_captions(shape["pairs"], ["en"], shape["words"])
    others = draw_captions(shape["pairs"], ["ru"], shape["words"])
    tokenizer = train_tokenizer(english + others)
    save_model(folder / "teacher", tokenizer, shape)
    save_model(folder / "student", tokenizer, shape)
    student = AltCLIPModel.from_pretrained(folder / "student")
    with torch.no_grad():
        student.text_model.transformation.weight.mul_(0.5)
    student.save_pretrained(folder / "student")
    save_list(folder / "english.json", english)
    save_list(folder / "others.json", others)
    teacher = _Tower(folder / "teacher")
    with torch.inference_mode():
        parts = [teacher.embed(english[start : start + 32]) for start in range(0, len(english), 32)]
    np.save(folder / "targets.npy", torch.cat(parts).numpy())


def ours(folder: Path, shape: dict) -> Repeats:
    import tempfile

    from datasets import Dataset

    from modeling_altclip import AltCLIPModel, AltCLIPProcessor
    from training.arguments import TeacherLearningArguments
    from training.data.examples import CaptionExamples, Collator
    from training.data.tower_cache import teacher_embeddings
    from training.freezing import freeze_all_but
    from training.trainers import TeacherLearningTrainer

    teacher = AltCLIPModel.from_pretrained(folder / "teacher")
    tokenizer = AltCLIPProcessor.from_pretrained(folder / "student").tokenizer
    arguments = TeacherLearningArguments(
        model_name_or_path=str(folder / "student"),
        dataset="",
        output_dir=str(folder / "ours"),
        per_device_train_batch_size=2 * shape["batch_pairs"],
        use_cpu=True,
        **_OPTIONS,
    )
    english, others, targets = _read(folder)
    captions = [{"en": text, "ru": other} for text, other in zip(english, others)]

    def epoch(n_pairs: int) -> Callable[[], dict]:
        model = AltCLIPModel.from_pretrained(folder / "student")
        freeze_all_but(model, ["text_model"])
        rows = Dataset.from_dict({"captions": captions[:n_pairs], "target": targets[:n_pairs]})

        def work() -> dict:
            column = None
            if shape["first"]:
                cache = tempfile.mkdtemp(dir=folder)
                column = teacher_embeddings(rows, teacher, tokenizer, cache_dir=cache)
            trainer = TeacherLearningTrainer(
                model=model,
                args=arguments,
                train_dataset=CaptionExamples(rows, ["en", "ru"], "target", inputs=column),
                data_collator=Collator(tokenizer, max_length=77),
            )
            return {"loss": [trainer.train().training_loss]}

        return work

    yield epoch(shape["batch_pairs"])
    while True:
        yield epoch(len(english))


def sentence_transformers(folder: Path, shape: dict) -> Repeats:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MSELoss

    teacher = SentenceTransformer(
        modules=[_module(folder / "teacher")], device="cpu", trust_remote_code=False
    )
    english, others, targets = _read(folder)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "theirs"),
        per_device_train_batch_size=shape["batch_pairs"],
        use_cpu=True,
        **_OPTIONS,
    )

    def epoch(n_pairs: int) -> Callable[[], dict]:
        model = SentenceTransformer(
            modules=[_module(folder / "student")], device="cpu", trust_remote_code=False
        )
        rows = Dataset.from_dict({"english": english[:n_pairs], "other": others[:n_pairs]})

        def work() -> dict:
            if shape["first"]:
                labels = teacher.encode(english[:n_pairs], batch_size=shape["batch_pairs"])
            else:
                labels = targets[:n_pairs]
            trainer = SentenceTransformerTrainer(
                model=model,
                args=arguments,
                train_dataset=rows.add_column("label", list(labels)),
                loss=MSELoss(model),
            )
            return {"loss": [trainer.train().training_loss]}

        return work

    yield epoch(shape["batch_pairs"])
    while True:
        yield epoch(len(english))


def _read(folder: Path) -> tuple[list[str], list[str], np.ndarray]:
    english = json.loads((folder / "english.json").read_text("utf-8"))
    others = json.loads((folder / "others.json").read_text("utf-8"))
    return english, others, np.load(folder / "targets.npy")


class _Tower:
    """The text tower of transformers' own AltCLIP, up to the embedding that stage 1 compares."""

    def __init__(self, folder: Path):
        from transformers import AltCLIPModel, AutoTokenizer

        self.model = AltCLIPModel.from_pretrained(folder).text_model
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def tokenize(self, texts: list[str]) -> dict:
        return dict(self.tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt"))

    def embed(self, texts: list[str]):
        return self.model(**self.tokenize(texts)).pooler_output


def _module(folder: Path):
    """Return the tower as a module of sentence-transformers."""
    from sentence_transformers.models import InputModule

    tower = _Tower(folder)

    class Texts(InputModule):
        def __init__(self):
            super().__init__()
            self.model = tower.model
            self.tokenizer = tower.tokenizer

        def preprocess(self, inputs: list[str], prompt: str | None = None, **kwargs) -> dict:
            return tower.tokenize(inputs)

        def forward(self, features: dict, **kwargs) -> dict:
            found = self.model(input_ids=features["input_ids"], attention_mask=features["attention_mask"])
            return features | {"sentence_embedding": found.pooler_output}

        def get_embedding_dimension(self) -> int:
            return 512

        def save(self, output_path: str, *args, **kwargs) -> None:
            self.model.save_pretrained(output_path)

    return Texts()
