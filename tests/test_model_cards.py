"""Check model cards: any number of stages, only results of their own weights, complete folders."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.results import Result
from common.errors import InputError
from common.fingerprints import hash_weights
from common.models.loading import load_model, save_model
from model_cards.card import Facts, render_card
from model_cards.job import CardArguments, main
from model_cards.paths import public_command, public_path
from model_cards.stages import find_lineage, label_stages
from modeling_altclip import AltCLIPConfig, AltCLIPDualEncoderModel, AltCLIPModel, AltCLIPProcessor

SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**SIZE, "image_size": 32, "patch_size": 8}
# Two steps of a Trainer's log: enough for a curve.
# A Trainer's log of two steps: enough for a curve.
LOSSES = [{"loss": 1.0, "step": 1}, {"loss": 0.9, "step": 2}]
LOG = {"log_history": LOSSES, "max_steps": 2, "global_step": 2}
COMMIT = "4" * 40
INTERVALS = {"text_to_image_recall@1": [0.05, 0.9]}


@pytest.fixture(scope="module")
def processor():
    # `(token, log probability)`; each letter is a piece.
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(piece, -3.0) for piece in "▁abcdefghijklmnopqrstuvwxyz"]
    vocab = [*special, *pieces, ("<mask>", 0.0)]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=vocab)
    crop_size = {"height": 32, "width": 32}
    image_processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop_size)
    return AltCLIPProcessor(image_processor, tokenizer)


@pytest.fixture(scope="module")
def zoo(processor, tmp_path_factory):
    """Save small models: a CLIP, three AltCLIPs, a dual encoder with its towers, and a LoRA on stage 2.

    Stages 1 and 2 have a training log; the AltCLIP `released` has none.
    """
    folder = tmp_path_factory.mktemp("zoo")
    n_pieces = len(processor.tokenizer)
    torch.manual_seed(0)

    text = {
        **SIZE,
        "vocab_size": n_pieces,
        # Those of the tokenizer: by default CLIP's configuration has other ids.
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    clip_processor = transformers.CLIPProcessor(processor.image_processor, processor.tokenizer)
    save_model(transformers.CLIPModel(config), clip_processor, folder / "clip")

    text = {
        **SIZE,
        "vocab_size": n_pieces,
        # XLM-R numbers positions from 2 on: 80 leave room for 77 tokens.
        # XLM-R numbers positions from 2 on: 80 leave room for 77 tokens.
        "max_position_embeddings": 80,
        "type_vocab_size": 1,
        "project_dim": 24,
    }
    for name in ("stage1", "stage2", "released"):
        config = AltCLIPConfig(text_config=dict(text), vision_config=dict(VISION), projection_dim=16)
        save_model(AltCLIPModel(config), processor, folder / name)
    for name in ("stage1", "stage2"):
        (folder / name / "trainer_state.json").write_text(json.dumps(LOG))

    config = transformers.ViTConfig(**VISION)
    transformers.ViTModel(config).save_pretrained(folder / "vit")
    config = transformers.BertConfig(**SIZE, vocab_size=n_pieces)
    transformers.BertModel(config).save_pretrained(folder / "bert")
    dual = AltCLIPDualEncoderModel.from_towers(str(folder / "vit"), str(folder / "bert"), projection_dim=16)
    save_model(dual, processor, folder / "dual")

    # Random matrices: with peft's default the adapter would change nothing.
    config = LoraConfig(target_modules=r"text_model.*\.(query|value)", r=2, init_lora_weights=False)
    base, _ = load_model(str(folder / "stage2"))
    get_peft_model(base, config).save_pretrained(folder / "lora")
    return folder


@pytest.fixture(scope="module")
def hashes(zoo):
    """Return the hash of each model's weights."""
    found = {}
    for name in ("clip", "stage1", "stage2", "released", "dual", "lora"):
        model, _ = load_model(str(zoo / name))
        found[name] = hash_weights(model)
    return found


def retrieval(model, weights, value=0.5, **more):
    """Return a result of retrieval with the fields in `more`."""
    metrics = {"mean_recall": value, "text_to_image_recall@1": value, "n": 5}
    given = {
        "task": "pairs",
        "language": "en",
        "dataset": "my/data",
        "split": "test",
        "command": "run_retrieval.py --tasks pairs",
    }
    return Result(
        model=str(model),
        weights=weights,
        kind="retrieval",
        metric="mean_recall",
        metrics=metrics,
        **given | more,
    )


def zero_shot(model, weights, value=0.5, **more):
    """Return a result of zero-shot classification with the fields in `more`."""
    metrics = {"accuracy@1": value, "n": 5}
    given = {
        "task": "concepts",
        "language": "en",
        "dataset": "my/data",
        "split": "test",
        "command": "run_zero_shot.py --tasks concepts",
    }
    return Result(
        model=str(model),
        weights=weights,
        kind="zero_shot",
        metric="accuracy@1",
        metrics=metrics,
        **given | more,
    )


