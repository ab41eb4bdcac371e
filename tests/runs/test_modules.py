"""The user's own code that a run keeps."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lifted_lightning.runs import modules
from lifted_lightning.runs.modules import keep_modules, own_modules

FILES = {
    "a_loss.py": "import a_helper\nimport a_paper.parts\nclass Loss: ...\n",
    "a_helper.py": "SCALE = 3\n",
    "a_paper/__init__.py": "",
    "a_paper/parts.py": "",
    "not_used.py": "",
}
CONFIG = {
    "model_class": None,
    "model": {"loss": {"class_path": "a_loss.Loss", "init_args": {"p": 1}}, "optimizer": "torch.optim.AdamW"},
    "trainer": {"callbacks": [{"class_path": "lifted_lightning.callbacks.tsne.TSNEPlot"}]},
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules, one of which has been imported, with what it imports."""
    folder = tmp_path / "work"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))
    __import__("a_loss")
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_what_classes_name_and_what_that_imports(work: Path) -> None:
    used = FILES.keys() - {"not_used.py"}
    assert own_modules(CONFIG) == {name: work / name for name in used}
    assert own_modules({"model": {"loss": "a_loss"}, "name": "a text. with dots", "x": [1.5, None]}) == {}
    package = {"trainer": {"callbacks": [{"class_path": "a_paper.parts.Callback"}]}}
    assert own_modules(package) == {name: work / name for name in used}


def test_a_file_that_its_name_does_not_lead_to_is_no_module_of_ones_own(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's compiler loads what it has written from a short path by a long name."""
    compiled = ModuleType("a_loss.runtime.compile_tasks.of.one.kernel.abc")
    compiled.__file__ = "/tmp/abc.py"
    monkeypatch.setitem(sys.modules, compiled.__name__, compiled)
    assert own_modules(CONFIG) == {name: work / name for name in FILES.keys() - {"not_used.py"}}


def test_a_copy_is_kept_and_an_earlier_one_too(work: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for _ in range(2):
        assert keep_modules(CONFIG, run) == []
    code = {str(path.relative_to(run / "code")) for path in run.rglob("*.py*")}
    assert code == FILES.keys() - {"not_used.py"}
    for number in (1, 2):
        (work / "a_helper.py").write_text(f"SCALE = {3 + number}\n")
        (line,) = keep_modules(CONFIG, run)
        assert "a_helper.py: has changed" in line
        assert (run / "code" / "a_helper.py").read_text() == f"SCALE = {3 + number}\n"
        assert (run / "code" / f"a_helper.py.{number}").read_text() == f"SCALE = {2 + number}\n"


def test_what_is_left_out_is_said(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "LARGEST", 20)
    (work / "a_paper" / "parts.py").unlink()
    told = keep_modules(CONFIG, tmp_path / "run")
    assert [line.split(": ")[0] for line in told] == [str(work / name) for name in ("a_loss.py", "a_paper/parts.py")]
    assert "20 bytes" in told[0]
    assert sorted(path.name for path in (tmp_path / "run").rglob("*.py")) == ["__init__.py", "a_helper.py"]
