"""In-distribution substructure embedding: a small periodic cell around one atom of a large frame.

    crop          where the cell's faces may lie, and the atoms near the center
    seam          face pairs across which the material continues itself
    composition   from two faces per axis to a cell: contacts removed, holes filled, composition repaired
    charges       formal charges, given or guessed, of compounds without a formula
    molecules     groups of atoms that are never cut
    saturation    clusters in vacuum, their cut bonds capped by hydrogen
    filler        optimization of the atoms that may move (descent: its L-BFGS; distances: what is a contact)
    search        crops of one size drawn, ranked and optimized
    embed         the stage: sizes, acceptance, refusal
    pool          cells made by processes of their own (worker: such a process)

Kong et al., "Overcoming the Size Limit of First Principles Molecular Dynamics Simulations with an In-Distribution
Substructure Embedding Active Learner" (2023). Three things differ from the paper, because measurements asked for it:
faces are matched instead of drawn blindly; what is minimized is not the sum of the uncertainties, but what exceeds the
threshold and what their mean square exceeds that of real frames by; and the core must not be less known in the cell
than it was in the frame.
"""

from __future__ import annotations

from ideal.embedding.distances import minimum_distances
from ideal.embedding.embed import embed

__all__ = ["embed", "minimum_distances"]
