"""Both towers cached: a step projects their outputs, and trains as with live towers."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from safetensors.torch import load_file

from common.errors import InputError
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPModel
from training.arguments import ContrastiveArguments
from training.data import examples as examples_module
from training.data.examples import CachedCollator, CaptionExamples, Collator, TextOfExamples
from training.data.images import EpochCallback, ImageViews
from training.data.tower_cache import image_embeddings, pooled_images, pooled_texts
from training.freezing import freeze_all_but
from training.trainers import ContrastiveTrainer

from .conftest import ROOT
from .test_tower_cache import SGD, assert_same_steps, copy_weights, follow

BOTH = ["visual_projection", "text_projection", "logit_scale"]


@pytest.fixture(scope="module")
def scenes(miniature):
    """Return 24 scenes, and the first eight of them again, in any order."""
    dataset = load_dataset(str(miniature / "dataset"), split="train")
    order = np.random.default_rng(0).permutation([*range(24), *range(8)])
    return dataset.select(order)


@pytest.fixture
def altclip(miniature):
    torch.manual_seed(0)
    return AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"), dropout=0.5)


@pytest.fixture
def dual_encoder(miniature):
    torch.manual_seed(0)
    towers = (str(miniature / "clip"), str(miniature / "text_encoder"))
    return AltCLIPDualEncoderModel.from_towers(*towers, projection_dim=64, projection_bias=True)


@pytest.fixture
def arguments(tmp_path):
    def arguments(**given):
        named = {"output_dir": str(tmp_path / "run"), "model_name_or_path": "", "dataset": ""}
        steps = {"max_steps": 3, "per_device_train_batch_size": 8, "save_strategy": "no"}
        return ContrastiveArguments(**named, use_cpu=True, disable_tqdm=True, **SGD | steps | given)

    return arguments


@pytest.fixture
def train_with(scenes, processor, tmp_path):
    """Return a function that makes a trainer, with both towers cached or both live."""

    def train_with(model, arguments):
        freeze_all_but(model, arguments.trainable)
        views = ImageViews(scenes, arguments.image_views)
        examples = CaptionExamples(scenes, ["en", "zh"], "image", inputs=views, same=views.digests)
        collator = Collator(processor.tokenizer, 8, processor.image_processor)
        if arguments.cache_towers:
            cache_dir = str(tmp_path / "cache")
            texts = pooled_texts(examples, model, processor.tokenizer, 8, cache_dir=cache_dir)
            images = pooled_images(views, model, processor, cache_dir=cache_dir)
            examples = examples.with_inputs("image_pooler_output", images).with_texts(texts)
            collator = CachedCollator()
            for tower in (model.text_model, model.vision_model):
                tower.register_forward_pre_hook(refuse)
        trainer = ContrastiveTrainer(
            model=model, args=arguments, train_dataset=examples, data_collator=collator
        )
        trainer.add_callback(EpochCallback(examples.inputs))
        return trainer

    return train_with


def refuse(*_):
    raise AssertionError("a step runs a tower")


CASES = {
    "both projections": ("altclip", {"trainable": BOTH}),
    "texts alone": ("altclip", {"trainable": ["text_projection"]}),
    "images alone, in two views": (
        "altclip",
        {"trainable": ["visual_projection"], "image_views": 2, "max_steps": 9},
    ),
    "tiles, chunks and groups": (
        "altclip",
        {"trainable": BOTH, "tile_size": 3, "gradient_cache_chunk": 3, "length_groups": 2},
    ),
    # A batch of eight pairs has fewer distinct texts, so that a chunk is without any.
    "dual encoder with biases, more chunks than texts": (
        "dual_encoder",
        {"trainable": BOTH, "gradient_cache_chunk": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_equal_those_of_live_towers(case, train_with, arguments, request):
    """Values by the losses, gradients by the weights after each step of SGD; the towers have dropout."""
    name, given = CASES[case]
    model = request.getfixturevalue(name)
    start = copy_weights(model)
    live = arguments(cache_towers=False, cache_image_embeds=False, **given)
    expected = follow(train_with(model, live))
    model.load_state_dict(start)
    ours = follow(train_with(model, arguments(**given)))
    assert_same_steps(ours, expected, live.max_steps, 1e-5)

    # Whatever may learn has moved, and nothing else.
    weights, _ = expected
    moved = {name for name, value in weights[-1].items() if not torch.equal(value, start[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_run_resumes_to_the_same_weights(altclip, train_with, arguments, tmp_path):
    start = copy_weights(altclip)
    given = {"trainable": BOTH, "image_views": 2, "max_steps": 10, "optim": "adamw_torch"}
    whole = train_with(altclip, arguments(**given, save_strategy="steps", save_steps=9))
    whole.train()
    expected = copy_weights(altclip)

    altclip.load_state_dict(start)
    # Step 9 of eight an epoch lies within the epoch of crops.
    train_with(altclip, arguments(**given)).train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-9"))
    for name, value in copy_weights(altclip).items():
        assert torch.equal(value, expected[name]), name


CAPTIONS = [
    {"en": ["a key", "key"], "zh": ["钥匙"]},
    {"en": ["key"], "zh": []},
    {"en": [], "zh": ["狗", "钥匙", ""]},
    {"en": ["a key"], "zh": ["钥匙"]},
]
TEXTS = ["a key", "key", "钥匙", "key", "狗", "钥匙", "a key", "钥匙"]


@pytest.mark.parametrize("slice_rows", [1, 3, 1000])
def test_every_example_has_the_output_of_its_own_text(altclip, processor, tmp_path, monkeypatch, slice_rows):
    """Of several languages, captions and rows without one; each distinct text passes the tower once."""
    slices = partial(examples_module.caption_slices, n_rows=slice_rows)
    monkeypatch.setattr(examples_module, "caption_slices", slices)
    # Stored in another order, as after a shuffle.
    rows = Dataset.from_list([{"captions": captions, "image": ""} for captions in CAPTIONS[::-1]])
    examples = CaptionExamples(rows.select([3, 2, 1, 0]), ["en", "zh"], "image")
    assert [example["text"] for example in examples] == TEXTS
    keys = TextOfExamples(examples)
    assert [text for part in keys.slices() for text in part.to_pylist()] == TEXTS

    seen = []
    altclip.text_model.register_forward_hook(
        lambda module, inputs, options, output: seen.append(len(options["input_ids"])), with_kwargs=True
    )
    cache = {"model": altclip, "tokenizer": processor.tokenizer, "cache_dir": str(tmp_path)}
    column = pooled_texts(examples, max_length=8, **cache)
    assert sum(seen) == len(set(TEXTS))
    for text, values in zip(TEXTS, column[range(len(TEXTS))]["text_pooler_output"], strict=True):
        inputs = processor.tokenizer(text, return_tensors="pt")
        expected = altclip.eval().text_model(**inputs).pooler_output[0]
        torch.testing.assert_close(torch.from_numpy(values), expected, atol=1e-5, rtol=1e-4)

    # The same again is read, and truncated at another length it is encoded anew.
    n_seen = len(seen)
    assert pooled_texts(examples, max_length=8, **cache).folder == column.folder
    assert len(seen) == n_seen
    assert pooled_texts(examples, max_length=3, **cache).folder != column.folder


def test_the_cache_of_images_does_not_depend_on_the_projection(altclip, scenes, processor, tmp_path):
    views = ImageViews(scenes, 1)
    column = pooled_images(views, altclip, processor, cache_dir=str(tmp_path))
    pixels = processor.image_processor(images=views[[5, 2]]["image"], return_tensors="pt")
    expected = altclip.eval().vision_model(**pixels).pooler_output
    values = torch.from_numpy(column[[5, 2]]["image_pooler_output"])
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-4)

    altclip.visual_projection.weight.data.mul_(2)
    assert pooled_images(views, altclip, processor, cache_dir=str(tmp_path)).folder == column.folder
    altclip.vision_model.get_parameter("embeddings.class_embedding").data.mul_(2)
    assert pooled_images(views, altclip, processor, cache_dir=str(tmp_path)).folder != column.folder


def test_the_same_weights_pooled_otherwise_have_caches_of_their_own(
    dual_encoder, scenes, processor, tmp_path
):
    """A dual encoder's towers do not state how they are pooled."""
    views = ImageViews(scenes, 1)
    examples = CaptionExamples(scenes, ["en"], "image")
    cache = {"cache_dir": str(tmp_path)}
    folders = set()
    for pooling in ("cls", "mean"):
        dual_encoder.config.vision_pooling = dual_encoder.config.text_pooling = pooling
        dual_encoder.vision_model.pooling = dual_encoder.text_model.pooling = pooling
        folders.add(pooled_images(views, dual_encoder, processor, **cache).folder)
        folders.add(image_embeddings(views, dual_encoder, processor, **cache).folder)
        folders.add(pooled_texts(examples, dual_encoder, processor.tokenizer, 77, **cache).folder)
    assert len(folders) == 6


