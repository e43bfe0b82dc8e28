"""Pictures are downloaded from a table of addresses, within bounds, once each, and failures are counted.

A server at a loopback address stands for the web. Tests of a whole download need the environment that
`make download-env` creates.
"""

import json
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from common.errors import InputError
from common.images import decode_image
from common.origins import read_origins
from modeling_altclip import addresses_altclip
from training.data.captions import find_form, load_captioned, read_captions
from training.data.sources.loading import load_source
from training.data.sources.origin import find_origins
from training.data.streaming import open_files
from training.download.addresses import ADDRESSES, prepare, shard_path, to_web_address
from training.download.arguments import DownloadArguments
from training.download.bounded_img2dataset import INSIDE, TOO_LARGE, TOO_SLOW, install, is_inside
from training.download.outcome import kind_of, licence_of
from training.download.running import alone_in, check_no_proxy, find_python

from .conftest import ROOT
from .picture_server import KINDS, MAX_BYTES, PictureServer
from .source_replicas import N, write_source

ENVIRONMENT = ROOT / ".venv-download"
needs_environment = pytest.mark.skipif(
    not (ENVIRONMENT / "bin/python").exists(), reason="needs img2dataset: make download-env"
)
SCRIPT = "training/run_download.py"


@pytest.fixture(scope="module")
def server():
    with PictureServer() as server:
        yield server
        server.shutdown()


