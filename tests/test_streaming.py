"""Images and captions from parquet files, folders and tars: read from the disk, and streamed."""

import json
import random
import shutil
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, Value, load_dataset
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from common.errors import InputError
from common.models.loading import load_model
from training.arguments import ContrastiveArguments
from training.data.captions import find_form
from training.data.examples import CaptionExamples, Collator
from training.data.loading import load_images, stream_images
from training.data.streaming import ExampleStream, open_files, stable_hash
from training.freezing import freeze_all_but
from training.lifecycle import train
from training.trainers import ContrastiveTrainer

from .conftest import ROOT
from .processes import spawn
from .replicas import write_tar
from .test_scripts import train_with_kills

LANGUAGES = ["en", "zh", "es"]


N_SCENES = 20


@pytest.fixture(scope="module")
def scenes(miniature):
    """Return twenty scenes, `(image file, captions)`, no two with one English caption."""
    rows = load_dataset(str(miniature / "dataset"), split="train").cast_column("image", Image(decode=False))
    # Equal English would give rows one id.
    distinct = {row["captions"]["en"]: row for row in rows.select(range(60))}
    scenes = []
    for row in list(distinct.values())[:N_SCENES]:
        captions = {language: row["captions"][language] for language in LANGUAGES}
        scenes.append((row["image"]["bytes"], captions))
    return scenes


def write_parquet(folder, scenes, n_files):
    folder.mkdir(parents=True)
    features = Features({"image": Image(), "captions": {language: Value("string") for language in LANGUAGES}})
    columns = {
        "image": [{"bytes": image, "path": f"{number}.png"} for number, (image, _) in enumerate(scenes)],
        "captions": [captions for _, captions in scenes],
    }
    rows = Dataset.from_dict(columns, features=features)
    for number in range(n_files):
        rows.shard(n_files, number, contiguous=True).to_parquet(folder / f"part-{number:02d}.parquet")
    return folder


def write_tars(folder, scenes, n_files):
    size = len(scenes) // n_files
    for number in range(n_files):
        members = {}
        for row in range(number * size, (number + 1) * size):
            image, captions = scenes[row]
            members[f"{row:06d}.png"] = image
            members[f"{row:06d}.txt"] = captions["en"].encode()
            members[f"{row:06d}.json"] = json.dumps({"captions": captions}).encode()
        write_tar(folder / f"{number:05d}.tar", members)
    return folder


