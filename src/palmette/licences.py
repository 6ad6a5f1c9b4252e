"""Which of several licences binds most: what a model trained on all of their data has to respect first."""

from __future__ import annotations

import re
from collections.abc import Iterable

UNSTATED = "unstated"

# Families from the freest to the strictest; a name belongs to the first family whose pattern it matches. A user's
# own words ("for research only") count, too. This is an order for reports, not legal advice.
FAMILIES: tuple[tuple[str, str], ...] = (
    ("research-only or no derivatives", r"cc-by(-nc)?-nd\b|(?!gpl).*\b(research|academic|evaluation|ldc)\b"),
    ("non-commercial", r"cc-by-nc\b|.*\bnon-?commercial\b"),
    ("share-alike", r"cc-by-sa\b|[al]?gpl|gfdl|gnu\b|mpl|epl|eupl|cecill|odbl|cdla-sharing"),
    ("public domain", r"cc-?0|cc-zero|public-domain|pddl|unlicense|pdm|0bsd"),
    ("permissive", r"mit\b|apache|bsd|isc\b|zlib|cc-by(-[\d.]+)?(-[a-z]{2,3})?$|odc-by|cdla-permissive|afl|artistic"),
)
_FREEDOM = (
    "public domain",
    "permissive",
    "share-alike",
    "non-commercial",
    "research-only or no derivatives",
    "unknown",
)


def family(licence: str | None) -> str:
    """The family of a licence, by its SPDX name or the way people write it; `unknown` where it is not known.

    Of a compound such as `MIT AND CC-BY-SA-4.0` the strictest part counts, of `MIT OR GPL-3.0` the freest.
    """
    return _FREEDOM[_rank(licence)]


def strictest(licences: Iterable[str | None]) -> str:
    """The strictest of some sources' licences, for the card of a model that learned from all of them.

    Families are ordered: public domain (CC0), permissive (MIT, Apache-2.0, BSD, CC-BY), share-alike (CC-BY-SA,
    GPL), non-commercial (CC-BY-NC), research-only or no derivatives, unknown. A licence that is not stated, or
    whose name is not known, is treated as the strictest of all, since nothing is permitted by it as far as anyone
    can tell. The duties of the others (to name authors, to share alike) still hold beside it.

    Returns:
        Its name as the source states it; different names of the strictest family joined by ` AND `; `unstated`
        where a source states none, or there are no sources.
    """
    stated = [(licence or "").strip() or UNSTATED for licence in licences] or [UNSTATED]
    worst = max(map(_rank, stated))
    return " AND ".join(sorted({licence for licence in stated if _rank(licence) == worst}))


def _rank(licence: str | None) -> int:
    """Place in `_FREEDOM`, 0 the freest."""
    options = re.split(r"\s+OR\s+", (licence or "").strip("() "))
    return min(max(map(_single, re.split(r"\s+AND\s+", option))) for option in options)


def _single(licence: str) -> int:
    name = re.sub(r"[\s_]+", "-", licence.strip("() ").lower()).removeprefix("licensed-under-")
    name = name.replace("creative-commons-attribution", "cc-by").replace("ccby", "cc-by").replace("noderiv", "nd")
    found = next((title for title, pattern in FAMILIES if re.match(pattern, name)), "unknown")
    return _FREEDOM.index(found)
