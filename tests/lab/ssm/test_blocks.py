"""Mamba's block: its weights are `mamba_ssm.Mamba`'s by name, shape and value; and both directions of two of them."""

import numpy as np
import pytest
import torch

from lab import ssm
from lab.errors import Refused

THEIRS = {  # the state dict of mamba_ssm.Mamba(40), 2.3.2, modules/mamba_simple.py: E = 80, N = 16, rank 3
    "A_log": (80, 16),
    "D": (80,),
    "in_proj.weight": (160, 40),
    "conv1d.weight": (80, 1, 4),
    "conv1d.bias": (80,),
    "x_proj.weight": (35, 80),
    "dt_proj.weight": (80, 3),
    "dt_proj.bias": (80,),
    "out_proj.weight": (40, 80),
}
MAMBAPY = [  # what mambapy 1.2.0 printed for `filled(MambaBlock(6))` and `sequence()`: [0, t, :3] of t = 0, 7, 20
    [0.657049, -0.1482074, -0.4876521],
    [0.3897334, -0.2515983, -0.1021636],
    [-0.6228033, 0.1518664, 0.4492242],
]


def shapes(module):
    return {name: tuple(v.shape) for name, v in module.state_dict().items()}


@torch.no_grad()
def filled(block):
    """The block with weights that a formula makes, by name, so that any implementation can have them."""
    for k, (_, p) in enumerate(sorted(block.named_parameters())):
        p.copy_(torch.sin(0.37 * (k + 1) * torch.arange(p.numel(), dtype=torch.float64) + k).view(p.shape))
    return block


def sequence(d_model=6, dtype=torch.float32):
    t = torch.arange(21 * d_model, dtype=torch.float64).view(1, 21, d_model)
    return torch.cat([torch.sin(t), torch.cos(1.7 * t)]).to(dtype)


def mamba(w, x):
    """`mamba_ssm.Mamba.forward` without its kernels, transcribed line by line, in numpy and double precision."""
    w = {name: v.double().numpy() for name, v in w.items()}
    silu, (batch, length, _) = lambda v: v / (1 + np.exp(-v)), x.shape
    rank, n = w["dt_proj.weight"].shape[1], w["A_log"].shape[1]
    xz = np.einsum("ed,bld->bel", w["in_proj.weight"], x)
    x, z = np.split(xz, 2, axis=1)
    taps = w["conv1d.weight"].shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (taps - 1, 0)))
    x = sum(w["conv1d.weight"][None, :, 0, k, None] * padded[..., k : k + length] for k in range(taps))
    x = silu(x + w["conv1d.bias"][:, None])
    x_dbl = np.einsum("re,bel->brl", w["x_proj.weight"], x)
    dt, B, C = x_dbl[:, :rank], x_dbl[:, rank : rank + n], x_dbl[:, rank + n :]
    dt = np.einsum("er,brl->bel", w["dt_proj.weight"], dt)
    A = -np.exp(w["A_log"])
    delta = np.log1p(np.exp(dt + w["dt_proj.bias"][:, None]))
    h, ys = np.zeros((batch, *A.shape)), []
    for i in range(length):
        h = np.exp(delta[..., i, None] * A) * h + (delta * x)[..., i, None] * B[:, None, :, i]
        ys.append(np.einsum("ben,bn->be", h, C[..., i]))
    y = (np.stack(ys, -1) + x * w["D"][:, None]) * silu(z)
    return np.einsum("de,bel->bld", w["out_proj.weight"], y)


def test_names_and_shapes_are_mamba_ssms():
    assert shapes(ssm.MambaBlock(40)) == THEIRS
    wider = shapes(ssm.MambaBlock(20, d_state=5, d_conv=3, expand=3, dt_rank=7))
    assert wider["A_log"] == (60, 5) and wider["x_proj.weight"] == (17, 60) and wider["conv1d.weight"] == (60, 1, 3)
    both = shapes(ssm.BiMamba(40))
    assert both == {f"{child}.{name}": s for child in ("mamba_fwd", "mamba_rev") for name, s in THEIRS.items()}


@pytest.mark.parametrize("options", [{}, {"d_state": 5, "d_conv": 3, "expand": 3, "dt_rank": 2}])
@pytest.mark.parametrize("backend", ["loop", "torch", "numba"])
def test_values_are_mamba_ssms_to_the_last_digit(backend, options):
    block = filled(ssm.MambaBlock(6, **options, backend=backend).double())
    x = sequence(dtype=torch.float64)
    np.testing.assert_allclose(block(x).detach(), mamba(block.state_dict(), x.numpy()), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("d_conv", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 150])
def test_compiled_it_has_the_gradients_of_the_loop(length, d_conv):
    """In both directions, of two groups of channels and a few more, shorter and longer than the convolution."""
    torch.manual_seed(0)
    one, other = (ssm.BiMamba(33, 3, d_conv, backend=b).double() for b in ("loop", "numba"))
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, length, 33, dtype=torch.float64, requires_grad=True)
    right, found = (torch.autograd.grad(m(x).sin().sum(), [x, *m.parameters()]) for m in (one, other))
    for mine, loops in zip(found, right):
        assert (mine - loops).abs().max() <= 1e-12 * loops.abs().max()


