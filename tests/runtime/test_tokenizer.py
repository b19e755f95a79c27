"""Text to ids, and chats to prompts through templates that strangers wrote."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import tokenizers
from support.tiny_llama import CHAT_TEMPLATE, tokenizer_json
from support.two_tokenizers import byte_fallback, byte_level

from rbee_runtime.errors import ArtifactError, InvalidRequest
from rbee_runtime.tokenizer import Tokenizer

USER = [{"role": "user", "content": "Hi 🙂"}]


def chat(template: str | None) -> Tokenizer:
    library = tokenizers.Tokenizer.from_str(tokenizer_json())
    return Tokenizer(library, template, bos_token_id=1, eos_token_id=2)


def test_text_comes_back() -> None:
    text = "Once upon a time… 你好 🙂\n\ttabs"
    assert byte_level().decode(byte_level().encode(text)) == text


def test_special_tokens_in_the_text_are_recognised_and_have_no_text() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|>")
    assert (ids[0], ids[-1]) == (1, 2)
    assert tokenizer.decode(ids) == "user\nhi"


def test_the_prefix_is_added_once() -> None:
    tokenizer = byte_fallback()
    plain = tokenizer.encode("hello")
    assert plain[0] == 1
    assert plain[1] != 1
    assert tokenizer.encode("<s>hello")[:2] != [1, 1]
    assert tokenizer.encode("<s>hello")[0] == 1
    assert tokenizer.encode("<s><s>hello")[:3] != [1, 1, 1]  # what the text says twice stays


LONG = "Once upon a time… 你好 🙂\n\ttabs" * 400


def test_a_long_text_has_the_same_tokens() -> None:
    library = tokenizers.Tokenizer.from_str(tokenizer_json())
    text = f"<|im_start|>{LONG}<|im_end|>"
    assert byte_level().encode(text) == library.encode(text).ids
    ids = byte_fallback().encode(LONG)
    assert (ids[0], ids.count(1)) == (1, 1)
    assert byte_fallback().encode(f"<s>{LONG}")[:2] == [1, ids[1]]
    assert byte_fallback().decode(ids) == LONG


def test_others_go_on_while_a_long_text_is_encoded() -> None:
    turns, over = 0, False

    def turn() -> None:
        nonlocal turns
        while not over:
            turns += 1
            time.sleep(0)

    tokenizer, text = byte_level(), LONG * 40
    other = threading.Thread(target=turn)
    other.start()
    try:
        before = turns
        tokenizer.encode(text)
        after = turns
    finally:
        over = True
        other.join()
    # With the lock held throughout, it would have one or two, just before and after.
    assert after - before > 20


@pytest.mark.parametrize("before", ["", LONG])
def test_half_a_surrogate_pair_is_refused(before: str) -> None:
    with pytest.raises(InvalidRequest, match="unpaired surrogate") as caught:
        byte_level().encode(before + "a\ud800b")
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("before", ["", "! " * 4096])
def test_a_text_the_tokenizer_gives_up_on_is_refused(
    before: str, capfd: pytest.CaptureFixture[str]
) -> None:
    library = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "!": 1}, []))
    # The library bounds the steps of a pattern, and panics beyond, as usual ones do on millions
    # of spaces.
    pattern = tokenizers.Regex("(a+)+$")
    library.pre_tokenizer = tokenizers.pre_tokenizers.Split(pattern, "isolated")
    tokenizer = Tokenizer(library)
    assert tokenizer.encode("aaa!") == [0, 0, 0, 1]
    with pytest.raises(InvalidRequest, match=r"prompt cannot be tokenized: .*limit") as caught:
        tokenizer.encode(before + "a" * 40 + "!")
    assert caught.value.field == "prompt"
    capfd.readouterr()  # where a panic leaves its trace


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "{}",
        "\ufeff{}",
        "[1]",
        '{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},"merges":[]},'
        '"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"}}',
    ],
)
def test_a_damaged_file(content: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(ArtifactError) as caught:
        Tokenizer.open(file, None, None, None)
    assert str(caught.value).startswith(f"{file}: not a tokenizer")
    assert "\n" not in str(caught.value)


def test_a_chat_becomes_a_prompt_for_the_next_answer() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert chat(CHAT_TEMPLATE).render_chat([system, *USER]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi 🙂<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_templates_know_the_special_tokens() -> None:
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    assert chat(template).render_chat(USER) == "<|im_start|>Hi 🙂<|im_end|>"
    bare = Tokenizer(tokenizers.Tokenizer.from_str(tokenizer_json()), template)
    assert bare.render_chat(USER) == "Hi 🙂"


def test_templates_know_the_tools() -> None:
    template = "{% if tools is not none %}{{ tools[0].name }}{% else %}none{% endif %}"
    tokenizer = chat(template)
    assert tokenizer.render_chat(USER) == "none"
    assert tokenizer.render_chat(USER, [{"name": "weather"}]) == "weather"


def test_templates_are_laid_out_and_looped_as_usual() -> None:
    template = (
        "{% for message in messages %}\n    {% if loop.index > 1 %}\n{% break %}\n    {% endif %}\n"
        "{{ message.content | trim }}\n{% endfor %}\n{{ strftime_now('%Y') | length }}"
    )
    assert chat(template).render_chat([*USER, *USER]) == "Hi 🙂\n4"


def test_no_template() -> None:
    with pytest.raises(InvalidRequest, match="no chat template; send a plain prompt") as caught:
        chat(None).render_chat(USER)
    assert caught.value.field == "messages"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception.__globals__['jinja2'] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(content='x') }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{% include '/etc/passwd' %}",
        "{{ '{0.__class__.__mro__}'.format(1).__class__.mro() }}",
    ],
)
def test_templates_cannot_leave_the_sandbox(template: str) -> None:
    with pytest.raises(InvalidRequest, match="the chat template failed"):
        chat(template).render_chat(USER)


def test_the_sandbox_shows_no_internals() -> None:
    assert "class" not in chat("{{ ''.__class__ }}").render_chat(USER)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "the chat template failed"),
        ("{{ messages[0].content + 1 }}", "the chat template failed"),
        ("{{ messages[0]['nothing']['there'] }}", "the chat template failed"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 'a'.encode('klingon') }}", "klingon"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)
def test_a_template_that_fails_is_the_requests_fault(template: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        chat(template).render_chat(USER)
    assert caught.value.field == "messages"
