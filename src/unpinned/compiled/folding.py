"""CRC-32 by carry-less multiplication, as LLVM code.

A CRC is a remainder modulo P, so 128 bits may be replaced by anything congruent: with ``a = high * x**64 + low``
(as polynomials), ``a * x**T`` is congruent to ``high * (x**(T+64) mod P) + low * (x**T mod P)``, two multiplications
by constants that land T bits further on, where they are added to the data there. A vector of 2 or 4 such lanes (x86-64 only)
moves on by its own width; four vectors in flight hide the multiplier's latency. What is left, 128 bits, is reduced
to 32 in the end (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel
2009). Bits are reflected throughout, as CRC-32 sends them, hence the exponents T+32 and T-32 and a shift by one.
"""

from __future__ import annotations

import platform
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

from unpinned.compiled.copying import AHEAD, LINE
from unpinned.compiled.intrinsics import emit_prefetch

BLOCK_BYTES = 16
POLYNOMIAL = 0xEDB88320
"""Reflected, as all polynomials here: bit 31 is x**0."""
_BARRETT = (0x1DB710641, 0x1F7011641)  # P, and x**64 / P
_IN_FLIGHT = 4
_ARM = platform.machine() == "aarch64"

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_I8 = ir.IntType(8)


def lanes() -> int:
    """128-bit lanes that the CPU multiplies at once: 4, 2 or 1, or 0 without carry-less multiplication."""
    if config.CPU_NAME or config.CPU_FEATURES:  # compiling for a CPU that may not be this one
        features = {item[1:] for item in (config.CPU_FEATURES or "").split(",") if item.startswith("+")}
    else:
        features = {name for name, present in llvmlite.binding.get_host_cpu_features().items() if present}
    if _ARM:
        return 1 if "neon" in features and features & {"aes", "crypto"} else 0  # LLVM's names: either stands for pmull, too
    if {"vpclmulqdq", "avx512f"} <= features:
        return 4
    if {"vpclmulqdq", "avx2"} <= features:
        return 2
    return 1 if {"pclmul", "sse2"} <= features else 0


def constant(exponent: int) -> int:
    """x**exponent mod P, reflected, as the multiplications want it."""
    value = 0x80000000
    for _ in range(exponent):
        value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
    return value << 1


def _pair(distance: int) -> tuple[int, int]:
    """Constants that move a lane on by *distance* bytes; a distance of 0 leaves nothing."""
    return (constant(8 * distance + 32), constant(8 * distance - 32)) if distance else (0, 0)


