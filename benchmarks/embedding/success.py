"""How often a cell is accepted, how large it is and what it costs, per material.

    python benchmarks/embedding/success.py --output runs/embedding

Centers are drawn at random from large frames; the threshold is the held-out 99 % quantile, strict (young_factor 1).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from ablation import setting
from references import MATERIALS, Material, cached_frames

from ideal.embedding import embed


def measure(material: Material, folder: Path, n_centers: int, r_core: float, margin: float) -> dict[str, Any]:
    """Success rate, sizes and CPU seconds for one size of core and margin."""
    given = setting(material, folder)
    config = given.config.model_copy(update={"r_core": r_core, "margin": margin})
    frame = cached_frames(folder, material, material.frame, 4, seed=10)[-1]
    centers = np.random.default_rng(0).choice(len(frame), n_centers, replace=False)
    seconds, sizes, accepted, reasons = [], [], [], []
    for index in centers:
        start = time.process_time()
        cell = embed(frame, int(index), given.known, int(index), config, given.threshold, min_distances=given.distances)
        seconds.append(time.process_time() - start)
        sizes.append(len(cell.atoms))
        accepted.append(cell.accepted and not cell.whole_frame)
        if cell.reason:
            reasons.append(cell.reason)
    return {
        "material": material.name,
        "r_core": r_core,
        "margin": margin,
        "accepted": int(sum(accepted)),
        "centers": n_centers,
        "atoms_median": float(np.median(sizes)),
        "seconds_median": float(np.median(seconds)),
        "seconds_max": float(max(seconds)),
        "threshold": given.threshold,
        "reasons": reasons,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--materials", nargs="+", choices=sorted(MATERIALS), default=list(MATERIALS))
    parser.add_argument("--centers", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    options = parser.parse_args()
    folder: Path = options.output
    (folder / "success").mkdir(parents=True, exist_ok=True)
    print("| material | r_core, margin Å | accepted | atoms (median) | CPU s median, largest |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.materials:
        for r_core, margin in ((4.0, 2.0), (4.0, 3.0), (5.0, 3.0)):
            path = folder / "success" / f"{name}_{r_core}_{margin}_{options.centers}.json"
            if not path.exists():
                result = measure(MATERIALS[name], folder, options.centers, r_core, margin)
                temporary = path.with_suffix(".partial")
                temporary.write_text(json.dumps(result, indent=1))
                temporary.replace(path)
            r = json.loads(path.read_text())
            print(
                f"| {name} | {r_core:g}, {margin:g} | {r['accepted']}/{r['centers']} | {r['atoms_median']:.0f} | "
                f"{r['seconds_median']:.2f}, {r['seconds_max']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
