"""A learner and clients in one process: ask, learn, answer, lose the connection, come back, start again."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from ideal.errors import ConfigError
from ideal.lammps.serve.served_run import ServedRun
from ideal.models.m3gnet import M3GNetPotential
from ideal.uncertainty.mahalanobis import SoapMahalanobis

from .runs import events, named
from .serve_client import Client, Running, length_prefix, serve_config, serving, uncertain_box, wait_for


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that is started once."""
    folder = tmp_path_factory.mktemp("serve")
    with serving(folder / "run", serve_config(folder, serve={"max_message": 1})) as running:
        yield running


def test_a_client_is_brought_up_to_date(learner: Running) -> None:
    with Client(learner.port, learner.token, client="a" * 16) as client:
        welcome = client.receive("welcome")
        assert welcome.fields["update"] is True
        update = client.receive("update")
        assert update.fields["request"] == 0
        assert update.fields["threshold"] == pytest.approx(1.2)
        assert update.arrays["distribution"].tobytes() == (learner.path / "uncertainty.safetensors").read_bytes()
        assert update.arrays["model"].tobytes() == (learner.path / "model" / "model.safetensors").read_bytes()
    with Client(learner.port, learner.token, "a" * 16, version=update.fields["version"], model=False) as client:
        assert client.receive("welcome").fields["update"] is False


def test_ask_learn_answer(learner: Running, tmp_path: Path) -> None:
    with Client(learner.port, learner.token, client="b" * 16, name="other") as client:
        client.receive("welcome")
        before = client.receive("update")
        client.ask(1, 40, [uncertain_box(1), uncertain_box(2)])
        after = client.receive("update")
        assert after.fields["request"] == 1
        assert after.fields["labels"] > 0
        assert after.fields["version"] != before.fields["version"]
        (tmp_path / "u.safetensors").write_bytes(after.arrays["distribution"].tobytes())
        (tmp_path / "model.safetensors").write_bytes(after.arrays["model"].tobytes())
        known, old = SoapMahalanobis.load(tmp_path / "u.safetensors"), load(before.arrays["distribution"].tobytes())
        assert known.counts["Cu"] > int(old["Cu.count"][0])
        model = M3GNetPotential.load(tmp_path, device="cpu")
        assert after.fields["version"].endswith(model.fingerprint()[:16])
        client.ask(1, 40, [uncertain_box(1)])  # as after a lost connection
        again = client.receive("update")
        assert again.fields["request"] == 1
        assert not again.arrays
        client.check("bye", 50)
        wait_for(lambda: bool(named(learner.path, "trajectory_finished")))
    checks = [event for event in named(learner.path, "check") if event["trajectory"] == "other"]
    assert [event["step"] for event in checks] == [40, 50]
    asked = [event for event in named(learner.path, "embedded") if event["trajectory"] == "other"]
    assert {event["atom"] for event in asked} <= {17, 18}


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n" + bytes(100), "at most"),
        (length_prefix(1 << 40), "at most"),
        (length_prefix(20) + b"x" * 20, "does not fit"),
        (b"", "left without a word"),
    ],
)
def test_whoever_makes_no_sense_is_refused(garbage: bytes, reason: str, learner: Running) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", learner.port), timeout=150) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(1000):
            answer += data
    assert reason.encode() in answer or not garbage
    test_a_client_is_brought_up_to_date(learner)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"token": "0" * 64}, "wrong token"),
        ({"token": "å"}, "wrong token"),
        ({"protocol": 99}, "plugin build"),
        ({"elements": ["Cu", "Xx"]}, "no chemical symbol"),
        ({"elements": ["Cu", "Li"]}, "which knows Cu"),
        ({"client": "../../etc"}, "client"),
        ({"name": "a/b"}, "name"),
        ({"model": 1}, "model"),
        ({"extra": "x" * 20000}, "at most"),
        ({"extra": 1}, "extra"),
    ],
)
def test_hellos_that_are_refused(changes: dict[str, object], reason: str, learner: Running) -> None:
    token = changes.pop("token", learner.token)
    with Client(learner.port, token, **changes) as client:  # type: ignore[arg-type]
        assert reason in client.receive("refused").fields["text"]


