"""What a certificate claims when the search did not see everything."""

from __future__ import annotations

import pytest

from arch.read import load as load_machine
from einsum.bind import bind
from einsum.library import load as load_cascade
from mapper.search.answer import search


def test_a_front_that_is_cut_off_claims_no_proof(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mapper.search.solve.FRONT", 2)
    work = bind(load_cascade("gemm"), {"M": 64, "N": 96, "K": 128}, {"*": "int8"})
    for objective in ("edp", "pareto"):
        proof = search(work, load_machine("tpu-v4i"), objective).certificate
        assert not proof.exhausted and 0 < proof.bound < proof.value
    monkeypatch.undo()
    whole = search(work, load_machine("tpu-v4i"), "edp").certificate
    assert whole.exhausted and proof.bound <= whole.value


def test_a_search_stopped_at_once_still_has_a_bound():
    work = bind(load_cascade("attention-3pass"), {"B": 1, "H": 2, "M": 64, "P": 64, "E": 16, "F": 16})
    place, told = load_machine("tpu-v4i"), []

    def stop(text: str) -> None:
        told.append(text)
        if len(told) > 6:  # each Einsum by itself is solved
            raise KeyboardInterrupt

    answer = search(work, place, "latency", told=stop)
    best = search(work, place, "latency").certificate.value
    assert 0 < answer.certificate.bound <= best * (1 + 1e-9) and not answer.certificate.exhausted
