"""What can go wrong with a server of ours."""


class ServiceError(Exception):
    """A server did not start, stop or answer; the message ends with the last lines of its log."""


class MissingProgramError(ServiceError):
    """A program is not installed; the message says which packages bring it."""
