"""The selective scan: against the systems that it discretises, closed forms, and itself a step at a time."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch

from lab import ssm
from lab.errors import Refused

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
FAST = ("torch", "numba")
EVERY = ("loop", *FAST)
SIZES = {  # B, D, N, L, chunk
    "one of each": (1, 1, 1, 1, 64),
    "shorter than a chunk": (2, 5, 4, 37, 64),
    "no multiple of a chunk or of sixteen channels": (2, 67, 7, 129, 50),
    "two groups of channels and one more": (1, 130, 3, 64, 32),
    "long": (1, 3, 16, 700, 64),
}


def given(b=2, d=5, n=4, l=37, dtype=torch.float64, seed=0):
    """What a scan takes, by name; steps reach 5, so that some states forget at once and some hardly."""
    random = torch.Generator().manual_seed(seed)
    drawn = {
        "u": torch.randn(b, d, l, generator=random, dtype=torch.float64),
        "delta": 2 * torch.randn(b, d, l, generator=random, dtype=torch.float64) - 3,
        "A": -torch.rand(d, n, generator=random, dtype=torch.float64) * 4 - 0.01,
        "B": torch.randn(b, n, l, generator=random, dtype=torch.float64),
        "C": torch.randn(b, n, l, generator=random, dtype=torch.float64),
        "D": torch.randn(d, generator=random, dtype=torch.float64),
        "z": torch.randn(b, d, l, generator=random, dtype=torch.float64),
        "delta_bias": torch.randn(d, generator=random, dtype=torch.float64),
    }
    return {name: v.to(dtype) for name, v in drawn.items()}


def everything(of, backend, chunk):
    """y, the last state, and the gradients of a number made of both."""
    leaves = {name: v.detach().requires_grad_() for name, v in of.items()}
    y, last = ssm.selective_scan(**leaves, delta_softplus=True, return_last_state=True, backend=backend, chunk=chunk)
    made = sum((v * torch.cos(torch.arange(v.numel(), dtype=v.dtype)).view(v.shape)).sum() for v in (y, last))
    return {"y": y, "last": last} | dict(zip(leaves, torch.autograd.grad(made, list(leaves.values()))))


@cache
def exact(*shape):
    """By the loop, in double precision."""
    return everything(given(*shape), "loop", 1)


@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 5e-6)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", FAST)
def test_every_back_end_is_the_loop_in_double_precision_with_all_gradients(backend, size, dtype, tolerance, layout):
    *shape, chunk = SIZES[size]
    right, mine = exact(*shape), given(*shape, dtype=dtype)
    if layout == "strided":
        mine = {k: v.mT.contiguous().mT if v.dim() > 1 else v.repeat_interleave(2)[::2] for k, v in mine.items()}
    for name, found in everything(mine, backend, chunk).items():
        assert (found.double() - right[name]).abs().max() <= tolerance * right[name].abs().max(), name
        assert found.shape == right[name].shape and found.dtype == dtype, name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_on_a_gpu_every_back_end_is_the_loop(dtype, tolerance):
    """Relative to the largest; bfloat16 has eight bits, and both read the same rounded input."""
    mine = {k: v.to(dtype) if k in ("u", "delta", "B", "C", "z") else v for k, v in given(2, 67, 16, 300).items()}
    exact = everything({k: v.double() for k, v in mine.items()}, "loop", 64)
    here = {k: v.cuda() if v.dtype == dtype else v.float().cuda() for k, v in mine.items()}
    for backend in ("torch", *(["cuda"] if ssm.chosen("cuda")[0] == "cuda" else [])):
        for name, found in everything(here, backend, 64).items():
            if (backend, name) != ("cuda", "last"):
                apart = (found.double().cpu() - exact[name]).abs().max()
                assert apart <= tolerance * exact[name].abs().max(), (backend, name)


def one_channel(a, b, c, dt, u, **options):
    """y (L,) of one channel with constant A, B, C (N,) and step."""
    l = len(u)
    return ssm.selective_scan(
        *(u.view(1, 1, l), torch.full((1, 1, l), dt, dtype=u.dtype)),
        *(a[None], b.view(1, -1, 1).expand(1, -1, l), c.view(1, -1, 1).expand(1, -1, l)),
        **options,
    ).flatten()


@pytest.fixture
def system():
    """A, B, C (N,) of a linear system with real, distinct poles."""
    return tuple(torch.tensor(v).double() for v in ([-0.1, -0.7, -2.0], [1.0, -0.5, 2.0], [0.3, 1.0, -1.0]))


@pytest.mark.parametrize("backend", EVERY)
def test_with_b_held_over_a_step_it_is_scipys_zero_order_hold(backend, system):
    """B dt is the first order of A^-1 (exp(A dt) - 1) B, by which the input is held constant between samples."""
    (a, b, c), dt, u = system, 0.3, torch.sin(torch.arange(50.0)).double()
    continuous = (np.diag(a), b[:, None].numpy(), c[None].numpy(), np.zeros((1, 1)))
    *discrete, _ = scipy.signal.cont2discrete(continuous, dt, method="zoh")
    h, y = np.zeros(3), []
    for step in u.numpy():
        h = discrete[0] @ h + discrete[1][:, 0] * step
        y.append((discrete[2] @ h).item())
    held = b * torch.expm1(a * dt) / (a * dt)
    np.testing.assert_allclose(one_channel(a, held, c, dt, u, backend=backend), y, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", EVERY)
def test_its_error_against_the_continuous_system_falls_with_the_step(backend, system):
    (a, b, c), errors = system, []
    exact = 1 - scipy.linalg.expm(np.diag(a.numpy()) * 2.0).diagonal()  # the response to a constant 1 after 2 units
    exact = float((c * b * torch.tensor(exact) / -a).sum())
    for n in (100, 200, 400):
        errors.append(abs(float(one_channel(a, b, c, 2.0 / n, torch.ones(n).double(), backend=backend)[-1]) - exact))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.03) and errors[1] / errors[2] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("backend", EVERY)
def test_an_impulse_leaves_a_geometric_series_of_every_state(backend, system):
    (a, b, c), dt = system, 0.4
    impulse = torch.eye(1, 90).double().flatten()
    decay = (a * dt).exp()[:, None] ** torch.arange(90)
    expected = (c * b * dt) @ decay
    torch.testing.assert_close(one_channel(a, b, c, dt, impulse, backend=backend), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", EVERY)
def test_a_state_that_never_decays_is_a_prefix_sum(backend, dtype):
    u = torch.arange(200.0, dtype=dtype)
    zero, one = torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype)
    assert torch.equal(one_channel(zero, one, one, 0.5, u, backend=backend), 0.5 * u.cumsum(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", EVERY)
def test_a_state_that_forgets_at_once_is_its_input(backend, dtype):
    """exp(-10^30) is 0, and no clamp makes it a little more."""
    u, one = torch.randn(100, dtype=dtype), torch.ones(1, dtype=dtype)
    assert torch.equal(one_channel(-1e30 * one, one, one, 0.5, u, backend=backend), 0.5 * u)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", FAST)
def test_what_overflows_and_what_is_no_number_does_so_from_the_same_step_on(backend, dtype):
    u, one = torch.ones(100, dtype=dtype), torch.ones(1, dtype=dtype)
    grows = [one_channel(8 * one, one, one, 1.0, u, backend=b) for b in ("loop", backend)]
    torch.testing.assert_close(*(v[: int(grows[0].isfinite().sum())] for v in grows), rtol=1e-4, atol=0)
    assert torch.equal(grows[0].isfinite(), grows[1].isfinite()) and not grows[0][-1].isfinite()
    u[70] = torch.nan
    hole = one_channel(-one, one, one, 1.0, u, backend=backend).isnan()
    assert hole[70:].all() and not hole[:70].any()
    steps = given(1, 2, 3, 40, dtype)
    steps["delta"][0, 1, 30] = torch.nan
    hole = ssm.selective_scan(**steps, delta_softplus=True, backend=backend).isnan()
    assert hole[0, 1, 30:].all() and hole.sum() == 10


@pytest.mark.parametrize("backend", EVERY)
def test_what_comes_later_changes_nothing_earlier(backend):
    before, after = given(), given()
    for name in ("u", "delta", "B", "C", "z"):
        after[name][..., 20:] = given(seed=1)[name][..., 20:]
    one, other = (ssm.selective_scan(**v, delta_softplus=True, backend=backend, chunk=16) for v in (before, after))
    assert torch.equal(one[..., :20], other[..., :20]) and (one[..., 20:] != other[..., 20:]).all()


@pytest.mark.parametrize("backend", EVERY)
def test_the_last_state_is_all_that_the_rest_of_a_sequence_needs(backend):
    v = {k: x for k, x in given().items() if k in ("u", "delta", "A", "B", "C")} | {"delta_softplus": True}
    cut = lambda part: {k: x[..., part] if k in ("u", "delta", "B", "C") else x for k, x in v.items()}
    whole = ssm.selective_scan(**v, backend=backend)
    _, h = ssm.selective_scan(**cut(slice(20)), return_last_state=True, backend=backend)
    rest = cut(slice(20, None))
    elapsed = torch.nn.functional.softplus(rest["delta"]).cumsum(-1)  # (B, D, L)
    kept = (elapsed[:, :, None] * v["A"][..., None]).exp() * h[..., None]  # (B, D, N, L)
    forced = ssm.selective_scan(**rest, backend=backend) + (kept * rest["C"][:, None]).sum(2)
    torch.testing.assert_close(whole[..., 20:], forced, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", FAST)
def test_how_many_states_are_kept_says_nothing(backend):
    once, *others = (everything(given(l=100), backend, chunk) for chunk in (100, 1, 7, 64, 1000))
    for other in others:
        for name in once:
            torch.testing.assert_close(other[name], once[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", FAST)
def test_gradients_are_those_of_small_differences(backend):
    v = given(1, 2, 2, 5)
    scan = lambda *of: ssm.selective_scan(*of, delta_softplus=True, return_last_state=True, backend=backend, chunk=2)
    assert torch.autograd.gradcheck(scan, [x.requires_grad_() for x in v.values()])


@pytest.mark.parametrize("backend", EVERY)
def test_the_recurrence_is_in_single_precision_under_autocast_and_from_halves(backend):
    v = given(dtype=torch.float32)
    plain = everything(v, backend, 16)
    with torch.autocast("cpu", torch.bfloat16):
        cast = everything(v, backend, 16)
    assert all(torch.equal(plain[name], cast[name]) for name in plain)
    halves = {name: x.to(torch.bfloat16) if name in ("u", "delta", "B", "C", "z") else x for name, x in v.items()}
    scan = lambda of: ssm.selective_scan(**of, delta_softplus=True, return_last_state=True, backend=backend)
    (y, last), (wide, _) = scan(halves), scan({name: x.float() for name, x in halves.items()})
    assert last.dtype == torch.float32 and torch.equal(y, wide.to(torch.bfloat16))


def test_threads_change_no_bit():
    one, threads = everything(given(3, 130, dtype=torch.float32), "numba", 16), torch.get_num_threads()
    torch.set_num_threads(3)
    three = everything(given(3, 130, dtype=torch.float32), "numba", 16)
    torch.set_num_threads(threads)
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_nothing_is_compiled_or_imported_before_a_scan_asks_for_it():
    program = """import sys, torch
