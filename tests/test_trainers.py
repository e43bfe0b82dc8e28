"""Trainers: which weights move, and which options leave losses and gradients unchanged."""

from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import AutoProcessor, AutoTokenizer

from common.errors import InputError
from common.models.loading import load_model
from modeling_altclip import AltCLIPModel
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data.examples import CaptionExamples, Collator
from training.data.images import ImageViews
from training.data.tower_cache import image_embeddings, teacher_embeddings
from training.freezing import freeze_all_but
from training.trainers import MAX_LOGIT_SCALE, ContrastiveTrainer, TeacherLearningTrainer, by_length

TRAINABLE = ["text_model", "text_projection", "logit_scale"]
# Three steps of eight examples.
SHORT_RUN = {
    "max_steps": 3,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "save_strategy": "no",
    "disable_tqdm": True,
}


@pytest.fixture
def scenes(miniature):
    return load_dataset(str(miniature / "dataset"), split="train").select(range(64))


@pytest.fixture
def altclip(miniature):
    torch.manual_seed(0)
    return AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"), dropout=0.0)


@pytest.fixture
def arguments(tmp_path):
    def arguments(**given):
        required = {"output_dir": str(tmp_path), "model_name_or_path": "", "dataset": ""}
        return ContrastiveArguments(**required, **SHORT_RUN | given)

    return arguments


@pytest.fixture
def stage1(tmp_path):
    def stage1(**given):
        required = {
            "output_dir": str(tmp_path),
            "teacher_name_or_path": "",
            "text_encoder_name_or_path": "",
            "dataset": "",
        }
        return TeacherLearningArguments(**required, **SHORT_RUN | given)

    return stage1


@pytest.fixture
def tokenizer(miniature):
    return AutoTokenizer.from_pretrained(miniature / "text_encoder")


def contrastive(altclip, scenes, miniature, arguments, *, cached=False, trainer_class=ContrastiveTrainer):
    clip_processor = AutoProcessor.from_pretrained(miniature / "clip")
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    images = ImageViews(scenes, 1)
    if cached:
        embeddings = image_embeddings(images, altclip, clip_processor)
        examples = CaptionExamples(scenes, ["en", "zh"], "image_embeds", inputs=embeddings)
    else:
        examples = CaptionExamples(scenes, ["en", "zh"], "image", inputs=images)
    return trainer_class(
        model=altclip,
        args=arguments,
        train_dataset=examples,
        data_collator=Collator(tokenizer, 77, clip_processor.image_processor),
    )


def teacher_learning(altclip, arguments, examples, collator):
    freeze_all_but(altclip, ["text_model"])
    return TeacherLearningTrainer(
        model=altclip, args=arguments, train_dataset=examples, data_collator=collator
    )


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, after):
    return {name for name, value in after.items() if not torch.equal(before[name], value)}


def logged_losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_frozen_tower_is_frozen_in_three_senses(altclip, scenes, miniature, arguments):
    modes = []
    altclip.vision_model.register_forward_hook(lambda module, *_: modes.append(module.training))
    freeze_all_but(altclip, TRAINABLE)
    assert not any(parameter.requires_grad for parameter in altclip.vision_model.parameters())
    before = snapshot(altclip)
    contrastive(altclip, scenes, miniature, arguments()).train()
    # A forward at each of three steps, in eval mode.
    assert modes == [False] * 3
    assert altclip.text_model.training
    moved = changed(before, snapshot(altclip))
    assert moved
    assert all(name.startswith(tuple(TRAINABLE)) for name in moved)
    assert "logit_scale" in moved
    assert any(name.startswith("text_model.roberta.embeddings") for name in moved)


