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
looked for: it is everybody's. On request texts that equal it are found. Characters that fill a square, such
as Chinese ones, count twice.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

_SHINGLE = 4  # characters
_SIMILAR = 0.8  # Jaccard's share of shingles
_CONTAINED = 0.9  # share of the shingles of a test's caption
_LEAST_CONTAINED = 25  # shingles of a test's caption that may be part of a longer text
_SHORTEST = 8  # characters of a test's caption
_TEXTS_AT_ONCE = 1024  # whose shingles stay in a processor's cache
_PAIRS_AT_ONCE = 20_000  # pairs of captions whose shingles are compared at a time
_N_CODES = 0x110000  # of Unicode
# A shingle's hash has 48 bits, so that one number of 64 also has its text's, among those looked up at once.
_HASH_BITS = np.uint64(48)
_HASH_MASK = np.uint64(2**48 - 1)
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


class _Letters(NamedTuple):
    """The letters of texts as code points: those of text i are `codes[starts[i] : starts[i + 1]]`."""

    codes: np.ndarray
    starts: np.ndarray

    def n_letters(self, text: int) -> int:
        """Return the number of letters of a text."""
        return int(self.starts[text + 1] - self.starts[text])

    def is_short(self, text: int) -> bool:
        """Check whether a text has too few letters to look for; those that fill a square count twice."""
        letters = self.codes[self.starts[text] : self.starts[text + 1]]
        if len(letters) >= _SHORTEST:
            return False
        n_wide = sum(unicodedata.east_asian_width(chr(code)) in "WF" for code in letters)
        return len(letters) + n_wide < _SHORTEST


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
    return _read_letters([text]).codes.tobytes().decode("utf-32-le", "surrogatepass")


class CaptionIndex:
    """Captions of tests, as hashes, in which captions of training are looked up.

    A text that is `similar` to a caption or `contains` it has at least 0.8 of the caption's shingles, and so
    one of any fifth of them. The rarest fifth of each caption is indexed. How many of these a text has to
    have follows from both lengths, so that few captions have to be compared.

    `n_short` of the captions are too short to look for.

    Args:
        captions: of tests, in any languages.
        short: find texts that are equal to short captions, too.

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

    def __init__(self, captions: Iterable[str], *, short: bool = False):
        captions = list(captions)
        self.n_captions = len(captions)
        self.n_short = 0
        long = {}  # digest of a caption that is looked for -> its number; of equal ones the first is kept
        equal = {}  # the same of those that texts may be equal to
        for first, letters in _read_in_groups(captions):
            for place, digest in enumerate(_digests(letters).tolist()):
                if not letters.is_short(place):
                    long.setdefault(digest, first + place)
                    equal.setdefault(digest, first + place)
                elif short and letters.n_letters(place) > 0:
                    equal.setdefault(digest, first + place)
                else:
                    self.n_short += 1

        # In the order of their digests, in which texts are looked up.
        self._digests = np.sort(np.fromiter(equal, np.uint64, len(equal)))
        self._equal = np.array([equal[digest] for digest in self._digests.tolist()], np.int64)
        self._captions = np.array([long[digest] for digest in sorted(long)], np.int64)
        chosen = [captions[number] for number in self._captions.tolist()]
        self._shingles = _join([_cut(letters) for _, letters in _read_in_groups(chosen)])
        self._postings = _Postings(self._shingles)

    def find(self, texts: Sequence[str]) -> list[Match]:
        """Return the best match of each text that has one, in the order of the texts."""
        matches = []
        for first, letters in _read_in_groups(texts):
            found = self._find(letters)
            matches += [found[text]._replace(text=first + text) for text in sorted(found)]
        return matches

    def _find(self, letters: _Letters) -> dict[int, Match]:
        """Return the best match of each text of a group, by its number in the group."""
        matches = {}
        for text, place in enumerate(_lookup(self._digests, _digests(letters)).tolist()):
            if place >= 0:
                matches[text] = Match(text, int(self._equal[place]), "equal", 1.0)
        for match in self._find_near(letters):
            best = matches.get(match.text)
            if best is None or match.share > best.share:
                matches[match.text] = match
        return matches

    def _find_near(self, letters: _Letters) -> Iterator[Match]:
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
        """Return pairs of a text and a caption that may be near by their lengths and the indexed shingles."""
        texts, captions, n_found = self._postings.find(shingles)
        n_asked = self._shingles.counts[captions]
        n_needed = _least_common(shingles.counts[texts], n_asked)
        # Of ten shingles three are indexed. If nine are needed, one of the three may miss.
        n_indexed = self._postings.n_indexed[captions]
        is_enough = n_found >= n_indexed - (n_asked - n_needed)
        may_be_near = is_enough & (n_needed <= n_asked)
        return texts[may_be_near], captions[may_be_near]


class _Postings:
    """The rarest shingles of each caption, with the captions that have them.

    Postings are sorted by their shingles, and divided into buckets by the first bits of these: those of
    bucket b are `hashes[starts[b] : starts[b + 1]]`, one or two in the mean. To look up a bucket is several
    times as fast as a binary search.

    Args:
        shingles: of the captions.
    """

    def __init__(self, shingles: _Shingles):
        # Three of ten, since a text with eight of ten may miss two.
        n_needed = np.ceil(_SIMILAR * shingles.counts - 1e-9).astype(np.int64)
        self.n_indexed = shingles.counts - n_needed + 1
        hashes, captions = _rarest(shingles, self.n_indexed)

        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._captions = captions[order]
        n_bits = len(hashes).bit_length()
        self._shift = _HASH_BITS - np.uint64(n_bits)
        sizes = np.bincount(self._bucket(self._hashes), minlength=2**n_bits)
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)

    def find(self, shingles: _Shingles) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs of a text and a caption with a common shingle here, and how many there are."""
        buckets = self._bucket(shingles.hashes)
        first = self._starts[buckets]
        n_postings = self._starts[buckets + 1] - first
        places = _ranges(first, n_postings)
        is_same = self._hashes[places] == np.repeat(shingles.hashes, n_postings)
        texts = np.repeat(shingles.owners, n_postings)[is_same]
        captions = self._captions[places[is_same]]

        # A pair comes once for each of its shingles.
        pairs, n_found = np.unique((texts << 32) | captions, return_counts=True)
        return pairs >> 32, pairs & 0xFFFFFFFF, n_found

    def _bucket(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> self._shift).astype(np.int64)


