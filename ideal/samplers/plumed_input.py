"""PLUMED input as one action a line, with the files that it writes in one folder.

PLUMED writes relative to the process' working folder, which belongs to the user and to all trajectories of a run. So
the names of files become absolute here, and those that PLUMED would choose are given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ideal.errors import ConfigError

_CHOSEN_BY_PLUMED = {"METAD": "HILLS", "OPES_METAD": "KERNELS", "OPES_METAD_EXPLORE": "KERNELS"}
_READ_ONLY = ("INCLUDE", "EXTERNAL", "READ", "LOAD")
_FILE = re.compile(r"(?<!\S)([A-Z_]*FILE)=([^\s{}]+)")
_ALL_DIGITS = "FMT=%25.17g"


def prepare_input(lines: Sequence[str], folder: Path) -> list[str]:
    """The actions, ready for PLUMED.

    Comments are left out, blocks (``METAD ...`` to ``... METAD``) joined, relative names of files put into ``folder``.
    Hills are written with all digits, so that a resumed run reads what the interrupted one had; every file is flushed
    at every step, so that a checkpoint finds it whole.

    Args:
        lines: as the user wrote them.
        folder: absolute.

    Raises:
        ConfigError: a block does not end; an action writes files whose names are not known.

    Example:
        >>> prepare_input(["d: DISTANCE ATOMS=1,2  # nm", "PRINT ARG=d FILE=COLVAR"], Path("/run/md.plumed"))
        ['d: DISTANCE ATOMS=1,2', 'PRINT ARG=d FILE=/run/md.plumed/COLVAR', 'FLUSH STRIDE=1']
    """
    return [*(_place(action, folder) for action in _actions(lines)), "FLUSH STRIDE=1"]


def _actions(lines: Sequence[str]) -> list[str]:
    """Every action on a line of its own."""
    actions: list[str] = []
    block: list[str] | None = None
    for line in lines:
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if block is not None:
            if words[0] == "...":
                actions.append(" ".join(block))
                block = None
            else:
                block += words
        elif words[-1] == "...":
            block = words[:-1]
        elif words == ["ENDPLUMED"]:
            break
        else:
            actions.append(" ".join(words))
    if block is not None:
        raise ConfigError(f"sampler.input: the block {' '.join(block[:3])} ... has no end; close it with a line '...'")
    return actions


def _place(action: str, folder: Path) -> str:
    words = action.split()
    name = words[1] if words[0].endswith(":") and len(words) > 1 else words[0]
    if name in _READ_ONLY:
        return action
    if name == "PBMETAD" and not _FILE.search(action):
        raise ConfigError("sampler.input: PBMETAD needs FILE=..., one name for each argument")
    if name in _CHOSEN_BY_PLUMED and not re.search(r"(?<!\S)FILE=", action):
        action += f" FILE={_CHOSEN_BY_PLUMED[name]}"
    if name == "METAD" and "FMT=" not in action:
        action += f" {_ALL_DIGITS}"
    return _FILE.sub(lambda match: f"{match[1]}={_absolute(match[2], folder)}", action)


def _absolute(names: str, folder: Path) -> str:
    placed = ",".join(str(folder / name) for name in names.split(","))
    return f"{{{placed}}}" if " " in placed else placed
