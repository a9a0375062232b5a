"""The built-in table: what the name of a model tells of what it takes.

Sources: `providers.md` 0.3 (sampling), 2 and 6 (prefill), 1.5 to 1.7, and the vendors' model pages. Only what is sure
stands here. A feature that merely may be missing stays unknown, because a writer leaves a target out on False; where a
wrong True would end in a refusal and a False costs only a detour (structured output through a tool), False is written.

Names come in many spellings of one thing: ``us.anthropic.claude-haiku-4-5-20251001-v1:0`` (Bedrock),
``claude-sonnet-4@20250514`` (Vertex), ``anthropic/claude-sonnet-4.5`` (OpenRouter), an ARN or a path whose last part
is the name.
"""

from __future__ import annotations

import re
from typing import Any, Final

Row = dict[str, Any]
"""Fields of `ModelFacts` by name."""

TEXT_VENDORS: Final = frozenset(
    {"cerebras", "deepinfra", "deepseek", "fireworks", "groq", "ollama", "sambanova", "together", "vllm"}
)
"""OpenAI-shaped platforms whose chat API has no file part."""
CONTINUING_VENDORS: Final = frozenset({"mistral", "openrouter", "vllm"})
"""OpenAI-shaped platforms that go on with a trailing assistant message, with their flags (`providers.md` 2.2, 8.2)."""

_FAMILIES: Final = tuple(
    (family, re.compile(pattern))
    for family, pattern in (
        ("claude", r"claude"),
        ("gpt-oss", r"gpt-oss"),
        ("deepseek", r"deepseek"),
        ("gemini", r"gemini"),
        ("gemma", r"gemma"),
        ("qwen", r"qwen|qwq|qvq"),
        ("mistral", r"mi(?:s|x|nis)tral|codestral|devstral|magistral|pixtral|voxtral"),
        ("llama", r"llama"),
        ("grok", r"grok"),
        ("command", r"command"),
        ("nova", r"nova-(?:2-)?(?:micro|lite|pro|premier|omni|sonic)"),
        ("gpt", r"gpt-?[345]|(?:^|[^a-z0-9])o[134](?:-|$)|codex-mini"),
    )
)

_CLAUDE: Final = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos)-?v?([0-9]{1,2})(?:[-.]([0-9]{1,2}))?(?![0-9])")
_OLD_CLAUDE: Final = re.compile(r"claude-v?([0-9])(?:[-.:]([0-9]))?(?![0-9])(?:-(opus|sonnet|haiku)|(?=[^0-9]|$))")
_GPT5: Final = re.compile(r"gpt-5(?:\.([0-9]{1,2}))?(?![0-9])")
_O_SERIES: Final = re.compile(r"(?:^|[^a-z0-9])o([134])(?:-(mini|preview|pro))?(?![a-z0-9])")
_GEMINI: Final = re.compile(r"gemini-(?:[a-z]+-)*?([0-9]{1,2})(?:\.([0-9]{1,2}))?(?![0-9])")
_LLAMA: Final = re.compile(r"llama-?v?([0-9])(?:[.p-]([0-9])(?![0-9b]))?(?![0-9])")

_BASIC: Final = frozenset({"low", "medium", "high"})
_TO_XHIGH: Final = _BASIC | {"none", "xhigh"}
_TO_MAX: Final = _BASIC | {"xhigh", "max"}


def bare(model: str) -> str:
    """The name in lower case, without the path, account or ARN before it."""
    return model.lower().rstrip("/").rpartition("/")[2]


def family_of(model: str) -> str:
    """Whose model it is; empty: the name does not tell. A distilled model counts as its teacher's."""
    name = bare(model)
    return next((family for family, pattern in _FAMILIES if pattern.search(name)), "")


