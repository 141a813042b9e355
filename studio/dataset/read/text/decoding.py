"""Strict decoding of a file's bytes to text.

Bytes that do not decode are never replaced: the error names their position and the likely encodings.
"""

import codecs
import re
from collections.abc import Iterator

from studio.dataset.read.source import Bytes
from studio.dataset.read.text.encodings import Proposal, candidates, propose
from studio.errors import BadInput

# Byte order marks, the codec that strips each, and its display name. Longer marks come first.
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
# Python codecs that decode bytes to text but are never the encoding of a file.
_NO_FILES = {"idna", "punycode", "undefined", "charmap", "unicode-escape", "raw-unicode-escape", "utf-7", "mbcs", "oem"}
_KEPT_OF_LONG_LINE = 2**16


class Undecodable(BadInput):
    """The bytes are not text in the encoding tried. proposals: encodings in which they are, most likely first."""

    def __init__(self, message: str, proposals: list[Proposal]) -> None:
        super().__init__(message)
        self.proposals = proposals


def codec_of(encoding: str) -> str:
    """Python's name of a text encoding given by the user. Raises BadInput when there is no such encoding."""
    message = f"There is no text encoding {encoding!r}. Use for example utf-8, cp1252, cp1251, gb18030 or shift_jis."
    if not re.fullmatch(r"[A-Za-z0-9][\w.: -]{0,39}", encoding, re.ASCII):
        raise BadInput(message)
    try:
        info = codecs.lookup(encoding)
        "".encode(encoding)  # fails for Python's text-to-text and bytes-to-bytes codecs
    except (LookupError, ValueError, ImportError):
        raise BadInput(message) from None
    if info.name.replace("_", "-") in _NO_FILES or info.incrementaldecoder is None:
        raise BadInput(message)
    return info.name


class Text:
    """The text of a file with a sliding window: text before `pos` is consumed and may be dropped by the next `fill`.

    Raises Undecodable, at any piece, where the bytes are not text in the encoding.
    """

    def __init__(self, source: Bytes, encoding: str) -> None:
        self._source = source
        self._codec, self.encoding = _choose(source, encoding)
        self._decoder = codecs.getincrementaldecoder(self._codec)("strict")
        self._given = 0
        self._started = False
        self._accents = False
        # Position of the window's start: lines dropped so far, and characters after the last of them.
        self._lines = 0
        self._column = 0
        self._returns = 0
        self.buffer = ""
        self.pos = 0
        self.ended = False

    def fill(self) -> bool:
        """Drop the consumed text and append the next piece. False at the end of the file."""
        text = ""
        while not text and not self.ended:
            text = self._decode(self._source.read())
        if not self._started and text:
            # Some programs write the byte order mark twice.
            text = text.lstrip("\ufeff")
            self._started = True
            if not text and not self.ended:
                return self.fill()
        self._drop()
        self.buffer += text
        return bool(text)

    def where(self, pos: int) -> tuple[int, int]:
        """Line and column, from 1, of a position in the window."""
        lines = self.buffer.count("\n", 0, pos)
        if lines:
            return self._lines + lines + 1, pos - self.buffer.rindex("\n", 0, pos)
        return self._lines + 1, self._column + pos + 1

    def start(self, most: int) -> str:
        """The first characters that are not white space, without consuming anything; "" when there are none.

        Raises BadInput when more than `most` characters of white space come first."""
        while not self.buffer.strip() and len(self.buffer) <= most and self.fill():
            pass
        if len(self.buffer) > most and not self.buffer.strip():
            raise BadInput(f"{self._source.name} begins with endless white space. Remove it and try again.")
        return self.buffer.lstrip()[:400]

    def skip_space(self) -> bool:
        """Advance to the next character that is not JSON white space. False at the end of the file."""
        while True:
            match = _NOT_SPACE.search(self.buffer, self.pos)
            if match:
                self.pos = match.start()
                return True
            self.pos = len(self.buffer)
            if not self.fill():
                return False

    def rest(self) -> str:
        """All remaining text; leaves the window empty."""
        pieces = [self.buffer[self.pos :]]
        self.pos = len(self.buffer)
        while self.fill():
            pieces.append(self.buffer)
            self.pos = len(self.buffer)
        return "".join(pieces)

    def lines(self, ends: re.Pattern[str], most: int) -> Iterator[tuple[str, bool]]:
        """Yield each line with its line end, and whether it is complete: of one longer than `most` only the start."""
        searched = 0
        while True:
            match = self._line_end(ends, self.pos + searched)
            if match:
                line = self.buffer[self.pos : match.end()]
                self.pos, searched = match.end(), 0
                yield line, len(line) <= most
            elif len(self.buffer) - self.pos > most:
                searched = 0
                yield self._skip_line(ends), False
            else:
                # A carriage return at the very end is checked again: a line feed may follow.
                searched = max(len(self.buffer) - self.pos - 1, 0)
                if not self.fill():
                    line, self.pos = self.buffer[self.pos :], len(self.buffer)
                    if line:
                        yield line, len(line) <= most
                    return

    def _line_end(self, ends: re.Pattern[str], start: int) -> re.Match[str] | None:
        match = ends.search(self.buffer, start)
        undecided = match and match[0] == "\r" and match.end() == len(self.buffer) and not self.ended
        return None if undecided else match

    def _skip_line(self, ends: re.Pattern[str]) -> str:
        beginning = self.buffer[self.pos : self.pos + _KEPT_OF_LONG_LINE]
        while True:
            match = self._line_end(ends, self.pos)
            if match:
                self.pos = match.end()
                return beginning
            self.pos = max(len(self.buffer) - 1, 0)
            if not self.fill():
                self.pos = len(self.buffer)
                return beginning

    def _drop(self) -> None:
        lines = self.buffer.count("\n", 0, self.pos)
        self._returns += self.buffer.count("\r", 0, self.pos)
        self._column = self.pos - self.buffer.rindex("\n", 0, self.pos) - 1 if lines else self._column + self.pos
        self._lines += lines
        self.buffer = self.buffer[self.pos :]
        self.pos = 0

    def _decode(self, data: bytes) -> str:
        try:
            text = self._decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            raise self._undecodable(error.object, error.start, len(data)) from None
        except UnicodeError:
            raise self._undecodable(data, 0, len(data)) from None
        self._given += len(data)
        self.ended = not data
        self._accents = self._accents or not text.lstrip("\ufeff").isascii()
        return text

    def _undecodable(self, held: bytes, start: int, fresh: int) -> Undecodable:
        """The error for undecodable bytes, with proposals.

        held: the bytes being decoded, of which the last `fresh` were just read; start: index of the first bad one.
        """
        name = self._source.name
        offset = self._given + fresh - len(held) + start
        before = held[:start].decode(self._codec, "ignore")
        lines, returns = before.count("\n") + self._count("\n"), before.count("\r") + self._count("\r")
        line = (lines or returns) + 1
        marked = self._source.begins_with(tuple(bom for bom, *_ in _BOMS))
        # A byte order mark settles the encoding: the bytes are damaged, and any other encoding would be refused.
        others = [encoding for encoding in candidates() if encoding != self._codec]
        proposals = [] if marked else propose(self._source, offset, others)
        what = f"the byte 0x{held[start]:02x}" if start < len(held) else "half a character"
        message = f"{name} is not {self.encoding} text: line {line} contains {what} (byte {offset + 1:,} of the text). "
        choose = f" (on the command line: --encoding {proposals[0].encoding})" if proposals else ""
        if marked:
            message += f"The file begins with the mark of {self.encoding}, so that place is damaged: fix or remove it."
        elif proposals and (self._accents or not before.isascii()):
            message += (
                "Accented letters before it are valid, so that line may come from elsewhere: fix it. "
                f"If the whole file is in another encoding, choose that encoding{choose}."
            )
        elif proposals:
            message += f"Choose the encoding in which it reads correctly{choose}, or save it as UTF-8."
        else:
            message += "Save it as UTF-8 and try again."
        return Undecodable(message, proposals)

    def _count(self, end: str) -> int:
        return (self._lines if end == "\n" else self._returns) + self.buffer.count(end)


