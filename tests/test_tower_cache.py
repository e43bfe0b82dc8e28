"""Check the cached embeddings of frozen towers.

They are computed once, equal those of the live tower, and are computed again when anything they depend on
has changed.
"""

import io
import json
import shutil
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from datasets import Dataset, Image, load_dataset
from PIL import Image as Pillow
from tokenizers import Tokenizer
from transformers import AutoProcessor, AutoTokenizer

from common.embedding_cache import cached_column
from common.errors import InputError
from common.models.loading import load_model
from modeling_altclip import AltCLIPModel, embed_images
from training.arguments import ContrastiveArguments, TeacherLearningArguments
from training.data import tower_cache
from training.data.examples import CaptionExamples, Collator, caption_columns, caption_slices, split_lists
from training.data.images import EpochCallback, ImageViews
from training.data.tower_cache import check_distinct, image_embeddings, teacher_embeddings, written
from training.freezing import freeze_all_but
from training.trainers import ContrastiveTrainer, TeacherLearningTrainer

SGD = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,  # no clipping
    "logging_steps": 1,
}


@pytest.fixture(scope="module")
def scenes(miniature):
    """Return 24 scenes, and the first eight of them again."""
    dataset = load_dataset(str(miniature / "dataset"), split="train")
    return dataset.select([*range(24), *range(8)])


@pytest.fixture
def clip(miniature):
    model, processor = load_model(str(miniature / "clip"))
    return model, processor


@pytest.fixture
def altclip(miniature):
    torch.manual_seed(0)
    return AltCLIPModel.from_teacher(str(miniature / "clip"), str(miniature / "text_encoder"), dropout=0.0)


def count(module):
    """Record the number of items of each forward from now on."""
    seen = []

    def record(module, arguments, options, output):
        inputs = [*arguments, *options.values()]
        seen.append(len(inputs[0]))

    module.register_forward_hook(record, with_kwargs=True)
    return seen


def test_the_teacher_needs_english(clip):
    teacher, processor = clip
    captions = [{"en": "key", "zh": "钥匙"}, {"en": None, "zh": "狗"}, {"en": "", "zh": "猫"}]
    rows = Dataset.from_dict({"captions": captions})
    with pytest.raises(InputError, match="2 of 3 rows have no English caption"):
        teacher_embeddings(rows, teacher, processor.tokenizer)
    rows = Dataset.from_dict({"captions": [{"zh": "狗"}]})
    with pytest.raises(InputError, match="captions have no 'en' for the teacher to read: they have zh"):
        teacher_embeddings(rows, teacher, processor.tokenizer)


def test_other_languages_may_lack_captions(clip, tmp_path):
    """A row without one gets the embedding of an empty text, in any language but English."""
    teacher, processor = clip
    captions = [{"en": "key", "zh": None, "de": "dog"}, {"en": "dog", "zh": "key", "de": None}]
    rows = Dataset.from_dict({"captions": [*captions, {"en": "cat", "zh": "", "de": ""}]})
    empty = Dataset.from_dict({"captions": [{"en": None, "zh": ""}, {"en": None, "zh": "key"}]})
    read = {"teacher": teacher, "tokenizer": processor.tokenizer, "cache_dir": str(tmp_path)}
    of_empty = teacher_embeddings(empty, **read, language="zh")[[0]]["target"]
    for language, missing in (("zh", 0), ("de", 1)):
        targets = teacher_embeddings(rows=rows, **read, language=language)[range(3)]["target"]
        np.testing.assert_allclose(targets[[missing]], of_empty, atol=1e-6)
        np.testing.assert_allclose(targets[[2]], of_empty, atol=1e-6)
        assert np.abs(targets[1 - missing] - of_empty[0]).max() > 1e-3


def test_the_teacher_reads_one_caption_of_a_row(clip):
    teacher, processor = clip
    rows = Dataset.from_dict({"captions": [{"en": ["key", "a key"]}, {"en": ["dog"]}]})
    message = "^a row has several captions in 'en', of which the teacher reads one: give one per row$"
    with pytest.raises(InputError, match=message):
        teacher_embeddings(rows, teacher, processor.tokenizer)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("n_rows", [1, 3, 1000])
