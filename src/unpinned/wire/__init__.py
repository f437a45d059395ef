"""Floor 0.5: RoCEv2 as bytes. Pure functions on a byte arena ``b`` at offsets; nothing here has state.

* `bytes`    big-endian numbers at an offset.
* `opcodes`  a row of bits for every opcode, and how long its headers are.
* `headers`  where each field is, and functions that write whole headers.
* `icrc`     the invariant CRC, and the IP identification that it covers and a socket does not show.

Imports `compiled` only. Everything read is an unchecked claim of the peer: `wire` says where a field is, the
floors above say whether to believe it. An offset is always bounded by its caller.
"""
