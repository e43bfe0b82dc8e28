"""Dry runs print sizes that are known and memory that is measured, and name data that does not fit."""

import re
import shutil

import pytest
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    TrainerCallback,
    XLMRobertaConfig,
)

from common.errors import InputError
from common.models.loading import load_model, save_model
from common.recipe import parse
from modeling_altclip import AltCLIPConfig, AltCLIPDualEncoderModel, AltCLIPProcessor
from training.arguments import ContrastiveArguments, TeacherArguments, TeacherLearningArguments
from training.data.preview import N_ROWS, first_captions
from training.dry_run import print_plan
from training.jobs import stage0, stage1, stage2

from .conftest import ROOT
from .families import SHORTEST, load_tokenizer_of, save_student, save_teacher

STAGES = {"stage1": TeacherLearningArguments, "stage2": ContrastiveArguments}


def tower(width, layers, heads, **rest):
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **rest,
    }


LARGE = {
    "text_config": tower(768, 12, 12),
    "vision_config": tower(1024, 24, 16, patch_size=14),
    "projection_dim": 768,
}
HUGE = {
    "text_config": tower(1024, 24, 16),
    "vision_config": tower(1280, 32, 16, patch_size=14),
    "projection_dim": 1024,
}
XLMR = {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1}
XLMR_LARGE = XLMR | tower(1024, 24, 16)
# Teacher, encoder, and the parameters of what they make: AltCLIP-m9's own number, and else sums of published
# ones: image tower with its projection (ViT-H/14 632,076,800, ViT-B/32 87,849,216), encoder without pooler
# (558,840,832, 277,453,056), head, projection, temperature.
SHAPES = {
    "altclip": (LARGE, XLMR_LARGE, 864_186_113),
    "altclip_m9": (LARGE, XLMR_LARGE, 864_186_113),
    "altclip_m18": (HUGE, XLMR_LARGE, 632_076_800 + 558_840_832 + 2_048 + 1_049_600 + 1_048_576 + 1),
    "any_clip": ({}, XLMR, 87_849_216 + 277_453_056 + 1_536 + 393_728 + 262_144 + 1),
}


@pytest.fixture
def stand_ins(miniature, tmp_path):
    """Return a function that saves configurations and a tokenizer, without weights, for a recipe's Hub ids.

    It returns the flags that name them.
    """

    def stand_ins(clip, encoder):
        tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
        clip = CLIPConfig(**clip)
        encoder = XLMRobertaConfig(**encoder)
        configs = {"clip": clip, "encoder": encoder, "start": AltCLIPConfig.from_teacher(clip, encoder)}
        for name, config in configs.items():
            config.save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)

        teacher = ["--teacher_name_or_path", tmp_path / "clip"]
        student = ["--text_encoder_name_or_path", tmp_path / "encoder"]
        return {"stage1": teacher + student, "stage2": ["--model_name_or_path", tmp_path / "start"]}

    return stand_ins


@pytest.fixture
def dry_run(miniature, capsys):
    """Return a function that returns the table of a dry run, {name of a line: value}."""

    def dry_run(stage, recipe, *flags):
        command = [ROOT / f"training/recipes/{recipe}/{stage}.yaml", "--dataset", miniature / "dataset"]
        command += ["--languages", "en", "zh", "--dry_run_processes", "1", *flags, "--dry_run"]
        print_plan(*parse(STAGES[stage], arguments=[str(word) for word in command]))
        # The names fill a column of 22 characters.
        lines = re.findall(r"^(\w.{21})(.+)$", capsys.readouterr().out, re.MULTILINE)
        return {name.strip(): value for name, value in lines}

    return dry_run


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("recipe", SHAPES)
def test_full_size_recipes_have_the_parameters_that_are_known(stand_ins, dry_run, recipe, stage):
    clip, encoder, expected = SHAPES[recipe]
    table = dry_run(stage, recipe, *stand_ins(clip, encoder)[stage])
    assert table["parameters"].startswith(f"{expected:,}: text_model ")
    # The text tower's share: 559,630,080 of 864,186,113 are 65 %.
    percent = float(table["trainable"].split()[-2])
    assert percent == pytest.approx({"any_clip": 76, "altclip_m18": 47}.get(recipe, 65), abs=1)


