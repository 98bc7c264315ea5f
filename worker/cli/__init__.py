"""The terminal's door: `evergrant …`.

Commands read arguments, call a use case and print. No token is printed but by
`tokens get --show`. Heavy imports stay inside commands, so that `--help` is quick.
"""

from worker.cli.app import main

__all__ = ["main"]
