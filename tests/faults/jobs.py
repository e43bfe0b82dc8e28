"""The jobs that write, each as the command that a user types, on data that take a second or two."""

import json
import string
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, Features, Image, Value, load_dataset
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    NllbTokenizer,
)

from modeling_altclip import AltCLIPModel, AltCLIPProcessor

from ..conftest import ROOT
from ..replicas import encoded

HERE = Path(__file__).parent
RECIPES = ROOT / "training/recipes"
BENCHMARKS = ROOT / "benchmarks"
# Four steps, with checkpoints after two and after four.
STEPS = ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "2"]
STEPS += ["--per_device_train_batch_size", "8", "--warmup_steps", "1"]
CODES = {"en": "eng_Latn", "es": "spa_Latn", "ja": "jpn_Jpan"}
BROKEN = b"no image"


@dataclass
class Job:
    """A command that writes below a folder.

    Args:
        words: the script, or `-m` and a module, with its flags.
        resumes: whether it takes `--resume` where a complete checkpoint is in its `output_dir`.
        starts_anew: whether it refuses an `output_dir` that a run before it began, which a user then removes.
        says_done: part of the line with which it refuses an `output_dir` that has all of its output.
    """

    words: list
    resumes: bool = False
    starts_anew: bool = False
    says_done: str | None = None


def write_inputs(miniature: Path, folder: Path) -> None:
    """Write what the jobs read: a model, rows to stream with two broken images, lines, and a translator."""
    torch.manual_seed(0)
    model = AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"), dropout=0.0)
    model.save_pretrained(folder / "start")
    image_processor = AutoProcessor.from_pretrained(miniature / "clip").image_processor
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    AltCLIPProcessor(image_processor, tokenizer).save_pretrained(folder / "start")

    rows = load_dataset(str(miniature / "dataset"), split="train[:24]")
    rows = rows.cast_column("image", Image(decode=False))
    images = [row["image"]["bytes"] for row in rows]
    captions = [{"en": row["captions"]["en"], "zh": row["captions"]["zh"]} for row in rows]
    (folder / "photos").mkdir()
    for number, content in enumerate(images):
        (folder / f"photos/{number:02d}.png").write_bytes(content)
    images[5] = images[17] = BROKEN
    write_stream(folder / "stream", images, captions)
    (folder / "photos/broken.png").write_bytes(BROKEN)
    english = [caption["en"] for caption in captions]
    (folder / "lines.txt").write_text("\n".join([*english, "", "a dog"]), encoding="utf-8")
    write_translator(folder / "translator")
    write_captions(folder / "captions")
    write_pairs(folder / "pairs.tsv", english)


def write_stream(folder: Path, images: list[bytes], captions: list[dict]) -> None:
    """Write two files of rows."""
    folder.mkdir()
    texts = dict.fromkeys(captions[0], Value("string"))
    features = Features({"image": Image(), "captions": texts})
    columns = {"image": [{"bytes": image, "path": None} for image in images], "captions": captions}
    rows = Dataset.from_dict(columns, features=features)
    for number in range(2):
        rows.shard(2, number, contiguous=True).to_parquet(folder / f"part-{number}.parquet")


def write_pairs(path: Path, english: list[str]) -> None:
    """Write English sentences beside themselves with a word more, some of them twice or with mark-up."""
    lines = ["en\tes"]
    for number, text in enumerate(english):
        flaw = "<b>" if number % 5 == 4 else ""
        lines.append(f"{text}\t{text} {flaw}o")
        if number % 3 == 2:
            lines.append(f"{text} !\t{text} o")
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def write_captions(folder: Path) -> None:
    """Write nine images with an English caption of words that the translator can spell."""
    folder.mkdir()
    texts = []
    for color in ("a red", "a blue", "one"):
        texts += [f"{color} dog", f"{color} cat", f"{color} bird"]
    features = Features({"image": Image(), "captions": {"en": Value("string")}})
    columns = {
        "image": [{"bytes": encoded(number), "path": None} for number in range(len(texts))],
        "captions": [{"en": text} for text in texts],
    }
    Dataset.from_dict(columns, features=features).to_parquet(folder / "train.parquet")


