"""A run whose trajectories are moved by LAMMPS: the engine's loop with clients in the place of samplers.

    client asks -> its neighborhoods open cells -> made, labelled, learned, checkpoint -> answered

Everything between is the engine's, concurrent mode: several clients may wait at a time. What a client asked for is in
a checkpoint before its cells are made, so a learner that was killed goes on with it when it is started again, whether
the client is there or not; the client sends its request again when it is back and gets the answer at once. A client
is answered after the checkpoint that holds what it gets.
"""

from __future__ import annotations

import contextlib
import queue
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from ideal.config import Config, MolecularDynamicsConfig, TrajectoryConfig
from ideal.config_serve import ServeConfig
from ideal.engine import engine_state
from ideal.engine.asking import Asker
from ideal.engine.engine import Engine
from ideal.engine.events import Check as CheckEvent
from ideal.engine.events import Embedded, Event, LabelFailed, TrajectoryFinished
from ideal.engine.journal import Listener
from ideal.engine.learner import Learner
from ideal.engine.run_directory import RunDirectory
from ideal.engine.startup import StartingPoint
from ideal.engine.trajectory import Trajectory, TrajectoryStatus
from ideal.errors import ConfigError, UncertaintyError
from ideal.lammps.serve.asker import NeighborhoodAsker
from ideal.lammps.serve.client_sampler import ClientSampler
from ideal.lammps.serve.connections import Arrival, Connections, Learned, check_address
from ideal.lammps.serve.events import ClientAnswered, ClientConnected, ClientLeft, ClientRefused, Serving
from ideal.lammps.serve.requests import Ask, Check, Hello, refusal
from ideal.lammps.serve.token import TOKEN_FILE, make_token

RUNNING, WAITING = TrajectoryStatus.RUNNING, TrajectoryStatus.WAITING
FINISHED, FAILED = TrajectoryStatus.FINISHED, TrajectoryStatus.FAILED

ADDRESS_FILE = "serve.json"
"""Where the run directory says on which address it listened last."""

IDLE = 0.2
"""Seconds between two looks at what is not told at once: cells, labels, a stop request."""

CHECKS_TOLD = 10.0
"""Seconds between two checks of a client that become events, unless atoms are uncertain."""


def served(config: Config) -> Config:
    """A configuration as a served run needs it: with a section ``serve``, concurrent, without audits.

    An audit draws from all environments that a run holds for certain, and a client sends the uncertain ones alone.
    """
    selection = config.selection.model_copy(update={"audit": 0.0})
    engine = config.engine.model_copy(update={"mode": "concurrent"})
    update = {"serve": config.serve or ServeConfig(), "selection": selection, "engine": engine}
    return config.model_copy(update=update)


