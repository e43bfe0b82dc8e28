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
at most. Parts of a clear sky and other pictures almost without detail are found less often, 71 to 100 %.

A hash bears a crop of 3 %. Of tests, central crops of 94, 88 and 82 % are therefore looked for as well, and
these of the central square too, so that a picture of training is hashed once. 450 of the first pictures,
changed and then saved as JPEG of quality 75, of which are found, in %:

| changed | found | without these crops |
|---|---|---|
| JPEG of quality 30 to 95, WebP of 50 and 80, grey, stretched to a square | 100 | 100 |
| shorter side of 64 to 1024 pixels | 100 | 100 |
| central square; and of that, 224 of 256 pixels | 100; 100 | 100; 2 |
| central crop by 3, 5, 8, 10 % of width and height | 98, 98, 96, 97 | 95, 75, 26, 12 |
| central crop by 12, 15, 20 % | 100, 96, 94 | 4, 1, 0 |
| brighter by 1.3; a white strip over the lowest 10 % | 99; 99 | 99; 99 |
| **one corner kept, crop by 3, 5, 10 %** | 78, 10, 0 | 64, 5, 0 |
| **white border of 2, 5, 10 %; a black one** | 93, 20, 2; 83, 2, 0 | the same |
| **mirrored; turned by 90 degrees** | 4; 0 | the same |

What is in bold is missed. Mirrored tests in the index would find all of those, and ten times as many others.
Of 202,050 pairs of different pictures two are found wrongly, a flag in two colours and the letters E and F
(95 % interval: 0.0001 to 0.004 % of the pairs); without crops none is.

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
# Shares of width and height of a test's picture that are looked for, the whole first.
_CROPS = (1, 0.94, 0.88, 0.82)
_LEAST_CONTRAST = 8  # between the darkest and the brightest of 256 grey values
_WORDS_OF_HALF = 4  # of 64 bits
_BYTES_AT_ONCE = 2**26  # of compared words


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


def hash_rows(rows: Dataset, *, crops: bool = False) -> list[list[bytes]]:
    """Return the hashes of each row's `image`; none for one that is missing, cannot be decoded or is of one
    colour.

    `datasets` caches them for the next run.

    Args:
        crops: hash the central square of a picture as well, which is what many training sets keep of it, and
            the central crops of both.
    """
    encoded = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    # The fingerprint of rows does not change with the files that they name; the cache key needs both.
    key = [rows._fingerprint, "perceptual hashes", crops, stats_of_files(encoded)]
    hashed = encoded.map(
        _hash_batch,
        batched=True,
        batch_size=100,
        remove_columns=["image"],
        fn_kwargs={"crops": crops},
        features=Features({"hashes": List(Value("binary"))}),
        new_fingerprint=Hasher.hash(key),
        desc="Hashing images",
    )
    return hashed["hashes"][:]


def _hash_batch(batch: dict, crops: bool) -> dict:
    return {"hashes": [_hash_encoded(image, crops) for image in batch["image"]]}


def _hash_encoded(image: dict | None, crops: bool) -> list[bytes]:
    """Return the hashes of an undecoded image, `{"bytes", "path"}`."""
    if image is None:
        return []
    try:
        picture = read_image(decode_image(image))
    except Exception:  # decoders raise whatever they like; training skips the row and reports it
        return []
    parts = _central_crops(picture) if crops else [picture]
    hashes = [hash_picture(part) for part in parts]
    return [hash for hash in hashes if hash is not None]


def _central_crops(picture: PillowImage) -> list[PillowImage]:
    """Return a picture, its central square if it is none itself, and the central crops of both."""
    side = min(picture.size)
    parts = []
    for width, height in dict.fromkeys([picture.size, (side, side)]):
        for share in _CROPS:
            parts.append(_central_part(picture, round(share * width), round(share * height)))
    return parts


def _central_part(picture: PillowImage, width: int, height: int) -> PillowImage:
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


class PictureIndex:
    """Hashes of the pictures of tests, in which pictures of training are looked up.

    The first half of every hash is compared with every other, which is quicker than decoding a picture.

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
        # The first words of all hashes, then the second ones, ...: read one behind the other.
        self._of_half = np.ascontiguousarray(self._words[:, :_WORDS_OF_HALF].T)

    def find(self, hashes: Sequence[bytes]) -> list[_PictureMatch]:
        """Return the nearest match of each picture that has one, in the order of the pictures."""
        if len(self._words) == 0:
            return []
        nearest = {}
        n_at_once = max(1, _BYTES_AT_ONCE // self._of_half[0].nbytes)
        for start in range(0, len(hashes), n_at_once):
            words = _as_words(hashes[start : start + n_at_once])
            pictures, tests = self._near_by_half(words)
            n_bits = np.bitwise_count(words[pictures] ^ self._words[tests]).sum(axis=1, dtype=np.int64)
            for place in np.flatnonzero(n_bits <= _MOST_BITS):
                picture = start + int(pictures[place])
                match = _PictureMatch(picture, int(tests[place]), int(n_bits[place]))
                if picture not in nearest or match.n_bits < nearest[picture].n_bits:
                    nearest[picture] = match
        return [nearest[picture] for picture in sorted(nearest)]

    def _near_by_half(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs of a picture and a test whose first halves differ by few enough bits.

        Hashes of different pictures differ by about 128 of these 256, so that few are compared in full.
        """
        # All 256 bits are too many for eight, and become 0: such a pair is compared in full, and is not near.
        n_bits = np.zeros((len(words), len(self._words)), np.uint8)
        for own, of_tests in zip(words.T, self._of_half):
            n_bits += np.bitwise_count(own[:, None] ^ of_tests)
        return np.nonzero(n_bits <= _MOST_BITS)


def _as_words(hashes: Sequence[bytes]) -> np.ndarray:
    """Return hashes as words of 64 bits, `(hashes, 8)`."""
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(len(hashes), _N_BYTES // 8)


__all__ = ["PictureIndex", "hash_picture", "hash_rows"]
