"""Conversations as tokens by the tokenizer's own chat template, and which of the tokens are the assistant's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from rankbench.errors import RequestError
from rankbench.settings.task import Task
from rankbench.tasks.chats import Chat
from rankbench.tasks.token_cache import Ids

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers looks for it
_ANSWER = "reply"
_PROBE = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _ANSWER}]
_MARKS = "put {% generation %} and {% endgeneration %} around the assistant's turn in the template"

Place = Callable[[int], str]  # what messages call a row


@dataclass(frozen=True)
class Row:
    """A conversation's tokens, which of them are scored, and those that its last answer is generated from."""

    tokens: list[int]
    scored: list[bool]
    prompt: list[int]


def rows(chats: Sequence[Chat], place: Place, tokenizer: Any, ids: Callable[..., Ids]) -> list[Row]:
    """Conversations that end in the assistant's turn. Scored is each such turn and the mark that ends it.

    Where the template has `{% generation %}`, that says what is the assistant's; else what it writes behind the
    prompt for an answer. Nothing behind a turn's end mark is scored, since nothing is generated there. Raises
    RequestError.
    """
    end = turn_end(tokenizer)
    read = _by_marks if _marked(tokenizer) else _by_prompts
    found = read(chats, place, tokenizer, ids)
    for number, row in enumerate(found):
        if not any(row.scored):
            raise RequestError(f"{place(number)}: the chat template writes no turn of the assistant; correct it")
    return [_ended(row, end) for row in found]


def prompts(chats: Sequence[Chat], place: Place, tokenizer: Any, ids: Callable[..., Ids]) -> list[list[int]]:
    """The tokens that an answer to each conversation is generated from. Raises RequestError."""
    texts = [_rendered(tokenizer, chat, place(number), prompt=True) for number, chat in enumerate(chats)]
    return ids(tokenizer, [texts], add_special_tokens=False)["input_ids"]


def ends(task: Task, tokenizer: Any) -> frozenset[int]:
    """The mark that ends an assistant's turn, where the task's texts are chats. Raises RequestError."""
    return frozenset({turn_end(tokenizer)} if task.chats else ())


def dated(tokenizer: Any) -> bool:
    """Whether the template writes today's date."""
    return "strftime_now" in _template(tokenizer)


def turn_end(tokenizer: Any) -> int:
    """The token that the template ends an assistant's turn with. Raises RequestError where it has none."""
    head, said = _rendered(tokenizer, _PROBE[:1], prompt=True), _rendered(tokenizer, _PROBE)
    header, _, after = said.removeprefix(head).rpartition(_ANSWER)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {*tokenizer.all_special_ids}
    found = [token for token in _ids(tokenizer, after) if token in special]
    if not found:
        raise RequestError(
            "the tokenizer's chat template puts no end mark after the assistant's turn, so no answer would ever end; "
            "write {{ eos_token }} there"
        )
    if _marked(tokenizer):
        tokens, scored = _by_mark(_PROBE, tokenizer)
        if not any(own and token == found[0] for token, own in zip(tokens, scored, strict=True)):
            raise RequestError(
                "the {% generation %} block of the tokenizer's chat template leaves out a turn's end mark, so no "
                "answer would ever end; move {% endgeneration %} behind the mark"
            )
    elif said.startswith(head) and ("assistant" in header.lower() or special & {*_ids(tokenizer, header)}):
        raise RequestError(
            "the tokenizer's chat template writes no header of the assistant where add_generation_prompt asks for it; "
            "add {% if add_generation_prompt %} and the header to its end"
        )
    return found[0]


def _by_marks(chats: Sequence[Chat], place: Place, tokenizer: Any, ids: Callable[..., Ids]) -> list[Row]:
    """By what the template itself marks as the assistant's."""
    before = prompts([chat[:-1] for chat in chats], place, tokenizer, ids)
    return [
        Row(*_by_mark(chat, tokenizer, place(number)), prompt)
        for number, (chat, prompt) in enumerate(zip(chats, before, strict=True))
    ]


def _by_mark(chat: Chat, tokenizer: Any, place: str | None = None) -> tuple[list[int], list[bool]]:
    try:
        made = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    except Exception as error:  # a template is code, and fails in as many ways
        raise _refusal(place, error) from error
    return list(made["input_ids"]), [bool(part) for part in made["assistant_masks"]]