def test_examples_tokens_and_images_of_a_step(stand_ins, dry_run):
    flags = stand_ins(LARGE, XLMR_LARGE)
    first = dry_run("stage1", "altclip", *flags["stage1"], "--dry_run_processes", "8")
    assert first["examples per step"] == "3,072: 128 x 3 accumulated x 8 processes"
    # Rows in two languages, and the recipe's max_text_length of 75.
    assert first["tokens per step"].endswith(f" a text of {2 * N_ROWS} seen, at most {3072 * 75:,}")
    assert first["images per step"] == "0"
    assert first["training"] == f"238,620 steps, {238620 * 3072:,} examples"

    second = dry_run("stage2", "altclip", *flags["stage2"], "--dry_run_processes", "8")
    # 128 examples in each of 8 processes.
    assert second["images per step"] == "1,024, as embeddings computed once before training"
    live = dry_run("stage2", "altclip", *flags["stage2"], "--cache_image_embeds", "false")
    assert live["images per step"] == "128"

    cached = dry_run("stage2", "altclip", *flags["stage2"], "--trainable", "text_projection")
    assert cached["tokens per step"] == "0, as texts are embedded once before training"
    assert cached["images per step"] == "128, as embeddings computed once before training"
    # 128 texts of 768 values, four times: 1.6 MB.
    assert cached["activations, GiB"].startswith("0.00 at ")


def test_translation_pairs_are_more_texts_and_logits(stand_ins, dry_run):
    narrow = {"text_config": tower(64, 1, 1), "vision_config": tower(64, 1, 1), "projection_dim": 64}
    flags = [*stand_ins(narrow, XLMR | tower(64, 2, 2))["stage2"], "--per_device_train_batch_size", "1024"]
    pairs = ["--text_pairs_weight", "1", "--text_pairs_dataset", "pairs"]
    switches = ["--dry_run_processes", "8", "--gradient_accumulation_steps", "2"]
    with_pairs = dry_run("stage2", "altclip", *flags, *pairs, *switches)
    # 1,024 pairs in each of 8 processes, twice, of 77 tokens at most.
    assert with_pairs["text pairs per step"] == (
        f"16,384, which are 32,768 more texts of at most {32768 * 77:,} tokens"
    )

    def activations(table):
        return float(table["activations, GiB"].split()[-4])

    # 1,024 captions and as many pairs keep what 3,072 captions do: images are embedded before.
    of_captions = dry_run("stage2", "altclip", *flags, "--per_device_train_batch_size", "3072")
    assert "text pairs per step" not in of_captions
    assert activations(with_pairs) > 2
    assert activations(with_pairs) == pytest.approx(activations(of_captions), rel=0.02)

    # Chunks bound the texts of the pairs as well: 512 of 32,768 are there at a time.
    many = ["--per_device_train_batch_size", "64", "--text_pairs_batch_size", "16384"]
    in_chunks = dry_run("stage2", "altclip", *flags, *pairs, *many, "--gradient_cache_chunk", "512")
    assert activations(in_chunks) == pytest.approx(activations(of_captions) / 6, rel=0.05)
    # A matrix of 16,384 rows and columns in float32 is 1 GiB; five of them are there at the peak.
    assert in_chunks["memory, GiB"].endswith("logits 5.00")


def peak(table):
    """Read the two peaks: with texts of the length seen, and of the maximum length."""
    # "3.90 at 12 tokens, 9.61 at 77 tokens" -> [3.9, 9.61]
    return [float(value) for value in re.findall(r"[\d.]+(?= at)", table["peak a process, GiB"])]


