"""The plugin under the address, leak and undefined-behavior sanitizers: dynamics, checks, dumps and reloads, on one
rank and on two; and under Valgrind, which sees what is read before it is written. What LAMMPS and MPI themselves leave
behind is not ours; a report counts that names the plugin.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ase.io.lammpsdata import write_lammps_data

from ideal.errors import MissingPackageError
from ideal.lammps.plugin import build_plugin, installed_headers, mpi_library_folder

from .test_fix_ideal import learned, lithium
from .test_pair_ideal import network

pytestmark = [pytest.mark.lammps, pytest.mark.slow, pytest.mark.timeout(1800)]
SCRIPT = """
units {units}
atom_style atomic
atom_modify map yes
read_data {units}.data
comm_modify cutoff 9.5
plugin load {plugin}
pair_style {style}
{coefficients}
fix u all ideal 2 u.safetensors Li threshold 0.5 dump unknown.extxyz most 2 radius 8
compute u all ideal/uncertainty/atom u.safetensors Li
compute e all pe/atom
compute w all stress/atom NULL virial
dump d all custom 2 {units}.dump id c_u f_u c_e c_w[1]
velocity all create 900 1
fix move all nve
run 10
{reloads}
run 5
"""


def sanitizer_library() -> Path:
    """libasan of the compiler, to be loaded before everything else."""
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    found = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip())
    if not path.is_absolute() or not path.exists():
        pytest.skip(f"{compiler} brings no libasan.so")
    return path.resolve()


@pytest.fixture(scope="module")
def sanitized(request: pytest.FixtureRequest) -> Path:
    """The plugin with sanitizers; it stays in memory when LAMMPS drops it, so that reports can name its functions."""
    sanitizer_library()
    try:
        headers = installed_headers()
    except MissingPackageError as error:
        pytest.skip(str(error))
    assert request.config.cache is not None
    options = ["-DIDEAL_SANITIZE=ON", "-DCMAKE_MODULE_LINKER_FLAGS=-Wl,-z,nodelete"]
    return build_plugin(headers, Path(request.config.cache.mkdir("idealplugin-sanitized")), options)


def reports(text: str) -> list[str]:
    """Blocks of the sanitizers' output that name the plugin, its sources or its classes."""
    blocks = [b for b in text.split("\n\n") if "Sanitizer" in b or "leak of" in b or "runtime error" in b]
    return [b for b in blocks if re.search(r"csrc/|idealplugin|ideal::|Ideal::", b)]


def run(command: list[str], script: str, folder: Path, settings: dict[str, str], ranks: int = 1) -> str:
    """LAMMPS' output, behind a command that watches it."""
    (folder / "in.lammps").write_text(script)
    binary = installed_headers().include.parents[1] / "lmp"
    launcher = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(mpi_library_folder()), "OMP_NUM_THREADS": "1", **settings}
    environment.pop("LAMMPS_PLUGIN_PATH", None)
    command = [*command, str(binary), "-in", "in.lammps", "-log", "none"]
    if ranks > 1:
        command = [launcher, "-n", str(ranks), *command]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    output = "\n\n".join(
        [done.stdout + done.stderr, *(path.read_text(errors="replace") for path in folder.glob("report.*"))]
    )
    assert "Total wall time" in output, output[-6000:]
    return output


def script(units: str, plugin: Path, folder: Path, reloads: int) -> str:
    """Dynamics of 54 atoms with everything that the plugin has; alone in units metal, hybrid in units real."""
    write_lammps_data(folder / f"{units}.data", lithium(3, 0.1), masses=True, units=units)
    network(["Li"], folder / "model")
    network(["Li"], folder / "other", seed=1, n_blocks=3, units=20, max_l=2)
    learned(["Li"], [lithium(3, 0.1)], folder / "u.safetensors")
    hybrid = units == "real"
    coefficients = f"pair_coeff * * {'ideal ' if hybrid else ''}{{}}/model.safetensors Li\n"
    again = [f"{coefficients.format(name)}fix_modify u state u.safetensors\nrun 1" for name in ("other", "model")]
    return SCRIPT.format(
        units=units,
        plugin=plugin,
        style="hybrid/overlay zero 6.0 ideal" if hybrid else "ideal",
        coefficients=("pair_coeff * * zero\n" if hybrid else "") + coefficients.format("model"),
        reloads="\n".join(again * reloads),
    )


def test_reports_are_told_from_those_of_others() -> None:
    theirs = "Direct leak of 24 byte(s)\n    #0 0x7f in malloc\n    #1 0x7f in MPIR_Init (/lib/libmpi.so.12+0x4)"
    ours = "Indirect leak of 24 byte(s)\n    #7 0x7f in LAMMPS_NS::PairIdeal::coeff(int, char**) /x/pair_ideal.cpp:9"
    error = "==7==ERROR: AddressSanitizer: heap-buffer-overflow\n    #0 0x7f in evaluate /x/csrc/src/m3gnet.cpp:30"
    assert reports("\n\n".join([theirs, ours, error, "SUMMARY: AddressSanitizer: 48 bytes"])) == [ours, error]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.mpi)])
@pytest.mark.parametrize("units", ["metal", "real"])
def test_nothing_leaks_and_nothing_is_read_beside_its_array(
    units: str, ranks: int, sanitized: Path, tmp_path: Path
) -> None:
    settings = {
        "ASAN_OPTIONS": f"detect_leaks=1:exitcode=0:log_path={tmp_path / 'report'}",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = ["env", f"LD_PRELOAD={sanitizer_library()}"]
    assert reports(run(command, script(units, sanitized, tmp_path, 5), tmp_path, settings, ranks)) == []


def test_nothing_is_read_before_it_is_written(plugin: Path, tmp_path: Path) -> None:
    """Valgrind knows no AVX-512; half a minute."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("no valgrind")
    command = [valgrind, f"--log-file={tmp_path / 'report.valgrind'}"]
    output = run(command, script("metal", plugin, tmp_path, 1), tmp_path, {"IDEAL_INSTRUCTION_SET": "baseline"})
    assert "ERROR SUMMARY" in output
    errors = re.split(r"^==\d+== *$", output, flags=re.MULTILINE)
    assert [e for e in errors if "  at 0x" in e and re.search(r"idealplugin|ideal::|Ideal::", e)] == []
