"""`python -m understudy` is the command line."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory, where `-m` looks for modules first

    from understudy.app.cli.main import main

    main()
