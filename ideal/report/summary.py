"""The numbers of a report as text: the tiles at its top and its tables."""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ideal.config import GpawConfig, ModelConfig
from ideal.report.calibration import Interval
from ideal.report.data import RunData
from ideal.report.drawing import MOST_NAMES, duration, run_time, systems_of
from ideal.report.log import Trace
from ideal.report.words import percent_range

Row = tuple[str, str]

_STATES = ("done", "failed", "waiting")


@dataclass(frozen=True)
class Tile:
    """One number at the top of the report."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Table:
    """Rows of a name and a value under a heading."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Grid:
    """Rows of several columns under a heading."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def trajectory_grid(run: RunData) -> Grid | None:
    """All trajectories at a glance; None where there is but one."""
    names = _names(run)
    if len(names) < 2:
        return None
    columns = ("trajectory", "state", "step", "T (K)", "max u / threshold", "labels", "failed", "restarts", "reason")
    return Grid("Trajectories", columns, tuple(_grid_row(run, name) for name in names))


def restart_grid(run: RunData) -> Grid | None:
    """Every return to a good state with its reason, in their order; None where there was none."""
    events = sorted((event for its in run.log.restarts.values() for event in its), key=lambda event: event["time"])
    if not events:
        return None
    columns = ("trajectory", "from step", "back to", "in a row", "reason")
    return Grid("Returns to a good state", columns, tuple(_restart_row(event) for event in events))


def _restart_row(event: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(event.get("trajectory", "")),
        f"{event.get('step', '?'):,}",
        f"{event.get('good_step', '?'):,}",
        f"{event.get('setbacks', '?')} of {event.get('limit', '?')}",
        str(event.get("reason", "")),
    )


def _grid_row(run: RunData, name: str) -> tuple[str, ...]:
    log, trace = run.log, run.log.traces.get(name)
    planned = {one.name: one.sampler.steps for one in run.config.trajectories} if run.config else {}
    restarts = log.restarts.get(name, ())
    reason = log.failed_trajectories.get(name, "") or log.conclusions.get(name, "")
    if not reason and restarts:
        reason = f"went back from step {restarts[-1].get('step')}: {restarts[-1].get('reason')}"
    counts = {state: sum(one.trajectory == name and one.state == state for one in log.labels) for state in _STATES}
    waiting = f" ({counts['waiting']} to come)" if counts["waiting"] else ""
    here = ("-", "-", "-") if trace is None else _here(trace, planned.get(name))
    return (
        name,
        _state(run, name, trace, planned.get(name)),
        *here,
        f"{counts['done']}{waiting}",
        f"{counts['failed']}",
        f"{len(restarts)}",
        reason,
    )


def _here(trace: Trace, steps: int | None) -> tuple[str, str, str]:
    temperature = f"{trace.temperature[-1]:.0f}" if math.isfinite(trace.temperature[-1]) else "-"
    of = f" of {steps:,}" if steps is not None else ""
    return f"{int(trace.steps[-1]):,}{of}", temperature, f"{trace.max_u[-1]:.2f} / {trace.threshold[-1]:.2f}"


def _state(run: RunData, name: str, trace: Trace | None, steps: int | None) -> str:
    if name in run.log.failed_trajectories:
        return "failed"
    if name in run.log.conclusions or (trace is not None and steps is not None and trace.steps[-1] >= steps):
        return "finished"
    return "stopped" if run.log.stopped and run.state == "finished" else run.state


def _names(run: RunData) -> list[str]:
    configured = [trajectory.name for trajectory in run.config.trajectories] if run.config else []
    return [*configured, *sorted({*run.frames, *run.log.traces} - set(configured))]


def tiles(run: RunData) -> list[Tile]:
    """The most important numbers; those that do not exist yet are left out."""
    found = []
    before, after = run.held_out_before, run.held_out_after
    if before and after:
        found.append(
            Tile(
                "held-out force MAE",
                f"{after.errors.force:.3g} eV/Å",
                f"{_short_factor(before.errors.force, after.errors.force)} (was {before.errors.force:.3g})",
            )
        )
        found.append(
            Tile(
                "held-out energy MAE",
                f"{1000 * after.errors.energy:.3g} meV/atom",
                f"{_short_factor(before.errors.energy, after.errors.energy)} (was {1000 * before.errors.energy:.3g})",
            )
        )
    elif before:
        found.append(Tile("held-out force MAE", f"{before.errors.force:.3g} eV/Å", "before learning"))
    if run.log.labels:
        done, failed, waiting = (run.log.count(state) for state in ("done", "failed", "waiting"))
        detail = f"{failed} failed" + (f", {waiting} waiting" if waiting else "")
        found.append(Tile("labels of the dynamics", f"{done}", detail))
    audit = run.calibration.latest.get("audit")
    missed = Interval.read(audit.get("missed_error_rate")) if isinstance(audit, Mapping) else Interval()
    if missed.bounded and isinstance(audit, Mapping):
        count = audit.get("n_audited", 0)
        found.append(
            Tile("missed errors", percent_range(missed), f"of certain atoms, by {count} audit{'s' * (count != 1)}")
        )
    ends = [float(trace.times[-1]) for trace in run.log.traces.values() if not trace.timeless]
    if ends:
        time = run_time(run)
        steps = sum(int(trace.steps[-1]) for trace in run.log.traces.values())
        detail = f"{len(ends)} trajectories" if len(ends) > 1 else f"{steps:,} steps"
        found.append(Tile("simulated time", time.say(sum(ends)), detail))
    if run.wall_seconds > 0:
        found.append(Tile("wall time", duration(run.wall_seconds), run.state))
    return found


def tables(run: RunData) -> list[Table]:
    """All tables of the report but the grid; of many trajectories those of each system's first."""
    few = len(_names(run)) <= MOST_NAMES
    made = [
        Table("Results", tuple(_results(run))),
        *(Table(f"Trajectory {name}", tuple(rows)) for name, rows in _trajectories(run) if few or _is_own(run, name)),
        Table("Model and reference", tuple(_settings(run))),
        Table("Provenance", tuple(_provenance(run.provenance))),
    ]
    return [table for table in made if table.rows]


