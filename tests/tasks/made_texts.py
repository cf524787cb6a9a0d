"""Texts made up for the metrics: quotes, brackets, signs, an empty one, a line break, one reference to four."""

TEXTS = [
    "A quiet tea room by the harbour, rated 4 out of 5.",
    "the old mill serves soup (and bread)",
    "",
    "It isn't dear: £12.50 for two",
    "café — open at 10.30 a.m.\nand closed on Sundays",
    "no such place",
    "The garden, the garden, the garden",
    "Trains leave at 9 and return at 5",
]
REFERENCES = [
    ["By the harbour there is a quiet tea room rated 4 out of 5.", "A quiet tea room, by the harbour; it has 4 of 5."],
    ["The Old Mill serves soup and (dark) bread."],
    ["Nothing was said.", "Silence"],
    ["It is not dear, £12.50 for two.", "It isn't dear: two pay £12.50.", "For two it isn't dear"],
    ["The café is open at 10.30 a.m. and closed on Sundays.", "Open at 10.30 a.m., the café is closed on Sundays"],
    ['The cannery\'s harbour view "is" second to none', "cannot say"],
    ["The garden is behind the house."],
    [
        "At 9 the trains leave and at 5 they return.",
        "Trains leave at 9, returning at 5",
        "Return trains: 5",
        "Trains leave at 9 and return at 5",
    ],
]

# What the packages themselves say: pycocoevalcap 1.2 (Cider, Rouge and, over its Java tokens, Meteor), rouge-score
# 0.1.2 (F, the best reference) and pyter3 0.3 (the least of a row's references, the mean of rows).
OFFICIAL = {
    "cider_e2e": 3.593118037528077,
    "rouge_l_e2e": 0.6027882292827944,
    "rouge_1": 0.6435096153846154,
    "rouge_2": 0.5255099067599067,
    "rouge_l": 0.6166666666666667,
    "ter_webnlg": 0.48683571330630154,
    "meteor_e2e": 0.39004609987346367,
}
