"""A small server that speaks the Hub's protocol, for the real `huggingface_hub` client.

`python tests/publishing/hub_server.py` prints its address and serves until its standard input closes. The
client reaches it through `HF_ENDPOINT`. Paths under `/_test/` set faults and tokens and show what was asked:

    faults  [{"method": "PUT", "path": "regex", "status": 500, "headers": {}}]: once. Instead of a status:
            "cut" breaks the connection in mid-request, "lost" after it was obeyed, and "commit" lets
            somebody else commit files first
    tokens  {"hf_alice": "write"}
    gate    {"kind": "models", "name": "alice/m"}
    forget  the large files, which are else not asked for twice
    pending 1
    log     ["GET /api/whoami-v2", ...]
"""

import base64
import fnmatch
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

USER, ORGANISATION = "alice", "library"
LARGE = ("*.safetensors", "*.parquet", "*.bin")
Answer = tuple[int, Any, dict[str, str]]
Match = re.Match[str]


class Refused(Exception):
    """The answer to a request that cannot be served, as the Hub words it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.answer: Answer = (status, {"error": message}, headers)


@dataclass(frozen=True)
class Blob:
    """A file of a commit."""

    content: bytes
    large: bool

    @property
    def etag(self) -> str:
        git = b"blob %d\0" % len(self.content) + self.content
        large, small = hashlib.sha256(self.content), hashlib.sha1(git)
        return large.hexdigest() if self.large else small.hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """The file as a tree listing shows it."""
        size = len(self.content)
        lfs = {"lfs": {"oid": self.etag, "size": size, "pointerSize": 130}} if self.large else {}
        return {"type": "file", "path": path, "size": size, "oid": self.etag[:40], **lfs}


@dataclass
class Repository:
    """A row of commits on `main`, the newest last."""

    name: str
    private: bool
    gated: bool = False
    commits: list[tuple[str, dict[str, Blob]]] = field(default_factory=list)

    def commit(self, files: dict[str, Blob]) -> str:
        listing = "".join(f"{path}{blob.etag}" for path, blob in sorted(files.items()))
        key = f"{self.name}{len(self.commits)}{listing}"
        self.commits.append((hashlib.sha1(key.encode()).hexdigest(), files))
        return self.commits[-1][0]

    def at(self, revision: str = "main") -> tuple[str, dict[str, Blob]]:
        for oid, files in reversed(self.commits):
            if revision in ("main", "refs/heads/main", oid):
                return oid, files
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")


class Handler(BaseHTTPRequestHandler):
    """One request. Each route is a method that returns status, JSON or bytes, and headers."""

    protocol_version = "HTTP/1.1"
    lock = threading.RLock()
    tokens: ClassVar[dict[str, str]] = {}
    repositories: ClassVar[dict[tuple[str, str], Repository]] = {}
    large: ClassVar[dict[str, bytes]] = {}  # files by hash
    faults: ClassVar[list[dict[str, Any]]] = []
    log: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        self.query, path = parse_qs(split.query), split.path
        with self.lock:
            fault = {} if path.startswith("/_test/") else self._next_fault(path)
        size = int(self.headers.get("Content-Length", 0))
        if fault.get("cut"):
            self.rfile.read(size // 2)
            return self._hang_up()
        self.body = self._chunks() if "Transfer-Encoding" in self.headers else self.rfile.read(size)
        if theirs := fault.get("commit"):
            repository = self.repositories[theirs["kind"], theirs["name"]]
            added = {path: Blob(text.encode(), False) for path, text in theirs["files"].items()}
            repository.commit({**repository.at()[1], **added})
        if "status" in fault:
            answer: Answer = (fault["status"], {"error": "made to fail"}, fault.get("headers", {}))
        else:
            answer = self._answer(path)
        return self._hang_up() if fault.get("lost") else self._send(*answer)

    do_HEAD = do_POST = do_PUT = do_GET

    def _next_fault(self, path: str) -> dict[str, Any]:
        self.log.append(f"{self.command} {path}")
        for fault in self.faults:
            if fault["method"] == self.command and re.search(fault["path"], path):
                self.faults.remove(fault)
                return fault
        return {}

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, path: str) -> Answer:
        try:
            for method, pattern, serve in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and re.fullmatch(f"{method}|HEAD", self.command):
                    with self.lock:
                        return serve(self, match)
            raise Refused(404, "", f"no route for {self.command} {path}")
        except Refused as refused:
            return refused.answer

    def _send(self, status: int, content: Any, headers: dict[str, str]) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    @property
    def address(self) -> str:
        return f"http://{self.headers['Host']}"

    # --- accounts and repositories

    def _role(self) -> str | None:
        """What the token may do; `None` for a visitor."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return self.tokens.get(token)

    def _check_writer(self, name: str) -> None:
        role = self._role()
        if role != "write" or name.split("/")[0] not in (USER, ORGANISATION):
            raise Refused(403 if role else 401, "", f"You don't have the rights to write to {name}")

    def _repository(self, match: Match, *, write: bool = False) -> Repository:
        role, name = self._role(), unquote(match["name"])
        repository = self.repositories.get((match["kind"] or "models", name))
        if repository is None or (repository.private and role is None):
            raise Refused(404 if role else 401, "RepoNotFound", "Repository not found")
        if repository.gated and role != "write":
            raise Refused(403 if role else 401, "GatedRepo", "Access to this repository is restricted")
        if write:
            self._check_writer(name)
        return repository

    def _files(self, match: Match, *, write: bool = False) -> tuple[str, dict[str, Blob]]:
        revision = unquote(match.groupdict().get("revision") or "main")
        return self._repository(match, write=write).at(revision)

    def whoami(self, _: Match) -> Answer:
        role = self._role()
        if role is None:
            raise Refused(401, "", "Invalid username or password.")
        orgs = [{"name": ORGANISATION, "roleInOrg": "write"}]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        return 200, {"type": "user", "name": USER, "fullname": USER, "orgs": orgs, "auth": auth}, {}

    def create(self, _: Match) -> Answer:
        asked = self.json
        kind = f"{asked.get('type', 'model')}s"
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        url = f"{self.address}/{'' if kind == 'models' else kind + '/'}{name}"
        self._check_writer(name)
        if (kind, name) in self.repositories:
            return 409, {"error": "You already created this repo", "url": url}, {}
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        attributes = "".join(f"{pattern} filter=lfs\n" for pattern in LARGE)
        self.repositories[kind, name] = Repository(name, private)
        self.repositories[kind, name].commit({".gitattributes": Blob(attributes.encode(), False)})
        return 200, {"url": url, "name": name}, {}

    def info(self, match: Match) -> Answer:
        repository, (oid, files) = self._repository(match), self._files(match)
        siblings = [{"rfilename": path} for path in sorted(files)]
        gated = "manual" if repository.gated else False
        found = {"id": repository.name, "sha": oid, "private": repository.private, "gated": gated}
        return 200, {**found, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}, {}

    def may(self, match: Match) -> Answer:
        self._repository(match, write=match["write"] is not None)
        return 200, {}, {}

    def tree(self, match: Match) -> Answer:
        _, files = self._files(match)
        folder = unquote(match["folder"] or "").strip("/")
        inside = [path for path in files if path.startswith(f"{folder}/" if folder else "")]
        if not inside:
            raise Refused(404, "EntryNotFound", f"{folder} does not exist")
        return 200, [files[path].entry(path) for path in sorted(inside)], {}

    def validate(self, _: Match) -> Answer:
        return 200, {"errors": [], "warnings": []}, {}

    # --- uploads and downloads

    def preupload(self, match: Match) -> Answer:
        _, files = self._files(match, write=True)
        answers = []
        for file in self.json["files"]:
            path, known = file["path"], files.get(file["path"])
            large = file["size"] > 200_000 or any(fnmatch.fnmatch(path, one) for one in LARGE)
            mode = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            answers.append({"path": path, **mode, "oid": known.etag if known else None})
        return 200, {"files": answers}, {}

    def commit(self, match: Match) -> Answer:
        repository, (head, files) = self._repository(match, write=True), self._files(match)
        files = dict(files)
        for item in map(json.loads, self.body.splitlines()):
            key, value = item["key"], item["value"]
            if key == "header" and value.get("parentCommit", head) != head:
                raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
            if key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                files[value["path"]] = Blob(self.large[value["oid"]], True)
        oid = repository.commit(files)
        url = f"{self.address}/{repository.name}/commit/{oid}"
        return 200, {"commitUrl": url, "commitOid": oid}, {}

    def lfs_batch(self, match: Match) -> Answer:
        self._repository(match, write=True)
        objects = [self._lfs_object(one["oid"], one["size"]) for one in self.json["objects"]]
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _lfs_object(self, oid: str, size: int) -> dict[str, Any]:
        if oid in self.large:
            return {"oid": oid, "size": size}
        upload, verify = f"{self.address}/_lfs/{oid}", f"{self.address}/_lfs/verify"
        actions = {"upload": {"href": upload}, "verify": {"href": verify}}
        return {"oid": oid, "size": size, "actions": actions}

    def lfs_put(self, match: Match) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != match["oid"]:
            raise Refused(400, "", "the content is not what its hash says")
        self.large[match["oid"]] = self.body
        return 200, {}, {}

    def lfs_verify(self, _: Match) -> Answer:
        return 200 if self.json["oid"] in self.large else 404, {}, {}

    def resolve(self, match: Match) -> Answer:
        oid, files = self._files(match)
        path = unquote(match["path"])
        if path not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        blob = files[path]
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": oid}
        if blob.large:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        return 200, blob.content, headers

    def test(self, match: Match) -> Answer:
        """What the tests set and ask."""
        what, given = match["what"], self.json
        if what == "faults":
            self.faults[:] = given
        elif what == "tokens":
            self.tokens.clear()
            self.tokens.update(given)
        elif what == "gate":
            self.repositories[given["kind"], given["name"]].gated = True
        elif what == "forget":
            self.large.clear()
        return 200, len(self.faults) if what == "pending" else self.log, {}


_API = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
_FILES = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)"
_REVISION = r"/(?P<revision>[^/]+)"
ROUTES: list[tuple[str, str, Callable[[Handler, Match], Answer]]] = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("GET", _API + rf"(?:/revision{_REVISION})?", Handler.info),
    ("GET", _API + r"/auth-check(?P<write>/write)?", Handler.may),
    ("GET", _API + rf"/tree{_REVISION}(?P<folder>/.*)?", Handler.tree),
    ("POST", _API + rf"/preupload{_REVISION}", Handler.preupload),
    ("POST", _API + rf"/commit{_REVISION}", Handler.commit),
    ("POST", _FILES + r"\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/_lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    ("POST", r"/_lfs/verify", Handler.lfs_verify),
    (r"GET|POST", r"/_test/(?P<what>\w+)", Handler.test),
    ("GET", _FILES + rf"/resolve{_REVISION}/(?P<path>.+)", Handler.resolve),
]


def main() -> None:
    """Serve until standard input closes, so that no server outlives its test."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
