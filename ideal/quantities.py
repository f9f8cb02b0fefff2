"""Physical quantities in the configuration: a number in IDEAL's own unit, or text with a unit.

``timestep: 2`` means 2 fs; ``timestep: 0.002 ps`` means the same; ``timestep: 2 angstrom`` is refused. pint does the
conversion and is imported only when a text has to be read.
"""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any

from pydantic import BeforeValidator

OWN_UNITS = {
    "time": ("fs", "fs, ps, ns"),
    "length": ("angstrom", "angstrom, nm, bohr"),
    "energy": ("eV", "eV, meV, hartree, rydberg, kJ/mol, kcal/mol"),
    "force": ("eV/angstrom", "eV/angstrom, meV/angstrom, hartree/bohr"),
    "pressure": ("eV/angstrom**3", "eV/angstrom**3, GPa, kbar, bar, atm"),
    "temperature": ("K", "K"),
    "inverse_time": ("1/fs", "1/fs, 1/ps"),
    "duration": ("s", "s, min, h"),
    "memory": ("GB", "GB, MB, GiB"),
}


@functools.cache
def _unit_registry() -> Any:
    import pint

    return pint.UnitRegistry(cache_folder=None)


def parse_quantity(value: Any, kind: str) -> float:
    """Return ``value`` in the project's unit of ``kind``.

    Args:
        value: a number (taken to be in that unit already) or text such as ``"2 fs"``.
        kind: key of `OWN_UNITS`.

    Raises:
        ValueError: the text has no such unit, another dimension, or is not finite.

    Example:
        >>> parse_quantity("0.002 ps", "time")
        2.0
    """
    own_unit, _ = OWN_UNITS[kind]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not {_named(kind)}: {_remedy(kind)}")
    number = _convert(value, own_unit, kind) if isinstance(value, str) else float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite: write a finite number in {own_unit}")
    return number


def _convert(text: str, own_unit: str, kind: str) -> float:
    registry = _unit_registry()
    if not any(character.isdigit() for character in text):
        raise ValueError(f"{text!r} holds no number: {_remedy(kind)}")
    try:
        quantity = registry.Quantity(text)
        if quantity.dimensionless and quantity.units == registry.dimensionless:
            return float(quantity.magnitude)
        per_mole = registry.Quantity(1, "1/mol")
        if quantity.dimensionality == (registry.Quantity(1, own_unit) * per_mole).dimensionality:
            quantity = quantity / registry.avogadro_constant
        # Fifteen digits hide the rounding of the conversion: 0.002 ps is 2 fs.
        return float(f"{float(quantity.to(own_unit).magnitude):.15g}")
    except Exception:
        # pint raises whatever its parser meets: unknown units, other dimensions, syntax.
        raise ValueError(f"{text!r} is not {_named(kind)}: {_remedy(kind)}") from None


def _named(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind.replace('_', ' ')}"


def _remedy(kind: str) -> str:
    own_unit, accepted = OWN_UNITS[kind]
    return f"write a number in {own_unit}, or text with one of {accepted}"


def _validator(kind: str) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_quantity(value, kind), json_schema_input_type=float | str)


Time = Annotated[float, _validator("time")]
Length = Annotated[float, _validator("length")]
Energy = Annotated[float, _validator("energy")]
Force = Annotated[float, _validator("force")]
Pressure = Annotated[float, _validator("pressure")]
Temperature = Annotated[float, _validator("temperature")]
InverseTime = Annotated[float, _validator("inverse_time")]
Duration = Annotated[float, _validator("duration")]
Memory = Annotated[float, _validator("memory")]
