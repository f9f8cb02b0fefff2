"""Everything that can be known to be wrong before a run spends its first expensive minute.

`findings` goes through the configuration in the order of cost and yields one `Finding` per question.
``ideal-run check`` shows them all; ``ideal-run run`` stops at the first problem.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ideal.cli.preflight_samplers import sampler_findings
from ideal.config import Config, LocalExecutorConfig, ParslExecutorConfig, TrajectoryConfig
from ideal.errors import ConfigError, IdealError, TrainingError

if TYPE_CHECKING:
    from ase import Atoms

    from ideal.records import Label

_OVERLAP = 0.5
_CLOSE = 0.7
_SMALL_DISK = 1 << 30
_FULL_DISK = 50 << 20


@dataclass(frozen=True)
class Finding:
    """Answer to one question.

    Attributes:
        level: "ok", "warning" (the run would start) or "problem" (it would fail).
        topic: what was looked at.
        text: the answer; for a problem the value and the remedy.
        error: the exception whose class gives the exit code of a problem.
    """

    level: Literal["ok", "warning", "problem"]
    topic: str
    text: str
    error: IdealError | None = None


def findings(config: Config, output: Path, may_queue: bool = True) -> Iterator[Finding]:
    """Check a validated configuration.

    Args:
        config: with absolute paths, as `ideal.config.load_config` returns it.
        output: the run directory to be.
        may_queue: ask a worker of a batch system too, which may wait in its queue.

    Yields:
        Findings, as soon as each is known. A question that a problem makes pointless is left out.
    """
    yield from _machine(config, output)
    yield from _threshold(config)
    elements: set[str] = set()
    broken = False
    for trajectory, more in _distinct(config):
        topic = f"structure {trajectory.name}" + (f" and {more} more" if more else "")
        for finding in _guarded(topic, lambda t=trajectory: _structure(t, config, elements)):  # type: ignore[misc]
            broken = broken or finding.level == "problem"
            yield replace(finding, topic=topic) if finding.topic == f"structure {trajectory.name}" else finding
    known: set[str] = set()
    for finding in _guarded("data", lambda: _data(config, known)):
        broken = broken or finding.level == "problem"
        yield finding
    if broken:
        return
    yield from _guarded("elements", lambda: _elements(config, elements, known))
    yield from _guarded("descriptor", lambda: _descriptor(config, elements | known))
    yield from _guarded("code", lambda: _code(config, sorted(elements | known), output, may_queue))


def stop_at_problem(config: Config, output: Path) -> list[str]:
    """Raise the first problem of the quick checks; return the warnings.

    Raises:
        IdealError: the problem, with the exit code of its kind.
    """
    warnings = []
    for finding in findings(config, output, may_queue=False):
        if finding.level == "problem":
            raise finding.error or ConfigError(finding.text)
        if finding.level == "warning":
            warnings.append(f"{finding.topic}: {finding.text}")
    return warnings


def _guarded(topic: str, question: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a question; an error that it raises is its last finding."""
    try:
        yield from question()
    except IdealError as error:
        yield Finding("problem", topic, str(error), error)


# --- machine ----------------------------------------------------------------------------------------------------------


def _machine(config: Config, output: Path) -> Iterator[Finding]:
    folder = _nearest(output)
    if not os.access(folder, os.W_OK):
        error = ConfigError(f"output {output}: {folder} cannot be written; choose another place with --output")
        yield Finding("problem", "output", str(error), error)
        return
    if output.is_dir() and any(output.iterdir()):
        yield Finding(
            "warning", "output", f"{output} is not empty; `ideal-run run` will want another --output, or resume it"
        )
    free = shutil.disk_usage(folder).free
    size = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < _FULL_DISK:
        error = ConfigError(f"output {output}: only {free / 2**20:.0f} MiB free; free space or choose another --output")
        yield Finding("problem", "disk", str(error), error)
    else:
        yield Finding("warning" if free < _SMALL_DISK else "ok", "disk", size)
    cores = _cores()
    local = config.labelling.executor.type == "local"
    workers = config.labelling.workers * config.labelling.threads if local else 0
    wanted = max(workers, config.model.threads, config.uncertainty.threads)
    text = (
        f"{workers} threads of labelling here, {config.model.threads} model and "
        f"{config.uncertainty.threads} uncertainty threads on {cores} cores"
    )
    if wanted > cores:
        yield Finding("warning", "threads", f"{text}: they slow each other down; lower labelling.workers or threads")
    else:
        yield Finding("ok", "threads", text)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- threshold --------------------------------------------------------------------------------------------------------


