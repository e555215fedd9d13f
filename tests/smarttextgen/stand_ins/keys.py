"""Stands in for `python -m shared.keys create … --json`: a new key, written down where the stand-in API looks."""

import json
import os
import secrets
import sys
from pathlib import Path

if __name__ == "__main__":
    assert sys.argv[1] == "create"
    assert "--json" in sys.argv
    assert os.environ["REDIS_URL"]
    key = f"sk-{secrets.token_hex(4)}"
    with (Path(os.environ["STAND_IN_FOLDER"]) / "keys").open("a") as file:
        file.write(key + "\n")
    print(json.dumps({"id": "key_1", "key": key, "scopes": sys.argv[sys.argv.index("--scopes") + 1].split(",")}))
