"""Losses of truncated embeddings: equal to their formula in every mode of the trainer, and recorded."""

import json
import re

import pytest
import torch
import transformers
from datasets import load_dataset
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize
from transformers import AutoProcessor, AutoTokenizer, SiglipConfig

from common.errors import InputError
from modeling_altclip import AltCLIPConfig, AltCLIPDualEncoderConfig, AltCLIPModel
from modeling_altclip.truncation_altclip import trained_dims
from training.arguments import ContrastiveArguments
from training.data.examples import CaptionExamples, Collator
from training.data.images import ImageViews
from training.data.tower_cache import image_embeddings
from training.freezing import freeze_all_but
from training.gradient_cache import cached_loss
from training.held_texts import HeldTexts
from training.losses import contrastive_loss, sigmoid_loss
from training.matryoshka import check_matryoshka, check_widest, matryoshka, record_dims
from training.parallel.trainer import ParallelArguments
from training.trainers import ContrastiveTrainer

TRAINABLE = ["text_model", "text_projection", "logit_scale"]
DIMS = [128, 48, 16]
WEIGHTS = [1.0, 0.5, 2.0]


def draw(rows, dim, seed):
    """Draw leaves, which are embeddings once they are normalised."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=generator, dtype=torch.float64, requires_grad=True)


def unit(rows, dim, seed):
    return normalize(draw(rows, dim, seed), dim=-1)


def labels_of(relations, n_texts, n_images):
    """Return which text describes which image, `(texts, images)`."""
    owners = relations.get("text_to_image", torch.arange(n_texts))
    ids = relations.get("image_ids", torch.arange(n_images))
    return (ids[owners][:, None] == ids).double()


def logits_of(images, texts, scale, dim):
    """Cosines of the first dimensions, written without a function of ours."""
    images = images[:, :dim]
    texts = texts[:, :dim]
    lengths = texts.norm(dim=1)[:, None] * images.norm(dim=1)
    return scale * (texts @ images.T) / lengths


def plain_contrast(logits, labels):
    by_text = cross_entropy(logits, labels / labels.sum(1, keepdim=True))
    by_image = cross_entropy(logits.T, labels.T / labels.T.sum(1, keepdim=True))
    return (by_text + by_image) / 2


# ---- The loss alone ----

SEVERAL = {"text_to_image": torch.tensor([0, 1, 2, 3, 4, 2, 0]), "image_ids": torch.tensor([5, 6, 7, 6, 9])}


@pytest.mark.parametrize("relations", [{}, SEVERAL], ids=["pairs", "several positives"])
@pytest.mark.parametrize("tile_size", [None, 2])
@pytest.mark.parametrize("in_chunks", [False, True], ids=["at once", "gradient cache"])
@pytest.mark.parametrize("name", ["contrastive", "sigmoid"])
def test_the_weighted_sum_of_the_formula(name, in_chunks, tile_size, relations):
    images = draw(5, 8, seed=1)
    texts = draw(7 if relations else 5, 8, seed=2)
    scale = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    leaves = [images, texts, scale, bias]
    labels = labels_of(relations, len(texts), len(images))

    expected = 0.0
    for dim, weight in ((8, 1.0), (5, 0.25), (2, 3.0)):
        logits = logits_of(images, texts, scale, dim)
        if name == "contrastive":
            expected = expected + weight * plain_contrast(logits, labels)
        else:
            of_pairs = binary_cross_entropy_with_logits(logits + bias, labels, reduction="sum")
            expected = expected + weight * of_pairs / len(texts)
    gradients = torch.autograd.grad(expected, leaves, allow_unused=True, materialize_grads=True)

    def contrast(image_embeds, text_embeds, logit_scale, logit_bias):
        if name == "contrastive":
            return contrastive_loss(image_embeds, text_embeds, logit_scale, tile_size=tile_size, **relations)
        return sigmoid_loss(
            image_embeds, text_embeds, logit_scale, logit_bias, tile_size=tile_size, **relations
        )

    def encode(sides):
        return tuple(normalize(side, dim=-1) for side in sides)

    loss = matryoshka(contrast, [8, 5, 2], [1.0, 0.25, 3.0])
    if in_chunks:
        # Three images or fewer, and as large a share of the texts, at a time.
        chunks = list(zip(images.tensor_split(2), texts.tensor_split(2)))
        value = cached_loss(encode, chunks, loss, [scale, bias])
    else:
        value = loss(*encode((images, texts)), scale, bias)
    value.backward()
    torch.testing.assert_close(value, expected)
    for leaf, gradient in zip(leaves, gradients):
        own = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        torch.testing.assert_close(own, gradient)
    assert gradients[0][:, 5:].abs().max() > 0


def test_the_full_width_alone_is_the_plain_loss_to_the_bit():
    images = unit(5, 8, seed=1)
    texts = unit(5, 8, seed=2)
    scale = torch.tensor(6.0, dtype=torch.float64)
    plain = contrastive_loss(images, texts, scale)
    assert torch.equal(matryoshka(contrastive_loss, [8])(images, texts, scale), plain)
    # The paper's weights are all 1.
    twice = matryoshka(contrastive_loss, [8, 8])(images, texts, scale)
    assert torch.equal(twice, 2 * plain)


def test_more_dimensions_than_there_are_end_the_loss():
    embeds = unit(5, 8, seed=1)
    with pytest.raises(ValueError, match="truncate_dim is 9, and the embeddings have 8 dimensions"):
        matryoshka(contrastive_loss, [9])(embeds, embeds, torch.tensor(1.0))


# ---- The trainer ----


@pytest.fixture
def altclip(miniature):
    torch.manual_seed(0)
    # Without dropout, so that all ways to take a step are equal.
    return AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"), dropout=0.0)


@pytest.fixture
def trainer_of(miniature, altclip, tmp_path):
    """Return a function that makes a trainer of stage 2 on scenes of which some are repeated."""
    scenes = load_dataset(str(miniature / "dataset"), split="train").select([0, 1, 2, 0, 3, 4, 1, 5])
    clip_processor = AutoProcessor.from_pretrained(miniature / "clip")
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")

    def trainer_of(*, cached=False, held=None, learning=(), **given):
        freeze_all_but(altclip, [*TRAINABLE, *learning])
        arguments = ContrastiveArguments(
            output_dir=str(tmp_path / "out"),
            model_name_or_path="",
            dataset="",
            use_cpu=True,
            disable_tqdm=True,
            per_device_train_batch_size=8,
            **{"max_steps": 1, "save_strategy": "no"} | given,
        )
        images = ImageViews(scenes, 1)
        column = "image"
        if cached:
            column = "image_embeds"
            images = image_embeddings(images, altclip, clip_processor, cache_dir=str(tmp_path / "cache"))
        return ContrastiveTrainer(
            model=altclip,
            args=arguments,
            train_dataset=CaptionExamples(scenes, ["en"], column, inputs=images),
            data_collator=Collator(tokenizer, 77, clip_processor.image_processor),
            held=held,
        )

    return trainer_of


def expected_loss(model, inputs):
    """Compute the loss of a batch with the model's own forward and the formula."""
    outputs = model(**{name: inputs[name] for name in ("input_ids", "attention_mask")})
    texts = outputs.text_embeds[inputs["text_rows"]]
    images = inputs.get("image_embeds")
    if images is None:
        images = normalize(model.get_image_features(inputs["pixel_values"]).pooler_output, dim=-1)
    labels = (inputs["row_ids"][:, None] == inputs["row_ids"]).float()
    loss = 0.0
    for dim, weight in zip(DIMS, WEIGHTS):
        logits = logits_of(images, texts, model.logit_scale.exp(), dim)
        loss = loss + weight * plain_contrast(logits, labels)
    return loss


