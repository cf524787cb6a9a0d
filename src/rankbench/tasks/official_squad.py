"""SQuAD's own files: questions below paragraphs below articles."""

from __future__ import annotations

from typing import Any


def rows(found: dict[str, Any]) -> list[dict[str, Any]] | None:
    """A row for each question, in order, with the columns that the hub's copy has; None for another file."""
    articles = found.get("data")
    if not isinstance(articles, list) or not all(isinstance(a, dict) and "paragraphs" in a for a in articles):
        return None
    return [
        {
            "id": asked.get("id"),
            "title": article.get("title"),
            "context": paragraph.get("context"),
            "question": asked.get("question"),
            "answers": asked.get("answers"),
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for asked in paragraph.get("qas", [])
    ]
