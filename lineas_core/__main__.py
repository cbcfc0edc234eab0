"""`python -m lineas_core`."""

from lineas_core.cli import main

if __name__ == "__main__":
    main()
