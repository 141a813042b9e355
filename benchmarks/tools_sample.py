"""Write the bundled tool-calling sample: `python -m benchmarks.tools_sample`.

A customer's message to a shop goes in; a call of one of four functions comes out, or a text where no function helps.
Every wording below was written for this sample (CC0-1.0, data/samples/README.md). The same rows are written each time.
A wording is used for several rows, each with values of its own: no SKU, order number, problem or pair of city and day
is both trained and held out.
"""

import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data" / "samples"
SYSTEM = "You help the customers of a shop."
TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
TOPICS = ("damage", "refund", "delivery", "account")
PRIORITIES = ("low", "normal", "high")


def _function(name: str, about: str, **properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


TOOLS = [
    _function("get_stock", "Number of items in stock.", sku=TEXT),
    _function("track_order", "Where an order is.", order_id=NUMBER),
    _function(
        "open_ticket",
        "Open a ticket. Priority: high if urgent, low if there is no hurry, else normal.",
        topic={"type": "string", "enum": list(TOPICS)},
        priority={"type": "string", "enum": list(PRIORITIES)},
    ),
    _function("store_hours", "Opening hours of a store.", city=TEXT, day=TEXT),
]

STOCK = (
    "Is {} in stock?",
    "How many of {} do you have left?",
    "I need six pieces of {} for a workshop. Are there enough?",
    "Before I drive over: do you still have {}?",
    "Your page says nothing about {}. Can it be bought at the moment?",
    "Could you look up whether {} is available, please?",
    "My neighbour bought {} last week and now I want one too. Any left?",
    "Stock of {}?",
    "I was told {} had sold out. Has that changed?",
    "We are planning a birthday. Is there still some {} on your shelves?",
    "Please check item {} for me.",
    "What is the current count for article number {}?",
    "{} is on my shopping list. Can you tell me if you have it?",
    "The old one broke, so I want to reorder {}. Do you have it here?",
    "Can I get {} today, or is it gone?",
    "Do you happen to have a spare {} in the warehouse?",
)
TRACK = (
    "Where is order {}?",
    "Has {} been shipped yet? That is my order number.",
    "I ordered a lamp nine days ago, number {}, and have heard nothing since.",
    "Could you tell me when order {} will arrive?",
    "Please track {} for me.",
    "My confirmation mail says {}. Which depot has the parcel got to?",
    "The courier was supposed to come this morning with order {}. What happened?",
    "Any news about {}? I placed that order on Sunday.",
    "It is a present, so I have to know where parcel {} is right now.",
    "Status of order no. {}, please.",
    "I will be away from Thursday. Is {}, the order with the shelf, on its way?",
    "My flatmate and I both ordered. Mine is {}. Where has it got to?",
    "Can you see order {} in your system and say how far it is?",
    "What is going on with my delivery {}?",
    "Did order {} leave your warehouse?",
    "I am still waiting for number {}; is it nearly here?",
)
HOURS = (
    "When do you open in {} on {}?",
    "I am coming to the {} shop this {}. How long are you there?",
    "Is your {} branch open on {}?",
    "Until what time can I return something in {} on a {}?",
    "My train gets to {} late on {}. Will your store still be open?",
    "Opening times, {}, {}, please.",
    "How early can I come to your place in {} next {}?",
    "We would like to visit the showroom in {}. Is {} possible, and when?",
    "Does the shop in {} close at noon on {}?",
    "My sister in {} wants to drop by on {}. What are the hours?",
    "What are the {} store's hours for {}?",
    "Could you tell me whether somebody is at the {} counter {} evening?",
    "I pass through {} each {}. At what time do you shut?",
    "Tell me the business hours of {} for {}.",
)
PROBLEMS = {
    "damage": (
        "The vase arrived in three pieces.",
        "My new kettle came with a cracked lid.",
        "There is a deep scratch across the table top you sent.",
        "The box was crushed and the plates inside are broken.",
        "One leg of the chair was snapped when I unpacked it.",
    ),
    "refund": (
        "I returned the jacket and want my money back.",
        "You charged me twice, please pay one of them back.",
        "I sent the headphones back and would like a refund.",
        "The course was cancelled, so I want the fee refunded.",
        "I cancelled the sofa and the deposit has not been refunded.",
    ),
    "delivery": (
        "The driver left my parcel with a stranger.",
        "Your courier rang nobody and took the package away again.",
        "The parcel went to my old street instead of the new one.",
        "The delivery came without the second box.",
        "The carrier threw the packet over our fence into the rain.",
    ),
    "account": (
        "I cannot log in any more.",
        "Your site does not take my password, and no reset mail comes.",
        "My account shows another person's name.",
        "I want to change the e-mail address of my account.",
        "The app signs me out of my account every minute.",
    ),
}
URGENCY = {
    "low": ("There is no hurry.", "Take your time.", "No rush at all.", "It can wait.", "Not urgent."),
    "normal": ("", "Please open a ticket.", "Can you pass this on?", "Please note it down.", "What can be done?"),
    "high": ("This is urgent.", "Urgent, please!", "It is very urgent for me.", "I need this today, it is urgent.",
             "Please hurry, it is urgent!"),
}  # fmt: skip
# No function helps: something is missing, or nothing is asked.
TALK = {
    "Which order is it? Please send me the order number.": (
        "Where is my order?",
        "My parcel is late again. Could you find out where it is?",
        "I lost the confirmation mail. Can you track my order anyway?",
        "Has my stuff been shipped yet?",
        "When will the things I bought on Monday arrive?",
    ),
    "Which item is it? Please send me its SKU.": (
        "Do you have the blue mug in stock?",
        "Is the large garden umbrella still available?",
        "I would like to know if there are any desks left.",
        "How many of those small lamps do you have?",
        "Are the running shoes from your window sold out?",
    ),
    "Which city and which day do you mean?": (
        "When are you open?",
        "What are the opening hours of your shop?",
        "How long is the store open?",
        "Do you close early?",
        "I want to come by. Until when can I do that?",
    ),
    "You are welcome. Have a nice day!": (
        "Thank you, that was all.",
        "Great, thanks for your help!",
        "Perfect, that answers it. Thanks a lot.",
        "Thanks, I do not need anything else.",
        "Lovely, thank you so much for the quick reply.",
    ),
}
CITIES = ("Leeds", "York", "Bath", "Derby", "Oxford", "Cardiff", "Dundee", "Exeter", "Lincoln", "Norwich", "Durham",
          "Bristol", "Chester", "Swansea", "Glasgow", "Belfast", "Preston", "Carlisle", "Ipswich", "Reading", "Truro",
          "Perth", "Luton", "Hull", "Poole", "Salford", "Wells", "Ripon", "Ely", "Stirling")  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
OPENERS = ("", "", "Hi! ", "Hello! ", "Good morning. ", "Quick question. ", "Hi there. ", "Hey! ")
PLACES = ("at the depot in Hull", "with the courier", "at the door", "being packed", "on the ferry")

Row = dict[str, Any]


def _row(question: str, *answers: Row) -> Row:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}, *answers]
    return {"messages": messages, "tools": TOOLS}


