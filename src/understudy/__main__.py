"""`python -m understudy` is the command line."""

from understudy.app.cli.main import main

if __name__ == "__main__":
    main()
