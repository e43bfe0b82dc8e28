"""`altclip index` and `altclip search`: what is found, what changes, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from datasets.search import FaissIndex
from PIL import Image
from transformers import AutoModel, AutoProcessor

from altclip.command import main as altclip
from deploy.embed.embedder import as_fixed_lists
from deploy.search import contents, nearest
from deploy.search.index import ImageIndex, embed_query
from deploy.search.index_job import IndexArguments
from deploy.search.rows import open_rows, write_part
from deploy.search.search_job import SearchArguments
from modeling_altclip import embed_images, embed_texts

from .conftest import ROOT

# Its embeddings have 8 values.
TINY = str(ROOT / "tests/fixtures/v0.1.0/model")
TEXT = "红苹果"


@pytest.fixture(autouse=True)
def words(monkeypatch):
    """Restore `sys.argv`, into which the command puts the name of the job."""
    monkeypatch.setattr("sys.argv", ["altclip"])


@pytest.fixture(scope="module")
def tiny():
    return AutoModel.from_pretrained(TINY), AutoProcessor.from_pretrained(TINY)


def draw(path, seed):
    """Save a picture of noise, which is like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    """Eight pictures, two of them equal, and two files that are none."""
    folder = tmp_path / "photos"
    for number in range(6):
        draw(folder / f"{number}.png", number)
    draw(folder / "sub/猫.png", 6)
    shutil.copy(folder / "0.png", folder / "sub/copy of 0.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "empty.jpg").touch()
    return folder


@pytest.fixture
def index(photos, tmp_path, capsys):
    altclip(["index", str(photos), "--model_name_or_path", TINY, "--output_dir", str(tmp_path / "index")])
    printed = capsys.readouterr().out
    assert "8 added, 0 changed, 0 removed; 7 embedded." in printed
    assert "2 cannot be read:\n  broken.png: Pillow knows no such format\n  empty.jpg: " in printed
    return tmp_path / "index"


def again(photos, index, capsys, *words):
    altclip(["index", str(photos), "--output_dir", str(index), *words])
    return capsys.readouterr().out


def refused(capsys, words):
    """Return the one line by which a command is refused."""
    with pytest.raises(SystemExit) as end:
        altclip(words)
    printed = end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err
    assert "Traceback" not in printed
    return printed.strip()


def test_a_search_finds_what_embeddings_are_nearest(photos, index, tiny):
    opened = ImageIndex(index)
    names = opened.rows["id"]
    images = embed_images(*tiny, [str(photos / name) for name in names])
    text = embed_texts(*tiny, [TEXT])[0]
    picture = embed_images(*tiny, [str(photos / "3.png")])[0]
    both = torch.nn.functional.normalize(0.7 * text + 0.3 * picture, dim=-1)
    given = {"image": str(photos / "3.png"), "text": TEXT}
    for query, wanted in (
        (embed_query(*tiny, text=TEXT), text),
        (embed_query(*tiny, image=given["image"]), picture),
        (embed_query(*tiny, **given, text_weight=0.7), both),
    ):
        found = opened.search(query, k=100)
        scores = {one.id: one.score for one in found}
        expected = dict(zip(names, (images @ wanted).tolist()))
        assert scores == pytest.approx(expected, abs=1e-3)  # float16
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert opened.search(embed_query(*tiny, image=given["image"]), k=1)[0].id == "3.png"
    # A fixed-size list, in the type that is asked for.
    assert opened.rows.features["embedding"].length == 8
    assert opened.rows.features["embedding"].feature == Value("float16")


def test_the_commands_print_a_table_and_draw_a_sheet(photos, index, capsys, tmp_path):
    sheet = tmp_path / "found.png"
    altclip(["search", str(index), TEXT, "--top", "7", "--sheet", str(sheet)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rank  score  picture"
    assert [line.split()[0] for line in lines[1:8]] == list("1234567")
    assert lines[-1].startswith("Searched 8 pictures exactly in ")
    with Image.open(sheet) as drawn:
        assert drawn.size == (5 * 192, 2 * (192 + 22))

    # One that has changed is not shown as if it were what was found.
    for number in range(6):
        draw(photos / f"{number}.png", 100 + number)
    altclip(["search", str(index), "--image", str(photos / "sub/猫.png"), "--sheet", str(sheet)])
    printed = capsys.readouterr().out
    assert printed.splitlines()[1] == "   1  1.000  sub/猫.png"
    assert "6 of them are gone or have changed: " in printed


def test_an_update_embeds_new_contents_alone(photos, index, capsys, monkeypatch):
    rows = ImageIndex(index).record.rows
    assert "0 added, 0 changed, 0 removed; 0 embedded." in again(photos, index, capsys)
    assert ImageIndex(index).record.rows == rows  # nothing was written

    embedded = []
    embed = contents.embed_readable
    monkeypatch.setattr(contents, "embed_readable", lambda *given: embedded.append(given[2]) or embed(*given))
    draw(photos / "new.png", 7)
    draw(photos / "1.png", 8)
    (photos / "2.png").rename(photos / "moved.png")
    (photos / "3.png").unlink()
    (photos / "broken.png").unlink()
    printed = again(photos, index, capsys)
    assert "2 added, 1 changed, 2 removed; 2 embedded." in printed
    assert "1 cannot be read:" in printed
    # Two new contents, and the file that is none is tried again.
    assert [len(readers) for readers in embedded] == [3]
    opened = ImageIndex(index)
    assert len(opened) == 8
    assert {"new.png", "moved.png"} < set(opened.rows["id"])
    # No rows of before are left.
    assert {path.name for path in index.iterdir()} == {".lock", "index.json", opened.record.rows}


def test_a_batch_of_broken_pictures_ends_nothing(photos, index, capsys):
    for name in "xyz":
        (photos / f"{name}.png").write_bytes(name.encode())
    printed = again(photos, index, capsys)
    assert "0 added, 0 changed, 0 removed; 0 embedded." in printed
    assert "5 cannot be read:" in printed
    assert "and 2 more, see `broken`" in printed
    assert len(ImageIndex(index).record.broken) == 5


def test_what_changes_meanwhile_is_counted(photos, index, capsys, monkeypatch):
    draw(photos / "new.png", 7)
    embed = contents.Contents.embed

    def late(*given):
        draw(photos / "new.png", 8)
        return embed(*given)

    monkeypatch.setattr(contents.Contents, "embed", late)
    assert "new.png: it has changed since it was read: index again" in again(photos, index, capsys)


def test_a_killed_update_leaves_the_old_index_and_resumes(photos, index, capsys, monkeypatch, tiny):
    for number in range(10, 15):
        draw(photos / f"{number}.png", number)
    monkeypatch.setattr(contents, "_NEW_LENGTH", 2)
    written = []

    def write(path, *given):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write_part(path, *given)

    monkeypatch.setattr(contents, "write_part", write)
    with pytest.raises(KeyboardInterrupt):
        again(photos, index, capsys)
    assert len(ImageIndex(index)) == 8

    monkeypatch.setattr(contents, "write_part", write_part)
    capsys.readouterr()
    assert "5 added, 0 changed, 0 removed; 1 embedded." in again(photos, index, capsys)
    opened = ImageIndex(index)
    assert not list(index.glob("unfinished-*"))
    for number in (10, 12, 14):
        query = embed_query(*tiny, image=str(photos / f"{number}.png"))
        assert opened.search(query, 1)[0].id == f"{number}.png"


@pytest.fixture
def other_weights(tiny, tmp_path):
    """Save the model with one weight that is another."""
    model = AutoModel.from_pretrained(TINY)
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 0.1
    model.save_pretrained(tmp_path / "other")
    tiny[1].save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


def test_other_weights_are_refused(photos, index, other_weights, capsys, tmp_path):
    for words in (
        ["search", str(index), TEXT, "--model_name_or_path", other_weights],
        ["index", str(photos), "--output_dir", str(index), "--model_name_or_path", other_weights],
    ):
        assert f"made by {TINY!r}: their weights differ. Give the model" in refused(capsys, words)
    # The same weights elsewhere are the same model.
    shutil.copytree(TINY, tmp_path / "copy")
    altclip(["search", str(index), TEXT, "--model_name_or_path", str(tmp_path / "copy")])


def test_other_pictures_are_refused(photos, index, capsys, tmp_path):
    moved = tmp_path / "moved"
    photos.rename(moved)
    words = ["index", str(moved), "--output_dir", str(index)]
    assert "or --other_source if the pictures were moved" in refused(capsys, words)
    assert "0 added, 0 changed, 0 removed; 0 embedded." in again(moved, index, capsys, "--other_source")
    assert ImageIndex(index).record.source["path"] == str(moved)


def test_a_dataset_is_indexed_by_its_split(photos, capsys, tmp_path):
    paths = [*(str(photos / f"{number}.png") for number in range(3)), str(photos / "broken.png")]
    images = [{"bytes": open(path, "rb").read(), "path": None} for path in paths] + [None]
    rows = Dataset.from_dict({"image": images}, Features({"image": ImageFeature()}))
    rows.to_parquet(tmp_path / "dataset/test.parquet")
    words = ["--split", "test", "--model_name_or_path", TINY, "--output_dir", str(tmp_path / "index")]
    altclip(["index", str(tmp_path / "dataset"), *words, "--dtype", "float32", "--truncate_dim", "4"])
    printed = capsys.readouterr().out
    assert "3 added" in printed
    assert "2 cannot be read:\n  4: the row has no picture\n  3: Pillow knows no such format" in printed

    altclip(["search", str(tmp_path / "index"), "--image", paths[1], "--sheet", str(tmp_path / "found.png")])
    assert "   1  1.000  1\n" in capsys.readouterr().out
    opened = ImageIndex(tmp_path / "index")
    assert opened.rows.features["embedding"].length == 4
    assert opened.rows.features["embedding"].feature == Value("float32")


@pytest.mark.parametrize(
    "words,message",
    [
        (["search", "{index}"], "text and image are missing"),
        (["search", "{index}", "a", "--text_weight", "2"], "text_weight is 2.0: give a number from 0 to 1"),
        (["search", "{index}", "a", "--top", "0"], "top is 0"),
        (["search", "{index}", "a", "--sheet", "found.jpg"], "give a file that ends in .png"),
        (["search", "{index}", "--image", "gone.png"], "gone.png"),
        (["search", "{index}", " "], "text is blank"),
        (["search", "{photos}", "a"], "is no index: make one with `altclip index FOLDER"),
        (["index", "nowhere", "--output_dir", "{index}"], "or --other_source"),
        (["index", "{photos}", "--output_dir", "new"], "missing --model_name_or_path"),
        (["index", "{photos}", "--output_dir", "{index}", "--dtype", "float32"], "was made with float16"),
        (
            ["index", "{photos}", "--output_dir", "{index}", "--compress", "true"],
            "needs at least 10,000 pict",
        ),
        (
            ["index", "x", "--output_dir", "new", "--model_name_or_path", TINY],
            "For a dataset give --split too",
        ),
        (["index", "x", "--output_dir", "new", "--batch_size", "0"], "batch_size is 0"),
        (["index", "x", "--output_dir", "new", "--dtype", "int8"], "choose from float16, float32"),
    ],
)
def test_bad_input_is_one_line(photos, index, capsys, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    printed = refused(capsys, [word.format(index=index, photos=photos) for word in words])
    assert message in printed
    assert not (tmp_path / "new").exists()
    assert len(ImageIndex(index)) == 8


def test_a_folder_of_broken_pictures_is_refused(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"no picture")
    words = ["--model_name_or_path", TINY, "--output_dir", str(tmp_path / "index")]
    printed = refused(capsys, ["index", str(tmp_path / "photos"), *words])
    assert "source: none of 1 pictures can be read, 'a.png' first: Pillow knows no such format" in printed


def test_damage_is_found(index, capsys):
    (part,) = index.glob("rows-*/data/part-*.arrow")
    content = bytearray(part.read_bytes())
    content[-100] ^= 1
    part.write_bytes(content)
    assert "is damaged: its bytes are not those that were written" in refused(
        capsys, ["search", str(index), "a"]
    )
    record = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps(record | {"rows": "../elsewhere"}))
    assert "'../elsewhere', no folder of an index" in refused(capsys, ["search", str(index), "a"])
    (index / "index.json").write_text(json.dumps({"rows": "x"}))
    assert "was written by another version, or is damaged" in refused(capsys, ["search", str(index), "a"])


@pytest.fixture
def many(tmp_path):
    """12,000 embeddings of 16 values around 300 centres, as rows of an index."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((300, 16))
    drawn = centres[generator.integers(300, size=12_000)] + 0.3 * generator.standard_normal((12_000, 16))
    drawn = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    ids = [str(row) for row in range(len(drawn))]
    lists = as_fixed_lists(drawn, "float32")
    write_part(tmp_path / "rows/data/part-00000.arrow", {"id": ids, "digest": ids, "embedding": lists}, 1)
    return tmp_path / "rows", drawn


def test_the_compressed_index_finds_nearly_what_the_exact_one_does(many, monkeypatch):
    folder, drawn = many
    queries = drawn[:50] + 0.01
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    exact = open_rows(folder, len(drawn))
    nearest.prepare_exact(exact)
    scores, numbers = nearest.find_exact(exact, queries, 10)
    expected = np.sort(queries @ drawn.T, axis=1)[:, ::-1][:, :10]
    np.testing.assert_allclose(scores, expected, atol=1e-5)

    compressed = open_rows(folder, len(drawn))
    nearest.compress(compressed, folder / "compressed.faiss")
    loaded = open_rows(folder, len(drawn))
    nearest.load_compressed(loaded, folder / "compressed.faiss")
    for rows in (compressed, loaded):
        found_scores, found = nearest.find_compressed(rows, queries, 10)
        # Scores are exact, and best first.
        np.testing.assert_allclose(found_scores, np.take_along_axis(queries @ drawn.T, found, 1), atol=1e-5)
        assert (np.diff(found_scores) <= 0).all()
        shares = [len(set(one) & set(other)) / 10 for one, other in zip(numbers, found)]
        assert np.mean(shares) > 0.8
    # 12,000 of 16 values take 2 bytes each and their numbers, not 64.
    assert (folder / "compressed.faiss").stat().st_size < 12_000 * 16
    assert 0.8 < nearest.measure_recall(loaded) <= 1
    # Without the exact comparison of more candidates much is missed, and the measure shows it.
    monkeypatch.setattr(nearest, "_COMPARED", 1)
    assert nearest.measure_recall(loaded) < 0.8


def test_a_query_does_not_copy_the_index(many, monkeypatch):
    """`Dataset.with_format` copies it: of 190 ms a query among a million pictures, faiss took 0.5."""
    folder, drawn = many
    rows = open_rows(folder, len(drawn))
    nearest.compress(rows, folder / "compressed.faiss")

    def refuse(self, memo):
        raise AssertionError("the index was copied")

    monkeypatch.setattr(FaissIndex, "__deepcopy__", refuse, raising=False)
    _, found = nearest.find_compressed(rows, drawn[:3], 10)
    assert found[:, 0].tolist() == [0, 1, 2]
    assert 0.8 < nearest.measure_recall(rows) <= 1


def test_every_flag_says_in_sentences_what_it_does():
    for arguments in (IndexArguments, SearchArguments):
        for field in arguments.__dataclass_fields__.values():
            assert field.metadata["help"].endswith(".")


def test_codes_divide_the_dimensions():
    assert [nearest._code_bytes(dim) for dim in (512, 768, 20, 7, 16)] == [64, 96, 2, 1, 2]