def _by_prompts(chats: Sequence[Chat], place: Place, tokenizer: Any, ids: Callable[..., Ids]) -> list[Row]:
    """By what stands behind the prompt for each answer: the text is parted there, and tokenised whole and in parts.

    A token that goes over a border is parted too: generation sees the very tokens that training saw.
    """
    ways = [_prefixes(tokenizer, chat, place(number)) for number, chat in enumerate(chats)]
    wholes = ids(tokenizer, [[way[-1] for way in ways]], add_special_tokens=False)["input_ids"]
    parts = [[text[len(before) :] for before, text in pairwise(["", *way])] for way in ways]
    apart = iter(ids(tokenizer, [[part for own in parts for part in own]], add_special_tokens=False)["input_ids"])
    found = []
    for way, whole in zip(ways, wholes, strict=True):
        own = [next(apart) for _ in way]
        borders = list(accumulate(map(len, own)))
        tokens = whole
        if [token for part in own for token in part] != whole:
            tokens, borders = _parted(way, own, tokenizer)
        scored = [False] * len(tokens)
        for start, stop in zip(borders[::2], borders[1::2], strict=True):
            scored[start:stop] = [True] * (stop - start)
        found.append(Row(tokens, scored, tokens[: borders[-2]]))
    return found


def _parted(way: Sequence[str], parts: Sequence[list[int]], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens of a text and the borders of its prefixes, for a tokenizer that reads a part otherwise than in the text.

    Each prefix is tokenised whole; where a token would go over a border, what follows is the part's own tokens.
    """
    tokens: list[int] = []
    borders = []
    for prefix, part in zip(way, parts, strict=True):
        longer = _ids(tokenizer, prefix)
        tokens = longer if longer[: len(tokens)] == tokens else [*tokens, *part]
        borders.append(len(tokens))
    return tokens, borders


def _prefixes(tokenizer: Any, chat: Chat, place: str) -> list[str]:
    """For each turn of the assistant the text that asks for it and the text with it; the last is the whole."""
    whole = _rendered(tokenizer, chat, place)
    found: list[str] = []
    for number, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        head = _rendered(tokenizer, chat[:number], place, prompt=True)
        said = whole if number + 1 == len(chat) else _rendered(tokenizer, chat[: number + 1], place)
        if not said.startswith(head):
            first = "; or begin with a turn of another, such as task.system" if number == 0 else ""
            raise RequestError(
                f"{place}: with turn {number} (from 0) the chat template writes another text before the answer than "
                f"the prompt for it, so the answer cannot be found; {_MARKS}{first}"
            )
        if not whole.startswith(said):
            raise RequestError(
                f"{place}: the chat template writes turn {number} (from 0) otherwise once others follow, as those do "
                f"that drop the thinking of earlier turns; {_MARKS}, or give each answer a row that ends in it"
            )
        found += [head, said]
    return found


def _ended(row: Row, end: int) -> Row:
    """The row up to its last scored token; of each scored stretch, what follows its last end mark is not scored."""
    scored = list(row.scored)
    start = 0
    while start < len(scored):
        stop = start
        while stop < len(scored) and row.scored[stop]:
            stop += 1
        marks = [place for place in range(start, stop) if row.tokens[place] == end]
        if marks:
            scored[marks[-1] + 1 : stop] = [False] * (stop - marks[-1] - 1)
        start = stop + 1
    length = max(place for place, one in enumerate(scored) if one) + 1
    return Row(row.tokens[:length], scored[:length], row.prompt)


def _rendered(tokenizer: Any, chat: Chat, place: str | None = None, prompt: bool = False) -> str:
    _template(tokenizer)
    try:  # a list of one, since transformers refuses an empty conversation that is alone
        (text,) = tokenizer.apply_chat_template([chat], tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # a template is code, and fails in as many ways
        raise _refusal(place, error) from error
    return str(text)


def _refusal(place: str | None, error: Exception) -> RequestError:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    if place is None:
        return RequestError(f"the tokenizer's chat template refuses a question with its answer ({cause}); correct it")
    return RequestError(f"{place}: the tokenizer's chat template refuses it ({cause}); correct or remove the row")


def _template(tokenizer: Any) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise RequestError(
            "the model's tokenizer has no chat template, by which task.template=chat makes its texts; choose a model "
            "made for chats, or put a chat_template.jinja into the model's folder"
        ) from error


def _marked(tokenizer: Any) -> bool:
    return bool(_GENERATION.search(_template(tokenizer)))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
