"""Conditions: an embedding is a table, a mixture of its rows, a linear map of numbers; -1, and only -1, is none."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab import nets

LEVELS = {"tissue": 3, "batch": 2}


def minibatch(n=6):
    return {"tissue": torch.arange(n) % 3, "batch": torch.arange(n) % 2}


def test_a_code_and_its_one_hot_weights_are_the_same_condition():
    embed, b, h = nets.ConditionEmbedding(LEVELS, n_embed=5), minibatch(), torch.randn(6, 4)
    weights = nn.functional.one_hot(b["tissue"], 3).double()
    torch.testing.assert_close(embed(h, b), embed(h, b | {"tissue": weights}))
    assert embed(h, b).shape == (6, 4 + embed.n) and embed.n == 10


def test_weights_embed_half_way_between_two_levels():
    embed, b, h = nets.ConditionEmbedding({"batch": 2}, n_embed=5), minibatch(), torch.zeros(6, 0)
    at = [embed(h, b | {"batch": torch.full((6,), k)}) for k in (0, 1)]
    torch.testing.assert_close(embed(h, b | {"batch": torch.full((6, 2), 0.5)}), (at[0] + at[1]) / 2)


@pytest.mark.parametrize(
    "codes, words",
    [
        (None, "load that column"),
        (torch.tensor([0, 1, 2, 3, 0, 1]), "from 0 to 2"),
        (torch.tensor([0, -1, 2, 1, 0, 1]), "from 0 to 2"),
        (torch.rand(6, 2), r"weights \(B, 3\)"),
        (torch.rand(6), r"weights \(B, 3\)"),
    ],
)
def test_a_condition_that_is_missing_or_not_a_level_is_refused(codes, words):
    b = minibatch() | {"tissue": codes}
    if codes is None:
        del b["tissue"]
    with pytest.raises(ValueError, match=words):
        nets.ConditionEmbedding(LEVELS)(torch.zeros(6, 2), b)


@pytest.mark.parametrize(
    "codes",
    [
        torch.tensor([0.0, 1, 2]),
        torch.tensor([0, 1, 2], dtype=torch.uint8),
        torch.tensor([True, False, True]),
        torch.tensor([[0], [1], [2]]),
    ],
)
def test_codes_of_another_type_are_refused_also_for_as_many_cells_as_levels(codes):
    """Three numbers for three cells could be read as one mixture of three levels, and bytes as a mask."""
    with pytest.raises(ValueError, match="int64 codes"):
        nets.ConditionEmbedding({"tissue": 3})(torch.zeros(3, 2), {"tissue": codes})


def test_numbers_go_through_a_linear_map_and_a_dose_of_one_number_may_be_flat():
    embed = nets.ConditionEmbedding({}, n_embed=4, numbers={"dose": 1, "fingerprint": 5})
    h, b = torch.randn(6, 2), {"dose": torch.rand(6), "fingerprint": torch.rand(6, 5)}
    at = lambda dose: embed(h, b | {"dose": torch.full((6,), dose)})
    assert embed(h, b).shape == (6, 2 + embed.n) and embed.n == 8
    torch.testing.assert_close(at(1.0) - at(0.0), at(3.0) - at(2.0))
    torch.testing.assert_close(embed(h, b), embed(h, b | {"dose": b["dose"][:, None]}))
    torch.testing.assert_close(
        embed(h, b)[:, 6:], b["fingerprint"] @ embed.maps["fingerprint"].weight.T + embed.maps["fingerprint"].bias
    )
    samples = embed(torch.randn(7, 6, 2), b)
    torch.testing.assert_close(samples[3, :, 2:], embed(h, b)[:, 2:])


@pytest.mark.parametrize("dose", [torch.arange(6), torch.rand(6, 2), torch.rand(6, 1, 1)])
def test_numbers_of_another_shape_or_kind_are_refused(dose):
    with pytest.raises(ValueError, match="float numbers"):
        nets.ConditionEmbedding({}, numbers={"dose": 1})(torch.zeros(6, 2), {"dose": dose})
    with pytest.raises(ValueError, match=r"\(B, 5\)"):
        nets.ConditionEmbedding({}, numbers={"print": 5})(torch.zeros(6, 2), {"print": torch.rand(6)})


def test_a_null_row_begins_at_zero_is_learned_and_moves_no_other_weight():
    torch.manual_seed(0)
    plain, after = nets.ConditionEmbedding(LEVELS), torch.rand(1)
    torch.manual_seed(0)
    nullable = nets.ConditionEmbedding(LEVELS, null=True)
    assert torch.equal(after, torch.rand(1))  # no draw more
    b, h = minibatch(), torch.randn(6, 4)
    assert torch.equal(plain(h, b), nullable(h, b))
    none = b | {"tissue": torch.full((6,), -1)}
    changed = (nullable(h, none) != plain(h, b)).any(0)
    assert changed.sum() == 8 and (nullable(h, none)[:, changed] == 0).all()
    nullable(h, none).sum().backward()
    assert (nullable.nulls["tissue"].grad == 6).all() and (nullable.tables["tissue"].grad == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 4), min_size=1, max_size=6))
def test_minus_one_picks_the_null_row_and_nothing_else_does(codes):
    embed, y = nets.ConditionEmbedding({"tissue": 3}, null=True), torch.tensor(codes)
    nn.init.constant_(embed.nulls["tissue"], 9.0)
    h = torch.zeros(len(codes), 0)
    if y.min() < -1 or y.max() > 2:
        with pytest.raises(ValueError, match="from 0 to 2, -1 for none"):
            embed(h, {"tissue": y})
    else:
        assert ((embed(h, {"tissue": y}) == 9).all(-1) == (y == -1)).all()


def test_drop_takes_all_named_conditions_of_a_cell_together_and_leaves_the_rest_alone():
    torch.manual_seed(0)
    b = {"tissue": torch.zeros(4000).long(), "batch": torch.ones(4000).long(), "x": torch.rand(4000, 2)}
    dropped = nets.drop(b, "tissue", "batch", p=0.2)
    gone = dropped["tissue"] == -1
    assert torch.equal(gone, dropped["batch"] == -1) and abs(gone.float().mean() - 0.2) < 0.03
    assert (dropped["tissue"][~gone] == 0).all() and dropped["x"] is b["x"] and (b["tissue"] == 0).all()
    assert (nets.drop(b, "tissue", p=1.0)["tissue"] == -1).all()
    assert torch.equal(nets.drop(b, "tissue", p=0.0)["tissue"], b["tissue"])


@pytest.mark.parametrize(
    "names, p, words",
    [
        (("organ",), 0.1, "load that column"),
        (("dose",), 0.1, "only codes"),
        (("tissue",), 1.5, "a probability"),
        ((), 0.1, "the names of conditions"),
    ],
)
def test_what_cannot_be_dropped_is_refused(names, p, words):
    with pytest.raises(ValueError, match=words):
        nets.drop(minibatch() | {"dose": torch.rand(6)}, *names, p=p)


@pytest.mark.parametrize("name", ["type", "cell.type", "keys", "", "a.b.c", "donor id", "T_destination", "0"])
def test_a_column_may_be_called_as_torch_calls_its_own(name):
    torch.manual_seed(0)
    plain = nets.ConditionEmbedding({"tissue": 3}, numbers={"dose": 1}, null=True)
    torch.manual_seed(0)
    other = nets.ConditionEmbedding({name: 3}, numbers={f"dose.{name}": 1}, null=True)
    h, y, dose = torch.ones(4, 2), torch.tensor([0, 2, -1, 1]), torch.linspace(0, 1, 4)
    assert torch.equal(plain(h, {"tissue": y, "dose": dose}), other(h, {name: y, f"dose.{name}": dose}))
    reopened = nets.ConditionEmbedding({name: 3}, numbers={f"dose.{name}": 1}, null=True)
    reopened.load_state_dict(other.state_dict())
    assert torch.equal(reopened(h, {name: y, f"dose.{name}": dose}), other(h, {name: y, f"dose.{name}": dose}))


def test_the_order_of_vectors_is_that_of_names_whatever_the_order_of_the_arguments():
    embed = nets.ConditionEmbedding({"tissue": 2, "batch": 3}, n_embed=2, numbers={"dose": 1})
    b = {"tissue": torch.tensor([1]), "batch": torch.tensor([2]), "dose": torch.ones(1)}
    rows = [embed.tables["batch"][2], embed.tables["tissue"][1], embed.maps["dose"](torch.ones(1))]
    assert torch.equal(embed(torch.zeros(1, 0), b)[0], torch.cat(rows))  # saved weights of decoders rest on it
