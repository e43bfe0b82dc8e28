"""What evaluation encodes, once, and keeps."""

import io

import pytest
import torch
from accelerate import PartialState
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from xxhash import xxh3_128

from benchmarks import encoder as encoder_module
from benchmarks.encoder import CachedEncoder, Encoder, hash_weights
from benchmarks.evaluation import hash_data
from benchmarks.loading import load_captions, load_model
from benchmarks.recipe import InputError
from modeling_altclip import embed_images, embed_texts
from modeling_altclip.embedding import mean_of_prompts

from .processes import spawn
from .test_any_model import saved

TEXTS = ["key", "dog face and key", "bell", "key", "umbrella", "红苹果", "fire", "ghost and bell and key"]
NAMES, TEMPLATES = ["key", "红苹果", "bell"], ["a photo of {}.", "{}"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Rows in windows of 25, parts of 4."""
    for name, value in (("WINDOW", 25), ("PART", 4), ("CLASSES", 2)):
        monkeypatch.setattr(encoder_module, name, value)


@pytest.fixture
def scenes(miniature):
    """60 scenes, the last three of them equal to the first."""
    rows = load_captions(str(miniature / "dataset"), "validation")
    return rows.select([*range(57), 0, 1, 2])


@pytest.fixture
def encoded(folder, tmp_path):
    """An encoder that counts what it gives its towers."""
    encoder = CachedEncoder(*load_model(str(folder)), cache_dir=str(tmp_path / "cache"))
    encoder.seen = {"images": 0, "texts": 0}
    for name, kind in (("get_image_features", "images"), ("get_text_features", "texts")):
        plain = getattr(encoder.model, name)

        def forward(plain=plain, kind=kind, **inputs):
            encoder.seen[kind] += len(next(iter(inputs.values())))
            return plain(**inputs)

        setattr(encoder.model, name, forward)
    return encoder


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_are_encoded_once_and_their_columns_kept(encoded, folder, scenes, streaming):
    rows = scenes.to_iterable_dataset(num_shards=3) if streaming else scenes
    vectors, columns, digests = encoded.rows(rows)
    torch.testing.assert_close(
        vectors, embed_images(*load_model(str(folder)), scenes["image"]), atol=1e-6, rtol=1e-5
    )
    assert columns["captions"] == scenes["captions"][:]
    assert "image" not in columns
    assert encoded.seen["images"] == 60  # in windows of 25; equal images lie in different ones
    again = encoded.rows(scenes)
    assert encoded.seen["images"] == 60
    assert torch.equal(again[0], vectors)
    assert again[2] == digests
    assert digests[57:] == digests[:3]
    assert len(set(digests)) == 57


def test_equal_images_of_a_window_are_encoded_once(encoded, scenes):
    rows = scenes.select([0, 1, 0, 1, 0])
    vectors, *_ = encoded.rows(rows)
    assert encoded.seen["images"] == 2
    assert torch.equal(vectors[0], vectors[2])
    assert not torch.equal(vectors[0], vectors[1])


def test_texts_and_classes_are_those_of_the_plain_encoder(encoded, folder):
    model, processor = load_model(str(folder))
    torch.testing.assert_close(
        encoded.texts(TEXTS), embed_texts(model, processor, TEXTS), atol=1e-6, rtol=1e-5
    )
    prompts = [template.format(name) for name in NAMES for template in TEMPLATES]
    expected = mean_of_prompts(embed_texts(model, processor, prompts), 3)
    torch.testing.assert_close(encoded.classes(NAMES, TEMPLATES), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        Encoder(model, processor).classes(NAMES, TEMPLATES), expected, atol=1e-6, rtol=1e-5
    )
    assert encoded.seen["texts"] == 7 + 6
    encoded.texts(TEXTS), encoded.classes(NAMES, TEMPLATES)
    assert encoded.seen["texts"] == 7 + 6
    encoded.classes(NAMES, TEMPLATES[:1])
    assert encoded.seen["texts"] == 7 + 6 + 3


@pytest.mark.parametrize(
    "templates", [["{} and {}"], ["{}", "{c}"], ["{x.__class__}"], ["a {"], ["no slot"], [], "a {}"], ids=repr
)
def test_classes_want_templates_with_one_slot(encoded, folder, templates):
    for encoder in (encoded, Encoder(*load_model(str(folder)))):
        with pytest.raises(InputError, match="has to have {} once|templates: "):
            encoder.classes(NAMES, templates)


def test_vectors_of_any_length(folder, scenes, tmp_path):
    model, processor = load_model(str(folder))
    encoder = CachedEncoder(model, processor, normalize=False, cache_dir=str(tmp_path))
    expected = embed_images(model, processor, scenes["image"], normalize_embeddings=False)
    torch.testing.assert_close(encoder.rows(scenes)[0], expected, atol=1e-6, rtol=1e-5)
    expected = embed_texts(model, processor, TEXTS, normalize_embeddings=False)
    torch.testing.assert_close(encoder.texts(TEXTS), expected, atol=1e-6, rtol=1e-5)
    assert (expected.norm(dim=1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize("change", ["weight", "configuration", "preparation"])
def test_another_model_has_vectors_of_its_own(encoded, folder, scenes, tmp_path, change):
    before = encoded.rows(scenes)[0]
    model, processor = load_model(str(folder))
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
    assert change == "configuration" or not torch.equal(before, after)


def test_the_data_are_told_apart(scenes):
    """By the images in their order and by a language's captions; those of other languages make no difference."""
    digests, captions = [str(row) for row in range(60)], scenes["captions"][:]
    before = hash_data(digests, {"captions": captions}, "en")
    assert before == hash_data(
        digests, {"captions": [caption | {"zh": "其他"} for caption in captions]}, "en"
    )
    others = [
        hash_data(digests[::-1], {"captions": captions}, "en"),
        hash_data(digests, {"captions": captions}, "zh"),
    ]
    changed = [caption | {"en": "other"} if row == 7 else caption for row, caption in enumerate(captions)]
    others += [hash_data(digests, {"captions": changed}, "en"), hash_data(digests, {"label": [0] * 60}, "en")]
    assert len({before, *others}) == 5


def encode_in_two(rank, folder, scenes, out):
    encoder_module.WINDOW, encoder_module.PART, encoder_module.CLASSES = 25, 4, 2
    PartialState(cpu=True)
    encoder, seen = CachedEncoder(*load_model(str(folder)), cache_dir=str(out / "cache")), []
    plain = encoder.model.get_image_features
    encoder.model.get_image_features = lambda **inputs: (
        seen.append(len(inputs["pixel_values"])) or plain(**inputs)
    )
    torch.save(
        (encoder.rows(scenes), encoder.texts(TEXTS), encoder.classes(NAMES, TEMPLATES), sum(seen)),
        out / f"{rank}.pt",
    )


def test_two_processes_get_the_bits_of_one(encoded, folder, scenes, tmp_path):
    encoded.cache_dir = str(tmp_path / "alone")
    spawn(encode_in_two, (folder, scenes, tmp_path), 2)
    alone = encoded.rows(scenes), encoded.texts(TEXTS), encoded.classes(NAMES, TEMPLATES)
    for rank, share in (
        (0, 13 + 13 + 6),
        (1, 12 + 12 + 4),
    ):  # every other part of 4, in windows of 25, 25 and 10
        (vectors, columns, data), texts, classes, n_seen = torch.load(tmp_path / f"{rank}.pt")
        assert n_seen == share
        assert torch.equal(vectors, alone[0][0])
        assert (columns, data) == alone[0][1:]
        assert torch.equal(texts, alone[1])
        assert torch.equal(classes, alone[2])


def test_an_unreadable_image_is_named(encoded):
    good = io.BytesIO()
    PillowImage.new("RGB", (32, 32)).save(good, "PNG")
    features = Features({"image": Image(), "label": Value("int64")})
    images = [{"bytes": good.getvalue(), "path": None}] * 30 + [{"bytes": b"no picture", "path": None}]
    rows = Dataset.from_dict({"image": images, "label": [0] * 31}, features=features)
    digest = xxh3_128(b"no picture").hexdigest()
    message = rf"the image of row 30 \(XXH3-128 {digest}\) cannot be read: Pillow knows no such format. Mend it, or .* --dataset, .* --limit"
    with pytest.raises(InputError, match=message):
        encoded.rows(rows)
    images[30]["path"] = "scenes/30.png"
    with pytest.raises(InputError, match=r"the image of row 30 \(scenes/30.png\) cannot be read"):
        encoded.rows(Dataset.from_dict({"image": images, "label": [0] * 31}, features=features))
    images[30] = {"bytes": None, "path": "no/such.png"}
    with pytest.raises(
        InputError,
        match="the image of row 30 cannot be read: .*No such file.*'no/such.png'. Put it there, or .* --dataset",
    ):
        encoded.rows(Dataset.from_dict({"image": images, "label": [0] * 31}, features=features))
    with pytest.raises(InputError, match="the task has no rows"):
        encoded.rows(rows.select([]))
    none = Dataset.from_dict({"image": images[:3] + [None], "label": [0] * 4}, features=features)
    with pytest.raises(InputError, match="row 3 has no image"):
        encoded.rows(none)


def test_buffers_are_weights():
    """The running statistics of a batch norm decide on vectors."""
    norm = torch.nn.BatchNorm2d(3)
    before = hash_weights(norm)
    norm.running_mean += 1
    assert hash_weights(norm) != before


def test_an_adapted_model_is_known_by_its_settings(tmp_path):
    """How sentence-transformers pools is written in its folder, not in the weights."""
    saved("clip", tmp_path / "clip")
    prints = []
    for note in ("mean", "cls"):
        (tmp_path / "clip/pooling.json").write_text(note)
        prints.append(
            CachedEncoder(
                *load_model(f"sentence_transformers:{tmp_path / 'clip'}"), cache_dir=str(tmp_path)
            ).prepared
        )
    assert prints[0]["text"] != prints[1]["text"]
    assert prints[0]["image"] != prints[1]["image"]


def half_clear(background=None):
    """The bytes of a picture that is clear on its left, or lies on a background there."""
    image = PillowImage.new("RGBA", (32, 32), (200, 30, 60, 255))
    image.paste((0, 90, 0, 0) if background is None else (*background, 255), (0, 0, 16, 32))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def rows_of(*images):
    return Dataset.from_dict({"image": list(images)}, features=Features({"image": Image()}))


def test_transparent_images_are_kept_by_their_background(encoded):
    """What was made on another background, or before there was one, is not read."""
    colors = {"white": (255, 255, 255), "blue": (0, 0, 255), None: (0, 90, 0)}
    for background, color in colors.items():
        encoded.processor.background = background
        again = CachedEncoder(encoded.model, encoded.processor, cache_dir=encoded.cache_dir)
        before = encoded.seen["images"]
        vectors, *_ = again.rows(rows_of(half_clear(), half_clear(color)))
        assert encoded.seen["images"] == before + 2
        torch.testing.assert_close(vectors[0], vectors[1])


@pytest.mark.parametrize(
    "family", ["clip", "chinese_clip", "siglip_2", "siglip_2_naflex", "sentence_transformers"]
)
def test_other_models_see_transparent_images_on_white(tmp_path, family):
    saved("clip" if family == "sentence_transformers" else family, tmp_path / "model")
    prefix = "sentence_transformers:" if family == "sentence_transformers" else ""
    model, processor = load_model(f"{prefix}{tmp_path / 'model'}")
    encoder = CachedEncoder(model, processor, cache_dir=str(tmp_path / "cache"))
    assert encoder.prepared["image"].endswith("on (255, 255, 255)")
    clear, white, black = encoder.rows(
        rows_of(half_clear(), half_clear((255, 255, 255)), half_clear((0, 0, 0)))
    )[0]
    torch.testing.assert_close(clear, white)
    assert not torch.allclose(clear, black, atol=1e-4)


def test_whatever_a_decoder_raises_names_the_row(encoded):
    negative = io.BytesIO()
    PillowImage.fromarray(torch.full((8, 8), -1.0).numpy()).save(negative, "TIFF")
    with pytest.raises(
        InputError,
        match=r"the image of row 1 \(XXH3-128 .*\) cannot be read: its values lie within \[-1.0, -1.0\]",
    ):
        encoded.rows(rows_of(half_clear(), {"bytes": negative.getvalue(), "path": None}))
