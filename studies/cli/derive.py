"""`stepfall derive`: a cascade with fewer passes, found by rewrites that the oracle accepts."""

from __future__ import annotations

import json


def derive(cascade: str, wanted: int, rank: str | None, parallel: bool, allow: tuple[str, ...], as_json: bool) -> None:
    """Print every step of the derivation, and the library's name of the result if it has one."""
    from einsum import library
    from einsum.alike import known_as
    from einsum.derive import derive as search
    from einsum.problems import InputError, Problem, suggest
    from einsum.rewrites.laws import LAWS, usable
    from einsum.rewrites.tidy import rename
    from einsum.show import show

    unstable = [law.name for law in LAWS if law.unstable]
    if unknown := [name for name in allow if name not in unstable]:
        hints = ((name, suggest(name, unstable)) for name in unknown)
        raise InputError(Problem("no law that needs --allow", "", path="--allow", got=n, hint=h) for n, h in hints)
    known = library.library()
    name = f"{cascade}-3pass" if cascade not in known and f"{cascade}-3pass" in known else cascade
    found = search(library.load(name), wanted, rank or "", laws=usable(allow=allow), parallel=parallel)
    alias = known_as(found.result)
    if as_json:
        named = {"library": alias[0], "names": alias[1]} if alias else {}
        print(json.dumps(found.as_dict() | named, indent=1, allow_nan=False))
        return
    print(found)
    print(show(rename(found.result, alias[1]) if alias else found.result), end="")
    if alias:
        names = ", ".join(f"{ours} is {theirs}" for ours, theirs in alias[1].items() if ours != theirs)
        print(f"\nThis is the library's {alias[0]}, with its names: {names or 'the same'}.")
