"""Serve folders at a loopback address as the Hub serves datasets, for tests that read tasks by their id."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlparse


class FakeHub(ThreadingHTTPServer):
    """Hub of datasets, of one commit each, at a loopback address.

    Datasets of the owner `gated` show only their card. `requests` lists what was asked for, as
    "owner/name/resolve/...".

    Args:
        folders: `{id: folder}`.
        commits: `{id: hash}`; all zeros for others.
    """

    def __init__(self, folders: dict[str, Path], commits: dict[str, str]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folders = folders
        self.commits = commits
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, daemon=True).start()


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

        dataset = "/".join(parts[1:3])
        verb, *rest = parts[3:] or ["info"]
        self.server.requests.append("/".join([dataset, verb, *rest]))

        is_card = rest[-1:] == ["README.md"]
        if dataset.startswith("gated/") and not is_card:
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}
            return self.answer(401, b"{}", headers)

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
            body = {"id": dataset, "sha": commit, "siblings": [], "tags": []}
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
        # The tag changes with the file, so that no client takes an old copy of it from its cache.
        tag = path.stat().st_mtime_ns
        return self.answer(200, path.read_bytes(), {"ETag": f'"{tag}"', "X-Repo-Commit": commit})

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
