"""A stand-in for W&B's server on loopback, which W&B's own client, agent and workspaces talk to.

It keeps what it is sent, run by run, hands out the trials of sweeps, and can fail in several ways from a moment on.
"""

import gzip
import itertools
import json
import math
import os
import random
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

Given = dict[str, Any]
Fault = Literal["dies", "fails", "hangs", "talks nonsense", "refuses the key"]
FAULTS: tuple[Fault, ...] = ("dies", "fails", "hangs", "talks nonsense", "refuses the key")
MOMENTS = ("start", "training", "validation", "test", "end")

ENTITY = {"id": "e", "name": "team"}
VIEWER = {
    "id": "u", "entity": "team", "username": "u", "flags": "{}", "admin": False, "email": "u@example.org",
    "apiKeys": {"edges": []}, "teams": {"edges": [{"node": {"name": "team"}}]},
}  # fmt: skip
SERVER = {"cliVersionInfo": {"max_cli_version": "0.99.0"}, "latestLocalVersionInfo": None, "features": []}


@dataclass
class WandbRun:
    """What has come of one run. ``begun`` counts the processes that began or resumed it."""

    id: str
    settings: Given = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)  # of each streamed file
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    begun: int = 0
    preempting: bool = False
    exit_code: int | None = None

    @property
    def config(self) -> Given:
        given = json.loads(self.settings.get("config") or "{}")
        return {key: entry["value"] for key, entry in given.items()}

    @property
    def history(self) -> list[Given]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", ())]

    @property
    def summary(self) -> Given:
        lines = self.lines.get("wandb-summary.json")
        return json.loads(lines[-1]) if lines else {}

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Each value of a metric, with the trainer's step."""
        return [(row["trainer/global_step"], row[metric]) for row in self.history if metric in row]

    def stream(self, sent: Given) -> None:
        for name, part in (sent.get("files") or {}).items():
            there = self.lines.setdefault(name, [])
            there[part.get("offset", len(there)) :] = part["content"]
        self.preempting |= bool(sent.get("preempting"))
        if sent.get("complete"):
            self.exit_code = int(sent.get("exitcode") or 0)

    def as_resumed(self) -> Given | None:
        """What a client that would go on with it is told; None where there is no such run yet."""
        if not self.begun:
            return None
        history = self.lines.get("wandb-history.jsonl", [])
        events = self.lines.get("wandb-events.jsonl", [])
        return {
            "id": self.id, "name": self.id, "displayName": self.settings.get("displayName"), "notes": "",
            "summaryMetrics": json.dumps(self.summary), "config": self.settings.get("config") or "{}",
            "historyLineCount": len(history), "eventsLineCount": len(events),
            "logLineCount": len(self.lines.get("output.log", ())), "historyTail": json.dumps(history[-1:]),
            "eventsTail": json.dumps(events[-1:]), "tags": self.settings.get("tags") or [],
            "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip


@dataclass
class WandbSweep:
    """A sweep, and its trials: ids of runs, in the order of their making, with their values.

    As with W&B, a run that was preempted is handed out again, and the values of one that was killed as a new run.
    """

    id: str
    text: str  # YAML
    values: dict[str, Given] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)  # run to agent, while it runs
    handed_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = yaml.safe_load(self.text)
        for number, values in enumerate(itertools.islice(drawn(config), config.get("run_cap"))):
            self.add(f"{self.id}x{number}", values)

    def add(self, run: str, values: Given) -> None:
        self.values[run] = values
        self.waiting.append(run)

    def next_for(self, agent: str) -> list[Given]:
        if agent in self.given.values():
            return []
        if not self.waiting:
            return [] if self.given else [{"type": "exit"}]
        run = self.waiting.pop(0)
        self.given[run] = agent
        self.handed_out.append(run)
        args = {name: {"value": value} for name, value in self.values[run].items()}
        return [{"type": "run", "run_id": run, "program": None, "args": args, "logs": []}]

    def ended(self, run: WandbRun) -> None:
        """Its process is no more; what is done then is as W&B would."""
        self.given.pop(run.id, None)
        if run.preempting and run.exit_code:
            run.preempting, run.exit_code = False, None
            self.waiting.insert(0, run.id)
        elif run.exit_code is None and "again" not in run.id:
            self.add(f"{run.id}again", self.values[run.id])


