"""`cached_property` without the lock of Python 3.11, which costs more than most of the values.

Two threads may compute the same value twice; none here depends on who was first.
"""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or sys.version_info >= (3, 12):  # there it has no lock
    lazy = cached_property
else:

    class lazy(cached_property):
        """A property that is computed when it is asked for first, and kept."""

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            found = instance.__dict__[self.attrname] = self.func(instance)
            return found
