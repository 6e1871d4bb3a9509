"""What a study spends at a server: calls and dollars, never more than its budget allows."""

import json
from collections.abc import Callable

from vd.servers.response import ServerError
from vd.study.servers import ServerSettings


class BudgetError(ServerError):
    """The next request could exceed the budget."""


class Spending:
    """Calls and dollars of a study, those of requests in flight at their upper bound."""

    def __init__(
        self,
        settings: ServerSettings,
        spent: tuple[int, float],
        write: Callable[[float], None],
    ):
        self.settings, self.write = settings, write
        self.calls, self.dollars = spent
        self.in_flight_calls, self.in_flight_dollars = 0, 0.0

    @classmethod
    def kept_in(cls, cache, study: str, settings: ServerSettings):
        """What a study has spent so far and spends from now on, kept in a `database.Cache`."""
        url, model = settings.base_url, settings.model
        return cls(settings, cache.spent(study), lambda cost: cache.spend(study, url, model, cost))

    def bound(self, request: dict) -> float:
        """Dollars that a request costs at most: a token is at least one byte of text."""
        # tokenizers differ and their servers do not say which they use; bytes bound them all
        text = json.dumps(request["messages"]).encode()
        tokens_out = request.get("max_tokens") or request["max_completion_tokens"]
        return self.cost(len(text) + 50, tokens_out, 0.0)  # the chat template adds some

    def cost(self, tokens_in: int | None, tokens_out: int | None, bound: float) -> float:
        """Dollars for that many tokens; the upper bound if the server does not count them."""
        # rather too much than a budget that a silent server makes meaningless
        if tokens_in is None or tokens_out is None:
            return bound
        settings = self.settings
        # prices are dollars per million tokens
        return (tokens_in * settings.price_in + tokens_out * settings.price_out) / 1e6

    def fits(self, bound: float) -> bool:
        """Whether one more request stays within the budget, whatever those in flight will cost."""
        calls, dollars = self.settings.budget_calls, self.settings.budget_dollars
        # those in flight may all cost their bound, and cannot be called back
        return (calls is None or self.calls + self.in_flight_calls + 1 <= calls) and (
            dollars is None or self.dollars + self.in_flight_dollars + bound <= dollars
        )

    def exhausted(self) -> str:
        """What to say when the next request does not fit."""
        spent = f"{self.calls} calls and ${self.dollars:.4f}"
        return (
            f"the budget is used up after {spent}: raise budget_calls or budget_dollars and run "
            "again to go on; answers so far are kept"
        )

    def start(self, bound: float) -> None:
        """A request leaves."""
        self.in_flight_calls += 1
        self.in_flight_dollars += bound

    def end(self, bound: float, cost: float | None) -> None:
        """A request is over; None if the server did not charge for it."""
        self.in_flight_calls -= 1
        self.in_flight_dollars -= bound
        # written at once: a process that is killed has spent it all the same
        if cost is not None:
            self.calls += 1
            self.dollars += cost
            self.write(cost)
