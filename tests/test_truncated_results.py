"""Truncated embeddings are evaluated in the run that evaluates whole ones, and have a table in the card."""

import json
import re

import pytest
import torch
from huggingface_hub import ModelCard

from benchmarks.encoder import CachedEncoder
from benchmarks.evaluation import evaluate
from benchmarks.jobs.retrieval import RetrievalArguments, RetrievalBenchmark
from benchmarks.jobs.zero_shot import ZeroShotArguments, ZeroShotBenchmark
from benchmarks.results import Result, load_results, truncated_name
from common.errors import InputError
from common.files.rows import load_rows
from common.models.loading import load_model
from model_cards.card import Facts, render_card
from model_cards.job import _tell_what_is_left_out
from model_cards.sections import make_sections, make_truncated_sections
from modeling_altclip import embed_images, embed_texts
from modeling_altclip.embedding import mean_of_prompts

from .conftest import measured

DIMS = [48, 16]
TEXTS = ["key", "dog face and key", "bell", "key", "红苹果"]
NAMES = ["key", "红苹果", "bell"]
TEMPLATES = ["a photo of {}.", "{}"]
TASKS = {
    "retrieval": """\
dataset: {dataset}
kind: retrieval
split: validation
columns: {{image: image, captions: captions}}
metric: mean_recall
languages: [en, zh]
""",
    "zero_shot": """\
dataset: {dataset}
kind: zero_shot
split: validation_concepts
columns: {{image: image, label: label}}
metric: accuracy@1
class_names: {dataset}/class_names.json
""",
}
BENCHMARKS = {
    "retrieval": (RetrievalArguments, RetrievalBenchmark(distance="cosine")),
    "zero_shot": (ZeroShotArguments, ZeroShotBenchmark()),
}


# The models here were trained for nothing at all.
pytestmark = pytest.mark.filterwarnings("ignore:truncate_dim is")


def test_everything_is_encoded_once_for_all_dimensions(altclip_folder, miniature, tmp_path):
    model, processor = load_model(str(altclip_folder))
    rows = load_rows(str(miniature / "dataset"), "validation", []).select(range(6))
    prompts = [template.format(name) for name in NAMES for template in TEMPLATES]
    expected = {}
    for dim in (None, *DIMS):
        images = embed_images(model, processor, rows["image"], truncate_dim=dim)
        texts = embed_texts(model, processor, TEXTS, truncate_dim=dim)
        classes = mean_of_prompts(embed_texts(model, processor, prompts, truncate_dim=dim), len(NAMES))
        expected[dim] = [images, texts, classes]
    plain = CachedEncoder(model, processor, cache_dir=str(tmp_path / "plain"))
    whole = [plain.rows(rows)[0], plain.texts(TEXTS), plain.classes(NAMES, TEMPLATES)]

    n_encoded = 0
    encode = model.get_text_features

    def counted(**inputs):
        nonlocal n_encoded
        n_encoded += len(inputs["input_ids"])
        return encode(**inputs)

    model.get_text_features = counted
    encoder = CachedEncoder(model, processor, cache_dir=str(tmp_path / "cache"), truncate_dims=DIMS)
    images, _, _ = encoder.rows(rows)
    for dim in (None, *DIMS):
        of_dim = encoder.truncated(dim)
        found = [of_dim.finish(images), of_dim.texts(TEXTS), of_dim.classes(NAMES, TEMPLATES)]
        for ours, theirs in zip(found, expected[dim], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert n_encoded == 4 + len(prompts)  # distinct texts
    # Whole embeddings have the same bits with and without other dimensions.
    of_all = encoder.truncated(None)
    again = [images, of_all.texts(TEXTS), of_all.classes(NAMES, TEMPLATES)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, whole, strict=True))


@pytest.mark.parametrize("kind", TASKS)
def test_one_run_evaluates_all_dimensions(altclip_folder, miniature, tmp_path, kind, capsys):
    task = tmp_path / "mine.yaml"
    task.write_text(TASKS[kind].format(dataset=miniature / "dataset"))
    arguments_of, benchmark = BENCHMARKS[kind]
    found = {}
    for name, dims in (("whole", None), ("all", DIMS)):
        given = {
            "models": [str(altclip_folder)],
            "tasks": [str(task)],
            "languages": ["en", "zh"],
            "limit": 20,
            "n_resamples": 40,
            "cache_dir": str(tmp_path / f"cache-{name}"),
            "output_dir": str(tmp_path / name),
        }
        evaluate(arguments_of(**given, truncate_dims=dims), benchmark)
        found[name] = measured(tmp_path / name)
    assert "| mine-16d | zh " in capsys.readouterr().out

    assert found["whole"].keys() == {"mine.en.json", "mine.zh.json"}
    truncated = {f"mine-{dim}d.{language}.json" for dim in DIMS for language in ("en", "zh")}
    assert found["all"].keys() == found["whole"].keys() | truncated
    for name, record in found["whole"].items():
        # A run with other dimensions writes the same, without a new field.
        assert found["all"][name] == record
        assert "truncate_dim" not in record
    # In which place each image was ranked, or the class of each image, by number of dimensions and language.
    ranks = {}
    for result in load_results(tmp_path / "all"):
        of_all = found["whole"][f"mine.{result.language}.json"]
        assert result.whole_task == "mine"
        assert result.task == truncated_name("mine", result.truncate_dim)
        assert result.intervals.keys() == of_all["intervals"].keys()
        for name in ("data", "images", "prompts", "weights", "definition", "n_rows"):
            assert getattr(result, name) == of_all[name]
        outcomes = result.outcomes()
        assert outcomes.metrics() == result.metrics
        ranks[result.truncate_dim, result.language] = getattr(outcomes, outcomes.PER_UNIT)
    for dim in DIMS:
        assert not torch.equal(ranks[dim, "en"], ranks[None, "en"])


