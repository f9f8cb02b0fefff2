"""A learner in a thread of the test's process, and LAMMPS beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ase.build import bulk
from ase.io import write

from ideal.config import parse_config
from ideal.engine.events import Event
from ideal.engine.summary import RunSummary
from ideal.lammps.plugin import installed_headers, mpi_library_folder
from ideal.lammps.serve.served_run import ServedRun, served

PATIENCE = 150.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def make_run(folder: Path) -> Path:
    """A run directory that has its first model and distribution; `Learning` goes on with it."""
    write(folder / "copper.extxyz", bulk("Cu", cubic=True).repeat((2, 2, 2)))
    data: dict[str, Any] = {
        "seed": 3,
        "trajectories": [{"structure": "copper.extxyz", "sampler": {"steps": 1}}],
        "uncertainty": {"soap": {"r_cut": 4.0, "n_max": 4, "l_max": 3}, "threshold": {"type": "fixed", "value": 3.0}},
        "embedding": {"r_core": 3.5, "margin": 1.5, "workers": 0},
        "labelling": {
            "code": {"type": "ase", "calculator": "gated_emt:GatedEMT"},
            "workers": 1,
        },
        "dataset": {"rattled": {"count": 6, "rattle": 0.05, "max_atoms": 32}, "validation_fraction": 0.0},
        "model": {"n_blocks": 1, "units": 8, "max_n": 2, "max_l": 2, "cutoff": 4.0, "threebody_cutoff": 3.0},
        "training": {"pretrain": {"epochs": 2}, "online": {"epochs": 1, "replay": 1, "rescore": 1}},
    }
    with Learning(folder / "run", ServedRun.create(served(parse_config(data, folder)), folder / "run")):
        pass
    return folder / "run"


class Learning:
    """A served run that goes on until the block ends; `stop` and `start` as often as wanted."""

    def __init__(self, path: Path, first: ServedRun | None = None) -> None:
        self.path = path
        self._first = first

    def __enter__(self) -> Learning:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.summary: RunSummary | None = None
        self.error: BaseException | None = None
        ready = threading.Event()

        def hear(event: Event) -> None:
            if event.name == "serving":
                ready.set()

        self._run, self._first = self._first or ServedRun.resume(self.path), None
        self._run._listener = hear
        self._thread = threading.Thread(target=self._go)
        self._thread.start()
        wait_for(lambda: ready.is_set() or not self._thread.is_alive(), "the learner does not serve")
        assert self.error is None, self.error
        self.port = int(json.loads((self.path / "serve.json").read_text())["port"])

    def _go(self) -> None:
        try:
            self.summary = self._run.run()
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        if self._thread.is_alive():
            self._run._stop.signal_name = "SIGINT"
        self._thread.join(PATIENCE)
        assert self.error is None, self.error

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The events of these names so far; not the line that is just being written."""
        whole = (self.path / "events.jsonl").read_text().rpartition("\n")[0]
        rows = [json.loads(line) for line in whole.splitlines()]
        return [row for row in rows if row["event"] in names]


class Lammps:
    """LAMMPS going on beside the test; its output so far is in `output`."""

    def __init__(self, script: str, folder: Path, plugin: Path, ranks: int = 1) -> None:
        (folder / "in.lammps").write_text(script.replace("PLUGIN", str(plugin)))
        binary = installed_headers().include.parents[1] / "lmp"
        launcher = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
        command = [str(binary), "-in", "in.lammps", "-log", "none", "-nb"]
        if ranks > 1:
            command = [launcher, "-n", str(ranks), *command]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(mpi_library_folder()), "OMP_NUM_THREADS": "1"}
        environment.pop("LAMMPS_PLUGIN_PATH", None)
        self._log = (folder / "lammps.out").open("w+")
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=self._log, stderr=subprocess.STDOUT, text=True
        )

    @property
    def output(self) -> str:
        return Path(self._log.name).read_text()

    def wait_for(self, text: str) -> None:
        """Return when it has printed something."""
        wait_for(lambda: text in self.output or self.process.poll() is not None, f"no {text!r} in {self.output}")
        assert text in self.output, self.output

    def end(self) -> int:
        """Wait for its end; returns its exit status."""
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()


@contextmanager
def running(script: str, folder: Path, plugin: Path, ranks: int = 1) -> Iterator[Lammps]:
    """LAMMPS, which does not outlive the block."""
    lammps = Lammps(script, folder, plugin, ranks)
    try:
        yield lammps
    finally:
        lammps.close()
