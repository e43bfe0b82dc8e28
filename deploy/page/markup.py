"""Answers as HTML. Whatever comes from a visitor or from names of files is escaped.

Texts have `dir="auto"`: Arabic or Hebrew then reads from right to left, beside other scripts too.
"""

import base64
from collections.abc import Callable
from html import escape
from io import BytesIO

from PIL import Image

from deploy.search.index import Found

from .demo import Answer, Demo, Disagreement, disagreements

_EDGE = 320  # pixels of the longer edge of a picture that is shown


def or_problem(function: Callable[..., str]) -> Callable[..., str]:
    """Return a function that answers with a message where `function` refuses its input."""

    def answer(*given) -> str:
        try:
            return function(*given)
        except ValueError as error:  # an `InputError`, or a text or picture that cannot be embedded
            message = str(error)
        return f'<p class="problem" role="alert" dir="auto">{escape(message)}</p>'

    return answer


def preview(demo: Demo, content: bytes | None) -> str:
    """Show an uploaded picture; nothing where there is none.

    Raises:
        InputError: it cannot be read.
    """
    if content is None:
        return ""
    picture = demo.read_picture(content)
    width, height = picture.size
    return f'<div class="preview">{_image(picture, f"your picture, {width} by {height} pixels")}</div>'


def found_pictures(demo: Demo, found: list[Found]) -> str:
    """Show what a search finds, best first."""
    items = "".join(f"<li>{_figure(demo, one)}</li>" for one in found)
    return f'<ol class="pictures" role="list">{items}</ol>'


def ranked_labels(predictions: list[dict]) -> str:
    """Show labels with their scores, best first, as a table with bars."""
    rows = []
    for prediction in predictions:
        score = prediction["score"]
        rows.append(
            f'<tr><th scope="row" dir="auto">{escape(prediction["label"])}</th>'
            f'<td><meter value="{score:.4f}"></meter></td><td>{100 * score:.1f} %</td></tr>'
        )
    return f'<table class="labels">{"".join(rows)}</table>'


def compared(demo: Demo, answers: list[Answer]) -> str:
    """Show what each text finds side by side, and below it the pictures that not all of them find."""
    differing = disagreements(answers)
    unshared = {one.found.id for one in differing}
    columns = []
    for answer in answers:
        items = []
        for one in answer.found:
            kind = "unshared" if one.id in unshared else "shared"
            items.append(f'<li class="{kind}">{_figure(demo, one)}</li>')
        heading = f'<h3 dir="auto">{escape(answer.text)}</h3>'
        columns.append(f'<section>{heading}<ol role="list">{"".join(items)}</ol></section>')
    side_by_side = f'<div class="columns">{"".join(columns)}</div>'
    return _summary(answers, differing) + side_by_side + _differing(demo, differing)


def _summary(answers: list[Answer], differing: list[Disagreement]) -> str:
    first = len(answers[0].found)
    n_shared = len(set(answers[0].ids) - {one.found.id for one in differing})
    return (
        f"<p>{n_shared} of the first {first} pictures are the same for all {len(answers)} texts. Others have "
        "a frame.</p>"
    )


def _differing(demo: Demo, differing: list[Disagreement]) -> str:
    if not differing:
        return ""
    items = []
    for one in differing:
        said = f"<p>found by {_texts(one.by)}<br>not by {_texts(one.not_by)}</p>"
        items.append(f"<li>{_figure(demo, one.found)}{said}</li>")
    return f'<h3>Where they disagree</h3><ul class="differing" role="list">{"".join(items)}</ul>'


def _texts(texts: list[str]) -> str:
    """Join texts, each of which reads in its own direction."""
    return ", ".join(f"<bdi>{escape(text)}</bdi>" for text in texts)


def _figure(demo: Demo, found: Found) -> str:
    """Show a picture with its name and its score, or say that it is gone."""
    picture = demo.show(found)
    shown = '<div class="gone">gone or changed</div>' if picture is None else _image(picture, found.id)
    caption = f"<bdi>{escape(found.id)}</bdi> <small>{found.score:.3f}</small>"
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _image(picture: Image.Image, description: str) -> str:
    """Embed a small copy of a picture in the page, which then asks for no file."""
    small = picture.copy()
    small.thumbnail((_EDGE, _EDGE))
    encoded = BytesIO()
    small.save(encoded, format="WEBP", quality=85)
    data = base64.b64encode(encoded.getvalue()).decode()
    return f'<img src="data:image/webp;base64,{data}" alt="{escape(description)}">'


__all__ = ["compared", "found_pictures", "or_problem", "preview", "ranked_labels"]
