"""Find captions of tests among captions of training: equal ones, and nearly equal ones in any language.

Captions are compared by their letters, accents and digits alone: Unicode NFKC, without case, spaces and
punctuation. What is left is cut into shingles, all its pieces of four characters:

    "A dog runs!" -> "adogruns" -> adog dogr ogru grun runs

A caption of training is found where

- its letters are those of a test's caption: `equal`,
- or the shingles that both have are at least 0.8 of those that either has (Jaccard): `similar`,
- or it has at least 0.9 of the shingles of a test's caption, which has at least 25 of them: `contains`. These
  are longer texts that a caption is part of.

Only hashes are kept, of 64 bits. A test's caption of fewer than eight characters, such as "a dog", is not
looked for: it is everybody's. Characters that fill a square, such as Chinese ones, count twice.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

_SHINGLE = 4  # characters
_SIMILAR = 0.8  # Jaccard's share of shingles
_CONTAINED = 0.9  # share of the shingles of a test's caption
_LEAST_CONTAINED = 25  # shingles of a test's caption that may be part of a longer text
_SHORTEST = 8  # characters of a test's caption
_PAIRS_AT_ONCE = 20_000  # pairs of captions whose shingles are compared at a time
# Odd numbers of 64 bits, by which hashes are spread (splitmix64; Steele, Lea & Flood 2014).
_STEP = np.uint64(0x9E3779B97F4A7C15)
_SPREAD = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Match(NamedTuple):
    """A caption of training that is in a test.

    - `text`: its number among the texts that were given.
    - `caption`: the number of the test's caption, in the order in which the index was given them.
    - `kind`: `equal`, `similar` or `contains`. `share`: the share of shingles by which it was found.
    """

    text: int
    caption: int
    kind: str
    share: float


@dataclass
class _Shingles:
    """The distinct shingles of texts: those of text i are `hashes[starts[i] : starts[i + 1]]`, sorted."""

    hashes: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """The number of shingles of each text."""
        return np.diff(self.starts)

    @property
    def owners(self) -> np.ndarray:
        """The number of the text of each shingle."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)


def letters_of(text: str) -> str:
    """Return what is compared of a text: its letters, accents and digits, in NFKC and without case.

    Example:

    ```python
    >>> from training.data.exclusion import letters_of

    >>> letters_of("Zwei Hunde — im Schnee!"), letters_of("两只狗，在雪地里。")
    ('zweihundeimschnee', '两只狗在雪地里')
    ```
    """
    # Case folding may undo NFKC, so that it is done twice.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if folded.isalnum():
        return folded
    # Vowel signs of Hindi and Thai are marks, which are no alphanumeric characters.
    return "".join(letter for letter in folded if letter.isalnum() or unicodedata.category(letter)[0] == "M")


class CaptionIndex:
    """Captions of tests, as hashes, in which captions of training are looked up.

    Two texts with the Jaccard share j have at least j of the shingles of either in common. A text that is
    `similar` to a caption or `contains` it therefore has one of any fifth of the caption's shingles. The
    rarest fifth is indexed, so that few captions have to be compared.

    `n_short` of the captions are too short to look for.

    Args:
        captions: of tests, in any languages.

    Example:

    ```python
    >>> from training.data.exclusion import CaptionIndex

    >>> index = CaptionIndex(["Two dogs play in the snow.", "两只狗在雪地里玩耍"])
    >>> for match in index.find(["a cat", "TWO DOGS play in the snow", "Two dogs play in the snows"]):
    ...     print(match)
    Match(text=1, caption=0, kind='equal', share=1.0)
    Match(text=2, caption=0, kind='similar', share=0.94...)
    ```
    """

    def __init__(self, captions: Iterable[str]):
        letters = [letters_of(caption) for caption in captions]
        is_looked_for = np.array([_width(text) >= _SHORTEST for text in letters], bool)
        self.n_captions = len(letters)
        self.n_short = int((~is_looked_for).sum())

        digests = _digests(letters)
        # Of equal captions the first is kept; those that are too short are left out of both indices.
        _, first = np.unique(digests, return_index=True)
        self._captions = first[is_looked_for[first]]
        self._digests = digests[self._captions]
        self._shingles = _cut([letters[number] for number in self._captions])
        self._rare, self._rare_captions = _rarest(self._shingles)

    def find(self, texts: Sequence[str]) -> list[Match]:
        """Return the best match of each text that has one, in the order of the texts."""
        letters = [letters_of(text) for text in texts]
        matches = {}
        for text, place in enumerate(_lookup(self._digests, _digests(letters))):
            if place >= 0:
                matches[text] = Match(text, int(self._captions[place]), "equal", 1.0)

        others = [text for text in range(len(texts)) if text not in matches]
        for match in self._find_near([letters[text] for text in others]):
            text = others[match.text]
            best = matches.get(text)
            if best is None or match.share > best.share:
                matches[text] = match._replace(text=text)
        return [matches[text] for text in sorted(matches)]

    def _find_near(self, letters: list[str]) -> Iterable[Match]:
        """Yield the `similar` and `contains` matches of texts, several of one text too."""
        shingles = _cut(letters)
        texts, captions = self._candidates(shingles)
        for start in range(0, len(texts), _PAIRS_AT_ONCE):
            some = slice(start, start + _PAIRS_AT_ONCE)
            n_common = _count_common(shingles, texts[some], self._shingles, captions[some])
            n_own = shingles.counts[texts[some]]
            n_asked = self._shingles.counts[captions[some]]
            jaccard = n_common / (n_own + n_asked - n_common)
            contained = n_common / n_asked
            is_similar = jaccard >= _SIMILAR
            contains = (contained >= _CONTAINED) & (n_asked >= _LEAST_CONTAINED)
            for pair in np.flatnonzero(is_similar | contains):
                kind, share = ("similar", jaccard) if is_similar[pair] else ("contains", contained)
                caption = self._captions[captions[start + pair]]
                yield Match(int(texts[start + pair]), int(caption), kind, float(share[pair]))

    def _candidates(self, shingles: _Shingles) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs of a text and a caption that share a rare shingle and may be near by their lengths."""
        # The postings of a shingle are `rare[first : last]`.
        first = np.searchsorted(self._rare, shingles.hashes, "left")
        last = np.searchsorted(self._rare, shingles.hashes, "right")
        n_postings = last - first
        texts = np.repeat(shingles.owners, n_postings)
        # first [3, 8], n_postings [2, 1] -> places 3 4 8
        ends = np.cumsum(n_postings)
        offsets = np.arange(len(texts)) - np.repeat(ends - n_postings, n_postings)
        places = np.repeat(first, n_postings) + offsets
        captions = self._rare_captions[places]

        is_long_enough = shingles.counts[texts] >= _SIMILAR * self._shingles.counts[captions]
        pairs = np.stack([texts[is_long_enough], captions[is_long_enough]])
        texts, captions = np.unique(pairs, axis=1)
        return texts, captions


def _width(letters: str) -> int:
    """Return the number of characters, of which those that fill a square count twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in letters)