def gradients_of(model):
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


# Each with the weight of the term of held texts. 3 does not divide the batch of 8.
MODES = [
    ({}, 0.0),
    ({"tile_size": 3}, 0.0),
    ({"gradient_cache_chunk": 3}, 0.0),
    ({"length_groups": 3}, 5.0),
    ({"tile_size": 3, "gradient_cache_chunk": 3}, 5.0),
]


@pytest.mark.parametrize("images", ["learning", pytest.param("frozen", marks=pytest.mark.slow), "cached"])
def test_every_mode_of_the_trainer_computes_it(altclip, trainer_of, images):
    """With and without held texts; scenes that occur twice are positives of one another."""
    learning = ["vision_model", "visual_projection"] if images == "learning" else []
    texts = [f"dog face and key {number}" for number in range(20)]
    before = normalize(torch.randn(20, 128, generator=torch.Generator().manual_seed(3)), dim=-1)
    held = HeldTexts(texts, before, seed=0)
    options = {"cached": images == "cached", "learning": learning, "matryoshka_dims": DIMS}
    for switches, hold in MODES:
        of_mode = held if hold else None
        trainer = trainer_of(held=of_mode, hold=hold, matryoshka_weights=WEIGHTS, **options, **switches)
        examples = trainer.train_dataset
        batch = trainer.data_collator([examples[number] for number in range(8)])
        altclip.zero_grad()
        expected = expected_loss(altclip.train(), batch)
        if hold:
            drawn, targets = held.draw(8, 0, 0)
            inputs = trainer.data_collator.encode(drawn)
            rows = inputs.pop("text_rows")
            now = altclip(**inputs).text_embeds[rows]
            expected = expected + hold * (1 - (now * targets).sum(dim=-1).mean())
        expected.backward()
        by_hand = {name: gradient.clone() for name, gradient in gradients_of(altclip).items()}

        altclip.zero_grad()
        loss = trainer.compute_loss(altclip, dict(batch))
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        found = gradients_of(altclip)
        assert found.keys() == by_hand.keys()
        assert ("visual_projection.weight" in found) == (images == "learning")
        for name, gradient in by_hand.items():
            error = (found[name] - gradient).norm()
            assert error <= 1e-4 * gradient.norm() + 1e-6, (name, switches)


