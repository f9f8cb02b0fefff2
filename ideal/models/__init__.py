"""Potentials: protocols (`base`), M3GNet (`m3gnet`), and the ASE calculator (`calculator`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ideal.config import ModelConfig
    from ideal.models.m3gnet import M3GNetPotential


def make_potential(config: ModelConfig, elements: Sequence[str], seed: int) -> M3GNetPotential:
    """The potential that the configuration describes.

    Args:
        config: ``path`` names a model to load; otherwise a new one is made.
        elements: chemical symbols that data and structures hold; ``config.elements`` overrides them for a new model.
        seed: seed of a new model's weights.

    Raises:
        TrainingError: the model cannot be loaded, or lacks an element.

    Example:
        >>> from ideal.config import ModelConfig
        >>> make_potential(ModelConfig(n_blocks=1, units=8, max_n=2, max_l=2), ["O", "Li"], seed=0).elements
        ('Li', 'O')
    """
    from ideal.errors import TrainingError
    from ideal.models.m3gnet import M3GNetPotential

    known = config.elements or list(elements)
    if config.path is None:
        potential = M3GNetPotential.new(config, known, seed)
    else:
        potential = M3GNetPotential.load(
            config.path,
            config.device,
            config.threads,
            None if config.chunk_atoms == "auto" else config.chunk_atoms,
        )
    missing = sorted(set(elements) - set(potential.elements))
    if missing:
        source = config.path or "`model.elements`"
        raise TrainingError(
            f"{source} lacks {', '.join(missing)} (it has {', '.join(potential.elements)}), which data or structures "
            "hold; add the elements, or use a model that knows them"
        )
    return potential
