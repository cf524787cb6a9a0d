"""Chat templates over the marks of the byte tokenizer, as models have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rankbench.models import backbone

HEAD = "{% for m in messages %}"
ASK = "{% if add_generation_prompt %}[CLS]assistant\n{% endif %}"
CHATML = HEAD + "[CLS]{{ m['role'] }}\n{{ m['content'] }}[SEP]\n{% endfor %}" + ASK
MARKED = (
    HEAD + "[CLS]{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}[SEP]\n"
    "{% endgeneration %}{% else %}{{ m['content'] }}[SEP]\n{% endif %}{% endfor %}" + ASK
)
# A header that is no token of its own, the beginning mark written by the template, no mark in the prompt for an answer.
LLAMA2 = (
    "[PAD]" + HEAD + "{% if m['role'] == 'assistant' %} {{ m['content'] | trim }} [SEP]"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)
FORGETS = (  # it drops what an earlier turn thought
    HEAD + "[CLS]{{ m['role'] }}\n{% if m['role'] == 'assistant' and not loop.last %}"
    "{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}[SEP]\n{% endfor %}" + ASK
)
THINKS = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")  # the prompt begins to think
ENDLESS = CHATML.replace("[SEP]", "")
HEADLESS = CHATML.removesuffix(ASK)
SHORT_BLOCK = MARKED.replace("[SEP]\n{% endgeneration %}", "{% endgeneration %}[SEP]\n")
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
# Its turns end with a mark that neither the tokenizer nor the settings for generation know as one.
OTHER_END = (
    HEAD + "{{ m['role'] }}: {{ m['content'] }}[CLS]\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
DATED = "{{ strftime_now('%d') }}" + CHATML


def tokenizer(template: str | None, merges: bool = False, prefix: bool = False) -> Any:
    """The byte tokenizer with a template; with a token for two line breaks, or a space before each stretch of text."""
    from tokenizers import pre_tokenizers

    made = backbone.byte_tokenizer()
    if merges:
        made.add_tokens(["\n\n"])
    if prefix:
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    made.chat_template = template
    return made


def with_template(folder: Path, template: str | None) -> Path:
    """A model's folder whose tokenizer has this template."""
    tokenizer(template).save_pretrained(folder)
    return folder