def _threshold(config: Config) -> Iterator[Finding]:
    """What the settings of the threshold ask for, in words."""
    threshold = config.uncertainty.threshold
    quantile = f"{threshold.factor:g} x the {threshold.quantile:g} quantile of held-out environments"
    if threshold.type == "calibrated":
        text = (
            f"an atom is labelled where its force error may exceed {threshold.force_error:g} eV/Å (bound that holds "
            f"for {100 * threshold.confidence:g} %); until enough labels have been compared, where u exceeds {quantile}"
        )
    elif threshold.type == "quantile":
        text = f"an atom is labelled where u exceeds {quantile}"
    elif threshold.type == "moving_average":
        frozen = "" if threshold.freeze_after is None else f", frozen after {threshold.freeze_after} checks"
        text = (
            f"an atom is labelled where u exceeds {1 + threshold.margin:g} x the mean of the largest u of the last "
            f"{threshold.window} checks{frozen}"
        )
    else:
        text = f"an atom is labelled where u exceeds {threshold.value:g}"
    audit = config.selection.audit
    text += f"; {100 * audit:g} % of the labels audit what is held for certain" if audit else "; nothing is audited"
    yield Finding("ok", "threshold", text)
    default = type(threshold).model_fields["force_error"].default
    if threshold.type != "calibrated" and threshold.force_error != default:
        yield Finding(
            "warning",
            "threshold",
            f"force_error has no effect with uncertainty.threshold.type: {threshold.type}; write type: calibrated, or "
            "remove it",
        )


def _distinct(config: Config) -> list[tuple[TrajectoryConfig, int]]:
    """Trajectories that differ in their structure, and how many more start from the same."""
    found: dict[Any, list[TrajectoryConfig]] = {}
    for trajectory in config.trajectories:
        key = (trajectory.structure, trajectory.repeat, tuple(trajectory.sampler.fix_atoms))
        found.setdefault(key, []).append(trajectory)
    return [(same[0], len(same) - 1) for same in found.values()]


# --- structures -------------------------------------------------------------------------------------------------------


def _structure(trajectory: TrajectoryConfig, config: Config, elements: set[str]) -> Iterator[Finding]:
    from ideal.dataset.files import read_structures

    topic = f"structure {trajectory.name}"
    atoms = read_structures(trajectory.structure)[-1]
    elements.update(atoms.get_chemical_symbols())
    sound_structure(atoms, str(trajectory.structure), config.labelling.gate.min_distance)
    repeat = trajectory.repeat
    n_atoms = len(atoms) * repeat[0] * repeat[1] * repeat[2]
    for index in trajectory.sampler.fix_atoms:
        if not -n_atoms <= index < n_atoms:
            raise ConfigError(
                f"trajectory {trajectory.name}: fix_atoms names atom {index} of {n_atoms}; count from 0 to "
                f"{n_atoms - 1}"
            )
    whole = n_atoms <= config.embedding.max_atoms
    yield Finding(
        "ok",
        topic,
        f"{n_atoms} atoms of {', '.join(sorted(set(atoms.get_chemical_symbols())))}"
        + (", small enough to be labelled whole" if whole else ""),
    )
    yield from _close_pairs(atoms, topic)
    yield from _thin_cell(atoms, trajectory, config, topic)
    for level, topic, text in sampler_findings(trajectory, atoms.repeat(repeat), config):
        yield Finding(level, topic, text)


