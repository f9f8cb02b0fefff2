"""What one uncertain atom of a frame of 10² to 10⁶ atoms costs: embedding plus the label of its cell.

    python benchmarks/embedding/cost.py --output runs/embedding

Frames are hot lithium: a frame of molecular dynamics, repeated. The label's time is GPAW's on our cells of `dft.py`;
whole frames are labelled where they fit (16 and 54 atoms, those of `dft.py` among them).
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
from ase.build import bulk
from cells import large_frames, setting
from dft import WHOLE, label, stored_labels
from parts import Result, finished, part
from references import MATERIALS

from ideal.config import EmbeddingConfig
from ideal.embedding import embed

REPEATS = ((1, 1, 1), (2, 2, 2), (4, 4, 4), (6, 6, 6), (13, 13, 13))
CENTERS = 5


def embedding(folder: Path, repeat: tuple[int, int, int]) -> Result:
    """CPU seconds of embedding one atom of a repeated frame, and the sizes of the cells."""
    given = setting("Li", folder)
    frame = large_frames(MATERIALS["Li"], folder, 1)[-1].repeat(repeat)
    config = EmbeddingConfig(young_factor=1.0)
    rng = np.random.default_rng(0)
    seconds, atoms, accepted = [], [], 0
    for index in rng.choice(len(frame), CENTERS, replace=False):
        start = time.process_time()
        cell = embed(frame, int(index), given.known, 0, config, given.threshold, min_distances=given.distances)
        seconds.append(time.process_time() - start)
        atoms.append(len(cell.atoms))
        accepted += cell.accepted
    return {
        "kind": "embedding",
        "frame": len(frame),
        "seconds": float(np.median(seconds)),
        "atoms": float(np.median(atoms)),
        "accepted": accepted,
        "centers": CENTERS,
    }


def whole(repeat: tuple[int, int, int]) -> Result:
    """CPU seconds of a whole frame's label."""
    frame = bulk("Li", "bcc", a=3.5, cubic=True).repeat(repeat)
    frame.rattle(0.2, seed=0)
    return {"kind": "whole", "frame": len(frame), "seconds": label(frame, "", 0)["cpu_seconds"]}


def run(folder: Path) -> None:
    """Everything that is missing."""
    for repeat in REPEATS:
        path = folder / "cost" / f"embedding_{repeat[0]}.json"
        part(path, partial(embedding, folder, repeat))
    part(folder / "cost" / "whole_16.json", partial(whole, (2, 2, 2)))


def labels_of_cells(folder: Path) -> tuple[float, float]:
    """Median atoms and median CPU seconds of the labels of our cells."""
    ours = stored_labels(folder)["ours"]
    return float(np.median([len(one.atoms) for one, _ in ours])), float(np.median([seconds for _, seconds in ours]))


def whole_frames(folder: Path) -> list[tuple[int, float]]:
    """(atoms, CPU seconds) of whole frames' labels."""
    found = [(r["frame"], r["seconds"]) for r in finished(folder / "cost") if r["kind"] == "whole"]
    labels = stored_labels(folder)
    times = [seconds for arm in (WHOLE, "test") for _, seconds in labels.get(arm, [])]
    size = {len(one.atoms) for one, _ in labels.get(WHOLE, [])}
    return sorted([*found, *[(n, float(np.median(times))) for n in size]])


def table(folder: Path) -> str:
    """Markdown: frames, embedding, label, and a whole frame's label (measured, else by the cube of the atoms)."""
    atoms, seconds = labels_of_cells(folder)
    measured = whole_frames(folder)
    largest, its_seconds = measured[-1]
    lines = [
        "| frame (atoms) | embedding CPU s | cell (atoms) of the default size | label of a cell of "
        f"{atoms:.0f} atoms, CPU s | label of the whole frame, CPU s |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {n} | - | - | - | {t:.0f} (measured) |" for n, t in measured]
    for r in sorted((r for r in finished(folder / "cost") if r["kind"] == "embedding"), key=lambda r: r["frame"]):
        extrapolated = its_seconds * (r["frame"] / largest) ** 3
        lines.append(
            f"| {r['frame']} | {r['seconds']:.2f} | {r['atoms']:.0f} | {seconds:.0f} | {extrapolated:.1e} (N³) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    options = parser.parse_args()
    run(options.output)
    print(table(options.output))


if __name__ == "__main__":
    main()
