"""One training run in one folder: begun, continued after any interruption, finished. For `python -m lab train`."""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import send_to_device
from safetensors.torch import save
from scipy import sparse
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from lab import data, vae
from lab.errors import Refused
from lab.train import fit

IN_MEMORY = 2e9  # bytes that a file holds once unpacked; a larger one stays on disk
CHOOSERS = 10_000  # training cells, at most, that choose the variable genes
RESULTS = ("model.safetensors", "genes.txt", "latent.h5ad", "metrics.csv", "run.json")


class WarmedUp(nn.Module):
    """`vae.loss` whose KL weight rises linearly from 0 to `beta` over the first `steps` training steps; in evaluation
    it is `beta`, so that held-out losses compare. The steps taken are a buffer, and so part of every checkpoint."""

    def __init__(self, beta: float, steps: int):
        super().__init__()
        self.beta, self.steps = beta, steps
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    def forward(self, model: vae.VAE, b: dict[str, Tensor]) -> dict[str, Tensor]:
        """The report of `vae.loss`, and the `beta` in it."""
        share = (self.taken / max(self.steps, 1)).clamp(max=1) if self.training and self.steps else 1.0
        if self.training:
            self.taken += 1
        return vae.loss(model, b, beta=self.beta * share) | {"beta": self.beta * share}


def train_vae(
    source: str,
    out: Path,
    loss: Callable,
    *,
    model: str,
    conditions: tuple[str, ...],
    settings: dict,
    layer: str,
    genes: int | str | None,
    n_latent: int,
    n_hidden: int,
    epochs: int,
    steps: int | None,
    patience: int,
    size: int,
    lr: float,
    validation: float,
    seed: int,
) -> None:
    """Fit `vae.count_vae` to the counts of `source`, an .h5ad or a set by name, and write `RESULTS` into `out`.

    `loss(vae, b)` is what is minimised, and part of what is trained where it is a module; `model` and `settings`
    describe it in `run.json`. Every file appears whole or not at all, `run.json` last. A folder that holds a checkpoint
    is continued; one made with other settings or cells, or by anything else, is refused. Raises `Refused`, one
    sentence.
    """
    given = {
        "model": model,
        "conditions": list(conditions),
        **settings,
        "layer": layer,
        "genes": genes,
        "n_latent": n_latent,
        "n_hidden": n_hidden,
        "patience": patience,
        "size": size,
        "lr": lr,
        "validation": validation,
        "seed": seed,
    }
    asked = {"data": source, **given, "epochs": epochs, "steps": steps}
    begun = _begun(out)
    for name, value in given.items() if begun else ():
        if (before := begun["arguments"].get(name)) != value:
            raise Refused(f"{out} holds a run with {name} = {before}, not {value}; give the same, or another --out")
    complete = begun and "results" in begun and all((out / name).is_file() for name in RESULTS)
    if complete and begun["arguments"] == asked:
        _say(f"{out} is finished: {_summary(begun['results'])}; more --epochs continue it")
        return

    cells, layer = _cells(source, layer)
    held_out = _held_out(cells, validation, seed)
    levels = _levels(cells.obs, conditions, ~held_out)
    cells, layer = _genes(cells, layer, genes, ~held_out)
    everyone = data.loader(cells, *levels, layer=layer, size=size, shuffle=False, categories=levels)  # checks counts
    trained = _subset(everyone, ~held_out, shuffle=True, seed=seed)
    tested = _subset(everyone, held_out, shuffle=False, seed=seed)
    versions = {name: version(name) for name in ("generating-cells", "torch", "numpy", "anndata", "accelerate")}
    record = {
        "arguments": asked,
        "versions": versions | {"python": platform.python_version()},
        "cells": {
            "number": cells.n_obs,
            "held out": int(held_out.sum()),
            "genes": cells.n_vars,
            "sha256": _fingerprint(cells, everyone),
        },
        "conditions": levels,
    }
    if begun and begun["cells"]["sha256"] != record["cells"]["sha256"]:
        what = "cells, genes, counts or conditions" if conditions else "cells, genes or counts"
        raise Refused(f"{out} holds a run on other {what} than {source} has; give another --out")

    torch.manual_seed(seed)
    network = vae.count_vae(cells.n_vars, n_latent, n_hidden, conditions={name: len(of) for name, of in levels.items()})
    rank = int(os.environ.get("RANK", 0))
    torch.manual_seed(seed + rank + 1)  # noise of its own for each process
    _say(f"{cells.n_obs:,} cells ({held_out.sum():,} held out) x {cells.n_vars:,} genes; results go to {out}")
    learning = nn.ModuleList([network, loss]) if isinstance(loss, nn.Module) else network
    with _begin(out, None if begun else record):
        history = fit(
            learning,
            lambda b: loss(network, b),
            trained,
            n=steps or epochs * len(trained),
            lr=lr,
            validate=tested,
            patience=patience,
            checkpoint=out / "checkpoint",
        )
    if rank == 0:
        _finish(out, record, network, history, cells, everyone, tested, held_out)


