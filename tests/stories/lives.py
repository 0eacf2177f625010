"""All stories: one for each fact, and for each way in which facts meet. Each theme has a file."""

from tests.stories import (
    by_hand,
    changes,
    holds,
    late_usage,
    merges,
    near_ends,
    offers,
    orders,
    recurring,
    seats,
    settings,
    subscriptions,
    transfers,
    usage,
)

STORIES = (
    *orders.STORIES,
    *recurring.STORIES,
    *subscriptions.STORIES,
    *changes.STORIES,
    *usage.STORIES,
    *late_usage.STORIES,
    *by_hand.STORIES,
    *transfers.STORIES,
    *merges.STORIES,
    *offers.STORIES,
    *holds.STORIES,
    *settings.STORIES,
    *near_ends.STORIES,
    *seats.STORIES,
)