def sound_structure(atoms: Atoms, source: str, min_distance: float) -> None:
    """Refuse positions that are not finite, cells without extent and overlapping atoms.

    Args:
        atoms: the structure.
        source: its file, for the message.
        min_distance: ``labelling.gate.min_distance``, Å.

    Raises:
        ConfigError: names atoms, value and remedy.
    """
    from ideal.config import LabelGateConfig
    from ideal.labelling.gate import refuse_structure

    reason = refuse_structure(atoms, LabelGateConfig(min_distance=min_distance))
    if reason is not None:
        raise ConfigError(f"{source}: {reason}")
    pair = _closest_pair(atoms, _OVERLAP)
    if pair is not None:
        raise ConfigError(f"{source}: {pair}: they overlap; correct the structure or its cell")


def _closest_pair(atoms: Atoms, fraction: float) -> str | None:
    """The pair nearest to each other in units of bonded distance, when below ``fraction`` of it."""
    import numpy as np
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    radii = covalent_radii[atoms.numbers]
    first, second, distance = neighbor_list("ijd", atoms, list(fraction * radii))
    if len(distance) == 0:
        return None
    worst = int(np.argmin(distance / (radii[first] + radii[second])))
    i, j = sorted((int(first[worst]), int(second[worst])))
    what = (
        f"atom {i} ({atoms.symbols[i]}) and its own periodic image"
        if i == j
        else f"atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]})"
    )
    return f"{what} are {distance[worst]:.2f} Å apart (bonded atoms: {radii[i] + radii[j]:.2f} Å)"


def _close_pairs(atoms: Atoms, topic: str) -> Iterator[Finding]:
    pair = _closest_pair(atoms, _CLOSE)
    if pair is not None:
        yield Finding("warning", topic, f"{pair}; is that meant?")


def _thin_cell(atoms: Atoms, trajectory: TrajectoryConfig, config: Config, topic: str) -> Iterator[Finding]:
    import numpy as np

    if not atoms.pbc.any():
        return
    heights = 1.0 / np.linalg.norm(atoms.cell.complete().reciprocal(), axis=1)
    cutoff = max(config.model.cutoff, config.uncertainty.soap.r_cut)
    total = heights * trajectory.repeat
    thin = [axis for axis in range(3) if atoms.pbc[axis] and total[axis] < cutoff]
    if thin:
        wanted = [int(np.ceil(2 * cutoff / heights[a])) if atoms.pbc[a] else trajectory.repeat[a] for a in range(3)]
        yield Finding(
            "warning",
            topic,
            f"cell too small: {total[thin[0]]:.1f} Å along axis {thin[0]}, below the cutoff {cutoff:g} Å, so that "
            f"atoms move together with their images; set trajectories.repeat: {wanted}",
        )


# --- data -------------------------------------------------------------------------------------------------------------


def _data(config: Config, known: set[str]) -> Iterator[Finding]:
    from ideal.dataset import rattled_structures
    from ideal.dataset.files import read_labels, read_labels_and_structures

    dataset = config.dataset
    gate = config.labelling.gate.min_distance
    if dataset.initial is not None:
        labels, unlabelled = read_labels_and_structures(dataset.initial)
        structures = [label.atoms for label in labels] + unlabelled
        for atoms in structures:
            known.update(atoms.get_chemical_symbols())
            sound_structure(atoms, str(dataset.initial), gate)
        text = f"{len(structures)} structures in {dataset.initial.name}"
        if unlabelled:
            yield Finding("warning", "data", f"{text}, {len(unlabelled)} without energy and forces: labelled first")
        else:
            yield Finding("ok", "data", f"{text}, all labelled")
        yield from _same_code(labels, config, dataset.initial.name)
    if dataset.rattled.count:
        made = rattled_structures(_repeated(config), dataset.rattled, 0)
        atoms_each = sorted({len(atoms) for atoms in made})
        text = f"{len(made)} rattled structures of {' or '.join(map(str, atoms_each))} atoms will be made"
        yield Finding("ok", "data", f"{text} and labelled first")
    if dataset.generated.count:
        yield from _generated(config)
    if dataset.held_out is not None:
        labels = read_labels(dataset.held_out)
        yield Finding("ok", "held out", f"{len(labels)} labelled frames in {dataset.held_out.name}")