def drawn(config: Given) -> Iterator[Given]:
    """The values of a sweep's trials: all of a grid, or at random without end."""
    entries: dict[str, Given] = config["parameters"]
    lists = [entry.get("values", [entry.get("value")]) for entry in entries.values()]
    if config["method"] == "grid":
        yield from (dict(zip(entries, values, strict=True)) for values in itertools.product(*lists))
        return
    generator = random.Random(0)
    while True:
        yield {name: one_of(entry, generator) for name, entry in entries.items()}


def one_of(entry: Given, generator: random.Random) -> Any:
    if "min" not in entry:
        return generator.choice(entry.get("values", [entry.get("value")]))
    low, high = entry["min"], entry["max"]
    if entry.get("distribution", "").startswith("log"):
        return math.exp(generator.uniform(math.log(low), math.log(high)))
    whole = isinstance(low, int) and isinstance(high, int)
    return generator.randint(low, high) if whole else generator.uniform(low, high)


class StandIn:
    """The server.

    Args:
        fault: what it does from the start on.
        at_end: what it does from the moment on that a run says it has ended.

    Attributes:
        url: where it listens.
        runs: what it has been sent, by the run's id.
        sweeps: those it was given.
        views: the saved workspaces, by name.
        begun: set when a run has begun.
        fault: what it does now; None: it answers.
    """

    def __init__(self, fault: Fault | None = None, at_end: Fault | None = None) -> None:
        self.runs: dict[str, WandbRun] = {}
        self.sweeps: dict[str, WandbSweep] = {}
        self.views: dict[str, Given] = {}
        self.begun = threading.Event()
        self.fault: Fault | None = None
        self.at_end = at_end
        self._agents: dict[str, str] = {}  # their sweeps
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        if fault:
            self.turn(fault)

    def turn(self, fault: Fault) -> None:
        """From now on it does this."""
        self.fault = fault
        if fault == "dies":
            self._server.shutdown()
            self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """The variables with which W&B's client asks this server, and nothing of the user's own."""
        own = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "a" * 40, "HOME": str(home), "WANDB_MODE": "online"}
        return {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | own

    def run(self, name: str) -> WandbRun:
        return self.runs.setdefault(name, WandbRun(name))

    def take(self, path: str, content: bytes) -> Any:
        """What it answers to a request."""
        if path.endswith("file_stream"):
            self.run(path.split("/")[-2]).stream(json.loads(content))
            return {"limits": {}}
        if path.startswith("/storage/"):
            _, _, run, name = path.split("/", 3)
            self.run(run).files[name] = content
            return {}
        if path != "/graphql":
            return {}
        asked = json.loads(content)
        with self._lock:
            return {"data": self.answer(asked["query"], asked.get("variables") or {})}

    def answer(self, query: str, given: Given) -> Any:
        """What W&B's server would say to a GraphQL query."""
        for name, answer in ANSWERS.items():
            if name in query:
                return answer(self, given)
        if "__type" in query or "__schema" in query:
            return {n: {"name": n, "fields": [], "inputFields": []} for n in ("QueryInfoType", "MutationInfoType")}
        return {"project": {"run": {"stopped": False}}}

    def _upsert_run(self, given: Given) -> Given:
        run = self.run(given.get("name") or "r")
        run.begun += "host" in given and given["host"] is not None
        run.settings |= {key: value for key, value in given.items() if value is not None}
        self.begun.set()
        project = {"id": "p", "name": given.get("project") or "p", "entity": ENTITY}
        bucket = {"id": run.id, "name": run.id, "displayName": run.settings.get("displayName") or run.id,
                  "description": "", "config": run.settings.get("config") or "{}",
                  "sweepName": run.settings.get("sweep"), "historyLineCount": len(run.history),
                  "project": project}  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": run.begun == 1}}

    def _resume(self, given: Given) -> Given:
        bucket = self.run(given["name"]).as_resumed()
        return {"model": {"id": "m", "name": given.get("project", "p"), "entity": ENTITY, "bucket": bucket}}

    def _files(self, given: Given) -> Given:
        place = f"{self.url}/storage/{given['run']}"
        files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _artifact(self, given: Given) -> Given:
        asked = given["input"]
        self.run(asked.get("runName") or "r").artifacts.append(asked["artifactCollectionName"])
        sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
        return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}

    def _upsert_sweep(self, given: Given) -> Given:
        name = given.get("id") or f"sweep{len(self.sweeps)}"
        if given.get("config"):
            self.sweeps[name] = WandbSweep(name, given["config"])
        project = {"id": "p", "name": given.get("projectName") or "p", "entity": ENTITY}
        return {"upsertSweep": {"sweep": {"id": name, "name": name, "project": project},
                                "configValidationWarnings": []}}  # fmt: skip

    def _sweep(self, given: Given) -> Given:
        sweep = self.sweeps[given["sweep"]]
        return {"project": {"sweep": {
            "id": sweep.id, "name": sweep.id, "method": "grid", "state": "RUNNING", "description": None,
            "config": sweep.text, "createdAt": None, "heartbeatAt": None, "updatedAt": None, "bestLoss": None,
            "earlyStopJobRunning": False, "controller": None, "scheduler": None, "runs": {"edges": []},
        }}}  # fmt: skip

    def _agent(self, given: Given) -> Given:
        name = f"agent{len(self._agents)}"
        self._agents[name] = given["sweep"]
        return {"createAgent": {"agent": {"id": name}}}

    def _heartbeat(self, given: Given) -> Given:
        agent, sweep = given["id"], self.sweeps[self._agents[given["id"]]]
        running = json.loads(given["runState"])
        for run in [self.run(name) for name in sweep.given]:
            mine = sweep.given[run.id] == agent  # another's has outlived its agent, perhaps
            if (mine and run.id not in running) or (not mine and run.exit_code is not None):
                sweep.ended(run)
        return {"agentHeartbeat": {"agent": {"id": agent}, "commands": json.dumps(sweep.next_for(agent))}}

    def _upsert_view(self, given: Given) -> Given:
        self.views[given["name"]] = given
        return {"upsertView": {"view": {"id": "v", "name": given["name"]}, "inserted": True}}

    def _view(self, given: Given) -> Given:
        saved = self.views.get(given["viewName"])
        nodes = [{"node": {"id": "v", "displayName": saved["displayName"], "spec": saved["spec"]}}] if saved else []
        return {"project": {"allViews": {"edges": nodes}}}


