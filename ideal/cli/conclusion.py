"""The end of a run in a few lines: steps, labels, errors before and after, where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_STAGE_NAMES = {
    "md": "dynamics",
    "uncertainty": "uncertainty",
    "embedding": "embedding",
    "labelling_wait": "waiting for labels",
    "training": "training",
    "evaluation": "evaluation",
    "io": "files",
}
_SMALLEST_SHARE = 0.01
_MOST_NAMED = 8


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal.

    Args:
        summary: fields of `ideal.engine.summary.RunSummary` as plain types.

    Example:
        >>> summary_lines({"status": "finished", "steps": 10, "wall_seconds": 61.0, "updates": 0, "labels": {}})[0]
        'Finished: 10 steps in 01:01, 0 updates of the model.'
    """
    from ideal.cli.live import elapsed
    from ideal.report.words import audit_line, threshold_line

    lines = [
        f"{summary['status'].capitalize()}: {summary['steps']} steps in {elapsed(summary['wall_seconds'])}, "
        f"{summary['updates']} updates of the model."
    ]
    if summary.get("ended_by"):
        lines.append(
            f"Ended before the last step by {summary['ended_by']}. A larger limit and `resume` go on from there."
        )
    ended = [trajectory for trajectory in summary.get("trajectories") or [] if trajectory.get("conclusion")]
    lines += [f"{trajectory['name']}: {trajectory['conclusion']}." for trajectory in ended[:_MOST_NAMED]]
    restarted = [trajectory for trajectory in summary.get("trajectories") or [] if trajectory.get("restarts")]
    if restarted:
        number = sum(trajectory["restarts"] for trajectory in restarted)
        names = ", ".join(trajectory["name"] for trajectory in restarted[:4]) + ", ..." * (len(restarted) > 4)
        lines.append(f"Went back to a good state: {number} time{'s' * (number > 1)} ({names}).")
    labels = summary.get("labels") or {}
    if labels:
        text = f"Labels: {labels['initial']} at the start, {labels['done']} learned on the fly"
        text += "".join(
            f", {labels[key]} {word}"
            for key, word in (
                ("failed", "failed"),
                ("refused", "cells refused"),
                ("initial_failed", "initial ones failed"),
            )
            if labels.get(key)
        )
        lines.append(text + ".")
    lines += _error_lines(summary.get("held_out_before"), summary.get("held_out_after"))
    calibration = summary.get("calibration") or {}
    if calibration:
        found = [line for line in (threshold_line(calibration), audit_line(calibration)) if line]
        lines += [f"{line[:1].upper()}{line[1:]}." for line in found]
    wall = summary["wall_seconds"]
    shares = {
        _STAGE_NAMES.get(stage, stage): seconds / wall
        for stage, seconds in (summary.get("stage_seconds") or {}).items()
        if wall > 0 and seconds / wall >= _SMALLEST_SHARE
    }
    if shares and 1 - sum(shares.values()) >= _SMALLEST_SHARE:
        shares["other"] = 1 - sum(shares.values())
    if shares:
        ordered = sorted(shares.items(), key=lambda item: -item[1])
        lines.append("Time: " + ", ".join(f"{name} {share:.0%}" for name, share in ordered) + ".")
    return lines


def _error_lines(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[str]:
    if not before or not after:
        return []
    parts = []
    for key, name, scale, unit, digits in (
        ("force_mae", "force", 1.0, "eV/Å", 4),
        ("energy_mae", "energy", 1e3, "meV/atom", 2),
        ("stress_mae", "stress", 1.0, "GPa", 3),
    ):
        if before.get(key) is not None and after.get(key) is not None:
            parts.append(f"{name} {scale * before[key]:.{digits}f} -> {scale * after[key]:.{digits}f} {unit}")
    return ["Held-out MAE before -> after: " + ", ".join(parts) + "."] if parts else []
