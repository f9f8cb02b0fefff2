"""The reference codes' part of the configuration: one section per code.

The fields of a code are of three kinds. *Physics* (functional, basis, cutoff, smearing, k-points ...) decides the
label and enters its key. *Numerics* (`CodeSection.numerical`: mixing, largest number of iterations ...) only decides
whether the same label is reached; it stays out of the key, and only it may change between retries. *Places*
(`CodeSection.places`: command, folders) stay out of the key too; the contents of the files there enter it as hashes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from ideal.config_section import Section
from ideal.errors import did_you_mean
from ideal.quantities import Energy, Length, Temperature

ImportPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""``package.module:name``."""


class DispersionConfig(Section):
    """London dispersion added to energy, forces and stress of a code that lacks it."""

    method: Literal["d3bj", "d3zero", "d4"] = Field(
        "d3bj", description="D3 with Becke-Johnson or zero damping (package dftd3), or D4 (package dftd4)."
    )
    functional: str | None = Field(
        None, description="Functional whose damping parameters are used, such as pbe; null: the code's own xc."
    )
    three_body: bool | None = Field(
        None, description="Axilrod-Teller-Muto term; null: as published (D4 with it, D3 without)."
    )


class CodeSection(Section):
    """What every reference code has."""

    numerical: ClassVar[frozenset[str]] = frozenset()
    places: ClassVar[dict[str, Literal["command", "folder", "file"]]] = {}
    sampling: ClassVar[frozenset[str]] = frozenset({"kpoint_length", "charge", "spin", "stress"})
    """Physics that differs between structures and leaves their energies on one scale."""

    energy_offsets: dict[str, Energy] = Field(
        default={},
        description="eV per atom of each element, taken off the energy: how far this code's energies lie above those "
        "of the code that they are learned with; empty: none.",
    )
    dispersion: DispersionConfig | None = Field(None, description="Dispersion correction; null: none.")
    retries: list[dict[str, Any]] = Field(
        default=[],
        description="When the SCF does not converge, it is tried again with these changes, one after the other; only "
        "numerical settings (mixing, iterations) may change, never the physics.",
    )

    def physics(self, *left_out: str) -> dict[str, Any]:
        """The settings that decide a label, JSON-able."""
        excluded = {"type", "dispersion", "energy_offsets", "retries", *self.numerical, *self.places, *left_out}
        return self.model_dump(mode="json", exclude=excluded)

    def energy_scale(self) -> dict[str, Any]:
        """What must agree between two codes for their energies to be comparable, JSON-able."""
        dispersion = None if self.dispersion is None else self.dispersion.model_dump(mode="json")
        return {"type": getattr(self, "type", ""), "dispersion": dispersion, **self.physics(*self.sampling)}

    def numerics(self) -> dict[str, Any]:
        """The settings that decide whether a label is reached, JSON-able."""
        return self.model_dump(mode="json", include={"retries", *self.numerical})

    def changed(self, changes: dict[str, Any]) -> Self:
        """The same section with other numerical settings and no retries."""
        return type(self).model_validate({**self.model_dump(), **changes, "retries": []})

    @model_validator(mode="after")
    def _check_retries(self) -> Self:
        for number, changes in enumerate(self.retries):
            for name in changes:
                if name in type(self).model_fields and name not in self.numerical:
                    raise ValueError(
                        f"retries.{number}: {name!r} decides the label, so that a retry with another value would mix "
                        f"two energy surfaces; only {', '.join(sorted(self.numerical)) or 'nothing'} may change"
                    )
                if name not in self.numerical:
                    raise ValueError(
                        f"retries.{number}: unknown setting {name!r}; {did_you_mean(name, self.numerical)}"
                    )
            try:
                self.changed(changes)
            except ValidationError as error:
                for item in error.errors():
                    if item["loc"] and item["loc"][0] in changes:
                        raise ValueError(f"retries.{number}.{item['loc'][0]}: {item['msg']}") from None
        return self


