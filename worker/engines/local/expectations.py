"""What kind of value a question asks for, and whether a sentence gives one.

"How heavy" asks for a weight, "when" for a moment, "who" for a person: a sentence without one is hardly the answer,
whatever else it shares with the question. The kinds and their units are those of everyday English; nothing here knows
what a workspace is about.
"""

import re
from dataclasses import dataclass

_NUMBER = (
    r"(?:\d[\d.,]{0,40}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|half"
    r"|first|second|third)"
)
_MONTH = (
    r"jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?"
)
_WEEKDAY = r"(?:mon|tues|wednes|thurs|fri|satur|sun)days?"
_SPAN = r"seconds?|min|mins|minutes?|hours?|days?|nights?|weeks?|months?|years?"


@dataclass(frozen=True, slots=True)
class ValueKind:
    """A kind of value.

    Attributes:
        name: for tests and logs.
        asked: found in a question, or a word of one, that asks for it.
        given: found in a sentence that gives it, unless there is a ``unit``.
        decides: a sentence without it is held to be no answer; the looser kinds only speak for a sentence.
        unit: stands behind or in front of what is given, in the same field of a row.
    """

    name: str
    asked: re.Pattern[str]
    given: re.Pattern[str]
    decides: bool
    unit: re.Pattern[str] | None = None

    def is_given(self, sentence: str) -> bool:
        """Return whether the sentence gives a value of this kind."""
        if self.unit is None:
            return self.given.search(sentence) is not None
        return any(_apart(self.given, self.unit, part) for part in sentence.split(";"))


def _kind(name: str, *, asked: str, given: str, decides: bool = True) -> ValueKind:
    return ValueKind(
        name,
        re.compile(rf"\b(?:{asked})\b", re.IGNORECASE),
        re.compile(rf"(?<![^\W_])(?:{given})(?![^\W_])", re.IGNORECASE),
        decides,
    )


def _measure(name: str, *, asked: str, units: str, decides: bool = True) -> ValueKind:
    """A number with its unit behind it, or in front of it as in a table (``Length (m): 49.6``)."""
    unit = re.compile(rf"(?<![^\W\d_])(?:{units})(?![^\W_])", re.IGNORECASE)
    asks = re.compile(rf"\b(?:{asked})\b", re.IGNORECASE)
    return ValueKind(name, asks, re.compile(_NUMBER, re.IGNORECASE), decides, unit)


def _apart(one: re.Pattern[str], other: re.Pattern[str], text: str) -> bool:
    """Whether both are in the text, and not in one place. A single pattern would look on from each number."""
    ones, others = list(one.finditer(text)), list(other.finditer(text))
    if not ones or not others:
        return False
    return ones[0].end() <= others[-1].start() or others[0].end() <= ones[-1].start()


_KINDS = (
    _kind(
        "money",
        asked=r"costs?|prices?|priced|expensive|cheap\w*|pay|paid|fees?|charged?|deposit|salary|wages?|budget",
        given=r"[€£$¥].*|eur|euros?|gbp|usd|chf|sek|pounds?|dollars?|kron\w+|francs?|cents?|pence|\d+ ?p|free|nothing",
    ),
    _measure(
        "duration",
        asked=r"how (?:long|quickly|soon|fast|old)|how many (?:minutes|hours|days|weeks|months|years)|duration|age",
        units=rf"{_SPAN}|s|h",
    ),
    _kind(
        "moment",
        asked=r"^when|(?:, |\band |\bor |\buntil |\bsince |\bfrom |\bby )when|what time"
        r"|(?:which|what) (?:day|date|month|year)|dates?|open|deadline",
        given=rf"{_MONTH}|{_WEEKDAY}|noon|midnight|daily|(?:19|20)\d\d|\d{{1,2}}[:.]\d\d|\d{{1,2}} ?[ap]\.?m"
        rf"|{_NUMBER} (?:\w{{1,40}} )?(?:{_SPAN})|before|after|until",
    ),
    _kind(
        "frequency",
        asked=r"how (?:often|frequently)|intervals?|how many times",
        given=rf"every|each|daily|weekly|monthly|yearly|annually|once|twice|times|a (?:day|week|month|year)|{_WEEKDAY}",
        decides=False,
    ),
    _measure("weight", asked=r"weighs?|weight|heavy|load|mass", units=r"kg|g|mg|t|tonnes?|tons?|lbs?|pounds?"),
    _measure(
        "length",
        asked=r"how (?:long|far|high|tall|deep|wide|thick|big|large)|length|width|height|depth|distance|range|thickness"
        r"|diameter|clearance|gap|sizes?|dimensions?",
        units=r"characters|letters|digits|pages|mm|cm|m|km|(?:milli|centi|kilo)?met(?:re|er)s?|miles?|inch(?:es)?|ft|feet|foot|x|\u00d7",
    ),
    _measure(
        "temperature", asked=r"temperatures?|how (?:hot|cold|warm)|hot|cold|warm", units=r"° ?[cf]|degrees|kelvin"
    ),
    _measure("pressure", asked=r"pressures?", units=r"bar|mbar|psi|k?pa|hpa"),
    _measure("torque", asked=r"torques?|how tight\w*", units=r"nm"),
    _measure("power", asked=r"power|wattage|watts?", units=r"w|kw|mw|hp|watts?"),
    _measure("voltage", asked=r"voltage|volts?", units=r"v|kv|volts?"),
    _measure("current", asked=r"amps?|amperes?|(?:electric|motor|rated) current", units=r"a|ma|amps?|amperes?"),
    _measure("capacity", asked=r"capacity|volume", units=r"wh|kwh|m?ah|ml|l|litres?|liters?|m[³3]|kg", decides=False),
    _measure("speed", asked=r"how fast|speed|velocity|rpm", units=r"km/h|mph|m/s|rpm|knots?|strokes?", decides=False),
    _measure("share", asked=r"per ?cent\w*|share|discounts?|humidity|content|concentration", units=r"%|per ?cent"),
    _measure("light", asked=r"bright\w*|illumin\w+", units=r"lux|lm|lumens?"),
    _measure("noise", asked=r"loud|noise level|sound level", units=r"dba?|decibels?"),
    _kind("telephone", asked=r"phone|telephone|hotline", given=r"\+?\d[\d ()/-]{5,30}\d"),
    _kind("mail", asked=r"e-?mail|mail address", given=r"[^\s@]{1,64}@[^\s@]{1,255}"),
    _kind("number", asked=r"how (?:many|much)|number of|quantity", given=_NUMBER, decides=False),
    _kind(
        "person",
        asked=r"who|whom|whose",
        given=r"(?-i:[A-Z][\w'\u2019-]{1,60} (?:[a-z]{2,3} )?[A-Z][\w'\u2019-]{1,60})|manager|director|head"
        r"|department|office|team|staff|everybody|everyone|nobody|owner|customer",
    ),
)


def expected(question: str) -> tuple[ValueKind, ...]:
    """Return the kinds of value that a question, or a word of one, asks for."""
    return tuple(kind for kind in _KINDS if kind.asked.search(question))
