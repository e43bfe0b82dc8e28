"""Evaluation while training: the scores equal those of `benchmarks`, the best checkpoint is kept, and a loss
of English is warned of.
"""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.encoder import Encoder
from benchmarks.retrieval import evaluate_retrieval
from benchmarks.zero_shot import evaluate_zero_shot
from common.errors import InputError
from common.files.rows import load_rows
from common.models.loading import load_model
from training.arguments import ContrastiveArguments
from training.validation import Validation, load_validation

from .conftest import ROOT

LANGUAGES = ["en", "zh", "th"]


@pytest.fixture(scope="module")
def captioned(miniature):
    return load_rows(str(miniature / "dataset"), "validation", []).select(range(60))


@pytest.fixture(scope="module")
def classified(miniature):
    # One scene of each concept.
    return load_rows(str(miniature / "dataset"), "validation_concepts", ["image", "label"]).select(range(70))


@pytest.fixture(scope="module")
def class_names(miniature):
    named = json.loads((miniature / "dataset/class_names.json").read_text("utf-8"))
    return {language: named[language] for language in LANGUAGES}


def contrastive_arguments(tmp_path, **given):
    """Return arguments of stage 2, by default without a model and without data."""
    given = {"model_name_or_path": "", "dataset": "", "use_cpu": True, **given}
    return ContrastiveArguments(output_dir=str(tmp_path), **given)


