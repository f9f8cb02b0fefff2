"""LAMMPS as a sampler: an input script of the user's own moves the atoms, in processes of its own.

The script's fixes, computes and regions stay what they are. The sampler takes the steps of its runs a few at a time,
has u evaluated by the plugin on all ranks, and gathers a frame when somebody asks for it. New weights and a new
distribution are loaded where LAMMPS is (`ideal.samplers.lammps_session`).

`state` is a LAMMPS restart file. Taking one makes LAMMPS build its lists anew, for the run that goes on as for one that
is resumed, so that both are the same bit by bit on the same number of ranks, as far as the script's fixes keep their
state in restart files (nve, nvt, npt do; langevin starts another series of random numbers).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from ideal.config import LammpsSamplerConfig
from ideal.errors import ConfigError, SamplerError
from ideal.models.base import Potential
from ideal.models.calculator import IdealCalculator
from ideal.samplers import velocities
from ideal.samplers.base import Observation
from ideal.samplers.lammps_frames import box_cell
from ideal.samplers.lammps_input import LammpsInput
from ideal.samplers.lammps_session import RANGE_REMEDY, Learned, Session
from ideal.uncertainty.base import AtomwiseUncertainty
from ideal.uncertainty.mahalanobis import SoapMahalanobis

_KIND = "lammps"
_LARGEST_SEED = 900_000_000  # of LAMMPS' Marsaglia generator


@dataclass(frozen=True)
class Progress:
    """Where a trajectory stands.

    Attributes:
        step: steps taken.
        time_fs: simulated time.
        temperature: K, of the last step.
        stage: number of the stage of the script.
        taken: steps of its run.
        length: all steps of its run; None before its commands were carried out.
        begin: LAMMPS' number of its first step.
        stopped: a fix of the script has ended the run.
    """

    step: int = 0
    time_fs: float = 0.0
    temperature: float = 0.0
    stage: int = 0
    taken: int = 0
    length: int | None = None
    begin: int = 0
    stopped: bool = False

    @property
    def over(self) -> bool:
        """Whether all steps of the stage's run are taken."""
        return self.taken == self.length


