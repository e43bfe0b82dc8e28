"""Evaluation while training:

The figures are those of `benchmarks`, the best checkpoint is kept, and lost English is told.
"""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.encoder import Encoder
from benchmarks.loading import load_captions, load_model, load_rows
from benchmarks.recipe import InputError
from benchmarks.retrieval import evaluate_retrieval
from benchmarks.zero_shot import evaluate_zero_shot
from modeling_altclip import AltCLIPTextModel
from training.arguments import ContrastiveArguments
from training.validation import Validation, load_validation

from .conftest import ROOT

LANGUAGES = ["en", "zh", "th"]


@pytest.fixture(scope="module")
def captioned(miniature):
    return load_captions(str(miniature / "dataset"), "validation").select(range(60))


@pytest.fixture(scope="module")
def classified(miniature):
    return load_rows(str(miniature / "dataset"), "validation_concepts", ["image", "label"]).select(range(70))


@pytest.fixture(scope="module")
def class_names(miniature):
    named = json.loads((miniature / "dataset/class_names.json").read_text("utf-8"))
    return {language: named[language] for language in LANGUAGES}


def test_the_figures_are_those_of_the_benchmarks(altclip_folder, captioned, classified, class_names):
    model, processor = load_model(str(altclip_folder))
    scores = Validation(
        model, processor, captioned, LANGUAGES, classified=classified, class_names=class_names
    ).scores()
    encoder = Encoder(model, processor)
    found = evaluate_retrieval(encoder, encoder.images(captioned["image"]), captioned["captions"], LANGUAGES)
    recall = {language: outcomes.metrics() for language, outcomes in found.items()}
    asked = classified["label"][:], class_names, dict.fromkeys(LANGUAGES, ["{}"])
    found = evaluate_zero_shot(encoder, encoder.images(classified["image"]), *asked)
    accuracy = {language: outcomes.metrics() for language, outcomes in found.items()}
    for language in LANGUAGES:
        assert scores[f"mean_recall_{language}"] == recall[language]["mean_recall"]
        assert scores[f"accuracy_{language}"] == accuracy[language]["accuracy@1"]
    assert scores["mean_recall"] == pytest.approx(
        sum(recall[language]["mean_recall"] for language in LANGUAGES) / 3
    )
    assert scores["accuracy"] > 0
    assert "english_lost" not in scores


@pytest.mark.parametrize("learns,forwards", [(False, 1), (True, 2)])
def test_a_frozen_image_tower_is_run_once(altclip_folder, captioned, learns, forwards):
    model, processor = load_model(str(altclip_folder))
    model.vision_model.requires_grad_(learns)
    model.visual_projection.requires_grad_(False)
    validation, seen = Validation(model, processor, captioned, ["en"]), []
    model.vision_model.register_forward_hook(lambda *_: seen.append(1))
    assert validation.scores() == validation.scores()
    assert len(seen) == forwards


@pytest.mark.parametrize("languages", [["en", "zh"], ["zh"]])
def test_lost_english_is_told(altclip_folder, captioned, languages):
    """The untrained tower against itself loses nothing;

    After its English has been destroyed it has lost what the teacher had.
    """
    model, processor = load_model(str(altclip_folder))
    validation = Validation(
        model, processor, captioned, languages, teacher=(model, processor), english_tolerance=0.01
    )
    validation.begin()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert validation.scores()["english_lost"] == 0
    torch.nn.init.zeros_(model.text_projection.weight).requires_grad_(False)
    model.text_projection.weight[0] = 1.0  # every text has one vector, and a tie counts against the model
    with pytest.warns(UserWarning, match="English has lost .* points of mean recall"):
        scores = validation.scores()
    assert scores["english_lost"] == pytest.approx(validation.english - scores["mean_recall_zh"])
    assert scores["english_lost"] > 0.01
    assert ("mean_recall_en" in scores) == ("en" in languages)


def stage2(run_python, folder, dataset, output_dir, *flags):
    return run_python(
        *[
            "python",
            ROOT / "training/run_stage2.py",
            ROOT / "training/recipes/miniature/stage2.yaml",
            "--model_name_or_path",
            folder,
        ],
        *[
            "--dataset",
            dataset,
            "--output_dir",
            output_dir,
            "--languages",
            "en",
            "zh",
            "--per_device_train_batch_size",
            "32",
        ],
        *["--max_steps", "6", "--logging_steps", "2", *flags],
    )


