"""A slow API: latency with a long tail, and time-outs that lose the request or only the answer."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

from worldsim.faults.exchange import LOST, Call, Forward, Reply
from worldsim.faults.fault import Context, Fault, number

_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class SlowAPI(Fault):
    """Every call takes log-normal time; a call that takes `timeout_s` or longer is a time-out.

    A time-out loses the request (nothing was done) or only the answer (all was done, and nobody was told). The caller
    waits `timeout_s` and cannot tell which it was.

    | severity | median latency | tail (sigma) | calls that time out, with the defaults |
    |----------|----------------|--------------|----------------------------------------|
    | 0        | 0 s            | -            | 0 %                                    |
    | 0.25     | 0.75 s         | 1.025        | 5 %                                    |
    | 0.5      | 1.5 s          | 1.05         | 17 %                                   |
    | 0.75     | 2.25 s         | 1.075        | 30 %                                   |
    | 1        | 3 s            | 1.1          | 40 %                                   |

    The median is `severity * median_s`, the standard deviation of the logarithm `sigma * (1 + 0.1 * severity)`.

    Records: `delay` (latency_s) or `timeout` (lost: "request" or "answer"; latency_s: how long it would have taken).
    """

    kind: ClassVar[str] = "slow_api"

    median_s: float = number(3.0, 0, 1e9, "median latency at severity 1, in seconds")
    sigma: float = number(1.0, 0, 10, "spread of the latency: standard deviation of its natural logarithm")
    timeout_s: float = number(4.0, 0, 1e9, "how long the caller waits, in seconds")
    lose_answer: float = number(0.5, 0, 1, "share of the time-outs that lose only the answer, not the request")

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        latency_s = self.latency_s(context.uniform())
        if latency_s < self.timeout_s:
            context.clock.sleep(latency_s)
            context.record("delay", latency_s=latency_s)
            reply = forward(call)
            return reply._replace(latency_s=reply.latency_s + latency_s)
        lost = "answer" if context.rng().random() < self.lose_answer else "request"
        context.record("timeout", lost=lost, latency_s=latency_s)
        spent_s = forward(call).latency_s if lost == "answer" else 0.0
        context.clock.sleep(max(0.0, self.timeout_s - spent_s))
        return Reply(LOST, ok=False, error="timeout", latency_s=max(self.timeout_s, spent_s))

    def latency_s(self, quantile: float) -> float:
        """Latency in seconds at a quantile in [0, 1)."""
        spread = self.sigma * (1 + 0.1 * self.severity)
        return self.median_s * self.severity * math.exp(spread * _NORMAL.inv_cdf(max(quantile, 2.0**-54)))