@pytest.mark.slow
def test_memory_follows_the_switches(stand_ins, dry_run):
    """Frozen parts cost only their weights, and bfloat16 halves no weight.

    Gradient checkpointing, chunks, tiles and shares of FSDP cost less memory.
    """
    flags = stand_ins(LARGE, XLMR_LARGE)["stage2"]
    table = dry_run("stage2", "altclip", *flags)
    # Weights and gradients take 4 bytes a parameter, AdamW 8. Encoder, norm, and the head's weight and bias:
    text_tower = 558_840_832 + 2_048 + 1024 * 768 + 768
    fixed = dict(re.findall(r"(\w+) ([\d.]+)", table["memory, GiB"]))
    expected = {
        "weights": 4 * 864_186_113,
        "gradients": 4 * text_tower,
        "optimizer": 8 * text_tower,
        "buckets": 0,
    }
    assert fixed == {name: f"{size / 2**30:.2f}" for name, size in expected.items()} | {"logits": "0.00"}

    def peak_with(*switches):
        return peak(dry_run("stage2", "altclip", *flags, *switches))[1]

    seen, most = peak(table)
    assert seen < most < peak_with("--bf16", "false")
    assert peak_with("--gradient_checkpointing", "true") < most - 5
    assert peak_with("--gradient_cache_chunk", "16") < most - 5
    # The weights alone are 4 x 864,186,113 bytes, or 3.22 GiB.
    assert peak_with("--trainable", "logit_scale") < 4
    live = ["--cache_image_embeds", "false", "--trainable", "text_model", "vision_model"]
    assert peak_with(*live) > most + 5
    # Five matrices of 8,192 x 8,192 logits in float32 are 1.25 GiB; of a tile's 512 x 512, 5 MiB.
    wide = ["--per_device_train_batch_size", "8192", "--gradient_cache_chunk", "16"]
    assert peak_with(*wide, "--tile_size", "512") < peak_with(*wide) - 0.9
    # Each further number of dimensions keeps two matrices of 0.25 GiB.
    truncated = dry_run("stage2", "altclip", *flags, *wide, "--matryoshka_dims", "768", "256", "64")
    assert truncated["memory, GiB"].endswith("logits 2.25")
    with pytest.raises(InputError, match="^matryoshka_dims ends at 512, and the model's embeddings have 768"):
        dry_run("stage2", "altclip", *flags, "--matryoshka_dims", "512", "256")

    # Of 9.47 GiB of weights, gradients and optimizer states, seven eighths lie in other processes: 8.3 GiB.
    eight = dry_run("stage2", "altclip", *flags, "--dry_run_processes", "8")
    assert float(eight["under FSDP2, GiB"]) < peak(eight)[1] - 8


MEASURE = """
import gc, sys, torch
from torch._subclasses.fake_tensor import FakeTensorMode
from modeling_altclip import AltCLIPTextConfig, AltCLIPTextModel
from training.arguments import TeacherLearningArguments
from training.dry_run import estimate

bf16 = sys.argv[2] == "bf16"
checkpointing = sys.argv[3] == "checkpointing"
accumulated = int(sys.argv[4])
shape = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6}
shape |= {"type_vocab_size": 1, "project_dim": 256}
no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
config = AltCLIPTextConfig(vocab_size=20000, **no_dropout, **shape)
few = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
small = AltCLIPTextConfig(vocab_size=200, **shape | few)

def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(name))  # MiB

def train(config, rows, tokens):
    model = AltCLIPTextModel(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    texts = torch.randint(4, 100, (rows, tokens))
    for _ in range(2):
        for _ in range(accumulated):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(texts, torch.ones_like(texts)).pooler_output.float().square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

arguments = TeacherLearningArguments(
    output_dir=sys.argv[1],
    teacher_name_or_path="",
    text_encoder_name_or_path="",
    dataset="",
    use_cpu=True,
    bf16=bf16,
    gradient_checkpointing=checkpointing,
    gradient_accumulation_steps=accumulated,
    per_device_train_batch_size=24,
)
with FakeTensorMode():
    expected = estimate(AltCLIPTextModel(config), arguments, 64)
train(small, 2, 8)  # what a first training sets up is not counted
gc.collect()
with open("/proc/self/clear_refs", "w") as control:
    control.write("5")  # forget the peak so far
before = resident("VmRSS")
train(config, 24, 64)
print(expected.peak / 2**20 / (resident("VmHWM") - before))
"""