class ServedRun(Engine):
    """Runs a configuration with a section ``serve``; `create`, `resume` and `run` are the engine's.

    Example:
        >>> summary = ServedRun.create(served(load_config("config.yaml")), "runs/lithium").run()  # until Ctrl-C
    """

    def __init__(self, config: Config, run_directory: RunDirectory, listener: Listener | None = None) -> None:
        super().__init__(config, run_directory, self._hear)
        self._listener = listener
        if config.serve is None:
            run_directory.close()
            raise ConfigError(f"{run_directory.path}: is no served run; continue it with `ideal-run resume`")
        self._serve = config.serve
        self._answer_to: set[str] = set()  # names of trajectories whose client waits for an answer
        self._later: dict[str, Ask] = {}  # of clients that ask anew while an earlier request is worked on
        self._told: dict[str, float] = {}
        self._visited = False  # by any client in this session
        self._setbacks: dict[str, str] = {}  # what came to nothing since a trajectory asked last
        self._now: Learned

    def _hear(self, event: Event) -> None:
        """Note what a client is told when nothing was learned of its request."""
        if isinstance(event, Embedded) and not event.accepted:
            self._setbacks[event.trajectory] = f"no cell for atom {event.atom}: {event.reason}"
        elif isinstance(event, LabelFailed):
            self._setbacks[event.trajectory] = f"a label failed: {event.cause}"
        if self._listener is not None:
            self._listener(event)

    # --- what is not the engine's -------------------------------------------------------------------------------------

    def _begin(self) -> None:
        check_address(self._serve)
        super()._begin()

    @property
    def _planned(self) -> dict[str, int]:
        return {}

    def _make_asker(self, learner: Learner) -> Asker:
        return NeighborhoodAsker(
            self.config, learner, self._auditor, self._budget, self._calculations, self._journal, self._pool
        )

    def _make_trajectories(self, learner: Learner, start: StartingPoint) -> list[Trajectory]:
        """Those of the latest checkpoint; clients that come add theirs."""
        self._elements = tuple(learner.potential.elements)
        folder = self._checkpoints.latest()
        states = engine_state.read_checkpoint(folder)["trajectories"] if folder else {}
        return [_trajectory(name, state["sampler"]["client"]) for name, state in states.items()]

    def _loop(self) -> None:
        """Serve until every client has said good-bye (``serve.finish``), or until Ctrl-C."""
        self._publish()
        token = make_token(self.directory.path / TOKEN_FILE)
        earlier = (self.directory.read_json(ADDRESS_FILE) or {}).get("port", 0)
        with Connections(self._serve, token, lambda: self._now, earlier) as self._connections:
            host, port = self._connections.host, self._connections.port
            self.directory.write_json(ADDRESS_FILE, {"host": host, "port": port, "token_file": TOKEN_FILE})
            self._journal.tell(Serving(host, port, self._elements, self._learned.threshold))
            while not self._is_over():
                self._take_in()
                self._calculations.poll()
                self._turns.take_and_learn()
                self._answer()
                self._status("running", now=False)
                self._stop_if_asked()

    def _is_over(self) -> bool:
        if not (self._serve.finish and self._visited):
            return False
        if self._connections.connected or not self._connections.inbox.empty():
            return False
        return bool(self._trajectories) and all(t.status in (FINISHED, FAILED) for t in self._trajectories)

    # --- in -----------------------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        """Take what clients have sent, after a short wait for it, or for cells and labels."""
        inbox = self._connections.inbox
        waiting = [trajectory for trajectory in self._trajectories if trajectory.status is WAITING]
        with contextlib.suppress(queue.Empty):
            if not waiting:
                self._arrived(inbox.get(timeout=IDLE))
            elif inbox.empty():
                opened = next((trajectory for trajectory in waiting if trajectory.open_cells), None)
                if opened is not None:
                    self._requests.wait(opened, IDLE)
                else:
                    with self._journal.times.stage("labelling_wait"):
                        self._calculations.wait(IDLE)
            for _ in range(inbox.qsize()):  # not what comes meanwhile: a client that never stops must not stop the rest
                self._arrived(inbox.get_nowait())

    def _arrived(self, arrival: Arrival) -> None:
        content = arrival.content
        if not arrival.client:
            self._journal.tell(ClientRefused(arrival.address, str(content), arrival.count))
        elif isinstance(content, Hello):
            self._connected(content, arrival.address)
        elif (trajectory := self._of(arrival.client)) is None:
            return
        elif isinstance(content, Ask):
            self._asked(trajectory, content)
        elif isinstance(content, Check):
            self._checked(trajectory, content)
        else:
            self._journal.tell(ClientLeft(trajectory.name, content))

    def _of(self, client: str) -> Trajectory | None:
        return next((t for t in self._trajectories if _sampler(t).client == client), None)

    def _connected(self, hello: Hello, address: str) -> None:
        self._visited = True
        trajectory = self._of(hello.client)
        again = trajectory is not None
        if trajectory is None:
            names = {other.name for other in self._trajectories}
            numbered = (f"{hello.name}-{number}" for number in range(2, len(names) + 3))
            name = next(name for name in (hello.name, *numbered) if name not in names)
            trajectory = _trajectory(name, hello.client)
            self._trajectories.append(trajectory)
        steps = max(hello.last_step, 1)
        trajectory.config = trajectory.config.model_copy(update={"sampler": MolecularDynamicsConfig(steps=steps)})
        self._come_back(trajectory)
        self._journal.tell(ClientConnected(trajectory.name, address, hello.last_step, again))

    def _come_back(self, trajectory: Trajectory) -> None:
        """Let a trajectory go on that was over."""
        _sampler(trajectory).finished = False
        if trajectory.status in (FINISHED, FAILED):
            trajectory.status, trajectory.reason, trajectory.refused_checks = RUNNING, "", 0

    def _asked(self, trajectory: Trajectory, ask: Ask) -> None:
        sampler = _sampler(trajectory)
        self._answer_to.add(trajectory.name)
        if ask.request == sampler.request:
            return  # asked again after a lost connection: the answer is on its way, or already here
        if trajectory.status is WAITING:
            self._later[trajectory.name] = ask  # a simulation that was begun again from an earlier step
            return
        self._come_back(trajectory)
        sampler.take(ask, len(self._learned.learned_keys))
        self._setbacks.pop(trajectory.name, None)
        self._tell_check(trajectory, ask.check)
        support = float(self._learned.uncertainty.soap.support)
        why = next(filter(None, (refusal(n, self.config.embedding, support) for n in ask.neighborhoods)), "")
        if why:
            trajectory.reason = why
            return
        try:
            u = np.array([float(self._learned.uncertainty.atomic(n.atoms, [0])[0]) for n in ask.neighborhoods])
        except UncertaintyError as error:  # one client's atoms must not end the run of all
            trajectory.reason = str(error)
            return
        trajectory.max_u = float(u.max())
        self._requests.ask(trajectory, u, self._learned.threshold)

    def _checked(self, trajectory: Trajectory, check: Check) -> None:
        sampler = _sampler(trajectory)
        if trajectory.status is not WAITING:
            sampler.note(check)
            trajectory.max_u = check.max_u  # while it waits, its step names what it asked
        self._tell_check(trajectory, check)
        if check.kind == "bye":
            sampler.finished = True
            self._answer_to.discard(trajectory.name)
            self._end_if_finished(trajectory)

    def _end_if_finished(self, trajectory: Trajectory) -> None:
        if _sampler(trajectory).finished and trajectory.status is RUNNING:
            trajectory.status = FINISHED
            self._journal.tell(TrajectoryFinished(trajectory.name, trajectory.step))
            self._save()

    def _tell_check(self, trajectory: Trajectory, check: Check) -> None:
        now = time.monotonic()
        if check.kind == "check" and not check.n_above and now - self._told.get(trajectory.name, 0.0) < CHECKS_TOLD:
            return
        self._told[trajectory.name] = now
        self._journal.tell(
            CheckEvent(
                trajectory=trajectory.name,
                step=check.step,
                time_fs=check.time_fs,
                temperature=float("nan") if check.temperature is None else check.temperature,
                potential_energy=float("nan"),
                kinetic_energy=float("nan"),
                max_u=float("inf") if check.max_u is None else check.max_u,
                threshold=float("nan") if check.threshold is None else check.threshold,
                n_uncertain=check.n_above,
                volume=check.volume,
            )
        )

    # --- out ----------------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        """Answer the clients whose requests are done with, as far as they are here."""
        if self._published != self._learned.updates:
            self._publish()
        self._now = replace(self._now, threshold=self._learned.threshold)
        for trajectory in self._trajectories:
            if trajectory.status is WAITING:
                continue
            self._end_if_finished(trajectory)
            if (later := self._later.pop(trajectory.name, None)) is not None:
                self._asked(trajectory, later)
            elif trajectory.name in self._answer_to:
                self._answer_client(trajectory)

    def _answer_client(self, trajectory: Trajectory) -> None:
        sampler = _sampler(trajectory)
        labels = len(self._learned.learned_keys) - sampler.labels_before
        stop = bool(trajectory.reason)
        why = self._setbacks.get(trajectory.name, "its environments are known by now, or it learned a moment ago")
        text = trajectory.reason or ("" if labels else f"nothing new was learned ({why.splitlines()[0][:200]})")
        if self._connections.answer(sampler.client, sampler.request, labels, text, stop):
            model = self._connections.wants_model(sampler.client)
            self._journal.tell(ClientAnswered(trajectory.name, trajectory.step, sampler.request, labels, model, text))
            self._answer_to.discard(trajectory.name)
            if stop and trajectory.status is not FAILED:
                trajectory.reason = ""  # a neighborhood that was refused; the next one may be larger

    def _publish(self) -> None:
        """Let clients have what the run directory holds now."""
        path: Path = self.directory.path
        self._published = self._learned.updates
        self._now = Learned(
            run=str(path),
            version=f"{self._published}-{self._learned.potential.fingerprint()[:16]}",
            threshold=self._learned.threshold,
            elements=self._elements,
            distribution=(path / "uncertainty.safetensors").read_bytes(),
            model=(path / "model" / "model.safetensors").read_bytes(),
        )


def _sampler(trajectory: Trajectory) -> ClientSampler:
    assert isinstance(trajectory.sampler, ClientSampler)
    return trajectory.sampler


def _trajectory(name: str, client: str) -> Trajectory:
    """The trajectory of a client; its configuration holds no more than its name."""
    return Trajectory(TrajectoryConfig(name=name, structure=Path("LAMMPS")), ClientSampler(client))
