"""The one exception that bad input raises, in every tier."""


class Refused(ValueError):
    """What was asked for cannot be done with what was given: one sentence with the cause and the remedy, fit for a
    command line to print."""