def test_texts_read_as_they_are_embedded_make_the_same_cache(language, n_rows, clip, tmp_path, monkeypatch):
    """They are the texts of the whole column, and so are the folder's name and the bytes of its files."""
    teacher, processor = clip
    captions = [{"en": ["key"], "zh": []}, {"en": ["dog"], "zh": ["key"]}, {"en": ["é 🔑"], "zh": ["狗"]}]
    rows = Dataset.from_list([{"captions": row} for row in captions]).select([2, 0, 1, 0, 2, 1, 1])
    whole = pc.fill_null(split_lists(caption_columns(rows)[language])[0], "")
    calls = []

    def record(name, key, keys, *others, **options):
        calls.append((name, key, keys, *others))
        return cached_column(*calls[-1], **options)

    monkeypatch.setattr(tower_cache, "caption_slices", partial(caption_slices, n_rows=n_rows))
    monkeypatch.setattr(tower_cache, "cached_column", record)
    column = teacher_embeddings(
        rows, teacher, processor.tokenizer, language, cache_dir=str(tmp_path / "slices")
    )
    ((name, key, keys, *others),) = calls
    assert pa.chunked_array(keys.slices()).combine_chunks().equals(whole)
    assert keys.take(np.array([4, 0, 4])).equals(whole.take(pa.array([4, 0, 4])))

    expected = cached_column(name, key, whole, *others, cache_dir=str(tmp_path / "whole"))
    assert column.folder.name == expected.folder.name
    assert column.item_of_row.tolist() == expected.item_of_row.tolist()
    for path in expected.folder.rglob("*.*"):
        assert (column.folder / path.relative_to(expected.folder)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("n_rows", [1, 3])
def test_a_row_far_down_is_checked_too(n_rows, clip, monkeypatch):
    teacher, processor = clip
    monkeypatch.setattr(tower_cache, "caption_slices", partial(caption_slices, n_rows=n_rows))
    for last, message in ((["a", "b"], "a row has several captions in 'en'"), ([" "], "1 of 5 rows have no")):
        rows = Dataset.from_list([{"captions": {"en": texts}} for texts in [["dog"]] * 4 + [last]])
        with pytest.raises(InputError, match=message):
            teacher_embeddings(rows, teacher, processor.tokenizer)


def test_texts_of_one_embedding_are_refused_by_hand():
    check_distinct(torch.ones(0, 2))
    check_distinct(torch.ones(1, 2))
    for values in (
        [[1.0, 1.0], [2.0, 2.0]],
        [[2.0, 2.0], [1.0, 1.0]],
        [[1.0, 2.0], [1.0, 3.0]],
        [[1.0, 1.0]],
    ):
        check_distinct(torch.tensor(values))
    for n_texts in (2, 3):
        with pytest.raises(InputError, match=f"the teacher gives {n_texts} texts one embedding"):
            check_distinct(torch.ones(n_texts, 2))


def test_teacher_vectors_are_the_pooled_end_of_text_before_projection(scenes, clip):
    teacher, processor = clip
    tokenizer = processor.tokenizer
    targets = teacher_embeddings(scenes, teacher, tokenizer)[range(len(scenes))]["target"]
    for row in (0, 17, 31):
        inputs = tokenizer([scenes[row]["captions"]["en"]], return_tensors="pt")
        hidden = teacher.text_model(**inputs).last_hidden_state[0]
        end = inputs["input_ids"][0].tolist().index(tokenizer.eos_token_id)
        np.testing.assert_allclose(targets[row], hidden[end].detach().numpy(), atol=1e-5)


def test_image_vectors_equal_the_live_tower(scenes, clip):
    model, processor = clip
    column = image_embeddings(views=ImageViews(scenes, 1), model=model, processor=processor)
    expected = embed_images(*clip, scenes["image"])
    np.testing.assert_allclose(column[range(len(scenes))]["image_embeds"], expected, atol=1e-6)
    # Half a unit in the last place: float16 has 11 bits, bfloat16 8.
    for dtype, largest_error in (("float16", 2**-11), ("bfloat16", 2**-8)):
        column = image_embeddings(ImageViews(scenes, 1), *clip, dtype=dtype)
        halved = column[range(len(scenes))]["image_embeds"]
        errors = np.linalg.norm(halved - expected.numpy(), axis=1)
        assert 0 < errors.max() < largest_error


def test_each_sentence_and_image_is_encoded_once(scenes, clip, tmp_path):
    model, processor = clip
    n_texts = count(model.text_model)
    n_images = count(model.vision_model)
    sentences = {captions["en"] for captions in scenes["captions"]}
    assert len(sentences) <= 24
    for _ in range(2):  # the second time from the cache
        targets = teacher_embeddings(scenes, model, processor.tokenizer, cache_dir=str(tmp_path))
        embeds = image_embeddings(ImageViews(scenes, 2), model, processor, cache_dir=str(tmp_path))
        assert sum(n_texts) == len(sentences)
        assert sum(n_images) == 2 * 24  # views
    # Row 24 is row 0 again.
    np.testing.assert_array_equal(targets[[0]]["target"], targets[[24]]["target"])
    np.testing.assert_array_equal(embeds[[0]]["image_embeds"], embeds[[24]]["image_embeds"])


def test_more_languages_and_another_way_to_load_change_nothing(scenes, clip, miniature, tmp_path):
    model, processor = clip
    teacher_embeddings(scenes, model, processor.tokenizer, cache_dir=str(tmp_path))
    shutil.copytree(miniature / "clip", tmp_path / "moved")
    model, processor = load_model(str(tmp_path / "moved"))
    # A call leaves its padding and truncation in a fast tokenizer.
    processor.tokenizer(["leaves its padding", "behind"], padding=True, truncation=True, max_length=5)
    captions = [{"en": captions["en"], "xx": "new"} for captions in scenes["captions"]]
    n_texts = count(model.text_model)
    rows = Dataset.from_dict({"captions": captions})
    teacher_embeddings(rows, model, processor.tokenizer, cache_dir=str(tmp_path))
    assert not n_texts


@pytest.mark.parametrize("change", ["weight", "configuration", "tokenizer", "length", "row"])
def test_what_makes_a_teacher_vector_makes_a_new_cache(scenes, clip, tmp_path, change):
    model, processor = clip
    tokenizer = processor.tokenizer
    before = teacher_embeddings(scenes, model, tokenizer, cache_dir=str(tmp_path))
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

    n_texts = count(model.text_model)
    after = teacher_embeddings(scenes, model, tokenizer, cache_dir=str(tmp_path))
    assert after.folder != before.folder
    assert sum(n_texts) >= 22
    same = np.array_equal(after[range(32)]["target"], before[range(32)]["target"])
    # An activation is chosen when a model is built: to change it in the configuration alone has no effect.
    assert same == (change == "configuration")


@pytest.mark.parametrize("change", ["weight", "projection", "preparation", "background", "views", "row"])
def test_what_makes_an_image_vector_makes_a_new_cache(scenes, clip, tmp_path, change):
    model, processor = clip
    before = image_embeddings(ImageViews(scenes, 1), model, processor, cache_dir=str(tmp_path))
    if change == "weight":
        model.vision_model.post_layernorm.bias.data[0] += 1e-3
    elif change == "projection":
        model.visual_projection.weight.data[0] += 1e-3
    elif change == "preparation":
        processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    elif change == "background":
        processor.image_processor.background = "black"
    elif change == "row":
        # The same images, but row 0 shows scene 6 now and row 31 scene 23.
        scenes = scenes.select([*range(23), 23, *range(7), 23])
        scenes = scenes.select([30, *range(1, 32)])

    n_images = count(model.vision_model)
    views = ImageViews(scenes, 2 if change == "views" else 1)
    after = image_embeddings(views, model, processor, cache_dir=str(tmp_path))
    assert after.folder != before.folder
    assert sum(n_images) >= 23
    same = np.array_equal(after[range(32)]["image_embeds"], before[range(32)]["image_embeds"])
    assert same == (change in ("views", "background"))  # no scene is transparent


def png(seed):
    """Return the bytes of a picture of noise, 56 pixels wide and 40 high."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    Pillow.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of(images):
    return Dataset.from_dict({"image": images}).cast_column("image", Image())


def test_images_are_known_by_their_bytes_wherever_they_lie(clip, tmp_path):
    """A cache is the same for files, for copies in another folder, and for the same bytes in the table."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            (tmp_path / folder / f"{number}.png").write_bytes(png(number))
    files = [str(tmp_path / "one" / f"{number}.png") for number in range(3)]
    copies = [str(tmp_path / "two" / f"{number}.png") for number in range(3)]
    in_table = [{"bytes": png(number), "path": None} for number in range(3)]

    def cache_of(images):
        return image_embeddings(
            ImageViews(rows_of(images), 1), *clip, cache_dir=str(tmp_path / "cache")
        ).folder

    of_files = cache_of(files)
    assert cache_of(copies) == of_files
    assert cache_of(in_table) == of_files
    (tmp_path / "two/1.png").write_bytes(png(7))
    assert cache_of(copies) != of_files


def test_more_images_than_are_decoded_at_a_time_are_all_embedded(clip, tmp_path):
    rows = rows_of([{"bytes": png(number), "path": None} for number in range(150)])
    column = image_embeddings(ImageViews(rows, 1), *clip, cache_dir=str(tmp_path))
    expected = embed_images(*clip, rows["image"])
    np.testing.assert_allclose(column[range(150)]["image_embeds"], expected, atol=1e-6)


@pytest.mark.parametrize("n_views", [1, 2])
def test_the_size_of_crops_matters_where_there_are_crops(clip, tmp_path, monkeypatch, n_views):
    rows = rows_of([{"bytes": png(number), "path": None} for number in range(2)])
    folders = set()
    for smallest_area in (0.9, 0.5):
        monkeypatch.setattr(tower_cache, "SMALLEST_AREA", smallest_area)
        column = image_embeddings(ImageViews(rows, n_views), *clip, cache_dir=str(tmp_path))
        folders.add(column.folder)
    assert len(folders) == n_views


def test_views_are_crops_that_depend_on_image_and_view_alone(tmp_path):
    rows = rows_of([{"bytes": png(number), "path": None} for number in (0, 1, 0)])
    views = ImageViews(rows, 3)
    epochs = []
    for epoch in range(4):
        views.set_epoch(epoch)
        epochs.append([np.asarray(image) for image in views[[0, 1, 2]]["image"]])
    originals = [np.asarray(image) for image in rows["image"]]

    # Of three views the first is the whole image; epoch 3 shows it again.
    for epoch in (0, 3):
        for image, original in zip(epochs[epoch], originals, strict=True):
            assert np.array_equal(image, original)
    for epoch in (1, 2):
        one, other, again = epochs[epoch]
        assert one.shape[0] == one.shape[1]
        # 90 to 100 % of the largest square's area: sides from sqrt(0.9) * 40 = 37.9 to 40, rounded.
        assert 38 <= one.shape[0] <= 40
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other[: len(one), : len(one)])
        windows = np.lib.stride_tricks.sliding_window_view(originals[0], one.shape)
        is_crop = (windows.reshape(-1, *one.shape) == one).all(axis=(1, 2, 3))
        assert is_crop.sum() == 1  # neither mirrored nor scaled
    assert not np.array_equal(epochs[1][0], epochs[2][0])  # in size or in content

    views.set_epoch(1)
    alone = ImageViews(rows.select([2]), 2)
    alone.set_epoch(1)
    np.testing.assert_array_equal(alone[[0]]["image"][0], epochs[1][0])


