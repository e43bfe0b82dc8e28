"""What frozen towers make of a dataset: once, the same as the live tower, and anew when anything that makes it has changed."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset, Image, load_dataset
from PIL import Image as Pillow
from tokenizers import Tokenizer
from transformers import AutoProcessor, AutoTokenizer

from benchmarks.loading import load_model
from benchmarks.recipe import InputError
from modeling_altclip import AltCLIPModel, embed_images
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data import CaptionCells, Collator
from training.freezing import freeze_all_but
from training.frozen import image_vectors, teacher_vectors, written
from training.trainers import ContrastiveTrainer, TeacherLearningTrainer
from training.views import ImageViews, TellEpoch

SGD = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "logging_steps": 1,
}


@pytest.fixture(scope="module")
def scenes(miniature):
    """24 scenes, the first eight of which come again."""
    return load_dataset(str(miniature / "dataset"), split="train").select([*range(24), *range(8)])


@pytest.fixture
def clip(miniature):
    model, processor = load_model(str(miniature / "clip"))
    return model, processor


@pytest.fixture
def altclip(miniature):
    torch.manual_seed(0)
    return AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"), dropout=0.0)


def count(module):
    """The number of items of each forward from now on."""
    seen = []
    module.register_forward_hook(
        lambda module, args, kwargs, _: seen.append(len((args or [*kwargs.values()])[0])), with_kwargs=True
    )
    return seen


def test_the_teacher_needs_english(clip):
    rows = Dataset.from_dict(
        {"captions": [{"en": "key", "zh": "钥匙"}, {"en": None, "zh": "狗"}, {"en": "", "zh": "猫"}]}
    )
    with pytest.raises(InputError, match="2 of 3 rows have no English caption"):
        teacher_vectors(rows, clip[0], clip[1].tokenizer)
    with pytest.raises(InputError, match="captions have no 'en' for the teacher to read: they have zh"):
        teacher_vectors(Dataset.from_dict({"captions": [{"zh": "狗"}]}), clip[0], clip[1].tokenizer)


def test_teacher_vectors_are_the_pooled_end_of_text_before_projection(scenes, clip):
    teacher, tokenizer = clip[0], clip[1].tokenizer
    targets = teacher_vectors(scenes, teacher, tokenizer)[range(len(scenes))]["target"]
    for row in (0, 17, 31):
        inputs = tokenizer([scenes[row]["captions"]["en"]], return_tensors="pt")
        hidden = teacher.text_model(**inputs).last_hidden_state[0]
        end = (inputs["input_ids"][0] == tokenizer.eos_token_id).nonzero()[0, 0]
        np.testing.assert_allclose(targets[row], hidden[end].detach().numpy(), atol=1e-5)


def test_image_vectors_equal_the_live_tower(scenes, clip):
    column = image_vectors(ImageViews(scenes, 1), *clip)
    expected = embed_images(*clip, scenes["image"])
    np.testing.assert_allclose(column[range(len(scenes))]["image_embeds"], expected, atol=1e-6)
    for dtype, error in (("float16", 2**-11), ("bfloat16", 2**-8)):
        halved = image_vectors(ImageViews(scenes, 1), *clip, dtype=dtype)[range(len(scenes))]["image_embeds"]
        assert 0 < np.linalg.norm(halved - expected.numpy(), axis=1).max() < error


def test_each_sentence_and_image_is_encoded_once(scenes, clip, tmp_path):
    model, processor = clip
    texts, images = count(model.text_model), count(model.vision_model)
    for _ in range(2):
        targets = teacher_vectors(scenes, model, processor.tokenizer, cache_dir=str(tmp_path))
        embeds = image_vectors(ImageViews(scenes, 2), model, processor, cache_dir=str(tmp_path))
        assert sum(texts) == len({captions["en"] for captions in scenes["captions"]}) <= 24
        assert sum(images) == 2 * 24
    np.testing.assert_array_equal(targets[[0]]["target"], targets[[24]]["target"])
    np.testing.assert_array_equal(embeds[[0]]["image_embeds"], embeds[[24]]["image_embeds"])


def test_more_languages_and_another_way_to_load_change_nothing(scenes, clip, miniature, tmp_path):
    model, processor = clip
    teacher_vectors(scenes, model, processor.tokenizer, cache_dir=str(tmp_path))
    shutil.copytree(miniature / "clip", tmp_path / "moved")
    model, processor = load_model(str(tmp_path / "moved"))
    processor.tokenizer(["leaves its padding", "behind"], padding=True, truncation=True, max_length=5)
    english = Dataset.from_dict(
        {"captions": [{"en": captions["en"], "xx": "new"} for captions in scenes["captions"]]}
    )
    texts = count(model.text_model)
    teacher_vectors(english, model, processor.tokenizer, cache_dir=str(tmp_path))
    assert not texts


@pytest.mark.parametrize("change", ["weight", "configuration", "tokenizer", "length", "row"])
def test_what_makes_a_teacher_vector_makes_a_new_cache(scenes, clip, tmp_path, change):
    model, processor = clip
    tokenizer = processor.tokenizer
    before = teacher_vectors(scenes, model, tokenizer, cache_dir=str(tmp_path))
    if change == "weight":
        model.text_model.final_layer_norm.bias.data[0] += 1e-3
    elif change == "configuration":
        model.text_model.config.hidden_act = "relu"
    elif change == "tokenizer":
        described = json.loads(tokenizer.backend_tokenizer.to_str())
        described["model"]["merges"] = described["model"]["merges"][:-40]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(described))
    elif change == "length":
        tokenizer.model_max_length = 5
    else:
        captions = scenes["captions"][:]
        scenes = Dataset.from_dict({"captions": captions[:-1] + [{"en": "another"}]})
    texts = count(model.text_model)
    after = teacher_vectors(scenes, model, tokenizer, cache_dir=str(tmp_path))
    assert after.folder != before.folder
    assert sum(texts) >= 22
    assert (change == "configuration") == np.array_equal(
        after[range(32)]["target"], before[range(32)]["target"]
    )


@pytest.mark.parametrize("change", ["weight", "projection", "preparation", "background", "views", "row"])
def test_what_makes_an_image_vector_makes_a_new_cache(scenes, clip, tmp_path, change):
    model, processor = clip
    before = image_vectors(ImageViews(scenes, 1), model, processor, cache_dir=str(tmp_path))
    if change == "weight":
        model.vision_model.post_layernorm.bias.data[0] += 1e-3
    elif change == "projection":
        model.visual_projection.weight.data[0] += 1e-3
    elif change == "preparation":
        processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    elif change == "background":
        processor.image_processor.background = "black"
    elif change == "row":
        scenes = scenes.select([*range(23), 23, *range(7), 23])
        scenes = scenes.select([30, *range(1, 32)])
    images = count(model.vision_model)
    views = ImageViews(scenes, 2 if change == "views" else 1)
    after = image_vectors(views, model, processor, cache_dir=str(tmp_path))
    assert after.folder != before.folder
    assert sum(images) >= 23
    same = np.array_equal(after[range(32)]["image_embeds"], before[range(32)]["image_embeds"])
    assert same == (change in ("views", "background"))  # no scene is transparent


def png(color):
    buffer = io.BytesIO()
    noise = np.random.default_rng(color).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    Pillow.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_are_known_by_their_bytes_wherever_they_lie(clip, tmp_path):
    """Files, the same files in another folder, and the same bytes in the table; then one file is another."""
    caches = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            (tmp_path / folder / f"{number}.png").write_bytes(png(number))
    inside = [{"bytes": png(number), "path": None} for number in range(3)]
    for images in (
        [str(tmp_path / "one" / f"{n}.png") for n in range(3)],
        [str(tmp_path / "two" / f"{n}.png") for n in range(3)],
        inside,
    ):
        rows = Dataset.from_dict({"image": images}).cast_column("image", Image())
        caches.append(image_vectors(ImageViews(rows, 1), *clip, cache_dir=str(tmp_path / "cache")).folder)
    (tmp_path / "two/1.png").write_bytes(png(7))
    rows = Dataset.from_dict({"image": [str(tmp_path / "two" / f"{n}.png") for n in range(3)]}).cast_column(
        "image", Image()
    )
    assert len(set(caches)) == 1
    assert image_vectors(ImageViews(rows, 1), *clip, cache_dir=str(tmp_path / "cache")).folder != caches[0]


def test_views_are_crops_that_depend_on_image_and_view_alone(tmp_path):
    rows = Dataset.from_dict(
        {"image": [{"bytes": png(number), "path": None} for number in (0, 1, 0)]}
    ).cast_column("image", Image())
    views = ImageViews(rows, 3)
    epochs = []
    for epoch in range(4):
        views.set_epoch(epoch)
        epochs.append([np.asarray(image) for image in views[[0, 1, 2]]["image"]])
    originals = [np.asarray(image) for image in rows["image"]]
    for epoch in (0, 3):
        assert all(np.array_equal(image, original) for image, original in zip(epochs[epoch], originals))
    for epoch in (1, 2):
        one, other, again = epochs[epoch]
        assert one.shape[0] == one.shape[1]
        assert 38 <= one.shape[0] <= 40
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other[: len(one), : len(one)])
        windows = np.lib.stride_tricks.sliding_window_view(originals[0], one.shape).reshape(-1, *one.shape)
        assert (windows == one).all(axis=(1, 2, 3)).sum() == 1  # neither mirrored nor scaled
    assert epochs[1][0].shape != epochs[2][0].shape or not np.array_equal(epochs[1][0], epochs[2][0])
    views.set_epoch(1)
    alone = ImageViews(rows.select([2]), 2)
    alone.set_epoch(1)
    np.testing.assert_array_equal(alone[[0]]["image"][0], epochs[1][0])


def follow(trainer):
    """Weights after every step."""
    weights, step = [], trainer.training_step

    def training_step(model, *args, **kwargs):
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return step(model, *args, **kwargs)

    trainer.training_step = training_step
    trainer.train()
    weights.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
    return weights, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def assert_same_steps(ours, theirs, n_steps, atol):
    (weights, losses), (expected, expected_losses) = ours, theirs
    assert len(weights) == len(expected) == n_steps + 1
    assert len(losses) == n_steps
    assert losses == pytest.approx(expected_losses, abs=atol)
    for before, after in zip(expected, expected[1:]):
        assert any(not torch.equal(value, before[name]) for name, value in after.items())
    for step, reference in zip(weights, expected):
        for name, value in reference.items():
            torch.testing.assert_close(
                step[name], value, atol=atol, rtol=atol, msg=lambda text, name=name: f"{name}: {text}"
            )


class LiveTeacher(TeacherLearningTrainer):
    """Stage 1 as the paper has it: the teacher reads each batch's English sentences."""

    def compute_loss(self, model, inputs, **kwargs):
        english = self.teacher[1](
            inputs.pop("english"), padding=True, truncation=True, max_length=77, return_tensors="pt"
        )
        with torch.no_grad():
            inputs["target"] = self.teacher[0].text_model.eval()(**english).pooler_output
        return super().compute_loss(model, inputs, **kwargs)


