"""Messages between the sampler and the ranks of LAMMPS: a JSON header and NumPy arrays over a socket, never code."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

TOKEN = "IDEAL_LAMMPS_TOKEN"
"""Environment variable with what a rank says first."""

Arrays = dict[str, np.ndarray]

_LENGTH = struct.Struct("<Q")
_LARGEST_HEADER = 1 << 24


class ClosedError(Exception):
    """The other side has closed the connection."""


def send(connection: socket.socket, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Send a message.

    Args:
        connection: a stream socket.
        header: what JSON can hold.
        arrays: numbers of any shape.

    Raises:
        OSError: the connection is broken.
    """
    values = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    layout = [[name, array.dtype.str, list(array.shape)] for name, array in values.items()]
    text = json.dumps({"header": header, "arrays": layout}).encode()
    connection.sendall(_LENGTH.pack(len(text)) + text)
    for array in values.values():
        connection.sendall(array.tobytes())


def receive(connection: socket.socket) -> tuple[dict[str, Any], Arrays]:
    """The next message.

    Raises:
        ClosedError: the other side is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > _LARGEST_HEADER:
        raise ClosedError(f"a header of {length} bytes is no message")
    message = json.loads(_exactly(connection, length))
    arrays: Arrays = {}
    for name, kind, shape in message["arrays"]:
        dtype = np.dtype(kind)
        size = int(np.prod(shape)) * dtype.itemsize
        arrays[name] = np.frombuffer(_exactly(connection, size), dtype=dtype).reshape(shape)
    return message["header"], arrays


def _exactly(connection: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        try:
            read = connection.recv_into(view)
        except ConnectionError as error:
            raise ClosedError(str(error)) from error
        if read == 0:
            raise ClosedError("the connection was closed")
        view = view[read:]
    return buffer