def row(model: str, dialect: str, vendor: str) -> Row:
    """What is known of the model on this platform, `family` always among it."""
    name, family = bare(model), family_of(model)
    found: Row = {"family": family}
    maker = _MAKERS.get(family)
    if maker is not None:
        found.update(maker(name, dialect, vendor))
    found.update(_platform(family, dialect, vendor, found))
    return found


def _platform(family: str, dialect: str, vendor: str, known: Row) -> Row:
    """What the platform decides, whatever the model can do."""
    if dialect == "bedrock":
        return {"url_images": False}  # Converse and InvokeModel take bytes only
    if dialect == "anthropic":
        return {"url_images": vendor != "vertex"}
    if dialect not in ("openai", "azure"):
        return {}
    found: Row = {}
    is_openai = dialect == "azure" or vendor == "openai" or (family == "gpt" and vendor == "")
    if is_openai:
        found["url_images"] = True
    if is_openai or family == "gpt":
        found["prefill"] = False  # a trailing assistant message is taken, and a new message begun
    elif "prefill" not in known and vendor in CONTINUING_VENDORS:
        found["prefill"] = True
    if vendor in TEXT_VENDORS:
        found["documents"] = False
    return found


# Anthropic ------------------------------------------------------------------------------------------------------------


def claude_generation(name: str) -> tuple[str, tuple[int, int]] | None:
    """(``sonnet``, (4, 5)) of any spelling; the tier is empty for the oldest names. None: the name does not tell."""
    found = _CLAUDE.search(name)
    if found is not None:
        return found[1], (int(found[2]), int(found[3] or 0))
    found = _OLD_CLAUDE.search(name)
    if found is not None:
        return found[3] or "", (int(found[1]), int(found[2] or 0))
    if "instant" in name:
        return "instant", (1, 2)
    if "fable" in name or "mythos" in name:
        return ("fable" if "fable" in name else "mythos"), (5, 0)
    return None


def _claude(name: str, dialect: str, vendor: str) -> Row:
    always: Row = {"audio": False, "video": False, "stop": True}
    found = claude_generation(name)
    if found is None:
        return always
    tier, made = found
    is_newest = tier in ("fable", "mythos")
    if made < (3, 0):
        return {
            **always,
            **dict.fromkeys(("vision", "documents", "tools", "structured", "mid_system"), False),
            **dict.fromkeys(("prefill", "sampling", "both_sampling"), True),
            "reasoning": "none",
            "max_output_tokens": 4096,
            "context_window": 200_000 if made == (2, 1) else 100_000,
        }
    out: Row = {
        **always,
        "tools": True,
        "prefill": made < (4, 6) and not is_newest,
        "sampling": made < (4, 7) and not is_newest,
        "both_sampling": made < (4, 0),
        # Vertex has no output_config.format; a synthetic tool does the same there.
        "structured": (made >= (4, 5) or is_newest) and vendor != "vertex",
        "reasoning": _claude_reasoning(made, is_newest),
    }
    if (tier, made) != ("haiku", (3, 5)):  # came without images at first, and on some platforms still does
        out["vision"] = True
    if made >= (4, 0) or (made >= (3, 5) and tier != "haiku"):
        out["documents"] = True
    if made <= (4, 6) and not is_newest:
        out["mid_system"] = False
    out.update(_claude_efforts(tier, made, is_newest))
    out.update(_claude_limits(tier, made))
    return out


def _claude_reasoning(made: tuple[int, int], is_newest: bool) -> str:
    if is_newest:
        return "always"
    if made < (3, 7):
        return "none"
    return "budget" if made < (4, 6) else "adaptive"


def _claude_efforts(tier: str, made: tuple[int, int], is_newest: bool) -> Row:
    if made >= (4, 7) or is_newest:
        return {"efforts": _TO_MAX}
    if (tier, made) == ("opus", (4, 6)):
        return {"efforts": _BASIC | {"max"}}
    return {"efforts": _BASIC} if made >= (4, 6) or (tier, made) == ("opus", (4, 5)) else {}


