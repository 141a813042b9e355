"""Find rows that repeat each other, exactly or nearly, and group them so that a split never separates them.

Exact: the same conversation or text. Near: the sets of three-word shingles of two rows have an estimated Jaccard
similarity of at least NEAR (Broder 1997; MinHash and LSH from datasketch). Only the input, where there is one, and the
answers are compared: a system prompt shared by all rows would make them all look similar.
"""

import hashlib
import re
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from studio.dataset.record import Record

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

NEAR = 0.8  # the threshold of SlimPajama and RefinedWeb
# 64 permutations: a similarity of 0.8 is estimated with a standard error of sqrt(0.8 · 0.2 / 64) = 0.05.
_PERMUTATIONS = 64
# Odd multipliers that distinguish a shingle's first and second word from its third (64 bits, wrapping; top 32 kept).
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
# Word hashes are cached up to this many. Text has few distinct words; random strings have many.
_MOST_WORDS = 1_000_000
# Fewer words than this give too few shingles for a meaningful similarity.
_FEWEST_WORDS = 8
# The index of signatures takes about 2 KiB per row; beyond this many rows only exact repeats are searched for.
MOST_NEAR = 300_000
_WORD = re.compile(r"\w+")


class Repeats:
    """Incremental search for repeated rows: `add` each row, then read the `groups` of rows that belong together."""

    def __init__(self, most_near: int = MOST_NEAR) -> None:
        self.most_near = most_near
        self._first: dict[bytes, int] = {}
        self._parents: list[int] = []
        self._signatures: dict[int, np.ndarray] = {}
        self._words: dict[str, int] = {}

    def add(self, record: Record) -> tuple[int, bool] | None:
        """Position (from 0, in the order added) of the first row it repeats, and whether exactly; None if it is new."""
        place = len(self._parents)
        self._parents.append(place)
        key = _key(record)
        first = self._first.setdefault(key, place)
        if first != place:
            self._parents[place] = self._root(first)
            return first, True
        return self._near(record, place) if place < self.most_near else None

    def groups(self) -> list[int]:
        """For each row, the position of its group's first row."""
        return [self._root(place) for place in range(len(self._parents))]

    # Created when the first row is long enough to compare: datasketch imports scipy, which takes half a second.
    @cached_property
    def _index(self) -> "MinHashLSH":
        from datasketch import MinHashLSH

        return MinHashLSH(threshold=NEAR, num_perm=_PERMUTATIONS)

    @cached_property
    def _signature(self) -> "MinHash":
        # One signature, cleared for each row; its input is already hashed (_shingles).
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
        similar = []
        for other in self._index.query(signature):
            share = float(np.mean(self._signatures[other] == values))
            if share >= NEAR:
                similar.append((-share, other))
        self._index.insert(place, signature)
        self._signatures[place] = values
        for _, other in similar:
            first, second = sorted((self._root(place), self._root(other)))
            self._parents[second] = first
        return (min(similar)[1], False) if similar else None

    def _shingles(self, text: str) -> list[int]:
        """Hashes of every three consecutive words; empty for a text too short to compare."""
        words = _WORD.findall(text.lower())
        if len(words) < _FEWEST_WORDS:
            return []
        known = self._words
        if len(known) > _MOST_WORDS:
            known.clear()
        hashes = [*map(known.get, words)]
        if None in hashes:
            hashes = [known.get(word) or self._hash(word) for word in words]
        hashed = np.array(hashes, np.uint64)
        mixed: list[int] = ((hashed[:-2] * _MIX[0] + hashed[1:-1] * _MIX[1] + hashed[2:]) >> np.uint64(32)).tolist()
        return mixed

    def _hash(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        value = self._words[word] = int.from_bytes(digest, "little") | 1  # never 0, which would count as unknown
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
