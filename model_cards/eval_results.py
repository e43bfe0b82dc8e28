"""Results on mteb's tasks in the Hub's form, `.eval_results/TASK.yaml`, under the ids that mteb gives them.

The Hub shows such entries beside those of other models, so that only what mteb itself would measure is
written: its main score, of all images and texts of its own data at its revision. mteb compares embeddings by
the same cosine. Where images tie, ours counts them as ahead, and mteb sorts them by their ids.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean

from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from benchmarks.outcomes import NDCG
from benchmarks.results import Result
from common.files.whole_files import write_text
from common.files.yaml_files import read_yaml

FOLDER = ".eval_results"
_TASKS = Path(__file__).parent / "mteb.yaml"
_DECIMALS = 5  # of a percentage, as mteb writes it


@dataclass(frozen=True)
class _MtebTask:
    """A task of mteb that finds images by texts.

    Attributes:
        subsets: `{language: [images, texts]}`.
    """

    dataset: str
    revision: str
    split: str
    subsets: dict[str, list[int]]

    def measured_by(self, result: Result) -> bool:
        """Return whether a result has this task's main score: of all of its data, and of nothing else."""
        if (result.dataset, result.revision) != (self.dataset, self.revision):
            return False
        is_whole = result.limit is None and result.truncate_dim is None
        counts = [result.metrics.get("n"), result.metrics.get("n_texts")]
        return is_whole and NDCG in result.metrics and counts == self.subsets.get(result.language)


@cache
def mteb_tasks() -> dict[str, _MtebTask]:
    """Return mteb's tasks by their ids."""
    tasks = read_yaml(_TASKS, "file")
    return {name: _MtebTask(**fields) for name, fields in tasks.items()}


def write_eval_results(folder: Path, results: Iterable[Result]) -> list[str]:
    """Write one file for each task of mteb that was measured; none where none was.

    Args:
        results: of the model that is in the folder.

    Returns:
        The ids of these tasks.
    """
    results = list(results)
    written = []
    for name, task in mteb_tasks().items():
        by_subset = {result.language: result for result in results if task.measured_by(result)}
        if by_subset:
            entries = _entries(name, task, by_subset)
            content = yaml_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
            (folder / FOLDER).mkdir(exist_ok=True)
            write_text(folder / FOLDER / f"{name}.yaml", content)
            written.append(name)
    return written


def _entries(name: str, task: _MtebTask, by_subset: dict[str, Result]) -> list[EvalResultEntry]:
    """Return the entries of each subset and, where all of them were measured, of the whole task."""
    entries = []
    for subset, result in by_subset.items():
        id_of_subset = f"{name}_{subset}_{task.split}"
        entries.append(_entry(id_of_subset, task, result.metrics[NDCG], result))
    if by_subset.keys() == task.subsets.keys():
        scores = [result.metrics[NDCG] for result in by_subset.values()]
        entries.append(_entry(name, task, mean(scores), result))
    return entries


def _entry(task_id: str, task: _MtebTask, score: float, result: Result) -> EvalResultEntry:
    """Return a score as an entry, in percent."""
    versions = [f"{package} {version}" for package, version in result.versions.items()]
    return EvalResultEntry(
        dataset_id=task.dataset,
        task_id=task_id,
        value=round(100 * score, _DECIMALS),
        dataset_revision=task.revision,
        notes=f"nDCG@10, measured by altclip and not by mteb; {', '.join(versions)}",
    )


__all__ = ["FOLDER", "mteb_tasks", "write_eval_results"]