def _claude_limits(tier: str, made: tuple[int, int]) -> Row:
    """Told up to the 4.5 generation; later ones differ by platform and beta."""
    if made > (4, 5) or tier in ("fable", "mythos"):
        return {}
    most = 64_000
    if made < (3, 7):
        most = 8192 if made >= (3, 5) else 4096
    elif tier == "opus" and made < (4, 5):
        most = 32_000
    return {"max_output_tokens": most, "context_window": 200_000}


# OpenAI ---------------------------------------------------------------------------------------------------------------


def _gpt(name: str, dialect: str, vendor: str) -> Row:
    found = _O_SERIES.search(name)
    if found is not None:
        return _o_series(found[1], found[2] or "", dialect)
    five = _GPT5.search(name)
    if five is not None:
        return _gpt5(name, int(five[1] or 0), dialect)
    plain: Row = {"reasoning": "none", "sampling": True, "both_sampling": True, "stop": True, "video": False}
    if "gpt-4.1" in name:
        return {**plain, **_seeing(dialect), "max_output_tokens": 32_768, "context_window": 1_047_576}
    if "gpt-4o" in name:
        return {**plain, **_gpt4o(name, dialect)}
    if "gpt-4.5" in name:
        return {**plain, **_seeing(dialect), "max_output_tokens": 16_384, "context_window": 128_000}
    if "gpt-4" in name:
        return {**plain, **_gpt4(name)}
    if re.search(r"gpt-?3\.?5", name):
        blind = {"vision": False, "documents": False, "audio": False, "structured": False}
        return {**plain, **blind, "max_output_tokens": 4096, "context_window": 16_385}
    return {}


def _seeing(dialect: str) -> Row:
    """Models that see and follow a schema. Files in a chat are OpenAI's own; of Azure's it is not known."""
    out: Row = {"vision": True, "structured": True, "audio": False}
    if dialect != "azure":
        out["documents"] = True
    return out


def _gpt4o(name: str, dialect: str) -> Row:
    out = {**_seeing(dialect), "max_output_tokens": 16_384, "context_window": 128_000}
    if "2024-05-13" in name:
        out.update(structured=False, max_output_tokens=4096)
    if "audio" in name:
        out.update(audio=True, vision=False, documents=False, structured=False)
    if "search" in name:
        out.update(sampling=False, tools=False)
    if "chatgpt" in name:
        out.update(tools=False)
    return out


def _gpt4(name: str) -> Row:
    out: Row = {"vision": False, "documents": False, "audio": False, "structured": False}
    if re.search(r"turbo|vision|1106|0125", name):
        sees = "vision" in name or not name.endswith("preview")
        return {**out, "vision": sees, "max_output_tokens": 4096, "context_window": 128_000}
    window = 32_768 if "32k" in name else 8192
    return {**out, "max_output_tokens": 4096 if "32k" in name else 8192, "context_window": window}


def _o_series(number: str, variant: str, dialect: str) -> Row:
    out: Row = {"sampling": False, "parallel_tools": False, "audio": False, "video": False}
    if number == "1" and variant in ("mini", "preview"):
        limits = (65_536 if variant == "mini" else 32_768), 128_000
        blind = dict.fromkeys(("vision", "documents", "tools", "structured"), False)
        return {**out, **blind, "reasoning": "always", "max_output_tokens": limits[0], "context_window": limits[1]}
    out.update(reasoning="effort", efforts=_BASIC, structured=True, max_output_tokens=100_000, context_window=200_000)
    sees = not (number == "3" and variant == "mini")
    out["vision"] = sees
    if not sees:
        out["documents"] = False
    elif dialect != "azure":
        out["documents"] = True
    if number != "1" and not (number == "3" and variant == "mini"):
        out["stop"] = False
    return out


