"""What a trial is known by, and what its folder says of it."""

import json
from pathlib import Path

import pytest

from lifted_lightning.errors import UserError
from lifted_lightning.sweep.plan import Parameter, Sweep, Values
from lifted_lightning.sweep.trials import digest_of, earlier_values, make_trial, ordered_arguments


def sweep_of(parameters: dict[str, Parameter], fixed: tuple[str, ...] = ()) -> Sweep:
    return Sweep(Path("s.yaml"), "s", "grid", "validation/map@r", True, parameters, fixed, None, None)


CHOICE = sweep_of({"margin": Parameter("values", (0.5, 1.0)), "seed_everything": Parameter("values", (0, 1))})


def test_files_come_first_and_a_class_before_its_parameters() -> None:
    values: Values = {
        "model.loss.init_args.margin": 0.5,
        "data.ks": [1, 2],
        "model.loss": "TripletLoss",
        "config": "a.yaml",
        "flag": False,
        "nothing": None,
    }
    assert ordered_arguments(values) == [
        "--config=a.yaml",
        "--flag=false",
        "--nothing=null",
        "--data.ks=[1, 2]",
        "--model.loss=TripletLoss",
        "--model.loss.init_args.margin=0.5",
    ]


def test_a_file_counts_by_its_content_not_by_its_name_or_comments(tmp_path: Path) -> None:
    texts = {"a": "x: 1\ny: 2\n", "b": "# the same\ny: 2\nx: 1\n", "c": "x: 1\ny: 3\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    digests = {name: digest_of(["--config", f"{tmp_path}/{name}"]) for name in texts}
    assert digests["a"] == digests["b"] != digests["c"]
    assert digest_of([f"--config={tmp_path}/a"]) == digests["a"]
    assert digest_of(["--x=1", "--y=2"]) != digest_of(["--y=2", "--x=1"])  # later ones override earlier ones


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"--config nowhere\.yaml: no such file"):
        digest_of(["--config", "nowhere.yaml"])


def test_another_seed_is_another_trial_and_the_folder_tells_what_differs(tmp_path: Path) -> None:
    trials = [make_trial(CHOICE, values, tmp_path) for values in CHOICE.grid()]
    assert len({trial.folder for trial in trials}) == 4
    assert trials[0].folder.name == f"margin0.5-seed0-{trials[0].digest}"


def test_its_folder_is_found_by_its_digest(tmp_path: Path) -> None:
    trial = make_trial(CHOICE, {"margin": 1.0, "seed_everything": 0}, tmp_path)
    (tmp_path / f"renamed-{trial.digest}").mkdir()
    again = make_trial(CHOICE, {"margin": 1.0, "seed_everything": 0}, tmp_path)
    assert again.folder.name == f"renamed-{trial.digest}"


def test_states_and_scores(tmp_path: Path) -> None:
    trial = make_trial(CHOICE, {"margin": 1.0, "seed_everything": 0}, tmp_path)
    assert trial.state == "missing"
    trial.folder.mkdir()
    assert trial.state == "missing"
    (trial.folder / "config.yaml").touch()
    assert trial.state == "begun"
    (trial.folder / "metrics.csv").write_text("step,validation/map@r\n9,\n10,0.25\n20,0.5\n")
    assert trial.scores("validation/map@r") == [0.25, 0.5]
    assert trial.score("validation/map@r") is None
    (trial.folder / "stopped.json").write_text("{}")
    assert trial.state == "stopped"
    (trial.folder / "result.json").write_text(json.dumps({"validation": {"map@r": 0.75, "nmi": None}}))
    assert trial.state == "done"
    assert trial.score("validation/map@r") == 0.75
    assert trial.score("validation/nmi") is None


def test_a_broken_result_is_named(tmp_path: Path) -> None:
    trial = make_trial(CHOICE, {"margin": 1.0, "seed_everything": 0}, tmp_path)
    trial.folder.mkdir()
    (trial.folder / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json: cannot be read"):
        trial.score("validation/map@r")


def test_earlier_trials_are_those_of_the_same_files_and_ranges(tmp_path: Path) -> None:
    def drawn(sweep: Sweep, margin: float) -> None:
        trial = make_trial(sweep, {"margin": margin}, tmp_path)
        trial.folder.mkdir()
        (trial.folder / "trial.json").write_text(json.dumps({"values": trial.values}))

    sweep = sweep_of({"margin": Parameter("float", low=0, high=1)}, ("--steps=10",))
    drawn(sweep, 0.25)
    drawn(sweep, 0.75)
    drawn(sweep_of(sweep.parameters, ("--steps=20",)), 0.5)
    assert [values["margin"] for values in earlier_values(sweep, tmp_path)] == [0.25, 0.75]
    narrow = sweep_of({"margin": Parameter("float", low=0, high=0.5)}, ("--steps=10",))
    assert [values["margin"] for values in earlier_values(narrow, tmp_path)] == [0.25]
