"""What ends a training before its time."""


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """A signal, or the time limit, has ended a training; the same call goes on."""
