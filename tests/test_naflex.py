"""SigLIP 2 NaFlex, whose images have patches of their own number, is trained on images as on its cache."""

import io
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from safetensors.torch import load_file
from transformers import AutoModel

from benchmarks import load_model
from common.errors import InputError
from modeling_altclip import AltCLIPDualEncoderModel, AltCLIPProcessor, embed_images
from modeling_altclip.pooling_altclip import IMAGE_INPUTS
from training import ContrastiveArguments, TeacherArguments
from training.data.examples import CaptionExamples, prepare_images
from training.data.images import ImageViews
from training.data.loading import stream_images
from training.data.tower_cache import image_embeddings
from training.freezing import freeze_all_but
from training.jobs import parallel, stage0, stage2
from training.lifecycle import collator_of
from training.parallel.caption_rows import CaptionRows, RowCollator
from training.parallel.trainer import ParallelArguments, ParallelTrainer
from training.trainers import ContrastiveTrainer, images_of
from training.validation import Validation

from .conftest import ROOT
from .families import load_tokenizer_of, save_student, save_teacher

# Wide, high and square pictures; several fill fewer patches than the 16 to which all are padded.
SIZES = [(64, 16), (16, 64), (32, 32), (40, 24), (24, 40), (9, 30), (48, 32), (30, 9)]
WORDS = ["key", "bell", "fire", "dog", "apple", "ghost", "cat", "umbrella"]
FROM_TEXTS = ["text_model", "text_projection", "logit_scale", "logit_bias"]
WHOLE = ["vision_model", *FROM_TEXTS]
SMALL = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}
SIGMOID = SMALL | {"loss": "sigmoid"}
VALIDATED = {"eval_strategy": "steps", "eval_steps": 1, "validation_split": "validation"}


@pytest.fixture(scope="module")
def folders(miniature, tmp_path_factory):
    """Save a NaFlex, a BERT and their student, which has no dropout; return the folders by name."""
    root = tmp_path_factory.mktemp("naflex")
    teacher = save_teacher("naflex", root / "teacher", load_tokenizer_of(miniature))
    encoder = save_student("bert", root / "bert", load_tokenizer_of(miniature))
    torch.manual_seed(0)
    student = AltCLIPDualEncoderModel.from_teacher(teacher, encoder, dropout=0.0)
    image_processor = load_model(teacher)[1].image_processor
    student.save_pretrained(root / "student")
    AltCLIPProcessor(image_processor, load_tokenizer_of(miniature)).save_pretrained(root / "student")
    return {"teacher": teacher, "encoder": encoder, "student": str(root / "student")}


def encoded_pictures():
    """Return PNGs of noise in all sizes: random pictures have embeddings that differ."""
    random = np.random.default_rng(0)
    pictures = []
    for width, height in SIZES:
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        PillowImage.fromarray(pixels).save(buffer, "png")
        pictures.append(buffer.getvalue())
    return pictures


def write_data(folder):
    """Write the pictures with captions in two languages as parquet; return the rows."""
    captions = [{"en": f"a {word}", "zh": f"zh {word}"} for word in WORDS]
    images = [{"bytes": picture, "path": None} for picture in encoded_pictures()]
    features = Features({"image": Image(), "captions": {"en": Value("string"), "zh": Value("string")}})
    rows = Dataset.from_dict({"image": images, "captions": captions}, features=features)
    for split in ("train", "validation"):
        rows.to_parquet(folder / f"{split}.parquet")
    return rows


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "data").mkdir()
    return write_data(tmp_path / "data")


