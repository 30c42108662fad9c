"""`python -m hawker` is the `hawker` command."""

from hawker.apps.cli import main

if __name__ == "__main__":
    main()
