"""Sockets: who may talk to the learner, and what of it reaches the run.

Each client has two threads, one that reads and one that writes, so that neither a slow client nor a training that takes
an hour holds anything up; the run itself is touched by its own thread alone, which takes what came from `inbox`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ideal.config_serve import ServeConfig
from ideal.errors import ConfigError
from ideal.lammps.serve.messages import PROTOCOL, Message, MessageError, MessageReader, encode
from ideal.lammps.serve.requests import Ask, Check, Hello, read_ask, read_check, read_hello, unknown_elements
from ideal.lammps.serve.token import same_token

HELLO_SECONDS = 10.0
"""How long somebody may take to say who they are."""

LONGEST_HELLO = 16 << 10
"""Bytes that are taken from somebody who has not shown the token."""

ALIVE_SECONDS = 5.0
"""Between two signs of life to a client that waits for an answer."""

REFUSALS_TOLD = 1.0
"""Seconds between two events about refused connections: a flood of them must not fill the disk."""


@dataclass(frozen=True)
class Learned:
    """What a client can get.

    Attributes:
        run: run directory, for messages.
        version: another one whenever distribution or weights are others.
        threshold: u above which an atom is uncertain.
        elements: that the run knows.
        distribution: content of ``uncertainty.safetensors``.
        model: content of ``model/model.safetensors``.
    """

    run: str
    version: str
    threshold: float
    elements: tuple[str, ...]
    distribution: bytes
    model: bytes


@dataclass(frozen=True)
class Arrival:
    """Something for the run: a client that came (`Hello`), tells (`Check`), asks (`Ask`) or left (text: why).

    A client that was refused has no name.
    """

    client: str
    address: str
    content: Hello | Check | Ask | str
    count: int = 1


class Connections:
    """Listens, and holds the connected clients.

    Args:
        config: address and bounds.
        token: the shared secret.
        learned: what there is to get, at any moment; called by the threads of the clients.
        port: in place of the configured one where that is 0; another is taken when it is not free.

    Attributes:
        inbox: what has arrived.
        host, port: where it listens.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, config: ServeConfig, token: str, learned: Callable[[], Learned], port: int = 0) -> None:
        self.inbox: queue.Queue[Arrival] = queue.Queue(maxsize=10000)
        self._config, self._token, self._learned = config, token, learned
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()
        self._guests = 0
        self._refused, self._refusal_told = 0, -REFUSALS_TOLD
        self._socket = _listen(config.host, config.port, port)
        self.host, self.port = config.host, int(self._socket.getsockname()[1])
        self._closed = False
        threading.Thread(target=self._accept, name="serve", daemon=True).start()

    @property
    def connected(self) -> bool:
        """Whether any client is here."""
        with self._lock:
            return bool(self._sessions)

    def wants_model(self, client: str) -> bool:
        """Whether a client is here and takes weights."""
        with self._lock:
            session = self._sessions.get(client)
        return session is not None and session.hello.model

    def answer(self, client: str, request: int, labels: int, text: str, stop: bool = False) -> bool:
        """Answer a request with all that is known now; false, and nothing happens, when the client is not here.

        Args:
            client: who asked.
            request: its number.
            labels: how many of its cells were learned.
            text: for the client's log.
            stop: whether the client had better not go on.
        """
        with self._lock:
            session = self._sessions.get(client)
        if session is None:
            return False
        session.update(self._learned(), request, labels, text, stop)
        return True

    def close(self) -> None:
        """Stop listening and close every connection."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.close()

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- threads ------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, address = self._socket.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.1)  # no descriptor left, as a rule
                continue
            place = f"{address[0]}:{address[1]}"
            with self._lock:
                full = self._guests >= 2 * self._config.clients
                self._guests += not full
            if full:
                connection.close()
                self._refuse(place, "too many connections (serve.clients)")
                continue
            threading.Thread(target=self._serve, args=(connection, place), name="serve client", daemon=True).start()

    def _serve(self, connection: socket.socket, place: str) -> None:
        """One connection from its beginning to its end."""
        session, why = None, "the connection ended"
        try:
            with connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                try:
                    session = self._welcome(connection, place)
                    why = self._listen_to(session, place)
                except MessageError as error:
                    why = str(error)
                    _say_refused(connection, session, why)
                except OSError as error:
                    why = error.strerror or type(error).__name__
        finally:
            with self._lock:
                self._guests -= 1
                is_current = session is not None and self._sessions.get(session.hello.client) is session
                if is_current and session is not None:
                    del self._sessions[session.hello.client]
            if session is None:
                self._refuse(place, why)
            else:
                session.close()
                if is_current and not self._closed:
                    self.inbox.put(Arrival(session.hello.client, place, why))

    def _welcome(self, connection: socket.socket, place: str) -> _Session:
        """Read the hello and let the client in.

        Raises:
            MessageError: it may not come in.
        """
        reader = MessageReader(LONGEST_HELLO)
        hello = read_hello(_first(connection, reader))
        if not same_token(hello.token, self._token):
            raise MessageError("wrong token; give the token-file that `ideal-run serve` printed")
        if hello.protocol != PROTOCOL:
            raise MessageError(
                f"protocol {hello.protocol}, here {PROTOCOL}; build this version's plugin: `ideal-run plugin build`"
            )
        learned = self._learned()
        strange = unknown_elements(hello.elements, list(learned.elements))
        if strange:
            raise MessageError(strange)
        reader.limit = self._config.max_message << 20
        session = _Session(connection, reader, hello)
        with self._lock:
            before = self._sessions.get(hello.client)
            if before is None and len(self._sessions) >= self._config.clients:
                raise MessageError(f"{self._config.clients} clients are here already (serve.clients)")
            session.welcome(learned)  # before anything else can be sent
            self._sessions[hello.client] = session
        if before is not None:
            before.close()  # its end was not noticed yet
        self.inbox.put(Arrival(hello.client, place, hello))
        return session

    def _listen_to(self, session: _Session, place: str) -> str:
        """Pass on what a client says; returns why it ended.

        Raises:
            MessageError: it said something else than it may.
        """
        data = b""
        while True:
            for message in session.reader.feed(data):
                client = session.hello.client
                if message.kind == "learn":
                    if session.waits:
                        raise MessageError("a request before the last one was answered")
                    session.waits = True
                    self.inbox.put(Arrival(client, place, read_ask(message)))
                elif message.kind in ("check", "bye"):
                    with contextlib.suppress(queue.Full):
                        self.inbox.put_nowait(Arrival(client, place, read_check(message)))
                else:
                    raise MessageError(f"a message {message.kind[:20]!r}; valid: learn, check, bye")
            data = session.connection.recv(1 << 16)
            if not data:
                return "the connection ended"

    def _refuse(self, place: str, why: str) -> None:
        with self._lock:
            self._refused += 1
            now = time.monotonic()
            if self._closed or now - self._refusal_told < REFUSALS_TOLD:
                return
            count, self._refused, self._refusal_told = self._refused, 0, now
        with contextlib.suppress(queue.Full):
            self.inbox.put_nowait(Arrival("", place, why, count))


class _Session:
    """One connected client; its writer has a thread of its own."""

    def __init__(self, connection: socket.socket, reader: MessageReader, hello: Hello) -> None:
        self.connection, self.reader, self.hello = connection, reader, hello
        self.waits = False
        self._version = hello.version
        self._out: queue.Queue[bytes | None] = queue.Queue()
        self._lock = threading.Lock()
        threading.Thread(target=self._write, name="serve answer", daemon=True).start()

    def welcome(self, learned: Learned) -> None:
        """Tell how things stand, and bring the client up to date."""
        fresh = learned.version != self._version
        self._out.put(encode("welcome", {"protocol": PROTOCOL, "run": learned.run, "update": fresh}))
        if fresh:
            self.update(learned, 0, 0, "the run's present state", False)

    def update(self, learned: Learned, request: int, labels: int, text: str, stop: bool) -> None:
        """Send threshold and, where the client has other ones, distribution and weights."""
        arrays: dict[str, np.ndarray] = {}
        with self._lock:
            if learned.version != self._version:
                arrays["distribution"] = np.frombuffer(learned.distribution, dtype=np.uint8)
                if self.hello.model:
                    arrays["model"] = np.frombuffer(learned.model, dtype=np.uint8)
            self._version = learned.version
            if request:
                self.waits = False
            fields: dict[str, Any] = {
                "request": request,
                "version": learned.version,
                "threshold": learned.threshold,
                "labels": labels,
                "text": text,
                "stop": stop,
            }
            self._out.put(encode("update", fields, arrays))

    def close(self) -> None:
        """End the connection; whatever waits in its threads comes back."""
        self._out.put(None)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                try:
                    data = self._out.get(timeout=ALIVE_SECONDS)
                except queue.Empty:
                    if self.waits:
                        self.connection.sendall(encode("alive", {}))
                    continue
                if data is None:
                    return
                self.connection.sendall(data)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _first(connection: socket.socket, reader: MessageReader) -> Message:
    """The first message, within `HELLO_SECONDS`.

    Raises:
        MessageError: it did not come, or came with more.
    """
    deadline = time.monotonic() + HELLO_SECONDS
    while True:
        rest = deadline - time.monotonic()
        if rest <= 0 or not select.select([connection], [], [], rest)[0]:
            raise MessageError(f"said nothing for {HELLO_SECONDS:g} s")
        data = connection.recv(1 << 12)
        if not data:
            raise MessageError("left without a word")
        messages = reader.feed(data)
        if len(messages) == 1:
            return messages[0]
        if messages:
            raise MessageError("more than a hello before the welcome")


def _say_refused(connection: socket.socket, session: _Session | None, why: str) -> None:
    """Tell a client why, if it takes it at once; one that was let in gets it from its own thread."""
    if session is not None:
        session._out.put(encode("refused", {"text": why}))
        session._out.put(None)
        time.sleep(0.2)
        return
    with contextlib.suppress(OSError):
        connection.settimeout(1.0)
        connection.sendall(encode("refused", {"text": why}))
        connection.shutdown(socket.SHUT_WR)
        for _ in range(64):  # what is still on its way would otherwise reset the connection
            if not connection.recv(1 << 12):
                break


def check_address(config: ServeConfig) -> None:
    """Raise what `Connections` would, before a run has spent its first minutes.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    _listen(config.host, config.port, 0).close()


def _listen(host: str, wanted: int, earlier: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in dict.fromkeys([wanted or earlier, wanted]):
        try:
            return socket.create_server((host, port), family=family, backlog=16)
        except OSError as error:
            problem = os.strerror(error.errno) if error.errno else str(error)
    raise ConfigError(
        f"serve.host {host}, serve.port {wanted}: cannot be listened on ({problem}); write port: 0 for a free one"
    )