def copy_weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def follow(trainer):
    """Train, and return the weights before, between and after the steps, and the losses."""
    weights = []
    step = trainer.training_step

    def training_step(model, *args, **kwargs):
        weights.append(copy_weights(model))
        return step(model, *args, **kwargs)

    trainer.training_step = training_step
    trainer.train()
    weights.append(copy_weights(trainer.model))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return weights, losses


def assert_same_steps(ours, theirs, n_steps, atol):
    weights, losses = ours
    expected, expected_losses = theirs
    assert len(weights) == n_steps + 1
    assert len(expected) == n_steps + 1
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

    teacher = None
    teacher_tokenizer = None

    def compute_loss(self, model, inputs, **kwargs):
        english = self.teacher_tokenizer(
            inputs.pop("english"), padding=True, truncation=True, max_length=77, return_tensors="pt"
        )
        with torch.no_grad():
            inputs["target"] = self.teacher.text_model.eval()(**english).pooler_output
        return super().compute_loss(model, inputs, **kwargs)


@pytest.mark.parametrize("dtype,atol", [("float32", 1e-5), ("float16", 1e-3), ("bfloat16", 1e-2)])
def test_stage_1_from_the_cache_equals_the_live_teacher(
    scenes, clip, altclip, miniature, tmp_path, dtype, atol
):
    """Steps are equal one by one, over two epochs of 32 rows in two languages."""
    teacher, processor = clip
    student = altclip
    freeze_all_but(student, ["text_model"])
    start = copy_weights(student)
    arguments = TeacherLearningArguments(
        output_dir=str(tmp_path),
        teacher_name_or_path="",
        text_encoder_name_or_path="",
        dataset="",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        max_steps=8,
        per_device_train_batch_size=16,
        **SGD,
    )
    collator = Collator(AutoTokenizer.from_pretrained(miniature / "text_encoder"), 77)
    targets = teacher_embeddings(scenes, teacher, processor.tokenizer, cache_dir=str(tmp_path), dtype=dtype)
    examples = CaptionExamples(scenes, ["en", "zh"], "target", inputs=targets)
    cached = TeacherLearningTrainer(
        model=student, args=arguments, train_dataset=examples, data_collator=collator
    )
    ours = follow(cached)

    student.load_state_dict(start)
    english = [captions["en"] for captions in scenes["captions"]]
    numbers = Dataset.from_dict({"number": np.arange(32)}).with_format("numpy")
    examples = CaptionExamples(scenes, ["en", "zh"], "number", inputs=numbers)

    def with_english(batch):
        sentences = [english[example["number"]] for example in batch]
        return collator(batch) | {"english": sentences}

    live = LiveTeacher(model=student, args=arguments, train_dataset=examples, data_collator=with_english)
    live.teacher = teacher
    live.teacher_tokenizer = processor.tokenizer
    theirs = follow(live)
    assert_same_steps(ours, theirs, 8, atol)
    if dtype != "float32":  # rounded targets move the losses a little
        _, losses = ours
        _, live_losses = theirs
        assert losses != live_losses


