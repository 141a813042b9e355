"""The room of huggingface_hub's inside: which errors a broken connection comes as.

RELIES_ON names what of it is used, and what would be broken without it; tests/unit/project/test_contracts.py holds the
installed huggingface_hub to that.
"""

RELIES_ON = {
    "huggingface_hub.errors.HTTPError": "a connection that broke off would be told as a fault of the studio",
}


def connection_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What the hub's client raises where the hub cannot be reached or the connection breaks off; with `more`."""
    # The error of the HTTP library it was built on, httpx or httpx2, by the name under which it has it.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return (HTTPError, OSError, RuntimeError, *more)
