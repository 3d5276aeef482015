"""A Hugging Face Hub on loopback: as much of its protocol as ``huggingface_hub`` speaks to push and to pull.

Repositories live in memory, and every file is sent within the commit, as small ones are. Faults are injected by a
regular expression on ``"METHOD path"``: an answer of a wrong status, a dropped connection, an answer that is lost after
the work was done, a body that ends too early, a flipped bit.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

TOKEN, USER = "hf_tests", "user"


@dataclass
class Fault:
    """What goes wrong with the requests that match, ``times`` times."""

    pattern: str
    kind: str  # a status such as "500", or "drop", "lost", "truncate", "flip"
    times: int = 10**9


@dataclass
class Repo:
    """Commits, each a map from path to content, by name; branches point at them."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Put a commit on a branch, and name it by what it holds."""
        oid = self.branches[branch] = git_oid(
            repr(sorted((path, git_oid(data)) for path, data in files.items())).encode()
        )
        self.commits[oid] = files
        return oid


class Hub:
    """The server; ``with Hub() as hub:`` runs it on a free port of 127.0.0.1."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
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

    def add(self, name: str, folder: Path | None = None, **options) -> None:
        """A repository that holds a folder, or nothing."""
        repo = self.repos[name] = Repo(**options)
        files = [file for file in folder.rglob("*") if file.is_file()] if folder else []
        repo.commit({file.relative_to(folder).as_posix(): file.read_bytes() for file in files})

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
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = f"{self.command} {unquote(urlparse(self.path).path)}"
        with self.hub.lock:
            self.hub.requests.append(line)
        self.kind = kind = self.hub.fault(line)
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
            seen, self.hub.requests = self.hub.requests, []
            held = {name: [*repo.commits[repo.branches["main"]]] for name, repo in self.hub.repos.items()}
            private = [name for name, repo in self.hub.repos.items() if repo.private]
        self.json({"requests": seen, "files": held, "private": private})

    def route(self, line: str):
        if line == "POST /api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if line == "POST /api/repos/create":
            return self.create(json.loads(self.body))
        for pattern, method in (
            (r"(?:GET|HEAD) /NAME/resolve/([^/]+)/(.+)", self.resolve),
            (r"GET /api/models/NAME(?:/revision/([^/]+))?", self.info),
            (r"GET /api/models/NAME/tree/([^/]+)", self.tree),
            (r"POST /api/models/NAME/preupload/[^/]+", self.preupload),
            (r"POST /api/models/NAME/branch/([^/]+)", self.branch),
            (r"POST /api/models/NAME/commit/([^/]+)", self.commit),
        ):
            if match := re.fullmatch(pattern.replace("NAME", r"(\w+/[\w-]+)"), line):
                self.name, self.repo = match[1], self.hub.repos.get(match[1])
                if self.repo is None:
                    return self.json({"error": "none"}, 404, **{"X-Error-Code": "RepoNotFound"})
                return method(*match.groups()[1:])
        return self.json({"error": f"no such route: {line}"}, 404)

    def create(self, wanted: dict):
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        exists = name in self.hub.repos
        if not exists:
            self.hub.add(name, private=bool(wanted.get("private")) or wanted.get("visibility") == "private")
        return self.json({"url": f"{self.hub.url}/{name}", "name": name, "id": name}, 409 if exists else 200)

    def at(self, revision: str | None) -> str | None:
        """The commit of a branch or of its own name; answers 404 itself where there is none."""
        oid = self.repo.branches.get(revision or "main", revision)
        if oid not in self.repo.commits:
            self.json({"error": f"Invalid rev id: {revision}"}, 404, **{"X-Error-Code": "RevisionNotFound"})
            return None
        return oid

    def info(self, revision: str | None):
        if oid := self.at(revision):
            self.json(
                {"id": self.name, "sha": oid, "siblings": [{"rfilename": path} for path in self.repo.commits[oid]]}
            )

    def tree(self, revision: str):
        if oid := self.at(revision):
            files = self.repo.commits[oid].items()
            self.json([{"type": "file", "path": p, "size": len(data), "oid": git_oid(data)} for p, data in files])

    def preupload(self):
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        self.json({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})

    def branch(self, branch: str):
        exists = branch in self.repo.branches
        self.repo.branches.setdefault(branch, self.repo.branches["main"])
        self.json({}, 409 if exists else 200)

    def commit(self, branch: str):
        with self.hub.lock:
            files = dict(self.repo.commits[self.repo.branches[branch]])
            for line in map(json.loads, self.body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    files.pop(value["path"], None)
            oid = self.repo.commit(files, branch)
        return self.json({"commitOid": oid, "commitUrl": f"{self.hub.url}/{self.name}/commit/{oid}", "success": True})

    def resolve(self, revision: str, path: str):
        if (oid := self.at(revision)) is None:
            return
        headers = {"X-Repo-Commit": oid}
        data = self.repo.commits[oid].get(path)
        if data is None:
            return self.json({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound", **headers})
        headers["ETag"] = f'"{git_oid(data)}"'
        if self.kind == "flip":
            data = data[:-5] + bytes([data[-5] ^ 16]) + data[-4:]
        self.answer(200, data, {"Content-Type": "application/octet-stream", **headers})

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
