"""Names and numbers as tables, plots and sentences show them."""

from hashlib import blake2b
from pathlib import Path

from .comparison import Number, is_rank

GAP = "–"
_LONGEST_NAME = 200  # characters
_SHOWN = 60  # of a longer one
# Titles of metrics; those of recalls and ranks follow from their names, see `label`.
_LABELS = {
    "mean_recall": "mean recall",
    "image_to_text_overtaken": "I2T overtaken",
    "image_to_text_preference": "I2T language preference",
    "text_to_text_overtaken": "T2T overtaken",
    "text_to_text_preference": "T2T language preference",
    "text_to_image_mean_recall": "T2I mean recall",
    "text_to_image_ndcg@10": "T2I nDCG@10",
    "accuracy@1": "top-1 accuracy",
    "accuracy@5": "top-5 accuracy",
    "mean_per_class": "mean per class",
    "mean_top1_top5": "mean of top-1 and top-5",
    "map_11_point": "11-point mAP",
    "roc_auc": "ROC AUC",
}
_SHORT = {"text_to_image": "T2I", "image_to_text": "I2T"}


def bounded_name(name: str) -> str:
    """Return a name that pages and plots can show: of more than 200 characters, the first and a digest.

    A plot of a name of a megabyte would be kilometres wide. Half a surrogate pair becomes a question mark.
    """
    plain = name.encode("utf-8", "replace").decode()
    if len(plain) <= _LONGEST_NAME:
        return plain
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{plain[:_SHOWN]}… ({digest})"


def short_names(models: list[str]) -> dict[str, str]:
    """Return the last part of each model's path, where that is enough to tell the models apart.

    Of `m_clip:TEXT+IMAGE` it is the last part of the text model's.
    """
    last_parts = []
    for model in models:
        path = model.partition("+")[0] if ":" in model else model
        last_parts.append(Path(path).name)

    # outputs/stage2 and old/stage2 keep their paths, beside org/altclip -> altclip.
    names = {}
    for model, last_part in zip(models, last_parts):
        is_unique = last_parts.count(last_part) == 1
        names[model] = last_part if is_unique else model
    return names


def label(value: str, names: dict[str, str]) -> str:
    """Return the title of a model, task, language or metric in a table.

    Args:
        names: titles by value; of others the title is the value, or that of a metric.
    """
    # text_to_image_recall@5 -> T2I R@5, image_to_text_rank_p50 -> I2T rank, 50th percentile
    direction, _, rest = value.partition("_recall@")
    if direction in _SHORT:
        return f"{_SHORT[direction]} R@{rest}"
    direction, _, rest = value.partition("_rank_p")
    if direction in _SHORT:
        return f"{_SHORT[direction]} rank, {rest}th percentile"
    return names.get(value) or _LABELS.get(value, value)


def format_value(number: Number) -> str:
    """Format a number as a percentage, or a rank as it is."""
    if is_rank(number.metric):
        return f"{number.value:g}"
    return format_percent(number.value)


def format_half_width(number: Number) -> str:
    """Format half the width of a number's interval, where it has one."""
    if number.interval is None:
        return ""
    low, high = number.interval
    half = (high - low) / 2
    if is_rank(number.metric):
        return f"±{half:g}"
    return f"±{format_percent(half)}"


def format_percent(fraction: float) -> str:
    """Return `72.4` for 0.724."""
    return f"{100 * fraction:.1f}"


def format_points(fraction: float) -> str:
    """Format a difference of fractions in percentage points, with its sign."""
    return f"{100 * fraction:+.1f}".replace("-", "−")
