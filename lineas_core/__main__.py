"""`python -m lineas_core`."""

from lineas_core.cli.app import main

if __name__ == "__main__":
    main()
