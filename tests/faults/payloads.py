"""Replies to break: members of a space with every kind of leaf, and plain JSON as a tool gives it."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
from gymnasium import spaces

RICH = spaces.Dict(
    {
        "reply": spaces.Dict(
            {
                "status": spaces.Discrete(5),
                "amount": spaces.Discrete(90000, start=10),
                "paid": spaces.Discrete(90000, start=10),
                "order": spaces.Text(200, min_length=20, charset="abcdefghijklmnop 0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"),
                "made_at": spaces.Box(0.0, 1e9, (), np.float64),
            }
        ),
        "screen": spaces.Box(0, 255, (16, 12, 3), np.uint8),
        "pose": spaces.Tuple((spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.MultiDiscrete([4, 4, 4]))),
        "rows": spaces.Box(-1e6, 1e6, (6, 2), np.float32),
    }
)


def orders(number: int) -> dict[str, Any]:
    """What a shop's API answers to call `number`: a page of orders."""
    start = datetime.fromisoformat("2026-03-01T09:30:00+00:00") + timedelta(hours=7 * number)
    return {
        "page": number + 1,
        "total": 240,
        "orders": [
            {
                "id": f"ORD-{5174 + 37 * number + row}",
                "amount": 12.5 * (row + 1) + number,
                "paid": (row + number) % 2 == 0,
                "created_at": (start + timedelta(minutes=row)).isoformat(),
                "customer": {"name": f"Ada {row}", "email": f"ada{row}@example.org", "note": f"call {number}"},
            }
            for row in range(5)
        ],
    }
