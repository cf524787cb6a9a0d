"""Conversations as a row of data holds them, in one form: messages of a role and a text, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rankbench.errors import RequestError
from rankbench.settings.task import Task

Message = dict[str, str]  # role, content
Chat = list[Message]

ROLES = ("system", "user", "assistant")
SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"}
TOOLS = ("tool", "function", "observation", "function_call", "ipython")
UNREAD = ("tool_calls", "function_call", "tool_call_id", "reasoning_content", "reasoning", "thinking", "audio")


def chat_of(cell: Any, task: Task, place: str) -> Chat:
    """The messages of a row's cell, behind `task.system` where they begin with no system prompt.

    Messages are {role, content}, or ShareGPT's {from, value}; a text is JSON, as CSV can hold it. Raises RequestError.
    """
    place = f"{place}: '{task.messages_column}'"
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise RequestError(f"{place} is a text, not a list of messages; {_SHAPE}") from error
    cell = cell.tolist() if hasattr(cell, "tolist") else cell  # an array, as pandas reads parquet
    if not isinstance(cell, list | tuple) or not cell:
        what = "empty" if cell is None or cell == [] else f"{_brief(cell)}, not a list of messages"
        raise RequestError(f"{place} is {what}; {_SHAPE}")
    return begun([_message(one, f"{place}: message {number} (from 0)") for number, one in enumerate(cell)], task)


def learnt(chat: Chat, place: str) -> Chat:
    """A conversation up to its last answer, which is all that can be learnt of it. Raises RequestError for none."""
    answers = [number for number, message in enumerate(chat) if message["role"] == "assistant"]
    for number in answers:
        if not chat[number]["content"].strip():
            raise RequestError(f"{place}: an assistant's turn is empty; correct or remove the row")
    if not answers:
        raise RequestError(f"{place}: no turn is the assistant's, so there is nothing to learn; remove the row")
    return chat[: answers[-1] + 1]


def asked(chat: Chat) -> Chat:
    """What is to be answered: all before the last turn where that is the assistant's, else all."""
    return chat[:-1] if chat[-1]["role"] == "assistant" else chat


def begun(chat: Chat, task: Task) -> Chat:
    """The conversation behind `task.system`, where it begins with no system prompt of its own."""
    if task.system is None or chat[0]["role"] == "system":
        return chat
    return [{"role": "system", "content": task.system}, *chat]


def instructed(task: Task, prompt: str, response: str | None = None) -> Chat:
    """A prompt as the user's turn, and its response as the assistant's."""
    chat = begun([{"role": "user", "content": prompt}], task)
    return chat if response is None else [*chat, {"role": "assistant", "content": response}]


def told(chat: Chat) -> str:
    """A conversation as one text, to tell it from others."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in chat)


_SHAPE = 'write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'


def _message(given: Any, place: str) -> Message:
    if not isinstance(given, Mapping):
        raise RequestError(f"{place} is {_brief(given)}, not an object; {_SHAPE}")
    if further := [key for key in UNREAD if given.get(key)]:
        raise RequestError(f"{place} has {further[0]}, which is not learnt here; take such rows out of the data")
    if given.get("weight") not in (None, 1):
        raise RequestError(
            f"{place} has weight {given['weight']}; every answer is learnt alike: take the key out, or the row"
        )
    role, content, key = given.get("role"), given.get("content"), "content"
    if role is None and given.get("from") is not None:
        role, content, key = given["from"], given.get("value"), "value"
        role = SHAREGPT.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise RequestError(f"{place} has the role {_brief(role)}; {_mend(role)}")
    return {"role": role, "content": _text(content, f"{place}: its {key}")}


def _mend(role: Any) -> str:
    if role in TOOLS:
        return "calls of tools are not learnt here; take such rows out of the data"
    if role == "developer":
        return "call it system"
    return f"known are {', '.join(ROLES)}, and of messages with 'from' human and gpt"


def _text(content: Any, place: str) -> str:
    """A text, or the joined texts of a list of parts. Raises RequestError for any other part."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        what = "empty" if content is None else f"{_brief(content)}, not text"
        raise RequestError(f"{place} is {what}; correct or remove the row")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RequestError(f"{place} has a part of type {kind!r}, not text; take such rows out of the data")
    return "".join(part["text"] for part in content)


def _brief(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
