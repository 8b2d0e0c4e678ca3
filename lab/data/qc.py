"""From raw counts to what a model reads: quality control, normalisation, highly variable genes."""
import numpy as np
from scipy import sparse


def log_normalise(counts, total) -> sparse.csr_matrix:
    """log(1 + 10,000 counts / total), CSR float32: `counts` (B, G), `total` (B,) UMIs of each cell."""
    scale = sparse.diags(1e4 / np.asarray(total, np.float64))
    return (scale @ sparse.csr_matrix(counts, dtype=np.float64)).log1p().astype(np.float32)
