"""The whole loop on a simulated machine of 1 to 32 nodes, against the scaling that aims-PAX publishes.

    python benchmarks/labelling_machine.py --nodes 1 2 4 8 16 32

Engine, Asker, Labeller and store are the real ones: 32 trajectories of hot copper in concurrent mode, labels from EMT.
Only the clock is virtual: a label holds a node for 20 minutes (the paper's perovskite), and what the loop itself does
takes the time given by ``--check``, ``--embed``, ``--learn``. A label is handed over when its node would have finished
it, so that every decision (who moves, who waits, what is asked and learned when) is taken as on such a machine. No
checkpoints are written and no final training follows: neither decides anything.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from ase.build import bulk
from ase.io import write

import ideal.engine.calculations as calculations
import ideal.engine.engine as engine
from ideal.config import Config, parse_config
from ideal.engine.events import Check, Embedded, Pretrained, Updated
from ideal.labelling.executors import LocalExecutor

PUBLISHED = {1: 57.0, 2: 29.0, 4: 14.0, 8: 7.0}
"""Hours of aims-PAX at so many nodes, one worker each, 32 trajectories (Henkes et al. 2025, text to Figure 5)."""


class Clock:
    """Virtual time in s, and what it was spent on."""

    def __init__(self, costs: dict[type, float]) -> None:
        self.now = 0.0
        self.start = 0.0
        self.costs = costs
        self.spent: Counter[str] = Counter()

    def listen(self, event: Any) -> None:
        """Advance by what the loop did."""
        cost = self.costs.get(type(event), 0.0)
        self.now += cost
        self.spent[type(event).__name__] += cost
        if isinstance(event, Pretrained):
            self.start = self.now
            self.spent.clear()


class Nodes(Executor):
    """Nodes that hold every label for a fixed virtual time; the calculation itself is done by a real worker.

    Args:
        worker: calculates.
        number: nodes.
        seconds: virtual time of a label.
        clock: tells and takes the time.
    """

    def __init__(self, worker: Executor, number: int, seconds: float, clock: Clock) -> None:
        self._worker = worker
        self._free = [0.0] * number
        self._seconds = seconds
        self._clock = clock
        self._order = itertools.count()
        self._running: list[tuple[float, int, Future[Any], Future[Any]]] = []
        self.labels = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Give the task to the node that is free first."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        end = max(self._clock.now, heapq.heappop(self._free)) + self._seconds
        heapq.heappush(self._free, end)
        heapq.heappush(self._running, (end, next(self._order), future, self._worker.submit(fn, *args, **kwargs)))
        self.labels += self._clock.start > 0
        return future

    def release(self) -> None:
        """Hand over what has finished by now."""
        while self._running and self._running[0][0] <= self._clock.now:
            _, _, future, calculated = heapq.heappop(self._running)
            future.set_result(calculated.result())

    def jump(self) -> None:
        """Let time pass until the next label finishes; the loop has nothing else to do."""
        if self._running:
            waited = max(0.0, self._running[0][0] - self._clock.now)
            self._clock.now += waited
            self._clock.spent["waiting"] += waited
        self.release()

    def terminate(self) -> None:
        """Nothing runs."""


class VirtualCalculations(calculations.Calculations):
    """The run's calculations, taken in by the virtual clock."""

    _executor: Any

    def poll(self) -> None:
        self._executor.release()
        super().poll()

    def wait(self, seconds: float) -> None:
        self._executor.jump()
        super().poll()


def configuration(folder: Path, arguments: argparse.Namespace) -> Config:
    write(folder / "copper.extxyz", bulk("Cu", cubic=True).repeat((3, 3, 2)))
    sampler = {"steps": arguments.steps, "temperature": 2500.0, "timestep": 4.0}
    trajectories = [
        {"name": f"md-{number}", "structure": "copper.extxyz", "check_every": 4, "sampler": sampler}
        for number in range(arguments.trajectories)
    ]
    data = {
        "seed": 3,
        "trajectories": trajectories,
        "uncertainty": {
            "soap": {"r_cut": 3.5, "n_max": 2, "l_max": 2},
            "threshold": {"type": "quantile", "factor": 1.2},
        },
        "selection": {
            "min_steps_between": 4,
            "max_per_frame": arguments.cells,
            "min_distance": 3.0,
            "fill": arguments.fill,
        },
        "embedding": {"r_core": 2.8, "margin": 1.0, "max_atoms": 40, "n_crops": 2, "growth_attempts": 0},
        "labelling": {
            "code": {"type": "ase", "calculator": "ase.calculators.emt:EMT"},
            "gate": {"max_net_force": 1.0, "max_force": 200.0},
        },
        "dataset": {"rattled": {"count": 4, "rattle": 0.05, "max_atoms": 16}, "validation_fraction": 0.0},
        "model": {"n_blocks": 1, "units": 8, "max_n": 2, "max_l": 2, "cutoff": 3.5, "threebody_cutoff": 3.0},
        "training": {
            "pretrain": {"epochs": 2},
            "online": {"epochs": 1, "replay": 1, "rescore": 1},
            "final": {"epochs": 0},
        },
        "engine": {"mode": "concurrent", "max_labels": arguments.labels, "checkpoint_every": 1000, "write_every": 100},
    }
    return parse_config(data, folder)


def simulate(nodes: int, arguments: argparse.Namespace) -> None:
    clock = Clock({Check: arguments.check, Embedded: arguments.embed, Updated: arguments.learn})
    real = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="machine-") as folder,
        LocalExecutor(1, Path(folder) / "worker", 60) as worker,
    ):
        machine = Nodes(worker, nodes, arguments.label, clock)
        calculations.make_executor = lambda config, folder: machine  # type: ignore[assignment,return-value]
        engine.Calculations = VirtualCalculations  # type: ignore[misc]
        engine.engine_state.save_checkpoint = lambda *arguments: None
        summary = engine.Engine.create(configuration(Path(folder), arguments), f"{folder}/run", clock.listen).run()
    hours = (clock.now - clock.start) / 3600
    ideal_hours = machine.labels * arguments.label / 3600 / nodes
    own = {name: clock.spent[name] / 3600 for name in ("Check", "Embedded", "Updated", "waiting")}
    print(
        f"| {nodes} | {machine.labels} | {summary.updates} | {hours:.2f} | {100 * ideal_hours / hours:.0f} % | "
        + " | ".join(f"{value:.2f}" for value in own.values())
        + f" | {PUBLISHED.get(nodes, '-')} |",
        flush=True,
    )
    print(f"{nodes} nodes: {time.perf_counter() - real:.0f} s of real time", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--trajectories", type=int, default=32)
    parser.add_argument("--labels", type=int, default=171, help="57 h of 20 min each")
    parser.add_argument("--cells", type=int, default=3, help="cells that one frame may ask for")
    parser.add_argument("--fill", type=float, default=1.0, help="selection.fill")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--label", type=float, default=1200.0, help="virtual s of a label")
    parser.add_argument(
        "--check", type=float, default=10.0, help="virtual s of the steps between two checks, and the check"
    )
    parser.add_argument("--embed", type=float, default=5.0, help="virtual s of an embedding")
    parser.add_argument("--learn", type=float, default=30.0, help="virtual s of an update of the model")
    arguments = parser.parse_args()
    print(" ".join(["command: python benchmarks/labelling_machine.py", *sys.argv[1:]]))
    print("| nodes | labels | updates | hours | nodes busy | checks | embedding | learning | waiting | aims-PAX |")
    print("| --- " * 10 + "|", flush=True)
    for nodes in arguments.nodes:
        simulate(nodes, arguments)


if __name__ == "__main__":
    main()
