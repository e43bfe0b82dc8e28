"""A model of NaN is neither saved, pushed, resumed nor served, wherever its NaN comes from."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, TrainerCallback, XLMRobertaModel, pipeline

from common.errors import InputError
from common.models.loading import load_model
from modeling_altclip import AltCLIPModel, AltCLIPTextModel
from modeling_altclip.checksums_altclip import write_checksums
from modeling_altclip.finite_altclip import check_finite, find_not_finite
from training.lifecycle import train
from training.monitoring import FiniteSteps, check_scaler, find_not_finite_in
from training.parallel.pretraining import load_for_masking

from .conftest import ROOT
from .processes import spawn

ALONE = SimpleNamespace(gather=lambda value: value)
BAD = [math.nan, math.inf, -math.inf]


def test_the_first_bad_step_is_named_with_its_value():
    steps = FiniteSteps(torch.device("cpu"))
    for step, loss in enumerate([1.0, 2.0, math.inf, 1.0, math.nan], start=1):
        steps.note("loss", torch.tensor(loss), step)
        steps.note("gradient norm", torch.tensor(loss), step)
        if step < 3:
            steps.check(ALONE)
    with pytest.raises(
        InputError, match="^loss is inf at step 3: lower learning_rate, set bf16 for fp16, or"
    ):
        steps.check(ALONE)


def test_a_gradient_is_named_where_the_loss_was_finite():
    steps = FiniteSteps(torch.device("cpu"))
    steps.note("loss", torch.tensor(math.nan), 4)
    steps.note("gradient norm", torch.tensor(math.nan), 2)
    with pytest.raises(InputError, match="^gradient norm is nan at step 2: "):
        steps.check(ALONE)


def test_a_scaler_that_skips_all_steps_ends_the_training():
    for scaler in (None, SimpleNamespace(get_scale=lambda: 1.0)):
        check_scaler(SimpleNamespace(scaler=scaler))
    with pytest.raises(InputError, match="fp16 scales the loss by 0.5, since gradients were NaN or infinite"):
        check_scaler(SimpleNamespace(scaler=SimpleNamespace(get_scale=lambda: 0.5)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", BAD)
def test_one_bad_value_is_found_wherever_it_is(dtype, value):
    # 1,001 values do not fill whole vector registers.
    for place in (0, 500, 1000):
        tensor = torch.full((1001,), torch.finfo(dtype).max, dtype=dtype)
        assert find_not_finite([("a", tensor)]) == []
        tensor[place] = value
        assert find_not_finite([("a", tensor), ("b", torch.ones(2))]) == ["a"]


def test_what_cannot_be_nan_passes():
    tensors = {
        "none": torch.empty(0),
        "numbers": torch.arange(3),
        "8 bits": torch.ones(3).to(torch.float8_e4m3fn),
        "without contents": torch.empty(3, device="meta"),
        "scalar": torch.tensor(1.0),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    assert find_not_finite(tensors.items()) == []
    assert find_not_finite([("8 bits", torch.tensor([math.nan]).to(torch.float8_e4m3fn))]) == ["8 bits"]


@pytest.fixture
def stage1(stage1):
    """Return a function that makes a trainer of four steps, saved at 2 and 4, with no log."""
    short = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 100}

    def seeded(**given):
        torch.manual_seed(0)
        return stage1(**short | given)

    return seeded


class At(TrainerCallback):
    """Calls a function of the trainer after a step."""

    def __init__(self, trainer, step, function):
        self.trainer = trainer
        self.step = step
        self.function = function

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.function(self.trainer)


def spoil_weight(trainer):
    trainer.model.text_model.transformation.weight.data[1, 1] = math.inf


def spoil_moment(trainer):
    # The weight is not trained on, so that nothing else shows it.
    next(iter(trainer.optimizer.state.values()))["exp_avg"].flatten()[0] = math.nan


def spoil_loss(trainer):
    plain = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: plain(*args, **kwargs) * math.nan


def spoil_one_gradient(trainer):
    weight = trainer.model.text_model.transformation.weight

    def spoil(gradient):
        gradient = gradient.clone()
        gradient[1, 1] = math.nan
        return gradient

    weight.register_hook(spoil)


def saved(folder):
    """Return what lies in a folder and below, and claims to be a model."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "spoil,step,options,message",
    [
        (
            spoil_weight,
            4,
            {},
            "^1 of .* before checkpoint-4 is saved, text_model.transformation.weight first: ",
        ),
        (
            spoil_weight,
            4,
            {"save_steps": 3},
            "^1 of .* before checkpoint-4 is saved, text_model.transformation.weight first: ",
        ),
        (spoil_moment, 4, {}, "^1 of .* before checkpoint-4 is saved, exp_avg of the optimizer first: lower"),
        (spoil_loss, 2, {}, "^loss is nan at step 3: lower learning_rate"),
        (spoil_loss, 2, {"logging_nan_inf_filter": True}, "^loss is nan at step 3"),
        (spoil_loss, 2, {"gradient_accumulation_steps": 2}, "^loss is nan at step 3"),
        (spoil_loss, 3, {"logging_steps": 1}, "^loss is nan at step 4"),
        (spoil_one_gradient, 2, {}, "^gradient norm is nan at step 3"),
        (spoil_one_gradient, 2, {"max_grad_norm": 0.0}, "^gradient norm is nan at step 3"),
        (spoil_one_gradient, 2, {"optim": "sgd"}, "^gradient norm is nan at step 3"),
    ],
)
def test_a_training_that_diverges_saves_nothing_of_it(stage1, tmp_path, spoil, step, options, message):
    trainer, arguments = stage1(**options)
    trainer.add_callback(At(trainer, step, spoil))
    with pytest.raises(InputError, match=message):
        train(trainer, arguments)
    # The checkpoint from before is there.
    assert saved(tmp_path / "out") == [f"checkpoint-{options.get('save_steps', 2)}/model.safetensors"]


