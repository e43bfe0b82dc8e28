"""What nobody has verified about the public corpora is compared with a fake Hub, and listed."""

import re
import sys

import pytest
import yaml

from altclip.command import main
from common.errors import InputError
from training import load_source
from training.data.sources.loading import all_source_names
from training.jobs.verify_sources import VerifyArguments
from training.jobs.verify_sources import main as verify

from .conftest import ROOT
from .fake_hub import FakeHub
from .source_replicas import write_source

SOURCES = {name: load_source(name) for name in all_source_names()}

# A gated source of a user's own.
GATED = {
    "layout": "pairs",
    "dataset": "gated/own",
    "splits": {"train": "train"},
    "configs": {"de": "en-de"},
    "columns": {"english": "english", "translation": "non_english"},
    "kind": "human",
    "gated": True,
    "unverified": ["gated", "columns"],
}

VERIFY = """
from altclip.command import main
main(["verify-sources", "europarl", "m-clip-captions", "cc3m", "wit", "stair-captions",
      "opus-100-pairs", {gated!r}])
"""


@pytest.fixture(scope="module")
def verified(tmp_path_factory, run_python):
    """Run the command against a fake Hub, on which some things are not as stated; return the process."""
    folder = tmp_path_factory.mktemp("verified")
    folders = {"altclip/no-such-dataset": folder}
    commits = {}
    written = dict.fromkeys(("cc3m", "wit", "stair-captions"), [])
    written |= dict.fromkeys(("europarl", "m-clip-captions"), ["de", "fr"])
    for name, languages in written.items():
        source = SOURCES[name]
        write_source(source, folder / name, languages)
        folders[source.dataset] = folder / name
        if source.revision is not None:
            commits[source.dataset] = source.revision
    # Another commit than the pinned one.
    folders[SOURCES["opus-100-pairs"].dataset] = folder / "europarl"
    (folder / "gated.yaml").write_text(yaml.safe_dump(GATED))

    hub = FakeHub(folders, commits)
    folders["gated/own"] = folder
    process = run_python(
        "python", "-c", VERIFY.format(gated=str(folder / "gated.yaml")), **hub.variables(folder)
    )
    hub.shutdown()
    return process


@pytest.mark.parametrize(
    "line",
    [
        "europarl columns english non_english ; it has english non_english ; as stated",
        "europarl revision 11007ecf.* ; 11007ecf.* ; as stated",
        "europarl licence free to use .* ; cc-by-4.0 ; not told",
        "europarl terms attribution ; read the card ; not told",
        "m-clip-captions columns .* ; it has caption caption_multi multi_language_code ; as stated",
        "m-clip-captions codes af am .* ; first rows lack af am .*; they have de fr ; not told",
        "m-clip-captions n_rows 7000000 ; the card does not say ; not told",
        r"m-clip-captions n_bytes 1300000000 ; \d{4} ; differs",
        "wit codes af an .* ; first rows lack ar .*; they have af an zh xx-unnamed ; not told",
        "stair-captions columns image annotations.caption ; it has image annotations ; as stated",
        "opus-100-pairs revision 2986b6f.* ; no such commit ; differs",
        "cc3m licence free .* ; other ; not told",
        "gated gated True ; True ; as stated",
        "gated columns .* ; gated: accept its terms and log in ; not told",
    ],
)
def test_unverified_fields_are_compared_with_the_hub(verified, line):
    # Columns are separated by two spaces at least.
    pattern = r"\s\s+".join(re.sub(r"^(\S+) (\S+) ", r"\1\\s+\2\\s+", line).split(" ; "))
    assert re.search(f"^{pattern}$", verified.stdout, re.MULTILINE), verified.stdout + verified.stderr


def test_differences_end_the_command_with_an_error(verified):
    assert verified.returncode == 1
    assert "3 fields differ from the Hub: correct them" in verified.stderr
    assert "Traceback" not in verified.stderr


def test_without_a_network_sources_are_not_verified(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", sys.argv)  # which the command sets
    with pytest.raises(SystemExit) as end:
        main(["verify-sources", "europarl"])
    # The tests are offline.
    assert "altclip verify-sources: error: the Hub cannot be reached, " in str(end.value.code)
    assert "\n" not in str(end.value.code)
    assert capsys.readouterr().out == ""


def test_what_is_unverified_is_listed_without_a_network(capsys):
    verify(VerifyArguments(list_only=True))
    lines = capsys.readouterr().out.splitlines()
    expected = {(source.name, field) for source in SOURCES.values() for field in source.unverified}
    assert {tuple(line.split()[:2]) for line in lines[1:]} == expected
    assert lines[0].split() == ["source", "field", "in", "the", "file"]
    assert any(re.fullmatch(r"opus-100 +configs +af-en .* \(99\)", line) for line in lines)


def test_a_source_in_a_folder_has_nothing_to_verify(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(GATED | {"dataset": "corpus"}))
    (tmp_path / "corpus").mkdir()
    with pytest.raises(InputError, match="source 'own' lies in the folder"):
        verify(VerifyArguments(sources=[str(path)]))


ROW = "| `{name}` | {layout} | {languages} | {kind} | {licence}; {terms} | {unverified} |"


def test_the_page_on_data_lists_every_source():
    page = (ROOT / "docs/data.md").read_text("utf-8")
    rows = []
    for source in SOURCES.values():
        n_languages = len(source.languages)
        languages = " ".join(source.languages) if 0 < n_languages < 6 else str(n_languages or "in the rows")
        row = ROW.format(
            name=source.name,
            layout=source.layout,
            languages=languages,
            kind=source.kind,
            licence=source.licence,
            terms=", ".join(source.terms or ["terms not known"]),
            unverified=", ".join(source.unverified),
        )
        rows.append(row)
    missing = [row for row in rows if row not in page]
    assert not missing, "\n".join(rows)
