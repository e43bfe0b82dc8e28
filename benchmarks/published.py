"""What the papers printed and others measured again, beside what we measure."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from .comparison import Number, is_rank
from .means import MEANS
from .recipe import read_yaml
from .task import Task, all_task_names, load_task

PAPER_RESULTS = Path(__file__).parent / "paper_results.yaml"


@dataclass(frozen=True)
class Published:
    """One number that somebody printed. `value` and `rounding`, half a unit of its last digit, are fractions, or ranks."""

    model: str
    task: str
    language: str
    metric: str
    value: float
    rounding: float
    source: str
    kind: str
    place: str

    @property
    def where(self) -> str:
        return f"{self.source}, {self.place}"


@dataclass(frozen=True)
class Difference:
    """One of our numbers beside those that were printed for the same model, task, language and metric.

    `difference` is ours less `paper[0]`, or less `again[0]` where the paper has none. `within` says whether that printed number lies
    in our 95 % interval widened by its rounding; None where that cannot be judged, for the `reason`. `split_differs` is how the task's
    images are not the paper's.
    """

    number: Number
    paper: list[Published]
    again: list[Published]
    difference: float
    within: bool | None
    reason: str = ""
    split_differs: str | None = None


def load_published(path: Path = PAPER_RESULTS) -> list[Published]:
    """Read all printed numbers, each model under its Hub id where the file knows one."""
    content = read_yaml(path, "file")
    return [number for table in content["tables"] for number in _read_table(table, content)]


def load_sources(differences: list[Difference], path: Path = PAPER_RESULTS) -> dict[str, str]:
    """What each source tag stands for, of those that the differences name."""
    sources = read_yaml(path, "file")["sources"]
    named = {one.source for difference in differences for one in difference.paper + difference.again}
    return {tag: source["title"] for tag, source in sources.items() if tag in named}


def compare_with_published(
    numbers: list[Number], published: list[Published], paper_model: str | None = None
) -> list[Difference]:
    """Hold every number against what was printed, model by model and metric by metric; those without a counterpart are left out. Means
    over languages are: those in print are over other languages, each of which has images of its own.

    Of an adapter's model, `m_clip:TEXT+IMAGES`, the numbers are those printed for `TEXT`. A number of other images than the task's,
    as `limit` leaves them, is not judged; one of all of them is, though a language may have the task's own names for a part of the
    classes, and so of the images.

    Args:
        paper_model: the Hub id, or the paper's name where it has none, of the model that all of ours are held against, such as
            `BAAI/AltCLIP` for one that was trained anew; each is held against itself by default.
    """
    differences = []
    for number in numbers:
        if number.language in MEANS:
            continue
        key = (_printed_name(paper_model or number.model), number.task, number.language, number.metric)
        found = [one for one in published if (one.model, one.task, one.language, one.metric) == key]
        if found:
            paper, again = ([one for one in found if one.kind == kind] for kind in ("paper", "re-evaluation"))
            reference = (paper + again)[0]
            low, high = number.interval or (number.value, number.value)
            within = low - reference.rounding <= reference.value <= high + reference.rounding
            task = load_task(number.task) if number.task in all_task_names() else None
            reason = _why_not_judged(number, task)
            judged = None if reason else within
            split_differs = task.split_differs if task else None
            differences.append(
                Difference(
                    number, paper, again, number.value - reference.value, judged, reason, split_differs
                )
            )
    return sorted(differences, key=lambda difference: (difference.number.model, difference.number.metric))


def _printed_name(model: str) -> str:
    """`m_clip:M-CLIP/XLM-Roberta-Large-Vit-L-14+openai/clip-vit-large-patch14` is printed as its text tower."""
    return model.partition(":")[2].partition("+")[0] if ":" in model else model


def _why_not_judged(number: Number, task: Task | None) -> str:
    if task is None or task.n_images is None or number.n == task.n_images:
        return ""
    names, result = task.class_names, number.result
    if names and result and result.n_rows == task.n_images and result.definition.get("class_names") == names:
        return ""
    return f"n {number.n:,} of {task.n_images:,}"


def _read_table(table: dict, content: dict) -> Iterator[Published]:
    """A table's `scores`: of each model one value for each of task x language x metric."""
    source, place = table["source"], table["place"]
    cells = list(product(*(_as_list(table[axis]) for axis in ("task", "language", "metric"))))
    for name, values in table["scores"].items():
        if len(values) != len(cells):
            raise ValueError(
                f"{place} of {source}, {cells[0]}: {name!r} has {len(values)} values for {len(cells)} columns"
            )
        for (task, language, metric), value in zip(cells, values):
            if value is not None:
                unit = 1 if is_rank(metric) else 100
                rounding = table.get("rounding", 0.05) / unit
                model, kind = content["models"].get(name, name), content["sources"][source]["kind"]
                yield Published(model, task, language, metric, value / unit, rounding, source, kind, place)


def _as_list(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]
