"""Words with which somebody tries to reach a file that is not theirs: traversals, encodings, absolute paths, odd names.

`raw()` gives them as they stand in the path of a request, `words()` as values of a field. Both are the same at every
call. `targets` are the files that are tried for.
"""

import itertools
from collections.abc import Iterator, Sequence
from urllib.parse import quote

TARGETS = ("etc/passwd", "proc/self/environ", "studio.db", "keeper.lock", "outside.txt", "runs", "..", "")
UPS = ("../", "..\\", "..//", "./../", "..;/", ".../", "....//", "..././", "..\x00/", "\u2025/", "\uff0e\uff0e/",
       "..\u2215", "..\uff0f", "\u002e\u002e\u2044", "..\t/", ".. /")  # fmt: skip
DEPTHS = (1, 2, 3, 5, 9)
ENDS = ("", "\x00", "\x00.csv", "%00.json", "?", "#", "/.", "/", ";.csv", " ", ".", "::$DATA", "~")
ABSOLUTE = ("/", "//", "///", "file:///", "file://localhost/", "\\\\127.0.0.1\\c$\\", "//127.0.0.1/", "C:\\", "C:/",
            "\\\\?\\C:\\", "~/", "~root/", "/proc/self/root/", "/proc/self/cwd/", "/dev/fd/", "http://127.0.0.1/",
            "http://169.254.169.254/", "data:text/plain,", "jar:file:///", "$HOME/", "${HOME}/", "%HOME%/")  # fmt: skip
ODD = (
    ".", "..", "...", "\x00", "\n", "\r\nSet-Cookie: a=b", "CON", "nul", "aux.txt", "-", "--help", "*", "?", "[a-z]",
    "{a,b}", "'", '"', "`id`", "$(id)", "|id", ";id", "&id", "' OR '1'='1", "1; DROP TABLE runs", "%", "_", "\\",
    "a" * 255, "a" * 256, "a" * 5000, "é" * 200, "\U0001f600" * 100, "\u202ecsv.exe", "\ufeff", "\ud800", "\x7f",
    "0", "-1", "1e999", "nan", "null", "undefined", "true", "[object Object]", "__proto__", "constructor", "{{7*7}}",
    "${7*7}", "{0.__class__}", "%s%s%s%n", "<script>", "../" * 400, "/" * 400, "a/" * 400, "%2e" * 400, ".git/config",
    ".env", "id_rsa",
)  # fmt: skip


def words(targets: Sequence[str] = TARGETS) -> Iterator[str]:
    """As values: of a field, of JSON, of a command line."""
    seen: set[str] = set()

    def fresh(many: Iterator[str]) -> Iterator[str]:
        for word in many:
            if word not in seen:
                seen.add(word)
                yield word

    yield from fresh(iter(ODD))
    yield from fresh(up * depth + target for up, depth, target in itertools.product(UPS, DEPTHS, targets))
    yield from fresh(start + target for start, target in itertools.product(ABSOLUTE, targets))
    yield from fresh("../../" + target + end for target, end in itertools.product(targets, ENDS))
    yield from fresh(
        "x" * 16 + "/" + up * depth + target for up, depth, target in itertools.product(UPS, (2, 3), targets)
    )


def _twice(word: str) -> str:
    return quote(_every(word), safe="")


def _every(word: str) -> str:
    return "".join(f"%{byte:02x}" for byte in word.encode("utf-8", "surrogatepass"))


def _plain(word: str) -> str:
    """As it is, but for what would end the request line."""
    return quote(word.encode("utf-8", "surrogatepass"), safe="/\\.:;~$*?&=+,!'()@[]|{}")


def _dots(word: str) -> str:
    return _plain(word).replace("../", "..%2f").replace("..\\", "..%5c")


def _overlong(word: str) -> str:
    """Encodings of dot and slash that no decoder should take."""
    return _plain(word).replace(".", "%c0%ae").replace("/", "%c0%af")


def _wide(word: str) -> str:
    return _plain(word).replace(".", "%u002e").replace("/", "%u2215")


ENCODINGS = (_plain, _every, _twice, _dots, _overlong, _wide)


def raw(count: int = 2000, targets: Sequence[str] = TARGETS) -> list[str]:
    """`count` different ones, as they stand in a request's path: every word in turn, every encoding in turn."""
    return encoded(list(words(targets)), count)


def encoded(every: Sequence[str], count: int = 2000) -> list[str]:
    """`count` different spellings of these words for a request's path: every word in turn, every encoding in turn."""
    made: dict[str, None] = {}
    for turn in range(len(ENCODINGS)):
        for place, word in enumerate(every):
            made.setdefault(ENCODINGS[(place + turn) % len(ENCODINGS)](word))
            if len(made) == count:
                return list(made)
    raise AssertionError(f"there are only {len(made)} of them")
