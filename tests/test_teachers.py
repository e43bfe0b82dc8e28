"""Any teacher and any text encoder make a student: what it takes over, what it learns, what comes out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    Qwen3Config,
    SiglipConfig,
    T5Config,
    ViTConfig,
    pipeline,
)

from benchmarks import load_model
from benchmarks.encoder import Encoder
from benchmarks.retrieval import evaluate_retrieval
from common.errors import InputError
from modeling_altclip import (
    AltCLIPConfig,
    AltCLIPDualEncoderConfig,
    AltCLIPDualEncoderModel,
    AltCLIPModel,
    AltCLIPProcessor,
    embed_images,
    embed_texts,
)
from modeling_altclip.towers_altclip import load_text_config, set_dropout
from training import ContrastiveArguments, TeacherLearningArguments, teacher_embeddings
from training.freezing import freeze_all_but
from training.jobs import stage1, stage2
from training.student import build_student
from training.teachers import SHARED, join, space_of

from .families import (
    QUICK,
    STUDENTS,
    T5,
    TEACHERS,
    TEXT,
    VISION,
    load_tokenizer_of,
    save_sentence_encoder,
    save_student,
    save_teacher,
)

TEXTS = ["a dog", "a red apple and a key", "scissors"]
SENTENCES = "sentences"  # a teacher of texts alone, beside a CLIP's image side and a user's image vectors


@pytest.fixture
def saved(miniature, tmp_path):
    """Return a function that saves a teacher or a student by its name, and returns its folder.

    Of the sentence encoder it returns the name as a teacher, before which the library stands.
    """

    def save(name):
        if name == SENTENCES:
            return save_sentence_encoder(tmp_path / name, load_tokenizer_of(miniature))
        writer = save_teacher if name in TEACHERS else save_student
        return writer(name, tmp_path / name, load_tokenizer_of(miniature))

    return save


@pytest.fixture
def train(miniature, tmp_path):
    """Return a function that runs a stage on the miniature's data, and returns the folder of the model."""

    def train(job, name, **given):
        arguments_class = TeacherLearningArguments if job is stage1 else ContrastiveArguments
        output_dir = str(tmp_path / name)
        given = QUICK | {"dataset": str(miniature / "dataset"), "output_dir": output_dir} | given
        job.main(arguments_class(**given))
        return output_dir

    return train


def distance(found, expected):
    """Return how far embeddings are apart, by their length: single values depend on the processor."""
    return ((found - expected).norm() / expected.norm()).item()


def pixels_of(processor, image):
    return processor.image_processor(images=[image], return_tensors="pt")


@pytest.mark.parametrize("name", TEACHERS)
def test_a_student_has_its_teachers_image_side(name, saved, miniature):
    teacher, processor = load_model(saved(name))
    student = AltCLIPDualEncoderModel.from_teacher(saved(name), saved("bert")).eval()
    image = load_dataset(str(miniature / "dataset"), split="validation")[0]["image"]
    pixels = pixels_of(processor, image)
    with torch.no_grad():
        expected = teacher.get_image_features(**pixels).pooler_output
        found = student.get_image_features(**pixels).pooler_output
    assert distance(found, expected) < 1e-6
    assert student.logit_scale.item() == teacher.logit_scale.item()
    if "siglip" in teacher.config.model_type:
        assert student.logit_bias.item() == teacher.logit_bias.item()
    else:
        assert student.logit_bias is None
    assert student.config.projection_dim == expected.shape[1]


@pytest.mark.parametrize("name", TEACHERS)
def test_targets_are_the_teachers_own_features(name, saved, miniature, tmp_path):
    teacher, processor = load_model(saved(name))
    rows = load_dataset(str(miniature / "dataset"), split="validation").select(range(6))
    column = teacher_embeddings(rows, teacher, processor.tokenizer, space=SHARED, cache_dir=str(tmp_path))
    padding = {"padding": "max_length", "max_length": 64} if "siglip" in teacher.config.model_type else {}
    # One at a time: SigLIP's texts are padded to one length, which it attends to, and others not at all.
    for row, target in zip(rows, column[range(6)]["target"]):
        inputs = processor.tokenizer(row["captions"]["en"], return_tensors="pt", truncation=True, **padding)
        if padding:
            inputs.pop("attention_mask", None)
        with torch.no_grad():
            expected = teacher.get_text_features(**inputs).pooler_output[0]
        assert distance(torch.as_tensor(target), expected) < 1e-6


