"""``ideal-run calibrate``: what u means in eV/Å, measured on labelled structures that the model does not know."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ideal.cli.failures import say_warning
from ideal.cli.look import existing_file
from ideal.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from ideal.cli.calibration_study import LabelledPairs, Study
    from ideal.engine.comparing import Comparison
    from ideal.records import Label
    from ideal.uncertainty.assessment import Measure
    from ideal.uncertainty.calibration import Calibration

_BATCH = 16
_PLACES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_FILES = ("calibration.json", "calibration.png")


@dataclass(frozen=True)
class _Source:
    """Where model and distribution come from; ``run`` is None for a model that belongs to no run."""

    model: Path
    uncertainty: Path
    run: Path | None


def calibrate(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labelled structures: energy and forces of each.")],
    model: Annotated[Path, typer.Option("--model", "-m", metavar="DIR", help="Model directory, or a run directory.")],
    uncertainty: Annotated[
        Path | None,
        typer.Option(
            "--uncertainty",
            "-u",
            help="Distribution of known environments; default: uncertainty.safetensors of the run.",
        ),
    ] = None,
    force_error: Annotated[float, typer.Option(metavar="F", help="Force error in eV/Å that an atom may have.")] = 0.15,
    confidence: Annotated[
        float, typer.Option(metavar="P", help="Share of atoms whose error stays below the bound.")
    ] = 0.9,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="U", help="Judge this threshold of u instead of the one that --force-error asks for."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for calibration.json and calibration.png."),
    ] = None,
    per_species: Annotated[bool, typer.Option("--per-species", help="Also the numbers of every element.")] = False,
    include_known: Annotated[
        bool, typer.Option("--include-known", help="Keep structures that the model was trained on.")
    ] = False,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads of model and C++ core.")] = 1,
) -> None:
    """Measure what u means in eV/Å: hold it against the model's true force errors on labelled structures.

    Fits the bound on the force error that a share P of the atoms keeps, and the threshold of u that a tolerance asks
    for. Every structure is judged by a bound from the others (20 folds, structures kept whole), and counts once
    whatever its size. Structures that the run has learned are left out. The default output is DATA-calibration.
    """
    from ideal.cli.calibration_study import LabelledPairs, structures_needed, study

    _check_numbers(force_error, confidence, threshold)
    output = output or Path(f"{data.stem}-calibration")
    if (output / "config.yaml").exists() or (output / "events.jsonl").exists():
        raise ConfigError(
            f"--output {output}: is the folder of a run, whose own calibration.json stands there; name another"
        )
    source = _source(model, uncertainty)
    labels = _unknown_labels(data, source, include_known)
    needed = structures_needed(confidence)
    if len(labels) < needed:
        raise ConfigError(
            f"{data}: {len(labels)} structures; a bound for {100 * confidence:g} % of the atoms needs at least "
            f"{needed}: give more, or lower --confidence"
        )
    comparisons = _compare(source, labels, threads)
    pairs = LabelledPairs.of(labels, comparisons)
    result = study(
        comparisons,
        pairs,
        force_error=force_error,
        confidence=confidence,
        threshold=threshold,
        per_species=per_species,
    )
    _print(data, source, pairs, result)
    _write(output, data, source, pairs, result)


def _check_numbers(force_error: float, confidence: float, threshold: float | None) -> None:
    if not 0 < force_error < math.inf:
        raise ConfigError(f"--force-error {force_error:g}: write a number above 0 eV/Å, such as 0.15")
    if not 0 < confidence < 1:
        raise ConfigError(f"--confidence {confidence:g}: write a number between 0 and 1, such as 0.9")
    if threshold is not None and not 0 < threshold < math.inf:
        raise ConfigError(f"--threshold {threshold:g}: write a number above 0, such as 2")


# --- input ------------------------------------------------------------------------------------------------------------


def _source(model: Path, uncertainty: Path | None) -> _Source:
    """Model and distribution of a run directory, of a ``model`` or an earlier one in it, or of a lone model."""
    if not model.is_dir():
        raise ConfigError(f"--model {model}: no such folder; name a model directory or a run directory")
    run: Path | None = None
    folder = model
    if (model / "events.jsonl").is_file():
        run, folder = model, model / "model"
        if not folder.is_dir():
            raise ConfigError(f"--model {model}: this run has no model yet; wait until it has been trained")
    elif (model.resolve().parent / "events.jsonl").is_file():
        run = model.resolve().parent
    if uncertainty is None:
        if run is None:
            raise ConfigError(
                f"--model {model}: belongs to no run; name the distribution too, with --uncertainty FILE "
                "(a run keeps one as DIR/uncertainty.safetensors)"
            )
        name = folder.resolve().name
        state = name.removeprefix("model") if name in ("model_initial", "model_run") else ""
        uncertainty = run / f"uncertainty{state}.safetensors"
    return _Source(folder, uncertainty if uncertainty.is_dir() else existing_file(uncertainty, "--uncertainty"), run)


def _unknown_labels(data: Path, source: _Source, include_known: bool) -> list[Label]:
    """The labels of the file that the run has not learned.

    Raises:
        ConfigError: none is left.
    """
    from ideal.dataset.files import read_labels
    from ideal.records import structure_key

    labels = read_labels(data)
    known = _known_structures(source.run) if source.run is not None else set()
    new = [label for label in labels if structure_key(label.atoms, {}) not in known]
    count = len(labels) - len(new)
    if not count:
        return labels
    if include_known:
        say_warning(
            f"{count} of {len(labels)} structures were learned by this run: the numbers below flatter the model"
        )
        return labels
    if not new:
        raise ConfigError(
            f"{data}: the run {source.run} has learned all {len(labels)} structures, so that errors on them say "
            "nothing; give structures that it does not know, or --include-known"
        )
    say_warning(f"{count} of {len(labels)} structures were learned by this run and are left out")
    return new


def _known_structures(run: Path) -> set[str]:
    """Keys (of the structure alone) of everything that a run was given to learn, or computed to learn."""
    from ideal.dataset.files import read_structures
    from ideal.engine.run_directory import LABEL_STORE
    from ideal.labelling.store import LabelStore
    from ideal.records import structure_key

    known = []
    if (run / "initial_labels.extxyz").is_file():
        known += read_structures(run / "initial_labels.extxyz")
    if (run / LABEL_STORE).is_file():
        with LabelStore(run / LABEL_STORE, read_only=True) as store:
            known += [label.atoms for label in store.labels()]
    return {structure_key(atoms, {}) for atoms in known}


def _compare(source: _Source, labels: Sequence[Label], threads: int) -> list[Comparison]:
    """u and force errors of every structure."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    with console.status("loading torch and the model"):
        from ideal.config import ModelConfig
        from ideal.engine.comparing import compare
        from ideal.models import load_potential
        from ideal.uncertainty.loading import load_uncertainty

        potential = load_potential(source.model, ModelConfig(threads=threads))
        uncertainty = load_uncertainty(source.uncertainty, threads)
    comparisons: list[Comparison] = []
    starts = range(0, len(labels), _BATCH)
    for start in track(starts, "comparing", console=console, disable=not console.is_terminal, transient=True):
        comparisons += compare(potential, uncertainty, labels[start : start + _BATCH])
    return comparisons