# A diverged model; percent for a fraction; a value that is missing.
# 55.0 is a percentage where a fraction is due.
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 55.0, -0.1, None])
def test_a_figure_that_is_no_fraction_is_refused(value):
    match = f"a result of .* in en has the .* {value}, which is no fraction from 0 to 1: evaluate again"
    for of_kind in (retrieval, zero_shot):
        result = of_kind("x/altclip", "0" * 64, value)
        with pytest.raises(InputError, match=match):
            render_card("T", "me/T", [result], ["altclip"], "apache-2.0", "about")


@pytest.fixture
def make(zoo, tmp_path):
    """Make the card of stages of the zoo, or of others, from results; return its text and its folder."""
    output_dir = tmp_path / "out"

    def make(stages, measured=(), **more):
        # A folder each, since two results may have the same model, task and language.
        for number, result in enumerate(measured):
            result.save(tmp_path / "results" / str(number))
        given = {
            "title": "T",
            "repo": "me/T",
            "stages": [str(zoo / stage) for stage in stages],  # an absolute path stays as it is
            "output_dir": str(output_dir),
        }
        if measured:
            given["results"] = str(tmp_path / "results")
        main(CardArguments(**given | more))
        text = (output_dir / "README.md").read_text("utf-8")
        return text, output_dir

    return make


def entries_of(card):
    """Return `{(task, metric with its variation, value)}` of a card's model-index.

    Check as well that they are the same for whoever loads and saves the card.
    """
    text = str(card)
    written = entries_in_text(text)
    saved_again = ModelCard(text)
    assert entries_in_text(str(saved_again)) == written
    return written


def entries_in_text(text):
    header = yaml.safe_load(text.split("---")[1])
    if "model-index" not in header:
        return set()
    entries = header["model-index"][0]["results"]

    # huggingface_hub merges entries of the same dataset and configuration.
    datasets = {json.dumps(entry["dataset"]) for entry in entries}
    assert len(datasets) == len(entries)

    found = set()
    for entry in entries:
        (metric,) = entry["metrics"]
        found.add((entry["dataset"]["name"], metric["name"], metric["value"]))
    return found


@pytest.mark.parametrize(
    "stages",
    [
        ["clip"],
        ["released"],
        ["dual"],
        ["lora"],
        ["clip", "stage2"],
        ["clip", "stage1", "stage2"],
        ["clip", "stage1", "stage2", "lora"],
    ],
)
def test_one_stage_or_many(zoo, hashes, make, stages):
    """Check cards of one to four stages, the first a CLIP in the Hub's layout.

    The folder holds the weights of the last stage and no local path.
    """
    # English: 0.1 for the first stage, 0.2 for the second, and so on. Chinese: 0.7 for the last stage only.
    results = []
    for number, stage in enumerate(stages, start=1):
        results.append(retrieval(zoo / stage, hashes[stage], value=0.1 * number, intervals=INTERVALS))
    last = stages[-1]
    results.append(retrieval(zoo / last, hashes[last], value=0.7, language="zh-Hans", intervals=INTERVALS))
    text, folder = make(stages, results)

    # Metadata.
    card = ModelCard.load(folder / "README.md")
    # Nothing is known of what they were made of, but that a LoRA was made of its base.
    expected = "other" if stages == ["lora"] else None
    assert card.data.license == expected
    assert card.data.language == ["en", "zh"]
    assert card.data.model_name == "T"
    of_english = ("pairs", "mean_recall", round(0.1 * len(stages), 4))
    assert entries_of(card) == {of_english, ("pairs", "mean_recall", 0.7)}

    # Table.
    percents = [f"{10 * number}\\.0" for number in range(1, 1 + len(stages))]  # "10\\.0", "20\\.0"
    values = " +\\| ".join(percents)
    assert re.search(rf"\| en +\| {values} +\|", text)
    assert re.search(r"\| zh-Hans +\|( +\|)* 70\.0 +\|", text)
    for stage in stages:
        assert hashes[stage][:16] in text

    # Folder.
    model, _ = load_model(str(folder))
    assert hash_weights(model) == hashes[last]
    assert (folder / "recall.png").exists()
    has_losses = "stage2" in stages
    assert (folder / "loss.png").exists() == has_losses
    assert ("loss.png" in text) == has_losses
    for path in folder.iterdir():
        if path.suffix in (".md", ".json", ".py"):
            content = path.read_text("utf-8")
            assert str(zoo) not in content, path.name
            assert str(folder.parent) not in content, path.name
    needs_remote_code = stages == ["dual"]
    assert ("trust_remote_code=True" in text) == needs_remote_code


@pytest.mark.parametrize("kinds", [[], [retrieval], [zero_shot], [retrieval, zero_shot]])
def test_any_mixture_of_results(zoo, hashes, make, capsys, kinds):
    results = [kind("stage2", hashes["stage2"], intervals=INTERVALS) for kind in kinds]
    text, folder = make(["stage2"], results, plot_task="pairs")
    printed = capsys.readouterr().out
    has_results = bool(kinds)
    has_recall = retrieval in kinds
    assert len(entries_of(text)) == len(kinds)
    assert ("Not evaluated yet" in text) != has_results
    assert (folder / "recall.png").exists() == has_recall
    assert ("](recall.png)" in text) == has_recall
    assert ("No recall in pairs to plot" in printed) != has_recall


