"""Which words are true of source pictures: concepts, their synonyms, and more general words.

A concept is an emoji's label, simplified: drawings that differ in direction, gender or a clock's
time only are of one concept. Clip art and stamps are of a concept if their label ends with it.
General words are true of whole subgroups of emoji, or of listed concepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

from demo_world.rasterise import EMOJI_SETS, Picture
from demo_world.worlds import design_of

GROUPS = (
    "smileys-emotion", "people-body", "animals-nature", "food-drink", "travel-places",
    "activities", "objects",
)  # fmt: skip
"""Groups of emoji that are shown; flags and symbols are not."""
LEFT_OUT = frozenset({"family", "person-symbol", "emotion", "hotel", "body-parts"})
"""Subgroups that are not shown."""
NOT_SHOWN = frozenset({"man", "woman", "boy", "girl", "child"})
"""Concepts that drawings of other concepts show as well."""
MISTAKEN = re.compile(
    r"nicu buculei|baseball bat|elevator|sea lion|beetle$|dancing with|flush|stethoscope|egg$|"
    r"planet|caboose|table tennis|cat and dog|from star|hot air|the penguin"
)
"""Labels of clip art and stamps whose end is not what they show."""
SHARE = {"animals-nature": 70, "food-drink": 30, "travel-places": 30}
"""Percentage of a group's concepts that the development worlds show; of others half."""

SIMPLER: tuple[tuple[str, str], ...] = (
    (r".*(o'clock|-thirty)$", "clock face"),
    (r".*\bmoon( face)?$", "moon"),
    (r"(man|woman|men|women|people|person): (\w+)( hair)?$", r"\2\3"),
    (r"(.*): facing right$", r"\1"),
    (r"(man|woman|men|women|people) (with|in|getting|wearing|playing|lifting|rowing|mountain) (.*)",
     r"person \2 \3"),
    (r"(man|woman|men|women|people) (\w+ing)\b(.*)", r"person \2\3"),
    (r"(man|woman) (gesturing|raising|tipping|feeding|bouncing) (.*)", r"person \2 \3"),
    (r"(man|woman) (.*)", r"\2"),
    (r"(pregnant) (man|woman|person)", "pregnant person"),
    (r"deaf (man|woman|person)", "deaf person"),
    (r"old(er)? (man|woman|person)", "old person"),
    (r"(cat|cow|dog|dragon|horse|monkey|mouse|pig|rabbit|tiger) face", r"\1"),
    (r"(front-facing baby|hatching|baby) chick", "chick"),
    (r"spouting whale", "whale"),
    (r"two-hump camel", "camel"),
    (r"lady beetle", "ladybug"),
    (r"ear of corn", "corn"),
    (r"hot pepper", "chili pepper"),
    (r"cut of meat|meat on bone", "meat"),
    (r"clinking beer mugs", "beer mug"),
    (r"oncoming (automobile|bus|police car|taxi)", r"\1"),
    (r"(horizontal|vertical) traffic light", "traffic light"),
    (r"globe (showing|with) .*", "globe"),
    (r"sun behind .*", "sun behind cloud"),
    (r"sun with face", "sun"),
    (r"cloud with lightning.*", "cloud with lightning"),
    (r"(closed|open) mailbox .*", "mailbox"),
    (r"(muted speaker|speaker .* volume)", "speaker"),
    (r"magnifying glass .*", "magnifying glass"),
    (r"\w+ place medal|sports medal|military medal", "medal"),
    (r"(blue|green|orange|closed) book", "closed book"),
    (r"(dollar|euro|pound|yen) banknote", "banknote"),
    (r".*index .*pointing.*", "pointing hand"),
    (r"(left-facing|right-facing|oncoming|raised) fist", "fist"),
    (r"(left|right)wards (pushing )?hand|palm (down|up) hand|raised (back of )?hand", "open palm"),
    (r"(manual|motorized) wheelchair", "wheelchair"),
    (r"(locked with (key|pen)|locked|unlocked)", "padlock"),
    (r"old key", "key"),
    (r"(incoming envelope|envelope with arrow)", "envelope"),
    (r"cityscape at dusk", "cityscape"),
    (r"sunrise over mountains", "sunrise"),
    (r"sunset", "sunrise"),
    (r"umbrella .*|closed umbrella", "umbrella"),
    (r"snowman without snow", "snowman"),
    (r"hourglass .*", "hourglass"),
    (r"musical notes?", "musical note"),
    (r"airplane (arrival|departure)|small airplane", "airplane"),
    (r"(spiral|tear-off) calendar", "calendar"),
    (r"kissing face .*", "kissing face"),
    (r"grinning face with .*", "grinning face"),
    (r"frowning face with open mouth|slightly frowning face", "frowning face"),
    (r"houses|house with garden", "house"),
    (r"tram car", "tram"),
)  # fmt: skip
"""Patterns of emoji labels and the concept that they stand for; the first that fits counts."""

