"""How well do labels of a fixed cost fill 1 to 32 workers, and what does a label cost beside its calculation?

    python benchmarks/labelling_scaling.py                                  # local worker processes
    mpiexec -n 33 python benchmarks/labelling_scaling.py --executor mpi --workers 32
    python benchmarks/labelling_scaling.py --executor parsl --workers 1 8 32
    python benchmarks/labelling_scaling.py --code tblite --workers 1 2 --labels 40

Everything is measured through the whole `Labeller`: request written, task sent, result read and judged,
label committed to the store and synced, folder removed. Workers are warm: they have answered before the clock starts.

efficiency: labels x sleep / (workers x wall time); for a real code its labels per second instead.
overhead: wall time of labels that cost nothing, one worker, one after the other, per label; and its CPU time in this
process (what the loop of a run loses).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule

from ideal.config import LabellingConfig
from ideal.labelling import Labeller, LabelStore, make_code
from ideal.labelling.executors import open_executor
from ideal.records import Label

HERE = Path(__file__).parent


def structure(number: int, real: bool) -> Atoms:
    """Different for each number."""
    atoms = molecule("C6H6") if real else Atoms("Li8", positions=3.0 * np.indices((2, 2, 2)).reshape(3, -1).T)
    atoms.rattle(0.02, seed=number)
    return atoms


@contextlib.contextmanager
def labeller_of(code: dict[str, Any], executor: dict[str, Any], workers: int, folder: Path) -> Iterator[Labeller]:
    config = LabellingConfig(code=code, executor=executor, workers=workers)
    with (
        LabelStore(folder / "labels.db") as store,
        open_executor(config, folder / "work") as pool,
        Labeller(make_code(config.code), store, folder / "work", executor=pool) as labeller,
    ):
        yield labeller


def label(labeller: Labeller, structures: list[Atoms]) -> float:
    """Label all; returns the wall time."""
    start = time.perf_counter()
    for atoms in structures:
        labeller.submit(atoms)
    missing = len(structures)
    while missing:
        finished = labeller.wait(timeout=600)
        assert finished and all(isinstance(answer, Label) for answer in finished), finished
        missing -= len(finished)
    return time.perf_counter() - start


def executor_section(kind: str, workers: int) -> dict[str, Any]:
    if kind == "parsl":
        return {"type": "parsl", "workers_per_node": workers, "min_blocks": 1, "idle": 600}
    return {"type": kind}


def code_section(kind: str, seconds: float) -> dict[str, Any]:
    if kind == "tblite":
        return {"type": "tblite"}
    return {
        "type": "ase",
        "calculator": "labelling_calculators:Sleeping",
        "arguments": {"seconds": seconds},
    }


def warm(labeller: Labeller, workers: int, code: dict[str, Any]) -> None:
    """Let every worker answer once, so that none still imports when the clock starts."""
    label(labeller, [structure(10**6 + number, code["type"] == "tblite") for number in range(4 * workers)])


def measure(arguments: argparse.Namespace, workers: int) -> None:
    code = code_section(arguments.code, arguments.seconds)
    real = arguments.code == "tblite"
    with (
        tempfile.TemporaryDirectory(prefix="labelling-", dir=arguments.folder) as folder,
        labeller_of(code, executor_section(arguments.executor, workers), workers, Path(folder)) as labeller,
    ):
        warm(labeller, workers, code)
        count = arguments.labels or 8 * workers
        cpu = time.process_time()
        wall = label(labeller, [structure(number, real) for number in range(count)])
        cpu = time.process_time() - cpu
        line = f"| {arguments.executor} | {arguments.code} | {workers} | {count} | {wall:.2f} |"
        if real:
            print(f"{line} {count / wall:.2f} labels/s | {1e3 * cpu / count:.1f} |", flush=True)
        else:
            efficiency = count * arguments.seconds / (workers * wall)
            print(f"{line} {100 * efficiency:.1f} % | {1e3 * cpu / count:.1f} |", flush=True)


def overhead(arguments: argparse.Namespace) -> None:
    """Labels that cost nothing, one after the other."""
    code = code_section("sleep", 0.0)
    with (
        tempfile.TemporaryDirectory(prefix="labelling-", dir=arguments.folder) as folder,
        labeller_of(code, executor_section(arguments.executor, 1), 1, Path(folder)) as labeller,
    ):
        warm(labeller, 1, code)
        walls, cpu = [], time.process_time()
        for number in range(100):
            walls.append(1e3 * label(labeller, [structure(number, False)]))
        cpu = 1e3 * (time.process_time() - cpu) / len(walls)
        quartiles = np.percentile(walls, [25, 50, 75])
        print(
            f"overhead, {arguments.executor}: {quartiles[1]:.1f} ms a label (quartiles {quartiles[0]:.1f}, "
            f"{quartiles[2]:.1f}), of which {cpu:.1f} ms CPU of this process",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", choices=("local", "mpi", "parsl"), default="local")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--code", choices=("sleep", "tblite"), default="sleep")
    parser.add_argument("--seconds", type=float, default=2.0, help="cost of a sleeping label")
    parser.add_argument("--labels", type=int, help="labels in all; default: eight for each worker")
    parser.add_argument("--folder", type=Path, help="where the runs lie; default: the system's temporary folder")
    parser.add_argument("--no-overhead", action="store_true")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; sleeping labels cost {arguments.seconds:g} s")
    if not arguments.no_overhead:
        overhead(arguments)
    print("| executor | code | workers | labels | wall (s) | efficiency | CPU of this process (ms per label) |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for workers in arguments.workers:
        measure(arguments, workers)


if __name__ == "__main__":
    from ideal.cli.launch import launched_ranks

    if launched_ranks() == 1:
        main()
    else:
        from ideal.labelling.executors.mpi import ranks

        with ranks(launched_ranks()) as is_first:
            if is_first:
                main()
