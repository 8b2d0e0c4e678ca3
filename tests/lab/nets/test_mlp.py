"""Plain networks: time, conditions and masks do what they say, and only that."""

import pytest
import torch

from lab import nets
from lab.nets import MaskedLinear


def test_the_time_embedding_tells_times_apart_and_needs_an_even_size():
    e = nets.TimeEmbedding(32)(torch.linspace(0, 1, 200))
    assert torch.pdist(e[:-1]).min() > 1e-3
    with pytest.raises(ValueError, match="even"):
        nets.TimeEmbedding(3)


def test_the_network_uses_time_and_its_conditions_and_misses_one_that_is_not_there():
    net = nets.MLP(3, 2, embed=nets.ConditionEmbedding({"drug": 4}, numbers={"dose": 1}))
    x, t = torch.randn(5, 3), torch.rand(5)
    b = {"drug": torch.tensor([0, 1, 2, 3, 0]), "dose": torch.rand(5)}
    out = net(x, t, b)
    assert out.shape == (5, 2) and not torch.equal(out, net(x, t + 0.1, b))
    for other in (b | {"drug": (b["drug"] + 1) % 4}, b | {"dose": b["dose"] + 1}):
        assert (net(x, t, other) != out).any(-1).all()
    torch.testing.assert_close(net(x, torch.tensor(0.3), b), net(x, torch.full((5,), 0.3), b))
    with pytest.raises(ValueError, match="load that column"):
        net(x, t, {"drug": b["drug"]})
    with pytest.raises(ValueError, match="load that column"):
        net(x, t)


def test_a_network_without_conditions_takes_any_minibatch_or_none():
    net, x, t = nets.MLP(3, 2), torch.randn(5, 3), torch.rand(5)
    torch.testing.assert_close(net(x, t, {"x": x}), net(x, t))


@pytest.mark.parametrize("nonnegative", [False, True])
def test_outside_its_mask_a_programme_moves_no_gene_even_after_training(nonnegative):
    mask = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]])
    torch.manual_seed(0)
    layer = MaskedLinear(mask, nonnegative)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (layer(torch.randn(32, 2)) - 3).square().mean().backward()
        optimizer.step()
    jacobian = torch.autograd.functional.jacobian(layer, torch.randn(2))
    torch.testing.assert_close(jacobian, layer.weight)
    assert (jacobian[mask == 0] == 0).all() and (jacobian[mask == 1] != 0).all()
    assert not nonnegative or (jacobian >= 0).all()


def test_a_mask_says_where_a_weight_is_and_not_how_large():
    torch.manual_seed(0)
    signed = MaskedLinear(torch.tensor([[-2.0, 0.5], [0.0, 1.0]]), nonnegative=True)
    assert (signed.weight > 0).tolist() == [[True, True], [False, True]] and signed.weight[1, 0] == 0
    with pytest.raises(ValueError, match="without NaN"):
        MaskedLinear(torch.tensor([[1.0, torch.nan]]))


def test_a_full_mask_is_a_linear_layer_and_an_empty_one_is_refused():
    torch.manual_seed(0)
    layer, linear = MaskedLinear(torch.ones(5, 3)), torch.nn.Linear(3, 5)
    linear.load_state_dict({"weight": layer.raw, "bias": layer.bias})
    z = torch.randn(2, 4, 3)
    torch.testing.assert_close(layer(z), linear(z))
    with pytest.raises(ValueError, match="genes x programmes"):
        MaskedLinear(torch.zeros(5, 3))
