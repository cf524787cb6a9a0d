"""How a language model's responses are decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from rankbench.settings.base import added, finite, neutrals, plain, require

if TYPE_CHECKING:
    from rankbench.settings.run import Run

WAYS = ("greedy", "beam", "sample")
ONLY_OF = {  # settings that one way alone reads
    "num_beams": "beam",
    "length_penalty": "beam",
    "early_stopping": "beam",
    "temperature": "sample",
    "top_k": "sample",
    "top_p": "sample",
}


class NgramOf(Enum):
    """Which tokens may not be repeated: the response's, or the prompt's too."""

    all = "all"
    generated = "generated"


@dataclass
class Generation:
    """How responses are decoded; `task.max_new_tokens` bounds them."""

    name: str = added("greedy")
    """greedy, beam or sample."""
    num_beams: int = added(1)
    """Beams of the search."""
    length_penalty: float = added(1.0)
    """A finished beam's score is its summed log-probability over its length to this power: above 0 favours long
    ones."""
    early_stopping: Any = added(False)
    """When a search ends: `true` once there are num_beams finished, `false` where a better one is unlikely, `never`
    where none can come."""
    no_repeat_ngram_size: int = added(0)
    """No sequence of so many tokens comes twice (0: any may)."""
    no_repeat_ngram_of: NgramOf = added(NgramOf.all)
    """`all` counts the prompt's tokens too, as transformers does; `generated` the response's alone."""
    min_new_tokens: int = added(0)
    """No end mark before so many tokens."""
    stop_texts: list[str] = added([])
    """Texts that end a response and are cut off; `\\n` in one is a line break."""
    temperature: float = added(1.0)
    """What logits are divided by before a draw."""
    top_k: int = added(0)
    """Draw among so many of the likeliest tokens (0: all)."""
    top_p: float = added(1.0)
    """Draw among the likeliest tokens that have this share together."""

    @property
    def stops(self) -> list[str]:
        """The stop texts as they stand in a response: a command line has no line breaks."""
        return [text.replace("\\n", "\n") for text in self.stop_texts]

    @property
    def changed(self) -> dict[str, Any]:
        """What is set otherwise than by default, but the name."""
        return {
            name: plain(getattr(self, name))
            for name, neutral in neutrals(self).items()
            if name != "name" and plain(getattr(self, name)) != neutral
        }

    @property
    def bare(self) -> bool:
        """Whether it is greedy decoding and nothing else."""
        return self.name == "greedy" and not self.changed

    @property
    def of_transformers(self) -> dict[str, Any]:
        """What of it transformers' GenerationConfig says too, in its names."""
        said = {key: value for key, value in self.changed.items() if key not in ("stop_texts", "no_repeat_ngram_of")}
        if self.no_repeat_ngram_of is NgramOf.generated:
            said.pop("no_repeat_ngram_size")
        if self.name == "sample":
            said["top_k"] = self.top_k  # where nothing is said it has one
        return {"do_sample": self.name == "sample", **said}

    @property
    def own(self) -> list[str]:
        """Settings that transformers' GenerationConfig lacks."""
        return [key for key in ("no_repeat_ngram_of", "stop_texts") if key in self.changed]

    def __str__(self) -> str:
        """In words: `beam num_beams=4`."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.changed.items())])

    def check(self, run: Run) -> None:
        """Raises RequestError."""
        require(self.name in WAYS, f"generation.name={self.name} is not known; choose generation={'|'.join(WAYS)}")
        require(
            self.bare or run.task.kind == "causal_lm",
            f"generation: {self} says how responses are decoded, and a {run.task.kind} task has none; leave it out",
        )
        require(
            self.bare or not run.task.choices,
            f"generation: {self} says how responses are decoded, and task.choices leave one token to choose; leave one "
            "of them out",
        )
        require(self.num_beams >= 1, f"generation.num_beams={self.num_beams} must be at least 1")
        for key in self.changed:
            way = ONLY_OF.get(key, self.name)
            require(
                way == self.name,
                f"generation.{key} is read by generation={way}, and this is generation={self.name}; give "
                f"generation={way}, or leave {key} out",
            )
        require(
            self.name != "beam" or self.num_beams > 1,
            "generation=beam with one beam is greedy decoding; give generation.num_beams=4, or generation=greedy",
        )
        for key in ("no_repeat_ngram_size", "min_new_tokens", "top_k"):
            require(getattr(self, key) >= 0, f"generation.{key}={getattr(self, key)} must not be negative")
        longest = run.task.max_new_tokens
        require(
            self.min_new_tokens <= longest,
            f"generation.min_new_tokens={self.min_new_tokens} is above task.max_new_tokens={longest}; lower it",
        )
        require(
            self.no_repeat_ngram_of is NgramOf.all or self.no_repeat_ngram_size > 0,
            "generation.no_repeat_ngram_of says whose n-grams may not be repeated; give "
            "generation.no_repeat_ngram_size=4 with it",
        )
        require(all(self.stop_texts), "generation.stop_texts has an empty text, which would end every response")
        require(math.isfinite(self.length_penalty), "generation.length_penalty must be finite; 1.0 is the default")
        require(
            any(self.early_stopping is one for one in (True, False)) or self.early_stopping == "never",
            f"generation.early_stopping={self.early_stopping} must be true, false or never",
        )
        require(
            finite(self.temperature),
            f"generation.temperature={self.temperature} must be above 0; generation=greedy draws nothing",
        )
        require(0 < self.top_p <= 1, f"generation.top_p={self.top_p} must be above 0 and at most 1")
