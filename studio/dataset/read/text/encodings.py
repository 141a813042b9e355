"""Propose encodings for text that is not UTF-8."""

import codecs
import re
import unicodedata
from dataclasses import dataclass

from studio.dataset.read.limits import Limits
from studio.dataset.read.source import MIB, Bytes
from studio.errors import BadInput

_KNOWN = ("cp1252", "cp1251", "gb18030", "shift_jis", "euc_jp", "euc_kr", "big5", "cp1250", "cp1253", "cp1254")
# Bytes that must decode for an encoding to be proposed, and bytes used to rank the proposals.
_TRIED = 32 * MIB
_SAMPLE = 2**14
_PREVIEW = 200
_MOST = 6
# A word, delimited by ASCII spaces and punctuation, that contains a non-ASCII character.
_FOREIGN_WORD = re.compile(r"[^\s!-/:-@\[-`{-~]*[^\x00-\x7f\s][^\s!-/:-@\[-`{-~]*")
_RELATIVES = {
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "cp949": "euc_kr",
    "latin_1": "cp1252",
    "cp932": "shift_jis",
    "euc_jis_2004": "euc_jp",
    "euc_jisx0213": "euc_jp",
}
# Range of the common characters of a language in its charset, by their first byte.
_COMMON = {
    "gb18030": ("gb2312", 0xB0, 0xD7),
    "big5": ("big5", 0xA4, 0xC6),
    "shift_jis": ("euc_jp", 0xB0, 0xCF),
    "euc_jp": ("euc_jp", 0xB0, 0xCF),
    "euc_kr": ("euc_kr", 0xB0, 0xC8),
}
# With fewer bytes above 127 than this, statistics are meaningless.
_ENOUGH = 24
# Punctuation between two letters, other than apostrophes and dashes.
_MARK_INSIDE = re.compile(r"[A-Za-zÀ-ɏͰ-ӿ][^\w\s·’‘'—–‑-]+[A-Za-zÀ-ɏͰ-ӿ]")


@dataclass(frozen=True, slots=True)
class Proposal:
    """An encoding in which the bytes are text, and a preview of the first lines that are not UTF-8."""

    encoding: str
    preview: str


def candidates() -> list[str]:
    return list(_KNOWN)


def propose(source: Bytes, offset: int, encodings: list[str]) -> list[Proposal]:
    """Encodings, from the list and charset-normalizer's guess, in which the text decodes strictly; most likely first.

    offset: the first byte that did not decode, counted after unpacking.
    """
    data = _around(source, offset)
    start = 0 if offset < _SAMPLE else data.find(b"\n") + 1
    bad = data[start:]
    sample = _telling(bad)
    wide = encodings[:1] if encodings and encodings[0].startswith("utf-") else []
    scored: list[tuple[float, int, Proposal]] = []
    readings = set()
    for rank, encoding in enumerate(wide or _ordered(encodings, sample)):
        if not _decodes(bad, encoding):
            continue
        reading = sample.decode(encoding, "ignore")
        if reading not in readings:
            # Encodings in which the text reads the same would only crowd out the others.
            readings.add(reading)
            preview = _preview(bad if wide else sample, encoding)
            scored.append((_strangeness(reading, encoding), rank, Proposal(encoding, preview)))
    return [proposal for _, _, proposal in sorted(scored, key=lambda item: item[:2])][:_MOST]


def _around(source: Bytes, offset: int) -> bytes:
    """The bytes from shortly before the bad position. Opens the file again, since the reader is at another position."""
    again = Bytes(source.path, Limits(max_file_mb=source.limits.max_file_mb, max_compression_ratio=2**31))
    collected = bytearray()
    skipped = 0
    try:
        while data := again.read():
            first = max(offset - _SAMPLE - skipped, 0)
            skipped += len(data)
            collected += data[first:]
            if len(collected) > _TRIED:
                break
    except BadInput:
        # The text read so far is enough for a guess; the error will be reported by the actual read.
        pass
    finally:
        again.close()
    return bytes(collected)


def _telling(data: bytes) -> bytes:
    """The lines with bytes above 127, up to a bounded length; the start of the data if there are none."""
    lines = re.findall(rb"[^\n]*[\x80-\xff][^\n]*\n?", data[: 2**20])
    collected = b""
    for line in lines:
        if len(line) > _SAMPLE:
            first = re.search(rb"[\x80-\xff]", line)
            line = line[max(first.start() - 60, 0) if first else 0 :][: _SAMPLE // 2]
        collected += line
        if len(collected) > _SAMPLE:
            break
    return collected or data[:_SAMPLE]


def _ordered(encodings: list[str], sample: bytes) -> list[str]:
    guess = _normalizer(sample)
    for common in encodings[:1]:
        # The common Western encoding goes first if the text reads the same in both.
        if guess and guess != common and sample.decode(guess, "replace") == sample.decode(common, "replace"):
            guess = common
    return list(dict.fromkeys([guess, *encodings] if guess else encodings))


def _normalizer(sample: bytes) -> str:
    if len(sample) - len(sample.translate(None, bytes(range(128, 256)))) < _ENOUGH:
        return ""
    from charset_normalizer import from_bytes

    best = from_bytes(sample, steps=3, chunk_size=1024).best()
    if best is None or best.encoding in ("utf_8", "ascii", "utf_7"):
        return ""
    return _RELATIVES.get(best.encoding, best.encoding)


def _decodes(data: bytes, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    try:
        # The last character may be incomplete where the sample ends.
        decoder.decode(data, False)
    except (UnicodeError, ValueError):
        return False
    return True


def _preview(data: bytes, encoding: str) -> str:
    text = codecs.getincrementaldecoder(encoding)("ignore").decode(data[: _SAMPLE // 4], False)
    return " ".join(text.replace("\x00", "").split())[:_PREVIEW]


def _strangeness(text: str, encoding: str) -> float:
    """Score of how implausible the words of a text are, 0 for plausible.

    Counts punctuation inside words, mixed scripts, capitals after lower-case letters and rare characters.
    """
    faults = words = 0
    for word in _FOREIGN_WORD.findall(text[:_SAMPLE])[:400]:
        words += 1
        scripts = {_script(char) for char in word if char.isalpha()}
        scripts = {"CJK" if script in ("HIRAGANA", "KATAKANA") else script for script in scripts}
        faults += len(scripts) > 1 and not scripts <= {"CJK", "LATIN", "FULLWIDTH", "HALFWIDTH"}
        faults += any(unicodedata.category(char) in ("Cc", "Co", "Cn") for char in word)
        faults += bool(_MARK_INSIDE.search(word))
        faults += bool(re.search(r"[a-zà-öø-ÿа-яё][A-ZÀ-ÖØ-ÞА-ЯЁ]", word))
        letters = [char for char in word if char.isalpha()]
        faults += "LATIN" in scripts and len(letters) > 3 and not any(char.isascii() for char in letters)
        faults += "HALFWIDTH" in scripts
        signs = [char for char in word if _script(char) in ("CJK", "HANGUL")]
        faults += 3 * sum(_rare(char, encoding) for char in signs) > len(signs)
    return round(faults / words, 1) if words else 0.0


def _rare(char: str, encoding: str) -> bool:
    charset, first, last = _COMMON.get(encoding, ("big5", 0xA4, 0xC6))
    try:
        return not first <= char.encode(charset)[0] <= last
    except UnicodeEncodeError:
        return True


def _script(char: str) -> str:
    return unicodedata.name(char, "?").split()[0]
