"""A page of pictures: what captions in eight languages find before and after training.

It needs no other file. Captions are drawn by the seed, so that nobody has chosen them.
"""

import base64
import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from datasets import Dataset, Image
from jinja2 import Environment, FileSystemLoader
from PIL import Image as PillowImage

from common.files.rows import load_rows
from common.files.whole_files import write_text
from common.models.loading import load_model
from modeling_altclip import embed_images, embed_texts
from modeling_altclip.images_altclip import read_image

from .dictionary import has_caption
from .experiment import TEACHER, PhotographsArguments

_TEMPLATE = "page.html"
_N_QUERIES = 12
_N_TRAINED = 5  # of the languages
_N_UNSEEN = 3
_SHOWN = 5  # pictures of a model
_SIDE = 112  # pixels of a picture on the page


class Query(NamedTuple):
    """A caption of the test, by which its picture is looked for.

    - `language`, `text`: the caption.
    - `english`: the English caption of the same picture.
    - `row`: the picture's row in the test.
    """

    language: str
    text: str
    english: str
    row: int


@dataclass
class Answer:
    """What a model finds for a query.

    Attributes:
        title: of the model.
        rows: the pictures' rows in the test, the nearest first.
        place: the place of the right picture among all, from 1.
    """

    title: str
    rows: list[int]
    place: int


def choose_queries(
    captions: list[dict[str, str | None]], trained: list[str], unseen: list[str], seed: int
) -> list[Query]:
    """Draw captions of different pictures, in languages that are drawn too; English is not among them.

    Args:
        captions: `{language: text}` of each row of the test.

    Returns:
        Twelve queries, or fewer where languages have fewer captions.
    """
    draw = random.Random(seed)
    foreign = [language for language in trained if language != "en"]
    languages = draw.sample(foreign, min(_N_TRAINED, len(foreign)))
    languages += draw.sample(unseen, min(_N_UNSEEN, len(unseen)))
    if not languages:
        return []
    queries = []
    left = list(range(len(captions)))
    draw.shuffle(left)
    for number in range(_N_QUERIES):
        # Each language has its turn.
        language = languages[number % len(languages)]
        row = _first_with_caption(left, captions, language)
        if row is not None:
            left.remove(row)
            queries.append(Query(language, captions[row][language], captions[row]["en"], row))
    return queries


def _first_with_caption(rows: list[int], captions: list[dict], language: str) -> int | None:
    for row in rows:
        if has_caption(captions[row], language):
            return row
    return None


def find_pictures(
    model: str, title: str, texts: list[str], right: list[int], images: list[PillowImage.Image]
) -> list[Answer]:
    """Look for pictures by texts.

    Args:
        model: the folder of the model.
        right: the row of the right picture for each text.
        images: all pictures of the test.

    Returns:
        An answer for each text.
    """
    loaded, processor = load_model(model)
    image_embeds = embed_images(loaded, processor, images)
    similarities = embed_texts(loaded, processor, texts) @ image_embeds.T  # (texts, images)
    answers = []
    for row, of_text in zip(right, similarities):
        order = of_text.argsort(descending=True, stable=True)
        place = int(torch.nonzero(order == row)) + 1
        answers.append(Answer(title, order[:_SHOWN].tolist(), place))
    return answers


def save_page(arguments: PhotographsArguments) -> Path:
    """Write `report/pictures.html`: queries with what the models find, before and after training.

    Returns:
        The file.
    """
    test = load_rows(arguments.pictures, "test", ["image", "captions"])
    seed = arguments.used_seeds[0]
    queries = choose_queries(test["captions"][:], arguments.trained, arguments.unseen, seed)
    images = [read_image(image) for image in test.cast_column("image", Image())["image"]]
    right = [query.row for query in queries]
    texts = [query.text for query in queries]
    english = [query.english for query in queries]
    of_models = [
        find_pictures(str(arguments.folder(TEACHER)), "English teacher, in English", english, right, images),
        find_pictures(str(arguments.folder(TEACHER)), "before stage 1", texts, right, images),
        find_pictures(str(arguments.folder(f"stage2-{seed}")), "stage 1 + 2", texts, right, images),
    ]
    # [(query, [answer of each model]), ...]
    answered = list(zip(queries, zip(*of_models)))
    path = Path(arguments.output_dir, "report", "pictures.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render_page(answered, test, images, seed, arguments.trained))
    return path


def render_page(
    answered: list[tuple[Query, tuple[Answer, ...]]],
    test: Dataset,
    images: list[PillowImage.Image],
    seed: int,
    trained: list[str],
) -> str:
    """Render the page; texts of the data are shown as text, whatever they contain.

    Args:
        answered: each query, and the answer of each model.
        test: rows of `captions`, which have English.
        images: all pictures of the test.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    shown = set()
    for _, answers in answered:
        for answer in answers:
            shown.update(answer.rows)
    english = [captions["en"] for captions in test["captions"]]
    return environment.get_template(_TEMPLATE).render(
        answered=answered,
        english=english,
        pictures={row: _inline(images[row]) for row in shown},
        n_pictures=len(images),
        seed=seed,
        trained=trained,
        side=_SIDE,
    )


def _inline(image: PillowImage.Image) -> str:
    """Return a small picture as the address of an image that a page contains."""
    small = image.convert("RGB")
    small.thumbnail((2 * _SIDE, 2 * _SIDE))  # for screens with two dots a pixel
    buffer = io.BytesIO()
    small.save(buffer, "jpeg", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


__all__ = ["Answer", "Query", "choose_queries", "find_pictures", "render_page", "save_page"]
