"""What a trial is known by, and what its folder says of it."""

import json
from pathlib import Path

import pytest
import yaml

from lifted_lightning.errors import UserError
from lifted_lightning.sweep import trials as trials_module
from lifted_lightning.sweep.plan import Parameter, Sweep, Values
from lifted_lightning.sweep.trials import Trial, Trials, digest_of, ordered_arguments, write_best


def sweep_of(parameters: dict[str, Parameter], fixed: tuple[str, ...] = ()) -> Sweep:
    return Sweep(Path("s.yaml"), "s", "grid", parameters, "validation/map@r", fixed=fixed)


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
    trials = Trials(sweep_of({"config": Parameter("values", ("?",))}), tmp_path)
    digests = {name: trials.of({"config": str(tmp_path / name)}).digest for name in texts}
    assert digests["a"] == digests["b"] != digests["c"]
    assert digest_of(["--x=1", "--y=2"], {}) != digest_of(["--y=2", "--x=1"], {})  # later ones override earlier ones
    with pytest.raises(UserError, match=r"--config nowhere\.yaml: no such file"):
        trials.of({"config": "nowhere.yaml"})


def test_another_seed_is_another_trial_and_the_folder_tells_what_differs(tmp_path: Path) -> None:
    found = [Trials(CHOICE, tmp_path).of(values) for values in CHOICE.grid()]
    assert len({trial.folder for trial in found}) == 4
    assert found[0].folder.name == f"margin0.5-seed0-{found[0].digest}"
    numbered = Trials(sweep_of({"tau2": Parameter("values", (0.01, 1))}), tmp_path).of({"tau2": 0.01})
    assert numbered.folder.name == f"tau2-0.01-{numbered.digest}"


def test_its_folder_is_found_by_what_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is called, wherever it was moved, and however digests are made today."""
    config = tmp_path / "c.yaml"
    config.write_text("steps: 10")
    sweep = sweep_of(CHOICE.parameters, (f"--config={config}",))
    trial = Trials(sweep, tmp_path).of({"margin": 1.0, "seed_everything": 0})
    trial.folder.mkdir()
    trial.write()
    trial.folder.rename(tmp_path / "renamed")
    monkeypatch.setattr(trials_module, "digest_of", lambda arguments, files: str((*arguments, *files.values())))
    assert Trials(sweep, tmp_path).of(trial.values).folder.name == "renamed"
    config.write_text("steps: 20")
    assert Trials(sweep, tmp_path).of(trial.values).state == "missing"


def test_states_and_scores(tmp_path: Path) -> None:
    trial = Trials(CHOICE, tmp_path).of({"margin": 1.0, "seed_everything": 0})
    assert trial.state == "missing"
    trial.folder.mkdir()
    trial.write()
    assert trial.state == "missing"
    (trial.folder / "config.yaml").touch()
    assert trial.state == "begun"
    (trial.folder / "metrics.csv").write_text("step,validation/map@r\n9,\n10,0.25\n20,0.5\n")
    assert trial.scores("validation/map@r") == [0.25, 0.5]
    assert trial.score("validation/map@r") is None
    trial.write(stopped=True)
    assert trial.state == "stopped"
    (trial.folder / "result.json").write_text(json.dumps({"validation": {"map@r": 0.75, "nmi": None}}))
    assert trial.state == "done"
    assert trial.score("validation/map@r") == 0.75
    assert trial.score("validation/nmi") is None
    (trial.folder / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json: cannot be read"):
        trial.score("validation/map@r")


def test_earlier_trials_are_those_of_the_same_files_and_ranges(tmp_path: Path) -> None:
    def draw(sweep: Sweep, margin: float) -> None:
        trial = Trials(sweep, tmp_path).of({"margin": margin})
        trial.folder.mkdir()
        trial.write()

    def earlier(sweep: Sweep) -> list[float]:
        return [trial.values["margin"] for trial in Trials(sweep, tmp_path).earlier()]

    sweep = sweep_of({"margin": Parameter("float", low=0, high=1)}, ("--steps=10",))
    draw(sweep, 0.25)
    draw(sweep, 0.75)
    draw(sweep_of(sweep.parameters, ("--steps=20",)), 0.5)
    assert earlier(sweep) == [0.25, 0.75]
    assert earlier(sweep_of({"margin": Parameter("float", low=0, high=0.5)}, ("--steps=10",))) == [0.25]


def test_the_best_of_a_search_is_a_file_that_goes_on_top(tmp_path: Path) -> None:
    parameters = {"model.loss.margin": Parameter("float", low=0, high=1), "data.batch_size": Parameter("values", (8,))}
    sweep, tried = sweep_of(parameters), []
    for margin in (0.25, 0.5, 0.75):
        trial = Trial({"model.loss.margin": margin, "data.batch_size": 8}, (), {}, str(margin), tmp_path / str(margin))
        trial.folder.mkdir()
        loss = {"class_path": "TripletLoss", "init_args": {"margin": margin, "mining": "hard"}}
        config = {"seed_everything": 3, "model": {"loss": loss, "compile": False}, "data": {"batch_size": 8, "size": 9}}
        config["tuning_trials"] = 4  # of the search before
        (trial.folder / "config.yaml").write_text(yaml.safe_dump(config))
        tried.append(trial)
        if margin == 0.5:
            best = config
        assert write_best(sweep, tried, tmp_path / "best.yaml") is None, "none has a score yet"
    for trial, score in zip(tried, (0.5, 0.7, None), strict=True):
        (trial.folder / "result.json").write_text(json.dumps({"validation": {"map@r": score}}))
    path = write_best(sweep, tried, tmp_path / "best.yaml")
    assert path is not None
    assert yaml.safe_load(path.read_text()) == {
        "tuning_trials": 4 + 3, "model": {"loss": best["model"]["loss"]}, "data": {"batch_size": 8},
    }  # fmt: skip
    assert path.read_text().startswith("# The best of 3 trials by validation/map@r, 0.7000;")


def test_the_best_of_a_search_over_modules_names_its_class(tmp_path: Path) -> None:
    trial = Trial({"model": "my.Module"}, (), {}, "0", tmp_path / "trial")
    trial.folder.mkdir()
    config = {"model_class": "my.Module", "model": {"compile": False}}
    (trial.folder / "config.yaml").write_text(yaml.safe_dump(config))
    (trial.folder / "result.json").write_text(json.dumps({"validation": {"map@r": 0.5}}))
    path = write_best(sweep_of({"model": Parameter("values", ("my.Module",))}), [trial], tmp_path / "best.yaml")
    assert path is not None
    assert yaml.safe_load(path.read_text()) == {
        "tuning_trials": 1,
        "model": {"compile": False},
        "model_class": "my.Module",
    }
