"""A weight-stationary product on every shipped array: what its buffers read and write, counted on paper."""

import pytest

from arch.read import load as load_machine
from einsum.bind import bind
from einsum.library import load as load_cascade
from mapper.cost import cost
from mapper.yaml import loads

ARRAYS = {  # machine -> unit, axis of the columns, axis of the rows, memory of the inputs, memory of the sums
    "edge-flat": ("pe_2d", "array_2d.col", "array_2d.row", "buffer", "buffer"),
    "eyeriss": ("pe", "pes.col", "pes.row", "buffer", "buffer"),
    "nvdla": ("mac", "cmac.kernel", "cmac.channel", "conv_buffer", "accumulator"),
    "simba": ("mac", "vector_macs.vector", "vector_macs.lane", "input_buffer", "sum_buffer"),
    "systolic-128": ("pe", "systolic.col", "systolic.row", "scratchpad", "scratchpad"),
    "tpu-v4i": ("mac", "mxu.col", "mxu.row", "local_buffer", "local_buffer"),
}
MAPPING = """\
stepfall: mapping/1
name: weight-stationary
cascade: gemm
machine: {name}
groups:
  - name: C
    body:
      - {{for: n, tile: {cols}, hold: [{{tensor: C, in: {sums}}}]}}
      - {{for: k, tile: {rows}, hold: [{{tensor: A, in: {inputs}}}]}}
      - seq: [{{compute: C, on: {unit}, loops: [{{for: k, over: {row}}}, {{for: n, over: {col}}}, {{for: m}}]}}]
"""


@pytest.mark.parametrize("name", ARRAYS)
def test_inputs_are_shared_along_columns_and_sums_leave_along_rows(name):
    unit, col, row, inputs, sums = ARRAYS[name]
    machine = load_machine(name)
    cols, rows = machine.axis(col).size, machine.axis(row).size
    m, n, k = 8, 2 * cols, 3 * rows
    made = MAPPING.format(name=name, cols=cols, rows=rows, unit=unit, col=col, row=row, inputs=inputs, sums=sums)
    workload = bind(load_cascade("gemm"), {"M": m, "N": n, "K": k})
    ours = cost(loads(made), workload, machine)

    def words(tensor, place, detail):
        return ours.total("bytes", tensor=tensor, place=place, detail=detail) / 2

    assert words("A", inputs, "read") == words("A", inputs, "write") == m * k * 2
    assert words("C", sums, "write") == m * n * 3
    assert words("C", sums, "read") == m * n * (2 + 1)  # added to twice, then drained
    assert words("B", "dram", "read") == k * n
    assert words("C", "dram", "write") == m * n
