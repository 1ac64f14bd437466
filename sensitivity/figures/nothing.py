"""The error of a figure that has nothing to show."""


class NothingToDrawError(ValueError):
    """What a ``draw_`` function was given holds nothing that it could draw; the message says what it needs."""