@pytest.fixture
def stage2(altclip, clip, scenes, miniature, tmp_path):
    """Build a trainer of 32 images in one language, from a cache or with the image tower live."""
    start = copy_weights(altclip)
    tokenizer = AutoTokenizer.from_pretrained(miniature / "text_encoder")
    common = {
        "use_cpu": True,
        "disable_tqdm": True,
        "max_steps": 10,
        "per_device_train_batch_size": 8,  # four steps an epoch
        "image_views": 2,
    }

    def stage2(output_dir, *, cached, turning=True, **given):
        altclip.load_state_dict(start)
        freeze_all_but(altclip, ["text_model", "text_projection", "logit_scale"])
        named = {"output_dir": str(tmp_path / output_dir), "model_name_or_path": "", "dataset": ""}
        arguments = ContrastiveArguments(**named, **common, **SGD, **given)

        column = "image"
        inputs = ImageViews(scenes, arguments.image_views)
        if cached:
            column = "image_embeds"
            inputs = image_embeddings(inputs, altclip, clip[1], cache_dir=str(tmp_path / "cache"))
        examples = CaptionExamples(scenes, ["en"], column, inputs=inputs)
        collator = Collator(tokenizer, 77, clip[1].image_processor)
        trainer = ContrastiveTrainer(
            model=altclip, args=arguments, train_dataset=examples, data_collator=collator
        )
        if turning:
            trainer.add_callback(EpochCallback(inputs))
        return trainer

    return stage2


