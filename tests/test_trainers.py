"""What is trained and what is not, and how the Trainer's habits are kept from bending a loss."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from safetensors.torch import load_file
from transformers import AutoProcessor, AutoTokenizer

from benchmarks.loading import load_model
from benchmarks.recipe import InputError
from modeling_altclip import AltCLIPModel
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data import CaptionCells, Collator
from training.freezing import freeze_all_but
from training.frozen import image_vectors, teacher_vectors
from training.trainers import MAX_LOGIT_SCALE, ContrastiveTrainer, TeacherLearningTrainer, by_length
from training.views import ImageViews

TRAINABLE = ["text_model", "text_projection", "logit_scale"]


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
        defaults = {
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "use_cpu": True,
            "save_strategy": "no",
        }
        return ContrastiveArguments(
            output_dir=str(tmp_path), model_name_or_path="", dataset="", disable_tqdm=True, **defaults | given
        )

    return arguments


@pytest.fixture
def stage1(tmp_path):
    def stage1(**given):
        defaults = {
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "use_cpu": True,
            "save_strategy": "no",
        }
        named = {
            "output_dir": str(tmp_path),
            "teacher_name_or_path": "",
            "text_encoder_name_or_path": "",
            "dataset": "",
        }
        return TeacherLearningArguments(**named, disable_tqdm=True, **defaults | given)

    return stage1


def contrastive(altclip, scenes, miniature, arguments, *, cached=False, trainer_class=ContrastiveTrainer):
    clip_processor = AutoProcessor.from_pretrained(miniature / "clip")
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    inputs = ImageViews(scenes, 1)
    inputs = image_vectors(inputs, altclip, clip_processor) if cached else inputs
    cells = CaptionCells(scenes, ["en", "zh"], "image_embeds" if cached else "image", inputs=inputs)
    return trainer_class(
        model=altclip,
        args=arguments,
        train_dataset=cells,
        data_collator=Collator(tokenizer, 77, clip_processor.image_processor),
    )


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, module):
    return {name for name, value in module.state_dict().items() if not torch.equal(before[name], value)}


def test_frozen_tower_is_frozen_in_three_senses(altclip, scenes, miniature, arguments):
    modes = []
    altclip.vision_model.register_forward_hook(lambda module, *_: modes.append(module.training))
    freeze_all_but(altclip, TRAINABLE)
    assert not any(parameter.requires_grad for parameter in altclip.vision_model.parameters())
    before = snapshot(altclip)
    contrastive(altclip, scenes, miniature, arguments()).train()
    assert modes == [False] * 3
    assert altclip.text_model.training
    moved = changed(before, altclip)
    assert moved
    assert all(name.startswith(tuple(TRAINABLE)) for name in moved)
    assert "logit_scale" in moved
    assert any(name.startswith("text_model.roberta.embeddings") for name in moved)


def test_cached_image_vectors_train_like_the_live_tower(altclip, scenes, miniature, arguments):
    """Plain SGD: Adam divides a gradient that is almost zero by its own size, and so makes a whole step of a rounding error."""
    weights, losses = {}, {}
    start = snapshot(altclip)
    for cached in (False, True):
        altclip.load_state_dict(start)
        freeze_all_but(altclip, TRAINABLE)
        trainer = contrastive(
            altclip,
            scenes,
            miniature,
            arguments(logging_steps=1, optim="sgd", learning_rate=0.1),
            cached=cached,
        )
        trainer.train()
        weights[cached], losses[cached] = (
            snapshot(altclip),
            [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        )
    assert losses[True] == pytest.approx(losses[False], abs=1e-5)
    assert len(losses[True]) == 3
    moved = {name for name, value in weights[False].items() if not torch.equal(value, start[name])}
    assert "logit_scale" in moved
    assert len(moved) > 20
    for name, value in weights[True].items():
        torch.testing.assert_close(value, weights[False][name], atol=1e-4, rtol=1e-4)


SWITCHES = {
    "tiled": {"tile_size": 3},
    "gradient cache": {"gradient_cache_chunk": 3},
    "all together": {"tile_size": 3, "gradient_cache_chunk": 3},
    "more chunks than texts": {"gradient_cache_chunk": 1},
}


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("images", ["learning", "frozen", "cached"])
def test_switches_train_the_same(altclip, scenes, miniature, arguments, switch, images):
    """Three steps of eight examples, an uneven last chunk, two micro-batches to a step, and some captions twice in a batch."""
    weights, losses = [], []
    start = snapshot(altclip)
    scenes = scenes.select([*range(20), *range(20), *range(24)])
    for switches in ({}, SWITCHES[switch]):
        altclip.load_state_dict(start)
        freeze_all_but(
            altclip, [*TRAINABLE, *(["vision_model", "visual_projection"] if images == "learning" else [])]
        )
        given = {"optim": "sgd", "learning_rate": 0.1, "logging_steps": 1, "gradient_accumulation_steps": 2}
        trainer = contrastive(
            altclip, scenes, miniature, arguments(**given, **switches), cached=images == "cached"
        )
        trainer.train()
        weights.append(snapshot(altclip))
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(losses[0]) == 3
    moved = {name for name, value in weights[0].items() if not torch.equal(value, start[name])}
    assert "logit_scale" in moved
    assert any(name.startswith("vision_model") for name in moved) == (images == "learning")
    for name, value in weights[0].items():
        torch.testing.assert_close(
            weights[1][name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_frozen_temperature_is_not_clamped(altclip, scenes, miniature, arguments):
    altclip.logit_scale.data.fill_(10.0)
    freeze_all_but(altclip, ["text_model"])
    contrastive(altclip, scenes, miniature, arguments()).train()
    assert altclip.logit_scale.item() == 10.0


@pytest.mark.parametrize("name", ["tile_size", "gradient_cache_chunk"])
def test_a_switch_of_zero_is_refused(arguments, name):
    with pytest.raises(InputError, match=f"{name} is 0: give a positive number"):
        arguments(**{name: 0})


def test_gradients_of_repeated_texts_are_the_same_every_time(altclip, miniature, stage1):
    """Many cells of few texts with targets of their own, on two threads: sums in any order would differ in the last bits."""
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    targets = torch.randn(2048, 128, generator=torch.Generator().manual_seed(0))
    captions = [{"en": name} for name in ("key", "bell", "fire", "ghost")] * 512
    cells = CaptionCells(
        Dataset.from_dict({"captions": captions, "target": targets.numpy()}), ["en"], "target"
    )
    trainer = TeacherLearningTrainer(
        model=altclip.text_model, args=stage1(), train_dataset=cells, data_collator=Collator(tokenizer, 77)
    )
    threads, seen = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    for _ in range(5):
        altclip.zero_grad()
        trainer.compute_loss(
            altclip.text_model, trainer.data_collator(cells.__getitems__(range(2048)))
        ).backward()
        seen.add(altclip.text_model.transformation.bias.grad.numpy().tobytes())
    torch.set_num_threads(threads)
    assert len(seen) == 1
    assert altclip.text_model.transformation.bias.grad.abs().max() > 0


def test_encoding_by_length_changes_nothing(altclip, scenes, miniature):
    """In value and in gradient, with a group that is smaller than the others."""
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    batch = Collator(tokenizer, 77)(
        CaptionCells(scenes.add_column("target", [[0.0]] * 64), ["en", "vi"], "target").__getitems__(
            range(23)
        )
    )
    lengths, results = [], {}
    altclip.text_model.roberta.register_forward_pre_hook(
        lambda _, __, given: lengths.append(given["input_ids"].shape), with_kwargs=True
    )
    for n_groups in (1, 4):
        altclip.zero_grad()
        groups, rows = by_length(batch, n_groups)
        vectors = torch.cat([altclip(**group).text_embeds for group in groups])[rows]
        (vectors * torch.arange(vectors.numel()).view_as(vectors).sin()).sum().backward()
        results[n_groups] = [vectors] + [parameter.grad for parameter in altclip.text_model.parameters()]
    assert len(lengths) == 5
    assert len({shape[1] for shape in lengths}) > 2
    assert all(gradient.abs().max() > 0 for gradient in results[1][1:4])
    for plain, grouped in zip(results[1], results[4]):
        torch.testing.assert_close(grouped, plain, atol=1e-4, rtol=1e-4)


def test_accumulation_means_instead_of_summing(altclip, scenes, miniature, arguments):
    """Twice the same batch, accumulated, must give the loss and gradient of the batch alone."""
    freeze_all_but(altclip, TRAINABLE)
    scenes = scenes.select([0] * 8)
    start, seen = snapshot(altclip), {}
    for steps in (1, 2):
        altclip.load_state_dict(start)
        trainer = contrastive(
            altclip,
            scenes.select(range(8)),
            miniature,
            arguments(gradient_accumulation_steps=steps, max_steps=1, logging_steps=1),
        )
        trainer.train_dataset.cells = trainer.train_dataset.cells[:1].repeat(16, axis=0)
        trainer.train()
        seen[steps] = next(
            (entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry
        )
    assert seen[1] == pytest.approx(seen[2], rel=1e-4)


def test_only_matrices_are_decayed(altclip, scenes, miniature, arguments):
    trainer = contrastive(altclip, scenes, miniature, arguments())
    decayed = trainer.get_decay_parameter_names(altclip)
    assert "text_projection.weight" in decayed
    assert not [
        name
        for name in decayed
        if name.endswith("bias")
        or "logit_scale" in name
        or "class_embedding" in name
        or "norm" in name.lower()
    ]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_logit_scale_is_bounded_in_every_forward_and_in_what_is_saved(
    altclip, scenes, miniature, arguments, tmp_path, accumulation
):
    """It begins above the bound, and would rise at every step: what is learned already has a lower loss with a larger scale."""
    altclip.logit_scale.data.fill_(10.0)
    scales = []

    class Rising(ContrastiveTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            scales.append(model.logit_scale.item())
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
        ValueError, match="trainable names txt_model, which the model has not; its parts are text_model"
    ):
        freeze_all_but(altclip, ["txt_model"])


@pytest.mark.parametrize("objective", ["mse", "cosine"])
def test_teacher_learning_learns(altclip, scenes, miniature, stage1, objective):
    teacher, processor = load_model(str(miniature / "clip"))
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    cells = CaptionCells(
        scenes, ["en", "zh"], "target", inputs=teacher_vectors(scenes, teacher, processor.tokenizer)
    )
    before = snapshot(altclip)
    stage = stage1(max_steps=40, logging_steps=5, per_device_train_batch_size=32, objective=objective)
    trainer = TeacherLearningTrainer(
        model=altclip.text_model, args=stage, train_dataset=cells, data_collator=Collator(tokenizer, 77)
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    moved = changed(before, altclip)
    assert moved
    assert all(name.startswith("text_model.") for name in moved)
    assert "text_model.transformation.bias" in moved
    assert "text_model.pre_LN.weight" in moved


def test_group_by_length_spares_padding_and_leaves_nothing_out(altclip, scenes, miniature, stage1):
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    cells = CaptionCells(scenes.add_column("target", [[0.0] * 128] * 64), ["en", "zh", "th"], "target")
    padding, drawn = {}, {}
    for strategy in ("random", "group_by_length"):
        stage = stage1(train_sampling_strategy=strategy)
        trainer = TeacherLearningTrainer(
            model=altclip.text_model, args=stage, train_dataset=cells, data_collator=Collator(tokenizer, 77)
        )
        batches = list(trainer.get_train_dataloader())
        padding[strategy] = sum((batch["attention_mask"] == 0).sum().item() for batch in batches)
        drawn[strategy] = torch.cat([batch["row_ids"] for batch in batches]).sort().values.tolist()
    assert padding["group_by_length"] < padding["random"] / 2
    assert drawn["group_by_length"] == drawn["random"]
    assert len(drawn["random"]) == 192


def test_temperature_favours_small_languages(altclip, miniature, stage1):
    """56 cells of English and 8 of Chinese: at a very high temperature both are drawn equally often, and epochs differ."""
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    captions = [
        {"en": f"key {number}", "zh": f"钥匙 {number}" if number < 8 else None} for number in range(56)
    ]
    cells = CaptionCells(
        Dataset.from_dict({"captions": captions, "target": [[0.0] * 128] * 56}), ["en", "zh"], "target"
    )
    seen, collator = [], Collator(tokenizer, 77)

    def collate(batch):
        seen.append([cell["text"] for cell in batch])
        return collator(batch)

    stage = stage1(max_steps=16, temperature=1e9)
    TeacherLearningTrainer(
        model=altclip.text_model, args=stage, train_dataset=cells, data_collator=collate
    ).train()
    epochs = [sum(seen[start : start + 8], []) for start in (0, 8)]
    assert [sum(text.startswith("key") for text in epoch) for epoch in epochs] == [32, 32]
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) != set(epochs[1])
