"""The scripts for SLURM: what they hand to `lifted` and what they remove; and, where SLURM is, what it does to jobs."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.checks.slurm import CASES, Cluster, cluster, missing

SCRIPTS = Path(__file__).parents[2] / "experiments" / "slurm"


class Job:
    """Runs a script as SLURM would, with an srun and a scontrol that note what they are given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "runs" / "slurm" / "name"
        for name in ("srun", "scontrol", "lifted"):
            (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> called\nexit ${{{name}_code:-0}}\n')
            (folder / name).chmod(0o755)

    def __call__(self, script: str, *arguments: str, job: int = 1, code: int = 0, task: int = 0) -> tuple[int, str]:
        """The exit code, and what was called and printed."""
        (self.folder / "called").write_text("")
        variables = {"SLURM_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(task), "srun_code": str(code)}
        done = subprocess.run(
            ["bash", SCRIPTS / script, *arguments], cwd=self.folder, capture_output=True, text=True,
            env={**os.environ, **variables, "PATH": f"{self.folder}:{os.environ['PATH']}"},
        )  # fmt: skip
        return done.returncode, (self.folder / "called").read_text() + done.stdout + done.stderr

    def begun(self, checkpoint: bool = False) -> None:
        (self.run / "plots").mkdir(parents=True)
        (self.run / "config.yaml").touch()
        if checkpoint:
            (self.run / "checkpoints").mkdir()
            (self.run / "checkpoints" / "last.ckpt").touch()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


BEGINS = "lifted fit --experiment slurm --name name --seed_everything=1\n"


def test_a_job_that_is_queued_again_before_a_checkpoint_starts_anew(job: Job) -> None:
    assert BEGINS in job("fit.sbatch", "name", "--seed_everything=1")[1]
    job.begun()
    assert BEGINS in job("fit.sbatch", "name", "--seed_everything=1")[1]
    assert [path.name for path in job.run.iterdir()] == ["slurm-job"]


@pytest.mark.parametrize("own", [True, False], ids=["another job's", "made by hand"])
def test_what_is_not_this_job_s_own_is_left_alone(job: Job, own: bool) -> None:
    if own:
        job("fit.sbatch", "name", "--seed_everything=1", job=2)
    job.begun()
    code, said = job("fit.sbatch", "name", "--seed_everything=1")
    assert (code, "not this job's: give another NAME" in said, "srun" in said) == (2, True, False)
    assert (job.run / "config.yaml").exists()
    code, said = job("fit.sbatch", "name")
    assert (code, "no checkpoint to go on from" in said) == (2, True)
    assert (job.run / "config.yaml").exists()


@pytest.mark.parametrize("name", ["../omniglot", "a/b", "..", ".", "/"])
def test_a_name_is_a_folder_s(job: Job, name: str) -> None:
    code, said = job("fit.sbatch", name, "--seed_everything=1")
    assert (code, "without slashes" in said) == (2, True)
    assert not (job.folder / "runs").exists()


@pytest.mark.parametrize(("code", "queued"), [(143, True), (138, True), (0, False), (1, False), (137, False)])
def test_a_job_that_was_told_to_stop_is_queued_again_and_goes_on(job: Job, code: int, queued: bool) -> None:
    job("fit.sbatch", "name", "--seed_everything=1", job=7)
    job.begun(checkpoint=True)
    ended, said = job("fit.sbatch", "name", "--seed_everything=1", job=7, code=code)
    assert (ended, "scontrol requeue 7" in said) == (code, queued)
    assert "lifted fit --config runs/slurm/name/config.yaml --ckpt_path last\n" in said
    assert "--ckpt_path last" in job("fit.sbatch", "name", job=8)[1], "another job goes on with what is there"
    (job.run / "result.json").touch()
    ended, said = job("fit.sbatch", "name", "--seed_everything=1", job=7)
    assert (ended, "srun" in said) == (0, False)


def test_a_job_is_not_queued_again_without_a_checkpoint(job: Job) -> None:
    code, said = job("fit.sbatch", "name", "--seed_everything=1", code=143)
    assert (code, "scontrol" in said, "give more --time" in said) == (2, False, True)
    code, said = job("sweep.sbatch", "file.yaml", code=143)
    assert (code, "scontrol" in said, "give more --time" in said) == (2, False, True)


def test_a_task_of_an_array_is_a_trial(job: Job) -> None:
    job.begun(checkpoint=True)
    listed = "#!/bin/sh\necho 'begun    runs/slurm/name'\necho '         lifted fit --a=1'\n"
    (job.folder / "lifted").write_text(listed.replace("\\'", "'"))
    code, said = job("sweep.sbatch", "file.yaml", "--runs_dir=r", job=9, task=3, code=143)
    assert "lifted sweep file.yaml --runs_dir=r --task 3\n" in said
    assert (code, "scontrol requeue 9" in said) == (143, True)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    if programs := missing():
        pytest.skip(f"no SLURM: {', '.join(programs)}")
    with cluster() as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CASES)
def test_what_a_real_slurm_does_to_jobs(slurm: Cluster, name: str) -> None:
    ended = CASES[name](slurm)
    assert ended >= ("again" in name or "requeue" in name or "out of time" in name)