def test_another_text_side_makes_the_cache_anew(saved, miniature, tmp_path):
    teacher, processor = load_model(saved("clip"))
    rows = load_dataset(str(miniature / "dataset"), split="validation").select(range(6))

    def targets(space):
        given = {} if space is None else {"space": space}
        column = teacher_embeddings(rows, teacher, processor.tokenizer, cache_dir=str(tmp_path), **given)
        return torch.as_tensor(column[[0]]["target"])

    before = targets(SHARED)
    teacher.text_projection.weight.data.mul_(2)
    assert torch.allclose(targets(SHARED), 2 * before)
    assert targets(None).shape[1] != before.shape[1]


@pytest.mark.parametrize(
    ("name", "pooling"),
    {
        "xlm-r": "cls",
        "bert": "cls",
        "modernbert": "cls",
        "t5": "mean",
        "t5-encoder": "mean",
        "nllb": "mean",
        "qwen3": "last",
    }.items(),
)
def test_a_student_is_saved_whole(name, pooling, saved, tmp_path):
    torch.manual_seed(0)
    student = AltCLIPDualEncoderModel.from_teacher(saved("siglip"), saved(name)).eval()
    assert student.config.text_pooling == pooling
    assert not isinstance(student.visual_projection, torch.nn.Linear)
    student.save_pretrained(tmp_path / "student")
    again = AutoModel.from_pretrained(tmp_path / "student")
    assert again.state_dict().keys() == student.state_dict().keys()
    for key, weight in student.state_dict().items():
        assert torch.equal(again.state_dict()[key], weight), key

    # Padding changes nothing, and words do.
    ids = torch.tensor([[0, 11, 12, 13, 2], [0, 21, 22, 23, 2]])
    mask = torch.ones_like(ids)
    padded = torch.cat([ids, torch.ones_like(ids)], dim=1)
    with torch.no_grad():
        alone = student.get_text_features(ids, mask).pooler_output
        beside = student.get_text_features(padded, torch.cat([mask, 0 * mask], dim=1)).pooler_output
    assert torch.allclose(alone, beside, rtol=0, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], rtol=0, atol=1e-3)


def test_the_encoder_keeps_its_weights(saved):
    """T5's and NLLB's are taken out of models with a decoder."""
    for name in ("t5", "nllb"):
        whole = AutoModel.from_pretrained(saved(name)).get_encoder()
        student = AltCLIPDualEncoderModel.from_teacher(saved("clip"), saved(name))
        tower = student.text_model.encoder.state_dict()
        assert tower.keys() == whole.state_dict().keys()
        for key, weight in whole.state_dict().items():
            assert torch.equal(tower[key], weight), key


@pytest.mark.parametrize(
    ("head", "norm", "n_layers"), [("linear", False, 1), ("mlp", False, 3), ("mlp", True, 4)]
)
def test_a_head_has_the_layers_that_are_asked_for(head, norm, n_layers, saved, tmp_path):
    student = AltCLIPDualEncoderModel.from_teacher(
        saved("siglip"), saved("bert"), text_head=head, text_head_norm=norm
    )
    layers = list(student.text_projection.modules())
    assert len(layers) == (1 if n_layers == 1 else n_layers + 1)  # the row of them counts as one
    student.save_pretrained(tmp_path / "student")
    again = AutoModel.from_pretrained(tmp_path / "student")
    assert str(again.text_projection) == str(student.text_projection)


def test_which_type_comes_out():
    teacher = {name: TEACHERS[name][1]() for name in ("clip", "siglip")}
    encoder = {name: STUDENTS[name][1]() for name in ("xlm-r", "bert")}
    assert isinstance(join(teacher["clip"], encoder["xlm-r"]), AltCLIPConfig)
    for names, given in (
        (("clip", "bert"), {}),
        (("siglip", "xlm-r"), {}),
        (("clip", "xlm-r"), {"text_pooling": "mean"}),
        (("clip", "xlm-r"), {"text_head": "mlp"}),
    ):
        config = join(teacher[names[0]], encoder[names[1]], **given)
        assert isinstance(config, AltCLIPDualEncoderConfig)
        assert space_of(config) is SHARED


def test_dropout_is_that_of_every_family():
    for config in (BertConfig(), T5Config(), Qwen3Config()):
        set_dropout(config, 0.25)
        values = {name: value for name, value in config.to_dict().items() if "dropout" in name}
        values.pop("classifier_dropout", None)
        assert set(values.values()) == {0.25}, values
    with pytest.raises(ValueError, match="dropout is 0.1, but a 'siglip' has none: set it to 0"):
        set_dropout(SiglipConfig(text_config={}, vision_config={}), 0.1)


