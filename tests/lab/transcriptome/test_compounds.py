"""Fingerprints of compounds: of the molecule, not of its spelling, and RDKit's own numbers."""

import sys

import numpy as np
import pandas as pd
import pytest

from lab.errors import Refused
from lab.transcriptome import fingerprints

pytest.importorskip("rdkit")
SMILES = {"ethanol": "CCO", "again": "OCC", "aspirin": "CC(=O)Oc1ccccc1C(=O)O", "salicylic acid": "O=C(O)c1ccccc1O"}


def shared(one, other):
    """Tanimoto's coefficient."""
    return (one * other).sum() / np.maximum(one, other).sum()


def test_a_fingerprint_is_of_the_molecule_and_not_of_its_spelling():
    table = fingerprints(SMILES)
    assert table.shape == (4, 1024) and table.isin([0, 1]).all(axis=None)
    pd.testing.assert_series_equal(table.loc["ethanol"], table.loc["again"], check_names=False)
    pd.testing.assert_frame_equal(fingerprints(pd.Series(SMILES)), table)


def test_its_bits_are_the_surroundings_of_atoms():
    """Ethanol: three atoms, and the two of its ends and one of its middle with their neighbours."""
    assert fingerprints(SMILES, radius=0).loc["ethanol"].sum() == 3
    assert fingerprints(SMILES).loc["ethanol"].sum() == 6
    alike = fingerprints(SMILES)
    assert (
        shared(alike.loc["aspirin"], alike.loc["salicylic acid"])
        > 0.4
        > shared(*alike.loc[["aspirin", "ethanol"]].to_numpy())
    )


def test_fewer_bits_are_the_same_surroundings_that_collide():
    many, few = fingerprints(SMILES), fingerprints(SMILES, n_bits=64)
    folded = many.to_numpy().reshape(4, -1, 64).max(1)
    np.testing.assert_array_equal(few, folded)


@pytest.mark.parametrize("text", ["C1CC", "", None, "not a molecule", np.nan])
def test_what_is_no_molecule_is_refused_by_name(text):
    with pytest.raises(Refused, match="'x' has .* which is no molecule"):
        fingerprints({"ethanol": "CCO", "x": text})


def test_without_rdkit_it_is_said_where_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(Refused, match="pip install rdkit"):
        fingerprints(SMILES)
