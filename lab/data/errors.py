"""The one exception that bad data raises."""


class DataError(ValueError):
    """Data that cannot be used as asked: one sentence with the cause and the remedy, fit for a command line to
    print.
    """
