"""Captioned images of several sources are mixed in memory and as a stream, by weights and budgets."""

from collections import Counter
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from datasets import Dataset, Features, Image, Value
from torch.utils.data import DataLoader

from common.errors import InputError
from training.arguments import ContrastiveArguments
from training.data import parallel_text
from training.data.examples import CaptionExamples
from training.data.loading import load_image_rows, load_images, stream_images
from training.data.mixtures import take_turns
from training.data.preview import first_captions
from training.parallel.caption_rows import CaptionRows
from training.trainers import ContrastiveTrainer

from .replicas import encoded, number_of

N_FILES = 2
# Rows of each file of a source, and its languages.
SOURCES = {"german": (6, ["en", "de"]), "french": (3, ["en", "fr"])}


@pytest.fixture
def mixture(tmp_path):
    """Return a function that writes a list of both sources, whose German images are all even."""
    for shift, (name, (n_rows, languages)) in enumerate(SOURCES.items()):
        (tmp_path / name).mkdir()
        for file in range(N_FILES):
            numbers = [2 * (file * n_rows + row) % 12 + shift for row in range(n_rows)]
            captions = []
            for number in numbers:
                captions.append({language: f"{language} {number}" for language in languages})
            images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in numbers]
            kinds = {"image": Image(), "captions": {language: Value("string") for language in languages}}
            rows = Dataset.from_dict({"image": images, "captions": captions}, Features(kinds))
            rows.to_parquet(tmp_path / name / f"train-{file:05d}-of-00002.parquet")

    def write(german=None, french=None):
        listed = [{"data": "german", **(german or {})}, {"data": "french", **(french or {})}]
        (tmp_path / "list.yaml").write_text(yaml.safe_dump(listed))
        return str(tmp_path / "list.yaml")

    return write


def stage2(dataset, folder, **flags) -> ContrastiveArguments:
    return ContrastiveArguments(
        dataset=dataset, output_dir=str(folder / "out"), model_name_or_path="a/b", **flags
    )


def streamed(dataset, folder, languages=None, **flags):
    flags = {"streaming": True, "cache_image_embeds": False, "max_steps": 1, **flags}
    return stream_images(stage2(dataset, folder, **flags), languages)


def sources_of(examples) -> Counter:
    return Counter("german" if number_of(example["image"]) % 2 == 0 else "french" for example in examples)


def test_sources_of_images_are_mixed_in_memory(mixture, tmp_path):
    path = mixture({"rows": 4}, {"weight": 3})
    rows = load_image_rows(path, "train")
    assert list(rows.features["captions"]) == ["en", "de", "fr"]
    # 4 of 12 rows at equal distances, and all of the others.
    german = [{"en": [f"en {n}"], "de": [f"de {n}"], "fr": []} for n in (0, 6, 0, 6)]
    assert rows["captions"][:4] == german
    assert rows[4]["captions"] == {"en": ["en 1"], "de": [], "fr": ["fr 1"]}
    assert rows["weight"][:] == [1] * 4 + [3] * 6
    assert [number_of(row["image"]) for row in rows.cast_column("image", Image())][:5] == [0, 6, 0, 6, 1]

    kept = load_images(stage2(path, tmp_path, languages=["fr"]), ["fr"])
    assert kept["weight"][:] == rows["weight"][:]
    texts, described = first_captions(stage2(path, tmp_path, languages=["de", "fr"]))
    assert {text.split()[0] for text in texts} == {"de", "fr"}
    assert described == "columns image, captions; captions in de fr"


def test_a_temperature_shares_a_budget_of_images_among_their_languages(tmp_path):
    texts = [{"de": str(n), "fr": None} for n in range(6)] + [{"de": None, "fr": str(n)} for n in (6, 7)]
    kinds = {"image": Image(), "captions": {language: Value("string") for language in ("de", "fr")}}
    rows = Dataset.from_dict({"image": [None] * 8, "captions": texts}, Features(kinds))
    (tmp_path / "both").mkdir()
    rows.to_parquet(tmp_path / "both/train.parquet")
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump([{"data": "both", "rows": 4, "temperature": "inf"}]))
    taken = load_image_rows(str(path), "train")["captions"][:]
    assert [captions["de"] + captions["fr"] for captions in taken] == [["0"], ["3"], ["6"], ["7"]]


def test_a_budget_of_images_on_the_hub_is_taken_before_the_download(mixture, monkeypatch):
    asked = []

    def download_rows(dataset, split, n_rows, **options):
        asked.append((n_rows, options))
        return Dataset.from_parquet(f"{dataset}/train-00000-of-00002.parquet").select(range(n_rows))

    monkeypatch.setattr(parallel_text, "is_remote", lambda dataset: dataset.endswith("german"))
    monkeypatch.setattr(parallel_text, "download_rows", download_rows)
    path = mixture({"rows": 2})
    rows = load_image_rows(path, "train")
    ((n_rows, options),) = asked
    assert n_rows == 2
    assert options["path"].endswith("german")
    assert not options["allow_outside"]
    assert [captions["de"] for captions in rows["captions"][:2]] == [["de 0"], ["de 2"]]
    assert len(rows) == 2 + 6