SYNONYMS = {
    "automobile": "car", "airplane": "aeroplane", "motorcycle": "motorbike", "bicycle": "bike",
    "rooster": "cockerel", "ladybug": "ladybird", "pig": "hog", "rabbit": "bunny",
    "spider web": "cobweb", "eggplant": "aubergine", "corn": "maize", "hamburger": "burger",
    "doughnut": "donut", "cookie": "biscuit", "television": "tv", "mobile phone": "cell phone",
    "couch and lamp": "sofa", "briefcase": "attache case", "firefighter": "fireman",
    "police officer": "policeman", "glasses": "eyeglasses", "wrench": "spanner",
    "ghost": "phantom", "alien": "extraterrestrial", "clown face": "clown",
    "Santa Claus": "father christmas", "hot beverage": "coffee", "cloud with rain": "rain",
    "wastebasket": "trash can", "flashlight": "torch", "gem stone": "diamond", "necktie": "tie",
    "wrapped gift": "present", "jack-o-lantern": "halloween pumpkin", "running shoe": "sneaker",
    "soccer ball": "football", "articulated lorry": "semi truck", "taxi": "cab",
    "metro": "underground train", "snake": "serpent", "deciduous tree": "leafy tree",
    "evergreen tree": "conifer", "seedling": "sprout", "four leaf clover": "lucky clover",
    "tornado": "whirlwind", "envelope": "letter", "honeybee": "bee", "shrimp": "prawn",
    "dove": "white pigeon", "hippopotamus": "hippo", "rhinoceros": "rhino",
    "sunrise": "rising sun",
}  # fmt: skip
"""A second word for the same concept."""