@pytest.mark.parametrize(
    "switches",
    [("fp32", "-", 1), ("bf16", "checkpointing", 2)],
    ids=str,
)
@pytest.mark.slow
def test_estimated_memory_is_what_a_training_takes(run_python, tmp_path, switches):
    """Compare an estimate with the growth of a real process: 22M parameters, AdamW.

    With 48 texts, that was 410 to 950 MB by the switches. Estimates were 2 to 8 % below it, since allocator
    and kernels add buffers of their own. A forgotten part, such as gradients or activations, would be 20 % at
    least.
    """
    # glibc gives allocations above this size back when they are freed: the peak is that of live tensors.
    process = run_python(
        "python", "-c", MEASURE, tmp_path, *map(str, switches), MALLOC_MMAP_THRESHOLD_="65536"
    )
    assert process.returncode == 0, process.stderr
    assert 0.8 < float(process.stdout) < 1.15


@pytest.fixture
def arguments(tmp_path):
    """Return a function that builds the arguments of a stage."""

    def arguments(stage, dataset, **given):
        names = {"output_dir": str(tmp_path / "out"), "dry_run": True, "dataset": str(dataset)}
        if stage is TeacherLearningArguments:
            return stage(**names, teacher_name_or_path="", text_encoder_name_or_path="", **given)
        return stage(**names, model_name_or_path="", **given)

    return arguments


def write_sources(folder):
    """Write the same 20 pairs in every form of parallel text."""
    pairs = [{"en": f"a dog {number}", "fr": f"un chien {number}"} for number in range(20)]

    def table(separator):
        lines = ["en" + separator + "fr"]
        lines += [pair["en"] + separator + pair["fr"] for pair in pairs]
        return "\n".join(lines) + "\n"

    (folder / "t.tsv").write_text(table("\t") + "one field alone\n")  # no dry run reads this far
    (folder / "t.csv").write_text(table(","))
    for language in ("en", "fr"):
        (folder / f"t.{language}").write_text("".join(f"{pair[language]}\n" for pair in pairs))
    Dataset.from_list(pairs).to_parquet(folder / "t.parquet")
    Dataset.from_list([{"captions": pair} for pair in pairs]).to_json(folder / "t.jsonl", force_ascii=False)
    Dataset.from_list([{"translation": pair} for pair in pairs]).to_parquet(folder / "hub" / "train.parquet")
    (folder / "all.yaml").write_text("- {data: t.tsv, kind: human}\n- {data: 't.{en,fr}', kind: machine}\n")


@pytest.mark.parametrize(
    "name,rows",
    [
        ("t.tsv", 8),
        ("t.csv", 8),
        ("t.{en,fr}", 8),
        ("t.parquet", 8),
        ("t.jsonl", 8),
        ("hub", 8),
        ("all.yaml", 16),
    ],
)
def test_the_first_rows_of_every_kind_of_parallel_text_are_read(arguments, tmp_path, name, rows):
    write_sources(tmp_path)
    texts, described = first_captions(arguments(TeacherLearningArguments, tmp_path / name))
    assert len(texts) == 2 * rows
    assert {"a dog 0", "un chien 0"} <= set(texts)
    assert described == "captions in en fr"


def test_data_that_does_not_fit_a_stage_is_named(arguments, tmp_path, miniature):
    deaf = tmp_path / "deaf"
    scenes = miniature / "dataset"
    Dataset.from_list([{"captions": {"de": "Hund"}, "sound": 1}]).to_parquet(deaf / "train.parquet")
    with pytest.raises(InputError, match="has no column image; its columns are captions, sound"):
        first_captions(arguments(ContrastiveArguments, deaf))
    with pytest.raises(InputError, match="no English for the teacher to read: they have de"):
        first_captions(arguments(TeacherLearningArguments, deaf))
    with pytest.raises(InputError, match="no text in language xx"):
        first_captions(arguments(ContrastiveArguments, scenes, languages=["xx"]))
    with pytest.raises(InputError, match="split 'dev' cannot be loaded"):
        first_captions(arguments(ContrastiveArguments, scenes, split="dev"))
    with pytest.raises(InputError, match="does not exist"):
        first_captions(arguments(ContrastiveArguments, tmp_path / "nowhere"))
    texts, _ = first_captions(arguments(TeacherArguments, scenes))
    assert len(texts) == N_ROWS  # stage 0 reads English alone


