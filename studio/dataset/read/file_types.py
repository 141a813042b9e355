"""Recognise files that are not datasets by their content, regardless of their name."""

import re

from studio.dataset.read.text.decoding import wide_encoding
from studio.errors import BadInput

# First bytes of a file, what it is, and the remedy.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "is packed with gzip twice", "Unpack it once"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Excel or Word file", "Save the sheet as CSV (UTF-8)"),
    (b"%PDF", "is a PDF document", "Save the examples as jsonl or csv"),
    (b"\x89PNG", "is a picture (PNG)", "Save the examples as jsonl or csv"),
    (b"\xff\xd8\xff", "is a picture (JPEG)", "Save the examples as jsonl or csv"),
    (b"GIF8", "is a picture (GIF)", "Save the examples as jsonl or csv"),
    (b"II*\x00", "is a picture (TIFF)", "Save the examples as jsonl or csv"),
    (b"MM\x00*", "is a picture (TIFF)", "Save the examples as jsonl or csv"),
    (b"RIFF", "is a picture, a sound or a film (RIFF)", "Save the examples as jsonl or csv"),
    (b"OggS", "is a sound file (Ogg)", "Save the examples as jsonl or csv"),
    (b"ID3", "is a sound file (MP3)", "Save the examples as jsonl or csv"),
    (b"SQLite format 3\x00", "is an SQLite database", "Export the table as CSV"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "Unpack it and use the file inside"),
    (b"Rar!\x1a\x07", "is a RAR archive", "Unpack it and use the file inside"),
    (b"\xfd7zXZ\x00", "is packed with xz", "Unpack it (unxz) or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd", "Unpack it (unzstd) or pack it with gzip"),
    (b"\x04\x22\x4d\x18", "is packed with lz4", "Unpack it (unlz4) or pack it with gzip"),
    (b"\x93NUMPY", "is a NumPy array", "Save the examples as jsonl or csv"),
    (b"GGUF", "is a model (GGUF), not a dataset", "Add it as a model, and choose a dataset file here"),
    (b"FEA1", "is an old Feather file (version 1)", "Save it as parquet"),
    (b"Obj\x01", "is an Avro file", "Save it as parquet or jsonl"),
    (b"ORC\x0a", "is an ORC file", "Save it as parquet"),
    (b"\x89HDF\r\n", "is an HDF5 file", "Save it as parquet or csv"),
    (b"\x7fELF", "is a program", "Choose a dataset file"),
    (b"\x00asm", "is a program", "Choose a dataset file"),
    (b"{\\rtf", "is a text document (RTF)", "Save it as plain text in a csv or jsonl file"),
    (b"PARE", "is an encrypted parquet file", "Save it without encryption"),
)
_WIDE = ("utf16", "utf32", "utf-1", "utf-3", "utf_1", "utf_3")
_LFS = re.compile(rb"\s*version https://git-lfs\.github\.com/spec/")
_PAGE = re.compile(r"<(!doctype|html|head|body|\?xml|!--|svg|rss|error|script)\b", re.IGNORECASE)
_WHOLE_PAGE = re.compile(r"<(!doctype\s+html|html|\?xml)\b", re.IGNORECASE)
# Control characters that do not occur in text: all below 32 but tab, line feed, form feed, carriage return and escape.
_CONTROL = bytes(code for code in range(32) if code not in (9, 10, 12, 13, 27))


def refuse_binary(name: str, head: bytes) -> None:
    """Raise BadInput when the first bytes of a file are those of a type other than text or parquet."""
    for magic, what, way_out in _MAGIC:
        if head.startswith(magic):
            raise BadInput(f"{name} {what}. {way_out}.")
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        raise BadInput(f"{name} {_zip(head)}.")
    if head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        raise BadInput(f"{name} is packed with bzip2. Unpack it (bunzip2) or pack it with gzip.")
    if head[257:262] == b"ustar":
        raise BadInput(f"{name} is a tar archive. Unpack it and use the file inside.")
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise BadInput(f"{name} is a Python pickle, which is never opened: it can run code. Save it as jsonl.")
    if head[8:9] == b"{" and b'"dtype"' in head[:4096] and int.from_bytes(head[:8], "little") < 2**30:
        raise BadInput(f"{name} is a model (safetensors), not a dataset. Add it as a model.")
    if head[4:8] == b"ftyp":
        raise BadInput(f"{name} is a film or a picture (MP4, HEIC). Save the examples as jsonl or csv.")
    if _LFS.match(head):
        raise BadInput(f"{name} is only a pointer to the real file (Git LFS). Run git lfs pull, and try again.")


def refuse_noise(name: str, head: bytes, encoding: str) -> None:
    """Raise BadInput when a file, not in UTF-16 or UTF-32, has too many control characters to be text.

    encoding: as the user gave it, or "".
    """
    if wide_encoding(head) or head[:2] in (b"\xff\xfe", b"\xfe\xff") or encoding[:5].lower() in _WIDE:
        return
    sample = head[:65536]
    controls = len(sample) - len(sample.translate(None, _CONTROL))
    if controls > 3 and controls * 10 > len(sample):
        raise BadInput(
            f"{name} is not text: it contains binary data. Use a json, jsonl, csv, tsv, parquet, arrow or txt file."
        )


def refuse_page(name: str, start: str, kind: str) -> None:
    """Raise BadInput when the text is a web page or XML.

    start: the start of the text; kind: by the file's name: in csv and tsv a column may be called <text>, and a plain
    text may begin with markup.
    """
    pattern = _WHOLE_PAGE if kind == "text" else _PAGE
    if pattern.match(start) or (start[:1] == "<" and kind not in ("csv", "tsv", "text")):
        raise BadInput(
            f"{name} looks like a web page or XML, not a dataset. "
            "Download the file itself (the raw link) and try again."
        )


def _zip(head: bytes) -> str:
    if b"xl/" in head or b"[Content_Types].xml" in head:
        return "is an Excel or Word file. Save the sheet as CSV (UTF-8)"
    if b"opendocument" in head[:200]:
        return "is an OpenDocument file. Save the sheet as CSV (UTF-8)"
    if b".npy" in head[:200]:
        return "is a NumPy archive (npz). Save the examples as jsonl or csv"
    if b"data.pkl" in head[:400]:
        return "is a PyTorch checkpoint, not a dataset. Save the examples as jsonl or csv"
    return "is a zip archive. Unpack it and use the file inside"