def _gpt5(name: str, minor: int, dialect: str) -> Row:
    out = _seeing(dialect)
    if "chat" in name:
        return {**out, "max_output_tokens": 16_384, "context_window": 128_000}
    out.update(video=False, reasoning="effort", stop=False)
    if minor == 0:
        # From 5.1 on temperature is taken while effort is none, its default: what a caller may do stays open.
        out["sampling"] = False
    if minor <= 2:
        out.update(max_output_tokens=128_000, context_window=400_000)
    if "pro" in name:
        out["efforts"] = frozenset({"high"}) if minor < 2 else frozenset({"medium", "high", "xhigh"})
    elif "codex" in name:
        out["efforts"] = _BASIC | ({"xhigh"} if "max" in name or minor >= 2 else set())
    elif minor <= 4:
        out["efforts"] = _BASIC | {"minimal"} if minor == 0 else _BASIC | {"none"} if minor == 1 else _TO_XHIGH
    return out


def _gpt_oss(name: str, dialect: str, vendor: str) -> Row:
    return {
        **dict.fromkeys(("vision", "documents", "audio", "video"), False),
        **dict.fromkeys(("sampling", "both_sampling"), True),
        "reasoning": "effort",
        "efforts": _BASIC,
        "context_window": 131_072,
    }


# Google ---------------------------------------------------------------------------------------------------------------


def _gemini(name: str, dialect: str, vendor: str) -> Row:
    found = _GEMINI.search(name)
    if found is None:
        return _gemini_3(name) if name.endswith("latest") else {}
    made = int(found[1]), int(found[2] or 0)
    if made >= (3, 0):
        return {**_gemini_3(name), **({"efforts": frozenset({"low", "high"})} if "gemini-3-pro" in name else {})}
    out: Row = {"sampling": True, "both_sampling": True, "stop": True, "tools": True, "forced_tools": True}
    if made < (1, 5):
        return {**out, **dict.fromkeys(("documents", "audio", "structured"), False), "reasoning": "none"}
    out.update(dict.fromkeys(("vision", "documents", "audio", "video", "structured"), True))
    if dialect == "gemini" and vendor != "vertex" and made <= (2, 0):
        out["url_images"] = False
    if made >= (2, 5):
        return {**out, "reasoning": "budget", "max_output_tokens": 65_536, "context_window": 1_048_576}
    window = 2_097_152 if "1.5-pro" in name else 1_048_576
    thinks = "always" if "thinking" in name else "none"
    return {**out, "reasoning": thinks, "max_output_tokens": 8192, "context_window": window}


def _gemini_3(name: str) -> Row:
    """From generation 3 on; the moving names are there as well."""
    return {
        **dict.fromkeys(("vision", "documents", "audio", "video", "structured"), True),
        **dict.fromkeys(("sampling", "both_sampling", "stop", "tools", "forced_tools"), True),
        "reasoning": "level",
        "max_output_tokens": 65_536,
        "context_window": 1_048_576,
    }


# Others ---------------------------------------------------------------------------------------------------------------


def _nova(name: str, dialect: str, vendor: str) -> Row:
    if "sonic" in name:
        return {}
    is_second = "nova-2" in name
    sees = "micro" not in name
    out: Row = {
        **dict.fromkeys(("vision", "documents", "video"), sees),
        **dict.fromkeys(("sampling", "both_sampling", "tools", "forced_tools", "stop"), True),
        "audio": "omni" in name,
        "reasoning": "effort" if is_second else "none",
    }
    if is_second:
        return {**out, "efforts": _BASIC}
    window = {"micro": 128_000, "lite": 300_000, "pro": 300_000, "premier": 1_000_000}
    size = next((word for word in window if word in name), "lite")
    return {**out, "prefill": True, "max_output_tokens": 10_000, "context_window": window[size]}


