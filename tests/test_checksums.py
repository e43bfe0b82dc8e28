"""A file that is not as it was saved is refused by everything that loads it, and found by `altclip check`."""

import errno
import json
import shutil

import pytest
import torch
from transformers import AutoModel, AutoProcessor, CLIPModel, CLIPProcessor, Trainer, pipeline

from benchmarks.jobs.check import CheckArguments
from benchmarks.jobs.check import main as check
from benchmarks.outcomes import ClassOutcomes
from benchmarks.results import Result
from common.errors import InputError
from common.models.kinds import load_tokenizer
from common.models.loading import check_model, load_model, save_model
from model_cards.folder import whole_folder
from modeling_altclip import (
    AltCLIPDualEncoderModel,
    AltCLIPModel,
    AltCLIPProcessor,
    AltCLIPTextModel,
)
from modeling_altclip.checkpoint_altclip import IncompleteCheckpointError
from modeling_altclip.checksums_altclip import (
    CHECKSUMS,
    check_files,
    find_damages,
    read_checksums,
    write_checksums,
)
from training.checkpoints import mark_unfinished
from training.lifecycle import train

from .conftest import ROOT
from .newest_checkpoint import newest_undamaged
from .test_embedding_cache import cached
from .test_result_files import GIVEN

SETTINGS = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "modeling_altclip.py",
]
WEIGHTS = "model.safetensors"
NOT_AS_SAVED = "is not as it was saved"


def flip(path):
    """Flip a bit: of the last digit in a text, which stays a digit, and of the middle of other files."""
    content = bytearray(path.read_bytes())
    place = len(content) // 2
    if path.suffix in (".json", ".py"):
        place = max(index for index, byte in enumerate(content) if chr(byte).isdigit())
    content[place] ^= 1
    path.write_bytes(content)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def lose(path):
    path.unlink()


DAMAGES = [flip, halve, empty, lose]


@pytest.fixture
def saved(altclip_folder, tmp_path):
    """Save a model and its processor with checksums; return the folder."""
    folder = tmp_path / "saved"
    save_model(*load_model(str(altclip_folder)), folder)
    return folder


@pytest.fixture
def refused():
    """Return a function that checks that a call is refused in one line that names the file."""

    def refused(call, *arguments, names):
        with pytest.raises((ValueError, InputError)) as caught:
            call(*arguments)
        message = str(caught.value)
        assert names in message
        assert NOT_AS_SAVED in message
        assert "altclip check --rewrite" in message
        assert "\n" not in message

    return refused


# ---- Finished folders ----


def test_what_was_saved_is_whole(saved):
    listed = json.loads((saved / CHECKSUMS).read_text("utf-8"))
    assert set(listed["files"]) >= {WEIGHTS, *SETTINGS}
    assert listed["files"][WEIGHTS]["bytes"] == (saved / WEIGHTS).stat().st_size
    assert find_damages(saved) == []
    load_model(str(saved))
    assert not list(saved.glob("*.tmp"))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_damaged_small_file_is_refused_by_every_loader(saved, miniature, refused, name):
    flip(saved / name)
    for load in (AltCLIPModel, AltCLIPTextModel, AutoModel, AltCLIPProcessor, AutoProcessor):
        refused(load.from_pretrained, saved, names=name)
    refused(load_model, str(saved), names=name)
    refused(check_model, str(saved), names=name)
    refused(load_tokenizer, "tokenizer", str(saved), names=name)
    refused(AltCLIPModel.from_teacher, str(saved), str(miniature / "text_encoder"), names=name)
    with pytest.raises(ValueError, match=name):
        AltCLIPModel.from_pretrained(saved, verify_weights=False)


@pytest.mark.parametrize("name", [*SETTINGS, WEIGHTS])
def test_a_pipeline_does_not_load_a_damaged_folder(saved, name):
    flip(saved / name)
    with pytest.raises(IncompleteCheckpointError, match=f"{name} has other bytes"):
        pipeline("zero-shot-image-classification", model=str(saved))