class KPointsMixin(Section):
    """Brillouin-zone sampling that is consistent between cells of different sizes."""

    kpoint_length: Length = Field(
        20.0,
        ge=0,
        description="Along each periodic axis of length L the grid has ceil(kpoint_length / L) points (Å); "
        "0: Gamma only.",
    )


_SLOWER = [{"mixing": 0.1, "max_iterations": 300}]


class GpawConfig(KPointsMixin, CodeSection):
    """GPAW: plane-wave PAW density functional theory."""

    numerical = frozenset({"max_iterations", "mixing"})

    type: Literal["gpaw"] = "gpaw"
    xc: str = Field("PBE", description="Exchange-correlation functional.")
    cutoff: Energy = Field(300.0, gt=0, description="Plane-wave cutoff in eV.")
    smearing: Energy = Field(0.1, ge=0, description="Fermi-Dirac width in eV.")
    density_tolerance: float = Field(
        1e-4, gt=0, description="Convergence of the density, electrons per valence electron."
    )
    eigenstates_tolerance: float = Field(4e-8, gt=0, description="Convergence of the eigenstates, eV² per electron.")
    max_iterations: int = Field(150, ge=1, description="Largest number of SCF iterations.")
    mixing: float | None = Field(None, gt=0, le=1, description="Share of the new density; null: GPAW's choice.")
    setups: dict[str, str] = Field(default={}, description="PAW setup by element where the default is not wanted.")
    retries: list[dict[str, Any]] = Field(
        default=[{"mixing": 0.02, "max_iterations": 400}], description="Changes for tries after a failed SCF."
    )


class EspressoConfig(KPointsMixin, CodeSection):
    """Quantum ESPRESSO (pw.x)."""

    numerical = frozenset({"max_iterations", "mixing", "diagonalization"})
    places: ClassVar[dict[str, Literal["command", "folder", "file"]]] = {"command": "command", "pseudo_dir": "folder"}

    type: Literal["espresso"] = "espresso"
    command: str = Field(
        "pw.x",
        description="Program, with a launcher where wanted; split like a shell would, never run by one.",
    )
    pseudo_dir: Path = Field(description="Folder of the pseudopotentials.")
    pseudopotentials: dict[str, str] = Field(description="File name of the pseudopotential by element.")
    ecutwfc: Energy = Field(544.0, gt=0, description="Wave-function cutoff in eV (text: '40 rydberg').")
    ecutrho: Energy | None = Field(None, gt=0, description="Density cutoff in eV; null: four times ecutwfc.")
    input_dft: str | None = Field(None, description="Functional; null: the pseudopotentials' own.")
    smearing: Energy = Field(0.1, ge=0, description="Fermi-Dirac width in eV; 0: fixed occupations.")
    conv_thr: float = Field(1e-8, gt=0, description="SCF convergence in Ry.")
    max_iterations: int = Field(100, ge=1, description="Largest number of SCF iterations.")
    mixing: float = Field(0.7, gt=0, le=1, description="Share of the new density (mixing_beta).")
    diagonalization: Literal["david", "cg", "ppcg", "paro"] = Field("david", description="Eigensolver.")
    retries: list[dict[str, Any]] = Field(
        default=[
            {"mixing": 0.3, "max_iterations": 200},
            {"mixing": 0.1, "diagonalization": "cg", "max_iterations": 300},
        ],
        description="Changes for tries after a failed SCF.",
    )


