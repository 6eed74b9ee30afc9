"""The count of instructions: blocks as QEMU prints them, how often they ran, and which are the hottest."""

from __future__ import annotations

from collections import Counter

from benchmarks import arm

LOG = b"""----------------
IN: kernel
0x00401000:  4e20cc00  fmla v0.4s, v1.4s, v2.4s
0x00401004:  54ffffe1  b.ne #0x401000

Trace 0: 0x7f0001 [0000000000000000/0000000000401000/00000000/00000000]
Trace 0: 0x7f0001 [0000000000000000/0000000000401000/00000000/00000000]
----------------
IN: main
0x00401010:  d65f03c0  ret

Trace 0: 0x7f0002 [0000000000000000/0000000000401010/00000000/00000000] main
"""


def test_blocks_are_counted_by_their_address() -> None:
    blocks = arm.Blocks(Counter(), {})
    arm._count(LOG, blocks.runs, blocks.lengths)
    assert blocks.runs == {0x401000: 2, 0x401010: 1}
    assert blocks.lengths == {0x401000: 2, 0x401010: 1}
    assert blocks.instructions == 5


def test_the_hottest_blocks_make_up_nine_tenths() -> None:
    blocks = arm.Blocks(Counter({1: 100, 2: 20, 3: 5}), {1: 8, 2: 5, 3: 2})
    assert blocks.hottest() == [1, 2]  # 800 and 900 of 910
    assert arm.Blocks(Counter({1: 100, 2: 1}), {1: 10, 2: 2}).hottest() == [1]