@pytest.mark.parametrize("dtype,atol", [("float32", 1e-5), ("float16", 1e-3), ("bfloat16", 1e-2)])
def test_stage_1_from_the_cache_equals_the_live_teacher(
    scenes, clip, altclip, miniature, tmp_path, dtype, atol
):
    """Step for step, over two epochs of 32 rows in two languages."""
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    english = [captions["en"] for captions in scenes["captions"]]
    start = {name: value.clone() for name, value in altclip.text_model.state_dict().items()}
    named = {
        "output_dir": str(tmp_path),
        "teacher_name_or_path": "",
        "text_encoder_name_or_path": "",
        "dataset": "",
    }
    common = {
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_steps": 8,
        "per_device_train_batch_size": 16,
    }
    arguments = TeacherLearningArguments(**named, **common, **SGD)
    collator = Collator(tokenizer, 77)
    targets = teacher_vectors(scenes, clip[0], clip[1].tokenizer, cache_dir=str(tmp_path), dtype=dtype)
    cells = CaptionCells(scenes, ["en", "zh"], "target", inputs=targets)
    ours = follow(
        TeacherLearningTrainer(
            model=altclip.text_model, args=arguments, train_dataset=cells, data_collator=collator
        )
    )

    altclip.text_model.load_state_dict(start)
    numbers = Dataset.from_dict({"number": np.arange(32)}).with_format("numpy")
    cells = CaptionCells(scenes, ["en", "zh"], "number", inputs=numbers)

    def with_english(batch):
        sentences = [english[cell["number"]] for cell in batch]
        return collator(batch) | {"english": sentences}

    live = LiveTeacher(
        model=altclip.text_model, args=arguments, train_dataset=cells, data_collator=with_english
    )
    live.teacher = clip[0], clip[1].tokenizer
    theirs = follow(live)
    assert_same_steps(ours, theirs, 8, atol)
    assert dtype == "float32" or ours[1] != theirs[1]


