"""A model of the wrong kind, or a damaged one, is refused in one line that says what is needed instead."""

import re
import shutil

import pytest
import torch
import transformers
from datasets import Dataset

from common.errors import InputError
from common.models.kinds import TRANSLATOR, check_kind, load_tokenizer
from common.models.loading import check_model, load_model
from common.recipe import parse
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPModel, AltCLIPProcessor
from training.arguments import (
    ContrastiveArguments,
    DiffusionArguments,
    TeacherArguments,
    TeacherLearningArguments,
)
from training.model_checks import check_models, check_tokenizers
from training.parallel.pretraining import TextPretrainingArguments
from training.parallel.trainer import ParallelArguments
from training.translation.translating import load_translator

from .conftest import ROOT, VISION

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 40,
}
TEACHERS = "a CLIP, a SigLIP or another model whose image tower a student can take over"
ENCODERS = "a text encoder, such as an XLM-R, a BERT or a T5"
# Each stage and the argument that names a model, what is said to be needed in place of a wrong kind, and the
# models of the zoo that are right.
STAGES = [
    (
        TeacherArguments,
        "model_name_or_path",
        "a CLIP, a SigLIP, an AltCLIP or a dual encoder",
        {"clip", "siglip", "altclip", "dual"},
    ),
    (TeacherLearningArguments, "teacher_name_or_path", TEACHERS, {"clip", "altclip", "dual", "siglip"}),
    (
        TeacherLearningArguments,
        "text_encoder_name_or_path",
        ENCODERS,
        {"bert", "xlmr", "sentences", "gpt2"},
    ),
    (
        TeacherLearningArguments,
        "model_name_or_path",
        "an AltCLIP, as stage 1 makes it, a dual encoder, or a CLIP",
        {"altclip", "dual", "clip", "siglip"},
    ),
    (
        ContrastiveArguments,
        "model_name_or_path",
        "an AltCLIP, as stage 1 makes it, a dual encoder, or a CLIP",
        {"altclip", "dual", "clip", "siglip"},
    ),
    (
        ContrastiveArguments,
        "teacher_name_or_path",
        "a model with an image and a text tower",
        {"altclip", "dual", "clip", "siglip"},
    ),
    (
        ParallelArguments,
        "image_encoder_name_or_path",
        "an image encoder, such as a ViT",
        {"vit", "clip", "siglip"},
    ),
    (
        ParallelArguments,
        "text_encoder_name_or_path",
        "a text encoder, such as",
        {"bert", "xlmr", "sentences", "gpt2"},
    ),
    (DiffusionArguments, "model_name_or_path", "an AltCLIP, as stage 1 makes it", {"altclip"}),
    (
        TextPretrainingArguments,
        "text_encoder_name_or_path",
        "a text encoder that was made for masked",
        {"bert", "xlmr", "sentences"},
    ),
]
# Folders of the zoo and the `model_type` of their configurations.
TYPES = {
    "bert": "bert",
    "xlmr": "xlm-roberta",
    "sentences": "xlm-roberta",
    "clip": "clip",
    "altclip": "altclip",
    "dual": "altclip_dual_encoder",
    "siglip": "siglip",
    "vit": "vit",
    "gpt2": "gpt2",
}


def write_text_encoders(miniature, folder):
    """Write a text encoder, one of sentence-transformers, and one whose weights are cut in half."""
    for name in ("xlmr", "sentences", "half"):
        shutil.copytree(miniature / "text_encoder", folder / name)
    # The file alone makes a sentence encoder of it.
    (folder / "sentences/modules.json").write_text("[]")
    weights = folder / "half/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])