ANSWERS: dict[str, Callable[[StandIn, Given], Any]] = {  # by what stands in the query; the first counts
    "upsertBucket": StandIn._upsert_run,
    "RunResumeStatus": StandIn._resume,
    "createRunFiles": StandIn._files,
    "createArtifact(": StandIn._artifact,
    "artifactType": lambda self, given: {"project": {"artifact": {"artifactType": {"name": "run_table"}}}},
    "upsertSweep": StandIn._upsert_sweep,
    "SweepWithRuns": StandIn._sweep,
    "createAgent": StandIn._agent,
    "agentHeartbeat": StandIn._heartbeat,
    "upsertView": StandIn._upsert_view,
    "allViews": StandIn._view,
    "viewer": lambda self, given: {"viewer": VIEWER, "serverInfo": SERVER},
    "serverInfo": lambda self, given: {"viewer": VIEWER, "serverInfo": SERVER},
}


def handler_of(server: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
            if order := re.fullmatch(r"/turn/(\d)", self.path):
                server.turn(FAULTS[int(order[1])])
                self._answer(200, {})
                return
            if server.at_end and self.path.endswith("file_stream") and json.loads(content).get("complete"):
                server.turn(server.at_end)
            if server.fault == "hangs":
                threading.Event().wait(600)
            elif server.fault == "fails":
                self._answer(500, {})
            elif server.fault == "refuses the key":
                self._answer(401, {"errors": [{"message": "user is not logged in"}]})
            elif server.fault == "talks nonsense":  # of which W&B's own process dies, but for an artifact's look-up
                self._answer(200, {"data": {"project": {"artifact": {"artifactType": {"name": 7}}}}})
            elif server.fault is None:
                self._answer(200, server.take(self.path, content))

        do_PUT = do_GET = do_POST  # noqa: N815

        def _answer(self, code: int, answer: Any) -> None:
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            with suppress(ConnectionError):  # the client was killed
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    return Handler


class Turn(Callback):
    """Has the stand-in, which ``WANDB_BASE_URL`` names, fail from a moment of the run on.

    Args:
        fault: its number in ``FAULTS``.
        moment: ``training``, ``validation`` or ``test``.
    """

    def __init__(self, fault: int, moment: str) -> None:
        self.fault = fault
        self.moment = moment

    def _now(self, moment: str) -> None:
        if moment == self.moment:
            self.moment = ""
            with suppress(OSError):  # it dies before it answers
                urllib.request.urlopen(f"{os.environ['WANDB_BASE_URL']}/turn/{self.fault}", timeout=10)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 1:
            self._now("training")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now("validation")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now("test")