def _begun(out: Path) -> dict | None:
    """What `run.json` says of the run in `out` that has a checkpoint; None where there is none yet."""
    if out.exists() and not out.is_dir():
        raise Refused(f"{out} is a file; --out is a folder, name another")
    if not out.parent.is_dir():
        raise Refused(f"there is no folder {out.parent} in which to make {out.name}; create it first")
    if not out.is_dir() or not any(out.iterdir()):
        return None
    try:
        record = json.loads((out / "run.json").read_text())
        record["arguments"], record["cells"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Refused(f"{out} is not empty and holds no run of this command; give a new folder") from None
    return record if any((out / "checkpoint").glob("step-*")) else None


def _cells(source: str, layer: str) -> tuple[ad.AnnData, str]:
    """The AnnData, in memory where it fits, else on disk; its layer is there and its cells have names of their own."""
    path = Path(source)
    if path.suffix == ".h5ad" or path.exists():
        if path.is_file() and path.suffix != ".h5ad":
            raise Refused(f"{path} is not named .h5ad; read it with scanpy and write it with adata.write_h5ad")
        cells = data.read(path, on_disk=True)
        if _unpacked(path) < IN_MEMORY:
            cells = data.read(path)
    else:
        names = [call.removesuffix("()") for call in data.sets().index]
        if source not in names:
            raise Refused(f"there is no file and no data set {source}; `python -m lab data` lists the sets")
        cells = getattr(data, source)()
    if layer != "X" and layer not in cells.layers:
        raise Refused(
            f"{source} has no layer {layer!r} (it has: {', '.join(cells.layers) or 'none'}); name the one "
            "with raw counts, --layer NAME, or --layer X where X holds them"
        )
    if not cells.obs_names.is_unique:
        twice = cells.obs_names[cells.obs_names.duplicated()][0]
        raise Refused(
            f"cell name {twice!r} occurs more than once, so that its latent coordinates could not be told "
            "apart; call adata.obs_names_make_unique() first"
        )
    return cells, layer


def _unpacked(path: Path) -> int:
    sizes = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: sizes.append(item.nbytes) if isinstance(item, h5py.Dataset) else None)
    return sum(sizes)


def _held_out(cells: ad.AnnData, validation: float, seed: int) -> np.ndarray:
    """Which cells are held out (B,), by `data.split` of their names."""
    if not cells.n_obs:
        return np.zeros(0, bool)  # the loader says what is wrong
    if (number := round(validation * cells.n_obs)) in (0, cells.n_obs):
        purpose = "train on" if number else "hold out"
        raise Refused(
            f"--validation {validation} of {cells.n_obs} cells leaves none to {purpose}; it takes at least "
            "two cells, and a fraction that gives each part one"
        )
    _, test = data.split(ad.AnnData(obs=pd.DataFrame(index=cells.obs_names)), (1 - validation, validation), seed=seed)
    return cells.obs_names.isin(test.obs_names)


def _levels(obs: pd.DataFrame, conditions: tuple[str, ...], train: np.ndarray) -> dict[str, list]:
    """What the codes of each condition mean: the labels that training cells have, in the column's own order."""
    levels = {}
    for name in conditions:
        if name not in obs:
            raise Refused(f"obs has no column {name!r}; it has: {', '.join(map(str, obs.columns)) or 'none'}")
        column = obs[name]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            raise Refused(
                f"obs[{name!r}] holds numbers, and a condition has labels: bin a measurement with "
                f"pandas.cut, and store codes by adata.obs[{name!r}].astype('category')"
            )
        try:
            nn.ParameterDict({name: torch.zeros(0)})
        except KeyError:
            other = name.replace(".", "_") if "." in name else f"{name}_label"
            raise Refused(
                f"torch has no room for a parameter named {name!r}; rename that obs column, "
                f"adata.obs[{other!r}] = adata.obs.pop({name!r})"
            ) from None
        levels[name] = column[train].astype("category").cat.remove_unused_categories().cat.categories.tolist()
        if unseen := sorted(set(column.dropna().unique()) - set(levels[name]), key=str):
            raise Refused(
                f"all {(column == unseen[0]).sum()} cells with obs[{name!r}] = {unseen[0]!r} are held out, "
                "so that nothing could be learned of them; remove them, merge labels, or give another "
                "--seed"
            )
        if len(levels[name]) == 1:
            raise Refused(
                f"obs[{name!r}] is {levels[name][0]!r} in every cell, and a condition has two labels or "
                "more; leave it out"
            )
    return levels


