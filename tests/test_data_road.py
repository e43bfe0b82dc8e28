"""One road from raw data to a model card, by one command: clean, exclude, train three stages, evaluate, card.

Rows are hidden in the data: dirty ones, captions of a test, and pictures of it.
"""

import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import ModelCard

from benchmarks.results import load_results
from common.origins import read_origins

pytest.importorskip("imagehash")
pytestmark = pytest.mark.slow
LANGUAGES = ["en", "zh", "es"]
N_CAPTIONS = 40  # of a test, hidden among the texts
N_PICTURES = 20  # of a test, hidden among the pictures
DIRTY = [
    ("<b>a small dog</b>", "一只小狗", "un perro"),
    ("%s files were found", "找到 %s 个文件", "%s archivos"),
    ("see https://example.org", "见 https://example.org", "vea https://example.org"),
    ("the same on both sides", "the same on both sides", "the same on both sides"),
]
TRAINING = """
per_device_train_batch_size: 128
learning_rate: 2.0e-3
warmup_steps: 10
adam_beta2: 0.95
max_grad_norm: 1.0
use_cpu: true
bf16: false
attn_implementation: eager
save_strategy: "no"
dataloader_pin_memory: false
"""
RECIPES = {
    "texts": """
- {data: ../outputs/miniature/dataset, split: train}
- {data: ../outputs/hidden.tsv, licence: CC-BY-NC-4.0}
""",
    "clean": """
dataset: road/texts.yaml
output_dir: outputs/road/cleaned
near_duplicates: 0  # the same names recur in many scenes
""",
    "stage0": f"""
model_name_or_path: outputs/miniature/clip
dataset: outputs/miniature/dataset
output_dir: outputs/road/teacher
max_steps: 150
{TRAINING}""",
    "stage1": f"""
teacher_name_or_path: outputs/road/teacher
text_encoder_name_or_path: outputs/miniature/text_encoder
dataset: outputs/road/cleaned/sources.yaml
exclude_tasks: [miniature-pairs]
languages: [en, zh, es]
sift: false
output_dir: outputs/road/stage1
max_steps: 150
{TRAINING}""",
    "stage2": f"""
model_name_or_path: outputs/road/stage1
dataset: outputs/pictures
exclude_tasks: [miniature-pairs]
languages: [en, zh, es]
output_dir: outputs/road/stage2
max_steps: 10
{TRAINING}""",
    "retrieval": """
models: [outputs/road/stage2]
tasks: [miniature-pairs]
languages: [en, zh, es]
output_dir: outputs/road/results
""",
    "card": """
title: The road
repo: me/the-road
stages: [outputs/road/teacher, outputs/road/stage1, outputs/road/stage2]
results: outputs/road/results
output_dir: outputs/road/model
""",
}


def load_split(folder, dataset, split):
    """Load a dataset of the road, with a cache of its own.

    `datasets` caches a folder with a card under the card alone, and gives the rows of another with its like.
    """
    return load_dataset(str(folder / dataset), split=split, cache_dir=str(folder / "cache/read_by_tests"))


def write_data(folder):
    """Write texts and pictures with what is hidden in them; return the row numbers of the hidden pictures."""
    test = load_split(folder, "outputs/miniature/dataset", "test_pairs")
    captions = test["captions"][:N_CAPTIONS]
    hidden = [map(row.get, LANGUAGES) for row in captions]
    lines = ["\t".join(row) + "\n" for row in [LANGUAGES, *DIRTY, *hidden]]
    (folder / "outputs/hidden.tsv").write_text("".join(lines), "utf-8")

    rows = []
    for row in load_split(folder, "outputs/miniature/dataset", "train_curated"):
        captions = {language: [row["captions"][language]] for language in LANGUAGES}
        rows.append({"image": picture(row["image"], "png"), "captions": captions})
    numbers = range(50, 50 * (N_PICTURES + 1), 50)
    for number, image in zip(numbers, test["image"][-N_PICTURES:]):
        # Re-encoded, and with a caption that no test has.
        rows[number]["image"] = picture(image, "jpeg", quality=95)
    (folder / "outputs/pictures").mkdir()
    Dataset.from_list(rows).to_parquet(folder / "outputs/pictures/train.parquet")
    (folder / "outputs/pictures/README.md").write_text("---\nlicense: cc-by-4.0\n---\n", "utf-8")
    return set(numbers)