def test_cached_image_vectors_train_like_the_live_tower(altclip, scenes, miniature, arguments):
    # SGD, since Adam divides an almost zero gradient by its own size: a rounding error becomes a step.
    args = arguments(logging_steps=1, optim="sgd", learning_rate=0.1)
    start = snapshot(altclip)
    weights = {}
    losses = {}
    for images in ("live", "cached"):
        altclip.load_state_dict(start)
        freeze_all_but(altclip, TRAINABLE)
        trainer = contrastive(altclip, scenes, miniature, args, cached=images == "cached")
        trainer.train()
        weights[images] = snapshot(altclip)
        losses[images] = logged_losses(trainer)

    assert len(losses["cached"]) == 3
    assert losses["cached"] == pytest.approx(losses["live"], abs=1e-5)
    # Weights that never moved would be equal as well.
    for images in ("live", "cached"):
        moved = changed(start, weights[images])
        assert "logit_scale" in moved
        assert "text_projection.weight" in moved
        assert len(moved) > 20
    for name, value in weights["cached"].items():
        torch.testing.assert_close(value, weights["live"][name], atol=1e-4, rtol=1e-4)


SWITCHES = {
    "tiled": {"tile_size": 3},
    "gradient cache": {"gradient_cache_chunk": 3},
    "all together": {"tile_size": 3, "gradient_cache_chunk": 3},
    "more chunks than texts": {"gradient_cache_chunk": 1},
}


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("images", ["learning", "frozen", "cached"])
def test_switches_train_the_same(altclip, scenes, miniature, arguments, switch, images):
    # Eight examples in chunks of three: the last chunk is smaller. Repeated scenes give repeated captions.
    scenes = scenes.select([*range(20), *range(20), *range(24)])
    given = {"optim": "sgd", "learning_rate": 0.1, "logging_steps": 1, "gradient_accumulation_steps": 2}
    trainable = [*TRAINABLE]
    if images == "learning":
        trainable += ["vision_model", "visual_projection"]
    start = snapshot(altclip)
    weights = []
    losses = []
    for switches in ({}, SWITCHES[switch]):
        altclip.load_state_dict(start)
        freeze_all_but(altclip, trainable)
        args = arguments(**given, **switches)
        trainer = contrastive(altclip, scenes, miniature, args, cached=images == "cached")
        trainer.train()
        weights.append(snapshot(altclip))
        losses.append(logged_losses(trainer))

    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(losses[0]) == 3
    moved = changed(start, weights[0])
    assert "logit_scale" in moved
    image_tower_moved = any(name.startswith("vision_model") for name in moved)
    assert image_tower_moved == (images == "learning")
    torch.testing.assert_close(weights[1], weights[0], atol=1e-5, rtol=1e-4)


def test_a_frozen_temperature_is_not_clamped(altclip, scenes, miniature, arguments):
    altclip.logit_scale.data.fill_(10.0)
    freeze_all_but(altclip, ["text_model"])
    contrastive(altclip, scenes, miniature, arguments()).train()
    assert altclip.logit_scale.item() == 10.0


@pytest.mark.parametrize("name", ["tile_size", "gradient_cache_chunk"])
def test_a_switch_of_zero_is_refused(arguments, name):
    with pytest.raises(InputError, match=f"{name} is 0: give a positive number"):
        arguments(**{name: 0})


def test_gradients_of_repeated_texts_are_the_same_every_time(altclip, tokenizer, stage1):
    # Four texts with 512 targets each, on two threads: sums in any order would differ in the last bits.
    targets = torch.randn(2048, 128, generator=torch.Generator().manual_seed(0))
    captions = [{"en": name} for name in ("key", "bell", "fire", "ghost")] * 512
    rows = Dataset.from_dict({"captions": captions, "target": targets.numpy()})
    examples = CaptionExamples(rows, ["en"], "target")
    collator = Collator(tokenizer, 77)
    trainer = teacher_learning(altclip, stage1(), examples, collator)
    bias = altclip.text_model.transformation.bias

    gradients = set()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    for _ in range(5):
        altclip.zero_grad()
        batch = collator(examples.__getitems__(range(2048)))
        trainer.compute_loss(altclip, batch).backward()
        gradients.add(bias.grad.numpy().tobytes())
    torch.set_num_threads(threads)

    assert len(gradients) == 1
    assert bias.grad.abs().max() > 0


