"""Where the package and its helpers are, and one thread: numbers must not depend on how many there are."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "exporter-specs"), str(ROOT / "tests/reference")]
