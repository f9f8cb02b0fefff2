"""Every part of the page, in the order of importance; finished parts are read, not made again.

    python benchmarks/embedding/all.py --output runs/embedding

Prints the tables of ``docs/benchmarks/embedding.md`` and draws its pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import ablation
import cost
import dft
import failures
import figures
import heating
import likeness
import sizes
import success
from cells import NAMES
from parts import file_name, part
from references import MATERIALS

K = 20
CENTERS = 20
DECISIVE = ("paper", "ours", ablation.WHOLE)
REFUSED = ("SiO2 slab, 1500 K",)
"""Systems whose refused cells are drawn."""
MORE_SILICON = (3, 4, 5)
"""Seeds beyond those of the other materials: silicon scatters most."""


def wanted(seeds: list[int]) -> Iterator[tuple[str, str, int, str]]:
    """Model, material, seed and arm of every fit, our arm before the whole frames that are to hold its atoms."""
    for seed in seeds:
        for name in MATERIALS:
            if name != "Si-Tersoff" or seed == 1:
                yield from (("linear", name, seed, arm) for arm in NAMES)
    for seed in MORE_SILICON:
        yield from (("linear", "Si", seed, arm) for arm in DECISIVE)
    for seed in seeds:
        yield from (("m3gnet", "Li", seed, arm) for arm in DECISIVE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/embedding"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/benchmarks/pictures"))
    options = parser.parse_args()
    folder: Path = options.output
    for model, name, seed, arm in wanted(options.seeds):
        path = folder / "ablation" / file_name(model, name, seed, arm)
        part(path, partial(ablation.run, model, MATERIALS[name], folder, arm, seed, K))
    likeness.run(folder, options.seeds, K)
    heating_table = heating.table(folder, options.seeds)
    success_table = success.table(folder, CENTERS)
    sizes.run(folder, [1])
    dft.run(folder)
    cost.run(folder)
    tables = {
        "Ablation": ablation.table(folder),
        "Likeness": likeness.table(folder),
        "Hotter than what is known": heating_table,
        "Success": success_table,
        "Sizes": sizes.learning_table(folder),
        "Atoms for one error": sizes.needed_table(folder),
        "Fidelity": sizes.fidelity_table(folder),
        "Density functional theory": dft.table(folder),
        "Cost": cost.table(folder),
    }
    for title, text in tables.items():
        print(f"## {title}\n\n{text}\n")
    failures.run(folder, options.pictures, CENTERS, REFUSED)
    figures.draw_ablation(folder, options.pictures / "embedding_ablation.png")
    figures.draw_sizes(folder, options.pictures / "embedding_sizes.png")
    figures.draw_cost(folder, options.pictures / "embedding_cost.png")


if __name__ == "__main__":
    main()