def _is_own(run: RunData, name: str) -> bool:
    """Whether the trajectory is the first of its system."""
    systems = systems_of(run)
    return next((other for other in systems if systems[other] == systems.get(name)), name) == name


def factor(before: float, after: float) -> str:
    """How an error changed, in words."""
    if not (before > 0 and after > 0):
        return "no factor"
    ratio = before / after
    return f"{ratio:.2f} times lower" if ratio >= 1 else f"{1 / ratio:.2f} times higher"


def _short_factor(before: float, after: float) -> str:
    return factor(before, after).replace(" times", "×")


def _results(run: RunData) -> Iterator[Row]:
    log = run.log
    resumed = {0: "", 1: ", resumed once"}.get(log.resumed, f", resumed {log.resumed} times")
    yield "State of the run", run.state + resumed
    if math.isfinite(log.started):
        yield "Started", f"{datetime.datetime.fromtimestamp(log.started, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    if run.wall_seconds > 0:
        yield "Wall time", duration(run.wall_seconds)
    if run.log.stopped:
        yield "Dynamics ended by", run.log.stopped
    restarts = sum(map(len, log.restarts.values()))
    if restarts:
        yield "Returns to a good state", f"{restarts}, of {len(log.restarts)} trajectories"
    if run.n_initial:
        yield "Initial labels", f"{run.n_initial}"
    if log.labels:
        yield "Labels asked by the dynamics", f"{sum(log.count(state) for state in ('done', 'failed', 'waiting'))}"
        yield "Labels done", f"{log.count('done')}"
        yield "Labels failed", f"{log.count('failed')}"
        worker_seconds = sum(label.seconds for label in log.labels if math.isfinite(label.seconds))
        yield "Worker time for all labels", duration(worker_seconds)
    audits = (run.calibration.latest.get("n_cells") or {}).get("audit")
    if audits:
        yield "Audit labels compared", f"{audits}"
    if run.calibration.budget:
        yield "Labels allowed", f"{run.calibration.budget.get('limit', '?')}, all spent"
    if log.cells:
        accepted = sum(cell.accepted for cell in log.cells)
        yield "Embedded cells", f"{accepted} accepted, {len(log.cells) - accepted} refused"
    if log.updates:
        undone = sum(update.rolled_back for update in log.updates)
        yield "Updates of the model", f"{len(log.updates)}" + (f", {undone} rolled back" if undone else "")
    before, after = run.held_out_before, run.held_out_after
    for name, unit, scale, attribute in (
        ("force", "eV/Å", 1.0, "force"),
        ("energy", "meV/atom", 1000.0, "energy"),
        ("stress", "GPa", 1.0, "stress"),
    ):
        values = [scale * getattr(side.errors, attribute) if side else math.nan for side in (before, after)]
        if all(map(math.isfinite, values)):
            yield (
                f"Held-out {name} MAE, before → after",
                f"{values[0]:.4g} → {values[1]:.4g} {unit} ({factor(*values)})",
            )
        elif math.isfinite(values[0]):
            yield f"Held-out {name} MAE before learning", f"{values[0]:.4g} {unit}"
    if before:
        yield "Held-out structures", f"{len(before.reference_energies)}"


