"""The sigmoid loss: models with a bias, their scores, and their training by every switch."""

import json
import math
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    ViTConfig,
    ZeroShotImageClassificationPipeline,
)

from common.errors import InputError
from common.models.loading import load_model, save_model
from modeling_altclip import (
    AltCLIPDualEncoderConfig,
    AltCLIPDualEncoderModel,
    AltCLIPModel,
    AltCLIPProcessor,
    embed_texts,
)
from modeling_altclip.pipeline_altclip import AltCLIPZeroShotPipeline
from training.arguments import ContrastiveArguments, TeacherArguments
from training.data.examples import Collator
from training.freezing import freeze_all_but
from training.lifecycle import collator_of
from training.logit_bias import check_loss, fit_to_loss, logit_bias_of
from training.losses import sigmoid_loss
from training.parallel.trainer import ParallelArguments, ParallelTrainer
from training.sharding import set_scalars_apart
from training.trainers import ContrastiveTrainer

from .conftest import ROOT

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGE = {"image_size": 16, "patch_size": 8}
LABELS = ["a key", "dog", "umbrella and bell"]


def build_dual(bias=None, dropout=0.0):
    torch.manual_seed(0)
    text = BertConfig(
        vocab_size=60,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **SMALL,
    )
    config = AltCLIPDualEncoderConfig(
        text_config=text,
        vision_config=ViTConfig(**IMAGE, **SMALL),
        projection_dim=8,
        logit_bias_init_value=bias,
    )
    return AltCLIPDualEncoderModel(config)


def build_siglip():
    torch.manual_seed(0)
    text = SMALL | {"vocab_size": 60, "max_position_embeddings": 64}
    siglip = SiglipModel(SiglipConfig(text_config=text, vision_config=SMALL | IMAGE))
    siglip.logit_scale.data.fill_(math.log(20))
    siglip.logit_bias.data.fill_(-3.0)
    return siglip.eval()


def dual_like(siglip):
    """Build a dual encoder that computes what a SigLIP does."""
    config = AltCLIPDualEncoderConfig(
        text_config=BertConfig(vocab_size=60, max_position_embeddings=64, **SMALL),
        vision_config=SiglipVisionConfig(**SMALL, **IMAGE),
        text_pooling="pooler",
        vision_pooling="pooler",
        projection_dim=SMALL["hidden_size"],
        logit_bias_init_value=siglip.logit_bias.item(),
    )
    model = AltCLIPDualEncoderModel(config)
    # `AutoModel` builds no text tower of SigLIP.
    model.text_model.encoder = siglip.text_model
    model.vision_model.encoder.load_state_dict(siglip.vision_model.state_dict())
    # SigLIP has no projections.
    for projection in (model.text_projection, model.visual_projection):
        nn.init.eye_(projection.weight)
    model.logit_scale.data.copy_(siglip.logit_scale.squeeze())
    return model.eval()


def build_tokenizer(makes_mask=False):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += ["##" + letter for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    names = ["input_ids", "attention_mask"] if makes_mask else ["input_ids"]  # SigLIP's make none
    return BertTokenizer(vocab=vocab, model_max_length=64, model_input_names=names)


def image_processor():
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def batch_of(n_texts=8, n_images=8):
    """Draw texts and images; images 1 and 4 show the same thing."""
    generator = torch.Generator().manual_seed(1)
    row_ids = torch.arange(n_images)
    row_ids[4] = 1
    return {
        "input_ids": torch.randint(5, 60, (n_texts, 6), generator=generator),
        "attention_mask": torch.ones(n_texts, 6, dtype=torch.long),
        "text_rows": torch.arange(n_texts),
        "row_ids": row_ids,
        "pixel_values": torch.randn(n_images, 3, 16, 16, generator=generator),
    }


# Models


def test_a_bias_is_added_and_trained_by_the_loss_of_siglip():
    """Logits, loss and gradients are those of transformers' SigLIP with the same weights."""
    siglip = build_siglip()
    model = dual_like(siglip)
    batch = batch_of()
    inputs = {"input_ids": batch["input_ids"], "pixel_values": batch["pixel_values"], "return_loss": True}
    expected = siglip(**inputs)
    found = model(**inputs)
    torch.testing.assert_close(found.logits_per_image, expected.logits_per_image, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.logits_per_text, found.logits_per_image.T)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)

    names = ("logit_scale", "logit_bias")
    of_siglip = torch.autograd.grad(expected.loss, [getattr(siglip, name) for name in names])
    of_model = torch.autograd.grad(found.loss, [getattr(model, name) for name in names])
    for ours, theirs in zip(of_model, of_siglip):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
        assert ours.abs() > 1e-3


