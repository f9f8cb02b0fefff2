"""The whole loop in serial mode on a tiny copper run."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from ideal.config import load_config
from ideal.engine.engine import Engine
from ideal.errors import ConfigError, LabelError, SamplerError
from ideal.labelling.store import LabelStore
from ideal.models.m3gnet import M3GNetPotential
from ideal.uncertainty.mahalanobis import SoapMahalanobis

from .conftest import Finished
from .runs import calculated, copper_config, events, named, outcome, trajectory


def test_run_labels_learns_and_continues(reference: Finished) -> None:
    counts = Counter(event["event"] for event in events(reference.path))
    assert counts["label_submitted"] >= 4 + 2
    assert counts["updated"] >= 2
    assert counts["trajectory_finished"] == counts["run_finished"] == 1
    checked = [event["step"] for event in named(reference.path, "check")]
    assert checked == [0, 4, 8, 12, 16]
    learned = named(reference.path, "updated")[0]["step"]
    assert learned < 16, "the run must go on after learning for this test to say anything"


def test_trajectory_continues_from_the_frame_where_it_stopped(reference: Finished) -> None:
    frames = read(reference.path / "trajectories" / "md.extxyz", index=":")
    assert [frame.info["step"] for frame in frames] == list(range(0, 17, 2))
    assert all(frame.info["time_fs"] == 4.0 * frame.info["step"] for frame in frames)
    assert ["u" in frame.arrays for frame in frames] == [step % 4 == 0 for step in range(0, 17, 2)]
    # At 2500 K an atom moves less than 0.2 Å in 8 fs: no frame was skipped, none was begun anew.
    steps = np.array([after.positions - before.positions for before, after in itertools.pairwise(frames)])
    assert 0.001 < np.linalg.norm(steps, axis=2).max() < 0.5


def test_labels_arrive_in_store_dataset_and_distribution(reference: Finished) -> None:
    submitted = [event["key"] for event in named(reference.path, "label_submitted")]
    with LabelStore(reference.path / "labels.db", read_only=True) as store:
        labels = {label.key: label for label in store.labels()}
        assert not store.failures()
    assert list(labels) == submitted, "with one worker labels finish in the order of asking"
    assert len(calculated(reference.path)) == len(submitted) == len(set(submitted))
    new = [label for label in labels.values() if label.info["purpose"] != "initial"]
    audits = [label for label in new if label.info["purpose"] == "audit"]
    assert reference.summary.labels.asked == reference.summary.labels.done == len(new) > 0
    assert 0 < reference.summary.labels.audits == len(audits) < len(new)
    initial = SoapMahalanobis.load(reference.path / "uncertainty_initial.safetensors")
    final = SoapMahalanobis.load(reference.path / "uncertainty.safetensors")
    assert final.counts["Cu"] - initial.counts["Cu"] == sum(len(label.atoms) for label in new)


def test_model_changes_only_by_learning(reference: Finished) -> None:
    updates = named(reference.path, "updated")
    final = M3GNetPotential.load(reference.path / "model", device="cpu").fingerprint()
    (converged,) = named(reference.path, "converged")
    assert converged["model"] == final == reference.summary.model_fingerprint
    assert (converged["model"] == updates[-1]["model"]) == converged["rolled_back"]
    initial = M3GNetPotential.load(reference.path / "model_initial", device="cpu").fingerprint()
    assert (initial != final) == any(not training["rolled_back"] for training in (*updates, converged))


def test_a_final_training_from_scratch_keeps_the_model_of_the_run(tmp_path: Path) -> None:
    final = {"epochs": 1, "learning_rate": 1e-12, "start": "scratch"}
    nothing_asked = {"type": "fixed", "value": 1e9}
    steps = [trajectory("md", sampler={"steps": 1})]
    config = copper_config(
        tmp_path, training__final=final, uncertainty__threshold=nothing_asked, trajectories=steps, selection__audit=0
    )
    Engine.create(config, tmp_path / "run").run()
    names = ("model_initial", "model_run", "model")
    models = [M3GNetPotential.load(tmp_path / "run" / name, device="cpu").fingerprint() for name in names]
    assert models[0] == models[1] != models[2]


def test_training_is_logged_line_by_line(reference: Finished) -> None:
    rows = [json.loads(line) for line in (reference.path / "training.jsonl").read_text().splitlines()]
    ended = [row for row in rows if row["event"] == "training_ended"]
    epochs = [row for row in rows if row["event"] == "training_epoch"]
    updates = named(reference.path, "updated")
    assert [row["phase"] for row in ended] == ["pretrain", *["update"] * len(updates), "final"]
    assert sum(row["epochs"] for row in ended) == len(epochs)
    assert [row["rolled_back"] for row in ended[1:-1]] == [update["rolled_back"] for update in updates]
    assert all(row["reason"] for row in ended if row["rolled_back"])
    assert all(row["learning_rate"] > 0 and row["seconds"] > 0 for row in rows)
    assert ended[-1]["labels"] == sum(row["labels"] for row in ended[:-1])


def test_embedded_cells_and_crops_are_written(reference: Finished) -> None:
    cells = read(reference.path / "substructures.extxyz", index=":")
    crops = read(reference.path / "crops.extxyz", index=":")
    embedded = named(reference.path, "embedded")
    assert len(cells) == len(crops) == len(embedded) > 0
    for cell, crop, event in zip(cells, crops, embedded, strict=True):
        assert (cell.info["step"], cell.info["atom"], bool(cell.info["accepted"])) == (
            event["step"],
            event["atom"],
            event["accepted"],
        )
        assert (cell.info.get("key", ""), cell.info.get("reason", "")) == (event["key"], event["reason"])
        assert {"core", "provenance", "u", "u_before"} <= set(cell.arrays)
        assert len(crop) == len(cell) and "u_before" in crop.arrays


def test_summary_and_status_tell_the_outcome(reference: Finished) -> None:
    summary = reference.summary
    assert summary.status == "finished" and summary.steps == 16
    assert set(summary.stage_seconds) == {
        "md", "uncertainty", "embedding", "labelling_wait", "training", "evaluation", "io",
    }  # fmt: skip
    assert 0 < sum(summary.stage_seconds.values()) <= summary.wall_seconds
    status = json.loads((reference.path / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["trajectories"][0]["status"] == "finished" and status["trajectories"][0]["step"] == 16
    assert json.loads((reference.path / "summary.json").read_text()) == summary.as_dict()
    assert named(reference.path, "run_finished")[0]["summary"]["labels"]["done"] == summary.labels.done


def test_provenance_names_versions_and_command(reference: Finished) -> None:
    provenance = json.loads((reference.path / "provenance.json").read_text())
    assert provenance["seed"] == 3
    assert {"ideal", "python", "torch", "matgl", "ase", "numpy"} <= set(provenance["versions"])
    assert provenance["code"]["calculator"] == "engine_calculators:LoggedEMT"
    assert len(provenance["sessions"]) == 1 and provenance["sessions"][0]["command"]
    assert load_config(reference.path / "config.yaml") == reference.config


def test_three_checkpoints_are_kept(reference: Finished) -> None:
    written = [event["number"] for event in named(reference.path, "checkpoint")]
    assert written == list(range(1, len(written) + 1))
    folders = sorted(p.name for p in (reference.path / "checkpoints").iterdir() if p.is_dir())
    assert folders == [f"{number:06d}" for number in written[-3:]]


def test_same_seed_gives_the_same_run_and_another_seed_another(reference: Finished, tmp_path: Path) -> None:
    Engine.create(reference.config, tmp_path / "again").run()
    assert events(tmp_path / "again") == events(reference.path)
    assert outcome(tmp_path / "again") == outcome(reference.path)
    other = reference.config.model_copy(update={"seed": 4})
    Engine.create(other, tmp_path / "other").run()
    assert outcome(tmp_path / "other")["labels"] != outcome(reference.path)["labels"]


def test_turns_follow_the_order_of_the_configuration(tmp_path: Path) -> None:
    config = copper_config(tmp_path, trajectories=[trajectory("b"), trajectory("a", sampler={"steps": 8})])
    Engine.create(config, tmp_path / "run").run()
    checks = [(event["step"], event["trajectory"]) for event in named(tmp_path / "run", "check")]
    assert checks == [(0, "b"), (0, "a"), (4, "b"), (4, "a"), (8, "b"), (8, "a"), (12, "b"), (16, "b")]
    waiting: set[str] = set()
    for event in events(tmp_path / "run"):
        if event["event"] == "label_submitted" and event["trajectory"]:
            waiting.add(event["key"])
        elif event["event"] in ("label_finished", "label_failed"):
            waiting.discard(event["key"])
        elif event["event"] == "check":
            assert not waiting, "in serial mode nobody moves while a label runs"


def test_failed_labels_are_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    arguments = {"failing": 0.3}
    config = copper_config(
        tmp_path, labelling__code__arguments=arguments, dataset__rattled__count=6, labelling__workers=2
    )
    summary = Engine.create(config, tmp_path / "run").run()
    assert summary.status == "finished" and summary.steps == 16
    assert summary.labels.failed > 0 and summary.labels.done > 0 and summary.labels.initial_failed > 0
    assert summary.labels.done + summary.labels.failed == summary.labels.asked
    causes = [event["cause"] for event in named(tmp_path / "run", "label_failed")]
    assert all("refused to converge" in cause for cause in causes)
    assert len(causes) == summary.labels.failed + summary.labels.initial_failed
    # Two workers finish in any order; the events come in the order of asking.
    submitted = [event["key"] for event in named(tmp_path / "run", "label_submitted")]
    assert [event["key"] for event in named(tmp_path / "run", "label_finished", "label_failed")] == submitted


def test_initial_data_that_all_fail_end_the_run_with_the_first_cause(tmp_path: Path) -> None:
    arguments = {"failing": 1.0}
    config = copper_config(tmp_path, labelling__code__arguments=arguments)
    with pytest.raises(LabelError, match=r"all 4 labels of the initial data failed.*refused to converge"):
        Engine.create(config, tmp_path / "run").run()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


def test_max_labels_limits_what_is_asked(tmp_path: Path) -> None:
    summary = Engine.create(copper_config(tmp_path, engine__max_labels=1), tmp_path / "run").run()
    assert summary.labels.asked == summary.labels.done == 1
    assert summary.labels.initial == 4
    assert summary.status == "finished" and summary.steps == 16


def test_trajectory_does_not_ask_again_too_soon_after_learning(tmp_path: Path) -> None:
    config = copper_config(tmp_path, selection__min_steps_between=12, engine__max_labels=4, engine__restarts=0)
    Engine.create(config, tmp_path / "run").run()
    asked = sorted({event["step"] for event in named(tmp_path / "run", "embedded") if event["purpose"] == "selected"})
    assert asked and all(later - earlier >= 12 for earlier, later in itertools.pairwise(asked))


def test_explosion_ends_one_trajectory_and_not_the_run(tmp_path: Path) -> None:
    config = copper_config(
        tmp_path, trajectories=[trajectory("hot", max_temperature=100.0), trajectory("fine")], engine__max_labels=0
    )
    summary = Engine.create(config, tmp_path / "run").run()
    hot, fine = summary.trajectories
    assert hot.status == "failed" and "max_temperature" in hot.reason
    assert fine.status == "finished" and fine.step == 16
    assert summary.status == "finished"
    assert named(tmp_path / "run", "trajectory_failed")[0]["reason"] == hot.reason


def test_run_fails_when_every_trajectory_failed(tmp_path: Path) -> None:
    config = copper_config(tmp_path, trajectories=[trajectory("hot", max_temperature=100.0)])
    with pytest.raises(SamplerError, match=r"every trajectory failed.*max_temperature"):
        Engine.create(config, tmp_path / "run").run()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
    assert (tmp_path / "run" / "summary.json").is_file()


def test_held_out_errors_before_and_after(reference: Finished, tmp_path: Path) -> None:
    config = copper_config(tmp_path, dataset__held_out=str(reference.path / "initial_labels.extxyz"))
    summary = Engine.create(config, tmp_path / "run").run()
    for name, mae in (("before", summary.held_out_before), ("after", summary.held_out_after)):
        content = json.loads((tmp_path / "run" / f"held_out_{name}.json").read_text())
        assert content["mae"] == mae
        reference_forces = np.concatenate(content["reference"]["forces"])
        predicted_forces = np.concatenate(content["predicted"]["forces"])
        assert mae is not None
        assert mae["force_mae"] == pytest.approx(np.abs(reference_forces - predicted_forces).mean(), rel=1e-12)
        assert len(content["reference"]["energies_per_atom"]) == content["n_structures"] == 4
    assert summary.stage_seconds["evaluation"] > 0


def test_element_without_initial_structure_is_refused(tmp_path: Path) -> None:
    config = copper_config(tmp_path, dataset__initial=None)
    structure = read(config.trajectories[0].structure)
    structure.numbers[3] = 13
    structure.write(tmp_path / "alloy.extxyz")
    copper_config(tmp_path)
    config = copper_config(
        tmp_path,
        trajectories=[trajectory("md", structure="alloy.extxyz")],
        dataset__initial="copper.extxyz",
        dataset__rattled__count=0,
    )
    with pytest.raises(ConfigError, match=r"trajectory 'md': Al is in no initial structure \(they hold Cu\)"):
        Engine.create(config, tmp_path / "run").run()


def test_overlapping_atoms_are_refused(tmp_path: Path) -> None:
    config = copper_config(tmp_path)
    structure = read(config.trajectories[0].structure)
    structure.positions[5] = structure.positions[4] + 0.1
    structure.write(tmp_path / "overlap.extxyz")
    config = copper_config(tmp_path, trajectories=[trajectory("md", structure="overlap.extxyz")])
    with pytest.raises(ConfigError, match=r"overlap.extxyz: atoms 4 and 5 overlap \(0.173 Å apart\)"):
        Engine.create(config, tmp_path / "run").run()
