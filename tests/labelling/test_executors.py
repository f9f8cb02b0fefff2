"""Every executor keeps the same contract (`executor_contract`); then what is particular to each."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ideal.config import LabellingConfig, ParslExecutorConfig, dump_config, parse_config, parse_section
from ideal.errors import ConfigError, LabelError, MissingPackageError
from ideal.labelling.executors import LocalExecutor, WorkerError, make_executor
from ideal.labelling.executors.local import core_shares
from ideal.labelling.executors.worker_process import worker_environment

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import executor_contract as contract  # noqa: E402  (workers find it by this name)

SITES = sorted((HERE.parents[1] / "examples" / "sites").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("part", contract.CONTRACT, ids=lambda part: part.__name__)
def test_local_workers_keep_the_contract(part: Callable[..., None], tmp_path: Path) -> None:
    part(lambda limits: LocalExecutor(2, tmp_path / "work", *limits), tmp_path)


@pytest.mark.mpi
def test_mpi_ranks_keep_the_contract(tmp_path: Path) -> None:
    done = subprocess.run(
        [mpiexec(), "-n", "3", sys.executable, HERE / "executor_contract.py", tmp_path],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split("\n")[:-1] == [f"holds: {part.__name__}" for part in contract.CONTRACT]


@pytest.mark.mpi
@pytest.mark.parametrize("part", contract.CONTRACT, ids=lambda part: part.__name__)
def test_parsl_workers_keep_the_contract(part: Callable[..., None], tmp_path: Path) -> None:
    pytest.importorskip("parsl")
    config = ParslExecutorConfig(workers_per_node=2)
    from ideal.labelling.executors.parsl import ParslExecutor

    part(lambda limits: ParslExecutor(config, tmp_path / "work", limits), tmp_path)


def mpiexec() -> str:
    """The launcher of the MPI that mpi4py belongs to."""
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).parent / "mpiexec"
    launcher = str(beside) if beside.is_file() else shutil.which("mpiexec")
    if launcher is None:
        pytest.skip("no mpiexec")
    return launcher


# --- particulars ------------------------------------------------------------------------------------------------------


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def test_memory_limit_of_a_local_worker(tmp_path: Path) -> None:
    contract.memory_limit_ends_all_that_was_started(
        lambda limits: LocalExecutor(1, tmp_path / "work", *limits), tmp_path
    )


def test_a_worker_that_does_not_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ideal.labelling.executors.worker_process.START_SECONDS", 0.0)
    with LocalExecutor(1, tmp_path, timeout=200) as executor:
        error = executor.submit(math.sqrt, 4.0).exception(200)
    assert isinstance(error, WorkerError) and error.limit is None
    assert "did not start within 0 s" in str(error) and str(tmp_path / "worker-0.log") in str(error)


def test_workers_are_bound_to_cores_of_their_own(tmp_path: Path) -> None:
    usable = cores()
    if len(usable) < 2:
        pytest.skip("one core")
    with LocalExecutor(2, tmp_path, 200, cores=1) as executor:
        meet = [executor.submit(contract.mark, str(tmp_path / str(n)), 1.0) for n in range(2)]
        assert all(future.result(200) for future in meet)
        bound = [os.sched_getaffinity(pid) for pid in executor.processes()]
    assert sorted(map(tuple, bound)) == [(usable[0],), (usable[1],)]
    assert core_shares(2, None) == [None, None]
    with pytest.raises(LabelError, match=rf"exceed the {len(usable)} cores .*labelling.workers"):
        core_shares(len(usable) + 1, 1)


def test_a_worker_below_a_rank_is_no_rank() -> None:
    inherited = {"PMI_RANK": "1", "PMI_FD": "7", "OMPI_COMM_WORLD_RANK": "1", "SLURM_JOB_ID": "3", "HOME": "/home/u"}
    environment = worker_environment(inherited, 4, ["/a", "/b", "/a"])
    assert environment["OMP_NUM_THREADS"] == "4" and environment["PYTHONPATH"] == "/a:/b"
    assert {name for name in inherited if name in environment} == {"SLURM_JOB_ID", "HOME"}


def test_mpi_needs_a_launcher(tmp_path: Path) -> None:
    config = LabellingConfig(code={"type": "tblite"}, executor={"type": "mpi"})
    with pytest.raises(LabelError, match=r"start it with `mpiexec -n N ideal-run run"):
        make_executor(config, tmp_path)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ideal.labelling.executors.mpi import ranks

    monkeypatch.setitem(sys.modules, "parsl", None)
    config = LabellingConfig(code={"type": "tblite"}, executor={"type": "parsl"})
    with pytest.raises(MissingPackageError, match=r"pip install 'ideal-md\[parsl\]'"):
        make_executor(config, tmp_path)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'ideal-md\[mpi\]'"), ranks():
        pass


@pytest.mark.parametrize("file", SITES, ids=lambda file: file.stem)
def test_the_example_of_a_site_is_valid(file: Path) -> None:
    section = {"code": {"type": "tblite"}, "executor": yaml.safe_load(file.read_text(encoding="utf-8"))}
    executor = parse_section(LabellingConfig, section, "labelling", file.name).executor
    assert isinstance(executor, ParslExecutorConfig)
    if executor.provider.type != "kubernetes":
        pytest.importorskip("parsl")
        from ideal.labelling.executors.parsl import make_provider

        provider = make_provider(executor)
        assert provider.min_blocks == 0 and provider.max_blocks == executor.max_blocks


def test_a_configuration_names_a_site_file(tmp_path: Path) -> None:
    (tmp_path / "cu.xyz").write_text("1\n\nCu 0 0 0\n")
    (tmp_path / "site.yaml").write_text("type: parsl\nmax_blocks: 7\n")
    data = {
        "trajectories": [{"name": "md", "structure": "cu.xyz", "sampler": {"steps": 1, "temperature": 300}}],
        "labelling": {"code": {"type": "tblite"}, "executor": "site.yaml"},
        "dataset": {"rattled": {"count": 1}},
    }
    config = parse_config(data, tmp_path)
    assert isinstance(config.labelling.executor, ParslExecutorConfig) and config.labelling.executor.max_blocks == 7
    assert "max_blocks: 7" in dump_config(config)  # the run keeps the content, not the name
    data["labelling"]["executor"] = "no.yaml"
    with pytest.raises(ConfigError, match=r"labelling.executor: no such file: .*no.yaml"):
        parse_config(data, tmp_path)


def test_there_is_an_example_for_every_batch_system() -> None:
    found = {yaml.safe_load(file.read_text(encoding="utf-8"))["provider"]["type"] for file in SITES}
    assert found == {"local", "slurm", "pbs", "kubernetes"}
