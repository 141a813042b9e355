"""Compatibility with huggingface_hub: the errors it raises for a broken connection.

RELIES_ON lists the internals in use and what would break without each; tests/unit/project/test_contracts.py checks them
against the installed huggingface_hub.
"""

RELIES_ON = {
    "huggingface_hub.errors.HTTPError": "a broken connection would be reported as a bug of the studio",
}


def connection_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Errors that the hub's client raises when the hub cannot be reached or the connection breaks; plus `more`."""
    # The error class of its HTTP library, httpx or httpx2, under the name huggingface_hub imports it.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return (HTTPError, OSError, RuntimeError, *more)