@pytest.mark.parametrize("kind", ["too large", "nonsense", "nan", "shape", "unknown", "hello"])
def test_a_client_that_breaks_the_rules_is_refused(kind: str, learner: Running) -> None:
    with Client(learner.port, learner.token, client="c" * 16) as client:
        client.receive("welcome")
        client.receive("update")
        box = uncertain_box(3)
        if kind == "too large":
            client.socket.sendall(length_prefix((1 << 20) + 1))
        elif kind == "nonsense":
            client.socket.sendall(length_prefix(12) + b"not a header")
        elif kind == "nan":
            box.positions[3] = np.nan
            client.ask(1, 1, [box])
        elif kind == "shape":
            client.send("learn", {"step": 1}, {"0.positions": np.zeros(3)})
        elif kind == "unknown":
            client.send("shutdown", {})
        else:
            client.send("hello", {"token": learner.token})
        assert client.receive("refused").fields["text"]
    test_a_client_is_brought_up_to_date(learner)


def test_a_neighborhood_that_is_too_small_stops_the_client(learner: Running) -> None:
    with Client(learner.port, learner.token, client="d" * 16) as client:
        client.receive("welcome")
        client.receive("update")
        client.ask(7, 1, [uncertain_box(4)], whole=[False, True, True])
        answer = client.receive("update")
        assert answer.fields["stop"] is True
        assert "raise radius" in answer.fields["text"]


def test_atoms_that_cannot_be_described_stop_the_client(learner: Running) -> None:
    box = uncertain_box(5)
    box.numbers[3] = 79
    with Client(learner.port, learner.token, client="e" * 16) as client:
        client.receive("welcome")
        client.receive("update")
        client.ask(8, 1, [box])
        answer = client.receive("update").fields
        assert answer["stop"]
        assert "does not know the element Au" in answer["text"]
    test_a_client_is_brought_up_to_date(learner)


def test_token_is_the_owner_s_alone(learner: Running) -> None:
    assert stat.S_IMODE((learner.path / "serve.token").stat().st_mode) == 0o600


def test_stopped_and_started_again(tmp_path: Path) -> None:
    """Nothing is lost: what was asked before a stop is answered after it, on the same port."""
    config = serve_config(tmp_path, labelling__code={"type": "ase", "calculator": "engine_calculators:LoggedEMT"})
    with serving(tmp_path / "run", config) as running:
        port = running.port
        client = Client(port, running.token)
        client.receive("welcome")
        version = client.receive("update").fields["version"]
        client.ask(5, 40, [uncertain_box(1)])
        wait_for(lambda: bool(named(running.path, "label_submitted")[4:]))
        assert running.stop().status == "interrupted"
        client.close()
    with serving(tmp_path / "run") as running:
        assert running.port == port
        with Client(port, running.token, version=version) as client:
            client.receive("welcome")
            client.ask(5, 40, [uncertain_box(1)])
            answer = client.receive("update")
            while answer.fields["request"] != 5:
                answer = client.receive("update")
            assert answer.fields["version"] != version
    finished = named(running.path, "label_finished")
    assert len({event["key"] for event in finished}) == len(finished)
    assert sum(event["event"] == "updated" for event in events(running.path)) == 1


def test_ends_with_the_last_client(tmp_path: Path) -> None:
    config = serve_config(tmp_path, serve={"finish": True})
    with serving(tmp_path / "run", config) as running:
        with Client(running.port, running.token) as client:
            client.receive("welcome")
            client.receive("update")
            client.ask(1, 40, [uncertain_box(1)])
            client.receive("update")
            client.check("bye", 60)
            client.socket.settimeout(150)
        summary = running.end()
    assert summary.status == "finished"
    assert [trajectory.name for trajectory in summary.trajectories] == ["watch"]
    assert named(running.path, "converged")


def test_a_port_that_is_taken_is_told_before_the_first_label(learner: Running, tmp_path: Path) -> None:
    config = serve_config(tmp_path, serve={"port": learner.port})
    with pytest.raises(ConfigError, match=r"in use.*write port: 0"):
        ServedRun.create(config, tmp_path / "run").run()
    assert not (tmp_path / "run" / "events.jsonl").exists()