def _least_common(n_own: np.ndarray, n_asked: np.ndarray) -> np.ndarray:
    """Return how many shingles a text and a caption have in common at least, if the caption is found in it.

    Args:
        n_own: the number of shingles of the text. n_asked: of the caption.

    Returns:
        The number; more than `n_asked` where it cannot be found by any number.
    """
    never = n_asked + 1
    # Jaccard's share of common shingles c is c / (n_own + n_asked - c).
    similar = np.ceil(_SIMILAR / (1 + _SIMILAR) * (n_own + n_asked) - 1e-9)
    similar = np.where(similar <= n_own, similar, never)
    contained = np.ceil(_CONTAINED * n_asked - 1e-9)
    contained = np.where((contained <= n_own) & (n_asked >= _LEAST_CONTAINED), contained, never)
    return np.minimum(similar, contained)


def _rarest(shingles: _Shingles, n_indexed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the `n_indexed` rarest shingles of each text, and the number of the text of each."""
    # How common a shingle is, is counted by the first 22 bits of its hash, which few share.
    buckets = (shingles.hashes >> np.uint64(26)).astype(np.int64)
    frequencies = np.bincount(buckets, minlength=1)[buckets]
    owners = shingles.owners
    # By text, the rarest first.
    order = np.lexsort([frequencies, owners])
    rank = np.arange(len(order)) - shingles.starts[owners]
    taken = order[rank < n_indexed[owners]]
    return shingles.hashes[taken], owners[taken]


# ---- Letters and their shingles ----


def _read_in_groups(texts: Sequence[str]) -> Iterator[tuple[int, _Letters]]:
    """Yield the number of the first text of each group, and the letters of the group."""
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        yield first, _read_letters(texts[first : first + _TEXTS_AT_ONCE])


def _read_letters(texts: Sequence[str]) -> _Letters:
    """Return the letters of texts."""
    folded = [_fold(text) for text in texts]
    # A text may hold half of a pair of surrogates, which is no letter.
    joined = "".join(folded).encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(joined, np.uint32)
    is_letter = _is_letter()[codes]
    # Of the characters before each text as many are left out.
    n_before = np.concatenate([[0], np.cumsum(is_letter)])
    lengths = np.fromiter(map(len, folded), np.int64, len(folded))
    starts = n_before[np.concatenate([[0], np.cumsum(lengths)])]
    return _Letters(codes[is_letter], starts)


def _fold(text: str) -> str:
    """Return a text in NFKC and without case."""
    if text.isascii():
        return text.lower()
    # Case folding may undo NFKC, so that it is done twice.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@cache
def _is_letter() -> np.ndarray:
    """Return of each code point whether it is compared: of letters, accents and digits."""
    # Vowel signs of Hindi and Thai are marks, which are no alphanumeric characters.
    characters = map(chr, range(_N_CODES))
    kept = (letter.isalnum() or unicodedata.category(letter)[0] == "M" for letter in characters)
    return np.fromiter(kept, bool, _N_CODES)


def _digests(letters: _Letters) -> np.ndarray:
    """Return a hash of 64 bits of each text."""
    content = memoryview(letters.codes).cast("B")
    bounds = (4 * letters.starts).tolist()
    digests = (xxh3_64_intdigest(content[start:end]) for start, end in pairwise(bounds))
    return np.fromiter(digests, np.uint64, len(bounds) - 1)


def _lookup(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the place of each value in an ordered array; -1 where it is not there."""
    if len(ordered) == 0:
        return np.full(len(values), -1)
    places = np.searchsorted(ordered, values)
    places[places == len(ordered)] = 0
    return np.where(ordered[places] == values, places, -1)


def _cut(letters: _Letters) -> _Shingles:
    """Return the distinct shingles of each text; a text of fewer characters than a shingle has none."""
    characters = letters.codes.astype(np.uint64)
    n_texts = len(letters.starts) - 1
    owners = np.repeat(np.arange(n_texts, dtype=np.uint64), np.diff(letters.starts))

    # The hash of characters a b c d is spread(((a * STEP + b) * STEP + c) * STEP + d), modulo 2^64.
    n_places = max(0, len(characters) - _SHINGLE + 1)
    hashes = np.zeros(n_places, np.uint64)
    for offset in range(_SHINGLE):
        hashes = hashes * _STEP + characters[offset : offset + n_places]
    hashes = _spread(hashes) & _HASH_MASK
    is_within_text = owners[:n_places] == owners[len(owners) - n_places :]

    # Sorted by text, then by hash, and without repetitions.
    numbers = np.sort(((owners[:n_places] << _HASH_BITS) | hashes)[is_within_text])
    is_new = np.ones(len(numbers), bool)
    is_new[1:] = numbers[1:] != numbers[:-1]
    numbers = numbers[is_new]
    starts = np.searchsorted(numbers, np.arange(n_texts, dtype=np.uint64) << _HASH_BITS)
    return _Shingles(numbers & _HASH_MASK, np.append(starts, len(numbers)))


def _join(groups: list[_Shingles]) -> _Shingles:
    """Return the shingles of several groups of texts as one."""
    hashes = np.concatenate([np.empty(0, np.uint64), *(group.hashes for group in groups)])
    counts = np.concatenate([[0], *(group.counts for group in groups)])
    return _Shingles(hashes, np.cumsum(counts))


def _spread(hashes: np.ndarray) -> np.ndarray:
    """Spread hashes over all 64 bits, as splitmix64 does."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * _SPREAD[0]
    hashes = (hashes ^ (hashes >> np.uint64(27))) * _SPREAD[1]
    return hashes ^ (hashes >> np.uint64(31))


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return places one range after the other: starts 5 9 and counts 2 3 -> 5 6 9 10 11."""
    ends = np.cumsum(counts, dtype=np.int64)
    n_places = int(counts.sum())
    return np.arange(n_places) + np.repeat(starts - (ends - counts), counts)


def _count_common(one: _Shingles, texts: np.ndarray, other: _Shingles, captions: np.ndarray) -> np.ndarray:
    """Return how many shingles text `texts[i]` of `one` and text `captions[i]` of `other` have in common."""
    # A shingle and its text become one number, so that one sorted array holds those of all texts.
    of_texts = _with_owner(one.hashes, one.owners)

    # All shingles of caption 0 of the pairs, then all of caption 1, ...
    counts = other.counts[captions]
    places = _ranges(other.starts[captions], counts)
    pairs = np.repeat(np.arange(len(captions)), counts)
    wanted = _with_owner(other.hashes[places], texts[pairs])

    is_common = _lookup(of_texts, wanted) >= 0
    return np.bincount(pairs[is_common], minlength=len(captions))


def _with_owner(hashes: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Return one number of each shingle and the number of its text, of a group."""
    return (owners.astype(np.uint64) << _HASH_BITS) | hashes


__all__ = ["CaptionIndex", "Match", "letters_of"]
