"""How words become values, where tyro's own way differs: `none`, `true`, `1e3`, `name=value`."""

import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _whole(word: str) -> int:
    number = float(word)  # 1e3 is a whole number too
    if number != int(number):
        raise ValueError(word)
    return int(number)


_SIMPLE: dict[Any, tuple[str, str, Callable[[str], Any]]] = {
    bool: ("{true,false}", "true or false", lambda word: _BOOLEANS[word.lower()]),
    int: ("INT", "a whole number", _whole),
    float: ("NUMBER", "a number", float),
    str: ("TEXT", "a text", lambda w: str(Path(w).expanduser()) if w.startswith("~/") else w),
}


def is_mapping(kind: Any) -> bool:
    """Whether a type is written as `name=value` words."""
    return get_origin(kind) in (dict, Mapping)


def is_optional(kind: Any) -> bool:
    """Whether a type takes `none`."""
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


def _simple(info: PrimitiveTypeInfo) -> Any:
    if info.type not in _SIMPLE:
        return None
    metavar, wanted, convert = _SIMPLE[info.type]

    def read(words: list[str]) -> Any:
        try:
            return convert(words[0]) if words else True
        except (ValueError, KeyError, OverflowError):
            raise ValueError(f"takes {wanted}, got {words[0]!r}") from None

    return PrimitiveConstructorSpec(
        nargs=(0, 1) if info.type is bool else 1,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (info.type, int)),
        str_from_instance=lambda value: [str(value).lower() if info.type is bool else str(value)],
    )


def _optional(info: PrimitiveTypeInfo) -> Any:
    kinds = [kind for kind in get_args(info.type) if kind is not type(None)]
    if not is_optional(info.type) or len(kinds) != 1:
        return None
    spec = _inner(kinds[0], info)
    return PrimitiveConstructorSpec(
        nargs=spec.nargs,
        metavar=spec.metavar,
        choices=spec.choices and (*spec.choices, "none"),
        instance_from_str=lambda w: None if w == ["none"] else spec.instance_from_str(w),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda v: ["none"] if v is None else spec.str_from_instance(v),
    )


def _pairs(info: PrimitiveTypeInfo) -> Any:
    if not is_mapping(info.type):
        return None
    spec = _inner(get_args(info.type)[1], info)

    def read(words: list[str]) -> dict[str, Any]:
        if bad := [word for word in words if "=" not in word]:
            raise ValueError(f"takes pairs name=value, got {bad[0]!r}")
        pairs = [word.partition("=") for word in words]
        return {key: spec.instance_from_str([value]) for key, _, value in pairs}

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[NAME={spec.metavar} ...]",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda value: [f"{key}={each}" for key, each in value.items()],
    )


def _inner(kind: Any, info: PrimitiveTypeInfo) -> Any:
    return ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))


@cache
def registry() -> ConstructorRegistry:
    """The rules, for `tyro.cli(registry=...)`."""
    rules = ConstructorRegistry()
    for rule in (_simple, _optional, _pairs):
        rules.primitive_rule(rule)
    return rules
