"""Finds rows that repeat each other, exactly or nearly, and groups them so that a split never parts them.

Exact: the same conversation or text. Near: the sets of three-word shingles of two rows have an estimated Jaccard
similarity of at least NEAR (Broder 1997; MinHash and LSH from datasketch). What is compared is what differs between
rows: the input where there is one, and the answers; a system prompt that all rows share would make all look alike.
"""

import hashlib
import re
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from studio.dataset.read.formats import Record

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

NEAR = 0.8  # as SlimPajama and RefinedWeb removed at
# 64 permutations: a similarity of 0.8 is estimated with a standard error of sqrt(0.8 · 0.2 / 64) = 0.05.
_PERMUTATIONS = 64
# Odd multipliers that tell a shingle's first and second word from its third (64 bits, wrapping; the top 32 are kept).
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
# Hashes of words are kept until there are so many; text has few words, random strings have not.
_MOST_WORDS = 1_000_000
# Fewer words than this make too few shingles to tell near from far.
_FEWEST_WORDS = 8
# The index of signatures takes about 2 KiB a row; beyond this many rows only exact repeats are looked for.
MOST_NEAR = 300_000
_WORD = re.compile(r"\w+")


class Repeats:
    """Told rows one by one, says which earlier row each repeats; at the end, which rows belong together."""

    def __init__(self, most_near: int = MOST_NEAR) -> None:
        self.most_near = most_near
        self._first: dict[bytes, int] = {}
        self._parents: list[int] = []
        self._signatures: dict[int, np.ndarray] = {}
        self._words: dict[str, int] = {}

    def add(self, record: Record) -> tuple[int, bool] | None:
        """The position (from 0, in the order of telling) of the first row it repeats, and whether exactly."""
        place = len(self._parents)
        self._parents.append(place)
        key = _key(record)
        first = self._first.setdefault(key, place)
        if first != place:
            self._parents[place] = self._root(first)
            return first, True
        return self._near(record, place) if place < self.most_near else None

    def groups(self) -> list[int]:
        """For each row the position of its group's first row."""
        return [self._root(place) for place in range(len(self._parents))]

    # Made when a row is long enough to be compared: datasketch brings scipy, half a second of an order's start.
    @cached_property
    def _index(self) -> "MinHashLSH":
        from datasketch import MinHashLSH

        return MinHashLSH(threshold=NEAR, num_perm=_PERMUTATIONS)

    @cached_property
    def _signature(self) -> "MinHash":
        # One signature, cleared for each row; its values are hashed already (_shingles).
        from datasketch import MinHash

        return MinHash(num_perm=_PERMUTATIONS, hashfunc=int)

    def _near(self, record: Record, place: int) -> tuple[int, bool] | None:
        shingles = self._shingles(_compared(record))
        if not shingles:
            return None
        signature = self._signature
        signature.clear()
        signature.update_batch(shingles)
        values = signature.hashvalues
        alike = []
        for other in self._index.query(signature):
            share = float(np.mean(self._signatures[other] == values))
            if share >= NEAR:
                alike.append((-share, other))
        self._index.insert(place, signature)
        self._signatures[place] = values
        for _, other in alike:
            one, two = sorted((self._root(place), self._root(other)))
            self._parents[two] = one
        return (min(alike)[1], False) if alike else None

    def _shingles(self, text: str) -> list[int]:
        """Hashes of each three words in a row; empty for a text too short to compare."""
        words = _WORD.findall(text.lower())
        if len(words) < _FEWEST_WORDS:
            return []
        known = self._words
        if len(known) > _MOST_WORDS:
            known.clear()
        found = [*map(known.get, words)]
        if None in found:
            found = [known.get(word) or self._hash(word) for word in words]
        hashed = np.array(found, np.uint64)
        mixed: list[int] = ((hashed[:-2] * _MIX[0] + hashed[1:-1] * _MIX[1] + hashed[2:]) >> np.uint64(32)).tolist()
        return mixed

    def _hash(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        value = self._words[word] = int.from_bytes(digest, "little") | 1  # never 0, which would read as unknown
        return value

    def _root(self, place: int) -> int:
        while self._parents[place] != place:
            self._parents[place] = self._parents[self._parents[place]]
            place = self._parents[place]
        return place


def _key(record: Record) -> bytes:
    digest = hashlib.blake2b(record.text.encode(), digest_size=16)
    for message in record.messages:
        for part in (message["role"], message["content"]):
            digest.update(f"{len(part)}:{part}".encode())
    return digest.digest()


def _compared(record: Record) -> str:
    if record.input:
        return f"{record.input}\n{record.messages[-1]['content']}"
    return record.text or "\n".join(item["content"] for item in record.messages if item["role"] != "system")