def _call(name: str, **arguments: Any) -> Row:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }


def _answered(call: Row, result: Any, answer: str) -> tuple[Row, ...]:
    found = {"role": "tool", "tool_call_id": "call_1", "content": json.dumps(result)}
    return call, found, {"role": "assistant", "content": answer}


class _Writer:
    """Writes rows; every SKU, order number and pair of city and day occurs once."""

    def __init__(self, drawn: random.Random) -> None:
        self._random = drawn
        self._used: set[str] = set()
        self._openers = itertools.cycle(OPENERS)
        places = [(city, day) for city in CITIES for day in DAYS]
        drawn.shuffle(places)
        self._places = iter(places)

    def stock(self, wording: str) -> Row:
        sku = self._sku()
        return self._asked(wording.format(sku), _call("get_stock", sku=sku))

    def track(self, wording: str) -> Row:
        order = self._order()
        return self._asked(wording.format(order), _call("track_order", order_id=int(order)))

    def hours(self, wording: str) -> Row:
        city, day = next(self._places)
        return self._asked(wording.format(city, day), _call("store_hours", city=city, day=day))

    def ticket(self, topic: str, problem: str, priority: str, remark: str) -> Row:
        return self._asked(f"{problem} {remark}".strip(), _call("open_ticket", topic=topic, priority=priority))

    def tracked(self, wording: str, where: str) -> Row:
        """A row that goes on after the call, with the order's place."""
        order = self._order()
        call = _call("track_order", order_id=int(order))
        return _row(wording.format(order), *_answered(call, {"where": where}, f"Order {order} is {where}."))

    def counted(self, wording: str) -> Row:
        """A row that goes on after the call, with the number in stock."""
        sku, count = self._sku(), self._random.randint(2, 40)
        call = _call("get_stock", sku=sku)
        return _row(wording.format(sku), *_answered(call, {"in_stock": count}, f"Yes, {count} of {sku} are in stock."))

    def _asked(self, question: str, answer: Row) -> Row:
        return _row(next(self._openers) + question, answer)

    def _sku(self) -> str:
        letters = "".join(self._random.choices("ABCDEFGHKLMNPRSTVWXZ", k=2))
        return self._new(f"{letters}-{self._random.randint(100, 999)}", self._sku)

    def _order(self) -> str:
        return self._new(str(self._random.randint(10_000, 99_999)), self._order)

    def _new(self, value: str, again: Callable[[], str]) -> str:
        if value in self._used:
            return again()
        self._used.add(value)
        return value


