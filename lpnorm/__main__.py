"""`python -m lpnorm`: the same as the command `lpnorm`."""

import sys

from lpnorm.cli import main

if __name__ == "__main__":
    sys.exit(main())
