"""The pictures of the page, drawn from the finished results.

python benchmarks/embedding/figures.py --output runs/embedding --pictures docs/benchmarks/pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from cost import labels_of_cells, whole_frames
from drawing import save
from parts import finished
from references import MATERIALS
from sizes import COUNTS, NAMES, SIZES

ARMS = {
    "random crop": "#c9ada7",
    "paper": "#30638e",
    "energy-relaxed filler": "#edae49",
    "ours": "#d1495b",
    "small cells": "#8d99ae",
}
WHOLE = "whole frames, equal atoms"
COLORS = ("#8d99ae", "#30638e", "#003d5b", "#d1495b", "#edae49")


def draw_ablation(folder: Path, picture: Path) -> None:
    """Force errors in units of those of whole frames with equal atoms, mean and standard deviation over the seeds."""
    results = [r for r in finished(folder / "ablation") if r["model"] == "linear"]
    whole = {(r["material"], r["seed"]): r["force_eV_per_A"] for r in results if r["arm"] == WHOLE}
    materials = [m for m in MATERIALS if any(key[0] == m for key in whole)]
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    width = 0.8 / len(ARMS)
    for k, (arm, color) in enumerate(ARMS.items()):
        for place, material in enumerate(materials):
            ratios = [
                r["force_eV_per_A"] / whole[material, r["seed"]]
                for r in results
                if r["arm"] == arm and r["material"] == material and (material, r["seed"]) in whole
            ]
            if ratios:
                deviation = np.std(ratios, ddof=1) if len(ratios) > 1 else 0.0
                axes.bar(
                    place + (k - 0.5 * (len(ARMS) - 1)) * width,
                    np.mean(ratios),
                    width,
                    yerr=deviation,
                    color=color,
                    capsize=2,
                    label=arm if place == 0 else None,
                )
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.axhline(1.1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(materials)), materials)
    axes.set(ylabel="force error / that of whole frames\nwith as many atoms", ylim=(0, 2.5))
    figure.legend(frameon=False, ncols=len(ARMS), fontsize=8, loc="outside upper center")
    save(figure, picture)


def draw_sizes(folder: Path, picture: Path) -> None:
    """Force error against the cost of the labels, and the center's force against r_core."""
    figure, all_axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
    results = finished(folder / "sizes")
    for name, axes in zip(NAMES, all_axes, strict=False):
        for size, color in zip(SIZES, COLORS, strict=True):
            mine = [r for r in results if (r["material"], r["r_core"], r["margin"]) == (name, *size)]
            points = []
            for count in COUNTS:
                rows = [row for r in mine for row in r["rows"] if row["K"] == count]
                if rows:
                    points.append([np.mean([row[key] for row in rows]) for key in ("cubes", "force_eV_per_A")])
            if points:
                cost, force = np.array(points).T
                axes.plot(cost / 1e6, force, "o-", color=color, label=f"{size[0]:g}, {size[1]:g} Å")
        axes.set(xscale="log", title=name, xlabel="cost of the labels, sum of N³ (10⁶)")
    all_axes[0].set(ylabel="force error, eV/Å")
    all_axes[0].legend(frameon=False, fontsize=8, title="r_core, margin", title_fontsize=8)
    for name, color in zip(NAMES, ("#30638e", "#d1495b"), strict=True):
        rows = sorted(
            (r for r in finished(folder / "fidelity") if r["material"] == name and r["cells"]),
            key=lambda r: r["r_core"],
        )
        all_axes[2].plot(
            [r["r_core"] for r in rows], [r["difference_median"] for r in rows], "o-", color=color, label=name
        )
    all_axes[2].set(yscale="log", title="force on the center", xlabel="r_core, Å", ylabel="|F(cell) - F(frame)|, eV/Å")
    all_axes[2].legend(frameon=False, fontsize=8)
    save(figure, picture)


def draw_cost(folder: Path, picture: Path) -> None:
    """Seconds per uncertain frame against its size."""
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    rows = sorted((r for r in finished(folder / "cost") if r["kind"] == "embedding"), key=lambda r: r["frame"])
    size = np.array([r["frame"] for r in rows])
    seconds = np.array([r["seconds"] for r in rows])
    atoms, label = labels_of_cells(folder)
    axes.plot(
        size, seconds + label, "o-", color="#d1495b", label=f"embedding + GPAW label of the cell ({atoms:.0f} atoms)"
    )
    axes.plot(size, seconds, "s--", color="#edae49", label="embedding alone")
    measured = np.array(whole_frames(folder))
    axes.plot(*measured.T, "o", color="#30638e", label="GPAW label of the whole frame, measured")
    reach = np.geomspace(measured[-1, 0], 1e6, 20)
    axes.plot(reach, measured[-1, 1] * (reach / measured[-1, 0]) ** 3, ":", color="#30638e", label="the same, N³")
    axes.set(xscale="log", yscale="log", xlabel="atoms in the frame", ylabel="CPU seconds per uncertain frame")
    axes.set_ylim(1e-2, 1e8)
    axes.legend(frameon=False, fontsize=8, loc="center right")
    save(figure, picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/benchmarks/pictures"))
    options = parser.parse_args()
    draw_ablation(options.output, options.pictures / "embedding_ablation.png")
    draw_sizes(options.output, options.pictures / "embedding_sizes.png")
    draw_cost(options.output, options.pictures / "embedding_cost.png")


if __name__ == "__main__":
    main()