def write_models_of_transformers(tokenizer, folder):
    """Write models of other kinds, each with a tokenizer where it reads texts."""
    siglip = transformers.SiglipConfig(
        text_config=dict(SMALL), vision_config=VISION | {"intermediate_size": 32}
    )
    gpt2 = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40)
    models = {
        "bert": transformers.BertModel(transformers.BertConfig(**SMALL)),
        "siglip": transformers.SiglipModel(siglip),
        "vit": transformers.ViTModel(transformers.ViTConfig(**VISION)),
        "gpt2": transformers.GPT2Model(gpt2),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    # A ViT reads no texts.
    (folder / "vit/tokenizer.json").unlink()


def write_models_of_ours(tokenizer, folder):
    dual = AltCLIPDualEncoderModel.from_towers(str(folder / "vit"), str(folder / "bert"), projection_dim=8)
    dual.save_pretrained(folder / "dual")
    altclip = AltCLIPModel.from_teacher(str(folder / "clip"), str(folder / "xlmr"))
    altclip.save_pretrained(folder / "altclip")
    image_processor = transformers.AutoProcessor.from_pretrained(folder / "clip").image_processor
    AltCLIPProcessor(image_processor, tokenizer).save_pretrained(folder / "altclip")


def write_what_is_no_model(folder):
    (folder / "empty").mkdir()
    (folder / "rows").mkdir()
    # A folder of data in the place of a model.
    Dataset.from_dict({"text": ["a"]}).to_parquet(folder / "rows/train.parquet")
    for name, config in {
        "broken": "{",
        "list": "[]",
        "typeless": "{}",
        "unknown": '{"model_type": "nonsense"}',
        "words": '{"model_type": "bert", "hidden_size": "wide"}',  # transformers checks the types of fields
        "bytes": "\udcff",  # written as the byte 0xff, which is no UTF-8
    }.items():
        shutil.copytree(folder / "altclip", folder / name)
        (folder / name / "config.json").write_text(config, "utf-8", errors="surrogateescape")


@pytest.fixture(scope="module")
def zoo(miniature, tmp_path_factory):
    """Write small random models of all kinds, and what is no model; return the folder of their folders."""
    folder = tmp_path_factory.mktemp("zoo")
    torch.manual_seed(0)
    shutil.copytree(miniature / "clip", folder / "clip")
    write_text_encoders(miniature, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "xlmr")
    write_models_of_transformers(tokenizer, folder)
    write_models_of_ours(tokenizer, folder)
    write_what_is_no_model(folder)
    return folder


def arguments_of(stage, argument, name_or_path, zoo, tmp_path):
    """Return a stage's arguments, of which one is given and all others are right."""
    given = {"output_dir": tmp_path / "out", "dataset": "some/rows"}
    if stage is TeacherLearningArguments:
        given["teacher_name_or_path"] = zoo / "clip"
        # A finished model that learns more has its text encoder already.
        if argument != "model_name_or_path":
            given["text_encoder_name_or_path"] = zoo / "xlmr"
    elif stage is ParallelArguments:
        given["image_encoder_name_or_path"] = zoo / "vit"
        given["text_encoder_name_or_path"] = zoo / "xlmr"
    elif stage is not TextPretrainingArguments:
        given["model_name_or_path"] = zoo / "altclip"
    if stage is DiffusionArguments:
        given["diffusion_name_or_path"] = "some/diffusion"
    given[argument] = name_or_path

    flags = ["--use_cpu", "true"]
    for name, value in given.items():
        flags += [f"--{name}", str(value)]
    return parse(stage, arguments=flags)[0]


@pytest.mark.parametrize(
    "stage,argument,needed,right", STAGES, ids=lambda value: getattr(value, "__name__", None)
)
def test_each_stage_takes_its_kinds_and_names_others(zoo, tmp_path, stage, argument, needed, right):
    for name, model_type in TYPES.items():
        arguments = arguments_of(stage, argument, zoo / name, zoo, tmp_path)
        if name in right:
            check_models(arguments)
            continue
        with pytest.raises(InputError) as refused:
            check_models(arguments)
        what = "sentence encoder" if name == "sentences" else "model"
        said = f"{argument} '{zoo / name}' is a {what} of the type '{model_type}': give {needed}"
        assert str(refused.value).startswith(said), name


def enlarge_tokenizer(folder):
    """Add tokens until a model's tokenizer has one more than the embeddings; return the number of those."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    n_embeddings = transformers.AutoConfig.from_pretrained(folder).get_text_config().vocab_size
    # One token too many is enough: torch would fail on it in the middle of a training.
    n_added = n_embeddings + 1 - len(tokenizer)
    tokenizer.add_tokens([f"[{number}]" for number in range(n_added)])
    tokenizer.save_pretrained(folder)
    return n_embeddings


@pytest.mark.parametrize(
    "stage,argument,name",
    [
        (TeacherArguments, "model_name_or_path", "clip"),
        (TeacherLearningArguments, "teacher_name_or_path", "clip"),
        (TeacherLearningArguments, "text_encoder_name_or_path", "xlmr"),
        (TeacherLearningArguments, "model_name_or_path", "altclip"),
        (ContrastiveArguments, "model_name_or_path", "altclip"),
        (ParallelArguments, "text_encoder_name_or_path", "xlmr"),
        (DiffusionArguments, "model_name_or_path", "altclip"),
        (TextPretrainingArguments, "text_encoder_name_or_path", "xlmr"),
    ],
)
def test_a_tokenizer_larger_than_the_embeddings_is_refused_before_the_start(
    zoo, tmp_path, stage, argument, name
):
    check_tokenizers(arguments_of(stage, argument, zoo / name, zoo, tmp_path))
    larger = tmp_path / "larger"
    shutil.copytree(zoo / name, larger)
    n_embeddings = enlarge_tokenizer(larger)
    message = rf"^{argument} '{larger}': its tokenizer, a \w+, has {n_embeddings + 1} tokens, "
    message += f"and the model embeddings of {n_embeddings}: "
    with pytest.raises(InputError, match=message):
        check_tokenizers(arguments_of(stage, argument, larger, zoo, tmp_path))


NO_MODELS = {
    "nowhere": "does not exist: give a folder that is there",
    "empty": "has no config.json, so it is no model's folder: it is empty",
    "rows": "has no config.json, so it is no model's folder: it holds train.parquet",
    "clip/config.json": "is a file: give the folder of the model",
    "broken": "cannot be loaded: ",
    "list": "cannot be loaded: ",
    "typeless": "cannot be loaded: ",
    "unknown": "cannot be loaded: .*nonsense",
    "words": "cannot be loaded: .*hidden_size",
    "bytes": "cannot be loaded: ",
}


@pytest.mark.parametrize("name,message", NO_MODELS.items())
@pytest.mark.parametrize(
    "stage,argument",
    [(TeacherLearningArguments, "teacher_name_or_path"), (ParallelArguments, "text_encoder_name_or_path")],
)
def test_what_is_no_model_is_refused(zoo, tmp_path, stage, argument, name, message):
    with pytest.raises(InputError, match=f"^{argument} '{zoo / name}' {message}"):
        check_models(arguments_of(stage, argument, zoo / name, zoo, tmp_path))
    with pytest.raises(InputError, match=f"^model '{zoo / name}' {message}"):
        check_model(str(zoo / name))


@pytest.mark.parametrize("name", ["bert", "xlmr", "vit", "gpt2", "sentences"])
def test_what_has_one_tower_is_not_evaluated(zoo, name):
    for check in (check_model, load_model):
        with pytest.raises(InputError, match="give a model with an image and a text tower"):
            check(str(zoo / name))


def test_what_does_not_translate_is_refused(zoo):
    with pytest.raises(InputError, match="is a model of the type 'altclip': give a translation model"):
        load_translator(str(zoo / "altclip"), "float32")
    with pytest.raises(InputError, match="is a model of the type 'gpt2': give a translation model"):
        check_kind("model", str(zoo / "gpt2"), TRANSLATOR)


def damaged(zoo, folder, name, file, content=None):
    """Copy a model, and remove one of its files, replace it, or cut it in half if `content` is empty."""
    shutil.copytree(zoo / name, folder / "damaged")
    path = folder / "damaged" / file
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content or whole[: len(whole) // 2])
    return folder / "damaged"


DAMAGE = [
    ("model.safetensors", None),
    ("model.safetensors", b""),
    ("model.safetensors", b"not a tensor in it"),
    ("tokenizer.json", None),
    ("tokenizer.json", b""),
    ("tokenizer.json", b"{}"),
    ("processor_config.json", None),
    ("processor_config.json", b""),
]


@pytest.mark.parametrize("file,content", DAMAGE)
@pytest.mark.parametrize("name", ["clip", "altclip"])
def test_a_damaged_model_is_named_in_one_line(zoo, tmp_path, name, file, content):
    folder = damaged(zoo, tmp_path, name, file, content)
    if content is None:
        # It would do for the other file of the same settings.
        (folder / "preprocessor_config.json").unlink(missing_ok=True)
    # The whole message is one line.
    with pytest.raises(InputError, match=f"^teacher_name_or_path '{folder}' [^\n]+$"):
        load_model(str(folder), argument="teacher_name_or_path")


@pytest.mark.parametrize("content", [b"root:x:0:0:root:/root:/bin/sh", b"\x80", b""])
def test_old_weights_of_any_bytes_are_named_in_one_line(zoo, tmp_path, content):
    folder = damaged(zoo, tmp_path, "altclip", "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(InputError, match=f"^model '{folder}' cannot be loaded: [^\n]+$"):
        load_model(str(folder))


def test_a_decoders_tokenizer_pads_by_its_end_of_text(zoo, tmp_path):
    tokenizer = load_tokenizer("text_encoder_name_or_path", str(zoo / "xlmr"))
    for special, given in ((True, {"eos_token": "</s>"}), (False, {})):
        decoders = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, **given)
        assert decoders.pad_token is None
        shutil.copytree(zoo / "gpt2", tmp_path / f"gpt2-{special}")
        decoders.save_pretrained(tmp_path / f"gpt2-{special}")

    padded = load_tokenizer("text_encoder_name_or_path", str(tmp_path / "gpt2-True"))
    inputs = padded(["a", "a dog and a key"], padding=True)
    assert inputs["input_ids"][0][-1] == padded.eos_token_id
    assert inputs["attention_mask"][0][-1] == 0
    with pytest.raises(
        InputError, match="has a tokenizer without pad_token and eos_token, .*: set pad_token"
    ):
        load_tokenizer("text_encoder_name_or_path", str(tmp_path / "gpt2-False"))


@pytest.mark.parametrize("name", ["xlmr", "bert", "altclip", "clip", "gpt2"])
def test_a_missing_tokenizer_is_none_that_knows_no_word(zoo, tmp_path, name):
    assert len(load_tokenizer("model", str(zoo / name))) > 100
    # Without its file transformers builds a tokenizer of special tokens alone.
    folder = damaged(zoo, tmp_path, name, "tokenizer.json")
    with pytest.raises(InputError, match=f"^model '{folder}' (has no tokenizer: get|cannot be loaded)"):
        load_tokenizer("model", str(folder))


# Wrong kinds, which configurations show, and damaged weights, which are found when they are loaded.
SCRIPTS = [
    ("training/run_stage0.py", {"model_name_or_path": "bert"}),
    ("training/run_stage1.py", {"teacher_name_or_path": "vit", "text_encoder_name_or_path": "xlmr"}),
    ("training/run_stage1.py", {"teacher_name_or_path": "clip", "text_encoder_name_or_path": "half"}),
    ("training/run_stage2.py", {"model_name_or_path": "bert"}),
    ("training/run_stage2.py", {"model_name_or_path": "bert", "dry_run": "true"}),
    ("training/run_stage2.py", {"model_name_or_path": "altclip", "teacher_name_or_path": "half"}),
    ("training/run_parallel.py", {"image_encoder_name_or_path": "vit", "text_encoder_name_or_path": "half"}),
    ("training/run_parallel.py", {"image_encoder_name_or_path": "bert", "text_encoder_name_or_path": "xlmr"}),
    ("training/run_text_pretraining.py", {"text_encoder_name_or_path": "half"}),
    ("training/run_text_pretraining.py", {"text_encoder_name_or_path": "gpt2"}),
    ("training/run_diffusion.py", {"model_name_or_path": "clip", "diffusion_name_or_path": "altclip"}),
    ("training/run_diffusion.py", {"model_name_or_path": "altclip", "diffusion_name_or_path": "clip"}),
    ("benchmarks/run_retrieval.py", {"models": "sentences", "tasks": "miniature-pairs"}),
    ("benchmarks/run_zero_shot.py", {"models": "half", "tasks": "miniature-concepts"}),
]


@pytest.mark.parametrize(
    "script,given", SCRIPTS, ids=lambda value: value if isinstance(value, str) else "-".join(value.values())
)
def test_scripts_end_with_one_line(zoo, miniature, run_python, tmp_path, script, given):
    """Run the scripts on wrong models.

    `half` is a text encoder whose weights are cut short; it is found when it is loaded.
    """
    flags = ["--dataset", miniature / "dataset", "--output_dir", tmp_path / "out"]
    # The miniature's class names are with its data, and the task needs them.
    if script == "benchmarks/run_zero_shot.py":
        flags += ["--class_names", miniature / "dataset/class_names.json"]
    if script.startswith("training"):
        flags += ["--max_steps", "1", "--use_cpu", "true"]
    for name, value in given.items():
        is_model = (zoo / value).exists()
        flags += [f"--{name}", zoo / value if is_model else value]

    process = run_python("python", ROOT / script, *flags)
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr, process.stderr
    said = process.stderr.strip().splitlines()[-1]
    script_name = script.partition("/")[2]
    # "run_stage0.py: error: model_name_or_path '/tmp/.../bert' is a model of the type 'bert': give ..."
    reason = "(is a|cannot be loaded|has no|is no)"
    assert re.match(rf"{script_name}: error: \w+ '{zoo}/\w+' {reason}", said), said


def test_a_card_is_of_a_model_with_two_towers(zoo, miniature, run_python, tmp_path):
    flags = ["--title", "t", "--repo", "r", "--results", tmp_path, "--output_dir", tmp_path / "out"]
    flags += ["--dataset", miniature / "dataset", "--example_split", "train"]
    flags += ["--plot_task", "miniature-pairs"]
    process = run_python("python", "-m", "model_cards", *flags, "--stages", zoo / "bert")
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    message = "stages '.*bert' is a model of the type 'bert': give a model with an image"
    assert re.match(f"model_cards: error: {message}", process.stderr.strip().splitlines()[-1])
    assert not (tmp_path / "out").exists()