MAMMALS = "animal-mammal|!paw prints|!pig nose|!unicorn"
GENERAL: dict[str, dict[str, str]] = {
    "development": {
        "animal": f"{MAMMALS}|animal-bird|animal-bug|animal-marine|animal-reptile|animal-amphibian"
                  "|cat-face|monkey-face|!feather|!wing|!spider web|!microbe|!spiral shell|!coral"
                  "|!dragon|!phoenix",
        "mammal": f"{MAMMALS}|cat-face|monkey-face|=dolphin|=whale|=seal|=orca",
        "bird": "animal-bird|!feather|!wing|!phoenix",
        "insect": "=ant|=beetle|=bug|=butterfly|=cockroach|=cricket|=fly|=honeybee|=ladybug"
                  "|=mosquito",
        "sea animal": "animal-marine|!spiral shell|!coral",
        "fish": "=fish|=tropical fish|=blowfish|=shark",
        "reptile": "=crocodile|=lizard|=snake|=turtle|=sauropod|=T-Rex",
        "dinosaur": "=sauropod|=T-Rex",
        "flower": "plant-flower|!rosette",
        "plant": "plant-flower|plant-other|!rosette|!mushroom|!empty nest|!nest with eggs",
        "tree": "=deciduous tree|=evergreen tree|=palm tree|=leafless tree",
        "leaf": "=fallen leaf|=maple leaf|=leaf fluttering in wind|=four leaf clover|=shamrock"
                "|=herb",
        "dog": "=dog|=guide dog|=service dog|=poodle",
        "cat": "=cat|=black cat|cat-face",
        "bear": "=bear|=polar bear|=panda|=koala",
        "big cat": "=leopard|=lion|=tiger",
        "primate": "monkey-face|=monkey|=gorilla|=orangutan",
        "rodent": "=rat|=mouse|=hamster|=chipmunk|=beaver",
        "farm animal": "=cow|=ox|=pig|=horse|=goat|=ewe|=ram|=chicken|=rooster|=donkey|=turkey"
                       "|=water buffalo|=chick",
        "poultry": "=chicken|=rooster|=chick|=duck|=goose|=turkey",
        "hoofed animal": "=cow|=ox|=pig|=horse|=goat|=ewe|=ram|=donkey|=water buffalo|=deer|=moose"
                         "|=bison|=boar|=camel|=giraffe|=llama|=zebra|=rhinoceros|=hippopotamus",
        "person": "person|person-activity|person-gesture|person-role|person-sport|person-resting",
        "face": "face-affection|face-concerned|face-glasses|face-hand|face-hat"
                "|face-neutral-skeptical|face-sleepy|face-smiling|face-tongue|face-unwell"
                "|=angry face|=enraged face|=face with steam from nose|=face with symbols on mouth"
                "|!dotted line face",
        "smiling face": "face-smiling|=smiling face|=smiling face with heart-eyes"
                        "|!melting face|=smiling face with hearts|=smiling face with sunglasses"
                        "|!upside-down face",
        "hand": "hand-fingers-closed|hand-fingers-open|hand-fingers-partial|hand-single-finger"
                "|hands|!handshake",
        "ball": "=american football|=baseball|=basketball|=rugby football|=soccer ball|=softball"
                "|=tennis|=volleyball|=pool 8 ball",
        "musical instrument": "musical-instrument",
        "book": "=closed book|=books|=open book|=notebook|=ledger"
                "|=notebook with decorative cover",
        "tool": "=axe|=carpentry saw|=hammer|=hammer and pick|=hammer and wrench|=pick|=screwdriver"
                "|=shovel|=wrench|=clamp",
        "heart shape": "heart|=heart suit|!love letter",
        "worker": "person-role|!baby angel|!person with crown|!prince|!princess|!pregnant person"
                  "|!person feeding baby|!breast-feeding|!person in tuxedo|!person with veil"
                  "|!person wearing turban|!person with skullcap|!student|!person with headscarf",
        "stationery": "writing|=scissors|=paperclip|=linked paperclips|=pushpin|=round pushpin"
                      "|=straight ruler|=triangular ruler",
        "toy": "=teddy bear|=nesting dolls|=yo-yo|=kite|=water pistol|=puzzle piece"
               "|=Japanese dolls",
    },
    "fresh": {
        "food": "food-asian|food-fruit|food-prepared|food-sweet|food-vegetable|!takeout box|!salt",
        "fruit": "food-fruit|!olive|!tomato",
        "vegetable": "food-vegetable|!chestnut|!peanuts|!brown mushroom",
        "dessert": "food-sweet|!honey pot",
        "bread": "=bagel|=baguette bread|=bread|=croissant|=flatbread|=pretzel",
        "fast food": "=hamburger|=french fries|=hot dog|=pizza|=taco|=burrito",
        "meat dish": "=bacon|=meat|=poultry leg",
        "citrus fruit": "=lemon|=lime|=tangerine",
        "drink": "drink|!ice|!pouring liquid|!teacup without handle",
        "alcoholic drink": "=beer mug|=bottle with popping cork|=clinking glasses|=cocktail glass"
                           "|=sake|=tropical drink|=wine glass|=tumbler glass",
        "cake": "=birthday cake|=cupcake|=shortcake",
        "Asian food": "food-asian|!spaghetti|!roasted sweet potato",
        "tableware": "=chopsticks|=fork and knife|=fork and knife with plate|=spoon"
                     "|=kitchen knife",
        "vehicle": "=ambulance|=articulated lorry|=auto rickshaw|=automobile|=bicycle|=bullet train"
                   "|=bus|=delivery truck|=fire engine|=high-speed train|=kick scooter|=light rail"
                   "|=locomotive|=metro|=minibus|=monorail|=motor scooter|=motorcycle"
                   "|=mountain railway|=pickup truck|=police car|=racing car|=railway car"
                   "|=sport utility vehicle|=taxi|=tractor|=train|=tram|=trolleybus"
                   "|transport-water|=airplane|=helicopter|=rocket|!anchor|!ring buoy",
        "road vehicle": "=ambulance|=articulated lorry|=auto rickshaw|=automobile|=bicycle|=bus"
                        "|=delivery truck|=fire engine|=minibus|=motor scooter|=motorcycle"
                        "|=pickup truck|=police car|=racing car|=sport utility vehicle|=taxi"
                        "|=tractor|=trolleybus|=kick scooter",
        "truck": "=articulated lorry|=delivery truck|=fire engine|=pickup truck",
        "rail vehicle": "=bullet train|=high-speed train|=light rail|=locomotive|=metro|=monorail"
                        "|=mountain railway|=railway car|=train|=tram|=suspension railway",
        "watercraft": "=canoe|=ferry|=motor boat|=passenger ship|=sailboat|=ship|=speedboat",
        "aircraft": "=airplane|=helicopter|=flying saucer",
        "two-wheeled vehicle": "=bicycle|=motorcycle|=motor scooter|=kick scooter",
        "building": "place-building|place-religious|!brick|!rock|!wood|!building construction"
                    "|!kaaba|!Statue of Liberty|!wedding",
        "place of worship": "place-religious|!kaaba",
        "landscape": "place-geographic|!camping|=sunrise",
        "timepiece": "=alarm clock|=clock face|=mantelpiece clock|=stopwatch|=timer clock|=watch"
                     "|=hourglass",
        "cloud": "=cloud|=cloud with lightning|=cloud with rain|=cloud with snow|=sun behind cloud",
        "heavenly body": "=moon|=sun|=ringed planet|=comet|=star|=glowing star|=shooting star",
        "weather": "=cloud|=cloud with lightning|=cloud with rain|=cloud with snow|=fog|=rainbow"
                   "|=snowflake|=sun behind cloud|=tornado|=cyclone|=wind face|=high voltage",
        "clothing": "=bikini|=briefs|=coat|=dress|=gloves|=jeans|=kimono|=lab coat|=necktie"
                    "|=one-piece swimsuit|=safety vest|=sari|=scarf|=shorts|=socks|=t-shirt"
                    "|=woman's clothes|=running shirt|=martial arts uniform",
        "headgear": "=billed cap|=crown|=graduation cap|=military helmet|=top hat|=woman's hat"
                    "|=rescue worker's helmet",
        "footwear": "=ballet shoes|=flat shoe|=high-heeled shoe|=hiking boot|=man's shoe"
                    "|=running shoe|=thong sandal|=woman's boot|=woman's sandal|=ice skate"
                    "|=roller skate",
        "bag": "=backpack|=clutch bag|=handbag|=purse|=shopping bags|=briefcase",
        "eyewear": "=glasses|=goggles|=sunglasses|=diving mask",
        "computer equipment": "computer|!abacus|!battery|!low battery|!electric plug",
        "telephone": "=mobile phone|=mobile phone with arrow|=telephone|=telephone receiver",
        "money": "money|!receipt|!chart increasing with yen|!treasure chest",
        "weapon": "=axe|=bomb|=bow and arrow|=crossed swords|=dagger|=boomerang",
        "sad face": "=crying face|=disappointed face|=frowning face|=loudly crying face"
                    "|=sad but relieved face|=worried face|=pensive face|=downcast face with sweat",
        "angry face": "=angry face|=enraged face|=angry face with horns|=face with steam from nose",
        "furniture": "=bed|=chair|=couch and lamp|=file cabinet",
        "lamp": "=candle|=diya lamp|=flashlight|=light bulb|=red paper lantern",
        "athlete": "person-sport",
        "fantasy figure": "person-fantasy|=ghost|=goblin|=ogre|=unicorn|=dragon|=phoenix",
        "scientific instrument": "=microscope|=telescope|=test tube|=alembic|=petri dish"
                                 "|=stethoscope",
    },
}  # fmt: skip
"""General words by the half of the worlds in which they may be a unit's right word, and what they
are true of: subgroups; ``=``: a concept of any subgroup; ``!``: an exception."""