def test_the_dimensions_are_recorded_where_plain_transformers_reads_them(altclip, trainer_of, tmp_path):
    trainer = trainer_of(cached=True, matryoshka_dims=[16, 128, 48])
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["matryoshka_dims"] == [128, 48, 16]
    assert config["model_type"] == "altclip"

    native = transformers.AltCLIPModel.from_pretrained(tmp_path / "saved")
    assert type(native).__module__.startswith("transformers.")
    assert native.config.matryoshka_dims == [128, 48, 16]
    for name, value in AltCLIPModel.from_pretrained(tmp_path / "saved").state_dict().items():
        torch.testing.assert_close(value, altclip.state_dict()[name], rtol=0, atol=0)

    # A model whose teacher was trained so can be truncated as its teacher can.
    clip = transformers.CLIPConfig(matryoshka_dims=[64, 8])
    student = AltCLIPConfig.from_teacher(clip, transformers.XLMRobertaConfig())
    assert trained_dims(student) == [64, 8]
    siglip = transformers.SiglipConfig(text_config={}, vision_config={}, matryoshka_dims=[64, 8])
    for teacher in (clip, siglip):
        student = AltCLIPDualEncoderConfig.from_teacher(
            teacher, transformers.BertConfig(), text_pooling="mean"
        )
        assert trained_dims(student) == [64, 8]


def test_a_training_without_them_takes_the_record_back(altclip, trainer_of):
    trainer_of(matryoshka_dims=DIMS)
    assert trained_dims(altclip.config) == DIMS
    with pytest.warns(UserWarning, match="^the model was trained for matryoshka_dims 128 48 16, and this"):
        trainer_of()
    assert "matryoshka_dims" not in altclip.config.to_dict()


@pytest.mark.parametrize(
    "dims,weights,message",
    [
        ([], None, "matryoshka_dims is []: give whole numbers from 1"),
        ([8, 0], None, "matryoshka_dims is [8, 0]: give whole numbers from 1"),
        ([8, True], None, "matryoshka_dims is [8, True]: give whole numbers from 1"),
        ([8, 4, 8], None, "matryoshka_dims is [8, 4, 8]: give each number of dimensions once"),
        ([8, 4], [1.0], "matryoshka_weights has 1 weights for 2 matryoshka_dims: give one for each"),
        (None, [1.0], "matryoshka_weights has 1 weights for 0 matryoshka_dims"),
        ([8, 4], [1.0, 0.0], "matryoshka_weights is [1.0, 0.0]: give positive numbers"),
        ([8, 4], [1.0, float("inf")], "matryoshka_weights is [1.0, inf]: give positive numbers"),
    ],
)
def test_bad_dimensions_and_weights_are_refused(dims, weights, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        check_matryoshka(dims, weights)


def test_dimensions_that_do_not_fit_the_model_are_refused(trainer_of, config):
    with pytest.raises(InputError, match="^matryoshka_dims names 24, and the model's embeddings have 20"):
        check_widest([24, 20, 8], config)
    # A SigLIP has no projection to take the width from.
    siglip = SiglipConfig(text_config={"projection_size": 20}, vision_config={"hidden_size": 20})
    check_widest([20, 8], siglip)
    with pytest.raises(InputError, match="^matryoshka_dims ends at 8, .* 20 dimensions"):
        check_widest([8], siglip)
    with pytest.raises(
        InputError, match="^matryoshka_dims ends at 16.* of which the last would not learn: add 20"
    ):
        record_dims(config, [16, 8])
    with pytest.raises(InputError, match="^matryoshka_dims names 256"):
        trainer_of(matryoshka_dims=[256, 128])
    with pytest.raises(InputError, match="^matryoshka_dims is .8, 4., which parallel training lacks"):
        ParallelArguments(
            image_encoder_name_or_path="",
            text_encoder_name_or_path="",
            dataset="",
            output_dir="out",
            use_cpu=True,
            matryoshka_dims=[8, 4],
        )
