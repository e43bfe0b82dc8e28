"""Texts that are held while a model is fine-tuned, and what is said of that which it has forgotten."""

import json

import pytest
import torch
from datasets import load_dataset
from torch.nn.functional import cosine_similarity
from transformers import AutoProcessor, AutoTokenizer

from common.errors import InputError
from modeling_altclip import AltCLIPModel, AltCLIPProcessor, embed_texts
from training.arguments import ContrastiveArguments
from training.data.examples import CaptionExamples, Collator
from training.data.images import ImageViews
from training.data.tower_cache import image_embeddings
from training.freezing import freeze_all_but
from training.held_texts import HeldTexts, hold_texts, moved
from training.trainers import ContrastiveTrainer

# Forty, of which a tenth is only watched: 4 texts, and 36 to draw from.
TEXTS = [f"dog face and key {number}" for number in range(40)]
TRAINABLE = ["text_model", "text_projection", "logit_scale"]


@pytest.fixture
def altclip(miniature):
    torch.manual_seed(0)
    # Without dropout, so that all ways to take a step are equal.
    return AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"), dropout=0.0)


@pytest.fixture
def processor(miniature):
    clip = AutoProcessor.from_pretrained(miniature / "clip")
    return AltCLIPProcessor(clip.image_processor, AutoTokenizer.from_pretrained(miniature / "text_encoder"))


@pytest.fixture
def arguments(tmp_path):
    def arguments(**given):
        defaults = {
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "use_cpu": True,
            "save_strategy": "no",
            "logging_steps": 1,
        }
        named = {
            "output_dir": str(tmp_path / "run"),
            "model_name_or_path": "",
            "dataset": "",
            "cache_dir": str(tmp_path / "cache"),
        }
        return ContrastiveArguments(
            **named, disable_tqdm=True, optim="sgd", learning_rate=0.1, **defaults | given
        )

    return arguments


@pytest.fixture
def examples_of(miniature, altclip, processor):
    scenes = load_dataset(str(miniature / "dataset"), split="train").select(range(32))

    def examples_of(cached):
        inputs = ImageViews(scenes, 1)
        inputs = image_embeddings(inputs, altclip, processor) if cached else inputs
        return CaptionExamples(scenes, ["en", "zh"], "image_embeds" if cached else "image", inputs=inputs)

    return examples_of