def test_views_from_the_cache_train_like_views_of_the_live_tower(stage2):
    """Three epochs show images as they are, their crops, and images as they are."""
    live = follow(stage2("live", cached=False, save_strategy="no"))
    cached = follow(stage2("cached", cached=True, save_strategy="no"))
    assert_same_steps(cached, live, 10, 1e-5)

    # Without crops the losses part after the first epoch of four steps.
    _, losses = live
    _, losses_without = follow(stage2("plain", cached=True, save_strategy="no", turning=False))
    assert losses_without[:4] == pytest.approx(losses[:4], abs=1e-5)
    assert losses_without[4:] != pytest.approx(losses[4:], abs=1e-4)


def test_a_run_that_goes_on_within_an_epoch_of_crops_takes_the_same_views(stage2, tmp_path):
    whole = stage2("whole", cached=True, save_strategy="steps", save_steps=6)
    weights, _ = follow(whole)
    before = weights[0]
    after = weights[-1]
    assert len([name for name, value in after.items() if not torch.equal(value, before[name])]) > 20

    # Step 6 of four an epoch lies within the epoch of crops.
    shutil.copytree(tmp_path / "whole/checkpoint-6", tmp_path / "resumed/checkpoint-6")
    resumed = stage2("resumed", cached=True, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "resumed/checkpoint-6"))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, after[name]), name


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
            "trainable names visual_projection, whose embeddings are cached",
        ),
    ],
)
def test_arguments_that_contradict_are_refused(tmp_path, given, message):
    named = {"output_dir": str(tmp_path), "model_name_or_path": "", "dataset": ""}
    with pytest.raises(InputError, match=message):
        ContrastiveArguments(**named, use_cpu=True, **given)


def test_a_tokenizer_in_writing_forgets_its_last_call(miniature):
    tokenizer = AutoProcessor.from_pretrained(miniature / "clip").tokenizer
    before = written(tokenizer)
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=4)
    assert written(tokenizer) == before
    assert json.loads(before)["max_length"] == 77