def test_there_is_no_plot_without_intervals(hashes, make, capsys):
    results = [retrieval("stage2", hashes["stage2"])]
    results.append(retrieval("stage2", hashes["stage2"], language="zh", intervals=INTERVALS))
    text, folder = make(["stage2"], results)
    assert not (folder / "recall.png").exists()
    assert "recall.png" not in text
    assert "No plot of pairs, whose results have no intervals" in capsys.readouterr().out


def test_an_empty_folder_of_results_is_reported(make, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    text, _ = make(["released"], results=str(tmp_path / "none"))
    assert "Not evaluated yet" in text
    assert f"There are no results in {tmp_path}/none" in capsys.readouterr().out


def test_intervals_stand_beside_their_figures(zoo, hashes, make):
    interval = {"accuracy@1": [0.4321, 0.5678]}
    results = [
        zero_shot("stage1", hashes["stage1"], 0.4),
        zero_shot("stage2", hashes["stage2"], 0.5, intervals=interval),
        zero_shot("stage2", hashes["stage2"], 0.6, language="zh"),
    ]
    text, _ = make(["stage1", "stage2"], results)

    def cells(line):
        return [cell.strip() for cell in line.strip("|").split("|")]

    table = re.findall(r"^\|.*\|$", text, re.M)
    header, _, english, chinese, means = table
    assert cells(header) == ["language", "stage1", "stage2", "95 % of stage2"]
    assert cells(english) == ["en", "40.0", "50.0", "43.2 to 56.8"]
    assert cells(chinese) == ["zh", "", "60.0", ""]
    assert cells(means) == ["mean", "", "55.0", ""]  # stage1 has no number in Chinese

    entries = ModelCard(text).data.eval_results
    (entry,) = [entry for entry in entries if entry.dataset_config == "en"]
    assert entry.metric_args == {"confidence_interval_95": [0.4321, 0.5678]}


def test_a_mean_is_of_the_same_images(hashes, make):
    results = [
        retrieval("stage2", hashes["stage2"], 0.5, images="a"),
        retrieval("stage2", hashes["stage2"], 0.6, language="zh", images="b"),
    ]
    text, _ = make(["stage2"], results)
    remark = "No mean over languages that have different images."
    assert re.search(rf"\| zh +\| 60.0 +\|\n\n{remark}\n", text)  # and no row of means

    same_images = [dataclasses.replace(result, images="a") for result in results]
    text, _ = make(["stage2"], same_images)
    assert re.search(r"\| mean +\| 55.0 +\|\n", text)
    assert remark not in text


# Fields in which two or more results of one model, task and language differ.
SIBLINGS = {
    "name": [{}, {"task": "pairs-euclidean"}],
    "templates": [
        {"templates": "ours"},
        {"templates": "clip_benchmark"},
        {"templates": ["{}", "a {}"]},
        {},
    ],
    "class names": [
        {"definition": {"class_names": "/secret/one.json"}},
        {"definition": {"class_names": "/secret/two.json"}},
    ],
    "class names by language": [
        {"definition": {"class_names": {"en": "a.json"}}},
        {"definition": {"class_names": {"en": "b.json"}}},
    ],
    "limit": [{}, {"limit": 100}, {"limit": 7}],
    "revision": [{"revision": "1" * 40}, {"revision": "2" * 40}],
    "split": [{"split": "one"}, {"split": "two"}],
    "prompts": [{"prompts": "1" * 64}, {"prompts": "2" * 64}, {"prompts": "3" * 64}],
    "data": [{"data": "1" * 32}, {"data": "2" * 32}],
    "layout": [{"definition": {"layout": "table"}}, {"definition": {"layout": "webdataset"}}],
    "several": [
        {"limit": 5, "task": "a"},
        {"limit": 5, "task": "b"},
        {"limit": 5, "task": "a", "templates": "ours"},
    ],
}


@pytest.mark.parametrize("of_kind", [retrieval, zero_shot])
@pytest.mark.parametrize("differing", SIBLINGS.values(), ids=list(SIBLINGS))
def test_results_that_differ_in_one_thing_are_two_entries(differing, of_kind):
    """Check that a card keeps results apart that huggingface_hub would merge (huggingface_hub#4975).

    It merges entries that differ only in the name of their dataset.
    """
    results = []
    expected = set()
    for number, fields in enumerate(differing, start=1):
        value = round(0.1 * number, 4)
        result = of_kind("x/altclip", "0" * 64, value=value, **fields)
        results.append(result)
        expected.add((result.task, value))
    chinese = of_kind("x/altclip", "0" * 64, value=0.9, language="zh", **differing[0])
    card = render_card("T", "me/T", [*results, chinese], ["altclip"], "apache-2.0", "about")
    # English and Chinese are entries of their own, whatever else they share.
    expected.add((chinese.task, 0.9))
    found = entries_of(card)
    assert {(task, value) for task, _, value in found} == expected

    # A heading names the task and the variation; English and Chinese share a table.
    headings = set()
    for task, metric, _ in found:
        _, comma, variation = metric.partition(", ")  # "mean_recall, first 100" -> "first 100"
        headings.add(f"### {task}{comma}{variation}, ")
    assert len(headings) == len(differing)
    assert card.text.count("### ") == len(differing)
    for heading in headings:
        assert heading in card.text
    assert "/secret" not in str(card)


def test_results_with_and_without_a_limit_share_no_table(hashes, make, capsys):
    """Check that a teacher's result on all images is not shown beside one on the first hundred."""
    results = [
        retrieval("clip", hashes["clip"], 0.25),
        retrieval("stage2", hashes["stage2"], 0.5, limit=100),
    ]
    text, _ = make(["clip", "stage2"], results)
    assert re.search(r"\| en +\| 50\.0 \(first 100\) +\|", text)
    assert "### pairs, first 100, " in text
    assert "25.0" not in text
    printed = capsys.readouterr().out
    assert (
        "Skipped 1 results that are duplicates, or that the model itself has no counterpart for." in printed
    )
    (entry,) = ModelCard(text).data.eval_results
    assert entry.dataset_args == {"limit": 100}
    assert entry.metric_name == "mean_recall, first 100"


@pytest.mark.parametrize("field", ["prompts", "data", "images", "n_rows"])
def test_results_of_different_items_share_no_row(field):
    """Check a teacher that was evaluated in English with other images or prompts than the model.

    In Chinese both were evaluated with the same.
    """
    results = []
    for language, of_model in (("en", "4"), ("zh", "3")):
        teacher = retrieval("x/teacher", "1" * 64, 0.25, language=language, **{field: "3"})
        model = retrieval("x/mine", "2" * 64, 0.5, language=language, **{field: of_model})
        results += [teacher, model]
    card = render_card("T", "me/T", results, ["teacher", "mine"], "apache-2.0", "about")

    percents = []
    for language, cells in re.findall(r"^\| (en|zh) +\|(.*)\|$", card.text, re.M):
        percents.append((language, re.findall(r"\d\d\.0", cells)))
    # Chinese has the first section, which was made for the teacher's English result. That is not shown.
    assert percents == [("zh", ["25.0", "50.0"]), ("en", ["50.0"])]


def test_a_result_is_deduplicated_and_a_contradicting_one_is_refused(hashes, make):
    # The same result from two folders.
    one = retrieval("stage2", hashes["stage2"])
    text, _ = make(["stage2"], [one, one])
    assert text.count("### pairs") == 1
    assert entries_of(text) == {("pairs", "mean_recall", 0.5)}

    other = retrieval("stage2", hashes["stage2"], 0.6)
    match = "are of the same weights, task and language, and differ: delete one"
    with pytest.raises(InputError, match=match):
        make(["stage2"], [one, other])


@pytest.mark.parametrize(
    "stages", [["stage2"], ["clip", "stage2"], ["clip", "stage1", "stage2"], ["stage2", "lora"]]
)
@pytest.mark.parametrize("wrong", [0, -1])
def test_results_of_other_weights_are_refused(zoo, hashes, make, tmp_path, stages, wrong):
    """Check one stage with other weights than when it was evaluated; for a LoRA, with those of its base."""
    stage = stages[wrong]
    evaluated = {name: hashes[name] for name in stages}
    # An adapter that was not applied leaves the base's weights.
    evaluated[stage] = hashes["stage2"] if stage == "lora" else "f" * 64
    results = [retrieval(zoo / name, weights) for name, weights in evaluated.items()]
    with pytest.raises(InputError) as refused:
        make(stages, results)

    message = str(refused.value)
    before = evaluated[stage][:16]
    now = hashes[stage][:16]
    assert f"pairs.en.json is of other weights ({before}) than {zoo / stage} has now ({now})" in message
    assert "evaluate it again with benchmarks/run_retrieval.py" in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_changed_weights_are_refused_even_if_another_stage_has_the_old_ones(zoo, hashes, make, tmp_path):
    # The folder `stage2` was evaluated when it held what `stage1` holds, and was trained again since.
    shutil.copytree(zoo / "released", tmp_path / "stage2")
    results = [
        retrieval("stage1", hashes["stage1"]),
        retrieval(tmp_path / "stage2", hashes["stage1"], 0.9),
    ]
    with pytest.raises(InputError, match="is of other weights .* than .*/stage2 has now"):
        make(["stage1", tmp_path / "stage2"], results)


def test_a_result_counts_whatever_its_folder_was_called(hashes, make, capsys):
    results = [
        retrieval("elsewhere/before-it-was-renamed", hashes["stage2"], 0.5),
        retrieval("laion/other", "e" * 64, 0.75),
    ]
    text, _ = make(["clip", "stage2"], results)
    assert entries_of(text) == {("pairs", "mean_recall", 0.5)}
    assert "75.0" not in text
    assert "Skipped 1 results of other models: other." in capsys.readouterr().out


def test_results_of_other_models_alone_are_refused(hashes, make, tmp_path):
    results = [retrieval("clip", hashes["clip"]), retrieval("org/other", "e" * 64)]
    match = "none of the 2 results is of the weights of stage2 .*leave results out"
    with pytest.raises(InputError, match=match):
        make(["clip", "stage2"], results)
    assert not (tmp_path / "out").exists()


def test_stages_of_equal_weights_keep_their_own_results(zoo, hashes, make, tmp_path):
    """Check that a result that names one of them belongs to it, and one that names none to both."""
    shutil.copytree(zoo / "stage1", tmp_path / "same")
    results = [
        retrieval("stage1", hashes["stage1"], 0.25),
        retrieval("same", hashes["stage1"], 0.5),
        retrieval("renamed", hashes["stage1"], 0.75, language="zh"),
    ]
    text, _ = make(["stage1", tmp_path / "same"], results)
    assert re.search(r"\| en +\| 25\.0 +\| 50\.0 +\|", text)
    assert re.search(r"\| zh +\| 75\.0 +\| 75\.0 +\|", text)


# Scripts of a user who has not installed this package: importing it fails.
BLOCKED = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        ours = ("modeling_altclip", "benchmarks", "common", "model_cards", "training", "altclip")
        if name.split(".")[0] in ours:
            raise ImportError(f"{name} is not for strangers")
sys.meta_path.insert(0, Blocker())
"""
LOADS = {
    "AutoModel": """
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
assert not [name for name, value in model.named_parameters() if value.isnan().any()]
""",
    "AutoProcessor": """
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = processor(text=["a dog", "a"], images=Image.new("RGB", (40, 30)), padding=True, return_tensors="pt")
assert inputs["pixel_values"].shape == (1, 3, 32, 32)
assert len(inputs["input_ids"]) == 2
""",
    "SentenceTransformer": """
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], trust_remote_code=True)
assert model.encode(["a dog", "a"]).shape == (2, 16)
assert model.encode([Image.new("RGB", (40, 30))]).shape == (1, 16)
""",
}


@pytest.fixture(scope="module")
def finished(zoo, tmp_path_factory):
    """Make the folders of two models with the command."""
    folder = tmp_path_factory.mktemp("finished")
    for stage in ("stage2", "dual"):
        arguments = CardArguments(
            title="T",
            repo="me/T",
            stages=[str(zoo / stage)],
            output_dir=str(folder / stage),
        )
        main(arguments)
    return folder


@pytest.mark.parametrize("stage", ["stage2", pytest.param("dual", marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", LOADS)
def test_the_folder_loads_where_our_package_is_not(finished, run_python, tmp_path, stage, reader):
    """Check a script that loads a copy of the folder, with nothing beside it that it was made from."""
    if reader == "SentenceTransformer":
        pytest.importorskip("sentence_transformers")
    folder = tmp_path / "downloaded"
    shutil.copytree(finished / stage, folder)
    script = tmp_path / "script.py"
    script.write_text(BLOCKED + LOADS[reader] + "print('modeling_altclip' in sys.modules)\n")

    # The repository is not on the path, nor the script's own folder, and no code is cached from before.
    environment = {
        "PYTHONPATH": "",
        "PYTHONSAFEPATH": "1",
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
    }
    process = run_python("python", script, folder, cwd=tmp_path, **environment)
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.split()[-1] == "False"


@pytest.mark.parametrize("stage", ["stage2", "dual"])
def test_every_file_that_the_json_names_is_there(finished, stage):
    named = set()
    for path in (finished / stage).glob("*.json"):
        content = path.read_text("utf-8")
        named |= set(re.findall(r'"(\w+)\.AltCLIP\w+"', content))  # "modeling_altclip.AltCLIPModel"
    of_model = "modeling_altclip_dual_encoder" if stage == "dual" else "modeling_altclip"
    assert named >= {"processing_altclip", of_model}
    for name in named:
        assert (finished / stage / f"{name}.py").is_file(), name


def states(folder):
    """Return the time and the content of each file of a folder, or None if there is no folder."""
    if not folder.exists():
        return None
    found = {}
    for path in folder.iterdir():
        if path.is_file():
            found[path.name] = (path.stat().st_mtime_ns, path.read_bytes())
    return found


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("fault", ["saving the processor", "drawing", "the card"])
def test_a_failure_leaves_no_half_of_a_folder(make, tmp_path, monkeypatch, fault, is_there):
    folder = tmp_path / "out"
    if is_there:
        make(["released"])
        (folder / "mine.txt").write_text("stays")
    before = states(folder)

    where = {
        "saving the processor": "modeling_altclip.processing_altclip.AltCLIPProcessor.save_pretrained",
        "drawing": "model_cards.plots.plot_losses",
        "the card": "model_cards.job.write_text",
    }[fault]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(InputError, match="the finished model could not be saved to .*: No space left"):
        make(["stage2"])

    assert states(folder) == before
    assert folder.exists() == is_there
    # Nothing is left of the temporary folder either.
    assert {path.name for path in tmp_path.iterdir()} <= {"out"}


def test_a_folder_made_anew_keeps_nothing_of_the_model_before(hashes, make, tmp_path):
    """Check that old shards, which would be loaded instead, are deleted, and other files are kept."""
    _, folder = make(["stage2"], [retrieval("stage2", hashes["stage2"])])
    model, _ = load_model(str(folder))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")  # several shards
    (folder / ".git").mkdir()
    (folder / "LICENSE").write_text("mine")

    make(["released"])
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    assert not list(folder.glob("*.png"))
    model, _ = load_model(str(folder))
    assert hash_weights(model) == hashes["released"]
    assert (folder / ".git").is_dir()
    assert (folder / "LICENSE").read_text() == "mine"


def record(folder, **settings):
    """Write a training's record."""
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"settings": settings, "machine": {}}))


