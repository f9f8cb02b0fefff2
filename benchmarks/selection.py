"""How many labels a frame takes until it is known, by strategy and by the size of the frame (the paper's Fig. S8).

    python benchmarks/selection.py --output runs/selection                      # Al with vacancies; perfect Al is known
    python benchmarks/selection.py --output runs/selection --case Al-heating     # the same, known at 400 K alone
    python benchmarks/selection.py --output runs/selection --case SiO2           # liquid; three frames are known
    python benchmarks/selection.py --output runs/selection --table
    python benchmarks/selection.py --output runs/selection --count             # cells that one look asks for
    python benchmarks/selection.py --output runs/selection --repeats 4  # what learning does to u of its repeats

One frame is asked again and again, as an engine would that stays at it: score, select, embed, label, learn; each
accepted cell joins the distribution with all its atoms. Counted are the labels until at most 1 % of the atoms, and
until none, is above the threshold (the held-out 99 % quantile of the frames known at first, kept). ``--per-ask`` is
``selection.max_per_frame``: with 1 the strategies "variance" and "uncertainty" are the same.

References are empirical potentials of LAMMPS (``benchmarks/embedding/references.py``). Force errors are those of a
linear potential (``benchmarks/embedding/linear.py``) fitted to the frames known at first and the first ``--equal``
cells, on the whole frame: over all atoms and over those that were uncertain at first.

Every part (case, size, seed, strategy) is a file of its own; a call that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

sys.path.insert(0, str(Path(__file__).parent / "embedding"))

from linear import LinearPotential, moments
from references import MATERIALS, Labelled, Material, Reference, cached_frames, dynamics, stored

from ideal import SoapMahalanobis, SoapPowerSpectrum
from ideal.config import EmbeddingConfig, SelectionConfig
from ideal.embedding import embed, minimum_distances
from ideal.records import Frame
from ideal.selection import select

STRATEGIES = ("variance", "uncertainty", "farthest", "random")
KNOWN_FRAMES = 10
MAX_LABELS = 24
VACANCIES = 0.005
SIZES = {"Al": (4, 6, 8, 12, 16), "Al-heating": (4, 6, 8), "SiO2": (2, 3)}
"""Repetitions of the conventional cell of 4 atoms (Al) or 24 (SiO2)."""


class Case(NamedTuple):
    """What is known at first, and the frame to be learned."""

    known: list[Atoms]
    frame: Atoms
    material: Material


def case(name: str, size: int, seed: int, folder: Path) -> Case:
    """The frames of one case; made by molecular dynamics and stored."""
    material = MATERIALS[name.removesuffix("-heating")]
    if name == "SiO2":
        known = cached_frames(folder, material, material.training, KNOWN_FRAMES, seed=1)[:3]
        return Case(known, cached_frames(folder, material, size, 1, seed=40 + seed)[-1], material)
    known = cached_frames(folder, material, material.training, KNOWN_FRAMES, seed=1)
    if name == "Al-heating":
        cold = replace(material, stages=((400.0, 2.0),))
        known = stored(
            folder / "frames" / "Al_400K.extxyz", lambda: dynamics(cold, material.cell.repeat(3), KNOWN_FRAMES, 1)
        )
    start = material.cell.repeat(size)
    holes = np.random.default_rng(seed).choice(len(start), max(1, round(VACANCIES * len(start))), replace=False)
    del start[holes]
    path = folder / "frames" / f"Al_vacancies_{size}_{seed}.extxyz"
    return Case(known, stored(path, lambda: dynamics(material, start, 1, 40 + seed))[-1], material)


def distribution(material: Material, frames: list[Atoms]) -> SoapMahalanobis:
    """The distance that knows ``frames``."""
    n_max, l_max = material.descriptor
    known = SoapMahalanobis(SoapPowerSpectrum(list(material.species), r_cut=5.0, n_max=n_max, l_max=l_max, sigma=0.5))
    known.update(frames)
    return known


def held_out_quantile(material: Material, frames: list[Atoms]) -> float:
    """The 99 % quantile of u of the frames, each under a distribution that knows two thirds of them without it."""
    values = [
        distribution(material, [f for k, f in enumerate(frames) if k % 3 != fold]).atomic(frame)
        for fold in range(3)
        for frame in frames[fold::3]
    ]
    return float(np.quantile(np.concatenate(values), 0.99))


def learn_frame(given: Case, config: SelectionConfig, seed: int) -> tuple[dict[str, Any], list[Atoms]]:
    """Ask one frame until it is known; what it took, and the cells."""
    known = distribution(given.material, given.known)
    threshold = held_out_quantile(given.material, given.known)
    embedding = EmbeddingConfig(r_core=4.0, margin=2.5, young_factor=1.0)
    distances = minimum_distances(given.known)
    u = known.atomic(given.frame)
    uncertain = u > threshold
    curve, cells, seconds, refused = [[0, float(u.max()), int(uncertain.sum())]], [], 0.0, 0
    asks = 0
    while (u > threshold).any() and len(cells) < MAX_LABELS:
        asks += 1
        selection = select(Frame(given.frame, "md", asks), u, threshold, config, known, seed)
        made = []
        for number, atoms in enumerate(selection.cells):
            start = time.process_time()
            cell = embed(given.frame, atoms, known, 1000 * asks + number, embedding, threshold, min_distances=distances)
            seconds += time.process_time() - start
            refused += not cell.accepted
            if cell.accepted:
                made.append(cell.atoms)
        if not made:
            break
        known.update(made)
        cells += made
        for pair, distance in minimum_distances(made).items():
            distances[pair] = min(distance, distances.get(pair, distance))
        u = known.atomic(given.frame)
        curve.append([len(cells), float(u.max()), int((u > threshold).sum())])
    result = {
        "atoms": len(given.frame),
        "uncertain": int(uncertain.sum()),
        "threshold": threshold,
        "labels": len(cells),
        "asks": asks,
        "known": not bool((u > threshold).any()),
        "refused": refused,
        "cell_atoms": float(np.mean([len(cell) for cell in cells])) if cells else 0.0,
        "seconds_per_cell": seconds / max(1, len(cells) + refused),
        "curve": curve,
    }
    return result, cells


def force_errors(given: Case, cells: list[Atoms]) -> dict[str, float]:
    """Mean absolute force error (eV/Å) on the frame, over all atoms and over those uncertain at first."""
    reference = Reference(given.material)
    labels = [reference.label(atoms) for atoms in [*given.known, *cells]]
    soap = distribution(given.material, given.known).soap
    model = LinearPotential(soap)
    model.fit(labels, *moments(soap, [label.atoms for label in labels]))
    truth: Labelled = reference.label(given.frame)
    error = np.abs(model.predict(given.frame)[1] - truth.forces).mean(axis=1)
    known = distribution(given.material, given.known)
    uncertain = known.atomic(given.frame) > held_out_quantile(given.material, given.known)
    return {"all": float(error.mean()), "uncertain": float(error[uncertain].mean())}


def part(options: argparse.Namespace, size: int, seed: int, strategy: str) -> dict[str, Any]:
    """One part, read where it has been made before."""
    name = f"{options.case}_{size}_{seed}_{strategy}_{options.per_ask}_{options.merge:g}"
    path: Path = options.output / "selection" / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    given = case(options.case, size, seed, options.output)
    config = SelectionConfig(strategy=strategy, max_per_frame=options.per_ask, merge=options.merge)
    result, cells = learn_frame(given, config, seed)
    if options.equal and seed < options.error_seeds and size == SIZES[options.case][1]:
        result["force_error"] = force_errors(given, cells[: options.equal])
        result["force_error_before"] = force_errors(given, [])
        result["equal"] = len(cells[: options.equal])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(result))
    temporary.replace(path)
    return result


def describe(r: dict[str, Any], seed: int, strategy: str) -> str:
    """One part in one line."""
    return (
        f"{r['atoms']} atoms, {r['uncertain']} uncertain at first, seed {seed}, {strategy}: {labels_until(r, 0.01)} "
        f"labels until 1 % are, {r['labels']} in {r['asks']} asks until none is (reached: {r['known']}), refused "
        f"{r['refused']}, {r['seconds_per_cell']:.2f} CPU s per cell {r.get('force_error', '')}"
    )


def count(options: argparse.Namespace) -> None:
    """Print how many cells one look at a frame asks for where nothing caps them; no cell is made."""
    print("| atoms | uncertain | " + " | ".join(STRATEGIES) + " | s for variance |")
    print("| --- " * (3 + len(STRATEGIES)) + "|")
    for size in options.sizes or SIZES[options.case]:
        chosen: dict[str, list[int]] = {strategy: [] for strategy in STRATEGIES}
        uncertain, seconds, atoms = [], [], 0
        for seed in range(options.seeds):
            given = case(options.case, size, seed, options.output)
            known = distribution(given.material, given.known)
            threshold = held_out_quantile(given.material, given.known)
            u, atoms = known.atomic(given.frame), len(given.frame)
            uncertain.append(int((u > threshold).sum()))
            for strategy in STRATEGIES:
                config = SelectionConfig(strategy=strategy, max_per_frame=10**6, merge=options.merge)
                start = time.process_time()
                selection = select(Frame(given.frame, "md", 0), u, threshold, config, known, seed)
                if strategy == "variance":
                    seconds.append(time.process_time() - start)
                chosen[strategy].append(len(selection.indices))
        numbers = " | ".join(f"{np.mean(some):.1f} ± {np.std(some):.1f}" for some in chosen.values())
        print(f"| {atoms:,} | {np.mean(uncertain):.0f} | {numbers} | {np.mean(seconds):.2f} |", flush=True)


def repeats(options: argparse.Namespace) -> None:
    """Print u of a frame's most uncertain atoms before and after their environments are learned."""
    size = (options.sizes or SIZES[options.case][1:2])[0]
    given = case(options.case, size, 0, options.output)
    known = distribution(given.material, given.known)
    threshold = held_out_quantile(given.material, given.known)
    u = known.atomic(given.frame)
    config = EmbeddingConfig(r_core=4.0, margin=2.5, young_factor=1.0)
    print(f"{len(given.frame)} atoms, environments known {known.counts}, threshold {threshold:.2f}")
    print("| u | its cell learned | its surroundings learned | the whole frame learned | surroundings conditioned |")
    print("| --- " * 5 + "|")
    for atom in np.argsort(-u)[: options.repeats].tolist():
        cell = embed(given.frame, atom, known, 0, config, threshold, min_distances=minimum_distances(given.known))
        near = given.frame.get_distances(atom, range(len(given.frame)), mic=True) < 4.0
        after = [known.copy() for _ in range(4)]
        after[0].update(cell.atoms)
        after[1].update(given.frame, masks=near)
        after[2].update(given.frame)
        after[3].condition(given.frame, near, threshold)
        print(
            f"| {u[atom]:.2f} | " + " | ".join(f"{k.atomic(given.frame, [atom])[0]:.2f}" for k in after) + " |",
            flush=True,
        )


