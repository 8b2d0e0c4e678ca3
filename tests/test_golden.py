"""What the package computed before its walls were moved, to the bit: `python tests/test_golden.py` writes it anew."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lab import data, disentangle, nets, vae
from lab.__main__ import main
from lab.nets import mlp

GOLDEN = Path(__file__).with_name("golden.json")
QUICK = ["--epochs", "2", "--n-hidden", "16", "--n-latent", "3", "--size", "64", "--genes", "100"]
COMMANDS = {
    "vae": [],
    "cvae": ["--condition", "cell_type", "--condition", "phase"],
    "beta-vae": ["--beta", "3", "--warm-up", "5"],
    "iwae": ["--k", "3", "--doubly"],
}


def digest(values):
    sha = hashlib.sha256()
    for name, value in sorted(values.items()):
        sha.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def trained(model, folder):
    options = (
        COMMANDS[model]
        if "click" in sys.modules
        else [o for i, o in enumerate(COMMANDS[model]) if not (model == "cvae" and i == 2)]
    )
    assert main(["train", model, "--data", "pbmc", "--out", str(folder / model), *QUICK, *options]) == 0
    return hashlib.sha256((folder / model / "model.safetensors").read_bytes()).hexdigest()


def losses():
    """Eight losses with their gradients, on simulated bulk samples."""
    samples = data.bulk(60, 40)
    b = data.minibatch(samples, "tissue", "batch")
    x, levels = b["x"], {"tissue": 5, "batch": 3}

    def model(counts=None, embed=True):
        torch.manual_seed(0)
        return vae.count_vae(40, 3, 8, conditions=levels if embed else None, counts=counts and counts())

    plain, conditioned = model(embed=False), model()
    zinb = model(lambda: nets.ZINB(40, 3, by=("batch", 3)))
    embed = nets.ConditionEmbedding(levels, n_embed=4)
    bell = vae.VAE(
        vae.Encoder(40, 3, 8, transform=nets.Log1pRelative(), embed=embed),
        vae.GaussianDecoder(mlp(3 + embed.n, 8, 40), embed),
        3,
    )
    depth = vae.VAE(
        vae.Encoder(40, 4, 8, transform=nets.Log1pRelative()),
        vae.LearnedLibrary(nets.CountDecoder(mlp(3, 8, 40), nets.Poisson()), 17.0, 0.3),
        4,
    )
    critic = mlp(3, 8, 1)
    cases = {
        "elbo": (plain, lambda: {"loss": vae.elbo(plain, x, b).mean()}),
        "loss": (conditioned, lambda: vae.loss(conditioned, b)),
        "beta": (zinb, lambda: vae.loss(zinb, b, beta=4.0)),
        "gaussian": (bell, lambda: vae.loss(bell, b)),
        "library": (depth, lambda: vae.loss(depth, b)),
        "iwae": (conditioned, lambda: vae.iwae_loss(conditioned, b, k=5)),
        "doubly": (conditioned, lambda: vae.iwae_loss(conditioned, b, k=5, doubly=True)),
        "factor": (
            nn.ModuleList([plain, critic]),
            lambda: disentangle.factor_loss(critic, *vae.terms(plain, x, b), gamma=5.0),
        ),
    }
    out = {}
    for name, (net, loss) in cases.items():
        torch.manual_seed(1)
        net.zero_grad()
        report = loss()
        report["loss"].backward()
        gradients = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
        out[name] = {k: v.item().hex() for k, v in report.items()} | {"gradient": digest(gradients)}
    return out


@pytest.mark.parametrize("model", COMMANDS)
def test_a_short_run_ends_with_the_weights_it_ended_with(model, tmp_path):
    assert trained(model, tmp_path) == json.loads(GOLDEN.read_text())["runs"][model]


def test_eight_losses_and_their_gradients_are_what_they_were():
    assert losses() == json.loads(GOLDEN.read_text())["losses"]


if __name__ == "__main__":
    import tempfile

    folder = Path(tempfile.mkdtemp())
    GOLDEN.write_text(json.dumps({"runs": {m: trained(m, folder) for m in COMMANDS}, "losses": losses()}, indent=1))