class Cp2kConfig(KPointsMixin, CodeSection):
    """CP2K: Gaussians and plane waves (Quickstep)."""

    numerical = frozenset({"max_iterations", "mixing"})
    places: ClassVar[dict[str, Literal["command", "folder", "file"]]] = {"command": "command", "data_dir": "folder"}

    type: Literal["cp2k"] = "cp2k"
    command: str = Field("cp2k.psmp", description="Program, with a launcher where wanted; never run by a shell.")
    data_dir: Path | None = Field(
        None, description="Folder of basis sets and potentials; null: CP2K_DATA_DIR, else /usr/share/cp2k."
    )
    xc: str = Field("PBE", description="Functional: a name that CP2K's XC_FUNCTIONAL section knows.")
    basis: str = Field("DZVP-MOLOPT-SR-GTH", description="Basis set of every element.")
    basis_by_element: dict[str, str] = Field(default={}, description="Other basis set by element.")
    basis_file: str = Field("BASIS_MOLOPT", description="File of the basis sets in data_dir.")
    potential: str = Field("GTH-PBE", description="Pseudopotential family of every element.")
    potential_file: str = Field("GTH_POTENTIALS", description="File of the pseudopotentials in data_dir.")
    cutoff: Energy = Field(8163.4, gt=0, description="Density cutoff in eV (text: '600 rydberg').")
    rel_cutoff: Energy = Field(816.3, gt=0, description="Cutoff that maps Gaussians onto the grids, eV.")
    smearing: Energy = Field(0.1, ge=0, description="Fermi-Dirac width in eV; 0: integer occupations.")
    empty_bands: float = Field(
        0.3, ge=0, description="Empty bands for the smearing, as a share of the valence electrons (at least 4)."
    )
    eps_scf: float = Field(1e-7, gt=0, description="SCF convergence.")
    charge: int = Field(0, description="Total charge.")
    spin: int = Field(0, ge=0, description="Number of unpaired electrons; above 0: spin polarized.")
    max_iterations: int = Field(100, ge=1, description="Largest number of SCF iterations.")
    mixing: float = Field(0.4, gt=0, le=1, description="Share of the new density (Broyden ALPHA).")
    retries: list[dict[str, Any]] = Field(default=_SLOWER, description="Changes for tries after a failed SCF.")


class AbinitConfig(KPointsMixin, CodeSection):
    """ABINIT: plane waves."""

    numerical = frozenset({"max_iterations", "mixing"})
    places: ClassVar[dict[str, Literal["command", "folder", "file"]]] = {"command": "command", "pseudo_dir": "folder"}

    type: Literal["abinit"] = "abinit"
    command: str = Field("abinit", description="Program, with a launcher where wanted; never run by a shell.")
    pseudo_dir: Path = Field(description="Folder of the pseudopotentials.")
    pseudopotentials: dict[str, str] = Field(description="File name of the pseudopotential (or PAW set) by element.")
    cutoff: Energy = Field(816.3, gt=0, description="Wave-function cutoff in eV (text: '30 hartree').")
    paw_cutoff: Energy | None = Field(None, gt=0, description="Density cutoff of PAW sets, eV; null: twice the cutoff.")
    ixc: int | None = Field(None, description="Functional as ABINIT numbers it; null: the pseudopotentials' own.")
    smearing: Energy = Field(0.1, ge=0, description="Fermi-Dirac width in eV; 0: fixed occupations.")
    empty_bands: float = Field(2.0, ge=0, description="Empty bands per atom, for the smearing (fband).")
    tolerance: float = Field(1e-10, gt=0, description="SCF convergence: residual of the potential (tolvrs).")
    max_iterations: int = Field(60, ge=1, description="Largest number of SCF iterations (nstep).")
    mixing: float = Field(0.7, gt=0, le=1, description="Share of the new potential (diemix).")
    retries: list[dict[str, Any]] = Field(
        default=[{"mixing": 0.3, "max_iterations": 150}], description="Changes for tries after a failed SCF."
    )


