"""What a Hub holds: repositories with branches, commits and files, in memory."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

DATE = "2026-01-01T00:00:00.000Z"
# Those of a new repository's .gitattributes that our folders have, and larger files than this.
_LFS = (".safetensors", ".bin", ".parquet", ".arrow", ".npy", ".pt", ".pth", ".onnx", ".tar", ".zip", ".gz")
_LARGE = 10 * 1024 * 1024
_RELATIONS = ("finetune", "adapter", "quantized", "merge")
_TASKS = ("zero-shot-image-classification", "image-feature-extraction", "feature-extraction")
_ATTRIBUTES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in _LFS).encode()


class Refusal(Exception):
    """An answer that is no success: its status, its code in `X-Error-Code` if any, and what it says."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


@dataclass(frozen=True)
class Blob:
    """A file: its content, and whether git has only a pointer to it."""

    content: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """Return what git stores of an LFS file."""
        spec = "version https://git-lfs.github.com/spec/v1"
        return f"{spec}\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()

    @property
    def oid(self) -> str:
        """Return git's hash of the file, or of the pointer to it."""
        stored = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A commit: all files of the repository as it leaves them, by their paths."""

    oid: str
    title: str
    author: str
    parent: "Commit | None"
    files: dict[str, Blob]


@dataclass
class Repository:
    """A repository of a kind, `model` or `dataset`; branches and tags point to commits."""

    kind: str
    id: str
    private: bool
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(self, branch: str, title: str, author: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        before = parent.oid if parent else ""
        listing = "".join(f"{path} {blob.oid}\n" for path, blob in sorted(files.items()))
        content = f"{self.kind} {self.id} {before} {title} {len(self.commits)}\n{listing}"
        oid = hashlib.sha1(content.encode()).hexdigest()
        made = Commit(oid, title, author, parent, files)
        self.branches[branch] = made
        self.commits[oid] = made
        return made

    def begin(self, author: str) -> None:
        """Make the first commit, as a new repository has it."""
        self.commit("main", "initial commit", author, {".gitattributes": Blob(_ATTRIBUTES, is_lfs=False)})

    def at(self, revision: str) -> Commit:
        """Return the commit that a branch, a tag or a hash names."""
        for known in (self.branches, self.tags, self.commits):
            if revision in known:
                return known[revision]
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def file(self, revision: str, path: str) -> Blob:
        files = self.at(revision).files
        if path not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        return files[path]

    def info(self, revision: str, *, with_blobs: bool) -> dict:
        """Return what the API says of a repository, as `model_info` reads it."""
        commit = self.at(revision)
        card = read_card(commit.files)
        tags = [*card.get("tags", []), *(f"license:{card[key]}" for key in ("license",) if key in card)]
        return {
            "id": self.id,
            "modelId": self.id,
            "author": self.id.split("/")[0],
            "sha": commit.oid,
            "lastModified": DATE,
            "createdAt": DATE,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": tags,
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
            "cardData": {key: value for key, value in card.items() if key != "model-index"},
            "model-index": card.get("model-index"),
            "evalResults": read_eval_results(commit.files),
            "siblings": [_sibling(path, blob, with_blobs) for path, blob in sorted(commit.files.items())],
        }

    def tree(self, revision: str, below: str, *, is_recursive: bool) -> list[dict]:
        """Return the files below a folder, and the folders."""
        found = {}
        for path, blob in sorted(self.at(revision).files.items()):
            for folder in reversed(PurePosixPath(path).parents):
                name = str(folder)
                if name != "." and _is_below(name, below, is_recursive):
                    found[name] = {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
            if _is_below(path, below, is_recursive):
                found[path] = entry(path, blob)
        if below and not found:
            raise Refusal(404, f"{below} does not exist", "EntryNotFound")
        return list(found.values())


def _is_below(path: str, folder: str, is_recursive: bool) -> bool:
    """Check whether a path is in a folder, or anywhere below it."""
    parents = [str(parent) for parent in PurePosixPath(path).parents]
    return (folder or ".") in (parents if is_recursive else parents[:1])


def entry(path: str, blob: Blob) -> dict:
    """Return a file as listings of a tree have it."""
    found = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid}
    if blob.is_lfs:
        found["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
    return found


def _sibling(path: str, blob: Blob, with_blobs: bool) -> dict:
    if not with_blobs:
        return {"rfilename": path}
    found = {"rfilename": path, "size": len(blob.content), "blobId": blob.oid}
    if blob.is_lfs:
        pointer = {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
        found["lfs"] = pointer
    return found


def is_lfs(path: str, size: int) -> bool:
    """Tell whether git has only a pointer to a file of this name and size."""
    return path.endswith(_LFS) or size > _LARGE


def read_card(files: dict[str, Blob]) -> dict:
    """Return the metadata of a repository's card."""
    if "README.md" not in files:
        return {}
    return card_metadata(files["README.md"].content.decode())


def card_metadata(card: str) -> dict:
    """Return the mapping between the first two `---` of a card; raise `Refusal` for what is none."""
    if not card.startswith("---\n"):
        return {}
    try:
        found = yaml.safe_load(card.split("---\n")[1]) or {}
    except yaml.YAMLError as error:
        raise Refusal(400, f"YAML metadata is invalid: {error}") from error
    if not isinstance(found, dict):
        raise Refusal(400, "YAML metadata is no mapping")
    return found


def metadata_errors(card: dict) -> list[str]:
    """Return what is wrong with a card's metadata by the Hub's documents, as far as our cards state it."""
    errors = []
    languages = card.get("language", [])
    for language in [languages] if isinstance(languages, str) else languages:
        if not re.fullmatch("[a-z]{2,3}|multilingual", str(language)):
            errors.append(f"language {language!r} is no ISO 639 code")
    if card.get("license") == "other" and "license_name" not in card:
        errors.append("license is other, and license_name is missing")
    if card.get("base_model_relation", "finetune") not in _RELATIONS:
        errors.append(f"base_model_relation is not one of {_RELATIONS}")
    if "pipeline_tag" in card and card["pipeline_tag"] not in _TASKS:
        errors.append(f"pipeline_tag {card['pipeline_tag']!r} is no task")
    if "model-index" in card:
        try:
            _, results = model_index_to_eval_results(card["model-index"])
        except (KeyError, TypeError) as error:
            return [*errors, f"model-index lacks {error}"]
        errors += [f"{result.task_type!r} is no task" for result in results if result.task_type not in _TASKS]
    return errors


def read_eval_results(files: dict[str, Blob]) -> list[dict]:
    """Return the entries of `.eval_results/*.yaml`, each under the name of its file."""
    found = []
    for path, blob in sorted(files.items()):
        if path.startswith(".eval_results/") and path.endswith((".yaml", ".yml")):
            for data in yaml.safe_load(blob.content):
                found.append({"filename": path, "data": data})
    return found
