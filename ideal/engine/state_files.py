"""A nested state (numbers, text, arrays, lists, dictionaries) as one safetensors file.

The arrays are tensors; the rest is one JSON text in the header, where ``{"$array": name}`` stands for an array. Both
keep every bit of a float64, and neither can run code when read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from ideal.engine.storage import write_atomically
from ideal.errors import IdealError

_KEY = "state"


def write_state(path: Path, state: Mapping[str, Any], durable: bool = True) -> None:
    """Write a state atomically.

    Args:
        path: the file.
        state: dictionaries with text keys, lists, arrays, NumPy or Python numbers, text, None.
        durable: also survive a power cut; not needed where the caller syncs the whole folder.

    Raises:
        TypeError: a value of another type.
        IdealError: the disk is full.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_pack(state, arrays))
    write_atomically(path, save(arrays, metadata={_KEY: text}), durable)


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote; tuples come back as lists, NumPy scalars as Python numbers.

    Raises:
        IdealError: the file is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            text = (file.metadata() or {})[_KEY]
    except Exception as error:
        raise IdealError(f"{path}: cannot be read ({error}); resume from an older checkpoint") from error
    state = _unpack(json.loads(text), arrays)
    assert isinstance(state, dict)
    return state


def _pack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"{len(arrays):06d}"
        arrays[name] = np.array(value, order="C", copy=True)
        return {"$array": name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {_text(key): _pack(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, arrays) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state holds numbers, text, arrays, lists and dictionaries, not {type(value).__name__}")


def _text(key: Any) -> str:
    if not isinstance(key, str) or key == "$array":
        raise TypeError(f"a state's keys are text other than '$array', not {key!r}")
    return key


def _unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$array"}:
            return arrays[value["$array"]]
        return {key: _unpack(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    return value
