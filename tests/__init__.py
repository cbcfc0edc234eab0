"""Settings of the shape and type checks during tests: an int is accepted where a float is."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
