"""The version of the library, written into every map."""

__version__ = "0.1.0"
