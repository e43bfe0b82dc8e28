"""Check parallel multilingual pre-training: an image and its captions in several languages at one step."""

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

from common.errors import InputError
from common.models.loading import load_model
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPProcessor
from training.data.examples import CaptionExamples
from training.losses import caption_losses, contrastive_loss
from training.parallel.caption_rows import CaptionRows, RowCollator
from training.parallel.trainer import (
    FreezeEncoders,
    ParallelArguments,
    ParallelTrainer,
    build_dual_encoder,
    by_language,
)
from training.validation import Validation

from .conftest import ROOT

# Those of the miniature's comparison.
LANGUAGES = ["en", "es", "ja", "hi"]
# Every way to lack a caption: null, an empty list, a row without any. Rows 0 and 4 share "key" and "鍵".
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
    captions = {language: List(Value("string")) for language in LANGUAGES}
    features = Features({"image": Image(), "captions": captions})
    images = [PillowImage.new("RGB", (32, 32), color) for color in COLORS]
    return Dataset.from_dict({"image": images, "captions": CAPTIONS}, features=features)


@pytest.fixture
def encoders(miniature, tmp_path):
    """Return the folders of a ViT and of a text encoder, as arguments of the training."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = ViTConfig(**shape, image_size=32, patch_size=16)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    shutil.copytree(miniature / "text_encoder", tmp_path / "xlm-roberta")
    return {
        "image_encoder_name_or_path": str(tmp_path / "vit"),
        "text_encoder_name_or_path": str(tmp_path / "xlm-roberta"),
    }


@pytest.fixture
def trainer_of(encoders, rows, tmp_path):
    """Build a trainer on the rows above, of encoders without dropout by default."""

    def trainer_of(dropout=0.0, languages=LANGUAGES, rows=rows, validation=None, **given):
        defaults = {
            "output_dir": str(tmp_path / "out"),
            # Five rows with captions, three a step: an epoch of two steps.
            "max_steps": 4,
            "per_device_train_batch_size": 3,
            "save_strategy": "no",
        }
        fixed = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataset": ""}
        options = defaults | given | fixed
        arguments = ParallelArguments(**encoders, **options, projection_dim=16)

        torch.manual_seed(1)
        model = build_dual_encoder(arguments)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout

        image_processor = ViTImageProcessor.from_pretrained(encoders["image_encoder_name_or_path"])
        tokenizer = AutoTokenizer.from_pretrained(encoders["text_encoder_name_or_path"])
        if validation is not None:
            processor = AltCLIPProcessor(image_processor, tokenizer)
            validation = Validation(model, processor, validation, languages)
        trainer = ParallelTrainer(
            model=model,
            args=arguments,
            train_dataset=CaptionRows(CaptionExamples(rows, languages, "image")),
            data_collator=RowCollator(tokenizer, 77, image_processor),
            validation=validation,
        )
        trainer.add_callback(FreezeEncoders(model, arguments.freeze_epochs))
        return trainer

    return trainer_of


def batch_of(trainer, indices):
    return trainer.data_collator(trainer.train_dataset.__getitems__(indices))


def test_a_row_has_all_its_captions_and_one_image(rows):
    examples = CaptionRows(CaptionExamples(rows, LANGUAGES, "image"))
    assert len(examples) == 5
    for index, number in enumerate([0, 1, 3, 4, 5]):  # row 2 has no caption
        expected = []
        for language in LANGUAGES:
            expected += CAPTIONS[number][language] or []
        assert examples[index]["texts"] == expected
    assert examples[0]["languages"] == [0, 0, 1, 2, 3]
    assert examples[1]["languages"] == [0, 2]
    assert examples[0]["row_id"] == examples[3]["row_id"] != examples[1]["row_id"]  # equal English
    assert examples.summary() == "5 images with 18 captions in en es ja hi; skipped: 1 without captions"
    spanish = CaptionRows(CaptionExamples(rows, ["es"], "image"))
    assert [row["texts"] for row in spanish.__getitems__([0, 1])] == [["llave"], ["fuego"]]
    assert len(spanish) == 4


def test_a_batch_encodes_equal_captions_once(trainer_of):
    batch = batch_of(trainer_of(), [0, 1, 3])
    # Of three rows: "key", "a key", "llave", "鍵", "चाबी"; "bell", "ベル"; "key", "clave", "鍵", "कुंजी".
    assert batch["text_to_image"].tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert batch["languages"].tolist() == [0, 0, 1, 2, 3, 0, 2, 0, 1, 2, 3]
    assert len(batch["input_ids"]) == 9
    assert batch["text_rows"][0] == batch["text_rows"][7]  # "key" and "鍵" stand twice
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert batch["row_ids"].shape == (3,)


def test_captions_choose_by_hand():
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    owners = torch.tensor([0, 1, 1, 2])
    scale = torch.tensor(2.0)
    log_sum = math.log(math.exp(2) + 2)  # a caption has the score 2 with one image and 0 with two

    # The third caption lies on image 0 and is image 1's.
    expected = torch.tensor([log_sum - 2, log_sum - 2, log_sum, log_sum - 2])
    plain = caption_losses(images, texts, scale, text_to_image=owners)
    torch.testing.assert_close(plain, expected)
    tiled = caption_losses(images, texts, scale, text_to_image=owners, tile_size=3)
    torch.testing.assert_close(tiled, expected)

    # With images 0 and 1 equal, both are the target of their captions, whose mean score is 1.
    image_ids = torch.tensor([5, 5, 7])
    alike = caption_losses(images, texts, scale, text_to_image=owners, image_ids=image_ids)
    torch.testing.assert_close(alike, torch.tensor([log_sum - 1, log_sum - 1, log_sum - 1, log_sum - 2]))


def test_a_curve_of_captions_compares_one_language_with_four():
    """Four equal captions an image have the caption loss of one.

    The symmetric loss grows, by the logarithm of four in one of its two directions.
    """
    images = normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    texts = normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), dim=-1)
    scale = torch.tensor(3.0)
    one = torch.arange(6)
    four = one.repeat_interleave(4)

    of_one = caption_losses(images, texts[one], scale, text_to_image=one)
    of_four = caption_losses(images, texts[four], scale, text_to_image=four)
    torch.testing.assert_close(of_one.repeat_interleave(4), of_four)

    symmetric_of_one = contrastive_loss(images, texts[one], scale, text_to_image=one)
    symmetric_of_four = contrastive_loss(images, texts[four], scale, text_to_image=four)
    assert (symmetric_of_four - symmetric_of_one).item() == pytest.approx(math.log(4) / 2)


def test_means_are_of_captions_and_of_languages():
    # Languages and losses of the captions of two batches.
    seen = [(torch.tensor([0, 2]), torch.tensor([1.0, 4.0])), (torch.tensor([0]), torch.tensor([3.0]))]
    expected = {"caption_loss": 8 / 3, "caption_loss_en": 2.0, "caption_loss_ja": 4.0}
    assert by_language(seen, ["en", "es", "ja"]) == pytest.approx(expected)


def test_the_log_tells_of_captions_and_begins_anew(trainer_of):
    """The nearest image of each caption is logged too, by the ids of the images that captions describe."""
    trainer = trainer_of()
    model = trainer.model.train()
    batch = batch_of(trainer, [0, 2, 4])
    watched = []

    def see(inputs, groups, texts, counterparts):
        watched.append((inputs["row_ids"], counterparts))

    trainer.watch.see = see
    trainer.compute_loss(model, dict(batch))
    images = normalize(model.get_image_features(batch["pixel_values"]).pooler_output, dim=-1)
    row_ids, counterparts = watched[0]
    owners = batch["text_to_image"]
    torch.testing.assert_close(counterparts, images[owners])
    assert torch.equal(row_ids, batch["row_ids"][owners])

    logged = []
    for _ in range(2):
        logs = {"loss": 1.0}
        trainer.log(logs)
        logged.append(set(logs))
    assert logged[0] >= {"caption_loss", "caption_loss_en", "caption_loss_hi"}
    assert not any("caption" in name for name in logged[1])


@pytest.mark.parametrize("setting", ["paper", "released"])
def test_settings_by_hand(trainer_of, setting):
    """The loss is written out from the towers' embeddings, of texts without padding."""
    trainer = trainer_of(setting=setting)
    model = trainer.model.train()
    batch = batch_of(trainer, [1, 2, 4])
    loss = trainer.compute_loss(model, dict(batch))

    images = model.get_image_features(batch["pixel_values"]).pooler_output
    distinct_texts = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"]):
        unpadded = ids[mask.bool()]
        distinct_texts.append(model.get_text_features(unpadded[None]).pooler_output[0])
    texts = torch.stack(distinct_texts)[batch["text_rows"]]
    owners = batch["text_to_image"]
    if setting == "released":
        # The scale itself, on embeddings of any length.
        assert model.logit_scale.item() == 1
        expected = cross_entropy(texts @ images.T * 1.0, owners)
    else:
        logits = normalize(texts, dim=-1) @ normalize(images, dim=-1).T * math.exp(2.6592)
        log_of_texts = logits.T.log_softmax(1)
        of_images = [-log_of_texts[image, owners == image].mean() for image in range(3)]
        expected = (cross_entropy(logits, owners) + torch.stack(of_images).mean()) / 2
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "switches", [{"length_groups": 3}, {"gradient_cache_chunk": 4, "tile_size": 3}], ids=str
)
def test_switches_leave_loss_and_gradients_as_they_are(trainer_of, switches):
    def measure(**given):
        trainer = trainer_of(freeze_epochs=0, **given)
        loss = trainer.compute_loss(trainer.model.train(), batch_of(trainer, [0, 1, 2, 3, 4]))
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}
        return loss.detach(), gradients

    plain, plain_gradients = measure()
    switched, switched_gradients = measure(**switches)
    torch.testing.assert_close(switched, plain)
    assert switched_gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        assert gradient is not None, name
        if not name.endswith("key.bias"):  # which adds the same to all scores of a query: it has no gradient
            assert gradient.abs().max() > 0, name
        torch.testing.assert_close(switched_gradients[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("languages", [["en"], LANGUAGES], ids=str)
@pytest.mark.parametrize("setting", ["paper", "released"])
def test_an_image_is_encoded_once_a_step(trainer_of, languages, setting):
    trainer = trainer_of(languages=languages, setting=setting, freeze_epochs=0, length_groups=2)
    n_images = []
    n_texts = []

    def count_images(module, arguments, options):
        n_images.append(len(options["pixel_values"]))

    def count_texts(module, arguments, options):
        n_texts.append(len(options["input_ids"]))

    trainer.model.vision_model.register_forward_pre_hook(count_images, with_kwargs=True)
    trainer.model.text_model.register_forward_pre_hook(count_texts, with_kwargs=True)
    trainer.train()
    assert n_images == [3, 2, 3, 2]  # two epochs of five images, three at a step
    assert len(n_texts) == 8  # two length groups a step
    assert min(n_texts) > 0
    if languages == LANGUAGES:
        assert sum(n_texts) > sum(n_images)


INTERFACES = ["text_projection", "visual_projection", "logit_scale"]


def test_encoders_are_frozen_for_half_an_epoch_and_learn_then(trainer_of, rows, tmp_path):
    """Half an epoch of eight images is two of six steps; a run that resumes on either side ends in the same
    bytes.
    """
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
        interfaces = {name for name in weights if name.startswith(tuple(INTERFACES))}
        assert interfaces
        assert moved >= interfaces
        if step <= 2:
            assert moved <= interfaces
        else:
            assert set(weights) - moved <= {"text_model.encoder.embeddings.token_type_embeddings.weight"}
    for step in (1, 2, 3):
        resumed = trainer_of(**given, seed=42)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"out/checkpoint-{step}"))
        for name, value in resumed.model.state_dict().items():
            assert torch.equal(value, whole[name]), name


