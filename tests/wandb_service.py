"""A stand-in for W&B's server on this machine: it keeps what the real client and the real `wandb sync` send it."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Kept:
    """One W&B run as the server has it."""

    group: str | None = None
    job_type: str | None = None
    history: dict[int, dict[str, Any]] = field(default_factory=dict)  # by line, as the client numbers them
    summary: dict[str, Any] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """Every train/step in the order of the history."""
        return [line["train/step"] for _, line in sorted(self.history.items()) if "train/step" in line]


class Service(ThreadingHTTPServer):
    """Runs by id; `url` is what WANDB_BASE_URL has to be."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that was killed is no error of the server's."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, Kept] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.env = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "0" * 40, "WANDB_ERROR_REPORTING": "false"}

    def graphql(self, operation: str, said: dict[str, Any]) -> dict[str, Any]:
        """The part of W&B's GraphQL that its client cannot do without."""
        name = said.get("name") or ""
        if operation == "Viewer":
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if operation == "RunResumeStatus":
            return {"model": self.bucket(name) if name in self.runs else None}
        if operation == "UpsertBucket":
            new = name not in self.runs
            run = self.runs.setdefault(name, Kept())
            run.group, run.job_type = said.get("groupName") or run.group, said.get("jobType") or run.job_type
            project = {"id": "p", "name": said.get("project"), "entity": {"id": "e", "name": "me"}}
            bucket = {"id": name, "name": name, "displayName": name, "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket | {"historyLineCount": len(run.history)}, "inserted": new}}
        if operation == "ArtifactType":  # None: the artifact of a table that is about to be made
            return {"project": None}
        if operation == "CreateArtifact":  # a table's; said to be there already, so that its files are not asked for
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s"}}}}
        if operation == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/{file}"} for file in said.get("files") or ()]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def bucket(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        last = [json.dumps(line) for _, line in sorted(run.history.items())[-1:]]
        counts = {"historyLineCount": len(run.history), "logLineCount": 0, "eventsLineCount": 0}
        told = {"summaryMetrics": json.dumps(run.summary), "historyTail": json.dumps(last), "eventsTail": "[]"}
        rest = {"id": name, "name": name, "displayName": name, "config": "{}", "tags": [], "wandbConfig": '{"t": 1}'}
        return {"id": "p", "name": "rankbench", "entity": {"id": "e", "name": "me"}, "bucket": counts | told | rest}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        """Lines of a run's files, and its exit."""
        run = self.runs[name]
        for file, part in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]] if "history" in file or "summary" in file else []
            if "history" in file:
                run.history |= dict(enumerate(lines, part["offset"]))
            elif lines:
                run.summary = lines[-1]
        if "exitcode" in sent:
            run.exits.append(sent["exitcode"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_POST(self) -> None:
        sent = json.loads(self.body())
        if self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], sent)
            return self.answer({})
        found = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])
        operation = sent.get("operationName") or (found[1] if found else "")
        self.answer({"data": self.server.graphql(operation, sent.get("variables") or {})})

    def do_PUT(self) -> None:
        self.body()
        self.answer({})

    def do_GET(self) -> None:
        self.answer({})

    def body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def answer(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def service() -> Iterator[Service]:
    """A server that lives as long as the context."""
    with Service() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
