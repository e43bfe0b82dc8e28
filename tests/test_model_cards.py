"""Model cards: of any number of stages, with the figures of their own weights alone, in folders that are whole."""

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

from benchmarks.encoder import hash_weights
from benchmarks.loading import load_model, save_model
from benchmarks.recipe import InputError
from benchmarks.results import Result
from model_cards.__main__ import CardArguments, main
from model_cards.card import render_card
from model_cards.paths import public_command, public_path
from model_cards.stages import find_origin, label_stages
from modeling_altclip import AltCLIPConfig, AltCLIPDualEncoderModel, AltCLIPModel, AltCLIPProcessor

SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**SIZE, "image_size": 32, "patch_size": 8}
LOG = {"log_history": [{"loss": 1.0, "step": 1}, {"loss": 0.9, "step": 2}], "max_steps": 2, "global_step": 2}
COMMIT = "4" * 40


@pytest.fixture(scope="module")
def processor():
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(piece, -3.0) for piece in "▁abcdefghijklmnopqrstuvwxyz"]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=[*special, *pieces, ("<mask>", 0.0)])
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return AltCLIPProcessor(images, tokenizer)


@pytest.fixture(scope="module")
def zoo(processor, tmp_path_factory):
    """A CLIP in the Hub's layout, a dual encoder, AltCLIPs of three stages of which the last two have a log, one that has none, and
    a LoRA upon the second."""
    folder = tmp_path_factory.mktemp("zoo")
    n_pieces = len(processor.tokenizer)
    torch.manual_seed(0)
    text = {**SIZE, "vocab_size": n_pieces, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    )
    save_model(
        clip, transformers.CLIPProcessor(processor.image_processor, processor.tokenizer), folder / "clip"
    )
    text = {
        **SIZE,
        "vocab_size": n_pieces,
        "max_position_embeddings": 80,
        "type_vocab_size": 1,
        "project_dim": 24,
    }
    for name in ("stage1", "stage2", "released"):
        config = AltCLIPConfig(text_config=dict(text), vision_config=dict(VISION), projection_dim=16)
        save_model(AltCLIPModel(config), processor, folder / name)
    for name in ("stage1", "stage2"):
        (folder / name / "trainer_state.json").write_text(json.dumps(LOG))
    transformers.ViTModel(transformers.ViTConfig(**VISION)).save_pretrained(folder / "vit")
    transformers.BertModel(transformers.BertConfig(**SIZE, vocab_size=n_pieces)).save_pretrained(
        folder / "bert"
    )
    dual = AltCLIPDualEncoderModel.from_towers(str(folder / "vit"), str(folder / "bert"), projection_dim=16)
    save_model(dual, processor, folder / "dual")
    learning = LoraConfig(target_modules=r"text_model.*\.(query|value)", r=2, init_lora_weights=False)
    get_peft_model(load_model(str(folder / "stage2"))[0], learning).save_pretrained(folder / "lora")
    return folder


@pytest.fixture(scope="module")
def hashes(zoo):
    return {
        name: hash_weights(load_model(str(zoo / name))[0])
        for name in ("clip", "stage1", "stage2", "released", "dual", "lora")
    }


def retrieval(model, weights, value=0.5, **more):
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 55.0, -0.1, None])
def test_a_figure_that_is_no_fraction_is_refused(value):
    for measured in (retrieval, zero_shot):
        result = measured("x/altclip", "0" * 64, value)
        with pytest.raises(
            InputError,
            match=f"a result of .* in en has the .* {value}, which is no fraction from 0 to 1: evaluate again",
        ):
            render_card("T", "me/T", [result], ["altclip"], "apache-2.0", "about")


@pytest.fixture
def make(zoo, tmp_path):
    """Make the card of stages of the zoo, or of others, from results; give its text and its folder."""

    def make(stages, measured=(), **more):
        for number, result in enumerate(measured):
            result.save(tmp_path / "results" / str(number))
        names = [str(zoo / stage) for stage in stages]  # a whole path stays as it is
        given = {"title": "T", "repo": "me/T", "stages": names, "output_dir": str(tmp_path / "out")}
        given |= {"results": str(tmp_path / "results")} if measured else {}
        main(CardArguments(**given | more))
        return (tmp_path / "out/README.md").read_text("utf-8"), tmp_path / "out"

    return make