# --- output -----------------------------------------------------------------------------------------------------------


def _print(data: Path, source: _Source, pairs: LabelledPairs, result: Study) -> None:
    from rich.console import Console

    console = Console()
    found, calibration = result.assessment, result.calibration
    infinite = int((pairs.u == math.inf).sum())
    typer.echo(f"{data}: {found.n_cells} structures, {found.n:,} atoms; model {source.model}, {source.uncertainty}")
    if infinite:
        typer.echo(f"{infinite:,} atoms of a species that the distribution has never seen: u is infinite, no bound")
    if result.n_unbounded > infinite:
        typer.echo(f"{result.n_unbounded - infinite:,} atoms have a u beyond what the other structures show: no bound")
    bounds = _bounds(calibration, found.force_error)
    typer.echo(f"Bound on the force error of {100 * calibration.confidence:g} % of the atoms: {bounds}")
    typer.echo(f"Threshold for force errors of {found.force_error:g} eV/Å: u = {result.asked:.4g}{_reach(result)}")
    if found.n_flagged == found.n:
        typer.echo(
            f"Every atom lies above u = {found.threshold:.4g}: nowhere can this model be trusted to keep "
            f"{found.force_error:g} eV/Å; train it on more, or accept a larger --force-error"
        )
    if result.threshold != result.asked:
        bound = float(calibration.bound(result.threshold))
        where = f"where the bound is {bound:.3g} eV/Å" if math.isfinite(bound) else "where nothing was compared"
        typer.echo(f"Judged below: the threshold u = {result.threshold:.4g}, {where}")
    for name, slope, unit in (
        ("Energy", calibration.energy_slope, "eV/atom"),
        ("Stress", calibration.stress_slope, "GPa"),
    ):
        if slope is not None:
            typer.echo(f"{name} error per unit of a structure's root mean square u: {slope:.3g} {unit}")
    console.print(_measures(result))
    for measure in (found.coverage, found.tpr, found.fpr, found.ppv, found.auc, found.spearman):
        if measure.value is None:
            typer.echo(f"-: {measure.reason}")
    if result.per_species:
        console.print(_species_table(result, pairs))


def _bounds(calibration: Calibration, force_error: float) -> str:
    """The bound at a few round values of u, those where it is not far above the tolerance first."""
    grid, _ = calibration.bound_curve()
    if not len(grid):
        return "none"
    places = [u for u in _PLACES if grid[0] <= u <= grid[-1]] or grid[[0, -1]].tolist()
    near = [u for u in places if float(calibration.bound(u)) <= 10 * force_error] or places[:1]
    return ", ".join(f"{float(calibration.bound(u)):.3g} eV/Å at u = {u:g}" for u in near[:4])


