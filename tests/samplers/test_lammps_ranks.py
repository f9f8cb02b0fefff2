"""Who may pass for a rank of LAMMPS."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import pytest

from ideal.lammps.ranks import _hello
from ideal.lammps.wire import send

TOKEN = "f" * 64


def test_a_rank_says_the_token_and_its_number() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as theirs:
        send(theirs, {"token": TOKEN, "rank": 3})
        with server.accept()[0] as ours:
            assert _hello(ours, TOKEN) == 3


@pytest.mark.parametrize(
    "message",
    [
        {"header": {"token": "0" * 64, "rank": 0}, "arrays": []},
        {"header": {"token": "é", "rank": 0}, "arrays": []},
        {"header": {"token": TOKEN}, "arrays": []},
        {"header": {"token": TOKEN, "rank": None}, "arrays": []},
        {"header": [], "arrays": []},
        {"header": {}, "arrays": [["x", "<f8", [1 << 60]]]},
        {"header": {}, "arrays": [["x", "<f8", [1 << 40, 1 << 10]]]},
        {"header": {}, "arrays": [["x", "no type", [1]]]},
        {"header": {}, "arrays": [["x", "O", [0]]]},
        {"header": {}, "arrays": 3},
        [],
        {},
    ],
)
def test_strangers_are_sent_away(message: Any) -> None:
    text = json.dumps(message).encode()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(struct.pack("<Q", len(text)) + text)
        theirs.shutdown(socket.SHUT_WR)
        assert _hello(ours, TOKEN) is None