class LammpsSampler:
    """One trajectory in LAMMPS.

    LAMMPS is started when it is needed first, and again from the last `state` after it was lost.

    Args:
        atoms: the starting structure, which the script reads by ``read_data ${data}``; its velocities go with it.
        calculator: an `IdealCalculator`, whose model moves the atoms; not used with ``pair: template``.
        config: script, ranks, atom types.
        seed: decides ``${seed}``, together with the step at which LAMMPS is started.
        max_temperature: largest temperature at the end of `advance`, K.
        max_force: largest force on an atom at the end of `advance`, eV/Å.
        name: of the trajectory, for messages.
        uncertainty: what the plugin evaluates; it learns in place.
        folder: where LAMMPS works, and where relative output of the script goes; None: a temporary one.

    Raises:
        ConfigError: script, structure, model and configuration do not go together.
        MissingPackageError: LAMMPS is not installed, or the plugin not built.

    Example:
        >>> config = LammpsSamplerConfig(input="in.melt", steps=1000)                       # doctest: +SKIP
        >>> sampler = LammpsSampler(atoms, IdealCalculator("model"), config, 1, uncertainty=u)  # doctest: +SKIP
        >>> sampler.advance(10)                                                            # doctest: +SKIP
        >>> sampler.observe(u).u.max()                                                     # doctest: +SKIP
    """

    def __init__(
        self,
        atoms: Atoms,
        calculator: BaseCalculator,
        config: LammpsSamplerConfig,
        seed: int,
        max_temperature: float = 10000.0,
        max_force: float = 50.0,
        *,
        name: str = "md",
        uncertainty: AtomwiseUncertainty | None = None,
        folder: Path | None = None,
    ) -> None:
        try:
            self._source = LammpsInput.of(config, atoms)
        except ConfigError as error:
            raise ConfigError(f"trajectory {name!r}: {error}") from None
        self.config = config
        self.name = name
        self.max_temperature = max_temperature
        self.max_force = max_force
        self._seed = seed
        self._uncertainty = uncertainty
        self._temporary = tempfile.TemporaryDirectory(prefix="ideal-lammps-") if folder is None else None
        self._folder = Path(self._temporary.name if folder is None else folder).resolve()  # type: ignore[union-attr]
        self._session: Session | None = None
        self._stand_at(Progress(temperature=_temperature(atoms)), None)
        self.set_calculator(calculator)

    def _stand_at(self, progress: Progress, restart: np.ndarray | None) -> None:
        """Stand where a state was taken; LAMMPS is started when it is needed."""
        self.close()
        self._progress = self._kept = progress
        self._restart = restart
        self._frame: tuple[int, Atoms] | None = None
        self._measured: dict[str, Any] | None = None  # of the present step, when LAMMPS is set up for the next

    # --- what the engine reads ----------------------------------------------------------------------------------------

    @property
    def atoms(self) -> Atoms:
        """The present configuration in LAMMPS' orientation, positions unwrapped; gathered when asked for."""
        with self._going_back():
            return self._gathered()

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self._progress.step

    @property
    def time_fs(self) -> float:
        """Simulated time in fs."""
        return self._progress.time_fs

    @property
    def temperature(self) -> float:
        """Temperature in K as LAMMPS' thermo output has it (``thermo_modify temp`` of the script)."""
        return self._progress.temperature

    @property
    def finished(self) -> bool:
        """Whether ``config.steps`` or all runs of the script are over, or one of its fixes has ended the run."""
        now = self._progress
        last = now.stage == len(self._source.template.stages) - 1
        return now.step >= self.config.steps or now.stopped or (last and now.over)

    def observe(self, uncertainty: AtomwiseUncertainty) -> Observation:
        """u of all atoms, energies and volume of the present step; no frame is gathered unless ``score`` is python.

        Raises:
            ConfigError: the plugin does not know this kind of uncertainty.
            SamplerError: LAMMPS reported an error; the sampler is back at its last `state`.
            UncertaintyError: u cannot be evaluated.
        """
        if uncertainty is not self._uncertainty:
            self._uncertainty = uncertainty
            self.set_calculator(self._calculator)
        with self._going_back():
            session, measured = self._set_up()
            u = session.uncertainty() if self._source.scores else np.asarray(uncertainty.atomic(self._gathered()))
        volume = float(abs(np.linalg.det(box_cell(measured["box"]))))
        energy = self._source.units.energy
        return Observation(u, measured["energy"] * energy, measured["kinetic"] * energy, volume)

    # --- moving -------------------------------------------------------------------------------------------------------

    def advance(self, n: int) -> None:
        """Take up to ``n`` steps, fewer when the trajectory finishes before.

        Raises:
            SamplerError: LAMMPS reported an error, or temperature or force exceeds its limit after the steps; the
                sampler is back at its last `state`.
        """
        end = min(self.step + n, self.config.steps)
        with self._going_back():
            while self.step < end and not self.finished:
                session, _ = self._set_up()
                if self._progress.over:
                    self._enter(session, self._progress.stage + 1)
                else:
                    self._run(session, min(end - self.step, (self._progress.length or 0) - self._progress.taken))
                    self._check_limits()
                    if self.finished and self._progress.over and self._source.template.after:
                        session.leave()
                        self._measured = None  # the commands may have moved atoms between ranks

    def set_calculator(self, calculator: BaseCalculator) -> None:
        """Go on with another model, and with what the distribution has learned; LAMMPS loads both before it goes on.

        Raises:
            ConfigError: LAMMPS cannot evaluate such a model or uncertainty.
        """
        potential: Potential | None = None
        if self.config.pair == "ideal":
            if not isinstance(calculator, IdealCalculator):
                raise ConfigError(
                    f"trajectory {self.name!r}: LAMMPS cannot evaluate {type(calculator).__name__}; use an "
                    "IdealCalculator, or `pair: template`"
                )
            if calculator.has_dispersion and not self._source.keeps_pair_style:
                raise ConfigError(
                    f"trajectory {self.name!r}: pair_style ideal has no dispersion: write pair_style hybrid/overlay "
                    "with `ideal ${model} ${elements}` and dispersion/d3 into the input, or remove model.dispersion"
                )
            potential = calculator.potential
        uncertainty = self._uncertainty if self._source.scores else None
        if uncertainty is not None and not isinstance(uncertainty, SoapMahalanobis):
            raise ConfigError(
                f"trajectory {self.name!r}: the plugin cannot evaluate {type(uncertainty).__name__}; write "
                "`score: python`"
            )
        self._calculator = calculator
        self._learned = Learned(potential, uncertainty)
        self._loaded = False

    def _run(self, session: Session, n: int) -> None:
        """Take steps of the present stage's run."""
        now, before = self._progress, self._measured
        assert before is not None
        session.run(f"{n} pre no post no {self._span}", self._source.template.stages[now.stage].where)
        after = self._measured = session.measure()
        done = after["step"] - before["step"]
        self._progress = replace(
            now,
            step=now.step + done,
            time_fs=now.time_fs + (after["time"] - before["time"]) * self._source.units.time,
            temperature=after["temperature"],
            taken=now.taken + done,
            stopped=done < n,
        )

    def _check_limits(self) -> None:
        assert self._measured is not None
        force, energy = self._measured["largest_force"] * self._source.units.energy, self._measured["energy"]
        if not np.isfinite(force) or not np.isfinite(energy):
            raise SamplerError(f"energy or forces are not finite; {RANGE_REMEDY}")
        if force > self.max_force:
            raise SamplerError(
                f"a force is {force:.4g} eV/Å, above max_force {self.max_force:g} eV/Å; {RANGE_REMEDY}, or raise "
                "max_force"
            )
        if self.temperature > self.max_temperature:
            raise SamplerError(
                f"the temperature is {self.temperature:.4g} K, above max_temperature {self.max_temperature:g} K; "
                f"{RANGE_REMEDY}, or raise max_temperature"
            )

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that decides the future.

        Keys: ``kind``, ``numbers`` (n,) of the starting structure, the fields of `Progress`, and ``restart``: the bytes
        of a LAMMPS restart file, None before the start.
        """
        if self._progress != self._kept:
            with self._going_back():
                session, _ = self._set_up()
                self._restart = np.frombuffer(session.restart(), dtype=np.uint8)
                self._kept, self._measured = self._progress, None
        numbers = self._source.atoms.numbers.astype(np.uint8)
        return {"kind": _KIND, "numbers": numbers, "restart": self._restart, **asdict(self._kept)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned, here or in another process.

        Raises:
            SamplerError: the state belongs to another sampler or structure.
        """
        if state.get("kind") != _KIND or not np.array_equal(state["numbers"], self._source.atoms.numbers):
            raise SamplerError(
                f"trajectory {self.name!r}: the state is not that of these {len(self._source.atoms)} atoms in LAMMPS; "
                "resume with structure and configuration of the run"
            )
        self._stand_at(Progress(**{field.name: state[field.name] for field in fields(Progress)}), state["restart"])

    def close(self) -> None:
        """End LAMMPS; it is started again, at the last state, when the sampler is used."""
        if self._session is not None:
            self._session.end()
        self._session = None

    @contextlib.contextmanager
    def _going_back(self) -> Iterator[None]:
        """On an error, stand at the last state again: what LAMMPS holds then is not to be used."""
        try:
            yield
        except SamplerError as error:
            place = f"trajectory {self.name!r}, behind step {self.step}"
            self._stand_at(self._kept, self._restart)
            raise SamplerError(f"{place}: {error}") from error
        except BaseException:
            self._stand_at(self._kept, self._restart)
            raise

    # --- LAMMPS -------------------------------------------------------------------------------------------------------

    def _set_up(self) -> tuple[Session, dict[str, Any]]:
        """LAMMPS, ready for the next step, and the numbers of the present one."""
        session = self._started()
        if self._progress.length is None:
            self._enter(session, 0)
        if not self._loaded:
            session.reload(self._learned)
            self._loaded, self._measured = True, None
        if self._measured is None:
            session.run(f"0 post no {self._span}")
            self._measured = session.measure()
            self._progress = replace(self._progress, temperature=self._measured["temperature"])
        return session, self._measured

    def _started(self) -> Session:
        if self._session is None:
            seed = int(np.random.default_rng([self._seed, self.step]).integers(1, _LARGEST_SEED))
            self._session = session = Session(self._source, self._folder, seed, self._learned)
            self._loaded, self._measured = True, None
            if self._restart is None:
                session.begin()
            else:
                session.resume(self._progress.stage, self._restart.tobytes())
        return self._session

    def _enter(self, session: Session, stage: int) -> None:
        length, begin = session.enter(stage)
        length = self.config.steps - self.step if length is None else length
        self._progress = replace(self._progress, stage=stage, taken=0, length=length, begin=begin)
        self._measured = None

    @property
    def _span(self) -> str:
        """The steps between which ramps of the present stage's run rise."""
        now = self._progress
        given = self._source.template.stages[now.stage].span
        return given or f"start {now.begin} stop {now.begin + (now.length or 0)}"

    def _gathered(self) -> Atoms:
        if self._frame is None or self._frame[0] != self.step:
            session, measured = self._set_up()
            self._frame = self.step, session.frame(measured)
        return self._frame[1]


def _temperature(atoms: Atoms) -> float:
    """That of a structure's velocities, K; 0 where it has none."""
    if not atoms.has("momenta") or not np.any(atoms.get_momenta()):
        return 0.0
    return velocities.temperature(atoms, velocities.count_degrees_of_freedom(atoms, without_rotation=False))