@pytest.fixture
def stage2(altclip, clip, scenes, miniature, tmp_path):
    """A trainer of 32 images in one language, four steps an epoch, from a cache or with the image tower live."""
    start = {name: value.clone() for name, value in altclip.state_dict().items()}
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    common = {
        "use_cpu": True,
        "disable_tqdm": True,
        "max_steps": 10,
        "per_device_train_batch_size": 8,
        "image_views": 2,
    }

    def stage2(output_dir, *, cached, turning=True, **given):
        altclip.load_state_dict(start)
        freeze_all_but(altclip, ["text_model", "text_projection", "logit_scale"])
        named = {"output_dir": str(tmp_path / output_dir), "model_name_or_path": "", "dataset": ""}
        arguments = ContrastiveArguments(**named, **common, **SGD, **given)
        column, inputs = "image", ImageViews(scenes, arguments.image_views)
        if cached:
            column, inputs = (
                "image_embeds",
                image_vectors(inputs, altclip, clip[1], cache_dir=str(tmp_path / "cache")),
            )
        cells = CaptionCells(scenes, ["en"], column, inputs=inputs)
        collator = Collator(tokenizer, 77, clip[1].image_processor)
        trainer = ContrastiveTrainer(
            model=altclip, args=arguments, train_dataset=cells, data_collator=collator
        )
        if turning:
            trainer.add_callback(TellEpoch(inputs))
        return trainer

    return stage2


