"""Which of the configured codes labels a structure: the trajectory's own, else the first rule that fits, else the
default."""

from __future__ import annotations

from ase import Atoms

from ideal.config import CodeRule, LabellingConfig

DEFAULT = "default"
"""Name of ``labelling.code``."""


def choose_code(config: LabellingConfig, atoms: Atoms, wanted: str | None = None) -> str:
    """Name of the code in ``labelling.codes``, or `DEFAULT`.

    Args:
        config: codes and rules.
        atoms: the structure.
        wanted: the trajectory's ``code``; None: it has none, or the structure belongs to no trajectory.

    Example:
        >>> from ideal.config import TbliteConfig
        >>> choose_code(LabellingConfig(code=TbliteConfig()), Atoms("H2"))
        'default'
    """
    if wanted is not None:
        return wanted
    return next((rule.code for rule in config.rules if _fits(rule, atoms)), DEFAULT)


def _fits(rule: CodeRule, atoms: Atoms) -> bool:
    if rule.periodic is not None and rule.periodic != bool(atoms.pbc.any()):
        return False
    if rule.elements is not None and not set(atoms.symbols) <= set(rule.elements):
        return False
    return rule.max_atoms is None or len(atoms) <= rule.max_atoms