def write_rows(path, rows):
    """Write rows as the file that its ending names; return the file's path."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        lines = [",".join(rows[0])]
        lines += [",".join(row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def arguments_for(tmp_path, dataset, **given):
    output_dir = tmp_path / "output"
    output_dir.mkdir(exist_ok=True)
    return DownloadArguments(dataset=dataset, output_dir=str(output_dir), **given)


def prepared_rows(arguments, number=0):
    """Return what is to be downloaded into one tar, as (url, {language: [text, ...]}, row)."""
    rows = []
    for row in pq.read_table(shard_path(Path(arguments.output_dir, ADDRESSES), number)).to_pylist():
        captions = {}
        for caption in row["captions"]:
            captions.setdefault(caption["language"], []).append(caption["text"])
        rows.append((row["url"], captions, row["row"]))
    return rows


# ---- The table


A = "http://a.example/1.jpg"
B = "http://a.example/2.jpg"
EXPECTED = [(A, {"en": ["a dog"], "de": ["ein Hund"]}, 0), (B, {"fr": ["un chat"]}, 1)]
BY_ROW = [
    {"URL": A, "TEXT": "a dog", "LANGUAGE": "en"},
    {"URL": B, "TEXT": "un chat", "LANGUAGE": "fr"},
    {"URL": A, "TEXT": "ein Hund", "LANGUAGE": "de"},
    {"URL": A, "TEXT": "a dog", "LANGUAGE": "en"},
]
BY_COLUMN = [
    {"url": A, "caption_en": "a dog", "caption_de": "ein Hund", "caption_fr": ""},
    {"url": B, "caption_en": "", "caption_de": " ", "caption_fr": "un chat"},
]
BY_KEY = [
    {"url": A, "captions": {"en": "a dog", "de": "ein Hund", "fr": None}},
    {"url": B, "captions": {"en": None, "de": None, "fr": "un chat"}},
]
NAMED = {"url_column": "URL", "text_column": "TEXT", "language_column": "LANGUAGE"}
COLUMNS = {"caption_columns": '{"en": "caption_en", "de": "caption_de", "fr": "caption_fr"}'}


@pytest.mark.parametrize("rows,given", [(BY_ROW, NAMED), (BY_COLUMN, COLUMNS), (BY_KEY, {})])
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_each_address_comes_once_with_all_of_its_captions(tmp_path, rows, given, ending):
    if rows is BY_KEY and ending == "csv":
        pytest.skip("a table of commas has no dicts")
    arguments = arguments_for(tmp_path, write_rows(tmp_path / f"table.{ending}", rows), **given)
    prepared = prepare(arguments)
    assert prepared_rows(arguments) == EXPECTED
    assert (prepared.rows, prepared.addresses, prepared.repeated) == (len(rows), 2, len(rows) - 2)


def test_a_folder_is_a_table_too(tmp_path):
    (tmp_path / "table").mkdir()
    write_rows(tmp_path / "table/part.csv", BY_ROW)
    arguments = arguments_for(tmp_path, str(tmp_path / "table"), **NAMED)
    prepare(arguments)
    assert prepared_rows(arguments) == EXPECTED


def test_a_budget_takes_the_first_rows(tmp_path):
    arguments = arguments_for(tmp_path, write_rows(tmp_path / "table.csv", BY_ROW), rows=2, **NAMED)
    assert prepare(arguments).rows == 2
    assert prepared_rows(arguments) == [(A, {"en": ["a dog"]}, 0), (B, {"fr": ["un chat"]}, 1)]


def corpus(tmp_path, name, languages, **keys):
    """Write a public corpus in its own layout, next to a copy of its YAML file; return that file."""
    source = load_source(name)
    write_source(source, tmp_path / "corpus", languages)
    described = yaml.safe_load(Path(source.file).read_text("utf-8"))
    described.pop("revision", None)
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(described | {"dataset": "corpus"} | keys), "utf-8")
    return str(path)


@pytest.mark.parametrize("rows", [None, 2])
def test_addresses_of_a_corpus_get_captions_in_the_requested_languages(tmp_path, rows):
    """`laion-coco-nllb` has lists of pairs of a language and a text."""
    dataset = corpus(tmp_path, "laion-coco-nllb", ["de", "sw", "fr"])
    arguments = arguments_for(tmp_path, dataset, languages=["sw", "de"], rows=rows)
    prepared = prepare(arguments)
    assert prepared.rows == prepared.addresses == min(rows or N, N)
    for url, captions, number in prepared_rows(arguments):
        assert url == f"https://example.org/{number}.jpg"
        assert captions == {"sw": [f"sw {number}"], "de": [f"de {number}"]}


@pytest.mark.parametrize(
    "name,expected,rows",
    [
        ("laion-korean-addresses", "ko", 1),  # a column of one language
        ("relaion-multi", "en", None),  # a column that names the language
    ],
)
def test_addresses_of_every_layout(tmp_path, name, expected, rows):
    arguments = arguments_for(tmp_path, corpus(tmp_path, name, []), rows=rows)
    prepare(arguments)
    assert prepared_rows(arguments) == [("https://example.org/0.jpg", {expected: ["a dog"]}, 0)]


def test_codes_of_a_corpus_are_its_own(tmp_path):
    dataset = corpus(tmp_path, "relaion-multi", [], codes={"ja": "en"})
    arguments = arguments_for(tmp_path, dataset)
    prepare(arguments)
    assert prepared_rows(arguments) == [("https://example.org/0.jpg", {"ja": ["a dog"]}, 0)]


@pytest.mark.parametrize(
    "name,given,message",
    [
        ("opus-100", {}, "source 'opus-100' has no addresses of images: choose another source"),
        ("cc3m", {}, "source 'cc3m' has no addresses of images: train on it by its name"),
        ("flores", {}, "source 'flores' is refused for training: "),
        ("wukong", {"text_column": "a"}, "text_column is 'a': source 'wukong' names its columns itself"),
        ("wukongg", {}, "did you mean the source wukong"),
    ],
)
def test_a_corpus_without_addresses_is_refused(tmp_path, name, given, message):
    with pytest.raises(InputError, match=message):
        prepare(arguments_for(tmp_path, name, **given))


def test_a_column_that_has_moved_is_named(tmp_path):
    dataset = corpus(tmp_path, "wukong", [], columns={"url": "link", "captions": {"zh": "caption"}})
    message = (
        "source 'wukong' has no column link in .*corpus: it has url, caption. Correct `columns` of .*wuk"
    )
    write_source(load_source("wukong"), tmp_path / "corpus", [])
    with pytest.raises(InputError, match=message):
        prepare(arguments_for(tmp_path, dataset))


def test_rows_that_cannot_be_downloaded_are_counted_and_listed(tmp_path):
    rows = [
        {"url": "file:///etc/passwd", "captions": {"en": "a secret"}},
        {"url": A, "captions": {"en": "a dog"}},
        {"url": None, "captions": {"en": "nothing"}},
        {"url": "a/1.jpg", "captions": {"en": "no host"}},
        {"url": B, "captions": {"en": " "}},
    ]
    arguments = arguments_for(tmp_path, write_rows(tmp_path / "table.jsonl", rows))
    prepared = prepare(arguments)
    reasons = {"address of another kind than http(s)": 1, "no valid address": 2, "no caption": 1}
    assert prepared.skipped == reasons
    assert prepared_rows(arguments) == [(A, {"en": ["a dog"]}, 1)]
    listed = (tmp_path / "output" / ADDRESSES / "skipped.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["row"] for line in listed] == [0, 2, 3, 4]


def test_only_requested_languages_are_kept(tmp_path):
    dataset = write_rows(tmp_path / "table.jsonl", BY_ROW)
    arguments = arguments_for(tmp_path, dataset, languages=["de", "fr"], **NAMED)
    prepare(arguments)
    assert prepared_rows(arguments) == [(B, {"fr": ["un chat"]}, 1), (A, {"de": ["ein Hund"]}, 2)]


@pytest.mark.parametrize("n_addresses,shard_size,expected", [(5, 2, [2, 2, 1]), (4, 2, [2, 2]), (1, 1, [1])])
def test_addresses_are_divided_into_shards(tmp_path, n_addresses, shard_size, expected):
    rows = [{"url": f"{A}?{number}", "captions": {"en": f"{number}"}} for number in range(n_addresses)]
    arguments = arguments_for(tmp_path, write_rows(tmp_path / "table.jsonl", rows), shard_size=shard_size)
    assert prepare(arguments).shards == len(expected)
    found = [prepared_rows(arguments, number) for number in range(len(expected))]
    assert list(map(len, found)) == expected
    assert [row for shard in found for _, _, row in shard] == list(range(n_addresses))


@pytest.mark.parametrize(
    "address,expected,problem",
    [
        (" http://a.example/1.jpg ", "http://a.example/1.jpg", None),
        ("HTTP://例え.jp/猫 1.jpg#top", "http://xn--r8jz45g.jp/%E7%8C%AB%201.jpg", None),
        ("https://a.example/?q=1&r=%20", "https://a.example/?q=1&r=%20", None),
        ("ftp://a.example/1.jpg", None, "address of another kind than http(s)"),
        ("data:image/png;base64,AA", None, "address of another kind than http(s)"),
        ("http:///1.jpg", None, "no valid address"),
        ("http://a.example:port/", None, "no valid address"),
        ("//a.example/1.jpg", None, "no valid address"),
        ("http://a.example/" + "a" * 10_000_000, None, "no valid address"),
        ("http://①②⑦.⓪.⓪.①/1.jpg", None, "no valid address"),
        ("http://127。0。0。1/1.jpg", "http://127.0.0.1/1.jpg", None),
        ("http://a.example/\ud83d", None, "no valid address"),
        ("http://8.8.8.8@127.0.0.1/1.jpg", None, "address with a user or password"),
        ("http://me:secret@a.example/1.jpg", None, "address with a user or password"),
        (7, None, "no valid address"),
    ],
)
def test_addresses_are_written_as_servers_expect_them(address, expected, problem):
    found, what = to_web_address(address)
    assert what == problem
    if problem is None:
        assert found == expected


def test_a_run_that_resumes_has_the_same_table_and_settings(tmp_path):
    dataset = write_rows(tmp_path / "table.jsonl", BY_ROW)
    arguments = arguments_for(tmp_path, dataset, **NAMED)
    prepared = prepare(arguments)
    assert prepare(replace(arguments, threads=3, timeout=1)) == prepared
    with pytest.raises(InputError, match="image_size was 384 when the download began .*, and is 100 now"):
        prepare(replace(arguments, image_size=100))
    write_rows(tmp_path / "table.jsonl", BY_ROW[:2])
    with pytest.raises(InputError, match="dataset: its rows are not those with which the download began"):
        prepare(arguments)


@pytest.mark.parametrize(
    "given,message",
    [
        ({"url_column": "link"}, "has no column link: it has URL, TEXT, LANGUAGE; name them by --url_column"),
        ({"url_column": "URL", "text_column": "gone"}, "has no column 'gone'"),
        ({"url_column": "URL", "text_column": "TEXT"}, "is in one language, and no column 'language' says"),
        ({"url_column": "URL", "caption_columns": {"en": "gone"}}, "has no column gone"),
        (NAMED | {"languages": ["sw"]}, "has no row to download: 4 with no caption"),
    ],
)
def test_a_table_without_its_columns_is_refused(tmp_path, given, message):
    dataset = write_rows(tmp_path / "table.jsonl", BY_ROW)
    with pytest.raises(InputError, match=message):
        prepare(arguments_for(tmp_path, dataset, **given))


def test_a_folder_with_other_files_is_refused(tmp_path):
    arguments = arguments_for(tmp_path, write_rows(tmp_path / "table.jsonl", BY_ROW), **NAMED)
    (tmp_path / "output/00000.tar").touch()
    with pytest.raises(InputError, match="holds 00000.tar already, and no download that could be resumed"):
        prepare(arguments)


@pytest.mark.parametrize(
    "given,message",
    [
        ({"rows": 0}, "rows is 0: give 1 or more"),
        ({"shard_size": 0}, "shard_size is 0: give 1 or more"),
        ({"retries": -1}, "retries is -1: give 0 or more"),
        ({"max_aspect_ratio": 0.5}, "max_aspect_ratio is 0.5: give 1 or more"),
        ({"user_agent_token": " "}, "user_agent_token is empty"),
        ({"caption_columns": "[1]"}, "caption_columns is \\[1\\]: give {language: column}"),
        ({"caption_columns": {"en": "a"}, "text_column": "b"}, "given with text_column or language_column"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        DownloadArguments(dataset="table.csv", output_dir="output", **given)


# ---- The bounds


@pytest.fixture
def bounded(server):
    """Ask the server for an address within bounds; return the function that does."""

    def ask(kind, host="127.0.0.1", max_seconds=60):
        install(MAX_BYTES, max_seconds, allow_hosts=["127.0.0.1"])
        with urllib.request.urlopen(server.url(kind, 7, host), timeout=60) as answer:
            return answer.read()

    yield ask
    urllib.request.install_opener(None)


@pytest.mark.parametrize("kind", ["jpeg", "redirect"])
def test_a_good_answer_is_read(bounded, kind):
    assert bounded(kind).startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    "kind,message",
    [
        ("huge", TOO_LARGE),
        ("huge_unannounced", TOO_LARGE),
        ("inwards", f"{INSIDE}: localhost"),
        ("to_a_file", "is not allowed"),
        ("cut", "IncompleteRead"),
        ("404", "HTTP Error 404"),
    ],
)
def test_an_answer_out_of_bounds_is_refused(bounded, server, kind, message):
    n_before = len(server.requests)
    with pytest.raises(Exception, match=message):
        bounded(kind)
    assert server.requests[n_before:] == [("127.0.0.1", f"/{kind}/7")]


@pytest.mark.parametrize("kind", ["slow", "slow_headers"])
def test_an_answer_that_never_ends_is_left(bounded, kind):
    with pytest.raises(Exception, match=TOO_SLOW):
        bounded(kind, max_seconds=0.5)


@pytest.mark.parametrize(
    "host", ["localhost", "127.1", "2130706433", "0x7f.1", "[::1]", "[fe80::1%25lo]", "0.0.0.0"]
)
def test_a_host_inside_this_network_is_not_asked(bounded, server, host):
    n_before = len(server.requests)
    with pytest.raises(Exception, match=INSIDE):
        bounded("jpeg", host)
    assert len(server.requests) == n_before


def test_a_host_that_moves_inside_is_not_asked(bounded, server, monkeypatch):
    """Its address is public when it is looked up, and is not when the connection is made."""
    monkeypatch.setattr(
        "training.download.bounded_img2dataset.socket.getaddrinfo",
        lambda host, *_, **__: [
            (2, 1, 6, "", ("127.0.0.1" if answers.pop() else "8.8.8.8", server.server_port))
        ],
    )
    answers = [True, False]
    n_before = len(server.requests)
    with pytest.raises(Exception, match=f"{INSIDE}: moving.example"):
        bounded("jpeg", "moving.example")
    assert answers == []
    assert len(server.requests) == n_before


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:,a"])
def test_other_kinds_of_addresses_are_not_opened(bounded, address):
    bounded("jpeg")
    with pytest.raises(Exception, match="unknown url type"):
        urllib.request.urlopen(address)


NUMBERS = ["8.8.8.8", "127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"]
NUMBERS += ["::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "2001:4860:4860::8888"]


@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_inside_is_what_the_model_takes_for_it(number):
    assert is_inside(number) == addresses_altclip._is_inside(number)


@pytest.mark.parametrize(
    "message,expected",
    [
        ("<urlopen error [Errno -2] Name or service not known>", "unknown host"),
        ("encoding with 'idna' codec failed (UnicodeError: label too long)", "unknown host"),
        ("<urlopen error timed out>", "no byte within the timeout"),
        ("The read operation timed out", "no byte within the timeout"),
        ("<urlopen error [Errno 111] Connection refused>", "no connection"),
        ("[Errno 104] Connection reset by peer", "no connection"),
        ("Remote end closed connection without response", "no connection"),
        (
            "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>",
            "no secure connection",
        ),
        ("HTTP Error 410: Gone", "HTTP 410"),
        ("something new", "other failure"),
    ],
)
def test_failures_have_kinds(message, expected):
    assert kind_of("failed_to_download", message) == expected


# ---- The environment


def test_a_missing_environment_is_named(tmp_path):
    with pytest.raises(InputError, match="environment .* has no bin/python: make it by `make download-env`"):
        find_python(str(tmp_path))


@pytest.mark.parametrize("version", ["1.25.4", "none"])
def test_another_version_is_refused(tmp_path, version):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text(f"#!/bin/sh\necho {version}\n")
    python.chmod(0o755)
    with pytest.raises(InputError, match=f"has img2dataset {version}, and 1.47.0 is needed"):
        find_python(str(tmp_path))


def test_a_proxy_is_refused(monkeypatch):
    check_no_proxy()
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    with pytest.raises(InputError, match="https_proxy names a proxy"):
        check_no_proxy()


def test_two_downloads_do_not_share_a_folder(tmp_path):
    with alone_in(str(tmp_path)), pytest.raises(InputError, match="in use by another download"):
        with alone_in(str(tmp_path)):
            pass


# ---- A whole download


def table_of(server, per_kind, path):
    """Write a table with addresses of every kind; return `{row: kind}`.

    Every tenth row has a caption in Swahili, and no row of the first hundred.
    """
    kinds = [kind for kind in KINDS for _ in range(per_kind)]
    np.random.default_rng(0).shuffle(kinds)
    rows = []
    for number, kind in enumerate(kinds):
        captions = [{"language": "en", "text": f"text {number}"}, {"language": "zh", "text": f"字 {number}"}]
        if number >= 100 and number % 10 == 0:
            captions.append({"language": "sw", "text": f"neno {number}"})
        rows.append({"url": server.url(kind, number), "captions": captions})
    write_rows(path, rows)
    return dict(enumerate(kinds))


def command_for(table, output_dir, *flags):
    bounds = ["--allow_hosts", "127.0.0.1", "--max_bytes", MAX_BYTES, "--max_seconds", "3", "--timeout", "30"]
    words = [SCRIPT, "--dataset", table, "--output_dir", output_dir, "--environment", ENVIRONMENT]
    return [*words, *bounds, *flags]


def good_rows(kinds):
    return {row for row, kind in kinds.items() if KINDS[kind] is None}


def check_outcome(output_dir, kinds):
    """Check that each good picture is there once, with its own captions, and each other one in the list."""
    lines = (output_dir / "failures.jsonl").read_text("utf-8").splitlines()
    failures = [json.loads(line) for line in lines]
    assert {failure["row"]: failure["kind"] for failure in failures} == {
        row: KINDS[kind] for row, kind in kinds.items() if KINDS[kind]
    }
    assert len(failures) == len(kinds) - len(good_rows(kinds))

    rows = open_files(str(output_dir), "train")
    form = find_form(rows.features, str(output_dir))
    found = []
    for row in rows:
        number = row["json"]["row"]
        found.append(number)
        captions = read_captions(row, form)
        assert captions["en"] == [f"text {number}"] and captions["zh"] == [f"字 {number}"]
        assert ("sw" in captions) == (number >= 100 and number % 10 == 0)
        color = np.asarray(decode_image(row["image"]).convert("RGB")).reshape(-1, 3).mean(0)
        assert np.abs(color - [number % 256, number // 256 % 256, 128]).max() < 12
    assert sorted(found) == sorted(good_rows(kinds))


@pytest.fixture(scope="module")
def downloaded(server, tmp_path_factory, run_python):
    folder = tmp_path_factory.mktemp("download")
    kinds = table_of(server, 3, folder / "table.parquet")
    server.requests.clear()
    command = command_for(folder / "table.parquet", folder / "output", "--shard_size", "40")
    process = run_python("python", *command)
    assert process.returncode == 0, process.stderr[-3000:]
    return folder, kinds, command, process.stdout, list(server.requests)


@needs_environment
@pytest.mark.slow
def test_good_pictures_arrive_once_and_failures_are_counted(downloaded):
    folder, kinds, _, said, _ = downloaded
    check_outcome(folder / "output", kinds)
    expected = Counter(KINDS[kind] or "picture" for kind in kinds.values())
    for kind, count in expected.items():
        assert f"| {kind} | {count} | {count / len(kinds):.1%} |" in said
    assert f"| all | {len(kinds)} | 100.0% |" in said
    assert said.splitlines()[-1] == (
        "Next: accelerate launch --quiet training/run_stage2.py RECIPE.yaml "
        f"--dataset {folder / 'output'} --languages en zh "
        "--streaming --cache_image_embeds false --max_steps N"
    )


@needs_environment
@pytest.mark.slow
def test_a_download_says_what_it_was_made_of(downloaded):
    folder, kinds, _, said, _ = downloaded
    (origin,) = read_origins(folder / "output")
    n_pictures = len(good_rows(kinds))
    assert (origin.name, origin.rows, origin.languages) == ("table.parquet", n_pictures, ["en", "zh"])
    assert "Licence of table.parquet: not known. Pictures are their servers'." in said
    assert "Licence of table.parquet: not known. A picture is" in (folder / "output/README.md").read_text()


def test_the_licence_of_a_corpus_is_passed_on():
    (origin,) = find_origins("laion-coco-nllb", ["de"], 7)
    assert licence_of([origin]) == "Licence of laion-coco-nllb: CC-BY-NC-4.0."


@needs_environment
@pytest.mark.slow
def test_nothing_inside_is_asked_and_nothing_twice(downloaded):
    _, kinds, _, _, requests = downloaded
    assert {host for host, _ in requests} == {"127.0.0.1"}
    expected = Counter(f"/{kind}/{row}" for row, kind in kinds.items())
    expected += Counter(f"/jpeg/{row}" for row, kind in kinds.items() if kind == "redirect")
    assert Counter(path for _, path in requests) == expected


@needs_environment
@pytest.mark.slow
def test_tars_are_read_without_streaming_too(downloaded):
    folder, kinds, *_ = downloaded
    rows = load_captioned(str(folder / "output"), "train")
    texts = {captions["en"][0] for captions in rows["captions"]}
    assert texts == {f"text {row}" for row in good_rows(kinds)}


@needs_environment
@pytest.mark.slow
def test_a_finished_download_asks_for_nothing_and_a_damaged_tar_is_made_anew(downloaded, server, run_python):
    folder, kinds, command, said, _ = downloaded
    server.requests.clear()
    again = run_python("python", *command)
    assert (again.returncode, again.stdout) == (0, said)
    assert server.requests == []

    tar = folder / "output/00000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[: len(content) // 2])
    process = run_python("python", *command)
    assert process.returncode == 1
    assert "00000.tar does not hold the pictures that img2dataset has recorded: repeat" in process.stderr
    assert run_python("python", *command).returncode == 0
    check_outcome(folder / "output", kinds)
    assert len({path for _, path in server.requests}) <= 40 + 3


@needs_environment
@pytest.mark.slow
def test_no_picture_at_all_is_an_error(server, tmp_path, run_python):
    write_rows(tmp_path / "table.jsonl", [{"url": server.url("404", 1), "captions": {"en": "gone"}}])
    process = run_python("python", *command_for(tmp_path / "table.jsonl", tmp_path / "output"))
    assert process.returncode == 1
    assert "none of the addresses gave a picture" in process.stderr
    assert "| HTTP 404 | 1 | 100.0% |" in process.stdout


@needs_environment
@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(server, tmp_path, run_python):
    kinds = table_of(server, 3, tmp_path / "table.parquet")
    command = command_for(tmp_path / "table.parquet", tmp_path / "output", "--shard_size", "40")
    words = shlex.join([sys.executable, *map(str, command)])
    limited = ["bash", "-c", f"ulimit -f 32 && exec {words}"]  # kB of one file
    process = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1
    assert "img2dataset left 1 of 2 tars incomplete: see " in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr
    assert "File too large" in (tmp_path / "output/img2dataset.log").read_text("utf-8")

    assert run_python("python", *command).returncode == 0
    check_outcome(tmp_path / "output", kinds)


def downloads_in(folder):
    """Return the processes of img2dataset, and its workers, that write to a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if str(folder) in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found


