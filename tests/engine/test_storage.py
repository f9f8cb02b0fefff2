"""Atomic writes, growing files, full disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ideal.engine.state_files import read_state, write_state
from ideal.engine.storage import AppendFile, write_atomically
from ideal.errors import IdealError


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.json", "one")
    write_atomically(tmp_path / "a.json", b"two")
    assert (tmp_path / "a.json").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_full_disk_names_path_and_remedy_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "a.json", "one")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(IdealError, match=r"a\.json: cannot be written \(No space left.*ideal-run resume"):
        write_atomically(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_append_to_a_full_device_names_the_file() -> None:
    log = AppendFile(Path("/dev/full"))
    with pytest.raises(IdealError, match=r"/dev/full: cannot be written \(No space left"):
        log.append("text\n")
    log.close()


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "a.json", "one")


def test_append_file_grows_and_is_cut_back(tmp_path: Path) -> None:
    log = AppendFile(tmp_path / "log")
    log.append("one\n")
    size = log.size
    log.append("two\nthr")
    log.truncate(size)
    log.append("three\n")
    log.sync()
    assert (tmp_path / "log").read_text() == "one\nthree\n"
    with pytest.raises(IdealError, match="has 10 bytes but the last checkpoint saw 11"):
        log.truncate(11)
    log.close()


def test_state_keeps_every_bit_and_type(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    state = {
        "positions": rng.normal(size=(5, 3)),
        "transposed": rng.normal(size=(4, 3)).T,
        "empty": np.zeros((0, 3)),
        "scalar": np.array(1.5),
        "weights": rng.normal(size=7).astype(np.float32),
        "mask": np.array([True, False]),
        "counts": np.array([1, 2**62], dtype=np.uint64),
        "rng": rng.bit_generator.state,
        "numbers": [1, 2.5, None, "text Å", True, float("inf"), 0.1 + 0.2],
        "nested": {"list": [{"deep": np.arange(3)}]},
        "numpy scalar": np.float64(0.1),
    }
    write_state(tmp_path / "state.safetensors", state)
    back = read_state(tmp_path / "state.safetensors")
    assert back.keys() == state.keys()
    for key in ("positions", "transposed", "empty", "scalar", "weights", "mask", "counts"):
        assert back[key].dtype == state[key].dtype and back[key].shape == state[key].shape
        assert np.array_equal(back[key], state[key])
    assert back["rng"] == state["rng"] and back["numbers"] == state["numbers"]
    assert np.array_equal(back["nested"]["list"][0]["deep"], np.arange(3))
    assert back["numpy scalar"] == 0.1


@settings(max_examples=10, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text().filter(lambda k: k != "$array"), inner),
    max_leaves=20,
))  # fmt: skip
def test_any_plain_state_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    write_state(path, {"value": value})
    assert read_state(path) == {"value": value}


@pytest.mark.parametrize("value", [object(), {1: "number as key"}, {"$array": 0}, {"a": b"bytes"}])
def test_state_refuses_what_it_cannot_keep(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError):
        write_state(tmp_path / "state.safetensors", {"value": value})
    assert not list(tmp_path.iterdir())


def test_damaged_state_names_the_file(tmp_path: Path) -> None:
    write_state(tmp_path / "state.safetensors", {"value": np.arange(100)})
    content = (tmp_path / "state.safetensors").read_bytes()
    (tmp_path / "state.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(IdealError, match=r"state\.safetensors: cannot be read"):
        read_state(tmp_path / "state.safetensors")