def test_dropout_is_on_again_after_a_validation(trainer_of, rows):
    """The released code trained without dropout from then on. A frozen encoder has none either way."""
    captions = {"en": "key", "es": "llave", "ja": "鍵", "hi": "चाबी"}
    validation = Dataset.from_dict({"image": rows["image"][:3], "captions": [captions] * 3})
    trainer = trainer_of(
        dropout=0.1,
        validation=validation.cast_column("image", Image()),
        eval_strategy="steps",
        eval_steps=1,
        validation_split="validation",
        logging_steps=1,
    )
    modes_of_steps = []

    def record_mode(module, arguments):
        if torch.is_grad_enabled():  # a training step rather than a validation
            modes_of_steps.append(module.training)

    trainer.model.text_model.register_forward_pre_hook(record_mode)
    trainer.train()
    assert modes_of_steps == [False, True, True, True]  # an epoch has two steps
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
        ({"streaming": True, "max_steps": 3}, "streaming is True, which parallel training lacks"),
        ({"dry_run": True}, "dry_run is True, which parallel training lacks"),
        ({"setting": "released", "tile_size": 3}, "tile_size is 3, and the released loss has no tiles"),
    ],
)
def test_bad_choices_are_refused(encoders, tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        ParallelArguments(**encoders, dataset="", output_dir=str(tmp_path), use_cpu=True, **given)


def switch_off_dropout(folder):
    path = Path(folder, "config.json")
    config = json.loads(path.read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    path.write_text(json.dumps(config))


def scores_in_log(folder, name):
    """Return the values of `name` at each validation of a run."""
    state = json.loads((folder / "trainer_state.json").read_text())
    return [entry[name] for entry in state["log_history"] if "eval_caption_loss" in entry]


@pytest.fixture
def train(run_python, encoders, rows, tmp_path):
    """Run the training script on 16 images with one process or more, and return its output folder."""
    (tmp_path / "rows").mkdir()
    rows.select([0, 1, 3, 5] * 4).to_parquet(tmp_path / "rows/train.parquet")
    for encoder in encoders.values():
        switch_off_dropout(encoder)

    def train(processes, setting, freeze_epochs, run_in_processes):
        output_dir = tmp_path / str(processes)
        options = {
            **encoders,
            "setting": setting,
            "freeze_epochs": freeze_epochs,
            "dataset": tmp_path / "rows",
            "split": "train",
            "output_dir": output_dir,
            "max_steps": 4,
            "per_device_train_batch_size": 8 // processes,
            "projection_dim": 16,
            "bf16": "false",
            "length_groups": 1,
            "optim": "sgd",
            "learning_rate": 0.05,
            "warmup_steps": 0,
            "eval_steps": 2,
            "validation_split": "train",
        }
        flags = []
        for name, value in options.items():
            flags += [f"--{name}", value]
        recipe = ROOT / "training/recipes/parallel/miniature.yaml"
        process = run_in_processes(ROOT / "training/run_parallel.py", recipe, *flags)
        assert process.returncode == 0, process.stderr[-4000:]
        assert "Training on 16 images with 56 captions in en es ja hi" in process.stdout
        return output_dir

    return train


@pytest.mark.parametrize(
    "setting,under_fsdp2,freeze_epochs",
    [("paper", False, 0.5), ("released", False, 0.5), ("paper", True, 0)],
    ids=["paper", "released", "paper under FSDP2"],
)
def test_two_processes_train_like_one(
    run_python, run_under_fsdp2, train, encoders, setting, under_fsdp2, freeze_epochs
):
    """The runs go over the step at which encoders thaw; the processes have unequally many captions."""

    def run_one(*command):
        return run_python("python", *command, processes=1, OMP_NUM_THREADS="1")

    def run_two(*command):
        return run_python("python", *command, processes=2, OMP_NUM_THREADS="1")

    of_one = train(1, setting, freeze_epochs, run_one)
    of_two = train(2, setting, freeze_epochs, run_under_fsdp2 if under_fsdp2 else run_two)

    before = ViTModel.from_pretrained(encoders["image_encoder_name_or_path"], add_pooling_layer=False)
    after = load_model(str(of_one))[0].vision_model.encoder.state_dict()
    moved = [name for name, value in before.state_dict().items() if not torch.equal(value, after[name])]
    assert len(moved) > 20

    weights = load_file(of_one / "model.safetensors")
    weights_of_two = load_file(of_two / "model.safetensors")
    for name, value in weights.items():
        torch.testing.assert_close(
            weights_of_two[name], value, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    model, processor = load_model(str(of_two))
    if setting == "released":
        assert abs(model.logit_scale.item()) < 0.5
    else:
        assert model.logit_scale.item() > 2
    assert model.config.projection_bias
    assert processor.tokenizer("鍵")["input_ids"]

    losses = scores_in_log(of_one, "eval_caption_loss")
    recalls = scores_in_log(of_one, "eval_mean_recall")
    assert len(recalls) == 2
    assert losses == pytest.approx(scores_in_log(of_two, "eval_caption_loss"), abs=1e-3)
    # Of 16 images: rounding may move a few ranks.
    assert recalls == pytest.approx(scores_in_log(of_two, "eval_mean_recall"), abs=0.05)


def test_freezing_under_fsdp_is_refused(trainer_of, monkeypatch):
    """FSDP2 would train the encoders from the first step."""
    monkeypatch.setattr(ParallelTrainer, "is_fsdp_enabled", True, raising=False)
    monkeypatch.setattr("training.trainers.base.make_shardable", lambda *_: None)  # needs a process group
    monkeypatch.setattr("transformers.Trainer.__init__", fake_init)
    with pytest.raises(
        InputError, match="freeze_epochs is 0.5, and FSDP2 goes on to train what it was given: set it to 0"
    ):
        trainer_of()


def fake_init(trainer, model, args, **_):
    """Set the attributes that `ParallelTrainer` reads, without an accelerator."""
    trainer.model = model
    trainer.args = args
    trainer.accelerator = None
    trainer.callback_handler = CallbackHandler([], model, None, None, None)