def _repeated(config: Config) -> list[Atoms]:
    """The distinct starting structures as the run repeats them."""
    from ideal.dataset.files import read_structures
    from ideal.engine.startup import distinct_structures

    return distinct_structures(read_structures(t.structure)[-1].repeat(t.repeat) for t in config.trajectories)


def _generated(config: Config) -> Iterator[Finding]:
    """Whether the calculator can be made and the structures are small enough."""
    from ideal.dataset.rattled import small_enough
    from ideal.engine.generating import generator

    section = config.dataset.generated
    atoms_each = sorted({len(small_enough(s, section.max_atoms, "dataset.generated")) for s in _repeated(config)})
    by = section.calculator or "the reference code, which calculates every step"
    if section.calculator:
        generator(section)
    text = f"{section.count} frames of each structure ({' or '.join(map(str, atoms_each))} atoms) will be generated by"
    yield Finding("ok", "data", f"{text} {by} and labelled first")


def _same_code(labels: Sequence[Label], config: Config, name: str) -> Iterator[Finding]:
    """Whether the labels of a file are from other codes than the run's, or other energies: both count differently."""
    ours = {code.type for code in (config.labelling.code, *config.labelling.codes.values())}
    theirs = {label.code.split()[0] for label in labels} - {"file"}
    if labels and theirs - ours:
        yield Finding(
            "warning",
            "data",
            f"{name} holds labels of {', '.join(sorted(theirs))}, the run labels with {', '.join(sorted(ours))}: "
            "energies of different codes count from different zeros, and a model that learns both takes the "
            "difference for structure; label these structures anew (remove energies and forces from the file), or "
            "give labelling.code.energy_offsets",
        )
    smeared = sorted(
        code.type for code in (config.labelling.code, *config.labelling.codes.values()) if getattr(code, "smearing", 0)
    )
    other = sum(label.code == "file" and label.energy_kind != "free_energy" for label in labels)
    if other and smeared:
        yield Finding(
            "warning",
            "data",
            f"{other} labels in {name} have an energy and no free energy, the run's own ({', '.join(smeared)}, with "
            "smearing) are free energies: where the electrons of the file were smeared too, write their free energies "
            "into it as `free_energy`",
        )


def _elements(config: Config, elements: set[str], known: set[str]) -> Iterator[Finding]:
    """The elements of the model, the structures and the data, held against each other."""
    model = _model_elements(config)
    missing = sorted((elements | known) - set(model)) if model is not None else []
    if model is not None and missing:
        raise TrainingError(
            f"the model does not know {', '.join(missing)} (it knows {', '.join(model)}); "
            + (
                "add them to model.elements"
                if config.model.path is None
                else "start from another model.path, or from none"
            )
        )
    if config.dataset.rattled.count + config.dataset.generated.count == 0 and elements - known:
        raise ConfigError(
            f"dataset.initial holds no {', '.join(sorted(elements - known))}, which the structures hold; add such "
            "structures to the file or set dataset.rattled.count or dataset.generated.count"
        )
    if config.model.path is not None and model is None:
        yield Finding(
            "warning", "model", f"{config.model.path} is a matgl name; what it knows is seen when it is loaded"
        )
    else:
        yield Finding("ok", "elements", ", ".join(sorted(model or elements | known)))


