"""What u means in eV/Å: pairs as they are read, sentences that do not overclaim, reports with parts of it missing."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ideal.report.calibration import parse_pairs
from ideal.report.calibration_plot import Cloud, Lines, draw_calibration
from ideal.report.data import read_run
from ideal.report.drawing import NotDrawnError
from ideal.report.figures import FIGURES, UNCERTAINTY
from ideal.report.figures_calibration import audit_history, errors_by_uncertainty, threshold_history
from ideal.report.style import LIGHT
from ideal.report.words import audit_line, calibration_findings, threshold_line

from .conftest import CONFIDENCE, FORCE_ERROR
from .test_report import NO_ANALYSIS, without_figures

SMALL = {"value": 0.0, "low": 0.0, "high": 0.632, "reason": ""}
FORCE = {"value": 0.05, "low": 0.02, "high": 0.09, "reason": ""}


def audit(count: int, **values: Any) -> dict[str, Any]:
    content = {"missed_error_rate": SMALL, "force_error": FORCE, "n_audited": count, "n_certain": 5000}
    return content | {"n_uncertain": 10, "tolerance": 0.15, "confidence": 0.9} | values


def said(**latest: Any) -> str:
    return "\n".join(sentence for _, sentences in calibration_findings(latest) for sentence in sentences)


class TestSentences:
    def test_few_audits_give_an_interval_and_no_estimate(self) -> None:
        text = said(audit=audit(3))
        assert "from 3 audits, between 0 and 63 % (90 % confidence)" in text
        assert "between 0.02 and 0.09 eV/Å" in text
        assert "0.05" not in text
        assert "1 atom was drawn at random out of 5,000 (at all checks)" in said(audit=audit(1))

    def test_many_audits_give_the_estimate_too(self) -> None:
        many = {"value": 0.02, "low": 0.003, "high": 0.07, "reason": ""}
        text = said(audit=audit(60, missed_error_rate=many))
        assert "2 %, between 0.3 and 7 % (90 % confidence), from 60 audits" in text
        assert "0.05 eV/Å, between 0.02 and 0.09 eV/Å" in text

    def test_no_upper_limit_and_unknown(self) -> None:
        open_end = FORCE | {"high": None, "reason": "one audit has no spread"}
        assert "at least 0.02 eV/Å (90 % confidence); no upper limit can be given" in said(
            audit=audit(1, force_error=open_end)
        )
        unknown = {"value": None, "low": None, "high": None, "reason": "nothing was drawn"}
        assert "not known (nothing was drawn)" in said(audit=audit(2, missed_error_rate=unknown))

    def test_without_audits(self) -> None:
        assert "has not been measured" in said(threshold=2.0, audit=None)
        assert "4 more atoms were drawn, but gave no label" in said(audit=audit(3), audits_missing=4)

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("quantile", "the held-out quantile of u times its factor"),
            ("fixed", "the value of the configuration"),
            ("moving_average", "the moving average of the largest u"),
        ],
    )
    def test_not_ready(self, source: str, words: str) -> None:
        text = said(threshold=2.4, threshold_source=source, ready=False, n_pairs=120, n_cells={"selected": 3})
        assert f"u exceeded 2.4 ({words})" in text
        assert "120 atoms in labelled cells (3 selected)" in text
        assert "no meaning in eV/Å yet" in text

    def test_ready(self) -> None:
        latest = {"threshold": 2.0, "threshold_source": "calibrated", "ready": True, "scale": 0.05, "confidence": 0.9}
        text = said(**latest, threshold_bound=0.1, force_error=0.1, n_pairs=2000)
        assert "Up to the threshold the force error stays for 90 % of the environments below 0.1 eV/Å" in text
        assert "Roughly: 0.05 eV/Å per unit of u." in text
        assert "no label has been compared there" not in text
        capped = said(**latest, threshold_bound=0.1, force_error=0.2, n_pairs=2000)
        assert (
            "The tolerance of 0.2 eV/Å would allow a higher threshold, but no label has been compared there" in capped
        )
        assert "no bound on the force error can be given" in said(**latest, threshold_bound=None, n_pairs=2000)

    def test_nothing_is_said_of_nothing(self) -> None:
        assert calibration_findings({}) == []
        ((topic, sentences),) = calibration_findings({}, {"limit": 40})
        assert topic == "Label budget"
        assert "engine.max_labels: 40" in sentences[0]

    def test_short_lines(self) -> None:
        assert threshold_line({"threshold": 2.0, "threshold_bound": 0.15, "ready": True}).endswith("up to 0.150 eV/Å")
        assert "not calibrated yet (120 atoms compared)" in threshold_line({"threshold": 2.0, "n_pairs": 120})
        assert "without a bound" in threshold_line({"threshold": 9.0, "threshold_bound": None, "ready": True})
        assert threshold_line({"threshold": 1.7e308, "scale": 0.0, "ready": True}) == "threshold u: none"
        assert audit_line({"audit": None}) == ""
        assert audit_line({"audit": audit(3)}).startswith("audit (3): missed errors 0 to 63 %")


def row(**values: Any) -> dict[str, Any]:
    return {"key": "a", "kind": "selected", "u": [1.0, 2.0], "error": [0.1, 0.2], "core": [True, False], **values}


class TestPairs:
    def test_core_atoms_count_and_the_last_line_of_a_label_wins(self) -> None:
        rows = [
            row(center=0),
            row(u=[3.0, 4.0], core=[True, True], center=1),
            row(kind="validation", core=None, center=None),
        ]
        pairs, unreadable = parse_pairs(rows)
        assert pairs is not None and unreadable == 0
        assert pairs.u.tolist() == [3.0, 4.0, 1.0, 2.0]
        assert pairs.center.tolist() == [False, True, False, False]
        assert (pairs.n_cells("selected"), pairs.n_cells("validation"), pairs.n_cells("audit")) == (1, 1, 0)

    def test_null_is_the_infinite_u_of_a_species_never_seen(self) -> None:
        pairs, unreadable = parse_pairs([row(u=[1.0, None], core=[True, True])])
        assert pairs is not None and unreadable == 0
        assert pairs.u.tolist() == [1.0, math.inf]

    @pytest.mark.parametrize(
        "damage", [{"u": [1.0]}, {"kind": "other"}, {"core": [True]}, {"error": None}, {"u": "x"}, {"center": "x"}]
    )
    def test_strange_lines_are_counted(self, damage: dict[str, Any]) -> None:
        pairs, unreadable = parse_pairs([row(**damage), {}, row(key="b")])
        assert unreadable == 2
        assert pairs is not None and len(pairs) == 1

    def test_no_line(self) -> None:
        assert parse_pairs([]) == (None, 0)


class TestReport:
    def test_sentences_stand_on_the_page(self, finished_run: Path) -> None:
        result = without_figures(finished_run)
        text = " ".join(result.text)
        assert result.table["Audit labels compared"] == "3"
        assert result.table["Labels allowed"] == "18, all spent"
        assert "missed errors" in text and "of certain atoms, by 3 audits" in text
        latest = json.loads((finished_run / "calibration.json").read_text())
        assert latest["ready"]
        assert f"for {100 * CONFIDENCE:g} % of the environments below {FORCE_ERROR:g} eV/Å" in text
        assert "from 3 audits, between 0 and 6" in text
        assert "AUC 0." in text
        assert "The label budget (engine.max_labels: 18) was spent at step 1100 of md" in text

    def test_a_run_without_these_files_gives_a_report(self, copied_run: Path) -> None:
        for name in ("pairs.jsonl", "calibration.json"):
            (copied_run / name).unlink()
        lines = (copied_run / "events.jsonl").read_text().splitlines(keepends=True)
        old = [line for line in lines if '"calibrated"' not in line and '"label_budget_spent"' not in line]
        (copied_run / "events.jsonl").write_text("".join(old))
        run = read_run(copied_run)
        assert not run.calibration
        assert UNCERTAINTY not in " ".join(without_figures(copied_run).text)
        assert not [note for note in run.notes if "calibration" in note or "pairs" in note]
        for draw in (errors_by_uncertainty, threshold_history, audit_history):
            with pytest.raises(NotDrawnError):
                draw(run, NO_ANALYSIS, LIGHT)

    def test_damaged_and_missing_parts_are_named(self, copied_run: Path) -> None:
        pairs = copied_run / "pairs.jsonl"
        pairs.write_bytes(pairs.read_bytes()[:-30])
        (copied_run / "calibration.json").write_text('{"threshold": ')
        notes = " ".join(read_run(copied_run).notes)
        assert "1 line(s) of pairs.jsonl are not complete" in notes
        assert "calibration.json cannot be read" in notes
        (copied_run / "calibration.json").unlink()
        run = read_run(copied_run)
        assert "calibration.json is missing." in run.notes
        without_figures(copied_run)
        for spec in FIGURES:
            if spec.section == UNCERTAINTY:
                spec.draw(run, NO_ANALYSIS, LIGHT)

    def test_a_handful_of_pairs_is_drawn_without_a_curve(self, copied_run: Path) -> None:
        (copied_run / "pairs.jsonl").write_text(json.dumps(row(key="only", u=[0.0, 1.0], core=[True, True])) + "\n")
        drawing = errors_by_uncertainty(read_run(copied_run), NO_ANALYSIS, LIGHT)
        assert any(text.get_text() == "too few cells" for text in drawing.figure.axes[1].texts)
        assert re.search(r"2 atoms in labelled cells \(0 validation, 1 selected, 0 audit\)", drawing.alt)


def test_a_bound_line_crosses_tolerance_at_the_threshold() -> None:
    rng = np.random.default_rng(0)
    u = rng.lognormal(0, 0.5, 4000)
    cloud = Cloud("atoms", u, 0.05 * u * rng.lognormal(0, 0.4, 4000), LIGHT.series[0])
    figure = draw_calibration([cloud], Lines(np.array([1.0, 4.0]), np.array([0.075, 0.3]), 0.9, 0.15, 2.0), None, LIGHT)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    bound = lines["bound for 90 %"]
    height = np.interp(2.0, np.asarray(bound.get_xdata(), float), np.asarray(bound.get_ydata(), float))
    assert height == pytest.approx(0.15)
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