def table(options: argparse.Namespace) -> None:
    """Print what has been measured."""
    print("| atoms | uncertain at first | " + " | ".join(STRATEGIES) + " |")
    print("| --- " * (2 + len(STRATEGIES)) + "|")
    for size in options.sizes or SIZES[options.case]:
        row: dict[str, list[dict[str, Any]]] = {}
        for strategy in STRATEGIES:
            pattern = f"{options.case}_{size}_*_{strategy}_{options.per_ask}_{options.merge:g}.json"
            row[strategy] = [json.loads(p.read_text()) for p in sorted((options.output / "selection").glob(pattern))]
        first = next((results for results in row.values() if results), None)
        if first is None:
            continue
        texts = [_labels(results) for results in row.values()]
        uncertain = f"{np.mean([r['uncertain'] for r in first]):.0f}"
        print(f"| {first[0]['atoms']:,} | {uncertain} | " + " | ".join(texts) + " |")
        if any("force_error" in r for results in row.values() for r in results):
            print("| | force error, eV/Å | " + " | ".join(_errors(results) for results in row.values()) + " |")


def labels_until(result: dict[str, Any], share: float) -> int:
    """Labels after which at most this share of the atoms is above the threshold; all labels where that never is."""
    reached = [labels for labels, _, uncertain in result["curve"] if uncertain <= share * result["atoms"]]
    return int(reached[0]) if reached else int(result["labels"])


