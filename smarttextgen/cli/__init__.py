"""The command line ``smarttextgen``."""

from smarttextgen.cli.application import app, main

__all__ = ["app", "main"]
