"""A mixed-language pool: texts of all languages in one index, and which of the languages it prefers.

Retrieval in one language does not show how languages compete. In an index of several, a model of *weak*
alignment finds a wrong text in the language of the query before the right text in another (Roy et al. 2020,
LAReQA, arXiv:2004.05484). Here this is measured for two kinds of queries:

- `image_to_text`: an image, which has no language. Each language is the given one in turn.
- `text_to_text`: a text, whose language is the given one, among the texts of all images. It finds an image by
  the image's descriptions in other languages.

Images as answers have no language: a pool changes nothing for text-to-image retrieval.

`overtaken` is how often a wrong text in the given language is ahead of the right text in another language,
over all queries and other languages. It is 0 for a model that separates meanings whatever their language,
and 1 for one that goes by the given language alone. It grows with the errors of a model without any
preference, too.

`preference` does not. Of a query, the given language `a` and another one `b`, one right text is left out, so
that the right answer is in `b` alone; for an image, also in `a` alone. (A text as a query is itself the right
one in its language.) If the first answer among the texts in `a` and `b` is wrong, it is in `a` or in `b`. The
preference of `a` is the share of those in `a`, over all queries and all `b`. The pool is balanced, with
equally many texts of each image in each language, so that chance favours none:

- 0.5 if it does not matter for a wrong text in which language it is, however many errors there are; and if
  there are none;
- 1 if texts in `a` are always preferred, and 0 if they never are.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from tqdm.auto import tqdm

from common.errors import InputError

from .encoder import Encoder
from .metrics import check_lengths, first_equal, pair_scores
from .outcomes import DEPTHS, PoolOutcomes, number_languages
from .retrieval import check_distance, texts_of

logger = logging.getLogger(__name__)

TILE_SCORES = 2**24  # scores that are computed at once: 64 MB of float32


def evaluate_mixed_pool(
    encoder: Encoder,
    image_embeds: torch.Tensor,
    captions: list[dict],
    languages: list[str],
    *,
    distance: str = "cosine",
) -> dict[str, PoolOutcomes]:
    """Rank the texts of all languages in one index, for every image and for every text.

    Images without a text in one of the languages are left out, with a warning. Of the others, the first texts
    in each language are in the pool, as many as there are in the language with the fewest.

    Args:
        image_embeds: the images' embeddings `(rows, dim)`, made by the same encoder.
        captions: `{language: text}` of each row, with one text, a list of them or none.
        languages: two or more.
        distance: `cosine`, or `euclidean` between embeddings that are not normalized.

    Returns:
        `{language: outcomes}`, whose `rows` are the images in the pool.

    Raises:
        InputError: another distance, fewer than two languages, or fewer than two images with a text in each.

    Example:

    ```python
    >>> from datasets import load_dataset
    >>> from benchmarks import CachedEncoder, evaluate_mixed_pool, load_model

    >>> encoder = CachedEncoder(*load_model("outputs/miniature/altclip"))
    >>> rows = load_dataset("outputs/miniature/dataset", split="validation[:20]")
    >>> image_embeds = encoder.images(rows["image"])
    >>> outcomes = evaluate_mixed_pool(encoder, image_embeds, rows["captions"], ["en", "zh", "ar"])
    >>> outcomes["zh"].metrics()["n_texts"]
    60
    ```
    """
    check_distance(distance)
    if len(languages) < 2:
        raise InputError(f"languages are {' '.join(languages) or 'none'}: a mixed pool needs two or more")
    texts_of_row = []
    counts = []  # texts of each row in each language
    for caption in captions:
        by_language = {language: texts_of(caption[language]) for language in languages}
        texts_of_row.append(by_language)
        counts.append(min(len(texts) for texts in by_language.values()))
    described = torch.tensor([row for row, count in enumerate(counts) if count > 0], dtype=torch.long)
    if len(described) < 2:
        raise InputError(
            f"{len(described)} of {len(captions)} rows have a caption in each of {' '.join(languages)}: a "
            "mixed pool needs two or more, so leave the languages with the fewest captions out"
        )
    _warn_of_left_out(texts_of_row, counts)

    # Rows with 2, 0 and 1 texts in each language -> image_of_text [0, 0, 1], of the rows 0 and 2.
    n_texts = torch.tensor(counts)[described]
    image_of_text = torch.arange(len(described)).repeat_interleave(n_texts)
    text_embeds = []
    for language in languages:
        of_rows = [by_language[language] for by_language in texts_of_row]
        text_embeds.append(_encode_first(encoder, of_rows, counts))
    outcomes = measure_preference(
        image_embeds[described], torch.stack(text_embeds), image_of_text, languages, distance=distance
    )
    return {language: replace(found, rows=described) for language, found in outcomes.items()}


def _encode_first(encoder: Encoder, texts_of_row: list[list[str]], counts: list[int]) -> torch.Tensor:
    """Encode one language's texts in the pool, `(texts, dim)`: the first `counts[row]` of each row.

    All texts are encoded, as for retrieval in this language, whose cached embeddings thus serve here.
    """
    texts = []
    in_pool = []
    for of_row, count in zip(texts_of_row, counts):
        in_pool += range(len(texts), len(texts) + count)
        texts += of_row
    return encoder.texts(texts)[in_pool]


def _warn_of_left_out(texts_of_row: list[dict[str, list[str]]], counts: list[int]) -> None:
    """Count the images that lack a language, and the texts of others that have more than another language."""
    n_rows = sum(count == 0 for count in counts)
    n_texts = 0
    for by_language, count in zip(texts_of_row, counts):
        if count > 0:
            n_texts += sum(len(texts) - count for texts in by_language.values())
    if n_rows or n_texts:
        logger.warning(
            "the mixed pool has equally many texts of each image in each language: %s of %s images are left "
            "out, which lack a language, and %s texts of the others",
            n_rows,
            len(counts),
            n_texts,
        )


def measure_preference(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    image_of_text: torch.Tensor,
    languages: list[str],
    *,
    distance: str = "cosine",
) -> dict[str, PoolOutcomes]:
    """Rank a balanced pool of embeddings, tile by tile.

    Of a query's right texts in one language the best counts. Ties are ranked pessimistically: a wrong text is
    ahead of a right one with the same score. Of two wrong texts in two languages with the same score, each is
    half of a first answer.

    Args:
        image_embeds: `(images, dim)`, of unit length for `cosine`.
        text_embeds: `(languages, texts, dim)`, of unit length for `cosine`.
        image_of_text: LongTensor `(texts,)`, the row of the image that the text at each place describes, in
            every language.
        languages: codes of the languages, in the order of `text_embeds`.
        distance: `cosine`, or `euclidean`.

    Returns:
        `{language: outcomes}`.

    Raises:
        ValueError: shapes disagree, there are fewer than two languages or images, an image has no text, or a
            value is not finite.

    Example:

    ```python
    >>> import torch
    >>> from benchmarks import measure_preference

    >>> # Two images, with a text each in English, far from all images, and in German, near to all
    >>> images = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0]])
    >>> english = torch.tensor([[0.1, 0.0, 1.0], [0.0, 0.1, 1.0]])
    >>> found = measure_preference(images, torch.stack([english, images]), torch.arange(2), ["en", "de"])
    >>> found["de"].metrics()["image_to_text_preference"], found["en"].metrics()["image_to_text_preference"]
    (1.0, 0.0)
    ```
    """
    _check_pool(image_embeds, text_embeds, image_of_text, languages)
    pool = _Pool(text_embeds, image_of_text, distance)
    first_equal(image_embeds)  # refuses values that are not finite, as the pool does
    check_lengths(image_embeds, pool.texts, distance)

    n_images = len(image_embeds)
    every = torch.arange(len(languages))
    ranks = torch.zeros(n_images, len(languages), dtype=torch.long)
    of_images = torch.zeros(3, n_images, len(languages), dtype=torch.long)
    for queries, tile in pool.ask(image_embeds, torch.arange(n_images)):
        ranks[queries] = tile.ranks()
        of_images[:, queries] = tile.compare(every, has_language=False)

    of_texts = torch.zeros(3, n_images, len(languages), dtype=torch.long)
    for number in tqdm(every.tolist(), desc="Ranking texts", unit="language"):
        given = every[number : number + 1]
        for queries, tile in pool.ask(text_embeds[number], image_of_text):
            found = tile.compare(given, has_language=True)[:, :, 0]
            # The texts of an image are added up: of the images [0, 0, 1], two texts are of the first.
            of_texts[:, :, number].index_add_(1, image_of_text[queries], found)

    outcomes = {}
    for number, language in enumerate(languages):
        outcomes[language] = PoolOutcomes(
            image_ranks=ranks[:, number],
            image_counts=of_images[:, :, number].T.contiguous(),
            text_counts=of_texts[:, :, number].T.contiguous(),
            n_texts=image_of_text.bincount(),
            pool=number_languages(language, languages),
        )
    return outcomes


@dataclass
class _Tile:
    """Answers of the pool to some queries.

    Attributes:
        wrong_scores: `(queries, texts of all languages)`, without right answers, which are minus infinity.
        wrong: `(queries, languages)`, the highest score of a wrong text in each language.
        right: `(queries, languages)`, the highest score of a right one.
    """

    wrong_scores: torch.Tensor
    wrong: torch.Tensor
    right: torch.Tensor

    def ranks(self) -> torch.Tensor:
        """Count the wrong texts of all languages ahead of the right one in each, `(queries, languages)`.

        Deeper than recall is computed, they are not counted: 10 is ten or more.
        """
        n_counted = min(max(DEPTHS), self.wrong_scores.shape[1])
        highest = self.wrong_scores.topk(n_counted, dim=1).values
        return (highest[:, None, :] >= self.right[:, :, None]).sum(2)

    def compare(self, given: torch.Tensor, has_language: bool) -> torch.Tensor:
        """Compare texts in the given languages with texts in each other language.

        Args:
            given: LongTensor `(given,)`, numbers of languages.
            has_language: the queries are texts in the given language, in which they have no right answer.

        Returns:
            LongTensor `(3, queries, given)`, the counts of `PoolOutcomes`.
        """
        wrong_of_given = self.wrong[:, given, None]  # (queries, given, 1)
        right_of_given = self.right[:, given, None]
        wrong_of_other = self.wrong[:, None, :]  # (queries, 1, languages)
        right_of_other = self.right[:, None, :]
        is_other = given[:, None] != torch.arange(self.right.shape[1])

        is_overtaken = (wrong_of_given >= right_of_other) & is_other
        # The right text is in the other language alone, and in the given one alone.
        first = torch.maximum(wrong_of_given, wrong_of_other)
        n_wrong = (first >= right_of_other).long()
        if not has_language:
            n_wrong += first >= right_of_given
        n_wrong *= is_other
        halves = (wrong_of_given >= wrong_of_other).long() + (wrong_of_given > wrong_of_other).long()
        return torch.stack([is_overtaken.sum(2), n_wrong.sum(2), (halves * n_wrong).sum(2)])


class _Pool:
    """Texts of all languages in one index, scored for some queries at a time.

    Texts with equal embeddings get equal scores, wherever a matrix product would round them apart.

    Attributes:
        texts: `(languages * texts, dim)`, language by language.
    """

    def __init__(self, text_embeds: torch.Tensor, image_of_text: torch.Tensor, distance: str):
        self.n_languages = len(text_embeds)
        self.texts = text_embeds.flatten(0, 1)
        self.image_of_text = image_of_text
        self.distance = distance
        # Of the texts a, b, a the last one is repeated, and has the score of the first.
        first = first_equal(self.texts)
        self.repeated = (first != torch.arange(len(first))).nonzero()[:, 0]
        self.first_of_repeated = first[self.repeated]

    def ask(self, queries: torch.Tensor, image_of_query: torch.Tensor) -> Iterator[tuple[slice, _Tile]]:
        """Score all texts for each query, as many queries at a time as `TILE_SCORES` allows.

        Args:
            queries: embeddings `(queries, dim)`.
            image_of_query: LongTensor `(queries,)`, the image whose texts are right; a query that is itself a
                text is one of these, and so no wrong answer.
        """
        n_rows = max(1, TILE_SCORES // len(self.texts))
        for start in range(0, len(queries), n_rows):
            rows = slice(start, start + n_rows)
            scores = pair_scores(queries[rows], self.texts, self.distance)
            scores[:, self.repeated] = scores[:, self.first_of_repeated]
            yield rows, self._tile(scores, image_of_query[rows])

    def _tile(self, scores: torch.Tensor, image_of_query: torch.Tensor) -> _Tile:
        """Part right from wrong answers; `scores` `(queries, languages * texts)` keeps the wrong ones."""
        by_language = scores.view(len(scores), self.n_languages, -1)
        # The places of a query's right texts are the same in each language.
        query, place = (image_of_query[:, None] == self.image_of_text).nonzero(as_tuple=True)
        # The best right text: of queries [0, 0, 1] the first two rows are of one query.
        right = scores.new_full((len(scores), self.n_languages), -torch.inf)
        index = query[:, None].expand(-1, self.n_languages)
        right.scatter_reduce_(0, index, by_language[query, :, place], "amax")

        by_language[query, :, place] = -torch.inf
        return _Tile(wrong_scores=scores, wrong=by_language.amax(2), right=right)


def _check_pool(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, image_of_text: torch.Tensor, languages: list[str]
) -> None:
    """Refuse embeddings that are no balanced pool of two languages and images or more."""
    n_images = len(image_embeds)
    expected = (len(languages), len(image_of_text), image_embeds.shape[-1])
    if image_embeds.ndim != 2 or tuple(text_embeds.shape) != expected:
        raise ValueError(
            f"text_embeds must be (languages, texts, dim), here {expected}, not {tuple(text_embeds.shape)}"
        )
    if len(set(languages)) < 2 or len(set(languages)) < len(languages):
        raise ValueError(f"languages are {languages}: a mixed pool needs two or more, each once")
    if n_images < 2:
        raise ValueError(f"image_embeds are of {n_images} images: a mixed pool needs two or more")
    described = image_of_text.unique().tolist()
    if described != list(range(n_images)):
        raise ValueError(
            f"image_of_text names {len(described)} rows from {described[0]} to {described[-1]}: each of the "
            f"{n_images} images needs a text"
        )


__all__ = ["evaluate_mixed_pool", "measure_preference"]
