"""Teachers of texts alone: their targets, the image side beside them, and what is refused."""

import json
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import load_dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers.normalizers import Lowercase
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from benchmarks import load_model
from common.errors import InputError
from common.models.adapter import AdaptedModel, AdaptedProcessor, AdaptedTokenizer
from common.models.libraries import source_of
from common.models.loading import load_texts
from modeling_altclip import AltCLIPDualEncoderModel, embed_texts
from training import ContrastiveArguments, TeacherLearningArguments, teacher_embeddings
from training.jobs import stage1, stage2
from training.teachers import SHARED

from .families import (
    QUICK,
    load_tokenizer_of,
    save_image_encoder,
    save_sentence_encoder,
    save_student,
    save_teacher,
)


@pytest.fixture
def tokenizer(miniature):
    return load_tokenizer_of(miniature)


@pytest.fixture
def rows(miniature):
    return load_dataset(str(miniature / "dataset"), split="validation").select(range(6))


@pytest.fixture
def given(miniature, tokenizer, tmp_path):
    """Return arguments of a stage 1 whose teacher is a sentence encoder, beside a CLIP's image side."""
    return QUICK | {
        "teacher_name_or_path": save_sentence_encoder(tmp_path / "sentences", tokenizer),
        "image_model_name_or_path": save_teacher("clip", tmp_path / "clip", load_tokenizer_of(miniature)),
        "text_encoder_name_or_path": save_student("bert", tmp_path / "bert", tokenizer),
        "dataset": str(miniature / "dataset"),
        "output_dir": str(tmp_path / "out"),
    }


def targets_of(name, rows, folder):
    model, tokenizer = load_texts(name, argument="teacher_name_or_path")
    return teacher_embeddings(rows, model, tokenizer, space=SHARED, cache_dir=str(folder))


@pytest.mark.parametrize("normalize", [True, False])
def test_targets_are_what_the_library_encodes(normalize, rows, tokenizer, tmp_path):
    name = save_sentence_encoder(tmp_path / "sentences", tokenizer, normalize=normalize)
    texts = [caption["en"] for caption in rows["captions"]]
    found = torch.as_tensor(targets_of(name, rows, tmp_path / "cache")[range(len(rows))]["target"])
    theirs = SentenceTransformer(source_of(name), device="cpu")
    expected = theirs.encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    has_unit_length = torch.allclose(found.norm(dim=1), torch.ones(len(rows)), atol=1e-4)
    assert has_unit_length == normalize
    # The prompt is part of them.
    assert not torch.allclose(found, theirs.encode(texts, prompt="", convert_to_tensor=True), atol=1e-3)


def test_a_teacher_of_static_embeddings_has_no_longest_text(rows, tokenizer, tmp_path):
    torch.manual_seed(0)
    table = StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=24)
    SentenceTransformer(modules=[table], device="cpu").save_pretrained(str(tmp_path / "static"))
    column = targets_of(f"sentence_transformers:{tmp_path / 'static'}", rows, tmp_path / "cache")
    texts = [caption["en"] for caption in rows["captions"]]
    expected = SentenceTransformer(str(tmp_path / "static"), device="cpu").encode(texts)
    torch.testing.assert_close(column[range(len(rows))]["target"], expected, rtol=0, atol=1e-6)


def test_equal_weights_alone_share_no_cache(rows, tokenizer, tmp_path):
    """A cache knows what a library does with texts, and not where the model lies."""
    options = [
        {},
        {"pooling": "cls"},
        {"prompt": "dog "},
        {"length": 12},
        {"normalize": False},
    ]
    lowered = in_lower_case(tokenizer)
    folders = []
    for number, given in enumerate([*options, {}]):
        name = save_sentence_encoder(tmp_path / f"sentences-{number}", tokenizer, **given)
        folders.append(targets_of(name, rows, tmp_path / "cache").folder)
    name = save_sentence_encoder(tmp_path / "lowered", lowered)
    folders.append(targets_of(name, rows, tmp_path / "cache").folder)
    first, *others, again, of_lowered = folders
    assert again == first
    assert len({first, *others, of_lowered}) == len(options) + 1


def in_lower_case(tokenizer):
    """Return a tokenizer that lowers the case of texts, and does no more to them."""
    lowered = deepcopy(tokenizer)
    lowered.backend_tokenizer.normalizer = Lowercase()
    return lowered


