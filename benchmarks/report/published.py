"""Published numbers, from papers and from re-evaluations by others, compared with ours."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from common.files.yaml_files import read_yaml

from ..tasks.loading import all_task_names, load_task
from ..tasks.task import Task
from .comparison import Number, is_rank
from .means import MEANS

_PAPER_RESULTS = Path(__file__).parent / "paper_results.yaml"
_TEXT_TO_IMAGE_MEAN = "text_to_image_mean_recall"


@dataclass(frozen=True)
class Published:
    """One published number.

    `value` is a fraction, or a rank; `rounding`, in the same unit, is half a unit of its last printed digit.
    `kind` is `paper` or `re-evaluation`. `mean_over` are the languages of a mean, where all of them have the
    images of the task.
    """

    model: str
    task: str
    language: str
    metric: str
    value: float
    rounding: float
    source: str
    kind: str
    place: str
    mean_over: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Return where it was printed: `altclip, Table 2`."""
        return f"{self.source}, {self.place}"


@dataclass(frozen=True)
class PublishedGap:
    """One of our numbers beside the published ones of the same model, task, language and metric.

    `difference` is ours less `paper[0]`, or less `again[0]` where the paper has none. `within` says if that
    published number lies in our 95 % interval, widened by its rounding; it is None where that cannot be
    judged, for the `reason`. `split_differs` explains how the task's images differ from the paper's.
    """

    number: Number
    paper: list[Published]
    again: list[Published]
    difference: float
    within: bool | None
    reason: str = ""
    split_differs: str | None = None


def load_published(path: Path = _PAPER_RESULTS) -> list[Published]:
    """Read all published numbers, each model under its Hub id where the file knows one."""
    content = read_yaml(path, "file")
    numbers = []
    for table in content["tables"]:
        numbers += _read_table(table, content)
    return numbers


def load_sources(differences: list[PublishedGap], path: Path = _PAPER_RESULTS) -> dict[str, str]:
    """Read the titles of the sources that the differences name: `{tag: title}`."""
    sources = read_yaml(path, "file")["sources"]
    named = set()
    for difference in differences:
        for number in difference.paper + difference.again:
            named.add(number.source)
    return {tag: source["title"] for tag, source in sources.items() if tag in named}


def compare_with_published(
    numbers: list[Number], published: list[Published], paper_model: str | None = None
) -> list[PublishedGap]:
    """Compare every number with the published ones of the same model, task, language and metric.

    Numbers without a counterpart are left out. So are means over languages, unless the published mean is
    known to be over the same ones.

    A number of other images than the task's, as `limit` leaves them, is not judged. A number of all of them
    is judged, though a language may have the task's own names for a part of the classes, and so of the
    images.

    Args:
        paper_model: compare all models with this one's published numbers, given by Hub id, or by the paper's
            name where it has none: `BAAI/AltCLIP` for one that was trained anew. By default each model is
            compared with its own; an adapter's model `m_clip:TEXT+IMAGES` with those of `TEXT`.

    A mean of recall at 1, 5 and 10 by text, which some publish, is computed from the results of the numbers.

    Returns:
        The differences, sorted by model and metric.
    """
    # {(model, task, language, metric): [number, ...]}
    published_by_key: dict[tuple[str, ...], list[Published]] = {}
    for one in published:
        published_by_key.setdefault((one.model, one.task, one.language, one.metric), []).append(one)

    differences = []
    for number in [*numbers, *_text_to_image_means(numbers)]:
        model = _published_name(paper_model or number.model)
        found = published_by_key.get((model, number.task, number.language, number.metric), [])
        if number.language in MEANS:
            found = [one for one in found if one.mean_over and set(one.mean_over) == set(number.languages)]
        if found:  # of the paper, of re-evaluations, or of both
            differences.append(_compare(number, found))
    return sorted(differences, key=lambda difference: (difference.number.model, difference.number.metric))


def _text_to_image_means(numbers: list[Number]) -> list[Number]:
    """Return the mean of recall at 1, 5 and 10 by text, without an interval, of each number's result."""
    means = {}
    for number in numbers:
        metrics = number.result.metrics if number.result else {}
        recalls = [metrics.get(f"text_to_image_recall@{k}") for k in (1, 5, 10)]
        if None not in recalls:
            mean = replace(number, metric=_TEXT_TO_IMAGE_MEAN, value=sum(recalls) / 3, interval=None)
            means[number.model, number.task, number.language] = mean
    return list(means.values())


def _compare(number: Number, found: list[Published]) -> PublishedGap:
    """Compare one number with its published counterparts."""
    paper = [one for one in found if one.kind == "paper"]
    again = [one for one in found if one.kind == "re-evaluation"]
    reference = (paper + again)[0]
    low, high = number.interval or (number.value, number.value)
    # A printed 72.4 stands for anything from 72.35 to 72.45.
    within = low - reference.rounding <= reference.value <= high + reference.rounding

    task = load_task(number.task) if number.task in all_task_names() else None
    reason = _why_not_judged(number, task)
    return PublishedGap(
        number=number,
        paper=paper,
        again=again,
        difference=number.value - reference.value,
        within=None if reason else within,
        reason=reason,
        split_differs=task.split_differs if task else None,
    )


def _published_name(model: str) -> str:
    """Return the name under which a model's numbers are published.

    `m_clip:M-CLIP/XLM-Roberta-Large-Vit-L-14+openai/clip-vit-large-patch14` is published as its text tower.
    """
    if ":" not in model:
        return model
    _, _, towers = model.partition(":")
    text_tower, _, _ = towers.partition("+")
    return text_tower


def _why_not_judged(number: Number, task: Task | None) -> str:
    """Return the reason why a number cannot be judged, `n 100 of 5,000`; an empty string where it can."""
    if number.metric == _TEXT_TO_IMAGE_MEAN:
        return "ours has no interval"
    n_images = None
    if task:
        n_images = task.total_images if number.language in MEANS else task.images_of(number.language)
    if n_images is None or number.n == n_images:
        return ""
    # All images were read, and those left out are of classes that the task itself has no name for.
    names = task.class_names
    result = number.result
    if names and result and result.n_rows == n_images and result.definition.get("class_names") == names:
        return ""
    return f"n {number.n:,} of {n_images:,}"


def _read_table(table: dict, content: dict) -> Iterator[Published]:
    """Read a table's `scores`: for each model one value in each column of task x language x metric."""
    source = table["source"]
    place = table["place"]
    # task: [a, b], language: en, metric: [r@1, r@5] -> (a, en, r@1), (a, en, r@5), (b, en, r@1), (b, en, r@5)
    axes = [_as_list(table[axis]) for axis in ("task", "language", "metric")]
    columns = list(product(*axes))
    for name, values in table["scores"].items():
        if len(values) != len(columns):
            raise ValueError(
                f"{place} of {source}, {columns[0]}: {name!r} has {len(values)} values for {len(columns)} "
                "columns"
            )
        for (task, language, metric), value in zip(columns, values):
            if value is None:  # the table has a gap
                continue
            unit = 1 if is_rank(metric) else 100
            yield Published(
                model=content["models"].get(name, name),
                task=task,
                language=language,
                metric=metric,
                value=value / unit,
                rounding=table.get("rounding", 0.05) / unit,
                source=source,
                kind=content["sources"][source]["kind"],
                place=place,
                mean_over=tuple(table.get("mean_over", ())),
            )


def _as_list(value: str | list[str]) -> list[str]:
    """Return a list of the only value of an axis, which YAML may give without brackets."""
    return value if isinstance(value, list) else [value]
