"""Image towers of every kind go through all trainings, or are refused in one line that says what to take."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, ConvNextConfig, ConvNextModel, ResNetConfig, ResNetModel

from benchmarks.jobs import embed
from common.errors import InputError
from training import ContrastiveArguments, TeacherArguments, TeacherLearningArguments
from training.jobs import parallel, stage0, stage1, stage2
from training.parallel.trainer import ParallelArguments

from .families import SHORTEST, load_tokenizer_of, save_student, save_teacher
from .test_naflex import SMALL, VALIDATED, write_data

CONVOLUTIONS = {
    "resnet": (ResNetModel, ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
    "convnext": (ConvNextModel, ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
}
LIVE = {"cache_image_embeds": False}
PROJECTIONS = ["visual_projection", "text_projection", "logit_scale"]
WHOLE = ["vision_model", "text_model", *PROJECTIONS]


@pytest.fixture
def bert(miniature, tmp_path):
    return save_student("bert", tmp_path / "bert", load_tokenizer_of(miniature))


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a job on a few pictures; it returns the folder of its output."""
    (tmp_path / "data").mkdir()
    write_data(tmp_path / "data")

    def run(job, stage, name="out", **given):
        fixed = {"dataset": str(tmp_path / "data"), "output_dir": str(tmp_path / name)}
        job.main(stage(**fixed, **SMALL | given))
        return str(tmp_path / name)

    return run


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_networks_of_convolutions_alone_are_no_teachers(name, dry_run, miniature, bert, run, tmp_path):
    model_class, config = CONVOLUTIONS[name]
    folder = str(tmp_path / name)
    model_class(config).save_pretrained(folder)
    for part in (CLIPImageProcessor(**SHORTEST), load_tokenizer_of(miniature)):
        part.save_pretrained(folder)
    is_other = f"{folder}' is a model of the type '{name}': give "

    with pytest.raises(InputError, match=f"model_name_or_path '{is_other}a CLIP, a SigLIP"):
        run(stage0, TeacherArguments, model_name_or_path=folder, dry_run=dry_run)
    with pytest.raises(InputError, match=f"teacher_name_or_path '{is_other}a CLIP, a SigLIP"):
        teacher = {"teacher_name_or_path": folder, "text_encoder_name_or_path": bert}
        run(stage1, TeacherLearningArguments, **teacher, dry_run=dry_run)
    for given in ({}, LIVE, LIVE | {"streaming": True}):
        with pytest.raises(InputError, match=f"model_name_or_path '{is_other}an AltCLIP"):
            run(stage2, ContrastiveArguments, model_name_or_path=folder, dry_run=dry_run, **given)
    if dry_run:
        return
    with pytest.raises(InputError, match=f"model_name_or_path '{is_other}a model with an image and a text"):
        given = {"images": str(tmp_path / "data"), "output_dir": str(tmp_path / "embedded")}
        embed.main(embed.EmbedArguments(model_name_or_path=folder, **given))


def test_a_resnet_is_an_image_tower(miniature, bert, run, tmp_path):
    model_class, config = CONVOLUTIONS["resnet"]
    folder = str(tmp_path / "resnet")
    model_class(config).save_pretrained(folder)
    CLIPImageProcessor(**SHORTEST).save_pretrained(folder)
    encoders = {"image_encoder_name_or_path": folder, "text_encoder_name_or_path": bert}
    student = run(parallel, ParallelArguments, "student", **encoders)

    # Stage 2 reads the cache, live images, and both towers' cache.
    for way, given in {"cache": {}, "live": LIVE, "towers": {"trainable": PROJECTIONS}}.items():
        given = {"model_name_or_path": student, "languages": ["en", "zh"], **given}
        run(stage2, ContrastiveArguments, f"{way}-dry", **given, dry_run=True)
        run(stage2, ContrastiveArguments, way, **given)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metaclip2", "chinese-clip"])
def test_relatives_of_clip_go_through_all_trainings(name, miniature, bert, run, tmp_path):
    """`test_matrix` trains stage 2 from the cache of images; here are the other ways to train it."""
    teacher = save_teacher(name, tmp_path / name, load_tokenizer_of(miniature))
    both = {"teacher_name_or_path": teacher, "text_encoder_name_or_path": bert}
    student = run(stage1, TeacherLearningArguments, "student", **both)
    before = load_file(f"{student}/model.safetensors")
    # What stage 2 trains, and whether the image tower changes with it.
    ways = {
        "whole": (LIVE | {"trainable": WHOLE, "gradient_cache_chunk": 3}, True),
        "stream": (LIVE | {"streaming": True}, False),
        "towers": ({"trainable": PROJECTIONS}, False),
    }
    for way, (given, is_tower_trained) in ways.items():
        given = given | {"model_name_or_path": student, "languages": ["en", "zh"], **VALIDATED}
        run(stage2, ContrastiveArguments, f"{way}-dry", **given, dry_run=True)
        after = load_file(run(stage2, ContrastiveArguments, way, **given) + "/model.safetensors")
        changed = [key for key, value in after.items() if not torch.equal(value, before[key])]
        assert "text_projection.weight" in changed
        assert any(key.startswith("vision_model") for key in changed) == is_tower_trained

    with pytest.raises(InputError, match=f"is a model of the type '{name[:4]}.*give a CLIP, a SigLIP"):
        run(stage0, TeacherArguments, model_name_or_path=teacher)
