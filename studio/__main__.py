"""The `studio` command; `python -m studio` is the same."""

from studio.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
