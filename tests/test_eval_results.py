"""Results on mteb's tasks in the Hub's form: under mteb's ids, and only where mteb would measure the same."""

import json
from dataclasses import replace
from pathlib import Path

import mteb
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from mteb._hf_integration.eval_result_model import HFEvalResults

from benchmarks.outcomes import NDCG
from benchmarks.results import Result
from benchmarks.tasks.loading import all_task_names, load_task
from model_cards.eval_results import mteb_tasks, write_eval_results

WIT = "WITT2IRetrieval"


def result_of(task, language, score=0.5):
    """Return a result of all images and texts of a task of mteb in one language."""
    found = mteb_tasks()[task]
    n, n_texts = found.subsets[language]
    return Result(
        model="altclip",
        weights="0" * 64,
        task="of-mteb",
        kind="retrieval",
        language=language,
        metric="mean_recall",
        metrics={"n": n, "n_texts": n_texts, "mean_recall": 0.1, NDCG: score},
        dataset=found.dataset,
        revision=found.revision,
        split="en",
        command="altclip evaluate",
        versions={"torch": "2.13.0"},
    )


def written(folder, task=WIT):
    """Return the entries of a task's file, as huggingface_hub reads them."""
    content = yaml.safe_load((folder / f".eval_results/{task}.yaml").read_text("utf-8"))
    HFEvalResults.model_validate(content)  # mteb's own form
    return parse_eval_result_entries(content)


@pytest.mark.parametrize("task", mteb_tasks())
def test_what_is_known_of_mteb_is_what_it_says(task):
    """Its installed release has these data at this revision, and so many images and texts."""
    ours = mteb_tasks()[task]
    metadata = mteb.get_task(task).metadata
    assert metadata.dataset["path"] == ours.dataset
    assert metadata.dataset["revision"] == ours.revision
    assert metadata.main_score == NDCG.replace("text_to_image_ndcg@", "ndcg_at_")
    assert metadata.eval_splits == [ours.split]
    statistics = json.loads(Path(metadata.descriptive_stat_path).read_text())
    by_subset = statistics[ours.split]["hf_subset_descriptive_stats"]
    counts = {name: [found["num_documents"], found["num_queries"]] for name, found in by_subset.items()}
    assert counts == ours.subsets


def test_tasks_of_ours_read_what_mteb_reads():
    """WIT in el and id has blank captions, by which mteb asks too."""
    differing = []
    for name in all_task_names():
        task = load_task(name)
        for of_mteb in set(task.mteb) & mteb_tasks().keys():
            for language, counts in mteb_tasks()[of_mteb].subsets.items():
                if [task.images_of(language), task.n_texts[language]] != counts:
                    differing.append((name, language))
    assert sorted(differing) == [("wit", "el"), ("wit", "id")]


def test_entries_are_those_of_mteb(tmp_path):
    results = [result_of(WIT, "tr", 0.123456789), result_of(WIT, "vi")]
    assert write_eval_results(tmp_path, results) == [WIT]
    first, second = written(tmp_path)
    assert (first.dataset_id, first.dataset_revision) == ("mteb/wit", mteb_tasks()[WIT].revision)
    assert (first.task_id, first.value) == ("WITT2IRetrieval_tr_test", 12.34568)  # percent
    assert (second.task_id, second.value) == ("WITT2IRetrieval_vi_test", 50.0)
    assert first.notes == "nDCG@10, measured by altclip and not by mteb; torch 2.13.0"


def test_the_task_itself_has_a_score_where_all_subsets_were_measured(tmp_path):
    task = "XFlickr30kCoT2IRetrieval"
    languages = list(mteb_tasks()[task].subsets)
    results = [result_of(task, language, place / 10) for place, language in enumerate(languages)]
    write_eval_results(tmp_path, results[:-1])
    assert len(written(tmp_path, task)) == 7
    write_eval_results(tmp_path, results)
    entries = written(tmp_path, task)
    assert len(entries) == 9
    assert (entries[-1].task_id, entries[-1].value) == (task, 35.0)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "me/wit"},
        {"revision": "1" * 40},
        {"revision": None},
        {"limit": 681},
        {"truncate_dim": 128},
        {"language": "vi"},  # of which mteb has other numbers
        {"metrics": {"n": 681, "n_texts": 720, NDCG: 0.5}},
        {"metrics": {"n": 680, "n_texts": 721, NDCG: 0.5}},
        {"metrics": {"n": 681, "n_texts": 721, "mean_recall": 0.5}},
    ],
)
def test_what_mteb_would_not_measure_is_not_written(tmp_path, change):
    assert write_eval_results(tmp_path, [replace(result_of(WIT, "tr"), **change)]) == []
    assert list(tmp_path.iterdir()) == []