def entries_of(card):
    """`{(task, metric with what sets it apart, value)}` of a card's model-index, as it stands there and as whoever loads and saves the
    card writes it.
    """
    found = []
    for text in (str(card), str(ModelCard(str(card)))):
        index = yaml.safe_load(text.split("---")[1]).get("model-index", [{"results": []}])
        rows = [(entry, metric) for entry in index[0]["results"] for metric in entry["metrics"]]
        found.append({(entry["dataset"]["name"], metric["name"], metric["value"]) for entry, metric in rows})
        assert (
            len(rows) == len({json.dumps(entry["dataset"]) for entry, _ in rows}) == len(index[0]["results"])
        )
    assert found[0] == found[1]
    return found[0]


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
    """From a CLIP in the Hub's layout on; the folder holds the very weights, and knows nothing of this machine."""
    results = [
        retrieval(zoo / stage, hashes[stage], value=0.1 * (1 + place)) for place, stage in enumerate(stages)
    ]
    results += [retrieval(zoo / stages[-1], hashes[stages[-1]], value=0.7, language="zh-Hans")]
    text, folder = make(stages, results)
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.language == ["en", "zh"]
    assert card.data.model_name == "T"
    assert entries_of(card) == {
        ("pairs", "mean_recall", round(0.1 * len(stages), 4)),
        ("pairs", "mean_recall", 0.7),
    }
    values = " +\\| ".join(f"{10 * (1 + place)}\\.0" for place in range(len(stages)))
    assert re.search(rf"\| en +\| {values} +\|", text)
    assert re.search(r"\| zh-Hans +\|( +\|)* 70\.0 +\|", text)
    assert all(hashes[stage][:16] in text for stage in stages)
    model, _ = load_model(str(folder))
    assert hash_weights(model) == hashes[stages[-1]]
    assert (folder / "recall.png").exists()
    assert (folder / "loss.png").exists() == ("stage2" in stages) == ("loss.png" in text)
    files = [path.read_text("utf-8") for path in folder.iterdir() if path.suffix in (".md", ".json", ".py")]
    assert not [text for text in files if str(zoo) in text or str(folder.parent) in text]
    assert ("trust_remote_code=True" in text) == (stages == ["dual"])


@pytest.mark.parametrize("kinds", [[], [retrieval], [zero_shot], [retrieval, zero_shot]])
def test_any_mixture_of_results(zoo, hashes, make, capsys, kinds):
    text, folder = make(["stage2"], [kind("stage2", hashes["stage2"]) for kind in kinds], plot_task="pairs")
    assert len(entries_of(text)) == len(kinds)
    assert ("Not measured yet" in text) == (not kinds)
    assert (folder / "recall.png").exists() == ("](recall.png)" in text) == (retrieval in kinds)
    assert ("No recall in pairs to plot" in capsys.readouterr().out) == (retrieval not in kinds)


def test_an_empty_folder_of_results_is_told(make, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    text, _ = make(["released"], results=str(tmp_path / "none"))
    assert "Not measured yet" in text
    assert f"No results lie below {tmp_path}/none" in capsys.readouterr().out


def test_intervals_stand_beside_their_figures(zoo, hashes, make):
    interval = {"accuracy@1": [0.4321, 0.5678]}
    results = [
        zero_shot("stage1", hashes["stage1"], 0.4),
        zero_shot("stage2", hashes["stage2"], 0.5, intervals=interval),
        zero_shot("stage2", hashes["stage2"], 0.6, language="zh"),
    ]
    text, _ = make(["stage1", "stage2"], results)
    header, _, english, chinese, means = re.findall(r"^\|.*\|$", text, re.M)
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in (header, english, chinese, means)
    ]
    assert cells == [
        ["language", "stage1", "stage2", "95 % of stage2"],
        ["en", "40.0", "50.0", "43.2 to 56.8"],
        ["zh", "", "60.0", ""],
        ["mean", "", "55.0", ""],  # of stage1 there is none in every language
    ]
    (entry,) = [entry for entry in ModelCard(text).data.eval_results if entry.dataset_config == "en"]
    assert entry.metric_args == {"confidence_interval_95": [0.4321, 0.5678]}


