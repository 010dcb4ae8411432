"""`python -m vlmdebug`."""

import sys

from vlmdebug.cli import main

sys.exit(main())
