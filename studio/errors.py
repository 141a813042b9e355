"""What can go wrong, in words meant for the person at the screen.

    StudioError            something we can say in one sentence; exit status 1 on the command line
    ├── BadInput           what was given is wrong: names what, where and the remedy; exit status 2
    │   ├── NotFound       nothing goes by that name or id
    │   └── Conflict       asked at the wrong moment (a stop for a run that is over)
    └── Unavailable        cannot be done on this machine or right now (no network, port taken, no memory)

The message of every StudioError reaches the user unchanged: pages show it beside its cause, the command line
prints it on stderr. Anything else is a bug and is shown as one.
"""


class StudioError(Exception):
    """Base of all errors whose message is written for the user."""

    exit_status = 1


class BadInput(StudioError):
    """What was given is wrong. The message names what, where, and what to do."""

    exit_status = 2


class NotFound(BadInput):
    """Nothing goes by that name or id."""


class Conflict(BadInput):
    """The request does not fit the present state."""


class Unavailable(StudioError):
    """It cannot be done here or now; the message says why and the way out."""
