"""The exceptions that a user of the package can meet.

All derive from `CompanionError`, itself a `ValueError`, so one `except` catches whatever a bad
file, picture or weight can cause.  Messages name the file, the reason, and what to do.
"""


class CompanionError(ValueError):
    """Something given to the package cannot be used; the message says what and why."""


class PictureError(CompanionError):
    """A picture or a folder of pictures cannot be read as one."""


class StreamError(CompanionError):
    """A compressed stream is cut, altered, foreign, or needs a codec that is not here."""


class WeightsError(CompanionError):
    """A weight file is missing, altered, or does not fit its architecture."""