from lab import ssm
ssm.MambaBlock(4, backend="torch")(torch.ones(1, 3, 4))
assert not {"numba", "triton", "mamba_ssm", "causal_conv1d"} & sys.modules.keys()
ssm.MambaBlock(4)(torch.ones(1, 3, 4))
assert "numba" in sys.modules and not {"triton", "mamba_ssm"} & sys.modules.keys()"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_numbas_kernels_are_kept_for_the_next_process():
    """In the folder that NUMBA_CACHE_DIR names, else beside the code: so a book's pages compile once."""
    from lab.ssm import compiled, convolved

    for kernel in (compiled._forward, compiled._backward, convolved._forward, convolved._backward):
        assert kernel._cache.cache_path.endswith("__pycache__") or "numba" in kernel._cache.cache_path
        assert kernel.stats.cache_path == kernel._cache.cache_path


def change(**to):
    return lambda v: v | {name: f(v[name]) if callable(f) else f for name, f in to.items()}


REFUSED = {  # what is wrong: (what is done to the arguments, words of the sentence)
    "no cells": (change(u=lambda u: u[:0]), "none of them 0"),
    "no steps": (change(u=lambda u: u[..., :0]), "none of them 0"),
    "no states": (change(A=lambda A: A[:, :0]), "none of them 0"),
    "a flat input": (change(u=lambda u: u[0]), r"u \(B, D, L\)"),
    "steps of another length": (change(delta=lambda v: v[..., 1:]), r"delta is \(2, 5, 37\)"),
    "A of other channels": (change(A=lambda A: A[1:]), r"A is \(5, 4\) beside u"),
    "B of other states": (change(B=lambda B: B[:, 1:]), r"B is \(2, 4, 37\)"),
    "C the same at every step": (change(C=lambda C: C[..., 0]), r"C is \(2, 4, 37\) .* got \(2, 4\)"),
    "a skip of another width": (change(D=lambda D: D[1:]), r"D is \(5,\)"),
    "a gate of other cells": (change(z=lambda z: z[:1]), r"z is \(2, 5, 37\)"),
    "a bias of another width": (change(delta_bias=lambda v: v[1:]), r"delta_bias is \(5,\)"),
    "complex A": (change(A=lambda A: A.cfloat()), "A is torch.complex64"),
    "whole numbers": (change(u=lambda u: u.long()), "u is torch.int64"),
    "tensors apart": (change(B=lambda B: B.to("meta")), "u is on cpu and B on meta"),
    "an empty chunk": (change(chunk=0), "chunk .* at least 1; got 0"),
    "an unknown back end": (change(backend="triton"), "one of auto, loop, torch, numba, cuda; got 'triton'"),
    "cuda without tensors there": (change(backend="cuda"), "these tensors are on cpu.*'auto', which takes 'numba'"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_bad_input_is_refused_in_a_sentence(wrong):
    spoil, words = REFUSED[wrong]
    with pytest.raises(Refused, match=words) as error:
        ssm.selective_scan(**spoil(given()))
    assert "\n" not in str(error.value)
