"""Count heads begin where they say they begin; the rest of them is tested in models, tests/lab/vae."""

import pytest
import torch

from lab import nets


@pytest.mark.parametrize("counts", [nets.NB(5, theta=3.0), nets.ZINB(5, 2, theta=3.0)])
def test_theta_is_where_every_gene_starts_and_the_gate_starts_nearly_closed(counts):
    torch.testing.assert_close(counts.log_theta.exp(), torch.full((5,), 3.0))
    if isinstance(counts, nets.ZINB):
        assert (counts.gate(torch.zeros(1, 2)).sigmoid() < 0.06).all()


def test_a_head_says_by_which_condition_its_dispersion_goes():
    by = ("batch", 3)
    decoder = nets.CountDecoder(nets.mlp(2, 5), nets.NB(5, by=by), nets.ConditionEmbedding({"tissue": 2}))
    assert decoder.levels == {"tissue": 2, "batch": 3}
    assert nets.CountDecoder(nets.mlp(2, 5), nets.Poisson()).levels == {}
