"""What README, CONTRIBUTING and the docs show in fenced blocks: commands in ```sh, programs in ```python."""

import re
import shlex
from dataclasses import dataclass

from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """A text that a page shows, and the line where it is."""

    page: str
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """The words of a command as a shell reads them, without the comment."""
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def blocks(language: str) -> list[Shown]:
    """Fenced blocks of a language ("" for none), page by page."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in _FENCED.finditer(text):
            if block[1] == language:
                first = text[: block.start(2)].count("\n") + 1
                found.append(Shown(str(page.relative_to(REPOSITORY)), first, block[2]))
    return found


def commands() -> list[Shown]:
    """Commands of all ```sh blocks, in the order of the pages; each is one line."""
    return [
        Shown(block.page, block.line + offset, line)
        for block in blocks("sh")
        for offset, line in enumerate(block.text.splitlines())
        if line.strip()
    ]
