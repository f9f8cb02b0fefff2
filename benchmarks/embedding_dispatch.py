"""Wall time from an uncertain frame to its cells with 0, 1 and 2 processes, and what the others do meanwhile.

    python benchmarks/embedding_dispatch.py --output runs/selection

One ask is ``--cells`` atoms of one frame (Li SNAP, SiO2 Vashishta; frames as in ``benchmarks/embedding``). Told are the
wall time until the first and until the last cell is there, the CPU time of the asking process meanwhile (what the
dynamics loses), and the times of an interleaved repetition, so that a busy machine hits all alike.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "embedding"))

from cells import known_frames, large_frames, setting
from references import MATERIALS

from ideal.config import EmbeddingConfig
from ideal.embedding.pool import CellJob, CellPool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--materials", nargs="+", choices=sorted(MATERIALS), default=["Li", "SiO2"])
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/selection"))
    options = parser.parse_args()
    print("| material | processes | first cell, s | all cells, s | CPU s of the asking process | starting, s |")
    print("| --- " * 6 + "|")
    for name in options.materials:
        known_frames(MATERIALS[name], options.output)
        given = setting(name, options.output)
        frame = large_frames(MATERIALS[name], options.output, 0)[-1]
        atoms = np.random.default_rng(0).choice(len(frame), options.cells, replace=False).tolist()
        jobs = [CellJob(frame, (k,), k, given.threshold, given.distances) for k in atoms]
        times: dict[int, list[tuple[float, float, float]]] = {0: [], 1: [], 2: []}
        pools, starts = {}, {}
        for workers in times:
            start = time.perf_counter()
            pools[workers] = CellPool(EmbeddingConfig(workers=workers, r_core=4.0, margin=2.5, young_factor=1.0))
            for order in [pools[workers].order(job, given.known, 0) for job in jobs[: max(workers, 1)]]:
                order.cell()
            starts[workers] = time.perf_counter() - start
        for _ in range(options.repeats):
            for workers, pool in pools.items():
                start, cpu = time.perf_counter(), time.process_time()
                orders = [pool.order(job, given.known, 0) for job in jobs]
                orders[0].cell()
                first = time.perf_counter() - start
                for order in orders:
                    order.cell()
                times[workers].append((first, time.perf_counter() - start, time.process_time() - cpu))
        for workers, some in times.items():
            first, last, cpu = np.median(np.array(some), axis=0)
            print(f"| {name} | {workers} | {first:.2f} | {last:.2f} | {cpu:.2f} | {starts[workers]:.1f} |", flush=True)
            pools[workers].close()


if __name__ == "__main__":
    main()