def test_a_mean_is_of_the_same_images(hashes, make):
    results = [
        retrieval("stage2", hashes["stage2"], 0.5, images="a"),
        retrieval("stage2", hashes["stage2"], 0.6, language="zh", images="b"),
    ]
    text, _ = make(["stage2"], results)
    remark = "No mean over languages that have different images."
    assert re.search(rf"\| mean +\| +\|\n\n{remark}\n", text)
    text, _ = make(["stage2"], [dataclasses.replace(result, images="a") for result in results])
    assert re.search(r"\| mean +\| 55.0 +\|\n", text)
    assert remark not in text


SIBLINGS = {
    "name": [{}, {"task": "pairs-euclidean"}],
    "templates": [{"templates": "ours"}, {"templates": "clip_benchmark"}, {"templates": ["{}", "a {}"]}, {}],
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
    """huggingface_hub takes entries for one that differ in their dataset's name alone (huggingface_hub#4975)."""
    results = [
        of_kind("x/altclip", "0" * 64, value=0.1 * (1 + number), **one)
        for number, one in enumerate(differing)
    ]
    results += [of_kind("x/altclip", "0" * 64, value=0.9, language="zh", **differing[0])]
    card = render_card("T", "me/T", results, ["altclip"], "apache-2.0", "about")
    values = [round(0.1 * (1 + number), 4) for number in range(len(differing))] + [0.9]
    found = entries_of(card)
    assert {(task, value) for task, _, value in found} == set(
        zip([result.task for result in results], values)
    )
    said = {(task, metric.partition(", ")[2]) for task, metric, _ in found}
    assert (
        len(said) == len(differing) == card.text.count("### ")
    )  # English and Chinese of one kind share a table
    assert all("### " + ", ".join(filter(None, words)) + ", " in card.text for words in said)
    assert "/secret" not in str(card)


def test_stages_stand_in_one_table_where_they_were_asked_alike(hashes, make, capsys):
    """A teacher's figure of all images stands beside no figure of the first hundred."""
    results = [retrieval("clip", hashes["clip"], 0.25), retrieval("stage2", hashes["stage2"], 0.5, limit=100)]
    text, _ = make(["clip", "stage2"], results)
    assert re.search(r"\| en +\| 50\.0 \(first 100\) +\|", text)
    assert "### pairs, first 100, " in text
    assert "25.0" not in text
    assert (
        "Left out 1 results that are there twice, or that the model itself has none of"
        in capsys.readouterr().out
    )
    (entry,) = ModelCard(text).data.eval_results
    assert entry.dataset_args == {"limit": 100}
    assert entry.metric_name == "mean_recall, first 100"


@pytest.mark.parametrize("what", ["prompts", "data", "images", "n_rows"])
def test_figures_of_other_questions_stand_in_no_row(what):
    """The teacher was asked about other images, or in other words, in one of two languages."""
    results = []
    for language, alike in (("en", False), ("zh", True)):
        results.append(retrieval("x/teacher", "1" * 64, 0.25, language=language, **{what: "3"}))
        results.append(retrieval("x/mine", "2" * 64, 0.5, language=language, **{what: "3" if alike else "4"}))
    card = render_card("T", "me/T", results, ["teacher", "mine"], "apache-2.0", "about").text
    rows = re.findall(r"^\| (en|zh) +\|(.*)\|$", card, re.M)
    assert [(language, re.findall(r"\d\d\.0", cells)) for language, cells in rows] == [
        ("zh", ["25.0", "50.0"]),
        ("en", ["50.0"]),
    ]


def test_the_same_figure_twice_is_one_and_another_is_refused(hashes, make):
    one = retrieval("stage2", hashes["stage2"])
    text, _ = make(["stage2"], [one, one])
    assert text.count("### pairs") == 1
    assert entries_of(text) == {("pairs", "mean_recall", 0.5)}
    with pytest.raises(
        InputError, match="are of the same weights, task and language, and differ: delete one"
    ):
        make(["stage2"], [one, retrieval("stage2", hashes["stage2"], 0.6)])


@pytest.mark.parametrize(
    "stages", [["stage2"], ["clip", "stage2"], ["clip", "stage1", "stage2"], ["stage2", "lora"]]
)
@pytest.mark.parametrize("wrong", [0, -1])
def test_figures_of_other_weights_are_refused(zoo, hashes, make, tmp_path, stages, wrong):
    """The first and the last stage in turn have other weights than when they were measured; with two the first is another teacher.
    A LoRA was measured as what its base is.
    """
    of_stage = {stage: hashes[stage] for stage in stages} | {
        stages[wrong]: hashes["stage2"] if stages[wrong] == "lora" else "f" * 64
    }
    with pytest.raises(InputError) as refused:
        make(stages, [retrieval(zoo / stage, weights) for stage, weights in of_stage.items()])
    said, stage = str(refused.value), stages[wrong]
    assert (
        f"pairs.en.json is of other weights ({of_stage[stage][:16]}) than {zoo / stage} has now ({hashes[stage][:16]})"
        in said
    )
    assert "evaluate it again with benchmarks/run_retrieval.py" in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_weights_that_changed_are_refused_where_another_stage_has_the_old_ones(zoo, hashes, make, tmp_path):
    shutil.copytree(zoo / "released", tmp_path / "stage2")
    results = [retrieval("stage1", hashes["stage1"]), retrieval(tmp_path / "stage2", hashes["stage1"], 0.9)]
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
    assert "Left out 1 results of other models: other." in capsys.readouterr().out


def test_results_of_other_models_alone_are_refused(hashes, make, tmp_path):
    with pytest.raises(
        InputError, match="none of the 2 results is of the weights of stage2 .*leave results out"
    ):
        make(["clip", "stage2"], [retrieval("clip", hashes["clip"]), retrieval("org/other", "e" * 64)])
    assert not (tmp_path / "out").exists()


def test_stages_of_equal_weights_keep_their_own_figures(zoo, hashes, make, tmp_path):
    """As after a stage of no steps: what names one of them is its own, what names none is of both."""
    shutil.copytree(zoo / "stage1", tmp_path / "same")
    results = [retrieval("stage1", hashes["stage1"], 0.25), retrieval("same", hashes["stage1"], 0.5)]
    results += [retrieval("renamed", hashes["stage1"], 0.75, language="zh")]
    text, _ = make(["stage1", tmp_path / "same"], results)
    assert re.search(r"\| en +\| 25\.0 +\| 50\.0 +\|", text)
    assert re.search(r"\| zh +\| 75\.0 +\| 75\.0 +\|", text)


BLOCKED = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_altclip", "benchmarks", "model_cards", "training", "altclip"):
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
assert inputs["pixel_values"].shape == (1, 3, 32, 32) and len(inputs["input_ids"]) == 2
""",
    "SentenceTransformer": """
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], trust_remote_code=True)
assert model.encode(["a dog", "a"]).shape == (2, 16) and model.encode([Image.new("RGB", (40, 30))]).shape == (1, 16)
""",
}


@pytest.fixture(scope="module")
def finished(zoo, tmp_path_factory):
    """Folders as the command makes them."""
    folder = tmp_path_factory.mktemp("finished")
    for stage in ("stage2", "dual"):
        main(CardArguments(title="T", repo="me/T", stages=[str(zoo / stage)], output_dir=str(folder / stage)))
    return folder


@pytest.mark.parametrize("stage", ["stage2", "dual"])
@pytest.mark.parametrize("how", LOADS)
def test_the_folder_loads_where_our_package_is_not(finished, run, tmp_path, stage, how):
    """It is moved, so that nothing it was made of is beside it."""
    if how == "SentenceTransformer":
        pytest.importorskip("sentence_transformers")
    shutil.copytree(finished / stage, tmp_path / "downloaded")
    (tmp_path / "script.py").write_text(BLOCKED + LOADS[how] + "print('modeling_altclip' in sys.modules)\n")
    surroundings = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    process = run("python", tmp_path / "script.py", tmp_path / "downloaded", cwd=tmp_path, **surroundings)
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.split()[-1] == "False"


@pytest.mark.parametrize("stage", ["stage2", "dual"])
def test_every_file_that_the_json_names_is_there(finished, stage):
    named = set()
    for path in (finished / stage).glob("*.json"):
        named |= set(re.findall(r'"(\w+)\.AltCLIP\w+"', path.read_text("utf-8")))
    assert named >= {
        "processing_altclip",
        "modeling_altclip_dual_encoder" if stage == "dual" else "modeling_altclip",
    }
    assert all((finished / stage / f"{name}.py").is_file() for name in named)


def states(folder):
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir() if path.is_file()
    }


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("fault", ["saving the processor", "drawing", "the card"])
def test_a_failure_leaves_no_half_of_a_folder(make, tmp_path, monkeypatch, fault, is_there):
    if is_there:
        make(["released"])
        (tmp_path / "out/mine.txt").write_text("stays")
    before = states(tmp_path / "out") if is_there else None
    where = {
        "saving the processor": "modeling_altclip.processing_altclip.AltCLIPProcessor.save_pretrained",
        "drawing": "model_cards.plots.plot_losses",
        "the card": "huggingface_hub.ModelCard.save",
    }[fault]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(OSError, match="No space left"):
        make(["stage2"])
    assert (states(tmp_path / "out") if is_there else None) == before
    assert (tmp_path / "out").exists() == is_there
    assert {path.name for path in tmp_path.iterdir()} <= {"out"}


def test_a_folder_made_anew_keeps_nothing_of_the_model_before(hashes, make, tmp_path):
    """Old shards would be loaded in its place; what no card makes stays."""
    make(["stage2"], [retrieval("stage2", hashes["stage2"])])
    model, processor = load_model(str(tmp_path / "out"))
    (tmp_path / "out/model.safetensors").unlink()
    model.save_pretrained(tmp_path / "out", max_shard_size="20KB")
    (tmp_path / "out/.git").mkdir()
    (tmp_path / "out/LICENSE").write_text("mine")
    _, folder = make(["released"])
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    assert not list(folder.glob("*.png"))
    assert hash_weights(load_model(str(folder))[0]) == hashes["released"]
    assert (folder / ".git").is_dir()
    assert (folder / "LICENSE").read_text() == "mine"


def record(folder, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"settings": settings, "machine": {}}))


def test_what_training_recorded_is_in_the_metadata(zoo, make, tmp_path):
    """The last stage alone is named: the record leads to the stage before it, and that to the Hub."""
    for name in ("stage1", "stage2"):
        shutil.copytree(zoo / name, tmp_path / name)
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    (tmp_path / "sources.yaml").write_text(
        "[{data: Helsinki-NLP/opus-100, name: de-en}, {data: pairs}, {data: pairs}]"
    )
    towers = {
        "teacher_name_or_path": "openai/clip-vit-large-patch14",
        "text_encoder_name_or_path": "FacebookAI/xlm-roberta-large",
    }
    record(
        tmp_path / "stage1",
        **towers,
        model_name_or_path=None,
        dataset=str(tmp_path / "sources.yaml"),
        languages=["en", "zh"],
    )
    before = {"model_name_or_path": str(tmp_path / "stage1"), "teacher_name_or_path": "org/only-held-against"}
    record(tmp_path / "stage2", **before, dataset="org/images", languages=["en", "zh", "zh-Hans"])
    text, _ = make([tmp_path / "stage2"])
    data = ModelCard(text).data
    assert data.base_model == list(towers.values())
    assert data.datasets == [
        "Helsinki-NLP/opus-100",
        "org/images",
    ]
    assert data.dataset_licenses == {"pairs": "cc-by-4.0"}
    assert data.language == ["en", "zh"]
    assert "- pairs (licence: cc-by-4.0)\n- org/images (licence not known)\n" in text
    assert "reads 3 languages" in text
    assert str(tmp_path) not in text
    text, _ = make([tmp_path / "stage2"], base_model=["me/clip"], datasets=["org/images=mit", "org/other"])
    data = ModelCard(text).data
    assert (data.base_model, data.datasets, data.dataset_licenses) == (
        ["me/clip"],
        ["org/images", "org/other"],
        {"org/images": "mit"},
    )


def test_a_record_that_leads_back_to_itself_ends(zoo, make, tmp_path):
    """As of a model that was trained in the folder it began in."""
    shutil.copytree(zoo / "stage2", tmp_path / "stage2")
    record(tmp_path / "stage2", model_name_or_path=str(tmp_path / "stage2"), dataset="org/images")
    text, _ = make([tmp_path / "stage2"])
    assert ModelCard(text).data.datasets == ["org/images"]
    assert ModelCard(text).data.base_model is None


def test_a_lora_came_of_its_base(zoo, tmp_path):
    """From the Hub, or from a folder whose record leads there."""
    shutil.copytree(zoo / "stage2", tmp_path / "stage2")
    record(tmp_path / "stage2", model_name_or_path="org/altclip", dataset="org/images")
    for base, datasets in (("org/altclip", []), (str(tmp_path / "stage2"), ["org/images"])):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        origin = find_origin([str(tmp_path)])
        assert origin.base_model == ["org/altclip"]
        assert origin.hub_datasets == datasets


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": 3}', "{}"])
def test_half_a_record_is_refused(zoo, make, tmp_path, content):
    shutil.copytree(zoo / "stage2", tmp_path / "stage2")
    (tmp_path / "stage2/run.json").write_text(content)
    with pytest.raises(InputError, match="run.json is not a training's record"):
        make([tmp_path / "stage2"])


@pytest.fixture
def hub(zoo, tmp_path, monkeypatch):
    """The cache as `huggingface_hub` lays it out, with a CLIP, `org/clip`, and the card of a dataset, `org/images`."""
    for repository in ("models--org--clip", "datasets--org--images"):
        (tmp_path / repository / "refs").mkdir(parents=True)
        (tmp_path / repository / "refs/main").write_text(COMMIT)
    shutil.copytree(zoo / "clip", tmp_path / "models--org--clip/snapshots" / COMMIT)
    card = tmp_path / "datasets--org--images/snapshots" / COMMIT / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("---\nlicense: [cc-by-4.0, mit]\n---\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def test_a_teacher_from_the_hub(zoo, hashes, make, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher = retrieval("org/clip", hashes["clip"], 0.25, model_revision=COMMIT)
    arguments = CardArguments(
        title="T",
        repo="me/T",
        stages=["org/clip", str(zoo / "stage2")],
        results="results",
        output_dir="out",
        datasets=["org/images"],
    )
    retrieval(zoo / "stage2", hashes["stage2"], 0.5).save(Path("results"))
    teacher.save(Path("results"))
    main(arguments)
    card = ModelCard.load(Path("out/README.md"))
    assert re.search(r"\| language +\| org/clip \| stage2 +\|", card.text)
    assert re.search(r"\| en +\| 25\.0 +\| 50\.0 +\|", card.text)
    assert f"- org/clip: weights `{hashes['clip'][:16]}`, commit `{COMMIT[:8]}`" in card.text
    assert card.data.base_model == ["org/clip"]
    assert card.data.dataset_licenses == {"org/images": "cc-by-4.0, mit"}
    retrieval("org/clip", "f" * 64, task="others").save(Path("results"))
    with pytest.raises(InputError, match="is of other weights .* than org/clip has now"):
        main(arguments)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"stages": []}, "stages is empty"),
        ({"stages": ["{zoo}/stage2", "{zoo}/clip/../stage2"]}, "stages names '.*' twice"),
        ({"stages": ["{zoo}/nowhere"]}, "stages '.*nowhere' does not exist"),
        ({"stages": ["{zoo}/bert", "{zoo}/stage2"]}, "stages '.*bert' is a model of the type 'bert'"),
        ({"stages": ["{zoo}/stage2", "open_clip:ViT-B-32/x"]}, "a model of open_clip is not saved here"),
        ({"results": "no/results"}, "results 'no/results' is no folder"),
        ({"output_dir": "{zoo}/stage1/../stage2"}, "is one of the stages: give another folder"),
        ({"output_dir": "{zoo}/stage2/config.json"}, "is a file"),
        ({"dataset": "{data}"}, "give both for an example image, or neither"),
        ({"dataset": "{data}", "example_split": "nothing"}, "split 'nothing' cannot be loaded"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(zoo, pictures, tmp_path, change, message):
    def filled(value):
        return (
            [filled(one) for one in value]
            if isinstance(value, list)
            else value.format(zoo=zoo, data=pictures)
        )

    there = set(zoo.rglob("*"))
    given = {
        "title": "T",
        "repo": "me/T",
        "stages": ["{zoo}/stage2"],
        "output_dir": str(tmp_path / "out"),
    } | change
    with pytest.raises(InputError, match=message) as refused:
        main(CardArguments(**{name: filled(value) for name, value in given.items()}))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    assert set(zoo.rglob("*")) == there


@pytest.fixture
def pictures(tmp_path):
    """A dataset of one image in CMYK, which PNG does not know."""
    rows = Dataset.from_dict({"image": [Image.new("CMYK", (40, 30))]}, Features({"image": ImageFeature()}))
    (tmp_path / "pictures").mkdir()
    rows.to_parquet(tmp_path / "pictures/test.parquet")
    return tmp_path / "pictures"


def test_an_example_image(make, pictures):
    _, folder = make(["stage2"], dataset=str(pictures), example_split="test")
    assert Image.open(folder / "example.png").size == (40, 30)


@pytest.mark.parametrize("log", ["{", "[]", '{"log_history": 3}'])
def test_half_a_log_is_refused_and_one_without_losses_is_passed_over(zoo, make, tmp_path, log):
    shutil.copytree(zoo / "released", tmp_path / "stage")
    (tmp_path / "stage/trainer_state.json").write_text(log)
    with pytest.raises(InputError, match="is not a training's log"):
        make([tmp_path / "stage"])
    (tmp_path / "stage/trainer_state.json").write_text(
        '{"log_history": [{"step": 1, "eval_mean_recall": 0.5}]}'
    )
    text, folder = make([tmp_path / "stage"])
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
    shutil.copytree(zoo / "lora", tmp_path / "lora")
    (tmp_path / "lora/adapter_config.json").write_text(
        config.replace("ZOO", str(zoo)).replace("LORA", str(tmp_path / "lora"))
    )
    with pytest.raises(InputError, match=message):
        make([tmp_path / "lora"])


def test_half_a_lora_is_refused(zoo, tmp_path):
    shutil.copytree(zoo / "lora", tmp_path / "lora")
    weights = load_file(tmp_path / "lora/adapter_model.safetensors")
    save_file(dict(list(weights.items())[2:]), tmp_path / "lora/adapter_model.safetensors")
    with pytest.raises(InputError, match="does not fit its base .* not a whole adapter of AltCLIPModel"):
        load_model(str(tmp_path / "lora"))


def test_a_lora_is_evaluated_with_its_base(zoo):
    """The merged model gives what peft's own gives, and not what the base gives."""
    base, processor = load_model(str(zoo / "stage2"))
    merged, _ = load_model(str(zoo / "lora"))
    inputs = processor(text=["a dog"], return_tensors="pt")
    with torch.no_grad():
        before = base.get_text_features(**inputs).pooler_output
        expected = (
            PeftModel.from_pretrained(base, zoo / "lora")
            .get_base_model()
            .get_text_features(**inputs)
            .pooler_output
        )
        torch.testing.assert_close(
            merged.get_text_features(**inputs).pooler_output, expected, atol=1e-5, rtol=1e-5
        )
    assert (expected - before).abs().max() > 1e-4


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
    assert {word: public_path(word) for word in words} == words
    assert (
        public_command("run.py --models '/home/my own/model' --tasks=/x/t.yaml")
        == "run.py --models model --tasks=t.yaml"
    )


def test_labels_tell_stages_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one/stage1", "two/stage1", "two/stage2"):
        (tmp_path / name).mkdir(parents=True)
    assert label_stages(["one/stage1", "two/stage1", "two/stage2"]) == ["one/stage1", "two/stage1", "stage2"]
    assert label_stages(["org/stage2", "two/stage2"]) == ["org/stage2", "stage2"]
    with pytest.raises(InputError, match="names 'org/clip' twice"):
        label_stages(["org/clip", "org/clip"])
