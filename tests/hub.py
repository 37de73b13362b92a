"""A small Hugging Face Hub on loopback, for tests: folders on disk become repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """Serves ``root/models/OWNER/NAME`` and ``root/datasets/OWNER/NAME`` while it is open, and beside them plain files:
    ``root/raw/PATH`` at ``/raw/PATH``, in parts too (Range), as addresses of raw files do.

    ``gated`` are ids whose files are refused as the real Hub refuses them without a login; ``requests`` is the
    log of what was asked, for example ``GET /Qwen/Qwen3/resolve/main/config.json``. ``tokens`` are those that are
    known, and whether each may write: repositories are made and committed to with them, binary files by way of LFS.
    ``messages`` are those of the commits.
    """

    def __init__(self, root: Path, gated: tuple[str, ...] = (), tokens: dict[str, bool] | None = None) -> None:
        self.root, self.gated, self.requests = root, gated, list[str]()
        self.tokens, self.messages, self.large = tokens or {}, list[str](), dict[str, bytes]()
        self._server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop serving; stopping twice does no harm."""
        self._server.shutdown()
        self._server.server_close()

    def commit(self, kind: str, repo: str) -> str:
        """The commit of a repository: 40 hex digits that change with its content."""
        digest = hashlib.sha1()
        for file in _files(self.root / kind / repo):
            digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} /{path}")
        if path.startswith("lfs/") and self.command == "PUT":  # such addresses are signed: no token comes along
            self.hub.large[path.removeprefix("lfs/")] = self.content
            return self._send(200, b"", {})
        self.body = self.content.decode()
        if re.search("^api/(repos/create|validate-yaml)$|/(preupload|commit)/main$|/objects/batch$", path):
            return self._write(path.removeprefix("api/").split("/"))
        if path.startswith("raw/"):
            self.commit = ""
            return self._file(self.hub.root / path)
        api = path.startswith("api/")
        parts = path.removeprefix("api/").split("/")
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        repo, rest = "/".join(parts[:2]), parts[2:]
        self.folder = self.hub.root / kind / repo
        if len(parts) < 2 or not self.folder.is_dir():
            return self._refuse(404, "RepoNotFound", "Repository Not Found")
        self.commit = self.hub.commit(kind, repo)
        if len(rest) > 1 and rest[1] not in ("main", self.commit):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        if api:
            return self._answer_api(repo, rest)
        if repo in self.hub.gated:
            return self._refuse(403, "GatedRepo", "Access to this repository is restricted")
        return self._file(self.folder / "/".join(rest[2:]))

    do_HEAD = do_POST = do_PUT = do_GET

    def _write(self, parts: list[str]) -> None:
        may = self.hub.tokens.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if not may:
            status, why = (401, "Invalid credentials") if may is None else (403, "You don't have the rights")
            return self._refuse(status, "", why)
        if parts[-1] == "validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if parts == ["repos", "create"]:
            asked = json.loads(self.body)
            repo = f"{asked['type']}s/{asked.get('organization') or 'me'}/{asked['name']}"
            exists = (self.hub.root / repo).is_dir()
            (self.hub.root / repo).mkdir(parents=True, exist_ok=True)
            return self._json({"url": f"{self.hub.url}/{repo}", "error": "exists"}, 409 if exists else 200)
        repo = "/".join(parts[:3]).removesuffix(".git")
        if parts[3] == "preupload":
            large = (".parquet", ".safetensors", ".png")
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(large) else "regular"}
                for f in json.loads(self.body)["files"]
            ]
            return self._json({"files": [{**f, "shouldIgnore": False} for f in files]})
        if parts[-1] == "batch":
            asked = [{k: o[k] for k in ("oid", "size")} for o in json.loads(self.body)["objects"]]
            put = [{"actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}} for o in asked]
            return self._json({"transfer": "basic", "objects": [a | b for a, b in zip(asked, put, strict=True)]})
        for line in self.body.splitlines():
            self._apply(self.hub.root / repo, **json.loads(line))
        commit = self.hub.commit(*repo.split("/", 1))
        return self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def _apply(self, folder: Path, key: str, value: dict[str, str]) -> None:
        """One line of a commit."""
        if key == "header":
            return self.hub.messages.append(value["summary"])
        path = folder / value["path"]
        if key == "deletedFile":
            return path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        content = self.hub.large[value["oid"]] if key == "lfsFile" else base64.b64decode(value["content"])
        path.write_bytes(content)
        return None

    def _answer_api(self, repo: str, rest: list[str]) -> None:
        what = rest[0] if rest else "revision"
        if what == "revision":
            siblings = [{"rfilename": p.relative_to(self.folder).as_posix()} for p in _files(self.folder)]
            info = {"id": repo, "sha": self.commit, "siblings": siblings, "tags": [], "private": False}
            return self._json({**info, "gated": "auto" if repo in self.hub.gated else False, "disabled": False})
        if what == "tree":
            top = self.folder / "/".join(rest[2:])
            if not top.is_dir():
                return self._refuse(404, "EntryNotFound", "Entry Not Found")
            deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
            return self._json([self._entry(p) for p in sorted(top.rglob("*") if deep else top.iterdir())])
        if what == "paths-info":
            asked = json.loads(self.body)["paths"] if self.body[:1] == "{" else parse_qs(self.body)["paths"]
            found = (self.folder / p for p in asked)
            return self._json([self._entry(p) for p in found if p.exists()])
        return self._refuse(404, "EntryNotFound", "Entry Not Found")

    def _entry(self, path: Path) -> dict[str, object]:
        name = path.relative_to(self.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}

    def _file(self, path: Path) -> None:
        if not path.is_file():
            return self._refuse(404, "EntryNotFound", "Entry Not Found")
        data = path.read_bytes()
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            return self._send(200, data, headers)
        first, last = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
        if first > last:
            return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self._send(206, data[first : last + 1], headers)

    def _json(self, data: object, status: int = 200) -> None:
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet: `Hub.requests` is the log."""


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
