"""What sorting prompts by length saves: our zero-shot classifier against CLIP_benchmark's, on the same random model of XLM-R base size.

pip install --no-deps clip-benchmark==1.6.2
python benchmarks/run_classifier_speed.py
python benchmarks/run_classifier_speed.py --classes 2 --width 64 --layers 2

CPU seconds of one thread for the first ImageNet classes in all 80 English prompts, after a warm-up; the class vectors have to agree.
CLIP_benchmark encodes a class at a time and its tokenizers pad to 77 tokens; we encode all prompts together, those of like length
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
from benchmarks.prompts import load_class_names, load_templates, package_folder
from benchmarks.recipe import launch
from modeling_altclip import AltCLIPConfig, AltCLIPModel
from modeling_altclip.prompts_altclip import fill_template

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@dataclass(kw_only=True)
class SpeedArguments:
    """What to measure."""

    classes: int = field(default=10, metadata={"help": "How many of ImageNet's classes, each in 80 prompts."})
    width: int = field(default=768, metadata={"help": "Of the text tower; 768 and 12 layers are base size."})
    layers: int = field(default=12, metadata={"help": "Of the text tower."})


class CLIPLike:
    """The same model as CLIP_benchmark calls it: token ids alone, padding told by its id."""

    def __init__(self, model: AltCLIPModel, tokenizer: PreTrainedTokenizerFast):
        self.model, self.tokenizer = model, tokenizer

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = (tokens != self.tokenizer.pad_token_id).long()
        return self.model.get_text_features(input_ids=tokens, attention_mask=mask).pooler_output

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        return self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        )["input_ids"]


def main(arguments: SpeedArguments) -> None:
    torch.set_num_threads(1)
    templates = load_templates("clip_benchmark", "en")
    all_names = load_class_names("clip_benchmark", ["en"])["en"]
    tokenizer = train_tokenizer(
        [fill_template(template, name) for name in all_names for template in templates]
    )
    model, names = build_model(arguments, len(tokenizer)), all_names[: arguments.classes]
    processor, peer, theirs = (
        AltCLIPProcessor(CLIPImageProcessor(), tokenizer),
        CLIPLike(model, tokenizer),
        load_peer(),
    )
    n_tokens = [
        len(tokenizer(fill_template(template, name)).input_ids) for name in names for template in templates
    ]
    print(
        f"{len(names)} classes x {len(templates)} prompts of {sum(n_tokens) / len(n_tokens):.1f} tokens, one thread"
    )

    def build_ours(n: int) -> torch.Tensor:
        return Encoder(model, processor).classes(names[:n], templates)

    def build_theirs(n: int) -> torch.Tensor:
        slots = [template.replace("{}", "{c}") for template in templates]
        return theirs.zero_shot_classifier(peer, peer.tokenize, names[:n], slots, "cpu", amp=False).T

    ours, our_seconds = timed(build_ours, len(names))
    print(f"ours            {our_seconds:8.2f} CPU s")
    peers, their_seconds = timed(build_theirs, len(names))
    print(f"CLIP_benchmark  {their_seconds:8.2f} CPU s")
    print(
        f"ratio {their_seconds / our_seconds:.1f}; largest difference of a class vector {(ours - peers).abs().max():.1e}"
    )


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of up to 8,000 pieces, with XLM-R's special tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=8005, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokens = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=77, **tokens)


def build_model(arguments: SpeedArguments, vocab_size: int) -> AltCLIPModel:
    """A random text tower of the size asked for, beside an image tower that is not used."""
    torch.manual_seed(0)
    text = {
        "hidden_size": arguments.width,
        "intermediate_size": 4 * arguments.width,
        "num_hidden_layers": arguments.layers,
    }
    text |= {"num_attention_heads": arguments.width // 64, "vocab_size": vocab_size, "project_dim": 512}
    return AltCLIPModel(
        AltCLIPConfig(text_config=text, vision_config={"num_hidden_layers": 1}, projection_dim=512)
    ).eval()


def load_peer() -> ModuleType:
    """CLIP_benchmark's module, by its path: its package would import torchvision and open_clip."""
    path = package_folder("clip_benchmark") / "metrics" / "zeroshot_classification.py"
    spec = importlib.util.spec_from_file_location("clip_benchmark_zeroshot_classification", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(build: Callable[[int], torch.Tensor], n: int) -> tuple[torch.Tensor, float]:
    """The class vectors, and the CPU seconds they took."""
    build(1)
    start = time.process_time()
    return build(n), time.process_time() - start


if __name__ == "__main__":
    launch(main, SpeedArguments, one_process=True)