def test_the_models_loss_is_the_trainers():
    model = build_dual(bias=-2.0)
    batch = batch_of()
    output = model(batch["input_ids"], batch["pixel_values"], return_loss=True)
    scale = model.logit_scale.exp()
    expected = sigmoid_loss(output.image_embeds, output.text_embeds, scale, model.logit_bias)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_without_a_bias_nothing_is_named(tmp_path):
    """Files and parameters of a model of the contrastive loss name none."""
    model = build_dual()
    assert model.logit_bias is None
    assert "logit_bias" not in dict(model.named_parameters())
    model.save_pretrained(tmp_path)
    assert "logit_bias" not in (tmp_path / "config.json").read_text("utf-8")
    assert "logit_bias" not in load_file(tmp_path / "model.safetensors")
    assert AltCLIPDualEncoderModel.from_pretrained(tmp_path).logit_bias is None


def test_a_bias_is_saved_and_loaded(tmp_path):
    model = build_dual(bias=-10.0)
    assert model.logit_bias.shape == ()
    model.logit_bias.data.fill_(-7.5)  # as a training leaves it
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["logit_bias_init_value"] == -10.0
    loaded = AltCLIPDualEncoderModel.from_pretrained(tmp_path)
    assert loaded.logit_bias.item() == -7.5

    # Built anew, it begins where its configuration says.
    assert AltCLIPDualEncoderModel(loaded.config).logit_bias.item() == -10.0