def test_an_encoder_that_was_saved_alone_is_taken_for_what_it_is(saved):
    assert load_text_config(saved("t5-encoder")).is_encoder_decoder
    assert not load_text_config(saved("bert")).is_encoder_decoder


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text_head": "deep"}, "text_head is 'deep': choose from linear, mlp"),
        ({"image_projection": False, "projection_dim": 8}, "projection_dim is 8, and the image tower"),
    ],
)
def test_bad_configurations_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        AltCLIPDualEncoderConfig(text_config=BertConfig(**TEXT), vision_config=ViTConfig(**VISION), **given)


def test_what_is_no_teacher_is_refused(saved):
    with pytest.raises(ValueError, match="a 'bert' is no teacher whose image tower can be taken over"):
        AltCLIPDualEncoderModel.from_teacher(saved("bert"), saved("xlm-r"))
    with pytest.raises(InputError, match="make no student: a 't5' is no teacher"):
        join(T5Config(**T5), BertConfig(**TEXT))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text_head": "deep"}, "text_head is 'deep': choose linear or mlp"),
        (
            {"model_name_or_path": "a", "text_encoder_name_or_path": None, "text_pooling": "mean"},
            "text_pooling is of a new text tower, .* which has its own: leave it out",
        ),
        (
            {"model_name_or_path": "a", "text_encoder_name_or_path": None, "text_head_norm": True},
            "text_head_norm is of a new text tower, .* which has its own: leave it out",
        ),
    ],
)
def test_bad_arguments_are_refused(given, message, tmp_path):
    given = {"teacher_name_or_path": "a", "text_encoder_name_or_path": "b"} | given
    with pytest.raises(InputError, match=message):
        TeacherLearningArguments(dataset="d", output_dir=str(tmp_path), **given)


def check_outcome(folder, teacher):
    """Check that a folder has a model that sees as its teacher does, and serves embeddings and a pipeline."""
    model, processor = load_model(folder)
    pictures = [Image.new("RGB", (40, 50), color) for color in ("red", "blue")]
    expected = embed_images(*load_model(teacher), pictures)
    assert torch.allclose(embed_images(model, processor, pictures), expected, rtol=0, atol=1e-5)
    assert embed_texts(model, processor, TEXTS).shape == (3, expected.shape[1])
    scores = pipeline("zero-shot-image-classification", model=folder)(pictures, ["a dog", "a key"])
    assert [len(of_one) for of_one in scores] == [2, 2]
    return embed_texts(model, processor, TEXTS)


def test_both_stages_of_a_siglip_and_a_bert(saved, train):
    """The quick one of the matrix below; and the finished model learns one more language."""
    teacher = saved("siglip")
    first = train(stage1, "first", teacher_name_or_path=teacher, text_encoder_name_or_path=saved("bert"))
    assert isinstance(load_model(first)[0], AltCLIPDualEncoderModel)
    before = check_outcome(first, teacher)
    second = train(stage2, "second", model_name_or_path=first, loss="sigmoid")
    assert not torch.equal(check_outcome(second, teacher), before)

    more = train(
        stage1, "more", model_name_or_path=second, teacher_name_or_path=teacher, languages=["ru"], replay=0.5
    )
    check_outcome(more, teacher)


@pytest.mark.slow
def test_a_teacher_of_another_width_is_refused(saved, train):
    first = train(
        stage1, "first", teacher_name_or_path=saved("siglip"), text_encoder_name_or_path=saved("bert")
    )
    given = {"model_name_or_path": first, "teacher_name_or_path": saved("clip"), "languages": ["ru"]}
    with pytest.raises(InputError, match="gives targets of 24 values, and the student has 32: give the"):
        train(stage1, "second", **given)


@pytest.mark.parametrize("student", ["bert", "t5", "qwen3"])
def test_a_dry_run_counts_what_the_training_trains(student, saved, train, capsys):
    given = {"teacher_name_or_path": saved("siglip"), "text_encoder_name_or_path": saved(student)}
    train(stage1, "dry", **given, dry_run=True)
    printed = capsys.readouterr().out
    model = AltCLIPDualEncoderModel.from_teacher(*given.values())
    freeze_all_but(model, SHARED.parts)
    n_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert f"{n_trained:,}" in printed


