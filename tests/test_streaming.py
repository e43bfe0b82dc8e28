"""Images and captions from parquet files, folders and tars: what lies on the disk, and what streams."""

import io
import json
import random
import shutil
import sys
import tarfile
from itertools import islice
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, Value, load_dataset
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from benchmarks.loading import load_model
from benchmarks.recipe import InputError
from training.arguments import ContrastiveArguments
from training.captions import find_form
from training.data import CaptionCells, Collator
from training.freezing import freeze_all_but
from training.session import load_pictures, stream_pictures, train
from training.streaming import CellStream, open_files, stable_hash
from training.trainers import ContrastiveTrainer

from .conftest import ROOT
from .processes import spawn
from .test_scripts import train_with_kills

LANGUAGES = ["en", "zh", "es"]


@pytest.fixture(scope="module")
def scenes(miniature):
    """Twenty scenes, `(image file, captions)`, no two with one English caption."""
    rows = load_dataset(str(miniature / "dataset"), split="train").cast_column("image", Image(decode=False))
    distinct = {row["captions"]["en"]: row for row in rows.select(range(60))}
    return [
        (row["image"]["bytes"], {name: row["captions"][name] for name in LANGUAGES})
        for row in list(distinct.values())[:20]
    ]


def write_parquet(folder, scenes, n_files):
    folder.mkdir(parents=True)
    features = Features({"image": Image(), "captions": {language: Value("string") for language in LANGUAGES}})
    images = [{"bytes": image, "path": f"{number}.png"} for number, (image, _) in enumerate(scenes)]
    rows = Dataset.from_dict(
        {"image": images, "captions": [captions for _, captions in scenes]}, features=features
    )
    for number in range(n_files):
        rows.shard(n_files, number, contiguous=True).to_parquet(folder / f"part-{number:02d}.parquet")
    return folder


