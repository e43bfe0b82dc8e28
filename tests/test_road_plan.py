"""Roads name what exists, and their plans have the numbers that are known or can be counted."""

import math
import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    CLIPConfig,
    EfficientNetConfig,
    M2M100Config,
    ModernBertConfig,
    Qwen3Config,
    ResNetConfig,
    Siglip2Config,
    SiglipConfig,
    T5Config,
    ViTConfig,
    XLMRobertaConfig,
)

from benchmarks.tasks.loading import load_task
from common.errors import InputError
from common.files.yaml_files import read_yaml
from modeling_altclip import AltCLIPConfig
from modeling_altclip.pooling_altclip import made_up_image
from training.road.amounts import Amount, amount_of
from training.road.assumptions import read_assumptions
from training.road.models import (
    bytes_of_model,
    count_parameters,
    image_operations,
    read_config,
    recorded_models,
    text_operations,
)
from training.road.plan import hour_lines, hours_of, laptop_hours_of, plan_road, print_plan, say_range
from training.road.steps import read_road

from .conftest import ROOT

RECIPES = ROOT / "training/recipes"
ROADS = (
    "altclip",
    "altclip_m9",
    "altclip_m18",
    "any_clip",
    "add_languages",
    "parallel_coco",
    "siglip2_mexma",
    "siglip2_so400m_mexma",
    "siglip2_mmbert",
    "siglip2_nllb",
    "siglip2_add_languages",
    "siglip2_own_tower",
    "clip_e5_small",
    "open_clip",
)


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    """Recipes name their lists of sources from the clone's folder."""
    monkeypatch.chdir(ROOT)


def test_no_recipe_has_a_placeholder():
    for recipe in RECIPES.rglob("*.yaml"):
        assert not re.search("your[/-]|YOUR", recipe.read_text("utf-8")), recipe


