"""A SigLIP or another model of transformers goes on learning by its own text tower, and stays what it is."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity, mse_loss, normalize
from transformers import AutoModel, AutoProcessor, AutoTokenizer, SiglipModel, pipeline

from common.errors import InputError
from common.models.kinds import width_of_embeddings
from common.models.loading import load_model
from model_cards.job import CardArguments, main
from modeling_altclip import embed_images, embed_texts
from modeling_altclip.checksums_altclip import check_files
from training import ContrastiveArguments, TeacherLearningArguments
from training.freezing import freeze_all_but
from training.jobs import stage1, stage2
from training.lifecycle import collator_of
from training.low_rank import add_low_rank
from training.miniature.vocabulary import train_multilingual_tokenizer
from training.own_text_tower import let_encode_texts_alone
from training.student import build_student, processors_of_student
from training.teachers import space_of
from training.trainers import ContrastiveTrainer, TeacherLearningTrainer

from .families import TEACHERS, load_tokenizer_of, save_teacher

SIGLIPS = ("siglip", "siglip2", "naflex")
FAMILIES = [name for name in TEACHERS if name != "siglip2"]  # of a fixed size it is a SigLIP
QUICK = {
    "max_steps": 2,
    "save_steps": 1,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": [],
}
# Captions, and what a SigLIP reads of them.
CAPTIONS = ["A Dog!", "a red_apple, and a key", "狗", 100 * "Key ", "A Dog!"]
CANONICAL = ["a dog", "a red apple and a key", "狗", (100 * "key ").strip(), "a dog"]
LABELS = ["a dog", "a red apple and a key", "scissors"]


@pytest.fixture
def saved(miniature, tmp_path):
    """Return a function that saves an untrained model by the name of its family, and returns its folder."""

    def save(name):
        tokenizer = load_tokenizer_of(miniature)
        if name in SIGLIPS:
            # As those of SigLIP are, with which pipelines make no mask.
            tokenizer = AutoTokenizer.from_pretrained(
                miniature / "text_encoder", model_input_names=["input_ids"]
            )
        return save_teacher(name, tmp_path / name, tokenizer)

    return save


@pytest.fixture
def arguments_of(miniature, tmp_path):
    """Return a function that makes arguments of a stage on the miniature's data."""

    def arguments_of(job, name, **given):
        common = QUICK | {"dataset": str(miniature / "dataset"), "output_dir": str(tmp_path / name)}
        if job is stage1:
            languages = {"languages": ["zh", "ru"], "replay_languages": ["en"]}
            return TeacherLearningArguments(**common | languages | given)
        return ContrastiveArguments(**common | {"languages": ["en", "zh"]} | given)

    return arguments_of


@pytest.fixture
def train(arguments_of):
    """Return a function that runs a stage on the miniature's data, and returns the folder of the model."""

    def train(job, name, **given):
        arguments = arguments_of(job, name, **given)
        job.main(arguments)
        return arguments.output_dir

    return train


def spread(folder):
    """Scale the text tower in a folder up: texts have almost equal embeddings by small random weights."""
    model = AutoModel.from_pretrained(folder)
    for value in model.text_model.parameters():
        if value.ndim > 1:
            value.data.mul_(8)
    model.save_pretrained(folder)
    return folder


def loss_of(name):
    return "sigmoid" if name in SIGLIPS else "contrastive"


