"""What a report may leave open where nothing independent says how many features media become."""

from __future__ import annotations

import vlmdebug as vd


def features_unknown(report: vd.Report) -> bool:
    """Whether no row is wrong, and only the number of features could not be compared."""
    doubts = report.ambiguities
    return report.mismatches == () and bool(doubts) and all("features" in one for one in doubts)
