"""`altclip index`: make an index of a folder's or a dataset's pictures, or bring it up to date.

`deploy.search.building` says in which steps, and which files there are.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import PartialState

from common.arguments import trust_remote_code_field
from common.errors import InputError
from common.files.locks import holding
from common.models.loading import check_model, load_model
from common.output import check_output_dir

from ..embed.embedder import DTYPES
from .contents import Embedder
from .pictures import Source
from .record import Record, describe_model, is_index, read_record

if TYPE_CHECKING:
    from .building import Changes

_SHOWN = 3  # broken pictures that are printed


@dataclass(kw_only=True)
class IndexArguments:
    """Pictures, a model, and the folder of the index."""

    source: str = field(
        metadata={
            "help": "The folder of pictures, with its subfolders, or a glob in quotes; or, with --split, a "
            "dataset with a column `image`. It may also stand first without the flag."
        }
    )
    split: str | None = field(
        default=None, metadata={"help": "The split of the dataset. Without it, source is a folder."}
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "The configuration of the dataset, if it has several."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "The folder or Hub id of the model, as for altclip embed. By default the one that made "
            "the index that is there."
        },
    )
    output_dir: str = field(
        metadata={"help": "The folder of the index. One that is there is brought up to date."}
    )
    compress: bool | None = field(
        default=None,
        metadata={
            "help": "Also make a compressed index (IVF-PQ), for millions of pictures, and print its recall "
            "against exact search: true or false. By default as the index that is there, and false for a new "
            "one."
        },
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "The type of the stored embeddings, float16 or float32. By default as the index that is "
            "there, and float16 for a new one."
        },
    )
    truncate_dim: int | None = field(
        default=None,
        metadata={
            "help": "The number of dimensions to keep of each embedding, the first ones. By default as the "
            "index that is there, and all for a new one."
        },
    )
    batch_size: int = field(
        default=256, metadata={"help": "The number of pictures that are encoded at once."}
    )
    other_source: bool = field(
        default=False,
        metadata={
            "help": "Let an index that is there follow its pictures to another place. What is not there "
            "leaves the index."
        },
    )
    trust_remote_code: bool = trust_remote_code_field()

    def __post_init__(self):
        if self.dtype not in (None, *DTYPES):
            raise InputError(f"dtype is {self.dtype!r}: choose from {', '.join(DTYPES)}")
        for name in ("batch_size", "truncate_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: give a number of at least 1")


def main(arguments: IndexArguments) -> None:
    """Check everything before the model is loaded; embed what is new; say what has changed.

    Raises:
        InputError: the model, the pictures or the folder cannot be used, or do not fit the index there.
    """
    from .building import update_index  # needs the extra `search`, which --help does without

    folder = Path(arguments.output_dir)
    source = Source(arguments.source, arguments.split, arguments.dataset_name)
    check_output_dir(folder)
    old = read_record(folder) if is_index(folder) else None
    if old is not None:
        _check_fits(old, source, arguments)
    name = _model_of(old, arguments)
    given = {"argument": "model_name_or_path", "trust_remote_code": arguments.trust_remote_code}
    check_model(name, **given)
    source.open()  # finds pictures, or says that there are none

    folder.mkdir(parents=True, exist_ok=True)
    with holding(folder / ".lock", f"output_dir {str(folder)!r} is in use by another command: wait for it"):
        model, processor = load_model(name, **given)
        made_by = describe_model(model, processor)
        if old is not None:
            old.check_model(name, made_by, folder)
        model.to(PartialState().device)
        embedder = Embedder(model, processor, made_by, *_form_of(old, arguments), arguments.batch_size)
        compressed = arguments.compress
        if compressed is None:
            compressed = old is not None and old.compressed is not None
        record, changes = update_index(folder, source, name, embedder, compressed=compressed)
    _print_changes(record, changes, folder)


def _check_fits(old: Record, source: Source, arguments: IndexArguments) -> None:
    """Refuse other pictures, or another form of embeddings, than those of the index that is there.

    Raises:
        InputError: they differ.
    """
    for name in ("dtype", "truncate_dim"):
        given, stated = getattr(arguments, name), getattr(old, name)
        if given is not None and given != stated:
            raise InputError(
                f"{name} is {given}, and the index {arguments.output_dir!r} was made with {stated}: give "
                "that or a new output_dir"
            )
    if not arguments.other_source and not source.is_at(old.opened_source):
        raise InputError(
            f"source is {arguments.source!r}, and the index {arguments.output_dir!r} is of {old.source}: "
            "give that or a new output_dir, or --other_source if the pictures were moved"
        )


def _form_of(old: Record | None, arguments: IndexArguments) -> tuple[str, int | None]:
    """Return the type of stored embeddings, and the number of dimensions to keep."""
    if old is not None:
        return old.dtype, old.truncate_dim
    return arguments.dtype or "float16", arguments.truncate_dim


def _model_of(old: Record | None, arguments: IndexArguments) -> str:
    """Return the name of the model.

    Raises:
        InputError: the index is new, and none is given.
    """
    if arguments.model_name_or_path is not None:
        return arguments.model_name_or_path
    if old is None:
        raise InputError("missing --model_name_or_path: a new index needs a model to embed its pictures")
    return old.model


def _print_changes(record: Record, changes: "Changes", folder: Path) -> None:
    """Print what has changed, what is broken, and how to search."""
    print(
        f"{len(changes.added)} added, {len(changes.changed)} changed, {len(changes.removed)} removed; "
        f"{changes.n_embedded} embedded."
    )
    if record.broken:
        print(f"{len(record.broken)} cannot be read:")
        for name in list(record.broken)[:_SHOWN]:
            print(f"  {name}: {record.broken[name]}")
        if len(record.broken) > _SHOWN:
            print(f"  and {len(record.broken) - _SHOWN} more, see `broken` in {folder / 'index.json'}")
    if record.recall is not None:
        print(f"The compressed index finds {record.recall:.1%} of the 10 nearest pictures (recall@10).")
    print(
        f"{folder} has {record.pictures} pictures in {record.dim} dimensions. Next: altclip search {folder} "
        '"WORDS IN ANY LANGUAGE" --sheet found.png'
    )


__all__ = ["IndexArguments", "main"]
