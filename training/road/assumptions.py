"""Read what the plan of a road assumes, from `assumptions.yaml`, where each value has its source."""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from common.files.yaml_files import read_yaml

_FILE = Path(__file__).with_name("assumptions.yaml")


@dataclass(frozen=True, kw_only=True)
class _Assumptions:
    """Mean sizes of texts and pictures in tokens and bytes, and how fast a GPU computes.

    - `tokens_per_text`; `bytes_to_download_a_text`, compressed; `bytes_of_a_text`, as Arrow.
    - `bytes_to_download_a_picture`, as it is at its address; `bytes_of_a_picture`, made smaller, in a tar.
    - `working_addresses`: the share of addresses that give a picture.
    - `operations_a_second`: of one GPU, at most. `lowest_utilisation`, `highest_utilisation`: the shares of
      these that trainings have reached.
    - `least_operations_a_second_of_a_laptop`, `most_operations_a_second_of_a_laptop`: in float32 on its
      processor.
    """

    tokens_per_text: float
    bytes_to_download_a_text: float
    bytes_of_a_text: float
    bytes_to_download_a_picture: float
    bytes_of_a_picture: float
    working_addresses: float
    operations_a_second: float
    lowest_utilisation: float
    highest_utilisation: float
    least_operations_a_second_of_a_laptop: float
    most_operations_a_second_of_a_laptop: float


@cache
def read_assumptions() -> _Assumptions:
    """Read the values of `assumptions.yaml`."""
    given = read_yaml(_FILE, "assumptions")
    return _Assumptions(**{field.name: given[field.name]["value"] for field in fields(_Assumptions)})


def describe_assumptions() -> list[str]:
    """Return a line for each value, with its source: `tokens per text: 30 (texts of ...)`."""
    lines = []
    for name, given in read_yaml(_FILE, "assumptions").items():
        lines.append(f"{name.replace('_', ' ')}: {given['value']:,} ({given['because']})")
    return lines


__all__ = ["describe_assumptions", "read_assumptions"]