class VaspConfig(KPointsMixin, CodeSection):
    """VASP: plane-wave PAW; POTCAR files from VASP_PP_PATH, which is the user's."""

    numerical = frozenset({"max_iterations", "mixing", "algorithm"})
    places: ClassVar[dict[str, Literal["command", "folder", "file"]]] = {"command": "command"}

    type: Literal["vasp"] = "vasp"
    version: str = Field(description="Version of VASP as its output states it, such as 6.4.3; part of the label's key.")
    command: str = Field("vasp_std", description="Program, with a launcher where wanted; never run by a shell.")
    preset: Literal["accurate", "fast"] = Field(
        "accurate", description="accurate: PREC = Accurate, reciprocal projectors; fast: PREC = Normal, LREAL = Auto."
    )
    xc: str = Field("PBE", description="Functional as ASE's Vasp calculator names it (PBE, PBEsol, SCAN, R2SCAN ...).")
    setups: str | dict[str, str] = Field(
        "recommended", description="POTCAR set: minimal, recommended, materialsproject, gw, or suffix by element."
    )
    cutoff: Energy = Field(520.0, gt=0, description="Plane-wave cutoff in eV (ENCUT).")
    smearing: Energy = Field(0.1, gt=0, description="Fermi-Dirac width in eV (ISMEAR = -1, SIGMA).")
    ediff: float = Field(1e-6, gt=0, description="SCF convergence in eV (EDIFF).")
    spin: bool = Field(False, description="Spin polarized (ISPIN = 2), from the structure's magnetic moments.")
    incar: dict[str, Any] = Field(default={}, description="More INCAR tags, in lower case; they decide the label.")
    max_iterations: int = Field(100, ge=1, description="Largest number of SCF iterations (NELM).")
    mixing: float | None = Field(None, gt=0, le=1, description="AMIX; null: VASP's choice.")
    algorithm: Literal["normal", "fast", "veryfast", "all", "damped"] = Field("normal", description="ALGO.")
    retries: list[dict[str, Any]] = Field(
        default=[{"algorithm": "all", "max_iterations": 200}, {"mixing": 0.1, "max_iterations": 300}],
        description="Changes for tries after a failed SCF.",
    )

    @model_validator(mode="after")
    def _check_tags(self) -> Self:
        own = {"prec", "lreal", "encut", "ismear", "sigma", "ediff", "ispin", "nelm", "amix", "algo", "nsw", "ibrion"}
        own |= {"isif", "kspacing", "gga", "metagga", "isym", "lwave", "lcharg"}
        for tag in self.incar:
            if tag != tag.lower():
                raise ValueError(f"incar: {tag!r} has capitals; write {tag.lower()!r}")
            if tag in own:
                raise ValueError(f"incar: {tag!r} is set by another key (or by the adapter); remove it from incar")
        return self


class AimsConfig(KPointsMixin, CodeSection):
    """FHI-aims: all electrons, numeric atomic orbitals."""

    numerical = frozenset({"max_iterations", "mixing"})
    places: ClassVar[dict[str, Literal["command", "folder", "file"]]] = {"command": "command", "species_dir": "folder"}

    type: Literal["aims"] = "aims"
    command: str = Field("aims.x", description="Program, with a launcher where wanted; never run by a shell.")
    species_dir: Path = Field(description="Folder of the species defaults, such as .../defaults_2020/light.")
    xc: str = Field("pbe", description="Functional.")
    relativistic: str = Field("atomic_zora scalar", description="Treatment of relativity.")
    smearing: Energy = Field(0.1, gt=0, description="Fermi-Dirac width in eV.")
    tolerance: float = Field(1e-5, gt=0, description="SCF convergence of the density (sc_accuracy_rho).")
    charge: float = Field(0.0, description="Total charge.")
    spin: bool = Field(False, description="Spin polarized (collinear), from the structure's magnetic moments.")
    keywords: dict[str, str] = Field(default={}, description="More lines of control.in; they decide the label.")
    max_iterations: int = Field(100, ge=1, description="Largest number of SCF iterations (sc_iter_limit).")
    mixing: float | None = Field(None, gt=0, le=1, description="charge_mix_param; null: the code's choice.")
    retries: list[dict[str, Any]] = Field(
        default=[{"mixing": 0.02, "max_iterations": 400}], description="Changes for tries after a failed SCF."
    )