@pytest.mark.parametrize(
    "german,french,expected",
    [
        # By their rows, as all of them would be drawn in an epoch.
        ({"rows": 12}, {"rows": 6}, (40, 20)),
        ({"rows": 12}, {"rows": 6, "weight": 2}, (30, 30)),
        ({"rows": 4}, {"rows": 6, "weight": 6}, (6, 54)),
    ],
)
def test_a_stream_takes_turns_by_weights_and_budgets(german, french, expected, mixture, tmp_path):
    stream = streamed(mixture(german, french), tmp_path)
    examples = list(islice(stream, 60))
    counts = sources_of(examples)
    assert (counts["german"], counts["french"]) == expected
    # Ten examples have nearly the same shares.
    of_ten = sources_of(examples[20:30])["german"]
    assert abs(of_ten - expected[0] / 6) <= 1
    again = [example["text"] for example in islice(stream, 60)]
    assert again == [example["text"] for example in examples]
    percent = round(100 * expected[0] / 60)
    assert f"from 2 sources with {percent}% " in stream.summary()


def test_a_stream_reads_no_more_than_the_budget(mixture, tmp_path):
    stream = streamed(mixture({"rows": 4}, {"rows": 3}), tmp_path, ["de", "fr"])
    texts = {example["text"] for example in islice(stream, 40)}
    # Two rows of each German file, of which the second begins anew; two and one of the French ones.
    assert texts == {"de 0", "de 2", "fr 1", "fr 3", "fr 7"}
    assert stream.languages == ["de", "fr"]


@pytest.mark.slow
def test_the_workers_of_a_loader_share_the_files_of_all_sources(mixture, tmp_path):
    flags = {"dataloader_num_workers": 2, "shuffle_buffer": 4}
    stream = streamed(mixture({"rows": 12}, {"rows": 6}), tmp_path, **flags)

    def read():
        loader = DataLoader(stream, batch_size=None, num_workers=2)
        return [example["text"] for example in islice(loader, 36)]

    first = read()
    assert first == read()
    # Two passes take each caption of each row once.
    counts = Counter(text.split()[0] for text in first)
    assert counts == {"en": 18, "de": 12, "fr": 6}


@pytest.mark.parametrize(
    "german,streaming,message",
    [
        (
            {"name": "a"},
            False,
            "gives '.*german' the name 'a': for a configuration of captioned images write",
        ),
        ({"name": "a"}, True, "gives '.*german' the name 'a'"),
        ({}, True, "german' in .*list.yaml' does not tell its number of rows, by .*: add `rows`"),
        ({"rows": 9, "temperature": 2}, True, "temperature of .*german.* takes rows as they come, leave it"),
        ({"rows": 1}, True, "german' has 2 files in split 'train', .* rows is 1, give 2 at least"),
        ({"rows": 4, "split": "dev"}, False, "german'.*dev"),
    ],
)
def test_wrong_mixtures_are_one_line(german, streaming, message, mixture, tmp_path):
    path = mixture(german, {"rows": 6})
    with pytest.raises(InputError, match=message) as caught:
        streamed(path, tmp_path) if streaming else load_image_rows(path, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shares,expected",
    [([2, 1], [0, 1, 0, 0, 1, 0]), ([1], [0, 0, 0]), ([1, 1, 2], [2, 0, 1, 2, 2, 0, 1, 2])],
)
def test_turns(shares, expected):
    assert list(islice(take_turns(shares), len(expected))) == expected


def test_turns_keep_their_shares_at_any_length():
    shares = np.array([5e6, 3e5, 17, 2e6])
    turns = np.array(list(islice(take_turns(shares), 5000)))
    for number in (10, 100, 5000):
        counts = np.bincount(turns[:number], minlength=4)
        assert (abs(counts - number * shares / shares.sum()) < 2).all()


def test_stage_2_draws_by_weights(mixture):
    rows = load_image_rows(mixture({"weight": 1}, {"weight": 4}), "train")
    examples = CaptionExamples(rows, ["en", "de", "fr"], "image")
    callbacks = []
    trainer = SimpleNamespace(
        train_dataset=examples, args=SimpleNamespace(seed=3), add_callback=callbacks.append
    )
    sampler = ContrastiveTrainer._get_train_sampler(trainer)
    assert len(sampler) == 36
    drawn = Counter(int(examples.places[number, 0]) >= 12 for number in sampler)
    # 24 examples of weight 1, and 12 of weight 4.
    assert drawn == {False: 12, True: 24}
    (callback,) = callbacks
    assert callback.dataset is sampler
    # Rows of all their captions have the weights of their sources.
    assert CaptionRows(examples).weights.tolist() == [1] * 12 + [4] * 6
