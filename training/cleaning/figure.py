"""Draw what became of the texts of each language, as bars."""

from collections import Counter
from pathlib import Path

from common.extras import of_extra
from common.figures import save_figure

from .tally import KEPT, Tally

with of_extra("plots"):
    import matplotlib
    from matplotlib.figure import Figure

_MOST_REASONS = 9  # that have a colour of their own; the others are drawn together
_COLORS = [*matplotlib.colormaps["tab10"].colors]


def draw_counts(total: Tally, path: Path) -> None:
    """Draw one bar for each language, of the shares of texts that are kept and removed for each reason."""
    languages = sorted({language for language, _ in total.texts})
    totals = Counter()
    of_outcome = Counter()
    for (language, outcome), n_texts in total.texts.items():
        totals[language] += n_texts
        of_outcome[outcome] += n_texts

    reasons = [reason for reason, _ in of_outcome.most_common() if reason != KEPT]
    shares = {KEPT: _shares(total, languages, [KEPT], totals)}
    for reason in reasons[:_MOST_REASONS]:
        shares[reason] = _shares(total, languages, [reason], totals)
    if reasons[_MOST_REASONS:]:
        shares["other reasons"] = _shares(total, languages, reasons[_MOST_REASONS:], totals)

    with matplotlib.rc_context({"text.parse_math": False}):  # a reason with dollars is no formula
        figure = Figure(figsize=(8, 1.5 + 0.35 * len(languages)), layout="constrained")
        axes = figure.subplots()
        left = [0.0] * len(languages)
        colors = {KEPT: "#c8c8c8", "other reasons": "#303030"} | dict(zip(reasons, _COLORS))
        labels = [f"{language} ({totals[language]})" for language in languages]
        for outcome, widths in shares.items():
            axes.barh(labels, widths, left=left, color=colors[outcome], label=outcome)
            left = [start + width for start, width in zip(left, widths)]
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("texts (%)")
        figure.legend(loc="outside right upper", frameon=False)
        save_figure(figure, path, dpi=120)


def _shares(total: Tally, languages: list[str], outcomes: list[str], totals: Counter) -> list[float]:
    """Return the percentage of each language's texts that have one of the outcomes."""
    shares = []
    for language in languages:
        n_texts = sum(total.texts[language, outcome] for outcome in outcomes)
        shares.append(100 * n_texts / max(1, totals[language]))
    return shares


__all__ = ["draw_counts"]
