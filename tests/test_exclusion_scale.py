"""How many captions and pictures of training are looked up in a second, among as many tests as we know."""

import random
import resource
import string
import sys
import time
from io import BytesIO

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from PIL import Image as PillowImage

from training.data.exclusion import CaptionIndex

pytestmark = pytest.mark.slow
# About as many captions as all of our tasks have.
N_TESTS = 350_000
N_TEXTS = 1_000_000
N_PICTURES = 2000
N_PLANTED = 200
ALPHABETS = {
    "en": string.ascii_lowercase,
    "de": string.ascii_lowercase + "äöüß",
    "ru": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "hi": "कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहािीुूेैोौ",
    "zh": "".join(chr(0x4E00 + number) for number in range(3000)),
}


def made_up_captions(language, number, seed):
    """Make up captions of 6 to 15 words, of which a few are as common as in a language."""
    draw = random.Random(language)
    longest = 3 if language == "zh" else 10
    words = []
    for _ in range(20_000):
        words.append("".join(draw.choices(ALPHABETS[language], k=draw.randint(1, longest))))
    words = np.array(words)
    draws = np.random.default_rng(seed)
    # Word k comes with a probability of about 1 / (k + 3).
    chances = 1 / np.arange(3, 20_003)
    lengths = draws.integers(6, 16, number)
    drawn = draws.choice(words, lengths.sum(), p=chances / chances.sum())
    space = "" if language == "zh" else " "
    return [space.join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]


def test_a_million_captions_in_five_languages():
    """Print the captions a second of one core, and the memory; `pytest -s` shows them."""
    tests, texts = [], []
    for language in ALPHABETS:
        tests += made_up_captions(language, N_TESTS // len(ALPHABETS), 1)
        texts += made_up_captions(language, N_TEXTS // len(ALPHABETS), 2)
    draw = random.Random(3)
    draw.shuffle(texts)
    hidden = draw.sample(range(N_TEXTS), N_PLANTED)
    for text, number in zip(hidden, draw.sample(range(N_TESTS), N_PLANTED)):
        texts[text] = f"{tests[number].upper()} !"

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    index = CaptionIndex(tests)
    seconds_of_index = time.process_time() - start
    start = time.process_time()
    found = {match.text for match in index.find(texts)}
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1000  # in kB on Linux
    sys.stdout.write(
        f"\n{N_TEXTS / seconds:,.0f} captions a second, among {N_TESTS:,} of tests, which took "
        f"{seconds_of_index:.0f} s to index; {grown:,} MB\n"
    )
    assert found >= set(hidden)
    assert len(found) - N_PLANTED < N_TEXTS / 1000


def test_pictures():
    """Print the pictures a second of one core: decoded and hashed, and looked up among 60,000 hashes."""
    pictures = pytest.importorskip("training.data.exclusion.pictures", exc_type=ImportError)
    draws = np.random.default_rng(0)
    files = []
    for _ in range(N_PICTURES):
        noise = PillowImage.fromarray(draws.integers(0, 256, (24, 32, 3), np.uint8))
        buffer = BytesIO()
        noise.resize((512, 384), PillowImage.Resampling.BICUBIC).save(buffer, "jpeg", quality=90)
        files.append({"bytes": buffer.getvalue(), "path": None})
    rows = Dataset.from_dict({"image": files}, Features({"image": Image()}))
    start = time.process_time()
    hashes = pictures.hash_rows(rows)
    seconds_of_hashing = time.process_time() - start

    tests = [draws.bytes(len(hashes[0][0])) for _ in range(60_000)]
    index = pictures.PictureIndex(tests)
    start = time.process_time()
    assert index.find([of_row[0] for of_row in hashes]) == []
    seconds = time.process_time() - start
    sys.stdout.write(
        f"\n{N_PICTURES / seconds_of_hashing:,.0f} pictures of 512 x 384 pixels decoded and hashed a second; "
        f"{N_PICTURES / seconds:,.0f} looked up a second among 60,000\n"
    )