def test_what_training_recorded_is_in_the_metadata(zoo, make, tmp_path):
    """Check a chain of records: only stage 2 is given, it names stage 1, and stage 1 names Hub ids."""
    for name in ("stage1", "stage2"):
        # Records are written into copies, since all tests share the zoo.
        shutil.copytree(zoo / name, tmp_path / name)
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    sources = "[{data: Helsinki-NLP/opus-100, name: de-en}, {data: pairs}, {data: pairs}]"
    (tmp_path / "sources.yaml").write_text(sources)

    towers = {
        "teacher_name_or_path": "openai/clip-vit-large-patch14",
        "text_encoder_name_or_path": "FacebookAI/xlm-roberta-large",
    }
    learned = {"dataset": str(tmp_path / "sources.yaml"), "languages": ["en", "zh"]}
    record(tmp_path / "stage1", **towers, model_name_or_path=None, **learned)
    # Next to model_name_or_path a teacher is only learned from: it is no base.
    before = {"model_name_or_path": str(tmp_path / "stage1"), "teacher_name_or_path": "org/only-held-against"}
    record(tmp_path / "stage2", **before, dataset="org/images", languages=["en", "zh", "zh-Hans"])

    text, _ = make([tmp_path / "stage2"])
    data = ModelCard(text).data
    assert data.base_model == list(towers.values())
    assert data.datasets == ["Helsinki-NLP/opus-100", "org/images"]
    assert data.dataset_licenses == {"pairs": "cc-by-4.0"}
    assert data.language == ["en", "zh"]
    assert "| stage1 | pairs |  |  | cc-by-4.0 |\n" in text
    assert "| stage2 | org/images |  |  | not stated |\n" in text
    assert "under unknown terms: Helsinki-NLP/opus-100 (licence not stated), org/images" in text
    assert "for 3 languages" in text
    assert str(tmp_path) not in text

    # Arguments override the record.
    arguments = {"base_model": ["me/clip"], "datasets": ["org/images=mit", "org/other"]}
    text, _ = make([tmp_path / "stage2"], **arguments)
    data = ModelCard(text).data
    assert data.base_model == ["me/clip"]
    assert data.datasets == ["org/images", "org/other"]
    assert data.dataset_licenses == {"org/images": "mit"}


