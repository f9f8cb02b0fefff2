"""Potentials: protocols (`base`), M3GNet (`m3gnet`), TensorNet (`tensornet`), any torch network of edge vectors
(`edge_potential`), and the ASE calculator (`calculator`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ideal.config import ModelConfig
    from ideal.models.base import TrainablePotential


def make_potential(config: ModelConfig, elements: Sequence[str], seed: int) -> TrainablePotential:
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

    known = config.elements or list(elements)
    if config.path is None:
        potential = _in_precision(_new(config, known, seed), config)
    else:
        potential = load_potential(config.path, config)
    missing = sorted(set(elements) - set(potential.elements))
    if missing:
        source = config.path or "`model.elements`"
        raise TrainingError(
            f"{source} lacks {', '.join(missing)} (it has {', '.join(potential.elements)}), which data or structures "
            "hold; add the elements, or use a model that knows them"
        )
    return potential


def load_potential(path: str | Path, config: ModelConfig | None = None) -> TrainablePotential:
    """A saved potential.

    Args:
        path: folder that a potential was saved to; for M3GNet and TensorNet also a folder of matgl or the name of one
            of its pretrained models.
        config: device, threads, chunks, precision, and its kind where the folder does not say; None: the defaults.

    Raises:
        TrainingError: nothing there, of another kind, or damaged; a custom model without ``double``.
    """
    from ideal.config import ModelConfig

    settings = config or ModelConfig()
    return _in_precision(_loaded(path, settings), settings)


def _loaded(path: str | Path, settings: ModelConfig) -> TrainablePotential:
    from ideal.models.device import Device

    device: Device = settings.device
    chunk_atoms = None if settings.chunk_atoms == "auto" else settings.chunk_atoms
    if settings.type == "custom":
        from ideal.models.custom import custom_class

        return custom_class(settings).load(path, device=device, threads=settings.threads)
    kind = _kind(Path(path)) or settings.type
    if kind == "tensornet":
        from ideal.models.tensornet import TensorNetPotential

        return TensorNetPotential.load(path, device, settings.threads, chunk_atoms)
    from ideal.models.m3gnet import M3GNetPotential

    return M3GNetPotential.load(path, device, settings.threads, chunk_atoms)


def _new(config: ModelConfig, elements: Sequence[str], seed: int) -> TrainablePotential:
    if config.type == "custom":
        from ideal.models.custom import new_custom

        return new_custom(config, elements, seed)
    if config.type == "tensornet":
        from ideal.models.tensornet import TensorNetPotential

        return TensorNetPotential.new(config, elements, seed)
    from ideal.models.m3gnet import M3GNetPotential

    return M3GNetPotential.new(config, elements, seed)


def _in_precision(potential: TrainablePotential, config: ModelConfig) -> TrainablePotential:
    if config.precision == "float64":
        double = getattr(potential, "double", None)
        if double is None:
            from ideal.errors import TrainingError

            raise TrainingError(
                f"model.precision: float64, but {type(potential).__name__} has no method `double`; write one, or "
                "choose float32"
            )
        double()
    return potential


def _kind(path: Path) -> str:
    """The kind of model that a folder of ours names; empty for anything else."""
    from ideal.models.storage import MODEL_FILE, read_model

    if not (path / MODEL_FILE).is_file():
        return ""
    return str(read_model(path)[1].get("format", "")).rpartition("-")[0]
