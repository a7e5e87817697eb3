"""A stand-in of the hub's HTTP API: repositories in memory, with commits, LFS and revisions."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import unquote, urlparse

LFS_SUFFIXES = (".safetensors", ".npz", ".pt")


class Hub:
    """What the server knows: files of each repository by revision, and large objects."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.refuse_writing = self.refuse_storage = False
        self.url = ""

    def put(self, repo: str, files: dict[str, bytes], revision: str = "main") -> None:
        self.repos.setdefault(repo, {"main": {}})[revision] = dict(files)


class Handler(BaseHTTPRequestHandler):
    """One request; what it does not know is answered with 404, as the hub does."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep quiet."""

    def reply(self, status: int, body: object = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, code: str) -> None:
        self.reply(404, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        """Return the files of a revision, or answer that there is none."""
        if repo not in self.hub.repos:
            self.missing("RepoNotFound")
        elif revision not in self.hub.repos[repo]:
            self.missing("RevisionNotFound")
        else:
            return self.hub.repos[repo][revision]
        return None

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            files = self.files(*match.groups())
            if files is not None:
                self.reply(200, [entry(name, data) for name, data in files.items()])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            files = self.files(match[1], match[2] or "main")
            if files is not None:
                siblings = [{"rfilename": name} for name in files]
                self.reply(200, {"id": match[1], "sha": commit_of(files), "siblings": siblings})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*match.groups())
        else:
            self.missing("EntryNotFound")

    do_HEAD = do_GET  # noqa: N815

    def resolve(self, repo: str, revision: str, name: str) -> None:
        known = self.hub.repos.get(repo, {})
        by_commit = {commit_of(files): files for files in known.values()}
        files = by_commit.get(revision)
        files = self.files(repo, revision) if files is None else files
        if files is None:
            return
        if name not in files:
            self.reply(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit_of(files))
            return
        data = files[name]
        digest = hashlib.sha256(data).hexdigest()
        self.reply(200, data, ETag=f'"{digest}"', X_Repo_Commit=commit_of(files))

    def do_POST(self) -> None:
        path, raw = unquote(urlparse(self.path).path), self.body()
        self.hub.requests.append(f"POST {path}")
        if self.hub.refuse_writing:
            self.reply(403, {"error": "Forbidden"})
        elif path == "/api/repos/create":
            self.create(json.loads(raw))
        elif path.startswith("/api/validate-yaml"):
            self.reply(200, {"errors": [], "warnings": []})
        elif re.search(r"/preupload/[^/]+$", path):
            names = [file["path"] for file in json.loads(raw)["files"]]
            modes = {name: "lfs" if name.endswith(LFS_SUFFIXES) else "regular" for name in names}
            found = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]
            self.reply(200, {"files": found})
        elif path.endswith("/info/lfs/objects/batch"):
            self.batch(json.loads(raw))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            self.commit(match[1], match[2], raw)
        else:
            self.missing("EntryNotFound")

    def do_PUT(self) -> None:
        data = self.body()
        if self.hub.refuse_storage:
            self.reply(403, {"error": "full"})
            return
        self.hub.objects[self.path.rsplit("/", 1)[1]] = data
        self.hub.requests.append("PUT")
        self.reply(200)

    def create(self, asked: dict) -> None:
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo}
        status = 409 if repo in self.hub.repos else 200
        self.hub.repos.setdefault(repo, {"main": {}})
        self.reply(status, answer)

    def batch(self, asked: dict) -> None:
        found = []
        for item in asked["objects"]:
            href = f"{self.hub.url}/storage/{item['oid']}"
            found.append({**item, "actions": {"upload": {"href": href, "header": {}}}})
        self.reply(200, {"transfer": "basic", "objects": found})

    def commit(self, repo: str, revision: str, raw: bytes) -> None:
        files = self.files(repo, revision)
        if files is None:
            return
        for line in raw.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                data = self.hub.objects[value["oid"]]
                assert hashlib.sha256(data).hexdigest() == value["oid"]
                files[value["path"]] = data
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        oid = commit_of(files)
        self.reply(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid})


def entry(name: str, data: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def commit_of(files: dict[str, bytes]) -> str:
    """Return a name for the state of a repository, 40 hexadecimal digits as git's."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@contextmanager
def served() -> Iterator[Hub]:
    """Run the server inside the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
