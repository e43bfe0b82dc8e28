"""Links of the README and the docs: every file and every heading that they name is there."""

import re

import pytest

from .conftest import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors_of(page):
    """Return the anchors of a page's headings, as GitHub and MkDocs spell them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    # "Your own `data`, step by step" -> "your-own-data-step-by-step"
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def broken_links(page):
    """Return the relative links of a page that lead nowhere."""
    broken = []
    for link in LINK.findall(page.read_text("utf-8")):
        # Tests use no network.
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            broken.append(link)
        elif anchor and anchor not in anchors_of(target):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_every_test_that_the_security_page_names_is_there():
    named = re.findall(r"`((?:faults/)?test_\w+\.py)::(test_\w+)`", (ROOT / "SECURITY.md").read_text("utf-8"))
    assert len(named) > 50
    absent = []
    for file, test in named:
        if f"\ndef {test}(" not in (ROOT / "tests" / file).read_text("utf-8"):
            absent.append(f"{file}::{test}")
    assert absent == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n\n[a](#one) [b](#two) [c](gone.md) [d](page.md#one) [e](https://example.org)\n")
    assert broken_links(page) == ["#two", "gone.md"]


def test_the_site_lists_every_page():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        # A page ends its line, as in `- models.md` or `- Overview: index.md`.
        assert f"{page.name}\n" in navigation


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
