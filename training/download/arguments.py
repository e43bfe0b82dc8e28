"""Arguments of a download."""

from dataclasses import dataclass, field

from common.errors import InputError
from common.files.json_files import parse_json

from ..data.captions import named_languages

# Per field: the smallest value that makes sense.
_SMALLEST = {
    "rows": 1,
    "shard_size": 1,
    "image_size": 1,
    "min_image_size": 0,
    "max_aspect_ratio": 1,
    "max_bytes": 1,
    "max_seconds": 1,
    "timeout": 1,
    "retries": 0,
    "processes": 1,
    "threads": 1,
}


@dataclass(kw_only=True)
class DownloadArguments:
    """Arguments of a download: the table of addresses, the pictures, and the bounds of a single one."""

    dataset: str = field(
        metadata={
            "help": "Table of addresses: a .parquet, .jsonl, .csv or .tsv file, a folder, a Hub id, or a "
            "public corpus by its name, such as laion-coco-nllb."
        }
    )
    output_dir: str = field(metadata={"help": "Folder of the pictures; the same command resumes there."})
    split: str = field(default="train", metadata={"help": "Split of a folder or Hub dataset."})
    rows: int | None = field(
        default=None,
        metadata={
            "help": "Read so many rows at most, the first ones; of a public corpus no others are downloaded."
        },
    )
    url_column: str = field(default="url", metadata={"help": "Column of the addresses."})
    text_column: str | None = field(
        default=None, metadata={"help": "Column of the captions; by default the first of the usual names."}
    )
    language_column: str | None = field(
        default=None,
        metadata={"help": "Column of the caption's language, if its name is not `language`."},
    )
    caption_columns: dict | str | None = field(
        default=None,
        metadata={"help": "Columns of captions instead, one for each language: {de: caption_de}."},
    )
    languages: list[str] | None = field(
        default=None,
        metadata={"help": "The language of captions that do not state it; captions in others are dropped."},
    )
    shard_size: int = field(default=10_000, metadata={"help": "Number of addresses per tar."})
    image_size: int = field(
        default=384, metadata={"help": "Pixels of the shorter side, to which larger pictures are reduced."}
    )
    min_image_size: int = field(
        default=0, metadata={"help": "Pixels of the shorter side below which a picture is left out."}
    )
    max_aspect_ratio: float = field(
        default=10.0, metadata={"help": "Longer side over shorter side above which a picture is left out."}
    )
    max_bytes: int = field(default=2**24, metadata={"help": "Largest file that is downloaded, in bytes."})
    max_seconds: float = field(default=60.0, metadata={"help": "Longest time for the answer of one server."})
    timeout: int = field(default=10, metadata={"help": "Longest time in seconds without a byte of it."})
    retries: int = field(default=0, metadata={"help": "Number of further attempts at an address that fails."})
    processes: int = field(default=1, metadata={"help": "Number of processes; each works on one tar."})
    threads: int = field(default=64, metadata={"help": "Number of downloads at a time, in each process."})
    user_agent_token: str = field(
        default="img2dataset",
        metadata={"help": "Name for servers, whose X-Robots-Tag may name it in turn."},
    )
    allow_hosts: list[str] | None = field(
        default=None,
        metadata={
            "help": "Hosts inside this network that may be asked all the same, as the table spells it."
        },
    )
    environment: str = field(
        default=".venv-download",
        metadata={"help": "Folder of the virtual environment of img2dataset: `make download-env`."},
    )

    def __post_init__(self):
        # On the command line dictionaries are JSON.
        if isinstance(self.caption_columns, str):
            self.caption_columns = parse_json(self.caption_columns, "caption_columns")
        if self.caption_columns is not None:
            self._check_caption_columns()
        if self.languages:
            self.languages = list(named_languages(self.languages, "--languages").values())
        for name, smallest in _SMALLEST.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise InputError(f"{name} is {value}: give {smallest} or more")
        if not self.user_agent_token.strip():
            raise InputError("user_agent_token is empty: give a name, so that servers can refuse it")

    def _check_caption_columns(self) -> None:
        given = self.caption_columns
        names = list(given.values()) if isinstance(given, dict) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"caption_columns is {given!r}: give {{language: column}}")
        if self.text_column or self.language_column:
            raise InputError(
                "caption_columns is given with text_column or language_column: give a column for each "
                "language, or one column for all"
            )
        named_languages(given, "--caption_columns")


__all__ = ["DownloadArguments"]
