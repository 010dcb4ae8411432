"""Check that every public name has a known type: `pyright --verifytypes`.

pyright finds a package through the first Python on the PATH; here that is the running one. Names in
`KNOWN` may have unknown types, each for its reason; a reason that no name needs also fails.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

KNOWN = {
    r"vlmdebug\.families\.(?!base|formulas)\w+\.[A-Z]\w*(\.[a-z_]+)?": "`Family` declares them",
    r"vlmdebug\.(core\.pasted|running\.pasted_packer)\.\w+": "it is copied into exported code",
    r"vlmdebug\.views\.explorer\.Explorer(\.\w+)?": "ipywidgets has no types",
    r"vlmdebug\.(exploring\.)?explore": "it returns an Explorer",
    r"vlmdebug\.views\.without_kernel\.(page|fragment)": "they take an Explorer",
    r"vlmdebug\.running\.stand_in\.RecordingModel(\.\w+)?": "many names of one method",
    r"vlmdebug\.running\.open_stand_ins\.OpenModel": "its base is a RecordingModel",
}


def main() -> int:
    """Print each public name without a known type, and each reason that is out of date."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    finished = subprocess.run(
        ["pyright", "--outputjson", "--ignoreexternal", "--verifytypes", "vlmdebug"],
        cwd=root,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    symbols = json.loads(finished.stdout)["typeCompleteness"]["symbols"]
    public = [one for one in symbols if one["isExported"]]
    said = complaints(public)
    print(*said, f"{len(public)} public names, {len(said)} complaints", sep="\n")
    return 1 if said or not public else 0


def complaints(public: list[dict[str, Any]]) -> list[str]:
    """Each name of unknown type without a reason, and each reason that no name needs."""
    unknown = [one for one in public if not one["isTypeKnown"] or one["isTypeAmbiguous"]]
    said = [
        "; ".join([one["name"], *(why["message"].splitlines()[0] for why in one["diagnostics"])])
        for one in unknown
        if not any(re.fullmatch(pattern, one["name"]) for pattern in KNOWN)
    ]
    return said + [
        f"{pattern} in KNOWN is no longer needed; remove it"
        for pattern in KNOWN
        if not any(re.fullmatch(pattern, one["name"]) for one in unknown)
    ]


if __name__ == "__main__":
    sys.exit(main())
