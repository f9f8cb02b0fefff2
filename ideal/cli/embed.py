"""``ideal-run embed``: the cell around one atom of a frame, and a picture of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ideal.cli.look import existing_file
from ideal.cli.run import SetOption
from ideal.errors import ConfigError, EmbeddingError

if TYPE_CHECKING:
    from ase import Atoms

    from ideal.config import UncertaintyConfig
    from ideal.records import FloatArray, Substructure
    from ideal.uncertainty.mahalanobis import SoapMahalanobis

_ORDINARY = 0.75
"""The quantile of u in the frame that stands for its ordinary atoms where nothing else tells a threshold."""


class _Known(NamedTuple):
    """What the filler is made to look like."""

    uncertainty: SoapMahalanobis
    threshold: float
    source: str
    min_distances: dict[tuple[int, int], float] | None


def embed(
    structure: Annotated[Path, typer.Argument(metavar="FRAME", help="Structure or trajectory file.")],
    atom: Annotated[
        list[int], typer.Option(metavar="N", help="Index of the atom, counted from 0; several share one cell.")
    ],
    uncertainty: Annotated[
        Path | None,
        typer.Option(
            "--uncertainty", "-u", help="Distribution of known environments: uncertainty.safetensors of a run."
        ),
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option("--known", "-k", help="Structures whose environments are known: builds the distribution at once."),
    ] = None,
    frame: Annotated[int, typer.Option(metavar="N", help="Frame of the file, counted from 0; -1: the last.")] = -1,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="U", min=0.0, help="u above which an environment is unknown; default: from --known, or the run's."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for the cell (extended XYZ); default: FRAME-atomN.extxyz."),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="File for the picture; default: OUTPUT with .png.")] = None,
    no_picture: Annotated[bool, typer.Option("--no-picture", help="Draw nothing.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the crops.")] = 0,
    overrides: SetOption = None,
) -> None:
    """Cut a small periodic cell around one atom of a frame, its filler made to look like known environments.

    What is known comes from --uncertainty, from --known, or both (then --known tells threshold and distances). A
    refused cell is written and drawn too; the exit code is then 4.
    """
    from ideal.cli.output import write_text
    from ideal.cli.settings import read_sections
    from ideal.config import EmbeddingConfig, UncertaintyConfig
    from ideal.dataset.files import read_structures
    from ideal.embedding.embed import embed as embed_atom
    from ideal.engine.frame_files import substructure_frame
    from ideal.records import Frame

    sections = read_sections({"embedding": EmbeddingConfig, "uncertainty": UncertaintyConfig}, overrides or [], {})
    config, settings = sections["embedding"], sections["uncertainty"]
    assert isinstance(config, EmbeddingConfig) and isinstance(settings, UncertaintyConfig)
    frames = read_structures(structure)
    if not -len(frames) <= frame < len(frames):
        raise ConfigError(f"--frame {frame}: {structure} holds {len(frames)} frames; count from 0 to {len(frames) - 1}")
    atoms = frames[frame]
    wrong = next((number for number in atom if not 0 <= number < len(atoms)), None)
    if wrong is not None:
        raise EmbeddingError(f"--atom {wrong}: {structure} holds {len(atoms)} atoms; count from 0 to {len(atoms) - 1}")
    given = _known(atoms, atom, uncertainty, known, threshold, settings)
    start = time.perf_counter()
    cell = embed_atom(
        Frame(atoms, structure.name, frame % len(frames)),
        atom,
        given.uncertainty,
        rng=seed,
        config=config,
        threshold=given.threshold,
        ratio=config.formula,
        min_distances=given.min_distances,
    )
    seconds = time.perf_counter() - start
    output = output or Path(f"{structure.stem}-atom{'-'.join(map(str, atom))}.extxyz")
    write_text(output, substructure_frame(cell, "", structure.name, frame % len(frames), atom[0]))
    _describe(cell, given, seconds)
    typer.echo(f"Wrote {output}.")
    if not no_picture:
        from ideal.cli.picture import draw_substructure

        picture = picture or output.with_suffix(".png")
        draw_substructure(cell, picture, given.threshold)
        typer.echo(f"Wrote {picture}.")
    if not cell.accepted:
        raise EmbeddingError(f"{structure}, atom {atom[0]}: no acceptable cell: {cell.reason}")


def _known(
    atoms: Atoms,
    centers: list[int],
    uncertainty: Path | None,
    known: Path | None,
    threshold: float | None,
    settings: UncertaintyConfig,
) -> _Known:
    """The distribution, the threshold with a word on where it comes from, and the shortest distances."""
    from ideal.dataset.files import read_structures
    from ideal.embedding import minimum_distances
    from ideal.soap import SoapPowerSpectrum
    from ideal.uncertainty.mahalanobis import SoapMahalanobis

    if uncertainty is None and known is None:
        raise ConfigError(
            "say what is known: --uncertainty FILE (uncertainty.safetensors of a run), or --known FILE (structures)"
        )
    structures = read_structures(_existing(known)) if known is not None else []
    if uncertainty is not None:
        distribution = SoapMahalanobis.load(existing_file(uncertainty, "--uncertainty"))
    else:
        elements = sorted({symbol for some in [*structures, atoms] for symbol in some.get_chemical_symbols()})
        soap = SoapPowerSpectrum(elements, threads=settings.threads, **dict(settings.soap))
        distribution = SoapMahalanobis(soap, settings.ridge, metric=settings.metric, rank=settings.rank)
        distribution.update(structures)
    near = structures
    if not near and uncertainty is not None and (initial := uncertainty.parent / "initial_labels.extxyz").is_file():
        near = read_structures(initial)
    value, source = (threshold, "as given") if threshold is not None else (None, "")
    if value is None and structures:
        value, source = _held_out(distribution, structures, settings), "held-out quantile of the known structures"
    if value is None and uncertainty is not None:
        value, source = _threshold_of_run(uncertainty.parent / "calibration.json"), "the run's"
    if value is None:
        value, source = _ordinary(_uncut(atoms, centers, distribution))
    return _Known(distribution, value, source, minimum_distances(near) if near else None)


def _held_out(distribution: SoapMahalanobis, structures: list[Atoms], settings: UncertaintyConfig) -> float:
    from ideal.uncertainty.threshold import held_out_threshold

    known = distribution
    return held_out_threshold(settings.threshold, known.soap, structures, known.ridge, 0, known.metric, known.rank)


def _uncut(atoms: Atoms, centers: list[int], distribution: SoapMahalanobis) -> FloatArray:
    """u (n,) of a frame's atoms: its own column ``u`` where the centers' values show the same distribution.

    The frames of fix ideal are parts of a larger box, and the atoms at their faces are odd only here.
    """
    import numpy as np

    u = distribution.atomic(atoms)
    column = atoms.arrays.get("u")
    if column is None or column.shape != u.shape or not np.allclose(column[centers], u[centers], rtol=1e-4):
        return u
    return np.asarray(column, dtype=float)


def _ordinary(u: FloatArray) -> tuple[float, str]:
    """A threshold that the frame's ordinary atoms do not exceed: no cell that looks like the frame could meet less."""
    import numpy as np

    from ideal.embedding.embed import DEFAULT_THRESHOLD

    finite = u[np.isfinite(u)]
    value = max(DEFAULT_THRESHOLD, float(np.quantile(finite, _ORDINARY))) if finite.size else DEFAULT_THRESHOLD
    return value, f"{DEFAULT_THRESHOLD:g}, or what {_ORDINARY:.0%} of the frame's atoms do not exceed"


