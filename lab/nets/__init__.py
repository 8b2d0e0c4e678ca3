"""Networks, conditions and count heads that every family of models shares."""

from .attention import GeneAttention
from .conditions import ConditionEmbedding, Minibatch, drop, level
from .coordinates import Coordinates
from .counts import NB, ZINB, CountDecoder, Log1pRelative, Poisson
from .mlp import MLP, MaskedLinear, TimeEmbedding, mlp