_NOT_SPACE = re.compile(r"[^ \t\n\r]")


def _choose(source: Bytes, given: str) -> tuple[str, str]:
    """The codec and the encoding's display name."""
    head = source.head()
    marked = next(((codec, name) for bom, codec, name in _BOMS if head.startswith(bom)), None)
    if not given:
        if marked:
            return marked
        if wide := wide_encoding(head):
            proposals = propose(source, 0, [wide])
            if proposals:
                raise Undecodable(
                    f"{source.name} seems to be {wide[:6].upper()} text without the mark that says so. "
                    f"Choose its encoding (on the command line: --encoding {wide}), or save it as UTF-8.",
                    proposals,
                )
        return "utf-8", "UTF-8"
    codec = codec_of(given)
    family = codec[:6]
    if marked and marked[1].lower() != family and codec != "utf-8-sig":
        raise BadInput(
            f"{source.name} begins with the mark of {marked[1]}, so it is not {codec} text. Leave the encoding out."
        )
    if marked:
        return marked
    if codec in ("utf-16", "utf-32"):
        wide = wide_encoding(head)
        if not wide.startswith(codec):
            raise BadInput(f"{source.name} does not say its byte order. Choose {codec}-le or {codec}-be.")
        codec = wide
    return codec, "UTF-8" if codec == "utf-8" else codec


def wide_encoding(head: bytes) -> str:
    """Name such as utf-16-le if the NUL bytes are distributed as in that encoding without a mark, else ""."""
    sample = head[:4096]
    if len(sample) < 4 or b"\x00" not in sample:
        return ""
    zeros = [sample[place::4].count(0) * 4 / len(sample) for place in range(4)]
    if min(zeros[2:]) > 0.9 and zeros[0] < 0.1:
        return "utf-32-le"
    if min(zeros[:2]) > 0.9 and zeros[3] < 0.1:
        return "utf-32-be"
    even, odd = (zeros[0] + zeros[2]) / 2, (zeros[1] + zeros[3]) / 2
    for wide, many, few, first in (("utf-16-le", odd, even, sample[:2]), ("utf-16-be", even, odd, sample[1::-1])):
        # Text in a non-Latin script still has ASCII spaces, digits and punctuation; it starts with one or a letter.
        if many > 0.1 and few < 0.05 and (many > 0.6 or (first[1] == 0 and first[0] < 128)):
            return wide
    return ""
