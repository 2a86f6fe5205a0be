"""``python -m pytest_nsbox``: the command ``nsbox``."""

import sys

from pytest_nsbox.cli import main

sys.exit(main())
