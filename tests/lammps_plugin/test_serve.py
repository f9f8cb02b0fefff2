"""fix ideal ... learn against a learner: what is asked, taken, and done where one side is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read
from ase.io.lammpsdata import write_lammps_data

from ideal.lammps.serve import connections
from ideal.models.m3gnet import M3GNetPotential
from ideal.uncertainty.mahalanobis import SoapMahalanobis

from .conftest import Run
from .learner import Learning, make_run, running, wait_for
from .test_fix_ideal import dumped

pytestmark = pytest.mark.lammps
several_ranks = pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])

SETUP = """
units metal
atom_style atomic
atom_modify map yes
read_data copper.data
plugin load PLUGIN
"""
EAM = "pair_style lj/cut 6.0\npair_coeff * * 0.3 2.3\n"
IDEAL = "pair_style ideal\npair_coeff * * run/model/model.safetensors Cu\n"
REST = """
comm_modify cutoff 9.0
velocity all create {temperature} 7 loop geom
fix move all nve
timestep 0.002
fix watch all ideal 5 run/uncertainty.safetensors Cu threshold 2.5 learn 127.0.0.1:{port} token-file {token} &
    radius 11.0 most 2 min_steps 10 {keywords}
thermo 5
thermo_style custom step pe f_watch[1] f_watch[3] f_watch[5]
thermo_modify format float %.10g norm no
"""
PAUSE = "print READY\nshell sh pause.sh\n"


def script(
    port: int, pair: str = EAM, keywords: str = "", token: str = "run/serve.token", temperature: int = 100
) -> str:
    rest = REST.format(port=port, keywords=keywords, token=token, temperature=temperature)
    return SETUP + pair + rest


@pytest.fixture(scope="module", autouse=True)
def importable_calculator() -> Iterator[None]:
    """Let worker processes and the configuration find ``gated_emt``."""
    here = str(Path(__file__).parent)
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])))
    patch.syspath_prepend(here)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def first_run(importable_calculator: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copied by each test: a start of its own would take ten seconds."""
    return make_run(tmp_path_factory.mktemp("first"))