def _llama(name: str, dialect: str, vendor: str) -> Row:
    out: Row = {"audio": False, "video": False, "sampling": True, "both_sampling": True, "reasoning": "none"}
    found = _LLAMA.search(name)
    made = (int(found[1]), int(found[2] or 0)) if found is not None else (0, 0)
    if made >= (4, 0) or "vision" in name or (made == (3, 2) and re.search(r"(?:11|90)b", name)):
        out["vision"] = True
    elif (1, 0) <= made < (4, 0):
        out["vision"] = False
    if dialect == "bedrock":
        # Converse knows toolChoice for Claude, Nova and Mistral Large only.
        out.update(forced_tools=False, **({"tools": False} if (1, 0) <= made < (3, 1) else {}))
    return out


def _mistral(name: str, dialect: str, vendor: str) -> Row:
    out: Row = {"video": False, "audio": "voxtral" in name, "sampling": True, "both_sampling": True}
    if "pixtral" in name:
        out["vision"] = True
    elif re.search(r"mixtral|mistral-7b|nemo|codestral", name):
        out["vision"] = False
    out["reasoning"] = "always" if "magistral" in name else "none"
    if dialect == "bedrock" and re.search(r"mixtral|mistral-7b|mistral-small-2402", name):
        out["forced_tools"] = False
        if not name.endswith("2402-v1:0"):
            out["tools"] = False
    return out


def _deepseek(name: str, dialect: str, vendor: str) -> Row:
    out: Row = {"audio": False, "video": False}
    if not re.search(r"vl|ocr|janus", name):
        out["vision"] = False
    if re.search(r"reasoner|-r1|\.r1", name):
        out["reasoning"] = "always"
        if dialect == "bedrock":
            out["tools"] = False
    elif "deepseek-chat" in name or re.search(r"v3(?![.p]|-[0-9](?![0-9]))", name):
        out["reasoning"] = "none"
    return out


def _qwen(name: str, dialect: str, vendor: str) -> Row:
    out: Row = {"audio": "omni" in name or "audio" in name, "sampling": True, "both_sampling": True}
    if re.search(r"vl|qvq|omni", name):
        out["vision"] = True
    elif re.search(r"coder|qwq|qwen-?(?:1\.5|2|2\.5|3)-[0-9]", name):
        out["vision"] = False
    if re.search(r"qwq|qvq|thinking", name):
        out["reasoning"] = "always"
    elif re.search(r"instruct|coder|qwen-?(?:1\.5|2|2\.5)-", name):
        out["reasoning"] = "none"
    return out


def _grok(name: str, dialect: str, vendor: str) -> Row:
    out: Row = {"audio": False, "video": False, "sampling": True, "both_sampling": True}
    if "vision" in name or "grok-4" in name:
        out["vision"] = True
    elif re.search(r"grok-(?:beta|2|3|code)", name):
        out["vision"] = False
    if "grok-3-mini" in name:
        out.update(reasoning="effort", efforts=frozenset({"low", "high"}), stop=False)
    elif "non-reasoning" in name or re.search(r"grok-(?:beta|2|3)", name):
        out["reasoning"] = "none"
    elif re.search(r"grok-4(?:-0709|-latest|(?:-1)?-fast(?:-reasoning)?)?$|grok-code", name):
        out.update(reasoning="always", stop=False)
    return out


def _command(name: str, dialect: str, vendor: str) -> Row:
    out: Row = {"audio": False, "video": False, "sampling": True, "both_sampling": True}
    out["vision"] = "vision" in name
    if "reasoning" not in name:
        out["reasoning"] = "none"
    if "command-a" in name:
        return {**out, "max_output_tokens": 8192, "context_window": 256_000}
    if "command-r" in name:
        return {**out, "max_output_tokens": 4096, "context_window": 128_000}
    return {**out, "tools": False, "context_window": 4096}


_MAKERS: Final = {
    "claude": _claude,
    "gpt": _gpt,
    "gpt-oss": _gpt_oss,
    "gemini": _gemini,
    "nova": _nova,
    "llama": _llama,
    "mistral": _mistral,
    "deepseek": _deepseek,
    "qwen": _qwen,
    "grok": _grok,
    "command": _command,
}
