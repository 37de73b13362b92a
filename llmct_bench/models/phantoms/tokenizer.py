"""The phantoms' tokenizer: one token per word, with a chat template of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmct_bench.emotions import lexicon

BOS, PAD, UNKNOWN, END = "<s>", "<pad>", "<unk>", "<|end|>"
ROLE_MARKERS = {"user": "<|user|>", "assistant": "<|assistant|>", "system": "<|system|>"}
SPECIAL = (BOS, PAD, UNKNOWN, END, *ROLE_MARKERS.values())
_WORD = r"[a-z]+(?:'[a-z]+)?|[0-9]+|[^\sa-z0-9]"
_TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{{ m['content'] }}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def split_words(text: str) -> list[str]:
    """The words, numbers and marks of a text, lower case: the phantoms' tokens."""
    return re.findall(_WORD, text.lower())


def vocabulary(texts: Iterable[str]) -> list[str]:
    """All words of the texts and of the lexicon, sorted."""
    found = set(lexicon())
    for text in texts:
        found.update(split_words(text))
    return sorted(found)


def build_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A fast tokenizer over ``words``; anything else becomes ``<unk>``, which carries no emotion."""
    ids = {token: i for i, token in enumerate((*SPECIAL, *words))}
    core = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=list(ROLE_MARKERS.values()),
        chat_template=_TEMPLATE,
        model_max_length=4096,
    )