# The rows of each step that reads data, and the parameters of the model.
M18 = 632_076_800 + 558_840_832 + 2_048 + 1_049_600 + 1_048_576 + 1
# Image towers of SigLIP 2 are what is left without the text tower, the scale and the bias; encoders have no
# pooler, and a head of their width by the teacher's.
SIGLIP2_MEXMA = 375_187_970 - 282_303_744 + 558_840_832 + 1024 * 768
SO400M_MEXMA = 1_136_008_498 - 707_782_896 + 558_840_832 + 1024 * 1152
KNOWN = {
    # Of 7,000,000 captions in 51 languages beside English, a 51st is Chinese.
    "altclip": ([878_978, 5_160_000 + 28_000_000 + 878_978 + 7_000_000 // 51, 703_182], 864_186_113),
    "altclip_m9": ([878_978, 8_000_000 + 40_000_000 + 878_978, 703_182], 864_186_113),
    # WikiMatrix states no number. Of OPUS-100 one of 17 languages has fewer than a million.
    "altclip_m18": ([878_978, 60_000_000 + 5_160_000 + 16_534_319 + 878_978, 703_182], M18),
    "any_clip": ([150_000, 7_534_319, 7_534_319, 120_000], 365_959_681),
    "add_languages": ([878_978 + 3_000_000], 864_186_113),
    "parallel_coco": ([118_287, 118_287], 86_389_248 + 559_890_432),
    "siglip2_mexma": ([150_000, 7_534_319, 120_000], SIGLIP2_MEXMA),
    "siglip2_so400m_mexma": ([150_000, 7_534_319, 120_000], SO400M_MEXMA),
    "siglip2_mmbert": (
        [150_000, 7_534_319, 120_000],
        375_187_970 - 282_303_744 + 306_939_648 + 768 * 768,
    ),
    "siglip2_nllb": ([878_978, 878_978, 703_182], SIGLIP2_MEXMA),
    "siglip2_add_languages": ([878_978 + 3_000_000], SIGLIP2_MEXMA),
    "siglip2_own_tower": ([878_978 + 3_000_000], 375_187_970),
    # The image side of CLIP H/14 with its projection, and a head of texts.
    "open_clip": (
        [150_000, 7_534_319, 120_000],
        632_076_800 + 558_840_832 + 1024 * 1024 + 1,
    ),
    # CLIP's text tower and its projection go, mE5's pooler too.
    "clip_e5_small": (
        [30_000, 400_000, 24_000],
        151_277_313 - 63_165_952 - 512 * 512 + 117_653_760 - 147_840 + 384 * 512,
    ),
}


@pytest.mark.parametrize("name", ROADS)
def test_a_road_names_what_exists(name):
    plan = plan_road(read_road(RECIPES / name))
    rows, n_parameters = KNOWN[name]
    assert [step.amount.rows for step in plan.steps if step.amount is not None] == rows
    assert {step.n_parameters for step in plan.steps} - {None} == {n_parameters}
    assert plan.unknown == (["wikimatrix"] if name == "altclip_m18" else [])

    jobs = [step.step.job for step in plan.steps]
    assert jobs[-1] == "card"
    assert "retrieval" in jobs
    # All models of a road are planned without a network.
    assert set(plan.models) <= set(recorded_models())
    assert plan.n_bytes > 5e9
    assert "not for commercial use: " in plan.outcome.sentence
    least, most = hours_of(plan.operations, 1)
    assert 0.01 < least < most < 1000
    assert hours_of(plan.operations, 8) == pytest.approx((least / 8, most / 8))


@pytest.mark.parametrize("name", ROADS)
def test_a_road_excludes_the_tests_that_it_evaluates_on(name):
    steps = {step.job: step.settings for step in read_road(RECIPES / name)}
    trainings = [steps[job] for job in ("stage1", "stage2", "parallel") if job in steps]
    for settings in trainings:
        assert settings["exclude_tasks"] == steps["retrieval"]["tasks"]
    # Their data needs no preparation by hand.
    for job in ("retrieval", "zero_shot"):
        for task in steps.get(job, {"tasks": []})["tasks"]:
            assert load_task(task).preparation is None


# Numbers of parameters that the models' pages and papers state.
PUBLISHED = {
    "openai/clip-vit-large-patch14": 427_616_513,
    "openai/clip-vit-base-patch32": 151_277_313,
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": 986_109_441,
    "open_clip:ViT-H-14/laion2b_s32b_b79k": 986_109_441,
    "FacebookAI/xlm-roberta-large": 559_890_432,
    "intfloat/multilingual-e5-base": 278_043_648,
    "BAAI/AltCLIP-m9": 864_186_113,
    "google/vit-base-patch16-224-in21k": 86_389_248,
    "facebook/nllb-200-distilled-600M": 615_073_792,
    "google/siglip2-base-patch16-224": 375_187_970,
    "google/siglip2-so400m-patch14-384": 1_136_008_498,
    "facebook/MEXMA": 559_890_432,
    "jhu-clsp/mmBERT-base": 306_939_648,
    "intfloat/multilingual-e5-small": 117_653_760,
    "outputs/siglip2_mexma/stage2": SIGLIP2_MEXMA,
}


def test_recorded_configurations_have_the_published_numbers_of_parameters():
    assert sorted(PUBLISHED) == sorted(recorded_models())
    for name, expected in PUBLISHED.items():
        assert count_parameters(read_config(name, "model"))[0] == expected, name
        assert read_yaml(ROOT / "training/road/models.yaml", "models")[name]["n_parameters"] == expected


def test_the_file_of_mexma_is_an_xlm_r_without_a_pooler():
    pooler = 1024 * 1024 + 1024
    of_weights = 4 * (count_parameters(read_config("facebook/MEXMA", "model"))[0] - pooler)
    # Beside the weights, safetensors keeps their names and places: about 100 bytes for each of 389.
    assert 389 * 80 < bytes_of_model("facebook/MEXMA") - of_weights < 389 * 140


def test_a_plan_names_the_parameters_of_each_model(capsys):
    road = read_road(RECIPES / "siglip2_so400m_mexma")
    print_plan(road, road)
    printed = capsys.readouterr().out
    assert "google/siglip2-so400m-patch14-384: 1,136,008,498 parameters, as published: mteb" in printed
    assert "facebook/MEXMA: 559,890,432 parameters, unverified" in printed
    assert f"{SO400M_MEXMA:,}, {558_840_832:,} of them trained" in printed


def test_roads_of_siglip_end_with_its_loss():
    for recipe in RECIPES.glob("*/stage2.yaml"):
        settings = read_yaml(recipe, "recipe")
        is_of_siglip = recipe.parent.name.startswith("siglip")
        assert (settings.get("loss") == "sigmoid") == is_of_siglip, recipe


WIDE = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4}
VISION = WIDE | {"image_size": 64, "patch_size": 8}
ENCODER = XLMRobertaConfig(vocab_size=100, max_position_embeddings=80, **WIDE)
CLIP = CLIPConfig(text_config=WIDE | {"vocab_size": 100}, vision_config=VISION, projection_dim=16)
SIGLIP = SiglipConfig(
    text_config=WIDE | {"vocab_size": 100, "max_position_embeddings": 60},
    # Without the head that pools, which is large beside three layers; of so few patches that one more shows.
    vision_config=VISION | {"vision_use_head": False, "patch_size": 16},
)
TOKENS = {"vocab_size": 100, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
T5 = {"d_model": 96, "d_ff": 384, "d_kv": 24, "num_heads": 4, "num_layers": 3, "vocab_size": 100}
NLLB = {"d_model": 96, "encoder_layers": 3, "encoder_ffn_dim": 384, "encoder_attention_heads": 4}
CONFIGS = {
    "siglip": SIGLIP,
    "naflex": Siglip2Config(
        text_config=WIDE | {"vocab_size": 100},
        vision_config=WIDE | {"vision_use_head": False, "patch_size": 16, "num_patches": 16},
    ),
    # Its MLPs have three matrices.
    "modernbert": ModernBertConfig(**WIDE, **TOKENS, cls_token_id=0, sep_token_id=2),
    "qwen3": Qwen3Config(**WIDE, **TOKENS, num_key_value_heads=2, head_dim=24),
    "t5": T5Config(**T5),
    "nllb": M2M100Config(**NLLB, **TOKENS, decoder_layers=1, max_position_embeddings=80),
    "encoder": ENCODER,
    "clip": CLIP,
    "altclip": AltCLIPConfig.from_teacher(CLIP, ENCODER),
    "vit": ViTConfig(**VISION),
}


def counted(model, **inputs) -> int:
    """Count the operations of a forward pass as torch does, while it runs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["encoder", "clip", "altclip", "modernbert", "qwen3", "t5", "nllb"])
def test_operations_of_a_text_are_those_that_torch_counts(name):
    config = CONFIGS[name]
    # NLLB leaves out layers at random while it is trained.
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    tower = getattr(model, "text_model", model)
    if config.is_encoder_decoder:
        tower = model.get_encoder()
    for n_tokens in (7, 60):
        ids = torch.ones(1, n_tokens, dtype=torch.long)
        expected = counted(tower, input_ids=ids, attention_mask=ids)
        # Heads and poolers are left out, which are few of a large model's operations.
        assert text_operations(config, n_tokens) == pytest.approx(expected, rel=0.05)


def test_a_siglip_reads_all_of_its_positions():
    tower = AutoModel.from_config(SIGLIP, attn_implementation="eager").text_model
    expected = counted(tower, input_ids=torch.ones(1, 60, dtype=torch.long))
    for n_tokens in (7, 60, 77):
        assert text_operations(SIGLIP, n_tokens) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", ["clip", "altclip", "vit", "siglip", "naflex"])
def test_operations_of_an_image_are_those_that_torch_counts(name):
    config = CONFIGS[name]
    model = AutoModel.from_config(config, attn_implementation="eager")
    tower = getattr(model, "vision_model", model)
    expected = counted(tower, **made_up_image(tower.config))
    assert image_operations(config) == pytest.approx(expected, rel=0.02)


def test_operations_of_convolutions_are_the_published_ones():
    """4.09 G and 0.39 G multiplications with additions, by the tables of their papers' code."""
    assert image_operations(ResNetConfig()) == pytest.approx(2 * 4.09e9, rel=0.02)
    b0 = EfficientNetConfig(image_size=224, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280)
    assert image_operations(b0) == pytest.approx(2 * 0.39e9, rel=0.02)


def test_hours_follow_from_operations():
    assumed = read_assumptions()
    # What a GPU computes in an hour at most
    an_hour = 3600 * assumed.operations_a_second
    assert hours_of((an_hour, an_hour), 1) == pytest.approx((1 / 0.46, 1 / 0.21))
    assert hours_of((an_hour, 2 * an_hour), 8) == pytest.approx((1 / 8 / 0.46, 2 / 8 / 0.21))
    least = 3600 * assumed.least_operations_a_second_of_a_laptop
    most = 3600 * assumed.most_operations_a_second_of_a_laptop
    assert laptop_hours_of((most, 2 * least)) == pytest.approx((1, 2))
    names = ["hours on 1 GPU", "hours on 8 GPUs", "hours on a laptop"]
    assert [name for name, _ in hour_lines((most, least))] == names
    assert hour_lines(None) == [(name, "unknown") for name in names]
    assert say_range((0.123, 17.4)) == "0.12 to 17"
    assert say_range(None) == "unknown"


@pytest.mark.parametrize(
    ("dataset", "languages", "rows", "texts"),
    [
        ("opus-100", ["en", "de", "hi"], 1_534_319, 2 * 1_534_319),
        ("laion-coco-nllb", ["de", "zh"], 878_978, 3 * 878_978),
        ("m-clip-captions", ["de", "zh"], 2 * 7_000_000 // 51, 4 * 7_000_000 // 51),
        ("translation2019zh", ["en", "zh"], 5_160_000, 2 * 5_160_000),
    ],
)
def test_the_amount_of_a_corpus(dataset, languages, rows, texts):
    amount = amount_of(dataset, languages, made={})
    assert (amount.rows, amount.texts) == (rows, pytest.approx(texts, abs=1))
    assert [origin.name for origin in amount.origins] == [dataset]


def write(path, text):
    path.write_text(text)
    return str(path)


def test_the_amount_of_several_corpora(tmp_path):
    own = write(tmp_path / "mine.tsv", "en\tde\na dog\tein Hund\n")
    mixture = f"""
- {{data: opus-100, rows: 1000}}
- {{data: ccmatrix, rows: 5000}}
- {{data: wikimatrix, weight: 2}}
- {{data: {own}}}
"""
    amount = amount_of(write(tmp_path / "mixture.yaml", mixture), ["en", "de"], made={})
    assert amount.rows == 6000
    assert amount.unknown == ("wikimatrix", own)
    assert amount.describe_rows() == f"6,000, and an unknown number of wikimatrix and {own}"
    assert Amount(unknown=("x",)).describe_rows() == "unknown, of x"


def test_a_language_that_no_earlier_step_makes_is_refused(tmp_path):
    write(tmp_path / "download.yaml", DOWNLOAD)
    write(tmp_path / "stage1.yaml", STAGE1)
    second = STAGE2.replace("cc3m", "outputs/a/pictures")
    write(tmp_path / "stage2.yaml", second.replace("[en]", "[en, it]"))
    with pytest.raises(InputError, match="no earlier step makes in 'outputs/a/pictures' language it: .* en"):
        plan_road(read_road(tmp_path))


def test_of_a_budget_no_more_is_downloaded():
    amount = amount_of("laion-coco-nllb", ["en", "de"], made={}, pictures=True, budget=1000)
    assert amount.rows == 1000
    assert amount.downloads == {"laion-coco-nllb": round(10_400_000_000 * 1000 / 878_978)}
    whole = amount_of("laion-coco-nllb", ["en", "de"], made={}, pictures=True, budget=10**9)
    assert (whole.rows, whole.downloads) == (878_978, {"laion-coco-nllb": 10_400_000_000})


def test_what_a_step_makes_needs_no_download(tmp_path):
    made = {tmp_path / "cleaned": Amount(rows=7, texts=14, downloads={"opus-100": 100})}
    for dataset in ("cleaned", "cleaned/sources.yaml"):
        amount = amount_of(str(tmp_path / dataset), ["en", "de"], made)
        assert (amount.rows, amount.downloads) == (7, {})


STAGE1 = """
teacher_name_or_path: openai/clip-vit-base-patch32
text_encoder_name_or_path: intfloat/multilingual-e5-base
dataset: opus-100
languages: [en, de]
max_steps: 10
output_dir: outputs/a/stage1
"""
STAGE2 = """
model_name_or_path: outputs/a/stage1
dataset: cc3m
languages: [en]
max_steps: 10
output_dir: outputs/a/stage2
"""
RETRIEVAL = """
models: [outputs/a/stage1]
tasks: [xm3600]
languages: [en, de]
output_dir: outputs/a/results
"""


@pytest.mark.parametrize(
    ("job", "before", "after", "message"),
    [
        ("stage1", "opus-100", "opus-10", "did you mean the source opus-100"),
        ("stage1", "opus-100", "outputs/b/cleaned", "made by no earlier step"),
        ("stage1", "[en, de]", "[en, xx]", "no corpus of 'opus-100' has language xx: choose from"),
        ("stage1", "opus-100", "cc3m", "is no parallel text"),
        ("stage1", "opus-100", "flores", "refused for training"),
        ("stage1", "max_steps", "exclude_tasks: [xm3601]\nmax_steps", "xm3601"),
        ("stage1", "max_steps", "max_step", "recipe .* unknown|did you mean"),
        ("stage1", "intfloat/multilingual-e5-base", "outputs/b/encoder", "no earlier step makes it"),
        (
            "stage1",
            "openai/clip-vit-base-patch32",
            "FacebookAI/xlm-roberta-large",
            "is no teacher whose image tower can be taken over",
        ),
        ("stage2", "outputs/a/stage1", "outputs/a/stage0", "model_name_or_path .* no earlier step makes it"),
        ("stage2", "cc3m", "opus-100", "has texts alone"),
        ("stage2", "[en]", "[zh]", "no corpus of 'cc3m' has language zh: choose from en"),
        ("retrieval", "outputs/a/stage1", "outputs/a/stage3", "models .* no earlier step makes it"),
        ("retrieval", "xm3600", "xm3601", "xm3601"),
        ("retrieval", "[en, de]", "[en, xx]", "none of the tasks xm3600 has language 'xx'"),
    ],
)
def test_a_road_that_names_what_does_not_exist_is_refused(tmp_path, job, before, after, message):
    recipes = {"stage1": STAGE1, "stage2": STAGE2, "retrieval": RETRIEVAL}
    assert before in recipes[job]
    recipes[job] = recipes[job].replace(before, after)
    for name, text in recipes.items():
        write(tmp_path / f"{name}.yaml", text)
    with pytest.raises(InputError, match=message):
        plan_road(read_road(tmp_path))


def test_the_printed_plan(tmp_path, capsys):
    for name, text in {"stage1": STAGE1, "stage2": STAGE2, "retrieval": RETRIEVAL}.items():
        write(tmp_path / f"{name}.yaml", text)
    road = read_road(tmp_path)
    print_plan(road, road)
    printed = capsys.readouterr().out
    lines = dict(re.findall(r"^  (\w.{19})(.+)$", printed, re.MULTILINE))
    lines = {name.strip(): value for name, value in lines.items()}
    # The last step that has a line wins: stage 2 reads the 2,905,954 pictures of CC3M.
    assert lines["data"] == "cc3m: 2,905,954 rows, 2,905,954 texts"
    assert lines["steps"] == "10 of 8 examples, 80 in all, 0.0 passes"
    assert "openai/clip-vit-base-patch32" in lines["licence"]
    assert printed.splitlines()[-1].startswith("Estimates: nothing was read")


def test_the_licence_is_also_that_of_own_data(tmp_path):
    for name in ("mine", "yours"):
        write(tmp_path / f"{name}.tsv", "en\tde\na dog\tein Hund\n")
    sources = (
        "- {data: mine.tsv, licence: CC-BY-SA-4.0}\n- {data: yours.tsv}\n- {data: Helsinki-NLP/opus-100}\n"
    )
    write(tmp_path / "texts.yaml", sources)
    write(tmp_path / "stage1.yaml", STAGE1.replace("opus-100", str(tmp_path / "texts.yaml")))
    outcome = plan_road(read_road(tmp_path)).outcome
    assert outcome.forced_by["share-alike"] == ["mine.tsv (CC-BY-SA-4.0)"]
    assert outcome.unknown == ["yours.tsv (licence not stated)", "opus-100 (unknown (card))"]


def test_the_printed_plan_of_chosen_steps(tmp_path, capsys):
    """A chosen step reads what the others make, and sums are of the chosen ones alone."""
    recipes = {"stage1": STAGE1.replace("opus-100", "wikimatrix"), "stage2": STAGE2, "retrieval": RETRIEVAL}
    for name, text in recipes.items():
        write(tmp_path / f"{name}.yaml", text)
    road = read_road(tmp_path)
    print_plan(road, [step for step in road if step.job == "stage2"])
    printed = capsys.readouterr().out
    assert printed.startswith("1. stage2, ")
    assert "stage1.yaml" not in printed
    in_all = printed.partition("In all")[2]
    # 2,905,954 pictures of 35,000 bytes and texts of 65; neither the models of stage 1, nor its corpus, whose
    # size nobody states.
    assert re.search(r"to download +(.+)", in_all)[1] == "101.9 GB"
    assert "wikimatrix" not in in_all.partition("licence")[0]
    assert "wikimatrix" in in_all


DOWNLOAD = """
dataset: laion-coco-nllb
languages: [en, de]
output_dir: outputs/a/pictures
"""


def test_a_small_road_by_hand(tmp_path):
    """Operations, disk and downloads follow from the numbers of texts, pictures, parameters and steps."""
    write(tmp_path / "download.yaml", DOWNLOAD)
    write(tmp_path / "stage1.yaml", STAGE1 + "dry_run_processes: 2\ncache_dtype: float16\n")
    second = STAGE2.replace("cc3m", "outputs/a/pictures") + "gradient_cache_chunk: 4\nsave_total_limit: 2\n"
    write(tmp_path / "stage2.yaml", second)
    plan = plan_road(read_road(tmp_path))
    download, stage1, stage2 = plan.steps

    teacher = read_config("openai/clip-vit-base-patch32", "model")
    student = read_config("intfloat/multilingual-e5-base", "model")
    for place, n_tokens in ((0, 30), (1, 77)):
        # 10 steps of 8 texts in each of 2 processes, forward and backward; English embedded once.
        learned = 3 * 160 * text_operations(student, n_tokens)
        embedded = 1_000_000 * text_operations(teacher, n_tokens)
        assert stage1.operations[place] == pytest.approx(learned + embedded, rel=1e-6)
        # 10 steps of 8 texts, forward twice; each picture once.
        learned = 4 * 80 * text_operations(student, n_tokens)
        embedded = 703_182 * image_operations(teacher)
        assert stage2.operations[place] == pytest.approx(learned + embedded, rel=1e-6)

    # The pictures once in tars and once as Arrow. Of the text tower's weights the optimizer keeps two more.
    assert download.disk == pytest.approx(703_182 * 35_000)
    checkpoint = 4 * 365_959_681 + 8 * 277_848_320
    assert stage2.disk == pytest.approx(703_182 * 35_000 + 4 * 365_959_681 + 2 * checkpoint)
    texts_and_cache = 2_000_000 * 134 + 1_000_000 * 512 * 2
    assert stage1.disk == pytest.approx(texts_and_cache + 4 * 365_959_681 + checkpoint)

    # Texts of OPUS-100, the addresses and their pictures, and two models.
    models = 605_000_000 + 1_112_000_000
    assert plan.n_bytes == 2_000_000 * 65 + 10_400_000_000 + 703_182 * 170_000 + models


def test_cached_towers_see_each_picture_and_each_text_once(tmp_path):
    write(tmp_path / "stage1.yaml", STAGE1)
    write(tmp_path / "stage2.yaml", STAGE2 + "trainable: [text_projection, logit_scale]\n")
    _, stage2 = plan_road(read_road(tmp_path)).steps
    amount = stage2.amount
    assert amount.texts > 0
    assert amount.pictures > 0

    teacher = read_config("openai/clip-vit-base-patch32", "model")
    student = read_config("intfloat/multilingual-e5-base", "model")
    for place, n_tokens in ((0, 30), (1, 77)):
        of_texts = amount.texts * text_operations(student, n_tokens)
        of_pictures = amount.pictures * image_operations(teacher)
        assert stage2.operations[place] == pytest.approx(of_texts + of_pictures, rel=1e-6)


def test_a_teacher_of_texts_alone_is_planned_as_far_as_it_is_known(tmp_path):
    teacher = "teacher_name_or_path: openai/clip-vit-base-patch32"

    def plan_with(name, image_model):
        given = f"teacher_name_or_path: {name}\nimage_model_name_or_path: {image_model}"
        write(tmp_path / "stage1.yaml", STAGE1.replace(teacher, given))
        plan = plan_road(read_road(tmp_path))
        (step,) = plan.steps
        return plan, step

    # Nothing but the library knows this model, and so how long it takes.
    plan, step = plan_with("open_clip:ViT-B-32/mine", "openai/clip-vit-base-patch32")
    # CLIP's text tower and its projection go, mE5's pooler too; a head of one layer comes.
    image_side = 151_277_313 - 63_165_952 - 512 * 512
    assert step.n_parameters == image_side + 278_043_648 - 768 * 769 + 768 * 512
    assert plan.operations is None
    assert plan.unknown == ["open_clip:ViT-B-32/mine"]

    encoder = "intfloat/multilingual-e5-small"
    plan, step = plan_with(f"sentence_transformers:{encoder}", "google/vit-base-patch16-224-in21k")
    assert plan.operations is not None
    assert dict(step.lines)["projection"] == "planned to 768 values, as wide as the image encoder"
    assert encoder in plan.models


def test_epochs_of_unknown_size_have_no_hours(tmp_path):
    recipe = STAGE1.replace("opus-100", "wikimatrix").replace("max_steps: 10", "num_train_epochs: 1")
    write(tmp_path / "stage1.yaml", recipe)
    plan = plan_road(read_road(tmp_path))
    assert plan.operations is None
    assert dict(plan.steps[0].lines)["steps"].startswith("unknown")
    # Of a known size they have: 1,000,000 pairs, in batches of 8.
    write(tmp_path / "stage1.yaml", STAGE1.replace("max_steps: 10", "num_train_epochs: 2"))
    (step,) = plan_road(read_road(tmp_path)).steps
    n_steps = math.ceil(2_000_000 * 2 / 8)
    assert dict(step.lines)["steps"].startswith(f"{n_steps:,} of 8 examples")
