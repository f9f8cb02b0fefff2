"""Labelling: small cells in, energies, forces and stresses from a reference code out.

`codes` holds the programs, `labeller` hands structures to worker processes and judges what they return, `store`
keeps every finished label at once. The public names are imported on first use; nothing here needs torch or matgl.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ideal.labelling.codes import make_code as make_code
    from ideal.labelling.labeller import LabelCounts as LabelCounts
    from ideal.labelling.labeller import Labeller as Labeller
    from ideal.labelling.store import LabelStore as LabelStore

__all__ = ["LabelCounts", "LabelStore", "Labeller", "make_code"]

_PUBLIC = {
    "make_code": "ideal.labelling.codes",
    "LabelCounts": "ideal.labelling.labeller",
    "Labeller": "ideal.labelling.labeller",
    "LabelStore": "ideal.labelling.store",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
