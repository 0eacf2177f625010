"""A world in which each step is checked, for tests that tell a life by hand and say what is to be read of it."""

from datetime import datetime, timedelta

from ledger_worker.domain.catalogue import Catalogue
from ledger_worker.domain.events import Fact, SeatsRevoked
from ledger_worker.domain.ledger import Kind
from ledger_worker.domain.requests import Answer, Asked
from tests.domain.agreement import assert_all
from tests.domain.driver import World
from tests.domain.telling import seat, told


class Told:
    """A world that is told and asked, and read: units of `api`, and who has a `desk`.

    Behind each step the oracle agrees, and so do the rows with each other. Whose step it is, is Ada's unless said.
    """

    def __init__(self, offered: Catalogue) -> None:
        self.world = World(offered)
        self._ids = 0

    def tell(self, at: datetime, fact: Fact, *, now: datetime | None = None, customer: str = "ada") -> None:
        """It happened at `at` and is recorded then, or late at `now`, under an id of its own."""
        self._ids += 1
        self.world.tell((told(f"e{self._ids}", at, fact, customer=customer), now or at))
        assert_all(self.world)

    def ask(self, at: datetime, asked: Asked) -> Answer:
        """The answer, decided at that instant."""
        answer = self.world.ask(asked, at)
        assert_all(self.world)
        return answer

    def reason(self, at: datetime, asked: Asked) -> str | None:
        """Why it is refused; None where it is granted."""
        return self.ask(at, asked).reason

    def pass_to(self, at: datetime, customer: str = "ada") -> None:
        """A clock has booked what is due by then."""
        self.world.catch_up(at, customer)
        assert_all(self.world)

    def units(self, at: datetime, customer: str = "ada") -> tuple[int | None, int | None, int | None, int | None]:
        """What is left, held, used, and overage, as a read shows it."""
        shown = self.world.picture_of(customer, "api", at)
        return shown.remaining, shown.held, shown.used, shown.overage

    def kinds(self, customer: str = "ada") -> list[str]:
        """What was booked but for grants, in order."""
        entries = [entry for posting in self.world.customers[customer].postings for entry in posting.entries]
        return [entry.line.kind.value for entry in entries if entry.line.kind is not Kind.GRANTED]

    def take(self, at: datetime, *names: str, customer: str = "ada") -> None:
        """Each gets a seat, a second after the one before."""
        for place, name in enumerate(names):
            asked = seat(name, f"{name} at {at}", customer=customer)
            assert self.ask(at + place * timedelta(seconds=1), asked).is_granted, name

    def holders(self, at: datetime, customer: str = "ada") -> str:
        """Who holds a seat, as a read shows it."""
        return " ".join(self.world.picture_of(customer, "desk", at).holders or ())

    def counts(self, at: datetime, customer: str = "ada") -> tuple[int | None, int | None, int | None, int | None]:
        """The seats in force, how many are held and left, and how many hold one too many, as a read shows it."""
        shown = self.world.picture_of(customer, "desk", at)
        return shown.limit, shown.used, shown.remaining, shown.over_allocated

    def evictions(self, customer: str = "ada") -> list[tuple[str, ...]]:
        """Who lost a seat together, in the order of recording."""
        inbox = sorted(self.world.inbox.values(), key=lambda one: one.recorded_at)
        facts = [one.event.fact for one in inbox if one.event.customer_id == customer]
        return [fact.holders for fact in facts if isinstance(fact, SeatsRevoked)]
