"""A simulator of bulk RNA-seq: samples of known tissue, disease and batch, with every hidden quantity returned beside
the counts.
"""

import anndata as ad
import numpy as np
import pandas as pd

from lab.errors import Refused

from ..card import Card, default
from ..prepare import log_normalise


def bulk(
    n_samples: int = 600,
    n_genes: int = 500,
    *,
    n_tissues: int = 5,
    n_diseases: int = 2,
    n_batches: int = 3,
    n_programmes: int = 8,
    affected: float = 0.1,
    disease_std: float = 1.0,
    batch_std: float = 0.3,
    sample_std: float = 0.3,
    depth: float = 1e6,
    confounding: float = 0.0,
    seed: int = 0,
) -> ad.AnnData:
    """Counts of `n_samples` bulk samples, drawn as

        log mean_sg = log size_s + base_g + (W a_s)_g + disease_gd + batch_gb,    x_sg ~ NB(mean_sg, theta_g).

    a_s, a sample's programme activity, scatters by `sample_std` around its tissue's; W (G, K) makes genes of one
    programme move together. A disease shifts the fraction `affected` of the genes by N(0, `disease_std`^2); a batch
    shifts all, by N(0, `batch_std`^2). All logs are natural. `confounding` is the probability that a sample's batch is
    decided by its disease.

    Truth: `layers["mean"]`; `obs["size_factor"]` (median `depth` / `n_genes`); `obsm["programme"]` a (N, K);
    `varm["programme"]` W, `varm["disease"]`, `varm["batch"]` (DataFrames, genes x levels); `uns["tissue_programme"]`
    (DataFrame, tissues x programmes); `var["base"]`, `var["theta"]`. The first disease, "healthy", has effect 0.
    `counterfactual_mean` answers "what if".
    """
    if min(n_samples, n_genes, n_tissues, n_diseases, n_batches, n_programmes) < 1:
        raise Refused("every n_… of bulk() must be at least 1")
    random = np.random.default_rng(seed)
    tissues = [f"tissue {i + 1}" for i in range(n_tissues)]
    diseases = ["healthy"] + [f"disease {i + 1}" for i in range(n_diseases - 1)]
    batches = [f"batch {i + 1}" for i in range(n_batches)]
    genes = [f"gene {i + 1}" for i in range(n_genes)]
    samples = [f"sample {i + 1}" for i in range(n_samples)]

    theta = np.exp(random.normal(np.log(10), 0.5, n_genes))  # biological coefficient of variation about 0.3
    loadings = random.normal(0, 0.5, (n_genes, n_programmes)) * (random.random((n_genes, n_programmes)) < 0.3)
    tissue_programme = random.normal(0, 1, (n_tissues, n_programmes))
    base = random.normal(0, 1.5, n_genes)
    base -= np.log(np.exp(base + tissue_programme @ loadings.T).mean())  # so that `depth` is the expected total
    disease = random.normal(0, disease_std, (n_genes, n_diseases)) * (random.random((n_genes, n_diseases)) < affected)
    disease[:, 0] = 0
    batch = random.normal(0, batch_std, (n_genes, n_batches))
    batch -= batch.mean(axis=1, keepdims=True)

    tissue_of = random.integers(n_tissues, size=n_samples)
    disease_of = random.integers(n_diseases, size=n_samples)
    batch_of = np.where(
        random.random(n_samples) < confounding, disease_of % n_batches, random.integers(n_batches, size=n_samples)
    )
    activity = tissue_programme[tissue_of] + sample_std * random.normal(0, 1, (n_samples, n_programmes))
    size = np.exp(random.normal(np.log(depth / n_genes), 0.3, n_samples))

    obs = pd.DataFrame(
        {
            "tissue": pd.Categorical.from_codes(tissue_of, tissues),
            "disease": pd.Categorical.from_codes(disease_of, diseases),
            "batch": pd.Categorical.from_codes(batch_of, batches),
            "size_factor": size,
        },
        index=samples,
    )
    frame = lambda values, columns: pd.DataFrame(values, index=genes, columns=columns)
    truth = ad.AnnData(
        obs=obs,
        var=pd.DataFrame({"base": base, "theta": theta}, index=genes),
        obsm={"programme": activity},
        varm={"programme": loadings, "disease": frame(disease, diseases), "batch": frame(batch, batches)},
    )
    truth.uns["tissue_programme"] = pd.DataFrame(tissue_programme, index=tissues)
    truth.uns["tissue_programme"].columns = [f"programme {i + 1}" for i in range(n_programmes)]
    truth.layers["mean"] = counterfactual_mean(truth)
    counts = random.poisson(random.gamma(theta, truth.layers["mean"] / theta))  # NB as a Gamma mixture of Poissons
    truth.layers["counts"] = counts.astype(np.int32)
    truth.obs["n_counts"] = counts.sum(axis=1).astype(float)
    truth.X = log_normalise(counts, truth.obs["n_counts"]).toarray()
    return truth


CARD = Card(
    call="bulk()",
    kind="simulated",
    cells=default(bulk, "n_samples"),
    genes=default(bulk, "n_genes"),
    licence="none needed",
    source=__name__,
)


def counterfactual_mean(
    samples: ad.AnnData, *, tissue: str | None = None, disease: str | None = None, batch: str | None = None
) -> np.ndarray:
    """True mean (N, G) of each simulated sample had it been of that `tissue`, `disease` or `batch`, all else of the
    sample unchanged.

    With no argument, the factual mean. A change of tissue keeps the sample's deviation from its tissue's programme
    activity.
    """
    activity = np.asarray(samples.obsm["programme"])
    if tissue is not None:
        centre = samples.uns["tissue_programme"]
        activity = activity - centre.loc[samples.obs["tissue"]].to_numpy() + _level(centre.T, tissue, "tissue")
    log_mean = (
        np.log(samples.obs["size_factor"].to_numpy())[:, None]
        + samples.var["base"].to_numpy()
        + activity @ samples.varm["programme"].T
    )
    for name, asked in (("disease", disease), ("batch", batch)):
        effect = samples.varm[name]
        log_mean = log_mean + (effect[samples.obs[name]].to_numpy().T if asked is None else _level(effect, asked, name))
    return np.exp(log_mean)


def _level(effects: pd.DataFrame, level: str, name: str) -> np.ndarray:
    if level not in effects:
        raise Refused(f"{name} {level!r} was not simulated; there are: {', '.join(effects.columns)}")
    return effects[level].to_numpy()
