"""One spelling for text, so that an expected fragment is found however the answer writes it.

Promise: :func:`normalise` is pure, linear in the text for practical purposes, and idempotent, and it folds the
differences that carry no meaning: Unicode forms, case, white space, dashes, quotes, the stars and underscores of
Markdown's emphasis, and the many ways to write a number or its unit. Whether a fragment is *in* an answer is
:mod:`worker.questions.scoring`'s business.

Numbers, rule by rule (a rule never applies inside a word: ``M8``, ``v1.10``):

=======================  ==================================================================================
``1,200`` ``1 200``      one comma, blank or apostrophe before exactly three digits groups thousands: ``1200``
``1,200,000``            so do several commas or several points with three digits each: ``1200000``
``1.234,56``             with both marks the last one, if it stands alone, is the decimal mark: ``1234.56``
``3,5`` ``0,125``        any other single comma is a decimal mark: ``3.5``, ``0.125``
``1.200``                a single point is always a decimal mark (English reading): ``1.2``, not 1200
``12.50`` ``3.0``        zeros at the end of a fraction are dropped: ``12.5``, ``3``; ``.5`` gains one: ``0.5``
``1,2,3``                several commas that do not group thousands are a list: ``1, 2, 3``
``12.05.2024``           several points that do not group thousands stay: a date, a version, an address
``45Nm`` ``20° C``       a unit of one to four letters stands one blank from its number: ``45 nm``, ``20 °c``
``50 %`` ``12 €``        a sign of per cent, degree or currency stands right behind it: ``50%``, ``12€``
``20 - 25`` ``4 x 4``    a dash between digits stands close, and so does an x, which becomes a multiplication sign
``10²``                  a raised digit behind a number is a power, ``10^2``; behind a unit it is plain: ``m2``
=======================  ==================================================================================

Limits, known and accepted: two separate numbers that look like one are read as one (``45 200`` in a table row); a
German ``1.200`` is read as 1.2 wherever it stands; ``1.10`` and ``1.1`` are one, also where they number versions or
sections; case is dropped, so ``mW`` and ``MW`` are one; accents, spelled-out numbers (``twelve``) and units
(``hours`` for ``h``) are not folded; a word that a line break split with a visible hyphen stays split.
"""

import re
import unicodedata

