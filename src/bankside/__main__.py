"""Entry point of `python -m bankside`."""

from bankside.cli import main

if __name__ == "__main__":
    main()
