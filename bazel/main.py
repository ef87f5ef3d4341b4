"""The command for Bazel, in a folder of its own: Python puts the folder of the main file first on its path."""

from __future__ import annotations

import sys

from tf_bnfold.cli import main

sys.exit(main())