@pytest.mark.parametrize("damage", [flip, lose])
@pytest.mark.parametrize("sharded", [False, True])
def test_damaged_weights_are_refused_by_every_loader(saved, refused, damage, sharded):
    if sharded:
        model, processor = load_model(str(saved))
        (saved / WEIGHTS).unlink()
        model.save_pretrained(saved, max_shard_size="1MB")
    name = sorted(path.name for path in saved.glob("*.safetensors"))[0]
    damage(saved / name)
    for load in (AltCLIPModel, AltCLIPTextModel, AutoModel):
        refused(load.from_pretrained, saved, names=name)
    refused(load_model, str(saved), names=name)
    if damage is flip:
        AltCLIPModel.from_pretrained(saved, verify_weights=False)
        AutoModel.from_pretrained(saved, verify_weights=False)


def test_a_teacher_of_transformers_own_class_is_checked(miniature, tmp_path, refused):
    clip = CLIPModel.from_pretrained(miniature / "clip")
    save_model(clip, CLIPProcessor.from_pretrained(miniature / "clip"), tmp_path / "clip")
    flip(tmp_path / "clip" / WEIGHTS)
    encoder = str(miniature / "text_encoder")
    refused(load_model, str(tmp_path / "clip"), names=WEIGHTS)
    refused(AltCLIPModel.from_teacher, str(tmp_path / "clip"), encoder, names=WEIGHTS)
    refused(AltCLIPDualEncoderModel.from_towers, str(tmp_path / "clip"), encoder, names=WEIGHTS)


def test_a_dual_encoder_is_checked(miniature, processor, tmp_path, refused):
    towers = str(miniature / "clip"), str(miniature / "text_encoder")
    model = AltCLIPDualEncoderModel.from_towers(*towers)
    save_model(model, processor, tmp_path / "dual")
    flip(tmp_path / "dual" / WEIGHTS)
    refused(AutoModel.from_pretrained, tmp_path / "dual", names=WEIGHTS)
    refused(AltCLIPDualEncoderModel.from_pretrained, tmp_path / "dual", names=WEIGHTS)


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "adapter_config.json", "vocab.txt"])
def test_a_new_file_that_would_be_loaded_is_refused(saved, name):
    (saved / name).write_text("{}")
    assert find_damages(saved) == [f"{name} is not listed"]
    with pytest.raises(ValueError, match=f"{name} is not listed"):
        AltCLIPModel.from_pretrained(saved)


def test_a_card_and_pictures_may_change(saved):
    (saved / "README.md").write_text("A model.")
    (saved / "loss.png").write_bytes(b"")
    (saved / "notes.json").write_text("{}")
    (saved / "handler.py").write_text("")
    load_model(str(saved))
    check(CheckArguments(folders=[str(saved)]))


def test_a_folder_without_checksums_loads_as_before(altclip_folder):
    assert not (altclip_folder / CHECKSUMS).exists()
    path = altclip_folder / "processor_config.json"
    path.write_text(path.read_text("utf-8").replace("0.26", "3.26"))
    load_model(str(altclip_folder))


@pytest.mark.parametrize(
    "content",
    [
        '{"weight_map": {"logit_scale": "/etc/passwd"}}',
        '{"weight_map": {"logit_scale": "../secret.bin"}}',
        '{"weight_map": {"logit_scale": ".."}}',
        '{"weight_map": {"logit_scale": null}}',
        '{"weight_map": []}',
        "[]",
        "[" * 100_000,
        "",
    ],
)
def test_an_index_names_files_of_its_own_folder_alone(altclip_folder, content):
    (altclip_folder / WEIGHTS).unlink()
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        (altclip_folder / name).write_text(content)
        with pytest.raises(ValueError, match=f"altclip/{name} (has|is no JSON)"):
            AutoModel.from_pretrained(altclip_folder)
        with pytest.raises(InputError, match=f"altclip/{name} (has|is no JSON)"):
            load_model(str(altclip_folder))
        with pytest.raises(IncompleteCheckpointError, match=f"altclip/{name} (has|is no JSON)"):
            pipeline("zero-shot-image-classification", model=str(altclip_folder))
        (altclip_folder / name).unlink()