def _existing(path: Path) -> Path:
    """``path``, which must be a file.

    Raises:
        ConfigError: it is not.
    """
    if not path.is_file():
        raise ConfigError(f"--known {path}: no such file; name a file of structures that ASE reads")
    return path


def _threshold_of_run(path: Path) -> float | None:
    """What filler may reach in a run, from its ``calibration.json``; None where there is no run."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))["in_distribution"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ConfigError(f"{path}: not a calibration of a run; give --threshold") from None
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _describe(cell: Substructure, given: _Known, seconds: float) -> None:
    from ideal.cli.picture import NAMES, formula
    from ideal.records import Provenance

    core = int(cell.core.sum())
    typer.echo(f"{'accepted' if cell.accepted else 'refused'}: {len(cell.atoms)} atoms, {core} of them core")
    counts = {value: int((cell.provenance == value).sum()) for value in Provenance}
    parts = ", ".join(f"{count} {NAMES[value]}" for value, count in counts.items() if count)
    held = f", {cell.composition}" if cell.composition else ""
    typer.echo(f"composition: {formula(cell.atoms)}{held}; {parts}")
    if cell.core.all():
        largest = "no filler"
    elif cell.atoms.pbc.any():
        largest = f"max u of the filler: {cell.max_u:.3f} (limit {cell.threshold:.3f})"
    else:
        largest = f"max u of the filler: {cell.max_u:.3f} (a cluster is judged by its distances, not by u)"
    typer.echo(f"{largest}; threshold {given.threshold:.3f}: {given.source}; {seconds:.2f} s")
    if cell.whole_frame:
        typer.echo(f"the cell is the whole frame{': ' if cell.reason else ''}{cell.reason}")
