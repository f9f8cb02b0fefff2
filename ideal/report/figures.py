"""The figures of a report: what each is called, where it stands, and how all are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ideal.report import figures_calibration, figures_dynamics, figures_learning
from ideal.report.data import RunData
from ideal.report.derived import Derived
from ideal.report.drawing import Drawing, NotDrawnError, trajectory_names
from ideal.report.style import DARK, LIGHT, Theme, themed, to_png

UNCERTAINTY = "Uncertainty in eV/Å"
SECTIONS = ("Accuracy", UNCERTAINTY, "Dynamics", "Structure", "Labels and embedding", "Cost")


@dataclass(frozen=True)
class FigureSpec:
    """One figure of the report.

    Attributes:
        name: file name without ending.
        section: one of `SECTIONS`.
        title, caption: what stands above and below it.
        draw: makes it; raises `NotDrawnError` when there is nothing to show.
        wide: takes the whole width of the page.
        several: says something of several trajectories only; left out where there is one.
    """

    name: str
    section: str
    title: str
    caption: str
    draw: Callable[[RunData, Derived, Theme], Drawing]
    wide: bool = False
    several: bool = False


FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec(
        "parity_forces",
        "Accuracy",
        "Forces on held-out structures",
        "Every force component of structures that were never trained on; the line is perfect agreement.",
        figures_learning.force_parity,
    ),
    FigureSpec(
        "parity_energies",
        "Accuracy",
        "Energies of held-out structures",
        "One point per structure that was never trained on; the line is perfect agreement.",
        figures_learning.energy_parity,
    ),
    FigureSpec(
        "error_by_labels",
        "Accuracy",
        "Force error as labels arrive",
        "Each update: the error on its new labels before and after learning them. Diamonds: the held-out structures.",
        figures_learning.error_by_labels,
    ),
    FigureSpec(
        "training",
        "Accuracy",
        "Training",
        "Mean absolute errors that the trainer reports, epoch by epoch.",
        figures_learning.training,
    ),
    FigureSpec(
        "calibration",
        UNCERTAINTY,
        "True force errors against u",
        "Left: atoms of labelled cells, each compared with the model that had not learned it yet. Upper left, wrong by "
        "more than the tolerance at a u below the threshold: missed errors. Right: a bound from half of the cells, "
        "tested on the other half; on the line it keeps what it promises.",
        figures_calibration.errors_by_uncertainty,
        wide=True,
    ),
    FigureSpec(
        "threshold",
        UNCERTAINTY,
        "Threshold and bound over the run",
        "Every time labels arrive they are compared with the model before it learns them. Below: the quantile of "
        "error / u that the confidence asks for. Filled points: calibrated; hollow: too few labels had been compared.",
        figures_calibration.threshold_history,
    ),
    FigureSpec(
        "audit",
        UNCERTAINTY,
        "What the audits say",
        "From labels of atoms drawn at random out of those held for certain: the share whose force error exceeds the "
        "tolerance, and the mean force error of the whole trajectory. Shaded: confidence interval.",
        figures_calibration.audit_history,
    ),
    FigureSpec(
        "temperature",
        "Dynamics",
        "Temperature",
        "Instantaneous temperature at every check, and the thermostat's target.",
        figures_dynamics.temperature,
    ),
    FigureSpec(
        "potential_energy",
        "Dynamics",
        "Potential energy",
        "The model's energy at every check; it may jump a little where the model was updated.",
        figures_dynamics.potential_energy,
    ),
    FigureSpec(
        "uncertainty",
        "Dynamics",
        "Largest uncertainty",
        "Largest SOAP-Mahalanobis u of any atom. Above the threshold an atom is uncertain; circles: labels were asked.",
        figures_dynamics.uncertainty,
    ),
    FigureSpec(
        "labels",
        "Dynamics",
        "Labels along the trajectory",
        "Reference calculations asked for by the dynamics, by the time of the frame that asked.",
        figures_dynamics.labels,
    ),
    FigureSpec(
        "labels_by_trajectory",
        "Dynamics",
        "Labels by trajectory",
        "Reference calculations asked for by each trajectory: more where there is more to learn.",
        figures_dynamics.labels_by_trajectory,
        several=True,
    ),
    FigureSpec(
        "msd",
        "Structure",
        "Mean squared displacement",
        "Since the first frame, unwrapped across the boundaries, without drift.",
        figures_dynamics.displacement,
    ),
    FigureSpec(
        "rdf",
        "Structure",
        "Radial distribution",
        "Averaged over the first and the last tenth of the frames. Sharp peaks: crystal; broad ones: liquid or glass.",
        figures_dynamics.radial,
    ),
    FigureSpec(
        "order",
        "Structure",
        "Crystalline order",
        "Steinhardt q₆, averaged over an atom and its neighbors: 0.51 in perfect bcc, 0.57 in fcc, "
        "about 0.2 in a liquid.",
        figures_dynamics.order,
    ),
    FigureSpec(
        "soap_map",
        "Labels and embedding",
        "Map of atomic environments",
        "Principal components of the SOAP power spectrum. Raw crops break environments at their new boundaries; "
        "embedding brings them back to the training set.",
        figures_learning.soap_map,
    ),
    FigureSpec(
        "cells",
        "Labels and embedding",
        "Embedded cells",
        "Sizes of the small periodic cells, and the largest uncertainty left in their filler.",
        figures_learning.cells,
    ),
    FigureSpec(
        "wall_time",
        "Cost",
        "Wall time by stage",
        "Labels are calculated by parallel workers; only the time that the run waited for them counts here.",
        figures_learning.wall_time,
    ),
)


@dataclass(frozen=True)
class RenderedFigure:
    """A figure as files: PNG for light and for dark pages, and its description in words."""

    spec: FigureSpec
    light: bytes
    dark: bytes
    alt: str


@dataclass(frozen=True)
class MissingFigure:
    """A figure that could not be drawn, and why."""

    spec: FigureSpec
    reason: str


def render(run: RunData, derived: Derived) -> Iterator[RenderedFigure | MissingFigure]:
    """Draw every figure in both themes, in the order of `FIGURES`."""
    several = len(trajectory_names(run)) > 1
    for spec in FIGURES:
        if spec.several and not several:
            continue
        try:
            light, alt = _draw(spec, run, derived, LIGHT)
            dark, _ = _draw(spec, run, derived, DARK)
        except NotDrawnError as missing:
            yield MissingFigure(spec, str(missing))
        else:
            yield RenderedFigure(spec, light, dark, alt)


def _draw(spec: FigureSpec, run: RunData, derived: Derived, theme: Theme) -> tuple[bytes, str]:
    with themed(theme):
        drawing = spec.draw(run, derived, theme)
        return to_png(drawing.figure), drawing.alt
