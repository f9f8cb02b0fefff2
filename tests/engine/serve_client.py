"""A client of the learner in a few lines of Python: what ``fix ideal`` says, without LAMMPS."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk

from ideal.config import Config
from ideal.engine.events import Event
from ideal.engine.summary import RunSummary
from ideal.lammps.serve.messages import PROTOCOL, Message, MessageReader, encode
from ideal.lammps.serve.served_run import ServedRun, served

from .runs import copper_config

PATIENCE = 150.0


def serve_config(folder: Path, **changes: Any) -> Config:
    """The tiny copper run, served."""
    changes = {"uncertainty__threshold": {"type": "fixed", "value": 1.2}, **changes}
    return served(copper_config(folder, **changes))


def uncertain_box(seed: int, amplitude: float = 0.2) -> Atoms:
    """A box of copper, hot around its first atom."""
    atoms = bulk("Cu", cubic=True).repeat((3, 3, 3))
    rng = np.random.default_rng(seed)
    near = atoms.get_distances(0, range(len(atoms)), mic=True) < 3.0
    atoms.positions[near] += rng.normal(scale=amplitude, size=(int(near.sum()), 3)).clip(-0.25, 0.25)
    return atoms


class Client:
    """One connection."""

    def __init__(self, port: int, token: str, client: str = "0" * 16, version: str = "", **hello: Any) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._reader, self._read = MessageReader(1 << 30), []  # type: ignore[var-annotated]
        fields = {
            "protocol": PROTOCOL,
            "token": token,
            "client": client,
            "name": "watch",
            "elements": ["Cu"],
            "last_step": 1000,
            "version": version,
            "model": True,
        }
        self.send("hello", {**fields, **hello})

    def send(self, kind: str, fields: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> None:
        self.socket.sendall(encode(kind, fields, arrays))

    def receive(self, kind: str) -> Message:
        """The next message that is no sign of life; of that kind."""
        while True:
            while not self._read:
                data = self.socket.recv(1 << 16)
                assert data, f"the connection ended before {kind!r}"
                self._read += self._reader.feed(data)
            message = self._read.pop(0)
            if message.kind != "alive":
                assert message.kind == kind, message.fields
                return message

    def check(self, kind: str, step: int, **more: Any) -> None:
        fields = {"step": step, "time_fs": 2.0 * step, "temperature": 300.0, "max_u": 1.0, "n_above": 0}
        self.send(kind, {**fields, "threshold": 1.2, "volume": 300.0, **more})

    def ask(self, request: int, step: int, boxes: list[Atoms], **more: Any) -> None:
        places, arrays = [], {}
        for k, atoms in enumerate(boxes):
            places.append({"atom": 17 + k, "pbc": [True] * 3, "whole": more.pop("whole", [True] * 3)})
            arrays[f"{k}.positions"] = atoms.positions
            arrays[f"{k}.numbers"] = atoms.numbers.astype(np.int64)
            arrays[f"{k}.cell"] = atoms.cell.array
        fields = {"step": step, "time_fs": 2.0 * step, "temperature": None, "max_u": None, "n_above": 3}
        fields = {**fields, "threshold": 1.2, "volume": None, "request": request, "neighborhoods": places, **more}
        self.send("learn", fields, arrays)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Running:
    """A learner in a thread of this process."""

    def __init__(self, path: Path, config: Config | None) -> None:
        self.path = path
        self._ready = threading.Event()
        run = ServedRun.create(config, path, self._hear) if config else ServedRun.resume(path, self._hear)
        self.summary: RunSummary | None = None
        self.error: BaseException | None = None
        self._run = run
        self._thread = threading.Thread(target=self._go)
        self._thread.start()
        wait_for(lambda: self._ready.is_set() or not self._thread.is_alive())
        assert self.error is None, self.error
        self.port = int(json.loads((self.path / "serve.json").read_text())["port"])
        self.token = (self.path / "serve.token").read_text().strip()

    def _hear(self, event: Event) -> None:
        if event.name == "serving":
            self._ready.set()

    def _go(self) -> None:
        try:
            self.summary = self._run.run()
        except BaseException as error:
            self.error = error

    def stop(self) -> RunSummary:
        """As Ctrl-C."""
        self._run._stop.signal_name = "SIGINT"
        return self.end()

    def end(self) -> RunSummary:
        self._thread.join(PATIENCE)
        assert self.error is None, self.error
        assert self.summary is not None
        return self.summary


@contextmanager
def serving(path: Path, config: Config | None = None) -> Iterator[Running]:
    """A new learner, or (without a configuration) the one in a folder again; stopped at the end."""
    running = Running(path, config)
    try:
        yield running
    finally:
        if running._thread.is_alive():
            running.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def length_prefix(n: int) -> bytes:
    return struct.pack("<Q", n)
