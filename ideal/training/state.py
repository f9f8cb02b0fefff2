"""The trainer's memory as plain arrays, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ideal.errors import TrainingError
from ideal.records import Label

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def pack_optimizer(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """Step counts and moments by parameter name; parameters that never had a gradient are left out."""
    packed: dict[str, Any] = {}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter)
        if state:
            packed[f"{name}/step"] = float(state["step"])
            for moment in _MOMENTS:
                packed[f"{name}/{moment}"] = state[moment].detach().cpu().numpy().copy()
    return packed


def unpack_optimizer(
    packed: Mapping[str, Any], optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> None:
    """Put back what `pack_optimizer` gave.

    Raises:
        TrainingError: moments of another model.
    """
    optimizer.state.clear()
    for name in sorted({key.rpartition("/")[0] for key in packed}):
        parameter = parameters.get(name)
        if parameter is None or np.shape(packed[f"{name}/exp_avg"]) != tuple(parameter.shape):
            raise TrainingError(f"the checkpoint's optimizer state for {name!r} does not fit this model; start anew")
        state: dict[str, Any] = {"step": torch.tensor(float(packed[f"{name}/step"]))}
        for moment in _MOMENTS:
            array = np.array(packed[f"{name}/{moment}"])
            state[moment] = torch.from_numpy(array).to(dtype=parameter.dtype, device=parameter.device)
        optimizer.state[parameter] = state


def pack_labels(labels: Sequence[Label]) -> dict[str, Any]:
    """Labels as concatenated arrays; what training does not need (code, time, info but the core) is left out."""
    text = "\n".join(label.key for label in labels).encode()
    cores = [np.isin(np.arange(len(label.atoms)), list(label.info.get("core") or ())) for label in labels]
    stresses = [np.full(6, np.nan) if label.stress is None else label.stress for label in labels]
    return {
        "keys": np.frombuffer(text, dtype=np.uint8).copy(),
        "sizes": np.array([len(label.atoms) for label in labels], dtype=np.int64),
        "numbers": np.concatenate([np.zeros(0, np.int64), *(label.atoms.numbers for label in labels)]),
        "positions": np.concatenate([np.zeros((0, 3)), *(label.atoms.positions for label in labels)]),
        "cells": np.array([label.atoms.cell.array for label in labels]).reshape(-1, 3, 3),
        "pbc": np.array([label.atoms.pbc for label in labels], dtype=np.uint8).reshape(-1, 3),
        "cores": np.concatenate([np.zeros(0, np.uint8), *(core.astype(np.uint8) for core in cores)]),
        "energies": np.array([label.energy for label in labels], dtype=np.float64),
        "forces": np.concatenate([np.zeros((0, 3)), *(label.forces for label in labels)]),
        "stresses": np.array(stresses, dtype=np.float64).reshape(-1, 6),
    }


def unpack_labels(packed: Mapping[str, Any]) -> list[Label]:
    """The labels that `pack_labels` was given."""
    text = np.asarray(packed["keys"], dtype=np.uint8).tobytes().decode()
    keys = text.split("\n") if len(packed["sizes"]) else []
    labels, start = [], 0
    for i, (key, size) in enumerate(zip(keys, packed["sizes"], strict=True)):
        part = slice(start, start + int(size))
        start = part.stop
        stress = np.array(packed["stresses"][i], dtype=np.float64)
        core = np.flatnonzero(packed["cores"][part]).tolist()
        atoms = Atoms(
            numbers=packed["numbers"][part],
            positions=packed["positions"][part],
            cell=packed["cells"][i],
            pbc=np.asarray(packed["pbc"][i], dtype=bool),
        )
        labels.append(
            Label(
                key=key,
                atoms=atoms,
                energy=float(packed["energies"][i]),
                forces=np.array(packed["forces"][part], dtype=np.float64),
                stress=None if np.isnan(stress).any() else stress,
                code="",
                info={"core": core} if core else {},
            )
        )
    return labels


def with_prefix(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Every key with ``prefix/`` in front."""
    return {f"{prefix}/{key}": value for key, value in values.items()}


def without_prefix(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries whose key starts with ``prefix/``, that part removed."""
    return {key[len(prefix) + 1 :]: value for key, value in values.items() if key.startswith(f"{prefix}/")}