def write_folder(folder, scenes, n_files):
    """Write a folder of images. It has no number of files: it is read in the order of `metadata.jsonl`."""
    folder.mkdir(parents=True)
    lines = []
    for number, (image, captions) in enumerate(scenes):
        name = f"{number:03d}.png"
        (folder / name).write_bytes(image)
        lines.append(json.dumps({"file_name": name, "captions": captions}))
    (folder / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


WRITERS = {"parquet": write_parquet, "tars": write_tars, "imagefolder": write_folder}


@pytest.fixture
def arguments(tmp_path):
    """Return a function that makes the arguments of stage 2 on a dataset."""

    def arguments(dataset, **changes):
        defaults = {
            "model_name_or_path": "",
            "output_dir": str(tmp_path / "out"),
            "max_steps": 3,
            "streaming": True,
            "cache_image_embeds": False,
            "per_device_train_batch_size": 4,
            "use_cpu": True,
            "save_strategy": "no",
        }
        given = defaults | changes
        return ContrastiveArguments(dataset=str(dataset), disable_tqdm=True, report_to="none", **given)

    return arguments


def stream_of(folder, tmp_path, languages=LANGUAGES, **given):
    rows = open_files(str(folder), "train")
    form = find_form(rows.features, str(folder))
    return ExampleStream(rows, form, languages, tmp_path / "bad_rows.0.jsonl", **given)


def first_texts(stream, n):
    """Return the captions of the first `n` examples of a stream."""
    return [item["text"] for item in islice(stream, n)]


def captions_in(scenes, language):
    return [captions[language] for _, captions in scenes]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_stream_gives_what_lies_on_the_disk(scenes, arguments, tmp_path, kind):
    """Compare in one language: the same examples in the same order, pixel for pixel, in two passes."""
    folder = WRITERS[kind](tmp_path / kind, scenes, 4)
    on_disk = load_images(arguments(folder, streaming=False), None)
    dataset = CaptionExamples(on_disk, ["zh"], "image")
    expected = dataset.__getitems__(range(len(dataset)))
    streamed = list(islice(stream_of(folder, tmp_path, ["zh"]), 2 * N_SCENES))

    assert [item["text"] for item in expected] == captions_in(scenes, "zh")
    assert [item["text"] for item in streamed] == 2 * captions_in(scenes, "zh")
    for item, other in zip(streamed, 2 * expected, strict=True):
        assert item["image"].tobytes() == other["image"].convert("RGB").tobytes()


def test_a_row_shows_another_language_in_every_pass(scenes, tmp_path):
    stream = stream_of(write_tars(tmp_path / "rows", scenes, 2), tmp_path, shuffle_buffer=5)
    examples = list(islice(stream, 3 * N_SCENES))
    first_pass = examples[:N_SCENES]

    # Three passes show the three languages of each row once.
    captions_of_row = {stable_hash(captions["en"]): captions for _, captions in scenes}
    for start in (0, N_SCENES, 2 * N_SCENES):
        in_pass = examples[start : start + N_SCENES]
        assert {item["row_id"] for item in in_pass} == captions_of_row.keys()
    for row_id, captions in captions_of_row.items():
        shown = [item["text"] for item in examples if item["row_id"] == row_id]
        assert sorted(shown) == sorted(captions.values())

    # A pass of twenty rows is shared between the three languages.
    for language in LANGUAGES:
        texts = captions_in(scenes, language)
        n_shown = sum(item["text"] in texts for item in first_pass)
        # 20 / 3 = 6.7
        assert n_shown in (6, 7, 8)


def test_rows_of_equal_english_share_an_id(scenes, tmp_path):
    image = scenes[0][0]
    captions = [("key", "a"), ("key", "b"), ("bell", "a"), ("", "a"), (None, "a")]
    rows = [(image, {"en": english, "zh": chinese, "es": None}) for english, chinese in captions]
    stream = stream_of(write_parquet(tmp_path / "rows", rows, 1), tmp_path, ["zh"])
    ids = [example["row_id"] for example in islice(stream, 5)]
    assert ids[0] == ids[1] == stable_hash("key")
    # Empty and missing English are one.
    assert ids[3] == ids[4]
    assert len(set(ids)) == 3
    # Ids fit a tensor of int64.
    assert all(0 <= row_id < 2**63 for row_id in ids)
    # The same in every process: Python's own hash of a text has another seed in each.
    assert stable_hash("key") == 7439496157804668538


@pytest.mark.parametrize("shuffle_buffer", [0, 7])
def test_loader_workers_share_the_files(scenes, tmp_path, shuffle_buffer):
    folder = write_tars(tmp_path / "tars", scenes, 4)
    stream = stream_of(folder, tmp_path, ["en"], shuffle_buffer=shuffle_buffer)
    first = first_texts(DataLoader(stream, batch_size=None, num_workers=2), N_SCENES)
    second = first_texts(DataLoader(stream, batch_size=None, num_workers=2), N_SCENES)
    assert sorted(first) == sorted(captions_in(scenes, "en"))
    assert first == second
    # Two workers take turns, each with files of its own.
    assert first != captions_in(scenes, "en")


def test_a_shuffled_stream_differs_by_pass_and_seed_alone(scenes, tmp_path):
    folder = write_tars(tmp_path / "rows", scenes, 4)

    def two_passes(seed):
        stream = stream_of(folder, tmp_path, ["en"], shuffle_buffer=8, seed=seed)
        return first_texts(stream, 2 * N_SCENES)

    one = two_passes(seed=1)
    another = two_passes(seed=2)
    assert two_passes(seed=1) == one
    assert another != one
    assert one[:N_SCENES] != one[N_SCENES:]
    for texts in (one, another):
        assert sorted(texts[:N_SCENES]) == sorted(captions_in(scenes, "en"))
        assert sorted(texts[N_SCENES:]) == sorted(captions_in(scenes, "en"))


def trainer_of(arguments, examples, collator_class=Collator):
    model, processor = load_model(arguments.model_name_or_path)
    freeze_all_but(model, arguments.trainable)
    collator = collator_class(processor.tokenizer, arguments.max_text_length, processor.image_processor)
    return ContrastiveTrainer(model=model, args=arguments, train_dataset=examples, data_collator=collator)


def train_on_stream(arguments):
    trainer = trainer_of(arguments, stream_images(arguments, arguments.languages))
    train(trainer, arguments)
    return trainer.model.state_dict()


# Without a schedule and without clipping: a step depends on its batch and the weights alone.
SGD = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def test_a_stream_trains_like_what_lies_on_the_disk(scenes, altclip_folder, arguments, tmp_path):
    """Train on two passes in the same order: as a stream, and from files that hold the scenes twice.

    Twenty rows are two and a half batches: the last of a pass goes on in the next.
    """
    given = {
        "model_name_or_path": str(altclip_folder),
        # 5 x 8 = 40 examples, twice the 20 scenes.
        "max_steps": 5,
        "per_device_train_batch_size": 8,
        "train_sampling_strategy": "sequential",
        **SGD,
    }
    of_stream = arguments(write_tars(tmp_path / "tars", scenes, 5), **given)
    trainer = trainer_of(of_stream, stream_images(of_stream, ["es"]))
    trainer.train()
    weights = trainer.model.state_dict()

    twice = write_tars(tmp_path / "twice", 2 * scenes, 10)
    of_disk = arguments(twice, streaming=False, **given)
    trainer = trainer_of(of_disk, CaptionExamples(load_images(of_disk, None), ["es"], "image"))
    trainer.train()
    expected = trainer.model.state_dict()

    assert count_changed(load_file(altclip_folder / "model.safetensors"), weights) > 20
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)


