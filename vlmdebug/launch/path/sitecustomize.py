"""Found by every Python process of `vlmdebug run`, before the program starts.

The `sitecustomize` that it stands in front of runs as without it. The folder leaves `sys.path`
again, and nothing but `vlmdebug.launch.begin` is imported.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _next() -> None:
    """Run the sitecustomize of the environment, if it has one."""
    import importlib.util

    spec = importlib.util.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _begin() -> None:
    try:
        from vlmdebug.launch.begin import begin
    except ImportError:  # another environment: from where this file is, behind all others
        sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(_HERE))))
        from vlmdebug.launch.begin import begin
    begin()


sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") != _HERE]
_own = sys.modules.pop("sitecustomize")
try:
    _next()
finally:
    sys.modules.setdefault("sitecustomize", _own)
    try:
        _begin()
    except Exception:
        print(f"vlmdebug: this process is not watched: {sys.exc_info()[1]!r}", file=sys.stderr)