@pytest.mark.parametrize("form", ["columns", "lists"])
def test_languages_that_come_later_are_no_error(arguments, tmp_path, form):
    """Read data as of the paper's stage 2: English pairs, and Chinese pairs after them."""
    if form == "columns":
        english = {"en": "a dog", "zh": None}
        chinese = {"en": None, "zh": "狗"}
    else:
        english = [{"language": "en", "text": "a dog"}]
        chinese = [{"language": "zh", "text": "狗"}]
    image = {"bytes": b"", "path": None}
    # Nine rows of English, of which a dry run reads N_ROWS, that is eight.
    rows = [{"image": image, "captions": captions} for captions in [english] * 9 + [chinese]]
    Dataset.from_list(rows).to_parquet(tmp_path / "d/train.parquet")
    texts, described = first_captions(arguments(ContrastiveArguments, tmp_path / "d", languages=["en", "zh"]))
    assert set(texts) == {"a dog"}
    assert described.endswith("captions in en zh")


def test_a_teacher_or_encoder_of_another_kind_is_named(stand_ins, dry_run, tmp_path):
    stand_ins(LARGE, XLMR_LARGE)
    clip = tmp_path / "clip"
    flags = ["--teacher_name_or_path", clip, "--text_encoder_name_or_path", clip]
    message = (
        "text_encoder_name_or_path '.*clip' is a model of the type 'clip': "
        "give a text encoder, such as an XLM-R, a BERT or a T5"
    )
    with pytest.raises(InputError, match=message):
        dry_run("stage1", "altclip", *flags)


def test_a_finished_model_that_learns_more_is_reckoned_as_it_is(altclip_folder, miniature, tmp_path, capsys):
    arguments = TeacherLearningArguments(
        output_dir=str(tmp_path),
        dry_run=True,
        model_name_or_path=str(altclip_folder),
        teacher_name_or_path=str(altclip_folder),
        dataset=str(miniature / "dataset"),
        languages=["th"],
        replay_languages=["en"],
    )
    print_plan(arguments)
    printed = capsys.readouterr().out
    model, _ = load_model(str(altclip_folder))
    n_parameters = sum(value.numel() for value in model.parameters())
    assert f"{n_parameters:,}: " in printed
    assert "captions in th en" in printed