@needs_environment
@pytest.mark.slow
def test_5000_addresses_killed_twice(server, tmp_path, run_python):
    """Print the outcome, which `pytest -s` shows."""
    kinds = table_of(server, 250, tmp_path / "table.parquet")
    assert len(kinds) == 5000
    shard_size = 250
    output = tmp_path / "output"
    flags = ["--shard_size", shard_size, "--threads", "32"]
    command = list(map(str, command_for(tmp_path / "table.parquet", output, *flags)))
    server.requests.clear()
    start = time.monotonic()
    for n_complete in (3, 9):
        kill_after(command, output, n_complete)
        assert not (output / "README.md").exists()
        assert n_complete <= len(list(output.glob("*_stats.json"))) < 20
    process = run_python("python", *command)
    assert process.returncode == 0, process.stderr[-3000:]
    check_outcome(output, kinds)
    assert {host for host, _ in server.requests} == {"127.0.0.1"}

    # What was complete when the process was killed is not asked for again: of each kill at most one tar is.
    paths = {path for _, path in server.requests}
    n_again = len(server.requests) - len(paths)
    n_redirects = sum(kind == "redirect" for kind in kinds.values())
    assert len(paths) == len(kinds) + n_redirects
    assert 0 < n_again < 2 * 1.2 * shard_size
    said = f"5,000 addresses, killed twice: {time.monotonic() - start:.0f} s, {n_again} requests again"
    sys.stdout.write(f"\n{said}\n{process.stdout}")


def kill_after(command, output, n_complete):
    """Start a download, kill its process when so many tars are complete, and see that nobody goes on."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE)
    while len(list(output.glob("*_stats.json"))) < n_complete:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    # Neither img2dataset nor its workers.
    psutil.wait_procs(downloads_in(output), timeout=300)
    assert downloads_in(output) == []
