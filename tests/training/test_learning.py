"""Learning over a run: bounded cost, retries, final convergence, committees, fine-tuning from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ideal.config import FinalConfig, OnlineConfig, PretrainConfig, TrainingConfig
from ideal.errors import TrainingError
from ideal.models.m3gnet import M3GNetPotential
from ideal.records import Label
from ideal.training import trainer as trainer_module
from ideal.training.committee import CommitteeTrainer, new_members
from ideal.training.fit import FitResult
from ideal.training.policy import Keeper
from ideal.training.records import TrainingProgress, TrainingSummary
from ideal.training.trainer import Trainer
from ideal.uncertainty.committee import ModelCommittee

from .conftest import MODEL, emt_label

QUICK = TrainingConfig(
    pretrain=PretrainConfig(epochs=6, learning_rate=1e-2, batch_size=2),
    online=OnlineConfig(epochs=2, learning_rate=1e-3, batch_size=2, replay=3, rescore=4, retries=0),
    final=FinalConfig(epochs=6, learning_rate=5e-3, batch_size=2, patience=6, max_seconds=None),
    validation_sample=3,
)


@pytest.fixture(scope="module")
def pretrained(labels: list[Label], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    trainer = Trainer(M3GNetPotential.new(MODEL, ["Al", "Cu"], seed=0), QUICK, seed=1)
    trainer.pretrain(labels[:6])
    folder = tmp_path_factory.mktemp("model")
    trainer.potential.save(folder)
    return folder


def test_cost_of_an_update_does_not_grow_with_the_data(pretrained: Path, labels: list[Label]) -> None:
    """Structures evaluated by equal updates with 8 and with 80 old labels, and with 3 and 30 validation labels."""
    costs = []
    for copies in (1, 10):
        old = [replace(x, key=f"{copy}{x.key}") for copy in range(copies) for x in labels[:8]]
        validation = [replace(x, key=f"v{copy}{x.key}") for copy in range(copies) for x in labels[8:11]]
        trainer = Trainer(M3GNetPotential.load(pretrained, device="cpu"), QUICK, seed=1)
        trainer._validation = trainer._sample(validation, QUICK.validation_sample, stream=3)
        before = trainer.batches.evaluated
        trainer.update(labels[11:13], old)
        costs.append(trainer.batches.evaluated - before)
    assert costs[0] == costs[1]


def test_an_update_ends_when_the_new_labels_are_met(pretrained: Path, labels: list[Label]) -> None:
    online = OnlineConfig(epochs=8, learning_rate=1e-3, batch_size=2, fitted_energy=10.0, fitted_force=100.0)
    trainer = Trainer(M3GNetPotential.load(pretrained, device="cpu"), QUICK.model_copy(update={"online": online}), 1)
    summary = trainer.update(labels[11:13], labels[:4])
    assert not summary.rolled_back
    assert summary.epochs == 2
    assert "met within the tolerance after 2 passes" in summary.reason


def test_a_failed_update_is_tried_again_at_half_the_rate(pretrained: Path, labels: list[Label]) -> None:
    online = OnlineConfig(epochs=2, learning_rate=3.0, batch_size=2, retries=2)
    trainer = Trainer(M3GNetPotential.load(pretrained, device="cpu"), QUICK.model_copy(update={"online": online}), 1)
    before = trainer.potential.fingerprint()
    summary = trainer.update(labels[11:13], labels[:4])
    assert summary.rolled_back and summary.attempts == 3
    assert summary.learning_rate == 0.75
    assert trainer.potential.fingerprint() == before
    assert not any(key.startswith("optimizer/") for key in trainer.state())
    assert trainer.state()["rate_factor"] == 0.125


def test_final_convergence_improves_and_keeps_the_best(pretrained: Path, labels: list[Label]) -> None:
    potential = M3GNetPotential.load(pretrained, device="cpu")
    trainer = Trainer(potential, QUICK, seed=1)
    seen: list[TrainingProgress] = []
    summary = trainer.converge(labels[:10], progress=seen.append)
    assert summary.phase == "final" and not summary.rolled_back
    assert summary.after.force_mae < summary.before.force_mae
    assert [p.epoch for p in seen] == list(range(1, 7))
    assert all(p.phase == "final" and p.learning_rate > 0 and p.validation is not None for p in seen)


def test_final_convergence_stops_when_nothing_improves(pretrained: Path, labels: list[Label]) -> None:
    """A rate that only harms: the model is as before, reference energies included."""
    final = QUICK.final.model_copy(update={"epochs": 40, "patience": 4, "learning_rate": 5.0})
    potential = M3GNetPotential.load(pretrained, device="cpu")
    before = potential.fingerprint()
    summary = Trainer(potential, QUICK.model_copy(update={"final": final}), seed=1).converge(labels[:4])
    assert summary.rolled_back and summary.epochs == 4
    assert "the model was put back" in summary.reason
    assert potential.fingerprint() == before


def test_a_final_convergence_that_is_interrupted_changes_nothing(pretrained: Path, labels: list[Label]) -> None:
    potential = M3GNetPotential.load(pretrained, device="cpu")
    before = potential.fingerprint()

    def stop(progress: TrainingProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(potential, QUICK, seed=1).converge(labels[:4], progress=stop)
    assert potential.fingerprint() == before


@pytest.mark.parametrize(
    ("ratio", "validating", "kept"), [(0.9, 3, True), (1.1, 3, False), (1.3, 2, True), (1.4, 2, False), (1.9, 0, True)]
)
def test_from_scratch_is_judged_by_what_no_model_has_learned(
    ratio: float, validating: int, kept: bool, pretrained: Path, labels: list[Label], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where validation labels do not judge, a new model may know the learned ones somewhat less by heart."""
    potential = M3GNetPotential.load(pretrained, device="cpu")
    fresh = M3GNetPotential.new(MODEL, ["Al", "Cu"], seed=7).weights()
    assert _from_scratch(potential, fresh, labels, ratio, validating, monkeypatch).rolled_back is not kept
    name = next(iter(fresh))
    assert torch.equal(potential.weights()[name], fresh[name]) is kept