@pytest.fixture
def arguments(folders, rows, tmp_path):
    """Return a function that makes the arguments of a stage on the rows."""

    def arguments(stage=ContrastiveArguments, **given):
        start = "teacher" if stage is TeacherArguments else "student"
        fixed = {"dataset": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
        return stage(**fixed, **SIGMOID | {"model_name_or_path": folders[start]} | given)

    return arguments


@pytest.fixture
def trainer_of(arguments, rows):
    """Return a function that makes a trainer of stage 2 on the rows' images, without any cache."""

    def trainer_of(languages=("en",), validation=False, **given):
        made = arguments(cache_image_embeds=False, **given)
        model, processor = load_model(made.model_name_or_path)
        freeze_all_but(model, made.trainable)
        examples = CaptionExamples(rows, list(languages), "image", inputs=ImageViews(rows, made.image_views))
        return ContrastiveTrainer(
            model=model,
            args=made,
            train_dataset=examples,
            data_collator=collator_of(made, model, processor),
            processing_class=processor,
            validation=Validation(model, processor, rows, list(languages)) if validation else None,
        )

    return trainer_of


def batch_of(trainer, indices):
    return trainer.data_collator(trainer.train_dataset.__getitems__(list(indices)))


def step(trainer, batch):
    """Return the loss of a batch, and the gradients of all parameters that learn."""
    trainer.model.zero_grad()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    gradients = {}
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            gradients[name] = parameter.grad.clone()
    return loss.detach(), gradients


def distance(found, expected):
    """Return how far values are apart, by their length."""
    return ((found - expected).norm() / expected.norm()).item()


def join(gradients):
    """Return all gradients as one vector."""
    return torch.cat([values.flatten() for values in gradients.values()])


def check_equal(found, expected):
    """Check losses and gradients; each of them differs from zero, but for biases before a softmax of keys."""
    assert distance(found[0], expected[0]) < 1e-5
    assert found[1].keys() == expected[1].keys()
    joined = [join(gradients) for _, gradients in (found, expected)]
    assert joined[1].norm() > 1e-3
    assert distance(*joined) < 1e-5
    scale = joined[1].norm()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() < 1e-5 * max(gradient.norm(), 1e-2 * scale), name


def test_a_batch_has_all_that_the_image_processor_returns(trainer_of):
    trainer = trainer_of()
    images = images_of(batch_of(trainer, range(8)))
    assert tuple(images) == IMAGE_INPUTS
    assert images["pixel_values"].shape == (8, 16, 192)
    # Of 16 patches pictures of four to one fill all, 2 x 8; those of five to three 12, as 3 x 4.
    shapes = images["spatial_shapes"]
    assert len({tuple(shape) for shape in shapes.tolist()}) >= 4
    assert torch.equal(images["pixel_attention_mask"].sum(1), shapes.prod(1))
    assert images["pixel_attention_mask"].min() == 0


def test_pictures_of_several_shapes_are_embedded_as_alone(trainer_of):
    trainer = trainer_of()
    inputs = batch_of(trainer, range(8))
    together = trainer.embed_frozen(trainer.model, images_of(inputs))
    trainer.args.gradient_cache_chunk = 3
    in_parts = trainer.embed_frozen(trainer.model, images_of(inputs))
    alone = []
    for index in range(8):
        alone.append(trainer.embed_frozen(trainer.model, images_of(batch_of(trainer, [index]))))
    assert distance(together, torch.cat(alone)) < 1e-5
    assert distance(in_parts, torch.cat(alone)) < 1e-5
    assert (together[0] - together[1]).norm() > 1e-3


def test_live_images_train_like_cached_ones(trainer_of, rows, tmp_path):
    trainer = trainer_of(("en", "zh"), trainable=FROM_TEXTS)
    indices = [0, 1, 2, 3, 4, 5, 7, 8, 12, 15]  # two captions of some pictures
    live = batch_of(trainer, indices)
    column = image_embeddings(
        trainer.train_dataset.inputs,
        trainer.model,
        trainer.processing_class,
        cache_dir=str(tmp_path / "cache"),
    )
    cached_examples = trainer.train_dataset.with_inputs("image_embeds", column)
    cached = trainer.data_collator(cached_examples.__getitems__(indices))
    assert not images_of(cached)
    expected = step(trainer, cached)
    check_equal(step(trainer, live), expected)
    trainer.args.gradient_cache_chunk = 4
    check_equal(step(trainer, live), expected)


def test_a_frozen_image_tower_keeps_no_activations(trainer_of):
    trainer = trainer_of(trainable=FROM_TEXTS)
    grad_was_on = []
    trainer.model.vision_model.register_forward_hook(lambda *_: grad_was_on.append(torch.is_grad_enabled()))
    inputs = dict(batch_of(trainer, range(4)))
    trainer.compute_loss(trainer.model, inputs).backward()
    assert grad_was_on == [False]
    assert not images_of(inputs)  # let go of before texts are encoded


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_gradient_caching_leaves_loss_and_gradients_as_they_are(trainer_of, chunk):
    trainer = trainer_of(trainable=WHOLE)
    batch = batch_of(trainer, range(8))
    expected = step(trainer, batch)
    assert expected[1]["vision_model.encoder.embeddings.position_embedding.weight"].norm() > 0
    trainer.args.gradient_cache_chunk = chunk
    check_equal(step(trainer, batch), expected)


def test_steps_train_every_part_that_learns(trainer_of):
    """DDP would stop at a parameter that learns and has no gradient."""
    trainer = trainer_of(trainable=WHOLE, gradient_cache_chunk=3)
    _, gradients = step(trainer, batch_of(trainer, range(4)))  # which fails where one has none
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        is_trained = name in gradients
        assert parameter.requires_grad == is_trained
        # Keys' biases change no softmax.
        if gradients.get(name, torch.zeros(1)).norm() > 1e-6:
            assert not torch.equal(parameter, before[name]), name
        elif not is_trained:
            assert torch.equal(parameter, before[name]), name


def test_a_stream_has_the_batches_of_what_lies_on_the_disk(trainer_of, arguments):
    trainer = trainer_of()
    stream = stream_images(arguments(cache_image_embeds=False, streaming=True), ["en"])
    streamed = trainer.data_collator(list(islice(stream, 8)))
    mapped = batch_of(trainer, range(8))
    for name in ("input_ids", "text_rows", *IMAGE_INPUTS):
        assert torch.equal(streamed[name], mapped[name]), name


def test_crops_are_seen_live_as_they_are_cached(trainer_of, tmp_path):
    trainer = trainer_of(image_views=2)
    views = trainer.train_dataset.inputs
    column = image_embeddings(
        views, trainer.model, trainer.processing_class, cache_dir=str(tmp_path / "cache")
    )
    seen = []
    for view in range(2):
        views.set_epoch(view)
        column.set_epoch(view)
        live = trainer.embed_frozen(trainer.model, images_of(batch_of(trainer, range(8))))
        cached = torch.as_tensor(np.stack(column[list(range(8))]["image_embeds"]))
        assert distance(live, cached) < 1e-5
        seen.append(live)
    assert distance(*seen) > 1e-3


def test_more_captions_than_pictures_are_cached_in_chunks(folders, rows, tmp_path):
    """A chunk has a caption, so that there are fewer pictures than chunks."""
    model, processor = load_model(folders["student"])
    arguments = ParallelArguments(
        **SIGMOID,
        image_encoder_name_or_path="",
        text_encoder_name_or_path="",
        dataset="",
        output_dir=str(tmp_path),
        freeze_epochs=0,
    )
    trainer = ParallelTrainer(
        model=model,
        args=arguments,
        train_dataset=CaptionRows(CaptionExamples(rows, ["en", "zh"], "image")),
        data_collator=RowCollator(processor.tokenizer, 77, processor.image_processor),
    )
    batch = batch_of(trainer, range(3))
    expected = step(trainer, batch)
    for chunk in (1, 4):
        arguments.gradient_cache_chunk = chunk
        check_equal(step(trainer, batch), expected)
    arguments.gradient_cache_chunk = None
    arguments.length_groups = 2
    check_equal(step(trainer, batch), expected)


@pytest.mark.parametrize("pooling", ["mean", None])
def test_a_dual_encoder_takes_the_image_tower(folders, rows, pooling):
    model = AltCLIPDualEncoderModel.from_towers(
        folders["teacher"], folders["encoder"], projection_dim=16, vision_pooling=pooling
    ).eval()
    teacher, processor = load_model(folders["teacher"])
    images = prepare_images(rows["image"], processor.image_processor)
    with torch.no_grad():
        found = model.vision_model(**images)
        outputs = teacher.vision_model(**images)
    expected = outputs.pooler_output
    if pooling == "mean":
        # By hand, without the patches that are padding.
        kept = [
            states[mask.bool()].mean(0)
            for states, mask in zip(outputs.last_hidden_state, images["pixel_attention_mask"])
        ]
        expected = torch.stack(kept)
    assert model.config.vision_pooling == (pooling or "pooler")
    assert distance(found.pooler_output, expected) < 1e-5


def dry_run(stage, arguments, capsys):
    stage.main(arguments(TeacherArguments if stage is stage0 else ContrastiveArguments))
    return capsys.readouterr().out


def activations_of(printed):
    (line,) = [line for line in printed.splitlines() if line.startswith("activations")]
    return line


def test_a_dry_run_counts_the_patches_that_the_processor_makes(folders, arguments, capsys, monkeypatch):
    monkeypatch.setattr("training.dry_run._GIB", 1)  # bytes, since the model is small
    given = {"trainable": WHOLE, "cache_image_embeds": False, "dry_run": True}

    def activations(**changes):
        stage2.main(arguments(**given | changes))
        return activations_of(capsys.readouterr().out)

    live = activations()
    assert live != activations(trainable=FROM_TEXTS)
    processor = load_model(folders["student"])[1].image_processor
    processor.max_num_patches = 100
    monkeypatch.setattr("training.dry_run.AutoImageProcessor.from_pretrained", lambda *_, **__: processor)
    assert live != activations()


def test_matryoshka_knows_the_width_of_naflex(arguments, capsys):
    given = partial(arguments, TeacherArguments, dry_run=True)
    with pytest.raises(InputError, match="matryoshka_dims ends at 16, and the model's embeddings have 32"):
        stage0.main(given(matryoshka_dims=[16]))
    stage0.main(given(matryoshka_dims=[32, 16]))
    assert "Dry run" in capsys.readouterr().out


@pytest.mark.slow
def test_stage_0_trains_a_naflex(folders, arguments, rows, tmp_path):
    made = arguments(
        TeacherArguments,
        **VALIDATED,
        save_strategy="steps",
        save_steps=1,
    )
    stage0.main(made)
    before = load_file(f"{folders['teacher']}/model.safetensors")
    after = load_file(tmp_path / "out/model.safetensors")
    for part in ("vision_model.encoder.layers.0.mlp.fc1.weight", "text_model.head.weight", "logit_bias"):
        assert not torch.equal(after[part], before[part]), part
    model, processor = load_model(str(tmp_path / "out"))
    assert model.config.model_type == "siglip2"
    found = embed_images(model, processor, rows["image"])
    assert distance(found, embed_images(*load_model(folders["teacher"]), rows["image"])) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"cache_image_embeds": False},
        {"cache_image_embeds": False, "trainable": WHOLE, "gradient_cache_chunk": 3},
        {"cache_image_embeds": False, "streaming": True},
        # An epoch has four steps: the fifth is about crops.
        {"cache_image_embeds": False, "image_views": 2, "max_steps": 5},
        {"image_views": 2, "max_steps": 5},
    ],
    ids=["live", "whole in chunks", "streaming", "live crops", "cached crops"],
)
def test_stage_2_trains_and_validates(folders, arguments, tmp_path, given):
    made = arguments(**VALIDATED, languages=["en", "zh"], **given)
    stage2.main(made)
    before = load_file(f"{folders['student']}/model.safetensors")
    after = load_file(tmp_path / "out/model.safetensors")
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    expected = {"text_model", "text_projection", "logit_scale", "logit_bias"}
    if "trainable" in given:
        expected.add("vision_model")
    assert changed == expected
    assert "eval_mean_recall_zh" in (tmp_path / "out/trainer_state.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [{}, {"freeze_epochs": 0, "gradient_cache_chunk": 1}], ids=["whole", "chunks"]
)
def test_parallel_training_takes_a_naflex(folders, rows, tmp_path, given):
    made = ParallelArguments(
        **SIGMOID,
        image_encoder_name_or_path=folders["teacher"],
        text_encoder_name_or_path=folders["encoder"],
        dataset=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"),
        projection_dim=16,
        **VALIDATED,
        **given,
    )
    parallel.main(made)
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert model.config.vision_pooling == "pooler"
    assert embed_images(*load_model(str(tmp_path / "out")), rows["image"]).shape == (8, 16)
    assert "eval_caption_loss" in (tmp_path / "out/trainer_state.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage0", "stage2", "stage2 frozen", "stage0 under FSDP2"])