def test_a_nan_in_the_data_is_named_by_its_step(stage1, tmp_path):
    trainer, arguments = stage1(logging_nan_inf_filter=True)
    collate = trainer.data_collator
    batches = []

    def spoil_third(examples):
        batch = collate(examples)
        batches.append(batch)
        if len(batches) == 3:
            batch["target"][1, 5] = math.nan
        return batch

    trainer.data_collator = spoil_third
    with pytest.raises(InputError, match="^loss is nan at step 3: lower learning_rate"):
        train(trainer, arguments)
    assert saved(tmp_path / "out") == ["checkpoint-2/model.safetensors"]


@pytest.mark.parametrize("spoil,step", [(spoil_weight, 4), (spoil_loss, 2), (spoil_one_gradient, 3)])
def test_it_also_ends_where_no_checkpoint_is_saved(stage1, tmp_path, spoil, step):
    trainer, arguments = stage1(save_strategy="no")
    trainer.add_callback(At(trainer, step, spoil))
    with pytest.raises(InputError, match="is nan at step|NaN or infinite at the end"):
        train(trainer, arguments)
    assert saved(tmp_path / "out") == []


def test_a_healthy_training_is_left_alone_and_its_values_are_noted_on_the_device(stage1, tmp_path):
    trainer, arguments = stage1()
    train(trainer, arguments)
    assert trainer.finite_steps.step.isinf().all()
    trainer.save_model()
    assert "model.safetensors" in saved(tmp_path / "out")


def test_a_model_that_is_spoilt_afterwards_is_neither_saved_nor_pushed(stage1, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda *_, **given: pushed.append(given))
    trainer, arguments = stage1()
    trainer.hub_model_id = "me/model"
    spoil_weight(trainer)
    for save in (trainer.save_model, trainer.push_to_hub):
        with pytest.raises(InputError, match="before out is saved, text_model.transformation.weight first"):
            save()
    with pytest.raises(ValueError, match="which is not saved, has 1 of .* weights with values that are NaN"):
        trainer.model.save_pretrained(tmp_path / "out")
    assert saved(tmp_path / "out") == []
    assert pushed == []


