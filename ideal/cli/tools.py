"""``ideal-run label`` and ``train``: one stage of the loop alone."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ideal.cli.failures import say_warning, sigterm_raises, use_run_directory
from ideal.cli.run import SetOption
from ideal.config import CODES
from ideal.errors import ConfigError, LabelError

if TYPE_CHECKING:
    from ase import Atoms

    from ideal.config import LabellingConfig, ModelConfig, TrainingConfig
    from ideal.labelling.labeller import Labeller
    from ideal.records import FailedLabel, Label

CODE_NAMES = ", ".join(name for name in CODES if name != "ase")
_PLAIN_INTERVAL = 10.0
_WAIT_SECONDS = 1.0
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Take the settings of this configuration (YAML file or folder).")
]


# --- label ------------------------------------------------------------------------------------------------------------


def label(
    context: typer.Context,
    structures: Annotated[
        Path, typer.Argument(metavar="STRUCTURES", help="File of structures, or a folder of such files.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Labelled structures: .extxyz, .h5, .db.")] = Path(
        "labelled.extxyz"
    ),
    code: Annotated[
        str | None,
        typer.Option(metavar="CODE", help=f"{CODE_NAMES}, or an ASE calculator as module:Class."),
    ] = None,
    config: ConfigOption = None,
    workers: Annotated[int | None, typer.Option(metavar="N", min=1, help="Calculations that run at once.")] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time limit of one calculation, such as '30 min'.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Calculate again what failed before.")] = False,
    overrides: SetOption = None,
) -> None:
    """Label structures with a reference code: energy, forces and stress, several at once.

    Every finished label is kept at once in a database beside OUTPUT (or in labelling.store, for runs to share): repeat
    the command to continue after an interruption. If a calculation fails, the others are still written and the exit
    code is 5.
    """
    from ideal.dataset.files import write_labels
    from ideal.labelling.codes import make_code
    from ideal.labelling.executors import open_executor
    from ideal.labelling.labeller import Labeller, check_workers
    from ideal.labelling.store import LabelStore

    settings = _labelling(config, code, workers, timeout, overrides or [])
    inputs = _read_inputs(structures)
    elements = sorted({symbol for atoms in inputs for symbol in atoms.get_chemical_symbols()})
    reference = make_code(settings.code)
    folder = output.with_name(f"{output.stem}-calculations")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ideal-check-", dir=output.parent) as temporary:
        for line in check_workers(reference, elements, temporary, settings):
            typer.echo(line)
    use_run_directory(context, None, resume=shlex.join(["ideal-run", *sys.argv[1:]]))
    with (
        sigterm_raises(),
        LabelStore(settings.store or _store_beside(output)) as store,
        open_executor(settings, folder) as executor,
        Labeller(
            reference,
            store,
            folder,
            timeout=settings.timeout,
            gate=settings.gate,
            executor=executor,
            memory=settings.memory,
        ) as labeller,
    ):
        results = _label_all(labeller, inputs, structures, retry)
    use_run_directory(context, None)
    _remove_if_empty(folder)
    _report_labels(output, results, folder, write_labels)


def _store_beside(output: Path) -> Path:
    """The label store of an output file; that of an earlier version is used on."""
    before = output.with_suffix(".sqlite")
    return before if before.is_file() else output.with_name(f"{output.stem}-store.db")


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder of the calculations when nothing but empty logs of the workers is left in it."""
    if any(path.is_dir() or path.stat().st_size for path in folder.iterdir()):
        return
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _labelling(
    config: Path | None, code: str | None, workers: int | None, timeout: str | None, overrides: list[str]
) -> LabellingConfig:
    """The section ``labelling`` from a configuration or from the command line."""
    from ideal.cli.settings import code_data, read_config, read_sections
    from ideal.config import LabellingConfig

    if (config is None) == (code is None):
        raise ConfigError(
            f"name the reference code with --code ({CODE_NAMES}, or module:Class of an ASE calculator) or --config"
        )
    extra = list(overrides)
    if workers is not None:
        extra.append(f"labelling.workers={workers}")
    if timeout is not None:
        extra.append(f"labelling.timeout={json.dumps(timeout)}")
    if config is not None:
        return read_config(config, extra).labelling
    start = {"labelling": {"code": code_data(code or "")}}
    section = read_sections({"labelling": LabellingConfig}, extra, start)["labelling"]
    assert isinstance(section, LabellingConfig)
    return section


def _read_inputs(path: Path) -> list[Atoms]:
    from ideal.dataset.files import read_structures

    if not path.is_dir():
        return read_structures(path)
    inputs: list[Atoms] = []
    for file in sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")):
        try:
            inputs += read_structures(file)
        except ConfigError as error:
            say_warning(f"left out: {error}")
    if not inputs:
        raise ConfigError(f"{path}: the folder holds no structure that ASE reads; name another")
    return inputs


