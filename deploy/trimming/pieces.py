"""Choose the pieces of a vocabulary that stay, such that the texts of a corpus are read as before.

A Unigram tokenizer (Kudo 2018, arXiv 1804.10959) gives each piece a score, its log probability, and reads a
text as the pieces with the largest sum. Viterbi's algorithm goes through the text from the left: at each
place it keeps the best way to get there, and of equal ones the first. A character that has no piece of its
own may also be read as unknown, for the score of the rarest piece less 10.

Let a text's way be the pieces that it is read as. Other pieces can be removed without any effect on it:

- The way stays possible, with the same score at each of its places, since all of its pieces stay.
- No other way to any place gets a larger score. Fewer pieces leave fewer ways. The one new way is to read as
  unknown a character whose own piece is removed; that piece's score was larger, on the same stretch of text.
- The score of an unknown character stays the same, because the rarest piece stays.

So at each place of the way its last piece still is the first of the best: what came before it and was worse
still is worse. The same holds for floating-point numbers, since rounding is monotonic: a score that was not
larger is not larger when it is rounded.

Pieces of a single character stay as well. SentencePiece gives each character of its pieces one, so that no
other text has an unknown character that it did not have before; it is read as more and shorter pieces.
"""

import re
from collections.abc import Set

_BYTE = re.compile("<0x[0-9A-F]{2}>")  # what an unknown character is made of, in vocabularies that have them


def choose_pieces(scores: dict[str, float], used: Set[str], n_most_frequent: int = 0) -> set[str]:
    """Return the pieces that stay.

    Args:
        scores: of all pieces without special tokens, `{"▁dog": -9.3}`.
        used: the pieces that the corpus is read as.
        n_most_frequent: also keep so many of the pieces with the largest scores.
    """
    by_score = sorted(scores, key=scores.__getitem__, reverse=True)
    # The score of an unknown character depends on the rarest piece. That of a piece which a user has defined
    # depends on the most frequent one, in some readers of these files, such as OpenVINO's.
    kept = {by_score[0], by_score[-1]}
    kept.update(by_score[:n_most_frequent])
    kept.update(used & scores.keys())
    kept.update(piece for piece in scores if len(piece) == 1 or _BYTE.fullmatch(piece))
    return kept


__all__ = ["choose_pieces"]
