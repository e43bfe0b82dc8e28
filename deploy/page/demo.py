"""What the page is asked: a search, a classification, and one query in several languages.

Whoever opens the page may send anything. What cannot be answered is an `InputError`, in words for
that reader.
"""

from dataclasses import dataclass

from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin, pipeline

from common.errors import InputError
from common.images import decode_image, why_unreadable
from deploy.search.index import Found, ImageIndex, embed_query
from modeling_altclip.images_altclip import background_of, read_image
from modeling_altclip.prompts_altclip import has_one_slot
from modeling_altclip.texts_altclip import is_blank

_TOP = 10  # pictures that a search shows
_COMPARED = 5  # pictures of each language that are compared
_MOST_LABELS = 100
_MOST_TEXTS = 10
_LONGEST = 1000  # characters of a text


@dataclass(frozen=True)
class Answer:
    """What one text finds.

    Attributes:
        text: as it was written.
        found: the first pictures, best first.
    """

    text: str
    found: list[Found]

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.found]


@dataclass(frozen=True)
class Disagreement:
    """A picture that some texts find among their first, and others do not.

    Attributes:
        found: the picture, with the score of the first text that finds it.
        by, not_by: those texts.
    """

    found: Found
    by: list[str]
    not_by: list[str]


class Demo:
    """A model and an index of pictures that it made. Threads may share it.

    Args:
        index: made by this model, see `ImageIndex.check_model`.
        model, processor: of transformers, as `load_model` returns them.
    """

    def __init__(self, index: ImageIndex, model: PreTrainedModel, processor: ProcessorMixin):
        self.index = index
        self.model = model
        self.processor = processor
        self.classifier = pipeline(
            "zero-shot-image-classification",
            model=model,
            tokenizer=processor.tokenizer,
            image_processor=processor.image_processor,
            device=model.device,
        )
        self.pictures = index.record.opened_source.open()
        self.number_of = {name: number for number, name in enumerate(self.pictures.ids)}

    def read_picture(self, content: bytes) -> Image.Image:
        """Decode an uploaded picture as RGB, on the background that the model has for transparent ones.

        Raises:
            InputError: it is broken, no picture, or too large, see `modeling_altclip.image_files_altclip`.
        """
        try:
            decoded = decode_image({"bytes": content, "path": None})
            return read_image(decoded, background=background_of(self.processor.image_processor))
        except Exception as error:  # decoders raise whatever they like
            raise InputError(f"The picture cannot be read: {why_unreadable(error)}") from error

    def search(self, text: str, picture: bytes | None, text_weight: float = 0.5) -> list[Found]:
        """Find the pictures that are most similar to a text, a picture, or both, best first.

        Args:
            picture: its encoded bytes.
            text_weight: of both, the share of the text, from 0 to 1.

        Raises:
            InputError: there is neither, or one cannot be read.
        """
        _check_length(text)
        words = None if is_blank(text) else text
        if words is None and picture is None:
            raise InputError("Nothing to search for: write a text, or add a picture")
        image = None if picture is None else self.read_picture(picture)
        return self._find(_TOP, text=words, image=image, text_weight=text_weight)

    def classify(self, picture: bytes | None, lines: str, template: str = "{}") -> list[dict]:
        """Rank labels for a picture, by the pipeline of transformers.

        Args:
            picture: its encoded bytes.
            lines: a label on each line.
            template: a sentence with `{}` in place of the label.

        Returns:
            `[{"score": probability, "label": label}, …]`, best first.

        Raises:
            InputError: something is missing or cannot be read, or there are too many labels.
        """
        if picture is None:
            raise InputError("There is no picture: add one")
        labels = _lines(lines, "labels", _MOST_LABELS)
        if len(labels) < 2:
            raise InputError("There are fewer than two labels: write one on each line")
        _check_length(template)
        if not has_one_slot(template):
            raise InputError("The sentence has to have {} once, where the label goes, and no other braces")
        return self.classifier(self.read_picture(picture), labels, hypothesis_template=template)

    def compare(self, lines: str) -> list[Answer]:
        """Search by several texts, of which each says the same in another language.

        Args:
            lines: a text on each line.

        Raises:
            InputError: there are fewer than two, or too many.
        """
        texts = _lines(lines, "texts", _MOST_TEXTS)
        if len(texts) < 2:
            raise InputError("There are fewer than two texts: write the query in one language on each line")
        return [Answer(text, self._find(_COMPARED, text=text)) for text in texts]

    def show(self, found: Found) -> Image.Image | None:
        """Return a picture that was found, as RGB; None if it is gone or has changed since."""
        try:
            return read_image(self.pictures.reader(self.number_of[found.id], found.digest)())
        except Exception:  # decoders raise whatever they like
            return None

    def _find(self, k: int, **query) -> list[Found]:
        truncate_dim = self.index.record.truncate_dim
        embedded = embed_query(self.model, self.processor, **query, truncate_dim=truncate_dim)
        return self.index.search(embedded, k)


def disagreements(answers: list[Answer]) -> list[Disagreement]:
    """Return the pictures that not all texts find, in the order in which they are found.

    Example:

    ```python
    >>> from deploy.page.demo import Answer, disagreements
    >>> from deploy.search.index import Found

    >>> apple, pear = Found("apple.png", 0.9, ""), Found("pear.png", 0.8, "")
    >>> [only] = disagreements([Answer("apple", [apple, pear]), Answer("苹果", [apple])])
    >>> only.found.id, only.by, only.not_by
    ('pear.png', ['apple'], ['苹果'])
    ```
    """
    first_of = {}
    for answer in answers:
        for one in answer.found:
            first_of.setdefault(one.id, one)
    differing = []
    for name, found in first_of.items():
        by = [answer.text for answer in answers if name in answer.ids]
        not_by = [answer.text for answer in answers if name not in answer.ids]
        if not_by:
            differing.append(Disagreement(found, by, not_by))
    return differing


def _lines(text: str, what: str, most: int) -> list[str]:
    """Return the distinct lines of a text that are not blank.

    Raises:
        InputError: there are more than `most`, or one is too long.
    """
    lines = [line.strip() for line in text.splitlines() if not is_blank(line)]
    distinct = list(dict.fromkeys(lines))
    if len(distinct) > most:
        raise InputError(f"There are {len(distinct)} {what}: write {most} at most")
    for line in distinct:
        _check_length(line)
    return distinct


def _check_length(text: str) -> None:
    if len(text) > _LONGEST:
        raise InputError(f"A text has {len(text):,} characters: write {_LONGEST:,} at most")


__all__ = ["Answer", "Demo", "Disagreement", "disagreements"]
