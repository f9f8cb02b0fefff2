"""A saved potential as the reference: a teacher whose labels cost milliseconds, for dry runs of a whole configuration.

What a student learns from it is the teacher, not nature; every label says so by its code. The settings hold the model's
fingerprint, so that labels of two teachers never share a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ideal.config import TeacherConfig
from ideal.errors import LabelError, TrainingError, did_you_mean
from ideal.labelling.codes.base import CodeResult, first_line, installed_version
from ideal.labelling.codes.cells import has_stress


class TeacherCode:
    """A potential of ours (or matgl's) that labels.

    Raises:
        LabelError: the model cannot be loaded.

    Example:
        >>> code = TeacherCode(TeacherConfig(path="runs/lithium/model"))        # doctest: +SKIP
        >>> code.compute(bulk("Li"), Path()).energy                             # doctest: +SKIP
        -1.9
    """

    name = "teacher"
    energy_kind = "total_energy"

    def __init__(self, config: TeacherConfig) -> None:
        from ideal.models.m3gnet import M3GNetPotential

        self.config = config
        try:
            self._potential = M3GNetPotential.load(config.path, config.device, config.threads)
        except TrainingError as error:
            raise LabelError(f"labelling.code.path: {error}") from error
        self.settings: dict[str, Any] = {
            "code": self.name,
            "version": installed_version("matgl", "labelling with a teacher"),
            "fingerprint": self._potential.fingerprint(),
        }

    def check(self, elements: Sequence[str]) -> list[str]:
        """See `ReferenceCode.check`: the model knows each element."""
        known = self._potential.elements
        lines = [f"teacher {self.config.path} (fingerprint {self.settings['fingerprint'][:8]}): a model, not nature"]
        for element in elements:
            if element not in known:
                raise LabelError(f"the teacher {self.config.path} lacks {element!r}; {did_you_mean(element, known)}")
            lines.append(f"{element}: known")
        return lines

    def compute(self, atoms: Atoms, folder: Path) -> CodeResult:
        """See `ReferenceCode.compute`; nothing is written."""
        try:
            result = self._potential.evaluate(atoms)
        except TrainingError as error:
            raise LabelError(f"the teacher failed: {first_line(error)}") from error
        return CodeResult(
            energy=result.energy,
            forces=np.asarray(result.forces, dtype=np.float64),
            stress=result.stress if has_stress(atoms) else None,
            energy_kind=self.energy_kind,
        )
