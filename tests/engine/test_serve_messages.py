"""The message reader against everything that a network may bring."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from ideal.config import EmbeddingConfig
from ideal.lammps.serve.messages import Message, MessageError, MessageReader, decode, encode
from ideal.lammps.serve.requests import Neighborhood, read_ask, read_check, read_hello, refusal, unknown_elements

from .serve_client import uncertain_box

LIMIT = 1 << 16


def ask(**more: Any) -> bytes:
    """A request as a client sends it."""
    box = uncertain_box(0)[:5]
    check = {"step": 4, "time_fs": 8.0, "temperature": 3e2, "max_u": None, "n_above": 2, "threshold": 2.0}
    place = {"atom": 3, "pbc": [True] * 3, "whole": [True, False, True]}
    fields = {**check, "volume": None, "request": 1, "neighborhoods": [place], **more}
    arrays = {"0.positions": box.positions, "0.numbers": box.numbers.astype(np.int64), "0.cell": box.cell.array}
    return encode("learn", fields, arrays)


def read_all(message: Message) -> None:
    """Whatever a message says, it is a record or a `MessageError`."""
    for read in (read_hello, read_check, read_ask):
        try:
            read(message)
        except MessageError:
            continue


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.text(), st.dictionaries(st.text(), values, max_size=3), st.binary(max_size=40)), max_size=3),
    st.integers(1, 50),
)
def test_messages_survive_any_cutting(contents: list[tuple[str, dict[str, Any], bytes]], size: int) -> None:
    contents = [(kind, {**fields, "kind": kind}, data) for kind, fields, data in contents]
    stream = b"".join(encode(k, f, {"a": np.frombuffer(d, np.uint8)}) for k, f, d in contents)
    reader, messages = MessageReader(LIMIT), []
    for begin in range(0, len(stream), size):
        messages += reader.feed(stream[begin : begin + size])
    assert [(m.kind, m.fields, m.arrays["a"].tobytes()) for m in messages] == contents


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_messages_or_refused(data: bytes) -> None:
    for stream in (data, struct.pack("<Q", len(data)) + data, struct.pack("<QQ", len(data) + 8, len(data)) + data):
        try:
            messages = MessageReader(LIMIT).feed(stream)
        except MessageError:
            continue
        for message in messages:
            read_all(message)


@settings(max_examples=50, deadline=None)
@given(values, st.sampled_from(["hello", "check", "learn", "bye"]))
def test_any_fields_are_records_or_refused(fields: Any, kind: str) -> None:
    text = json.dumps({"kind": kind, "neighborhoods": [fields], "step": fields})
    read_all(decode(save({}, {"message": text})))
    if isinstance(fields, dict):
        read_all(Message({**fields, "kind": kind}))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, len(ask()) - 1), st.integers(1, 255))
def test_a_damaged_request_is_a_record_or_refused(place: int, change: int) -> None:
    damaged = bytearray(ask())
    damaged[place] ^= change
    try:
        for message in MessageReader(LIMIT).feed(bytes(damaged)):
            read_all(message)
    except MessageError:
        pass


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "too short"),
        (struct.pack("<Q", 1 << 62), "does not fit"),
        (struct.pack("<Q", 2) + b"{}", "no message"),
        (struct.pack("<Q", 100000) + b"[" * 100000, "no message"),
        (save({}, {"message": "[1]"}), "without a kind"),
        (save({}, {"message": '{"kind": NaN}'}), "no message"),
        (save({}, {"message": '{"kind": 3}'}), "without a kind"),
        (save({"a": np.zeros(2, np.float16)}, {"message": '{"kind": "x"}'}), "float16"),
    ],
)
def test_reasons_of_refusal(body: bytes, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        decode(body)


def test_a_message_that_is_too_long_is_not_stored() -> None:
    reader = MessageReader(100)
    with pytest.raises(MessageError, match="at most 100"):
        reader.feed(struct.pack("<Q", 101))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"request": 0}, "request"),
        ({"step": -1}, "step"),
        ({"step": "4"}, "step"),
        ({"neighborhoods": []}, "neighborhoods"),
        ({"neighborhoods": [{"atom": 1, "pbc": [1, 1, 1], "whole": [True] * 3}]}, "pbc"),
        ({"neighborhoods": [{"atom": 1, "pbc": [True] * 3, "whole": [True] * 3}] * 2}, "missing"),
        ({"more": 1}, "more"),
    ],
)
def test_requests_that_are_refused(changes: dict[str, Any], reason: str) -> None:
    (message,) = MessageReader(LIMIT).feed(ask(**changes))
    with pytest.raises(MessageError, match=reason):
        read_ask(message)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("0.positions", np.full((5, 3), np.inf), "not finite"),
        ("0.positions", np.zeros((0, 3)), "no atoms"),
        ("0.positions", np.zeros((5, 2)), "shape"),
        ("0.numbers", np.zeros(5, np.int64), "atomic number 0"),
        ("0.numbers", np.full(5, 200), "200"),
        ("0.numbers", np.ones(4, np.int64), "shape"),
        ("0.cell", np.zeros((3, 3)), "no volume"),
        ("0.cell", np.eye(3) * 1e9, "larger than anything"),
    ],
)
def test_arrays_that_are_refused(name: str, array: np.ndarray, reason: str) -> None:
    (message,) = MessageReader(LIMIT).feed(ask())
    with pytest.raises(MessageError, match=reason):
        read_ask(Message(message.fields, {**message.arrays, name: array}))


def test_neighborhoods_that_are_too_small() -> None:
    config, box = EmbeddingConfig(max_atoms=50), uncertain_box(1)
    assert not refusal(Neighborhood(box, 1, (True, True, True)), config, 5.0)
    assert "to both sides is too small" in refusal(Neighborhood(box, 1, (False, True, True)), config, 5.0)
    assert not refusal(Neighborhood(box.repeat(3), 1, (False, True, True)), config, 5.0)
    assert "no larger than a cell" in refusal(Neighborhood(box[:20], 1, (True, False, True)), config, 5.0)


def test_unknown_elements_are_named() -> None:
    assert not unknown_elements(["Cu"], ["Cu", "O"])
    assert "add structures" in unknown_elements(["Cu", "Al"], ["Cu"])
    assert "no chemical symbol" in unknown_elements(["Q"], ["Cu"])
