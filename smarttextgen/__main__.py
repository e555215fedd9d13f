"""``python -m smarttextgen``: the command line."""

from smarttextgen.cli import main

if __name__ == "__main__":
    main()