def spoil_file(path, name, value, place=None):
    weights = load_file(path)
    if place is None:
        weights[name].fill_(value)
    else:
        weights[name].flatten()[place] = value
    save_file(weights, path, metadata={"format": "pt"})


def test_a_checkpoint_of_nan_is_not_resumed(stage1, tmp_path):
    trainer, arguments = stage1()
    train(trainer, arguments)
    path = tmp_path / "out/checkpoint-4/model.safetensors"
    name = "text_model.transformation.weight"
    assert find_not_finite_in(path.parent) == []
    spoil_file(path, name, math.nan, place=5)
    assert find_not_finite_in(path.parent) == [name]
    write_checksums(path.parent)  # as a run would have saved it
    trainer, arguments = stage1(resume=True)
    with pytest.warns(UserWarning, match=f"checkpoint-4 has weights that are NaN or infinite, {name} first"):
        train(trainer, arguments)
    assert find_not_finite_in(path.parent) == []
    # The optimizer's moments are read when it is loaded.
    path = tmp_path / "out/checkpoint-2/optimizer.pt"
    state = torch.load(path)
    state["state"][0]["exp_avg"].flatten()[0] = math.nan
    torch.save(state, path)
    write_checksums(path.parent)
    trainer, arguments = stage1(resume_from_checkpoint="checkpoint-2")
    with pytest.raises(InputError, match="at the beginning, exp_avg of the optimizer first: "):
        train(trainer, arguments)


@pytest.mark.parametrize(
    "name", ["logit_scale", "text_projection.weight", "vision_model.post_layernorm.bias"]
)
@pytest.mark.parametrize("value", BAD)
def test_weights_that_are_no_numbers_are_not_loaded(altclip_folder, name, value):
    spoil_file(altclip_folder / "model.safetensors", name, value, place=0)
    message = f"has 1 of .* NaN or infinite, {name} first: its training diverged. Take an earlier checkpoint"
    with pytest.raises(ValueError, match=message):
        AltCLIPModel.from_pretrained(altclip_folder)
    with pytest.raises(InputError, match=message):
        load_model(str(altclip_folder))


def test_a_scale_whose_exponential_is_infinite_is_not_loaded(altclip_folder):
    spoil_file(altclip_folder / "model.safetensors", "logit_scale", 89.0)
    with pytest.raises(ValueError, match="has a logit_scale of 89, whose exponential is infinite"):
        AltCLIPModel.from_pretrained(altclip_folder)


def test_a_text_tower_and_a_tower_of_another_class_are_refused_as_well(altclip_folder, miniature, tmp_path):
    spoil_file(altclip_folder / "model.safetensors", "text_model.transformation.bias", math.nan, place=0)
    with pytest.raises(ValueError, match="transformation.bias first"):
        AltCLIPTextModel.from_pretrained(altclip_folder)

    clip, encoder = tmp_path / "clip", tmp_path / "encoder"
    XLMRobertaModel.from_pretrained(miniature / "text_encoder").save_pretrained(encoder)
    spoil_file(encoder / "model.safetensors", "embeddings.word_embeddings.weight", math.nan, place=9)
    with pytest.raises(ValueError, match="embeddings.word_embeddings.weight first"):
        AltCLIPModel.from_teacher(str(miniature / "clip"), str(encoder))

    model = CLIPModel.from_pretrained(miniature / "clip")
    model.visual_projection.weight.data[0, 0] = math.nan
    model.save_pretrained(clip)
    load_model(str(miniature / "clip"))[1].save_pretrained(clip)
    with pytest.raises(InputError, match="visual_projection.weight first"):
        load_model(str(clip))


def test_large_weights_are_read_by_jobs_alone(altclip_folder):
    """`from_pretrained` maps large weights into memory and does not read them; a job does."""
    path = altclip_folder / "model.safetensors"
    name, large = max(load_file(path).items(), key=lambda item: item[1].numel())
    assert large.numel() > 2**16
    spoil_file(path, name, math.nan, place=7)
    AltCLIPModel.from_pretrained(altclip_folder)
    with pytest.raises(InputError, match=f"{name} first"):
        load_model(str(altclip_folder))
    with pytest.raises(ValueError, match=f"{name} first"):
        check_finite(load_file(path).items(), "it")


