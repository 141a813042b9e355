"""The environment of worker processes: what they may see of ours; quiet, offline, an allocator that keeps pages."""

import ctypes.util
import functools
import os
import re
import sys
from collections.abc import Mapping

# What a worker may see of our environment. Everything else (tokens, cookies, a shell's leftovers) stays behind.
_ENV_KEPT = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "TEMP",
    "TMP",
    "SYSTEMROOT",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "DYLD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "XDG_CACHE_HOME",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NVIDIA_VISIBLE_DEVICES",
    "WANDB_MODE",
    "WANDB_PROJECT",
    "WANDB_ENTITY",
    "WANDB_BASE_URL",
)
_ENV_KEPT_PREFIXES = ("LC_", "MALLOC_", "CUDA_", "NCCL_", "PYTORCH_", "TORCH_", "STUDIO_")
# Of the studio alone, though they begin like what a worker may see.
_SECRETS = re.compile(r"STUDIO_WEBHOOK_URL|.*(KEY|TOKEN|SECRET|PASSWORD)")


def worker_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a worker: what it needs of ours, set for offline and quiet work."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if (name in _ENV_KEPT or name.startswith(_ENV_KEPT_PREFIXES)) and not _SECRETS.fullmatch(name)
    }
    kept |= {
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "KINETO_LOG_LEVEL": "99",  # torch's profiler, which counts memory, would write into the log
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if "LD_PRELOAD" not in kept:
        kept = allocator()[1] | kept
    return kept | dict(extra or {})


@functools.cache
def allocator() -> tuple[str, dict[str, str]]:
    """An allocator that keeps its pages: its name, and the environment that makes a worker use it.

    Training frees and takes the same large blocks at every step. glibc by default gives each back to the system and
    has it faulted in again; kept, a step on a CPU takes half the time (benchmarks/RESULTS.md). tcmalloc does it with
    less memory than glibc told to, so it is used where it is installed.
    """
    if sys.platform != "linux":
        return "the system's", {}
    for name in ("tcmalloc_minimal", "tcmalloc"):
        library = ctypes.util.find_library(name)
        if library:
            return name, {"LD_PRELOAD": library}
    settings = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(64 * 2**20)}
    return "glibc, told to keep its pages", settings
