"""Samplers, along a field or by an accept step. Each is a generator; the last that it yields is the sample."""

from .chains import hmc, leapfrog, mala
from .fields import Field, adaptive, ddim, euler, euler_maruyama, heun, langevin, last, likelihood, predictor_corrector
