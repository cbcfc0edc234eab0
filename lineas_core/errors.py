"""Errors raised for the user. Each message names the field, the value and the remedy."""

from __future__ import annotations


class LineasError(Exception):
    """Base of every error this library raises on purpose."""


class ConfigError(LineasError, ValueError):
    """A setting is out of its range or of the wrong kind."""


class PromptError(LineasError, ValueError):
    """A prompt set, or a file that should hold one, cannot be used."""


class PromptFileError(PromptError):
    """A file or a pasted text cannot be read as prompts."""


class ModelError(LineasError, RuntimeError):
    """A model cannot be found, loaded or run."""


class SiteError(LineasError, ValueError):
    """A site does not exist on the model, or its width differs from the map's."""


class MapError(LineasError, ValueError):
    """A steering map, or a file that should hold one, cannot be used."""


class TrainingError(LineasError, RuntimeError):
    """Training cannot continue; the result so far is kept."""
