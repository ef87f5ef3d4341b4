"""`python -m tf_bnfold` is the command `tf_bnfold`."""

from __future__ import annotations

import sys

from tf_bnfold.cli import main

sys.exit(main())