@pytest.mark.parametrize(
    "given,is_cached",
    [
        ({}, False),  # the text tower learns
        ({"trainable": BOTH}, True),
        ({"trainable": ["text_projection"]}, True),
        ({"trainable": ["text_projection", "text_model.pre_LN.weight"]}, False),
        ({"trainable": ["text_projection"], "cache_image_embeds": False}, False),
        ({"trainable": ["text_projection"], "hold": 1.0}, False),
        ({"trainable": ["text_projection"], "cache_towers": False}, False),
        ({"trainable": BOTH, "cache_image_embeds": False, "streaming": True}, False),
    ],
)
def test_towers_are_cached_by_default_where_none_has_to_run(arguments, given, is_cached):
    assert arguments(**given).cache_towers is is_cached


@pytest.mark.parametrize(
    "given,message",
    [
        (
            {"trainable": ["text_model", "logit_scale"]},
            "cache_towers is true, and trainable names text_model, whose outputs change with each step: "
            "leave it out, or set it to false",
        ),
        (
            {"trainable": BOTH, "streaming": True, "cache_image_embeds": False},
            "streaming is true, by which images and texts are not known beforehand",
        ),
        ({"trainable": BOTH, "cache_image_embeds": False}, "cache_image_embeds is false"),
        ({"trainable": BOTH, "hold": 2.0}, "hold is 2.0, whose texts are encoded in each step"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(arguments, given, message):
    with pytest.raises(InputError, match=message) as caught:
        arguments(cache_towers=True, **given)
    assert "\n" not in str(caught.value)
    # A projection of images learns, and their projected embeddings are cached.
    with pytest.raises(InputError, match="trainable names visual_projection, whose embeddings are cached"):
        arguments(cache_towers=False, trainable=BOTH)


def test_a_model_projects_what_its_towers_gave(altclip, processor, scenes):
    altclip.eval()
    tokens = processor.tokenizer(["key", "狗"], padding=True, return_tensors="pt")
    pixels = processor.image_processor(images=scenes[:2]["image"], return_tensors="pt")
    texts = {"text_pooler_output": altclip.text_model(**tokens).pooler_output}
    images = {"image_pooler_output": altclip.vision_model(**pixels).pooler_output}
    expected = altclip(**tokens, **pixels, return_loss=True)
    for given in ({**texts, **images}, {**tokens, **images}, {**texts, **pixels}):
        found = altclip(**given, return_loss=True)
        for name in ("text_embeds", "image_embeds", "logits_per_image", "loss"):
            assert torch.equal(found[name], expected[name]), name
    assert altclip(**texts).image_embeds is None

    with pytest.raises(ValueError, match="^input_ids and text_pooler_output are both given: give one"):
        altclip(**tokens, **texts)
    with pytest.raises(ValueError, match="^pixel_values and image_pooler_output are both given: give one"):
        altclip(**pixels, **images)
    with pytest.raises(ValueError, match="^pixel_values missing"):
        altclip(**texts, return_loss=True)


@pytest.fixture
def stage2(miniature, start_flags, run_python, tmp_path):
    """Return a function that trains both projections as a script does."""

    def stage2(output_dir, *flags, processes=1):
        command = ["python", ROOT / "training/run_stage2.py"]
        command += [ROOT / "training/recipes/miniature/stage2.yaml", *start_flags["stage2"]]
        command += ["--dataset", miniature / "dataset", "--output_dir", tmp_path / output_dir]
        command += ["--trainable", *BOTH, "--cache_dir", tmp_path / "cache"]
        command += ["--optim", "sgd", "--learning_rate", "0.5", "--warmup_steps", "0", *flags]
        process = run_python(*command, processes=processes, OMP_NUM_THREADS="1")
        assert process.returncode == 0, process.stderr[-4000:]
        return process.stdout

    return stage2


@pytest.mark.slow
def test_the_script_says_what_is_cached_and_evaluates(stage2, miniature, tmp_path):
    evaluated = ["--validation_split", "validation", "--eval_strategy", "steps", "--eval_steps", "1"]
    evaluated += ["--guard_dataset", miniature / "dataset", "--guard_split", "validation"]
    printed = stage2("run", "--max_steps", "2", "--per_device_train_batch_size", "64", *evaluated)
    assert "Only visual_projection text_projection logit_scale learn: both towers run once" in printed
    assert "Cached image_pooler_output: " in printed
    assert "Cached text_pooler_output: " in printed
    assert "On the guard set, mean recall has lost" in printed
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["cache_towers"] is True

    log = json.loads((tmp_path / "run/trainer_state.json").read_text())["log_history"]
    assert len({entry["eval_mean_recall"] for entry in log if "eval_mean_recall" in entry}) == 2
    health = [entry for entry in log if "loss" in entry]
    assert all("nearest" in entry and "padding" not in entry for entry in health)


@pytest.mark.slow
def test_two_processes_train_like_one(stage2, tmp_path):
    """Negatives come from both, and so do gradients of both projections."""
    stage2("one", "--max_steps", "4", "--per_device_train_batch_size", "16")
    stage2("two", "--max_steps", "4", "--per_device_train_batch_size", "8", "--tile_size", "5", processes=2)
    before = load_file(tmp_path / "start/model.safetensors")
    one = load_file(tmp_path / "one/model.safetensors")
    two = load_file(tmp_path / "two/model.safetensors")
    moved = [name for name, value in one.items() if not torch.equal(value, before[name])]
    assert len(moved) == 3
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: name)


@pytest.mark.slow
def test_a_batch_of_32768_pairs_fits_into_2_gb(run_python):
    """By the script that measures it, in a process of its own; it states the libraries' memory as well."""
    command = ["python", ROOT / "training/run_projection_cost.py", "--batch_size", "32768", "--live", "false"]
    command += ["--tile_size", "1024", "--repeats", "1"]
    # Not forked from a process that has imported the libraries: its memory would count.
    process = run_python(*command, PYTHONUNBUFFERED="1")
    assert process.returncode == 0, process.stderr
    (line,) = [line for line in process.stdout.splitlines() if line.startswith("The process has held")]
    largest, mapped = [float(word) for word in line.split() if word.isdigit()]
    # Two batches of 32,768 x 768 values of images and of texts are 403 MB in float32, in files and in memory.
    assert 350 < mapped < 450
    assert 800 < largest - mapped < 2000
