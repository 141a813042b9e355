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


class _Values:
    """Values of the questions; every SKU and order number occurs once."""

    def __init__(self, random_numbers: random.Random) -> None:
        self._random = random_numbers
        self._used: set[str] = set()

    def sku(self) -> str:
        letters = "".join(self._random.choices("ABCDEFGHKLMNPRSTVWXZ", k=2))
        return self._new(f"{letters}-{self._random.randint(100, 999)}", self.sku)

    def order(self) -> str:
        return self._new(str(self._random.randint(10_000, 99_999)), self.order)

    def _new(self, value: str, again: Callable[[], str]) -> str:
        if value in self._used:
            return again()
        self._used.add(value)
        return value


def rows() -> tuple[list[Row], list[Row]]:
    """Training and held-out rows: 160 and 40."""
    drawn = random.Random(7)
    values = _Values(drawn)
    openers = itertools.cycle(OPENERS)
    places = [(city, day) for city in CITIES for day in DAYS]
    drawn.shuffle(places)
    towns = iter(places)

    def opened(question: str) -> str:
        return next(openers) + question

    def stock(wordings: Iterator[str]) -> Row:
        sku = values.sku()
        return _row(opened(next(wordings).format(sku)), _call("get_stock", sku=sku))

    def track(wordings: Iterator[str]) -> Row:
        order = values.order()
        return _row(opened(next(wordings).format(order)), _call("track_order", order_id=int(order)))

    def hours(wordings: Iterator[str]) -> Row:
        city, day = next(towns)
        return _row(opened(next(wordings).format(city, day)), _call("store_hours", city=city, day=day))

    def ticket(problem: tuple[str, str], priority: str, number: int) -> Row:
        topic, text = problem
        remark = URGENCY[priority][number % 5]
        return _row(opened(f"{text} {remark}".strip()), _call("open_ticket", topic=topic, priority=priority))

    stocks, tracks, hour_rows = (
        [make(wordings) for _ in range(count)]
        for make, wordings, count in (
            (stock, itertools.cycle(STOCK), 45),
            (track, itertools.cycle(TRACK), 45),
            (hours, itertools.cycle(HOURS), 40),
        )
    )
    problems = [(topic, PROBLEMS[topic][number]) for number in range(5) for topic in TOPICS]
    # Each problem twice, with two of the three priorities; both are held out, or neither.
    tickets = [
        ticket(problem, PRIORITIES[(place + turn) % 3], place // 3 + turn)
        for turn in range(2)
        for place, problem in enumerate(problems)
    ]
    talk = [
        _row(question, {"role": "assistant", "content": answer}) for answer, asked in TALK.items() for question in asked
    ]
    results = []
    for number in range(10):
        if number % 2:
            order, where = values.order(), PLACES[number // 2]
            call, words = _call("track_order", order_id=int(order)), f"Order {order} is {where}."
            results.append(_row(TRACK[number + 3].format(order), *_answered(call, {"where": where}, words)))
        else:
            sku, count = values.sku(), drawn.randint(2, 40)
            call, words = _call("get_stock", sku=sku), f"Yes, {count} of {sku} are in stock."
            results.append(_row(STOCK[number + 3].format(sku), *_answered(call, {"in_stock": count}, words)))
    kinds = [stocks, tracks, hour_rows, tickets, talk, results]
    train, held_out = [], []
    for kind in kinds:
        for place, row in enumerate(kind):
            (held_out if place % 5 == 3 else train).append(row)
    drawn.shuffle(train)
    drawn.shuffle(held_out)
    return train, held_out


def text(found: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)


def main() -> None:
    train, held_out = rows()
    (FOLDER / "tools_train.jsonl").write_text(text(train), encoding="utf-8")
    (FOLDER / "tools_heldout.jsonl").write_text(text(held_out), encoding="utf-8")
    print(f"{len(train)} rows for training, {len(held_out)} held out")


if __name__ == "__main__":
    main()
