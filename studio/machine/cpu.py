"""This machine's processor, from /proc/cpuinfo. Shared by engine and studio, which must agree on it."""

import functools
import platform
from dataclasses import dataclass
from pathlib import Path

# Flags of Intel and AMD, and of Arm ("bf16" as a separate word).
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True, slots=True)
class Processor:
    """Features of a processor that the fast path uses.

    bf16: whether it multiplies bfloat16 in hardware. threads: number used by compiled attention
    (fast/native/attention.cpp); 0 where it is not compiled. memory: total bytes. lays_out: types of weights that are
    prepacked (engine/fast/ops/prepacked.py), if there is memory for it.
    """

    bf16: bool = True
    threads: int = 0
    memory: int = 0
    lays_out: frozenset[str] = frozenset()


USUAL = Processor()


@functools.cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def name() -> str:
    """The processor's name, as far as it is known."""
    return _cpuinfo_value("model name") or platform.processor() or platform.machine()


def made_by_amd() -> bool:
    """Whether it is an AMD processor, which not every library supports."""
    return _cpuinfo_value("vendor_id") == "AuthenticAMD"


def multiplies_bf16() -> bool:
    """Whether it multiplies bfloat16 in hardware.

    If not, torch's bfloat16 products take 6 to 8 times as long as float32 ones (AVX2, benchmarks/RESULTS.md). False if
    unknown: float32 is fast everywhere.
    """
    return not _BF16.isdisjoint((_cpuinfo_value("flags") or _cpuinfo_value("Features")).split())


def lays_out() -> frozenset[str]:
    """Types multiplied by oneDNN here, for which weights can be prepacked: see engine/fast/ops/matmul.py."""
    known = platform.machine() in ("x86_64", "AMD64")
    supported = {"bfloat16": known and multiplies_bf16(), "float32": made_by_amd()}
    return frozenset(dtype for dtype, true in supported.items() if true)


def features() -> str:
    """Text that identifies the instruction set, as part of the key of compiled libraries."""
    return f"{platform.machine()} {name()} {_cpuinfo_value('flags') or _cpuinfo_value('Features')}"


def _cpuinfo_value(key: str) -> str:
    for line in _cpuinfo().splitlines():
        if line.partition(":")[0].strip() == key:
            return line.partition(":")[2].strip()
    return ""
