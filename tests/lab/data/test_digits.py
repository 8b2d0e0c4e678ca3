"""Handwritten digits."""

import pytest

from lab import data
from lab.errors import Refused


def test_digits_are_ink_not_counts():
    digits = data.digits()
    assert (
        digits.shape == (1797, 64)
        and digits.X.max() == 16
        and "counts" not in digits.layers
        and "ink" in digits.uns["unit"]
    )
    assert digits.obs["digit"].nunique() == 10
    with pytest.raises(Refused, match="no layer 'counts'"):
        data.loader(digits)
    x = next(iter(data.loader(digits, "digit", layer=None)))
    assert set(x) == {"x", "digit"} and x["x"].shape == (128, 64)
