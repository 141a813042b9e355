"""Work for the fork server's tests: run a statement."""

import pyarrow  # noqa: F401 - the kind of library whose import is to be waited for once


def main(statement: str) -> None:
    exec(statement, {})
