"""Which back end runs, and why; and of the CUDA kernel what can be checked without a GPU."""

import pytest
import torch

from lab import ssm
from lab.errors import Refused
from lab.ssm import backends, scan

KERNEL = """selective_scan_cuda = object()
def selective_scan_fn(*given): ..."""


def test_a_gpu_with_mambas_kernel_uses_it_where_it_can(pretend_mamba):
    pretend_mamba(KERNEL)
    assert ssm.chosen("cuda") == ("cuda", "mamba_ssm is installed with its CUDA kernel")
    assert [ssm.chosen("cuda", torch.float64)[0], ssm.chosen("cuda", n_state=257)[0]] == ["torch", "torch"]
    assert ssm.chosen("cpu")[0] == "numba"


@pytest.mark.parametrize(
    "text, why",
    [
        (KERNEL.replace("object()", "None"), "mamba_ssm is installed without its CUDA kernel"),
        ("raise ImportError('undefined symbol: _ZN3c10')", "mamba_ssm cannot be imported (undefined symbol: _ZN3c10)"),
        ("raise RuntimeError('0 active drivers')", "mamba_ssm cannot be imported (0 active drivers)"),
    ],
)
def test_a_mamba_that_cannot_run_is_not_believed(pretend_mamba, text, why):
    pretend_mamba(text)
    assert ssm.chosen("cuda") == ("torch", why)


def test_without_numba_the_processor_takes_torch(monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    assert ssm.chosen("cpu") == ("torch", "numba is not installed")
    u = torch.ones(1, 1, 2)
    assert torch.equal(ssm.selective_scan(u, u, -u[0, :, :1], u, u), ssm.selective_scan(u, u, -u[0, :, :1], u, u))
    with pytest.raises(
        Refused, match="'numba' cannot run here .numba is not installed.; take 'auto', which takes 'torch'"
    ):
        ssm.selective_scan(u, u, -u[0, :, :1], u, u, backend="numba")


def test_other_devices_take_torch():
    assert ssm.chosen("mps") == ("torch", "there is no kernel for mps")


def test_mambas_kernel_is_called_in_the_types_that_it_checks(monkeypatch):
    """csrc/selective_scan.cpp: u, delta, B, C and z of one type, A, D and delta_bias float32."""

    def kernel(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
        assert {v.dtype for v in (u, delta, B, C, z)} == {torch.bfloat16}
        assert {v.dtype for v in (A, D, delta_bias)} == {torch.float32} and delta_softplus is True
        return ssm.selective_scan(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend="loop"
        )

    monkeypatch.setattr(scan, "cuda_kernel", lambda: (kernel, ""))
    monkeypatch.setattr(scan, "checked", lambda backend, *_: backend)
    u = torch.randn(1, 3, 9).bfloat16()
    row = torch.ones(3).bfloat16()
    given = (u, u.float(), -torch.ones(3, 2), u[:, :2].float(), u[:, :2], row, u.float(), row, True, True)
    for mine, loop in zip(*(ssm.selective_scan(*given, backend=b) for b in ("cuda", "loop"))):
        torch.testing.assert_close(mine, loop, rtol=0.02, atol=0.02)