def count_changed(before, after):
    """Return the number of weights that training has changed."""
    return sum(not torch.equal(before[name], value) for name, value in after.items())


class Recorder(Collator):
    """Collator that keeps the texts of each batch."""

    texts: list[list[str]] = []

    def __call__(self, examples):
        self.texts.append([example["text"] for example in examples])
        return super().__call__(examples)


def train_on_a_share(rank, arguments, out):
    """Train as one of two processes; save what it has opened and read, its steps and its weights."""
    torch.set_num_threads(1)
    arguments = ContrastiveArguments(**arguments)
    assert arguments.world_size == 2
    trainer = trainer_of(arguments, stream_images(arguments, ["en"]), Recorder)

    opened = set()

    def note_opened(event, given):
        if event == "open" and str(given[0]).startswith(arguments.dataset):
            opened.add(Path(str(given[0])).name)

    # The interpreter tells of every file that is opened, whichever library opens it.
    sys.addaudithook(note_opened)
    train(trainer, arguments)
    seen = {
        "opened": opened,
        "texts": sum(Recorder.texts, []),
        "steps": trainer.state.global_step,
        "weights": trainer.model.state_dict(),
    }
    torch.save(seen, out / f"{rank}.pt")


@pytest.mark.parametrize("kind,n_files", [("parquet", 5), ("tars", 4)])
def test_every_process_opens_its_own_files_alone(scenes, altclip_folder, tmp_path, kind, n_files):
    """Train in two processes, on files that are not equally many.

    The processes take equally many steps and see every row.
    """
    rows = WRITERS[kind](tmp_path / "rows", scenes, n_files)
    given = {
        "dataset": str(rows),
        "model_name_or_path": str(altclip_folder),
        "output_dir": str(tmp_path / "out"),
        "streaming": True,
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "cache_image_embeds": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "report_to": "none",
        **SGD,
    }
    spawn(train_on_a_share, (given, tmp_path), 2)

    names = sorted(path.name for path in rows.iterdir())
    size = N_SCENES // n_files
    texts = captions_in(scenes, "en")
    in_files = [texts[start : start + size] for start in range(0, N_SCENES, size)]
    finished = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank, seen in enumerate(finished):
        # Files are dealt out in turn: 0, 2, 4 and 1, 3.
        assert seen["opened"] == set(names[rank::2])
        assert seen["steps"] == 3
        mine = sum(in_files[rank::2], [])
        assert len(seen["texts"]) >= len(mine)
        assert seen["texts"] == (mine + mine)[: len(seen["texts"])]
        assert count_changed(finished[0]["weights"], seen["weights"]) == 0


def test_fewer_files_than_readers_are_refused(scenes, tmp_path):
    folder = str(write_parquet(tmp_path / "rows", scenes, 3))
    assert [open_files(folder, "train", rank, 3).num_shards for rank in range(3)] == [1, 1, 1]
    message = (
        "has 3 files to stream in split 'train', and 2 processes with 2 readers each want 4: write it as"
    )
    with pytest.raises(InputError, match=message):
        open_files(folder, "train", 0, 2, n_workers=2)

    folder = str(write_folder(tmp_path / "pictures", scenes, None))
    message = "has 1 files to stream .* 2 processes with 1 readers each want 2: .* or leave out --streaming"
    with pytest.raises(InputError, match=message):
        open_files(folder, "train", 1, 2)