def test_a_pipeline_reads_every_weight_when_it_is_built(altclip_folder):
    """A NaN in a large weight may change the scores of a few texts alone."""
    path = altclip_folder / "model.safetensors"
    weights = load_file(path)
    name = max(weights, key=lambda name: weights[name].numel())
    model, processor = load_model(str(altclip_folder))
    given = {"tokenizer": processor.tokenizer, "image_processor": processor.image_processor}
    spoil_file(path, name, math.nan, place=7)
    with pytest.raises(ValueError, match=f"altclip has 1 of .* NaN or infinite, {name} first"):
        pipeline("zero-shot-image-classification", model=str(altclip_folder))

    assert pipeline("zero-shot-image-classification", model=model, **given).model is model
    model.get_parameter(name).data.flatten()[7] = math.inf
    with pytest.raises(ValueError, match=f"1 of .* NaN or infinite, {name} first"):
        pipeline("zero-shot-image-classification", model=model, **given)


def test_an_encoder_of_nan_is_not_trained_on(miniature, tmp_path):
    shutil.copytree(miniature / "text_encoder", tmp_path / "encoder")
    name = "embeddings.word_embeddings.weight"
    spoil_file(tmp_path / "encoder/model.safetensors", name, math.nan, place=9)
    # The embeddings are the weight of the language modelling head as well, and have the name of either.
    with pytest.raises(
        InputError, match="cannot be loaded: it has 1 of .* NaN or infinite, .*weight first: its"
    ):
        load_for_masking(str(tmp_path / "encoder"))


@pytest.mark.parametrize("stage", ["stage0", "stage1", "stage2", "parallel", "text_pretraining"])
def test_an_infinite_rate_ends_every_training_with_one_line(
    stage, miniature, start_flags, run_python, tmp_path
):
    recipes = {"parallel": "parallel/miniature.yaml", "text_pretraining": "parallel/text_miniature.yaml"}
    starts = dict(start_flags)
    starts["text_pretraining"] = ["--text_encoder_name_or_path", miniature / "text_encoder"]
    starts["parallel"] = [*starts["text_pretraining"], "--image_encoder_name_or_path", miniature / "clip"]
    process = run_python(
        "python",
        ROOT / f"training/run_{stage}.py",
        ROOT / "training/recipes" / recipes.get(stage, f"miniature/{stage}.yaml"),
        *starts[stage],
        *("--dataset", miniature / "dataset", "--output_dir", tmp_path / "out", "--max_steps", "6"),
        *("--per_device_train_batch_size", "8", "--logging_steps", "100", "--save_strategy", "no"),
        *("--warmup_steps", "0", "--learning_rate", "1e38", "--optim", "sgd"),
        *("--bf16", "false", "--max_grad_norm", "1e30", "--lr_scheduler_type", "constant"),
    )
    assert process.returncode == 1, process.stderr[-3000:]
    assert "Traceback" not in process.stderr
    last = process.stderr.splitlines()[-1]
    assert f"run_{stage}.py: error: " in last
    assert "lower learning_rate" in last
    assert "Saved" not in process.stdout
    assert saved(tmp_path / "out") == []


def note_in_two_processes(rank, folder):
    """Process 1 alone has a NaN, at step 2."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    steps = FiniteSteps(accelerator.device)
    for step in (1, 2, 3):
        steps.note("loss", torch.tensor(math.nan if (rank, step) == (1, 2) else 1.0), step)
    try:
        steps.check(accelerator)
    except InputError as error:
        (folder / f"{rank}.json").write_text(json.dumps(str(error)))


def test_all_processes_end_together_where_one_has_a_nan(tmp_path):
    spawn(note_in_two_processes, (tmp_path,), 2)
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith("loss is nan at step 2: ")
