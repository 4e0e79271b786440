"""The type checker of the tests. As everywhere in Python, an int is accepted for a float."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
