"""Lets the tests import the recipe's modules, which are scripts and no package."""

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

collect_ignore = [] if find_spec("torch") else ["test_export.py"]
"""Torch comes with the extra `train` only."""
