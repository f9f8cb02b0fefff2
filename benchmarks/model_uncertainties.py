"""What uncertainties made of a model cost, and how well they rank true errors; writes
``docs/benchmarks/model_uncertainties.md``.

    python benchmarks/model_uncertainties.py

Cost: CPU seconds of this process (one thread), least of several repetitions, beside the model's own energy, forces and
stress. Quality: models that know cold Cu3Al (effective-medium reference) look at hot frames that they have not seen;
u of every atom is held against its true force error.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from calibration_data import SYSTEMS, cold_crystals, frames_at

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.config import ModelConfig, TrainingConfig
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import Label
from ideal.training.trainer import Trainer
from ideal.uncertainty import AtomwiseUncertainty
from ideal.uncertainty.assessment import assess
from ideal.uncertainty.committee import ModelCommittee
from ideal.uncertainty.gradient_features import GradientFeatures

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "model_uncertainties.md"
MODELS = {
    "S (2 blocks, 32 units)": ModelConfig(n_blocks=2, units=32, max_n=3, max_l=3, device="cpu"),
    "M (3 blocks, 64 units)": ModelConfig(n_blocks=3, units=64, max_n=3, max_l=3, device="cpu"),
}
MEMBERS = 4
EPOCHS = 60
TOLERANCE = 0.15


def lithium() -> Atoms:
    atoms = bulk("Li", "bcc", a=3.5, cubic=True).repeat(6)
    atoms.rattle(0.15, seed=1)
    return atoms


def microseconds_per_atom(call: Callable[[], object], n_atoms: int, repetitions: int = 5) -> float:
    """Least CPU time of one call, after one to warm up."""
    call()
    best = np.inf
    for _ in range(repetitions):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best / n_atoms * 1e6


def cost() -> list[str]:
    frame = lithium()
    rows = []
    for name, size in MODELS.items():
        members = [M3GNetPotential.new(size, ["Li"], seed) for seed in range(MEMBERS)]
        for member in members:
            member.set_normalization(energy_scale=1.0)
        own = microseconds_per_atom(partial(members[0].evaluate, frame), len(frame))
        rows.append(f"| {name} | the model itself | {own:.0f} | | 1 | |")
        uncertainties: dict[str, AtomwiseUncertainty] = {
            "SOAP (8, 6), Mahalanobis": SoapMahalanobis(SoapPowerSpectrum(["Li"], r_cut=5.0, n_max=8, l_max=6)),
            f"committee of {MEMBERS}": ModelCommittee(members),
            "gradient features, posterior, 128": GradientFeatures(members[0], size=128),
            "gradient features, posterior, 256": GradientFeatures(members[0], size=256),
            "gradient features, posterior, 512": GradientFeatures(members[0], size=512),
            "gradient features, distance, 256": GradientFeatures(members[0], "distance", size=256),
        }
        for kind, uncertainty in uncertainties.items():
            for seed in range(6):
                known = lithium()
                known.rattle(0.1, seed=seed)
                uncertainty.update(known)
            value = microseconds_per_atom(partial(uncertainty.atomic, frame), len(frame))
            gradient = microseconds_per_atom(partial(uncertainty.squared_gradient, frame), len(frame), 3)
            rows.append(
                f"| {name} | {kind} | {value:.0f} | {gradient:.0f} | {value / own:.2f} | {gradient / own:.2f} |"
            )
            print(rows[-1], flush=True)
    return rows


def trained(labels: Sequence[Label], seed: int) -> M3GNetPotential:
    config = TrainingConfig.model_validate({"pretrain": {"epochs": EPOCHS}})
    potential = M3GNetPotential.new(MODELS["S (2 blocks, 32 units)"], ["Al", "Cu"], seed)
    Trainer(potential, config, seed).pretrain(labels)
    return potential


def quality() -> list[str]:
    system = next(system for system in SYSTEMS if system.name == "Cu3Al")
    known = cold_crystals(system, 24, seed=0)
    unseen = [label for t in (300, 700, 1100) for label in frames_at(system, t, 8, seed=int(t), per_run=4)]
    members = [trained(known, seed) for seed in range(MEMBERS)]
    soap = SoapPowerSpectrum(["Al", "Cu"], r_cut=5.0, n_max=6, l_max=4)
    uncertainties: dict[str, AtomwiseUncertainty] = {
        "SOAP (6, 4), Mahalanobis": SoapMahalanobis(soap),
        "committee of 2, sigma": ModelCommittee(members[:2]),
        "committee of 3, sigma": ModelCommittee(members[:3]),
        "committee of 4, sigma": ModelCommittee(members),
        "committee of 4, relative": ModelCommittee(members, "relative_force"),
    }
    for size in (64, 128, 256, 512):
        uncertainties[f"posterior, {size}"] = GradientFeatures(members[0], size=size)
    for regularization in (1e-10, 1e-6, 1e-4):
        uncertainties[f"posterior, 256, lambda² {regularization:g}"] = GradientFeatures(
            members[0], size=256, regularization=regularization
        )
    uncertainties["distance, 256"] = GradientFeatures(members[0], "distance", size=256)
    forces = [members[0].evaluate(label.atoms).forces for label in unseen]
    error = np.concatenate([np.linalg.norm(f - label.forces, axis=1) for f, label in zip(forces, unseen, strict=True)])
    cell = np.repeat(np.arange(len(unseen)), [len(label.atoms) for label in unseen])
    rows = []
    for name, uncertainty in uncertainties.items():
        uncertainty.update([label.atoms for label in known])
        u = np.concatenate([uncertainty.atomic(label.atoms) for label in unseen])
        result = assess(u, error, threshold=float(np.quantile(u, 0.9)), force_error=TOLERANCE, cell=cell)
        rows.append(
            f"| {name} | {result.spearman.value:.2f} ({result.spearman.low:.2f}-{result.spearman.high:.2f}) "
            f"| {result.auc.value:.3f} ({result.auc.low:.3f}-{result.auc.high:.3f}) "
            f"| {np.sqrt((u**2).mean()):.2f} |"
        )
        print(rows[-1], flush=True)
    rows.append(
        f"\n{len(error)} atoms in {len(unseen)} frames; root mean square force error {np.sqrt((error**2).mean()):.3f} "
        f"eV/Å, {(error > TOLERANCE).mean():.0%} of the atoms above {TOLERANCE} eV/Å."
    )
    return rows


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def main() -> None:
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "matgl", "numpy"))
    costs, qualities = cost(), quality()
    PAGE.write_text(
        f"""# Uncertainties made of a model

    python benchmarks/model_uncertainties.py

Machine: {processor()}, {len(os.sched_getaffinity(0))} cores, one thread. {versions}.

## Cost

CPU µs per atom, least of several repetitions, 432 Li atoms, float32 models (SOAP: float64); 2,592 environments known.
The gradient is that of Σ u² by positions and strain. Ratios are to the model's own energy, forces and stress in the
same run.

| model | uncertainty | u | gradient | u / model | gradient / model |
| --- | --- | --- | --- | --- | --- |
{"".join(row + chr(10) for row in costs)}
## Quality

Cu3Al, effective-medium reference: S models of {EPOCHS} epochs on 24 cold crystals (100-300 K) look at frames of
dynamics at 300, 700 and 1100 K. u of every atom against the norm of the first model's force error: rank
correlation, AUC for errors above {TOLERANCE} eV/Å (95 % intervals from a bootstrap over cells), and root mean square of
u. One system and one draw: it shows what works, not which is best.

| uncertainty | Spearman | AUC | rms u |
| --- | --- | --- | --- |
{"".join(row + chr(10) for row in qualities)}""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