EVALUATE = ["--validation_split", "validation", "--eval_strategy", "steps", "--eval_steps", "2"]


def test_the_best_checkpoint_is_what_is_saved(miniature, run_python, altclip_folder, tmp_path):
    """A rate at which the last steps are surely not the best."""
    names = [
        "--zero_shot_split",
        "validation_concepts",
        "--class_names",
        miniature / "dataset/class_names.json",
    ]
    best = ["--load_best_model_at_end", "true", "--learning_rate", "0.1"]  # the recipe saves no checkpoints
    process = stage2(
        run_python, altclip_folder, miniature / "dataset", tmp_path / "out", *EVALUATE, *names, *best
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "A checkpoint is saved every 2 steps, as it is scored" in process.stdout
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    found = {entry["step"]: entry for entry in state["log_history"] if "eval_mean_recall" in entry}
    assert list(found) == [2, 4, 6]
    assert {"eval_accuracy_zh", "eval_english_lost"} <= set(found[2])
    step = max(found, key=lambda step: (found[step]["eval_mean_recall"], -step))
    assert state["best_global_step"] == step
    saved, kept = (
        load_file(tmp_path / "out" / name / "model.safetensors") for name in ("", f"checkpoint-{step}")
    )
    assert all(torch.equal(saved[name], value) for name, value in kept.items())


def test_stage_1_is_held_against_its_teacher(miniature, run_python, tmp_path):
    process = run_python(
        *[
            "python",
            ROOT / "training/run_stage1.py",
            ROOT / "training/recipes/miniature/stage1.yaml",
            "--dataset",
            miniature / "dataset",
        ],
        *[
            "--teacher_name_or_path",
            miniature / "clip",
            "--text_encoder_name_or_path",
            miniature / "text_encoder",
        ],
        *[
            "--output_dir",
            tmp_path,
            "--languages",
            "en",
            "zh",
            "--max_steps",
            "4",
            "--per_device_train_batch_size",
            "32",
            *EVALUATE,
            "--english_tolerance",
            "-1",
        ],
        *["--save_strategy", "steps", "--save_steps", "2", "--load_best_model_at_end", "true"],
    )
    assert process.returncode == 0, process.stderr[-3000:]
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    found = [entry for entry in history if "eval_mean_recall" in entry]
    encoder, rows = (
        Encoder(*load_model(str(miniature / "clip"))),
        load_captions(str(miniature / "dataset"), "validation"),
    )
    teacher = evaluate_retrieval(encoder, encoder.images(rows["image"]), rows["captions"], ["en"])[
        "en"
    ].metrics()["mean_recall"]
    assert found[-1]["eval_english_lost"] == pytest.approx(teacher - found[-1]["eval_mean_recall_en"])
    assert "English has lost" in process.stderr  # a tolerance of -1 is always overstepped
    best = 2 * (1 + max(range(2), key=lambda number: found[number]["eval_mean_recall"]))
    kept = AltCLIPTextModel.from_pretrained(tmp_path / f"checkpoint-{best}").state_dict()
    saved = load_model(str(tmp_path))[0].text_model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in kept.items())


def test_two_processes_score_like_one(miniature, run_python, altclip_folder, tmp_path):
    process = run_python(
        *["python", ROOT / "training/run_stage2.py", ROOT / "training/recipes/miniature/stage2.yaml"],
        *[
            "--model_name_or_path",
            altclip_folder,
            "--languages",
            "en",
            "zh",
            "--dataset",
            miniature / "dataset",
            "--output_dir",
            tmp_path / "out",
        ],
        *["--max_steps", "2", "--learning_rate", "0", "--per_device_train_batch_size", "8", *EVALUATE],
        processes=2,
        OMP_NUM_THREADS="1",
    )
    assert process.returncode == 0, process.stderr[-3000:]
    history = json.loads((tmp_path / "out/trainer_state.json").read_text())["log_history"]
    (found,) = [entry for entry in history if "eval_mean_recall" in entry]
    expected = Validation(
        *load_model(str(altclip_folder)),
        load_captions(str(miniature / "dataset"), "validation"),
        ["en", "zh"],
    ).scores()
    assert {name: found[f"eval_{name}"] for name in expected} == pytest.approx(
        expected, abs=0.005
    )  # of 250 scenes, a rank or two


