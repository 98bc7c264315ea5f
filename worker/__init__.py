"""Evergrant: keeps the third-party tokens that Auth0 collects alive, and hands them out fresh."""

__version__ = "0.1.0"
