"""Evaluation encodes images and texts once, and caches their embeddings."""

import io

import pytest
import torch
from accelerate import PartialState
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from xxhash import xxh3_128

from benchmarks import encoder as encoder_module
from benchmarks.encoder import CachedEncoder, Encoder
from benchmarks.evaluation import hash_data
from common.errors import InputError
from common.files.rows import load_rows
from common.fingerprints import hash_weights
from common.models.loading import load_model
from modeling_altclip import embed_images, embed_texts
from modeling_altclip.embedding import mean_of_prompts

from .processes import spawn
from .test_any_model import saved

TEXTS = ["key", "dog face and key", "bell", "key", "umbrella", "红苹果", "fire", "ghost and bell and key"]
NAMES = ["key", "红苹果", "bell"]
TEMPLATES = ["a photo of {}.", "{}"]


SMALL = {"WINDOW": 25, "PART": 4, "CLASSES": 2}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Read rows in windows of 25, write parts of 4 and encode 2 classes at a time."""
    for name, value in SMALL.items():
        monkeypatch.setattr(encoder_module, name, value)


@pytest.fixture
def scenes(miniature):
    """Return 60 scenes, the last three of them equal to the first three."""
    rows = load_rows(str(miniature / "dataset"), "validation", [])
    return rows.select([*range(57), 0, 1, 2])


@pytest.fixture
def encoded(altclip_folder, tmp_path):
    """Return an encoder that counts the images and texts that its towers encode, in `seen`."""
    encoder = CachedEncoder(*load_model(str(altclip_folder)), cache_dir=str(tmp_path / "cache"))
    encoder.seen = {"images": 0, "texts": 0}
    for name, kind in (("get_image_features", "images"), ("get_text_features", "texts")):
        plain = getattr(encoder.model, name)

        # Both are bound by default values, since the next round of the loop changes them.
        def forward(plain=plain, kind=kind, **inputs):
            encoder.seen[kind] += len(next(iter(inputs.values())))
            return plain(**inputs)

        setattr(encoder.model, name, forward)
    return encoder


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_are_encoded_once_and_their_columns_kept(encoded, altclip_folder, scenes, streaming):
    rows = scenes.to_iterable_dataset(num_shards=3) if streaming else scenes
    vectors, columns, digests = encoded.rows(rows)
    expected = embed_images(*load_model(str(altclip_folder)), scenes["image"])
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=1e-5)
    assert columns["captions"] == scenes["captions"][:]
    assert "image" not in columns
    assert encoded.seen["images"] == 60  # in windows of 25; equal images lie in different ones

    vectors_again, _, digests_again = encoded.rows(scenes)
    assert encoded.seen["images"] == 60
    assert torch.equal(vectors_again, vectors)
    assert digests_again == digests
    assert digests[57:] == digests[:3]
    assert len(set(digests)) == 57


def test_equal_images_of_a_window_are_encoded_once(encoded, scenes):
    rows = scenes.select([0, 1, 0, 1, 0])
    vectors, *_ = encoded.rows(rows)
    assert encoded.seen["images"] == 2
    assert torch.equal(vectors[0], vectors[2])
    assert not torch.equal(vectors[0], vectors[1])


def test_texts_and_classes_are_those_of_the_plain_encoder(encoded, altclip_folder):
    model, processor = load_model(str(altclip_folder))
    expected = embed_texts(model, processor, TEXTS)
    torch.testing.assert_close(encoded.texts(TEXTS), expected, atol=1e-6, rtol=1e-5)

    prompts = [template.format(name) for name in NAMES for template in TEMPLATES]
    expected = mean_of_prompts(embed_texts(model, processor, prompts), 3)
    plain_encoder = Encoder(model, processor)
    for encoder in (encoded, plain_encoder):
        torch.testing.assert_close(encoder.classes(NAMES, TEMPLATES), expected, atol=1e-6, rtol=1e-5)

    # 7 distinct texts, and 3 names in 2 templates; then nothing anew; then 3 names in 1 template.
    assert encoded.seen["texts"] == 7 + 6
    encoded.texts(TEXTS)
    encoded.classes(NAMES, TEMPLATES)
    assert encoded.seen["texts"] == 7 + 6
    encoded.classes(NAMES, TEMPLATES[:1])
    assert encoded.seen["texts"] == 7 + 6 + 3


@pytest.mark.parametrize(
    "templates", [["{} and {}"], ["{}", "{c}"], ["{x.__class__}"], ["a {"], ["no slot"], [], "a {}"], ids=repr
)
def test_classes_want_templates_with_one_slot(encoded, altclip_folder, templates):
    for encoder in (encoded, Encoder(*load_model(str(altclip_folder)))):
        with pytest.raises(InputError, match="has to have {} or {label} once|templates: "):
            encoder.classes(NAMES, templates)


def test_vectors_of_any_length(altclip_folder, scenes, tmp_path):
    model, processor = load_model(str(altclip_folder))
    encoder = CachedEncoder(model, processor, normalize=False, cache_dir=str(tmp_path))
    expected = embed_images(model, processor, scenes["image"], normalize_embeddings=False)
    torch.testing.assert_close(encoder.rows(scenes)[0], expected, atol=1e-6, rtol=1e-5)

    expected = embed_texts(model, processor, TEXTS, normalize_embeddings=False)
    torch.testing.assert_close(encoder.texts(TEXTS), expected, atol=1e-6, rtol=1e-5)
    assert (expected.norm(dim=1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize("change", ["weight", "configuration", "preparation"])
def test_another_model_has_vectors_of_its_own(encoded, altclip_folder, scenes, tmp_path, change):
    before = encoded.rows(scenes)[0]
    model, processor = load_model(str(altclip_folder))
    if change == "weight":
        with torch.no_grad():
            model.visual_projection.weight[0, 0] += 1
    elif change == "configuration":
        model.config.vision_config.hidden_act = "relu"
    else:
        processor.image_processor.do_normalize = False

    other = CachedEncoder(model, processor, cache_dir=str(tmp_path / "cache"))
    folders = set((tmp_path / "cache").iterdir())
    after = other.rows(scenes)[0]
    assert set((tmp_path / "cache").iterdir()) > folders
    # An activation is chosen when a model is built: to change it in the configuration alone has no effect.
    if change != "configuration":
        assert not torch.equal(before, after)


def test_the_data_are_told_apart(scenes):
    """Hash the images in their order and the captions of one language, not those of other languages."""
    digests = [str(row) for row in range(60)]
    captions = scenes["captions"][:]
    before = hash_data(digests, {"captions": captions}, "en")
    with_other_chinese = [caption | {"zh": "其他"} for caption in captions]
    assert before == hash_data(digests, {"captions": with_other_chinese}, "en")

    with_other_english = list(captions)
    with_other_english[7] = captions[7] | {"en": "other"}
    others = {
        hash_data(digests[::-1], {"captions": captions}, "en"),
        hash_data(digests, {"captions": captions}, "zh"),
        hash_data(digests, {"captions": with_other_english}, "en"),
        hash_data(digests, {"label": [0] * 60}, "en"),
    }
    assert len({before, *others}) == 5


def encode_in_two(rank, folder, scenes, out):
    """Encode in one of two processes; save the results with the number of images that it encoded."""
    for name, value in SMALL.items():  # fixtures do not reach other processes
        setattr(encoder_module, name, value)
    PartialState(cpu=True)
    encoder = CachedEncoder(*load_model(str(folder)), cache_dir=str(out / "cache"))
    seen = []
    plain = encoder.model.get_image_features

    def counted(**inputs):
        seen.append(len(inputs["pixel_values"]))
        return plain(**inputs)

    encoder.model.get_image_features = counted
    results = {
        "rows": encoder.rows(scenes),
        "texts": encoder.texts(TEXTS),
        "classes": encoder.classes(NAMES, TEMPLATES),
        "n_seen": sum(seen),
    }
    torch.save(results, out / f"{rank}.pt")


def test_two_processes_get_the_bits_of_one(encoded, altclip_folder, scenes, tmp_path):
    encoded.cache_dir = str(tmp_path / "alone")
    spawn(encode_in_two, (altclip_folder, scenes, tmp_path), 2)
    vectors_alone, columns_alone, digests_alone = encoded.rows(scenes)
    texts_alone = encoded.texts(TEXTS)
    classes_alone = encoded.classes(NAMES, TEMPLATES)

    # Each process encodes every other part of 4, in windows of 25, 25 and 10.
    shares = [13 + 13 + 6, 12 + 12 + 4]
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        assert results["n_seen"] == shares[rank]
        vectors, columns, digests = results["rows"]
        assert torch.equal(vectors, vectors_alone)
        assert columns == columns_alone
        assert digests == digests_alone
        assert torch.equal(results["texts"], texts_alone)
        assert torch.equal(results["classes"], classes_alone)


def test_an_unreadable_image_is_named(encoded):
    good = io.BytesIO()
    PillowImage.new("RGB", (32, 32)).save(good, "PNG")
    # Row 30 is in the second window of 25: rows are counted from the first of all.
    images = [{"bytes": good.getvalue(), "path": None}] * 30

    def rows_ending_in(image):
        columns = {"image": [*images, image], "label": [0] * 31}
        return Dataset.from_dict(columns, Features({"image": Image(), "label": Value("int64")}))

    # Without a path, the image is named by its digest.
    digest = xxh3_128(b"no picture").hexdigest()
    message = (
        rf"the image of row 30 \(XXH3-128 {digest}\) cannot be read: Pillow knows no such format. "
        "Fix it, or .* --dataset, .* --limit"
    )
    with pytest.raises(InputError, match=message):
        encoded.rows(rows_ending_in({"bytes": b"no picture", "path": None}))
    with pytest.raises(InputError, match=r"the image of row 30 \(scenes/30.png\) cannot be read"):
        encoded.rows(rows_ending_in({"bytes": b"no picture", "path": "scenes/30.png"}))

    message = (
        "the image of row 30 cannot be read: .*No such file.*'no/such.png'. Put it there, or .* --dataset"
    )
    with pytest.raises(InputError, match=message):
        encoded.rows(rows_ending_in({"bytes": None, "path": "no/such.png"}))
    with pytest.raises(InputError, match="row 30 has no image"):
        encoded.rows(rows_ending_in(None))
    with pytest.raises(InputError, match="the task has no rows"):
        encoded.rows(rows_ending_in(None).select([]))


def test_buffers_are_weights():
    """Running statistics of a batch norm change embeddings."""
    norm = torch.nn.BatchNorm2d(3)
    before = hash_weights(norm)
    norm.running_mean += 1
    assert hash_weights(norm) != before


def test_an_adapted_model_is_known_by_its_settings(tmp_path):
    """sentence-transformers writes its pooling into the folder, not into the weights."""
    saved("clip", tmp_path / "clip")
    prepared = []
    for pooling in ("mean", "cls"):
        (tmp_path / "clip/pooling.json").write_text(pooling)
        model, processor = load_model(f"sentence_transformers:{tmp_path / 'clip'}")
        prepared.append(CachedEncoder(model, processor, cache_dir=str(tmp_path)).prepared)
    assert prepared[0]["text"] != prepared[1]["text"]
    assert prepared[0]["image"] != prepared[1]["image"]


def half_clear(background=None):
    """Draw a picture whose left half is transparent, or has the color of a background."""
    left = (0, 90, 0, 0) if background is None else (*background, 255)
    image = PillowImage.new("RGBA", (32, 32), (200, 30, 60, 255))
    image.paste(left, (0, 0, 16, 32))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def rows_of(*images):
    return Dataset.from_dict({"image": list(images)}, features=Features({"image": Image()}))


def test_transparent_images_are_kept_by_their_background(encoded):
    """Embeddings made on another background, or before there was one, are not read from the cache."""
    colors = {"white": (255, 255, 255), "blue": (0, 0, 255), None: (0, 90, 0)}
    for background, color in colors.items():
        encoded.processor.background = background
        again = CachedEncoder(encoded.model, encoded.processor, cache_dir=encoded.cache_dir)
        before = encoded.seen["images"]
        # A transparent half equals one of the background's color; without a background, its hidden color
        # shows.
        vectors, *_ = again.rows(rows_of(half_clear(), half_clear(color)))
        assert encoded.seen["images"] == before + 2
        torch.testing.assert_close(vectors[0], vectors[1])


@pytest.mark.parametrize(
    "family", ["clip", "chinese_clip", "siglip_2", "siglip_2_naflex", "sentence_transformers"]
)
def test_other_models_see_transparent_images_on_white(tmp_path, family):
    name = str(tmp_path / "model")
    if family == "sentence_transformers":
        saved("clip", tmp_path / "model")
        name = f"sentence_transformers:{name}"
    else:
        saved(family, tmp_path / "model")
    model, processor = load_model(name)
    encoder = CachedEncoder(model, processor, cache_dir=str(tmp_path / "cache"))
    assert encoder.prepared["image"].endswith("on (255, 255, 255)")

    rows = rows_of(half_clear(), half_clear((255, 255, 255)), half_clear((0, 0, 0)))
    clear, white, black = encoder.rows(rows)[0]
    torch.testing.assert_close(clear, white)
    assert not torch.allclose(clear, black, atol=1e-4)


def test_whatever_a_decoder_raises_names_the_row(encoded):
    negative = io.BytesIO()
    PillowImage.fromarray(torch.full((8, 8), -1.0).numpy()).save(negative, "TIFF")
    rows = rows_of(half_clear(), {"bytes": negative.getvalue(), "path": None})
    message = r"the image of row 1 \(XXH3-128 .*\) cannot be read: its values lie within \[-1.0, -1.0\]"
    with pytest.raises(InputError, match=message):
        encoded.rows(rows)


def test_embeddings_that_are_not_finite_are_refused_in_one_line(altclip_folder, scenes, tmp_path):
    model, processor = load_model(str(altclip_folder))
    with torch.no_grad():
        model.text_projection.weight.fill_(torch.nan)
        model.visual_projection.weight.fill_(torch.nan)
    encoder = CachedEncoder(model, processor, cache_dir=str(tmp_path / "cache"))
    for encode in (
        lambda: encoder.texts(TEXTS),
        lambda: encoder.classes(NAMES, TEMPLATES),
        lambda: encoder.rows(scenes),
    ):
        with pytest.raises(InputError, match=r"^the embedding of (texts|images)\[0\] is not finite: "):
            encode()
