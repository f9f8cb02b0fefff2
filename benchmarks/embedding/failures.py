"""Pictures of refused cells, of the systems that miss their goal.

    python benchmarks/embedding/failures.py --output runs/embedding --pictures docs/benchmarks/pictures

Per system the first refused cells are made again and drawn: before and after the optimization, colored by u in units
of the threshold; core atoms have a dark rim.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from ase.data import covalent_radii
from drawing import save
from matplotlib.colors import Normalize
from parts import file_name
from success import CONFIG
from systems import SYSTEMS, known

from ideal.embedding import embed
from ideal.records import Substructure

SHOWN = 2
RADIUS = 0.6
COLORS = matplotlib.colormaps["coolwarm"]


def draw(cells: dict[int, Substructure], title: str, picture: Path) -> None:
    """One row per refused cell: before, after."""
    figure, rows = plt.subplots(len(cells), 2, figsize=(8, 3.6 * len(cells)), layout="constrained", squeeze=False)
    norm = Normalize(0.0, 2.0)
    for (index, cell), row in zip(cells.items(), rows, strict=True):
        # the view along the shortest cell vector shows the least overlap
        depth = int(np.argmin(cell.atoms.cell.lengths()))
        across = [c for c in range(3) if c != depth]
        for axes, positions, u, when in (
            (row[0], cell.atoms.arrays["crop_positions"], cell.u_before, "cut"),
            (row[1], cell.atoms.positions, cell.u, "optimized"),
        ):
            order = np.argsort(positions[:, depth])
            for k in order:
                axes.add_patch(
                    plt.Circle(
                        positions[k][across],
                        RADIUS * covalent_radii[cell.atoms.numbers[k]],
                        facecolor=COLORS(norm(u[k] / cell.threshold)),
                        edgecolor="black" if cell.core[k] else "#aaaaaa",
                        linewidth=1.5 if cell.core[k] else 0.4,
                    )
                )
            worst = int(np.argmax(np.where(cell.core, 0.0, u)))
            axes.annotate(
                f"{cell.atoms.get_chemical_symbols()[worst]} {u[worst] / cell.threshold:.2f}",
                positions[worst][across],
                xytext=(8, 8),
                textcoords="offset points",
                fontsize=9,
            )
            axes.autoscale_view()
            axes.set(aspect="equal", title=f"atom {index}, {when}", xticks=[], yticks=[])
    figure.colorbar(plt.cm.ScalarMappable(norm, COLORS), ax=rows, label="u / threshold", shrink=0.6)
    figure.suptitle(title)
    save(figure, picture, dpi=80)


def run(folder: Path, pictures: Path, n_centers: int, names: Sequence[str] | None = None) -> None:
    """Draw the refused cells of some systems; None: of those below their goal."""
    for name, system in SYSTEMS.items():
        result = json.loads((folder / "success" / file_name(name, n_centers)).read_text())
        wanted = result["accepted"] < system.goal * result["centers"] if names is None else name in names
        if not wanted or not result["refusals"]:
            continue
        small, frame = system.frames(folder)
        given = known(system, small)
        cells = {
            index: embed(frame, index, given.uncertainty, index, CONFIG, given.threshold, min_distances=given.distances)
            for index in [int(k) for k in result["refusals"]][:SHOWN]
        }
        picture = pictures / f"embedding_refused_{name.split()[0].rstrip(',')}.png"
        draw(cells, f"{name}: refused", picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--centers", type=int, default=20, help="as given to success.py")
    parser.add_argument("--systems", nargs="+", choices=sorted(SYSTEMS), help="default: those below their goal")
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/benchmarks/pictures"))
    options = parser.parse_args()
    run(options.output, options.pictures, options.centers, options.systems)


if __name__ == "__main__":
    main()
