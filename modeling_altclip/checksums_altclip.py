"""Checksums of a model's or checkpoint's files, in `checksums.json` next to them.

They are written last: files that they describe are complete, and on the disk. A folder without them, as other
programs write it, is loaded unchecked.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Literal

from huggingface_hub import HfApi

CHECKSUMS = "checksums.json"
_REMEDY = "get a complete copy, or accept it as it is: altclip check --rewrite"

_FORMAT = 1
# BLAKE2 took twice as long on a processor with instructions for SHA-256.
_ALGORITHM = "sha256"
_HASHING_THREADS = 4
_IS_WINDOWS = os.name == "nt"

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
# What `save_pretrained` of a model writes, and of a processor. Both write code.
_OF_MODEL = (
    *_WEIGHTS,
    "*.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "*.py",
)
_OF_PROCESSOR = (
    "*processor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "*.py",
)
_PIPELINE = "model_index.json"
_CHECKPOINT = re.compile(r"checkpoint-\d+(\.\d+)?$")  # damaged-checkpoint-40.2 as well
# Files of a checkpoint that may change freely.
_FREE = ("README.md", CHECKSUMS, "*.tmp")
# Code that no configuration names changes nothing where it is added.
_HARMLESS = ("*.py",)


def write_checksums(folder: str | PathLike) -> None:
    """Write the checksums of a finished folder; all its files are on the disk before they are.

    Of a model's folder they cover weights, configuration, tokenizer, processor and code; of a pipeline of
    diffusers those of its parts; of a checkpoint (`checkpoint-40`) all files, in subfolders too. Card, plots
    and notes of a training may change, or stay behind where the model is pushed.
    """
    folder = Path(folder)
    _write(folder, _hash_files(folder, _covered_files(folder)), kept={})


@contextmanager
def keep_checksums(folder: str | PathLike, *, of_processor: bool = False) -> Iterator[None]:
    """Update the checksums of a folder, if it has them, for what a `save_pretrained` writes into it.

    What it does not write keeps its checksums, and is refused as before if it is damaged.

    Args:
        of_processor: the processor is saved, and not the model.

    Raises:
        ValueError: the checksums cannot be read; nothing is saved then.
    """
    folder = Path(folder)
    if not has_checksums(folder):
        yield
        return
    patterns = _OF_PROCESSOR if of_processor else _OF_MODEL
    kept = {name: entry for name, entry in read_checksums(folder).items() if not _matches(name, patterns)}
    yield
    written = [name for name in _covered_files(folder) if _matches(name, patterns)]
    _write(folder, _hash_files(folder, written), kept)


@contextmanager
def pushed_checksums(
    folder: str | PathLike,
    repo_id: str,
    times: dict[str, float],
    *,
    token: str | bool | None,
    revision: str | None,
) -> Iterator[None]:
    """Put into a folder, for the time of its push, the checksums that the Hub repository has afterwards.

    A push replaces files and deletes none: the repository's checksums change for those that are pushed, and
    all others keep theirs. A repository without checksums stays without.

    Args:
        times: when files of the folder were changed, before the model was saved there. Those that have not
            changed since are not pushed.

    Raises:
        ValueError: the repository's checksums cannot be read; nothing is pushed then.
    """
    earlier = _download_checksums(repo_id, token, revision)
    if earlier is None:
        yield
        return
    folder = Path(folder)
    pushed = []
    for name in _covered_files(folder):
        is_new = name not in times or (folder / name).stat().st_mtime > times[name]
        if is_new and "/" not in name:
            pushed.append(name)
    kept = {name: entry for name, entry in earlier.items() if name not in pushed}

    own = folder / CHECKSUMS
    before = own.read_bytes() if own.is_file() else None
    try:
        _write(folder, _hash_files(folder, pushed), kept)
        yield
    finally:
        if before is None:
            own.unlink(missing_ok=True)
        else:
            own.write_bytes(before)


class PushesChecksums:
    """Makes `push_to_hub` of a model or processor update the checksums of a repository that has them."""

    def _upload_modified_files(self, working_dir, repo_id, files_timestamps, **options):
        """Upload what `push_to_hub` has saved, with the checksums that the repository then has, if any."""
        with pushed_checksums(
            working_dir,
            repo_id,
            files_timestamps,
            token=options.get("token"),
            revision=options.get("revision"),
        ):
            return super()._upload_modified_files(working_dir, repo_id, files_timestamps, **options)


def _download_checksums(
    repo_id: str, token: str | bool | None, revision: str | None
) -> dict[str, dict] | None:
    """Return the checksums of a Hub repository; None if it has none.

    Raises:
        ValueError: they cannot be read.
    """
    hub = HfApi()
    if revision is not None and not hub.revision_exists(repo_id, revision, token=token):
        revision = None  # the branch is made from the main one
    if not hub.file_exists(repo_id, CHECKSUMS, revision=revision, token=token):
        return None
    with TemporaryDirectory() as folder:
        hub.hf_hub_download(repo_id, CHECKSUMS, revision=revision, token=token, local_dir=folder)
        try:
            return read_checksums(folder)
        except ValueError as error:
            raise ValueError(
                f"repo_id {repo_id!r} has a {CHECKSUMS} that cannot be read: delete it there, then push again"
            ) from error


def find_damages(folder: str | PathLike, part: Literal["weights", "settings", "all"] = "all") -> list[str]:
    """List the files that are not as the checksums say, each with what is wrong.

    Weights, configurations and the like that are not listed are damages too: transformers would load them.

    Args:
        part: what to check: the files of weights; the other files that a model or processor is loaded from,
            which are small; or all, with the optimizer and the state of the training.

    Raises:
        ValueError: the checksums themselves cannot be read.
    """
    folder = Path(folder)
    listed = {name: entry for name, entry in read_checksums(folder).items() if _belongs(name, part)}
    damages = []
    for name, found in _compare_files(folder, listed):
        if found is not None:
            damages.append(f"{name} {found}")
    for name in _covered_files(folder):
        if _belongs(name, part) and name not in listed and not _matches(name, _HARMLESS):
            damages.append(f"{name} is not listed")
    return damages


def _belongs(name: str, part: str) -> bool:
    """Return whether a file belongs to a part of a folder, see `find_damages`."""
    if part == "all":
        return True
    is_in_subfolder = "/" in name
    if is_in_subfolder or not _matches(name, (*_OF_MODEL, *_OF_PROCESSOR)):
        return False
    return _matches(name, _WEIGHTS) == (part == "weights")


def check_files(folder: str | PathLike, part: Literal["weights", "settings", "all"] = "all") -> None:
    """Refuse a folder whose files are not as its checksums say; one without checksums passes.

    With the settings, the names in an index of weights are looked at in any case, see `_check_indices`.

    Args:
        part: as in `find_damages`.

    Raises:
        ValueError: a file is damaged, lost or new, or the checksums or an index cannot be read.
    """
    damages = find_damages(folder, part) if has_checksums(folder) else []
    if damages:
        raise ValueError(
            f"{folder} is not as it was saved ({CHECKSUMS}): {'; '.join(damages)}: {_REMEDY} {folder}"
        )
    if part != "weights":
        _check_indices(Path(folder))


def _check_indices(folder: Path) -> None:
    """Refuse an index of weights that names anything but files of its own folder, which would be opened.

    Raises:
        ValueError: it does, or is no index.
    """
    paths = [path for part in (folder, *_parts_of_pipeline(folder)) for path in part.glob("*.index.json")]
    for path in sorted(paths):
        try:
            index = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON ({error}): get a complete copy of the folder") from error
        files = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(files, dict):
            raise ValueError(f"{path} has no mapping weight_map: get a complete copy of the folder")
        for weight, name in files.items():
            if not isinstance(name, str) or not _is_file_name(name):
                raise ValueError(
                    f"{path} has {name!r} as the file of {weight!r}: give the name of a file in the folder"
                )


def _is_file_name(name: str) -> bool:
    """Return whether a name stays within its folder, without subfolders."""
    return name not in ("", ".", "..") and not any(character in name for character in "/\\\0")


@contextmanager
def checked_files(folder: str | PathLike, *, weights: bool = True) -> Iterator[None]:
    """Refuse a damaged folder around a `with` block that loads a model from it.

    The small files are checked before the block; the weights during it, in threads, so that they are read
    from the disk once.

    Args:
        weights: check the weights too.

    Raises:
        ValueError: as `check_files`. Damaged weights take precedence over an error of the block.
    """
    check_files(folder, "settings")
    if not weights:
        yield
        return
    with ThreadPoolExecutor(1) as threads:
        checking = threads.submit(check_files, folder, "weights")
        try:
            yield
        finally:
            checking.result()


def has_checksums(folder: str | PathLike) -> bool:
    """Return whether this is a local folder with checksums; a Hub id is none."""
    return Path(folder, CHECKSUMS).is_file()


def _covered_files(folder: str | PathLike) -> list[str]:
    """List the files that the checksums of a folder cover, sorted, as paths relative to it with `/`."""
    folder = Path(folder)
    if _CHECKPOINT.search(folder.resolve().name):
        names = []
        for path in folder.rglob("*"):
            name = path.relative_to(folder)
            is_free = _matches(path.name, _FREE) or any(part.startswith(".") for part in name.parts)
            if path.is_file() and not is_free:
                names.append(name.as_posix())
        return sorted(names)

    patterns = (*_OF_MODEL, *_OF_PROCESSOR)
    if (folder / _PIPELINE).is_file():
        # Its parts lie in subfolders, with models' names: unet/config.json.
        patterns = (*patterns, _PIPELINE, "scheduler_config.json")
    paths = [*folder.iterdir(), *(path for part in _parts_of_pipeline(folder) for path in part.iterdir())]
    names = [path.relative_to(folder).as_posix() for path in paths if path.is_file()]
    return sorted(name for name in names if _matches(name, patterns))


def _parts_of_pipeline(folder: Path) -> list[Path]:
    """Return the subfolders that a diffusers pipeline names as its parts; none for other folders."""
    path = folder / _PIPELINE
    if not path.is_file():
        return []
    try:
        named = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        return []  # its own checksum tells that it is damaged
    if not isinstance(named, dict):
        return []
    return [part for part in folder.iterdir() if part.is_dir() and part.name in named]


def read_checksums(folder: str | PathLike) -> dict[str, dict]:
    """Read the checksums of a folder, `{relative name: {"bytes": number, "digest": hexadecimal}}`.

    Raises:
        ValueError: the file is damaged, or written by a later version.
    """
    path = Path(folder, CHECKSUMS)
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): {_REMEDY} {folder}") from error
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        raise ValueError(f"{path} has no mapping of files: {_REMEDY} {folder}")
    written_as = (content.get("format"), content.get("algorithm"))
    if written_as != (_FORMAT, _ALGORITHM):
        raise ValueError(
            f"{path} has format and algorithm {written_as}, and {(_FORMAT, _ALGORITHM)} is read: "
            f"upgrade altclip, or {_REMEDY} {folder}"
        )
    for name, entry in content["files"].items():
        if not _is_entry(name, entry):
            raise ValueError(f"{path} has a damaged entry {name!r}: {entry!r}: {_REMEDY} {folder}")
    return content["files"]


def _is_entry(name: str, entry: object) -> bool:
    """Check an entry of the checksums: its name stays in the folder, and its values have their types."""
    path = PurePosixPath(name)
    is_inside = name == path.as_posix() and not path.is_absolute() and ".." not in path.parts
    if not is_inside or name in ("", ".") or "\\" in name or "\0" in name:
        return False
    if not isinstance(entry, dict) or entry.keys() != {"bytes", "digest"}:
        return False
    is_size = type(entry["bytes"]) is int and entry["bytes"] >= 0
    return is_size and bool(re.fullmatch(r"[0-9a-f]{64}", str(entry["digest"])))


def _compare_files(folder: Path, listed: dict[str, dict]) -> Iterator[tuple[str, str | None]]:
    """Yield each listed file with what is wrong about it, or None."""

    def compare(name: str) -> str | None:
        path = folder / name
        if not path.is_file():
            return "is missing"
        n_bytes = path.stat().st_size
        if n_bytes != listed[name]["bytes"]:
            return f"has {n_bytes:,} bytes instead of {listed[name]['bytes']:,}"
        return None if _digest(path) == listed[name]["digest"] else "has other bytes"

    with ThreadPoolExecutor(_HASHING_THREADS) as threads:
        yield from zip(listed, threads.map(compare, listed))


def _hash_files(folder: Path, names: Iterable[str]) -> dict[str, dict]:
    """Return the size and digest of each file."""
    names = list(names)

    def entry(name: str) -> dict:
        path = folder / name
        return {"bytes": path.stat().st_size, "digest": _digest(path)}

    with ThreadPoolExecutor(_HASHING_THREADS) as threads:
        return dict(zip(names, threads.map(entry, names)))


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _ALGORITHM).hexdigest()


def _write(folder: Path, written: dict[str, dict], kept: dict[str, dict]) -> None:
    """Put all files on the disk, and only then the checksums, under their name when they are complete.

    Args:
        written: the entries of files that were written.
        kept: the entries of files that were on the disk before, and may be damaged or lost since.
    """
    folders = {folder}
    for name in written:
        _synchronize(folder / name)
        folders.add((folder / name).parent)
    entries = written | kept
    content = {"format": _FORMAT, "algorithm": _ALGORITHM, "files": dict(sorted(entries.items()))}
    unfinished = folder / f"{CHECKSUMS}.tmp"
    try:
        unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
        _synchronize(unfinished)
        for one in folders:
            synchronize_folder(one)
        os.replace(unfinished, folder / CHECKSUMS)
    except OSError:  # a full disk
        unfinished.unlink(missing_ok=True)
        raise
    synchronize_folder(folder)


def synchronize_folder(folder: Path) -> None:
    """Have the system write the names of a folder's files to the disk, so that a power cut takes none.

    It is left out where that cannot be asked for: Windows opens no folders, and some file systems of networks
    and containers refuse.
    """
    if _IS_WINDOWS:
        return
    try:
        _synchronize(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


def _synchronize(path: Path) -> None:
    """Have the system write a file, or the list of a folder's files, to the disk."""
    # Windows synchronizes only what is opened for writing; elsewhere a file may be read-only.
    descriptor = os.open(path, os.O_RDWR if _IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether one of the patterns, as `*.safetensors`, fits the last part of a file's name."""
    last = PurePosixPath(name).name
    return any(fnmatchcase(last, pattern) for pattern in patterns)


__all__ = [
    "CHECKSUMS",
    "PushesChecksums",
    "check_files",
    "checked_files",
    "find_damages",
    "has_checksums",
    "keep_checksums",
    "pushed_checksums",
    "read_checksums",
    "synchronize_folder",
    "write_checksums",
]