def trained(altclip, processor, args, examples, held):
    freeze_all_but(
        altclip,
        TRAINABLE if examples.column == "image_embeds" else [*TRAINABLE, "vision_model", "visual_projection"],
    )
    collator = Collator(processor.tokenizer, 77, processor.image_processor)
    trainer = ContrastiveTrainer(
        model=altclip, args=args, train_dataset=examples, data_collator=collator, held=held
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_what_is_drawn_depends_on_seed_step_and_process_alone():
    # In the place of an embedding, each text has its own number.
    held = HeldTexts(TEXTS, torch.arange(len(TEXTS), dtype=torch.float32)[:, None], seed=3)
    drawn = {(step, process): held.draw(8, step, process)[0] for step in range(3) for process in range(2)}
    # Three steps of two processes draw six different samples.
    assert len({tuple(texts) for texts in drawn.values()}) == 6
    again = HeldTexts(TEXTS, held.embeddings, seed=3)
    for (step, process), texts in drawn.items():
        of_others, vectors = again.draw(8, step, process)
        assert of_others == texts
        assert [TEXTS[int(row)] for row in vectors[:, 0]] == texts
    watched = {TEXTS[number] for number in held.watched}
    # More than there are: all texts that are not watched.
    everything, _ = held.draw(1000, 0, 0)
    assert len(watched) == 4
    assert watched.isdisjoint(everything)
    assert len(everything) == 36


# 3 does not divide the batch of 8, so that the last group, chunk or tile is smaller.
SWITCHES = {
    "as it is": {},
    "length groups": {"length_groups": 3},
    "gradient cache": {"gradient_cache_chunk": 3},
    "all together": {"tile_size": 3, "gradient_cache_chunk": 3},
}


@pytest.mark.parametrize("cached", [True, False], ids=["cached images", "images that learn"])
def test_a_step_with_held_texts_is_the_same_by_every_switch(
    altclip, processor, arguments, examples_of, cached
):
    start = {name: value.clone() for name, value in altclip.state_dict().items()}
    # Random embeddings, far from the model's own, so that the term counts from the first step on.
    vectors = torch.randn(
        len(TEXTS), altclip.config.projection_dim, generator=torch.Generator().manual_seed(1)
    )
    held = HeldTexts(TEXTS, torch.nn.functional.normalize(vectors), seed=0)
    examples = examples_of(cached)
    weights = {}
    logs = {}
    for name, switches in SWITCHES.items():
        altclip.load_state_dict(start)
        logs[name] = trained(altclip, processor, arguments(hold=5.0, **switches), examples, held)
        weights[name] = {key: value.clone() for key, value in altclip.state_dict().items()}
    altclip.load_state_dict(start)
    # The first step's loss, by hand: that of a training without held texts, and the weighted distance.
    without = trained(altclip, processor, arguments(), examples, None)
    texts, before = held.draw(8, 0, 0)
    altclip.load_state_dict(start)
    distance = 1 - cosine_similarity(embed_texts(altclip, processor, texts), before).mean().item()
    assert logs["as it is"][0]["held_moved"] == pytest.approx(distance, abs=1e-3)
    assert logs["as it is"][0]["loss"] == pytest.approx(without[0]["loss"] + 5 * distance, abs=1e-3)
    for name in SWITCHES:
        assert [entry["loss"] for entry in logs[name]] == pytest.approx(
            [entry["loss"] for entry in logs["as it is"]], abs=1e-4
        )
        for key, value in weights[name].items():
            torch.testing.assert_close(
                value,
                weights["as it is"][key],
                atol=1e-4,
                rtol=1e-3,
                msg=lambda text, key=key: f"{key}: {text}",
            )


def test_held_texts_move_less(altclip, processor, arguments, examples_of):
    altclip.eval()
    start = {name: value.clone() for name, value in altclip.state_dict().items()}
    distances = {}
    # The same texts are watched in both runs, and held in the second alone.
    for hold in (0.0, 300.0):
        altclip.load_state_dict(start)
        examples = examples_of(cached=True)
        held = hold_texts(arguments(hold=300.0), altclip, processor, examples)
        # Before any step each text is nearest to itself.
        assert held.found_again(altclip, processor) == 1
        trained(altclip, processor, arguments(hold=hold, max_steps=10), examples, held if hold else None)
        texts = [held.texts[number] for number in held.watched]
        distances[hold] = moved(
            embed_texts(altclip, processor, texts), held.embeddings[torch.from_numpy(held.watched)]
        ).item()
    assert 0 < distances[300.0] < distances[0.0] / 2


@pytest.mark.parametrize(
    "given,message",
    [
        ({"hold": -1.0}, "hold is -1.0"),
        ({"hold_dataset": "texts"}, "hold_dataset is 'texts' and hold is 0: give its weight too"),
        (
            {"hold": 3.0, "streaming": True, "cache_image_embeds": False},
            "the captions of a stream are not known beforehand",
        ),
    ],
)
def test_what_cannot_be_held_is_refused(arguments, given, message):
    with pytest.raises(InputError, match=message):
        arguments(**given)


@pytest.mark.slow
def test_stage_2_says_what_was_kept(altclip_folder, miniature, run_python, tmp_path):
    """Hold its own captions, and a guard set of which it loses something or nothing.

    Both are written beside the model.
    """
    command = [
        "training/run_stage2.py",
        "training/recipes/miniature/stage2.yaml",
        "--model_name_or_path",
        altclip_folder,
    ]
    data = ["--dataset", miniature / "dataset", "--split", "train", "--languages", "en", "zh"]
    small = [
        "--max_steps",
        "2",
        "--per_device_train_batch_size",
        "4",
        # The recipe has 8 groups, more than the batch has texts.
        "--length_groups",
        "1",
        "--logging_steps",
        "1",
    ]
    guarded = ["--hold", "10", "--guard_dataset", miniature / "dataset", "--guard_split", "train"]
    process = run_python("python", *command, *data, *small, *guarded, "--output_dir", tmp_path / "mine")
    assert process.returncode == 0, process.stderr
    kept = json.loads((tmp_path / "mine/kept.json").read_text("utf-8"))
    assert 0 <= kept["found_again"] <= 1
    assert (
        kept["before"].keys()
        # The guard set is evaluated in all of its languages, not in the two of the training alone.
        == kept["after"].keys()
        >= {
            "en",
            "zh",
            "ru",
        }
    )
    assert "are still nearest to their own embeddings from before training" in process.stdout
    assert "On the guard set, mean recall has lost" in process.stdout
    history = json.loads((tmp_path / "mine/trainer_state.json").read_text("utf-8"))["log_history"]
    assert all(0 <= entry["held_moved"] < 1 for entry in history[:2])
    process = run_python("python", *command, *data, *small, "--output_dir", tmp_path / "unwatched")
    assert "Forgetting was not measured" in process.stdout
