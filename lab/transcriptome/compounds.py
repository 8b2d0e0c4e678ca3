"""Compounds by their structure: hashed fingerprints, which a compound that no cell has met has, too."""

from collections.abc import Mapping

import pandas as pd

from lab.errors import Refused


def fingerprints(smiles: Mapping[str, str], *, n_bits: int = 1024, radius: int = 2) -> pd.DataFrame:
    """Morgan's fingerprints, names x `n_bits` of 0 and 1: what stands within `radius` bonds of each atom, hashed, so
    that two surroundings may share a bit (Rogers & Hahn 2010). `smiles` maps names to SMILES, as a dict or a Series.
    Needs RDKit, the extra `chem`. Raises `Refused` for a name without a SMILES, and for one that is no molecule.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdFingerprintGenerator
    except ImportError:
        raise Refused("fingerprints need RDKit: pip install rdkit, or give descriptors from elsewhere") from None
    make = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=n_bits)
    rows, quiet = {}, rdBase.BlockLogs()  # its own words; ours are raised
    for name, text in smiles.items():
        molecule = Chem.MolFromSmiles(text.strip()) if isinstance(text, str) and text.strip() else None
        if molecule is None:
            raise Refused(f"{name!r} has {text!r} for a SMILES, which is no molecule; correct it, or leave it out")
        rows[name] = make.GetFingerprintAsNumPy(molecule)
    del quiet
    return pd.DataFrame.from_dict(rows, orient="index").astype(float)