@pytest.mark.parametrize(
    "dims,message",
    [
        ([], "truncate_dims is []: give whole numbers from 1"),
        ([16, 0], "truncate_dims is [16, 0]: give whole numbers from 1"),
        ([16, 16], "truncate_dims is [16, 16]: give each number of dimensions once"),
    ],
)
def test_bad_dimensions_are_refused(dims, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        RetrievalArguments(models=["m"], tasks=["t"], truncate_dims=dims)


def test_more_dimensions_than_a_model_has_are_refused_before_anything_is_encoded(
    altclip_folder, miniature, tmp_path
):
    task = tmp_path / "mine.yaml"
    task.write_text(TASKS["retrieval"].format(dataset=miniature / "dataset"))
    arguments = RetrievalArguments(
        models=[str(altclip_folder)],
        tasks=[str(task)],
        cache_dir=str(tmp_path / "cache"),
        output_dir=str(tmp_path / "out"),
        truncate_dims=[16, 129],
    )
    with pytest.raises(InputError, match="altclip.: truncate_dim is 129, and the embeddings have 128"):
        evaluate(arguments, BENCHMARKS["retrieval"][1])
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "out").exists()


def result(value, dim=None, model="stage2", language="en", **more):
    """Return a result of retrieval, of whole or truncated embeddings."""
    return Result(
        model=model,
        task="pairs" if dim is None else f"pairs-{dim}d",
        kind="retrieval",
        language=language,
        metric="mean_recall",
        metrics={"mean_recall": value, "text_to_image_recall@1": value, "n": 5},
        intervals={"text_to_image_recall@1": [value - 0.05, value + 0.05]},
        dataset="my/data",
        split="test",
        weights="0" * 64,
        command=f"run_retrieval.py --models {model}",
        truncate_dim=dim,
        **more,
    )


def test_the_card_has_a_small_table_of_dimensions(capsys):
    of_stage_1 = [result(0.3, model="stage1"), result(0.2, 16, model="stage1")]
    results = [*of_stage_1, result(0.5), result(0.45, 48), result(0.25, 16), result(0.6, language="zh")]
    results.append(result(0.4, 16, language="zh"))
    facts = Facts(matryoshka_dims=[128, 48, 16])
    card = render_card("T", "me/T", results, ["stage1", "stage2"], "apache-2.0", "about", facts)
    text = str(card)
    section = text[text.index("### pairs, text_to_image_recall@1, %, by the number of dimensions") :]
    table = re.findall(r"^\|.*\|$", section, re.M)
    cells = []
    for line in table:
        cells.append([cell.strip() for cell in line.strip("|").split("|")])
    assert cells[0] == ["language", "16", "48", "all", "95 % of 16", "95 % of 48", "95 % of all"]
    assert cells[2] == ["en", "25.0", "45.0", "50.0", "20.0 to 30.0", "40.0 to 50.0", "45.0 to 55.0"]
    assert cells[3] == ["zh", "40.0", "", "60.0", "35.0 to 45.0", "", "55.0 to 65.0"]
    assert cells[4] == ["mean", "32.5", "", "55.0", "", "", ""]
    # The table of stages above it and the metadata are of whole embeddings.
    assert text.count("### pairs") == 2
    entries = ModelCard(text).data.eval_results
    assert [(entry.dataset_name, entry.metric_value) for entry in entries] == [("pairs", 0.5), ("pairs", 0.6)]
    assert "truncated to their first 48, 16 dimensions" in text
    assert "truncate_dim=16" in text

    # All are shown but that of the earlier stage.
    labels = ["stage1", "stage2"]
    shown = [*make_sections(results, labels), *make_truncated_sections(results, "stage2")]
    _tell_what_is_left_out(results, results, shown)
    printed = capsys.readouterr().out
    assert printed.startswith("Skipped 1 results of truncated embeddings: the card shows those of the model")
    assert printed.count("Skipped") == 1

    whole_alone = [one for one in results if one.truncate_dim is None]
    text = str(render_card("T", "me/T", whole_alone, labels, "apache-2.0", "about"))
    assert "dimensions" not in text


def test_results_of_another_protocol_share_no_table():
    results = [result(0.5), result(0.4, 16, limit=100)]
    assert make_truncated_sections(results, "stage2") == []
    results.append(result(0.45, limit=100))
    (section,) = make_truncated_sections(results, "stage2")
    assert section.title == "pairs, first 100"


def test_a_result_keeps_its_dimensions_in_its_file(tmp_path):
    path = result(0.4, 16).save(tmp_path)
    assert path.name == "pairs-16d.en.json"
    (read,) = load_results(tmp_path)
    assert read.truncate_dim == 16
    assert "truncate_dim" not in json.loads(result(0.5).save(tmp_path).read_text())
    with pytest.raises(InputError, match="truncate_dim is -16, which is no number of anything"):
        result(0.4, -16).save(tmp_path)