@pytest.mark.slow
def test_a_prompt_travels_with_the_student(saved, train, tmp_path):
    given = {"teacher_name_or_path": saved("siglip"), "text_encoder_name_or_path": saved("xlm-r")}
    folder = train(stage1, "first", **given, text_prompt="key ")
    model, processor = load_model(folder)
    plain = AutoTokenizer.from_pretrained(given["text_encoder_name_or_path"])
    assert processor.tokenizer("dog")["input_ids"] == plain("key dog")["input_ids"]

    unprompted = AltCLIPProcessor(processor.image_processor, plain)
    expected = embed_texts(model, unprompted, ["key dog", "key red apple"])
    assert torch.equal(embed_texts(model, processor, ["dog", "red apple"]), expected)


def state(encoder, **settings):
    """Write the file in which sentence-transformers states the prompts of an encoder."""
    Path(encoder, "config_sentence_transformers.json").write_text(json.dumps(settings))


def build(**given):
    """Build a student by stage 1's arguments, and return it with its tokenizer."""
    arguments = TeacherLearningArguments(dataset="d", output_dir="o", use_cpu=True, **given)
    return build_student(arguments, rows=None, new=[])


def test_the_stated_prompt_becomes_the_tokenizers(saved, capsys):
    given = {"teacher_name_or_path": saved("clip"), "text_encoder_name_or_path": saved("xlm-r")}
    encoder = given["text_encoder_name_or_path"]
    plain = AutoTokenizer.from_pretrained(encoder)

    def ids(**more):
        return build(**given, **more)[1]("dog")["input_ids"]

    prompts = {"query": "key ", "document": "apple "}
    state(encoder, prompts=prompts, default_prompt_name="query")
    assert ids() == plain("key dog")["input_ids"]
    assert "The tokenizer writes the prompt 'key ' before every text." in capsys.readouterr().out
    assert ids(text_prompt="red ") == plain("red dog")["input_ids"]
    assert ids(text_prompt="") == plain("dog")["input_ids"]
    # Prompts for some texts alone are no default.
    state(encoder, prompts=prompts, default_prompt_name=None)
    assert ids() == plain("dog")["input_ids"]
    state(encoder, prompts=prompts, default_prompt_name="title")
    with pytest.raises(InputError, match="default prompt 'title', which .* does not have among its prompts"):
        ids()