def write_translator(folder: Path) -> None:
    """Save an untrained translation model that spells: its tokens are letters and the languages' codes."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = NllbTokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=list(CODES.values()), src_lang="eng_Latn"
    )
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=len(tokenizer),
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=16,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        init_std=1.0,
    )
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def training_jobs(miniature: Path, inputs: Path, world: Path) -> dict[str, Job]:
    """Return the jobs that resume from checkpoints, by name; all write below `world`."""
    clip, encoder = miniature / "clip", miniature / "text_encoder"
    start = inputs / "start"
    data = ["--dataset", miniature / "dataset", "--split", "train[:64]"]
    shared = [*STEPS, "--output_dir", world / "out"]
    caching = ["--cache_dir", world / "cache"]
    languages = ["--languages", "en", "zh"]
    one_kept = ["--save_total_limit", "1"]

    def script(name, recipe, *flags):
        return Job([ROOT / f"training/run_{name}.py", RECIPES / recipe, *flags, *shared], resumes=True)

    stage1 = ["--teacher_name_or_path", clip, "--text_encoder_name_or_path", encoder, *data, *caching]
    stage2 = "miniature/stage2.yaml"
    streaming = ["--dataset", inputs / "stream", "--split", "train", "--streaming"]
    streaming += ["--cache_image_embeds", "false"]
    towers = ["--image_encoder_name_or_path", clip, "--text_encoder_name_or_path", encoder]
    names = miniature / "dataset/names.jsonl"
    text = ["--text_encoder_name_or_path", encoder, "--dataset", names, *languages]
    validated = ["--validation_split", "validation[:16]", "--eval_steps", "2"]
    return {
        "stage 0": script("stage0", "miniature/stage0.yaml", "--model_name_or_path", clip, *data),
        "stage 1": script("stage1", "miniature/stage1.yaml", *stage1, *languages),
        "stage 2": script(
            "stage2", stage2, "--model_name_or_path", start, *data, *caching, *languages, *one_kept
        ),
        "stage 2, streamed": script("stage2", stage2, "--model_name_or_path", start, *streaming),
        "text pre-training": script("text_pretraining", "parallel/text_miniature.yaml", *text),
        "parallel": script("parallel", "parallel/miniature.yaml", *towers, *data, *validated),
    }


def other_jobs(miniature: Path, inputs: Path, world: Path) -> dict[str, Job]:
    """Return the jobs that are begun again as they were, by name; all write below `world`.

    The report and the card read the results of `inputs/results`.
    """
    models = [miniature / "clip", inputs / "start"]
    out = ["--output_dir", world / "out"]
    results = ["--results", inputs / "results"]
    embed = ["-m", "altclip", "embed", inputs / "start"]
    trim = ["-m", "altclip", "trim", inputs / "start"]
    translate = ["--dataset", inputs / "captions", "--splits", "train", "--target_languages", "es", "ja"]
    translate += ["--model_name_or_path", inputs / "translator", "--language_codes", json.dumps(CODES)]
    translate += ["--max_length", "8", "--batch_size", "4"]
    translate += ["--similarity_model_name_or_path", miniature / "text_encoder", "--least_similarity", "0"]
    clean = ["--dataset", inputs / "pairs.tsv", "--part_rows", "12", "--near_duplicates", "0.7"]
    clean += ["--similarity_model_name_or_path", miniature / "clip", "--least_similarity", "0.2"]
    card = [ROOT / "training/recipes/miniature/card.yaml", "--stages", *models, *results]
    card += ["--dataset", miniature / "dataset", *out]
    report = [ROOT / "training/recipes/miniature/report.yaml", "--models", *models, "--languages", "en", "zh"]
    return {
        "retrieval": Job(evaluation("retrieval", miniature, models, world)),
        "zero-shot": Job(evaluation("zero_shot", miniature, models, world)),
        "report": Job([BENCHMARKS / "run_report.py", *report, *results, *out]),
        "card": Job(["-m", "model_cards", *card]),
        "embed images": Job([*embed, "--images", inputs / "photos", *out], starts_anew=True),
        "embed texts": Job([*embed, "--texts", inputs / "lines.txt", *out], starts_anew=True),
        "trimming": Job([*trim, "--corpus", f"en={inputs}/lines.txt", *out], starts_anew=True),
        "translation": Job(
            [ROOT / "training/run_translation.py", *translate, *out], says_done="holds a dataset already"
        ),
        "cleaning": Job([ROOT / "training/run_clean.py", *clean, *out], says_done="holds a dataset already"),
        "cache": Job([HERE / "build_cache.py", world / "cache", world / "out"]),
    }


def reading_jobs(jobs: dict[str, Job], inputs: Path, world: Path) -> dict[str, Job]:
    """Return the jobs that read what another job wrote, by the name of what they read; see `test_damage.py`.

    The finished model and the results are copied to `world/read`, and all write to `world/out`.
    """
    read_model = [HERE / "read_model.py", world / "read", inputs / "photos", world / "out"]
    report = [world / "read" if word == inputs / "results" else word for word in jobs["report"].words]
    return {
        "checkpoint": jobs["stage 1"],
        "cache": jobs["cache"],
        "finished model": Job(read_model),
        "results": Job(report),
    }


def evaluation(kind: str, miniature: Path, models: list[Path], world: Path) -> list:
    """Return the command of an evaluation in two languages; results go to `world/out`."""
    tasks = {
        "retrieval": ["miniature-pairs"],
        "zero_shot": ["miniature-concepts", "--class_names", miniature / "dataset/class_names.json"],
    }
    recipe = ROOT / f"training/recipes/miniature/{kind}.yaml"
    flags = ["--models", *models, "--english_only", models[0], "--dataset", miniature / "dataset"]
    flags += ["--languages", "en", "zh", "--limit", "40", "--n_resamples", "50"]
    flags += ["--cache_dir", world / "cache", "--output_dir", world / "out"]
    return [BENCHMARKS / f"run_{kind}.py", recipe, *flags, "--tasks", *tasks[kind]]
