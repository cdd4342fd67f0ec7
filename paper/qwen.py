"""Qwen3's tokenizer: text -> the token ids that the paper's model reads. It needs transformers."""
import functools
from pathlib import Path


def qwen_ids(text: str, folder) -> list[int]:
    """Text -> the token ids before the first patch: Qwen3's chat template, cut where the answer
    (the speech) begins."""
    tokenizer = qwen_tokenizer(str(folder))
    chat = [{"role": "user", "content": text},
            {"role": "assistant", "content": "<SPEECH_FRAME>"}]
    whole = tokenizer.apply_chat_template(chat, tokenize=False, enable_thinking=False)
    prompt = whole.partition("<SPEECH_FRAME>")[0]
    return tokenizer(prompt, add_special_tokens=False)["input_ids"]


def find_tokenizer(folder) -> Path | None:
    """The folder at or below this one that holds a tokenizer."""
    if not folder or not Path(folder).is_dir():
        return None
    found = next(Path(folder).rglob("tokenizer_config.json"), None)
    return found and found.parent


@functools.lru_cache
def qwen_tokenizer(folder: str):
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise RuntimeError(
            "the paper's model reads Qwen3's tokens: pip install transformers") from None
    try:
        return AutoTokenizer.from_pretrained(folder)
    except OSError as error:
        reason = str(error).splitlines()[0][:120]
        raise FileNotFoundError(f"{folder}: no tokenizer of Qwen3 here ({reason})") from None
