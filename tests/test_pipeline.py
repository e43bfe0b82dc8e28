"""The zero-shot pipeline: transformers' scores, labels encoded once, and a cache that never lies."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    AutoModelForZeroShotImageClassification,
    CLIPConfig,
    CLIPModel,
    ZeroShotImageClassificationPipeline,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from modeling_altclip import AltCLIPModel, AltCLIPProcessor, AltCLIPZeroShotPipeline
from modeling_altclip.checkpoint_altclip import IncompleteCheckpointError
from modeling_altclip.prompts_altclip import PROMPTS, fill_template, read_templates

TASK = "zero-shot-image-classification"
# Of several languages and lengths, so that a batch of them is padded.
LABELS = ["dog face", "红苹果", "llave", "umbrella with rain drops"]
# Noise, taller than wide: an image has to be resized and cropped.
IMAGES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 32, 3), dtype=np.uint8))
    for seed in range(5)
]


@pytest.fixture
def model(config, processor):
    config.text_config.vocab_size = len(processor.tokenizer)
    # 77 tokens, and the two positions that XLM-R never reads.
    config.text_config.max_position_embeddings = 80
    torch.manual_seed(0)
    return AltCLIPModel(config).eval()


@pytest.fixture
def parts(model, processor):
    """Return the parts that a pipeline is made of."""
    return {"model": model, "tokenizer": processor.tokenizer, "image_processor": processor.image_processor}


@pytest.fixture
def classify(parts):
    return pipeline(TASK, **parts)


@pytest.fixture
def stock(parts):
    return ZeroShotImageClassificationPipeline(**parts)


@pytest.fixture
def texts_seen(model, monkeypatch):
    """Return a list that grows by the number of texts at each forward of the text tower."""
    seen = []
    plain = model.get_text_features

    def get_text_features(**inputs):
        seen.append(len(inputs["input_ids"]))
        return plain(**inputs)

    monkeypatch.setattr(model, "get_text_features", get_text_features)
    return seen


def scores(answer):
    return {entry["label"]: entry["score"] for entry in answer}


def assert_same(ours, theirs):
    assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
    for one, other in zip(ours, theirs):
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)


@pytest.mark.parametrize("template", ["This is a photo of {}.", "{}", "一张{}的照片。"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_equal_the_stock_pipelines(classify, stock, template, batch_size):
    assert type(classify) is AltCLIPZeroShotPipeline
    ours = classify(IMAGES, candidate_labels=LABELS, hypothesis_template=template, batch_size=batch_size)
    theirs = stock(IMAGES, candidate_labels=LABELS, hypothesis_template=template)
    assert len(ours) == len(IMAGES)
    # Were one score nearly 1, most errors in the others would be lost in rounding.
    assert max(entry["score"] for entry in ours[0]) < 0.9
    for one, other in zip(ours, theirs):
        assert_same(one, other)
    assert_same(classify(IMAGES[0], LABELS, hypothesis_template=template), theirs[0])


def test_a_list_is_classified_in_batches_and_all_else_one_by_one(classify, monkeypatch):
    sizes = []
    plain = classify.model.get_image_features

    def recorded(**inputs):
        sizes.append(len(inputs["pixel_values"]))
        return plain(**inputs)

    monkeypatch.setattr(classify.model, "get_image_features", recorded)
    images = IMAGES[:1] * 18
    in_batches = classify(images, LABELS)
    assert sizes == [16, 2]
    alone = list(classify((image for image in images), LABELS))
    assert sizes[2:] == [1] * 18
    for batched, single in zip(in_batches, alone, strict=True):
        assert_same(batched, single)
    classify(images, LABELS, batch_size=9)
    assert sizes[20:] == [9, 9]


@pytest.mark.parametrize("value", [float("nan"), 3e38])
def test_scores_that_are_no_numbers_are_refused(classify, model, value):
    """Weights may become NaN after they were checked, and finite ones may overflow in a layer."""
    model.visual_projection.weight.data.fill_(value)
    with pytest.raises(ValueError, match="the model's scores are NaN or infinite: .* in torch.float32"):
        classify(Image.new("RGB", (32, 32), "red"), candidate_labels=["a", "b"])


def test_labels_are_encoded_once(classify, texts_seen):
    for _ in range(3):
        classify(IMAGES, LABELS, batch_size=2)
        classify(IMAGES[0], LABELS)
    assert texts_seen == [len(LABELS)]
    classify(IMAGES[0], LABELS, hypothesis_template="{}")
    classify(IMAGES[0], LABELS[:2])
    classify(IMAGES[0], LABELS)
    # Another template and other labels are encoded; the last call has the first one's labels.
    assert texts_seen == [4, 4, 2]


def assert_changed(before, after):
    """Check that the score of at least one label has changed."""
    assert max(abs(scores(before)[label] - scores(after)[label]) for label in LABELS) > 1e-5


def ramp(weight):
    """Return a factor of its own for every row: one factor for all would be normalised away."""
    return torch.linspace(0.5, 2, len(weight))[:, None]


# Ways in which weights change. torch counts writes to a weight, but none that go through `.data`.
def by_optimizer(model, weight):
    torch.optim.SGD([weight], lr=1.0).step()


def in_place(model, weight):
    weight.requires_grad_(False).mul_(ramp(weight))


def in_data(model, weight):
    weight.data.mul_(ramp(weight))


# A plain sum of a weight would not notice these three.
def rows_in_another_order(model, weight):
    weight.data.copy_(weight.data.flip(0))


def columns_in_another_order(model, weight):
    weight.data.copy_(weight.data.flip(1))


def by_a_row_that_sums_to_zero(model, weight):
    weight.data.add_(torch.linspace(-1, 1, weight.shape[1]))


# Another tensor in place of the first.
def by_assignment(model, weight):
    weight.data = weight.data * ramp(weight)


def by_state_dict(model, weight):
    state = model.state_dict()
    for name, value in state.items():
        # Norms and biases have one dimension, and `ramp` is for rows.
        if value.ndim == 2:
            state[name] = value * ramp(value)
    model.load_state_dict(state)


CHANGES = [
    by_optimizer,
    in_place,
    in_data,
    rows_in_another_order,
    columns_in_another_order,
    by_a_row_that_sums_to_zero,
    by_assignment,
    by_state_dict,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize(
    "part", ["text_projection.weight", "text_model.roberta.embeddings.word_embeddings.weight"]
)
def test_changed_weights_are_seen(classify, stock, model, change, part):
    before = classify(IMAGES[0], LABELS)
    weight = model.get_parameter(part)
    # Only the optimizer reads it.
    weight.grad = torch.randn_like(weight)
    change(model, weight)
    after = classify(IMAGES[0], LABELS)
    assert_same(after, stock(IMAGES[0], candidate_labels=LABELS))
    assert_changed(before, after)


def with_a_hook(classify):
    transformation = classify.model.text_model.transformation
    transformation.register_forward_hook(lambda _, __, embeds: embeds.roll(1, -1))


def with_adapters_off(classify):
    classify.model.disable_adapters()


def with_another_adapter(classify):
    classify.model.set_adapter("second")


def with_shorter_texts(classify):
    classify.tokenizer.model_max_length = 4


OTHER_CHANGES = [with_a_hook, with_adapters_off, with_another_adapter, with_shorter_texts]


@pytest.mark.parametrize("change", OTHER_CHANGES, ids=lambda change: change.__name__)
def test_changes_that_are_no_weights_are_seen(classify, model, parts, change):
    torch.manual_seed(1)
    for name in ("first", "second"):
        # By default an adapter begins without an effect.
        adapter = LoraConfig(target_modules=r"text_model.*\.(query|value)", init_lora_weights=False)
        model.add_adapter(adapter, name)
    model.set_adapter("first")
    model.eval()
    # Larger weights move embeddings apart, so that each change shows in the scores.
    for parameter in model.text_model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(4.0)

    before = classify(IMAGES[0], LABELS)
    change(classify)
    after = classify(IMAGES[0], LABELS)
    fresh = AltCLIPZeroShotPipeline(**parts)
    assert_same(after, fresh(IMAGES[0], LABELS))
    assert_changed(before, after)


def test_a_stream_answers_with_the_weights_of_the_moment(classify, stock, model):
    stream = iter(classify((image for image in IMAGES), LABELS))
    assert_same(next(stream), stock(IMAGES[0], candidate_labels=LABELS))
    with torch.no_grad():
        model.text_projection.weight.mul_(ramp(model.text_projection.weight))
    next(stream)  # the pipeline reads one image ahead
    assert_same(next(stream), stock(IMAGES[2], candidate_labels=LABELS))


def test_another_model_or_tokenizer_is_seen(classify, texts_seen, config, parts):
    classify(IMAGES[0], LABELS)
    # An equal tokenizer, but another object: it may be changed by itself.
    classify.tokenizer = copy.deepcopy(classify.tokenizer)
    classify(IMAGES[0], LABELS)
    assert texts_seen == [4, 4]

    classify.model = AltCLIPModel(config).eval()
    stock = ZeroShotImageClassificationPipeline(**parts | {"model": classify.model})
    assert_same(classify(IMAGES[0], LABELS), stock(IMAGES[0], candidate_labels=LABELS))


def test_nothing_is_kept_while_the_model_trains(classify, model, texts_seen):
    model.train()
    classify(IMAGES[0], LABELS)
    classify(IMAGES[0], LABELS)
    assert texts_seen == [4, 4]
    assert model.training


def test_memory_is_bounded(classify):
    # 40 sets of labels, of which the last 32 stay.
    for number in range(40):
        classify(IMAGES[0], ["key", f"key {number}"])
    assert len(classify.label_embeds) == 32


def embeds_of_templates(model, tokenizer, label, templates):
    """Return the normalised mean of a label's prompts, as CLIP's own code computes it."""
    prompts = [template.format(label) for template in templates]
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    embeds = normalize(model.get_text_features(**inputs).pooler_output, dim=-1)
    return normalize(embeds.mean(0), dim=-1)


def test_templates_are_averaged_as_clip_does(classify, model, processor):
    model.logit_scale.data.fill_(3.0)
    for weight in model.text_model.parameters():
        # Prompts far apart: a mean that is not normalised again would show.
        if weight.ndim == 2:
            weight.data.mul_(8.0)
    templates = ["{}", "key {}", "bell {} umbrella"]
    found = scores(classify(IMAGES[0], LABELS, hypothesis_template=templates))

    with torch.no_grad():
        # By hand, a label at a time.
        texts = [embeds_of_templates(model, processor.tokenizer, label, templates) for label in LABELS]
        pixels = processor(images=IMAGES[0], return_tensors="pt")
        image = normalize(model.get_image_features(**pixels).pooler_output, dim=-1)
        logits = model.logit_scale.exp() * image @ torch.stack(texts).t()
    for label, score in zip(LABELS, logits.softmax(dim=-1)[0].tolist()):
        assert found[label] == pytest.approx(score, abs=1e-6)


def test_long_labels_are_cut(classify):
    # The softmax over one label is 1, if its text can be encoded at all.
    (answer,) = classify([IMAGES[0]], ["dog face and key " * 60])
    assert answer[0]["score"] == 1.0


def test_generators_and_datasets_are_streamed(classify):
    taken = []

    def stream():
        for image in IMAGES:
            taken.append(image)
            yield image

    expected = classify(IMAGES, LABELS)
    answers = classify(stream(), LABELS)
    assert_same(next(iter(answers)), expected[0])
    # The first answer came before the stream was read to its end.
    assert len(taken) < len(IMAGES)
    column = Dataset.from_dict({"image": IMAGES}, features=Features({"image": ImageFeature()}))["image"]
    for answers in (classify((image for image in IMAGES), LABELS, batch_size=2), classify(column, LABELS)):
        for one, other in zip(list(answers), expected, strict=True):
            assert_same(one, other)


def test_every_language_has_its_own_templates():
    assert len(PROMPTS) == 19
    assert read_templates("zh") == PROMPTS["zh"]
    assert "照片" in PROMPTS["zh"][0]
    of_all_languages = []
    for templates in PROMPTS.values():
        assert len(set(templates)) == len(templates) >= 3
        assert all(template.count("{}") == 1 for template in templates)
        of_all_languages += templates
    # No language has another one's template.
    assert len(set(of_all_languages)) == len(of_all_languages)


def test_the_caller_may_say_how_prompts_are_cut(classify, texts_seen):
    whole = classify(IMAGES[0], LABELS, tokenizer_kwargs=None)
    cut = classify(IMAGES[0], LABELS, tokenizer_kwargs={"max_length": 4})
    assert scores(whole) != scores(cut)
    assert texts_seen == [4, 4]


def test_two_streams_with_labels_of_their_own(classify):
    fewer = LABELS[::-1][:2]
    expected = zip(classify(IMAGES, LABELS), classify(IMAGES, fewer), strict=True)
    first = classify((image for image in IMAGES), LABELS)
    second = classify((image for image in IMAGES), fewer)
    for (one, other), (expected_one, expected_other) in zip(zip(first, second), expected, strict=True):
        assert_same(one, expected_one)
        assert_same(other, expected_other)


@pytest.mark.parametrize(
    "given,message",
    [
        ({"candidate_labels": []}, "candidate_labels is empty"),
        ({"candidate_labels": None}, "candidate_labels is None: give a list of names"),
        ({"candidate_labels": ["key", None]}, r"candidate_labels\[1\] is None"),
        (
            {"hypothesis_template": "a photo"},
            "'a photo' has no {} for the label, and is no language that has templates: choose from en zh",
        ),
        ({"hypothesis_template": []}, "hypothesis_template is an empty list"),
        ({"image": []}, "images is empty"),
        ({"image": [IMAGES[0], None]}, r"images\[1\] cannot be read: it is a NoneType, not an image"),
        ({"top_k": 0}, "top_k is 0: ask for one label at least"),
    ],
)
def test_bad_input_is_refused(classify, given, message):
    with pytest.raises(ValueError, match=message):
        classify(**{"image": IMAGES[0], "candidate_labels": LABELS} | given)


# `str.format` would read an attribute, an index or a conversion here; a template has `{}` once and no more.
SLOTLESS = [
    "{} and {}",
    "a {c}",
    "a {name}",
    "a {0}",
    "a {x.__class__}",
    "{0[0]}",
    "a {",
    "a {}{",
    "} {}",
    "This is {{}}.",
    "{!r}",
    "{:>9}",
]


def test_the_best_k_labels_are_returned(classify, parts):
    ranked = classify(IMAGES[0], LABELS)
    assert_same(classify(IMAGES[0], LABELS, top_k=2), ranked[:2])
    assert len(classify(IMAGES[0], LABELS)) == 4
    # Options of a call may be given when the pipeline is made.
    best_alone = pipeline(TASK, **parts, top_k=1, hypothesis_template="{}")
    assert_same(best_alone(IMAGES[0], LABELS), classify(IMAGES[0], LABELS, "{}")[:1])


@pytest.mark.parametrize(
    "template", [*SLOTLESS, [], ["{}", "no slot"], ["{}", None], ["zh"], 7, {"{}"}], ids=repr
)
def test_a_template_has_one_slot_or_is_refused(classify, template):
    """Refuse it as well where it was given when the pipeline was made."""
    if template == []:
        message = "hypothesis_template is an empty list"
    else:
        at_fault = template[-1] if isinstance(template, list) else template
        message = f"hypothesis_template (is )?{re.escape(repr(at_fault))}"
    with pytest.raises(ValueError, match=message):
        classify(IMAGES[0], LABELS, hypothesis_template=template)
    classify.hypothesis_template = template
    with pytest.raises(ValueError, match=message):
        classify(IMAGES[0], LABELS)


def test_nothing_of_a_label_or_template_is_formatted():
    assert fill_template("a {} in %s", "{x.__class__} {} %d") == "a {x.__class__} {} %d in %s"
    assert fill_template("{x.__class__} {}", "key") == "{x.__class__} key"  # had it not been checked


def test_other_models_get_the_stock_pipeline(processor, tmp_path):
    text = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 5000,
    }
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=text | {"image_size": 32, "patch_size": 8}))
    classify = pipeline(
        TASK, model=clip, tokenizer=processor.tokenizer, image_processor=processor.image_processor
    )
    assert type(classify) is ZeroShotImageClassificationPipeline
    assert len(classify(IMAGES[0], candidate_labels=LABELS)) == 4
    task = PIPELINE_REGISTRY.supported_tasks[TASK]
    # Our class stands for the task, and hands models of other kinds to transformers' own.
    assert task["impl"] is AltCLIPZeroShotPipeline
    assert "default" in task


def test_a_saved_pipeline_is_no_remote_code(classify, processor, tmp_path):
    classify.save_pretrained(tmp_path)
    assert "custom_pipelines" not in (tmp_path / "config.json").read_text()
    assert_same(pipeline(TASK, model=str(tmp_path))(IMAGES[0], LABELS), classify(IMAGES[0], LABELS))


def test_transparent_images_stand_on_the_background(altclip_folder):
    """Set the background in the processor's files, where the pipeline finds it."""
    # The left half is transparent, above green; the right half is opaque.
    image = Image.new("RGBA", (32, 32), (200, 30, 60, 255))
    image.paste((0, 90, 0, 0), (0, 0, 16, 32))
    answers = {}
    for background, color in (("white", (255, 255, 255)), ("blue", (0, 0, 255)), (None, (0, 90, 0))):
        processor = AltCLIPProcessor.from_pretrained(altclip_folder, background=background)
        processor.save_pretrained(altclip_folder)
        classify = pipeline(TASK, model=str(altclip_folder))
        flat = image.convert("RGB")
        flat.paste(color, (0, 0, 16, 32))
        expected = classify(flat, LABELS)
        # A picture, bytes from 0 to 255 and floats from 0 to 1.
        for given in (image, np.asarray(image), np.asarray(image) / 255):
            assert_same(classify([given], LABELS)[0], expected)
        assert_same(classify(image, LABELS), expected)
        answers[background] = scores(expected)
    assert answers["white"] != answers["blue"]
    assert answers["blue"] != answers[None]
    assert answers[None] != answers["white"]


