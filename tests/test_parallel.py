"""Parallel multilingual pre-training: an image and its captions in several languages at one step."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PillowImage
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoTokenizer, ViTConfig, ViTImageProcessor, ViTModel
from transformers.trainer_callback import CallbackHandler

from benchmarks.loading import load_model
from benchmarks.recipe import InputError
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPProcessor
from training.caption_rows import CaptionRows, RowCollator
from training.data import CaptionCells
from training.losses import caption_losses, contrastive_loss
from training.parallel import (
    FreezeEncoders,
    ParallelArguments,
    ParallelTrainer,
    build_dual_encoder,
    by_language,
)
from training.validation import Validation

from .conftest import ROOT

LANGUAGES = ["en", "es", "ja", "hi"]
CAPTIONS = [
    {"en": ["key", "a key"], "es": ["llave"], "ja": ["鍵"], "hi": ["चाबी"]},
    {"en": ["bell"], "es": None, "ja": ["ベル"], "hi": []},
    {"en": None, "es": None, "ja": None, "hi": None},
    {"en": ["fire"], "es": ["fuego"], "ja": None, "hi": ["आग"]},
    {"en": ["key"], "es": ["clave"], "ja": ["鍵"], "hi": ["कुंजी"]},
    {"en": ["dog"], "es": ["perro"], "ja": ["犬"], "hi": ["कुत्ता"]},
]
COLORS = ["red", "green", "blue", "white", "black", "yellow"]


@pytest.fixture
def rows():
    features = Features(
        {"image": Image(), "captions": {language: List(Value("string")) for language in LANGUAGES}}
    )
    images = [PillowImage.new("RGB", (32, 32), color) for color in COLORS]
    return Dataset.from_dict({"image": images, "captions": CAPTIONS}, features=features)


@pytest.fixture
def encoders(miniature, tmp_path):
    """Folders of an image encoder such as Google's and of a text encoder, as flags."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    ViTModel(ViTConfig(**shape, image_size=32, patch_size=16), add_pooling_layer=False).save_pretrained(
        tmp_path / "vit"
    )
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    shutil.copytree(miniature / "text_encoder", tmp_path / "xlm-roberta")
    return {
        "image_encoder_name_or_path": str(tmp_path / "vit"),
        "text_encoder_name_or_path": str(tmp_path / "xlm-roberta"),
    }


@pytest.fixture
def trainer_of(encoders, rows, tmp_path):
    """A trainer on the rows above, of encoders without dropout unless it is asked for."""

    def trainer_of(dropout=0.0, languages=LANGUAGES, rows=rows, validation=None, **given):
        given = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 4,
            "per_device_train_batch_size": 3,
            "save_strategy": "no",
            **given,
        }
        given |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataset": ""}
        arguments = ParallelArguments(**encoders, **given, projection_dim=16)
        torch.manual_seed(1)
        model = build_dual_encoder(arguments)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        image_processor = ViTImageProcessor.from_pretrained(encoders["image_encoder_name_or_path"])
        tokenizer = AutoTokenizer.from_pretrained(encoders["text_encoder_name_or_path"])
        cells = CaptionRows(CaptionCells(rows, languages, "image"))
        if validation is not None:
            validation = Validation(
                model, AltCLIPProcessor(image_processor, tokenizer), validation, languages
            )
        collator = RowCollator(tokenizer, 77, image_processor)
        trainer = ParallelTrainer(
            model=model, args=arguments, train_dataset=cells, data_collator=collator, validation=validation
        )
        trainer.add_callback(FreezeEncoders(model, arguments.freeze_epochs))
        return trainer

    return trainer_of


def batch_of(trainer, indices):
    return trainer.data_collator(trainer.train_dataset.__getitems__(indices))


def test_a_row_has_all_its_captions_and_one_image(rows, encoders):
    cells = CaptionRows(CaptionCells(rows, LANGUAGES, "image"))
    assert [cells[index]["texts"] for index in range(len(cells))] == [
        [text for language in LANGUAGES for text in captions[language] or []] or ["key", "llave"]
        for captions in (CAPTIONS[number] for number in (0, 1, 3, 4, 5))
    ]
    assert cells[0]["languages"] == [0, 0, 1, 2, 3]
    assert cells[1]["languages"] == [0, 2]
    assert cells[0]["row_id"] == cells[3]["row_id"] != cells[1]["row_id"]  # equal English
    assert cells.summary() == "5 images with 18 captions in en es ja hi; set aside: 1 without any"
    spanish = CaptionRows(CaptionCells(rows, ["es"], "image"))
    assert [row["texts"] for row in spanish.__getitems__([0, 1])] == [["llave"], ["fuego"]]
    assert len(spanish) == 4