def tokens_by_hand(name, folder, texts=None):
    """Tokenize `CAPTIONS` as the model was trained to read them, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if name not in SIGLIPS:
        length = 52 if name == "chinese-clip" else 77
        texts = texts or CAPTIONS
        return tokenizer(texts, padding=True, max_length=length, truncation=True, return_tensors="pt")
    texts = texts or CANONICAL
    ids = tokenizer(texts, padding="max_length", max_length=64, truncation=True, return_tensors="pt")
    return {"input_ids": ids["input_ids"]}  # no mask: SigLIP attends to padding


# What a step computes


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_of_stage_1_is_computed_by_hand(name, saved, arguments_of):
    folder = saved(name)
    arguments = arguments_of(stage1, "out", model_name_or_path=folder)
    model, tokenizer = build_student(arguments, None, [])
    freeze_all_but(model, space_of(model.config).parts)
    processor, _ = processors_of_student(arguments, model, tokenizer, None)
    collator = collator_of(arguments, model, processor)
    trainer = TeacherLearningTrainer(model=model, args=arguments, train_dataset=[], data_collator=collator)

    plain = AutoModel.from_pretrained(folder)
    expected = plain.get_text_features(**tokens_by_hand(name, folder)).pooler_output
    torch.manual_seed(1)
    targets = torch.randn_like(expected)
    rows = zip(CAPTIONS, targets.numpy(), strict=True)
    batch = collator([{"text": text, "row_id": 0, "target": target} for text, target in rows])
    by_hand = mse_loss(expected, targets)
    loss = trainer.compute_loss(model, batch)
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-5)

    loss.backward()
    by_hand.backward()
    gradients = {name: value.grad for name, value in plain.named_parameters()}
    for part, value in model.named_parameters():
        assert (value.grad is None) == (gradients[part] is None), part
        if value.grad is not None:
            torch.testing.assert_close(value.grad, gradients[part], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "naflex"])
@pytest.mark.parametrize("embedded", [False, True], ids=["images", "embeddings"])
def test_a_step_of_stage_2_is_transformers_own_loss(name, embedded, saved, arguments_of):
    folder = saved(name)
    arguments = arguments_of(stage2, "out", model_name_or_path=folder, loss=loss_of(name))
    model, processor = load_model(folder)
    collator = collator_of(arguments, model, processor)
    trainer = ContrastiveTrainer(model=model, args=arguments, train_dataset=[], data_collator=collator)

    torch.manual_seed(1)
    pixels = torch.randn(3, 3, 32, 32)
    batch = collator.encode(CAPTIONS[:3]) | {"row_ids": torch.arange(3)}
    if embedded:
        with torch.no_grad():
            batch["image_embeds"] = normalize(model.get_image_features(pixels).pooler_output, dim=-1)
    else:
        batch["pixel_values"] = pixels
    plain = AutoModel.from_pretrained(folder)
    texts = CANONICAL[:3] if name in SIGLIPS else CAPTIONS[:3]
    by_hand = plain(**tokens_by_hand(name, folder, texts), pixel_values=pixels, return_loss=True).loss
    assert trainer.compute_loss(model, batch).item() == pytest.approx(by_hand.item(), abs=1e-5)


def test_forward_with_images_is_what_it_was(saved):
    model, _ = load_model(saved("siglip"))
    inputs = {"input_ids": torch.tensor([[0, 11, 2], [0, 12, 2]]), "pixel_values": torch.rand(2, 3, 32, 32)}
    expected = model(**inputs, return_loss=True)
    let_encode_texts_alone(model)
    found = model(**inputs, return_loss=True)
    assert type(found) is type(expected)
    assert torch.equal(found.loss, expected.loss)


# What comes out


def check_outcome(name, folder, start):
    """Check that a folder has the model that training began with, in all but the weights of its text side."""
    check_files(folder, "settings")
    check_files(folder, "weights")
    model = AutoModel.from_pretrained(folder)
    assert type(model) is TEACHERS[name][0]
    before = load_file(f"{start}/model.safetensors")
    after = load_file(f"{folder}/model.safetensors")
    assert after.keys() == before.keys()
    moved = {part for part, value in before.items() if not torch.equal(after[part], value)}
    assert moved
    assert all(part.startswith(("text_", "logit_")) for part in moved)

    check_processor(folder, start)

    # Plain transformers embeds as we do.
    features = model.eval().get_text_features(**tokens_by_hand(name, folder, LABELS)).pooler_output
    ours = load_model(folder)
    assert torch.allclose(embed_texts(*ours, LABELS), normalize(features, dim=-1), rtol=0, atol=1e-5)
    pictures = [Image.new("RGB", (40, 50), color) for color in ("red", "blue")]
    assert torch.equal(embed_images(*ours, pictures), embed_images(*load_model(start), pictures))
    return features.detach()


def check_processor(folder, start):
    """Check that a folder has the processor of another one, as transformers itself saves it once more.

    The tokenizer's own file is kept byte for byte, where transformers would write it anew.
    """
    again = f"{start}-again"
    processor = AutoProcessor.from_pretrained(start)
    processor.save_pretrained(again)
    ways_of_loading = {"is_local", "local_files_only"}
    for file in ("tokenizer_config.json", "processor_config.json"):
        with open(f"{folder}/{file}") as found, open(f"{again}/{file}") as expected:
            kept = {key: value for key, value in json.load(expected).items() if key not in ways_of_loading}
            assert json.load(found) == kept, file
    assert Path(folder, "tokenizer.json").read_bytes() == Path(start, "tokenizer.json").read_bytes()
    loaded = AutoProcessor.from_pretrained(folder)
    assert type(loaded) is type(processor)
    assert loaded.tokenizer.backend_tokenizer.to_str() == processor.tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("name", ["siglip", pytest.param("metaclip2", marks=pytest.mark.slow)])
def test_stage_1_gives_the_type_that_went_in(name, saved, train):
    start = saved(name)
    folder = train(stage1, "first", model_name_or_path=start)
    check_outcome(name, folder, start)
    moved = load_file(f"{folder}/model.safetensors")
    for number in ("logit_scale", "logit_bias"):
        if number in moved:
            assert torch.equal(moved[number], load_file(f"{start}/model.safetensors")[number])


def test_the_pipeline_scores_as_transformers_does(saved, train):
    folder = train(stage1, "first", model_name_or_path=saved("siglip"), max_steps=1)
    picture = Image.new("RGB", (40, 50), "red")
    found = pipeline("zero-shot-image-classification", model=folder)(picture, LABELS)

    model = AutoModel.from_pretrained(folder).eval()
    pixels = AutoProcessor.from_pretrained(folder).image_processor(picture, return_tensors="pt")
    texts = [f"This is a photo of {label}." for label in LABELS]
    with torch.no_grad():
        scores = model(**tokens_by_hand("siglip", folder, texts), **pixels).logits_per_image.sigmoid()
    expected = dict(zip(LABELS, scores[0].tolist(), strict=True))
    assert {score["label"]: score["score"] for score in found} == pytest.approx(expected, abs=1e-6)


EVALUATED = {"validation_split": "validation", "eval_strategy": "steps", "eval_steps": 2}


def test_a_card_is_written_beside_the_same_processor(saved, tmp_path):
    """Its tokenizer canonicalizes texts no more than it did."""
    start = saved("siglip")
    finished = str(tmp_path / "finished")
    main(CardArguments(title="SigLIP 2", repo=finished, stages=[start], output_dir=finished))
    check_files(finished, "settings")
    check_processor(finished, start)
    assert type(AutoModel.from_pretrained(finished)) is SiglipModel


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_both_stages_of_each_family(name, saved, train, miniature):
    """Each family through both stages, with validation, a guard set, held texts and a resume."""
    start = saved(name)
    given = EVALUATED | {"model_name_or_path": start}
    first = train(stage1, "first", **given)
    features = check_outcome(name, first, start)
    resumed = train(stage1, "first", **given, resume_from_checkpoint="checkpoint-1")
    assert torch.allclose(check_outcome(name, resumed, start), features, rtol=0, atol=1e-5)
    with open(f"{first}/trainer_state.json") as file:
        evaluated = json.load(file)["log_history"]
    assert any("eval_english_lost" in entry for entry in evaluated)

    given = EVALUATED | {"model_name_or_path": first, "loss": loss_of(name), "hold": 1.0}
    given |= {"guard_dataset": str(miniature / "dataset"), "guard_split": "validation"}
    second = train(stage2, "second", **given)
    assert not torch.allclose(check_outcome(name, second, start), features, rtol=0, atol=1e-5)
    with open(f"{second}/kept.json") as file:
        kept = json.load(file)
    assert kept.keys() == {"found_again", "before", "after"}
    assert kept["before"].keys() == kept["after"].keys() >= {"en", "zh"}
    resumed = train(stage2, "second", **given, resume_from_checkpoint="checkpoint-1")
    weights = load_file(f"{resumed}/model.safetensors")
    assert torch.equal(weights["logit_scale"], load_file(f"{second}/model.safetensors")["logit_scale"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["siglip", "naflex", "metaclip2", "dual"])
def test_what_follows_the_towers_learns_from_their_cached_outputs(name, saved, train):
    """Scale, bias and projections alone learn: both towers run once."""
    start = saved(name)
    parts = ["logit_scale", "logit_bias"] if name in SIGLIPS else ["text_projection", "logit_scale"]
    given = {"model_name_or_path": start, "loss": loss_of(name), "trainable": parts}
    cached = load_file(train(stage2, "cached", **given) + "/model.safetensors")
    # Without the cache the same steps are computed by whole towers.
    by_towers = load_file(train(stage2, "towers", **given, cache_towers=False) + "/model.safetensors")
    before = load_file(f"{start}/model.safetensors")
    for part, value in before.items():
        torch.testing.assert_close(cached[part], by_towers[part], rtol=1e-4, atol=1e-5)
        learns = part.split(".")[0] in parts
        assert torch.equal(cached[part], value) != learns, part


@pytest.mark.slow
def test_english_stays_where_it_is_replayed(saved, train, miniature):
    """A new language comes near English, which moves less with a replay than without."""
    start = spread(saved("siglip"))
    rows = load_dataset(str(miniature / "dataset"), split="validation")["captions"][:50]
    english = [captions["en"] for captions in rows]
    chinese = [captions["zh"] for captions in rows]

    def distance(folder, texts):
        """Return how far texts are from the English ones before training, by the cosine."""
        embeddings = embed_texts(*load_model(folder), texts)
        return 1 - cosine_similarity(embeddings, before).mean().item()

    before = embed_texts(*load_model(start), english)
    far = distance(start, chinese)
    given = {"model_name_or_path": start, "max_steps": 100, "save_strategy": "no", "languages": ["zh"]}
    given |= {"per_device_train_batch_size": 32}
    kept = train(stage1, "kept", **given, replay=0.5)
    lost = train(stage1, "lost", **given, replay_languages=[])
    for folder in (kept, lost):
        assert distance(folder, chinese) < 0.75 * far  # 0.34 and 0.29 of 0.63, where this was written
    assert distance(kept, english) < 0.1  # 0.05
    assert distance(kept, english) < distance(lost, english) / 2  # 0.21


@pytest.mark.slow
@pytest.mark.parametrize("under_fsdp2", [False, True], ids=["DDP", "FSDP2"])
@pytest.mark.parametrize("name", ["siglip", "metaclip2"])
def test_two_processes_learn_like_one(
    name, under_fsdp2, saved, run_python, run_under_fsdp2, miniature, tmp_path
):
    """One process has the whole batch, two have halves of it."""
    start = spread(saved(name))
    recipes = {
        "stage1": ["training/recipes/add_languages_miniature/stage1.yaml", "--new_pieces", "0"],
        "stage2": ["training/recipes/miniature/stage2.yaml", "--split", "train", "--loss", loss_of(name)],
    }
    recipes["stage1"] += ["--languages", "zh", "--replay_languages", "en"]
    recipes["stage2"] += ["--languages", "en", "zh"]
    common = ["--model_name_or_path", start, "--dataset", miniature / "dataset", "--length_groups", "1"]
    common += ["--max_steps", "3", "--optim", "sgd", "--learning_rate", "0.1"]
    before = load_file(f"{start}/model.safetensors")
    for stage, recipe in recipes.items():
        command = [f"training/run_{stage}.py", *recipe, *common]
        whole = ["--output_dir", tmp_path / f"{stage}-1", "--per_device_train_batch_size", "16"]
        halves = ["--output_dir", tmp_path / f"{stage}-2", "--per_device_train_batch_size", "8"]
        done = [run_python("python", *command, *whole, OMP_NUM_THREADS="1")]
        if under_fsdp2:
            done.append(run_under_fsdp2(*command, *halves))
        else:
            done.append(run_python("python", *command, *halves, processes=2, OMP_NUM_THREADS="1"))
        for process in done:
            assert process.returncode == 0, process.stderr[-4000:]
        one = load_file(tmp_path / f"{stage}-1/model.safetensors")
        two = load_file(tmp_path / f"{stage}-2/model.safetensors")
        assert any((one[part] - value).abs().max() > 1e-3 for part, value in before.items())
        for part, value in one.items():
            torch.testing.assert_close(two[part], value, rtol=1e-4, atol=1e-4)


# Low-rank updates and new pieces


@pytest.mark.parametrize("name", ["siglip", "metaclip2", "chinese-clip"])
def test_low_rank_updates_are_of_all_linear_layers_of_the_text_tower(name, saved, arguments_of):
    model, _ = load_model(saved(name))
    arguments = arguments_of(stage1, "out", model_name_or_path=saved(name), lora_rank=4)
    freeze_all_but(model, space_of(model.config).parts)
    linear = {part for part, layer in model.text_model.named_modules() if isinstance(layer, torch.nn.Linear)}
    if name in SIGLIPS:
        assert "head" in linear
    add_low_rank(arguments, model)
    learning = {part for part, value in model.named_parameters() if value.requires_grad}
    updated = {part.split(".lora_")[0].removeprefix("text_model.") for part in learning if ".lora_" in part}
    assert updated == linear
    beside = {part for part in learning if ".lora_" not in part}
    assert beside == (set() if name in SIGLIPS else {"text_projection.weight"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["siglip", "metaclip2"])
def test_low_rank_updates_are_merged_into_what_is_saved(name, saved, train):
    start = saved(name)
    first = train(stage1, "first", model_name_or_path=start, lora_rank=4)
    check_outcome(name, first, start)
    second = train(stage2, "second", model_name_or_path=first, loss=loss_of(name), lora_rank=4)
    check_outcome(name, second, start)
    embeddings = "text_model.embeddings.token_embedding.weight"
    kept = load_file(f"{start}/model.safetensors")[embeddings]
    assert torch.equal(load_file(f"{second}/model.safetensors")[embeddings], kept)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "naflex"])
def test_new_pieces_extend_tokenizers_of_xlm_rs_kind(name, saved, train, miniature, tmp_path):
    start = tmp_path / "start"
    AutoModel.from_pretrained(saved(name)).save_pretrained(start)
    processor = AutoProcessor.from_pretrained(saved(name))
    english = load_dataset(str(miniature / "dataset"), split="train")["captions"][:]
    processor.tokenizer = train_multilingual_tokenizer([captions["en"] for captions in english], 120)
    processor.save_pretrained(start)
    folder = train(stage1, "more", model_name_or_path=str(start), languages=["zh"], new_pieces=300)

    unknown = processor.tokenizer.unk_token_id
    extended = AutoProcessor.from_pretrained(folder).tokenizer
    assert unknown in processor.tokenizer(english[0]["zh"])["input_ids"]
    assert unknown not in extended(english[0]["zh"])["input_ids"]
    assert extended(english[0]["en"]) == processor.tokenizer(english[0]["en"])
    model = AutoModel.from_pretrained(folder)
    n_pieces = len(extended)
    assert model.config.get_text_config().vocab_size == n_pieces > len(processor.tokenizer)


def test_new_pieces_do_not_extend_siglip_2s_own_tokenizer(saved, arguments_of):
    arguments = arguments_of(stage1, "out", model_name_or_path=saved("naflex"), new_pieces=10)
    with pytest.raises(InputError, match="tokenizers of XLM-R's kind, not a Siglip2Tokenizer: leave it out"):
        build_student(arguments, Dataset.from_dict({"captions": [{"en": "a dog", "zh": "狗"}]}), ["zh"])


# What is refused, and what is left out


def test_the_parts_that_learn_by_default_are_those_of_the_model(saved, train, capsys):
    start = saved("siglip")
    given = {"model_name_or_path": start, "loss": "sigmoid", "dry_run": True}
    train(stage2, "dry", **given)
    n_trained = 0
    for part, value in load_file(f"{start}/model.safetensors").items():
        if part.startswith(("text_model", "logit_")):
            n_trained += value.numel()
    printed = capsys.readouterr().out
    assert f"trainable             {n_trained:,}, " in printed
    assert "128 at the 64.0 a text of" not in printed
    assert " at the 64.0 a text of " in printed

    message = (
        "trainable names text_projection, which the model has not; its parts are text_model, vision_model, "
    )
    with pytest.raises(InputError, match=message + "logit_scale, logit_bias"):
        train(stage2, "dry", **given, trainable=["text_model", "text_projection"])


@pytest.mark.parametrize(
    ("name", "job", "given", "message"),
    [
        (
            "siglip",
            stage1,
            {"length_groups": 4},
            "length_groups is 4, and a 'siglip' reads every text padded to",
        ),
        (
            "naflex",
            stage2,
            {"length_groups": 4, "loss": "sigmoid"},
            "length_groups is 4, and a 'siglip2' reads",
        ),
        (
            "siglip",
            stage1,
            {"train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy is group_by_length, and a 'siglip' reads every text padded to 64 tokens",
        ),
        ("siglip", stage1, {"max_text_length": 32}, "max_text_length is 32, and a 'siglip' reads every text"),
        ("siglip", stage2, {}, "loss is contrastive, and the 'siglip' has a logit_bias"),
        ("metaclip2", stage2, {"loss": "sigmoid"}, "loss is sigmoid, and a model of the type 'metaclip_2'"),
        (
            "chinese-clip",
            stage2,
            {"trainable": ["logit_scale"]},
            "cache_towers is true, and the text tower of a 'chinese_clip' has no pooled output",
        ),
        ("siglip", stage1, {"text_pooling": "mean"}, "text_pooling is of a new text tower"),
    ],
)
def test_what_does_not_go_together_is_refused(name, job, given, message, saved, train):
    with pytest.raises(InputError, match=message):
        train(job, "dry", model_name_or_path=saved(name), dry_run=True, **given)


@pytest.mark.slow
def test_a_teacher_of_another_width_is_refused(saved, train):
    given = {"model_name_or_path": saved("siglip"), "teacher_name_or_path": saved("clip")}
    with pytest.raises(InputError, match="gives targets of 24 values, and the student has 32"):
        train(stage1, "first", **given)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_has_every_weight(name, saved):
    """As the Trainer resumes: by the names in files, and without asking for all of them."""
    folder = saved(name)
    model = AutoModel.from_pretrained(folder)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    let_encode_texts_alone(model)
    for value in model.parameters():
        value.data.add_(1)
    found = model.load_state_dict(load_file(f"{folder}/model.safetensors"), strict=False)
    assert not found.missing_keys
    assert not found.unexpected_keys
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", FAMILIES)
def test_the_width_of_embeddings_is_that_of_images(name, saved):
    model, processor = load_model(saved(name))
    image = Image.new("RGB", (40, 24), "red")
    assert embed_images(model, processor, [image]).shape[1] == width_of_embeddings(model.config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["siglip", "metaclip2"])
def test_an_adapter_of_an_own_text_tower_is_the_merged_model(name, saved, train):
    start = saved(name)
    given = {"model_name_or_path": start, "lora_rank": 2, "save_strategy": "no"}
    merged, processor = load_model(train(stage1, "merged", **given))
    adapted, with_adapter = load_model(train(stage1, "adapter", **given, lora_output="adapter"))
    expected = embed_texts(merged, processor, CAPTIONS)
    assert torch.allclose(embed_texts(adapted, with_adapter, CAPTIONS), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(embed_texts(*load_model(start), CAPTIONS), expected, rtol=0, atol=1e-5)
    # Its tokenizer canonicalizes as the model's own does.
    assert with_adapter.tokenizer(CAPTIONS[0])["input_ids"] == processor.tokenizer(CAPTIONS[0])["input_ids"]


@pytest.mark.slow
def test_a_siglip_learns_from_ready_image_vectors(saved, train, miniature, tmp_path):
    start = saved("siglip")
    rows = load_dataset(str(miniature / "dataset"), split="validation").select(range(16))
    vectors = embed_images(*load_model(start), rows["image"]).tolist()
    folder = tmp_path / "vectors"
    folder.mkdir()
    rows.remove_columns("image").add_column("vector", vectors).to_parquet(folder / "train.parquet")
    given = {"model_name_or_path": start, "loss": "sigmoid", "dataset": str(folder)}
    trained = train(stage2, "second", **given, image_embeds_column="vector")
    check_outcome("siglip", trained, start)


@pytest.mark.slow
def test_naflex_learns_from_live_images_as_from_its_cache(saved, train):
    start = saved("naflex")
    given = {"model_name_or_path": start, "loss": "sigmoid", "optim": "sgd", "learning_rate": 0.1}
    weights = []
    for name, cached in (("cached", True), ("live", False)):
        folder = train(stage2, name, **given, cache_image_embeds=cached)
        weights.append(load_file(f"{folder}/model.safetensors"))
    before = load_file(f"{start}/model.safetensors")
    moved = [name for name, value in weights[0].items() if not torch.equal(value, before[name])]
    assert len(moved) > 10
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4, msg=name)