def _reach(result: Study) -> str:
    """Why the threshold is lower than the tolerance allows, when it is."""
    bound = float(result.calibration.bound(result.asked))
    if result.asked > 0 and bound < 0.999 * result.assessment.force_error:
        return f" (the bound is {bound:.3g} eV/Å there; higher u were hardly compared)"
    return ""


def _measures(result: Study) -> Table:
    from rich import box
    from rich.table import Table

    found = result.assessment
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("measure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column(f"{100 * found.confidence:g} % interval", justify="right", no_wrap=True)
    table.add_column("meaning", overflow="fold")
    wrong = f"|ΔF| > {found.force_error:g} eV/Å"
    flagged = f"u > {found.threshold:.3g}"
    for name, measure, percent, meaning in (
        (
            f"coverage at {100 * result.calibration.confidence:g} %",
            found.coverage,
            True,
            f"atoms within the bound of the other structures ({result.folds} folds)",
        ),
        ("TPR", found.tpr, True, f"of the {found.n_true:,} atoms with {wrong}: {flagged}"),
        ("FPR", found.fpr, True, f"of the {found.n - found.n_true:,} others: {flagged}"),
        ("PPV", found.ppv, True, f"of the {found.n_flagged:,} atoms with {flagged}: {wrong}"),
        ("AUC", found.auc, False, "u ranks an atom that is wrong above one that is not; 0.5: chance"),
        ("Spearman", found.spearman, False, "rank correlation of u and |ΔF|"),
    ):
        table.add_row(name, *_cells(measure, percent), meaning)
    return table


def _cells(measure: Measure, percent: bool) -> tuple[str, str]:
    """Value and interval as text."""

    def say(value: float) -> str:
        return f"{100 * value:.1f} %" if percent else f"{value:.3f}"

    value = "-" if measure.value is None else say(measure.value)
    if measure.low is None or measure.high is None:
        return value, "-"
    return value, f"{say(measure.low).removesuffix(' %')} to {say(measure.high)}"


def _species_table(result: Study, pairs: LabelledPairs) -> Table:
    import numpy as np
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    titles = (
        "element",
        "atoms",
        "median\nu",
        "mean |ΔF|\n(eV/Å)",
        "coverage\n(%)",
        "TPR\n(%)",
        "PPV\n(%)",
        "AUC",
        "rank\ncorr.",
    )
    for title in titles:
        table.add_column(title, justify="left" if title == "element" else "right", no_wrap=True)
    for name, found in result.per_species.items():
        here = pairs.species == name
        table.add_row(
            name,
            f"{found.n:,}",
            f"{np.median(pairs.u[here]):.2f}",
            f"{pairs.error[here].mean():.3g}",
            *(_cells(measure, True)[0].removesuffix(" %") for measure in (found.coverage, found.tpr, found.ppv)),
            *(_cells(measure, False)[0] for measure in (found.auc, found.spearman)),
        )
    return table


def _write(output: Path, data: Path, source: _Source, pairs: LabelledPairs, result: Study) -> None:
    from ideal.cli.output import replacing, write_text
    from ideal.report.calibration_plot import Cloud, Curve, Lines, draw_calibration
    from ideal.report.style import LIGHT, themed, to_png

    calibration = result.calibration
    bound_u, bound = calibration.bound_curve()
    content = {
        "data": str(data),
        "model": str(source.model),
        "uncertainty": str(source.uncertainty),
        "force_error": result.assessment.force_error,
        "confidence": calibration.confidence,
        "scale": calibration.scale if math.isfinite(calibration.scale) else None,
        "threshold": result.asked,
        "bound": {"u": bound_u.tolist(), "error": bound.tolist()},
        "energy_slope": calibration.energy_slope,
        "stress_slope": calibration.stress_slope,
        "n_pairs": calibration.n_pairs,
        "n_structures": result.assessment.n_cells,
        "n_unbounded": result.n_unbounded,
        "folds": result.folds,
        "assessment": result.assessment.as_dict(),
        "curve": result.curve.as_dict(),
        "per_species": {name: found.as_dict() for name, found in result.per_species.items()},
    }
    write_text(output / _FILES[0], json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    lines = Lines(bound_u, bound, calibration.confidence, result.assessment.force_error, result.threshold)
    cloud = Cloud("atoms", pairs.u, pairs.error, LIGHT.series[0])
    with themed(LIGHT):
        image = to_png(draw_calibration([cloud], lines, Curve.of(result.curve), LIGHT))
    with replacing(output / _FILES[1]) as temporary:
        temporary.write_bytes(image)
    typer.echo(f"Wrote {output / _FILES[0]} and {output / _FILES[1]}.")
