"""Every data set and how it is read: functions that return AnnData, and `loader`, which turns one into minibatches.

Raw counts stand in `layers["counts"]`, log1p(CP10k) in `X`. Sets that are not counts have no such layer and name their unit in
`uns["unit"]`.
"""
from .batches import check_counts, loader
from .bundled import digits, pbmc
from .errors import DataError

__all__ = ["DataError", "check_counts", "digits", "loader", "pbmc"]