def test_a_batch_encodes_equal_captions_once(rows, encoders, trainer_of):
    batch = batch_of(trainer_of(), [0, 1, 3])
    assert batch["text_to_image"].tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert batch["languages"].tolist() == [0, 0, 1, 2, 3, 0, 2, 0, 1, 2, 3]
    assert len(batch["input_ids"]) == 9
    assert batch["text_rows"][0] == batch["text_rows"][7]  # "key" and "鍵" stand twice
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert batch["row_ids"].shape == (3,)


def test_captions_choose_by_hand():
    images, texts = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    owners = torch.tensor([0, 1, 1, 2])
    right, wrong = (
        math.log(math.exp(2 - kind) + math.exp(kind) * 0 + 2 * math.exp(0 - kind)) for kind in (2, 0)
    )
    wrong = math.log(math.exp(2) + 2)  # the third caption lies on image 0 and is image 1's
    expected = torch.tensor([right, right, wrong, right])
    torch.testing.assert_close(
        caption_losses(images, texts, torch.tensor(2.0), text_to_image=owners), expected
    )
    tiled = caption_losses(images, texts, torch.tensor(2.0), text_to_image=owners, tile_size=3)
    torch.testing.assert_close(tiled, expected)
    alike = caption_losses(
        images, texts, torch.tensor(2.0), text_to_image=owners, image_ids=torch.tensor([5, 5, 7])
    )
    log_sum = math.log(math.exp(2) + 2)
    torch.testing.assert_close(alike, torch.tensor([log_sum - 1, log_sum - 1, log_sum - 1, log_sum - 2]))


def test_a_curve_of_captions_compares_one_language_with_four():
    """Four equal captions an image have the loss of one; the symmetric loss has not, by the logarithm of four in one direction."""
    images, texts = (
        normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)), dim=-1) for seed in (0, 1)
    )
    one, four = torch.arange(6), torch.arange(6).repeat_interleave(4)
    scale = torch.tensor(3.0)
    of_one, of_four = (
        caption_losses(images, texts[owners], scale, text_to_image=owners) for owners in (one, four)
    )
    torch.testing.assert_close(of_one.repeat_interleave(4), of_four)
    both = [
        contrastive_loss(images, texts[owners], scale, text_to_image=owners).item() for owners in (one, four)
    ]
    assert both[1] - both[0] == pytest.approx(math.log(4) / 2)


def test_means_are_of_captions_and_of_languages():
    seen = [(torch.tensor([0, 2]), torch.tensor([1.0, 4.0])), (torch.tensor([0]), torch.tensor([3.0]))]
    expected = {"caption_loss": 8 / 3, "caption_loss_en": 2.0, "caption_loss_ja": 4.0}
    assert by_language(seen, ["en", "es", "ja"]) == pytest.approx(expected)


def test_the_log_tells_of_captions_and_begins_anew(trainer_of):
    """Also of the nearest image of each caption, by the ids of the images that they describe."""
    trainer = trainer_of()
    model = trainer.model.train()
    batch = batch_of(trainer, [0, 2, 4])
    watched = []
    trainer.watch.see = lambda inputs, groups, texts, counterparts: watched.append(
        (inputs["row_ids"], counterparts)
    )
    trainer.compute_loss(model, dict(batch))
    images = normalize(model.get_image_features(batch["pixel_values"]).pooler_output, dim=-1)
    torch.testing.assert_close(watched[0][1], images[batch["text_to_image"]])
    assert torch.equal(watched[0][0], batch["row_ids"][batch["text_to_image"]])
    logged = []
    for _ in range(2):
        logs = {"loss": 1.0}
        trainer.log(logs)
        logged.append(set(logs))
    assert logged[0] >= {"caption_loss", "caption_loss_en", "caption_loss_hi"}
    assert not any("caption" in name for name in logged[1])