class CountGradients(TrainerCallback):
    """Counts the values of a step's gradients, and of what is marked to learn."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.n_gradients = sum(value.grad.numel() for value in model.parameters() if value.grad is not None)
        self.n_marked = sum(value.numel() for value in model.parameters() if value.requires_grad)


@pytest.fixture
def save_dual(miniature, tmp_path):
    """Return a function that saves a dual encoder: one of `nllb`, `mlp` and `dinov2`, with its mask token."""

    def save_dual(name):
        tokenizer = load_tokenizer_of(miniature)
        encoder = save_student("nllb" if name == "nllb" else "bert", tmp_path / "encoder", tokenizer)
        if name == "dinov2":
            sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
            config = Dinov2Config(**sizes, image_size=32, patch_size=8)
            Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
            model = AltCLIPDualEncoderModel.from_towers(str(tmp_path / "dinov2"), encoder, projection_dim=16)
        else:
            teacher = save_teacher("siglip", tmp_path / "siglip", tokenizer)
            head = "mlp" if name == "mlp" else "linear"
            model = AltCLIPDualEncoderModel.from_teacher(teacher, encoder, text_head=head, dropout=0.0)
        processor = AltCLIPProcessor(CLIPImageProcessorPil(**SHORTEST), load_tokenizer_of(miniature))
        save_model(model, processor, tmp_path / name)
        return str(tmp_path / name)

    return save_dual


ALL_PARTS = ["text_model", "vision_model", "text_projection", "visual_projection", "logit_scale"]


@pytest.fixture
def counts(save_dual, miniature, tmp_path, capsys, monkeypatch):
    """Return a function that returns the count of a dry run, and those of a step of the training."""
    of_job = {stage0: TeacherArguments, stage1: TeacherLearningArguments, stage2: ContrastiveArguments}
    gradients = CountGradients()

    def train_a_step(trainer, arguments):
        trainer.add_callback(gradients)
        trainer.train()

    def counts(job, name, **given):
        given |= {"model_name_or_path": save_dual(name), "dataset": str(miniature / "dataset")}
        given |= {"max_steps": 1, "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
        job.main(of_job[job](**given, output_dir=str(tmp_path / "dry"), dry_run=True))
        (counted,) = re.findall(r"^trainable +([\d,]+), ", capsys.readouterr().out, re.MULTILINE)
        monkeypatch.setattr(job, "train", train_a_step)
        job.main(of_job[job](**given, output_dir=str(tmp_path / "out")))
        return int(counted.replace(",", "")), gradients.n_gradients, gradients.n_marked

    return counts


@pytest.mark.slow
@pytest.mark.parametrize(
    "job,name,given",
    [
        (stage0, "dinov2", {}),
        (stage1, "mlp", {"replay_languages": []}),
        (stage1, "nllb", {"replay_languages": [], "lora_rank": 2}),
        (stage2, "mlp", {"loss": "sigmoid"}),
        (stage2, "dinov2", {"loss": "sigmoid"}),
        (stage2, "dinov2", {"trainable": ALL_PARTS, "cache_image_embeds": False}),
        (stage2, "dinov2", {"trainable": ["text_projection"]}),
        (stage2, "nllb", {"loss": "sigmoid", "lora_rank": 2}),
    ],
)
def test_as_many_learn_as_a_dry_run_counts(job, name, given, counts):
    counted, n_gradients, n_marked = counts(job, name, **given)
    assert counted == n_gradients == n_marked


def test_new_pieces_are_counted_up_to_their_maximum(altclip_folder, miniature, tmp_path, capsys):
    found = []
    for n_pieces in (0, 5):
        arguments = TeacherLearningArguments(
            output_dir=str(tmp_path),
            dry_run=True,
            model_name_or_path=str(altclip_folder),
            dataset=str(miniature / "dataset"),
            languages=["th"],
            new_pieces=n_pieces,
        )
        print_plan(arguments)
        (trainable,) = re.findall(r"^trainable +([\d,]+), .*$", capsys.readouterr().out, re.MULTILINE)
        found.append(int(trainable.replace(",", "")))
    model, processor = load_model(str(altclip_folder))
    n_rows, width = model.get_input_embeddings().weight.shape
    assert found[1] - found[0] == (len(processor.tokenizer) + 5 - n_rows) * width


def test_scripts_stop_after_a_dry_run(miniature, run_python, tmp_path):
    """Exit with 0 and write nothing, or with 1 and one line where a column is missing."""
    shutil.copytree(miniature / "clip", tmp_path / "clip")
    (tmp_path / "clip/model.safetensors").unlink()  # weights are not read
    Dataset.from_list([{"image": "a.png"}]).to_parquet(tmp_path / "bad" / "train.parquet")
    command = ["python", ROOT / "training/run_stage0.py", ROOT / "training/recipes/miniature/stage0.yaml"]
    command += ["--model_name_or_path", tmp_path / "clip", "--output_dir", tmp_path / "out", "--dry_run"]

    good = run_python(*command, "--dataset", miniature / "dataset")
    assert good.returncode == 0, good.stderr
    last_line = "Dry run: nothing was trained. Next: the same command without --dry_run."
    assert good.stdout.strip().endswith(last_line)

    bad = run_python(*command, "--dataset", tmp_path / "bad")
    assert bad.returncode == 1
    assert bad.stdout == ""
    message = "has no column of captions: name the one of the texts by --text_column; it has image"
    assert message in bad.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
