"""In-distribution substructure embedding: a small periodic cell around one atom of a large frame.

    crop          where the cell's faces may lie, and the atoms near the center
    seam          face pairs across which the material continues itself
    composition   from two faces per axis to a cell: contacts removed, holes filled, composition repaired
    filler        optimization of the atoms that may move
    embed         the stage: crops, ranking, optimization, acceptance

Kong et al., "Overcoming the Size Limit of First Principles Molecular Dynamics Simulations with an In-Distribution
Substructure Embedding Active Learner" (2023). Three things differ from the paper, because measurements asked for it:
faces are matched instead of drawn blindly; only uncertainty above the threshold is minimized instead of its sum; and
the core must not be less known in the cell than it was in the frame.
"""

from __future__ import annotations

from ideal.embedding.distances import minimum_distances
from ideal.embedding.embed import embed

__all__ = ["embed", "minimum_distances"]