@pytest.mark.parametrize("setting", ["paper", "released"])
def test_settings_by_hand(trainer_of, setting):
    """Written out from the towers' vectors, with the padding masked."""
    trainer = trainer_of(setting=setting)
    model, batch = trainer.model.train(), batch_of(trainer, [1, 2, 4])
    loss = trainer.compute_loss(model, dict(batch))
    images = model.get_image_features(batch["pixel_values"]).pooler_output
    texts = [
        model.get_text_features(ids[mask.bool()][None]).pooler_output[0]
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"])
    ]
    texts, owners = torch.stack(texts)[batch["text_rows"]], batch["text_to_image"]
    if setting == "released":
        assert model.logit_scale.item() == 1
        expected = cross_entropy(texts @ images.T * 1.0, owners)
    else:
        logits = normalize(texts, dim=-1) @ normalize(images, dim=-1).T * math.exp(2.6592)
        of_images = logits.T.log_softmax(1)
        of_images = -torch.stack([of_images[image, owners == image].mean() for image in range(3)]).mean()
        expected = (cross_entropy(logits, owners) + of_images) / 2
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "switches", [{"length_groups": 3}, {"gradient_cache_chunk": 4, "tile_size": 3}], ids=str
)
def test_switches_leave_loss_and_gradients_as_they_are(trainer_of, switches):
    gradients = []
    for given in ({}, switches):
        trainer = trainer_of(freeze_epochs=0, **given)
        loss = trainer.compute_loss(trainer.model.train(), batch_of(trainer, [0, 1, 2, 3, 4]))
        loss.backward()
        gradients.append(
            (loss.detach(), {name: parameter.grad for name, parameter in trainer.model.named_parameters()})
        )
    (plain, plain_gradients), (loss, others) = gradients
    torch.testing.assert_close(loss, plain)
    for name, gradient in plain_gradients.items():
        assert gradient.abs().max() > 0 or name.endswith("key.bias"), (
            name
        )  # it adds the same to all scores of a query
        torch.testing.assert_close(others[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("languages", [["en"], LANGUAGES], ids=str)
@pytest.mark.parametrize("setting", ["paper", "released"])
def test_an_image_is_encoded_once_a_step(trainer_of, languages, setting):
    trainer = trainer_of(languages=languages, setting=setting, freeze_epochs=0, length_groups=2)
    images, texts = [], []
    trainer.model.vision_model.register_forward_pre_hook(
        lambda _, __, given: images.append(len(given["pixel_values"])), with_kwargs=True
    )
    trainer.model.text_model.register_forward_pre_hook(
        lambda _, __, given: texts.append(len(given["input_ids"])), with_kwargs=True
    )
    trainer.train()
    shown = [3, 2, 3, 2] if languages == LANGUAGES else [3, 2, 3, 2]
    assert images == shown
    assert len(texts) == 8
    assert sum(texts) > sum(shown) * (len(languages) > 1)


INTERFACES = ("text_projection", "visual_projection", "logit_scale")


def test_encoders_are_frozen_for_half_an_epoch_and_learn_then(trainer_of, rows, tmp_path):
    """Six steps of two images: of eight images, half an epoch is two steps. A run that resumes on either side ends in the same bytes."""
    given = {
        "rows": rows.select([0, 1, 3, 5] * 2),
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "dropout": 0.1,
    }
    given |= {"save_strategy": "steps", "save_steps": 1, "weight_decay": 0.1, "learning_rate": 1e-3}
    trainer = trainer_of(**given)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    whole = trainer.model.state_dict()
    for step in range(1, 7):
        weights = AltCLIPDualEncoderModel.from_pretrained(tmp_path / f"out/checkpoint-{step}").state_dict()
        moved = {name for name, value in weights.items() if not torch.equal(value, start[name])}
        assert moved >= {name for name in weights if name.startswith(INTERFACES)}
        if step <= 2:
            assert all(name.startswith(INTERFACES) for name in moved)
        else:
            assert set(weights) - moved <= {"text_model.encoder.embeddings.token_type_embeddings.weight"}
    for step in (1, 2, 3):
        resumed = trainer_of(**given, seed=42)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"out/checkpoint-{step}"))
        assert all(torch.equal(value, whole[name]) for name, value in resumed.model.state_dict().items())


def test_dropout_is_on_again_after_a_validation(trainer_of, rows):
    """The released code trained without it from then on. A frozen encoder has none either way."""
    first = {"en": "key", "es": "llave", "ja": "鍵", "hi": "चाबी"}
    plain = Dataset.from_dict({"image": rows["image"][:3], "captions": [first] * 3}).cast_column(
        "image", Image()
    )
    trainer = trainer_of(
        dropout=0.1,
        validation=plain,
        eval_strategy="steps",
        eval_steps=1,
        validation_split="validation",
        logging_steps=1,
    )
    modes = []
    trainer.model.text_model.register_forward_pre_hook(
        lambda module, _: modes.append((module.training, torch.is_grad_enabled()))
    )
    trainer.train()
    of_steps = [training for training, learning in modes if learning]
    assert of_steps == [False, True, True, True]  # an epoch has two steps
    scored = [entry for entry in trainer.state.log_history if "eval_caption_loss_hi" in entry]
    assert len(scored) == 4
    assert {"eval_caption_loss", "eval_caption_loss_en", "eval_mean_recall_ja"} <= set(scored[0])
    logged = [entry for entry in trainer.state.log_history if "caption_loss_ja" in entry]
    assert len(logged) == 4


