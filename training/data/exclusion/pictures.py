"""Find pictures of tests among pictures of training, also re-encoded and resized ones, by perceptual hashes.

The hash of a picture has 512 bits: pHash, the signs of its 256 lowest frequencies, and dHash, whether each of
256 places is brighter than the one before it, both of `imagehash`. Two pictures are the same where at most
`_MOST_BITS` differ. Each half makes up for the other: pHash is noise where a picture is its own mirror image,
and dHash is alike for different things on one ground.

Pictures were saved as JPEG of quality 30 to 95, at their own size, half and twice it, and looked for:

| | pictures | found | pairs of others | found wrongly |
|---|---|---|---|---|
| photographs and drawings of objects, 64 to 400 pixels | 474 | 99.2 to 100 % | 112,101 | 24, nearly equal |
| parts of three photographs, 80 to 160 pixels | 130 | 98.5 to 100 % | 8,906 | none |
| scenes of the miniature, 32 pixels, not halved | 300 | 99.3 to 100 % | 1,750,000 | 17 |

The first are Debian's tuxpaint-stamps-default 2022.06.04. Whole photographs of 600 pixels differ by 13 bits
at most. Of pictures whose edges were cropped by 3 % of the width and height 98.5 to 100 % are found, of those
by 5 % about 80 %, by 10 % about 6 %: crops are what this misses. Of tests the central square is looked for
too. Parts of a clear sky and other pictures almost without detail are found less often, 71 to 100 %.

A picture of one colour has no hash, and is not looked for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from datasets.fingerprint import Hasher
from PIL.Image import Image as PillowImage

from common.extras import of_extra
from common.images import decode_image
from modeling_altclip.images_altclip import read_image

from ..images import stats_of_files

with of_extra("exclusion"):
    import imagehash

_MOST_BITS = 104
_SIDE = 16  # of either half
_N_BYTES = 2 * _SIDE * _SIDE // 8
_LEAST_CONTRAST = 8  # between the darkest and the brightest of 256 grey values
_BYTES_AT_ONCE = 2**26  # of compared hashes


class _PictureMatch(NamedTuple):
    """A picture of training that is in a test.

    - `picture`: its number among the hashes that were given.
    - `test`: the number of the test's hash, in the order in which the index was given them.
    - `n_bits`: how many bits differ.
    """

    picture: int
    test: int
    n_bits: int


def hash_picture(picture: PillowImage) -> bytes | None:
    """Return the perceptual hash of a picture, 64 bytes; None if it is of one colour.

    Transparency is shown on white, as the models see it.

    Example:

    ```python
    >>> from PIL import Image
    >>> from training.data.exclusion.pictures import hash_picture

    >>> ramp = Image.linear_gradient("L")
    >>> hash_picture(ramp) == hash_picture(ramp.resize((100, 100))), hash_picture(Image.new("L", (9, 9)))
    (True, None)
    ```
    """
    grey = read_image(picture).convert("L")
    darkest, brightest = grey.getextrema()
    if brightest - darkest < _LEAST_CONTRAST:
        return None
    frequencies = imagehash.phash(grey, hash_size=_SIDE).hash
    steps = imagehash.dhash(grey, hash_size=_SIDE).hash
    return np.packbits([frequencies, steps]).tobytes()


def hash_rows(rows: Dataset, *, squares: bool = False) -> list[list[bytes]]:
    """Return the hashes of each row's `image`; none for one that is missing, cannot be decoded or is of one
    colour.

    `datasets` caches them for the next run.

    Args:
        squares: hash the central square of a picture as well, which is what many training sets keep of it.
    """
    encoded = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    # The fingerprint of rows does not change with the files that they name; the cache key needs both.
    key = [rows._fingerprint, "perceptual hashes", squares, stats_of_files(encoded)]
    hashed = encoded.map(
        _hash_batch,
        batched=True,
        batch_size=100,
        remove_columns=["image"],
        fn_kwargs={"squares": squares},
        features=Features({"hashes": List(Value("binary"))}),
        new_fingerprint=Hasher.hash(key),
        desc="Hashing images",
    )
    return hashed["hashes"][:]


def _hash_batch(batch: dict, squares: bool) -> dict:
    return {"hashes": [_hash_encoded(image, squares) for image in batch["image"]]}


def _hash_encoded(image: dict | None, squares: bool) -> list[bytes]:
    """Return the hashes of an undecoded image, `{"bytes", "path"}`."""
    if image is None:
        return []
    try:
        picture = read_image(decode_image(image))
    except Exception:  # decoders raise whatever they like; training skips the row and reports it
        return []
    hashes = [hash_picture(picture)]
    if squares and picture.width != picture.height:
        hashes.append(hash_picture(_central_square(picture)))
    return [hash for hash in hashes if hash is not None]


def _central_square(picture: PillowImage) -> PillowImage:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


class PictureIndex:
    """Hashes of the pictures of tests, in which pictures of training are looked up.

    Every hash is compared with every other, which is quicker than decoding a picture: 1 ms for 10,000.

    Args:
        hashes: of tests' pictures, as `hash_picture` returns them.

    Example:

    ```python
    >>> from PIL import Image
    >>> from training.data.exclusion.pictures import PictureIndex, hash_picture

    >>> of_test = [hash_picture(Image.linear_gradient("L")), hash_picture(Image.radial_gradient("L"))]
    >>> small = Image.radial_gradient("L").resize((64, 64))
    >>> match, = PictureIndex(of_test).find([hash_picture(small)])
    >>> match.test, match.n_bits < 104
    (1, True)
    ```
    """

    def __init__(self, hashes: Sequence[bytes]):
        self._words = _as_words(hashes)

    def find(self, hashes: Sequence[bytes]) -> list[_PictureMatch]:
        """Return the nearest match of each picture that has one, in the order of the pictures."""
        if len(self._words) == 0:
            return []
        matches = []
        n_at_once = max(1, _BYTES_AT_ONCE // self._words.nbytes)
        for start in range(0, len(hashes), n_at_once):
            words = _as_words(hashes[start : start + n_at_once])
            # (pictures, 1, words) with (tests, words) -> (pictures, tests)
            differing = np.bitwise_count(words[:, None] ^ self._words)
            n_bits = differing.sum(axis=-1, dtype=np.int64)
            nearest = n_bits.argmin(axis=1)
            fewest = n_bits.min(axis=1)
            for number in np.flatnonzero(fewest <= _MOST_BITS):
                matches.append(_PictureMatch(start + int(number), int(nearest[number]), int(fewest[number])))
        return matches


def _as_words(hashes: Sequence[bytes]) -> np.ndarray:
    """Return hashes as words of 64 bits, `(hashes, 8)`."""
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(len(hashes), _N_BYTES // 8)


__all__ = ["PictureIndex", "hash_picture", "hash_rows"]
