"""Peak memory of a training step of the largest model, taken whole and in parts (``training.max_atoms``).

    python benchmarks/training_memory.py --max-atoms 432 54

A batch of eight 54-atom lithium cells, model P (4 blocks, 128 units, max_n = max_l = 4), one process per setting.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import torch
from ase.build import bulk
from ase.calculators.lj import LennardJones

from ideal.config import ModelConfig, TrainingConfig
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import Label, structure_key
from ideal.training.batches import Batches, new_optimizer


def main() -> None:
    """Measure each setting in a fresh process, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-atoms", nargs="+", type=int, default=[432, 108, 54])
    print(f"{'max_atoms':>10} {'peak MiB':>10} {'model alone':>12} {'CPU s':>8} {'loss':>12}")
    context = multiprocessing.get_context("spawn")
    for max_atoms in parser.parse_args().max_atoms:
        with context.Pool(1) as pool:
            print("{:>10} {:>10.0f} {:>12.0f} {:>8.1f} {:>12.7f}".format(max_atoms, *pool.apply(_step, (max_atoms,))))


def _step(max_atoms: int) -> tuple[float, float, float, float]:
    torch.set_num_threads(1)
    labels = [_label(seed) for seed in range(8)]
    potential = M3GNetPotential.new(ModelConfig(n_blocks=4, units=128, max_n=4, max_l=4), ["Li"], seed=0)
    potential.set_normalization({"Li": 0.0}, 1.0)
    batches = Batches(potential, TrainingConfig(max_atoms=max_atoms))
    samples = batches.prepare(labels)
    alone = _peak()
    start = time.process_time()
    loss, _ = batches.step(new_optimizer(dict(potential.named_parameters()), 1e-4), samples)
    return _peak(), alone, time.process_time() - start, loss


def _label(seed: int) -> Label:
    atoms = bulk("Li", "bcc", a=3.44, cubic=True) * (3, 3, 3)
    atoms.rattle(0.1, seed=seed)
    atoms.calc = LennardJones(sigma=2.7, epsilon=0.1, rc=6.0)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = None
    return Label(structure_key(atoms, {"code": "lj"}), atoms, energy, forces, None, "lj")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
