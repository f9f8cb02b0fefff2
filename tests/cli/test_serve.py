"""`ideal-run serve` from its first word to its report, with a client that only says hello and good-bye."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from ideal.cli.serve import _word
from ideal.lammps.serve.messages import PROTOCOL, MessageReader, encode

from .conftest import tiny_config, write_config

Run = Callable[..., Result]


def visit(run: Path, stop: threading.Event) -> None:
    """Connect as soon as a learner serves in ``run``, take what it has, and leave."""
    address = run / "serve.json"
    while not stop.is_set():
        try:
            port = json.loads(address.read_text())["port"]
            connection = socket.create_connection(("127.0.0.1", port), timeout=150)
        except (OSError, ValueError):
            time.sleep(0.05)
            continue
        with connection:
            token = (run / "serve.token").read_text().strip()
            hello = {"protocol": PROTOCOL, "token": token, "client": "0" * 16, "name": "watch", "elements": ["Cu"]}
            connection.sendall(encode("hello", {**hello, "last_step": 30, "version": "", "model": False}))
            reader, kinds = MessageReader(1 << 30), []  # type: ignore[var-annotated]
            while "update" not in kinds:
                kinds += [message.kind for message in reader.feed(connection.recv(1 << 16))]
            bye = {"step": 30, "time_fs": 30.0, "temperature": None, "max_u": 1.0, "n_above": 0, "threshold": 2.0}
            connection.sendall(encode("bye", {**bye, "volume": None}))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
            return


@pytest.mark.slow
def test_serve_status_report_resume(ideal_run: Run, folder: Path) -> None:
    run, stop = folder / "run", threading.Event()
    for command in (["serve", ".", "--finish"], ["resume", "run"], ["serve", "."]):
        (run / "serve.json").unlink(missing_ok=True)
        client = threading.Thread(target=visit, args=(run, stop))
        client.start()
        try:
            result = ideal_run(*command)
        finally:
            stop.set()
            client.join()
            stop.clear()
        assert result.exit_code == 0, result.output
        assert "In the LAMMPS script" in result.stdout
        assert f"token-file {run / 'serve.token'}" in result.stdout
        assert (run / "report.html").is_file()
    status = ideal_run("status", "run")
    assert "watch" in status.stdout
    assert "30/30" in status.stdout
    assert "cu" not in status.stdout.split()


def test_a_served_configuration_is_not_run(ideal_run: Run, folder: Path) -> None:
    write_config(folder / "config.yaml", {**tiny_config(), "serve": {"port": 0}})
    result = ideal_run("run", ".")
    assert result.exit_code == 2
    assert "start it with `ideal-run serve" in " ".join(result.stderr.split())


def test_a_run_that_was_not_served_is_left_alone(ideal_run: Run, folder: Path) -> None:
    (folder / "run").mkdir()
    write_config(folder / "run" / "config.yaml", tiny_config())
    result = ideal_run("serve", ".")
    assert result.exit_code == 2
    assert "holds a run that was not served" in " ".join(result.stderr.split())


def test_a_path_is_one_word_of_a_script() -> None:
    assert _word(Path("/run/serve.token")) == "/run/serve.token"
    assert _word(Path("/my run/serve.token")) == '"/my run/serve.token"'