def _label_all(labeller: Labeller, inputs: list[Atoms], source: Path, retry: bool) -> list[Label | FailedLabel]:
    """Labels and failures in the order of the structures."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console()
    keys = [
        labeller.submit(atoms, {"source": source.name, "number": number}, retry=retry)
        for number, atoms in enumerate(inputs)
    ]
    results: dict[str, Label | FailedLabel] = {}
    wanted = set(keys)
    printed = time.monotonic()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("labels", total=len(wanted))
        while len(results) < len(wanted):
            for finished in labeller.wait(_WAIT_SECONDS):
                results[finished.key] = finished
            progress.update(bar, completed=len(results))
            if not console.is_terminal and time.monotonic() - printed > _PLAIN_INTERVAL:
                printed = time.monotonic()
                counts = labeller.counts()
                typer.echo(f"{counts.done} done, {counts.running} running, {counts.failed} failed of {len(wanted)}")
    return [results[key] for key in dict.fromkeys(keys)]


def _report_labels(output: Path, results: Sequence[Label | FailedLabel], folder: Path, write_labels: Any) -> None:
    from ideal.records import FailedLabel, Label

    labels = [result for result in results if isinstance(result, Label)]
    failures = [result for result in results if isinstance(result, FailedLabel)]
    if labels:
        write_labels(output, labels)
        seconds = sum(label.seconds for label in labels)
        typer.echo(f"Wrote {len(labels)} labels to {output} ({seconds / len(labels):.1f} s each).")
    if failures:
        raise LabelError(
            "\n".join(f"structure {failure.info.get('number', '?')}: {failure.cause}" for failure in failures)
            + f"\n{len(failures)} of {len(results)} failed; their logs are in {folder}; "
            "after the remedy repeat with --retry"
        )


# --- train ------------------------------------------------------------------------------------------------------------


def train(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Labelled structures: energy, forces, and stress where known.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model directory to write.")],
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="Fine-tune this model directory or matgl model instead of a new one."
        ),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Labelled structures for validation; default: a tenth of DATA.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", min=1, help="Passes over the data.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="X", help="Peak learning rate; 1e-4 with --from unless given.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of weights and batches.")] = 0,
    config: ConfigOption = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an existing model.")] = False,
    overrides: SetOption = None,
) -> None:
    """Train a new model, or fine-tune one, on labelled structures and print its mean absolute errors."""
    from rich.console import Console

    from ideal.dataset.files import read_labels
    from ideal.dataset.splits import split

    if output.exists() and not force:
        raise ConfigError(f"--output {output}: exists already; name another or replace the model with --force")
    model, training, fraction = _training(config, start, epochs, learning_rate, overrides or [])
    labels = read_labels(data)
    held = read_labels(validation) if validation is not None else []
    if validation is None:
        labels, held = split(labels, fraction, seed)
    with Console().status("loading torch and the model"):
        from ideal.models import load_potential, make_potential
        from ideal.training.trainer import Trainer
    if model.path is not None:
        potential = load_potential(model.path, model)
    else:
        elements = model.elements or sorted({s for x in [*labels, *held] for s in x.atoms.get_chemical_symbols()})
        potential = make_potential(model, elements, seed)
    trainer = Trainer(potential, training, seed)
    typer.echo(f"{len(labels)} structures to learn, {len(held)} to validate, elements {', '.join(potential.elements)}")
    before = {"training": trainer.errors(labels), "validation": trainer.errors(held) if held else None}
    _train(trainer, labels, held, training.pretrain.epochs)
    potential.save(output)
    for name, part in (("training", labels), ("validation", held)):
        if part:
            typer.echo(f"{name:<10} {_errors(before[name])} -> {_errors(trainer.errors(part))}")
    typer.echo(f"Wrote {output}.")


def _training(
    config: Path | None, start: str | None, epochs: int | None, learning_rate: float | None, overrides: list[str]
) -> tuple[ModelConfig, TrainingConfig, float]:
    """Sections ``model`` and ``training``, and the validation fraction."""
    from ideal.cli.settings import read_config, read_sections
    from ideal.config import DatasetConfig, ModelConfig, TrainingConfig

    extra = []
    if start is not None:
        learning_rate = learning_rate or 1e-4
        path = Path(start)
        extra.append(f"model.path={json.dumps(str(path.resolve()) if path.exists() else start)}")
    if epochs is not None:
        extra.append(f"training.pretrain.epochs={epochs}")
    if learning_rate is not None:
        extra.append(f"training.pretrain.learning_rate={learning_rate!r}")
    if config is not None:
        full = read_config(config, [*extra, *overrides])
        return full.model, full.training, full.dataset.validation_fraction
    sections = {"model": ModelConfig, "training": TrainingConfig, "dataset": DatasetConfig}
    read = read_sections(sections, [*extra, *overrides], {})  # type: ignore[arg-type]
    model, training, dataset = read["model"], read["training"], read["dataset"]
    assert (
        isinstance(model, ModelConfig) and isinstance(training, TrainingConfig) and isinstance(dataset, DatasetConfig)
    )
    return model, training, dataset.validation_fraction


def _train(trainer: Any, labels: list[Label], held: list[Label], epochs: int) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from ideal.cli.live import errors_text

    console = Console()
    printed = time.monotonic()
    with Progress(console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("training", total=epochs)

        def progress(state: Any) -> None:
            nonlocal printed
            text = errors_text({"energy": state.energy_mae, "force": state.force_mae, "stress": state.stress_mae})
            bars.update(bar, completed=state.epoch, description=f"training, {errors_text({'force': state.force_mae})}")
            if not console.is_terminal and time.monotonic() - printed > _PLAIN_INTERVAL:
                printed = time.monotonic()
                typer.echo(f"epoch {state.epoch} of {state.epochs}: {text}")

        summary = trainer.pretrain(labels, held, progress=progress)
    if summary.reason:
        say_warning(summary.reason)


def _errors(errors: Any) -> str:
    from ideal.cli.live import errors_text

    return errors_text({"energy": errors.energy_mae, "force": errors.force_mae, "stress": errors.stress_mae})