def test_a_record_that_leads_back_to_itself_ends(zoo, make, tmp_path):
    """Check a model that was trained in the folder that it started from."""
    folder = tmp_path / "stage2"
    shutil.copytree(zoo / "stage2", folder)
    record(folder, model_name_or_path=str(folder), dataset="org/images")
    text, _ = make([folder])
    data = ModelCard(text).data
    assert data.datasets == ["org/images"]
    assert data.base_model is None


def test_a_lora_came_of_its_base(zoo, tmp_path):
    """Check a base on the Hub, and one in a folder whose record leads there."""
    folder = tmp_path / "stage2"
    shutil.copytree(zoo / "stage2", folder)
    record(folder, model_name_or_path="org/altclip", dataset="org/images")
    datasets_by_base = {"org/altclip": [], str(folder): ["org/images"]}
    for base, datasets in datasets_by_base.items():
        config = {"base_model_name_or_path": base}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        lineage = find_lineage([str(tmp_path)])
        assert lineage.base_model == ["org/altclip"]
        assert [origin.dataset for origin in lineage.origins if origin.dataset] == datasets


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"settings": 3}',
        "{}",
        "[" * 100_000,
        '{"settings": {"model_name_or_path": 5}}',
        '{"settings": {"teacher_name_or_path": {}}}',
        '{"settings": {"dataset": ["a"]}}',
        '{"settings": {"languages": "en"}}',
        '{"settings": {"languages": [1]}}',
        '{"settings": {"replay_languages": 3}}',
        '{"settings": {}, "excluded": {"tasks": "xtd", "rows": 1}}',
        '{"settings": {}, "excluded": {"tasks": ["xtd"]}}',
        '{"settings": {}, "excluded": ["xtd"]}',
    ],
)
def test_half_a_record_is_refused(zoo, make, tmp_path, content):
    shutil.copytree(zoo / "stage2", tmp_path / "stage2")
    (tmp_path / "stage2/run.json").write_text(content)
    with pytest.raises(InputError, match="run.json is not a training's record"):
        make([tmp_path / "stage2"])