def _descriptor(config: Config, elements: set[str]) -> Iterator[Finding]:
    """Whether the settings of the descriptor and its metric fit the elements of the model."""
    from ideal.soap import SoapPowerSpectrum

    model = _model_elements(config)
    if model is None and config.model.path is not None:
        return  # what it knows is seen when it is loaded
    species = sorted(model or elements)
    try:
        soap = SoapPowerSpectrum(species, **dict(config.uncertainty.soap))
    except ConfigError as error:
        raise ConfigError(f"uncertainty.soap: {error}") from error
    rank = config.uncertainty.rank
    if rank is not None and rank > soap.n_features:
        raise ConfigError(
            f"uncertainty.rank: {rank} directions of {soap.n_features} features ({', '.join(species)}); write "
            f"{soap.n_features} at most, or leave it out"
        )
    yield Finding("ok", "descriptor", f"{soap.n_features} features")


def _model_elements(config: Config) -> Sequence[str] | None:
    """Elements of the model as far as they are known without loading it; None: unknown."""
    if config.model.path is None:
        return config.model.elements
    folder = Path(config.model.path)
    if not folder.is_dir():
        if os.sep in config.model.path:
            raise TrainingError(
                f"model.path {config.model.path}: no such folder; name a model directory or a matgl model"
            )
        return None
    from ideal.models import load_potential

    return load_potential(folder, config.model.model_copy(update={"device": "cpu"})).elements


# --- code and worker --------------------------------------------------------------------------------------------------


def _code(config: Config, elements: list[str], output: Path, may_queue: bool) -> Iterator[Finding]:
    """Start one worker as the run will and let the code answer there."""
    from ideal.labelling.codes import make_code
    from ideal.labelling.labeller import check_workers

    executor = config.labelling.executor
    code = make_code(config.labelling.code)
    if isinstance(executor, ParslExecutorConfig) and executor.provider.type != "local" and not may_queue:
        yield Finding("ok", "worker", f"not asked: the first label finds out ({executor.provider.type} may be busy)")
        return
    start = time.monotonic()
    # Beside the run, which all machines see, unless everything happens on this one.
    shared = None if isinstance(executor, LocalExecutorConfig) else _nearest(output)
    with tempfile.TemporaryDirectory(prefix=".ideal-check-", dir=shared) as folder:
        for line in check_workers(code, elements, folder, config.labelling):
            yield Finding("ok", "code", line)
        for name, section in config.labelling.codes.items():
            for line in check_workers(
                make_code(section), _labelled_by(name, config, elements), folder, config.labelling
            ):
                yield Finding("ok", f"code {name}", line)
    if config.labelling.store is not None:
        yield from _store(config.labelling.store)
    kind = executor.type if executor.type != "parsl" else f"parsl on {executor.provider.type}"
    seconds = time.monotonic() - start
    yield Finding("ok", "worker", f"a worker process ({kind}) started and answered in {seconds:.1f} s")


def _labelled_by(name: str, config: Config, elements: list[str]) -> list[str]:
    """The elements that a further code may meet."""
    from ideal.dataset.files import read_structures

    found: set[str] = set()
    for rule in config.labelling.rules:
        if rule.code == name:
            found.update(elements if rule.elements is None else set(rule.elements) & set(elements))
    for trajectory in config.trajectories:
        if trajectory.code == name:
            found.update(read_structures(trajectory.structure)[-1].get_chemical_symbols())
    return sorted(found)


def _store(path: Path) -> Iterator[Finding]:
    """Whether the shared label store can be used."""
    from ideal.labelling.store import LabelStore, on_network

    if not path.parent.is_dir():
        raise ConfigError(f"labelling.store: no such folder: {path.parent}; make it, or correct the path")
    if path.is_file():
        with LabelStore(path) as store:
            text = f"{store.counts()['done']} labels in {path}, shared with other runs"
    else:
        text = f"{path} will be made, for other runs to share"
    network = "; it lies on a network file system: every commit waits for a file lock there"
    yield Finding("warning" if on_network(path) else "ok", "store", text + (network if on_network(path) else ""))


def _nearest(path: Path) -> Path:
    """The folder itself, or the one above that exists."""
    while not path.exists():
        path = path.parent
    return path
