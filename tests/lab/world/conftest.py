"""Double precision and one seed for every test of this folder; the double integrator, seen by its position."""

import pytest
import torch

from lab import world


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


@pytest.fixture
def system():
    """Position and velocity, pushed; the position is seen with noise."""
    double = {"dtype": torch.float64}
    A, B = torch.tensor([[1, 0.2], [0, 1]], **double), torch.tensor([[0.02], [0.2]], **double)
    eye = torch.eye(2, **double)
    return world.System(A, B, eye[:1], 0.01 * eye + 0.005, 0.09 * eye[:1, :1], torch.tensor([0.5, -1.0], **double), eye)
