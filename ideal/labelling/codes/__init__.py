"""The reference codes: one file each, imported only when it is asked for."""

from __future__ import annotations

from ideal.config import AseConfig, EspressoConfig, GpawConfig, PyscfConfig, Section, TbliteConfig
from ideal.errors import LabelError
from ideal.labelling.codes.base import CodeResult, ReferenceCode

__all__ = ["CodeResult", "ReferenceCode", "make_code"]


def make_code(config: Section) -> ReferenceCode:
    """The reference code of a configuration section.

    Raises:
        LabelError: no such code, or its files are missing.
        MissingPackageError: the code is not installed.

    Example:
        >>> from ideal.config import TbliteConfig
        >>> make_code(TbliteConfig()).name
        'tblite'
    """
    if isinstance(config, GpawConfig):
        from ideal.labelling.codes.gpaw import GpawCode

        return GpawCode(config)
    if isinstance(config, EspressoConfig):
        from ideal.labelling.codes.espresso import EspressoCode

        return EspressoCode(config)
    if isinstance(config, PyscfConfig):
        from ideal.labelling.codes.pyscf import PyscfCode

        return PyscfCode(config)
    if isinstance(config, TbliteConfig):
        from ideal.labelling.codes.tblite import TbliteCode

        return TbliteCode(config)
    if isinstance(config, AseConfig):
        from ideal.labelling.codes.ase import AseCode

        return AseCode(config)
    raise LabelError(
        f"no reference code for a section {type(config).__name__}; valid types: gpaw, espresso, pyscf, tblite, ase"
    )
