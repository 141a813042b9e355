"""Errors with messages for the user.

    StudioError            an expected error, described in one sentence; exit status 1 on the command line
    ├── BadInput           invalid input: the message names what, where and the remedy; exit status 2
    │   ├── NotFound       there is nothing with that name or id
    │   └── Conflict       not possible in the current state (such as stopping a run that has ended)
    └── Unavailable        not possible on this machine or right now (no network, port taken, no memory)

The message of every StudioError reaches the user unchanged: pages show it next to its cause, the command line prints it
on stderr. Any other exception is a bug and is shown as one.
"""


class StudioError(Exception):
    """Base of all errors whose message is written for the user."""

    exit_status = 1


class BadInput(StudioError):
    """Invalid input. The message names what is wrong, where, and what to do."""

    exit_status = 2


class NotFound(BadInput):
    """There is nothing with that name or id."""


class Conflict(BadInput):
    """The request is not possible in the current state."""


class Unavailable(StudioError):
    """Not possible here or now; the message says why and what to do."""
