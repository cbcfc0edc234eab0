"""`python -m lineas_core`: the command `lineas` of a checkout that is not installed."""

from lineas_core.cli.app import main

if __name__ == "__main__":
    main()
