"""The graph of a cascade as text and SVG."""

from xml.etree import ElementTree

import pytest

from einsum.dag import dag_svg, dag_text, edges, layers
from einsum.library import load
from einsum.random_cascade import random_cascade

SVG = "{http://www.w3.org/2000/svg}"


def test_text_of_one_pass_attention():
    lines = dag_text(load("attention-1pass")).splitlines()
    assert [line.split("   ")[0].rstrip() for line in lines] == [
        "0  Q",
        "0  K",
        "0  V",
        "1  BK <- K",
        "1  BV <- V",
        "2  BQK <- Q, BK",
        "3  LM <- BQK",
        "4  RM <- RM (state), LM",
        "5  SLN <- BQK, RM",
        "5  PRM <- RM",
        "6  SLD <- SLN",
        "6  SLNV <- SLN, BV",
        "6  SPD <- RD (state), PRM",
        "6  SPNV <- RNV (state), PRM",
        "7  RD <- SLD, SPD",
        "7  RNV <- SLNV, SPNV",
        "8  AV <- RNV, RD",
    ]
    assert lines[7].endswith("RM[b,h,m1+1,p] = max(RM[b,h,m1,p], LM[b,h,m1,p]) init -inf")


@pytest.mark.parametrize("seed", range(40))
def test_layers_and_drawing_of_random_cascades(seed):
    cascade = random_cascade(seed, statements=8)
    at = {name: number for number, names in enumerate(layers(cascade)) for name in names}
    assert sorted(at) == sorted(cascade.tensor)
    assert all(at[source] < at[target] for source, target, state in edges(cascade) if not state)
    root = ElementTree.fromstring(dag_svg(cascade))
    boxes = {group.find(f"{SVG}text").text.split("[")[0]: group.find(f"{SVG}rect") for group in root.findall(f"{SVG}g")}
    assert sorted(boxes) == sorted(cascade.tensor)
    assert len(root.findall(f"{SVG}path")) == len(edges(cascade))
    corners = {(float(box.get("x")), float(box.get("y"))) for box in boxes.values()}
    assert len(corners) == len(boxes)
    width, height = map(float, root.get("viewBox").split()[2:])
    assert all(0 <= x <= width - 130 and 0 <= y <= height - 40 for x, y in corners)