def write_tars(folder, scenes, n_files):
    folder.mkdir(parents=True)
    for number in range(n_files):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            size = len(scenes) // n_files
            for row in range(number * size, (number + 1) * size):
                image, captions = scenes[row]
                parts = {
                    "png": image,
                    "txt": captions["en"].encode(),
                    "json": json.dumps({"captions": captions}).encode(),
                }
                for suffix, content in parts.items():
                    info = tarfile.TarInfo(f"{row:06d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder


def write_folder(folder, scenes, n_files):
    """A folder of images is no number of files: they are read in the order of `metadata.jsonl`."""
    folder.mkdir(parents=True)
    for number, (image, _) in enumerate(scenes):
        (folder / f"{number:03d}.png").write_bytes(image)
    lines = [
        json.dumps({"file_name": f"{number:03d}.png", "captions": captions})
        for number, (_, captions) in enumerate(scenes)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


WRITERS = {"parquet": write_parquet, "tars": write_tars, "imagefolder": write_folder}


@pytest.fixture
def arguments(tmp_path):
    def arguments(dataset, **given):
        given = {
            "model_name_or_path": "",
            "output_dir": str(tmp_path / "out"),
            "max_steps": 3,
            "streaming": True,
            **given,
        }
        given = {
            "cache_image_embeds": False,
            "per_device_train_batch_size": 4,
            "use_cpu": True,
            "save_strategy": "no",
            **given,
        }
        return ContrastiveArguments(dataset=str(dataset), disable_tqdm=True, report_to="none", **given)

    return arguments


def stream_of(folder, tmp_path, languages=LANGUAGES, **given):
    rows = open_files(str(folder), "train")
    return CellStream(
        rows, find_form(rows.features, str(folder)), languages, tmp_path / "bad_rows.0.jsonl", **given
    )


def one_language(scenes, language="zh"):
    return [captions[language] for _, captions in scenes]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_stream_gives_what_lies_on_the_disk(scenes, arguments, tmp_path, kind):
    """In one language: the same cells in the same order, pixel for pixel, and again from the beginning."""
    folder = WRITERS[kind](tmp_path / kind, scenes, 4)
    on_disk = load_pictures(arguments(folder, streaming=False), None)
    cells = CaptionCells(on_disk, ["zh"], "image")
    expected = cells.__getitems__(range(len(cells)))
    streamed = list(islice(stream_of(folder, tmp_path, ["zh"]), 40))
    assert (
        [cell["text"] for cell in streamed]
        == 2 * one_language(scenes)
        == 2 * [cell["text"] for cell in expected]
    )
    assert all(
        cell["image"].tobytes() == other["image"].convert("RGB").tobytes()
        for cell, other in zip(streamed, expected)
    )


def test_a_row_shows_another_language_in_every_pass(scenes, tmp_path):
    stream = stream_of(write_tars(tmp_path / "rows", scenes, 2), tmp_path, shuffle_buffer=5)
    passes = list(islice(stream, 60))
    passes = [passes[start : start + 20] for start in (0, 20, 40)]
    assert {cell["row_id"] for cell in passes[0]} == {stable_hash(captions["en"]) for _, captions in scenes}
    for row_id in {cell["row_id"] for cell in passes[0]}:
        (captions,) = [captions for _, captions in scenes if stable_hash(captions["en"]) == row_id]
        texts = [cell["text"] for cells in passes for cell in cells if cell["row_id"] == row_id]
        assert sorted(texts) == sorted(captions.values())
    languages = [
        next(name for name in LANGUAGES if cell["text"] in one_language(scenes, name)) for cell in passes[0]
    ]
    assert {languages.count(name) for name in LANGUAGES} <= {6, 7, 8}


def test_rows_of_equal_english_share_an_id(scenes, tmp_path):
    image = scenes[0][0]
    captions = [("key", "a"), ("key", "b"), ("bell", "a"), ("", "a"), (None, "a")]
    rows = [(image, {"en": english, "zh": chinese, "es": None}) for english, chinese in captions]
    ids = [
        cell["row_id"]
        for cell in islice(stream_of(write_parquet(tmp_path / "rows", rows, 1), tmp_path, ["zh"]), 5)
    ]
    assert ids[0] == ids[1]
    assert ids[3] == ids[4]
    assert len(set(ids)) == 3
    assert all(0 <= row_id < 2**63 for row_id in ids)
    assert stable_hash("key") == 7439496157804668538 == ids[0]


@pytest.mark.parametrize("shuffle_buffer", [0, 7])
def test_loader_workers_share_the_files(scenes, tmp_path, shuffle_buffer):
    stream = stream_of(
        write_tars(tmp_path / "tars", scenes, 4), tmp_path, ["en"], shuffle_buffer=shuffle_buffer
    )
    orders = [
        [cell["text"] for cell in islice(DataLoader(stream, batch_size=None, num_workers=2), 20)]
        for _ in range(2)
    ]
    assert sorted(orders[0]) == sorted(one_language(scenes, "en"))
    assert orders[0] == orders[1] != one_language(scenes, "en")


def test_a_shuffled_stream_differs_by_pass_and_seed_alone(scenes, tmp_path):
    folder = write_tars(tmp_path / "rows", scenes, 4)
    seen = [
        [cell["text"] for cell in islice(stream_of(folder, tmp_path, ["en"], shuffle_buffer=8, seed=s), 40)]
        for s in (1, 1, 2)
    ]
    assert seen[0] == seen[1] != seen[2]
    assert seen[0][:20] != seen[0][20:]
    assert all(
        sorted(texts[start : start + 20]) == sorted(one_language(scenes, "en"))
        for texts in seen
        for start in (0, 20)
    )


def trainer_of(arguments, cells, collator_class=Collator):
    model, processor = load_model(arguments.model_name_or_path)
    freeze_all_but(model, arguments.trainable)
    collator = collator_class(processor.tokenizer, arguments.max_text_length, processor.image_processor)
    return ContrastiveTrainer(model=model, args=arguments, train_dataset=cells, data_collator=collator)


def train_on_stream(arguments):
    trainer = trainer_of(arguments, stream_pictures(arguments, arguments.languages))
    train(trainer, arguments)
    return trainer.model.state_dict()


SGD = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def test_a_stream_trains_like_what_lies_on_the_disk(scenes, altclip_folder, arguments, tmp_path):
    """Two passes in the same order.

    Twenty rows are two and a half batches: the last of a pass goes on in the next.
    """
    rows, weights = write_tars(tmp_path / "tars", scenes, 5), {}
    for streaming in (True, False):
        given = arguments(
            rows,
            model_name_or_path=str(altclip_folder),
            streaming=streaming,
            max_steps=5,
            per_device_train_batch_size=8,
            **SGD,
        )
        given.train_sampling_strategy = "sequential"
        twice = scenes if streaming else 2 * scenes
        if not streaming:
            given.dataset = str(write_tars(tmp_path / "twice", twice, 10))
        cells = (
            stream_pictures(given, ["es"])
            if streaming
            else CaptionCells(load_pictures(given, None), ["es"], "image")
        )
        trainer = trainer_of(given, cells)
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        trainer.train()
        weights[streaming] = trainer.model.state_dict()
    assert sum(not torch.equal(before[name], value) for name, value in weights[True].items()) > 20
    for name, value in weights[True].items():
        torch.testing.assert_close(value, weights[False][name], atol=1e-5, rtol=1e-5)


class Recorder(Collator):
    texts: list[list[str]] = []

    def __call__(self, cells):
        self.texts.append([cell["text"] for cell in cells])
        return super().__call__(cells)


def train_on_a_share(rank, arguments, out):
    torch.set_num_threads(1)
    arguments = ContrastiveArguments(**arguments)
    assert arguments.world_size == 2
    trainer = trainer_of(arguments, stream_pictures(arguments, ["en"]), Recorder)
    events = []
    sys.addaudithook(lambda event, given: events.append(str(given[0])) if event == "open" else None)
    train(trainer, arguments)
    opened = {Path(path).name for path in events if path.startswith(arguments.dataset)}
    torch.save(
        (opened, Recorder.texts, trainer.state.global_step, trainer.model.state_dict()), out / f"{rank}.pt"
    )


@pytest.mark.parametrize("kind,n_files", [("parquet", 5), ("tars", 4)])
def test_every_process_opens_its_own_files_alone(scenes, altclip_folder, tmp_path, kind, n_files):
    """Through the Trainer, with files that are not equally many:

    Processes take equally many steps and see every row.
    """
    rows = WRITERS[kind](tmp_path / "rows", scenes, n_files)
    given = {
        "dataset": str(rows),
        "model_name_or_path": str(altclip_folder),
        "output_dir": str(tmp_path / "out"),
        "streaming": True,
    }
    given |= {
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "cache_image_embeds": False,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    spawn(train_on_a_share, (given | {"save_strategy": "no", "report_to": "none"} | SGD, tmp_path), 2)
    names, size = sorted(path.name for path in rows.iterdir()), 20 // n_files
    in_files = [one_language(scenes, "en")[start : start + size] for start in range(0, 20, size)]
    finished = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank, (opened, batches, steps, weights) in enumerate(finished):
        assert opened == set(names[rank::2])
        assert steps == 3
        mine = sum(in_files[rank::2], [])
        read = sum(batches, [])
        assert read == (mine + mine)[: len(read)]
        assert len(read) >= len(mine)
        assert all(torch.equal(value, finished[0][3][name]) for name, value in weights.items())


def test_fewer_files_than_readers_are_refused(scenes, tmp_path):
    folder = str(write_parquet(tmp_path / "rows", scenes, 3))
    assert [open_files(folder, "train", rank, 3).num_shards for rank in range(3)] == [1, 1, 1]
    with pytest.raises(
        InputError,
        match="has 3 files to stream in split 'train', and 2 processes with 2 readers each want 4: write it as",
    ):
        open_files(folder, "train", 0, 2, n_workers=2)
    folder = str(write_folder(tmp_path / "pictures", scenes, None))
    with pytest.raises(
        InputError,
        match="has 1 files to stream .* 2 processes with 1 readers each want 2: .* or leave out --streaming",
    ):
        open_files(folder, "train", 1, 2)


def broken(scenes):
    """Scenes of which the fourth and the twelfth cannot be decoded."""
    return [
        (b"no picture" if number in (3, 11) else image, captions)
        for number, (image, captions) in enumerate(scenes)
    ]


@pytest.mark.parametrize("kind", ["parquet", "tars"])
def test_bad_images_on_the_disk_are_set_aside_and_named(scenes, arguments, tmp_path, capsys, kind):
    given = arguments(WRITERS[kind](tmp_path / "rows", broken(scenes), 4), streaming=False)
    assert len(load_pictures(given, None)) == 18
    assert "Set aside 2 rows with bad images, listed in" in capsys.readouterr().out
    report = [json.loads(line) for line in (tmp_path / "out/bad_rows.jsonl").read_text().splitlines()]
    assert [line["row"] for line in report] == [3, 11]
    assert report[0]["path"] in ("3.png", "000003.png")
    given.bad_rows = "error"
    with pytest.raises(InputError, match="2 of 20 images cannot be decoded, row 3 first"):
        load_pictures(given, None)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_bad_images_in_a_stream_are_set_aside_and_named_once(
    scenes, altclip_folder, arguments, tmp_path, capsys, n_workers
):
    """Over two passes and more; a second run begins a new report."""
    rows = write_tars(tmp_path / "rows", broken(scenes), 4)
    for _ in range(2):
        train_on_stream(
            arguments(
                rows, model_name_or_path=str(altclip_folder), max_steps=10, dataloader_num_workers=n_workers
            )
        )
        said = capsys.readouterr().out
        assert "Training on a stream of 4 files for this process, in en zh es." in said
        assert f"Set aside 2 rows with bad images, listed in {tmp_path}/out/bad_rows.*.jsonl." in said
    report = [json.loads(line) for line in (tmp_path / "out/bad_rows.0.jsonl").read_text().splitlines()]
    named = sorted((Path(line["file"]).name, line["row"], line["path"]) for line in report)
    assert named == [("00000.tar", 3, "000003.png"), ("00002.tar", 1, "000011.png")]
    assert all("cannot identify image" in line["problem"] for line in report)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_bad_images_in_a_stream_are_refused_where_that_is_asked(
    scenes, altclip_folder, arguments, tmp_path, n_workers
):
    rows = write_tars(tmp_path / "rows", broken(scenes), 4)
    with pytest.raises(
        InputError,
        match=r"image 000003.png in row 3 of .*00000.tar cannot be decoded: Unidentified.*--bad_rows set_aside",
    ):
        train_on_stream(
            arguments(
                rows,
                model_name_or_path=str(altclip_folder),
                bad_rows="error",
                dataloader_num_workers=n_workers,
            )
        )
    with pytest.raises(InputError, match="bad_rows is 'skip': choose from set_aside, error"):
        stream_pictures(arguments(rows, bad_rows="skip"), None)


def test_files_without_a_good_row_end_the_run(scenes, tmp_path):
    rows = [(image, captions | {"es": None}) for image, captions in scenes]
    stream = stream_of(write_parquet(tmp_path / "rows", rows, 2), tmp_path, ["es"])
    with pytest.raises(
        InputError, match="none of a reader's files has a caption in es beside an image that can be decoded"
    ):
        next(iter(stream))


@pytest.mark.parametrize(
    "given,message",
    [
        ({"max_steps": -1}, "max_steps is -1, and a stream has no end: give the number of steps"),
        (
            {"cache_image_embeds": True},
            "streamed images are encoded as they come: add --cache_image_embeds false",
        ),
        ({"shuffle_buffer": -5}, "shuffle_buffer is -5"),
    ],
)
def test_arguments_that_no_stream_can_have(arguments, given, message):
    with pytest.raises(InputError, match=message):
        arguments("rows", **given)


def test_languages_that_no_column_tells_must_be_named(scenes, arguments, tmp_path):
    (tmp_path / "rows").mkdir()
    rows = {"image": [{"bytes": scenes[0][0], "path": None}], "text": ["clave"], "language": ["es"]}
    Dataset.from_dict(
        rows, features=Features({"image": Image(), "text": Value("string"), "language": Value("string")})
    ).to_parquet(tmp_path / "rows/0.parquet")
    with pytest.raises(
        InputError,
        match="column 'text' .* tells its languages row by row: name those to train on by --languages",
    ):
        stream_pictures(arguments(tmp_path / "rows"), None)
    assert next(iter(stream_pictures(arguments(tmp_path / "rows"), ["es"])))["text"] == "clave"
    with pytest.raises(InputError, match="'--languages': .*did you mean 'zh'"):
        stream_pictures(arguments(tmp_path / "rows"), ["es", "cn"])


def test_data_that_is_not_there_is_refused(scenes, arguments, tmp_path):
    with pytest.raises(InputError, match="'no/such/rows' does not exist"):
        stream_pictures(arguments("no/such/rows"), None)
    rows = write_parquet(tmp_path / "rows", scenes, 2)
    with pytest.raises(InputError, match="split 'test' cannot be loaded"):
        stream_pictures(arguments(rows, split="test"), None)
    with pytest.raises(InputError, match="no text in language xx: choose from en zh es"):
        stream_pictures(arguments(rows), ["xx"])


@pytest.mark.parametrize(
    "given", [{}, {"shuffle_buffer": 6}, {"shuffle_buffer": 6, "dataloader_num_workers": 2}], ids=str
)
def test_a_resumed_stream_equals_an_uninterrupted_one(scenes, altclip_folder, arguments, tmp_path, given):
    """With bad images, dropout and AdamW, and in the second pass where it is resumed:

    A checkpoint keeps no order, the seed does.
    """
    rows = write_tars(tmp_path / "rows", broken(scenes), 4)
    given = {"model_name_or_path": str(altclip_folder), "max_steps": 9, "learning_rate": 1e-3, **given}
    whole = train_on_stream(arguments(rows, save_strategy="steps", save_steps=5, **given))
    shutil.copytree(tmp_path / "out/checkpoint-5", tmp_path / "again/checkpoint-5")
    resumed = train_on_stream(arguments(rows, resume=True, **given | {"output_dir": str(tmp_path / "again")}))
    before = load_file(altclip_folder / "model.safetensors")
    assert sum(not torch.equal(before[name], value) for name, value in whole.items()) > 20
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_a_killed_stream_resumes_to_the_same_bytes(scenes, altclip_folder, run_python, tmp_path):
    """As a user would run and kill it; the report of bad images still names each once."""
    rows = write_parquet(tmp_path / "rows", broken(scenes), 3)
    command = [
        ROOT / "training/run_stage2.py",
        ROOT / "training/recipes/miniature/stage2.yaml",
        "--max_steps",
        "6",
    ]
    command += [
        "--model_name_or_path",
        altclip_folder,
        "--dataset",
        rows,
        "--split",
        "train",
        "--streaming",
        "--cache_image_embeds",
        "false",
    ]
    command += ["--per_device_train_batch_size", "4"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = run_python("python", *command, "--output_dir", whole)
    assert process.returncode == 0, process.stderr
    saving = ["--save_strategy", "steps", "--save_steps", "1"]
    train_with_kills([*command, *saving, "--output_dir", killed], killed, 1, random.Random(0))
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (killed / "bad_rows.0.jsonl").read_text().count("\n") == 2


def test_stage_0_streams_too(miniature, scenes, run_python, tmp_path):
    rows = write_tars(tmp_path / "rows", scenes, 2)
    process = run_python(
        *[
            "python",
            ROOT / "training/run_stage0.py",
            ROOT / "training/recipes/miniature/stage0.yaml",
            "--streaming",
            "--max_steps",
            "2",
        ],
        *[
            "--model_name_or_path",
            miniature / "clip",
            "--dataset",
            rows,
            "--split",
            "train",
            "--text_column",
            "txt",
        ],
        *["--output_dir", tmp_path / "out", "--per_device_train_batch_size", "8"],
    )
    assert process.returncode == 0, process.stderr
    assert "Training on a stream of 2 files for this process, in en." in process.stdout
    assert "Set aside 0 rows with bad images" in process.stdout