def test_a_path_that_leads_nowhere_is_named(classify):
    with pytest.raises(ValueError, match=r"images\[0\] cannot be read: file does not exist: gone.png"):
        classify(["gone.png"], LABELS)


# ---- Damaged folders ----


def without_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def with_a_weight_of_another_shape(folder):
    weights = load_file(folder / "model.safetensors")
    weights["logit_scale"] = weights["logit_scale"].expand(2).clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def with_a_layer_too_many(folder):
    """Drop the number of layers from the configuration, whose default is another."""
    config = json.loads((folder / "config.json").read_text())
    del config["text_config"]["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config))


def without_weights(folder):
    (folder / "model.safetensors").unlink()


DAMAGES = [
    (without_a_weight, "not a whole checkpoint.* missing: text_projection.weight"),
    (with_a_weight_of_another_shape, "not a whole checkpoint.* of another shape: logit_scale"),
    (with_a_layer_too_many, "not a whole checkpoint.* missing: .*encoder.layer.11"),
    (without_weights, "no file named model.safetensors"),
]


@pytest.mark.parametrize("damage,message", DAMAGES)
def test_a_pipeline_does_not_fill_a_damaged_model_with_random_weights(altclip_folder, damage, message):
    """transformers tries its own class after ours, unless ours raises an error that it does not expect."""
    damage(altclip_folder)
    for task in (TASK, "feature-extraction"):
        with pytest.raises(IncompleteCheckpointError, match=message):
            pipeline(task, model=str(altclip_folder))
    for auto in (AutoModel, AutoModelForZeroShotImageClassification):
        with pytest.raises((ValueError, OSError), match=message):
            auto.from_pretrained(altclip_folder)


def test_nor_does_one_with_the_code_in_the_folder(altclip_folder, run_python, tmp_path):
    without_a_weight(altclip_folder)
    script = """
import sys
from transformers import AutoModel, pipeline
doors = [
    lambda: pipeline("zero-shot-image-classification", model=sys.argv[1], trust_remote_code=True),
    lambda: pipeline("feature-extraction", model=sys.argv[1], trust_remote_code=True),
    lambda: AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True),
]
for door in doors:
    try:
        door()
    except Exception as error:
        print(type(error).__module__.split(".")[0], type(error).__name__, error)
assert "modeling_altclip" not in sys.modules
"""
    (tmp_path / "script.py").write_text(script)
    away = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    process = run_python("python", tmp_path / "script.py", altclip_folder, cwd=tmp_path, **away)
    assert process.returncode == 0, process.stderr[-3000:]
    refused = "is not a whole checkpoint of AltCLIPModel"
    errors = [line for line in process.stdout.splitlines() if refused in line]
    assert [error.split()[:2] for error in errors] == [
        ["transformers_modules", "IncompleteCheckpointError"],
        ["transformers_modules", "IncompleteCheckpointError"],
        ["builtins", "ValueError"],
    ]