def test_the_index_of_a_pipelines_part_is_looked_at(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    index = tmp_path / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "/etc/passwd"}}')
    with pytest.raises(ValueError, match="has '/etc/passwd' as the file of 'a': give the name of a file"):
        check_files(tmp_path)


@pytest.fixture
def low_rank(saved, tmp_path):
    """Save a LoRA of the saved model with checksums, and with its processor; return its folder."""
    peft = pytest.importorskip("peft")
    model, processor = load_model(str(saved))
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], r=2))
    adapted.save_pretrained(tmp_path / "lora")
    processor.save_pretrained(tmp_path / "lora")
    write_checksums(tmp_path / "lora")
    return tmp_path / "lora"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json"])
def test_a_damaged_adapter_is_refused(saved, low_rank, refused, name):
    load_model(str(low_rank))
    model = AltCLIPModel.from_pretrained(saved)
    flip(low_rank / name)
    refused(load_model, str(low_rank), names=name)
    refused(model.load_adapter, str(low_rank), names=name)


def test_the_parts_of_a_pipeline_are_covered(processor, altclip_folder, tmp_path):
    pytest.importorskip("diffusers")
    from training.diffusion import load_pipeline

    from .test_diffusion import build

    text_model = AltCLIPTextModel.from_pretrained(altclip_folder)
    build(text_model, processor.tokenizer).save_pretrained(tmp_path / "pipeline")
    (tmp_path / "pipeline/checkpoint-2").mkdir()
    (tmp_path / "pipeline/checkpoint-2/model.safetensors").touch()
    write_checksums(tmp_path / "pipeline")
    unet = "unet/diffusion_pytorch_model.safetensors"
    listed = json.loads((tmp_path / "pipeline" / CHECKSUMS).read_text("utf-8"))["files"]
    parts = {unet, "vae/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer.json"}
    assert set(listed) >= {*parts, "scheduler/scheduler_config.json", "model_index.json"}
    assert "checkpoint-2/model.safetensors" not in listed
    flip(tmp_path / "pipeline" / unet)
    assert find_damages(tmp_path / "pipeline") == [f"{unet} has other bytes"]
    with pytest.raises(InputError, match=f"diffusion_name_or_path .* {unet} has other bytes"):
        load_pipeline(str(tmp_path / "pipeline"), text_model, processor.tokenizer)


# ---- Saving again ----


def test_our_own_save_keeps_the_checksums_true(saved):
    model, processor = load_model(str(saved))
    with torch.no_grad():
        model.logit_scale.add_(0.5)
    model.save_pretrained(saved)
    processor.tokenizer.model_max_length = 20
    processor.save_pretrained(saved)
    assert find_damages(saved) == []
    assert load_model(str(saved))[0].logit_scale == model.logit_scale


@pytest.mark.parametrize("saves_model", [True, False])
def test_a_save_does_not_accept_what_it_has_not_written(saved, saves_model):
    model, processor = load_model(str(saved))
    other = "tokenizer.json" if saves_model else WEIGHTS
    flip(saved / other)
    (model if saves_model else processor).save_pretrained(saved)
    assert find_damages(saved) == [f"{other} has other bytes"]


def test_a_save_into_a_folder_that_has_lost_another_file_still_tells_of_it(saved):
    model, _ = load_model(str(saved))
    lose(saved / "tokenizer.json")
    model.save_pretrained(saved)
    assert find_damages(saved) == ["tokenizer.json is missing"]


