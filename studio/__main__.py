"""The `studio` command; `python -m studio` is the same."""

from studio.kept_code import keeping


def main() -> None:
    with keeping("command"):
        from studio.cli import main as command
    command()


if __name__ == "__main__":
    main()
