"""What this machine's processor is, as Linux tells of it. Engine and studio must agree on it, so both ask here."""

import functools
import platform
from dataclasses import dataclass
from pathlib import Path

# Intel's and AMD's, and Arm's: "bf16" as a word of its own.
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True, slots=True)
class Processor:
    """What a processor that trains has for the fast path.

    bf16: products of bfloat16 in hardware. threads: those that compiled attention (fast/native/attention.cpp) takes; 0
    where none is compiled. memory: bytes that there are. lays_out: types of which weights are laid out for products
    (engine/fast/ops/prepacked.py), where there is memory for it.
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
    """The processor's name, as far as it tells one."""
    return _told("model name") or platform.processor() or platform.machine()


def made_by_amd() -> bool:
    """Whether it is one of AMD's, for which not every library is made."""
    return _told("vendor_id") == "AuthenticAMD"


def multiplies_bf16() -> bool:
    """Whether it multiplies bfloat16 in hardware. Without, torch's products in it take 6 to 8 times as long as in
    float32 (AVX2, benchmarks/RESULTS.md). Where nothing is told, it is taken not to: float32 is quick everywhere."""
    return not _BF16.isdisjoint((_told("flags") or _told("Features")).split())


def lays_out() -> frozenset[str]:
    """Types whose products are oneDNN's here, for which weights can be laid out: see engine/fast/ops/matmul.py."""
    known = platform.machine() in ("x86_64", "AMD64")
    asked = {"bfloat16": known and multiplies_bf16(), "float32": made_by_amd()}
    return frozenset(dtype for dtype, true in asked.items() if true)


def features() -> str:
    """What a program may be compiled for."""
    return f"{platform.machine()} {name()} {_told('flags') or _told('Features')}"


def _told(key: str) -> str:
    for line in _cpuinfo().splitlines():
        if line.partition(":")[0].strip() == key:
            return line.partition(":")[2].strip()
    return ""
