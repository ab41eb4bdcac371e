"""A stand-in for W&B's server on loopback, as far as a run asks it; it can die, or answer with nonsense."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = {"id": "e", "name": "team"}
VIEWER = {
    "id": "u", "entity": "team", "username": "u", "flags": "{}", "admin": False, "email": "u@example.org",
    "apiKeys": {"edges": []}, "teams": {"edges": [{"node": {"name": "team"}}]},
}  # fmt: skip
SERVER = {"cliVersionInfo": {"max_cli_version": "0.99.0"}, "latestLocalVersionInfo": None, "features": []}


def answer_to(query: str, given: dict[str, Any], url: str) -> Any:
    """What W&B's server would say to a GraphQL query."""
    if "viewer" in query or "serverInfo" in query:
        return {"viewer": VIEWER, "serverInfo": SERVER}
    if "upsertBucket" in query:
        name = given.get("name") or "r"
        project = {"id": "p", "name": given.get("project") or "p", "entity": ENTITY}
        bucket = {"id": name, "name": name, "displayName": given.get("displayName") or name, "description": "",
                  "config": "{}", "sweepName": None, "historyLineCount": 0, "project": project}  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if "createRunFiles" in query:
        files = [{"name": name, "uploadUrl": f"{url}/storage/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
    if "__type" in query or "__schema" in query:
        return {name: {"name": name, "fields": [], "inputFields": []} for name in ("QueryInfoType", "MutationInfoType")}
    if "createArtifact" in query:
        sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
        return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
    if "artifactType" in query:
        return {"project": {"artifact": {"artifactType": {"name": "run_table"}}}}
    return {"model": {"id": "m", "name": given.get("project", "p"), "bucket": None, "sweep": None}}


class StandIn:
    """The server.

    Attributes:
        url: where it listens.
        metrics: names of the metrics that it has been sent.
        begun: set when a run has begun.
        nonsense: whether it answers an artifact's look-up with something else.
    """

    def __init__(self) -> None:
        self.metrics: set[str] = set()
        self.begun = threading.Event()
        self.nonsense = False
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
                self._answer(stand_in.take(self.path, content))

            do_PUT = do_GET = do_POST  # noqa: N815

            def _answer(self, answer: Any) -> None:
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, path: str, content: bytes) -> Any:
        """What it answers to a request."""
        if path.endswith("file_stream"):
            lines = json.loads(content).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.metrics.update(name for line in lines for name in json.loads(line))
            return {"limits": {}}
        if path != "/graphql":
            return {}
        asked = json.loads(content)
        if "upsertBucket" in asked["query"]:
            self.begun.set()
        if self.nonsense and "rtifact" in asked["query"]:
            return {"data": {"project": {"artifact": {"artifactType": {"name": 7}}}}}
        return {"data": answer_to(asked["query"], asked.get("variables") or {}, self.url)}

    def die(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
