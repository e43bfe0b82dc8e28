"""Write the miniature's dataset and untrained towers."""

import io
import json
import math
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import Pool
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PillowImage
from tqdm.auto import tqdm
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    XLMRobertaConfig,
    XLMRobertaModel,
    set_seed,
)

from common.files.made import digest_sources, is_made, write_record
from common.files.whole_files import write_text, written_whole
from common.languages import check_languages
from common.origins import write_origins
from common.output import bytes_of_weights, check_output_dir, saving
from modeling_altclip.checkpoint_altclip import match_modes

from ..logit_bias import FIRST_LOGIT_SCALE
from .origins import origins_of_scenes
from .scenes import IMAGE_SIZE, SPLITS, EmojiScenes, read_concepts
from .vocabulary import MAX_LENGTH, train_english_tokenizer, train_multilingual_tokenizer

_WIDTH = 128
_HEADS = 4
_IMAGE_LAYERS = 4
_TEXT_LAYERS = 2
# Larger vocabularies hold whole pairs of names as one piece, and are then worse on pairs that were not seen.
_MULTILINGUAL_VOCABULARY = 2500
_ENGLISH_VOCABULARY = 600
_TOKENIZER_ROWS = 6000  # rows that both vocabularies are trained on
_SIGLIP_LENGTH = 20  # tokens that each text is padded to; the longest English caption has 17
_SIGLIP_BATCH = 256  # images of a batch in its recipe
# Folders that are written.
_PARTS = ("dataset", "clip", "text_encoder", "siglip", "bert", "modernbert")
_DRAWN = "drawn.json"  # the record of what was drawn, by which a repeated command knows that it is whole
_CARD = """---
language: [{languages}]
license: [apache-2.0, cc-by-4.0, mit, cc-by-sa-4.0, other]
license_name: unicode-3.0
configs:
- config_name: default
  data_files:
{files}---

# Emoji scenes

The miniature's data, drawn by `training/miniature/scenes.py`. \
Sources and licences: `training/miniature/asset/ATTRIBUTION.md`. `origins.yaml` has those of the splits to \
train on; only the splits of an unseen style have OpenMoji's drawings, which are under CC-BY-SA-4.0.
"""


def _draw_row(scenes: EmojiScenes, index: int) -> dict:
    """Draw one row of the dataset: the image as PNG, and its concept as label if it shows only one."""
    scene = scenes[index]
    png = io.BytesIO()
    scene["image"].save(png, "png")
    concepts = scene["concepts"]
    return {
        "image": {"bytes": png.getvalue()},
        "captions": scene["captions"],
        "label": concepts[0] if len(concepts) == 1 else None,
    }


def _write_split(split: str, folder: Path, size: int | None) -> Dataset:
    """Draw a split's scenes into one parquet file of `image`, `captions` and `label`."""
    scenes = EmojiScenes(split)
    captions = {language: Value("string") for language in read_concepts()["languages"]}
    features = {
        "image": Image(),
        "captions": captions,
        "label": ClassLabel(names=read_concepts()["concepts"]),
    }
    size = min(size or len(scenes), len(scenes))
    # Each scene depends on its split and number alone, so that the number of processes does not matter.
    with Pool() as pool:
        drawn = pool.imap(partial(_draw_row, scenes), range(size), chunksize=250)
        rows = list(tqdm(drawn, desc=f"Drawing {split}", total=size, unit="scene"))
    dataset = Dataset.from_list(rows, features=Features(features))
    with saving(f"split {split}", folder, dataset.data.nbytes):
        dataset.to_parquet(folder / "data" / f"{split}.parquet")
    return dataset