def test_it_begins_where_mamba_does():
    """Steps between 0.001 and 0.1, log-uniform; A = -1, -2, ... in every channel; the skip 1."""
    torch.manual_seed(0)
    block = ssm.MambaBlock(400)
    steps = torch.nn.functional.softplus(block.dt_proj.bias.detach()).log10()
    assert -3 <= steps.min() < -2.98 and -1.02 < steps.max() <= -1
    assert steps.mean() == pytest.approx(-2, abs=0.07) and steps.std() == pytest.approx(2 / 12**0.5, rel=0.05)
    torch.testing.assert_close(block.A_log.exp(), torch.arange(1.0, 17).expand(800, 16))
    assert (block.D == 1).all() and 0.19 < block.dt_proj.weight.abs().max() <= 0.2  # rank 25


def test_values_are_mambapys():
    out = filled(ssm.MambaBlock(6))(sequence())
    torch.testing.assert_close(out[0, [0, 7, 20], :3], torch.tensor(MAMBAPY), rtol=1e-5, atol=1e-6)


@pytest.mark.peer
def test_mambapy_still_says_so():
    peer = pytest.importorskip("mambapy.mamba")
    theirs = peer.MambaBlock(peer.MambaConfig(d_model=6, n_layers=1))
    theirs.load_state_dict(filled(ssm.MambaBlock(6)).state_dict())
    out = theirs(sequence())
    torch.testing.assert_close(out[0, [0, 7, 20], :3], torch.tensor(MAMBAPY), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out, filled(ssm.MambaBlock(6))(sequence()), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_a_block_goes_to_mamba_ssm_and_back_on_a_gpu(dtype, tolerance):
    theirs = pytest.importorskip("mamba_ssm").Mamba(40).cuda()
    block = ssm.MambaBlock(40).cuda()
    assert shapes(theirs) == THEIRS
    theirs.load_state_dict(block.state_dict())
    x = torch.randn(2, 300, 40, device="cuda")
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        one, other = block(x), theirs(x)
    torch.testing.assert_close(one.float(), other.float(), rtol=tolerance, atol=tolerance)
    grads = [torch.autograd.grad(y.float().square().sum(), m.parameters()) for m, y in ((block, one), (theirs, other))]
    named = [dict(zip([n for n, _ in m.named_parameters()], g)) for m, g in zip((block, theirs), grads)]
    for name, mine in named[0].items():
        assert (mine - named[1][name]).norm() <= 10 * tolerance * named[1][name].norm(), name


def test_a_block_sees_the_past_and_both_directions_everything():
    torch.manual_seed(0)
    x = torch.randn(1, 9, 6, dtype=torch.float64, requires_grad=True)
    for module, reach in ((ssm.MambaBlock(6), 5), (ssm.BiMamba(6), 9)):
        (felt,) = torch.autograd.grad(module.double()(x)[0, 4].sum(), x)
        assert (felt[0].abs().sum(-1) > 0).tolist() == [t < reach for t in range(9)]


def test_a_sequence_from_its_end_with_the_children_swapped_is_the_answer_from_its_end():
    torch.manual_seed(0)
    one, other = ssm.BiMamba(6), ssm.BiMamba(6)
    other.mamba_fwd.load_state_dict(one.mamba_rev.state_dict())
    other.mamba_rev.load_state_dict(one.mamba_fwd.state_dict())
    x = torch.randn(2, 30, 6)
    torch.testing.assert_close(other(x.flip(1)), one(x).flip(1))
    assert not torch.allclose(one(x.flip(1)), one(x).flip(1), atol=1e-3)


def test_under_autocast_it_learns_close_to_single_precision():
    torch.manual_seed(0)
    block, x = ssm.BiMamba(6), torch.randn(2, 50, 6)
    plain = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        cast = block(x)
    assert cast.dtype == torch.bfloat16 and (cast - plain).abs().max() < 0.02 * plain.abs().max()
    cast.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in block.parameters())


REFUSED = {  # what is wrong: (what is done, words of the sentence)
    "another width": (lambda: ssm.MambaBlock(6)(torch.ones(2, 5, 7)), r"\(B, L, 6\); got \(2, 5, 7\)"),
    "one sequence": (lambda: ssm.BiMamba(6)(torch.ones(5, 6)), r"got \(5, 6\)"),
    "no positions": (lambda: ssm.MambaBlock(6)(torch.ones(2, 0, 6)), r"got \(2, 0, 6\)"),
    "no states": (lambda: ssm.MambaBlock(6, d_state=0), "at least one of everything"),
    "no width": (lambda: ssm.BiMamba(0), "at least one of everything"),
    "an unknown back end": (lambda: ssm.MambaBlock(6, backend="fast"), "backend is one of auto, .*'fast'"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_bad_input_is_refused_in_a_sentence(wrong):
    done, words = REFUSED[wrong]
    with pytest.raises(Refused, match=words):
        done()
