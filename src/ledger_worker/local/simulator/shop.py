"""What the shop sells, as the simulator knows it: SKUs of `demo-catalogue.toml`, prices, what people use of each."""

from collections.abc import Mapping

__all__ = ["ADD_ONS", "MONTHLY", "PACKS", "PRICES", "UNKNOWN_SKU", "USED_OF", "WEEKLY", "WITHOUT_PERIOD"]

WEEKLY = ("starter-weekly", "team-weekly", "pro-weekly")
MONTHLY = ("starter-monthly", "team-monthly", "pro-monthly")
"""Plans, from the smallest to the largest."""
ADD_ONS = ("more-exports", "more-minutes")

PRICES: Mapping[str, int] = {
    "calls-50": 1900,
    "calls-daily": 3900,
    "exports-monthly": 2500,
    "storage-30": 700,
    "exports-20": 990,
    "render-30": 2900,
    "render-rush": 1500,
    "video-pass": 490,
}
"""Of one piece, in cents."""
PACKS = tuple(PRICES)
WITHOUT_PERIOD = "team-taster"
"""A SKU that is sold by itself although a part of what it gives lasts a billing period, which an order has not."""
UNKNOWN_SKU = "gift-box-2019"
"""A SKU that nobody has published an offer for."""

_TEAM = (("api-calls", 24), ("exports", 4), ("render-minutes", 7), ("storage", 8))
USED_OF: Mapping[str, tuple[tuple[str, int], ...]] = {
    "starter-weekly": (("api-calls", 15),),
    "team-weekly": _TEAM,
    "pro-weekly": (("api-calls", 40), ("exports", 5), ("render-minutes", 12)),
    "starter-monthly": (("api-calls", 30),),
    "team-monthly": _TEAM,
    "pro-monthly": (("api-calls", 60), ("exports", 6), ("render-minutes", 25), ("storage", 30)),
    "more-exports": (("exports", 3),),
    "more-minutes": (("render-minutes", 6),),
    "calls-50": (("api-calls", 12),),
    "calls-daily": (("api-calls", 4),),
    "exports-monthly": (("exports", 2),),
    "storage-30": (("storage", 9),),
    "exports-20": (("exports", 5),),
    "render-30": (("render-minutes", 9),),
    "render-rush": (("render-minutes", 4),),
    "video-pass": (),
    WITHOUT_PERIOD: (("exports", 2),),
    UNKNOWN_SKU: (),
}
"""What is used of each SKU, and about how many units at a time."""