def test_encoding_by_length_changes_nothing(altclip, scenes, tokenizer):
    """Compare embeddings and gradients of one group with those of four groups."""
    examples = CaptionExamples(scenes.add_column("target", [[0.0]] * 64), ["en", "vi"], "target")
    batch = Collator(tokenizer, 77)(examples.__getitems__(range(23)))
    shapes = []

    def record_shape(module, args, inputs):
        shapes.append(inputs["input_ids"].shape)

    altclip.text_model.roberta.register_forward_pre_hook(record_shape, with_kwargs=True)
    results = {}
    for n_groups in (1, 4):
        altclip.zero_grad()
        groups, rows = by_length(batch, n_groups)
        embeddings = torch.cat([altclip(**group).text_embeds for group in groups])[rows]
        # A factor of its own for every element: a permutation of rows changes the gradient.
        factors = torch.arange(embeddings.numel()).view_as(embeddings).sin()
        (embeddings * factors).sum().backward()
        gradients = [parameter.grad for parameter in altclip.text_model.parameters()]
        results[n_groups] = [embeddings, *gradients]

    # One group, then four.
    assert len(shapes) == 5
    assert len({length for _, length in shapes}) > 2
    assert all(gradient.abs().max() > 0 for gradient in results[1][1:4])
    for plain, grouped in zip(results[1], results[4], strict=True):
        torch.testing.assert_close(grouped, plain, atol=1e-4, rtol=1e-4)


def test_accumulation_means_instead_of_summing(altclip, scenes, miniature, arguments):
    """Accumulate the same batch twice and compare with the loss and gradient of the batch alone."""
    freeze_all_but(altclip, TRAINABLE)
    scenes = scenes.select([0] * 8)
    start = snapshot(altclip)
    first_entries = {}
    for steps in (1, 2):
        altclip.load_state_dict(start)
        args = arguments(gradient_accumulation_steps=steps, max_steps=1, logging_steps=1)
        trainer = contrastive(altclip, scenes, miniature, args)
        # One example 16 times: each of two batches of eight is the same.
        trainer.train_dataset.places = trainer.train_dataset.places[:1].repeat(16, axis=0)
        trainer.train()
        first_entries[steps] = trainer.state.log_history[0]

    assert first_entries[1]["loss"] == pytest.approx(first_entries[2]["loss"], rel=1e-4)
    assert first_entries[1]["grad_norm"] == pytest.approx(first_entries[2]["grad_norm"], rel=1e-4)


