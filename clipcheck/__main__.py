"""`python -m clipcheck`."""

from clipcheck.cli.main import main

if __name__ == "__main__":
    main(prog_name="clipcheck")
