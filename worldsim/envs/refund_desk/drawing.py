"""Draws the desk: the observation, 64x64 pixels on an 8-pixel grid, and the rendered picture, 480x480 with text.

row 0      clock bar (upper half), ledger bar (lower half)
rows 1-5   a ticket each: [chip][request][paid][shipping][refunded][age bar over amount bar, 3 cells]
rows 6-7   the last reply: tool lamp, status lamp, ticket marks
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from worldsim.envs.refund_desk.fields import (
    APPROVAL_ABOVE,
    DAYS_PER_AGE_STEP,
    LEDGER_CAP,
    LEDGER_STEP,
    MAX_TICKETS,
    PRICES,
    RETURN_DAYS,
    DeskTool,
    Request,
    Shipping,
    Status,
    TicketForm,
    TicketStage,
    YesNo,
)

Pixels = npt.NDArray[np.uint8]
RGB = tuple[int, int, int]

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
HEADER, CLOCK, LEDGER = (40, 40, 48), (0, 220, 255), (255, 0, 200)
WAITING_ROW, OPEN_ROW, CLOSED_ROW = (52, 60, 92), (255, 255, 255), (0, 0, 0)
UNKNOWN_LAMP, GOOD, BAD = (120, 120, 120), (0, 200, 0), (230, 0, 0)
CLOSED_CHIP, APPROVED = (96, 96, 96), (170, 0, 255)
REQUESTS = {Request.REFUND: (255, 190, 0), Request.REPLACEMENT: (0, 120, 255)}
YES_IS_GOOD: Mapping[int, RGB] = {YesNo.UNKNOWN: UNKNOWN_LAMP, YesNo.NO: BAD, YesNo.YES: GOOD}
YES_IS_BAD: Mapping[int, RGB] = {YesNo.UNKNOWN: UNKNOWN_LAMP, YesNo.NO: GOOD, YesNo.YES: BAD}
SHIPPING: Mapping[int, RGB] = {
    Shipping.UNKNOWN: UNKNOWN_LAMP,
    Shipping.IN_TRANSIT: BAD,
    Shipping.DELIVERED: GOOD,
    Shipping.LOST: (0, 160, 255),
}
STAGES = {
    TicketStage.WAITING: (80, 90, 130),
    TicketStage.OPENED: (0, 90, 200),
    TicketStage.LOOKED_UP: (255, 230, 0),
    TicketStage.APPROVED: APPROVED,
    TicketStage.DECLINED: (255, 120, 0),
    TicketStage.REPLACED: (0, 200, 220),
    TicketStage.REFUNDED: (0, 180, 0),
    TicketStage.PAID_TWICE: (255, 0, 0),
}
TOOLS = {
    DeskTool.NONE: (30, 30, 30),
    DeskTool.LOOK_UP: STAGES[TicketStage.LOOKED_UP],
    DeskTool.REFUND: STAGES[TicketStage.REFUNDED],
    DeskTool.REPLACE: STAGES[TicketStage.REPLACED],
    DeskTool.REPLY: STAGES[TicketStage.DECLINED],
    DeskTool.ESCALATE: APPROVED,
    DeskTool.CLOSE: (150, 150, 150),
    DeskTool.WAIT: (110, 60, 20),
    DeskTool.OPEN: STAGES[TicketStage.OPENED],
}
STATUSES = {
    Status.NONE: (30, 30, 30),
    Status.OK: GOOD,
    Status.REFUSED: BAD,
    Status.TIMEOUT: (255, 190, 0),
    Status.MALFORMED: APPROVED,
    Status.UNAVAILABLE: (150, 150, 150),
}
IN_TIME_STEPS = RETURN_DAYS // DAYS_PER_AGE_STEP
CHEAP, DEAR = (0, 120, 255), (255, 0, 200)  # below and above the amount that needs approval


class DeskView(NamedTuple):
    """What is drawn: tickets' forms, number of the open one (0: none), clock in [0, 1], ledger class, last reply."""

    forms: Sequence[TicketForm]
    open_ticket: int
    clock: float
    ledger: int
    tool: DeskTool
    status: Status
    reply_ticket: int