def test_a_save_of_plain_transformers_is_refused_until_it_is_accepted(miniature, tmp_path, refused, capsys):
    clip = CLIPModel.from_pretrained(miniature / "clip")
    folder = tmp_path / "clip"
    save_model(clip, CLIPProcessor.from_pretrained(miniature / "clip"), folder)
    with torch.no_grad():
        clip.logit_scale.add_(0.5)
    clip.save_pretrained(folder)
    refused(load_model, str(folder), names=WEIGHTS)
    check(CheckArguments(folders=[str(folder)], rewrite=True))
    assert load_model(str(folder))[0].logit_scale == clip.logit_scale


def test_a_finished_folder_has_the_checksums_of_its_own_files(saved, tmp_path):
    """Files that an earlier model left in the folder are among them."""
    folder = tmp_path / "finished"
    folder.mkdir()
    (folder / "vocab.txt").write_text("left over")
    with whole_folder(str(folder)) as temporary:
        save_model(*load_model(str(saved)), temporary)
    assert find_damages(folder) == []
    assert "vocab.txt" in json.loads((folder / CHECKSUMS).read_text("utf-8"))["files"]


# ---- The checksums themselves ----

ENTRY = {"bytes": 0, "digest": "0" * 64}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "half of {",
        "[]",
        "null",
        "[" * 100_000,
        {"files": {}},
        {"format": 2, "algorithm": "sha256", "files": {}},
        {"format": 1, "algorithm": "md5", "files": {}},
        {"format": 1, "algorithm": "sha256", "files": []},
        {"format": 1, "algorithm": "sha256", "files": {"../config.json": ENTRY}},
        {"format": 1, "algorithm": "sha256", "files": {"/etc/passwd": ENTRY}},
        {"format": 1, "algorithm": "sha256", "files": {"a/../../b": ENTRY}},
        {"format": 1, "algorithm": "sha256", "files": {"..\\b": ENTRY}},
        {"format": 1, "algorithm": "sha256", "files": {"": ENTRY}},
        {"format": 1, "algorithm": "sha256", "files": {"a\0b": ENTRY}},
        {"format": 1, "algorithm": "sha256", "files": {"a": None}},
        {"format": 1, "algorithm": "sha256", "files": {"a": ENTRY | {"bytes": "0"}}},
        {"format": 1, "algorithm": "sha256", "files": {"a": ENTRY | {"bytes": -1}}},
        {"format": 1, "algorithm": "sha256", "files": {"a": ENTRY | {"digest": 0}}},
        {"format": 1, "algorithm": "sha256", "files": {"a": {"digest": "0" * 64}}},
    ],
    ids=lambda content: str(content)[:60],
)
def test_damaged_checksums_are_refused_in_one_line(saved, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (saved / CHECKSUMS).write_text(text)
    for call in (load_model, AltCLIPModel.from_pretrained, AltCLIPProcessor.from_pretrained):
        with pytest.raises((ValueError, InputError), match="altclip check --rewrite") as caught:
            call(str(saved))
        assert CHECKSUMS in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="1 of these folders are damaged"):
        check(CheckArguments(folders=[str(saved)]))
    check(CheckArguments(folders=[str(saved)], rewrite=True))
    load_model(str(saved))


# ---- altclip check ----


