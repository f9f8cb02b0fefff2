"""M3GNet of IDEAL against stock matgl, with the same weights in one run; writes ``docs/benchmarks/model.md``.

    python benchmarks/model_speed.py                           everything that is not yet in runs/model_speed.json
    python benchmarks/model_speed.py --sections md --sizes S   one section, one size
    python benchmarks/model_speed.py --again                   measure anew

Sections: md (a step through ASE), training, memory, batch, committee, million (minutes each), page. Every cell runs in
a process of its own, and a cell that is in the file is not measured again, so that a run that was cut off goes on.
Times are CPU seconds of the process on one thread, the least of repetitions that alternate between the two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before the libraries that read them are imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
from ase import Atoms, units  # noqa: E402
from ase.build import bulk  # noqa: E402
from ase.md.verlet import VelocityVerlet  # noqa: E402

from ideal import IdealCalculator  # noqa: E402
from ideal.config import ModelConfig  # noqa: E402
from ideal.models.m3gnet import M3GNetPotential  # noqa: E402

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "model.md"
SIZES = {"S": (2, 32, 3), "M": (3, 64, 3), "P": (4, 128, 4), "1x32": (1, 32, 3)}
CELLS = {54: (3, 3, 3), 250: (5, 5, 5), 1024: (8, 8, 8), 8192: (16, 16, 16), 1_024_000: (80, 80, 80)}
ATOMS = {"S": (54, 250, 1024, 8192), "M": (54, 250, 1024, 8192), "P": (54, 250, 1024)}
AIMS = {"md": {"S": 2.5, "M": 1.8, "P": 1.5}, "training": {"S": 1.8, "M": 1.4, "P": 1.15}}
MILLION_AIMS = {"S": (250, 8.0), "1x32": (90, 8.0)}
Cell = dict[str, Any]


# --- what is measured -------------------------------------------------------------------------------------------------


def lithium(n_atoms: int, seed: int = 0) -> Atoms:
    """Rattled bcc lithium, about 20 neighbors within 5 Å."""
    atoms = bulk("Li", "bcc", a=3.51, cubic=True) * CELLS[n_atoms]
    atoms.rattle(0.15, seed=seed)
    return atoms


def ours(size: str) -> M3GNetPotential:
    blocks, width, n = SIZES[size]
    config = ModelConfig(n_blocks=blocks, units=width, max_n=n, max_l=n, device="cpu")
    potential = M3GNetPotential.new(config, ["Li"], seed=0)
    potential.set_normalization({"Li": -1.9}, energy_scale=20.0)
    return potential


def stock(potential: M3GNetPotential) -> Any:
    """matgl's own potential, built by matgl alone, with the same weights."""
    from matgl.apps.pes import Potential
    from matgl.models import M3GNet

    model = M3GNet(**potential._architecture)
    model.load_state_dict(potential._model.state_dict())
    references = torch.tensor([-1.9])
    return Potential(model, data_std=potential.energy_scale, element_refs=references, calc_stresses=True)


def stock_calculator(potential: M3GNetPotential) -> Any:
    from matgl.ext.ase import PESCalculator

    return PESCalculator(stock(potential), stress_unit="eV/A3", use_voigt=True)


