"""``response_format``: what an answer has to match, under OpenAI's names where it has them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from shared.job import Structure
from shared.schemas.text import ANY_TEXT, Strict, Text

MAX_SCHEMA_CHARS = 16_384
"""Of a JSON schema, written compactly. A batch may have it once and its jobs ten thousand times."""
MAX_SCHEMA_DEPTH = 64
MAX_REGEX_CHARS = 4_096


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise PydanticCustomError(
            "schema_depth", "Should be nested at most {most} levels deep", {"most": MAX_SCHEMA_DEPTH}
        )
    text = _compact(schema)
    if len(text) > MAX_SCHEMA_CHARS:
        raise PydanticCustomError(
            "schema_size", "Should have at most {most} characters, written compactly", {"most": MAX_SCHEMA_CHARS}
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("schema_text", "Holds half a character (a lone surrogate)") from error
    return schema


def _depth(value: Any) -> int:
    """Levels of objects and lists, told without recursion: at most as many as JSON was parsed with."""
    deepest, level = 0, [value]
    while level:
        inner = [each for each in level if isinstance(each, dict | list)]
        deepest += bool(inner)
        level = [one for each in inner for one in (each.values() if isinstance(each, dict) else each)]
    return deepest


def _compact(schema: dict[str, Any]) -> str:
    # The order of names stays: answers have their properties in it.
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


class JsonSchema(Strict):
    """A JSON schema. ``name``, ``description`` and ``strict`` are taken because OpenAI has them: every schema is held to."""

    name: Text | None = Field(None, max_length=64)
    description: Text | None = Field(None, max_length=1024)
    schema_: Annotated[dict[str, Any], AfterValidator(_bounded)] = Field(
        alias="schema", description=f"At most {MAX_SCHEMA_CHARS} characters and {MAX_SCHEMA_DEPTH} levels."
    )
    strict: bool | None = None


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]

    def structure(self) -> Structure | None:
        return None


class JsonObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]

    def structure(self) -> Structure | None:
        return Structure("json_schema", '{"type":"object"}')


class JsonSchemaFormat(Strict):
    """JSON that matches a schema."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "object", "properties": {"tea": {"type": "string"}}}},
                }
            ]
        }
    )

    type: Literal["json_schema"]
    json_schema: JsonSchema

    def structure(self) -> Structure | None:
        return Structure("json_schema", _compact(self.json_schema.schema_))


class RegexFormat(Strict):
    """Text that as a whole matches a regular expression."""

    type: Literal["regex"]
    regex: str = Field(min_length=1, max_length=MAX_REGEX_CHARS, pattern=ANY_TEXT)

    def structure(self) -> Structure | None:
        return Structure("regex", self.regex)


FORMATS = ("text", "json_object", "json_schema", "regex")
FORMAT_TAGS = tuple(f"<{name}>" for name in FORMATS)
"""Of the union's members, in the paths of errors: no part of the body."""


def _tag(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"<{kind}>" if kind in FORMATS else None


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[JsonObjectFormat, Tag("<json_object>")]
    | Annotated[JsonSchemaFormat, Tag("<json_schema>")]
    | Annotated[RegexFormat, Tag("<regex>")],
    Discriminator(
        _tag,
        custom_error_type="response_format",
        custom_error_message=f"Should be an object whose type is one of {', '.join(FORMATS)}",
    ),
]
