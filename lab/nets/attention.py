"""A network of x, t and cond for tables: every gene is a token, and looks at the others by attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .conditions import ConditionEmbedding, Minibatch
from .mlp import TimeEmbedding, mlp


class GeneAttention(nn.Module):
    """net(x, t, cond): x (B, G), t () or (B,), cond the minibatch -> (B, G), one number a gene; it begins at 0.

    A token is its gene's value times a learned direction plus the gene's own learned vector, of `width`. Each of
    `n_blocks` lets all genes attend to all, then transforms each by itself; time, and the conditions of `embed`, shift
    and scale what enters both, and scale what leaves (Peebles & Xie 2023). Nothing knows the order of the genes. Time
    and memory of a step grow with G^2.
    """

    def __init__(
        self,
        n_genes: int,
        *,
        width: int = 32,
        n_blocks: int = 2,
        n_heads: int = 4,
        embed: ConditionEmbedding | None = None,
        n_time: int = 32,
    ):
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width={width} is shared out among n_heads={n_heads}; take a multiple of it")
        self.time, self.embed = TimeEmbedding(n_time), embed or ConditionEmbedding({})
        self.identity, self.value = nn.Parameter(torch.randn(n_genes, width)), nn.Parameter(torch.randn(width))
        n = n_time + self.embed.n
        self.context = mlp(n, 2 * width, 2 * width)
        self.blocks = nn.ModuleList(Block(width, n_heads, 2 * width) for _ in range(n_blocks))
        self.last, self.out = nn.Linear(2 * width, width), nn.Linear(width, 1)
        for layer in (self.last, self.out):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, cond: Minibatch | None = None) -> Tensor:
        if x.shape[1:] != self.identity.shape[:1]:
            raise ValueError(f"this network has {len(self.identity)} genes; got x of shape {tuple(x.shape)}")
        context = self.context(self.embed(self.time(t.expand(len(x))), cond))  # (B, 2 W)
        h = x[..., None] * self.value + self.identity  # (B, G, W)
        for block in self.blocks:
            h = block(h, context)
        return self.out(h * (1 + self.last(context)[:, None])).squeeze(-1)


class Block(nn.Module):
    """h (B, G, W), context (B, C) -> (B, G, W): attention, then a small network at every gene, each added to h."""

    def __init__(self, width: int, n_heads: int, n_context: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.each = mlp(width, 2 * width, width)
        self.modulate = nn.Linear(n_context, 6 * width)
        nn.init.zeros_(self.modulate.weight), nn.init.zeros_(self.modulate.bias)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulate(F.silu(context))[:, None].chunk(6, -1)  # (B, 1, W)
        h = h + (1 + gate) * self.attend(self.norm(h) * (1 + scale) + shift)
        return h + (1 + gate2) * self.each(self.norm(h) * (1 + scale2) + shift2)

    def attend(self, h: Tensor) -> Tensor:
        """Each gene's mean of all genes' values, by head, weighted by softmax(q k / sqrt(W / heads))."""
        q, k, v = (a.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for a in self.qkv(h).chunk(3, -1))
        return self.mix(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))  # (B, G, W)
