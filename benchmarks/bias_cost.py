"""What a bias costs beside the model: process time of one step's forces, plain and biased, on hot lithium.

    python benchmarks/bias_cost.py

Prints a Markdown table. Structures repeat in turn, so that the load of the machine falls on all alike.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from ideal import IdealCalculator
from ideal.config import ModelConfig
from ideal.models import make_potential
from ideal.samplers.biased_surface import BiasedSurface
from ideal.soap import SoapPowerSpectrum
from ideal.uncertainty import SoapMahalanobis
from ideal.uncertainty.structure import Largest, PowerMean

ROUNDS = 15
SIZE = (4, 4, 4)


def hot(seed: int) -> Atoms:
    atoms = bulk("Li", cubic=True).repeat(SIZE)
    atoms.rattle(0.15, seed=seed)
    return atoms


def main() -> None:
    torch.set_num_threads(1)
    known = SoapMahalanobis(SoapPowerSpectrum(["Li"], n_max=8, l_max=6))
    known.update([hot(seed) for seed in range(4)])
    potential = make_potential(ModelConfig(), ["Li"], seed=0)
    measures = {
        "none": None,
        "p_norm, p = 2": PowerMean(known, 2.0),
        "p_norm, p = 4": PowerMean(known, 4.0),
        "mean": PowerMean(known, 1.0),
        "max": Largest(known),
    }
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for seed in range(ROUNDS + 1):
        for name, measure in measures.items():
            calculator = IdealCalculator(potential)
            surface = calculator if measure is None else BiasedSurface(calculator, measure)
            if isinstance(surface, BiasedSurface):
                surface.set_strength(0.1)
            atoms = hot(100 + seed)
            start = time.process_time()
            surface.get_property("forces", atoms)
            if seed:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    n_atoms = len(hot(0))
    plain = float(np.median(seconds["none"]))
    print(f"{n_atoms} atoms, M3GNet of default size, SOAP n_max 8, l_max 6, one thread, median of {ROUNDS}\n")
    print("| u of the structure | µs/atom and step | of the model's |\n| --- | --- | --- |")
    for name, values in seconds.items():
        each = float(np.median(values))
        extra = "" if name == "none" else f"+ {100 * (each / plain - 1):.0f} %"
        print(f"| {name} | {1e6 * each / n_atoms:.0f} | {extra} |")


if __name__ == "__main__":
    main()
