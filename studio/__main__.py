"""The `studio` command; `python -m studio` is the same."""

from studio.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