def test_a_clip_and_an_xlm_r_make_what_they_always_made(saved, train, capsys):
    """They make an AltCLIP; a pooling that it cannot have is said."""
    given = {"teacher_name_or_path": saved("clip"), "text_encoder_name_or_path": saved("xlm-r")}
    folder = train(stage1, "first", **given)
    assert type(load_model(folder)[0]) is AltCLIPModel
    assert "states the pooling" not in capsys.readouterr().out

    pooling = Path(given["text_encoder_name_or_path"], "1_Pooling")
    pooling.mkdir()
    (pooling / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert type(build(**given)[0]) is AltCLIPModel
    assert "states the pooling mean, and an AltCLIP" in capsys.readouterr().out
    assert build(**given, text_pooling="mean")[0].config.text_pooling == "mean"


def test_a_norm_before_the_head_is_a_flag(saved):
    given = {"teacher_name_or_path": saved("clip"), "text_encoder_name_or_path": saved("xlm-r")}
    model, _ = build(**given, text_head_norm=True)
    assert [type(layer) for layer in model.text_projection] == [torch.nn.LayerNorm, torch.nn.Linear]


def test_a_dry_run_refuses_a_pooler_that_an_encoder_has_not(saved, train):
    given = {"teacher_name_or_path": saved("clip"), "text_encoder_name_or_path": saved("t5")}
    with pytest.raises(InputError, match="text_pooling is 'pooler', but a 't5' has no pooler"):
        train(stage1, "dry", **given, text_pooling="pooler", dry_run=True)


def test_sentence_transformers_encodes_images_of_naflex(saved, miniature, tmp_path):
    model = AltCLIPDualEncoderModel.from_teacher(saved("naflex"), saved("bert")).eval()
    _, teachers = load_model(saved("naflex"))
    processor = AltCLIPProcessor(teachers.image_processor, load_tokenizer_of(miniature))
    for part in (model, processor):
        part.save_pretrained(tmp_path / "student")
    images = [Image.new("RGB", (40, 24), "red"), Image.new("RGB", (16, 32), "blue")]
    found = SentenceTransformer(str(tmp_path / "student")).encode(images, normalize_embeddings=True)
    expected = embed_images(model, processor, images)
    assert torch.allclose(torch.as_tensor(found), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_student_of_naflex_trains_from_the_cache_and_without(saved, train):
    teacher = saved("naflex")
    first = train(stage1, "first", teacher_name_or_path=teacher, text_encoder_name_or_path=saved("bert"))
    given = {"model_name_or_path": first, "loss": "sigmoid"}
    for name, cache in (("second", True), ("third", False)):
        check_outcome(train(stage2, name, **given, cache_image_embeds=cache), teacher)


LOADS_REMOTELY = """
import sys
from transformers import AutoModel
assert "modeling_altclip" not in sys.modules
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert model.config.model_type == "altclip_dual_encoder", folder
    print(model.text_projection(model.text_projection.weight[:1]).shape[-1])
"""


@pytest.fixture
def with_vectors(miniature, tmp_path):
    """Return a function that saves captions with the vectors that a model makes of their images."""

    def with_vectors(model):
        rows = load_dataset(str(miniature / "dataset"), split="train").select(range(48))
        vectors = embed_images(*load_model(model), rows["image"]).tolist()
        saved = Dataset.from_dict({"vector": vectors, "captions": rows["captions"][:]})
        saved.to_parquet(tmp_path / "vectors/train-00000-of-00001.parquet")
        return str(tmp_path / "vectors")

    return with_vectors


def check_recall(folder, miniature):
    """Check that a model is evaluated on images that it embeds by itself."""
    rows = load_dataset(str(miniature / "dataset"), split="validation").select(range(8))
    encoder = Encoder(*load_model(folder))
    image_embeds = encoder.images(rows["image"])
    found = evaluate_retrieval(encoder, image_embeds, rows["captions"][:], ["en", "zh"])
    assert list(found) == ["en", "zh"]
    assert 0 <= found["zh"].metrics()["mean_recall"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [*TEACHERS, SENTENCES])
def test_matrix(teacher, saved, train, with_vectors, miniature, tmp_path):
    """Each teacher with each family of students: both stages, loading, evaluation, resuming, remote code."""
    teacher_folder = saved("clip" if teacher == SENTENCES else teacher)
    of_teacher = {"teacher_name_or_path": teacher_folder}
    of_stage2 = {}
    if teacher == SENTENCES:
        of_teacher = {"teacher_name_or_path": saved(SENTENCES), "image_model_name_or_path": teacher_folder}
        of_stage2 = {"dataset": with_vectors(teacher_folder), "image_embeds_column": "vector"}
    finished = []
    for student in ("xlm-r", "bert", "modernbert", "t5", "qwen3"):
        given = of_teacher | {"text_encoder_name_or_path": saved(student)}
        # Mean pooling is asked for where the encoder would not by itself.
        if student in ("xlm-r", "bert"):
            given["text_pooling"] = "mean"
        first = train(stage1, f"{student}-1", **given)
        whole = check_outcome(first, teacher_folder)

        # Resumed from its first step, it ends in the same.
        again = train(stage1, f"{student}-1", **given, resume_from_checkpoint="checkpoint-1")
        assert torch.allclose(check_outcome(again, teacher_folder), whole, rtol=0, atol=1e-6)

        has_bias = load_model(first)[0].logit_bias is not None
        loss = "sigmoid" if has_bias else "contrastive"
        second = train(stage2, f"{student}-2", model_name_or_path=first, loss=loss, **of_stage2)
        check_outcome(second, teacher_folder)
        check_recall(second, miniature)
        finished.append(second)

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        [sys.executable, "-c", LOADS_REMOTELY, *finished],
        cwd=tmp_path,
        env=environment | {"HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("teacher", "student"),
    [("siglip", "bert"), ("clip", "t5"), ("naflex", "qwen3"), (SENTENCES, "xlm-r")],
)
def test_two_processes_learn_like_one(teacher, student, saved, train_by_one_and_two):
    """One process has the whole batch, two have halves of it."""
    flags = ["--teacher_name_or_path", saved(teacher), "--text_encoder_name_or_path", saved(student)]
    image_model = saved("clip" if teacher == SENTENCES else teacher)
    if teacher == SENTENCES:
        flags += ["--image_model_name_or_path", image_model]
    expected, found = train_by_one_and_two(*flags)
    start = AltCLIPDualEncoderModel.from_teacher(image_model, saved(student)).text_projection.weight
    assert not torch.allclose(expected["text_projection.weight"], start, atol=1e-3)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5)
