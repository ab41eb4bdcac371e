"""Rules for the other commands: their options, results to report on, and sweep files."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.checks.odd_inputs.right import (
    CHECKPOINT,
    EXPERIMENTS,
    REFUSED,
    RUNS,
    Input,
    merged,
    read,
    rule,
    without,
    written,
)


@rule("options of embed, search, data, report, sweep, dashboard")
def _() -> Iterator[Input]:
    embed, search = ("embed", "photos", f"--ckpt={CHECKPOINT}"), ("search", "photos/a/0.png", "--index=index.npz")
    for command, option in itertools.product(
        (embed, search), ("--device=warp", "--device=cuda:99", "--device=", "--device=meta", "--device")
    ):
        yield Input((*command, option), REFUSED)
    for out in ("photos", "nowhere/x.npz", "/proc/x.npz", "", "/dev/full", "x" * 300 + ".npz"):
        yield Input((*embed, f"--out={out}"), REFUSED)
    for k in ("0", "-1", "48", "999999999999999999999", "1.5", "x", "", "nan", "1e3"):
        yield Input((*search, f"--k={k}"), REFUSED)
    for k in ("1", "47", "+3", " 3"):
        yield Input((*search, f"--k={k}"), RUNS)
    for gallery in ("photos", "nowhere/x.png", "/proc/x.png", "/dev/full"):
        yield Input((*search, f"--gallery={gallery}"), REFUSED)
    yield Input((*search, "--gallery=gallery"), RUNS)
    for words in (["verify"], ["verify", ""], ["verify", "a/b"], ["verify", "file.txt"], ["prepare", "photos"],
        ["list", "x"],
                  ["prepare", "Cars196", "--root=file.txt"], ["verify", "cars196", "--root="], ["verify",
                  "\0"]):  # fmt: skip
        yield Input(("data", *words), REFUSED)
    for words in (["list"], ["list", "--root=/nowhere"], ["verify", "photos"]):
        yield Input(("data", *words), RUNS)
    for words in ([], ["nowhere"], ["photos"], ["tiny.yaml"], [""], ["right", "nowhere"], ["right", "--out=tiny.yaml"],
                  ["right", "--by=nonsense"], ["right", "--out=/proc/x"], ["\0"]):  # fmt: skip
        yield Input(("report", *words), REFUSED)
    for words in (["right"], ["right/tiny/run"], ["right", "right"], ["right", "--by="], ["right",
        "--by=loss,dataset,"],
                  ["right/tiny/run/result.json"], ["right", "--out=new/report"]):  # fmt: skip
        yield Input(("report", *words), RUNS)
    for option in ("--cpus-per-trial=0", "--cpus-per-trial=nan", "--gpus-per-trial=-1", "--gpus-per-trial=1.5",
        "--retries=-1",
                   "--gpus-per-trial=inf", "--retries=x", "--cpus-per-trial=-inf"):  # fmt: skip
        yield Input(("sweep", sweep_file("right", {}), "--dry-run", option), REFUSED)
    for words in (["--dry-run"], ["--project"], ["--project=a", "x"], ["--projekt=a"]):
        yield Input(("dashboard", *words), REFUSED)
    for name in ("a", "a b", "ä", "a/b"):
        yield Input(("dashboard", f"--project={name}", "--dry-run"), RUNS)


@rule("result.json: a part missing or of another kind")
def _() -> Iterator[Input]:
    right = json.loads(Path("right/tiny/run/result.json").read_text())
    needed = {"config", "test", "validation"}
    formed = needed | {"steps", "history", "baseline", "seconds", "versions", "git"}
    for key in right:
        for name, content in {
            "none": without(right, (key,)),
            "word": right | {key: "word"},
            "list": right | {key: [1]},
        }.items():
            path = written(f"results/{key}-{name}/run/result.json", json.dumps(content))
            wrong = key in (needed | {"dataset", "embedding_size"} if name == "none" else formed)
            yield Input(("report", str(Path(path).parents[1])), REFUSED if wrong else RUNS)
    for name, text in {
        "empty": "",
        "list": "[]",
        "cut": json.dumps(right)[:99],
        "deep": "[" * 9999,
        "nan": "NaN",
        "latin": b"\xe9",
    }.items():
        yield Input(("report", str(Path(written(f"results/{name}/run/result.json", text)).parents[1])), REFUSED)


def sweep_file(name: str, wrong: dict[str, Any]) -> str:
    right = {
        "method": "grid", "parameters": {"seed_everything": {"values": [0]}},
        "metric": {"name": "validation/map@r", "goal": "maximize"},
        "command": ["lifted", "fit", "--config=tiny.yaml", "${args}"],
    }  # fmt: skip
    return written(f"sweeps/{name}.yaml", merged(right, wrong))


@rule("sweep file: wrong")
def _() -> Iterator[Input]:
    def parameter(entry: Any) -> dict[str, Any]:
        return {"method": "random", "run_cap": 2, "parameters": {"model.optimizer.lr": entry}}

    wrong = {
        "method": [None, "gird", 3, ["grid"], {}], "parameters": [None, [], "seed", 3, {"seed_everything": None}],
        "metric": ["map", {"name": None}, {"name": "validation/map"}, {"goal": "up"}, [1]],
        "command": [None, "lifted fit", [], ["lifted"], ["lifted", "test", "${args}"], ["python", "x.py"], {"a": 1},
                    ["lifted", "fit", "--config=nowhere.yaml", "${args}"], ["lifted", "fit", "${args}"]],
        "run_cap": [0, -1, 1.5, "two", [1]], "early_terminate": ["hyperband", {"type": "x"}, {"type": "hyperband",
        "min_iter": 0}],
        "nonsense": [1],
    }  # fmt: skip
    for key, values in wrong.items():
        for number, value in enumerate(values):
            content = merged(read(Path(sweep_file("right", {}))), {key: value}) if not isinstance(value, dict) else None
            path = f"sweeps/{key}-{number}.yaml"
            path = sweep_file(Path(path).stem, {key: value}) if content is None else written(path, content)
            if value is not None or key != "metric":
                yield Input(("sweep", path, "--dry-run"), REFUSED)
    for name in ("../x", "a/b", 3, ""):  # made a folder's name
        yield Input(("sweep", sweep_file("name", {"name": name}), "--dry-run"), RUNS)
    for number, entry in enumerate((
        3, [1, 2], "a", {}, {"min": 1}, {"min": 2, "max": 1}, {"min": 1, "max": 1}, {"min": "a", "max": 2},
            {"values": 3},
        {"values": []}, {"valeus": [1]}, {"min": 0, "max": 1, "distribution": "log_uniform_values"},
        {"min": 1, "max": 2, "distribution": "odd"}, {"min": math.nan, "max": 1}, {"min": 0, "max": math.inf},
        {"min": 0.1, "max": 1, "q": "x"}, {"min": 0.1, "max": 1, "q": -1, "distribution": "q_uniform"},
        {"value": "fast"},
        {"min": 0, "max": 1000, "distribution": "log_uniform"},
    )):  # fmt: skip
        yield Input(("sweep", sweep_file(f"parameter-{number}", parameter(entry)), "--dry-run"), REFUSED)
    for path in sorted((EXPERIMENTS / "sweeps").rglob("*.yaml")):
        content = read(path)
        for key in ("method", "parameters", "command"):
            yield Input(
                ("sweep", written(f"sweeps/{path.stem}-{key}.yaml", without(content, (key,))), "--dry-run"),
                REFUSED,
                (key,),
            )
