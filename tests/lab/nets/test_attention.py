"""Attention over genes: it is the loop that one would write, and knows genes by their vectors, not by their order."""

import math

import pytest
import torch

from lab import nets
from lab.nets.attention import Block


def _awake(n_genes=7, **options):
    """A network whose zeros are not zero, as after training."""
    torch.manual_seed(0)
    net = nets.GeneAttention(n_genes, width=8, n_heads=2, **options)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net


def test_it_begins_at_nought_and_every_gene_then_hears_every_other():
    x, t = torch.randn(3, 7), torch.rand(3)
    assert (nets.GeneAttention(7, width=8)(x, t) == 0).all()
    net = _awake()
    slopes = torch.autograd.functional.jacobian(lambda x: net(x[None], t[:1])[0], x[0])
    assert (slopes.abs() > 1e-7).all()


def test_genes_permuted_together_with_their_vectors_permute_the_answer():
    net, x, t = _awake(), torch.randn(4, 7), torch.rand(4)
    order = torch.randperm(7)
    answer = net(x, t)[:, order]
    net.identity.data = net.identity.data[order]
    torch.testing.assert_close(net(x[:, order], t), answer)
    net.identity.data = net.identity.data.flip(0)
    assert not torch.allclose(net(x[:, order], t), answer, atol=1e-3)


def test_attention_is_the_loop_over_heads_and_genes():
    torch.manual_seed(0)
    block, h = Block(8, 2, 4), torch.randn(1, 5, 8)
    q, k, v = block.qkv(h[0]).chunk(3, -1)
    by_hand = torch.zeros(5, 8)
    for head in (slice(0, 4), slice(4, 8)):
        for gene in range(5):
            weights = torch.stack([q[gene, head] @ k[other, head] / math.sqrt(4) for other in range(5)]).softmax(0)
            by_hand[gene, head] = sum(w * v[other, head] for other, w in enumerate(weights))
    torch.testing.assert_close(block.attend(h)[0], block.mix(by_hand))


def test_cells_do_not_hear_each_other():
    net, x, t = _awake(), torch.randn(4, 7), torch.rand(4)
    torch.testing.assert_close(net(x, t)[1:2], net(x[1:2], t[1:2]))
    torch.testing.assert_close(net(x, torch.tensor(0.3)), net(x, torch.full((4,), 0.3)))


def test_time_and_conditions_are_heard_and_one_that_is_missing_is_missed():
    net = _awake(embed=nets.ConditionEmbedding({"drug": 3}))
    x, t, b = torch.randn(4, 7), torch.rand(4), {"drug": torch.tensor([0, 1, 2, 0])}
    for other in (net(x, t + 0.1, b), net(x, t, {"drug": (b["drug"] + 1) % 3})):
        assert ((other - net(x, t, b)).abs().amax(1) > 1e-4).all()
    with pytest.raises(ValueError, match="load that column"):
        net(x, t)


def test_other_genes_and_a_width_that_heads_do_not_share_are_refused():
    with pytest.raises(ValueError, match="7 genes"):
        _awake()(torch.randn(2, 6), torch.rand(2))
    with pytest.raises(ValueError, match="multiple"):
        nets.GeneAttention(5, width=10, n_heads=4)
