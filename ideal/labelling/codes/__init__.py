"""The reference codes: one file each, imported only when it is asked for."""

from __future__ import annotations

import importlib

from ideal.config import CODES, CodeSection, Section
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, NotConvergedError, ReferenceCode

__all__ = ["CodeResult", "NotConvergedError", "ReferenceCode", "make_code"]

_CLASSES = {
    "gpaw": "GpawCode",
    "espresso": "EspressoCode",
    "cp2k": "Cp2kCode",
    "abinit": "AbinitCode",
    "vasp": "VaspCode",
    "aims": "AimsCode",
    "orca": "OrcaCode",
    "dftb": "DftbCode",
    "pyscf": "PyscfCode",
    "tblite": "TbliteCode",
    "lammps": "LammpsCode",
    "teacher": "TeacherCode",
    "ase": "AseCode",
}


def make_code(config: Section) -> ReferenceCode:
    """The reference code of a configuration section, with dispersion and energy offsets where they are asked for.

    Raises:
        LabelError: no such code, or its files are missing.
        MissingPackageError: the code is not installed.

    Example:
        >>> from ideal.config import TbliteConfig
        >>> make_code(TbliteConfig()).name
        'tblite'
    """
    kind = getattr(config, "type", None)
    if not isinstance(config, CodeSection) or kind not in _CLASSES:
        raise LabelError(f"no reference code for a section {type(config).__name__}; valid types: {', '.join(CODES)}")
    module = importlib.import_module(f"ideal.labelling.codes.{kind}")
    code: ReferenceCode = getattr(module, _CLASSES[kind])(config)
    if config.dispersion is not None:
        from ideal.labelling.codes.dispersion import DispersionCorrected

        code = DispersionCorrected(code)
    if config.energy_offsets:
        from ideal.labelling.codes.offsets import WithOffsets

        code = WithOffsets(code)
    return code
