"""The messages of a client as checked records: whatever is not as it must be ends in a `MessageError`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ideal.config import EmbeddingConfig
from ideal.lammps.serve.messages import Message, MessageError

MOST_NEIGHBORHOODS = 64
_LARGEST_NUMBER = 103

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_Model = TypeVar("_Model", bound=_Checked)


class Hello(_Checked):
    """The first message of a client.

    Attributes:
        protocol: version of the protocol that it speaks.
        token: the shared secret.
        client: identifies the simulation, over reconnections and restart files.
        name: what the trajectory may be called.
        elements: of its atom types.
        last_step: where its run ends.
        version: of the distribution and weights that it has from this learner; empty for none.
        model: whether it wants weights.
    """

    kind: Literal["hello"]
    protocol: int
    token: str = Field(max_length=200)
    client: str = Field(pattern=r"^[0-9a-f]{16}$")
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    elements: list[str] = Field(max_length=100)
    last_step: Count
    version: str = Field(max_length=100)
    model: bool


class Check(_Checked):
    """What a check of a client saw; null where it is infinite or not known. fs, K, Å³."""

    kind: Literal["check", "learn", "bye"]
    step: Count
    time_fs: Number
    temperature: Number | None
    max_u: Number | None
    n_above: Count
    threshold: Number | None
    volume: Number | None


class _Learn(Check):
    request: Annotated[int, Field(ge=1, lt=1 << 53)]
    neighborhoods: list[_Place] = Field(min_length=1, max_length=MOST_NEIGHBORHOODS)


class _Place(_Checked):
    atom: Count
    pbc: list[bool] = Field(min_length=3, max_length=3)
    whole: list[bool] = Field(min_length=3, max_length=3)


@dataclass(frozen=True)
class Neighborhood:
    """A part of a large box around one atom, which comes first.

    Attributes:
        atoms: the part.
        atom: id of the first atom in LAMMPS.
        whole: axes along which the box was not cut.
    """

    atoms: Atoms
    atom: int
    whole: tuple[bool, bool, bool]


@dataclass(frozen=True)
class Ask:
    """What a client wants learned.

    Attributes:
        request: number that grows with every request of a client.
        check: what the client saw.
        neighborhoods: at least one, the most uncertain atom's first.
    """

    request: int
    check: Check
    neighborhoods: tuple[Neighborhood, ...]


def read_hello(message: Message) -> Hello:
    """The first message of a client.

    Raises:
        MessageError: it is none.
    """
    return _checked(Hello, message.fields)


def read_check(message: Message) -> Check:
    """A "check" or "bye".

    Raises:
        MessageError: it is none.
    """
    return _checked(Check, message.fields)


def read_ask(message: Message) -> Ask:
    """A "learn".

    Raises:
        MessageError: a field is missing or wrong, an array does not fit, a number is not finite.
    """
    learn = _checked(_Learn, message.fields)
    neighborhoods = tuple(_neighborhood(k, place, message.arrays) for k, place in enumerate(learn.neighborhoods))
    return Ask(learn.request, learn, neighborhoods)


def refusal(neighborhood: Neighborhood, embedding: EmbeddingConfig, support: float) -> str:
    """Why no cell may be cut out of a neighborhood; empty where one may.

    Cells and their descriptors must not reach the faces where the box was cut, and a part of a box is never labelled
    as it is.
    """
    if all(neighborhood.whole):
        return ""
    if len(neighborhood.atoms) <= embedding.max_atoms:
        return (
            f"a neighborhood of {len(neighborhood.atoms)} atoms is no larger than a cell may be "
            f"({embedding.max_atoms}, embedding.max_atoms); raise radius of fix ideal"
        )
    growth = embedding.growth_attempts
    least = embedding.r_core + 0.5 * (growth // 2) + embedding.margin + (growth + 1) // 2 + support
    heights = neighborhood.atoms.cell.cellpar()[:3]
    for height, whole in zip(heights, neighborhood.whole, strict=True):
        if not whole and height < 2 * least:
            return f"a neighborhood of {height / 2:.4g} Å to both sides is too small; raise radius of fix ideal " + (
                f"to {least:.4g} (core, margin and reach of the descriptor)"
            )
    return ""


def _checked(model: type[_Model], fields: Mapping[str, object]) -> _Model:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:60]
        raise MessageError(f"field {where!r}: {first['msg']}") from None


def _neighborhood(k: int, place: _Place, arrays: Mapping[str, np.ndarray]) -> Neighborhood:
    positions = _array(arrays, f"{k}.positions", "float64", (-1, 3))
    if not len(positions):
        raise MessageError(f"neighborhood {k} has no atoms")
    numbers = _array(arrays, f"{k}.numbers", "int64", (len(positions),))
    cell = _array(arrays, f"{k}.cell", "float64", (3, 3))
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise MessageError(f"neighborhood {k} holds numbers that are not finite")
    if numbers.min() < 1 or numbers.max() > _LARGEST_NUMBER:
        raise MessageError(f"neighborhood {k} holds the atomic number {numbers.min()} or {numbers.max()}")
    if not abs(np.linalg.det(cell)) > 1e-3 or np.abs(cell).max() > 1e5 or np.abs(positions).max() > 1e6:
        raise MessageError(f"neighborhood {k} has no volume, or is larger than anything")
    atoms = Atoms(numbers, positions=positions, cell=cell, pbc=place.pbc)
    first, second, third = place.whole
    return Neighborhood(atoms, place.atom, (first, second, third))


def _array(arrays: Mapping[str, np.ndarray], name: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    array = arrays.get(name)
    if array is None:
        raise MessageError(f"the array {name!r} is missing")
    fits = array.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype.name != kind or not fits:
        raise MessageError(f"the array {name!r} is {array.dtype.name} of shape {array.shape}; wanted: {kind} {shape}")
    return array


def unknown_elements(elements: list[str], known: list[str]) -> str:
    """Names what a client has and the run does not know; empty where there is nothing."""
    strange = sorted(set(elements) - set(known))
    if not strange:
        return ""
    names = ", ".join(repr(symbol) for symbol in strange)
    if set(strange) - set(chemical_symbols[1:]):
        return f"{names}: no chemical symbol"
    return f"{names} is unknown to the run, which knows {', '.join(known)}; add structures with it to dataset.initial"
