"""Nudged elastic band: a path between two structures, every image of which is watched.

Forces on the band with improved tangents (Henkelman and Jonsson, 10.1063/1.1323224), the highest image climbing to the
saddle point (Henkelman, Uberuaga and Jonsson, 10.1063/1.1329672), first path by the image dependent pair potential
(Smidstrup et al., 10.1063/1.4878664): ASE's implementations. That only the most uncertain image asks for labels, after
which the whole band relaxes again, is the one-image-evaluated algorithm of Koistinen et al. (10.1063/1.4986787).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.calculators.calculator import BaseCalculator
from ase.mep import NEB

from ideal.config import ElasticBandConfig
from ideal.errors import SamplerError
from ideal.records import FloatArray
from ideal.samplers.optimizers import largest_norm, make_optimizer
from ideal.samplers.own_results import OwnResults
from ideal.samplers.search import REMEDY, Search
from ideal.samplers.structures import check_ends, check_forces, prepare


class ElasticBand(Search):
    """A band of images between two fixed ends.

    Args:
        atoms: the first end; copied with its constraints.
        final: the other end: the same atoms in the same order and the same cell. Without periodicity and constraints
            it is turned and moved onto the first.
        calculator: ASE calculator that gives forces.
        config: images, springs, tolerance.
        max_force: largest force on a free atom of an image, eV/Å.
        name: of the trajectory, for messages.

    Attributes:
        atoms: the image that is shown: the highest one, or the one that `show` named.
        configurations: all images with both ends.

    Raises:
        ConfigError: ``config.fix_atoms`` names atoms that do not exist, or the ends do not belong together.

    Example:
        >>> band = ElasticBand(initial, final, EMT(), ElasticBandConfig(final="final.xyz", images=5))
        >>> band.advance(500)
        >>> band.conclusion
        'converged, barrier 0.383 eV forth and 0.383 eV back'
    """

    kind = "neb"

    def __init__(
        self,
        atoms: Atoms,
        final: Atoms,
        calculator: BaseCalculator,
        config: ElasticBandConfig,
        max_force: float = 50.0,
        *,
        name: str = "neb",
    ) -> None:
        super().__init__(config, max_force, name)
        self.config = config
        first, last = (prepare(end, config.fix_atoms, name) for end in (atoms, final))
        check_ends(first, last, name)
        last.set_constraint(first.constraints)
        if not first.pbc.any() and not first.constraints:
            minimize_rotation_and_translation(first, last)
        self.configurations = (first, *(first.copy() for _ in range(config.images)), last)
        for image in self.configurations:
            image.set_momenta(np.zeros((len(image), 3)))
        self._band = NEB(list(self.configurations), k=config.spring, climb=False, method="improvedtangent")
        self._band.interpolate(config.interpolation, mic=bool(first.pbc.any()), apply_constraint=False)
        self._use(calculator)
        self._optimizer = make_optimizer(config.optimizer, self._band, config.max_move)
        self._shown: int | None = None
        self._highest = len(self.configurations) // 2  # before the energies are known
        self.atoms = self.configurations[self._highest]

    # --- many configurations ------------------------------------------------------------------------------------------

    def show(self, index: int | None) -> None:
        """Make ``atoms`` the image of that index; None: the highest one."""
        self._shown = index
        self.atoms = self.configurations[self._highest if index is None else index]

    @property
    def energies(self) -> FloatArray:
        """(n_images + 2,) eV."""
        return np.array([image.get_potential_energy() for image in self.configurations])

    # --- the search ---------------------------------------------------------------------------------------------------

    def set_calculator(self, calculator: BaseCalculator) -> None:
        """Go on with another calculator; one more step looks whether the band is still converged."""
        super().set_calculator(calculator)
        self._optimizer.forget_gradient()

    def _use(self, calculator: BaseCalculator) -> None:
        for image in self.configurations:
            image.calc = OwnResults(calculator)

    def _move(self) -> None:
        wants_to_climb = self.config.climb and not self._band.climb
        if wants_to_climb and self._largest_force() < self.config.climb_force:
            self._band.climb = True
            self._optimizer.forget_gradient()
        self._optimizer.step()
        self._highest = 1 + int(np.argmax(self.energies[1:-1]))
        self.show(None)

    def _check(self, where: str) -> None:
        for index, image in enumerate(self.configurations[1:-1], start=1):
            check_forces(image, self.max_force, f"{where}, image {index}", REMEDY)

    def _is_converged(self) -> bool:
        climbs = self._band.climb or not self.config.climb
        return climbs and self._largest_force() < self.config.force_tolerance

    def _largest_force(self) -> float:
        return largest_norm(self._band.get_forces())

    def _outcome(self) -> str:
        energies = self.energies
        forth, back = energies.max() - energies[0], energies.max() - energies[-1]
        return f"barrier {forth:.3f} eV forth and {back:.3f} eV back"

    # --- state --------------------------------------------------------------------------------------------------------

    def _variables(self) -> dict[str, Any]:
        return {
            "positions": np.array([image.positions for image in self.configurations]),
            "climbing": bool(self._band.climb),
            "shown": self._shown,
            "highest": self._highest,
            "optimizer": self._optimizer.state(),
        }

    def _set_variables(self, state: Mapping[str, Any]) -> None:
        if len(state["positions"]) != len(self.configurations):
            raise SamplerError(
                f"trajectory {self.name!r}: the state has {len(state['positions']) - 2} images, the configuration says "
                f"{self.config.images}; resume with the configuration of the run"
            )
        for image, positions in zip(self.configurations, state["positions"], strict=True):
            image.set_positions(positions, apply_constraint=False)
        self._band.climb = bool(state["climbing"])
        self._optimizer.restore(state["optimizer"])
        self._highest = int(state["highest"])
        self.show(state["shown"])
