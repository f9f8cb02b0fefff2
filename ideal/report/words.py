"""What a run knows about its errors, in sentences that claim no more than the numbers allow.

Everything here takes the content of ``calibration.json`` (or of a "calibrated" event) as a mapping; what it does not
hold is not said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ideal.report.calibration import Interval
from ideal.report.log import number

_FEW = 20
"""Below this many audits only the ends of an interval are told: the estimate itself would be read as a measurement."""

NO_LIMIT = 1e300
"""A threshold as large as this excludes no atom."""

_TELLING = 0.7
"""Below this AUC u hardly tells wrong atoms from others."""

_WIDEST = 1000
"""An interval whose ends differ by more than this factor tells nothing: two or three audits give such."""

_UNBOUNDED = {False: "not calibrated yet", True: "beyond what was compared, without a bound"}

_SOURCES = {
    "calibrated": "from the calibration",
    "quantile": "the held-out quantile of u times its factor",
    "moving_average": "the moving average of the largest u",
    "fixed": "the value of the configuration",
}


def calibration_findings(
    latest: Mapping[str, Any], budget: Mapping[str, Any] | None = None
) -> list[tuple[str, list[str]]]:
    """What a run knows about its errors: topics, each with its sentences.

    Args:
        latest: content of ``calibration.json``; may be empty.
        budget: the "label_budget_spent" event, if there was one.

    Example:
        >>> calibration_findings({"threshold": 2.4, "threshold_source": "fixed", "n_pairs": 0})[0][1][0]
        'An atom counted as uncertain where u exceeded 2.4 (the value of the configuration).'
    """
    topics = [
        ("Threshold", _threshold),
        ("Does u tell errors?", _assessment),
        ("Energy and stress", _slopes),
        ("Audit", _audit),
    ]
    found = [(topic, list(sentences(latest))) for topic, sentences in topics] if latest else []
    if budget:
        found.append(("Label budget", [budget_sentence(budget)]))
    return [(topic, sentences) for topic, sentences in found if sentences]


def budget_sentence(event: Mapping[str, Any]) -> str:
    """That the labels of ``engine.max_labels`` are used up, and what follows."""
    where = f" at step {event['step']} of {event['trajectory']}" if event.get("trajectory") else ""
    return (
        f"The label budget (engine.max_labels: {event.get('limit', '?')}) was spent{where}: from there on uncertain "
        "atoms were neither labelled nor learned."
    )


def threshold_line(content: Mapping[str, Any]) -> str:
    """The threshold and what it means, in one short line for the terminal.

    Args:
        content: ``calibration.json`` or a "calibrated" event.

    Example:
        >>> threshold_line({"threshold": 2.0, "threshold_bound": 0.15, "ready": True})
        'threshold u 2.00: force error up to 0.150 eV/Å'
    """
    threshold, bound = number(content.get("threshold")), number(content.get("threshold_bound"))
    if not threshold < NO_LIMIT:
        return "threshold u: none"
    text = f"threshold u {threshold:.2f}"
    if math.isfinite(bound):
        return f"{text}: force error up to {bound:.3f} eV/Å"
    source = str(content.get("threshold_source", "")).replace("_", " ")
    ready = bool(content.get("ready"))
    return f"{text} ({source}); {_UNBOUNDED[ready]} ({content.get('n_pairs', 0):,} atoms compared)"


def audit_line(content: Mapping[str, Any]) -> str:
    """What the audits say, in one short line for the terminal; empty without any.

    Args:
        content: ``calibration.json`` or a "calibrated" event.

    Example:
        >>> audit_line({"missed_error_rate_low": 0.0, "missed_error_rate_high": 0.63})
        'audit: missed errors 0 to 63 %'
    """
    audit = content.get("audit")
    if isinstance(audit, Mapping):
        missed, force = (Interval.read(audit.get(name)) for name in ("missed_error_rate", "force_error"))
        title = f"audit ({audit.get('n_audited', '?')})"
    else:
        missed, force = _flat(content, "missed_error_rate"), _flat(content, "force_error")
        title = "audit"
    parts = []
    if missed.bounded:
        parts.append(f"missed errors {percent_range(missed)}")
    if force.bounded and force.high < _WIDEST * max(force.low, 0.001):
        parts.append(f"mean force error {force.low:.3f} to {force.high:.3f} eV/Å")
    elif math.isfinite(force.low) and force.low >= 0.001:
        parts.append(f"mean force error at least {force.low:.3f} eV/Å")
    return f"{title}: {', '.join(parts)}" if parts else ""


def percent_range(interval: Interval) -> str:
    """An interval of shares.

    Example:
        >>> percent_range(Interval(0.1, 0.0, 0.63))
        '0 to 63 %'
    """
    return f"{_percent(interval.low, unit=False)} to {_percent(interval.high)}"


def _flat(event: Mapping[str, Any], name: str) -> Interval:
    return Interval.read({"value": event.get(name), "low": event.get(f"{name}_low"), "high": event.get(f"{name}_high")})


# --- sentences --------------------------------------------------------------------------------------------------------


def _threshold(latest: Mapping[str, Any]) -> Iterator[str]:
    threshold, bound, scale = (number(latest.get(name)) for name in ("threshold", "threshold_bound", "scale"))
    source = str(latest.get("threshold_source", ""))
    if threshold < NO_LIMIT:
        how = _SOURCES.get(source, source)
        yield f"An atom counted as uncertain where u exceeded {threshold:.3g}" + (f" ({how})." if how else ".")
    cells = [f"{count} {kind}" for kind, count in (latest.get("n_cells") or {}).items() if count]
    compared = f"{latest.get('n_pairs', 0):,} atoms in labelled cells" + (f" ({', '.join(cells)})" if cells else "")
    if not latest.get("ready"):
        yield (
            f"Compared with the model before it learned them: {compared}. That is too little for a calibration: the "
            "threshold has no meaning in eV/Å yet."
        )
        return
    per_unit = f" Roughly: {scale:.2g} eV/Å per unit of u." if math.isfinite(scale) else ""
    yield f"The calibration rests on {compared}, compared with the model before it learned them.{per_unit}"
    confidence, target = number(latest.get("confidence")), number(latest.get("force_error"))
    share = f"for {100 * confidence:g} % of the environments " if math.isfinite(confidence) else ""
    if not math.isfinite(bound):
        yield "The threshold lies above every u that was compared: no bound on the force error can be given there."
        return
    yield f"Up to the threshold the force error stays {share}below {bound:.3g} eV/Å."
    if source == "calibrated" and bound > 1.01 * target:
        yield (
            f"That is more than the tolerance of {target:g} eV/Å: the threshold is on its way there in steps, or the "
            "model errs by more even on environments that it knows as well as its training data, which are not asked "
            "for. Then longer training, more initial data, a larger model or a larger tolerance helps."
        )
    if source == "calibrated" and bound < 0.99 * target:
        yield (
            f"The tolerance of {target:g} eV/Å would allow a higher threshold, but no label has been compared there: "
            "it stays where the labels are."
        )


def _assessment(latest: Mapping[str, Any]) -> Iterator[str]:
    content = latest.get("assessment")
    if not isinstance(content, Mapping):
        return
    coverage, tpr, ppv, auc = (Interval.read(content.get(name)) for name in ("coverage", "tpr", "ppv", "auc"))
    level = number(content.get("confidence"))
    confidence = number(latest.get("confidence"))
    if coverage.known:
        asked = f"; {100 * confidence:g} % was asked for" if math.isfinite(confidence) else ""
        yield (
            f"The bounds given before the errors were known held for {_percent(coverage.value)} of the atoms"
            f"{_between(coverage, level)}{asked}."
        )
    target = number(content.get("force_error", latest.get("force_error")))
    wrong = f"with a force error above {target:g} eV/Å" if math.isfinite(target) else "with a large force error"
    if tpr.known:
        yield f"Of the compared atoms {wrong}, u found {_percent(tpr.value)}{_between(tpr, level)}."
    if ppv.known:
        yield f"Of the atoms that u flagged, {_percent(ppv.value)}{_between(ppv, level)} were truly wrong by that much."
    if auc.known:
        span = f" ({_level(level)}{auc.low:.2f} to {auc.high:.2f})" if auc.bounded else ""
        yield (
            f"AUC {auc.value:.2f}{span}: so often does an atom {wrong} have a higher u than an atom without; 0.5 would "
            "be chance, 1 perfect."
        )
        if auc.value < _TELLING:
            yield "That is little: the bound holds on average, but u does not find the atoms that are wrong."


def _slopes(latest: Mapping[str, Any]) -> Iterator[str]:
    parts = []
    for name, scale, unit in (("energy", 1000.0, "meV/atom"), ("stress", 1.0, "GPa")):
        slope = number(latest.get(f"{name}_slope"))
        if math.isfinite(slope):
            parts.append(f"{scale * slope:.3g} {unit} of {name}")
    if parts:
        yield f"Errors of whole cells per unit of their root mean square u: {' and '.join(parts)}."


def _audit(latest: Mapping[str, Any]) -> Iterator[str]:
    content = latest.get("audit")
    if not isinstance(content, Mapping) or not content.get("n_audited"):
        yield "No audit has been labelled: how wrong the forces are where u is low has not been measured."
        return
    count = int(content["n_audited"])
    drawn = "1 audit" if count == 1 else f"{count} audits"
    confidence = number(content.get("confidence"))
    sure = f" ({100 * confidence:g} % confidence)" if math.isfinite(confidence) else ""
    certain, uncertain = content.get("n_certain"), content.get("n_uncertain")
    atoms = f"{count} atom was" if count == 1 else f"{count} atoms were"
    of = f" of {certain:,} (at all checks)" if certain else ""
    yield f"{atoms} drawn at random out{of or ' of those'} that were held for certain, and labelled to check them."
    tolerance = number(content.get("tolerance"))
    limit = f"a force error above {tolerance:g} eV/Å" if math.isfinite(tolerance) else "a large force error"
    missed = Interval.read(content.get("missed_error_rate"))
    yield _estimate(f"Share of them with {limit} (missed errors)", missed, drawn, sure, count, percent=True)
    force = Interval.read(content.get("force_error"))
    everything = "Mean force error of the whole trajectory" + (", uncertain atoms included" if uncertain else "")
    yield _estimate(everything, force, drawn, sure, count)
    rms = Interval.read(content.get("rms_force_error"))
    if rms.known and count >= _FEW:
        yield _estimate("Its root mean square", rms, drawn, sure, count)
    missing = latest.get("audits_missing")
    if missing:
        more = "1 more atom was" if missing == 1 else f"{missing} more atoms were"
        yield (
            f"{more} drawn, but gave no label (no cell, or a failed calculation); what they would have shown is "
            "missing from these numbers."
        )


def _estimate(what: str, estimate: Interval, drawn: str, sure: str, count: int, percent: bool = False) -> str:
    """One estimate with its interval; from few audits the interval alone."""

    def say(value: float, unit: bool = True) -> str:
        return _percent(value, unit) if percent else f"{value:.2g}" + (" eV/Å" if unit else "")

    if estimate.bounded:
        span = f"between {say(estimate.low, unit=False)} and {say(estimate.high)}{sure}"
        if count < _FEW or not estimate.known:
            return f"{what}: from {drawn}, {span}; more audits would narrow this."
        return f"{what}: {say(estimate.value)}, {span}, from {drawn}."
    if estimate.known and math.isfinite(estimate.low):
        return f"{what}: from {drawn}, at least {say(estimate.low)}{sure}; no upper limit can be given."
    return f"{what}: not known" + (f" ({estimate.reason})." if estimate.reason else ".")


def _between(interval: Interval, level: float) -> str:
    if not interval.bounded:
        return ""
    return f" ({_level(level)}{percent_range(interval)})"


def _level(confidence: float) -> str:
    return f"{100 * confidence:g} % interval: " if math.isfinite(confidence) else ""


def _percent(share: float, unit: bool = True) -> str:
    """A share as a percentage: decimals only where they say something."""
    value = 100 * share
    digits = 1 if 0 < value < 2 or 98 < value < 100 else 0
    return f"{value:.{digits}f}" + (" %" if unit else "")
