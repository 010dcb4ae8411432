"""What `vlmdebug run` was asked for, as environment variables that reach every process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("vlmdebug-run")
"""Where the report is written if nothing else is said; made only if something is found."""
ON = "1"


@dataclass(frozen=True)
class Settings:
    """Options of `vlmdebug run`.

    Attributes:
        log: Folder of `report.html` and `calls.jsonl`, or the file of the calls. None: only the
            report, and only if something is found.
        raising: Raise at the first mismatch, before the model runs.
        sample_every: Judge one call of so many.
        shards: Over how many ranks the tokens of each call are split, if they are.
        embedded: Tokens are embedded before they are split.
        main: Process id of the program itself; its children are other processes.
        seen: A file that exists once any process has judged a call.
    """

    log: Path | None = None
    raising: bool = False
    sample_every: int = 1
    shards: int | None = None
    embedded: bool = False
    main: int | None = None
    seen: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings | None:
        """The settings of this process; None if `VLMDEBUG` is empty, 0 or not set."""
        given = os.environ if environment is None else environment
        said = given.get("VLMDEBUG", "")
        if said in ("", "0"):
            return None
        every, main = given.get("VLMDEBUG_SAMPLE_EVERY", "1"), given.get("VLMDEBUG_MAIN", "")
        shards = given.get("VLMDEBUG_SHARDS", "")
        return cls(
            log=None if said == ON else Path(said),
            raising=given.get("VLMDEBUG_RAISE", "") not in ("", "0"),
            sample_every=max(1, int(every)) if every.isdecimal() else 1,
            shards=max(1, int(shards)) if shards.isdecimal() else None,
            embedded=given.get("VLMDEBUG_EMBEDDED", "") not in ("", "0"),
            main=int(main) if main.isdecimal() else None,
            seen=given.get("VLMDEBUG_SEEN"),
        )

    def to_environment(self) -> dict[str, str]:
        """The variables that say so."""
        found = {"VLMDEBUG": ON if self.log is None else str(self.log.absolute())}
        if self.raising:
            found["VLMDEBUG_RAISE"] = ON
        if self.sample_every != 1:
            found["VLMDEBUG_SAMPLE_EVERY"] = str(self.sample_every)
        if self.shards is not None:
            found["VLMDEBUG_SHARDS"] = str(self.shards)
        if self.embedded:
            found["VLMDEBUG_EMBEDDED"] = ON
        if self.main is not None:
            found["VLMDEBUG_MAIN"] = str(self.main)
        if self.seen is not None:
            found["VLMDEBUG_SEEN"] = self.seen
        return found

    @property
    def html(self) -> Path:
        """The report's file, before a rank is put in its name."""
        if self.log is None:
            return FOLDER / "report.html"
        return self.log.with_suffix(".html") if self.log.suffix else self.log / "report.html"

    @property
    def calls(self) -> Path | None:
        """The file with a line per call; None if none was asked for."""
        if self.log is None:
            return None
        return self.log if self.log.suffix else self.log / "calls.jsonl"
