"""``ideal-run export``, ``import`` and ``rescue``: labels out of a store, into one, and out of a damaged one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ideal.errors import ConfigError

if TYPE_CHECKING:
    from ideal.records import Label


def export(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Run directory, label store, or a file of labelled structures.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .extxyz, .h5 (layout of MACE) or .db (ase db).")
    ],
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an existing file.")] = False,
) -> None:
    """Write labels to a file: extended XYZ, HDF5 or a database of ASE's, each exact to the last bit.

    A run or a store gives its finished labels in the order in which they were finished. A label keeps its key, so
    that `ideal-run import` brings it back as the same label.
    """
    from ideal.dataset.files import write_labels

    if output.exists() and not force:
        raise ConfigError(f"--output {output}: exists already; name another file or replace it with --force")
    labels = _labels_of(source)
    if not labels:
        raise ConfigError(f"{source}: holds no finished label; nothing was written")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_labels(output, labels)
    typer.echo(f"Wrote {len(labels)} labels to {output}.")


def import_labels(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Files of labels, label stores or run directories.")
    ],
    store: Annotated[
        Path, typer.Option("--store", "-s", help="Label store (labelling.store); made when it does not exist.")
    ],
) -> None:
    """Put labels into a store, so that no run that shares it calculates them again.

    Labels that IDEAL wrote keep their key: a run with the same code and settings finds them. Labels from elsewhere get
    a key of their own, which no run asks for; read them with `dataset.initial` instead.
    """
    from ideal.labelling.store import LabelStore

    store.parent.mkdir(parents=True, exist_ok=True)
    with LabelStore(store) as target:
        for source in sources:
            labels = _labels_of(source)
            new = sum(target.put(label) for label in labels)
            typer.echo(f"{source}: {new} new labels, {len(labels) - new} known already")
        typer.echo(f"{store} holds {target.counts()['done']} labels.")


def rescue(
    path: Annotated[Path, typer.Argument(metavar="STORE", help="Damaged label store, or the directory of a run.")],
) -> None:
    """Save every readable label of a damaged store into a new one in its place; the damaged file is kept.

    No run may have the store open. A run rescues its own store by itself when it is resumed.
    """
    from ideal.labelling.rescue import open_or_rescue

    file = _store_of(path) or path
    if not file.is_file():
        raise ConfigError(f"{path}: no such file; name a label store or the directory of a run")
    store, rescued = open_or_rescue(file)
    with store:
        counts = store.counts()
    if rescued is None:
        typer.echo(f"{file} is sound: {counts['done']} labels, {counts['failed']} failures; nothing was changed.")
        return
    text = str(rescued)
    typer.echo(f"{file}: {text}.")
    for key in rescued.lost:
        typer.echo(f"lost: {key}; a run that needs it calculates it again")


def _labels_of(source: Path) -> list[Label]:
    """The labels of a run, a store or a file.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    from ideal.dataset.files import is_label_store, read_labels
    from ideal.labelling.store import LabelStore

    path = _store_of(source) or source
    if is_label_store(path):
        with LabelStore(path, read_only=True) as store:
            return store.labels()
    return read_labels(path, keep_keys=True)


def _store_of(path: Path) -> Path | None:
    """The label store of a run directory; None when ``path`` is no directory.

    Raises:
        ConfigError: the directory holds none.
    """
    from ideal.engine.run_directory import LABEL_STORE

    if not path.is_dir():
        return None
    if not (path / LABEL_STORE).is_file():
        raise ConfigError(f"{path}: holds no {LABEL_STORE}; name a run that has started, or the file itself")
    return path / LABEL_STORE