def broken(scenes):
    """Return the scenes with a fourth and a twelfth that cannot be decoded."""
    scenes = list(scenes)
    # With four files of five rows: row 3 of the first, and row 1 of the third.
    for number in (3, 11):
        _, captions = scenes[number]
        scenes[number] = (b"no picture", captions)
    return scenes


def bad_rows_in(path):
    """Return the lines of a report of bad images."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["parquet", "tars"])
def test_bad_images_on_the_disk_are_set_aside_and_named(scenes, arguments, tmp_path, capsys, kind):
    given = arguments(WRITERS[kind](tmp_path / "rows", broken(scenes), 4), streaming=False)
    assert len(load_images(given, None)) == 18
    assert "Skipped 2 images, listed in" in capsys.readouterr().out
    report = bad_rows_in(tmp_path / "out/bad_rows.jsonl")
    assert [line["row"] for line in report] == [3, 11]
    assert report[0]["path"] in ("3.png", "000003.png")

    given.bad_rows = "error"
    with pytest.raises(InputError, match="2 of 20 images cannot be decoded, row 3 first"):
        load_images(given, None)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_bad_images_in_a_stream_are_set_aside_and_named_once(
    scenes, altclip_folder, arguments, tmp_path, capsys, n_workers
):
    """Train over two passes and more; a second run begins a new report."""
    rows = write_tars(tmp_path / "rows", broken(scenes), 4)
    given = arguments(
        rows, model_name_or_path=str(altclip_folder), max_steps=10, dataloader_num_workers=n_workers
    )
    for _ in range(2):
        train_on_stream(given)
        said = capsys.readouterr().out
        assert "Training on a stream of 4 files for this process, in en zh es." in said
        assert f"Skipped 2 images, listed in {tmp_path}/out/bad_rows.*.jsonl." in said

    report = bad_rows_in(tmp_path / "out/bad_rows.0.jsonl")
    named = sorted((Path(line["file"]).name, line["row"], line["path"]) for line in report)
    assert named == [("00000.tar", 3, "000003.png"), ("00002.tar", 1, "000011.png")]
    assert all("Pillow knows no such format" in line["problem"] for line in report)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_bad_images_in_a_stream_are_refused_where_that_is_asked(
    scenes, altclip_folder, arguments, tmp_path, n_workers
):
    rows = write_tars(tmp_path / "rows", broken(scenes), 4)
    given = {"model_name_or_path": str(altclip_folder), "dataloader_num_workers": n_workers}
    message = "image 000003.png in row 3 of .*00000.tar cannot be decoded: Pillow knows.*--bad_rows set_aside"
    with pytest.raises(InputError, match=message):
        train_on_stream(arguments(rows, bad_rows="error", **given))


def test_an_unknown_treatment_of_bad_rows_is_refused(arguments):
    with pytest.raises(InputError, match="bad_rows is 'skip': choose from set_aside, error"):
        stream_images(arguments("rows", bad_rows="skip"), None)


@pytest.mark.slow
def test_files_without_a_good_row_end_the_run(scenes, tmp_path):
    # No row has a caption in the one language that is asked for.
    rows = [(image, captions | {"es": None}) for image, captions in scenes]
    stream = stream_of(write_parquet(tmp_path / "rows", rows, 2), tmp_path, ["es"])
    message = "none of a reader's files has a caption in es beside an image that can be decoded"
    with pytest.raises(InputError, match=message):
        next(iter(stream))


@pytest.mark.parametrize(
    "given,message",
    [
        ({"max_steps": -1}, "max_steps is -1, and a stream has no end: give the number of steps"),
        (
            {"cache_image_embeds": True},
            "streamed images are encoded during training: add --cache_image_embeds false",
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
    features = Features({"image": Image(), "text": Value("string"), "language": Value("string")})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows/0.parquet")
    given = arguments(tmp_path / "rows")

    message = "column 'text' .* states its languages row by row: give those to train on with --languages"
    with pytest.raises(InputError, match=message):
        stream_images(given, None)
    assert next(iter(stream_images(given, ["es"])))["text"] == "clave"
    with pytest.raises(InputError, match="'--languages': .*did you mean 'zh'"):
        stream_images(given, ["es", "cn"])


def test_data_that_is_not_there_is_refused(scenes, arguments, tmp_path):
    with pytest.raises(InputError, match="'no/such/rows' does not exist"):
        stream_images(arguments("no/such/rows"), None)
    rows = write_parquet(tmp_path / "rows", scenes, 2)
    with pytest.raises(InputError, match="split 'test' cannot be loaded"):
        stream_images(arguments(rows, split="test"), None)
    with pytest.raises(InputError, match="no text in language xx: choose from en zh es"):
        stream_images(arguments(rows), ["xx"])


@pytest.mark.parametrize(
    "given", [{}, {"shuffle_buffer": 6}, {"shuffle_buffer": 6, "dataloader_num_workers": 2}], ids=str
)
def test_a_resumed_stream_equals_an_uninterrupted_one(scenes, altclip_folder, arguments, tmp_path, given):
    """Resume in the second pass, with bad images, dropout and AdamW.

    A checkpoint keeps no order, the seed does.
    """
    rows = write_tars(tmp_path / "rows", broken(scenes), 4)
    given = {"model_name_or_path": str(altclip_folder), "max_steps": 9, "learning_rate": 1e-3, **given}
    # Step 5 has seen 20 examples, and a pass has 18.
    whole = train_on_stream(arguments(rows, save_strategy="steps", save_steps=5, **given))

    again = tmp_path / "again"
    shutil.copytree(tmp_path / "out/checkpoint-5", again / "checkpoint-5")
    resumed = train_on_stream(arguments(rows, resume=True, output_dir=str(again), **given))

    assert count_changed(load_file(altclip_folder / "model.safetensors"), whole) > 20
    assert count_changed(whole, resumed) == 0


@pytest.mark.slow
def test_a_resumed_mixture_equals_an_uninterrupted_one(scenes, altclip_folder, arguments, tmp_path):
    write_tars(tmp_path / "tars", broken(scenes), 4)
    write_parquet(tmp_path / "tables", scenes, 2)
    listed = [{"data": "tars", "rows": 12}, {"data": "tables", "rows": 20, "weight": 2}]
    (tmp_path / "list.yaml").write_text(json.dumps(listed))
    given = {"model_name_or_path": str(altclip_folder), "max_steps": 9, "learning_rate": 1e-3}
    given["shuffle_buffer"] = 6
    mixture = tmp_path / "list.yaml"
    whole = train_on_stream(arguments(mixture, save_strategy="steps", save_steps=5, **given))
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "out/checkpoint-5", again / "checkpoint-5")
    resumed = train_on_stream(arguments(mixture, resume=True, output_dir=str(again), **given))
    assert count_changed(whole, resumed) == 0


def test_a_killed_stream_resumes_to_the_same_bytes(scenes, altclip_folder, run_python, tmp_path):
    """Run and kill it as a user would; the report of bad images still names each once."""
    rows = write_parquet(tmp_path / "rows", broken(scenes), 3)
    command = [ROOT / "training/run_stage2.py", ROOT / "training/recipes/miniature/stage2.yaml"]
    command += ["--model_name_or_path", altclip_folder, "--dataset", rows, "--split", "train", "--streaming"]
    command += ["--cache_image_embeds", "false", "--max_steps", "6", "--per_device_train_batch_size", "4"]
    whole = tmp_path / "whole"
    process = run_python("python", *command, "--output_dir", whole)
    assert process.returncode == 0, process.stderr

    killed = tmp_path / "killed"
    saving = ["--save_strategy", "steps", "--save_steps", "1"]
    train_with_kills([*command, *saving, "--output_dir", killed], killed, 1, random.Random(0))
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (killed / "bad_rows.0.jsonl").read_text().count("\n") == 2


def test_stage_0_streams_too(miniature, scenes, run_python, tmp_path):
    rows = write_tars(tmp_path / "rows", scenes, 2)
    command = [ROOT / "training/run_stage0.py", ROOT / "training/recipes/miniature/stage0.yaml"]
    command += ["--model_name_or_path", miniature / "clip", "--dataset", rows, "--split", "train"]
    command += ["--text_column", "txt", "--streaming", "--max_steps", "2"]
    command += ["--output_dir", tmp_path / "out", "--per_device_train_batch_size", "8"]
    process = run_python("python", *command)
    assert process.returncode == 0, process.stderr
    assert "Training on a stream of 2 files for this process, in en." in process.stdout
    assert "Skipped 0 images" in process.stdout