def test_views_from_the_cache_train_like_views_of_the_live_tower(stage2):
    """Over three epochs: images as they are, their crops, images as they are."""
    live = follow(stage2("live", cached=False, save_strategy="no"))
    assert_same_steps(follow(stage2("cached", cached=True, save_strategy="no")), live, 10, 1e-5)
    _, without = follow(stage2("plain", cached=True, save_strategy="no", turning=False))
    assert without[:4] == pytest.approx(live[1][:4], abs=1e-5)
    assert without[4:] != pytest.approx(live[1][4:], abs=1e-4)


def test_a_run_that_goes_on_within_an_epoch_of_crops_takes_the_same_views(stage2, tmp_path):
    whole = stage2("whole", cached=True, save_strategy="steps", save_steps=6)
    weights, _ = follow(whole)
    assert sum(not torch.equal(value, weights[0][name]) for name, value in weights[-1].items()) > 20
    shutil.copytree(tmp_path / "whole/checkpoint-6", tmp_path / "resumed/checkpoint-6")
    resumed = stage2("resumed", cached=True, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "resumed/checkpoint-6"))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, weights[-1][name]), name


@pytest.mark.parametrize(
    "given,message",
    [
        ({"image_views": 0}, "image_views is 0: 1 shows images as they are"),
        (
            {"image_views": 2, "dataloader_num_workers": 1, "dataloader_persistent_workers": True},
            "leave out dataloader_persistent_workers",
        ),
        (
            {"trainable": ["text_model", "visual_projection"]},
            "trainable names visual_projection, whose vectors are cached",
        ),
    ],
)
def test_arguments_that_contradict_are_refused(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        ContrastiveArguments(
            output_dir=str(tmp_path), model_name_or_path="", dataset="", use_cpu=True, **given
        )


def test_a_tokenizer_in_writing_forgets_its_last_call(miniature):
    tokenizer = AutoProcessor.from_pretrained(miniature / "clip").tokenizer
    before = written(tokenizer)
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=4)
    assert written(tokenizer) == before
    assert json.loads(before)["max_length"] == 77
