"""`python -m clipcheck`."""

import os
import sys

# `python -m` puts the current folder first: what is there is to be checked, not imported. A checkout that
# is run from its own folder can only be found there, so the folder goes last.
if not getattr(sys.flags, "safe_path", False) and sys.path[0] in ("", os.getcwd()):
    first = sys.path.pop(0)
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) == os.path.abspath(first):
        sys.path.append(first)

from clipcheck.cli.main import main

if __name__ == "__main__":
    main(prog_name="clipcheck")