def _labels(results: list[dict[str, Any]]) -> str:
    if not results:
        return "-"
    texts = []
    for share in (0.01, 0.0):
        counts = np.array([labels_until(r, share) for r in results])
        texts.append(f"{counts.mean():.1f}" + (f" ± {counts.std(ddof=1):.1f}" if len(counts) > 1 else ""))
    unknown = sum(not r["known"] for r in results)
    return " / ".join(texts) + (f" ({unknown} of {len(results)} not reached)" if unknown else "")


def _errors(results: list[dict[str, Any]]) -> str:
    some = [r for r in results if "force_error" in r]
    if not some:
        return "-"
    before, after = (
        [np.mean([r[key][kind] for r in some]) for kind in ("all", "uncertain")]
        for key in ("force_error_before", "force_error")
    )
    return f"{before[0]:.3f} -> {after[0]:.3f} with {some[0]['equal']} cells"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=sorted(SIZES), default="Al")
    parser.add_argument("--sizes", type=int, nargs="+", help="repetitions of the conventional cell; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--per-ask", type=int, default=4, help="selection.max_per_frame")
    parser.add_argument("--merge", type=float, default=SelectionConfig().merge, help="selection.merge, Å")
    parser.add_argument(
        "--equal", type=int, default=4, help="cells that the linear potential learns; 0: no force errors"
    )
    parser.add_argument("--error-seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/selection"))
    parser.add_argument("--table", action="store_true", help="print what has been measured, measure nothing")
    parser.add_argument("--count", action="store_true", help="count what one look asks for, make no cell")
    parser.add_argument("--repeats", type=int, default=0, help="look at this many atoms, make one cell for each")
    options = parser.parse_args()
    if options.repeats:
        repeats(options)
        return
    if options.count:
        count(options)
        return
    if not options.table:
        for size in options.sizes or SIZES[options.case]:
            for seed in range(options.seeds):
                for strategy in options.strategies:
                    print(describe(part(options, size, seed, strategy), seed, strategy), flush=True)
    table(options)


if __name__ == "__main__":
    main()
