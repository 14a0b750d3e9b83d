"""A Hugging Face hub on this machine: the few answers that huggingface_hub needs to upload a folder and to download it.

All files are committed as plain ones, without large-file storage.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "c" * 40
TOKEN = "hf_of_this_test"

Repositories = dict[str, dict[str, bytes]]
"""The files of each repository."""


class _Hub(BaseHTTPRequestHandler):
    repositories: Repositories

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  as it is called in the base class
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'user'}/{asked['name']}"
            self.repositories.setdefault(name, {})
            self._answer({"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"valid": True} if "validate-yaml" in self.path else {"error": self.path}, 200)

    def do_GET(self) -> None:
        name = "/".join(
            self.path.split("/")[3:5] if self.path.startswith("/api/models/") else self.path.split("/")[1:3]
        )
        files = self.repositories.get(name)
        if files is None:
            self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif "/resolve/" in self.path:
            content = files[self.path.partition("/resolve/")[2].partition("/")[2]]
            self._answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)
        elif "/tree/" in self.path:
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
            self._answer(entries)
        else:
            self._answer({"id": name, "sha": COMMIT, "siblings": [], "private": False, "tags": []})

    do_HEAD = do_GET

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        name = "/".join(self.path.split("/")[3:5])
        files = self.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self._answer({"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def _answer(self, content: Any, code: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def fake_hub() -> Iterator[tuple[str, Repositories]]:
    """The address of a hub (HF_ENDPOINT) that runs within the block, and its repositories."""
    repositories: Repositories = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"repositories": repositories}))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", repositories
    finally:
        server.shutdown()
        server.server_close()