def picture(image, form, **options):
    content = io.BytesIO()
    image.convert("RGB").save(content, form, **options)
    return {"bytes": content.getvalue()}


def digests(folder):
    """Return a digest of every file below a folder, without caches."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and "cache" not in path.parts:
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def road(tmp_path_factory, run_python):
    """Walk the road once; return its folder, what it printed, and the rows of the hidden pictures."""
    folder = tmp_path_factory.mktemp("road")
    made = run_python("python", "-m", "training.miniature", "--train_size", "2000", cwd=folder)
    assert made.returncode == 0, made.stderr
    hidden = write_data(folder)
    (folder / "road").mkdir()
    for name, recipe in RECIPES.items():
        (folder / f"road/{name}.yaml").write_text(recipe.lstrip(), "utf-8")
    return folder, walk(folder, run_python), hidden


def walk(folder, run_python):
    variables = {"HF_DATASETS_CACHE": str(folder / "cache")}
    process = run_python("python", "-m", "altclip", "train", "road", cwd=folder, **variables)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    return process.stdout


def record_of(folder, stage):
    return json.loads((folder / f"outputs/road/{stage}/run.json").read_text("utf-8"))


def test_dirty_texts_are_gone_and_counted(road):
    folder, *_ = road
    report = (folder / "outputs/road/cleaned/report.md").read_text("utf-8")
    source = re.search(r"hidden\.tsv \| (\d+) \| (\d+) \|", report)
    assert [int(count) for count in source.groups()] == [len(DIRTY) + N_CAPTIONS, N_CAPTIONS]
    kept = load_split(folder, "outputs/road/cleaned", "train")["captions"][:]
    english = {row["en"][0] for row in kept}
    assert not {row[0] for row in DIRTY} & english


def test_captions_and_pictures_of_the_test_are_gone_and_counted(road):
    folder, _, hidden = road
    first = record_of(folder, "stage1")["excluded"]
    lines = (folder / "outputs/road/stage1/excluded.jsonl").read_text("utf-8").splitlines()
    assert first == {"tasks": ["miniature-pairs"], "rows": len(lines)}
    # Those that were hidden are the last.
    n_rows = 2000 + N_CAPTIONS
    found = {json.loads(line)["row"] for line in lines}
    assert set(range(n_rows - N_CAPTIONS, n_rows)) <= found

    second = record_of(folder, "stage2")["excluded"]
    lines = (folder / "outputs/road/stage2/excluded.jsonl").read_text("utf-8").splitlines()
    assert second == {"tasks": ["miniature-pairs"], "rows": len(lines)}
    found = {json.loads(line)["row"] for line in lines}
    assert hidden <= found


def test_the_model_finds_scenes_it_never_saw(road):
    folder, *_ = road
    results = load_results(folder / "outputs/road/results")
    assert {result.language for result in results} == set(LANGUAGES)
    for result in results:
        # By chance (1 + 5 + 10) / 3 of 1,000 scenes.
        low, _ = result.intervals["mean_recall"]
        assert low > 3 * 16 / 3 / 1000


def test_the_card_names_sources_licences_and_tests(road):
    folder, *_ = road
    card = ModelCard.load(folder / "outputs/road/model/README.md")
    for row in (
        "| teacher | Noto Emoji |  |  | Apache-2.0 |",
        "| stage1 | Unicode CLDR |  | 19 languages | Unicode-3.0 |",
        f"| stage1 | outputs/hidden.tsv | {N_CAPTIONS} | en zh es | CC-BY-NC-4.0 |",
        "| stage2 | outputs/pictures | 2,000 | en zh es | cc-by-4.0 |",
    ):
        assert card.text.count(f"\n{row}\n") == 1, row
    assert "not for commercial use: outputs/hidden.tsv (CC-BY-NC-4.0);" in card.text
    assert "under unknown terms" not in card.text
    assert card.data.license == "cc-by-nc-4.0"
    excluded = re.findall(r"stage[12]: miniature-pairs \(\d+ rows\)", card.text)
    assert len(excluded) == 2
    assert "### miniature-pairs, " in card.text
    assert str(folder) not in str(card)
    stages = {origin.stage for origin in read_origins(folder / "outputs/road/model")}
    assert stages == {"teacher", "stage1", "stage2"}


def test_the_command_repeated_changes_nothing(road, run_python):
    folder, *_ = road
    before = digests(folder / "outputs")
    assert "nothing was done" in walk(folder, run_python)
    assert digests(folder / "outputs") == before