def test_two_processes_train_like_one(folders, rows, run_python, run_under_fsdp2, tmp_path, stage):
    """One process has the whole batch, two have halves of it, in chunks of which the last is smaller."""
    script = ROOT / f"training/run_{stage.split()[0]}.py"
    is_whole = "frozen" not in stage
    start = folders["teacher" if script.stem == "run_stage0" else "student"]
    flags = ["--model_name_or_path", start, "--dataset", tmp_path / "data", "--loss", "sigmoid"]
    flags += ["--max_steps", "3", "--optim", "sgd", "--learning_rate", "0.05", "--warmup_steps", "0"]
    flags += ["--save_strategy", "no", "--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
    flags += ["--dataloader_pin_memory", "false"]
    if script.stem == "run_stage2":
        flags += ["--cache_image_embeds", "false", "--languages", "en"]
        flags += ["--trainable", *(WHOLE if is_whole else FROM_TEXTS)]
    one = [script, *flags, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", "8"]
    two = [script, *flags, "--output_dir", tmp_path / "two", "--per_device_train_batch_size", "4"]
    two += ["--gradient_cache_chunk", "3"]

    process = run_python("python", *one, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr[-4000:]
    if "FSDP2" in stage:
        process = run_under_fsdp2(*two)
    else:
        process = run_python("python", *two, processes=2, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr[-4000:]

    before = load_file(f"{start}/model.safetensors")
    of_one = load_file(tmp_path / "one/model.safetensors")
    of_two = load_file(tmp_path / "two/model.safetensors")
    moved = [name for name, value in of_one.items() if not torch.equal(value, before[name])]
    assert len(moved) > 20
    assert any(name.startswith("vision_model") for name in moved) == is_whole
    for name, value in of_one.items():
        torch.testing.assert_close(
            of_two[name], value, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