def rows() -> tuple[list[Row], list[Row]]:
    """Training and held-out rows: 160 and 40."""
    drawn = random.Random(7)
    writer = _Writer(drawn)
    kinds = [
        [writer.stock(wording) for wording in _repeated(STOCK, 45)],
        [writer.track(wording) for wording in _repeated(TRACK, 45)],
        [writer.hours(wording) for wording in _repeated(HOURS, 40)],
        _tickets(writer),
        [_row(asked, {"role": "assistant", "content": answer}) for answer, texts in TALK.items() for asked in texts],
        [
            writer.tracked(TRACK[number + 3], PLACES[number // 2]) if number % 2 else writer.counted(STOCK[number + 3])
            for number in range(10)
        ],
    ]
    train, held_out = [], []
    for kind in kinds:
        for place, row in enumerate(kind):
            (held_out if place % 5 == 3 else train).append(row)
    drawn.shuffle(train)
    drawn.shuffle(held_out)
    return train, held_out


def _repeated(wordings: tuple[str, ...], count: int) -> Iterator[str]:
    return itertools.islice(itertools.cycle(wordings), count)


def _tickets(writer: _Writer) -> list[Row]:
    """Each problem twice, with two of the three priorities; both are held out, or neither."""
    problems = [(topic, PROBLEMS[topic][number]) for number in range(5) for topic in TOPICS]
    tickets = []
    for turn in range(2):
        for place, (topic, problem) in enumerate(problems):
            priority = PRIORITIES[(place + turn) % 3]
            tickets.append(writer.ticket(topic, problem, priority, URGENCY[priority][(place // 3 + turn) % 5]))
    return tickets


def text(found: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)


def main() -> None:
    train, held_out = rows()
    (FOLDER / "tools_train.jsonl").write_text(text(train), encoding="utf-8")
    (FOLDER / "tools_heldout.jsonl").write_text(text(held_out), encoding="utf-8")
    print(f"{len(train)} rows for training, {len(held_out)} held out")


if __name__ == "__main__":
    main()