def test_a_checkpoint_without_its_bias_is_refused(tmp_path):
    build_dual(bias=-10.0).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["logit_bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="logit_bias"):
        AltCLIPDualEncoderModel.from_pretrained(tmp_path, verify_weights=False)


def test_a_bias_can_be_given_and_taken_away(tmp_path):
    model = build_dual()
    model.set_logit_bias(-4.0)
    model.save_pretrained(tmp_path)
    loaded = AltCLIPDualEncoderModel.from_pretrained(tmp_path)
    assert loaded.logit_bias.item() == -4.0
    loaded.set_logit_bias(None)
    loaded.save_pretrained(tmp_path)
    assert AltCLIPDualEncoderModel.from_pretrained(tmp_path).logit_bias is None


@pytest.mark.parametrize("bias", [math.nan, math.inf])
def test_a_bias_that_is_no_number_is_refused(bias):
    with pytest.raises(ValueError, match=f"logit_bias_init_value is {bias}: give a number, such as -10"):
        build_dual(bias=bias)


# Scores


def test_the_pipeline_scores_as_transformers_does_for_siglip():
    siglip = build_siglip()
    parts = {"tokenizer": build_tokenizer(), "image_processor": image_processor()}
    padding = {"padding": "max_length", "max_length": 64, "truncation": True}
    images = [Image.new("RGB", (16, 16), color) for color in ("red", "navy")]
    classify = AltCLIPZeroShotPipeline(model=dual_like(siglip), **parts)
    stock = AltCLIPZeroShotPipeline(model=siglip, **parts)
    assert type(stock) is ZeroShotImageClassificationPipeline  # a SigLIP itself gets transformers' own
    found = classify(images, LABELS, tokenizer_kwargs=padding)
    expected = stock(images, candidate_labels=LABELS)
    for ours, theirs in zip(found, expected, strict=True):
        scores = {score["label"]: score["score"] for score in ours}
        assert scores == pytest.approx({score["label"]: score["score"] for score in theirs}, abs=1e-6)
        assert [score["label"] for score in ours] == [score["label"] for score in theirs]
        assert sum(scores.values()) != pytest.approx(1, abs=1e-3)  # no softmax
        assert len({round(score, 4) for score in scores.values()}) == len(LABELS)


def test_scores_of_one_label_and_of_no_bias():
    model = build_dual(bias=-1.0).eval()
    parts = {"tokenizer": build_tokenizer(makes_mask=True), "image_processor": image_processor()}
    image = Image.new("RGB", (16, 16), "red")
    classify = AltCLIPZeroShotPipeline(model=model, **parts)
    (alone,) = classify(image, ["dog"])
    together = {score["label"]: score["score"] for score in classify(image, LABELS)}
    assert alone["score"] == pytest.approx(together["dog"], abs=1e-6)
    assert 0 < alone["score"] < 1

    model.set_logit_bias(None)
    assert classify(image, ["dog"])[0]["score"] == 1  # a softmax of one


# Which model suits which loss


def test_a_dual_encoder_gets_a_bias_and_keeps_it():
    model = build_dual()
    assert fit_to_loss(model, "contrastive") is None
    assert logit_bias_of(model) is None
    message = fit_to_loss(model, "sigmoid")
    assert message == (
        "The model has no bias: for the sigmoid loss it gets one of -10, and its scale begins at 10."
    )
    assert model.logit_bias.item() == -10
    assert model.logit_scale.exp().item() == pytest.approx(10)

    model.logit_bias.data.fill_(-8.0)
    model.logit_scale.data.fill_(3.0)
    assert fit_to_loss(model, "sigmoid") is None
    assert (model.logit_bias.item(), model.logit_scale.item()) == (-8.0, 3.0)


def test_models_that_do_not_suit_a_loss_are_refused(config):
    clip = CLIPModel(CLIPConfig(text_config=SMALL, vision_config=SMALL | IMAGE))
    for model, model_type in ((clip, "clip"), (AltCLIPModel(config), "altclip")):
        with pytest.raises(InputError, match=f"loss is sigmoid, and a model of the type '{model_type}' with"):
            fit_to_loss(model, "sigmoid")
        assert fit_to_loss(model, "contrastive") is None
    for model, model_type in ((build_siglip(), "siglip"), (build_dual(-1.0), "altclip_dual_encoder")):
        with pytest.raises(InputError, match=f"loss is contrastive, and the '{model_type}' has a logit_bias"):
            fit_to_loss(model, "contrastive")
        check_loss(model, "sigmoid")
    with pytest.raises(InputError, match="give a dual encoder"):
        check_loss(build_dual(), "sigmoid")  # a trainer changes no model


def test_losses_are_named(tmp_path):
    given = {"model_name_or_path": "", "dataset": "", "output_dir": str(tmp_path), "use_cpu": True}
    with pytest.raises(InputError, match="loss is 'softmax': choose contrastive or sigmoid"):
        TeacherArguments(**given, loss="softmax")
    plain = ContrastiveArguments(**given)
    assert plain.trainable == ["text_model", "text_projection", "logit_scale"]
    sigmoid = ContrastiveArguments(**given, loss="sigmoid")
    assert sigmoid.trainable == ["text_model", "text_projection", "logit_scale", "logit_bias"]
    named = ContrastiveArguments(**given, loss="sigmoid", trainable=["text_projection"])
    assert named.trainable == ["text_projection"]

    encoders = {"image_encoder_name_or_path": "", "text_encoder_name_or_path": ""}
    del given["model_name_or_path"]
    with pytest.raises(InputError, match="loss is sigmoid and setting is released"):
        ParallelArguments(**given, **encoders, loss="sigmoid", setting="released")


# Training


def trainer_of(model, tmp_path, trainer_class=ContrastiveTrainer, **given):
    required = {"output_dir": str(tmp_path), "dataset": "", "use_cpu": True, "disable_tqdm": True}
    arguments_class = ContrastiveArguments
    if trainer_class is ParallelTrainer:
        arguments_class = ParallelArguments
        required |= {"image_encoder_name_or_path": "", "text_encoder_name_or_path": ""}
    else:
        required["model_name_or_path"] = ""
    arguments = arguments_class(**required, loss="sigmoid", **given)
    trainer = trainer_class(model=model, args=arguments)
    trainer.model_wrapped = model
    return trainer


def step(trainer, batch, seed=0):
    """Return the loss of a batch and the gradient of every parameter that learns."""
    model = trainer.model
    model.zero_grad()
    model.train()
    torch.manual_seed(seed)
    loss = trainer.compute_loss(model, dict(batch))
    loss.backward()
    learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return loss.detach(), {name: value.grad for name, value in learning.items()}


SWITCHES = [
    {"tile_size": 3},
    {"gradient_cache_chunk": 3},  # 8 texts: the last chunk is smaller
    {"tile_size": 3, "gradient_cache_chunk": 3},
]


@pytest.mark.parametrize("kind", ["siglip", "dual", "frozen images", "cached images"])
def test_switches_leave_loss_and_gradients_as_they_are(tmp_path, kind):
    model = build_siglip() if kind == "siglip" else build_dual(bias=-2.0)
    batch = batch_of()
    if kind == "cached images":
        batch["image_embeds"] = nn.functional.normalize(torch.randn(8, 8), dim=-1)
        del batch["pixel_values"]
    if kind.endswith("images"):
        freeze_all_but(model, ["text_model", "text_projection", "logit_scale", "logit_bias"])
    value, gradients = step(trainer_of(model, tmp_path), batch)
    assert gradients["logit_bias"].abs() > 0.01
    assert gradients["logit_scale"].abs() > 0.01

    # The loss by hand: images 1 and 4 show the same, so that each has two right texts.
    if kind == "siglip":
        with torch.no_grad():
            output = model(batch["input_ids"], batch["pixel_values"])
        labels = (batch["row_ids"][:, None] == batch["row_ids"]).float()
        assert labels.sum() == 10
        logits = output.logits_per_text
        of_pairs = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        assert value.item() == pytest.approx(of_pairs.item() / 8, rel=1e-5)

    for switches in SWITCHES:
        other, others = step(trainer_of(model, tmp_path, **switches), batch)
        assert other.item() == pytest.approx(value.item(), rel=1e-5), switches
        torch.testing.assert_close(others, gradients, atol=2e-6, rtol=1e-4)


def test_tiles_with_dropout_and_chunks(tmp_path):
    """Chunks draw their dropout anew, so that tiles are compared with the same chunks."""
    model = build_dual(bias=-2.0, dropout=0.3)
    chunked = step(trainer_of(model, tmp_path, gradient_cache_chunk=3), batch_of())
    tiled = step(trainer_of(model, tmp_path, gradient_cache_chunk=3, tile_size=3), batch_of())
    other_draws = step(trainer_of(model, tmp_path, gradient_cache_chunk=3), batch_of(), seed=1)
    assert tiled[0].item() == pytest.approx(chunked[0].item(), rel=1e-5)
    torch.testing.assert_close(tiled[1], chunked[1], atol=1e-6, rtol=1e-4)
    assert abs(other_draws[0] - chunked[0]) > 1e-4


def test_parallel_captions_learn_by_the_sigmoid_loss(tmp_path):
    """Two captions an image: each is right with its own image, and with one that shows the same."""
    model = build_dual(bias=-2.0)
    batch = batch_of(n_texts=16)
    batch |= {"text_to_image": torch.arange(8).repeat_interleave(2), "languages": torch.arange(16) % 2}
    given = {"freeze_epochs": 0}
    value, gradients = step(trainer_of(model, tmp_path, ParallelTrainer, **given), batch)
    output = model.eval()(batch["input_ids"], batch["pixel_values"])
    expected = sigmoid_loss(
        output.image_embeds,
        output.text_embeds,
        model.logit_scale.exp(),
        model.logit_bias,
        text_to_image=batch["text_to_image"],
        image_ids=batch["row_ids"],
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    for switches in SWITCHES:
        other, others = step(trainer_of(model, tmp_path, ParallelTrainer, **given, **switches), batch)
        assert other.item() == pytest.approx(value.item(), rel=1e-5)
        torch.testing.assert_close(others, gradients, atol=1e-6, rtol=1e-4)


def test_the_bias_is_no_matrix_has_no_bound_and_is_logged(tmp_path):
    model = build_siglip()
    model.logit_scale.data.fill_(math.log(112.33))  # that of a released SigLIP, above CLIP's bound
    trainer = trainer_of(model, tmp_path)
    trainer.bound_scale()
    assert model.logit_scale.exp().item() == pytest.approx(112.33)
    decayed = trainer.get_decay_parameter_names(model)
    assert not {"logit_scale", "logit_bias"} & set(decayed)
    step(trainer, batch_of())
    logged = trainer.watch.report(0.0)
    assert logged["logit_scale"] == pytest.approx(112.33, abs=1e-3)
    assert logged["logit_bias"] == -3.0


def test_only_the_bias_may_learn(tmp_path):
    model = build_dual(bias=-2.0)
    freeze_all_but(model, ["logit_bias"])
    _, gradients = step(trainer_of(model, tmp_path), batch_of())
    assert list(gradients) == ["logit_bias"]


def test_a_trainer_refuses_a_model_of_the_other_loss(tmp_path):
    with pytest.raises(InputError, match="loss is sigmoid, and a model of the type"):
        trainer_of(build_dual(), tmp_path)


def test_scalars_of_siglip_are_set_apart():
    """Its scale and bias are `(1,)`, and no more sharded than CLIP's `()`."""
    siglip = build_siglip()
    optimizer = torch.optim.AdamW(siglip.parameters())
    set_scalars_apart(optimizer)
    assert [value.numel() for value in optimizer.param_groups[1]["params"]] == [1, 1]
    assert all(value.numel() > 1 for value in optimizer.param_groups[0]["params"])


def test_siglip_reads_padding():
    """Texts of all batches are padded to one length, and no token is masked."""
    texts = ["dog", "umbrella and bell"]
    encoded = Collator(build_tokenizer(), 12, padding="max_length").encode(texts)
    assert encoded["input_ids"].shape == (2, 12)
    assert encoded["attention_mask"].min() == 1
    assert (encoded["input_ids"] == 0).any()
    plain = Collator(build_tokenizer(), 12).encode(["dog"])
    assert plain["input_ids"].shape == plain["attention_mask"].shape == (1, 5)


def test_the_miniatures_siglip_reads_in_training_as_in_evaluation(miniature):
    model, processor = load_model(str(miniature / "siglip"))
    assert model.logit_scale.exp().item() == pytest.approx(10)
    # Its batches are of 256 pairs of an image, one of which is right.
    assert model.logit_bias.item() == pytest.approx(-math.log(255))
    arguments = TeacherArguments(
        model_name_or_path="", dataset="", output_dir=str(miniature), loss="sigmoid", use_cpu=True
    )
    texts = ["key", "dog face and umbrella"]
    inputs = collator_of(arguments, model, processor).encode(texts)
    assert inputs["input_ids"].shape == (2, 20)
    rows = inputs.pop("text_rows")
    with torch.no_grad():
        embeds = model.eval().get_text_features(**inputs).pooler_output[rows]
    expected = embed_texts(model, processor, texts, normalize_embeddings=False)
    torch.testing.assert_close(embeds, expected, atol=1e-6, rtol=1e-5)

    arguments.max_text_length = 16
    with pytest.raises(InputError, match="max_text_length is 16, and the model was made for texts .* to 20"):
        collator_of(arguments, model, processor)


def test_siglip_learns_to_tell_images_apart(tmp_path):
    """The loss falls below the least that equal embeddings of all texts and images can have."""
    model = build_siglip()
    trainer = trainer_of(model, tmp_path)
    batch = batch_of()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(40):
        loss, _ = step(trainer, batch)
        optimizer.step()

    # Of 64 pairs 10 are right, and each gets the same probability.
    share = torch.tensor(10 / 64)
    entropy = -(share * share.log() + (1 - share) * (1 - share).log())
    assert loss < 8 * entropy / 3
    output = model(batch["input_ids"], batch["pixel_values"])
    nearest = output.logits_per_text.argmax(1)
    assert (batch["row_ids"][nearest] == batch["row_ids"]).all()


# Whole trainings, by their scripts


@pytest.fixture
def command_of(miniature, tmp_path):
    """Return a function that gives the command of four steps of a stage with the sigmoid loss."""
    encoder = tmp_path / "encoder"
    shutil.copytree(miniature / "text_encoder", encoder)
    config = json.loads((encoder / "config.json").read_text("utf-8"))
    # Two processes would draw other numbers than one.
    without_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (encoder / "config.json").write_text(json.dumps(config | without_dropout), "utf-8")

    images = str(miniature / "clip")
    torch.manual_seed(0)
    dual = AltCLIPDualEncoderModel.from_towers(images, str(encoder), projection_dim=16)
    image_processor = AutoProcessor.from_pretrained(images).image_processor
    processor = AltCLIPProcessor(image_processor, AutoTokenizer.from_pretrained(encoder))
    save_model(dual, processor, tmp_path / "dual")

    two_encoders = ["--image_encoder_name_or_path", images, "--text_encoder_name_or_path", encoder]
    start = {
        "stage0": ["--model_name_or_path", miniature / "siglip"],
        "stage2": ["--model_name_or_path", tmp_path / "dual"],
        "parallel": [*two_encoders, "--projection_dim", "16", "--freeze_epochs", "0"],
    }

    def command_of(stage, output_dir, *flags):
        command = [ROOT / f"training/run_{stage}.py", *start[stage], "--loss", "sigmoid"]
        command += ["--dataset", miniature / "dataset", "--output_dir", output_dir]
        command += ["--max_steps", "4", "--use_cpu", "true", "--dataloader_pin_memory", "false", *flags]
        if stage != "stage0":
            command += ["--languages", "en", "zh"]
        return command

    return command_of


SGD = ["--optim", "sgd", "--learning_rate", "0.1", "--lr_scheduler_type", "constant", "--save_strategy", "no"]
# Neither divides the batch of 8 of each process, so that the last tile and the last chunk are smaller.
SMALLER = ["--tile_size", "5", "--gradient_cache_chunk", "3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage,under_fsdp2",
    [("stage0", False), ("stage0", True), ("stage2", False), ("parallel", False)],
    ids=["stage0", "stage0 under FSDP2", "stage2", "parallel"],
)
def test_two_processes_train_like_one(command_of, run_python, run_under_fsdp2, tmp_path, stage, under_fsdp2):
    """One process has the whole batch and no switch, two have halves of it, in tiles and chunks."""
    one = tmp_path / "one"
    two = tmp_path / "two"
    plain = command_of(stage, one, *SGD, "--per_device_train_batch_size", "16")
    halves = command_of(stage, two, *SGD, "--per_device_train_batch_size", "8", *SMALLER)
    process = run_python("python", *plain, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr[-4000:]
    if under_fsdp2:
        process = run_under_fsdp2(*halves)
    else:
        process = run_python("python", *halves, processes=2, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr[-4000:]

    weights = load_file(one / "model.safetensors")
    began = -math.log(255) if stage == "stage0" else -10  # the miniature's own, and what fit_to_loss gives
    assert weights["logit_bias"].item() != pytest.approx(began, abs=1e-6)
    assert weights["logit_bias"].item() == pytest.approx(began, abs=1)
    of_two = load_file(two / "model.safetensors")
    for name, value in weights.items():
        torch.testing.assert_close(
            of_two[name], value, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    model, _ = load_model(str(two))
    assert logit_bias_of(model).item() == of_two["logit_bias"].item()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage0", "stage2"])
def test_a_resumed_run_is_the_uninterrupted_one(command_of, run_python, tmp_path, stage):
    flags = ["--per_device_train_batch_size", "8", "--save_steps", "2", "--learning_rate", "1e-3"]
    whole = tmp_path / "whole"
    process = run_python("python", *command_of(stage, whole, *flags))
    assert process.returncode == 0, process.stderr[-4000:]
    gets_one = "The model has no bias: for the sigmoid loss it gets one of -10"
    assert (gets_one in process.stdout) == (stage == "stage2")

    resumed = tmp_path / "resumed"
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    process = run_python("python", *command_of(stage, resumed, *flags, "--resume"))
    assert process.returncode == 0, process.stderr[-4000:]
    weights = (whole / "model.safetensors").read_bytes()
    assert (resumed / "model.safetensors").read_bytes() == weights
    in_the_midst = load_file(whole / "checkpoint-2/model.safetensors")["logit_bias"].item()
    assert in_the_midst not in (-10, load_file(whole / "model.safetensors")["logit_bias"].item())


@pytest.mark.slow
def test_the_recipe_and_a_dry_run(miniature, run_python, tmp_path):
    recipe = ROOT / "training/recipes/sigmoid_miniature/stage0.yaml"
    command = [ROOT / "training/run_stage0.py", recipe, "--model_name_or_path", miniature / "siglip"]
    command += ["--dataset", miniature / "dataset", "--output_dir", tmp_path / "out"]
    process = run_python("python", *command, "--dry_run")
    assert process.returncode == 0, process.stderr
    assert "Dry run: nothing was trained" in process.stdout
    process = run_python("python", *command, "--loss", "contrastive")
    assert process.returncode != 0
    assert "loss is contrastive, and the 'siglip' has a logit_bias" in process.stderr
    process = run_python("python", *command, "--model_name_or_path", miniature / "clip")
    assert process.returncode != 0
    assert "loss is sigmoid, and a model of the type 'clip' without a logit_bias" in process.stderr
    assert not (tmp_path / "out/model.safetensors").exists()


@pytest.mark.slow
def test_the_code_in_the_folder_has_the_bias(tmp_path, run_python):
    build_dual(bias=-10.0).save_pretrained(tmp_path / "model")
    code = "import sys; from transformers import AutoModel; "
    code += "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True); "
    code += "print(model.logit_bias.item())"
    apart = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    process = run_python("python", "-c", code, tmp_path / "model", cwd=tmp_path, **apart)
    assert process.stdout.strip() == "-10.0", process.stderr
