"""A Hugging Face Hub on loopback: as much of its protocol as ``huggingface_hub`` speaks to push and to pull.

Repositories live in memory. Faults are injected by a regular expression on ``"METHOD path"``: an answer of a wrong
status, a dropped connection, an answer that is lost after the work was done, a body that ends too early, a flipped bit.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

TOKEN, USER = "hf_tests", "user"


@dataclass
class Fault:
    """What goes wrong with the requests that match, ``times`` times."""

    pattern: str
    kind: str  # a status such as "500", or "drop", "lost", "truncate", "flip"
    times: int = 10**9


@dataclass
class Repo:
    """Commits, newest last, each a map from path to content; branches point at them."""

    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    branches: dict[str, int] = field(default_factory=lambda: {"main": 0})
    lfs: set[str] = field(default_factory=set)

    def oid(self, index: int) -> str:
        """A name of 40 hexadecimal digits for a commit."""
        listing = sorted((path, hashlib.sha256(data).hexdigest()) for path, data in self.commits[index].items())
        return hashlib.sha1(f"{index}{listing}".encode()).hexdigest()

    def find(self, revision: str) -> int | None:
        """The commit of a branch or of its own name."""
        revision = unquote(revision).removeprefix("refs/heads/")
        if revision in self.branches:
            return self.branches[revision]
        return next((i for i in range(len(self.commits)) if self.oid(i) == revision), None)


class Hub:
    """The server; ``with Hub() as hub:`` runs it on a free port of 127.0.0.1."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.RLock()

    def __enter__(self) -> "Hub":
        hub = self
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    @staticmethod
    def made_of(folder: Path) -> Repo:
        """A repository that holds a folder."""
        files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
        lfs = {name for name in files if name.endswith(".safetensors")}
        return Repo(commits=[{name: file.read_bytes() for name, file in files.items()}], lfs=lfs)

    def fault(self, line: str) -> str | None:
        """The kind of fault for this request, counting it."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault.kind
        return None


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def handle_request(self):
        """Serve whatever method, with the fault that is due."""
        self.body = self.read_body()
        url = urlparse(self.path)
        self.query, line = parse_qs(url.query), f"{self.command} {unquote(url.path)}"
        with self.hub.lock:
            self.hub.requests.append(line)
        kind = self.hub.fault(line)
        self.kind = kind
        if kind == "drop":
            self.close_connection = True
            self.connection.close()
        elif kind is not None and kind.isdigit():
            self.json({"error": f"injected {kind}"}, int(kind), **({"Retry-After": "0"} if kind == "429" else {}))
        elif line == "POST /control":  # the client under test sets the next scene
            self.control(json.loads(self.body))
        else:
            self.route(line)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def control(self, wanted: dict):
        """Set faults; answer what was asked since and what each repository's main branch holds."""
        with self.hub.lock:
            self.hub.faults = [Fault(**fault) for fault in wanted["faults"]]
            self.hub.blobs.clear()  # commits hold their content; the next upload sends everything again
            seen, self.hub.requests = self.hub.requests, []
            held = {name: sorted(repo.commits[repo.branches["main"]]) for name, repo in self.hub.repos.items()}
        self.json({"requests": seen, "files": held})

    def route(self, line: str):
        authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if line == "GET /api/whoami-v2":
            role = {"accessToken": {"role": "write", "displayName": "tests"}}
            return self.json({"type": "user", "name": USER, "orgs": [], "auth": role}, 200 if authorised else 401)
        if line == "POST /api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if line == "POST /api/repos/create":
            return self.create(json.loads(self.body), authorised)
        if match := re.fullmatch(r"PUT /lfs/(\w+)", line):
            return self.store(match[1])
        for pattern, method in (
            (r"POST /(\w+/[\w.-]+)\.git/info/lfs/objects/batch", self.batch),
            (r"(?:GET|HEAD) /(\w+/[\w.-]+)/resolve/([^/]+)/(.+)", self.resolve),
            (r"GET /api/models/(\w+/[\w.-]+)", self.info),
            (r"GET /api/models/(\w+/[\w.-]+)/revision/([^/]+)", self.info),
            (r"GET /api/models/(\w+/[\w.-]+)/tree/([^/]+)/?(.*)", self.tree),
            (r"POST /api/models/(\w+/[\w.-]+)/paths-info/([^/]+)", self.paths),
            (r"POST /api/models/(\w+/[\w.-]+)/preupload/([^/]+)", self.preupload),
            (r"POST /api/models/(\w+/[\w.-]+)/branch/([^/]+)", self.branch),
            (r"POST /api/models/(\w+/[\w.-]+)/commit/([^/]+)", self.commit),
        ):
            if match := re.fullmatch(pattern, line):
                repo = self.hub.repos.get(match[1])
                if repo is None or (repo.private and not authorised):
                    return self.json(
                        {"error": "Repository not found"},
                        401 if not authorised else 404,
                        **{"X-Error-Code": "RepoNotFound"},
                    )
                if line.startswith("POST") and not authorised and "paths-info" not in line:
                    return self.json({"error": "Invalid token"}, 401)
                return method(match[1], repo, *match.groups()[1:])
        return self.json({"error": f"no such route: {line}"}, 404)

    def create(self, wanted: dict, authorised: bool):
        if not authorised:
            return self.json({"error": "Invalid username or password."}, 401)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        exists = name in self.hub.repos
        if not exists:
            self.hub.repos[name] = Repo(private=bool(wanted.get("private")) or wanted.get("visibility") == "private")
        return self.json({"url": f"{self.hub.url}/{name}", "name": name, "id": name}, 409 if exists else 200)

    def at(self, repo: Repo, revision: str) -> int | None:
        """The commit of a revision; answers 404 itself where there is none."""
        index = repo.find(revision)
        if index is None:
            self.json({"error": f"Invalid rev id: {revision}"}, 404, **{"X-Error-Code": "RevisionNotFound"})
        return index

    def info(self, name: str, repo: Repo, revision: str = "main"):
        if (index := self.at(repo, revision)) is not None:
            siblings = [{"rfilename": path} for path in repo.commits[index]]
            self.json({"id": name, "modelId": name, "sha": repo.oid(index), "private": repo.private, "tags": [],
                       "downloads": 0, "likes": 0, "siblings": siblings})  # fmt: skip

    def entry(self, repo: Repo, path: str, data: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
        if path in repo.lfs:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def tree(self, name: str, repo: Repo, revision: str, folder: str = ""):
        if (index := self.at(repo, revision)) is not None:
            self.json([self.entry(repo, *item) for item in repo.commits[index].items() if item[0].startswith(folder)])

    def paths(self, name: str, repo: Repo, revision: str):
        text = self.body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        if (index := self.at(repo, revision)) is not None:
            files = repo.commits[index]
            self.json([self.entry(repo, path, files[path]) for path in wanted if path in files])

    def preupload(self, name: str, repo: Repo, revision: str):
        files = json.loads(self.body)["files"]
        mode = lambda path: "lfs" if path.endswith((".safetensors", ".png")) else "regular"  # noqa: E731
        self.json({"files": [{"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False} for f in files]})

    def batch(self, name: str, repo: Repo):
        objects = json.loads(self.body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}}
        self.json({"transfer": "basic", "objects": objects}, **{"Content-Type": "application/vnd.git-lfs+json"})

    def store(self, oid: str):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.json({"error": "checksum"}, 400)
        self.hub.blobs[oid] = self.body
        return self.json({})

    def branch(self, name: str, repo: Repo, branch: str):
        exists = branch in repo.branches
        repo.branches.setdefault(branch, repo.branches["main"])
        self.json({"error": "exists"} if exists else {}, 409 if exists else 200)

    def commit(self, name: str, repo: Repo, revision: str):
        lines = [json.loads(line) for line in self.body.splitlines()]
        with self.hub.lock:
            files = dict(repo.commits[repo.branches[revision]])
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    if value["oid"] not in self.hub.blobs:
                        return self.json({"error": "LFS object missing"}, 400)
                    files[value["path"]] = self.hub.blobs[value["oid"]]
                    repo.lfs.add(value["path"])
                elif line["key"] == "deletedFile":
                    files.pop(value["path"], None)
            repo.commits.append(files)
            repo.branches[revision] = len(repo.commits) - 1
        oid = repo.oid(len(repo.commits) - 1)
        return self.json({"commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "hookOutput": "",
                          "success": True})  # fmt: skip

    def resolve(self, name: str, repo: Repo, revision: str, path: str):
        if (index := self.at(repo, revision)) is None:
            return
        data = repo.commits[index].get(path)
        if data is None:
            self.json(
                {"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.oid(index)}
            )
            return
        etag = hashlib.sha256(data).hexdigest() if path in repo.lfs else git_oid(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repo.oid(index), "Accept-Ranges": "bytes"}
        if path in repo.lfs:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        if self.kind == "flip" and data:
            data = data[:-5] + bytes([data[-5] ^ 16]) + data[-4:]
        status, first = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            status, first = 206, int(match[1])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self.answer(status, data[first:], {"Content-Type": "application/octet-stream", **headers})

    def json(self, content: object, status: int = 200, **headers: str):
        body = json.dumps(content).encode()
        headers.setdefault("Content-Type", "application/json")
        self.answer(status, body, headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str]):
        if self.kind == "lost":
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.kind == "truncate" else body)
            if self.kind == "truncate":
                self.close_connection = True

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))