def screen(desk: DeskView) -> Pixels:
    """The observation, uint8 (64, 64, 3). Shows nothing of an order that has not been looked up."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:8] = HEADER
    pixels[0:4, : round(64 * desk.clock)] = CLOCK
    pixels[5:8, : round(64 * desk.ledger / LEDGER_CAP)] = LEDGER
    for index, form in enumerate(desk.forms):
        _draw_row(pixels[8 * (index + 1) : 8 * (index + 2)], form, desk.open_ticket == index + 1)
    pixels[48:64] = HEADER
    pixels[49:63, 1:23] = TOOLS[desk.tool]
    pixels[49:63, 25:47] = STATUSES[desk.status]
    if desk.reply_ticket:
        top = 49 + 3 * (desk.reply_ticket - 1)
        pixels[top : top + 2, 49:63] = WHITE
    return pixels


def _draw_row(row: Pixels, form: TicketForm, is_open: bool) -> None:
    row[:] = OPEN_ROW if is_open else CLOSED_ROW if form.closed else WAITING_ROW
    stage = STAGES[form.stage]
    row[:, 0:8] = CLOSED_CHIP if form.closed else stage
    if form.closed:
        row[2:6, 2:6] = stage
    if form.approved == YesNo.YES:
        row[0:2, 0:8] = APPROVED
    if form.request:
        row[1:7, 9:15] = REQUESTS[Request(form.request)]
        if form.request == Request.REPLACEMENT:
            row[3:5, 11:13] = BLACK
    row[1:7, 17:23] = YES_IS_GOOD[YesNo(form.paid)]
    row[1:7, 25:31] = SHIPPING[Shipping(form.shipping)]
    row[1:7, 33:39] = YES_IS_BAD[YesNo(form.refunded)]
    if form.age:
        row[0:4, 40:64] = BLACK
        row[0:3, 40 : 40 + 2 * form.age] = GOOD if form.age <= IN_TIME_STEPS else BAD
    if form.amount:
        row[4:8, 40:64] = BLACK
        dear = PRICES[form.amount - 1] > APPROVAL_ABOVE
        row[4:7, 40 : 40 + 4 * form.amount] = DEAR if dear else CHEAP


# The rendered picture. Everything below is in its pixels.

SIZE, HEADER_HEIGHT, ROW_HEIGHT = 480, 66, 62
LAMPS: dict[str, Mapping[int, RGB]] = {"paid": YES_IS_GOOD, "shipping": SHIPPING, "refunded": YES_IS_BAD}
LAMP_WORDS: dict[str, Mapping[int, str]] = {
    "paid": {YesNo.UNKNOWN: "paid?", YesNo.NO: "not paid", YesNo.YES: "paid"},
    "shipping": {s: "shipped?" if s is Shipping.UNKNOWN else s.name.lower().replace("_", " ") for s in Shipping},
    "refunded": {YesNo.UNKNOWN: "refunded?", YesNo.NO: "no refund", YesNo.YES: "refunded"},
}


def picture(desk: DeskView, clock: int, calls: int) -> Pixels:
    """The desk with text, uint8 (480, 480, 3), with the same information as the screen."""
    image = Image.new("RGB", (SIZE, SIZE), HEADER)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "L"
    _draw_header(draw, desk, clock, calls)
    for index, form in enumerate(desk.forms):
        _draw_ticket(draw, index + 1, form, desk.open_ticket == index + 1)
    _draw_reply(draw, desk)
    return np.asarray(image, np.uint8).copy()


def _text(draw: ImageDraw.ImageDraw, at: tuple[float, float], words: str, colour: RGB, size: int = 14) -> None:
    draw.text(at, words, fill=colour, font=ImageFont.load_default(size), anchor="lm")


def _draw_header(draw: ImageDraw.ImageDraw, desk: DeskView, clock: int, calls: int) -> None:
    spent = LEDGER_STEP * desk.ledger
    more = "+" if desk.ledger == LEDGER_CAP else ""
    for top, share, colour, words in (
        (8, desk.clock, CLOCK, f"call {clock} of {calls}"),
        (38, desk.ledger / LEDGER_CAP, LEDGER, f"refunded EUR {spent}{more}"),
    ):
        draw.rectangle((170, top, 472, top + 20), fill=BLACK)
        if share:
            draw.rectangle((170, top, 170 + 302 * share, top + 20), fill=colour)
        _text(draw, (10, top + 10), words, WHITE, 16)


def _draw_ticket(draw: ImageDraw.ImageDraw, number: int, form: TicketForm, is_open: bool) -> None:
    top = HEADER_HEIGHT + ROW_HEIGHT * (number - 1)
    ground = OPEN_ROW if is_open else CLOSED_ROW if form.closed else WAITING_ROW
    ink = BLACK if is_open else (170, 170, 170) if form.closed else WHITE
    draw.rectangle((0, top, SIZE, top + ROW_HEIGHT - 3), fill=ground)
    draw.rectangle((6, top + 6, 28, top + ROW_HEIGHT - 9), fill=STAGES[form.stage])
    request = Request(form.request).name.lower() if form.request else "not opened"
    _text(draw, (36, top + 16), f"#{number}  {request}", ink, 16)
    _text(draw, (36, top + 42), _progress(form), ink, 12)
    for column, (name, colours) in enumerate(LAMPS.items()):
        value = getattr(form, name)
        left = 172 + 76 * column
        draw.rectangle((left, top + 8, left + 66, top + 28), fill=colours[value])
        _text(draw, (left, top + 42), LAMP_WORDS[name][value], ink, 11)
    _draw_bars(draw, top, form, ink)


def _progress(form: TicketForm) -> str:
    words = form.stage.name.lower().replace("_", " ")
    approved = ", approved" if form.approved == YesNo.YES and form.stage is not TicketStage.APPROVED else ""
    return f"{'closed: ' if form.closed else ''}{words}{approved}"


def _draw_bars(draw: ImageDraw.ImageDraw, top: int, form: TicketForm, ink: RGB) -> None:
    if not form.age:
        return
    draw.rectangle((402, top + 6, 474, top + 13), fill=BLACK, outline=ink)
    colour = GOOD if form.age <= IN_TIME_STEPS else BAD
    draw.rectangle((402, top + 6, 402 + 6 * form.age, top + 13), fill=colour)
    _text(draw, (402, top + 21), f"<= {DAYS_PER_AGE_STEP * form.age} days", ink, 11)
    price = PRICES[form.amount - 1]
    draw.rectangle((402, top + 32, 474, top + 39), fill=BLACK, outline=ink)
    draw.rectangle(
        (402, top + 32, 402 + 72 * form.amount // 5, top + 39), fill=DEAR if price > APPROVAL_ABOVE else CHEAP
    )
    _text(draw, (402, top + 47), f"EUR {price}", ink, 11)


def _draw_reply(draw: ImageDraw.ImageDraw, desk: DeskView) -> None:
    top = HEADER_HEIGHT + ROW_HEIGHT * MAX_TICKETS
    _text(draw, (10, top + 20), "last call", WHITE, 16)
    about = f" #{desk.reply_ticket}" if desk.reply_ticket else ""
    tool = desk.tool.name.lower().replace("_", " ") + about if desk.tool else "none yet"
    status = desk.status.name.lower() if desk.status else ""
    for left, colour, words in ((10, TOOLS[desk.tool], tool), (245, STATUSES[desk.status], status)):
        draw.rectangle((left, top + 40, left + 225, top + 86), fill=colour)
        _text(draw, (left + 14, top + 63), words, BLACK if sum(colour) > 380 else WHITE, 22)
