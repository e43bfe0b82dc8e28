"""Measure what length bucketing of prompts saves: our zero-shot classifier against CLIP_benchmark's.

Both run the same random model of XLM-R base size. We count CPU seconds of one thread for the first ImageNet
classes in all 80 English prompts, after a warm-up; the class embeddings have to agree. CLIP_benchmark encodes
a class at a time and its tokenizers pad to 77 tokens; we encode all prompts together, those of similar length
in a batch.
Measured at the defaults, which take some minutes: 12.1 s against 85.7 s, ratio 7.1, difference 3e-8.
"""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AltCLIPProcessor, CLIPImageProcessor, PreTrainedTokenizerFast

from benchmarks.encoder import Encoder
from benchmarks.tasks.class_names import load_class_names
from benchmarks.tasks.templates import load_templates
from benchmarks.tasks.text_lists import package_folder
from modeling_altclip import AltCLIPConfig, AltCLIPModel
from modeling_altclip.prompts_altclip import fill_template

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@dataclass(kw_only=True)
class _SpeedArguments:
    """Size of the classifier and of its text tower."""

    classes: int = field(default=10, metadata={"help": "Number of ImageNet's classes, each in 80 prompts."})
    width: int = field(
        default=768, metadata={"help": "Width of the text tower; 768 and 12 layers are base size."}
    )
    layers: int = field(default=12, metadata={"help": "Number of layers of the text tower."})


class _CLIPLike:
    """Adapter of the same model to the interface of CLIP_benchmark, which passes token ids without a mask."""

    def __init__(self, model: AltCLIPModel, tokenizer: PreTrainedTokenizerFast):
        self.model = model
        self.tokenizer = tokenizer

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        # CLIP_benchmark has no mask: padding is known by its id.
        mask = (tokens != self.tokenizer.pad_token_id).long()
        return self.model.get_text_features(input_ids=tokens, attention_mask=mask).pooler_output

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        encoded = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        )
        return encoded["input_ids"]


def main(arguments: _SpeedArguments) -> None:
    torch.set_num_threads(1)
    templates = load_templates("clip_benchmark", "en")
    all_names = load_class_names("clip_benchmark", ["en"])["en"]
    names = all_names[: arguments.classes]
    tokenizer = _train_tokenizer(_prompts(all_names, templates))
    model = _build_model(arguments, len(tokenizer))
    processor = AltCLIPProcessor(CLIPImageProcessor(), tokenizer)
    peer = _CLIPLike(model, tokenizer)
    theirs = _load_peer()

    n_tokens = [len(tokenizer(prompt).input_ids) for prompt in _prompts(names, templates)]
    mean_length = sum(n_tokens) / len(n_tokens)
    print(f"{len(names)} classes x {len(templates)} prompts of {mean_length:.1f} tokens, one thread")

    def build_ours(n: int) -> torch.Tensor:
        return Encoder(model, processor).classes(names[:n], templates)

    def build_theirs(n: int) -> torch.Tensor:
        # CLIP_benchmark writes {c} where a class name goes, and returns a column for each class.
        slots = [template.replace("{}", "{c}") for template in templates]
        return theirs.zero_shot_classifier(peer, peer.tokenize, names[:n], slots, "cpu", amp=False).T

    our_embeds, our_seconds = _time(build_ours, len(names))
    print(f"ours            {our_seconds:8.2f} CPU s")
    their_embeds, their_seconds = _time(build_theirs, len(names))
    print(f"CLIP_benchmark  {their_seconds:8.2f} CPU s")

    ratio = their_seconds / our_seconds
    difference = (our_embeds - their_embeds).abs().max()
    print(f"ratio {ratio:.1f}; largest difference of a class vector {difference:.1e}")


def _prompts(names: list[str], templates: list[str]) -> list[str]:
    """Fill each template with each class name, class by class."""
    return [fill_template(template, name) for name in names for template in templates]


def _train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of up to 8,000 pieces, with XLM-R's special tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8005,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The ids of special tokens are their places in `_SPECIAL`.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    roles = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    tokens = dict(zip(roles, _SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=77, **tokens)


def _build_model(arguments: _SpeedArguments, vocab_size: int) -> AltCLIPModel:
    """Build a random text tower of the requested size, beside an image tower that is not used."""
    torch.manual_seed(0)
    text_config = {
        "hidden_size": arguments.width,
        "intermediate_size": 4 * arguments.width,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.width // 64,
        "vocab_size": vocab_size,
        "project_dim": 512,
    }
    vision_config = {"num_hidden_layers": 1}
    config = AltCLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=512)
    return AltCLIPModel(config).eval()


def _load_peer() -> ModuleType:
    """Load CLIP_benchmark's module by its path: its package would import torchvision and open_clip."""
    path = package_folder("clip_benchmark") / "metrics" / "zeroshot_classification.py"
    spec = importlib.util.spec_from_file_location("clip_benchmark_zeroshot_classification", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _time(build: Callable[[int], torch.Tensor], n: int) -> tuple[torch.Tensor, float]:
    """Return the embeddings of the first `n` classes, and the CPU seconds that they took."""
    build(1)  # warms up
    start = time.process_time()
    embeds = build(n)
    return embeds, time.process_time() - start
