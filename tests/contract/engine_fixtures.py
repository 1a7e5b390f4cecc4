"""What the engine suite stores and asks: a bicycle workshop and a dairy, none of which is in the examples.

Documents come in several formats; two models and two cheeses share their wording and differ in their values. A question
with fragments has an answer, which holds all of them; one without has none in these documents.
"""

import hashlib
from dataclasses import dataclass, replace
from io import BytesIO
from uuid import UUID
from zlib import crc32

from worker.documents.extract import sniff
from worker.engines.base import Answer, Document, Engine, StoredDocument

JOB = UUID("0198c0de-0000-7000-8000-00000000000a")
OTHER_JOB = UUID("0198c0de-0000-7000-8000-00000000000b")


@dataclass(frozen=True)
class Asked:
    question: str
    fragments: tuple[str, ...] = ()


def document(
    name: str, content: str | bytes, *, job_id: UUID = JOB, position: int | None = None, attempt: int = 1
) -> Document:
    """A document with a file of its own; its position is drawn from its name where none is given."""
    content = content.encode() if isinstance(content, str) else content
    return Document(
        job_id=job_id,
        position=crc32(name.encode()) % 100_000 if position is None else position,
        attempt=attempt,
        name=name,
        file=BytesIO(content),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        media_type=sniff(content, name),
    )


def again(known: Document, *, attempt: int = 1) -> Document:
    """The same document in a file of its own, as another worker or a later attempt has it."""
    return replace(known, attempt=attempt, file=BytesIO(known.read()))


async def put(engine: Engine, slug: str, *documents: Document) -> list[StoredDocument]:
    """Store these documents and make them searchable."""
    stored = [await engine.add_document(slug, each) for each in documents]
    for each in stored:
        await engine.embed(slug, each)
    return stored


def places(*stored: StoredDocument) -> set[str]:
    return {location for each in stored for location in each.locations}


def quoted(answer: Answer) -> list[tuple[str, str]]:
    return [(source.document, source.text) for source in answer.sources]


HOURS = document("hours.md", "# Opening hours\n\nThe shop opens at 9:15 on Saturdays.\n")
PARKING = document("parking.md", "# Parking\n\nBicycles are parked behind the dairy, next to the chestnut tree.\n")
WHEN = "When does the shop open on Saturdays?"

_MODEL = """# Tern {model} rider's manual

## Technical data

The {model} weighs {weight} kg with its battery. The motor has 36 V and a torque of {torque} Nm.

| Property | Value |
| --- | --- |
| Battery capacity | {capacity} Wh |
| Charging time | {hours} hours |
| Tyre pressure | {pressure} bar |

## Maintenance

Brake pads of the {model} must be replaced when less than {pads} mm of lining is left.
"""
_CHEESE = """# Process sheet: farmhouse {cheese}

Milk is pasteurised at 72 °C for 15 seconds and cooled to {cooled} °C. Rennet: {rennet} ml for 100 litres. The curd
is cut after {cut} minutes into cubes of {cubes} mm.

## Pressing

Press with {bar} bar for {hours} hours.

## Ripening

Ripen at {ripen} °C and {humidity} % humidity.
"""

WORKSPACE = (
    document(
        "manuals/tern-t5.md",
        _MODEL.format(model="T5", weight=23.4, torque=42, capacity=418, hours=5.5, pressure="3.5 to 4.5", pads=1),
    ),
    document(
        "manuals/tern-t7.md",
        _MODEL.format(model="T7", weight=26.1, torque=75, capacity=625, hours=4, pressure="2.5 to 3.5", pads=0.5),
    ),
    document(
        "cheddar.md",
        _CHEESE.format(
            cheese="cheddar", cooled=31, rennet=25, cut=40, cubes=8, bar=1.5, hours=18, ripen=10, humidity=85
        ),
    ),
    document(
        "gouda.md",
        _CHEESE.format(cheese="gouda", cooled=29, rennet=30, cut=30, cubes=10, bar=0.6, hours=4, ripen=13, humidity=82),
    ),
    document(
        "prices.csv",
        "Job,Includes,Duration (minutes),Price (EUR)\n"
        "Puncture repair front wheel,new tube,20,14.50\n"
        "Puncture repair rear wheel,new tube,30,19.50\n"
        "Brake bleeding,mineral oil for one brake,40,35\n"
        "Wheel truing,one wheel,25,18\n",
    ),
    document(
        "opening-hours.txt",
        "Opening hours and contact\n=========================\n\n"
        "Day           Morning          Afternoon\n"
        "Monday        closed           14:00 to 18:00\n"
        "Saturday      9:00 to 14:00    closed\n\n"
        "Telephone of the shop: 0351 555 0170. Breakdown service: 0351 555 0199, every day from 7:00 to\n22:00.\n",
    ),
    document(
        "faq.html",
        "<html><head><title>FAQ | Wheelhouse</title></head><body><h1>Questions about the workshop</h1>"
        "<h2>How long do you keep a repaired bicycle?</h2><p>We store it for ten working days. After that storage "
        "costs 2 EUR a day.</p><h2>What does the service pass cost?</h2><p>The pass costs 89 EUR a year. It includes "
        "one small inspection.</p></body></html>",
    ),
    document(
        "safety.md",
        "# Lithium batteries\n\n## Damaged batteries\n\n"
        "Put a damaged battery into the steel box with sand in the yard. "
        "The recycler Grünkreis collects on Wednesdays.\n\n"
        "## Shipping\n\nBatteries above 100 Wh are dangerous goods. "
        "Only Marta Lindholm has the training to send them.\n",
    ),
)

ANSWERABLE = (
    Asked("What does the Tern T7 weigh?", ("26.1 kg",)),
    Asked("How heavy is the T5?", ("23.4 kg",)),
    Asked("What is the charging time of the T5?", ("5.5 hours",)),
    Asked("Which tyre pressure is right for the T7?", ("2.5 to 3.5 bar",)),
    Asked("What does a puncture repair on the rear wheel cost?", ("19.50",)),
    Asked("How expensive is bleeding a brake?", ("35",)),
    Asked("When is the shop open on Saturdays?", ("9:00 to 14:00",)),
    Asked("What is the phone number of the breakdown service?", ("0351 555 0199",)),
    Asked("What does the service pass cost per year?", ("89 EUR",)),
    Asked("Where do I put a damaged battery?", ("steel box", "sand")),
    Asked("Who is allowed to ship batteries?", ("Marta Lindholm",)),
    Asked("At what temperature does cheddar ripen?", ("10 °C",)),
    Asked("How long is gouda pressed?", ("4 hours",)),
    Asked("What size are the curd cubes for cheddar?", ("8 mm",)),
)
UNANSWERABLE = (
    Asked("What does the Tern T9 weigh?"),
    Asked("What is the charging time of the Heron H2?"),
    Asked("How long does brie ripen?"),
    Asked("What is the telephone number of Velo Nord?"),
    Asked("What is the password of the guest wifi?"),
    Asked("Who won the Tour de France in 2023?"),
)
