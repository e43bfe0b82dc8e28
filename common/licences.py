"""What licences ask for, and what the licence of an outcome is that many of them went into.

outcome = combine(parts)                 # of each source of data and each model
outcome.sentence                         # "As far as its sources state, which have to be read: ..."

It repeats what the sources state of themselves, and is no legal advice.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

# What a licence may ask for. Where nobody states it, the terms are None.
TERMS = (
    "attribution",
    "share-alike",
    "non-commercial",
    "research-only",
    "no-derivatives",
    "use-restrictions",
)
# What a sentence says of each, the strictest first.
_CLAUSES = {
    "research-only": "for research only",
    "non-commercial": "not for commercial use",
    "use-restrictions": "not for the uses that the licence forbids",
    "no-derivatives": "no derived works may be shared",
    "share-alike": "to be shared under the same licence",
    "attribution": "with attribution",
}
# Terms that a licence to share alike, which has none of them, does not let one add.
_LIMITS = ("research-only", "non-commercial", "no-derivatives", "use-restrictions")
_CREATIVE_COMMONS = re.compile(
    r"cc-by(?P<commerce>-nc)?(?P<sharing>-nd|-sa)?(-\d\.\d)?(-(deed|igo|[a-z]{2}))?"
)
_FREE = {"cc0-1.0", "cc0", "pddl", "unlicense", "wtfpl", "public domain"}
_ATTRIBUTION = {
    *"apache-2.0 mit bsd bsd-2-clause bsd-3-clause isc zlib unicode-3.0 unicode-dfs-2016".split(),
    *"odc-by cdla-permissive-1.0 cdla-permissive-2.0 afl-3.0 ofl-1.1".split(),
}
_SHARE_ALIKE = {
    *"gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.0 lgpl-2.1 lgpl-3.0 agpl-3.0 mpl-2.0 odbl cdla-sharing-1.0".split()
}
_USE_RESTRICTIONS = {*"openrail openrail++ creativeml-openrail-m bigscience-openrail-m".split()}
# Licences of the Hub that ask for exactly these terms.
_HUB_LICENCES = {
    frozenset({"attribution", "non-commercial"}): "cc-by-nc-4.0",
    frozenset({"attribution", "share-alike"}): "cc-by-sa-4.0",
    frozenset({"attribution", "non-commercial", "share-alike"}): "cc-by-nc-sa-4.0",
}
_PERMISSIVE = "apache-2.0"
_MOST_NAMED = 6  # labels in a list


@dataclass(frozen=True, kw_only=True)
class Licensed:
    """Something with a licence: a source of data, or a model.

    Attributes:
        name: as it is public.
        licence: as its owners name it; None where they do not.
        terms: what the licence asks for, of `TERMS`; None where that is not known.
    """

    name: str
    licence: str | None = None
    terms: list[str] | None = None

    @property
    def label(self) -> str:
        """Return the name with the licence: `laion-coco-nllb (CC-BY-NC-4.0)`."""
        return f"{self.name} ({self.licence or 'licence not stated'})"


@dataclass(kw_only=True)
class Outcome:
    """What may be done with something that many parts went into, as far as these state it.

    Attributes:
        forced_by: the labels of the parts that ask for each term: `{"attribution": ["tatoeba (...)"]}`.
        unknown: the labels of the parts whose terms are not known.
        conflicts: a sentence on each two terms that cannot be kept at once.
    """

    forced_by: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    @property
    def terms(self) -> list[str]:
        """Return what the parts ask for together, in the order of `TERMS`."""
        return [term for term in TERMS if term in self.forced_by]

    @property
    def sentence(self) -> str:
        """Say in one line what may be done, and which parts force that."""
        clauses = []
        for term, clause in _CLAUSES.items():
            if term in self.forced_by:
                clauses.append(f"{clause}: {_some_of(self.forced_by[term])}")
        if self.unknown:
            clauses.append(f"under unknown terms: {_some_of(self.unknown)}")
        if not clauses:
            clauses.append("nothing is asked for")
        said = f"As far as its sources state, which have to be read: {'; '.join(clauses)}."
        return " ".join([said, *self.conflicts])

    @property
    def hub_licence(self) -> str:
        """Return an identifier of the Hub that allows no more than the parts do; `other` if there is none."""
        if self.unknown or self.conflicts:
            return "other"
        if set(self.terms) <= {"attribution"}:
            return _PERMISSIVE
        return _HUB_LICENCES.get(frozenset(self.terms), "other")


def combine(parts: Iterable[Licensed]) -> Outcome:
    """Combine the licences of all parts of an outcome: its data, and the models that it was made with.

    An outcome has to keep all terms of all parts. Two parts conflict if one asks to be shared under its own
    licence, and the other for a limit that this licence does not have.

    Example:

    ```python
    >>> from common.licences import Licensed, combine

    >>> captions = Licensed(name="captions", licence="CC-BY-NC-4.0", terms=["non-commercial"])
    >>> outcome = combine([captions, Licensed(name="my-texts")])
    >>> outcome.terms, outcome.unknown, outcome.hub_licence
    (['non-commercial'], ['my-texts (licence not stated)'], 'other')
    ```
    """
    outcome = Outcome()
    parts = list({part.label: part for part in parts}.values())  # a part may have gone into several stages
    for part in parts:
        if part.terms is None:
            outcome.unknown.append(part.label)
        for term in part.terms or []:
            outcome.forced_by.setdefault(term, []).append(part.label)

    for limit in _LIMITS:
        asking = outcome.forced_by.get(limit, [])
        sharing = []
        for part in parts:
            terms = part.terms or []
            if "share-alike" in terms and limit not in terms:
                sharing.append(part.label)
        if asking and sharing:
            outcome.conflicts.append(
                f"Conflict: {_some_of(sharing)} must be shared under the same licence, which is not "
                f"{limit}, as {_some_of(asking)} must be."
            )
    return outcome


def _some_of(labels: list[str]) -> str:
    """List labels, and of many the first ones with the number of the others: a table has them all."""
    rest = len(labels) - _MOST_NAMED
    shown = ", ".join(labels[:_MOST_NAMED])
    return f"{shown} and {rest} more" if rest > 0 else shown


def terms_of(licence: str | None) -> list[str] | None:
    """Return what a licence asks for, by its identifier on the Hub or in SPDX; None if that is not known.

    Of several, with commas between them, it is what they ask for together.

    Example:

    ```python
    >>> from common.licences import terms_of

    >>> terms_of("CC-BY-NC-4.0"), terms_of("cc0-1.0"), terms_of("other")
    (['attribution', 'non-commercial'], [], None)
    ```
    """
    names = (licence or "").lower().split(", ")  # of several, as the card of a data set may list them
    found = [_terms_of_one(name) for name in names]
    if None in found:
        return None
    asked = set().union(*found)
    return [term for term in TERMS if term in asked]


def _terms_of_one(name: str) -> list[str] | None:
    """Return what one licence asks for, by its name in small letters; None if that is not known."""
    name = name.removesuffix("-or-later").removesuffix("-only")  # SPDX's identifiers of the GPL
    if name in _FREE:
        return []
    if name in _ATTRIBUTION:
        return ["attribution"]
    if name in _SHARE_ALIKE:
        return ["attribution", "share-alike"]
    if name in _USE_RESTRICTIONS:
        return ["attribution", "use-restrictions"]
    found = _CREATIVE_COMMONS.fullmatch(name)
    if found is None:
        return None
    terms = ["attribution"]
    if found["commerce"]:
        terms.append("non-commercial")
    if found["sharing"] == "-sa":
        terms.append("share-alike")
    if found["sharing"] == "-nd":
        terms.append("no-derivatives")
    return terms


__all__ = ["TERMS", "Licensed", "Outcome", "combine", "terms_of"]