def evaluations_in(output_dir):
    """Return the entries of a training log that hold an evaluation."""
    state = json.loads((output_dir / "trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "eval_mean_recall" in entry]


def test_the_figures_are_those_of_the_benchmarks(altclip_folder, captioned, classified, class_names):
    model, processor = load_model(str(altclip_folder))
    validation = Validation(
        model, processor, captioned, LANGUAGES, classified=classified, class_names=class_names
    )
    scores = validation.scores()

    encoder = Encoder(model, processor)
    images = encoder.images(captioned["image"])
    retrieved = evaluate_retrieval(encoder, images, captioned["captions"], LANGUAGES)
    images = encoder.images(classified["image"])
    templates = dict.fromkeys(LANGUAGES, ["{}"])
    predicted = evaluate_zero_shot(encoder, images, classified["label"][:], class_names, templates)

    recalls = {language: outcomes.metrics()["mean_recall"] for language, outcomes in retrieved.items()}
    for language in LANGUAGES:
        assert scores[f"mean_recall_{language}"] == recalls[language]
        assert scores[f"accuracy_{language}"] == predicted[language].metrics()["accuracy@1"]
    assert scores["mean_recall"] == pytest.approx(sum(recalls.values()) / 3)
    assert scores["accuracy"] > 0
    assert "english_lost" not in scores


@pytest.mark.parametrize("learns,times", [(False, 1), (True, 2)])
def test_a_frozen_image_tower_is_run_once(altclip_folder, captioned, learns, times):
    model, processor = load_model(str(altclip_folder))
    model.vision_model.requires_grad_(learns)
    # If neither learns, the embeddings of the first evaluation hold for all.
    model.visual_projection.requires_grad_(False)
    validation = Validation(model, processor, captioned, ["en"])
    n_images = []
    model.vision_model.register_forward_hook(lambda *seen: n_images.append(len(seen[-1].pooler_output)))
    assert validation.scores() == validation.scores()
    assert sum(n_images) == times * len(captioned)


EVALUATE = ["--validation_split", "validation", "--eval_strategy", "steps", "--eval_steps", "2"]


@pytest.mark.parametrize("languages", [["en", "zh"], ["zh"]])
def test_a_loss_of_english_is_warned_of(altclip_folder, captioned, languages):
    """Compare the untrained tower with itself, which loses nothing, and then destroy its English.

    It has then lost what the teacher had.
    """
    model, processor = load_model(str(altclip_folder))
    validation = Validation(
        model, processor, captioned, languages, teacher=(model, processor), english_tolerance=0.01
    )
    validation.begin()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert validation.scores()["english_lost"] == 0

    # Every text has one embedding, and a tie counts against the model.
    torch.nn.init.zeros_(model.text_projection.weight).requires_grad_(False)
    model.text_projection.weight[0] = 1.0
    with pytest.warns(UserWarning, match="English has lost .* points of mean recall"):
        scores = validation.scores()
    assert scores["english_lost"] == pytest.approx(validation.english - scores["mean_recall_zh"])
    assert scores["english_lost"] > 0.01
    assert ("mean_recall_en" in scores) == ("en" in languages)


def test_the_best_checkpoint_is_what_is_saved(miniature, run_python, altclip_folder, tmp_path):
    """Train at a rate at which the last steps are surely not the best."""
    output_dir = tmp_path / "out"
    command = [ROOT / "training/run_stage2.py", ROOT / "training/recipes/miniature/stage2.yaml"]
    command += ["--model_name_or_path", altclip_folder, "--dataset", miniature / "dataset"]
    command += ["--output_dir", output_dir, "--languages", "en", "zh", *EVALUATE]
    command += ["--per_device_train_batch_size", "32", "--max_steps", "6", "--logging_steps", "2"]
    command += ["--zero_shot_split", "validation_concepts"]
    command += ["--class_names", miniature / "dataset/class_names.json"]
    # The recipe itself saves no checkpoints.
    command += ["--load_best_model_at_end", "true", "--learning_rate", "0.1"]
    process = run_python("python", *command)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "A checkpoint is saved every 2 steps, at each evaluation" in process.stdout

    evaluations = evaluations_in(output_dir)
    assert [entry["step"] for entry in evaluations] == [2, 4, 6]
    assert {"eval_accuracy_zh", "eval_english_lost"} <= set(evaluations[0])
    # The first of the best, since `max` keeps the first of equals.
    best_step = max(evaluations, key=lambda entry: entry["eval_mean_recall"])["step"]
    state = json.loads((output_dir / "trainer_state.json").read_text())
    assert state["best_global_step"] == best_step

    saved = load_file(output_dir / "model.safetensors")
    kept = load_file(output_dir / f"checkpoint-{best_step}/model.safetensors")
    for name, value in kept.items():
        assert torch.equal(saved[name], value), name


def test_stage_1_is_held_against_its_teacher(miniature, run_python, tmp_path):
    command = [ROOT / "training/run_stage1.py", ROOT / "training/recipes/miniature/stage1.yaml"]
    command += ["--teacher_name_or_path", miniature / "clip"]
    command += ["--text_encoder_name_or_path", miniature / "text_encoder"]
    command += ["--dataset", miniature / "dataset", "--output_dir", tmp_path, "--languages", "en", "zh"]
    command += ["--max_steps", "4", "--per_device_train_batch_size", "32", *EVALUATE]
    command += ["--save_strategy", "steps", "--save_steps", "2", "--load_best_model_at_end", "true"]
    # A tolerance of -1 is always overstepped.
    command += ["--english_tolerance", "-1"]
    process = run_python("python", *command)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "English has lost" in process.stderr

    encoder = Encoder(*load_model(str(miniature / "clip")))
    rows = load_rows(str(miniature / "dataset"), "validation", [])
    of_teacher = evaluate_retrieval(encoder, encoder.images(rows["image"]), rows["captions"], ["en"])
    evaluations = evaluations_in(tmp_path)
    lost = of_teacher["en"].metrics()["mean_recall"] - evaluations[-1]["eval_mean_recall_en"]
    assert evaluations[-1]["eval_english_lost"] == pytest.approx(lost)

    best_step = max(evaluations, key=lambda entry: entry["eval_mean_recall"])["step"]
    kept = load_model(str(tmp_path / f"checkpoint-{best_step}"))[0].state_dict()
    saved = load_model(str(tmp_path))[0].state_dict()
    assert kept.keys() == saved.keys()
    for name, value in kept.items():
        assert torch.equal(value, saved[name]), name


def test_two_processes_score_like_one(miniature, run_python, altclip_folder, tmp_path):
    command = [ROOT / "training/run_stage2.py", ROOT / "training/recipes/miniature/stage2.yaml"]
    command += ["--model_name_or_path", altclip_folder, "--languages", "en", "zh"]
    command += ["--dataset", miniature / "dataset", "--output_dir", tmp_path / "out", *EVALUATE]
    # At a rate of 0 the weights after two steps are those in the folder.
    command += ["--max_steps", "2", "--learning_rate", "0", "--per_device_train_batch_size", "8"]
    process = run_python("python", *command, processes=2, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr[-3000:]

    (found,) = evaluations_in(tmp_path / "out")
    rows = load_rows(str(miniature / "dataset"), "validation", [])
    expected = Validation(*load_model(str(altclip_folder)), rows, ["en", "zh"]).scores()
    scores = {name: found[f"eval_{name}"] for name in expected}
    assert scores == pytest.approx(expected, abs=0.005)  # of 250 scenes, a rank or two


BEST = {"validation_split": "v", "load_best_model_at_end": True}


@pytest.mark.parametrize(
    "flags,expected",
    [
        # 500 is the Trainer's own default.
        ({}, ("steps", 500)),
        ({"save_steps": 30}, ("steps", 30)),
        ({"save_strategy": "epoch"}, ("epoch", 500)),
        ({"validation_split": "v", "eval_strategy": "steps", "eval_steps": 20}, ("steps", 500)),
        (BEST | {"eval_strategy": "steps", "eval_steps": 20}, ("steps", 20)),
        (BEST | {"eval_strategy": "steps", "eval_steps": 0.1}, ("steps", 0.1)),
        (BEST | {"eval_strategy": "steps", "logging_steps": 7}, ("steps", 7)),
        (BEST | {"eval_strategy": "steps", "eval_steps": 20, "save_steps": 30}, ("steps", 20)),  # a recipe's
        (BEST | {"eval_strategy": "steps", "eval_steps": 20, "save_strategy": "no"}, ("steps", 20)),
        (BEST | {"eval_strategy": "steps", "eval_steps": 20, "save_strategy": "steps"}, ("steps", 20)),
        (
            BEST | {"eval_strategy": "steps", "eval_steps": 20, "save_strategy": "steps", "save_steps": 40},
            ("steps", 40),
        ),
        (BEST | {"eval_strategy": "steps", "eval_steps": 20, "save_strategy": "best"}, ("best", 500)),
        (BEST | {"eval_strategy": "epoch"}, ("epoch", 500)),
    ],
)
def test_checkpoints_are_saved_where_they_are_scored(tmp_path, flags, expected):
    """Ask for the best, and give no strategy."""
    arguments = contrastive_arguments(tmp_path, **flags)
    assert (arguments.save_strategy.value, arguments.save_steps) == expected


@pytest.mark.parametrize(
    "flags,message",
    [
        (
            BEST | {"eval_strategy": "steps", "eval_steps": 20, "save_strategy": "epoch"},
            "save and eval strategy to match",
        ),
        (
            # Step 30 is saved and not scored.
            BEST | {"eval_strategy": "steps", "eval_steps": 20, "save_strategy": "steps", "save_steps": 30},
            "round multiple",
        ),
        ({"load_best_model_at_end": True}, "save and eval strategy to match"),
    ],
)
def test_a_save_strategy_that_misses_the_best_is_refused(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        contrastive_arguments(tmp_path, **flags)


@pytest.mark.parametrize(
    "flags,message",
    [
        ({"validation_split": "validation"}, "eval_strategy is .*no and validation_split is validation"),
        ({"eval_strategy": "steps", "eval_steps": 2}, "validation_split is None"),
        ({"validation_split": "v", "eval_strategy": "epoch", "zero_shot_split": "z"}, "class_names is None"),
        ({"zero_shot_split": "z", "class_names": "names.json"}, "without validation_split"),
    ],
)
def test_halves_of_a_validation_are_refused(tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        contrastive_arguments(tmp_path, **flags)


def test_captions_of_other_forms_are_read(altclip_folder, captioned, tmp_path):
    """Read a list of languages and texts, several in a language: all count."""
    rows = captioned.select(range(20))
    listed = []
    lists = []
    for captions in rows["captions"]:
        of_row = []
        for language in ("en", "zh"):
            for text in (captions[language], "x"):
                of_row.append({"language": language, "text": text})
        listed.append(of_row)
        lists.append({language: [captions[language], "x"] for language in ("en", "zh")})
    in_other_form = rows.remove_columns(["captions", "label"]).add_column("said", listed)
    in_other_form.to_parquet(tmp_path / "data/validation.parquet")

    arguments = contrastive_arguments(
        tmp_path,
        validation_split="validation",
        eval_strategy="epoch",
        dataset=str(tmp_path / "data"),
        text_column="said",
    )
    model, processor = load_model(str(altclip_folder))
    validation = load_validation(arguments, model, processor, ["en", "zh", "sw"])
    assert validation.languages == ["en", "zh"]
    with_lists = rows.remove_columns("captions").add_column("captions", lists)
    assert validation.scores() == Validation(model, processor, with_lists, ["en", "zh"]).scores()


@pytest.mark.parametrize(
    "flags,languages,message",
    [
        ({"validation_split": "nowhere"}, ["en"], "'nowhere' cannot be loaded"),
        ({"validation_dataset": "nowhere"}, ["en"], "'nowhere' does not exist"),
        ({}, ["sw"], "has no caption in sw"),
        (
            {"zero_shot_split": "validation_concepts", "class_names": "nowhere.json"},
            ["en"],
            "nowhere.json.* does not exist",
        ),
        (
            {"zero_shot_split": "validation_concepts", "class_names": "names.json"},
            ["en"],
            "are in de, and none in en",
        ),
    ],
)
def test_bad_validations_are_refused(
    miniature, altclip_folder, tmp_path, monkeypatch, flags, languages, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.json").write_text('{"de": ["Hund"]}')
    given = {
        "validation_split": "validation",
        "eval_strategy": "epoch",
        "dataset": str(miniature / "dataset"),
    }
    arguments = contrastive_arguments(tmp_path, **given | flags)
    with pytest.raises(InputError, match=message):
        load_validation(arguments, *load_model(str(altclip_folder)), languages)
