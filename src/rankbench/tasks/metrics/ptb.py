"""Tokens of the Penn Treebank as coco-caption leaves them: lower case, without punctuation.

Written after what Stanford CoreNLP's PTBTokenizer gives, which the E2E challenge's script runs in Java: the same tokens
for all texts of the E2E data and nearly all of DART's; rarer signs may be parted otherwise.
"""

from __future__ import annotations

import functools
import re

ALWAYS = (  # words that keep their point
    "mr mrs ms drs dr prof st rev gen sen gov lt col capt sgt maj pres hon messrs adm cmdr rep reps sens pvt jr sr inc "
    "co corp ltd cos bros assn univ dept est vs etc ave blvd rd ft mt bldg ph esq al jan feb mar apr jun jul aug sep "
    "sept oct nov dec mon tue tues wed thu thurs fri calif fla conn va ga ind mich minn mont nev okla penn tenn vt wis "
    "wyo ala ariz colo kan ky md mo neb plc intl adv cf sq tel ext natl bhd rt bancorp sys seq elec assoc supt atty "
    "asst brig pfc"
)
CAPITAL = "Mass Pa Ill Miss Ore Tex Wash Ark Del La"  # that keep it with a capital letter
BEFORE_NUMBER = "no nos pp fig art ca op"  # that keep it before a number

LETTER = r"[^\W\d_]"
PART = r"(?:[^\W_]|[\u0300-\u036f])"
SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
FORMS = rf"""
    < /? [A-Za-z] [^<>\s]* /?>                                   # tags
    | (?:https?://|www\.) [^\s"<>|()]+ [^\s"<>|().,;:!?'-]          # addresses
    | [\w.+-]+ @ \w+ (?:\.\w+)+ | [@\#] {LETTER} \w*
    | (?i: can(?=not\b) | gon(?=na\b) | got(?=ta\b) | wan(?=na\b) | lem(?=me\b) | gim(?=me\b) | '?t(?=is\b|was\b) )
    | [A-Za-z0-9] [A-Za-z0-9.,]* (?:-[A-Za-z0-9]+ (?:(?<=-[A-Za-z])(?:\.[A-Za-z])+\.)? )+ (?!{PART})
    | {SLASHED} (?:/{SLASHED}){{1,2}} (?!{PART})
    | (?:\d-)? \d+ / \d+ | [A-Z]{{0,2}}\$
    | [A-Z]+ (?:&[A-Z]+)+ (?!{PART})
    | {LETTER} (?:\.{LETTER})+ (?: \.(?!{PART}) )? (?:-[A-Za-z0-9]+)* (?!{PART}) | (?<!\d){LETTER}\. (?!{PART})
    | (?:(?i: {ALWAYS.replace(" ", "|")} ) | {CAPITAL.replace(" ", "|")} ) \. (?!{LETTER})
    | (?i: {BEFORE_NUMBER.replace(" ", "|")} ) \. (?=\d)
    | (?i: n't | '(?:s|m|d|ll|re|ve|em|n'?) ) (?!{PART}) | '\d\ds? (?!{PART})
    | [+-]? \d* (?:[.,:]\d+)+ | [+-] \d+ (?!{PART})
    | (?i: y'(?=all\b) ) | {PART}+? (?i: (?=n't(?!{PART})) )
    | (?: [dDoOlL]'(?={LETTER}{{2}}) | [A-HJ-XZn]'(?={LETTER}{{3}}) ) {LETTER}+
    | {LETTER}*[aeiouyAEIOUY]'[aeiouAEIOU]{LETTER}*
    | {LETTER}{PART}* (?:[.!?]{LETTER}{PART}*)+ (?: \.(?=[,;:]) )?
    | {PART}+ (?:-{PART}+)+ | {LETTER}{PART}* \. (?=[,;:]) | \w+ _ \w+ | {PART}+
    | [:;=] -? [()DPp] (?!{PART}) | -{{5,}} | -- | \*+ | \#\#+ | __+ | [?!]+ | \S
"""
TOKEN = re.compile(FORMS, re.VERBOSE)

SIGNS = str.maketrans(
    dict.fromkeys("’´", "'") | {"‘": "`", "“": '"', "”": '"', "…": " ", "\xad": ""} | dict.fromkeys("–—―", " -- ")
)
AS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "£": "#", "€": "$"}
AS |= {"½": "1/2", "¼": "1/4", "¾": "3/4", "¢": "cents"}
ENTITIES = {"&amp;": "&", "&lt;": " < ", "&gt;": " > ", "&quot;": ' " '}
MARKS = "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;"
PUNCTUATION = frozenset(MARKS.split())  # what coco-caption drops
NUMBERED = {f"{form}." for word in BEFORE_NUMBER.split() for form in (word, word.title(), word.upper())}
DROPPED = PUNCTUATION | {'"'}


def tokenized(text: str) -> list[str]:
    """The tokens of a text."""
    for entity, sign in ENTITIES.items() if "&" in text else ():
        text = text.replace(entity, sign)
    parts = text.translate(SIGNS).split()
    found: list[str] = []
    for part, after in zip(parts, [*parts[1:], ""], strict=False):
        found += (part.lower(),) if part in NUMBERED and after[:1].isdigit() else _tokens(part)
    return found


@functools.lru_cache(2**16)
def _tokens(part: str) -> tuple[str, ...]:
    """The tokens of what stands between two blanks."""
    found = (token.lower() for token in TOKEN.findall(part) if token not in DROPPED)
    return tuple(AS.get(token) or token.translate(BRACKETS) for token in found)


BRACKETS = str.maketrans({"(": "-lrb-", ")": "-rrb-"})  # in signs such as :)
