"""The geometry against Sionna's TR 38.901: path loss, line of sight, coupling loss, SINR, shadow fading."""

from __future__ import annotations

import numpy as np
import pytest

sionna = pytest.importorskip("sionna", reason="needs the extra fedwave[sionna]")

from . import compare_geometry as compare  # noqa: E402 -- only where Sionna is


@pytest.mark.parametrize("los", [True, False], ids=["LoS", "NLoS"])
@pytest.mark.parametrize("name", ["UMa", "UMi", "RMa", "InH"])
def test_path_loss(name, los):
    assert compare.path_loss_difference_db(name, los) <= 0.01


def test_path_loss_is_the_same_in_v19():
    for name in ("UMa", "UMi", "RMa", "InH"):
        assert compare.path_loss_difference_db(name, True, "19.2", users=2_000) <= 0.01


@pytest.mark.parametrize("name", ["UMa", "UMi", "RMa", "InH"])
def test_los_probability(name):
    assert compare.los_probability_difference(name) <= 1e-9


@pytest.mark.parametrize("name", ["UMa", "UMi", "RMa"])
def test_coupling_loss_and_sinr_of_the_same_state(name):
    coupling = compare.same_state(name)
    assert coupling.ours_db.shape[1] == 57
    assert coupling.difference_db() <= 0.05
    assert all(abs(difference) <= 0.05 for difference in coupling.sinr_difference_db().values())


def test_sinr_distribution_with_draws_of_either_side():
    coupling = compare.own_draws("UMa")
    assert all(abs(difference) <= 0.5 for difference in coupling.sinr_difference_db().values())


def test_shadow_fading_has_the_same_autocorrelation():
    for multiple, (ours, theirs) in compare.shadow_autocorrelation().items():
        assert ours == pytest.approx(np.exp(-multiple), abs=0.03)
        # 4,000 independent pairs: standard error below 0.02
        assert theirs == pytest.approx(np.exp(-multiple), abs=0.06)
