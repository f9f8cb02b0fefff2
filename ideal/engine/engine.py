"""The loop: trajectories move, what they meet is scored, embedded, labelled and learned, and they go on.

    start   initial labels, pretrain, distribution and threshold, held-out errors, checkpoint
    loop    move to the next check, score every atom, select, checkpoint, have cells made and send each when it is (then
            those of the audits), wait for labels, compare, learn, calibrate, checkpoint
    end     audit of the last interval, convergence on all labels, held-out errors, summary

How trajectories take turns is said in `ideal.engine.loop`, when the dynamics ends before its last step in
`ideal.engine.stopping`.

A run can be killed at any moment. The state is saved before cells are made and after they are learned, every label
is committed when it arrives, and every random number comes from a seed of its own; so a resumed run repeats what came
after the last checkpoint and finds its labels in the store.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from ideal.config import Config, dump_config, load_config
from ideal.embedding.pool import CellPool
from ideal.engine import engine_state
from ideal.engine.answering import Answers, announce, tell_training, training_progress
from ideal.engine.asking import Asker
from ideal.engine.auditing import Auditor
from ideal.engine.budget import LabelBudget
from ideal.engine.calculations import Calculations
from ideal.engine.calibrating import RESAMPLES, Calibrator
from ideal.engine.checkpoint import Checkpoints
from ideal.engine.comparing import compare
from ideal.engine.converging import converge
from ideal.engine.events import (
    LabelSubmitted,
    Pretrained,
    Resumed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    StoreRescued,
)
from ideal.engine.final_audit import FinalAudit
from ideal.engine.generating import generated_structures
from ideal.engine.held_out import evaluate_held_out
from ideal.engine.interruption import InterruptedRun, StopRequest
from ideal.engine.journal import Journal, Listener
from ideal.engine.learner import Learner, errors_as_dict
from ideal.engine.lockstep import Lockstep
from ideal.engine.loop import LABEL_WAIT, Loop
from ideal.engine.mover import Mover
from ideal.engine.provenance import provenance, session
from ideal.engine.requesting import Requests
from ideal.engine.restarting import Restarter
from ideal.engine.run_directory import RunDirectory
from ideal.engine.seeds import derive_seed
from ideal.engine.startup import StartingPoint, label_initial, read_starting_point
from ideal.engine.stopping import StopRules
from ideal.engine.storage import DiskFullError, disk_full, is_disk_full
from ideal.engine.summary import Outcome, RunSummary, summarize
from ideal.engine.trajectory import LabelRequest, Trajectory, TrajectoryStatus
from ideal.errors import IdealError, SamplerError
from ideal.samplers import make_sampler
from ideal.samplers.base import Remote


class Engine:
    """Runs one configuration in one run directory.

    Use `create` or `resume`, then `run` once.

    Args:
        config: the run's configuration.
        run_directory: opened and locked; `run` closes it.
        listener: called with every event.

    Example:
        >>> summary = Engine.create(load_config("config.yaml"), "runs/lithium").run()
        >>> summary.labels.done
        17
    """

    def __init__(self, config: Config, run_directory: RunDirectory, listener: Listener | None = None) -> None:
        self.config = config
        self.directory = run_directory
        self._journal = Journal(run_directory, listener)
        self._checkpoints = Checkpoints(run_directory.path / "checkpoints")
        self._stop = StopRequest()
        self._learner: Learner | None = None
        self._trajectories: list[Trajectory] = []
        self._converging = False

    @classmethod
    def create(cls, config: Config, path: str | Path, listener: Listener | None = None) -> Engine:
        """A new run in a new folder.

        Raises:
            ConfigError: the folder exists and holds something; nothing in it is touched.
        """
        return cls(config, RunDirectory.create(path, dump_config(config)), listener)

    @classmethod
    def resume(cls, path: str | Path, listener: Listener | None = None) -> Engine:
        """The run in a folder, from its latest checkpoint; from the beginning when it has none yet.

        Raises:
            ConfigError: the folder holds no run, or its ``config.yaml`` was changed in a key that may not change.
            IdealError: another process runs there.
        """
        directory = RunDirectory.open(path)
        try:
            source = directory.path / "config.yaml"
            config = load_config(source)
            engine = cls(config, directory, listener)
            folder = engine._checkpoints.latest()
            if folder is not None:
                engine_state.check_config(folder, config, str(source))
        except BaseException:
            directory.close()
            raise
        return engine

    def run(self) -> RunSummary:
        """Run to the end, or until Ctrl-C or SIGTERM ask it to stop.

        Returns:
            The summary; its status is "interrupted" when the run was asked to stop.

        Raises:
            SamplerError: every trajectory failed.
            DiskFullError: a file could not be written; everything before it is intact.
            LabelError: no initial label could be computed.
            ConfigError, TrainingError, UncertaintyError, IdealError: as their messages say; the run can be resumed.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.directory.close)
            stack.enter_context(self._stop.listening())
            try:
                wanted = {trajectory.name: trajectory.code for trajectory in self.config.trajectories}
                self._calculations = Calculations(self.config.labelling, self.directory, wanted)
                stack.callback(self._calculations.close)
                self._pool = CellPool(self.config.embedding)
                stack.callback(self._pool.close)
                self._pool.start()
                self._begin()
                stack.callback(self._lockstep.close)
                stack.callback(self._close_samplers)
                if self._calculations.rescued is not None:
                    self._journal.tell(StoreRescued(str(self._calculations.rescued)))
                if self._final_audit.requests:  # interrupted amid it, and now some trajectory may have more steps
                    self._await_final_audit()
                self._loop()
                self._audit_last_interval()
                self._converge()
                return self._finish()
            except InterruptedRun:
                return self._interrupted()
            except Exception as error:
                self._note_failure(error)
                if is_disk_full(error) and not isinstance(error, DiskFullError):
                    raise disk_full(self.directory.path) from error
                raise

    # --- start --------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start a new run, or go on from the latest checkpoint."""
        folder = self._checkpoints.latest()
        is_new = self._note_session()
        start = read_starting_point(self.config)
        self._held_out = start.held_out
        if folder is None:
            self._start(start, is_new)
        else:
            self._restore(start, folder)

    def _start(self, start: StartingPoint, is_new: bool) -> None:
        """Everything before the first step; begun anew when it was interrupted."""
        journal, config, path = self._journal, self.config, self.directory.path
        steps = self._planned
        self.directory.rewind({})
        journal.tell(RunStarted(str(path), config.seed, config.engine.mode, self._calculations.code.name, steps))
        if not is_new:
            journal.tell(Resumed(0, dict.fromkeys(steps, 0)))
        journal.status("starting", now=True)
        generated = self._generate(start)
        with journal.part("initial_labels"):
            labels, failures = label_initial(start, generated, self._calculations, self._await_initial)
            journal.counters.initial, journal.counters.initial_failed = len(labels), len(failures)
            self._calculations.results.clear()
        learner = Learner.new(config, labels, start.elements)
        learner.write_initial_labels(path / "initial_labels.extxyz")
        with journal.part("pretrain"), journal.times.stage("training"):
            summary = learner.pretrain(training_progress(journal, after_epoch=self._stop_if_asked))
        tell_training(journal, summary, len(learner.dataset.training))
        before, after = errors_as_dict(summary.before), errors_as_dict(summary.after)
        validation = errors_as_dict(summary.validation_after) if summary.validation_after else None
        journal.tell(Pretrained(len(labels), before, after, validation, summary.seconds))
        with journal.part("distribution"), journal.times.stage("uncertainty"):
            learner.fit_distribution()
        self._use(learner, start)
        with journal.times.stage("evaluation"):
            validation_pairs = compare(learner.potential, learner.uncertainty, learner.dataset.validation)
        with journal.times.stage("uncertainty"):
            self._calibrator.take(validation_pairs, "", 0)
        learner.publish(path, "_initial")
        learner.publish(path)
        self._evaluate("held_out_before.json")
        self._save()

    def _restore(self, start: StartingPoint, folder: Path) -> None:
        """Continue from a checkpoint; what trajectories wait for is asked again, or found in the store."""
        state = engine_state.read_checkpoint(folder)
        store = self._calculations.store
        self._use(Learner.load(self.config, folder, self.directory.path / "initial_labels.extxyz", store), start)
        engine_state.restore_checkpoint(state, self._journal, self._trajectories, self._parts)
        self._learned.publish(self.directory.path)
        steps = {trajectory.name: trajectory.step for trajectory in self._trajectories}
        self._journal.tell(Resumed(self._checkpoints.latest_number(), steps))
        for requests in (*(trajectory.requests for trajectory in self._trajectories), self._final_audit.requests):
            self._requests.tell_submitted([request for request in requests if store.get(request.key) is None])
            self._requests.submit(requests)
        for trajectory in self._trajectories:
            self._requests.order(trajectory)

    def _use(self, learner: Learner, start: StartingPoint) -> None:
        """Take the learner and put every trajectory at its start."""
        config, journal, calculations = self.config, self._journal, self._calculations
        self._learner = learner
        self._auditor, self._budget = Auditor(config), LabelBudget(config, journal)
        self._calibrator = Calibrator(config, learner, self._auditor, journal)
        self._final_audit = FinalAudit()
        self._stop_rules = StopRules(config.stop, journal)
        self._lockstep = Lockstep(learner.potential)
        self._asker = self._make_asker(learner)
        self._trajectories = self._make_trajectories(learner, start)
        restarter = Restarter(config, journal, learner.min_distances)
        mover = Mover(config, learner, self._auditor, journal, restarter, self._lockstep, self._stop_if_asked)
        self._requests = Requests(config, self._asker, mover, restarter, calculations, journal, self._save)
        self._answers = Answers(
            self._trajectories, learner, self._calibrator, self._stop_rules, calculations, journal, self._in_order
        )
        self._turns = Loop(
            config,
            self._trajectories,
            mover,
            self._requests,
            self._answers,
            restarter,
            calculations,
            learner,
            journal,
            save=self._save,
            tick=self._tick,
        )

    def _make_asker(self, learner: Learner) -> Asker:
        """What has cells made of a trajectory's frames."""
        return Asker(self.config, learner, self._auditor, self._budget, self._calculations, self._journal, self._pool)

    def _make_trajectories(self, learner: Learner, start: StartingPoint) -> list[Trajectory]:
        """The trajectories at their start."""
        return [
            Trajectory(
                config,
                make_sampler(
                    config.sampler,
                    start.structures[config.name],
                    learner.calculator(),
                    derive_seed(self.config.seed, "sampler", config.name),
                    config.max_temperature,
                    config.max_force,
                    name=config.name,
                    uncertainty=learner.uncertainty,
                    final=start.finals.get(config.name),
                    folder=self.directory.path / "trajectories" / f"{config.name}.{config.sampler.type}",
                ),
            )
            for config in self.config.trajectories
        ]

    def _close_samplers(self) -> None:
        for trajectory in self._trajectories:
            if isinstance(trajectory.sampler, Remote):
                trajectory.sampler.close()

    @property
    def _planned(self) -> dict[str, int]:
        """Steps by trajectory, as far as they are known at the start."""
        return {trajectory.name: trajectory.sampler.steps for trajectory in self.config.trajectories}

    @property
    def _in_order(self) -> bool:
        """Whether equal runs tell equal events."""
        return self.config.engine.mode != "concurrent"

    @property
    def _learned(self) -> Learner:
        assert self._learner is not None
        return self._learner

    @property
    def _parts(self) -> dict[str, engine_state.Part]:
        """What a checkpoint holds beside learner and trajectories."""
        return {
            "auditor": self._auditor,
            "budget": self._budget,
            "calibrator": self._calibrator,
            "final_audit": self._final_audit,
            "stop_rules": self._stop_rules,
            "loop": self._turns,
        }

    def _generate(self, start: StartingPoint) -> list[Atoms]:
        """Initial structures by short dynamics; the same ones when it is begun anew."""
        if not start.to_move:
            return []
        with self._journal.part("generate"), self._journal.times.stage("md"):
            return generated_structures(
                start.to_move, self.config, self._calculations, lambda: self._wait_for_labels("starting")
            )

    def _await_initial(self, requests: Sequence[LabelRequest]) -> None:
        for request in requests:
            self._journal.tell(LabelSubmitted(request.key, "", 0, 0, len(request.atoms), "initial"))
        announced: set[str] = set()
        while not announce(self._calculations, self._journal, requests, announced, self._in_order):
            self._wait_for_labels("starting")

    def _wait_for_labels(self, state: str) -> None:
        with self._journal.times.stage("labelling_wait"):
            self._calculations.wait(LABEL_WAIT)
        self._status(state, now=False)
        self._stop_if_asked()

    # --- loop ---------------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        """Until every trajectory is over, or a stop rule holds."""
        while self._turns.active and not self._stop_rules.hold(self._trajectories):
            self._turns.round()
        self._turns.settle()

    # --- end ----------------------------------------------------------------------------------------------------------

    def _audit_last_interval(self) -> None:
        """Draw from what was held for certain since the last ask; nothing is left when it was done before."""
        counters = self._journal.counters
        draws = self._auditor.close_last(counters.asked - counters.audits, self._budget.audits)
        if draws:
            self._journal.tell(StageStarted("final_audit"))
            self._final_audit.requests = self._asker.take_audits(draws)
            self._requests.send(self._final_audit.requests)
            self._await_final_audit()

    def _await_final_audit(self) -> None:
        """Wait for the labels of the last interval and learn them."""
        audit, start = self._final_audit, time.perf_counter()
        while not self._answers.complete(audit.requests, audit.announced):
            self._wait_for_labels("running")
        self._journal.tell(StageFinished("final_audit", time.perf_counter() - start))
        requests = audit.requests
        if requests:
            name, step = audit.place
            audit.clear()
            self._answers.learn(requests, name, step)
            self._save()

    def _converge(self) -> None:
        """Train on all labels; not again when a run that was over is resumed, unless it has learned since."""
        failed = all(trajectory.status is TrajectoryStatus.FAILED for trajectory in self._trajectories)
        if not failed and self._learned.needs_convergence:
            self._converging = True  # interrupted amid it, the run goes on from the checkpoint before
            converge(self._learned, self._journal, self._stop_if_asked)
            self._converging = False
            self._save()

    def _finish(self) -> RunSummary:
        self._evaluate("held_out_after.json")
        failed = [trajectory for trajectory in self._trajectories if trajectory.status is TrajectoryStatus.FAILED]
        all_failed = len(failed) == len(self._trajectories)
        outcome: Outcome = "failed" if all_failed else "finished"
        calibration = self._calibrator.write(RESAMPLES)
        ended_by = self._stop_rules.reason
        summary = summarize(outcome, self._journal, self._learner, self._trajectories, calibration, ended_by=ended_by)
        self._journal.tell(RunFinished(summary.as_dict()))
        self.directory.write_json("summary.json", summary.as_dict())
        if all_failed:
            others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise SamplerError(f"every trajectory failed: {failed[0].reason}{others}")
        self._status("finished", summary.ended_by)
        return summary

    def _interrupted(self) -> RunSummary:
        if self._checkpoints.latest_number() and self._trajectories and not self._converging:
            self._save()
        learner, calibration = self._learner, self._calibrator.as_dict() if self._learner else None
        signal = self._stop.signal_name
        summary = summarize("interrupted", self._journal, learner, self._trajectories, calibration, signal)
        self._status("interrupted", summary.resume_command)
        return summary

    def _evaluate(self, name: str) -> None:
        """Errors on the held-out file, written to ``name``."""
        if not self._held_out:
            return
        with self._journal.part("evaluation"), self._journal.times.stage("evaluation"):
            self.directory.write_json(name, evaluate_held_out(self._learned.potential, self._held_out))

    # --- keeping ------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        engine_state.save_checkpoint(self.config, self._journal, self._learned, self._trajectories, self._parts)

    def _tick(self) -> None:
        self._status("running", now=False)
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._stop.signal_name:
            raise InterruptedRun

    def _status(self, state: str, message: str = "", now: bool = True) -> None:
        threshold = self._learner.threshold if self._learner else None
        self._journal.status(state, self._trajectories, threshold=threshold, message=message, now=now)

    def _note_failure(self, error: Exception) -> None:
        with contextlib.suppress(OSError, IdealError):  # the disk may be what failed
            self._status("failed", str(error))

    def _note_session(self) -> bool:
        """Add this process to ``provenance.json``; returns whether it is the run's first."""
        record = self.directory.read_json("provenance.json")
        if record is None:
            self.directory.write_json("provenance.json", provenance(self.config.seed, self._calculations.code.settings))
            return True
        record["sessions"].append(session())
        self.directory.write_json("provenance.json", record)
        return False
