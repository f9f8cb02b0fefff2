"""What a set of labels is worth: a model that learns all of them, anew, judged by the reference's own hot trajectory.

At 1200 K an amide bond of alanine dipeptide is cis in some per cent of the time. Exploration that never turned one has
large errors there and small ones elsewhere, so that both are told apart.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from dipeptide import is_cis
from fitting import Plan
from learning import errors, fresh

from ideal.records import Label

_PLAN = Plan(steps=8000, rate=1.4e-2, batch=32, decay=0.03)
FINALS: dict[str, tuple[Plan, dict[str, int]]] = {
    "standard": (_PLAN, {"hidden": 128}),
    "large": (replace(_PLAN, energy=5.0), {"hidden": 128, "n_basis": 12}),
}
"""Training and network; exploration has a narrower one. All arms learn the standard one."""


def judge(labels: Sequence[Label], seed: int, test: Sequence[Label], model: Path, final: str) -> dict[str, Any]:
    """Root mean square errors of energies (meV/atom) and force components (eV/Å) of a model that learns ``labels``.

    Args:
        labels: to learn, all of them.
        seed: of the weights and of the order of labels.
        test: labels that judge.
        model: where the trained model is kept.
        final: of `FINALS`.
    """
    began = time.process_time()
    plan, architecture = FINALS[final]
    potential = fresh(labels, seed, plan, **architecture)
    cis = is_cis(np.array([each.atoms.positions for each in test]))
    row: dict[str, Any] = {"learned": len(labels), "test_frames": len(test), "test_cis": int(cis.sum())}
    for name, chosen in (("", np.ones_like(cis)), ("_cis", cis), ("_trans", ~cis)):
        row[f"energy{name}"], row[f"force{name}"] = errors(potential, [test[i] for i in np.flatnonzero(chosen)])
    potential.save(model)
    return {**row, "final_seconds": time.process_time() - began}