def _digests(letters: Sequence[str]) -> np.ndarray:
    """Return a hash of 64 bits of each text."""
    # A text may hold half of a pair of surrogates, which UTF-8 has no bytes for.
    digests = (xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) for text in letters)
    return np.fromiter(digests, np.uint64, len(letters))


def _lookup(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the place of each value in an ordered array; -1 where it is not there."""
    if len(ordered) == 0:
        return np.full(len(values), -1)
    places = np.searchsorted(ordered, values)
    places[places == len(ordered)] = 0
    return np.where(ordered[places] == values, places, -1)


def _cut(letters: Sequence[str]) -> _Shingles:
    """Return the distinct shingles of each text; a text of fewer characters than a shingle has none."""
    joined = "".join(letters).encode("utf-32-le", "surrogatepass")
    characters = np.frombuffer(joined, np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, letters), np.int64, len(letters))
    owners = np.repeat(np.arange(len(letters)), lengths)

    # The hash of characters a b c d is spread(((a * STEP + b) * STEP + c) * STEP + d), modulo 2^64.
    n_places = max(0, len(characters) - _SHINGLE + 1)
    hashes = np.zeros(n_places, np.uint64)
    for offset in range(_SHINGLE):
        hashes = hashes * _STEP + characters[offset : offset + n_places]
    is_within_text = owners[:n_places] == owners[len(owners) - n_places :]
    hashes = _spread(hashes[is_within_text])
    owners = owners[:n_places][is_within_text]

    # Sort by text, then by hash, and drop repetitions.
    order = np.lexsort([hashes, owners])
    hashes, owners = hashes[order], owners[order]
    is_new = np.ones(len(hashes), bool)
    is_new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    starts = np.searchsorted(owners[is_new], np.arange(len(letters) + 1))
    return _Shingles(hashes[is_new], starts)


def _spread(hashes: np.ndarray) -> np.ndarray:
    """Spread hashes over all 64 bits, as splitmix64 does."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * _SPREAD[0]
    hashes = (hashes ^ (hashes >> np.uint64(27))) * _SPREAD[1]
    return hashes ^ (hashes >> np.uint64(31))


def _rarest(shingles: _Shingles) -> tuple[np.ndarray, np.ndarray]:
    """Return the rarest shingles of each text, sorted, and the number of the text of each.

    As many are taken that a text with `_SIMILAR` of all shingles has at least one of these: three of ten,
    since eight of ten may miss two.
    """
    _, kinds, frequencies = np.unique(shingles.hashes, return_inverse=True, return_counts=True)
    owners = shingles.owners
    # By text, the rarest first.
    order = np.lexsort([shingles.hashes, frequencies[kinds], owners])
    rank = np.arange(len(order)) - shingles.starts[owners]
    n_needed = np.ceil(_SIMILAR * shingles.counts - 1e-9)
    n_taken = shingles.counts - n_needed + 1
    taken = order[rank < n_taken[owners]]

    hashes = shingles.hashes[taken]
    by_hash = np.argsort(hashes, kind="stable")
    return hashes[by_hash], owners[taken][by_hash].astype(np.int32)


def _count_common(one: _Shingles, texts: np.ndarray, other: _Shingles, captions: np.ndarray) -> np.ndarray:
    """Return how many shingles text `texts[i]` of `one` and text `captions[i]` of `other` have in common."""
    # A shingle of a text becomes one number of both, so that one sorted array holds those of all texts.
    of_texts = np.sort(_of_owner(one.hashes, one.owners))

    # All shingles of caption 0 of the pairs, then all of caption 1, ...: starts 5, 9 and counts 2, 3 give
    # places 5 6 9 10 11.
    counts = other.counts[captions]
    pairs = np.repeat(np.arange(len(captions)), counts)
    ends = np.cumsum(counts)
    places = np.arange(len(pairs)) + np.repeat(other.starts[captions] - (ends - counts), counts)
    wanted = _of_owner(other.hashes[places], texts[pairs])

    is_common = _lookup(of_texts, wanted) >= 0
    return np.bincount(pairs[is_common], minlength=len(captions))


def _of_owner(hashes: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Return a hash of each shingle and the number of the text that has it."""
    return _spread(hashes + owners.astype(np.uint64) * _STEP)


__all__ = ["CaptionIndex", "Match", "letters_of"]
