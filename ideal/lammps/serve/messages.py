"""What travels between ``fix ideal`` and the learner, in both directions.

A message is 8 bytes, the length of the rest (unsigned, little endian), then one safetensors file: JSON under the key
``message`` of its header, and arrays of float64, int64 or bytes. Nothing in it can run code. The length is held
against a bound before anything is stored, and every field against its type before anything is used.

    LAMMPS                                  learner
    hello   token, who, what it has         welcome  run, version, threshold; then update where the version differs
    check   step, largest u (now and then)
    learn   request number, neighborhoods   alive    every few seconds while it works
                                            update   version, threshold, distribution, weights
    bye     the last run is over            refused  why; the connection is closed
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ideal.errors import IdealError

PROTOCOL = 1
"""Both sides name it; another number is refused."""

LONGEST_HEADER = 1 << 20
"""Bytes of JSON in a message at most."""

_LENGTH = struct.Struct("<Q")
_TYPES = {"float64", "int64", "uint8"}


class MessageError(IdealError):
    """What was received is no message, or not one that is expected here."""


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        fields: JSON object; ``kind`` says what it is.
        arrays: by name.
    """

    fields: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it is: hello, check, learn, bye, welcome, alive, update, refused."""
        return str(self.fields["kind"])


def encode(kind: str, fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """The bytes of a message, length included.

    Args:
        kind: what it is.
        fields: JSON types.
        arrays: float64, int64 or uint8.

    Example:
        >>> MessageReader(limit=1000).feed(encode("alive", {}))[0].kind
        'alive'
    """
    text = json.dumps({"kind": kind, **fields}, allow_nan=False)
    body = save({name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}, {"message": text})
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """The message in the bytes behind the length.

    Raises:
        MessageError: they are none.
    """
    if len(body) < _LENGTH.size:
        raise MessageError(f"a message of {len(body)} bytes is too short for its header")
    (length,) = _LENGTH.unpack_from(body)
    if length > min(LONGEST_HEADER, len(body) - _LENGTH.size):
        raise MessageError(f"a header of {length} bytes does not fit a message of {len(body)}")
    try:
        header = json.loads(body[_LENGTH.size : _LENGTH.size + length])
        fields = json.loads(header["__metadata__"]["message"], parse_constant=_refuse_constant)
        arrays = load(bytes(body))
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError, OverflowError) as error:
        raise MessageError(f"this is no message: {type(error).__name__}: {str(error)[:100]}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise MessageError("a message without a kind")
    for name, array in arrays.items():
        if array.dtype.name not in _TYPES:
            raise MessageError(f"array {name[:40]!r} of type {array.dtype.name}; valid: {', '.join(sorted(_TYPES))}")
    return Message(fields, arrays)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


class MessageReader:
    """Cuts a stream of bytes into messages.

    Args:
        limit: largest number of bytes of a message.

    Attributes:
        limit: may be raised once the sender is known.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete with these bytes, in their order.

        Raises:
            MessageError: a message is too long, or none; the stream cannot be read on.
        """
        self._buffer += data
        return list(self._complete())

    def _complete(self) -> Iterator[Message]:
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > self.limit:
                raise MessageError(f"a message of {length} bytes; at most {self.limit} are taken")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield decode(body)