FOLDERS: dict[str, str | None] = dict.fromkeys(
    (
        "animals", "apes", "aquatic", "auto", "bears", "beverages", "big cats", "birds", "bovines",
        "brass", "breads and carbs", "bugs", "cartoon", "cats", "christmas", "clocks", "clothes",
        "clothing", "cycle", "deer", "desserts", "dishes", "dogs", "easter", "equines", "fish",
        "flight", "flowers", "food", "fruit", "halloween", "hats", "household", "insects",
        "mammals", "marsupials", "medical", "music", "percussion", "planets", "rodents",
        "shellfish", "ship", "space", "sports", "string", "tools", "toys", "transportation",
        "trees", "vegetables", "vehicles", "weather",
    )
) | {
    "horses": "horse", "housecats": "cat", "hummers": "sport utility vehicle", "homes": "house",
}  # fmt: skip
"""Folders of clip art and stamps that are shown, and the concept of all their pictures if any."""


@dataclass(frozen=True)
class Drawing:
    """A source picture that worlds show.

    Parameters
    ----------
    row
        Of the source pictures.
    concept
        The word for what it shows.
    kind
        Subgroup; concepts of one kind are similar.
    design
        The drawing: pictures that differ in colours or shading only share it.
    """

    row: int
    concept: str
    kind: str
    group: str
    design: str


