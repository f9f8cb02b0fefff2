"""The bias of a PLUMED input, through ASE's calculator: the one file that needs the ``plumed`` package.

PLUMED keeps what it has deposited in files, and reads them back when it is restarted. So the files are a part of the
state, and a restart puts them back as they were.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.plumed import Plumed

from ideal.errors import ConfigError
from ideal.records import FloatArray
from ideal.samplers.plumed_input import prepare_input

_LOG = "plumed.log"
_BACKUP = "bck."
_INSTALL = (
    "PLUMED is missing ({}): `pip install plumed` is its Python side; PLUMED itself comes from conda-forge or its "
    "sources, with PLUMED_KERNEL naming libplumedKernel.so. `pip install --no-deps hillclimber` brings both"
)


class PlumedBias:
    """A running PLUMED.

    Args:
        lines: of the input.
        folder: for the files that it writes; made when missing.
        atoms: masses, charges and cell; copied.
        timestep: ASE's unit of time.
        thermal_energy: kT in eV.
        restart: go on with the files in the folder.

    Raises:
        ConfigError: PLUMED is not installed, or refuses the input.

    Example:
        >>> bias = PlumedBias(["d: DISTANCE ATOMS=1,2", "RESTRAINT ARG=d AT=0.1 KAPPA=1000"], folder, atoms, 0.1, 0.026)
        >>> energy, forces = bias.evaluate(atoms.positions, step=0, energy=0.0)
    """

    def __init__(
        self,
        lines: Sequence[str],
        folder: Path,
        atoms: Atoms,
        timestep: float,
        thermal_energy: float,
        restart: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._plumed = Plumed(
                calc=None,
                input=prepare_input(lines, folder),
                timestep=timestep,
                atoms=atoms.copy(),
                kT=thermal_energy,
                log=str(folder / _LOG),
                restart=restart,
                use_charge=atoms.has("initial_charges"),
            )
        except ImportError as error:
            raise ConfigError(_INSTALL.format(error)) from error
        except Exception as error:  # PLUMED's exceptions have no common class that all its versions know
            if "PLUMED_KERNEL" in str(error) or "not available" in str(error):
                raise ConfigError(_INSTALL.format(error)) from error
            raise ConfigError(f"sampler.input: PLUMED refuses it: {_reason(error)}; see {folder / _LOG}") from error

    def evaluate(self, positions: FloatArray, step: int, energy: float) -> tuple[float, FloatArray]:
        """Bias energy (eV) and forces (n_atoms, 3), eV/Å; PLUMED deposits and prints what is due at that step.

        Args:
            positions: (n_atoms, 3) Å.
            step: number of the time step; each is evaluated once.
            energy: of the physical surface, eV.
        """
        bias, forces, _ = self._plumed.compute_bias(np.array(positions, dtype=np.float64), step, energy)
        return float(bias), np.asarray(forces)

    def close(self) -> None:
        """End PLUMED and close its files."""
        self._plumed.plumed.finalize()


def preview(lines: Sequence[str], atoms: Atoms) -> None:
    """Have PLUMED read an input, and throw away what it writes.

    Raises:
        ConfigError: PLUMED is not installed, or refuses the input.
    """
    with tempfile.TemporaryDirectory() as folder:
        PlumedBias(lines, Path(folder), atoms, timestep=1.0, thermal_energy=0.025).close()


def read_files(folder: Path) -> dict[str, np.ndarray]:
    """Content in bytes of what PLUMED has written into a folder, its log and backups left out."""
    return {path.name: np.frombuffer(path.read_bytes(), dtype=np.uint8) for path in _files(folder)}


def write_files(folder: Path, files: Mapping[str, Any]) -> None:
    """Put back what `read_files` returned; what was begun later goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in _files(folder):
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(np.asarray(content, dtype=np.uint8).tobytes())


def sizes(folder: Path) -> dict[str, int]:
    """Length in bytes of every file that `read_files` reads."""
    return {path.name: path.stat().st_size for path in _files(folder)}


def cut_back(folder: Path, lengths: Mapping[str, int]) -> None:
    """Cut every file back to an earlier length; what was begun later goes."""
    write_files(
        folder, {name: content[: lengths[name]] for name, content in read_files(folder).items() if name in lengths}
    )


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name != _LOG and not p.name.startswith(_BACKUP))


def _reason(error: Exception) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
