"""A small server that speaks the Hub's protocol, for the real `huggingface_hub` client.

`python tests/publishing/hub_server.py` prints its address and serves until its standard input closes. The
client reaches it through `HF_ENDPOINT`. Paths under `/_test/` set faults and tokens and show what was asked:

    POST /_test/faults  [{"method": "PUT", "path": "regex", "times": 1, "status": 500, "headers": {}}],
                        "cut": true instead of a status breaks the connection in mid-request,
                        "lost": true after the request was obeyed
    POST /_test/tokens  {"hf_alice": "write"}
    POST /_test/gate    {"kind": "models", "name": "alice/m"}
    POST /_test/forget  the large files, which are else not asked for twice
    GET  /_test/pending 1
    GET  /_test/log     ["GET /api/whoami-v2", ...]
"""

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

if __name__ == "__main__":  # started as a program, its folder's parents are not importable
    sys.path.insert(0, str(Path(__file__).parents[2]))

from huggingface_hub import ModelCard, RepoCard

from tests.publishing.hub_store import Blob, Hub, Refused, Repository

PART = 300_000
"""Large files above this many bytes are asked for in parts."""

Answer = tuple[int, Any, dict[str, str]]
Match = re.Match[str]
_REPOSITORY = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
_FILES = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)"


class Faults:
    """Answers that are to go wrong, and a log of what was asked."""

    def __init__(self) -> None:
        self.waiting: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.lock = threading.Lock()

    def next_for(self, method: str, path: str) -> dict[str, Any] | None:
        with self.lock:
            self.log.append(f"{method} {path}")
            for fault in self.waiting:
                if fault["method"] == method and re.search(fault["path"], path):
                    fault["times"] -= 1
                    if fault["times"] <= 0:
                        self.waiting.remove(fault)
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """One request. Each route is a method that returns status, JSON or bytes, and headers."""

    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]
    faults: ClassVar[Faults]
    parts: ClassVar[dict[str, bytes]]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    # --- plumbing ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        split = urlsplit(self.path)
        self.query = parse_qs(split.query)
        path = unquote(split.path) if "/_test/" in split.path else split.path
        fault = None if path.startswith("/_test/") else self.faults.next_for(self.command, path)
        if fault and fault.get("cut"):
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.close_connection = True
            self.connection.close()
            return
        self.body = self._read_body()
        if fault and "commit" in fault:
            self._commit_of_another(**fault.pop("commit"))
            fault = None
        if fault and not fault.get("lost"):
            self._send(fault["status"], {"error": "made to fail"}, fault.get("headers", {}))
            return
        try:
            answer = self._route(path)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            answer = refused.status, {"error": refused.message}, headers
        if fault:
            self.close_connection = True
            self.connection.close()
            return
        self._send(*answer)

    def _commit_of_another(self, kind: str, name: str, files: dict[str, str]) -> None:
        repository = self.hub.repositories[kind, name]
        added = {path: Blob(text.encode(), False) for path, text in files.items()}
        repository.commit("of another", {**repository.at("main")[1], **added})

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, path: str) -> Answer:
        for method, pattern, serve in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                with self.hub.lock:
                    return serve(self, match)
        raise Refused(404, "", f"no route for {self.command} {path}")

    def _send(self, status: int, content: Any, headers: dict[str, str]) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    @property
    def address(self) -> str:
        return f"http://{self.headers['Host']}"

    def _repository(self, match: Match, *, write: bool = False) -> Repository:
        kind = match["kind"] or "models"
        return self.hub.find(kind, unquote(match["name"]), self.token, write=write)

    def _revision(self, match: Match) -> str:
        return unquote(match.groupdict().get("revision") or "main")

    # --- accounts and repositories ----------------------------------------------------------------

    def whoami(self, _: Match) -> Answer:
        return 200, self.hub.who(self.token), {}

    def create(self, _: Match) -> Answer:
        asked = self.json
        kind = f"{asked.get('type', 'model')}s"
        owner = asked.get("organization") or self.hub.who(self.token)["name"]
        name = f"{owner}/{asked['name']}"
        url = f"{self.address}/{'' if kind == 'models' else kind + '/'}{name}"
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        try:
            self.hub.create(kind, name, private, self.token)
        except Refused as refused:
            if refused.status == 409:
                return 409, {"error": refused.message, "url": url}, {}
            raise
        return 200, {"url": url, "name": name}, {}

    def info(self, match: Match) -> Answer:
        return 200, self._repository(match).info(self._revision(match)), {}

    def may(self, match: Match) -> Answer:
        self._repository(match, write=match["write"] is not None)
        return 200, {}, {}

    def refs(self, match: Match) -> Answer:
        oid, _ = self._repository(match).at("main")
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": oid}
        return 200, {"branches": [main], "converts": [], "tags": [], "pullRequests": []}, {}

    def tree(self, match: Match) -> Answer:
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        folder = unquote(match["folder"] or "").strip("/")
        return 200, self._repository(match).tree(self._revision(match), folder, recursive), {}

    def paths_info(self, match: Match) -> Answer:
        _, files = self._repository(match).at(self._revision(match))
        asked = self.json if self.headers.get_content_type() == "application/json" else None
        paths = asked["paths"] if asked else parse_qs(self.body.decode())["paths"]
        return 200, [files[path].entry(path) for path in paths if path in files], {}

    def validate(self, _: Match) -> Answer:
        try:
            RepoCard(self.json["content"])
            if self.json.get("repoType") == "model":
                ModelCard(self.json["content"])
        except (ValueError, TypeError) as error:
            return 400, {"errors": [{"message": str(error)}], "warnings": []}, {}
        return 200, {"errors": [], "warnings": []}, {}

    # --- uploads ----------------------------------------------------------------------------------

    def preupload(self, match: Match) -> Answer:
        repository = self._repository(match, write=True)
        _, files = repository.at(self._revision(match))
        answers = []
        for file in self.json["files"]:
            known = files.get(file["path"])
            answers.append(
                {
                    "path": file["path"],
                    "uploadMode": self.hub.upload_mode(file["path"], file["size"]),
                    "shouldIgnore": False,
                    "oid": known.etag if known else None,
                }
            )
        return 200, {"files": answers}, {}

    def commit(self, match: Match) -> Answer:
        repository = self._repository(match, write=True)
        head, files = repository.at(self._revision(match))
        files, title = dict(files), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", head) != head:
                    raise Refused(
                        412, "", "A commit has happened since. Please refresh and try again."
                    )
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise Refused(
                        400, "", f"{value['path']}: LFS pointer points to a missing object"
                    )
                files[value["path"]] = Blob(self.hub.large[value["oid"]], True)
            else:
                gone = value["path"].rstrip("/")
                files = {
                    p: b for p, b in files.items() if p != gone and not p.startswith(gone + "/")
                }
        oid = repository.commit(title, files)
        return (
            200,
            {"commitUrl": f"{self.address}/{repository.name}/commit/{oid}", "commitOid": oid},
            {},
        )

    def lfs_batch(self, match: Match) -> Answer:
        self._repository(match, write=True)
        answers = [self._lfs_object(file["oid"], file["size"]) for file in self.json["objects"]]
        return 200, {"transfer": "basic", "objects": answers}, {}

    def _lfs_object(self, oid: str, size: int) -> dict[str, Any]:
        answer: dict[str, Any] = {"oid": oid, "size": size}
        if oid in self.hub.large:
            return answer
        upload: dict[str, Any] = {"href": f"{self.address}/_lfs/{oid}"}
        if size > PART:
            count = -(-size // PART)
            parts = {str(n + 1): f"{self.address}/_lfs/{oid}.{n}" for n in range(count)}
            upload["header"] = {"chunk_size": str(PART), **parts}
        answer["actions"] = {"upload": upload, "verify": {"href": f"{self.address}/_lfs/verify"}}
        return answer

    def lfs_put(self, match: Match) -> Answer:
        if match["part"] is None and hashlib.sha256(self.body).hexdigest() != match["oid"]:
            raise Refused(400, "", "the content is not what its hash says")
        store = self.hub.large if match["part"] is None else self.parts
        store[match["oid"] + (match["part"] or "")] = self.body
        return 200, {}, {"ETag": hashlib.md5(self.body).hexdigest()}

    def lfs_complete(self, match: Match) -> Answer:
        count = len(self.json["parts"])
        whole = b"".join(self.parts.pop(f"{match['oid']}.{n}") for n in range(count))
        if hashlib.sha256(whole).hexdigest() != match["oid"]:
            raise Refused(400, "", "the parts are not what their hash says")
        self.hub.large[match["oid"]] = whole
        return 200, {}, {}

    def lfs_verify(self, _: Match) -> Answer:
        if self.json["oid"] not in self.hub.large:
            raise Refused(404, "", "no such object")
        return 200, {}, {}

    # --- downloads --------------------------------------------------------------------------------

    def resolve(self, match: Match) -> Answer:
        oid, files = self._repository(match).at(self._revision(match))
        path = unquote(match["path"])
        if path not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        blob = files[path]
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if blob.large:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return 200, blob.content, headers
        start, size = int(asked[1]), len(blob.content)
        end = min(int(asked[2] or size - 1), size - 1)
        if start >= size:
            return 416, b"", {**headers, "Content-Range": f"bytes */{size}"}
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        return 206, blob.content[start : end + 1], headers

    # --- what the tests set -----------------------------------------------------------------------

    def set_faults(self, _: Match) -> Answer:
        self.faults.waiting[:] = self.json
        return 200, {}, {}

    def set_tokens(self, _: Match) -> Answer:
        self.hub.tokens = self.json
        return 200, {}, {}

    def gate(self, _: Match) -> Answer:
        self.hub.repositories[self.json["kind"], self.json["name"]].gated = True
        return 200, {}, {}

    def forget(self, _: Match) -> Answer:
        self.hub.large.clear()
        return 200, {}, {}

    def pending(self, _: Match) -> Answer:
        return 200, len(self.faults.waiting), {}

    def show_log(self, _: Match) -> Answer:
        return 200, self.faults.log, {}


_REVISION = r"/(?P<revision>[^/]+)"
ROUTES: list[tuple[tuple[str, ...], str, Callable[[Handler, Match], Answer]]] = [
    (("GET",), r"/api/whoami-v2", Handler.whoami),
    (("POST",), r"/api/repos/create", Handler.create),
    (("POST",), r"/api/validate-yaml", Handler.validate),
    (("GET", "HEAD"), _REPOSITORY + r"(?:/revision" + _REVISION + ")?", Handler.info),
    (("GET",), _REPOSITORY + r"/auth-check(?P<write>/write)?", Handler.may),
    (("GET",), _REPOSITORY + r"/refs", Handler.refs),
    (("GET",), _REPOSITORY + r"/tree" + _REVISION + r"(?P<folder>/.*)?", Handler.tree),
    (("POST",), _REPOSITORY + r"/paths-info" + _REVISION, Handler.paths_info),
    (("POST",), _REPOSITORY + r"/preupload" + _REVISION, Handler.preupload),
    (("POST",), _REPOSITORY + r"/commit" + _REVISION, Handler.commit),
    (("POST",), _FILES + r"\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("PUT",), r"/_lfs/(?P<oid>[0-9a-f]{64})(?P<part>\.\d+)?", Handler.lfs_put),
    (("POST",), r"/_lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_complete),
    (("POST",), r"/_lfs/verify", Handler.lfs_verify),
    (("POST",), r"/_test/faults", Handler.set_faults),
    (("POST",), r"/_test/tokens", Handler.set_tokens),
    (("POST",), r"/_test/gate", Handler.gate),
    (("POST",), r"/_test/forget", Handler.forget),
    (("GET",), r"/_test/pending", Handler.pending),
    (("GET",), r"/_test/log", Handler.show_log),
    (("GET", "HEAD"), _FILES + r"/resolve" + _REVISION + r"/(?P<path>.+)", Handler.resolve),
]


def main() -> None:
    """Serve until standard input closes, so that no server outlives its test."""
    Handler.hub, Handler.faults, Handler.parts = Hub(), Faults(), {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