def test_only_matrices_are_decayed(altclip, scenes, miniature, arguments):
    trainer = contrastive(altclip, scenes, miniature, arguments())
    decayed = trainer.get_decay_parameter_names(altclip)
    assert "text_projection.weight" in decayed
    for name in decayed:
        assert not name.endswith("bias")
        assert "logit_scale" not in name
        assert "class_embedding" not in name
        assert "norm" not in name.lower()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_logit_scale_is_bounded_in_every_forward_and_in_what_is_saved(
    altclip, scenes, miniature, arguments, tmp_path, accumulation
):
    altclip.logit_scale.data.fill_(10.0)  # above the bound
    scales = []

    class Rising(ContrastiveTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            scales.append(model.logit_scale.item())
            # The loss falls with the scale, which would therefore rise at every step.
            return super().compute_loss(model, inputs, **kwargs) * 0 - model.logit_scale

    args = arguments(
        gradient_accumulation_steps=accumulation, learning_rate=0.1, save_strategy="steps", save_steps=1
    )
    trainer = contrastive(altclip, scenes, miniature, args, trainer_class=Rising)
    trainer.train()
    trainer.save_model()
    folders = [Path(args.output_dir), *Path(args.output_dir).glob("checkpoint-*")]
    saved = [load_file(folder / "model.safetensors")["logit_scale"].item() for folder in folders]
    assert len(saved) > 2
    assert max(scales + saved) == pytest.approx(MAX_LOGIT_SCALE, abs=1e-6)


def test_unknown_trainable_part_is_refused(altclip):
    with pytest.raises(
        InputError, match="trainable names txt_model, which the model has not; its parts are text_model"
    ):
        freeze_all_but(altclip, ["txt_model"])
    # SigLIP's students have an identity there, which nothing could train.
    altclip.visual_projection = torch.nn.Identity()
    with pytest.raises(InputError, match="trainable names visual_projection, which has no weights in this"):
        freeze_all_but(altclip, ["text_model", "visual_projection"])


def test_parts_of_a_trained_tower_can_stay_frozen(altclip):
    freeze_all_but(altclip, ["text_model"], ["text_model.roberta.embeddings", "text_model.pre_LN.bias"])
    frozen = [name for name, weights in altclip.text_model.named_parameters() if not weights.requires_grad]
    assert {name.split(".")[1] for name in frozen} == {"embeddings", "bias"}
    assert altclip.text_model.pre_LN.weight.requires_grad
    assert not any(weights.requires_grad for weights in altclip.vision_model.parameters())

    # A name of half a module, one of nothing, and one of what is frozen anyway.
    for name in ("text_model.roberta.embed", "embeddings", "vision_model"):
        with pytest.raises(InputError, match=f"freeze names {name}, and no weights of that name are trained"):
            freeze_all_but(altclip, ["text_model"], [name])
    with pytest.raises(InputError, match="leaves nothing to train: give fewer"):
        freeze_all_but(altclip, ["text_model"], ["text_model"])


@pytest.mark.parametrize("objective", ["mse", "cosine", "contrastive"])
def test_teacher_learning_learns(altclip, scenes, miniature, tokenizer, stage1, objective):
    teacher, processor = load_model(str(miniature / "clip"))
    targets = teacher_embeddings(scenes, teacher, processor.tokenizer)
    examples = CaptionExamples(scenes, ["en", "zh"], "target", inputs=targets)
    before = snapshot(altclip)
    args = stage1(max_steps=40, logging_steps=5, per_device_train_batch_size=32, objective=objective)
    trainer = teacher_learning(altclip, args, examples, Collator(tokenizer, 77))
    trainer.train()
    losses = logged_losses(trainer)
    assert losses[-1] < 0.7 * losses[0]
    moved = changed(before, snapshot(altclip))
    assert moved
    assert all(name.startswith("text_model.") for name in moved)
    assert "text_model.transformation.bias" in moved
    assert "text_model.pre_LN.weight" in moved


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_vocabulary_learns_by_row_as_by_table(altclip, scenes, tokenizer, stage1, monkeypatch, accumulated):
    examples = CaptionExamples(scenes.add_column("target", [[0.5] * 128] * 64), ["en", "zh"], "target")
    args = stage1(length_groups=3, gradient_accumulation_steps=accumulated)
    words = "text_model.roberta.embeddings.word_embeddings"

    def learn() -> tuple[set[bool], dict]:
        """Return whether the vocabulary's gradients were sparse, and the trained weights."""
        model = deepcopy(altclip)
        table = model.get_submodule(words)
        seen = set()
        table.register_forward_hook(lambda module, *_: seen.add(module.sparse))
        teacher_learning(model, args, examples, Collator(tokenizer, 77)).train()
        assert not table.sparse
        return seen, snapshot(model)

    by_row, weights = learn()
    monkeypatch.setattr("training.trainers.base.gradients_by_row", lambda model: nullcontext())
    by_table, expected = learn()
    assert by_row == {True}
    assert by_table == {False}
    assert f"{words}.weight" in changed(snapshot(altclip), weights)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_texts_choose_their_targets_among_those_of_the_batch(altclip, miniature, tokenizer, stage1):
    """Two rows have one caption in English: neither is pushed away from the other's target.

    Their targets differ, as those of a replayed language do from the teacher's.
    """
    pairs = [("key", "钥匙"), ("apple", "苹果"), ("key", "鍵"), ("dog", "狗")]
    captions = [{"en": english, "zh": chinese} for english, chinese in pairs]
    targets = [[1.0, 0.0] * 64, [0.0, 1.0] * 64, [-1.0, 0.3] * 64, [1.0, 1.0] * 64]
    rows = Dataset.from_dict({"captions": captions, "target": targets})
    examples = CaptionExamples(rows, ["en", "zh"], "target")
    args = stage1(objective="contrastive", contrast_scale=10.0, per_device_train_batch_size=8)
    trainer = teacher_learning(altclip, args, examples, Collator(tokenizer, 77))
    batch = next(iter(trainer.get_train_dataloader()))
    found = trainer.compute_loss(altclip.eval(), dict(batch))

    outputs = altclip(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    texts = normalize(outputs.text_model_output.pooler_output[batch["text_rows"]], dim=-1)
    logits = 10 * texts @ normalize(batch["target"], dim=-1).T
    is_right = batch["row_ids"][:, None] == batch["row_ids"][None]
    assert is_right.sum(1).tolist().count(4) == 4  # two rows in two languages
    shares = is_right / is_right.sum(1)
    losses = [-(shares * each.log_softmax(1)).sum(1).mean() for each in (logits, logits.T)]
    torch.testing.assert_close(found, sum(losses) / 2, rtol=0, atol=1e-5)


def test_two_processes_contrast_as_one(train_by_one_and_two, start_flags):
    """The texts of one choose among the targets of both."""
    flags = [*start_flags["stage1"], "--objective", "contrastive"]
    one, two = train_by_one_and_two(*flags)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_group_by_length_spares_padding_and_leaves_nothing_out(altclip, scenes, tokenizer, stage1):
    examples = CaptionExamples(scenes.add_column("target", [[0.0] * 128] * 64), ["en", "zh", "th"], "target")
    padding = {}
    drawn = {}
    for strategy in ("random", "group_by_length"):
        args = stage1(train_sampling_strategy=strategy)
        trainer = teacher_learning(altclip, args, examples, Collator(tokenizer, 77))
        batches = list(trainer.get_train_dataloader())
        padding[strategy] = sum((batch["attention_mask"] == 0).sum().item() for batch in batches)
        row_ids = torch.cat([batch["row_ids"] for batch in batches])
        drawn[strategy] = sorted(row_ids.tolist())
    assert padding["group_by_length"] < padding["random"] / 2
    assert drawn["group_by_length"] == drawn["random"]
    assert len(drawn["random"]) == 64 * 3  # every caption of every language


def test_temperature_favours_small_languages(altclip, tokenizer, stage1):
    # 56 captions in English, 8 in Chinese: at a very high temperature both are drawn equally often.
    chinese = [f"钥匙 {number}" for number in range(8)] + [None] * 48
    captions = [{"en": f"key {number}", "zh": text} for number, text in enumerate(chinese)]
    rows = Dataset.from_dict({"captions": captions, "target": [[0.0] * 128] * 56})
    examples = CaptionExamples(rows, ["en", "zh"], "target")
    texts = []
    collator = Collator(tokenizer, 77)

    def collate(batch):
        texts.extend(example["text"] for example in batch)
        return collator(batch)

    args = stage1(max_steps=16, temperature=1e9)
    teacher_learning(altclip, args, examples, collate).train()
    # 64 captions an epoch, in eight batches
    epochs = texts[:64], texts[64:128]
    for epoch in epochs:
        assert sum(text.startswith("key") for text in epoch) == 32
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) != set(epochs[1])