@pytest.fixture
def learning(first_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Learning:
    """A run directory of the test's own, whose labels wait while there is a file `gate`; copper for LAMMPS."""
    shutil.copytree(first_run, tmp_path / "run")
    monkeypatch.setenv("IDEAL_TEST_GATE", str(tmp_path / "gate"))
    (tmp_path / "run" / "serve.json").unlink()
    copper = bulk("Cu", cubic=True).repeat((6, 6, 6))
    del copper[[100, 101]]
    copper.rattle(0.05, seed=2)
    write_lammps_data(tmp_path / "copper.data", copper, masses=True)
    return Learning(tmp_path / "run")


def frame(path: Path, step: int) -> Atoms:
    """Copper as dumped: id, scaled positions, in a cubic box."""
    columns = dumped(path, step)
    length = 6 * bulk("Cu", cubic=True).cell[0, 0]
    return Atoms(f"Cu{len(columns)}", scaled_positions=columns[:, 1:4], cell=3 * [length], pbc=True)


@several_ranks
def test_asks_learns_and_goes_on(ranks: int, learning: Learning, lammps: Run, tmp_path: Path) -> None:
    """With distribution and weights of the run directory, to the last digit that LAMMPS prints."""
    dump = "dump d all custom 5 d.dump id xs ys zs\ndump_modify d format float %.17g sort id\n"
    with learning:
        output = lammps(script(learning.port, IDEAL) + dump + "run 20\nrun 0\n", ranks)
        wait_for(lambda: bool(learning.events("trajectory_finished")), "no good-bye")
        learned = [int(n) for n in re.findall(r"answered: (\d+) labels learned; threshold 3", output)]
        assert sum(learned) == sum(event["learned"] for event in learning.events("client_answered"))
        assert learned
        rows = [line.split() for line in output.splitlines() if re.match(r" *20 +-?\d", line)]
    u = SoapMahalanobis.load(tmp_path / "run" / "uncertainty.safetensors").atomic(frame(tmp_path / "d.dump", 20))
    last = rows[-1]  # of run 0, which evaluates everything anew
    assert float(last[2]) == pytest.approx(u.max(), rel=1e-6)
    potential = M3GNetPotential.load(tmp_path / "run" / "model", device="cpu").double()
    energy = potential.evaluate(frame(tmp_path / "d.dump", 20)).energy
    before = M3GNetPotential.load(tmp_path / "run" / "model_initial", device="cpu").double()
    other = before.evaluate(frame(tmp_path / "d.dump", 20)).energy
    assert float(last[1]) == pytest.approx(energy, rel=1e-5)
    assert abs(energy - other) > 10 * abs(float(last[1]) - energy)


def test_any_pair_style_gets_the_distribution(learning: Learning, lammps: Run) -> None:
    with learning:
        output = lammps(script(learning.port) + "run 15\nwrite_restart r.bin\n")
        assert "labels learned" in output
        again = SETUP.replace("read_data copper.data", "read_restart r.bin") + EAM + script(learning.port).split(EAM)[1]
        lammps(again.replace("velocity", "# velocity") + "run 5\n")
        wait_for(lambda: len(learning.events("client_connected")) == 2, "nobody came back")
        connected = learning.events("client_connected")
    assert [event["trajectory"] for event in connected] == ["watch", "watch"]
    assert [event["again"] for event in connected] == [False, True]


def test_several_clients(learning: Learning, plugin: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "copper.data", tmp_path / name)
        (tmp_path / name / "run").symlink_to(tmp_path / "run")
    with (
        learning,
        running(script(learning.port) + "run 10\n", tmp_path / "one", plugin) as one,
        running(script(learning.port) + "run 10\n", tmp_path / "two", plugin) as two,
    ):
        assert one.end() == 0, one.output
        assert two.end() == 0, two.output
        wait_for(lambda: len(learning.events("trajectory_finished")) == 2, "no good-bye")
    assert {event["trajectory"] for event in learning.events("client_answered")} == {"watch", "watch-2"}


def test_goes_on_while_the_learner_works(learning: Learning, plugin: Path, tmp_path: Path) -> None:
    """policy continue: one request at a time, and the answer is taken when it comes."""
    (tmp_path / "gate").touch()
    with (
        learning,
        running(script(learning.port, keywords="policy continue") + "run 1000000\n", tmp_path, plugin) as lammps,
    ):
        lammps.wait_for(" atoms above")
        asked = int(re.search(r"step (\d+): u", lammps.output).group(1))  # type: ignore[union-attr]
        lammps.wait_for(f"\n{asked + 50:>10} ")
        assert lammps.output.count(" atoms above") == 1
        (tmp_path / "gate").unlink()
        lammps.wait_for("answered")
        answered = int(re.search(r"step (\d+): answered", lammps.output).group(1))  # type: ignore[union-attr]
        assert answered >= asked + 50


@pytest.mark.parametrize("policy", ["wait", "continue"])
def test_learner_that_stays_away(policy: str, learning: Learning, plugin: Path, tmp_path: Path) -> None:
    learning.start()
    text = script(learning.port, keywords=f"policy {policy} timeout 2")
    (tmp_path / "pause.sh").write_text("until [ -e go ]; do sleep 0.05; done\n")
    text += "run 0\n" + PAUSE + "run 30\nprint 'AFTER'\nwrite_restart r.bin\n"
    with running(text, tmp_path, plugin) as lammps:
        lammps.wait_for("READY")
        learning.stop()
        (tmp_path / "go").touch()
        assert lammps.end() == 0, lammps.output
        output = " ".join(lammps.output.split())
    assert "AFTER" in output
    assert (tmp_path / "r.bin").is_file()
    kept = read(tmp_path / "watch.unlearned.extxyz", ":")
    assert len(kept) >= 1
    if policy == "wait":
        assert f"`ideal-run resume {tmp_path / 'run'}`, then go on from a restart file" in output
        assert "nothing was heard from the learner" in output
    else:
        assert re.search(r" 30 -", output)
        assert "appended to watch.unlearned.extxyz" in output


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
def test_learner_that_comes_back(ranks: int, learning: Learning, plugin: Path, tmp_path: Path) -> None:
    """Stopped while LAMMPS waits for its labels, and started again: the answer comes, nothing is calculated twice."""
    (tmp_path / "gate").touch()
    learning.start()
    with running(script(learning.port) + "run 10\n", tmp_path, plugin, ranks) as lammps:
        wait_for(lambda: len(learning.events("label_submitted")) > 6, "no label was asked for")
        learning.stop()
        (tmp_path / "gate").unlink()
        with learning:
            assert lammps.end() == 0, lammps.output
            assert "labels learned" in lammps.output
            wait_for(lambda: bool(learning.events("trajectory_finished")), "no good-bye")
    finished = [event["key"] for event in learning.events("label_finished")]
    assert len(finished) == len(set(finished))


def test_a_request_that_was_given_up_is_not_in_the_way(
    learning: Learning, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run asks anew, though the learner still works on what the last one asked for."""
    monkeypatch.setattr(connections, "ALIVE_SECONDS", 1000.0)
    (tmp_path / "gate").touch()
    (tmp_path / "pause.sh").write_text("until [ -e go ]; do sleep 0.05; done\n")
    with learning:
        text = script(learning.port, keywords="timeout 5")
        text += "run 10\n" + PAUSE + "timer timeout off\nrun 10\nprint AFTER\n"
        with running(text, tmp_path, plugin) as lammps:
            lammps.wait_for("READY")
            assert "it is silent" in lammps.output
            monkeypatch.setattr(connections, "ALIVE_SECONDS", 0.1)
            (tmp_path / "gate").unlink()
            (tmp_path / "go").touch()
            assert lammps.end() == 0, lammps.output
            assert "the learner says" not in lammps.output
            assert "answered: " in lammps.output
            assert "AFTER" in lammps.output
            wait_for(lambda: bool(learning.events("trajectory_finished")), "no good-bye")


@pytest.mark.mpi
def test_learner_survives_a_dying_rank(learning: Learning, plugin: Path, tmp_path: Path) -> None:
    """What was asked for is learned all the same, and the next client is served."""
    (tmp_path / "gate").touch()
    with learning:
        with running(script(learning.port) + "run 10\n", tmp_path, plugin, 2) as lammps:
            wait_for(lambda: len(learning.events("label_submitted")) > 6, "no label was asked for")
            children = Path(f"/proc/{lammps.process.pid}/task/{lammps.process.pid}/children").read_text().split()
            for child in children:
                for rank in Path(f"/proc/{child}/task/{child}/children").read_text().split()[-1:]:
                    os.kill(int(rank), signal.SIGKILL)
            assert lammps.end() != 0
        (tmp_path / "gate").unlink()
        wait_for(lambda: bool(learning.events("updated")), "nothing was learned")
        wait_for(lambda: bool(learning.events("client_left")), "nobody left")
        with running(script(learning.port) + "run 5\n", tmp_path, plugin) as lammps:
            assert lammps.end() == 0, lammps.output


def test_the_learner_s_refusal_ends_the_run(learning: Learning, lammps: Run) -> None:
    with learning:
        text = script(learning.port).replace("radius 11.0", "radius 3.0") + "run 20\nprint AFTER\n"
        output = " ".join(lammps(text).split())
    assert "raise radius of fix ideal" in output
    assert "the run ends here" in output
    assert "AFTER" in output


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("token-file run/serve.token", "token-file other", "cannot read a token in 'other'"),
        ("token-file run/serve.token", "", "learn needs token-file FILE"),
        ("token-file run/serve.token", "token-file copper.data", "wrong token"),
        ("learn 127.0.0.1:", "learn ", "give HOST:PORT"),
        ("learn 127.0.0.1:", "policy wait halt none threshold ", "belong to learn HOST:PORT"),
        ("most 2", "policy maybe", "neither wait nor continue"),
        ("most 2", "timeout 0", "give seconds, more than 0"),
        ("Cu threshold", "Li threshold", "Li (atom type 1) is unknown to"),
    ],
)
def test_errors_say_what_to_do(old: str, new: str, message: str, shared: Learning, lammps: Run, tmp_path: Path) -> None:
    for name in ("run", "copper.data"):
        (tmp_path / name).symlink_to(shared.path.parent / name)
    output = lammps((script(shared.port) + "run 0\n").replace(old, new), fails=True)
    assert message in " ".join(output.split())


@pytest.fixture(scope="module")
def shared(first_run: Path) -> Iterator[Learning]:
    """One learner for tests that teach it nothing."""
    write_lammps_data(first_run.parent / "copper.data", bulk("Cu", cubic=True).repeat((6, 6, 6)), masses=True)
    with Learning(first_run) as learning:
        yield learning


def test_learner_that_is_not_there(shared: Learning, lammps: Run, tmp_path: Path) -> None:
    for name in ("run", "copper.data"):
        (tmp_path / name).symlink_to(shared.path.parent / name)
    output = lammps(script(1) + "run 0\n", fails=True)
    assert "start `ideal-run serve CONFIG.yaml` first" in " ".join(output.split())


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(7) + b"\x80" + bytes(8), bytes(16), b""])
def test_something_else_listens_there(answer: bytes, shared: Learning, lammps: Run, tmp_path: Path) -> None:
    for name in ("run", "copper.data"):
        (tmp_path / name).symlink_to(shared.path.parent / name)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply() -> None:
            for _ in range(4):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(answer)

        threading.Thread(target=reply, daemon=True).start()
        output = " ".join(lammps(script(server.getsockname()[1]) + "run 0\n", fails=True).split())
    assert "is not there (it closed the connection" in output or "is not there (it sent what is no message" in output


def test_model_of_another_architecture(shared: Learning, lammps: Run, tmp_path: Path) -> None:
    from .test_pair_ideal import network

    for name in ("run", "copper.data"):
        (tmp_path / name).symlink_to(shared.path.parent / name)
    network(["Cu"], tmp_path / "other", units=24)
    text = script(shared.port, IDEAL.replace("run/model", "other")) + "run 0\n"
    assert "name the model of that run in pair_coeff" in " ".join(lammps(text, fails=True).split())


def test_a_minimization_is_left_alone(learning: Learning, lammps: Run) -> None:
    with learning:
        text = script(learning.port).replace("ideal 5 run", "ideal 1 run").replace("min_steps 10", "")
        output = lammps(text + "minimize 0 0 10 100\n")
        wait_for(lambda: bool(learning.events("client_left")), "nobody left")
        assert "Minimization stats" in output
        assert not learning.events("client_answered")


def test_kept_neighborhoods_are_those_of_dump(learning: Learning, lammps: Run, tmp_path: Path) -> None:
    with learning:
        lammps(script(learning.port, keywords="dump d.extxyz") + "run 5\n")
    sent = read(tmp_path / "d.extxyz", ":")
    atoms = {event["atom"] for event in learning.events("embedded")}
    assert atoms <= {int(frame.info["center_id"]) for frame in sent}
    assert np.isfinite([frame.info["center_u"] for frame in sent]).all()
