"""A damaged description of matgl names the file and what to do, whatever is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ideal.errors import TrainingError
from ideal.models.m3gnet import M3GNetPotential

WRITTEN = {
    "@class": "Potential",
    "kwargs": {"model": {"@class": "M3GNet", "init_args": {"element_types": ["Li"]}}, "calc_repuls": False},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """What matgl writes with one entry replaced; None: taken out."""
    made: dict[str, Any] = json.loads(json.dumps(WRITTEN))
    *parents, last = path.split("/")
    part = made
    for name in parents:
        part = part[name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return made


@pytest.mark.parametrize(
    "content",
    [
        [],
        "Potential",
        {},
        changed("@class", None),
        changed("kwargs", None),
        changed("kwargs", [1, 2]),
        changed("kwargs/model", None),
        changed("kwargs/model", "M3GNet"),
        changed("kwargs/model/@class", None),
        changed("kwargs/model/init_args", None),
        changed("kwargs/model/init_args/element_types", None),
        changed("kwargs/model/init_args/element_types", 3),
    ],
)
def test_what_matgl_does_not_write(content: Any, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(content))
    torch.save({}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"model\.json: not what matgl writes .*; download the model again"):
        M3GNetPotential.load(tmp_path)


def test_arguments_that_matgl_does_not_know(tmp_path: Path) -> None:
    content = changed("kwargs/model/init_args", {"element_types": ["Li"], "is_intensive": False, "nblocks": "two"})
    (tmp_path / "model.json").write_text(json.dumps(content))
    torch.save({}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"model\.json: matgl cannot build this M3GNet .*; use the matgl version"):
        M3GNetPotential.load(tmp_path)


def test_a_state_that_is_no_dictionary(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(WRITTEN))
    torch.save([1, 2], tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"state\.pt: not a dictionary of arrays"):
        M3GNetPotential.load(tmp_path)
