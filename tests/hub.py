"""A stand-in of the hub's HTTP API for the tests: it takes a model repository's files, or refuses."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_tests"


class Hub:
    """What the stand-in was asked and holds: files of each repository, and who may see it."""

    def __init__(self, lfs: bool = False) -> None:
        self.lfs = lfs  # whether it asks for weights as LFS files
        self.refusals: dict[str, int] = {}  # a part of a path, and the status that it is answered with
        self.files: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, str] = {}
        self.asked: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.url = ""

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        path = path.split("?")[0]
        self.asked.append(f"{method} {path}")
        if path.startswith("/lfs/"):
            self.objects[path.removeprefix("/lfs/")] = body
            return 200, {}
        for part, status in self.refusals.items():
            if part in path:
                return status, {"error": "the stand-in refuses"}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        found = re.match(r"/api/models/([^/]+/[^/]+)(/.*)?$", path) or re.match(r"/([^/]+/[^/]+)\.git(/info/.*)$", path)
        if found is None or found[1] not in self.files:
            return 404, {"error": "Repository not found"}
        return self._of_repository(found[1], found[2] or "", body)

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.files:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
        self.files[name] = {}
        self.visibility[name] = asked.get("visibility", "public")
        return 200, {"url": f"{self.url}/{name}", "name": name}

    def _of_repository(self, name: str, what: str, body: bytes) -> tuple[int, Any]:
        if what.startswith("/preupload"):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if self.lfs and path.endswith(".safetensors") else "regular" for path in files]
            told = [
                {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}
                for path, mode in zip(files, modes, strict=True)
            ]
            return 200, {"files": told}
        if what == "/info/lfs/objects/batch":
            objects = [
                thing | {"actions": {"upload": {"href": f"{self.url}/lfs/{thing['oid']}"}}}
                for thing in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if what.startswith("/commit/"):
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[name][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[name][value["path"]] = self.objects[value["oid"]]
            return 200, {"commitOid": "c" * 40, "commitUrl": f"{self.url}/{name}/commit/{'c' * 40}", "success": True}
        siblings = [{"rfilename": file} for file in self.files[name]]
        private = self.visibility[name] == "private"
        return 200, {"id": name, "sha": "a" * 40, "private": private, "siblings": siblings, "tags": []}


@contextmanager
def standing_in(hub: Hub) -> Iterator[Hub]:
    """The hub at an address of this machine, `hub.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            status, said = hub.answer(self.command, self.path, body, self.headers.get("Authorization"))
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def _chunks(self) -> bytes:
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_POST = do_PUT = do_HEAD = _any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
