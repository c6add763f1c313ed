"""`python -m flowd` is `flowd`."""

from flowd.cli import main

if __name__ == "__main__":
    main()
