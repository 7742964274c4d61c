"""The version, in its one place: setup.cfg and the User-Agent read it here."""

__version__ = "0.2.0"