def side(concept: str, group: str) -> str:
    """Return the half of the worlds that shows a concept: "development" or "fresh"."""
    drawn = crc32(f"half of {concept}".encode()) % 100
    return "development" if drawn < SHARE.get(group, 50) else "fresh"


def simplified(label: str) -> str:
    """Return the concept of an emoji's label."""
    label = label.replace("’", "'")
    for _ in range(2):  # a person's direction, then what the person does
        for pattern, concept in SIMPLER:
            if re.fullmatch(pattern, label):
                label = re.sub(f"^{pattern}$", concept, label)
                break
    return label


def drawings(pictures: Sequence[Picture]) -> list[Drawing]:
    """Return the pictures that worlds show; clip art and stamps must be of an emoji's concept."""
    found = [
        Drawing(row, simplified(p.label), p.subgroup, p.group, design_of(p))
        for row, p in enumerate(pictures)
        if p.source in EMOJI_SETS and p.group in GROUPS and p.subgroup not in LEFT_OUT
    ]
    found = [drawing for drawing in found if drawing.concept not in NOT_SHOWN]
    known = {d.concept: d for d in found}
    others = (
        (row, p, known.get(FOLDERS[p.subgroup] or "") or _ends_with(p.label, known))
        for row, p in enumerate(pictures)
        if p.source in ("openclipart", "tuxpaint")
        and p.subgroup in FOLDERS
        and not MISTAKEN.search(p.label)
    )
    return found + [
        Drawing(row, of.concept, of.kind, of.group, f"{p.source}/{p.name}")
        for row, p, of in others
        if of is not None
    ]


def _ends_with(label: str, known: dict[str, Drawing]) -> Drawing | None:
    """Return the concept that is the end of a label."""
    label = re.sub(r"\s*\(.*?\)| b and w$|[^a-z' -]", "", label.lower()).strip()
    tokens = label.split()
    ends = (" ".join(tokens[start:]) for start in range(len(tokens)))
    return next((known[end] for end in ends if end in known), None)


@lru_cache(maxsize=1)
def _rules() -> list[tuple[str, frozenset[str], frozenset[str], frozenset[str]]]:
    rules: list[tuple[str, frozenset[str], frozenset[str], frozenset[str]]] = []
    for words in GENERAL.values():
        for word, pattern in words.items():
            parts = pattern.split("|")
            kinds = frozenset(p for p in parts if p[0] not in "=!")
            listed = frozenset(p[1:] for p in parts if p[0] == "=")
            rules.append((word, kinds, listed, frozenset(p[1:] for p in parts if p[0] == "!")))
    return rules


def words_of(concept: str, kind: str) -> Iterator[str]:
    """Yield all words that are true of a concept: itself, a synonym, and general words."""
    yield concept
    if concept in SYNONYMS:
        yield SYNONYMS[concept]
    for word, kinds, listed, exceptions in _rules():
        if word != concept and concept not in exceptions and (concept in listed or kind in kinds):
            yield word