def _trajectories(run: RunData) -> Iterator[tuple[str, list[Row]]]:
    configured = {trajectory.name: trajectory for trajectory in run.config.trajectories} if run.config else {}
    time = run_time(run)
    for name in _names(run):
        rows: list[Row] = []
        if name in run.frames:
            atoms = run.frames[name].atoms[0]
            rows.append(("Atoms", f"{len(atoms):,} ({atoms.get_chemical_formula(mode='metal', empirical=False)})"))
        if name in configured:
            rows += configured[name].sampler.facts()
            rows.append(("Structure", configured[name].structure.name))
        if name in run.log.traces:
            trace = run.log.traces[name]
            planned = f" of {configured[name].sampler.steps:,}" if name in configured else ""
            rows += [
                ("Steps", f"{int(trace.steps[-1]):,}{planned}"),
                *([] if trace.timeless else [("Simulated time", time.say(float(trace.times[-1])))]),
                ("Checks", f"{len(trace.steps):,}, {int((trace.max_u > trace.threshold).sum()):,} above the threshold"),
                ("Threshold of u", f"{trace.threshold[-1]:.4g}"),
            ]
        if name in run.log.conclusions:
            rows.append(("Ended", run.log.conclusions[name]))
        if name in run.log.failed_trajectories:
            rows.append(("Stopped", run.log.failed_trajectories[name]))
        yield name, rows


def _model(model: ModelConfig) -> str:
    """Kind and size of the potential."""
    name = {"m3gnet": "M3GNet", "tensornet": "TensorNet"}.get(model.type, f"{model.module}")
    if model.path is not None:
        return f"{name} from {model.path}"
    if model.type == "custom":
        return ", ".join([name, *(f"{key} {value}" for key, value in model.arguments.items())])
    size = f"{name}, {model.n_blocks} blocks of {model.units} units"
    if model.type == "tensornet":
        return f"{size}, {model.n_radial} radial functions, cutoff {model.cutoff:g} Å"
    cutoffs = f"cutoffs {model.cutoff:g} and {model.threebody_cutoff:g} Å"
    return f"{size}, max_n {model.max_n}, max_l {model.max_l}, {cutoffs}"


def _settings(run: RunData) -> Iterator[Row]:
    if run.config is None:
        return
    model, soap, code = run.config.model, run.config.uncertainty.soap, run.config.labelling.code
    yield "Model", _model(model)
    yield "Descriptor", f"SOAP, r_cut {soap.r_cut:g} Å, n_max {soap.n_max}, l_max {soap.l_max}, sigma {soap.sigma:g} Å"
    embedding = run.config.embedding
    yield "Embedding", f"core radius {embedding.r_core:g} Å, margin up to {embedding.margin:g} Å"
    yield "Reference code", code.type
    if isinstance(code, GpawConfig):
        yield "Functional, plane-wave cutoff", f"{code.xc}, {code.cutoff:g} eV"
        yield "Smearing, k-point length", f"{code.smearing:g} eV, {code.kpoint_length:g} Å"
    else:
        yield (
            "Reference settings",
            ", ".join(f"{key} {value}" for key, value in code.model_dump(mode="json").items() if key != "type"),
        )
    yield "Label workers", f"{run.config.labelling.workers}"
    yield "Seed", f"{run.config.seed}"


def _provenance(content: Mapping[str, Any]) -> Iterator[Row]:
    for key, value in content.items():
        if key == "sessions" and isinstance(value, list):
            yield "sessions", f"{len(value)}"
            last = value[-1] if value and isinstance(value[-1], Mapping) else {}
            if "command" in last:
                yield "command", _plain(last["command"])
        elif isinstance(value, Mapping):
            for inner, item in value.items():
                name = f"{inner}" if key == "versions" else f"{key}: {inner}"
                yield name, _plain(item)
        else:
            yield key.replace("_", " "), _plain(value)
    yield "report made with Python", platform.python_version()


def _plain(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)