def _write_dataset(folder: Path, train_size: int | None) -> Dataset:
    """Write all splits, the class names, also as parallel text, and a dataset card.

    Returns:
        The training split.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    splits = {}
    for split in SPLITS:
        size = train_size if split.startswith("train") else None
        splits[split] = _write_split(split, folder, size)

    names = {language: words["names"] for language, words in read_concepts()["languages"].items()}
    write_text(folder / "class_names.json", json.dumps(names, ensure_ascii=False, indent=1) + "\n")
    # One line per concept: {"en": "key", "zh": "钥匙", ...}
    lines = []
    for translations in zip(*names.values()):
        lines.append(json.dumps(dict(zip(names, translations)), ensure_ascii=False))
    write_text(folder / "names.jsonl", "\n".join(lines) + "\n")

    files = "".join(f"  - split: {split}\n    path: data/{split}.parquet\n" for split in SPLITS)
    card = _CARD.format(languages=", ".join(names), files=files)
    write_text(folder / "README.md", card)
    write_origins(folder, origins_of_scenes())
    return splits["train"]


def _draw_sheet(picture: Path) -> None:
    """Draw the first 24 scenes of every split, one row per split, enlarged twice."""
    columns = 24
    sheet = PillowImage.new("RGB", (columns * IMAGE_SIZE, len(SPLITS) * IMAGE_SIZE))
    for row, split in enumerate(SPLITS):
        for column in range(columns):
            sheet.paste(EmojiScenes(split)[column]["image"], (column * IMAGE_SIZE, row * IMAGE_SIZE))
    twice = sheet.resize((2 * sheet.width, 2 * sheet.height), PillowImage.Resampling.NEAREST)
    with written_whole(picture) as file:
        twice.save(file, "png", optimize=True)


def _write_clip(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save an untrained CLIP of the miniature's size with its processor; it was made of no data yet."""
    shape = {
        "hidden_size": _WIDTH,
        "intermediate_size": 4 * _WIDTH,
        "num_attention_heads": _HEADS,
        "projection_dim": _WIDTH,
        "hidden_act": "gelu",
    }
    # CLIP's text tower pools the end-of-text token, which it finds by this id.
    special_tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = shape | special_tokens
    text |= {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": _TEXT_LAYERS,
        "max_position_embeddings": MAX_LENGTH,
    }
    vision = shape | {"num_hidden_layers": _IMAGE_LAYERS, "image_size": IMAGE_SIZE, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=_WIDTH)
    _save_untrained(CLIPModel(config), folder, "CLIP")

    # Images are of the right size already: nothing is resized or cropped.
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    image_processor = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)