class OrcaConfig(CodeSection):
    """ORCA: molecules, from density functionals to coupled cluster."""

    numerical = frozenset({"max_iterations", "convergence"})
    places: ClassVar[dict[str, Literal["command", "folder", "file"]]] = {"command": "command"}

    type: Literal["orca"] = "orca"
    command: str = Field("orca", description="Program by its full path (ORCA wants it for parallel runs).")
    method: str = Field("PBE", description="Method keyword: PBE, B3LYP, RI-MP2 ...; it needs analytic gradients.")
    basis: str = Field("def2-SVP", description="Basis set keyword.")
    keywords: str = Field("TightSCF", description="More words of the simple input line; they decide the label.")
    blocks: str = Field("", description="Blocks of the input (%...); they decide the label.")
    charge: int = Field(0, description="Total charge.")
    spin: int = Field(0, ge=0, description="Number of unpaired electrons.")
    max_iterations: int = Field(125, ge=1, description="Largest number of SCF iterations.")
    convergence: Literal["normal", "slow", "very_slow"] = Field(
        "normal", description="Damping of the SCF (SlowConv, VerySlowConv)."
    )
    retries: list[dict[str, Any]] = Field(
        default=[
            {"convergence": "slow", "max_iterations": 300},
            {"convergence": "very_slow", "max_iterations": 600},
        ],
        description="Changes for tries after a failed SCF.",
    )


class DftbConfig(KPointsMixin, CodeSection):
    """DFTB+: density-functional tight binding, semi-empirical."""

    numerical = frozenset({"max_iterations", "mixing"})
    places: ClassVar[dict[str, Literal["command", "folder", "file"]]] = {"command": "command", "slako_dir": "folder"}

    type: Literal["dftb"] = "dftb"
    command: str = Field("dftb+", description="Program, with a launcher where wanted; never run by a shell.")
    slako_dir: Path = Field(description="Folder of the Slater-Koster files (A-B.skf).")
    max_angular_momentum: dict[str, Literal["s", "p", "d", "f"]] = Field(
        description="Largest angular momentum by element, as the parameter set's documentation states."
    )
    charge: float = Field(0.0, description="Total charge.")
    electronic_temperature: Temperature = Field(300.0, gt=0, description="Electronic temperature in K.")
    scc_tolerance: float = Field(1e-6, gt=0, description="Convergence of the charges, electrons.")
    third_order: dict[str, float] = Field(default={}, description="Hubbard derivatives by element; empty: DFTB2.")
    max_iterations: int = Field(200, ge=1, description="Largest number of SCC iterations.")
    mixing: float = Field(0.2, gt=0, le=1, description="Broyden mixing parameter.")
    retries: list[dict[str, Any]] = Field(
        default=[{"mixing": 0.02, "max_iterations": 800}], description="Changes for tries after a failed SCC."
    )


class PyscfConfig(CodeSection):
    """pyscf: molecules up to CCSD(T), or periodic cells."""

    numerical = frozenset({"max_iterations", "damping"})

    type: Literal["pyscf"] = "pyscf"
    xc: str = Field("PBE", description="Functional, HF, or (molecules, on top of HF) MP2, CCSD, CCSD(T).")
    basis: str = Field("def2-svp", description="Basis set; periodic cells want a GTH basis such as gth-dzvp.")
    pseudo: str | None = Field(None, description="Pseudopotential for periodic cells, such as gth-pbe.")
    density_fit: bool = Field(True, description="Density fitting of a molecule's SCF; MP2 and CC go without.")
    charge: int = Field(0, description="Total charge of the molecule.")
    spin: int = Field(0, ge=0, description="Number of unpaired electrons.")
    smearing: Energy = Field(0.0, ge=0, description="Fermi-Dirac width in eV; 0: integer occupations.")
    mesh_cutoff: Energy | None = Field(
        None, gt=0, description="Kinetic-energy cutoff of the density grid in eV (cells)."
    )
    kpoint_length: Length = Field(
        0.0, ge=0, description="Density of k-points in Å, as for the plane-wave codes (cells); 0: Gamma only."
    )
    stress: bool = Field(False, description="Stress of periodic cells; costs several times the rest.")
    max_iterations: int = Field(100, ge=1, description="Largest number of SCF iterations.")
    damping: float = Field(0.0, ge=0, lt=1, description="Share of the old Fock matrix in the first iterations.")
    retries: list[dict[str, Any]] = Field(
        default=[{"damping": 0.5, "max_iterations": 300}], description="Changes for tries after a failed SCF."
    )


