"""State-space models that choose what to remember: the selective scan of Mamba, exact on any processor, and its blocks.

`delta A B C D` are the letters of the field and of `mamba_ssm`, whose parameter names the blocks keep, so that weights
move to its CUDA kernels and back. Sequences enter the scan as (B, D, L), the blocks as (B, L, D).
"""

from .backends import chosen
from .blocks import BiMamba, MambaBlock
from .scan import selective_scan