@pytest.mark.parametrize(
    "given,message",
    [
        ({"setting": "code"}, "setting is 'code': choose paper or released"),
        ({"freeze_epochs": -1}, "freeze_epochs is -1: give a number of epochs, or 0"),
        ({"streaming": True, "max_steps": 3}, "streaming is True, and parallel training knows none"),
        ({"dry_run": True}, "dry_run is True, and parallel training knows none"),
        ({"setting": "released", "tile_size": 3}, "tile_size is 3, and the released loss has no tiles"),
    ],
)
def test_bad_choices_are_refused(encoders, tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        ParallelArguments(**encoders, dataset="", output_dir=str(tmp_path), use_cpu=True, **given)


@pytest.mark.parametrize(
    "setting,under_fsdp2,freeze_epochs",
    [("paper", False, 0.5), ("released", False, 0.5), ("paper", True, 0)],
    ids=["paper", "released", "paper under FSDP2"],
)
def test_two_processes_train_like_one(
    run, run_under_fsdp2, encoders, rows, tmp_path, setting, under_fsdp2, freeze_epochs
):
    """Through the script, over the boundary at which encoders thaw; the processes have unequally many captions."""
    rows = rows.select([0, 1, 3, 5] * 4)
    (tmp_path / "rows").mkdir()
    rows.to_parquet(tmp_path / "rows/train.parquet")
    for encoder in encoders.values():
        config = json.loads(Path(encoder, "config.json").read_text())
        dropouts = {name: 0.0 for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")}
        Path(encoder, "config.json").write_text(json.dumps(config | dropouts))
    flags = [part for name, value in encoders.items() for part in (f"--{name}", value)]
    weights = {}
    for processes in (1, 2):
        command = [
            ROOT / "training/run_parallel.py",
            ROOT / "training/recipes/parallel/miniature.yaml",
            *flags,
            "--setting",
            setting,
        ]
        command += [
            "--dataset",
            tmp_path / "rows",
            "--split",
            "train",
            "--output_dir",
            tmp_path / str(processes),
            "--max_steps",
            "4",
        ]
        command += [
            "--per_device_train_batch_size",
            str(8 // processes),
            "--freeze_epochs",
            freeze_epochs,
            "--projection_dim",
            "16",
        ]
        command += [
            "--bf16",
            "false",
            "--length_groups",
            "1",
            "--optim",
            "sgd",
            "--learning_rate",
            "0.05",
            "--warmup_steps",
            "0",
        ]
        command += ["--eval_steps", "2", "--validation_split", "train"]
        if under_fsdp2 and processes == 2:
            process = run_under_fsdp2(*command)
        else:
            process = run("python", *command, processes=processes, OMP_NUM_THREADS="1")
        assert process.returncode == 0, process.stderr[-4000:]
        assert "Training on 16 images with 56 captions in en es ja hi" in process.stdout
        weights[processes] = load_file(tmp_path / str(processes) / "model.safetensors")
    before = ViTModel.from_pretrained(
        encoders["image_encoder_name_or_path"], add_pooling_layer=False
    ).state_dict()
    after = load_model(str(tmp_path / "1"))[0].vision_model.encoder.state_dict()
    assert sum(not torch.equal(value, after[name]) for name, value in before.items()) > 20
    for name, value in weights[1].items():
        torch.testing.assert_close(
            weights[2][name], value, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    model, processor = load_model(str(tmp_path / "2"))
    assert abs(model.logit_scale.item()) < 0.5 if setting == "released" else model.logit_scale.item() > 2
    assert model.config.projection_bias
    assert processor.tokenizer("鍵")["input_ids"]
    histories = [
        json.loads((tmp_path / f"{processes}/trainer_state.json").read_text())["log_history"]
        for processes in (1, 2)
    ]
    scored = [[entry for entry in history if "eval_caption_loss" in entry] for history in histories]
    recalls, losses = (
        [[entry[name] for entry in history] for history in scored]
        for name in ("eval_mean_recall", "eval_caption_loss")
    )
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert recalls[0] == pytest.approx(recalls[1], abs=0.05)
    assert len(recalls[0]) == 2  # of 16 images: rounding may move a few ranks


def test_freezing_under_fsdp_is_refused(trainer_of, monkeypatch):
    """FSDP2 would train the encoders from the first step."""
    monkeypatch.setattr(ParallelTrainer, "is_fsdp_enabled", True, raising=False)
    monkeypatch.setattr("training.trainers.make_shardable", lambda *_: None)
    monkeypatch.setattr("transformers.Trainer.__init__", fake_init)
    with pytest.raises(
        InputError, match="freeze_epochs is 0.5, and FSDP2 goes on to train what it was given: set it to 0"
    ):
        trainer_of()


def fake_init(trainer, model, args, **_):
    trainer.model = model
    trainer.args = args
    trainer.accelerator = None
    trainer.callback_handler = CallbackHandler([], model, None, None, None)