def alternate(calls: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Least CPU seconds of each call; calls take turns, after one round that is not counted."""
    least = dict.fromkeys(calls, float("inf"))
    for repetition in range(repetitions + 1):
        for name, call in calls.items():
            started = time.process_time()
            call()
            if repetition:
                least[name] = min(least[name], time.process_time() - started)
    return least


def md(size: str) -> Cell:
    """A step of velocity Verlet through ASE, energy, forces and stress; seconds."""
    potential = ours(size)
    calculators = {"stock": stock_calculator(potential), "ideal": IdealCalculator(potential)}
    result: Cell = {}
    for n_atoms in ATOMS[size]:
        steps = max(1, 500 // n_atoms)
        runs: dict[str, Callable[[], object]] = {}
        forces = {}
        for name, calculator in calculators.items():
            atoms = lithium(n_atoms)
            atoms.calc = calculator
            forces[name] = atoms.get_forces()
            atoms.set_momenta(np.random.default_rng(0).normal(size=(n_atoms, 3)))
            dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
            runs[name] = partial(dynamics.run, steps)
        repetitions = max(2, min(8, 4000 // n_atoms))
        result[str(n_atoms)] = {k: v / steps for k, v in alternate(runs, repetitions).items()}
        difference = abs(forces["stock"] - forces["ideal"]).max()
        result[str(n_atoms)]["largest_force_difference"] = float(difference / abs(forces["ideal"]).max())
        print(size, n_atoms, result[str(n_atoms)], file=sys.stderr, flush=True)
    return result


def training(size: str) -> Cell:
    """A step of AdamW on four cells of 54 atoms, Huber loss of energy, forces and stress; seconds."""
    from matgl.ext.ase import Atoms2Graph
    from torch.nn.functional import huber_loss
    from torch_geometric.data import Batch

    potential = ours(size)
    theirs = stock(potential)
    frames = [lithium(54, seed) for seed in range(4)]
    generator = torch.Generator().manual_seed(0)
    forces, stresses = 0.1 * torch.randn(216, 3, generator=generator), torch.randn(4, 6, generator=generator)

    def step(optimizer: torch.optim.Optimizer, energies: torch.Tensor, f: torch.Tensor, s: torch.Tensor) -> None:
        optimizer.zero_grad()
        value = huber_loss(energies / 54, torch.zeros(4), delta=0.1) + huber_loss(f, forces, delta=0.1)
        (value + 0.1 * huber_loss(s, stresses, delta=0.1)).backward()
        optimizer.step()

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(list(parameters), lr=1e-4, amsgrad=True)

    graphs = [potential.graph(frame) for frame in frames]
    our_optimizer = adam(parameter for _, parameter in potential.named_parameters())

    def our_step() -> None:
        prediction = potential.predict(graphs, differentiable=True)
        step(our_optimizer, prediction.energies, prediction.forces, prediction.stresses / units.GPa)

    converter = Atoms2Graph(("Li",), 5.0)
    data = [converter.get_graph(frame) for frame in frames]
    lattices = torch.stack([torch.as_tensor(lattice).view(3, 3) for _, lattice, _ in data])
    theirs.train()
    their_optimizer = adam(theirs.model.parameters())
    rows, columns = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]

    def their_step() -> None:
        energies, f, s, _ = theirs(Batch.from_data_list([graph for graph, _, _ in data]), lattices)
        step(their_optimizer, energies + 1.9 * 54, f, s.view(4, 3, 3)[:, rows, columns])

    return alternate({"stock": their_step, "ideal": our_step}, {"S": 20, "M": 8, "P": 4}[size])


def memory(size: str, n_atoms: int, which: str) -> Cell:
    """Peak resident memory of one evaluation beyond what the process held before it; bytes."""
    potential = ours(size)
    calculator = stock_calculator(potential) if which == "stock" else IdealCalculator(potential)
    for atoms in (lithium(54), lithium(n_atoms)):  # the first loads libraries
        atoms.calc = calculator
        before = reset_peak()
        atoms.get_forces()
        peak = status("VmHWM")
    return {"bytes": peak - before, "process": peak}


def million(size: str) -> Cell:
    """One evaluation (energy, forces, stress) of 1,024,000 atoms."""
    potential = ours(size)
    potential.evaluate(lithium(54))
    atoms = lithium(1_024_000)
    reset_peak()
    started, wall = time.process_time(), time.perf_counter()
    result = potential.evaluate(atoms)
    return {
        "seconds": time.process_time() - started,
        "wall": time.perf_counter() - wall,
        "process": status("VmHWM"),
        "largest_net_force": float(abs(result.forces.sum(axis=0)).max()),
    }


def status(field: str) -> int:
    """A line of /proc/self/status, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status: memory is measured on Linux alone")


def reset_peak() -> int:
    """Begin a new peak; returns the memory held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def batch(size: str) -> Cell:
    """64 cells of 2 to 16 atoms, one by one and at once; seconds for all."""
    potential = ours(size)
    cells = []
    for index in range(64):
        atoms = bulk("Li", "bcc", a=3.51, cubic=True) * (1 + index % 2, 1 + index // 2 % 2, 1 + index // 4 % 2)
        atoms.rattle(0.1, seed=index)
        cells.append(atoms)
    calls = {
        "one by one": lambda: [potential.evaluate(atoms) for atoms in cells],
        "at once": lambda: potential.evaluate_batch(cells),
    }
    return alternate(calls, 5)


def committee(size: str) -> Cell:
    """Energies and forces of four models on 54 atoms: in a loop, and as one vectorized function; seconds."""
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap

    from ideal.models.fused import FusedForward

    blocks, width, n = SIZES[size]
    config = ModelConfig(n_blocks=blocks, units=width, max_n=n, max_l=n, device="cpu")
    members = [M3GNetPotential.new(config, ["Li"], seed) for seed in range(4)]

    class Energy(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model
            self.fused = FusedForward(model)

        def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
            return self.fused(*arguments).sum()

    modules = [Energy(member._model) for member in members]
    parameters, buffers = stack_module_state(modules)  # type: ignore[arg-type]
    graph = members[0].graph(lithium(54))
    # The edges within the three-body cutoff are found by torch.nonzero, which vmap does not take batched: vectors are
    # the same for all members.
    energy = modules[0]

    def of_member(p: Any, b: Any, vectors: torch.Tensor) -> torch.Tensor:
        return functional_call(energy, (p, b), (graph.types, graph.source, graph.target, vectors))

    together = vmap(grad_and_value(of_member, argnums=2), in_dims=(0, 0, None))
    calls = {
        "loop": lambda: [member._energies_and_gradient(graph) for member in members],
        "vectorized": lambda: together(parameters, buffers, graph.vectors),
    }
    result: Cell = alternate(calls, 6)
    loop = torch.stack([member._energies_and_gradient(graph)[1] for member in members])
    slopes, _ = together(parameters, buffers, graph.vectors)
    result["largest_difference"] = float((slopes - loop).abs().max() / loop.abs().max())
    return result


# --- running and remembering ------------------------------------------------------------------------------------------


def cells(sections: list[str], sizes: list[str]) -> list[list[Any]]:
    """What is to be measured, one list of arguments of `measure` for each."""
    wanted: list[list[Any]] = []
    for size in sizes:
        wanted += [[section, size] for section in ("md", "training", "batch", "committee") if section in sections]
        if "memory" in sections:
            wanted += [["memory", size, n, which] for n in ATOMS[size] for which in ("stock", "ideal")]
    if "million" in sections:
        wanted += [["million", size] for size in MILLION_AIMS]
    return wanted


def measure(section: str, *arguments: Any) -> Cell:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    functions: dict[str, Callable[..., Cell]] = {
        "md": md,
        "training": training,
        "memory": memory,
        "million": million,
        "batch": batch,
        "committee": committee,
    }
    return functions[section](*arguments)


def remember(path: Path, cell: list[Any]) -> None:
    """Measure a cell in a process of its own and add it to the file."""
    command = [sys.executable, __file__, "--cell", json.dumps(cell)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        outcome: Cell = {"failed": f"exit code {finished.returncode}"}  # killed for memory, say
    else:
        outcome = json.loads(finished.stdout.splitlines()[-1])
    known = json.loads(path.read_text()) if path.is_file() else {}
    known[json.dumps(cell)] = outcome
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(known, indent=1))
    temporary.replace(path)
    print(cell, outcome, flush=True)


# --- the page ---------------------------------------------------------------------------------------------------------


def table(header: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return "Not measured yet.\n"
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def page(known: Mapping[str, Cell], note: str) -> str:
    def get(*cell: Any) -> Cell | None:
        found = known.get(json.dumps(list(cell)))
        return None if found is None or "failed" in found else found

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "matgl", "ase", "numpy"))
    text = [PREFACE.format(machine=machine(), versions=versions), f"{note}\n\n" if note else ""]

    rows = []
    for size in ("S", "M", "P"):
        for n, cell in (get("md", size) or {}).items():
            ratio, aim = cell["stock"] / cell["ideal"], AIMS["md"][size]
            per_atom = [f"{1e6 * cell[which] / int(n):,.0f}" for which in ("stock", "ideal")]
            rows.append([size, n, *per_atom, f"{ratio:.2f}", f"{aim}", "met" if ratio >= aim else "**missed**"])
    text.append("## A step of dynamics through ASE, CPU µs per atom\n\n")
    text.append(table(["size", "atoms", "stock", "ideal", "stock / ideal", "aim", ""], rows))

    rows = []
    for size in ("S", "M", "P"):
        if cell := get("training", size):
            ratio, aim = cell["stock"] / cell["ideal"], AIMS["training"][size]
            times = [f"{1e3 * cell[which]:,.0f}" for which in ("stock", "ideal")]
            rows.append([size, *times, f"{ratio:.2f}", f"{aim}", "met" if ratio >= aim else "**missed**"])
    text.append("\n## A training step, CPU ms\n\nFour cells of 54 atoms; energy, forces and stress; AdamW.\n\n")
    text.append(table(["size", "stock", "ideal", "stock / ideal", "aim", ""], rows))

    rows = []
    for size in ("S", "M", "P"):
        for n in ATOMS[size]:
            stock_cell, our_cell = get("memory", size, n, "stock"), get("memory", size, n, "ideal")
            if stock_cell and our_cell:
                if stock_cell["bytes"] < 2**24:
                    continue  # less than what the allocator held already: nothing to compare
                mib = [cell["bytes"] / 2**20 for cell in (stock_cell, our_cell)]
                kept = mib[1] / max(mib[0], 1e-9)
                rows.append(
                    [
                        size,
                        str(n),
                        f"{mib[0]:,.0f}",
                        f"{mib[1]:,.0f}",
                        f"{kept:.2f}",
                        "met" if kept <= 0.5 else "**missed**",
                    ]
                )
            elif our_cell and known.get(json.dumps(["memory", size, n, "stock"])):
                rows.append([size, str(n), "out of memory", f"{our_cell['bytes'] / 2**20:,.0f}", "", "met"])
    text.append("\n## Memory of an evaluation, MiB\n\nPeak beyond what the process held before; aim: half.\n\n")
    text.append(table(["size", "atoms", "stock", "ideal", "ideal / stock", ""], rows))

    rows = []
    for size, (seconds, gigabytes) in MILLION_AIMS.items():
        if cell := get("million", size):
            met = cell["seconds"] <= seconds and cell["process"] <= gigabytes * 1e9
            numbers = [f"{cell['seconds']:.0f}", f"{seconds}", f"{cell['process'] / 1e9:.1f}", f"{gigabytes:g}"]
            rows.append([size, *numbers, "met" if met else "**missed**"])
    text.append("\n## One evaluation of 1,024,000 atoms: energy, forces, stress\n\n")
    text.append("1x32: one block of 32 units. Memory is that of the whole process.\n\n")
    text.append(table(["size", "core-seconds", "aim", "GB", "aim", ""], rows))

    rows = two_times(get, "batch", "one by one", "at once")
    text.append("\n## 64 cells of 2 to 16 atoms, CPU ms\n\n")
    text.append(table(["size", "one by one", "`evaluate_batch`", "ratio"], rows))

    rows = two_times(get, "committee", "vectorized", "loop")
    text.append("\n## A committee of four on 54 atoms, CPU ms\n\n")
    text.append("One after another, and as one function (`torch.func.vmap` over stacked weights).\n\n")
    text.append(table(["size", "vectorized", "loop", "vectorized / loop"], rows))
    return "".join(text)


def two_times(get: Callable[..., Cell | None], section: str, first: str, second: str) -> list[list[str]]:
    """Rows of two times in ms and their ratio."""
    found = [(size, cell) for size in ("S", "M", "P") if (cell := get(section, size))]
    return [
        [size, f"{1e3 * cell[first]:.0f}", f"{1e3 * cell[second]:.0f}", f"{cell[first] / cell[second]:.2f}"]
        for size, cell in found
    ]


PREFACE = """# M3GNet: speed and memory

    python benchmarks/model_speed.py
    python benchmarks/model_speed.py --sections million page

Machine: {machine}; {versions}.
float32, CPU time of one thread, the least of alternating repetitions. S: 2 blocks, 32 units, max_n = max_l = 3;
M: 3, 64, 3; P: 4, 128, 4. Stock: matgl's M3GNet and `PESCalculator`, built by matgl alone, with the same weights.
Rattled bcc lithium, 20 neighbors within 5 Å, 13 within 4 Å. Every part is a process of its own; `--again` repeats it.

"""


def machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    every = ["md", "training", "memory", "batch", "committee", "page"]
    parser.add_argument("--sections", nargs="+", default=every, choices=[*every, "million"])
    parser.add_argument("--sizes", nargs="+", default=["S", "M", "P"], choices=["S", "M", "P"])
    parser.add_argument("--results", type=Path, default=Path("runs/model_speed.json"))
    parser.add_argument("--again", action="store_true", help="measure cells that are in the file already")
    parser.add_argument(
        "--note", default="", help="a line for the top of the page, such as: other processes ran beside"
    )
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure(*json.loads(options.cell))))
        return
    for cell in cells(options.sections, options.sizes):
        known = json.loads(options.results.read_text()) if options.results.is_file() else {}
        if options.again or json.dumps(cell) not in known:
            remember(options.results, cell)
    if "page" in options.sections:
        PAGE.write_text(page(json.loads(options.results.read_text()), options.note))
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
