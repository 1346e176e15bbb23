"""What a small Hub remembers: users, repositories, commits, large files. No network in here."""

import fnmatch
import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any

TOKENS = {"hf_alice": "write", "hf_reader": "read"}
USER = "alice"
ORGANISATION = "library"
LARGE = ("*.safetensors", "*.parquet", "*.bin")
REGULAR_LIMIT = 200_000


class Refused(Exception):
    """The answer to a request that cannot be served, as the Hub words it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Blob:
    """A file of a commit."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        body = self._pointer() if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git_oid

    def _pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
            f"size {len(self.content)}\n"
        ).encode()

    def entry(self, path: str) -> dict[str, Any]:
        """The file as a tree listing shows it."""
        found: dict[str, Any] = {
            "type": "file",
            "path": path,
            "size": len(self.content),
            "oid": self.git_oid,
        }
        if self.large:
            pointer = len(self._pointer())
            found["lfs"] = {
                "oid": self.sha256,
                "size": len(self.content),
                "pointerSize": pointer,
            }
        return found


@dataclass
class Repository:
    """A repository: a row of commits on `main`, the newest last."""

    kind: str
    name: str
    private: bool = False
    gated: bool = False
    commits: list[tuple[str, str, dict[str, Blob]]] = field(default_factory=list)

    def commit(self, title: str, files: dict[str, Blob]) -> str:
        listing = "".join(f"{path}{blob.git_oid}" for path, blob in sorted(files.items()))
        parent = self.commits[-1][0] if self.commits else ""
        oid = hashlib.sha1(f"{self.kind}{self.name}{parent}{title}{listing}".encode()).hexdigest()
        self.commits.append((oid, title, files))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, Blob]]:
        for oid, _, files in reversed(self.commits):
            if revision in ("main", "refs/heads/main") or oid == revision:
                return oid, files
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def info(self, revision: str) -> dict[str, Any]:
        oid, files = self.at(revision)
        return {
            "_id": oid[:24],
            "id": self.name,
            "modelId": self.name,
            "author": self.name.split("/")[0],
            "sha": oid,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path} for path in sorted(files)],
        }

    def tree(self, revision: str, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """Files and folders below `folder`.

        Raises:
            Refused: there is no such folder.
        """
        _, files = self.at(revision)
        prefix = f"{folder}/" if folder else ""
        inside = {path: blob for path, blob in files.items() if path.startswith(prefix)}
        if folder and not inside:
            raise Refused(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        folders = {
            path[: len(prefix) + place]
            for path in inside
            for place, letter in enumerate(path.removeprefix(prefix))
            if letter == "/"
        }
        entries = [blob.entry(path) for path, blob in inside.items()]
        entries += [
            {
                "type": "directory",
                "path": path,
                "size": 0,
                "oid": hashlib.sha1(path.encode()).hexdigest(),
            }
            for path in folders
        ]
        if not recursive:
            entries = [e for e in entries if "/" not in e["path"].removeprefix(prefix)]
        return sorted(entries, key=lambda e: str(e["path"]))


class Hub:
    """All repositories, and who may touch them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tokens = dict(TOKENS)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}

    def role(self, token: str | None) -> str | None:
        """What a token may do; `None` for a visitor.

        Raises:
            Refused: the token is not, or no longer, valid.
        """
        if token is None:
            return None
        if token not in self.tokens:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return self.tokens[token]

    def who(self, token: str | None) -> dict[str, Any]:
        role = self.role(token)
        if role is None:
            raise Refused(401, "", "Invalid username or password.")
        return {
            "type": "user",
            "name": USER,
            "fullname": USER,
            "orgs": [{"name": ORGANISATION, "roleInOrg": "write"}],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
        }

    def find(self, kind: str, name: str, token: str | None, *, write: bool = False) -> Repository:
        """The repository, if this token may read (or write) it.

        Raises:
            Refused: it does not exist, or is not for this token.
        """
        role = self.role(token)
        repository = self.repositories.get((kind, name))
        if repository is None or (repository.private and role is None):
            raise Refused(404 if role else 401, "RepoNotFound", "Repository not found")
        if repository.gated and role != "write":
            raise Refused(
                403 if role else 401, "GatedRepo", "Access to this repository is restricted"
            )
        if write:
            self.check_writer(name, role)
        return repository

    def check_writer(self, name: str, role: str | None) -> None:
        """Refuse who may not write to the namespace of `name`.

        Raises:
            Refused: a visitor, a read-only token, or somebody else's namespace.
        """
        if role is None:
            raise Refused(401, "", "Invalid username or password.")
        if role != "write" or name.split("/")[0] not in (USER, ORGANISATION):
            raise Refused(403, "", f"You don't have the rights to write to {name}")

    def create(self, kind: str, name: str, private: bool, token: str | None) -> Repository:
        """A new, empty repository.

        Raises:
            Refused: 409 where it exists already.
        """
        self.check_writer(name, self.role(token))
        if (kind, name) in self.repositories:
            raise Refused(409, "", "You already created this repo")
        repository = Repository(kind, name, private)
        attributes = "".join(f"{pattern} filter=lfs\n" for pattern in LARGE)
        repository.commit("initial commit", {".gitattributes": Blob(attributes.encode(), False)})
        self.repositories[kind, name] = repository
        return repository

    @staticmethod
    def upload_mode(path: str, size: int) -> str:
        big = size > REGULAR_LIMIT or any(fnmatch.fnmatch(path, pattern) for pattern in LARGE)
        return "lfs" if big else "regular"