def test_check_prints_a_line_for_each_folder(saved, tmp_path, capsys):
    other = tmp_path / "other/checkpoint-2"
    shutil.copytree(saved, other)
    write_checksums(other)
    check(CheckArguments(folders=[str(saved), str(tmp_path / "other")]))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": complete: ")[0] for line in lines] == [str(saved), str(other)]
    assert lines[0].endswith(" MB")

    flip(other / "config.json")
    (other / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="1 of these folders are damaged"):
        check(CheckArguments(folders=[str(tmp_path)]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{other}: damaged: config.json has other bytes; tokenizer.json is missing"
    assert f"{saved}: complete: " in lines[1]

    check(CheckArguments(folders=[str(tmp_path)], rewrite=True))
    assert find_damages(other) == []


def test_check_finds_damaged_caches_and_results(tmp_path, capsys):
    cache = cached(tmp_path / "caches").folder
    outcomes = ClassOutcomes(torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    result = Result(**GIVEN, metrics=outcomes.metrics()).save(tmp_path / "results", outcomes)
    folders = [str(tmp_path / "caches"), str(tmp_path / "results")]
    check(CheckArguments(folders=folders))
    assert [line.partition(", ")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"{cache}: complete: cache",
        f"{result.parent}: complete: results",
    ]

    part = next(cache.glob("data/part-*.arrow"))
    flip(part)
    flip(result)
    with pytest.raises(InputError, match="2 of these folders are damaged"):
        check(CheckArguments(folders=folders))
    of_cache, of_results = capsys.readouterr().out.splitlines()
    assert of_cache.startswith(f"{cache}: damaged: ")
    assert part.name in of_cache
    assert of_results.startswith(f"{result.parent}: damaged: ")
    assert result.stem in of_results

    with pytest.raises(InputError, match="1 of these folders are damaged"):  # the next run mends a cache
        check(CheckArguments(folders=folders, rewrite=True))
    check(CheckArguments(folders=folders[1:]))


def test_check_says_that_there_is_nothing_to_check(altclip_folder, tmp_path):
    with pytest.raises(
        InputError, match="holds no checksums.json, cache or results, so that there is nothing to check"
    ):
        check(CheckArguments(folders=[str(altclip_folder)]))
    with pytest.raises(InputError, match="is no folder"):
        check(CheckArguments(folders=[str(tmp_path / "nowhere")]))
    check(CheckArguments(folders=[str(altclip_folder)], rewrite=True))
    assert find_damages(altclip_folder) == []


# ---- Checkpoints ----

STATES = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", WEIGHTS]


@pytest.fixture
def run(stage1, tmp_path):
    """Train two steps, with a checkpoint after each; return a function that resumes, and the folder."""

    def resume(**given):
        train(*stage1(resume=True, **given))
        return (tmp_path / "out/checkpoint-2" / WEIGHTS).read_bytes()

    train(*stage1())
    return resume, tmp_path / "out"


def test_a_run_writes_checksums_of_each_checkpoint(run):
    _, folder = run
    for name in ("checkpoint-1", "checkpoint-2"):
        listed = json.loads((folder / name / CHECKSUMS).read_text("utf-8"))["files"]
        assert set(listed) >= {*STATES, *SETTINGS, "training_args.bin"}
    check(CheckArguments(folders=[str(folder)]))


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_to_a_checkpoint_is_found(run, tmp_path, damage):
    _, folder = run
    assert newest_undamaged(folder) == folder / "checkpoint-2"
    for name in [*STATES, *SETTINGS, "training_args.bin"]:
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        damage(copy / "checkpoint-2" / name)
        assert newest_undamaged(copy) == copy / "checkpoint-1", name
        with pytest.raises(InputError, match="1 of these folders are damaged"):
            check(CheckArguments(folders=[str(copy)]))


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", "text", '{"global_step": "2"}', '{"global_step": true}']
)
@pytest.mark.parametrize("with_checksums", [True, False])
def test_a_state_of_another_form_is_passed_over(run, text, with_checksums):
    _, folder = run
    (folder / "checkpoint-2/trainer_state.json").write_text(text)
    if not with_checksums:
        (folder / "checkpoint-2" / CHECKSUMS).unlink()
    assert newest_undamaged(folder) == folder / "checkpoint-1"


@pytest.mark.parametrize("damage", [halve, empty, lose])
def test_checkpoints_of_older_versions_are_opened(run, tmp_path, damage):
    """They have no checksums: what is not complete is found, other bytes are not."""
    _, folder = run
    for checkpoint in folder.glob("checkpoint-*"):
        (checkpoint / CHECKSUMS).unlink()
    assert newest_undamaged(folder) == folder / "checkpoint-2"
    for name in STATES:
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        damage(copy / "checkpoint-2" / name)
        assert newest_undamaged(copy) == copy / "checkpoint-1", name


@pytest.mark.parametrize("name", ["optimizer.pt", WEIGHTS])
def test_a_run_resumes_from_the_newest_undamaged_checkpoint(run, name):
    resume, folder = run
    uninterrupted = (folder / "checkpoint-2" / WEIGHTS).read_bytes()
    flip(folder / "checkpoint-2" / name)
    with pytest.warns(
        UserWarning, match=f"checkpoint-2 is damaged: {name} has other bytes: .* damaged-check"
    ):
        assert resume() == uninterrupted
    found = sorted(path.name for path in folder.glob("*checkpoint-*"))
    assert found == ["checkpoint-1", "checkpoint-2", "damaged-checkpoint-2"]
    assert find_damages(folder / "checkpoint-2") == []


def test_a_checkpoint_that_was_never_complete_is_removed(run):
    resume, folder = run
    uninterrupted = (folder / "checkpoint-2" / WEIGHTS).read_bytes()
    for name in (CHECKSUMS, "trainer_state.json", "scheduler.pt"):
        (folder / "checkpoint-2" / name).unlink()
    with pytest.warns(UserWarning, match="checkpoint-2 has no readable trainer_state.json.*: it is removed"):
        assert resume() == uninterrupted
    assert not list(folder.glob("damaged-*"))


def test_a_checkpoint_with_the_mark_of_a_killed_run_is_removed(run):
    resume, folder = run
    uninterrupted = (folder / "checkpoint-2" / WEIGHTS).read_bytes()
    assert not list(folder.rglob("*.tmp"))
    mark_unfinished(folder / "checkpoint-2")
    assert newest_undamaged(folder) == folder / "checkpoint-1"
    with pytest.warns(UserWarning, match="checkpoint-2 was not saved to its end: it is removed"):
        assert resume() == uninterrupted
    assert not list(folder.rglob("*.tmp"))
    assert not list(folder.glob("damaged-*"))


def test_a_checkpoint_that_was_renamed_twice_is_still_covered_in_whole(run):
    _, folder = run
    renamed = (folder / "checkpoint-2").rename(folder / "damaged-checkpoint-2.2")
    check(CheckArguments(folders=[str(renamed)], rewrite=True))
    assert "optimizer.pt" in read_checksums(renamed)


def test_a_run_without_an_undamaged_checkpoint_is_refused_in_one_line(run):
    resume, folder = run
    for number in (1, 2):
        flip(folder / f"checkpoint-{number}/optimizer.pt")
    with pytest.raises(InputError, match="holds no complete checkpoint; checkpoint-2 is damaged: ") as caught:
        resume()
    assert "checkpoint-1 is damaged: optimizer.pt has other bytes" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(list(folder.glob("checkpoint-*"))) == 2


@pytest.mark.parametrize("by_path", [True, False])
def test_a_named_checkpoint_replaces_later_ones(run, by_path):
    resume, folder = run
    uninterrupted = (folder / "checkpoint-2" / WEIGHTS).read_bytes()
    name = str(folder / "checkpoint-1") if by_path else "checkpoint-1"
    for replaced in ("replaced-checkpoint-2", "replaced-checkpoint-2.2"):
        assert resume(resume_from_checkpoint=name) == uninterrupted
        assert find_damages(folder / "checkpoint-2") == []
        assert (folder / replaced / WEIGHTS).read_bytes() == uninterrupted


def test_a_checkpoint_that_cannot_be_named_is_refused(run):
    resume, folder = run
    with pytest.raises(InputError, match="'checkpoint-9' is no checkpoint of .*checkpoint-1, checkpoint-2"):
        resume(resume_from_checkpoint="checkpoint-9")
    flip(folder / "checkpoint-1/scheduler.pt")
    with pytest.raises(InputError, match="resume_from_checkpoint: .*checkpoint-1 is damaged: scheduler.pt"):
        resume(resume_from_checkpoint="checkpoint-1")


def test_another_number_of_processes_is_refused(run):
    resume, folder = run
    for checkpoint in folder.glob("checkpoint-*"):
        (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
        shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
        write_checksums(checkpoint)
    with pytest.raises(
        InputError, match="checkpoint-2 was saved by 2 processes, and 1 would resume: start 2"
    ):
        resume()


def test_an_older_checkpoint_goes_when_the_new_one_is_complete(stage1, tmp_path, monkeypatch):
    """Two writes of checksums are seen: at the second, the first checkpoint is still there."""
    seen = []

    def watch(folder):
        seen.append(sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")))
        write_checksums(folder)

    monkeypatch.setattr("training.trainers.base.write_checksums", watch)
    train(*stage1(save_total_limit=1))
    assert seen == [["checkpoint-1"], ["checkpoint-1", "checkpoint-2"]]
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_damaged_best_checkpoint_is_refused(stage1, tmp_path):
    trainer, arguments = stage1()
    train(trainer, arguments)
    trainer.state.best_model_checkpoint = str(tmp_path / "out/checkpoint-1")
    trainer._load_best_model()
    flip(tmp_path / "out/checkpoint-1" / WEIGHTS)
    with pytest.raises(InputError, match=f"load_best_model_at_end: .*{WEIGHTS} has other bytes"):
        trainer._load_best_model()


def test_a_finished_stage_has_checksums(stage1, tmp_path):
    trainer, arguments = stage1()
    train(trainer, arguments)
    trainer.save_model()
    listed = json.loads((tmp_path / "out" / CHECKSUMS).read_text("utf-8"))["files"]
    assert set(listed) >= {WEIGHTS, *SETTINGS}
    # They hold paths of this machine, and a push leaves them out.
    assert not {"trainer_state.json", "training_args.bin"} & set(listed)
    flip(tmp_path / "out" / WEIGHTS)
    with pytest.raises(InputError, match=NOT_AS_SAVED):
        load_model(str(tmp_path / "out"))


def test_an_output_folder_may_be_named_like_a_checkpoint(stage1, tmp_path, monkeypatch):
    """A full disk removes half a checkpoint, and never the whole output folder with its checkpoints."""
    folder = tmp_path / "checkpoint-run"
    trainer, arguments = stage1()
    arguments.output_dir = str(folder)
    train(trainer, arguments)
    trainer.save_model()
    assert find_damages(folder) == []

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trainer, "_save", full)
    with pytest.raises(InputError, match="the model could not be saved"):
        trainer.save_model()
    assert load_model(str(folder))
    with pytest.raises(InputError, match="the model could not be saved"):
        trainer._save_checkpoint(trainer.model, trial=None)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]


@pytest.mark.slow
def test_sharded_processes_resume_from_the_newest_undamaged_checkpoint(
    miniature, run_under_fsdp2, start_flags, tmp_path
):
    """The main process chooses for both, and the checksums cover what both have written."""
    command = [ROOT / "training/run_stage0.py", ROOT / "training/recipes/miniature/stage0.yaml"]
    command += [*start_flags["stage0"], "--dataset", miniature / "dataset", "--output_dir", tmp_path / "out"]
    command += ["--max_steps", "2", "--per_device_train_batch_size", "8", "--bf16", "false"]
    command += ["--save_strategy", "steps", "--save_steps", "1"]
    process = run_under_fsdp2(*command)
    assert process.returncode == 0, process.stderr[-4000:]
    folders = [tmp_path / "out", tmp_path / "out/checkpoint-1", tmp_path / "out/checkpoint-2"]
    assert [find_damages(folder) for folder in folders] == [[], [], []]
    uninterrupted = (tmp_path / "out" / WEIGHTS).read_bytes()

    flip(tmp_path / "out/checkpoint-2/rng_state_1.pth")
    process = run_under_fsdp2(*command, "--resume")
    assert process.returncode == 0, process.stderr[-4000:]
    assert process.stderr.count("rng_state_1.pth has other bytes: it is skipped") == 1
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == uninterrupted
    assert (tmp_path / "out/damaged-checkpoint-2").is_dir()
    assert [find_damages(folder) for folder in folders] == [[], [], []]
