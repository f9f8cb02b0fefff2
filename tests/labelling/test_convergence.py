import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ideal.config import AseConfig, GpawConfig, PyscfConfig, TbliteConfig
from ideal.errors import LabelError
from ideal.labelling import convergence
from ideal.labelling.codes import CodeResult
from ideal.labelling.codes.base import NotConvergedError
from ideal.labelling.convergence import Tolerance, cell_sizes, converge, series_of


class Decaying:
    """A code whose error is exp(-cutoff / 50 eV) + exp(-kpoint_length / 2 Å)."""

    def __init__(self, config):
        self.error = np.exp(-config.cutoff / 50) + np.exp(-config.kpoint_length / 2)
        self.fails = config.cutoff < config.max_iterations

    def compute(self, atoms, folder):
        assert folder.is_dir()
        if self.fails:
            raise NotConvergedError("did not converge; raise something")
        forces = np.zeros((len(atoms), 3))
        forces[0, 0] = 3 * self.error
        return CodeResult(len(atoms) * (self.error - 1), forces, np.full(6, self.error))


@pytest.fixture(autouse=True)
def decaying(monkeypatch):
    monkeypatch.setattr(convergence, "make_code", Decaying)


def silicon() -> Atoms:
    return bulk("Si", cubic=True)


CONFIG = GpawConfig(cutoff=300, kpoint_length=20, max_iterations=1)


def test_series_hold_the_configured_values_and_distinct_grids():
    (cutoff, _, cutoffs), (length, _, lengths) = series_of(CONFIG, silicon())
    assert (cutoff, length) == ("cutoff", "kpoint_length")
    assert 300 in cutoffs and 20 in lengths
    assert cutoffs == sorted(cutoffs) and lengths == sorted(lengths)
    # a large cell has one point along each axis whatever the length is, up to 20 Å: only two grids are left
    (_, (_, _, few)) = series_of(CONFIG, silicon() * 4)
    assert len(few) == 2


def test_codes_without_anything_to_converge():
    with pytest.raises(LabelError, match=r"tblite has no cutoff and no k-points.*codes with a cutoff: gpaw"):
        series_of(TbliteConfig(), silicon())
    with pytest.raises(LabelError, match="no cutoff"):
        series_of(AseConfig(calculator="ase.calculators.emt:EMT"), silicon())
    assert series_of(PyscfConfig(mesh_cutoff=1000), silicon())[0][0] == "mesh_cutoff"
    assert [name for name, _, _ in series_of(CONFIG, Atoms("H2", [[0, 0, 0], [0, 0, 1]]))] == ["cutoff"]


def test_changes_are_taken_from_the_finest_and_the_coarsest_good_value_is_recommended():
    told = []
    cutoff, length = converge(CONFIG, silicon(), Tolerance(1e-2, 1e-2, 1e-2), lambda name, point: told.append(name))
    assert told == ["cutoff"] * 5 + ["kpoint_length"] * len(length.points)
    errors = [np.exp(-point.value / 50) for point in cutoff.points]
    for point, error in zip(cutoff.points[:-1], errors, strict=False):
        assert point.energy_change == pytest.approx(error - errors[-1])
        assert point.force_change == pytest.approx(3 * (error - errors[-1]))
        assert point.stress_change == pytest.approx(error - errors[-1])
    assert cutoff.points[-1].energy_change is None
    # 3 (exp(-v/50) - exp(-435/50)) <= 0.01 holds from 300 eV on, not at 255 eV
    assert cutoff.recommended == 300
    assert length.points[0].detail == "3 x 3 x 3"


def test_nothing_is_recommended_where_only_the_finest_is_left():
    cutoff, _ = converge(CONFIG, silicon(), Tolerance(1e-9, 1e-9, 1e-9))
    assert cutoff.recommended is None


def test_failed_points_are_kept_with_their_cause():
    cutoff, _ = converge(CONFIG.model_copy(update={"max_iterations": 220}), silicon())
    assert cutoff.points[0].energy is None and "did not converge" in cutoff.points[0].cause
    with pytest.raises(LabelError, match="no calculation of the series succeeded"):
        list(converge(CONFIG.model_copy(update={"max_iterations": 2000}), silicon()))


def test_refused_structure():
    with pytest.raises(LabelError, match=r"cannot be labelled: atoms 0 \(H\)"):
        list(converge(CONFIG, Atoms("H2", [[0, 0, 0], [0, 0, 0.1]])))


def test_cell_sizes_compare_energies_per_atom():
    first, second = cell_sizes(CONFIG, silicon(), [(1, 1, 1), (1, 1, 2)])
    assert first.energy_change is None and first.value == 8 and second.value == 16
    assert second.energy_change == pytest.approx(0, abs=1e-12)
    assert second.detail == "4 x 4 x 2"
    assert second.force_change == pytest.approx(3 * np.exp(-6) + 3 * np.exp(-10))  # the repeated atom's force is 0