BEST = {"validation_split": "v", "load_best_model_at_end": True}


@pytest.mark.parametrize(
    "flags,expected",
    [
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
    """Where the best is asked for, and no strategy is given."""
    arguments = ContrastiveArguments(
        output_dir=str(tmp_path), model_name_or_path="", dataset="", use_cpu=True, **flags
    )
    assert (arguments.save_strategy.value, arguments.save_steps) == expected


@pytest.mark.parametrize(
    "flags,message",
    [
        (
            BEST | {"eval_strategy": "steps", "eval_steps": 20, "save_strategy": "epoch"},
            "save and eval strategy to match",
        ),
        (
            BEST | {"eval_strategy": "steps", "eval_steps": 20, "save_strategy": "steps", "save_steps": 30},
            "round multiple",
        ),
        ({"load_best_model_at_end": True}, "save and eval strategy to match"),
    ],
)
def test_a_save_strategy_that_misses_the_best_is_refused(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveArguments(
            output_dir=str(tmp_path), model_name_or_path="", dataset="", use_cpu=True, **flags
        )


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
        ContrastiveArguments(
            output_dir=str(tmp_path), model_name_or_path="", dataset="", use_cpu=True, **flags
        )


def test_captions_of_other_forms_are_read(altclip_folder, captioned, tmp_path):
    """A list of languages and texts, several in a language: the first counts."""
    rows = captioned.select(range(20))
    listed = [
        [{"language": name, "text": text} for name in ("en", "zh") for text in (row[name], "x")]
        for row in rows["captions"]
    ]
    rows.remove_columns(["captions", "label"]).add_column("said", listed).to_parquet(
        tmp_path / "data/validation.parquet"
    )
    given = {
        "validation_split": "validation",
        "eval_strategy": "epoch",
        "dataset": str(tmp_path / "data"),
        "text_column": "said",
    }
    arguments = ContrastiveArguments(output_dir=str(tmp_path), model_name_or_path="", use_cpu=True, **given)
    model, processor = load_model(str(altclip_folder))
    validation = load_validation(arguments, model, processor, ["en", "zh", "sw"])
    assert validation.languages == ["en", "zh"]
    assert (
        validation.scores()
        == Validation(model, processor, captioned.select(range(20)), ["en", "zh"]).scores()
    )


@pytest.mark.parametrize(
    "flags,message",
    [
        ({"validation_split": "nowhere"}, "'nowhere' cannot be loaded"),
        (
            {"zero_shot_split": "validation_concepts", "class_names": "nowhere.json"},
            "nowhere.json.* does not exist",
        ),
        ({"validation_dataset": "nowhere"}, "'nowhere' does not exist"),
    ],
)
def test_bad_validations_are_refused(miniature, altclip_folder, tmp_path, flags, message):
    given = {
        "validation_split": "validation",
        "eval_strategy": "epoch",
        "dataset": str(miniature / "dataset"),
    } | flags
    arguments = ContrastiveArguments(output_dir=str(tmp_path), model_name_or_path="", use_cpu=True, **given)
    with pytest.raises(InputError, match=message):
        load_validation(arguments, *load_model(str(altclip_folder)), ["en"])
    arguments.validation_split, arguments.validation_dataset, arguments.zero_shot_split = (
        "validation",
        None,
        None,
    )
    with pytest.raises(InputError, match="has no caption in sw"):
        load_validation(arguments, *load_model(str(altclip_folder)), ["sw"])
    arguments.zero_shot_split, arguments.class_names = "validation_concepts", str(tmp_path / "names.json")
    (tmp_path / "names.json").write_text('{"de": ["Hund"]}')
    with pytest.raises(InputError, match="are in de, and none in en"):
        load_validation(arguments, *load_model(str(altclip_folder)), ["en"])
