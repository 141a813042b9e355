"""Environment of worker processes: an allow-list of our variables; quiet, offline, an allocator that keeps pages."""

import ctypes.util
import functools
import os
import re
import sys
from collections.abc import Mapping

# Variables passed on to workers. Everything else (tokens, cookies, shell settings) is dropped.
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
# Never passed on, even if they match a prefix above.
_SECRETS = re.compile(r"STUDIO_WEBHOOK_URL|.*(KEY|TOKEN|SECRET|PASSWORD)")


def worker_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Build the environment of a worker: the allowed variables, and settings for offline and quiet work."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if (name in _ENV_KEPT or name.startswith(_ENV_KEPT_PREFIXES)) and not _SECRETS.fullmatch(name)
    }
    environment |= {
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "KINETO_LOG_LEVEL": "99",  # keeps torch's profiler, used to count memory, out of the log
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if "LD_PRELOAD" not in environment:
        environment = allocator()[1] | environment
    return environment | dict(extra or {})


@functools.cache
def allocator() -> tuple[str, dict[str, str]]:
    """An allocator that keeps its pages: its name, and the environment that makes a worker use it.

    Training frees and allocates the same large blocks at every step. By default glibc returns each to the system and
    faults it in again; with pages kept, a step on a CPU takes half the time (benchmarks/RESULTS.md). tcmalloc needs
    less memory for it than glibc with these settings, so it is used where it is installed.
    """
    if sys.platform != "linux":
        return "the system's", {}
    for name in ("tcmalloc_minimal", "tcmalloc"):
        library = ctypes.util.find_library(name)
        if library:
            return name, {"LD_PRELOAD": library}
    settings = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(64 * 2**20)}
    return "glibc, set to keep its pages", settings
