"""What a model answers: replies that it generates itself, as the tokens that it chose and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig

from llmct_bench.adapters import LoadedModel
from llmct_bench.adapters.architectures import UNCACHED
from llmct_bench.adapters.chat import content_span, encode, open_tokens, render_text
from llmct_bench.errors import ModelError
from llmct_bench.suites import Turn


@dataclass(frozen=True)
class Reply:
    """``tokens`` as they were generated after ``prompt``, less the one that ended them; ``texts``: what each adds to
    the text (nothing where a character is not complete yet); ``closing``: what the template writes after a reply."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    closing: tuple[int, ...]


def generate_reply(model: LoadedModel, messages: Sequence[Turn], length: int) -> Reply:
    """Let a model answer a conversation greedily with at most ``length`` tokens, whatever sampling or penalties its own
    settings ask for. Raises ModelError where the reply does not fit into the context or is empty."""
    name, tokenizer = model.card.name, model.tokenizer
    prompt = _prompt(messages, tokenizer)
    if len(prompt) + length > model.context:
        raise ModelError(
            f"{name}: {len(prompt)} tokens of conversation and a reply of {length} exceed its context of "
            f"{model.context} tokens: ask for a shorter reply"
        )
    ends = _ends(model)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=length,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        use_cache=model.adapter.model_type not in UNCACHED,
    )
    ids = torch.tensor([prompt], device=model.device)
    with torch.inference_mode():
        out = model.adapter.module.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)  # type: ignore[operator]
    found = [int(i) for i in out[0, len(prompt) :]]
    tokens = found[:-1] if found and found[-1] in ends else found
    texts = token_texts(tokens, tokenizer)
    if not "".join(texts).strip():
        raise ModelError(f"{name} answers nothing: it ends its reply at once")
    return Reply(prompt, tuple(tokens), texts, _closing(messages, tokenizer))


def token_texts(tokens: Sequence[int], tokenizer: Any) -> tuple[str, ...]:
    """What each token adds to the decoded text; joined they are that text. A character of several tokens belongs to
    the last of them."""
    done, texts = "", []
    for n in range(1, len(tokens) + 1):
        text = str(tokenizer.decode(list(tokens[:n]), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        whole = text.startswith(done) and (n == len(tokens) or not text.endswith("\ufffd"))
        texts.append(text[len(done) :] if whole else "")
        done = text if whole else done
    return tuple(texts)


def _prompt(messages: Sequence[Turn], tokenizer: Any) -> tuple[int, ...]:
    """The conversation up to where the assistant begins to speak. In the plain format that is after ``Assistant:``,
    without the blank, which belongs to the first word."""
    if tokenizer.chat_template is None:
        return open_tokens([render_text(messages, tokenizer) + "Assistant:"], tokenizer)[0]
    plain = [{"role": m.role, "content": m.content} for m in messages]
    try:
        text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ModelError(f"the chat template refuses to let the assistant answer: {error}") from error
    return tuple(encode([str(text)], tokenizer)[0][0])


def _closing(messages: Sequence[Turn], tokenizer: Any) -> tuple[int, ...]:
    """What follows the content of a reply, taken from a harmless one: a template may change what a model wrote."""
    word = "Yes"
    text = render_text([*messages, Turn(role="assistant", content=word)], tokenizer)
    ids, offsets = encode([text], tokenizer)
    return tuple(ids[0][content_span(text, word, offsets[0], "a reply")[1] :])


def _ends(model: LoadedModel) -> list[int]:
    """The tokens that end a reply, by the model's settings and its tokenizer."""
    stated = getattr(getattr(model.adapter.module, "generation_config", None), "eos_token_id", None)
    found = {*(stated if isinstance(stated, list | tuple) else [stated]), model.tokenizer.eos_token_id}
    return sorted(i for i in found if i is not None)