class TbliteConfig(CodeSection):
    """tblite: GFN1-xTB or GFN2-xTB, semi-empirical; for tests and quick looks."""

    numerical = frozenset({"max_iterations", "mixing"})

    type: Literal["tblite"] = "tblite"
    method: Literal["GFN1-xTB", "GFN2-xTB"] = Field(
        "GFN1-xTB", description="Hamiltonian; GFN2 is not for periodic cells."
    )
    accuracy: float = Field(1.0, gt=0, description="Numerical accuracy; smaller is tighter.")
    electronic_temperature: Temperature = Field(300.0, gt=0, description="Electronic temperature in K.")
    max_iterations: int = Field(250, ge=1, description="Largest number of SCF iterations.")
    mixing: float = Field(0.4, gt=0, le=1, description="Broyden damping of the charges.")
    retries: list[dict[str, Any]] = Field(
        default=[{"mixing": 0.1, "max_iterations": 600}], description="Changes for tries after a failed SCF."
    )


class LammpsConfig(CodeSection):
    """A classical potential of LAMMPS, through its library (units metal)."""

    places: ClassVar[dict[str, Literal["command", "folder", "file"]]] = {"folder": "folder"}

    type: Literal["lammps"] = "lammps"
    commands: list[str] = Field(
        min_length=1, description="pair_style, pair_coeff ... lines; names of files are relative to `folder`."
    )
    elements: list[str] = Field(min_length=1, description="Element of each LAMMPS atom type, in order.")
    folder: Path = Field(Path(), description="Folder of the potential's files.")
    charges: dict[str, float] = Field(
        default={}, description="Charge by element, for potentials with Coulomb terms (atom_style charge)."
    )


class TeacherConfig(CodeSection):
    """A saved potential as the reference, for dry runs: labels in milliseconds."""

    type: Literal["teacher"] = "teacher"
    path: str = Field(description="Model directory of IDEAL or matgl, or a matgl model name.")
    device: Literal["auto", "cpu", "cuda"] = Field("cpu", description="Where the model runs.")
    threads: int = Field(1, ge=1, description="Threads of torch on the CPU.")


class AseConfig(CodeSection):
    """Any ASE calculator, by import path."""

    type: Literal["ase"] = "ase"
    calculator: ImportPath = Field(description="Import path, such as ase.calculators.emt:EMT.")
    arguments: dict[str, Any] = Field(default={}, description="Keyword arguments of the calculator.")
    force_consistent: bool = Field(True, description="Ask for the free energy where the calculator has one.")


CodeConfig = Annotated[
    GpawConfig
    | EspressoConfig
    | Cp2kConfig
    | AbinitConfig
    | VaspConfig
    | AimsConfig
    | OrcaConfig
    | DftbConfig
    | PyscfConfig
    | TbliteConfig
    | LammpsConfig
    | TeacherConfig
    | AseConfig,
    Field(discriminator="type"),
]

CODES = (
    "gpaw", "espresso", "cp2k", "abinit", "vasp", "aims", "orca", "dftb", "pyscf", "tblite", "lammps", "teacher", "ase",
)  # fmt: skip
"""Values of ``labelling.code.type``."""