def test_a_model_of_a_library_is_read_from_a_folder_or_repository(tmp_path):
    assert source_of("openai/clip-vit-base-patch32") == "openai/clip-vit-base-patch32"
    assert source_of("sentence_transformers:intfloat/e5") == "intfloat/e5"
    assert source_of("open_clip:hf-hub:laion/x") == "laion/x"
    assert source_of("open_clip:ViT-B-32/openai") == "open_clip:ViT-B-32/openai"
    assert source_of(f"open_clip:{tmp_path}") == str(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_model_name_or_path": None}, "image_model_name_or_path is missing: the teacher 'sentence_tr"),
        (
            {"teacher_name_or_path": "openai/clip"},
            "image_model_name_or_path is 'images', and .* image tower of its teacher 'openai/clip': leave it",
        ),
        (
            {"text_encoder_name_or_path": None, "model_name_or_path": "finished"},
            "image_model_name_or_path is 'images', and model_name_or_path is a finished model",
        ),
        ({"teacher_name_or_path": "m_clip:a+b"}, "do not teach texts alone: choose from sentence_transf"),
        ({"teacher_name_or_path": "openclip:ViT"}, "has an unknown prefix"),
    ],
)
def test_an_image_model_goes_with_a_teacher_of_texts_alone(changed, message):
    given = {
        "teacher_name_or_path": "sentence_transformers:a",
        "image_model_name_or_path": "images",
        "text_encoder_name_or_path": "b",
    }
    with pytest.raises(InputError, match=message):
        TeacherLearningArguments(dataset="d", output_dir="o", **given | changed)


def test_two_spaces_of_different_widths_are_refused(given, tokenizer, tmp_path):
    name = save_sentence_encoder(tmp_path / "wide", tokenizer, dim=40)
    with pytest.raises(
        InputError, match=r"wide' gives embeddings of 40 values, and image_model.*clip' of 24"
    ):
        stage1.main(TeacherLearningArguments(**given | {"teacher_name_or_path": name}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_model_name_or_path": "bert"}, "image_model_name_or_path .* of the type 'bert': give a CLIP"),
        (
            {"teacher_name_or_path": "sentence_transformers:/no/such/folder"},
            "teacher_name_or_path .* cannot be loaded",
        ),
        ({"teacher_name_or_path": "sentences+clip"}, r"teaches texts alone: leave out \+"),
        (
            {"model_name_or_path": "altclip_folder", "text_encoder_name_or_path": None},
            "model_name_or_path .* of the type 'altclip': give a dual encoder",
        ),
    ],
)
def test_bad_models_are_refused(changed, message, given, altclip_folder, tmp_path):
    folders = {
        "bert": given["text_encoder_name_or_path"],
        "altclip_folder": str(altclip_folder),
        "sentences+clip": f"{given['teacher_name_or_path']}+{given['image_model_name_or_path']}",
    }
    for argument, name in changed.items():
        given[argument] = folders.get(name, name)
    if "model_name_or_path" in changed:
        given["image_model_name_or_path"] = None
    with pytest.raises(InputError, match=message):
        stage1.main(TeacherLearningArguments(**given))


def test_evaluation_refuses_a_model_without_images(given):
    with pytest.raises(InputError, match="reads no images: add one that does"):
        load_model(given["teacher_name_or_path"])


def test_a_dry_run_says_where_images_come_from(given, capsys, tmp_path):
    stage1.main(TeacherLearningArguments(**given, dry_run=True))
    printed = capsys.readouterr().out
    student = AltCLIPDualEncoderModel.from_teacher(
        given["image_model_name_or_path"], given["text_encoder_name_or_path"]
    )
    assert f"{sum(parameter.numel() for parameter in student.parameters()):,}" in printed
    assert "has to give 24 values a text" in printed
    assert "UNTRAINED" not in printed

    given["image_model_name_or_path"] = save_image_encoder(tmp_path / "vit")
    stage1.main(TeacherLearningArguments(**given, dry_run=True))
    printed = capsys.readouterr().out
    assert "its projection is new and UNTRAINED: stage 2 has to learn it" in printed
    # The width of the projections is the teacher's, which nothing but the teacher states.
    for projection in ("text_projection", "visual_projection"):
        assert f"{projection} {32 * 24}" in printed


def test_a_student_of_a_sentence_encoder_has_another_models_image_side(given):
    stage1.main(TeacherLearningArguments(**given))
    record = json.loads(Path(given["output_dir"], "run.json").read_text("utf-8"))
    models = [source["name"] for source in record["sources"] if source["role"] == "model"]
    assert models == ["sentences", "clip", "bert"]
    student, processor = load_model(given["output_dir"])
    assert student.config.model_type == "altclip_dual_encoder"
    clip, _ = load_model(given["image_model_name_or_path"])
    assert torch.equal(student.visual_projection.weight, clip.visual_projection.weight)
    assert student.logit_scale == clip.logit_scale
    assert embed_texts(student, processor, ["a dog"]).shape == (1, 24)


