"""Small teachers and text encoders of every family, with random weights, saved as their authors save them."""

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    ChineseCLIPProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    M2M100Config,
    M2M100Model,
    MetaClip2Config,
    MetaClip2Model,
    ModernBertConfig,
    ModernBertModel,
    Qwen3Config,
    Qwen3Model,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
    T5Config,
    T5EncoderModel,
    T5Model,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

# Arguments of two steps of a stage.
QUICK = {
    "languages": ["en", "zh"],
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "save_steps": 1,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": [],
}

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
# Embeddings for all tokens of the miniature's tokenizer, whose special tokens these are.
TEXT = {**SMALL, "vocab_size": 4000, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}
BOTH = {"text_config": TEXT, "vision_config": VISION}
SIZE = {"size": {"height": 32, "width": 32}}
SHORTEST = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
T5 = {"vocab_size": 4000, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
ENDS = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
NLLB = {
    "vocab_size": 4000,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}


def _dual():
    return VisionTextDualEncoderConfig.from_vision_text_configs(
        ViTConfig(**VISION), BertConfig(**TEXT), projection_dim=16
    )


# By name: the model's class, a function that returns its configuration, and the processor's class with the
# image processor that it takes.
TEACHERS = {
    "clip": (CLIPModel, lambda: CLIPConfig(**BOTH, projection_dim=24), CLIPProcessor, SHORTEST),
    "siglip": (SiglipModel, lambda: SiglipConfig(**BOTH), SiglipProcessor, SIZE),
    "siglip2": (SiglipModel, lambda: SiglipConfig(**BOTH), SiglipProcessor, SIZE),
    "naflex": (
        Siglip2Model,
        lambda: Siglip2Config(text_config=TEXT, vision_config={**SMALL, "patch_size": 8, "num_patches": 16}),
        Siglip2Processor,
        {"patch_size": 8, "max_num_patches": 16},
    ),
    "metaclip2": (
        MetaClip2Model,
        lambda: MetaClip2Config(**BOTH, projection_dim=24),
        CLIPProcessor,
        SHORTEST,
    ),
    "chinese-clip": (
        ChineseCLIPModel,
        lambda: ChineseCLIPConfig(**BOTH, projection_dim=24),
        ChineseCLIPProcessor,
        SHORTEST,
    ),
    "dual": (VisionTextDualEncoderModel, _dual, VisionTextDualEncoderProcessor, SHORTEST),
}
IMAGE_PROCESSORS = {
    SiglipProcessor: SiglipImageProcessorPil,
    Siglip2Processor: Siglip2ImageProcessorPil,
}

STUDENTS = {
    "xlm-r": (XLMRobertaModel, lambda: XLMRobertaConfig(**TEXT, max_position_embeddings=90)),
    "bert": (BertModel, lambda: BertConfig(**TEXT)),
    "modernbert": (ModernBertModel, lambda: ModernBertConfig(**TEXT, cls_token_id=0, sep_token_id=2)),
    "t5": (T5Model, lambda: T5Config(**T5, **ENDS)),
    "t5-encoder": (T5EncoderModel, lambda: T5Config(**T5, **ENDS)),
    "nllb": (M2M100Model, lambda: M2M100Config(**NLLB)),
    "qwen3": (Qwen3Model, lambda: Qwen3Config(**TEXT, num_key_value_heads=2, head_dim=8)),
}


def save_teacher(name, folder, tokenizer):
    """Save a teacher with its processor, which tokenizes as the miniature does."""
    torch.manual_seed(0)
    model_class, config, processor_class, sizes = TEACHERS[name]
    model_class(config()).eval().save_pretrained(folder)
    image_processor = IMAGE_PROCESSORS.get(processor_class, CLIPImageProcessorPil)(**sizes)
    processor_class(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    return str(folder)


def save_student(name, folder, tokenizer):
    """Save a text encoder with the miniature's tokenizer."""
    torch.manual_seed(1)
    model_class, config = STUDENTS[name]
    model_class(config()).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def load_tokenizer_of(miniature):
    """Load the miniature's tokenizer anew: a processor changes the one that it is given."""
    return AutoTokenizer.from_pretrained(miniature / "text_encoder")


def save_sentence_encoder(
    folder, tokenizer, *, dim=24, pooling="mean", prompt="key ", length=90, normalize=True
):
    """Save a sentence encoder of sentence-transformers, which reads no images; return its name as a teacher.

    It is a BERT, a pooling, a layer to `dim` values and a normalization, with a prompt of its own.
    """
    bert = f"{folder}-bert"
    save_student("bert", bert, tokenizer)
    torch.manual_seed(2)
    modules = [
        Transformer(bert, max_seq_length=length),
        Pooling(TEXT["hidden_size"], pooling_mode=pooling),
        Dense(TEXT["hidden_size"], dim),
    ]
    if normalize:
        modules.append(Normalize())
    prompts = {"prompts": {"caption": prompt}, "default_prompt_name": "caption"}
    SentenceTransformer(modules=modules, device="cpu", **prompts).save_pretrained(str(folder))
    return f"sentence_transformers:{folder}"


def save_image_encoder(folder):
    """Save a ViT with its image processor."""
    torch.manual_seed(3)
    ViTModel(ViTConfig(**VISION)).eval().save_pretrained(folder)
    ViTImageProcessorPil(**SIZE).save_pretrained(folder)
    return str(folder)
