"""Initial structures by short molecular dynamics: of a general-purpose model, or of the reference code itself.

Each starting structure moves at constant temperature, and every so many steps a frame is kept; what the frames hold is
labelled by the reference code afterwards (aims-PAX, Henkes et al. 2025: initial dataset generation). With the reference
code as the generator every step is a calculation of its own in the label store, so that a run that was killed amid it
repeats none, and the frames are labelled already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes

from ideal.config import AseConfig, Config, GeneratedConfig, MolecularDynamicsConfig
from ideal.dataset.rattled import small_enough
from ideal.engine.calculations import Calculations
from ideal.engine.frame_files import bare, cell_to_label
from ideal.engine.seeds import derive_seed
from ideal.errors import ConfigError, LabelError, SamplerError
from ideal.labelling.codes.ase import AseCode
from ideal.records import FailedLabel
from ideal.samplers import MolecularDynamics

FRICTION = 0.01
"""1/fs; strong, since nothing but decorrelated frames is wanted."""

_REMEDY = "lower dataset.generated.temperature or timestep, or name another calculator"


class ReferenceCalculator(Calculator):
    """The reference code of a run as an ASE calculator: each structure is a label.

    Args:
        calculations: where to ask.
        wait: returns when something may have arrived; may raise to stop the run.

    Raises:
        SamplerError: on evaluation, when a calculation fails.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, calculations: Calculations, wait: Callable[[], None]) -> None:
        super().__init__()
        self._calculations = calculations
        self._wait = wait

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Have ``atoms`` labelled (ASE calls this)."""
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        request = self._calculations.request(cell_to_label(self.atoms), {"purpose": "initial"})
        self._calculations.submit(request)
        while request.key not in self._calculations.results:
            self._wait()
        answer = self._calculations.results.pop(request.key)
        if isinstance(answer, FailedLabel):
            raise SamplerError(f"the reference code fails: {answer.cause}")
        self.results = {"energy": answer.energy, "free_energy": answer.energy, "forces": answer.forces}
        if answer.stress is not None:
            self.results["stress"] = answer.stress


def generated_structures(
    structures: Iterable[Atoms], config: Config, calculations: Calculations, wait: Callable[[], None]
) -> list[Atoms]:
    """Frames of short dynamics, ``dataset.generated.count`` of each structure.

    Args:
        structures: distinct starting structures.
        config: the run's configuration.
        calculations: the reference code, where that generates.
        wait: see `ReferenceCalculator`.

    Raises:
        ConfigError: the calculator cannot be made, or a structure is too large.
        SamplerError: the dynamics leaves the physical range.

    Example:
        >>> frames = generated_structures([molecule("CH3CH2OH")], config, calculations, wait)  # count: 3
        >>> len(frames)
        3
    """
    section = config.dataset.generated
    if section.count == 0:
        return []
    calculator = generator(section) if section.calculator else ReferenceCalculator(calculations, wait)
    frames: list[Atoms] = []
    for number, structure in enumerate(structures):
        start = small_enough(bare(structure), section.max_atoms, "dataset.generated")
        seed = derive_seed(config.seed, "generated", step=number)
        try:
            frames += _frames(start, calculator, section, seed, wait)
        except SamplerError as error:
            raise SamplerError(f"dataset.generated: {start.get_chemical_formula()}: {error}; {_REMEDY}") from error
    return frames


def generator(section: GeneratedConfig) -> BaseCalculator:
    """The calculator that moves the atoms.

    Raises:
        ConfigError: it cannot be imported or does not take its arguments.
    """
    assert section.calculator is not None
    code = AseConfig(calculator=section.calculator, arguments=section.arguments)
    try:
        calculator: BaseCalculator = AseCode(code).calculator()
    except LabelError as error:
        raise ConfigError(f"dataset.generated.calculator: {error}") from error
    return calculator


def _frames(
    start: Atoms, calculator: BaseCalculator, section: GeneratedConfig, seed: int, wait: Callable[[], None]
) -> list[Atoms]:
    dynamics = MolecularDynamics(
        start,
        calculator,
        MolecularDynamicsConfig(
            ensemble="nvt_langevin",
            temperature=section.temperature,
            timestep=section.timestep,
            friction=FRICTION,
            steps=section.count * section.steps_between,
        ),
        seed,
        name="generated",
    )
    frames = []
    for _ in range(section.count):
        dynamics.advance(section.steps_between)
        frames.append(bare(dynamics.atoms))
    return frames