@pytest.mark.slow
def test_validation_compares_with_the_teachers_texts_and_the_other_models_images(given):
    stage1.main(
        TeacherLearningArguments(**given, validation_split="validation", eval_strategy="steps", eval_steps=2)
    )
    log = json.loads(Path(given["output_dir"], "trainer_state.json").read_text("utf-8"))["log_history"]
    (lost,) = [entry["eval_english_lost"] for entry in log if "eval_english_lost" in entry]
    assert -1 < lost < 1


@pytest.mark.slow
def test_an_image_encoder_alone_is_left_to_stage_2(given, miniature, capsys, tmp_path):
    given["image_model_name_or_path"] = save_image_encoder(tmp_path / "vit")
    stage1.main(TeacherLearningArguments(**given))
    assert "its projection is new and UNTRAINED" in capsys.readouterr().out
    with pytest.raises(InputError, match="whose projection stage 1 leaves untrained: leave out validation"):
        stage1.main(
            TeacherLearningArguments(
                **given | {"output_dir": str(tmp_path / "validated")},
                validation_split="validation",
                eval_strategy="steps",
            )
        )

    second = QUICK | {"dataset": given["dataset"], "output_dir": str(tmp_path / "second")}
    second |= {"model_name_or_path": given["output_dir"], "trainable": ["visual_projection", "logit_scale"]}
    stage2.main(ContrastiveArguments(**second, learning_rate=1e-2))
    assert "both towers run once" in capsys.readouterr().out
    before = load_model(given["output_dir"])[0].visual_projection.weight
    after = load_model(second["output_dir"])[0].visual_projection.weight
    assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.slow
def test_a_finished_model_learns_another_language_from_a_teacher_of_texts(given, tmp_path):
    stage1.main(TeacherLearningArguments(**given))
    more = given | {"model_name_or_path": given["output_dir"], "text_encoder_name_or_path": None}
    more |= {
        "image_model_name_or_path": None,
        "languages": ["ru"],
        "output_dir": str(tmp_path / "more"),
    }
    stage1.main(
        TeacherLearningArguments(
            **more, replay=0.5, validation_split="validation", eval_strategy="steps", learning_rate=1e-3
        )
    )
    before, after = [load_model(folder)[0] for folder in (given["output_dir"], more["output_dir"])]
    assert torch.equal(after.visual_projection.weight, before.visual_projection.weight)
    assert not torch.allclose(after.text_projection.weight, before.text_projection.weight, atol=1e-5)


class _Letters(AdaptedModel):
    """A model of open_clip as its adapter makes one: it counts letters, and projects the counts."""

    def __init__(self):
        super().__init__()
        self.config = PreTrainedConfig()
        torch.manual_seed(0)
        self.project = torch.nn.Linear(26, 24)

    def get_text_features(self, input_ids):
        counts = torch.nn.functional.one_hot(input_ids, 27)[..., :26].sum(dim=1)
        return BaseModelOutputWithPooling(pooler_output=self.project(counts.float()))


def letters_of(texts):
    ids = torch.full((len(texts), 40), 26)
    for row, text in enumerate(texts):
        letters = [ord(letter) - 97 for letter in text.lower() if "a" <= letter <= "z"][:40]
        ids[row, : len(letters)] = torch.tensor(letters)
    return {"input_ids": ids}


def test_a_model_of_open_clip_teaches_by_its_adapter(given, rows, monkeypatch, tmp_path):
    """The library is not needed for the road behind its adapter."""
    named = []

    def load(name):
        named.append(name)
        return _Letters(), AdaptedProcessor(AdaptedTokenizer(letters_of, 40, settings=name), None)

    monkeypatch.setitem(sys.modules, "common.models.from_open_clip", SimpleNamespace(load=load))
    given["teacher_name_or_path"] = "open_clip:ViT-B-32/laion2b"
    found = torch.as_tensor(
        targets_of(given["teacher_name_or_path"], rows, tmp_path / "cache")[[0, 3]]["target"]
    )
    with torch.no_grad():
        texts = [rows[number]["captions"]["en"] for number in (0, 3)]
        expected = _Letters().get_text_features(**letters_of(texts)).pooler_output
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    stage1.main(TeacherLearningArguments(**given))
    assert named == ["ViT-B-32/laion2b"] * 2
    assert load_model(given["output_dir"])[0].config.projection_dim == 24