@pytest.mark.parametrize(
    "front,message",
    [
        ("license: {a: 1}", r"has the license \{'a': 1\}: give a text"),
        ("license: no", "has the license False: give a text, in quotes"),
        ("license: [mit, 2]", "has the license .*: give a text"),
        ("license: !!python/object:os.system x", "cannot be read: could not determine a constructor"),
        ("\tlicense: mit", "cannot be read: while scanning"),
        ("- mit", "cannot be read: "),
    ],
)
def test_a_datasets_card_without_a_licence_in_words_is_refused_in_one_line(tmp_path, front, message):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/README.md").write_text(f"---\n{front}\n---\n")
    record(tmp_path / "stage", dataset=str(tmp_path / "pairs"))
    with pytest.raises(InputError, match=f"README.md of dataset .*pairs' {message}"):
        find_lineage([str(tmp_path / "stage")])


@pytest.fixture
def hub(zoo, tmp_path, monkeypatch):
    """Fill a cache of `huggingface_hub` with a CLIP, `org/clip`, and the card of a dataset, `org/images`."""
    for repository in ("models--org--clip", "datasets--org--images"):
        (tmp_path / repository / "refs").mkdir(parents=True)
        (tmp_path / repository / "refs/main").write_text(COMMIT)
    # The layout of the cache: refs/main names the commit, and snapshots/COMMIT has its files.
    shutil.copytree(zoo / "clip", tmp_path / "models--org--clip/snapshots" / COMMIT)
    card = tmp_path / "datasets--org--images/snapshots" / COMMIT / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("---\nlicense: [cc-by-4.0, mit]\n---\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def test_a_teacher_from_the_hub(zoo, hashes, make, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("results")
    retrieval("org/clip", hashes["clip"], 0.25, model_revision=COMMIT).save(folder)
    retrieval(zoo / "stage2", hashes["stage2"], 0.5).save(folder)
    arguments = CardArguments(
        title="T",
        repo="me/T",
        stages=["org/clip", str(zoo / "stage2")],
        results="results",
        output_dir="out",
        datasets=["org/images"],
    )
    main(arguments)

    card = ModelCard.load(Path("out/README.md"))
    assert re.search(r"\| language +\| org/clip \| stage2 +\|", card.text)
    assert re.search(r"\| en +\| 25\.0 +\| 50\.0 +\|", card.text)
    assert f"- org/clip: weights `{hashes['clip'][:16]}`, commit `{COMMIT[:8]}`" in card.text
    assert card.data.base_model == ["org/clip"]
    assert card.data.dataset_licenses == {"org/images": "cc-by-4.0, mit"}

    # A result of an older commit of the teacher.
    retrieval("org/clip", "f" * 64, task="others").save(folder)
    with pytest.raises(InputError, match="is of other weights .* than org/clip has now"):
        main(arguments)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"stages": []}, "stages is empty"),
        # One folder in two spellings.
        ({"stages": ["{zoo}/stage2", "{zoo}/clip/../stage2"]}, "stages names '.*' twice"),
        ({"stages": ["{zoo}/nowhere"]}, "stages '.*nowhere' does not exist"),
        ({"stages": ["{zoo}/bert", "{zoo}/stage2"]}, "stages '.*bert' is a model of the type 'bert'"),
        ({"stages": ["{zoo}/stage2", "open_clip:ViT-B-32/x"]}, "a model of open_clip is not saved here"),
        ({"results": "no/results"}, "results 'no/results' is no folder"),
        # The card would overwrite the stage.
        ({"output_dir": "{zoo}/stage1/../stage2"}, "is one of the stages as well, whose files would be"),
        ({"output_dir": "{zoo}/stage2/config.json"}, "is a file"),
        ({"dataset": "{data}"}, "give both for an example image, or neither"),
        ({"dataset": "{data}", "example_split": "nothing"}, "split 'nothing' cannot be loaded"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(zoo, pictures, tmp_path, change, message):
    def fill(text):
        """Replace "{zoo}" and "{data}" by the folders of this test."""
        return text.format(zoo=zoo, data=pictures)

    files_before = set(zoo.rglob("*"))
    given = {
        "title": "T",
        "repo": "me/T",
        "stages": ["{zoo}/stage2"],
        "output_dir": str(tmp_path / "out"),
    }
    for name, value in (given | change).items():
        if isinstance(value, list):
            given[name] = [fill(stage) for stage in value]
        else:
            given[name] = fill(value)

    with pytest.raises(InputError, match=message) as refused:
        main(CardArguments(**given))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    assert set(zoo.rglob("*")) == files_before


@pytest.fixture
def pictures(tmp_path):
    """Save a dataset of one image in CMYK, which PNG does not have."""
    image = Image.new("CMYK", (40, 30))
    rows = Dataset.from_dict({"image": [image]}, Features({"image": ImageFeature()}))
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows.to_parquet(folder / "test.parquet")
    return folder


def test_an_example_image(make, pictures):
    _, folder = make(["stage2"], dataset=str(pictures), example_split="test")
    assert Image.open(folder / "example.png").size == (40, 30)


@pytest.mark.parametrize(
    "log",
    [
        "{",
        "[]",
        '{"log_history": 3}',
        '{"log_history": "abc"}',
        '{"log_history": [1]}',
        '{"log_history": [{"loss": 1.0}]}',
        '{"log_history": [{"loss": 1.0, "step": "1"}]}',
        '{"log_history": [{"loss": "1.0", "step": 1}]}',
        '{"log_history": [{"loss": [1.0], "step": 1}]}',
        '{"log_history": [{"loss": 1%s, "step": 1}]}' % ("0" * 400),
        "[" * 100_000,
    ],
)
def test_half_a_log_is_refused_and_one_without_losses_is_skipped(zoo, make, tmp_path, log):
    stage = tmp_path / "stage"
    shutil.copytree(zoo / "released", stage)
    (stage / "trainer_state.json").write_text(log)
    with pytest.raises(InputError, match="is not a training's log"):
        make([stage])

    without_losses = {"log_history": [{"step": 1, "eval_mean_recall": 0.5}]}
    (stage / "trainer_state.json").write_text(json.dumps(without_losses))
    text, folder = make([stage])
    assert not (folder / "loss.png").exists()
    assert "loss.png" not in text


@pytest.mark.parametrize(
    "config,message",
    [
        ("{", "adapter_config.json that cannot be read"),
        ("[]", "adapter_config.json that cannot be read"),
        ("{}", "is a LoRA without a base"),
        ('{"base_model_name_or_path": "LORA"}', "names itself as its base"),
        ('{"base_model_name_or_path": "ZOO/bert"}', "is a model of the type 'bert'"),
        ('{"base_model_name_or_path": "ZOO/nowhere"}', "does not exist"),
    ],
)
def test_a_lora_that_cannot_be_loaded_is_refused_in_one_line(zoo, make, tmp_path, config, message):
    folder = tmp_path / "lora"
    shutil.copytree(zoo / "lora", folder)
    # `config` is no format string, since JSON has braces of its own.
    config = config.replace("ZOO", str(zoo))
    config = config.replace("LORA", str(folder))
    (folder / "adapter_config.json").write_text(config)
    with pytest.raises(InputError, match=message):
        make([folder])


def test_half_a_lora_is_refused(zoo, tmp_path):
    shutil.copytree(zoo / "lora", tmp_path / "lora")
    path = tmp_path / "lora/adapter_model.safetensors"
    weights = load_file(path)
    for name in list(weights)[:2]:  # the two matrices of one layer
        del weights[name]
    save_file(weights, path)
    with pytest.raises(InputError, match="does not fit its base .* not a whole adapter of AltCLIPModel"):
        load_model(str(tmp_path / "lora"))


def test_a_lora_is_evaluated_with_its_base(zoo):
    """Check that embeddings of the merged model equal those of peft's model, and differ from the base's."""
    base, processor = load_model(str(zoo / "stage2"))
    merged, _ = load_model(str(zoo / "lora"))
    inputs = processor(text=["a dog"], return_tensors="pt")
    with torch.no_grad():
        # Before the adapter, since peft puts it into the base itself.
        before = base.get_text_features(**inputs).pooler_output
        of_peft = PeftModel.from_pretrained(base, zoo / "lora").get_base_model()
        expected = of_peft.get_text_features(**inputs).pooler_output
        found = merged.get_text_features(**inputs).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    change = (expected - before).abs().max()
    assert change > 1e-4


def test_paths_say_nothing_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {
        f"{tmp_path}/outputs/data": "outputs/data",
        "/home/me/data": "data",
        "outputs/data": "outputs/data",
        "org/data": "org/data",
        "https://example.org/a/b": "https://example.org/a/b",
        "open_clip:/home/me/model": "open_clip:model",
        "m_clip:/home/me/text+/home/me/images": "m_clip:text+images",
        '{"data": "/home/me/data"}': '{"data": "data"}',
        "yes / no": "yes / no",
    }
    for word, expected in words.items():
        assert public_path(word) == expected

    command = public_command("run.py --models '/home/my own/model' --tasks=/x/t.yaml")
    assert command == "run.py --models model --tasks=t.yaml"


def test_labels_tell_stages_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = ["one/stage1", "two/stage1", "two/stage2"]
    for name in stages:
        (tmp_path / name).mkdir(parents=True)
    assert label_stages(stages) == ["one/stage1", "two/stage1", "stage2"]
    # "org/stage2" is no folder here, and so a Hub id, which stays whole.
    assert label_stages(["org/stage2", "two/stage2"]) == ["org/stage2", "stage2"]
    with pytest.raises(InputError, match="names 'org/clip' twice"):
        label_stages(["org/clip", "org/clip"])


@pytest.mark.parametrize("n_rows,shown", [(12, "xtd, coco (12 rows)"), (None, "xtd, coco.")])
def test_tests_that_were_removed_are_stated(tmp_path, n_rows, shown):
    """Of each stage that looked for them, and of no other."""
    record(tmp_path / "stage1", model_name_or_path=None)
    record(tmp_path / "stage2", model_name_or_path=str(tmp_path / "stage1"))
    assert find_lineage([str(tmp_path / "stage2")]).excluded == []
    written = {"settings": {}, "excluded": {"tasks": ["xtd", "coco"], "rows": n_rows}}
    (tmp_path / "stage1/run.json").write_text(json.dumps(written))

    lineage = find_lineage([str(tmp_path / "stage2")])
    card = render_card("A", "me/a", [], ["stage2"], "mit", "", Facts(lineage=lineage))
    sentence = f"Rows with captions or images of these tests were removed before training: stage1: {shown}"
    assert sentence in str(card)


def test_a_stage_that_is_given_and_recorded_by_two_paths_is_stated_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "stage2", model_name_or_path=str(tmp_path / "stage1"))
    (tmp_path / "stage1").mkdir()
    written = {"settings": {}, "sources": [{"name": "a"}], "excluded": {"tasks": ["xtd"], "rows": 1}}
    (tmp_path / "stage1/run.json").write_text(json.dumps(written))
    lineage = find_lineage(["stage1", "stage2"])
    assert lineage.excluded == ["stage1: xtd (1 rows)"]
    assert [(origin.stage, origin.name) for origin in lineage.origins] == [("stage1", "a")]
