"""The Hub at a loopback address, for the real client: repositories, commits, LFS, revisions, failures.

It answers what huggingface_hub 2.4 asks: read in that client's source, and never compared with the real Hub.
What it lacks is answered by 501 and printed: pull requests, discussions, Spaces. It refuses Xet;
`HF_HUB_DISABLE_XET=1` makes the client upload large files by LFS.
"""

import base64
import hashlib
import json
import re
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import parse_qs, unquote

from .hub_repositories import DATE, Blob, Refusal, Repository, card_metadata, entry, is_lfs, metadata_errors
from .hub_transport import Failure, Transport

TOKEN = "hf_" + "x" * 34
MISSING = "Repository not found"


class HubServer(ThreadingHTTPServer):
    """A Hub with one user, `me`, who also writes to `org`.

    Attributes:
        repositories: by kind and name, `("model", "me/clip")`.
        objects: contents of LFS files by their SHA-256; they outlive a push that breaks.
        requests: "METHOD /path" of each request.
        ranges: what was asked of files in parts, such as "bytes=100-".
        failures: the failures to come.
        received: the number of bytes that were uploaded by LFS.
        before_commit: called once, before the next commit is compared with its parent.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        # The client follows redirects to the Hub's own host only, and asks another for the file alone.
        self.storage = f"http://localhost:{self.server_port}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.failures: list[Failure] = []
        self.received = 0
        self.before_commit = None
        self.lock = Lock()
        Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address) -> None:
        """Say nothing of connections that a client, or a failure of ours, has closed."""

    def variables(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Return the environment variables by which a process uses this Hub, with its caches in a folder."""
        found = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(home),
            "HF_DATASETS_CACHE": str(home / "datasets"),
            # A proxy of the machine would not know this Hub.
            "NO_PROXY": "127.0.0.1,localhost",
        }
        return found if token is None else found | {"HF_TOKEN": token}

    def fail(self, pattern: str, how: int | str, times: int = 1) -> None:
        """Let the next requests fail that match a pattern; see `Failure`."""
        self.failures.append(Failure(pattern, times, how))

    def failure_of(self, request: str) -> int | str | None:
        with self.lock:
            for failure in self.failures:
                if failure.times and re.search(failure.pattern, request):
                    failure.times -= 1
                    return failure.how
        return None

    def model(self, name: str) -> Repository:
        return self.repositories["model", name]

    def put(self, name: str, files: dict[str, bytes], *, kind: str = "model", title: str = "By hand") -> str:
        """Commit files as somebody else does, in the browser; return the commit."""
        repository = self.repositories[kind, name]
        added = {path: Blob(content, is_lfs(path, len(content))) for path, content in files.items()}
        return repository.commit("main", title, "else", repository.at("main").files | added).oid

    def rename(self, name: str, new: str, oid: str, *, kind: str = "dataset") -> None:
        """Give a repository another name, and its last commit another hash: those that a task has pinned."""
        repository = self.repositories.pop((kind, name))
        repository.id = new
        pinned = replace(repository.at("main"), oid=oid)
        repository.branches["main"] = repository.commits[oid] = pinned
        self.repositories[kind, new] = repository


