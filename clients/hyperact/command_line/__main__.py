"""`python -m hyperact.command_line`: the same as `hyperact`."""

import sys

from hyperact.command_line.main import main

sys.exit(main())
