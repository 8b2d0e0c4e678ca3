"""`doctor` and `data` say what is here."""

import anndata as ad
import pytest
import torch

from lab import data
from lab.command import main
from lab.ssm.backends import INSTALL


def test_doctor_names_versions_devices_and_back_ends_with_reasons(capsys, monkeypatch):
    monkeypatch.setenv("LAB_DATA", "/nowhere")
    assert main(["doctor"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["torch"] == torch.__version__ and said["anndata"] == ad.__version__
    assert said["cpu"].startswith(f"{torch.get_num_threads()} threads")
    assert "1 process," in said["training"] and "/nowhere does not exist" in said["LAB_DATA"]
    assert any(said["selective"].startswith(f"scan  {choice}: ") for choice in ("cuda", "numba", "torch"))


@pytest.mark.parametrize(
    "module, why",
    [
        ("selective_scan_cuda = None", "without its CUDA kernel"),
        ("raise ImportError('undefined symbol: _ZN3c10')", "cannot be imported (undefined symbol: _ZN3c10)"),
    ],
)
def test_doctor_does_not_believe_that_an_importable_mamba_works(module, why, pretend_mamba, capsys):
    pretend_mamba(module)
    assert main(["doctor"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("selective scan"))
    assert why in line and "cuda:" not in line


def test_doctor_says_how_a_gpu_gets_its_kernel(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    assert main(["doctor"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("selective scan"))
    assert line.split(maxsplit=2)[2].startswith("torch: mamba_ssm is not installed") and INSTALL in line


def test_data_says_of_every_set_where_it_comes_from_and_under_which_licence(capsys):
    assert main(["data"]) == 0
    said = capsys.readouterr().out
    for call, row in data.sets().iterrows():
        line = next(line for line in said.splitlines() if line.startswith(call))
        assert all(str(row[column]) in line for column in ("kind", "licence", "source", "status"))