# Scripts that write words without blanks between them, or glue endings to them (Thai to Lao, Myanmar, Khmer, kana,
# bopomofo, CJK ideographs, Hangul): a letter of theirs beside a word or number is no sign that the word goes on.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
WORD = rf"[^\W{_UNSPACED}\U00020000-\U0003ffff]"
"""Pattern of one character that belongs to a word (letter, digit, underscore) and shows where that word ends."""
LETTER = rf"[^\W\d_{_UNSPACED}\U00020000-\U0003ffff]"
"""Pattern of a :data:`WORD` character that is a letter."""

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb]"
)
_VARIANTS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u2e3a\u2e3b\ufe58\ufe63\uff0d", "-"),
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2035\u2039\u203a`\u00b4\u02b9\u02bc", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb\u301d\u301e\u301f", '"'),
        **dict.fromkeys("\u066b", "."),
        **dict.fromkeys("\u066c", ","),
    }
)
_ORDINAL_FOR_DEGREE = re.compile(r"\u00ba(?=\s?[CF]\b)")
_POWER = re.compile("(?<=[0-9])[\u207a\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_FRACTION_AFTER_DIGIT = re.compile("(?<=[0-9])(?=[\u00bc-\u00be\u2150-\u215f\u2189])")
_FOREIGN_DIGIT = re.compile(r"[^\W\D0-9_]")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")

# Stars and underscores before and behind a word; between digits they multiply, between letters they make a name.
_EMPHASIS = re.compile(r"(?<![\w*.])[*_]+(?=[^\W_]|\.\d)|(?<=[^\W_]|[.%°)])[*_]+(?![\w*])(?![.,]\d)")
_TIMES = re.compile("(?<=[0-9]) ?[x\u00d7] ?(?=[0-9])")
_COMMA_LIST = re.compile(rf"(?<!{WORD})(?<![.,])[0-9]+(?:,[0-9]+){{2,}}(?![.,]?[0-9])")
_BLANK_GROUPS = re.compile(rf"(?<!{WORD})(?<![.,])[1-9][0-9]{{0,2}}(?:[ '][0-9]{{3}})+(?![0-9])")
_BARE_FRACTION = re.compile(rf"(?<!{WORD})(?<![.,])\.(?=[0-9])")
_MARKED = re.compile(rf"(?<!{WORD})(?<![.,])[0-9]+(?:[.,][0-9]+)+")
_GROUP_FOLLOWS = re.compile(r"[ '][0-9]{3}(?![0-9])")
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,}")
_MIXED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+")
# Not in the middle of a number: of a long one each digit would be tried as a beginning.
_UNIT = re.compile(
    rf"(?<!{WORD})(?<!{LETTER}-)(?<![0-9][.,])([0-9]++(?:[.,][0-9]++)*+)({LETTER}{{1,4}}[23]?)(?!{WORD})"
)
_DEGREES = re.compile(rf"(?<=[0-9]) ?°(?: ?([cf])(?!{WORD}))?")
_SIGN_BEHIND = re.compile(r"(?<=[0-9]) (?=[%‰€£$](?! ?[0-9]))")
_RANGE = re.compile(r"(?<=[0-9]) - (?=[0-9])")


def normalise(text: str) -> str:
    """Return ``text`` in the one spelling that fragments and answers are compared in.

    Args:
        text: any text; bounds on its length are the caller's.

    Returns:
        Lower-case text with single blanks, possibly empty. ``normalise(normalise(text)) == normalise(text)``.
    """
    text = _INVISIBLE.sub("", text).translate(_VARIANTS)
    text = _ORDINAL_FOR_DEGREE.sub("°", text)
    # Before NFKC, which would melt 10² into 102 and 5½ into 51/2.
    text = _POWER.sub(lambda match: "^" + match[0], text)
    text = _FRACTION_AFTER_DIGIT.sub(" ", text)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # NFKC brings forth characters of its own (a fullwidth apostrophe, a fraction slash).
    text = _INVISIBLE.sub("", text).translate(_VARIANTS).replace("\u2044", "/")
    text = _FOREIGN_DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), text)
    text = _EMPHASIS.sub("", text)
    return _numbers(_BLANK.sub(" ", text).strip())


def _numbers(text: str) -> str:
    """Apply the table at the top of this module; the order matters, and a second pass finds nothing left to do."""
    text = _BARE_FRACTION.sub("0.", text)
    text = _TIMES.sub("\u00d7", text)
    text = _COMMA_LIST.sub(_list, text)
    text = _BLANK_GROUPS.sub(lambda match: match[0].replace(" ", "").replace("'", ""), text)
    text = _MARKED.sub(_marks, text)
    text = _UNIT.sub(r"\1 \2", text)
    text = _DEGREES.sub(lambda match: f" °{match[1]}" if match[1] else "°", text)
    text = _SIGN_BEHIND.sub("", text)
    return _RANGE.sub("-", text)


def _list(match: re.Match[str]) -> str:
    return match[0] if _THOUSANDS.fullmatch(match[0]) else match[0].replace(",", ", ")


def _marks(match: re.Match[str]) -> str:
    """Read the commas and points of one number; what no rule reads stays as it is."""
    number = match[0]
    if _THOUSANDS.fullmatch(number):
        return number.replace(",", "").replace(".", "")
    if _MIXED.fullmatch(number):
        whole, fraction = number[: number.rindex(_last_mark(number))], number[number.rindex(_last_mark(number)) + 1 :]
        number = whole.replace(",", "").replace(".", "") + "." + fraction
    elif number.count(",") + number.count(".") == 1:
        number = number.replace(",", ".")
    else:
        return number
    whole, _, fraction = number.partition(".")
    fraction = fraction.rstrip("0")
    if fraction:
        return f"{whole}.{fraction}"
    # "1.0 200" keeps its zero: as "1 200" it would read as 1200 the next time.
    return number if _GROUP_FOLLOWS.match(match.string, match.end()) else whole


def _last_mark(number: str) -> str:
    return "," if number.rfind(",") > number.rfind(".") else "."