def _write_siglip(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save an untrained SigLIP of the miniature's size with its processor; it was made of no data yet.

    As in SigLIP, texts are padded to one length and attended to in whole, and the last token is pooled.
    """
    shape = {"hidden_size": _WIDTH, "intermediate_size": 4 * _WIDTH, "num_attention_heads": _HEADS}
    text = shape | {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": _TEXT_LAYERS,
        "max_position_embeddings": _SIGLIP_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = shape | {"num_hidden_layers": _IMAGE_LAYERS, "image_size": IMAGE_SIZE, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    # transformers begins with zeros, from which a trained checkpoint is loaded.
    model.logit_scale.data.fill_(FIRST_LOGIT_SCALE)
    # Of an image's 256 pairs one is right, as SigLIP's -10 says of its batches of 32,768.
    model.logit_bias.data.fill_(-math.log(_SIGLIP_BATCH - 1))
    _save_untrained(model, folder, "SigLIP")

    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    SiglipProcessor(SiglipImageProcessor(size=size), tokenizer).save_pretrained(folder)


def _write_text_encoder(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save an untrained XLM-R of the miniature's size with its tokenizer; it was made of no data yet."""
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        num_hidden_layers=_TEXT_LAYERS,
        num_attention_heads=_HEADS,
        max_position_embeddings=MAX_LENGTH + 2,  # XLM-R counts positions from the padding id, 1, upwards
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    _save_encoder(XLMRobertaModel(config, add_pooling_layer=False), folder, tokenizer)


def _write_other_encoders(output_dir: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save an untrained BERT and ModernBERT of the miniature's size, which read as its XLM-R does."""
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": _WIDTH,
        "num_hidden_layers": _TEXT_LAYERS,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": MAX_LENGTH,
        "pad_token_id": tokenizer.pad_token_id,
    }
    bert = BertConfig(**shape, intermediate_size=4 * _WIDTH)
    _save_encoder(BertModel(bert, add_pooling_layer=False), output_dir / "bert", tokenizer)

    # By default these tokens are those of ModernBERT's own vocabulary, which has 50,368 pieces.
    special_tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    # Its gated layers have three matrices instead of two; ModernBERT-base has 1.5 times the width in each.
    modernbert = ModernBertConfig(**shape, **special_tokens, intermediate_size=3 * _WIDTH // 2)
    _save_encoder(ModernBertModel(modernbert), output_dir / "modernbert", tokenizer)


def _save_encoder(model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save an untrained text encoder with its tokenizer."""
    _save_untrained(model, folder, folder.name)
    tokenizer.save_pretrained(folder)


def _save_untrained(model: PreTrainedModel, folder: Path, name: str) -> None:
    """Save an untrained model, and that it was made of no data; `name` is its name in messages."""
    with saving(f"the untrained {name}", folder, bytes_of_weights(model)):
        model.save_pretrained(folder)
    match_modes(folder)
    write_origins(folder, [])


@dataclass(kw_only=True)
class _MiniatureArguments:
    """Arguments of the miniature: its size, seed and vocabulary."""

    output_dir: str = field(
        default="outputs/miniature", metadata={"help": "Folder for the dataset and the towers."}
    )
    train_size: int | None = field(
        default=None, metadata={"help": "Number of training scenes, if fewer than all."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of the towers' first weights."})
    languages: list[str] | None = field(
        default=None,
        metadata={"help": "Languages that the multilingual vocabulary is trained on; all by default."},
    )
    vocab_size: int = field(
        default=_MULTILINGUAL_VOCABULARY,
        metadata={"help": "Number of pieces of the multilingual vocabulary."},
    )
    text_encoder_only: bool = field(
        default=False, metadata={"help": "Write no dataset, and no tower but the XLM-R."}
    )

    def __post_init__(self):
        self.languages = check_languages(self.languages, list(read_concepts()["languages"]))


def _train_vocabulary(
    captions: list[dict[str, str]], arguments: _MiniatureArguments
) -> PreTrainedTokenizerBase:
    """Train the multilingual tokenizer on captions in the requested languages."""
    texts = []
    for caption in captions:
        texts += [caption[language] for language in arguments.languages]
    return train_multilingual_tokenizer(texts, arguments.vocab_size)


def _describe(arguments: _MiniatureArguments) -> dict:
    """Return all that the miniature depends on: the settings, and digests of the code and its drawings."""
    settings = asdict(arguments)
    del settings["output_dir"]
    return {"settings": settings, "sources": digest_sources(Path(__file__).parent, "*.py", "asset/*")}


def main(arguments: _MiniatureArguments) -> None:
    output_dir = Path(arguments.output_dir)
    check_output_dir(output_dir)
    record = output_dir / _DRAWN
    if is_made(record, _PARTS, _describe(arguments)):
        print(f"{output_dir} holds this miniature, finished and whole: nothing is drawn.")
        return
    record.unlink(missing_ok=True)
    _draw(arguments)
    write_record(record, _PARTS, _describe(arguments))


def _draw(arguments: _MiniatureArguments) -> None:
    """Write the dataset and the towers, or the text encoder alone."""
    set_seed(arguments.seed)
    output_dir = Path(arguments.output_dir)
    if arguments.text_encoder_only:
        # The same captions as below, drawn without writing a dataset.
        captions = [EmojiScenes("train")[index]["captions"] for index in range(_TOKENIZER_ROWS)]
        _write_text_encoder(output_dir / "text_encoder", _train_vocabulary(captions, arguments))
        print(
            f"Saved text_encoder to {output_dir}. "
            "Next: run training/run_stage1.py with --text_encoder_name_or_path "
            f"{output_dir / 'text_encoder'}"
        )
        return

    train = _write_dataset(output_dir / "dataset", arguments.train_size)
    _draw_sheet(output_dir / "scenes.png")
    captions = train["captions"][:_TOKENIZER_ROWS]
    english = [caption["en"] for caption in captions]
    english_tokenizer = train_english_tokenizer(english, _ENGLISH_VOCABULARY)
    _write_clip(output_dir / "clip", english_tokenizer)
    multilingual_tokenizer = _train_vocabulary(captions, arguments)
    _write_text_encoder(output_dir / "text_encoder", multilingual_tokenizer)
    # SigLIP's tokenizers make no mask. After the others, so that it draws no random numbers before them.
    without_mask = {"model_max_length": _SIGLIP_LENGTH, "model_input_names": ["input_ids"]}
    siglip_tokenizer = train_english_tokenizer(english, _ENGLISH_VOCABULARY, **without_mask)
    _write_siglip(output_dir / "siglip", siglip_tokenizer)
    _write_other_encoders(output_dir, multilingual_tokenizer)
    print(f"Saved {', '.join(_PARTS)} to {output_dir}. Look at {output_dir}/scenes.png.")
    print("Next: altclip train training/recipes/miniature")
