"""`python -m tests.torture [N]`: every torture N times as long as in the tests, with the counts printed."""

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["STUDIO_TORTURE"] = sys.argv[1] if len(sys.argv) > 1 else "10"
    sys.exit(pytest.main(["-q", "-s", "-p", "no:cacheprovider", str(Path(__file__).parent), "--timeout=36000"]))