def _genes(cells: ad.AnnData, layer: str, genes: int | str | None, train: np.ndarray) -> tuple[ad.AnnData, str]:
    """The cells with the most variable genes alone, in memory as CSR; or unchanged, perhaps on disk, for all genes."""
    if isinstance(genes, int) and genes > cells.n_vars:
        raise Refused(f"--genes {genes}, but there are {cells.n_vars}; ask for fewer, or --genes all")
    wanted = cells.n_vars if genes == "all" else genes or 2000
    if wanted >= cells.n_vars:
        return cells, layer
    data.check_counts(cells, layer)
    rows = np.flatnonzero(train)
    rows = np.sort(np.random.default_rng(0).choice(rows, CHOOSERS, replace=False)) if len(rows) > CHOOSERS else rows
    matrix = cells.X if layer == "X" else cells.layers[layer]
    some = ad.AnnData(layers={"counts": matrix[rows]}, var=cells.var[[]])
    variable = data.prepare(some, wanted, min_genes=0, max_mito=1, min_cells=1).var_names
    chosen = np.flatnonzero(cells.var_names.isin(variable))
    blocks = (matrix[start : start + 1024] for start in range(0, cells.n_obs, 1024))
    counts = sparse.vstack([sparse.csr_matrix(block[:, chosen]) for block in blocks], "csr")
    if (empty := np.asarray(counts.sum(1)).ravel() == 0).any():
        raise Refused(
            f"{empty.sum()} of {cells.n_obs} cells have no count among the {len(chosen)} most variable "
            f"genes (first: {cells.obs_names[empty][0]!r}); ask for more --genes, or all, or remove them"
        )
    return ad.AnnData(layers={"counts": counts}, obs=cells.obs, var=cells.var.iloc[chosen][[]]), "counts"


def _subset(batches: DataLoader, which: np.ndarray, *, shuffle: bool, seed: int) -> DataLoader:
    rows = Subset(batches.dataset, np.flatnonzero(which).tolist())
    return DataLoader(
        rows,
        batch_size=batches.batch_size,
        shuffle=shuffle,
        collate_fn=batches.collate_fn,
        generator=torch.Generator().manual_seed(seed),
    )


def _fingerprint(cells: ad.AnnData, batches: DataLoader) -> str:
    digest = hashlib.sha256()
    for names in (cells.obs_names, cells.var_names):
        digest.update("\n".join(map(str, names)).encode())
    for name, labels in batches.dataset.categories.items():
        digest.update(json.dumps([name, labels]).encode())
    for column in batches.dataset.columns.values():  # the conditions, then log_library
        digest.update(column.numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _begin(out: Path, record: dict | None) -> Iterator[None]:
    """Say in `run.json` what begins here (None: it was said). What fails before its first checkpoint leaves nothing."""
    new = not out.exists()
    try:
        out.mkdir(exist_ok=True)
        if record is not None and int(os.environ.get("RANK", 0)) == 0:
            _write(out / "run.json", lambda path: path.write_text(json.dumps(record, indent=1)))
        yield
    except BaseException:
        if out.is_dir() and not any((out / "checkpoint").glob("step-*")):
            shutil.rmtree(out / "checkpoint", ignore_errors=True)
            (out / "run.json").unlink(missing_ok=True)
            if new:
                shutil.rmtree(out, ignore_errors=True)
        raise


def _finish(out, record, model, history, cells, everyone, tested, held_out) -> None:
    """Write the results, `run.json` last: only then is the run finished."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        on = lambda batches: (send_to_device(b, device) for b in batches)
        latent = torch.cat([model.posterior(b["x"], b).mean.cpu() for b in on(everyone)]).numpy()
        bounds = [[bound(model, b["x"], b).cpu() for bound in (vae.elbo, vae.iwae_bound)] for b in on(tested)]
    elbo, iwae = (float(torch.cat(values).mean()) for values in zip(*bounds))
    record["results"] = {
        "steps": len(history),
        "processes": PartialState().num_processes,
        "device": str(device),
        "held-out ELBO": elbo,
        "held-out IWAE bound, k = 8": iwae,
        "active units": int((latent.var(0) > 0.01).sum()),
    }  # as vae.active_units, over all cells
    table = ad.AnnData(obs=cells.obs.assign(held_out=held_out), obsm={"X_vae": latent})
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    _write(out / "model.safetensors", lambda path: path.write_bytes(save(weights)))
    _write(out / "genes.txt", lambda path: path.write_text("".join(f"{name}\n" for name in cells.var_names)))
    _write(out / "latent.h5ad", table.write_h5ad)
    _write(out / "metrics.csv", history.to_csv)
    _write(out / "run.json", lambda path: path.write_text(json.dumps(record, indent=1)))
    _say(f"{out}: {_summary(record['results'])}")


def _write(path: Path, write) -> None:
    """Write beside the file, then rename: a reader finds the old file or the whole new one."""
    part = path.with_name(f"writing-{path.name}")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _summary(results: dict) -> str:
    return ", ".join(
        f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}" for name, value in results.items()
    )


def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
