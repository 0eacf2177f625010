"""Subscriptions through time: trials, renewals, payments that fail, pauses, extensions, and every way to end."""

from ledger_worker.domain.catalogue import OnCancel
from tests.domain.telling import activated, cancelled, catalogue, day, gives, item, offer, quota, renewed, used
from tests.stories.story import Story, look, tell

PLAN = offer("plan", gives(10))

STORIES = (
    Story(
        name="a subscription lives, is renewed in time, and ends when nobody renews it",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11))),
            look(day(1), allowed=True, limit=10, expires_at=day(12), period_end=day(11)),
            tell(day(5), used(7)),
            tell(day(10), renewed(day(11), day(21))),
            look(day(10, 23), allowed=True, used=7),
            look(day(11), allowed=True, limit=10, used=0, expires_at=day(22), period_end=day(21)),
            tell(day(12), used(2)),
            look(day(21, 23), allowed=True, used=2),
            look(day(22), allowed=False, state="expired"),
        ),
        told=(
            "api: access allocation limit end state",
            "api: end",
            "api: end",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a renewal told late leaves no gap, and use meanwhile is of the new period",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(10), used(3)),
            tell(day(11, 3), used(4)),
            look(day(11, 5), allowed=True, used=7, period_end=day(11)),
            tell(day(11, 6), renewed(day(11), day(21))),
            look(day(11, 6), allowed=True, used=4, remaining=6, expires_at=day(22)),
        ),
        told=("api: access allocation limit end state", "api: end", "api: access allocation limit end state"),
    ),
    Story(
        name="a renewal told after the leeway finds the use meanwhile and covers it",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(13), used(4)),
            look(day(13), allowed=False, state="expired", overage=4),
            tell(day(14), renewed(day(11), day(21)), happened_at=day(11)),
            look(day(14), allowed=True, used=4, overage=0),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: level overage",
            "api: access allocation limit end state level overage",
            "api: access allocation limit end state",
        ),
    ),
    Story(
        name="a cancellation at the end of the period leaves the period and no leeway",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(4), cancelled(day(11))),
            look(day(4), allowed=True, expires_at=day(11)),
            look(day(11), allowed=False, state="expired"),
        ),
        told=("api: access allocation limit end state", "api: end", "api: access allocation limit end state"),
    ),
    Story(
        name="a cancellation at once forfeits or keeps, as the offer says",
        catalogue=catalogue(quota(), quota("sms"), offer("plan", gives(10), gives(5, "sms", on_cancel=OnCancel.KEEP))),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(4), cancelled(day(4))),
            look(day(4), "api", allowed=False, state="expired"),
            look(day(4), "sms", allowed=True, expires_at=day(11)),
            look(day(11), "sms", allowed=False),
        ),
        told=(
            "api: access allocation limit end state",
            "sms: access allocation limit end state",
            "api: access allocation limit end state",
            "sms: end",
            "sms: access allocation limit end state",
        ),
    ),
    Story(
        name="a cancellation told late takes back the use after it",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(3), used(3)),
            tell(day(6), used(4)),
            tell(day(7), cancelled(day(5)), happened_at=day(5)),
            look(day(7), allowed=False, used=0, overage=4),
        ),
        told=("api: access allocation limit end state", "api: access allocation limit end state level overage"),
    ),
    Story(
        name="a new life begins after an end",
        catalogue=catalogue(quota(), PLAN),
        life=(
            tell(day(1), activated(day(1), day(11))),
            tell(day(4), cancelled(day(4))),
            tell(day(6), activated(day(7), day(17), item(quantity=2))),
            look(day(6), allowed=False, state="pending", starts_at=day(7)),
            look(day(7), allowed=True, limit=20, expires_at=day(18)),
        ),
        told=(
            "api: access allocation limit end state",
            "api: access allocation limit end state",
            "api: state",
            "api: access allocation limit end state",
            "api: access allocation limit end state",
        ),
    ),
)
