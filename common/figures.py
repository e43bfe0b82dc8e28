"""Save figures of matplotlib, which comes with the extra `plots`."""

from pathlib import Path

from .extras import of_extra
from .files.whole_files import written_whole

with of_extra("plots"):
    from matplotlib.figure import Figure


def save_figure(figure: Figure, picture: Path, dpi: int) -> None:
    """Save a figure as a PNG file, in whole or not at all.

    Args:
        dpi: pixels per inch of the figure's size.
    """
    with written_whole(picture) as file:
        figure.savefig(file, dpi=dpi)


__all__ = ["save_figure"]
