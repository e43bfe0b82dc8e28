"""Serve folders at a loopback address as the Hub serves datasets and models, and take what is pushed."""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlparse


class FakeHub(ThreadingHTTPServer):
    """Hub of datasets and models, of one commit each, at a loopback address.

    Datasets of the owner `gated` show only their card. `requests` lists what was asked for, as
    "owner/name/resolve/...", and `n_bytes` counts the bytes of files that were sent.

    Args:
        folders: `{id: folder}`.
        commits: `{id: hash}`; all zeros for others.
    """

    def __init__(self, folders: dict[str, Path], commits: dict[str, str]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folders = folders
        self.commits = commits
        self.requests = []
        self.n_bytes = 0
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True).start()

    def variables(self, folder: Path) -> dict[str, str]:
        """Return the environment variables by which a process asks this hub, and caches in a folder."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(folder / "home"),
            "HF_DATASETS_CACHE": str(folder / "cache"),
            # A proxy of the machine would not know this hub.
            "NO_PROXY": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        """Print nothing on the terminal."""

    def do_GET(self) -> None:
        # /datasets/owner/name/resolve/main/README.md, or /api/datasets/owner/name/tree/main
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        if parts[0] == "api":
            parts = parts[1:]
        if parts == [""]:  # a client checks that the server is there
            return self.answer(200, b"{}")

        # A file of a model has no such word: /owner/name/resolve/main/config.json
        if parts[0] in ("datasets", "models"):
            parts = parts[1:]
        dataset = "/".join(parts[:2])
        verb, *rest = parts[2:] or ["info"]
        self.server.requests.append("/".join([dataset, verb, *rest]))

        is_card = rest[-1:] == ["README.md"]
        if dataset.startswith("gated/") and not is_card:
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}
            return self.answer(401, b"{}", headers)

        if dataset not in self.server.folders:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        folder = self.server.folders[dataset]
        commit = self.server.commits.get(dataset, "0" * 40)
        if rest and rest[0] not in ("main", commit):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        path = folder.joinpath(*rest[1:])
        if verb == "resolve":
            return self.send_file(path, commit)

        if verb == "commits":
            date = "2026-01-01T00:00:00.000Z"
            body = [{"id": commit, "title": "", "message": "", "authors": [], "date": date}]
        elif verb in ("tree", "paths-info"):
            body = self.entries(folder, path)
        else:
            body = {"id": dataset, "sha": commit, "siblings": self.sizes(folder), "tags": []}
        return self.answer(200, json.dumps(body).encode())

    do_HEAD = do_GET

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        form = json.loads(self.rfile.read(length) or "{}")
        dataset = "/".join(self.path.split("/")[3:5])  # /api/datasets/owner/name/paths-info/...
        folder = self.server.folders[dataset]
        paths = [folder / path for path in form["paths"]]
        found = [self.entry(folder, path) for path in paths if path.exists()]
        self.answer(200, json.dumps(found).encode())

    def send_file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        # The tag changes with the file, so that no client takes an old copy of it, or another file that was
        # written at the same time, from its cache.
        tag = f"{path.stat().st_ino}-{path.stat().st_mtime_ns}"
        return self.answer(200, path.read_bytes(), {"ETag": f'"{tag}"', "X-Repo-Commit": commit})

    def sizes(self, folder: Path) -> list[dict]:
        """Return the files with their sizes, where a client asks for these."""
        if "blobs=true" not in self.path.lower():
            return []
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return [{"rfilename": str(path.relative_to(folder)), "size": path.stat().st_size} for path in paths]

    def entries(self, folder: Path, below: Path) -> list[dict]:
        is_recursive = "recursive=true" in self.path.lower()
        paths = below.rglob("*") if is_recursive else below.glob("*")
        return [self.entry(folder, path) for path in sorted(paths)]

    def entry(self, folder: Path, path: Path) -> dict:
        kind = "directory" if path.is_dir() else "file"
        name = str(path.relative_to(folder))
        return {"type": kind, "path": name, "size": path.stat().st_size, "oid": f"{abs(hash(name)):040x}"}

    def answer(self, status: int, body: bytes, headers: dict | None = None) -> None:
        begin, end = 0, len(body)
        if "Range" in self.headers and status == 200:
            # bytes=100-199 are a hundred bytes; bytes=100- are all from there on
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            begin = int(first)
            end = min(int(last or end) + 1, end)
            status = 206  # partial content

        self.send_response(status)
        sent = {"Content-Length": end - begin, "Content-Type": "application/json", **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, str(value))
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(body)}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[begin:end])
            self.server.n_bytes += end - begin


class PushHub(ThreadingHTTPServer):
    """Hub of models at a loopback address; each repository is a folder, into which commits are written.

    Repositories without an owner belong to `me`. All branches show the same files. `uploaded` has each file's
    path in its repository and its bytes, in the order of the commits; `deleted` has paths, and `tokens` what
    the clients gave.

    Args:
        folder: where the repositories are: `folder / "me/model"`.
    """

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _PushHandler)
        self.folder = folder
        self.branches = ["main"]
        self.uploaded = []
        self.deleted = []
        self.tokens = set()
        self.n_commits = 0
        self.n_bytes = 0
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True).start()


class _PushHandler(_Handler):
    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        if parts[0] == "api" and parts[4] == "revision":
            # /api/models/owner/name/revision/main
            if parts[5] not in self.server.branches:
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return self.send_json({"id": "/".join(parts[2:4])})
        if parts[0] == "api":
            # /api/models/owner/name/tree/main
            folder = self.server.folder.joinpath(*parts[2:4])
            return self.answer(200, json.dumps(self.entries(folder, folder)).encode())
        # /owner/name/resolve/main/config.json; each commit has another hash, or old copies would be taken
        path = self.server.folder.joinpath(*parts[:2], *parts[4:])
        return self.send_file(path, f"{self.server.n_commits:040x}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"].removeprefix("Bearer "))
        path = urlparse(self.path).path
        repository = "/".join(path.split("/")[3:5])  # /api/models/owner/name/commit/main
        if path == "/api/repos/create":
            form = json.loads(body)
            owner = form.get("organization") or "me"
            return self.send_json({"url": f"{self.server.url}/{owner}/{form['name']}"})
        if path == "/api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        if "/branch/" in path:
            self.server.branches.append(path.split("/")[-1])
            return self.send_json({})
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            # They come within the commit, not by LFS.
            regular = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.send_json({"files": regular})
        for line in body.splitlines():
            self.apply(self.server.folder / repository, json.loads(line))
        self.server.n_commits += 1
        commit = f"{self.server.n_commits:040x}"
        return self.send_json(
            {"commitUrl": f"{self.server.url}/{repository}/commit/{commit}", "commitOid": commit}
        )

    def apply(self, folder: Path, line: dict) -> None:
        """Apply one line of a commit: a file that is added or deleted, or the message."""
        if line["key"] == "file":
            path = folder / line["value"]["path"]
            content = base64.b64decode(line["value"]["content"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self.server.uploaded.append((line["value"]["path"], content))
        elif line["key"] == "deletedFile":
            (folder / line["value"]["path"]).unlink()
            self.server.deleted.append(line["value"]["path"])

    def send_json(self, content: dict) -> None:
        self.answer(200, json.dumps(content).encode())
