"""The expected reasons for which a service cannot start, each told to the operator in one line, without a traceback.

They live apart from the modules that raise them so that `lifecycle`, which reports them, depends on none of those.
"""


class StartFailed(Exception):
    """The service cannot start as it was told to. The message is one line for the operator and says what to change."""

    exit_code = 1


class ListenFailed(StartFailed):
    """The address cannot be listened on. Choose another one, or stop what holds it."""


class ConfigInvalid(StartFailed):
    """The configuration is wrong. The message names the key and where it came from; correct it there."""

    exit_code = 2
