"""Build a zero-shot classifier of ImageNet's classes in CLIP's 80 English prompts.

Ours is `Encoder.classes`, as evaluation uses it. CLIP_benchmark's `zero_shot_classifier` encodes a class at a
time, open_clip's `build_zero_shot_classifier` ten; both get the same weights in transformers' own AltCLIP,
and pad to 77 tokens, as open_clip's tokenizers do. CLIP_benchmark's default on a CPU is bfloat16 by autocast;
it is off, since its results would be others.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

Repeats = Iterator[Callable[[], dict]]


def inputs(folder: Path, shape: dict) -> None:
    """Save a model, the names of `classes`, and the first `templates`."""
    from benchmarks.speed.inputs import save_list, save_model, train_tokenizer
    from benchmarks.tasks.class_names import load_class_names
    from benchmarks.tasks.templates import load_templates
    from modeling_altclip.prompts_altclip import fill_template

    templates = load_templates("clip_benchmark", "en")[: shape["templates"]]
    names = load_class_names("clip_benchmark", ["en"])["en"]
    prompts = [fill_template(template, name) for name in names for template in templates]
    save_model(folder / "model", train_tokenizer(prompts), shape)
    save_list(folder / "templates.json", templates)
    save_list(folder / "names.json", names[: shape["classes"]])


def ours(folder: Path, shape: dict) -> Repeats:
    from benchmarks.encoder import Encoder
    from modeling_altclip import AltCLIPModel, AltCLIPProcessor

    model = AltCLIPModel.from_pretrained(folder / "model").to(shape["device"])
    encoder = Encoder(model, AltCLIPProcessor.from_pretrained(folder / "model"))
    names, templates = _read(folder)
    yield lambda: encoder.classes(names[:1], templates)
    while True:
        yield lambda: {"classes": encoder.classes(names, templates)}


def clip_benchmark(folder: Path, shape: dict) -> Repeats:
    from clip_benchmark.metrics.zeroshot_classification import zero_shot_classifier

    model = _CLIPLike(folder / "model", shape["device"])
    names, templates = _read(folder)
    # CLIP_benchmark writes {c} where a class name goes, and returns a column for each class.
    slots = [template.replace("{}", "{c}") for template in templates]

    def build(names: list[str]) -> dict:
        classes = zero_shot_classifier(model, model.tokenize, names, slots, shape["device"], amp=False)
        return {"classes": classes.T.cpu()}

    yield lambda: build(names[:1])
    while True:
        yield lambda: build(names)


def open_clip(folder: Path, shape: dict) -> Repeats:
    from open_clip import build_zero_shot_classifier

    model = _CLIPLike(folder / "model", shape["device"])
    names, templates = _read(folder)

    def build(names: list[str]) -> dict:
        classes = build_zero_shot_classifier(model, model.tokenize, names, templates, device=shape["device"])
        return {"classes": classes.T.cpu()}

    yield lambda: build(names[:1])
    while True:
        yield lambda: build(names)


def _read(folder: Path) -> tuple[list[str], list[str]]:
    names = json.loads((folder / "names.json").read_text("utf-8"))
    return names, json.loads((folder / "templates.json").read_text("utf-8"))


class _CLIPLike:
    """Adapter of transformers' AltCLIP to open_clip's interface, which passes token ids without a mask."""

    def __init__(self, folder: Path, device: str):
        from transformers import AltCLIPModel, AutoTokenizer

        self.model = AltCLIPModel.from_pretrained(folder).to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def encode_text(self, tokens, normalize: bool = False):
        mask = (tokens != self.tokenizer.pad_token_id).long()
        embeddings = self.model.get_text_features(input_ids=tokens, attention_mask=mask).pooler_output
        return embeddings / embeddings.norm(dim=-1, keepdim=True) if normalize else embeddings

    def tokenize(self, texts: list[str]):
        options = {"padding": "max_length", "truncation": True, "max_length": 77, "return_tensors": "pt"}
        return self.tokenizer(texts, **options)["input_ids"]