class _Folder:
    """Emits the code; one instance per kernel that contains it."""

    def __init__(self, builder: Any, address: Any, length: Any, target: Any = None) -> None:
        self.builder = builder
        self.address = cgutils.alloca_once_value(builder, address)
        self.length = cgutils.alloca_once_value(builder, length)
        self.target = None if target is None else cgutils.alloca_once_value(builder, builder.sub(target, address))

    def vector(self, words: list[int]) -> Any:
        return ir.Constant(ir.VectorType(_I64, len(words)), words)

    def multiply(self, a: Any, b: Any, halves: int) -> Any:
        """Carry-less product of one half of each lane of *a* and *b*; *halves*: bit 0 chooses a's, bit 4 b's."""
        if _ARM:
            return self._multiply_on_arm(a, b, halves)
        suffix = {2: "", 4: ".256", 8: ".512"}[a.type.count]
        signature = ir.FunctionType(a.type, [a.type, a.type, _I8])
        function = cgutils.get_or_insert_function(self.builder.module, signature, f"llvm.x86.pclmulqdq{suffix}")
        return self.builder.call(function, [a, b, ir.Constant(_I8, halves)])

    def _multiply_on_arm(self, a: Any, b: Any, halves: int) -> Any:
        """The same, of one lane: pmull takes two words."""
        signature = ir.FunctionType(ir.VectorType(_I8, 16), [_I64, _I64])
        function = cgutils.get_or_insert_function(self.builder.module, signature, "llvm.aarch64.neon.pmull64")
        words = [self.builder.extract_element(v, ir.Constant(_I32, i)) for v, i in ((a, halves & 1), (b, halves >> 4))]
        return self.builder.bitcast(self.builder.call(function, words), a.type)

    def move(self, a: Any, distances: list[int]) -> Any:
        """Each lane of *a*, moved on by its own distance in bytes."""
        factors = self.vector([word for distance in distances for word in _pair(distance)])
        return self.builder.xor(self.multiply(a, factors, 0x00), self.multiply(a, factors, 0x11))

    def load(self, width: int) -> Any:
        """The next vector of *width* lanes; moves the address on. It is stored at the target, if there is one."""
        builder = self.builder
        vector = ir.VectorType(_I64, 2 * width)
        address = builder.load(self.address)
        builder.store(builder.add(address, ir.Constant(_I64, 16 * width)), self.address)
        left = builder.sub(builder.load(self.length), ir.Constant(_I64, 16 * width))
        builder.store(left, self.length)
        data = builder.load(builder.inttoptr(address, vector.as_pointer()), align=1)
        if self.target is not None:
            place = builder.add(address, builder.load(self.target))
            builder.store(data, builder.inttoptr(place, vector.as_pointer()), align=1)
        return data

    def ask_ahead(self, length: int) -> None:
        """Prefetch *length* bytes of what will be copied AHEAD bytes further on."""
        for offset in range(0, length if self.target is not None else 0, LINE):
            place = self.builder.add(self.builder.load(self.address), ir.Constant(_I64, AHEAD + offset))
            emit_prefetch(self.builder, place, False)

    def has(self, width: int) -> Any:
        """Are *width* more lanes there?"""
        return self.builder.icmp_signed(">=", self.builder.load(self.length), ir.Constant(_I64, 16 * width))

    def start(self, data: Any, crc: Any) -> Any:
        """*data* with the running CRC added to its first 32 bits."""
        first = self.builder.extract_element(data, ir.Constant(_I32, 0))
        return self.builder.insert_element(data, self.builder.xor(first, crc), ir.Constant(_I32, 0))

    def repeat(self, width: int, step: int, accumulators: list[Any]) -> None:
        """While *step* lanes are there, move each accumulator on by them and add what is there."""
        builder = self.builder
        head, body, done = (builder.append_basic_block(name) for name in ("fold", "fold.body", "fold.done"))
        builder.branch(head)
        builder.position_at_end(head)
        builder.cbranch(self.has(step), body, done)
        builder.position_at_end(body)
        if step > width:
            self.ask_ahead(16 * step)
        for accumulator in accumulators:
            moved = self.move(builder.load(accumulator), [16 * step] * width)
            builder.store(builder.xor(moved, self.load(width)), accumulator)
        builder.branch(head)
        builder.position_at_end(done)

    def wide(self, width: int, crc: Any, out: Any) -> None:
        """As many vectors of *width* lanes as there are (at least one); the remaining lane goes to *out*."""
        builder = self.builder
        first = self.start(self.load(width), crc)
        accumulator = cgutils.alloca_once_value(builder, first)
        with builder.if_then(self.has(width * (_IN_FLIGHT - 1))):
            others = [cgutils.alloca_once_value(builder, self.load(width)) for _ in range(_IN_FLIGHT - 1)]
            self.repeat(width, width * _IN_FLIGHT, [accumulator, *others])
            total = builder.load(others[-1])
            for i, other in enumerate([accumulator, *others[:-1]]):
                distance = 16 * width * (_IN_FLIGHT - 1 - i)
                total = builder.xor(total, self.move(builder.load(other), [distance] * width))
            builder.store(total, accumulator)
        self.repeat(width, width, [accumulator])
        builder.store(self.join(builder.load(accumulator), width), out)

    def join(self, a: Any, width: int) -> Any:
        """All lanes of *a* moved to the last one's place and added."""
        builder = self.builder
        undefined = ir.Constant(a.type, ir.Undefined)

        def lane(vector: Any, i: int) -> Any:
            mask = ir.Constant(ir.VectorType(_I32, 2), [2 * i, 2 * i + 1])
            return builder.shuffle_vector(vector, undefined, mask)

        total = lane(a, width - 1)
        if width > 1:
            moved = self.move(a, [16 * (width - 1 - i) for i in range(width)])
            for i in range(width - 1):
                total = builder.xor(total, lane(moved, i))
        return total

    def reduce(self, a: Any) -> Any:
        """128 bits to the 32 of the CRC, as a word."""
        builder = self.builder
        zero = self.vector([0, 0])
        low32 = self.vector([0xFFFFFFFF, 0])

        def shift(vector: Any, bits: int) -> Any:
            wide = builder.bitcast(vector, ir.IntType(128))
            return builder.bitcast(builder.lshr(wide, ir.Constant(ir.IntType(128), bits)), zero.type)

        a = builder.xor(self.multiply(a, self.vector([constant(96), 0]), 0x00), shift(a, 64))
        folded = self.multiply(builder.and_(a, low32), self.vector([constant(64), 0]), 0x00)
        a = builder.xor(folded, shift(a, 32))
        quotient = self.multiply(builder.and_(a, low32), self.vector([_BARRETT[1], 0]), 0x00)
        a = builder.xor(a, self.multiply(builder.and_(quotient, low32), self.vector([_BARRETT[0], 0]), 0x00))
        low = builder.extract_element(a, ir.Constant(_I32, 0))
        return builder.lshr(low, ir.Constant(_I64, 32))


def _fold(builder: Any, folder: _Folder, crc: Any) -> Any:
    """Code of `fold` and `fold_copy`."""
    width = lanes()
    lane = cgutils.alloca_once(builder, ir.VectorType(_I64, 2))
    with builder.if_else(folder.has(width)) as (many, few):
        with many:
            folder.wide(width, crc, lane)
        with few:
            builder.store(folder.start(folder.load(1), crc), lane)
    folder.repeat(1, 1, [lane])
    return folder.reduce(builder.load(lane))


@intrinsic
def fold(typing_context: Any, crc: Any, address: Any, length: Any) -> Any:
    """``fold(crc, address, length)``: the CRC register (not inverted) after ``length & ~15`` bytes, at least 16."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fold(builder, _Folder(builder, args[1], args[2]), args[0])

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def fold_copy(typing_context: Any, crc: Any, target: Any, source: Any, length: Any) -> Any:
    """``fold_copy(crc, target, source, length)``: the same, and the bytes are copied to *target*; each is read once.

    The source may be out of the cache and is asked for ahead; the target is expected to be in it.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fold(builder, _Folder(builder, args[2], args[3], args[1]), args[0])

    return types.int64(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def fold_shift(typing_context: Any, crc: Any, constant: Any) -> Any:
    """``fold_shift(crc, constant)``: the register after n bytes of zeros; *constant* is ``x**(8 * n - 96) mod P``, shifted by one.

    That is `_Folder.move` by n - 16 bytes, of a lane that holds nothing but the register.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        folder = _Folder(builder, *args)
        empty = folder.vector([0, 0])
        lane, factor = (builder.insert_element(empty, each, ir.Constant(_I32, 0)) for each in args)
        return folder.reduce(folder.multiply(lane, factor, 0x00))

    return types.int64(types.int64, types.int64), generate