def test_from_scratch_only_when_learned(pretrained: Path, labels: list[Label], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that have not come near the present ones on the labels shown are not kept."""
    potential = M3GNetPotential.load(pretrained, device="cpu")
    before = potential.fingerprint()
    fresh = M3GNetPotential.new(MODEL, ["Al", "Cu"], seed=7).weights()
    summary = _from_scratch(potential, fresh, labels, 2.1, 0, monkeypatch)
    assert summary.rolled_back and "allowed were" in summary.reason
    assert potential.fingerprint() == before
    with pytest.raises(TrainingError, match="0 labels"):
        Trainer(potential, QUICK, seed=1).converge([])


def _from_scratch(
    potential: M3GNetPotential,
    fresh: Mapping[str, Tensor],
    labels: list[Label],
    ratio: float,
    validating: int,
    monkeypatch: pytest.MonkeyPatch,
) -> TrainingSummary:
    """A final training whose new weights end with ``ratio`` times the loss of the present ones."""
    trainer = Trainer(potential, QUICK, seed=1)
    learned = labels[:4]
    trainer.add_validation(labels[4 : 4 + validating])  # of the three that judge

    def fitted(*args: Any) -> FitResult:
        keeper = next(each for each in args if isinstance(each, Keeper))
        keeper.look(ratio * keeper._first_value, fresh)
        return FitResult(1, 1, "")

    monkeypatch.setattr(trainer_module, "fit", fitted)
    return trainer.converge(learned, weights=fresh)


def test_fine_tuning_a_checkpoint_of_matgl(labels: list[Label], tmp_path: Path) -> None:
    """matgl's own format, made here: another zero of energy and an element more are learned, forces are kept."""
    from matgl.apps.pes import Potential
    from matgl.models import M3GNet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = M3GNet(
            element_types=("Al", "Cu", "Ni"), dim_node_embedding=8, dim_edge_embedding=8, units=8, nblocks=1, max_n=2,
            max_l=2, is_intensive=False, use_smooth=True, rbf_type="SphericalBessel",
        )  # fmt: skip
    Potential(model, element_refs=np.array([-1.0, -2.0, -3.0])).save(tmp_path / "matgl")
    potential = M3GNetPotential.load(tmp_path / "matgl", device="cpu")
    assert potential.is_fitted
    assert potential.reference_energies == pytest.approx({"Al": -1.0, "Cu": -2.0, "Ni": -3.0})
    forces = potential.evaluate(labels[0].atoms).forces
    shifted = [replace(x, energy=x.energy + 50.0 * len(x.atoms)) for x in labels[:6]]
    config = QUICK.model_copy(update={"pretrain": PretrainConfig(epochs=0)})
    summary = Trainer(potential, config, seed=0).pretrain(shifted)
    assert summary.before.energy_mae < 1.0
    np.testing.assert_array_equal(potential.evaluate(labels[0].atoms).forces, forces)
    assert potential.reference_energies["Ni"] == pytest.approx(50.0, abs=6.0)
    config = QUICK.model_copy(update={"pretrain": PretrainConfig(epochs=6, learning_rate=1e-2, batch_size=2)})
    tuned = Trainer(potential, config, seed=0).pretrain(shifted)
    assert tuned.after.force_mae < tuned.before.force_mae


def test_a_pickled_checkpoint_is_refused(tmp_path: Path) -> None:
    """No file from elsewhere is unpickled: the message says what to name instead."""
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(TrainingError, match=r"model\.pt: .*name a folder with model\.safetensors"):
        M3GNetPotential.load(path)
    folder = tmp_path / "matgl"
    folder.mkdir()
    (folder / "model.json").write_text('{"@class": "Potential", "kwargs": {"model": {"@class": "M3GNet"}}}')
    (folder / "state.pt").write_bytes(path.read_bytes())
    with pytest.raises(TrainingError, match="not a readable matgl model"):
        M3GNetPotential.load(folder)


def test_committee_has_spread_and_shares_graphs(labels: list[Label]) -> None:
    members = new_members(MODEL.model_copy(update={"units": 8}), ["Al", "Cu"], 2, seed=0)
    committee = CommitteeTrainer(members, QUICK, seed=0, validation_fraction=0.3)
    summaries = committee.pretrain(labels[:6])
    keys = [{label.key for label in learned} for learned in committee._learned]
    assert len(keys[0]) == len(keys[1]) == 4 and keys[0] != keys[1]
    assert all(summary.after.force_mae < summary.before.force_mae for summary in summaries)
    assert committee.trainers[0].batches._samples is committee.trainers[1].batches._samples
    committee.update(labels[6:8])
    assert all(len(learned) == 6 for learned in committee._learned)
    spread = ModelCommittee(committee.members).spread(labels[0].atoms)
    assert spread.force_std.max() > 0
    best = committee.best
    others = [member.fingerprint() for index, member in enumerate(committee.members) if index != best]
    (summary,) = committee.converge()
    assert summary.phase == "final"
    assert others == [member.fingerprint() for index, member in enumerate(committee.members) if index != best]
    with pytest.raises(TrainingError, match="a committee of 1"):
        CommitteeTrainer(members[:1], QUICK, seed=0)


def test_far_labels_are_learned_beside_easy_validation(pretrained: Path, labels: list[Label]) -> None:
    """The balanced gate lets hot labels be learned although a cold validation label gets worse; strict forbids it."""
    hot = [emt_label(seed, rattle=0.4, strain=0.08) for seed in (101, 102)]
    undone = {}
    for gate in ("balanced", "strict"):
        online = QUICK.online.model_copy(update={"gate": gate})
        trainer = Trainer(
            M3GNetPotential.load(pretrained, device="cpu"), QUICK.model_copy(update={"online": online}), 1
        )
        trainer._validation = [emt_label(200, rattle=0.02, strain=0.0)]
        summary = trainer.update(hot, labels[:6])
        undone[gate] = summary.rolled_back
        assert summary.validation_before is not None and summary.validation_after is not None
    assert undone == {"balanced": False, "strict": True}