# Longer paths first: the first that matches answers. KIND is models or datasets, ID is owner/name.
_API = r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create_repository"),
    ("DELETE", r"/api/repos/delete", "delete_repository"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", _API + r"/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", _API + r"/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", _API + r"/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("POST", _API + r"/branch/(?P<name>[^/]+)", "create_branch"),
    ("DELETE", _API + r"/branch/(?P<name>[^/]+)", "delete_branch"),
    ("POST", _API + r"/tag/(?P<revision>[^/]+)", "create_tag"),
    ("GET", _API + r"/refs", "refs"),
    ("GET", _API + r"/commits/(?P<revision>[^/]+)", "commits"),
    ("GET", _API + r"/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", "tree"),
    ("GET", _API + r"/revision/(?P<revision>[^/]+)", "info"),
    ("GET", _API + r"/xet-(read|write)-token/.+", "refuse_xet"),
    ("GET", _API, "info"),
    ("POST", r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    ("POST", r"/lfs/verify", "verify"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "store"),
    ("GET", r"/cdn/(?P<oid>[0-9a-f]{64})", "send_object"),
    ("GET", r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ("GET", r"/api/agent-harnesses", "know_none"),
    ("GET", r"/", "say_alive"),
]


class _Handler(Transport):
    """Answers one request: there is a method for each of `_ROUTES`."""

    def answer(self, method: str, path: str) -> None:
        for known, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, path)
            if known == method and match:
                # A slash within a value is quoted, and one between values is not.
                given = {key: unquote(value or "") for key, value in match.groupdict().items()}
                # What is written at the same time is written in turn.
                with self.server.lock:
                    content = getattr(self, name)(**given)
                return self.send_json(content) if content is not None else None
        print(f"hub_server: no answer to {self.command} {self.path}")
        raise Refusal(501, f"This Hub has no {self.command} {path}")

    # Who asks, and for what

    def user(self) -> str | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given != TOKEN:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return "me" if given else None

    def check_writes(self) -> str:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        return user

    def repository(self, kind: str, name: str) -> Repository:
        """Return a repository; a private one is missing for those who give no token."""
        kind = "dataset" if kind.startswith("datasets") else "model"
        found = self.server.repositories.get((kind, name))
        user = self.user()
        if found is None or (found.private and user is None):
            raise Refusal(404 if user else 401, MISSING, "RepoNotFound")
        return found

    # The routes

    def say_alive(self) -> dict:
        return {}

    def know_none(self) -> None:
        """Answer a client that asks for names of programs, by which it would describe itself."""
        raise Refusal(404, "Not found")

    def whoami(self) -> dict:
        token = {"displayName": "test", "role": "write"}
        auth = {"type": "access_token", "accessToken": token}
        orgs = [{"type": "org", "name": "org", "roleInOrg": "write"}]
        return {"type": "user", "name": self.check_writes(), "orgs": orgs, "auth": auth}

    def create_repository(self) -> dict | None:
        user = self.check_writes()
        form = json.loads(self.body)
        owner = form.get("organization") or user
        if owner not in (user, "org"):
            raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        kind = form.get("type") or "model"
        name = f"{owner}/{form['name']}"
        prefix = "datasets/" if kind == "dataset" else ""
        found = {"url": f"{self.server.url}/{prefix}{name}", "name": name, "id": "0"}
        if (kind, name) in self.server.repositories:
            return self.send_json(found | {"error": "You already created this repo"}, 409)
        made = Repository(kind, name, form.get("visibility") == "private" or bool(form.get("private")))
        made.begin(user)
        self.server.repositories[kind, name] = made
        return found

    def delete_repository(self) -> dict:
        user = self.check_writes()
        form = json.loads(self.body)
        name = f"{form.get('organization') or user}/{form['name']}"
        del self.server.repositories[form.get("type") or "model", name]
        return {}

    def validate(self) -> dict | None:
        """Check a card's metadata, as `metadata_errors` does. The real Hub knows more."""
        try:
            errors = metadata_errors(card_metadata(json.loads(self.body)["content"]))
        except Refusal as refusal:
            errors = [refusal.message]
        said = {"errors": [{"message": error} for error in errors], "warnings": []}
        return self.send_json(said, 400) if errors else said

    def info(self, kind: str, id: str, revision: str = "main") -> dict:
        repository = self.repository(kind, id)
        found = repository.info(revision, with_blobs="blobs" in self.query)
        asked = self.query.get("expand")
        if asked is None:
            del found["evalResults"]  # only to those who ask
            return found
        return {key: found[key] for key in ["id", *asked] if key in found}

    def tree(self, kind: str, id: str, revision: str, path: str) -> list:
        is_recursive = self.query.get("recursive", [""])[0].lower() in ("1", "true")
        return self.repository(kind, id).tree(revision, path, is_recursive=is_recursive)

    def paths_info(self, kind: str, id: str, revision: str) -> list:
        if self.headers["Content-Type"] == "application/json":
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        files = self.repository(kind, id).at(revision).files
        found = []
        for path in paths:
            if path in files:
                found.append(entry(path, files[path]))
            elif any(file.startswith(f"{path}/") for file in files):
                found.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        return found

    def refs(self, kind: str, id: str) -> dict:
        repository = self.repository(kind, id)
        listed = {"converts": []}
        for name, known, where in (
            ("branches", repository.branches, "heads"),
            ("tags", repository.tags, "tags"),
        ):
            listed[name] = [
                {"name": ref, "ref": f"refs/{where}/{ref}", "targetCommit": commit.oid}
                for ref, commit in known.items()
            ]
        return listed

    def commits(self, kind: str, id: str, revision: str) -> list:
        commit = self.repository(kind, id).at(revision)
        found = []
        while commit is not None:
            authors = [{"user": commit.author}]
            about = {"id": commit.oid, "title": commit.title, "message": "", "date": DATE}
            found.append(about | {"authors": authors})
            commit = commit.parent
        return found

    def create_branch(self, kind: str, id: str, name: str) -> dict | None:
        self.check_writes()
        repository = self.repository(kind, id)
        if name in repository.branches:
            return self.send_json({"error": f"Reference already exists: {name}"}, 409)
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repository.branches[name] = repository.at(start)
        return {}

    def delete_branch(self, kind: str, id: str, name: str) -> dict:
        self.check_writes()
        del self.repository(kind, id).branches[name]
        return {}

    def create_tag(self, kind: str, id: str, revision: str) -> dict:
        self.check_writes()
        repository = self.repository(kind, id)
        repository.tags[json.loads(self.body)["tag"]] = repository.at(revision)
        return {}

    def preupload(self, kind: str, id: str, revision: str) -> dict:
        """Say how each file is uploaded, and what the repository has in its place."""
        self.check_writes()
        files = self.repository(kind, id).at(revision).files
        answers = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            mode = "lfs" if is_lfs(path, file["size"]) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            if path in files:
                answer["oid"] = files[path].etag
            answers.append(answer)
        return {"files": answers}

    def refuse_xet(self, kind: str, id: str) -> None:
        raise Refusal(404, "This Hub has no Xet storage")

    def batch(self, kind: str, id: str) -> dict:
        """Say where LFS files are uploaded, but for those that are here already."""
        self.check_writes()
        self.repository(kind, id)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"], "authenticated": True}
            if asked["oid"] not in self.server.objects:
                upload = {"href": f"{self.server.url}/lfs/{asked['oid']}"}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.server.url}/lfs/verify"}}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "The content has another hash")
        self.server.objects[oid] = self.body
        self.server.received += len(self.body)
        self.send(200, b"", {})

    def verify(self) -> dict:
        asked = json.loads(self.body)
        if len(self.server.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "The object was not uploaded")
        return {}

    def commit(self, kind: str, id: str, revision: str) -> dict:
        """Apply the lines of a commit, all or none."""
        user = self.check_writes()
        if "create_pr" in self.query:
            raise Refusal(501, "This Hub has no pull requests")
        repository = self.repository(kind, id)
        interfere, self.server.before_commit = self.server.before_commit, None
        if interfere is not None:
            interfere()
        files = dict(repository.at(revision).files)
        title = ""
        for line in map(json.loads, self.body.splitlines()):
            if line["key"] == "header":
                title = line["value"]["summary"]
                parent = line["value"].get("parentCommit")
                if parent is not None and not repository.branches[revision].oid.startswith(parent):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            else:
                self.apply(line["key"], line["value"], files)
        oid = repository.commit(revision, title, user, files).oid
        prefix = "datasets/" if repository.kind == "dataset" else ""
        return {
            "success": True,
            "commitOid": oid,
            "commitUrl": f"{self.server.url}/{prefix}{id}/commit/{oid}",
            "hookOutput": "",
        }

    def apply(self, key: str, value: dict, files: dict[str, Blob]) -> None:
        """Apply one line of a commit to the files."""
        path = value["path"]
        if key == "file":
            files[path] = Blob(base64.b64decode(value["content"]), is_lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.server.objects:
                raise Refusal(400, f"Your push was rejected because an LFS pointer of {path} has no object")
            files[path] = Blob(self.server.objects[value["oid"]], is_lfs=True)
        elif key == "deletedFile":
            if path not in files:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            del files[path]
        elif key == "deletedFolder":
            for inside in [name for name in files if name.startswith(f"{path.rstrip('/')}/")]:
                del files[inside]
        else:
            raise Refusal(400, f"Unknown line {key}")

    def resolve(self, kind: str, id: str, revision: str, path: str) -> None:
        """Send a file of git, or redirect to the storage of an LFS file."""
        repository = self.repository(kind, id)
        commit = repository.at(revision)
        headers = {"X-Repo-Commit": commit.oid}
        try:
            blob = repository.file(revision, path)
        except Refusal as refusal:
            said = headers | {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            return self.send_json({"error": refusal.message}, refusal.status, said)
        if blob.is_lfs:
            linked = {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": len(blob.content)}
            location = {"Location": f"{self.server.storage}/cdn/{blob.sha256}"}
            self.server.objects.setdefault(blob.sha256, blob.content)
            return self.send(302, b"", headers | linked | location)
        return self.send_content(blob.content, headers | {"ETag": f'"{blob.etag}"'})

    def send_object(self, oid: str) -> None:
        if oid not in self.server.objects:
            raise Refusal(404, "Not found")
        self.send_content(self.server.objects[oid], {"ETag": f'"{oid}"'})


__all__ = ["TOKEN", "HubServer"]
