"""Continual learning against training from scratch, on the labels of a finished run.

The labels are learned again offline, in the order and the groups in which the run learned them: pretraining on the
initial labels, one update per group, final convergence. The other arm trains a new model on all labels at once, with
the run's pretraining settings and as many epochs as pretraining and convergence have together. Both are tested on the
held-out file, which neither has seen.

    python benchmarks/continual_or_scratch.py runs/lithium --set online.gate=strict final.epochs=200

aims-PAX (Henkes et al. 2025, section S2) found no difference between the two.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from ideal.cli.progress import read_events
from ideal.config import Config, TrainingConfig, load_config
from ideal.dataset import Dataset, read_labels
from ideal.engine.run_directory import LABEL_STORE
from ideal.labelling.store import LabelStore
from ideal.models import make_potential
from ideal.records import Label
from ideal.training.loss import Errors
from ideal.training.trainer import Trainer

_ROW = "{:<30} {:>9} {:>9} {:>9} {:>8} {:>8}"


def main() -> None:
    """Train both ways, print one table."""
    arguments = _arguments()
    config = load_config(arguments.run / "config.yaml")
    training = _changed(config.training, arguments.set)
    initial = read_labels(arguments.run / "initial_labels.extxyz")
    groups = _groups(arguments.run)
    held_out = read_labels(arguments.held_out or config.dataset.held_out)
    print(f"{len(initial)} initial labels, {sum(map(len, groups))} in {len(groups)} updates, {len(held_out)} held out")
    print(_ROW.format("", "E meV/at", "F meV/Å", "S GPa", "undone", "CPU s"), flush=True)
    for seed in arguments.seeds:
        if "continual" in arguments.arms:
            _continual(config, training, initial, groups, held_out, seed)
        if "scratch" in arguments.arms:
            _scratch(config, training, initial, groups, held_out, seed)


def _continual(
    config: Config,
    training: TrainingConfig,
    initial: Sequence[Label],
    groups: Sequence[Sequence[Label]],
    held_out: Sequence[Label],
    seed: int,
) -> None:
    start = time.process_time()
    dataset = _dataset(config, training, initial, seed)
    trainer = Trainer(make_potential(config.model, _elements([*initial, *held_out]), seed), training, seed)
    trainer.pretrain(dataset.training, dataset.validation)
    _print(f"pretrained, seed {seed}", trainer.errors(held_out), "", start)
    start, undone = time.process_time(), 0
    for group in groups:
        shown = _divide(dataset, group)
        learned = {label.key for label in shown}
        trainer.add_validation([label for label in group if label.key not in learned])
        undone += trainer.update(shown, dataset.training).rolled_back
        dataset.add(shown)
    _print("  + updates", trainer.errors(held_out), f"{undone}/{len(groups)}", start)
    start = time.process_time()
    summary = trainer.converge(dataset.training)
    _print(f"  + final, {summary.epochs} epochs", trainer.errors(held_out), str(int(summary.rolled_back)), start)


def _scratch(
    config: Config,
    training: TrainingConfig,
    initial: Sequence[Label],
    groups: Sequence[Sequence[Label]],
    held_out: Sequence[Label],
    seed: int,
) -> None:
    start = time.process_time()
    dataset = _dataset(config, training, initial, seed)
    for group in groups:
        dataset.add(_divide(dataset, group))
    epochs = training.pretrain.epochs + training.final.epochs
    plan = training.model_copy(update={"pretrain": training.pretrain.model_copy(update={"epochs": epochs})})
    trainer = Trainer(make_potential(config.model, _elements([*initial, *held_out]), seed + 100), plan, seed)
    trainer.pretrain(dataset.training, dataset.validation)
    _print(f"scratch, {epochs} epochs, seed {seed}", trainer.errors(held_out), "", start)


def _dataset(config: Config, training: TrainingConfig, initial: Sequence[Label], seed: int) -> Dataset:
    return Dataset(initial, config.dataset.validation_fraction, seed, training.online.validation_fraction)


def _divide(dataset: Dataset, group: Sequence[Label]) -> list[Label]:
    """The labels of an update that are learned; those that only validate join the data set."""
    held = {label.key for label in dataset.add(dataset.hold_back(group), validation=True)}
    return [label for label in group if label.key not in held]


def _groups(run: Path) -> list[list[Label]]:
    """The labels learned by each update, in the order of their arrival."""
    sizes = [event["labels"] for event in read_events(run / "events.jsonl") if event["event"] == "updated"]
    with LabelStore(run / LABEL_STORE, read_only=True) as store:
        labels = [label for label in store.labels() if label.info.get("purpose") != "initial"]
    ends = np.minimum(np.cumsum(sizes), len(labels)).tolist()
    groups = [labels[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [group for group in groups if group]


def _elements(labels: Sequence[Label]) -> list[str]:
    return sorted({symbol for label in labels for symbol in label.atoms.get_chemical_symbols()})


def _changed(training: TrainingConfig, changes: Sequence[str]) -> TrainingConfig:
    """``online.gate=strict`` and the like, relative to the run's section ``training``."""
    data = training.model_dump()
    for change in changes:
        key, value = change.split("=")
        *path, last = key.split(".")
        section = data
        for name in path:
            section = section[name]
        section[last] = yaml.safe_load(value)
    return TrainingConfig.model_validate(data)


def _print(name: str, errors: Errors, undone: str, start: float) -> None:
    stress = f"{errors.stress_mae:.3f}" if errors.stress_mae is not None else "-"
    numbers = (f"{1000 * errors.energy_mae:.2f}", f"{1000 * errors.force_mae:.1f}", stress)
    print(_ROW.format(name, *numbers, undone, f"{time.process_time() - start:.0f}"), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a finished run")
    parser.add_argument("--held-out", type=Path, help="labelled file; default: the run's")
    parser.add_argument("--arms", nargs="+", choices=("continual", "scratch"), default=["continual", "scratch"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the section training")
    return parser.parse_args()


if __name__ == "__main__":
    main()
